"""What is told of how a call was routed: one line per attempt, headers for debugging, and a log without noise."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from twisted.internet import error as net

from ccrelay.core.access import as_json, as_text
from ccrelay.core.model import Headers
from ccrelay.core.outcomes import Outcome
from ccrelay.core.settings import PoolingSettings

from .scenarios import EPOCH, HEALTH, Scene, Step, door, error, error_event, fails, message, played, stream, upstream
from .scenarios_cases import (
    BODY,
    CALLERS_FAULT,
    DEAD,
    GONE,
    HANGS,
    ILL,
    LIMITED,
    OVERLOADED,
    TIRED,
    ask,
    fingerprint_of,
    passed_over,
)

IN_TURN = PoolingSettings(enabled=True, strategy="round_robin")


def test_every_attempt_leaves_one_record_in_order() -> None:
    with Scene(
        upstream(
            "north", replace(LIMITED, after=2.0), error(401, "authentication_error"), keys=["n1", "n2"], priority=1
        ),
        upstream("south", fails(net.ConnectionRefusedError()), model_mapping={"claude-*": "opus-by-another-name"}),
        upstream("west", stream(delay=1.0)),
    ) as scene:
        client = ask(scene)
        scene.advance(3.0)
    told = [(a.number, a.provider, a.key, a.outcome, a.reason, a.status) for a in scene.attempts]
    assert told == [
        (1, "north", fingerprint_of("n1"), TIRED, "answered 429 rate_limit_error", 429),
        (2, "north", fingerprint_of("n2"), DEAD, "answered 401 authentication_error", 401),
        (3, "south", fingerprint_of("k1"), ILL, "connection refused", None),
        (4, "west", fingerprint_of("k1"), None, None, 200),
    ]
    assert (scene.attempts[0].time, scene.attempts[0].duration) == (EPOCH + 2.0, 2.0)
    assert scene.attempts[3].duration == 2.0, "from its beginning to its commit, at the second event"
    assert {a.request_id for a in scene.attempts} == {client.id}
    assert [a.model for a in scene.attempts] == ["claude-opus-5-5"] * 2 + ["opus-by-another-name", "claude-opus-5-5"]
    assert [list(a.passed_over) for a in scene.attempts[:2]] == [[], []]
    assert passed_over(scene, 2) == [("north", "every key was tried")]
    assert passed_over(scene, 3) == []


def test_an_attempts_line_tells_the_status_that_the_upstream_sent() -> None:
    """Not what the client would be told: an error event inside a 200 stands for another status."""
    page = Step(200, ((b"content-type", b"text/html"),), ((0.0, b"<html>"),))
    with Scene(upstream("a", played([error_event()])), upstream("b", page), upstream("c", HANGS)) as scene:
        ask(scene)
        scene.advance(200.0)
    assert [attempt.status for attempt in scene.attempts] == [200, 200, None]


def test_whoever_is_passed_over_is_told_once_with_the_reason() -> None:
    with Scene(
        upstream("ill", OVERLOADED, priority=3),
        upstream("tired", LIMITED, keys=["t1"], priority=2),
        upstream("keyless", keys=[], priority=2),
        upstream("local", OVERLOADED, type="ollama", keys=[], priority=1),
        upstream("south", stream(), stream()),
        health=replace(HEALTH, failure_threshold=2),
    ) as scene:
        ask(scene, "one")
        scene.contenders["ill"].breaker.begin(0.0).settle(False, 0.0)
        body = b'{"model":"m","messages":[],"mcp_servers":[1]}'
        ask(scene, body)
    assert passed_over(scene) == [
        ("keyless", "has no key for this client"),
        ("ill", "is ill (circuit open)"),
        ("tired", "all keys cooling"),
        ("local", "cannot take MCP servers"),
    ]


def test_lines_of_attempts_are_for_machines_and_for_people() -> None:
    with Scene(upstream("north", LIMITED, keys=["n1"]), upstream("south", stream(), stream())) as scene:
        ask(scene, "one")
        ask(scene, "two")
    lines = [as_text(attempt) for attempt in scene.attempts]
    assert "outcome=key_tired" in lines[0]
    assert "passed_over=" in lines[2]
    assert "north all keys cooling" in as_json(scene.attempts[2])
    assert not any("n1" in line.replace(fingerprint_of("n1"), "") for line in lines)


def test_an_attempt_that_was_given_up_tells_who_gave_it_up() -> None:
    too_late = "cc-relay: no answer began within 9 s (server.timeout_ms)"
    with Scene(upstream("north", HANGS, HANGS), timeout=9.0) as scene:
        ask(scene)
        scene.advance(9.0)
        scene.call(chunked=True, arrived=BODY[:60]).send(b"]")
    assert [(attempt.outcome, attempt.status) for attempt in scene.attempts] == [(ILL, None), (CALLERS_FAULT, None)]
    assert scene.attempts[0].reason == too_late
    assert scene.attempts[1].reason == scene.records[1].reason


def test_a_calls_record_says_why_nobody_else_was_asked() -> None:
    with Scene(upstream("north", OVERLOADED, priority=1), upstream("local", type="ollama", keys=[])) as scene:
        client = ask(scene, b'{"model":"m","messages":[],"mcp_servers":[1]}')
    assert client.record.reason == "answered 529 overloaded_error; local cannot take MCP servers"


BOUNDS = {
    "attempts": ({"max_attempts": 1}, "of 1 attempts none is left, the client's earlier tries counted"),
    "time": ({"window": 0.0}, "the 0 s for another attempt are over"),
}


@pytest.mark.parametrize(("options", "bound"), BOUNDS.values(), ids=BOUNDS)
def test_a_calls_record_names_the_bound_that_it_met(options: dict[str, Any], bound: str) -> None:
    slow = replace(OVERLOADED, after=1.0, pieces=((0.0, b"{}"),))
    with Scene(upstream("north", slow), upstream("south", slow), upstream("west"), **options) as scene:
        client = ask(scene)
    assert str(client.record.reason).endswith("; " + bound)


# -- debugging headers


def told(headers: Headers) -> dict[str, str]:
    prefix = b"x-cc-relay-"
    return {name[len(prefix) :].decode(): value.decode() for name, value in headers if name.startswith(prefix)}


def test_debugging_headers_name_the_key_and_count_those_that_are_left() -> None:
    north = upstream("north", LIMITED, stream(), keys=["n1", "n2", "n3"])
    with Scene(north, debug=True, strategy="round_robin") as scene:
        client = ask(scene, session="one")
    assert told(client.headers) == {
        "strategy": "round_robin",
        "provider": "north",
        "attempts": "2",
        "health": "closed",
        "affinity": "new",
        "key-id": fingerprint_of("n2"),
        "keys-total": "3",
        "keys-available": "2",
    }


def test_debugging_headers_tell_of_a_trial() -> None:
    health = replace(HEALTH, failure_threshold=1)
    with Scene(upstream("north", OVERLOADED, stream()), debug=True, health=health) as scene:
        ask(scene, "one")
        scene.advance(30.0)
        client = ask(scene, "two")
    assert told(client.headers)["health"] == "half_open"


def test_a_provider_without_keys_has_none_to_tell_of() -> None:
    with Scene(upstream("ollama", stream(), type="ollama", keys=[]), debug=True) as scene:
        client = ask(scene)
    assert told(client.headers) == {"strategy": "failover", "provider": "ollama", "attempts": "1", "health": "closed"}


def test_an_error_tells_of_the_last_attempt() -> None:
    with Scene(upstream("north", OVERLOADED), upstream("south", OVERLOADED), debug=True) as scene:
        client = ask(scene)
    assert client.status == 502
    assert told(client.headers)["provider"] == "south"
    assert told(client.headers)["attempts"] == "2"


# -- what an operator hears


def test_absurd_limits_are_logged_once_and_ignored() -> None:
    absurd = ((b"anthropic-ratelimit-requests-limit", b"many"),)
    with Scene(upstream("north", *[stream(headers=absurd)] * 3)) as scene:
        for number in range(3):
            ask(scene, f"call {number}")
    expected = "north sent an absurd anthropic-ratelimit-requests-limit; it is ignored"
    assert [line for line in scene.logged if "absurd" in line] == [expected]


# -- a client's own credential

OWN = ((b"authorization", b"Bearer sk-ant-oat01-own"),)
USED_UP = (
    (b"anthropic-ratelimit-requests-limit", b"50"),
    (b"anthropic-ratelimit-requests-remaining", b"0"),
    (b"anthropic-ratelimit-requests-reset", b"2027-01-15T08:00:59Z"),
)


@pytest.mark.parametrize(
    "answer",
    [LIMITED, error(401, "authentication_error"), error(403, "permission_error"), stream(headers=USED_UP)],
    ids=["429", "401", "403", "used up"],
)
def test_what_happens_to_a_clients_own_credential_happens_to_no_pooled_key(answer: Step) -> None:
    north = upstream("north", answer, *[message()] * 2, keys=["n1", "n2"], pooling=IN_TURN)
    with Scene(north, auth=door(allow_subscription=True)) as scene:
        ask(scene, "own", headers=OWN)
        pool = scene.contenders["north"].pool
        assert pool is not None
        assert pool.available(scene.clock.seconds()) == 2
        ask(scene, "pooled")
        ask(scene, "own again", headers=OWN)
    assert scene.asked == ["north sk-ant-oat01-own", "north n1", "north sk-ant-oat01-own"]
    assert [attempt.key for attempt in scene.attempts] == [None, fingerprint_of("n1"), None]
    assert not any("parked" in line for line in scene.logged)


def test_a_pool_without_a_usable_key_keeps_nobody_from_using_an_own_credential() -> None:
    dead = error(401, "authentication_error")
    with Scene(upstream("north", dead, message(), keys=["n1"]), auth=door(allow_subscription=True)) as scene:
        ask(scene, "pooled")
        client = ask(scene, "own", headers=OWN)
    assert client.status == 200


def test_an_own_credential_is_as_bound_to_a_circuit_as_any() -> None:
    health = replace(HEALTH, failure_threshold=1)
    with Scene(upstream("north", OVERLOADED), auth=door(allow_subscription=True), health=health) as scene:
        ask(scene, "one", headers=OWN)
        client = ask(scene, "two", headers=OWN)
    assert (client.status, client.header(b"retry-after")) == (503, b"30")
    assert len(scene.requests) == 1


# -- clients that leave, wherever a call waits


def test_a_client_that_leaves_while_its_history_is_read_takes_nothing_along() -> None:
    """A provider of another family waits for the whole body before anything is leased."""
    with Scene(upstream("zai", type="zai"), upstream("north")) as scene:
        client = scene.call(length=500, arrived=b'{"model": "glm", "messages": [', session="one")
        scene.advance(1.0)
        client.leave()
        assert client.settled
    assert scene.requests == []
    assert client.record.outcome is Outcome.CLIENT_GONE


@pytest.mark.parametrize("seconds", [0.5, 2.5, 4.5])
def test_a_client_that_leaves_between_two_attempts_has_no_third(seconds: float) -> None:
    slow = replace(OVERLOADED, after=2.0)
    with Scene(*(upstream(name, slow) for name in "abc")) as scene:
        client = ask(scene)
        scene.advance(seconds)
        client.leave()
    assert len(scene.requests) == 1 + int(seconds // 2)
    assert [attempt.outcome for attempt in scene.attempts] == [*[ILL] * int(seconds // 2), GONE]
    assert scene.attempts[-1].reason == "the client left"
