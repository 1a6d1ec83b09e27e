"""Reading the head of an HTTP/1.1 request or response, sans-IO, as the network cuts it.

Rules:
- One parser reads one head. What follows the head is handed over in ``trailing``, untouched.
- After a violation a parser stays poisoned: every later call raises the same again.
- A byte is searched once: ``_searched`` remembers how far, so a head that comes byte by byte costs no more.
- Requests are read strictly: whatever two servers might understand differently is refused. A client that is right has
  no reason to send it, and an attacker has.
- Responses are read with the tolerance that is safe when one connection carries one message at a time: line ends may
  be bare LF, the reason phrase may be missing, a Content-Length may be repeated if all agree.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Generic, TypeVar

from ccrelay.core.http1_framing import (
    NO_BODY,
    UNTIL_CLOSE,
    Framing,
    control_values,
    persists,
    request_framing,
    response_framing,
)
from ccrelay.core.http1_grammar import MAX_HEAD_BYTES, TOKEN_BYTES, HttpViolation, is_text, parse_fields
from ccrelay.core.model import Headers

MAX_TARGET_BYTES = 8192
"""RFC 9112 3 asks for at least 8000. Ours are paths of 30 bytes with a short query."""

MAX_BLANK_LINES = 8
"""Empty lines before a request line (RFC 9112 2.2): old clients send one after a body. More is somebody probing."""

MAX_INTERIM = 16
"""1xx heads skipped before a response: servers send one 100 or a few 103; an endless row of them is no answer."""

_HEAD_END = re.compile(rb"\n\r?\n")
_LOOK_BACK = 2  # the longest _HEAD_END, less the byte that completes it
_REQUEST_LINE = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+) ([!-~]+) HTTP/([0-9]\.[0-9])")
_STATUS_LINE = re.compile(rb"HTTP/(1\.[01]) ([1-9][0-9][0-9])(?: (.*))?")
_ABSOLUTE_FORM = re.compile(rb"[Hh][Tt][Tt][Pp][Ss]?://([^/?]+)([/?].*)?")
_HOST = re.compile(rb"[0-9A-Za-z\-._~%!$&'()*+;=:\[\]]*")  # RFC 3986 authority without user info, and no comma

HeadT = TypeVar("HeadT", "RequestHead", "ResponseHead")


@dataclass(frozen=True, slots=True)
class RequestHead:
    """A request line and its headers.

    target: origin form (``/path?query``) or ``*``; an absolute form has been reduced to it, and its authority has
    replaced the Host header's value, as RFC 9112 3.2.2 wants. version: ``1.1`` or ``1.0``.
    keep_alive: the client would send another request on this connection.
    expects_continue: the client waits for ``100 Continue`` before it sends the body; never set where there is none.
    """

    method: bytes
    target: bytes
    version: bytes
    headers: Headers
    framing: Framing
    keep_alive: bool
    expects_continue: bool


@dataclass(frozen=True, slots=True)
class ResponseHead:
    """A status line and its headers. status: 101, or 200 to 999. reason: may be empty.

    keep_alive: the server would take another request on this connection once the body has ended, provided that
    nothing trails it.
    """

    status: int
    reason: bytes
    version: bytes
    headers: Headers
    framing: Framing
    keep_alive: bool


class _HeadParser(Generic[HeadT]):
    """Collects bytes up to the empty line and lets a subclass read them."""

    __slots__ = ("_fault", "_held", "_searched", "_skipped", "_spent", "_start", "trailing")

    _blank_lines = 0

    def __init__(self) -> None:
        self.trailing = b""
        self._held = bytearray()
        self._start = 0
        self._searched = 0
        self._skipped = 0
        self._fault: tuple[int, str] | None = None
        self._spent = False

    @property
    def began(self) -> bool:
        """Whether a byte of a head has come, empty lines before a request excepted."""
        return self._spent or self._skipped > 0 or len(self._held) > self._start or self._fault is not None

    def receive_data(self, data: bytes) -> HeadT | None:
        """Take the next bytes, as cut by the network. Returns the head once it is complete, else None.

        Raises HttpViolation; the connection must be closed, after an answer if this is a server. RuntimeError: the
        head has been returned already, and the caller should have made another parser.
        """
        if self._fault is not None:
            raise HttpViolation(*self._fault)
        if self._spent:
            raise RuntimeError("a head parser reads one head")
        try:
            return self._advance(data)
        except HttpViolation as violation:
            self._fault = (violation.status, violation.message)
            self._held.clear()
            raise

    def receive_eof(self) -> None:
        """The peer closed its side. Raises HttpViolation if that cut a head, nothing if none had begun."""
        if self._fault is None and self.began and not self._spent:
            self._fault = (400, "The connection closed in the middle of a message head")
        if self._fault is not None:
            raise HttpViolation(*self._fault)

    def _advance(self, data: bytes) -> HeadT | None:
        buffer: bytes | bytearray = data
        if self._held:
            self._held += data
            buffer = self._held
        while True:
            while buffer.startswith(b"\r\n", self._start):
                self._start += 2
            if self._start > 2 * self._blank_lines:
                raise HttpViolation(400, "Empty lines where a message should begin")
            end = _HEAD_END.search(buffer, max(self._searched, self._start))
            if end is None:
                self._wait(buffer)
                return None
            if end.end() - self._start > MAX_HEAD_BYTES:
                raise self._too_large(buffer)
            head = self._read(bytes(buffer[self._start : end.start() + 1]), bytes(end[0]))
            rest = bytes(buffer[end.end() :])
            if head is not None:
                self._spent = True
                self._held = bytearray()
                self.trailing = rest
                return head
            buffer = rest
            self._start = self._searched = 0

    def _wait(self, buffer: bytes | bytearray) -> None:
        if len(buffer) - self._start > MAX_HEAD_BYTES:
            raise self._too_large(buffer)
        self._refuse_hopeless(bytes(buffer[self._start : self._start + 8]))
        if buffer is not self._held:
            self._held = bytearray(buffer)
        self._searched = len(buffer) - _LOOK_BACK

    def _too_large(self, buffer: bytes | bytearray) -> HttpViolation:
        return HttpViolation(431, f"The message head is larger than {MAX_HEAD_BYTES} bytes")

    def _refuse_hopeless(self, beginning: bytes) -> None:
        """Raise HttpViolation if no head can begin so: TLS on a plain port must not wait for a deadline."""
        raise NotImplementedError

    def _read(self, block: bytes, end: bytes) -> HeadT | None:
        """Read the lines of ``block``, which closes with a line feed; ``end`` is that and the empty line after it.

        Returns None for a head that is to be skipped.
        """
        raise NotImplementedError


class RequestHeadParser(_HeadParser[RequestHead]):
    """Reads one request head, strictly.

    Statuses of its violations: 400 malformed or ambiguous, 413 an absurd Content-Length, 414 target too long,
    431 head too large or too many lines, 501 a transfer coding other than ``chunked``, 505 not HTTP/1.0 or 1.1.
    """

    __slots__ = ()

    _blank_lines = MAX_BLANK_LINES

    def _too_large(self, buffer: bytes | bytearray) -> HttpViolation:
        if buffer.find(b"\n", self._start, self._start + MAX_HEAD_BYTES) < 0:
            return _target_too_long()
        return super()._too_large(buffer)

    def _refuse_hopeless(self, beginning: bytes) -> None:
        first = beginning[:1]
        if first != b"\r" and first.strip(TOKEN_BYTES):
            raise HttpViolation(400, "This is not an HTTP request")

    def _read(self, block: bytes, end: bytes) -> RequestHead:
        lines = block.split(b"\r\n")
        if end != b"\n\r\n" or lines.pop():
            raise HttpViolation(400, "Lines must end with CRLF")
        match = _REQUEST_LINE.fullmatch(lines[0])
        if match is None:
            raise HttpViolation(400, "Malformed request line")
        method, target, version = match.groups()
        if version not in (b"1.1", b"1.0"):
            raise HttpViolation(505, "Only HTTP/1.1 and HTTP/1.0 are spoken here")
        headers = parse_fields(lines[1:])
        control = control_values(headers)
        hosts = control.get(b"host", [])
        if len(hosts) != 1 and (hosts or version == b"1.1"):
            raise HttpViolation(400, "A request needs exactly one Host header")
        if hosts and not _HOST.fullmatch(hosts[0]):
            raise HttpViolation(400, "Malformed Host header")
        framing = request_framing(version, control)
        target, authority = _origin_form(method, target)
        if authority is not None:
            headers = ((b"host", authority), *[header for header in headers if header[0] != b"host"])
        expects = [value.lower() for value in control.get(b"expect", [])]
        return RequestHead(
            method,
            target,
            version,
            headers,
            framing,
            persists(version, control),
            version == b"1.1" and framing != NO_BODY and b"100-continue" in expects,
        )


class ResponseHeadParser(_HeadParser[ResponseHead]):
    """Reads the head of the answer to a request made with ``request_method``, skipping interim (1xx) ones but 101."""

    __slots__ = ("_request_method",)

    def __init__(self, request_method: bytes) -> None:
        super().__init__()
        self._request_method = request_method

    def _refuse_hopeless(self, beginning: bytes) -> None:
        if not b"HTTP/1.".startswith(beginning[:7]):
            raise HttpViolation(400, "This is not an HTTP/1.1 response")

    def _read(self, block: bytes, end: bytes) -> ResponseHead | None:
        lines = block.replace(b"\r\n", b"\n").split(b"\n")
        lines.pop()
        match = _STATUS_LINE.fullmatch(lines[0])
        if match is None or not is_text(lines[0]):
            raise HttpViolation(400, "Malformed status line")
        version, digits, reason = match.groups()
        status = int(digits)
        headers = parse_fields(lines[1:])
        if status < 200 and status != 101:
            self._skipped += 1
            if self._skipped > MAX_INTERIM:
                raise HttpViolation(400, f"More than {MAX_INTERIM} interim responses")
            return None
        control = control_values(headers)
        framing, clean = response_framing(version, control)
        tunnel = self._request_method == b"CONNECT" and status < 300
        if self._request_method == b"HEAD" or status in (101, 204, 304) or tunnel:
            framing = NO_BODY
        reusable = clean and status != 101 and not tunnel and framing != UNTIL_CLOSE and persists(version, control)
        return ResponseHead(status, reason or b"", version, headers, framing, reusable)


def _origin_form(method: bytes, target: bytes) -> tuple[bytes, bytes | None]:
    """The target without scheme and authority, and that authority if it had one.

    A fragment is refused: it is not allowed on the wire, and a client library on our other side would cut it off.
    """
    if len(target) > MAX_TARGET_BYTES:
        raise _target_too_long()
    if b"#" not in target:
        if target[:1] == b"/" or (target == b"*" and method == b"OPTIONS"):
            return target, None
        match = _ABSOLUTE_FORM.fullmatch(target)
        if match is not None and _HOST.fullmatch(match[1]):
            path = match[2] or b"/"
            return path if path[:1] == b"/" else b"/" + path, match[1]
    raise HttpViolation(400, "Malformed request target")


def _target_too_long() -> HttpViolation:
    return HttpViolation(414, f"The request target is longer than {MAX_TARGET_BYTES} bytes")
