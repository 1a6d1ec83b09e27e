"""Bedrock's answer to InvokeModelWithResponseStream, as the SSE that Anthropic's own API would have sent.

A frame is a message of the event stream. Its ``:message-type`` says what it is:

    event       ``:event-type`` chunk; payload {"bytes": base64 of one event's JSON, "p": padding of no meaning}
    exception   ``:exception-type`` names it; payload {"message", ...}. May come first, or after any number of chunks
    error       ``:error-code``, ``:error-message``; no payload

Rules of this file:
- An event's JSON passes as it is: it is decoded from base64, looked at, and never dumped from a parsed tree.
- The usual chunk costs two matches of a regular expression and no JSON parse. What they do not match is parsed.
- An exception becomes Anthropic's error event, and nothing is read behind it. One behind ``message_stop`` is left out:
  the message is whole, and clients would throw it away.

Source: bedrock-runtime's service model (ResponseStream), Anthropic's SDKs for Bedrock, the Amazon Bedrock user guide.
"""

from __future__ import annotations

import binascii
import json
import re
from collections.abc import Callable
from typing import Any, Final

from zope.interface import implementer

from ccrelay.core.aws_text import without_accounts
from ccrelay.core.complaints import MAX_TEXT
from ccrelay.core.eventstream import EventStreamParser, HeaderValue, Message
from ccrelay.core.sse import encode_event
from ccrelay.errors import StreamViolation
from ccrelay.interfaces import IStreamDecoder

METRICS: Final = "amazon-bedrock-invocationMetrics"
"""A member of ``message_stop`` that Anthropic's API does not have. Its counts leave out the cache: never usage."""

_THROTTLED: Final = frozenset({"throttlingexception", "toomanyrequestsexception"})
"""The account's own limits. Before any content that is what HTTP's 429 says: another key may be tried. After it a
client is best told what makes it try again soon."""

_KINDS: Final = {
    "serviceunavailableexception": "overloaded_error",
    "modelnotreadyexception": "overloaded_error",
    "modeltimeoutexception": "timeout_error",
    "validationexception": "invalid_request_error",
}
"""Anthropic's error types for exceptions and error codes, in lower case: both spellings occur."""

_KINDS_OF_ORIGINAL: Final = {
    400: "invalid_request_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "overloaded_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}
"""For what the model's own server answered Bedrock. Its 401 and 403 are between these two: no fault of our key."""

_OPENING: Final = frozenset({"message_start", "ping", "error"})
"""Events that are no content yet (``core.stream_watch``)."""

# Each matches only JSON whose reading it gives; the payload's whole text, and the beginning of an event's.
_USUAL_PAYLOAD: Final = re.compile(rb'\{"bytes":"([A-Za-z0-9+/=]*+)"(?:,"p":"[A-Za-z0-9]*+")?\}')
_USUAL_EVENT: Final = re.compile(rb'[ \t\r\n]*+\{[ \t\r\n]*+"type"[ \t\r\n]*+:[ \t\r\n]*+"([a-z_]++)"')
_WHITE: Final = re.compile(r"[ \t\r\n]*+")
_JSON: Final = json.JSONDecoder()


@implementer(IStreamDecoder)
class BedrockDecoder:
    """One streamed answer of Bedrock. Sans-IO; not reusable after a violation, an exception frame or the end."""

    __slots__ = ("_begun", "_over", "_parser", "_stopped", "_violation")

    def __init__(self) -> None:
        self._parser = EventStreamParser()
        self._begun = False  # content has been passed on
        self._stopped = False  # and all of it
        self._over = False  # an exception has ended the answer
        self._violation: StreamViolation | None = None

    def receive_data(self, data: bytes) -> bytes:
        """Take the next bytes, as cut by the network. Returns the SSE events that are whole now, maybe none.

        Raises StreamViolation for broken framing and for a chunk that holds no JSON object in base64; the caller ends
        the attempt, and every later call raises the same again. Behind an exception frame everything is ignored.
        """
        self._refuse_poisoned()
        events: list[bytes] = []
        if not self._over:
            try:
                for message in self._parser.receive_data(data):
                    kind = message.headers.get(":message-type")
                    if kind == "event":
                        if message.headers.get(":event-type") == "chunk":
                            events.append(self._chunk(message.payload))
                    elif kind in _ERRORS:
                        events.append(b"" if self._stopped else _ERRORS[kind](message, self._begun))
                        self._over = True
                        break
            except StreamViolation as violation:
                self._violation = violation
                raise
        return b"".join(events)

    def receive_eof(self) -> bytes:
        """The body ended in good order; nothing is owed. Raises StreamViolation if a frame was cut."""
        self._refuse_poisoned()
        if not self._over:
            self._parser.receive_eof()
        return b""

    def _chunk(self, payload: bytes) -> bytes:
        """The SSE event in a chunk's payload; none for a chunk without content and for an object without a type."""
        usual = _USUAL_PAYLOAD.fullmatch(payload)
        encoded = usual[1] if usual else _object(payload).get("bytes", "")
        if not encoded:
            return b""
        try:
            event = binascii.a2b_base64(encoded, strict_mode=True)
        except (ValueError, TypeError):  # not base64, not ASCII; no text at all
            raise StreamViolation("a chunk of the event stream does not hold base64") from None
        opening = _USUAL_EVENT.match(event)
        kind = opening[1].decode("ascii") if opening else _object(event).get("type")
        if not isinstance(kind, str) or not kind:
            return b""
        self._begun = self._begun or kind not in _OPENING
        if kind == "message_stop":
            self._stopped = True
            event = _without_member(event, METRICS)
        return encode_event(kind, event)

    def _refuse_poisoned(self) -> None:
        if self._violation is not None:
            raise self._violation.with_traceback(None)


def _exception(message: Message, begun: bool) -> bytes:
    name = _text(message.headers.get(":exception-type"))
    try:
        details = _object(message.payload)
    except StreamViolation:  # the exception's name is worth more than the fault in its payload
        details = {}
    said = _text(details.get("message")) or _text(details.get("Message")) or name
    if name.lower() != "modelstreamerrorexception":
        return _error_event(_kind(name, begun), said)
    status = details.get("originalStatusCode")
    kind = _KINDS_OF_ORIGINAL.get(status, "api_error") if isinstance(status, int) else "api_error"
    return _error_event(kind, _text(details.get("originalMessage")) or said)


def _error(message: Message, begun: bool) -> bytes:
    code = _text(message.headers.get(":error-code"))
    return _error_event(_kind(code, begun), _text(message.headers.get(":error-message")) or code)


_ERRORS: Final[dict[HeaderValue | None, Callable[[Message, bool], bytes]]] = {"exception": _exception, "error": _error}
"""The message types that end the answer, each with what makes it an SSE event, given whether content came before."""


def _kind(name: str, begun: bool) -> str:
    if name.lower() in _THROTTLED:
        return "overloaded_error" if begun else "rate_limit_error"
    return _KINDS.get(name.lower(), "api_error")


def _error_event(kind: str, message: str) -> bytes:
    text = without_accounts(message)[:MAX_TEXT] or "Bedrock ended the stream with an error"
    document = {"type": "error", "error": {"type": kind, "message": text}}
    return encode_event("error", json.dumps(document, separators=(",", ":")).encode("ascii"))


def _without_member(document: bytes, name: str) -> bytes:
    """A JSON object less its top-level member ``name``; every other byte stays, and so does the order.

    Raises StreamViolation for what is no JSON object.
    """
    try:
        text = document.decode("utf-8")
        members = _members(text)
    except (ValueError, RecursionError):
        raise _not_an_object() from None
    if all(member != name for member, _, _ in members):
        return document
    pieces = [text[: members[0][1]]]
    for index, (member, start, end) in enumerate(members):
        if member != name:
            if len(pieces) > 1:
                pieces.append(text[members[index - 1][2] : start])
            pieces.append(text[start:end])
    pieces.append(text[members[-1][2] :])
    return "".join(pieces).encode("utf-8")


def _members(text: str) -> list[tuple[str, int, int]]:
    """Name, start and end of each member of the object that ``text`` is. Raises ValueError for anything else.

    An object without members is one: it has no type either, so it never comes here.
    """
    found: list[tuple[str, int, int]] = []
    pos = _expect(text, _blank(text, 0), "{")
    while True:
        name, end = _JSON.raw_decode(text, pos)
        if not isinstance(name, str):
            raise ValueError("a member's name is no string")  # noqa: TRY004 - the one error of this function
        _, end = _JSON.raw_decode(text, _expect(text, _blank(text, end), ":"))
        found.append((name, pos, end))
        pos = _blank(text, end)
        if text[pos : pos + 1] != ",":
            break
        pos = _expect(text, pos, ",")
    if _expect(text, pos, "}") != len(text):
        raise ValueError("something follows the object")
    return found


def _expect(text: str, pos: int, mark: str) -> int:
    """The place behind ``mark``, which must be at ``pos``, and behind the white space that follows it."""
    if text[pos : pos + 1] != mark:
        raise ValueError(f"expected {mark}")
    return _blank(text, pos + 1)


def _blank(text: str, pos: int) -> int:
    return _WHITE.match(text, pos).end()  # type: ignore[union-attr]  # it matches nothing, too


def _object(data: bytes) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):  # not JSON, not UTF-8, a number of thousands of digits; nested too deep
        raise _not_an_object() from None
    if not isinstance(value, dict):
        raise _not_an_object()
    return value


def _not_an_object() -> StreamViolation:
    return StreamViolation("a chunk of the event stream does not hold a JSON object")


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
