"""What passes through the relay byte for byte: request bodies and answers."""

from __future__ import annotations

import hashlib
import json

import pytest

from tests.e2e import answers
from tests.e2e.answers import Block, Text, Thinking, ToolUse
from tests.e2e.raw_client import KEY, Client, ask, body_for, post, request_head
from tests.e2e.relay_process import Relay
from tests.e2e.samples import LIMIT, TALK, body_of, call, flat
from tests.e2e.upstream_process import COUNT_TOKENS, MESSAGES, Upstream


@pytest.mark.parametrize("place", ["start", "middle", "end"])
@pytest.mark.parametrize("size", [1, 20_000, 100_001, 1_000_000, LIMIT])
def test_a_body_reaches_the_upstream_byte_for_byte(relay: Relay, upstream: Upstream, size: int, place: str) -> None:
    body = body_of(size, place)
    assert len(body) == size or size == 1
    reply = call(relay, upstream, body, answers.as_json(answers.message([Text(["ok"])])))
    assert (reply.status, reply.ending) == (200, "complete"), reply.body[:500]
    seen = upstream.last()
    assert (seen.length, seen.sha256) == (len(body), hashlib.sha256(body).hexdigest())
    assert seen.complete
    assert seen.header("content-length") == str(len(body))


@pytest.mark.parametrize("place", ["start", "middle", "end"])
@pytest.mark.parametrize(
    ("asked", "sent"),
    [
        (b'"mapped-exactly"', b'"short"'),
        (b'"mapped-by-pattern"', b'"a-name-that-is-quite-a-bit-longer-than-the-one-asked-for"'),
        (b'"mapped\\u002dexact\\u006Cy"', b'"short"'),
    ],
)
@pytest.mark.parametrize("size", [1, 300_000])
def test_a_mapped_model_is_the_only_change(
    relay: Relay, upstream: Upstream, asked: bytes, sent: bytes, place: str, size: int
) -> None:
    body = body_of(size, place, asked)
    reply = call(relay, upstream, body, answers.as_json(answers.message([Text(["ok"])])))
    assert reply.status == 200, reply.body
    expected = body.replace(b'"model": ' + asked, b'"model": ' + sent)
    assert expected != body
    assert upstream.body(upstream.last().index) == expected
    line = relay.access_line(reply.header("x-request-id"))
    assert sent.decode().strip('"') in line.values() and json.loads(asked) in line.values(), line


def test_a_chunked_body_reaches_the_upstream_whole(relay: Relay, upstream: Upstream) -> None:
    body = body_of(100_000, "middle")
    pieces = b"".join(answers.chunk(body[at : at + 999]) for at in range(0, len(body), 999))
    lines = [("Host", "127.0.0.1"), ("x-api-key", KEY), ("Transfer-Encoding", "chunked")]
    upstream.queue(TALK)
    reply = ask(relay.port, request_head("POST", MESSAGES, lines) + pieces + answers.LAST_CHUNK)
    assert reply.status == 200, reply.body
    assert upstream.last().sha256 == hashlib.sha256(body).hexdigest()


def test_a_body_dribbled_byte_by_byte_reaches_the_upstream_whole(relay: Relay, upstream: Upstream) -> None:
    body = body_for()
    upstream.queue(TALK)
    with Client(relay.port) as client:
        for byte in post(body):
            client.send(bytes([byte]))
        reply = client.reply()
    assert (reply.status, reply.body) == (200, TALK.body)
    assert upstream.last().sha256 == hashlib.sha256(body).hexdigest()


def test_the_upload_is_passed_on_while_it_is_still_arriving(relay: Relay, upstream: Upstream) -> None:
    body = body_of(200_000, "start")
    upstream.queue(answers.as_json(answers.message([Text(["ok"])])))
    with Client(relay.port) as client:
        request = post(body)
        client.send(request[:100_000])
        upstream.until(requests=1, complete=0)
        client.send(request[100_000:])
        assert client.reply().status == 200
    assert upstream.last().sha256 == hashlib.sha256(body).hexdigest()


def test_a_client_that_expects_a_continue_gets_one_and_is_served(relay: Relay, upstream: Upstream) -> None:
    body = body_for()
    upstream.queue(TALK)
    request = post(body, [("Expect", "100-continue")])
    with Client(relay.port) as client:
        client.send(request[: -len(body)])
        assert client.reply().status == 100
        client.send(body)
        assert client.reply().body == TALK.body
    assert upstream.last().header("expect") is None


def byte_by_byte(pieces: list[bytes]) -> list[bytes]:
    return [bytes([byte]) for byte in b"".join(pieces)]


BLOCKS: list[Block] = [
    Thinking(["Let me ", "think ", "— é😀"], "RXF1SVlCMzQ="),
    Text(["Hello ", "wörld ", '\u2028 \\ " </event>\ndata: not an event\n\n']),
    ToolUse("toolu_1", "Read", {"file_path": "/tmp/ü", "lines": [1, 2, 3], "none": {}}),
]
STREAMS = {
    "chunked": answers.streamed(answers.events(BLOCKS)),
    "length": answers.streamed(answers.events(BLOCKS), "length"),
    "close": answers.streamed(answers.events(BLOCKS), "close"),
    "crlf": answers.streamed(answers.events(BLOCKS, "\r\n")),
    "cr": answers.streamed(answers.events(BLOCKS, "\r")),
    "one-write": answers.streamed([b"".join(answers.events(BLOCKS))]),
    "byte-by-byte": answers.streamed(byte_by_byte(answers.events(BLOCKS))),
    "byte-by-byte-crlf": answers.streamed(byte_by_byte(answers.events(BLOCKS, "\r\n"))),
    "odd-cuts": answers.streamed([b"".join(answers.events(BLOCKS))[at : at + 37] for at in range(0, 4000, 37)]),
    "paced": answers.streamed(answers.events(BLOCKS), interval=0.01),
    "pings-and-comments": answers.streamed(
        [
            answers.PING,
            b": comment\n\n",
            *answers.events(BLOCKS)[:3],
            b": x\n\n",
            answers.PING,
            *answers.events(BLOCKS)[3:],
        ]
    ),
    "unknown-events": answers.streamed(
        [*answers.events(BLOCKS)[:-1], answers.event("news", novelty=[1]), answers.events(BLOCKS)[-1]]
    ),
    "no-space-after-colon": answers.streamed([one.replace(b": ", b":", 1) for one in answers.events(BLOCKS)]),
    "huge-event": answers.streamed(answers.events([Text(["x" * 1_500_000, "y"])])),
    "many-events": answers.streamed(answers.events([Text(["word "] * 5000)])),
}


@pytest.mark.parametrize("name", STREAMS)
def test_a_stream_reaches_the_client_byte_for_byte(relay: Relay, upstream: Upstream, name: str) -> None:
    answer = STREAMS[name]
    reply = call(relay, upstream, body_for(), answer)
    assert (reply.status, reply.ending) == (200, "complete")
    assert reply.body == answer.body
    line = relay.access_line(reply.header("x-request-id"))
    assert (line["outcome"], line["status"]) == ("answered", 200), line


def test_a_stream_carries_the_headers_that_keep_it_flowing(relay: Relay, upstream: Upstream) -> None:
    reply = call(relay, upstream, body_for())
    assert reply.header("content-type") == "text/event-stream; charset=utf-8"
    assert reply.header("cache-control") == "no-cache, no-transform"
    assert reply.header("x-accel-buffering") == "no"
    assert reply.header("request-id") == "req_upstream"
    assert reply.header("anthropic-organization-id") is None, "the account is the operator's, not the client's"
    assert reply.header("server") is None


def test_an_event_is_passed_on_before_the_next_one_exists(relay: Relay, upstream: Upstream) -> None:
    made = answers.events([Text(["first", "second"])])
    upstream.queue(answers.held(made[:3], "second", made[3:]))
    with Client(relay.port) as client:
        client.send(post(body_for()))
        incoming = client.opened()
        seen = incoming.until(b'"first"}}\n\n')
        assert seen == b"".join(made[:3])
        upstream.release("second")
        rest = incoming.reply()
    assert (seen + rest.body, rest.ending) == (b"".join(made), "complete")


def test_a_json_answer_reaches_the_client_byte_for_byte(relay: Relay, upstream: Upstream) -> None:
    text = b'{"type" : "message",\n "content":[], "big":123456789012345678901234567890, "u":"\\u00e9", "a":1,"a":2}'
    answer = answers.plain(text, headers=[("content-type", "application/json"), ("x-unknown", "kept")])
    reply = call(relay, upstream, body_for(stream=False), answer)
    assert (reply.status, reply.body, reply.ending) == (200, text, "complete")
    assert reply.header("content-type") == "application/json"
    assert reply.header("x-unknown") == "kept"


def test_count_tokens_is_relayed(relay: Relay, upstream: Upstream) -> None:
    upstream.queue(answers.as_json({"input_tokens": 4711}), path=COUNT_TOKENS)
    body = json.dumps({"messages": [], "model": "claude-opus-5-5"}).encode()
    reply = ask(relay.port, post(body, target=COUNT_TOKENS + "?beta=true"))
    assert (reply.status, reply.json) == (200, {"input_tokens": 4711})
    assert upstream.last().target == COUNT_TOKENS + "?beta=true"
    assert upstream.last().sha256 == hashlib.sha256(body).hexdigest()


def test_usage_and_names_are_in_the_access_line(relay: Relay, upstream: Upstream) -> None:
    reply = call(relay, upstream, body_for(), headers={"X-Claude-Code-Session-Id": "0f0e-session"})
    line = relay.access_line(reply.header("x-request-id"))
    assert {"first", "claude-opus-5-5", "req_upstream", "0f0e-session", 11, 22, 33, 44} <= flat(line), line
