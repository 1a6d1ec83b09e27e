"""Bad input: a clear 4xx in Anthropic's envelope, nothing sent upstream, the connection in a sane state."""

from __future__ import annotations

import pytest

from tests.e2e import answers
from tests.e2e.raw_client import KEY, Client, Reply, ask, body_for, post, request_head
from tests.e2e.relay_process import Relay
from tests.e2e.samples import LIMIT, TALK, body_of
from tests.e2e.upstream_process import MESSAGES, Upstream

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
