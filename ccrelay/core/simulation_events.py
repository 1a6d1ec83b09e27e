"""A simulated reply as the Messages API puts it on the wire: one JSON message, or a stream of events. Pure.

Streams follow the order of the API: ``message_start``, ``ping``, each block's start, deltas and stop,
``message_delta`` with the cumulative usage, ``message_stop``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

from ccrelay.core.simulation_content import Block, Reply, TextBlock, ThinkingBlock, count, dumps, pieces
from ccrelay.core.simulation_request import Json


@dataclass(frozen=True, slots=True)
class Event:
    """One SSE event, encoded. ``tokens``: output tokens that were made for it, hence how long it took."""

    tokens: int
    data: bytes


def encode(payload: Json) -> bytes:
    """One server-sent event; ``type`` of the payload is its name."""
    return f"event: {payload['type']}\ndata: {dumps(payload)}\n\n".encode()


def message(reply: Reply) -> Json:
    """The reply as the body of a non-streaming answer."""
    content = [_whole(block) for block in reply.blocks]
    return _message(reply, content, reply.stop_reason, reply.stop_sequence, _usage(reply))


def events(reply: Reply) -> Iterator[Event]:
    """The reply as a stream, one event after the other, each made when it is asked for."""
    # The API reports the first token here; the true count comes with message_delta.
    begun = {**_usage(reply), "output_tokens": 1}
    begun.pop("output_tokens_details", None)
    yield Event(0, encode({"type": "message_start", "message": _message(reply, [], None, None, begun)}))
    yield Event(0, encode({"type": "ping"}))
    for index, block in enumerate(reply.blocks):
        yield Event(0, encode({"type": "content_block_start", "index": index, "content_block": _empty(block)}))
        for tokens, delta in _deltas(block):
            yield Event(tokens, encode({"type": "content_block_delta", "index": index, "delta": delta}))
        yield Event(0, encode({"type": "content_block_stop", "index": index}))
    usage = _usage(reply)
    for only_at_start in ("cache_creation", "service_tier"):
        del usage[only_at_start]
    stop = {"stop_reason": reply.stop_reason, "stop_sequence": reply.stop_sequence, "stop_details": None}
    yield Event(0, encode({"type": "message_delta", "delta": stop, "usage": usage}))
    yield Event(0, encode({"type": "message_stop"}))


def _message(
    reply: Reply, content: list[Json], stop_reason: str | None, stop_sequence: str | None, usage: Json
) -> Json:
    return {
        "id": reply.id,
        "type": "message",
        "role": "assistant",
        "model": reply.model,
        "content": content,
        "stop_reason": stop_reason,
        "stop_sequence": stop_sequence,
        "stop_details": None,
        "usage": usage,
    }


def _usage(reply: Reply) -> Json:
    usage, written = reply.usage, reply.usage.cache_write
    body: Json = {
        "input_tokens": usage.input,
        "cache_creation_input_tokens": written,
        "cache_read_input_tokens": usage.cache_read,
        "cache_creation": {
            "ephemeral_5m_input_tokens": 0 if reply.cache_hour else written,
            "ephemeral_1h_input_tokens": written if reply.cache_hour else 0,
        },
        "output_tokens": usage.output,
        "service_tier": "standard",
    }
    if reply.thinking_tokens:
        body["output_tokens_details"] = {"thinking_tokens": reply.thinking_tokens}
    return body


def _empty(block: Block) -> Json:
    """What ``content_block_start`` carries: the block before its first delta."""
    if isinstance(block, TextBlock):
        return {"type": "text", "text": ""}
    if isinstance(block, ThinkingBlock):
        return {"type": "thinking", "thinking": "", "signature": ""}
    return {"type": "tool_use", "id": block.id, "name": block.name, "input": {}}


def _whole(block: Block) -> Json:
    if isinstance(block, TextBlock):
        return {"type": "text", "text": block.text}
    if isinstance(block, ThinkingBlock):
        return {"type": "thinking", "thinking": block.text if block.shown else "", "signature": block.signature}
    return {"type": "tool_use", "id": block.id, "name": block.name, "input": json.loads(block.input_json)}


def _deltas(block: Block) -> Iterator[tuple[int, Json]]:
    """The deltas that build the block, each with the tokens that it took."""
    if isinstance(block, TextBlock):
        for piece in pieces(block.text):
            yield 1, {"type": "text_delta", "text": piece}
    elif isinstance(block, ThinkingBlock):
        if block.shown:
            for piece in pieces(block.text):
                yield 1, {"type": "thinking_delta", "thinking": piece}
        silent = 0 if block.shown else count(block.text)
        yield silent, {"type": "signature_delta", "signature": block.signature}
    else:
        yield 0, {"type": "input_json_delta", "partial_json": ""}
        for piece in pieces(block.input_json):
            yield 1, {"type": "input_json_delta", "partial_json": piece}
