"""What the tests of both clouds send, answer and look for."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from typing import Any

from tests.e2e import answers
from tests.e2e.answers import Answer, Block, Text, Thinking, ToolUse
from tests.e2e.raw_client import Client, Reply
from tests.e2e.relay_process import Relay
from tests.e2e.upstream_process import Received

SIGNATURE = "RXJjQkNrZ0lCeEFCR0FJaVFM" * 20


def with_citations() -> list[bytes]:
    """A text whose source is told in between."""
    first, *rest = answers.events([Text(["The grass ", "is green."])])
    citation = {
        "type": "char_location",
        "cited_text": "Das Gras ist gr\u00fcn.",
        "document_index": 0,
        "document_title": "Wiese",
        "start_char_index": 0,
        "end_char_index": 18,
    }
    delta = {"type": "citations_delta", "citation": citation}
    return [first, *rest[:2], answers.event("content_block_delta", index=0, delta=delta), *rest[2:]]


def _stream(*blocks: Block) -> list[bytes]:
    return answers.events(list(blocks))


STREAMS: dict[str, list[bytes]] = {
    "text": _stream(Text(["Hello, ", "w\u00f6rld ", "\U0001f600"])),
    "tool use": _stream(
        Text(["I look."]), ToolUse("toolu_9", "look", {"at": "die T\u00fcr", "deep": [1, {"a": None}]})
    ),
    "thinking": _stream(Thinking(["Hm. ", "Gr\u00fc\u00dfe?"], SIGNATURE), Text(["Yes."])),
    "citations": with_citations(),
    "32,000 tokens": _stream(Text([f" token{number}" for number in range(32_000)])),
}
"""Events of whole streams, as one would see them from the models."""

BLOCKS: list[Block] = [Thinking(["Hm."], SIGNATURE), Text(["Hel", "lo"])]
CONVERSATION = answers.conversation(BLOCKS)


def at_once(relay: Relay, requests: Sequence[bytes], meanwhile: Callable[[], None]) -> list[Reply]:
    """The replies to requests that are all sent before one reply is read. meanwhile(): called in between."""
    with ExitStack() as stack:
        clients = [stack.enter_context(Client(relay.port)) for _ in requests]
        for client, request in zip(clients, requests, strict=True):
            client.send(request)
        meanwhile()
        return [client.reply() for client in clients]


def leaks(relay: Relay, replies: Sequence[Reply], canaries: Iterable[str], log_canaries: Iterable[str]) -> list[str]:
    """Which of the canaries reached a client, and which of the log's canaries the relay wrote down."""
    told = "\n".join(f"{reply.headers}\n{reply.body.decode('utf-8', 'replace')}" for reply in replies)
    written = relay.output()
    found = [f"told: {canary}" for canary in canaries if canary in told]
    return found + [f"written: {canary}" for canary in log_canaries if canary in written]


Lines = dict[str, list[str]]


def sent_headers(received: Received) -> Lines:
    """The header lines by name in lower case."""
    found: Lines = {}
    for line in received.headers:
        name, _, value = line.partition(":")
        found.setdefault(name.strip().lower(), []).append(value.strip())
    return found


def differing(one: Lines, other: Lines) -> dict[str, tuple[str, str]]:
    """The headers that are not the same in both, with what each has; an empty text for one that is missing."""
    return {
        name: (", ".join(one.get(name, [])), ", ".join(other.get(name, [])))
        for name in {*one, *other}
        if one.get(name) != other.get(name)
    }


def refusal_of_pair(message: str) -> Answer:
    """The models' own 400."""
    return answers.failure(400, "invalid_request_error", message)


def error_of(reply: Reply) -> tuple[int, str, str]:
    """Status, type and message of an error in Anthropic's envelope."""
    return reply.status, reply.error, reply.json["error"]["message"]


def as_answer(document: Any, status: int) -> Answer:
    """An error as the cloud sends it, its own headers included."""
    headers = [("Content-Type", "application/json; charset=UTF-8"), ("Vary", "X-Origin"), ("Server", "scaffolding")]
    return answers.plain(json.dumps(document).encode(), status, "Said", headers)
