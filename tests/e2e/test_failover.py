"""A provider that dies in the middle of everything, and comes back: three processes behind ``failover``."""

from __future__ import annotations

import socket
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.answers import Answer, failure, held
from tests.e2e.certificates import Certificates
from tests.e2e.crowd import Crowd
from tests.e2e.raw_client import Reply, ask, body_for, get, post
from tests.e2e.relay_process import UPSTREAM_KEY, Relay, config, provider
from tests.e2e.samples import EVENTS, GOOD, raw
from tests.e2e.upstream_process import Upstream, start_upstreams
from tests.e2e.waiting import PATIENCE, wait_for

COMMITTED = UNCOMMITTED = 100
BUDGET = 0.5
"""Extra attempts as a share of the calls: just enough for those that the death of a provider leaves without one."""
THRESHOLD = 5
PROBES = 3
INTERVAL = 300
NEVER = 600_000
"""Milliseconds. A circuit that is left open for so long is half opened by a probe, or not in this test."""

BEFORE_THE_CUT = EVENTS[:4]
TRIAL = Answer((["gate", "trials"], *GOOD.steps), 200, GOOD.body)


class Trio:
    """Three upstreams, ``first`` preferred to ``second`` preferred to ``third``, and a relay before them."""

    def __init__(self, tls: tuple[Path, Path] | None, authority: Path | None, started: ExitStack) -> None:
        self._tls = tls
        self._started = started
        self.first, self.second, self.third = start_upstreams(started, 3, tls)
        for upstream in (self.second, self.third):
            upstream.route(GOOD)
        urls = {"third": self.third.url, "second": self.second.url, "first": self.first.url}
        trust = {"ca_file": str(authority)} if authority else {}
        providers = [provider(name, url, priority=rank, **trust) for rank, (name, url) in enumerate(urls.items())]
        self.relay = started.enter_context(Relay(configuration(providers)))
        self.crowd = started.enter_context(Crowd(self.relay.port))

    def kill_the_first(self) -> None:
        """It resets connections until its circuit is open, and is gone."""
        self.first.route(raw("reset"))
        for _ in range(THRESHOLD):
            assert ask(self.relay.port, post(body_for())).status == 200
        self.first.kill()
        assert self.relay.circuit("first") == "open"

    def bring_back_the_first(self, answer: Answer) -> None:
        self.first = self._started.enter_context(Upstream(self._tls, self.first.port))
        self.first.route(answer)

    def ask(self, count: int) -> list[Reply]:
        return self.crowd.ask(post(body_for()) for _ in range(count)).replies()


def configuration(providers: list[dict[str, Any]]) -> dict[str, Any]:
    return config(
        providers,
        routing={"debug": True, "retry_budget": BUDGET},
        health={
            "circuit_breaker": {
                "failure_threshold": THRESHOLD,
                "open_duration_ms": NEVER,
                "half_open_probes": PROBES,
            },
            "health_check": {"enabled": True, "interval_ms": INTERVAL},
        },
    )


@pytest.fixture(params=["plain", "TLS"])
def trio(request: pytest.FixtureRequest, started: ExitStack) -> Trio:
    if request.param == "plain":
        return Trio(None, None, started)
    certificates: Certificates = request.getfixturevalue("certificates")
    return Trio(certificates.localhost, certificates.authority, started)


def count(replies: list[Reply], header: str) -> Counter[str | None]:
    return Counter(reply.header(header) for reply in replies)


def whole(replies: list[Reply]) -> bool:
    return all((reply.status, reply.ending, reply.body) == (200, "complete", GOOD.body) for reply in replies)


def test_a_provider_dies_and_comes_back(trio: Trio) -> None:
    lose_only_what_was_committed(trio)
    return_by_way_of_a_probe_and_a_few_trials(trio)


def lose_only_what_was_committed(trio: Trio) -> None:
    trio.first.route(raw("hang"), model="not-yet-answered")
    trio.first.route(held(BEFORE_THE_CUT, "never", []), model="half-answered")
    models = ["half-answered", "not-yet-answered"] * COMMITTED
    asked = trio.crowd.ask(post(body_for(model=model)) for model in models)
    trio.first.until(complete=COMMITTED + UNCOMMITTED)
    wait_for(lambda: asked.began == COMMITTED, "half of the clients see an answer begin")
    assert trio.second.stats()["requests"] == 0
    trio.first.kill()

    replies = asked.replies()
    cut, others = replies[::2], replies[1::2]
    assert Counter((reply.status, reply.ending, reply.body) for reply in cut) == {
        (200, "broken", b"".join(BEFORE_THE_CUT)): COMMITTED
    }
    assert whole(others)
    assert count(others, "x-cc-relay-provider") == {"second": UNCOMMITTED}
    assert count(others, "x-cc-relay-attempts") == {"2": UNCOMMITTED}
    extra = trio.second.stats()["requests"] + trio.third.stats()["requests"]
    assert UNCOMMITTED <= extra <= BUDGET * len(models)

    entry = trio.relay.provider("first")
    assert (entry["circuit_breaker"], entry["health"]) == ("open", "unusable")
    assert ask(trio.relay.port, get("/health")).status == 200
    later = trio.ask(20)
    assert whole(later)
    assert count(later, "x-cc-relay-provider") == {"second": 20}
    assert count(later, "x-cc-relay-attempts") == {"1": 20}


def return_by_way_of_a_probe_and_a_few_trials(trio: Trio) -> None:
    trio.bring_back_the_first(TRIAL)
    wait_for(lambda: trio.relay.circuit("first") == "half_open", "a probe gets through")
    assert trio.first.stats()["requests"] == 0
    assert trio.relay.provider("first")["health"] == "usable"

    before = trio.second.stats()["requests"]
    asked = trio.crowd.ask(post(body_for()) for _ in range(30))
    trio.second.until(complete=before + 30 - PROBES, busy=0)
    trio.first.until(busy=PROBES)
    trio.first.release("trials")
    replies = asked.replies()
    assert whole(replies)
    assert count(replies, "x-cc-relay-provider") == {"first": PROBES, "second": 30 - PROBES}
    trials = [reply for reply in replies if reply.header("x-cc-relay-provider") == "first"]
    assert count(trials, "x-cc-relay-health") == {"half_open": PROBES}
    assert trio.first.stats()["busiest"] == PROBES

    wait_for(lambda: trio.relay.circuit("first") == "closed", "the trials close the circuit")
    later = trio.ask(30)
    assert whole(later)
    assert count(later, "x-cc-relay-provider") == {"first": 30}
    assert count(later, "x-cc-relay-health") == {"closed": 30}
    assert count(later, "x-cc-relay-attempts") == {"1": 30}


def test_trials_that_fail_send_everybody_back(started: ExitStack) -> None:
    trio = Trio(None, None, started)
    trio.kill_the_first()
    trio.bring_back_the_first(raw("close"))
    wait_for(lambda: trio.relay.circuit("first") == "half_open", "a probe gets through")
    replies = trio.ask(30)
    assert whole(replies)
    assert count(replies, "x-cc-relay-provider") == {"second": 30}
    assert 1 <= trio.first.stats()["requests"] <= PROBES
    assert trio.relay.circuit("first") == "open"
    trio.first.route(GOOD)
    wait_for(lambda: trio.relay.circuit("first") == "half_open", "the next probe gets through")
    assert whole(trio.ask(PROBES))
    wait_for(lambda: trio.relay.circuit("first") == "closed", "the trials close the circuit")


def test_a_port_that_speaks_no_tls_is_not_taken_for_its_provider(
    certificates: Certificates, started: ExitStack
) -> None:
    trio = Trio(certificates.localhost, certificates.authority, started)
    trio.kill_the_first()
    with socket.create_server(("127.0.0.1", trio.first.port)) as stranger:
        stranger.settimeout(PATIENCE)
        for _ in range(3):  # the third probe comes when the first two have failed
            knocking, _ = stranger.accept()
            with knocking:
                knocking.sendall(b"220 mail.example ESMTP ready\r\n")
        assert trio.relay.circuit("first") == "open"
        assert whole(trio.ask(5))
    trio.bring_back_the_first(GOOD)
    wait_for(lambda: trio.relay.circuit("first") == "half_open", "a probe finishes the handshake")


def test_the_budget_bounds_what_a_death_may_cost_and_a_client_that_tries_again_is_served(started: ExitStack) -> None:
    first, second = start_upstreams(started, 2)
    made = [provider("first", first.url, priority=1), provider("second", second.url)]
    health = {"circuit_breaker": {"failure_threshold": THRESHOLD}}
    relay = started.enter_context(Relay(config(made, routing={"retry_budget": 0.2}, health=health)))
    first.route(raw("hang"))
    second.route(GOOD)
    requests = [post(body_for(), [("x-claude-code-session-id", f"session-{n}")]) for n in range(100)]
    with Crowd(relay.port) as crowd:
        asked = crowd.ask(requests)
        first.until(complete=100)
        first.kill()
        replies = asked.replies()
        assert {(reply.status, reply.ending) for reply in replies} == {(200, "complete"), (502, "complete")}
        assert second.stats()["requests"] == 20
        assert Counter(reply.status for reply in replies) == {200: 20, 502: 80}
        assert {reply.header("x-should-retry") for reply in replies} == {None}
        left = [request for request, reply in zip(requests, replies, strict=True) if reply.status != 200]
        assert whole(crowd.ask(left).replies())
        assert second.stats()["requests"] == len(requests)


def test_an_operator_sees_which_key_of_which_provider_answered(started: ExitStack) -> None:
    upstream = started.enter_context(Upstream())
    upstream.route(GOOD)
    keys = [{"key": UPSTREAM_KEY.format(name=name)} for name in ("one", "two")]
    made = [provider("first", upstream.url) | {"keys": keys}]
    relay = started.enter_context(Relay(config(made, routing={"debug": True, "affinity": {"enabled": True}})))
    request = post(body_for(), [("x-claude-code-session-id", "a-session")])
    told = [
        {
            name.removeprefix("x-cc-relay-"): value
            for name, value in ask(relay.port, request).headers
            if "relay-" in name
        }
        for _ in range(2)
    ]
    key = told[0].pop("key-id")
    assert told[0] == {
        "strategy": "failover",
        "provider": "first",
        "attempts": "1",
        "health": "closed",
        "affinity": "new",
        "keys-total": "2",
        "keys-available": "2",
    }
    assert told[1] == {**told[0], "affinity": "kept", "key-id": key}
    line = relay.access_lines()[-1]
    assert (line["provider"], line["key"]) == ("first", key)
    assert key not in {entry["key"] for entry in keys}


def test_the_last_attempt_of_a_repeated_call_is_not_spent_on_a_trial(started: ExitStack) -> None:
    first, second = start_upstreams(started, 2)
    first.route(failure(503, "api_error"))
    second.route(GOOD)
    second.route(failure(503, "api_error"), model="ill-everywhere")
    made = [provider("first", first.url, priority=1), provider("second", second.url)]
    health = {
        "circuit_breaker": {"failure_threshold": 2, "open_duration_ms": NEVER},
        "health_check": {"enabled": True, "interval_ms": 1000},
    }
    relay = started.enter_context(Relay(config(made, health=health)))
    repeated = post(body_for(model="ill-everywhere"), [("x-claude-code-session-id", "a-session")])
    for _ in range(4):  # its four attempts are spent, and ``first`` is left with an open circuit
        assert ask(relay.port, repeated).status in (502, 503)
        assert ask(relay.port, post(body_for())).status == 200
    second.route(GOOD, model="ill-everywhere")
    for _ in range(3):
        wait_for(lambda: relay.circuit("first") == "half_open", "a probe gets through")
        assert ask(relay.port, repeated).status == 200
