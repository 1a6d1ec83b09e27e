"""Which header lines, queries and credentials cross the relay, and which must not."""

from __future__ import annotations

import hashlib

import pytest

from tests.e2e.raw_client import KEY, ask, body_for, post, request_head
from tests.e2e.relay_process import UPSTREAM_KEY, Relay, config, provider
from tests.e2e.samples import TALK, call
from tests.e2e.upstream_process import MESSAGES, Upstream

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
