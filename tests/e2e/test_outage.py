"""All providers gone at once, and fifty clients that do not give up: what it costs, and that it ends."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

from tests.e2e.answers import failure
from tests.e2e.crowd import PATIENCE, Crowd, Persistent
from tests.e2e.raw_client import ask, body_for, get, post
from tests.e2e.relay_process import Relay, config, provider
from tests.e2e.samples import GOOD, raw
from tests.e2e.upstream_process import Upstream, start_upstreams
from tests.e2e.waiting import wait_for

CLIENTS = 50
SCALE = 0.03
"""A second of the clients in seconds. The relay's own is a second, but what it tells nobody is scaled as theirs."""
INTERVAL = 300
OPEN = 30
NAMES = ("first", "second", "third")
REFUSALS = 3
"""Answers that each client has had before the outage ends: with eleven tries it has several left to see the end."""

OVERLOADED = failure(503, "api_error", "no healthy upstream")


def start(started: ExitStack) -> tuple[list[Upstream], Relay]:
    upstreams = start_upstreams(started, 3)
    made = [
        provider(name, upstream.url, priority=priority)
        for name, priority, upstream in zip(NAMES, (2, 1, 0), upstreams, strict=True)
    ]
    relay = Relay(
        config(
            made,
            routing={"retry_budget": 0.2},
            health={
                "circuit_breaker": {"failure_threshold": 5, "open_duration_ms": OPEN * 1000},
                "health_check": {"enabled": True, "interval_ms": INTERVAL},
            },
        )
    )
    return upstreams, started.enter_context(relay)


def last_through(relay: Relay, asked: Callable[[], int], recover: Callable[[], None]) -> None:
    """Clients ask until they are answered; the outage ends when each has been refused a few times."""
    with Crowd(relay.port) as crowd:
        clients = [Persistent(relay.port, f"session-{number}", SCALE) for number in range(CLIENTS)]
        asking = [crowd.begin(client.ask()) for client in clients]
        wait_for(lambda: min(len(client.replies) for client in clients) >= REFUSALS, "every client has been refused")
        in_vain = asked()
        assert in_vain <= 1.2 * sum(client.asked for client in clients)
        wait_for(lambda: ask(relay.port, get("/health")).status == 503, "no provider is usable")
        recover()
        wait_for(lambda: all(future.done() for future in asking), "every client is done", PATIENCE)
        assert [client.replies[-1].status for client in clients if not client.answered] == []
        assert {reply.status for client in clients for reply in client.replies[:-1]} <= {429, 502, 503}
        wait_for(lambda: asked() >= in_vain + CLIENTS, "the answers are accounted for")
        assert asked() <= 1.2 * sum(client.asked for client in clients)
    assert ask(relay.port, get("/health")).status == 200


def test_upstreams_that_answer_503_are_not_asked_more_often_for_being_ill(started: ExitStack) -> None:
    upstreams, relay = start(started)
    for upstream in upstreams:
        upstream.route(OVERLOADED)

    def recover() -> None:
        for upstream in upstreams:
            upstream.route(GOOD)

    def asked() -> int:
        return sum(upstream.stats()["requests"] for upstream in upstreams)

    last_through(relay, asked, recover)
    wait_for(lambda: len(relay.attempt_lines()) == asked(), "the log has a line for each request at an upstream")


def test_upstreams_that_refuse_connections_are_not_asked_more_often_either(started: ExitStack) -> None:
    upstreams, relay = start(started)
    for upstream in upstreams:
        upstream.kill()

    def recover() -> None:
        reply = ask(relay.port, post(body_for()))
        assert (reply.status, reply.error) == (503, "overloaded_error")
        assert 1 <= int(reply.header("retry-after") or 0) <= OPEN
        assert reply.header("x-should-retry") is None
        assert {relay.provider(name)["health"] for name in NAMES} == {"unusable"}
        for upstream in upstreams:
            started.enter_context(Upstream(port=upstream.port)).route(GOOD)

    last_through(relay, lambda: len(relay.attempt_lines()), recover)


def test_the_last_of_three_coming_back_is_enough(started: ExitStack) -> None:
    upstreams, relay = start(started)
    *others, last = upstreams
    for upstream in others:
        upstream.kill()
    last.route(raw("reset"))
    last_through(relay, lambda: len(relay.attempt_lines()), lambda: last.route(GOOD))
    assert [relay.circuit(name) for name in NAMES] == ["open", "open", "closed"]
