"""Answers to script an upstream with: Messages API bytes made by hand, and the ways in which they can go wrong.

Nothing here is the relay's. An ``Answer`` carries, beside steps for `upstream.py`, the body bytes that a client must
see when nothing goes wrong on the way.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

Step = list[Any]
HEADERS = (
    ("request-id", "req_upstream"),
    ("anthropic-organization-id", "org-e2e"),
)
LIMITS = (
    ("anthropic-ratelimit-requests-limit", "50"),
    ("anthropic-ratelimit-requests-remaining", "0"),
    ("anthropic-ratelimit-requests-reset", "2026-11-22T12:00:00Z"),
)


@dataclass(frozen=True)
class Answer:
    """Steps for the upstream. ``body``: what the client sees of it, framing removed, if all of it arrives."""

    steps: tuple[Step, ...]
    status: int = 200
    body: bytes = b""
    unstreamed: tuple[Step, ...] | None = None
    before_body: bool = False

    def as_json(self) -> dict[str, Any]:
        unstreamed = None if self.unstreamed is None else list(self.unstreamed)
        return {"steps": list(self.steps), "unstreamed": unstreamed, "before_body": self.before_body}


def send(data: bytes) -> Step:
    return ["send", base64.b64encode(data).decode()]


def pace(pieces: Iterable[bytes], seconds: float) -> Step:
    return ["pace", [base64.b64encode(piece).decode() for piece in pieces], seconds]


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


LAST_CHUNK = b"0\r\n\r\n"


def head(status: int, reason: str, headers: Iterable[tuple[str, str]]) -> bytes:
    lines = [f"HTTP/1.1 {status} {reason}", *(f"{name}: {value}" for name, value in headers), "", ""]
    return "\r\n".join(lines).encode("latin-1")


# ---------------------------------------------------------------- events


def event(name: str, newline: str = "\n", **members: Any) -> bytes:
    data = json.dumps({"type": name, **members}, ensure_ascii=False, separators=(",", ":"))
    return f"event: {name}{newline}data: {data}{newline}{newline}".encode()


def error_event(kind: str = "overloaded_error", message: str = "Overloaded") -> bytes:
    return event("error", error={"type": kind, "message": message})


PING = event("ping")


@dataclass(frozen=True)
class Text:
    """A text block, one delta for each piece."""

    pieces: Sequence[str]


@dataclass(frozen=True)
class Thinking:
    """A thinking block with its signature."""

    pieces: Sequence[str]
    signature: str


@dataclass(frozen=True)
class ToolUse:
    """A tool_use block; its input arrives as JSON text in pieces of ``size`` characters."""

    id: str
    name: str
    input: dict[str, Any]
    size: int = 7


Block = Text | Thinking | ToolUse
INPUT_USAGE = {"input_tokens": 11, "cache_creation_input_tokens": 22, "cache_read_input_tokens": 33, "output_tokens": 1}
OUTPUT_TOKENS = 44


def message_id(blocks: Sequence[Block]) -> str:
    """An id of its own for each message: clients join what comes under the same one."""
    return f"msg_{hashlib.sha256(repr(blocks).encode()).hexdigest()[:24]}"


def stop_reason(blocks: Sequence[Block]) -> str:
    return "tool_use" if any(isinstance(block, ToolUse) for block in blocks) else "end_turn"


def events(blocks: Sequence[Block], newline: str = "\n", model: str = "claude-opus-5-5") -> list[bytes]:
    """One streamed message as whole SSE events."""
    made = [
        event(
            "message_start",
            newline,
            message={
                "id": message_id(blocks),
                "type": "message",
                "role": "assistant",
                "model": model,
                "content": [],
                "stop_reason": None,
                "stop_sequence": None,
                "usage": INPUT_USAGE,
            },
        )
    ]
    for index, block in enumerate(blocks):
        made.append(event("content_block_start", newline, index=index, content_block=opening(block)))
        made += [event("content_block_delta", newline, index=index, delta=delta) for delta in deltas(block)]
        made.append(event("content_block_stop", newline, index=index))
    ending = {"stop_reason": stop_reason(blocks), "stop_sequence": None}
    made.append(event("message_delta", newline, delta=ending, usage={"output_tokens": OUTPUT_TOKENS}))
    made.append(event("message_stop", newline))
    return made


def opening(block: Block) -> dict[str, Any]:
    if isinstance(block, Text):
        return {"type": "text", "text": ""}
    if isinstance(block, Thinking):
        return {"type": "thinking", "thinking": "", "signature": ""}
    return {"type": "tool_use", "id": block.id, "name": block.name, "input": {}}


def deltas(block: Block) -> list[dict[str, Any]]:
    if isinstance(block, Text):
        return [{"type": "text_delta", "text": piece} for piece in block.pieces]
    if isinstance(block, Thinking):
        thoughts = [{"type": "thinking_delta", "thinking": piece} for piece in block.pieces]
        return [*thoughts, {"type": "signature_delta", "signature": block.signature}]
    text = json.dumps(block.input)
    pieces = [text[at : at + block.size] for at in range(0, len(text), block.size)]
    return [{"type": "input_json_delta", "partial_json": piece} for piece in pieces]


def message(blocks: Sequence[Block], model: str = "claude-opus-5-5") -> dict[str, Any]:
    """The same message as one JSON object."""
    content: list[dict[str, Any]] = []
    for block in blocks:
        if isinstance(block, Text):
            content.append({"type": "text", "text": "".join(block.pieces)})
        elif isinstance(block, Thinking):
            thought = "".join(block.pieces)
            content.append({"type": "thinking", "thinking": thought, "signature": block.signature})
        else:
            content.append({"type": "tool_use", "id": block.id, "name": block.name, "input": block.input})
    return {
        "id": message_id(blocks),
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": content,
        "stop_reason": stop_reason(blocks),
        "stop_sequence": None,
        "usage": {**INPUT_USAGE, "output_tokens": OUTPUT_TOKENS},
    }


# ---------------------------------------------------------------- good answers


def plain(body: bytes, status: int = 200, reason: str = "OK", headers: Iterable[tuple[str, str]] = ()) -> Answer:
    """A whole body under a Content-Length, the connection kept."""
    lines = [("Content-Length", str(len(body))), *headers]
    return Answer((send(head(status, reason, lines) + body), ["end"]), status, body)


def as_json(value: Any, status: int = 200, reason: str = "OK", headers: Iterable[tuple[str, str]] = ()) -> Answer:
    body = json.dumps(value).encode()
    return plain(body, status, reason, [("Content-Type", "application/json"), *HEADERS, *headers])


def failure(
    status: int, kind: str, text: str = "scripted", reason: str = "Scripted", headers: Iterable[tuple[str, str]] = ()
) -> Answer:
    """An error in Anthropic's envelope."""
    envelope = {"type": "error", "error": {"type": kind, "message": text}, "request_id": "req_upstream"}
    return as_json(envelope, status, reason, headers)


def stream_head(framing: str, length: int = 0) -> bytes:
    lines = [("Content-Type", "text/event-stream; charset=utf-8"), *HEADERS]
    if framing == "chunked":
        lines.append(("Transfer-Encoding", "chunked"))
    elif framing == "length":
        lines.append(("Content-Length", str(length)))
    else:
        lines.append(("Connection", "close"))
    return head(200, "OK", lines)


def streamed(pieces: Sequence[bytes], framing: str = "chunked", interval: float = 0.0) -> Answer:
    """``pieces`` as an SSE answer, one write each. ``framing``: chunked, length or close."""
    body = b"".join(pieces)
    framed = [chunk(piece) for piece in pieces] if framing == "chunked" else list(pieces)
    steps = [send(stream_head(framing, len(body)))]
    if interval:
        steps.append(pace(framed, interval))
    else:
        steps += [send(piece) for piece in framed]
    if framing == "chunked":
        steps.append(send(LAST_CHUNK))
    steps.append(["close"] if framing == "close" else ["end"])
    return Answer(tuple(steps), 200, body)


def conversation(blocks: Sequence[Block], interval: float = 0.0) -> Answer:
    """What a Messages endpoint answers: events where a stream was asked for, else one JSON object."""
    return replace(streamed(events(blocks), interval=interval), unstreamed=as_json(message(blocks)).steps)


# ---------------------------------------------------------------- mishaps


def ended(pieces: Sequence[bytes], how: str, framing: str = "chunked") -> Answer:
    """A stream of ``pieces`` (the last one may be a part of an event) that then ends badly.

    how: ``reset``, ``close`` (cut, no last chunk), ``clean`` (last chunk sent, so that only the missing message_stop
    tells) or ``hang`` (silence). ``body`` is what has been sent of it.
    """
    steps = [send(stream_head(framing, 1 << 20))]
    if pieces:
        steps.append(send(b"".join(chunk(piece) if framing == "chunked" else piece for piece in pieces)))
    steps += [send(LAST_CHUNK), ["end"]] if how == "clean" else [[how]]
    return Answer(tuple(steps), 200, b"".join(pieces))


def held(pieces: Sequence[bytes], gate: str, rest: Sequence[bytes]) -> Answer:
    """A stream that stops after ``pieces`` until the gate is released, then goes on with ``rest``."""
    steps = [send(stream_head("chunked")), send(b"".join(chunk(piece) for piece in pieces)), ["gate", gate]]
    steps += [send(b"".join(chunk(piece) for piece in rest) + LAST_CHUNK), ["end"]]
    return Answer(tuple(steps), 200, b"".join([*pieces, *rest]))


def early(answer: Answer, then: Step) -> Answer:
    """``answer`` sent as soon as the head is in, whatever the client is still uploading."""
    return replace(answer, steps=(*answer.steps[:-1], then), before_body=True)
