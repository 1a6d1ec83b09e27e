"""What upstream requests meet, as steps of a script, and the usual answers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from twisted.web.client import ResponseDone

from ccrelay.core.model import Headers, Usage

_DONE = ResponseDone()


@dataclass(frozen=True, slots=True)
class Step:
    """What one upstream request meets.

    reads: bytes of the request's body taken first; None: all; 0: none, for no connection comes about. Unless ``reads``
    is 0 the rest is taken once the head has been sent. after: seconds from then to the head, or to ``error``; None:
    nothing ever comes. error: the request fails with it. given_up: what it fails with when it is cancelled; None: as
    Deferreds do. pieces: of the answer's body, each with the seconds since the
    one before; none: the same turn. end: what its end is told with, ``end_after`` the last piece; None: it never ends.
    """

    status: int = 200
    headers: Headers = ()
    pieces: tuple[tuple[float, bytes], ...] = ()
    end: Exception | None = _DONE
    end_after: float = 0.0
    reads: int | None = None
    after: float | None = 0.0
    error: Exception | None = None
    given_up: Exception | None = None


# -- what upstreams say

JSON = ((b"content-type", b"application/json"),)
SSE = ((b"content-type", b"text/event-stream; charset=utf-8"),)
USAGE = Usage(input=11, output=22, cache_write=33, cache_read=44)
"""What ``stream()`` and ``message()`` tell of, and ``STARTED`` as far as a ``message_start`` knows it."""
STARTED = replace(USAGE, output=1)
_USAGE_START = {
    "input_tokens": 11,
    "output_tokens": 1,
    "cache_creation_input_tokens": 33,
    "cache_read_input_tokens": 44,
}


def event(kind: str, **members: object) -> bytes:
    """One event as Anthropic writes it."""
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **members}, ensure_ascii=False)}\n\n".encode()


def events(who: str, words: Sequence[str] = ("Hello", " there")) -> tuple[bytes, ...]:
    """A whole answer's events: the opening, the content, then ``message_delta`` and ``message_stop``."""
    return (
        event("message_start", message={"id": f"msg_{who}", "model": who, "usage": _USAGE_START}),
        event("content_block_start", index=0, content_block={"type": "text", "text": ""}),
        *(event("content_block_delta", index=0, delta={"type": "text_delta", "text": word}) for word in words),
        event("content_block_stop", index=0),
        event("message_delta", delta={"stop_reason": "end_turn"}, usage={"output_tokens": 22}),
        event("message_stop"),
    )


def error_event(kind: str = "overloaded_error", text: str = "Overloaded") -> bytes:
    return event("error", error={"type": kind, "message": text})


def envelope(kind: str, text: str) -> bytes:
    """An error body, spaced in a way that no writer here would choose."""
    return b'{ "type":"error", "error":{"type":"%b", "message":%b}}\n' % (kind.encode(), json.dumps(text).encode())


def played(pieces: Sequence[bytes], delay: float = 0.0, *, headers: Headers = (), **changes: Any) -> Step:
    """A stream that consists of these pieces, ``delay`` seconds before each."""
    return Step(headers=(*SSE, *headers), pieces=tuple((delay, piece) for piece in pieces), **changes)


def stream(who: str = "m", delay: float = 0.0, **changes: Any) -> Step:
    """A whole stream, an event a piece."""
    return played(events(who), delay, **changes)


def message(who: str = "m", *, headers: Headers = (), **changes: Any) -> Step:
    """A whole JSON answer."""
    body = json.dumps({"id": f"msg_{who}", "type": "message", "usage": {**_USAGE_START, "output_tokens": 22}}).encode()
    return says(200, body, headers=headers, **changes)


def says(status: int, body: bytes, *, headers: Headers = (), **changes: Any) -> Step:
    """An answer that is this JSON."""
    return Step(status, (*JSON, *headers), ((0.0, body),), **changes)


def error(status: int, kind: str, text: str = "What went wrong", *, headers: Headers = (), **changes: Any) -> Step:
    """An unsuccessful answer in Anthropic's envelope."""
    return says(status, envelope(kind, text), headers=headers, **changes)


def fails(error: Exception, **changes: Any) -> Step:
    """No answer at all; no connection either, unless ``reads`` says otherwise."""
    return Step(error=error, **{"reads": 0, **changes})


def whole(step: Step) -> bytes:
    """The body of ``step``'s answer."""
    return b"".join(data for _, data in step.pieces)
