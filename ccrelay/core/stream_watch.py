"""What the relay learns from an answer that passes by: how far a stream got, what it cost, whether it failed.

Rules of this file:
- Nothing here raises or changes a byte. What cannot be understood is left out.
- An ordinary event of a running stream costs two substring searches. Only a block that contains ``message_`` or
  ``error`` is cut into events, and only the few that carry facts are parsed as JSON.
- An event without an ``event`` line is judged by the ``type`` in its JSON. Clients ignore such events, but the tokens
  were spent.

Source: Anthropic's streaming documentation; ``usage`` of ``message_delta`` is cumulative.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, TypeGuard

from ccrelay.core.model import Usage
from ccrelay.core.sse import Event, parse_events

MAX_TOKENS = 1_000_000_000
"""A larger count is taken for garbage: a thousand times the largest context window, and it would spoil every sum."""

MAX_NAME = 200
"""Characters kept of a model name, an id, a stop reason, an error type: the longest real ones (ARNs) stay below."""

MAX_MESSAGE = 1000
"""Characters kept of an error message: the longest wordings that clients key on are a few sentences."""

_UNNAMED = ("", "message")  # the standard's default name is "message"
_FALLBACK_ERROR = "api_error"


@dataclass(frozen=True, slots=True)
class StreamError:
    """An upstream's error inside a 200. type: Anthropic's error type, else the provider's own code, else ``api_error``.

    Both texts are bounded and can be encoded; they are not free of control characters.
    """

    type: str
    message: str


@dataclass(frozen=True, slots=True)
class MessageFacts:
    """What a whole JSON answer tells. Everything is at its default for a body that is not a JSON object."""

    usage: Usage = field(default_factory=Usage)
    model: str | None = None
    message_id: str | None = None
    stop_reason: str | None = None
    error: StreamError | None = None


class StreamWatch:
    """The running facts of one event stream.

    content_started: something other than the opening events (``message_start``, ``ping``, comments) and errors came.
    stopped: ``message_stop`` came; without it an answer is not complete.
    error: the first error event. usage: what is known so far, zeros before ``message_start``.
    model, message_id: from ``message_start``. stop_reason: from ``message_delta``.
    """

    __slots__ = ("content_started", "error", "message_id", "model", "stop_reason", "stopped", "usage")

    def __init__(self) -> None:
        self.content_started = False
        self.stopped = False
        self.error: StreamError | None = None
        self.usage = Usage()
        self.model: str | None = None
        self.message_id: str | None = None
        self.stop_reason: str | None = None

    def see(self, block: bytes) -> None:
        """Take note of a block of whole events, as the aligner or a decoder gives it."""
        # find() and not "in": the operator first tries to read its left side as a number, which doubles the time.
        if self.content_started and block.find(b"message_") < 0 and block.find(b"error") < 0:
            return
        # A block without CR falls apart at every empty line; then only the pieces that matter are parsed.
        for piece in [block] if b"\r" in block else block.split(b"\n\n"):
            if not self.content_started or piece.find(b"message_") >= 0 or piece.find(b"error") >= 0:
                for event in parse_events(piece + b"\n\n"):
                    self._take(event)

    def _take(self, event: Event) -> None:
        kind = event.name
        if kind in _UNNAMED:
            kind = _kind_of_unnamed(event.data)
        if kind == "ping":
            return
        if kind == "message_start":
            self._take_start(_object(event.data))
        elif kind == "error":
            if self.error is None:
                self.error = _error_of(event.data)
        else:
            self.content_started = True
            if kind == "message_delta":
                self._take_delta(_object(event.data))
            elif kind == "message_stop":
                self.stopped = True

    def _take_start(self, start: dict[str, Any]) -> None:
        message = _member(start, "message")
        self.model = _name(message.get("model")) or self.model
        self.message_id = _name(message.get("id")) or self.message_id
        self.usage = _updated(self.usage, _member(message, "usage"))

    def _take_delta(self, delta: dict[str, Any]) -> None:
        self.stop_reason = _name(_member(delta, "delta").get("stop_reason")) or self.stop_reason
        self.usage = _updated(self.usage, _member(delta, "usage"))


def usage_of_message(body: bytes) -> MessageFacts:
    """The facts of a non-streaming answer. body: the whole JSON document, maybe an error's or not JSON at all."""
    message = _object(body)
    failed = message.get("type") == "error" or message.get("error") is not None
    return MessageFacts(
        usage=_updated(Usage(), _member(message, "usage")),
        model=_name(message.get("model")),
        message_id=_name(message.get("id")),
        stop_reason=_name(message.get("stop_reason")),
        error=_error_of(body) if failed else None,
    )


def _kind_of_unnamed(data: bytes) -> str:
    frame = _object(data)
    kind = frame.get("type")
    if isinstance(kind, str):
        return kind
    # Z.AI's error documents have no type.
    return "error" if frame.get("error") is not None else ""


def _error_of(data: bytes) -> StreamError:
    """Reads Anthropic's ``{"error": {"type", "message"}}``, codes instead of types, a bare string, or plain text."""
    document = _object(data)
    error = document.get("error")
    detail: dict[str, Any] = error if isinstance(error, dict) else {}
    code = detail.get("code")
    kind = _name(detail.get("type")) or _name(str(code) if _is_count(code) else code) or _FALLBACK_ERROR
    for message in (detail.get("message"), error, document.get("message")):
        if isinstance(message, str):
            return StreamError(kind, _bounded(message, MAX_MESSAGE))
    # No character takes more than four bytes, so nothing that would be kept is cut here.
    return StreamError(kind, _bounded(data[: 4 * MAX_MESSAGE].decode("utf-8", "replace"), MAX_MESSAGE))


def _updated(usage: Usage, numbers: dict[str, Any]) -> Usage:
    def count(name: str, earlier: int) -> int:
        value = numbers.get(name)
        return value if _is_count(value) else earlier

    return Usage(
        input=count("input_tokens", usage.input),
        output=count("output_tokens", usage.output),
        cache_write=count("cache_creation_input_tokens", usage.cache_write),
        cache_read=count("cache_read_input_tokens", usage.cache_read),
    )


def _is_count(value: object) -> TypeGuard[int]:
    return type(value) is int and 0 <= value <= MAX_TOKENS


def _object(data: bytes) -> dict[str, Any]:
    """The JSON object in ``data``; an empty one for anything else."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):  # not JSON, not UTF-8, a number of thousands of digits; nested too deep
        return {}
    return value if isinstance(value, dict) else {}


def _member(document: dict[str, Any], name: str) -> dict[str, Any]:
    value = document.get(name)
    return value if isinstance(value, dict) else {}


def _name(value: object) -> str | None:
    return _bounded(value, MAX_NAME) if isinstance(value, str) and value else None


def _bounded(text: str, limit: int) -> str:
    """``text`` cut to ``limit`` characters; ``?`` for lone surrogates, which JSON can spell and no log can write."""
    return text[:limit].encode("utf-8", "replace").decode("utf-8")
