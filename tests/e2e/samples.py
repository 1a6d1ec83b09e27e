"""What several of the end-to-end tests send and answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tests.e2e import answers
from tests.e2e.answers import Answer, Text, Thinking, send
from tests.e2e.raw_client import Reply, ask, post
from tests.e2e.relay_process import Relay
from tests.e2e.upstream_process import Upstream

LIMIT = 33554432
"""``server.max_body_bytes`` by default."""

MODELS = ["claude-one", "claude-two", "claude-three", "claude-four", "claude-five"]
MAPPING = {"mapped-exactly": "short", "mapped-*": "a-name-that-is-quite-a-bit-longer-than-the-one-asked-for"}

TALK = answers.conversation([Thinking(["Hm. ", "Grüße?"], "c2lnbmF0dXJl"), Text(["Hel", "lo ", "wörld 😀"])])
EVENTS = answers.events([Text(["one", "two"])])
GOOD = answers.streamed(EVENTS)

SSE_HEAD = answers.stream_head("chunked")
CHUNKS = [answers.chunk(piece) for piece in EVENTS]

TIMEOUTS = {"connect_ms": 500, "first_byte_ms": 1000, "idle_ms": 1000}
"""A provider's timeouts where a test waits for one of them."""


def raw(*steps: Any) -> Answer:
    """An answer of just these bytes and steps without arguments."""
    return Answer(tuple(send(step) if isinstance(step, bytes) else [step] for step in steps))


ODD_MEMBERS = [
    b'"metadata" : {"user_id":"a","user_id":"b"}',
    b'"metadata":\t{"model":"not this one","stream":[true]}',
    b'"escapes": "\\u00e9\\ud83d\\ude00\\/\\"model\\":\\"nor this\\"\\\\"',
    '"größe": "é😀\u2028"'.encode(),
    b'"numbers": [123456789012345678901234567890, 1e400, -0.0, 0.1000000000000000055511151231257827]',
    b'"deep": ' + b"[" * 300 + b'{"model":1}' + b"]" * 300,
    b'\r\n "spaced" :\r\n [ true , false , null ] ',
]


def body_of(size: int, place: str, model: bytes = b'"claude-opus-5-5"') -> bytes:
    """A body of exactly ``size`` bytes (or the least possible) with ``model`` at the start, middle or end."""
    model_member = b'"model": ' + model
    padding = b'"messages": [{"role": "user", "content": "%s"}]'
    others = [*ODD_MEMBERS, padding, b'"max_tokens": 64']
    at = {"start": 0, "middle": len(others) // 2, "end": len(others)}[place]
    members = [*others[:at], model_member, *others[at:]]
    least = len(b"{" + b",".join(members) + b"}") - len(b"%s")
    filler = b"x" * max(1, size - least)
    return b"{" + b",".join(member.replace(b"%s", filler) for member in members) + b"}"


def flat(value: object) -> set[object]:
    """Every scalar in a JSON value."""
    if isinstance(value, dict):
        return set().union(*map(flat, value.values()))
    if isinstance(value, list):
        return set().union(*map(flat, value))
    return {value}


NO_HEADERS: Mapping[str, str] = {}


def call(
    relay: Relay, upstream: Upstream, body: bytes, answer: Answer = TALK, headers: Mapping[str, str] = NO_HEADERS
) -> Reply:
    """POST ``body`` with the upstream answering ``answer``."""
    upstream.queue(answer)
    return ask(relay.port, post(body, headers.items()))
