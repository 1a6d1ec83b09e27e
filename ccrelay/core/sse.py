"""Server-sent events: cutting a byte stream at event boundaries, reading whole events, writing one.

Rules of this file:
- Bytes that pass are never changed: the aligner only decides how far they may go now.
- A line ends with LF, CRLF or CR, mixed as they come; a blank line ends an event. So a boundary is the end of any pair
  of line ends with nothing between, and ``\\r\\n`` by itself is one line end, not such a pair.
- A CR that ends a blank line is a boundary at once: waiting for an LF that may belong to it would hold the event back
  until the next one. Such an LF is then the first byte of what follows, where it reads as one more blank line.

Source: WHATWG HTML, "Server-sent events". Providers use all of it: data with and without a space, LF, CRLF, CR.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

from zope.interface import implementer

from ccrelay.errors import StreamViolation
from ccrelay.interfaces import IStreamDecoder

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_INCOMPLETE_EVENT = 16 * 1024 * 1024
"""Bytes of an unfinished event that are held. A ``content_block_start`` carries a server tool's whole result, megabytes
for a fetched PDF; AWS allows 16 MiB for one event-stream message, and no provider sends more in one event."""

PING = b'event: ping\ndata: {"type": "ping"}\n\n'
"""The keep-alive event, as Anthropic writes it. May be put between any two events."""

_BOM = b"\xef\xbb\xbf"
_USUAL_BOUNDARIES = (b"\n\n", b"\r\n\r\n", b"\r\r")


@dataclass(frozen=True, slots=True)
class Event:
    """One dispatched event. name: of its last ``event`` line, empty if there was none. data: its lines joined by LF."""

    name: str
    data: bytes


@implementer(IStreamDecoder)
class EventAligner:
    """Passes an SSE stream through unchanged, but only ever in whole events.

    The outputs joined are the inputs joined; each output is empty or ends at an event boundary, and no complete event
    is kept back. Work is linear in the bytes received, however they are cut.
    """

    __slots__ = ("_at_boundary", "_held", "_violation")

    def __init__(self) -> None:
        self._held = bytearray()
        self._at_boundary = True  # nothing is held and nothing went wrong: the fast path is open
        self._violation: str | None = None

    def receive_data(self, data: bytes) -> bytes:
        """Take bytes as the network cut them; give back all that is known to be whole events.

        Raises StreamViolation when an unfinished event passes MAX_INCOMPLETE_EVENT, and again on every later call.
        """
        if self._at_boundary and data.endswith(_USUAL_BOUNDARIES):
            return data
        return self._realign(data)

    def receive_eof(self) -> bytes:
        """The body ended in good order. Gives back a rest that no client reads (blanks, comments), maybe empty.

        Raises StreamViolation when an event was begun and not ended, and again on every later call.
        """
        if self._violation is not None:
            raise StreamViolation(self._violation)
        rest = bytes(self._held)
        if not all(not line.strip() or line.startswith(b":") for line in rest.removeprefix(_BOM).splitlines()):
            self._fail("the event stream ended inside an event")
        self._held.clear()
        return rest

    def _realign(self, data: bytes) -> bytes:
        if self._violation is not None:
            raise StreamViolation(self._violation)
        # Only a line end just before ``data`` can pair up with its first byte, so no older byte is searched again.
        # A boundary is the end of a blank line, as good as a line end.
        end = _end_of_last_boundary((self._held[-1:] or b"\n") + data) - 1
        if end <= 0:
            self._held += data
            whole = b""
        elif self._held:
            self._held += data[:end]
            whole = bytes(self._held)
            self._held = bytearray(data[end:])
        else:
            whole = data[:end]
            self._held += data[end:]
        self._at_boundary = not self._held
        if len(self._held) > MAX_INCOMPLETE_EVENT:
            self._fail(f"one event is larger than {MAX_INCOMPLETE_EVENT} bytes")
        return whole

    def _fail(self, violation: str) -> NoReturn:
        self._violation = violation
        self._held = bytearray()
        raise StreamViolation(violation)


def parse_events(block: bytes) -> Iterator[Event]:
    """The events that a block of whole events dispatches, in order.

    As the standard has it: an event without a ``data`` line is none, comments and unknown fields are skipped, and what
    follows the last blank line is not dispatched. A byte order mark in front is skipped: the block may be the stream's
    first. Never raises; an event name that is not UTF-8 gets replacement characters.
    """
    name = ""
    data: list[bytes] = []
    for line in block.removeprefix(_BOM).splitlines():
        if not line:
            if data:
                yield Event(name, b"\n".join(data))
            name = ""
            data = []
            continue
        field, _, value = line.partition(b":")
        if field == b"data":
            data.append(value.removeprefix(b" "))
        elif field == b"event":
            name = value.removeprefix(b" ").decode("utf-8", "replace")


def encode_event(name: str, data: bytes) -> bytes:
    """One event as bytes, LF line ends. Line ends inside ``data`` become LF when it is read back.

    Raises StreamViolation for a name with a line end: it comes from an upstream's JSON and would forge another field.
    """
    if "\n" in name or "\r" in name:
        raise StreamViolation("an event name contains a line end")
    if b"\n" in data or b"\r" in data:
        data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\n", b"\ndata: ")
    return b"event: %b\ndata: %b\n\n" % (name.encode("utf-8", "replace"), data)


def _end_of_last_boundary(window: bytes | bytearray) -> int:
    """The index just past the last blank line in ``window``, or 0."""
    start = window.rfind(b"\n\n")
    if window.find(b"\r") >= 0:
        start = max(start, window.rfind(b"\r\r"), window.rfind(b"\n\r"))
    if start < 0:
        return 0
    end = start + 2
    return end + 1 if window[start + 1 : end + 1] == b"\r\n" else end
