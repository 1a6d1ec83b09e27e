"""Connections, and everything the relay answers by itself."""

from __future__ import annotations

import pytest

from tests.e2e import answers
from tests.e2e.answers import Text
from tests.e2e.raw_client import Client, ask, body_for, get, post, request_head
from tests.e2e.relay_process import UPSTREAM_KEY, Relay
from tests.e2e.samples import MODELS, TALK, flat
from tests.e2e.upstream_process import COUNT_TOKENS, MESSAGES, Upstream


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
