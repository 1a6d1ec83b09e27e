"""What passes through the relay, and what must not: bytes, headers, credentials, and the rest of the HTTP surface."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping

import pytest

from tests.e2e import answers
from tests.e2e.answers import Answer, Block, Text, Thinking, ToolUse
from tests.e2e.raw_client import KEY, Client, Reply, ask, body_for, get, post, request_head
from tests.e2e.relay_process import UPSTREAM_KEY, Relay, config, provider
from tests.e2e.upstream_process import COUNT_TOKENS, MESSAGES, Upstream

LIMIT = 33554432
MODELS = ["claude-one", "claude-two", "claude-three", "claude-four", "claude-five"]
MAPPING = {"mapped-exactly": "short", "mapped-*": "a-name-that-is-quite-a-bit-longer-than-the-one-asked-for"}
TALK = answers.conversation([Thinking(["Hm. ", "Grüße?"], "c2lnbmF0dXJl"), Text(["Hel", "lo ", "wörld 😀"])])


NO_HEADERS: Mapping[str, str] = {}


@pytest.fixture(scope="module")
def relay(first_process: Upstream) -> Iterator[Relay]:
    one = provider("first", first_process.url, models=MODELS, model_mapping=MAPPING)
    with Relay(config([one])) as started:
        yield started


def call(
    relay: Relay, upstream: Upstream, body: bytes, answer: Answer = TALK, headers: Mapping[str, str] = NO_HEADERS
) -> Reply:
    """POST ``body`` with the upstream answering ``answer``."""
    upstream.queue(answer)
    return ask(relay.port, post(body, headers.items()))


# ---------------------------------------------------------------- request bodies

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


# ---------------------------------------------------------------- answers


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


def flat(value: object) -> set[object]:
    """Every scalar in a JSON value."""
    if isinstance(value, dict):
        return set().union(*map(flat, value.values()))
    if isinstance(value, list):
        return set().union(*map(flat, value))
    return {value}


# ---------------------------------------------------------------- headers, queries, credentials

BETAS = "claude-code-20250219,interleaved-thinking-2025-05-14, never-heard-of-2031-01-01,,context-management-2025-06-27"


def test_headers_pass_unchanged(relay: Relay, upstream: Upstream) -> None:
    sent = {
        "anthropic-beta": BETAS,
        "anthropic-workspace-id": "wrkspc_1",
        "anthropic-dangerous-direct-browser-access": "true",
        "User-Agent": "claude-cli/2.1.330 (external, sdk-cli)",
        "X-Stainless-Timeout": "NOT_GIVEN",
        "X-Claude-Code-Session-Id": "b5c8b6a0-session",
        "x-app": "cli",
        "x-never-heard-of": 'a; b="c", d',
    }
    assert call(relay, upstream, body_for(), headers=sent).status == 200
    seen = upstream.last()
    assert {name: seen.header(name.lower()) for name in sent} == sent
    assert seen.header("anthropic-version") == "2023-06-01"


def test_repeated_header_lines_stay_repeated(relay: Relay, upstream: Upstream) -> None:
    upstream.queue(TALK)
    ask(relay.port, post(body_for(), [("x-twice", "one"), ("x-twice", "two")]))
    assert upstream.last().all("x-twice") == ["one", "two"]


def test_hop_by_hop_headers_stay_behind_and_no_compression_is_asked_for(relay: Relay, upstream: Upstream) -> None:
    sent = {
        "Connection": "keep-alive, x-named-hop",
        "x-named-hop": "1",
        "Keep-Alive": "timeout=5",
        "TE": "trailers",
        "Proxy-Authorization": "Basic eA==",
        "Accept-Encoding": "gzip, deflate, br, zstd",
    }
    assert call(relay, upstream, body_for(), headers=sent).status == 200
    seen = upstream.last()
    for name in ("x-named-hop", "keep-alive", "te", "proxy-authorization"):
        assert seen.header(name) is None, name
    assert seen.header("accept-encoding") == "identity"
    assert seen.header("host") == f"127.0.0.1:{upstream.port}"


@pytest.mark.parametrize("query", ["?beta=true", "?beta=true&x=%2F%20y", ""])
def test_the_query_is_kept(relay: Relay, upstream: Upstream, query: str) -> None:
    upstream.queue(TALK)
    assert ask(relay.port, post(body_for(), target=MESSAGES + query)).status == 200
    assert upstream.last().target == MESSAGES + query


@pytest.mark.parametrize(
    "credentials",
    [
        [("x-api-key", KEY)],
        [("Authorization", f"Bearer {KEY}")],
        [("x-api-key", KEY), ("Authorization", "Bearer managed-by-cc-relay")],
        [("x-api-key", KEY), ("Authorization", "Bearer sk-ant-oat01-somebody")],
        [("x-api-key", KEY), ("Cookie", "session=secret-of-the-client")],
    ],
)
def test_a_clients_credential_opens_the_door_and_goes_no_further(
    relay: Relay, upstream: Upstream, credentials: list[tuple[str, str]]
) -> None:
    upstream.queue(TALK)
    body = body_for()
    lines = [("Host", "127.0.0.1"), ("Content-Length", str(len(body))), *credentials]
    assert ask(relay.port, request_head("POST", MESSAGES, lines) + body).status == 200
    seen = upstream.last()
    everything = "\n".join(seen.headers)
    for secret in (KEY, "managed-by-cc-relay", "sk-ant-oat01-somebody", "secret-of-the-client"):
        assert secret not in everything
    assert seen.header("x-api-key") == UPSTREAM_KEY.format(name="first")
    assert seen.header("authorization") is None


def test_a_clients_own_subscription_passes_unchanged_and_alone(upstream: Upstream) -> None:
    own = "Bearer sk-ant-oat01-of-the-client"
    body = body_for()
    lines = [("Host", "127.0.0.1"), ("Content-Length", str(len(body))), ("Authorization", own)]
    upstream.route(TALK)
    auth = {"auth": {"api_key": KEY, "allow_subscription": True}}
    with Relay(config([provider("first", upstream.url)], server=auth)) as relay:
        reply = ask(relay.port, request_head("POST", MESSAGES, lines) + body)
        assert (reply.status, reply.body) == (200, TALK.body)
        assert reply.header("anthropic-organization-id") == "org-e2e"
        seen = upstream.last()
        assert (seen.header("authorization"), seen.header("x-api-key")) == (own, None)
        ask(relay.port, post(body_for()))
        seen = upstream.last()
        assert (seen.header("authorization"), seen.header("x-api-key")) == (None, UPSTREAM_KEY.format(name="first"))
        assert "oat01" not in relay.output()


@pytest.mark.parametrize("kind", ["anthropic", "zai", "minimax", "ollama", "azure"])
def test_every_kind_of_provider_is_sent_the_body_and_its_own_key(upstream: Upstream, kind: str) -> None:
    path = "/some/prefix" + MESSAGES
    upstream.queue(TALK, path=path)
    body = body_for(padding="x" * 50_000)
    with Relay(config([provider("first", upstream.url + "/some/prefix", type=kind)])) as relay:
        reply = ask(relay.port, post(body, target=MESSAGES + "?beta=true"))
    assert (reply.status, reply.body) == (200, TALK.body)
    seen = upstream.last()
    assert (seen.sha256, seen.target.partition("?")[0]) == (hashlib.sha256(body).hexdigest(), path)
    everything = "\n".join(seen.headers)
    assert KEY not in everything
    assert everything.count(UPSTREAM_KEY.format(name="first")) == 1


def test_no_secret_is_in_the_logs(relay: Relay, upstream: Upstream) -> None:
    reply = call(relay, upstream, body_for())
    relay.access_line(reply.header("x-request-id"))
    output = relay.output()
    assert KEY not in output and UPSTREAM_KEY.format(name="first") not in output


@pytest.mark.parametrize(
    "credentials",
    [[], [("x-api-key", "wrong")], [("Authorization", "Bearer wrong")], [("x-api-key", "")]],
)
def test_a_stranger_gets_401_before_uploading_anything(
    relay: Relay, upstream: Upstream, credentials: list[tuple[str, str]]
) -> None:
    lines = [("Host", "127.0.0.1"), ("Content-Length", "5000"), ("Expect", "100-continue"), *credentials]
    reply = ask(relay.port, request_head("POST", MESSAGES, lines))
    assert (reply.status, reply.error) == (401, "authentication_error")
    assert reply.header("x-should-retry") == "false"
    assert ask(relay.port, request_head("GET", "/v1/models", [("Host", "127.0.0.1"), *credentials])).status == 401
    assert upstream.stats()["connections"] == 0


def test_a_sane_request_id_is_kept_and_any_other_replaced(relay: Relay, upstream: Upstream) -> None:
    kept = call(relay, upstream, body_for(), headers={"X-Request-ID": "mine-42"}).header("x-request-id")
    assert kept == "mine-42"
    made = call(relay, upstream, body_for(), headers={"X-Request-ID": "<script>" * 40}).header("x-request-id")
    assert made and "<" not in made


# ---------------------------------------------------------------- connections


def test_connections_are_kept_on_both_sides(relay: Relay, upstream: Upstream) -> None:
    upstream.route(TALK)
    with Client(relay.port) as client:
        for stream in (True, False, True, True, False):
            client.send(post(body_for(stream)))
            reply = client.reply()
            assert (reply.status, reply.ending) == (200, "complete")
    assert (upstream.stats()["requests"], upstream.stats()["connections"]) == (5, 1)


def test_a_connection_that_was_held_back_at_its_answers_end_serves_the_next_call(
    relay: Relay, upstream: Upstream
) -> None:
    """One event of megabytes backs the client up just as the answer ends; the pooled connection must read again."""
    upstream.queue(answers.streamed(answers.events([Text(["x" * 4_000_000])])), TALK)
    assert ask(relay.port, post(body_for())).ending == "complete"
    assert ask(relay.port, post(body_for())).body == TALK.body


def test_pipelined_requests_are_answered_in_order(relay: Relay, upstream: Upstream) -> None:
    replies = [answers.conversation([Text([f"answer {number}"])]) for number in range(3)]
    upstream.queue(*replies)
    with Client(relay.port) as client:
        client.send(b"".join([post(body_for()), post(body_for()), get("/health"), post(body_for())]))
        got = [client.reply() for _ in range(4)]
    assert [reply.body for reply in (got[0], got[1], got[3])] == [reply.body for reply in replies]
    assert got[2].json == {"status": "ok"}


def test_a_client_that_asks_for_the_connection_to_close_gets_that(relay: Relay, upstream: Upstream) -> None:
    upstream.queue(TALK)
    with Client(relay.port) as client:
        client.send(post(body_for(), [("Connection", "close")]))
        reply = client.reply()
        assert (reply.body, reply.ending) == (TALK.body, "complete")
        assert client.closed()


def test_a_client_of_http_1_0_gets_an_unframed_body(relay: Relay, upstream: Upstream) -> None:
    upstream.queue(TALK)
    reply = ask(relay.port, post(body_for()).replace(b" HTTP/1.1\r\n", b" HTTP/1.0\r\n", 1))
    assert reply.header("transfer-encoding") is None
    assert (reply.status, reply.body) == (200, TALK.body)


# ---------------------------------------------------------------- the rest of the surface


def test_greetings_are_answered_without_a_key(relay: Relay, upstream: Upstream) -> None:
    with Client(relay.port) as client:
        for target in ("/", "/api/hello"):
            client.send(request_head("HEAD", target, [("Host", "127.0.0.1")]))
            assert client.reply("HEAD").status == 200
    health = ask(relay.port, request_head("GET", "/health", [("Host", "127.0.0.1")]))
    assert (health.status, health.json) == (200, {"status": "ok"})
    assert upstream.stats()["connections"] == 0


def test_models_are_listed_in_pages(relay: Relay) -> None:
    seen: list[str] = []
    target = "/v1/models?limit=2"
    while True:
        page = ask(relay.port, get(target)).json
        assert len(page["data"]) <= 2
        seen += [model["id"] for model in page["data"]]
        assert (page["first_id"], page["last_id"]) == (page["data"][0]["id"], page["data"][-1]["id"])
        if not page["has_more"]:
            break
        target = f"/v1/models?limit=2&after_id={page['last_id']}"
    assert set(seen) >= set(MODELS)
    assert len(seen) == len(set(seen))
    before = ask(relay.port, get(f"/v1/models?limit=2&before_id={seen[3]}")).json
    assert [model["id"] for model in before["data"]] == seen[1:3]


def test_a_model_is_described(relay: Relay) -> None:
    model = ask(relay.port, get("/v1/models/claude-three")).json
    assert (model["id"], model["type"], model["provider"]) == ("claude-three", "model", "first")
    missing = ask(relay.port, get("/v1/models/nobody"))
    assert (missing.status, missing.error) == (404, "not_found_error")


def test_providers_are_listed_without_their_keys(relay: Relay) -> None:
    reply = ask(relay.port, get("/v1/providers"))
    assert reply.status == 200
    assert {"first", "anthropic"} <= flat(reply.json)
    assert UPSTREAM_KEY.format(name="first").encode() not in reply.body


@pytest.mark.parametrize(
    "target", ["/v1", "/v1/message", "/v1/messages/", "/v1/messages/batches", "/%2e%2e/etc/passwd", "/x"]
)
def test_an_unknown_path_is_404(relay: Relay, upstream: Upstream, target: str) -> None:
    reply = ask(relay.port, post(body_for(), target=target))
    assert (reply.status, reply.error) == (404, "not_found_error")
    assert reply.header("x-request-id")
    assert upstream.stats()["connections"] == 0


@pytest.mark.parametrize(
    ("method", "target"),
    [("GET", MESSAGES), ("PUT", MESSAGES), ("GET", COUNT_TOKENS), ("DELETE", "/health"), ("POST", "/v1/models")],
)
def test_a_wrong_method_is_405(relay: Relay, upstream: Upstream, method: str, target: str) -> None:
    reply = ask(relay.port, get(target, method))
    assert (reply.status, reply.error) == (405, "invalid_request_error")
    assert reply.header("allow")
    assert upstream.stats()["connections"] == 0


# ---------------------------------------------------------------- bad input

MALFORMED = {
    "empty": b"",
    "not JSON": b"hello",
    "an array": b'[{"model":"claude-opus-5-5"}]',
    "a string": b'"claude-opus-5-5"',
    "null": b"null",
    "cut short": body_for()[:-1],
    "something after it": body_for() + b"{}",
    "a trailing comma": b'{"model":"claude-opus-5-5","messages":[],}',
    "single quotes": b"{'model':'claude-opus-5-5'}",
    "no model": b'{"messages":[],"max_tokens":1}',
    "model only further down": b'{"metadata":{"model":"claude-opus-5-5"},"messages":[]}',
    "model a number": b'{"model":5,"messages":[]}',
    "model null": b'{"model":null,"messages":[]}',
    "model an object": b'{"model":{"id":"claude-opus-5-5"},"messages":[]}',
    "model twice": b'{"model":"claude-opus-5-5","messages":[],"model":"claude-opus-5-5"}',
    "model twice, once in disguise": b'{"model":"claude-opus-5-5","messages":[],"\\u006dodel":"claude-haiku-4-5"}',
    "control character in a string": b'{"model":"claude-opus-5-5","messages":"a\x01b"}',
    "a byte order mark": b"\xef\xbb\xbf" + body_for(),
}


@pytest.mark.parametrize("fault", MALFORMED)
def test_a_body_that_cannot_be_routed_is_400_and_what_follows_is_understood(
    relay: Relay, upstream: Upstream, fault: str
) -> None:
    """The connection either says that it ends, or serves the next request."""
    with Client(relay.port) as client:
        client.send(post(MALFORMED[fault]))
        reply = client.reply()
        assert (reply.status, reply.error) == (400, "invalid_request_error")
        assert reply.json["request_id"] == reply.header("x-request-id")
        assert upstream.stats()["requests"] == 0
        if reply.header("connection") != "close":
            upstream.queue(TALK)
            client.send(post(body_for()))
            assert client.reply().body == TALK.body


@pytest.mark.parametrize("tail", [b',"model":"claude-haiku-4-5"}', b",}", b""], ids=["model again", "comma", "cut"])
def test_a_fault_late_in_a_large_body_is_400_and_the_upstream_never_has_it_whole(
    relay: Relay, upstream: Upstream, tail: bytes
) -> None:
    upstream.route(TALK)
    body = body_of(400_000, "start")[:-1] + tail
    reply = ask(relay.port, post(body))
    assert (reply.status, reply.error) == (400, "invalid_request_error")
    assert not any(seen.complete for seen in upstream.requests())
    upstream.until(open=0)


@pytest.mark.parametrize("expect", [[], [("Expect", "100-continue")]])
def test_a_body_declared_too_large_is_413_before_it_is_sent(
    relay: Relay, upstream: Upstream, expect: list[tuple[str, str]]
) -> None:
    lines = [("Host", "127.0.0.1"), ("x-api-key", KEY), ("Content-Length", str(LIMIT + 1)), *expect]
    reply = ask(relay.port, request_head("POST", MESSAGES, lines))
    assert (reply.status, reply.error) == (413, "request_too_large")
    assert upstream.stats()["connections"] == 0


def test_a_chunked_body_that_grows_too_large_is_413(relay: Relay, upstream: Upstream) -> None:
    upstream.route(TALK)
    lines = [("Host", "127.0.0.1"), ("x-api-key", KEY), ("Transfer-Encoding", "chunked")]
    body = body_of(LIMIT + 1, "start")
    with Client(relay.port) as client:
        client.send(request_head("POST", MESSAGES, lines))
        for at in range(0, len(body), 1 << 20):
            client.send(answers.chunk(body[at : at + (1 << 20)]))
        reply = client.reply()
    assert (reply.status, reply.error) == (413, "request_too_large")
    assert not any(seen.complete for seen in upstream.requests())


def refused(relay: Relay, request: bytes) -> Reply:
    """The answer to a request after which the connection cannot go on."""
    with Client(relay.port) as client:
        client.send(request)
        reply = client.reply()
        assert 400 <= reply.status <= 501, reply
        assert reply.error, reply
        assert reply.header("connection") == "close"
    return reply


BODY = body_for()
AMBIGUOUS = {
    "both length headers": [("Content-Length", str(len(BODY))), ("Transfer-Encoding", "chunked")],
    "two different lengths": [("Content-Length", str(len(BODY))), ("Content-Length", "3")],
    "a length that is no number": [("Content-Length", "1x")],
    "a negative length": [("Content-Length", "-1")],
    "a signed length": [("Content-Length", f"+{len(BODY)}")],
    "an unknown transfer coding": [("Transfer-Encoding", "gzip, chunked")],
    "a space before the colon": [("Content-Length ", str(len(BODY)))],
}


@pytest.mark.parametrize("fault", AMBIGUOUS)
def test_ambiguous_framing_is_refused_and_nothing_is_sent_on(relay: Relay, upstream: Upstream, fault: str) -> None:
    upstream.route(TALK)
    lines = [("Host", "127.0.0.1"), ("x-api-key", KEY), *AMBIGUOUS[fault]]
    refused(relay, request_head("POST", MESSAGES, lines) + BODY)
    assert upstream.stats()["connections"] == 0


@pytest.mark.parametrize("value", [b"a\rb", b"a\nb: c", b"a\0b"], ids=["CR", "LF", "NUL"])
def test_a_header_value_with_a_control_character_is_refused(relay: Relay, upstream: Upstream, value: bytes) -> None:
    upstream.route(TALK)
    request = post(BODY, [("x-odd", "VALUE")]).replace(b"VALUE", value)
    if value == b"a\nb: c":  # a bare LF may also be read as a line end, but then two clean headers must come of it
        with Client(relay.port) as client:
            client.send(request)
            assert client.reply().status in (200, 400)
        for seen in upstream.requests():
            assert all("\n" not in line and "\r" not in line for line in seen.headers)
        return
    assert refused(relay, request).status == 400
    assert upstream.stats()["connections"] == 0


@pytest.mark.parametrize(
    "request_bytes",
    [
        request_head("POST", MESSAGES, [("Host", "127.0.0.1"), ("x-api-key", KEY), ("x-large", "v" * 300_000)]),
        request_head("POST", MESSAGES, [("Host", "127.0.0.1"), *[(f"x-{n}", "v" * 90) for n in range(5000)]]),
        request_head("POST", MESSAGES + "?" + "q" * 300_000, [("Host", "127.0.0.1"), ("x-api-key", KEY)]),
    ],
    ids=["one large header", "many headers", "long target"],
)
def test_endless_headers_are_refused(relay: Relay, upstream: Upstream, request_bytes: bytes) -> None:
    with Client(relay.port) as client:
        client.send_what_is_taken(request_bytes)
        reply = client.reply()
        assert 400 <= reply.status < 500
        assert reply.error
    assert upstream.stats()["connections"] == 0


def test_something_that_is_not_http_is_refused(relay: Relay) -> None:
    refused(relay, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n")


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8787", "127.0.0.1.evil.example", "169.254.169.254"])
def test_a_host_that_is_not_loopback_is_refused(relay: Relay, upstream: Upstream, host: str) -> None:
    reply = ask(relay.port, post(body_for(), host=host))
    assert 400 <= reply.status < 500 and reply.error, reply
    assert upstream.stats()["connections"] == 0


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:{port}", "127.0.0.1:{port}", "[::1]:{port}"])
def test_every_name_of_loopback_is_served(relay: Relay, upstream: Upstream, host: str) -> None:
    upstream.queue(TALK)
    assert ask(relay.port, post(body_for(), host=host.format(port=relay.port))).status == 200


def test_a_missing_host_is_refused(relay: Relay, upstream: Upstream) -> None:
    lines = [("x-api-key", KEY), ("Content-Length", str(len(BODY)))]
    reply = ask(relay.port, request_head("POST", MESSAGES, lines) + BODY)
    assert 400 <= reply.status < 500 and reply.error
    assert upstream.stats()["connections"] == 0
