"""The breaker in calls: what opens a circuit, who is spared then, and how it closes again."""

from __future__ import annotations

from dataclasses import replace

import pytest
from twisted.internet import error as net

from ccrelay.core.breaker import BreakerState
from ccrelay.core.sse import PING
from ccrelay.errors import ClientError

from .scenarios import HEALTH, Scene, Step, error, error_event, events, fails, message, played, stream, upstream
from .scenarios_cases import CUT, HANGS, LIMITED, OVERLOADED, ask, complaint, passed_over, say, who_answered

TRIALS = HEALTH.half_open_probes
LIFE = HEALTH.open_duration


def breaker_of(scene: Scene, name: str = "north") -> tuple[BreakerState, int]:
    """Its state, and the failures in a row."""
    breaker = scene.contenders[name].breaker
    return breaker.state(scene.clock.seconds()), breaker.failures


def opened(*steps: Step, **options: object) -> Scene:
    """A scene whose ``north`` has been ill five times, and then meets ``steps``."""
    scene = Scene(upstream("north", *[OVERLOADED] * 5, *steps, priority=1), upstream("south", *[stream()] * 20))
    with scene:
        assert who_answered(scene, 5) == ["south"] * 5
    assert breaker_of(scene)[0] is BreakerState.OPEN
    return scene


ENDS = {
    "500": error(500, "api_error"),
    "529": OVERLOADED,
    "refused": fails(net.ConnectionRefusedError()),
    "an error first": played([error_event()]),
    "not its format": Step(200, ((b"content-type", b"text/html"),), ((0.0, b"<html>"),)),
    "cut": played(events("x")[:4], end=CUT),
    "an error event after content": played([*events("x")[:4], error_event()]),
    "never stopped": played(events("x")[:-1]),
    "fallen silent": played(events("x")[:4], end=None),
    "hanging": HANGS,
}


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
def test_five_bad_ends_in_a_row_open_the_circuit_and_calls_pass_it_over(end: Step) -> None:
    health = replace(HEALTH, open_duration=2000.0)
    with Scene(upstream("north", *[end] * 5, priority=1), upstream("south", *[stream()] * 6), health=health) as scene:
        for number in range(5):
            assert breaker_of(scene) == (BreakerState.CLOSED, number)
            ask(scene, f"call {number}")
            scene.advance(300.0)
        assert breaker_of(scene) == (BreakerState.OPEN, 5)
        assert who_answered(scene, 1) == ["south"]
    assert [exchange.provider for exchange in scene.requests].count("north") == 5


def test_an_open_circuit_is_passed_over_with_the_reason() -> None:
    with opened() as scene:
        ask(scene, "one more")
    assert scene.requests[-1].provider == "south"
    assert passed_over(scene) == [("north", "is ill (circuit open)")]


def test_where_everybody_is_ill_the_client_is_told_when_to_come_back() -> None:
    with Scene(upstream("north", *[OVERLOADED] * 5)) as scene:
        for number in range(5):
            assert ask(scene, f"call {number}").status == 529
        scene.advance(4.5)
        client = ask(scene, "one more")
    assert len(scene.requests) == 5
    assert (client.status, client.header(b"retry-after"), client.header(b"x-should-retry")) == (503, b"26", None)
    message = "cc-relay: no provider can be asked for 26 s: north is ill (circuit open)"
    assert complaint(client) == ("overloaded_error", message)


def test_a_long_illness_is_told_with_its_true_end_and_without_hope_of_waiting() -> None:
    health = replace(HEALTH, failure_threshold=1, open_duration=600.0)
    with Scene(upstream("north", OVERLOADED), health=health) as scene:
        ask(scene, "first")
        client = ask(scene, "second")
    assert (client.status, client.header(b"retry-after"), client.header(b"x-should-retry")) == (503, b"600", b"false")


NO_ILLNESS = {
    "429": LIMITED,
    "a quota's 429": error(429, "rate_limit_error", headers=((b"retry-after", b"1"),)),
    "401": error(401, "authentication_error"),
    "403": error(403, "permission_error"),
    "400": error(400, "invalid_request_error"),
    "404": error(404, "not_found_error", "model: nobody"),
    "413": error(413, "request_too_large"),
}


@pytest.mark.parametrize("answer", NO_ILLNESS.values(), ids=NO_ILLNESS)
def test_what_is_no_illness_opens_no_circuit_however_often(answer: Step) -> None:
    with Scene(upstream("north", *[answer] * 12), max_attempts=1) as scene:
        for number in range(12):
            ask(scene, f"call {number}")
            scene.advance(900.0)
        assert breaker_of(scene) == (BreakerState.CLOSED, 0)
    assert len(scene.requests) == 12


def test_an_answer_that_came_to_its_end_ends_the_row() -> None:
    steps = [*[OVERLOADED] * 4, stream(), *[OVERLOADED] * 4, stream()]
    with Scene(upstream("north", *steps)) as scene:
        for number in range(10):
            ask(scene, f"call {number}")
        assert breaker_of(scene) == (BreakerState.CLOSED, 0)


def test_success_is_not_taken_for_granted_when_an_answer_begins() -> None:
    """Lesson 14: the same overloaded provider got 19 more calls because every head said 200."""
    breaks = played([*events("x")[:4], error_event()], 1.0)
    with Scene(upstream("north", *[breaks] * 5, priority=1), upstream("south", *[stream()] * 19)) as scene:
        for number in range(5):
            ask(scene, f"call {number}")
            scene.advance(5.0)
        assert who_answered(scene, 19) == ["south"] * 19
    asked = [exchange.provider for exchange in scene.requests]
    assert asked.count("north") == 5
    assert breaker_of(scene)[1] == 5


def test_leaving_clients_say_nothing_of_a_provider() -> None:
    steps = [*[OVERLOADED] * 4, HANGS, HANGS, stream(delay=1.0), OVERLOADED]
    with Scene(upstream("north", *steps)) as scene:
        for number in range(4):
            ask(scene, f"call {number}")
        for number in range(4, 7):
            client = ask(scene, f"call {number}")
            scene.advance(3.0)
            client.leave()
        assert breaker_of(scene) == (BreakerState.CLOSED, 4)
        ask(scene, "last")
        assert breaker_of(scene)[0] is BreakerState.OPEN


# -- half open


def test_an_ill_provider_is_tried_again_when_its_time_is_over_and_not_before() -> None:
    with opened(stream()) as scene:
        scene.advance(LIFE - 0.125)
        assert who_answered(scene, 1) == ["south"]
        scene.advance(0.125)
        assert who_answered(scene, 1) == ["north"]


def test_a_half_open_provider_gets_only_so_many_calls_at_once() -> None:
    with opened(*[stream(delay=1.0)] * 4) as scene:
        scene.advance(LIFE)
        assert who_answered(scene, TRIALS) == ["north"] * TRIALS
        assert who_answered(scene, 1) == ["south"]
        assert passed_over(scene) == [("north", "is ill (circuit half open)")]
        assert breaker_of(scene)[0] is BreakerState.HALF_OPEN
        scene.advance(7.0)
        assert breaker_of(scene) == (BreakerState.CLOSED, 0)
        assert who_answered(scene, 1) == ["north"]


def test_alone_and_half_open_a_provider_has_a_queue_that_comes_back_in_a_second() -> None:
    health = replace(HEALTH, failure_threshold=1, half_open_probes=1)
    with Scene(upstream("north", OVERLOADED, stream(delay=1.0)), health=health) as scene:
        ask(scene, "first")
        scene.advance(LIFE)
        ask(scene, "the trial")
        client = ask(scene, "beside it")
    assert (client.status, client.header(b"retry-after")) == (503, b"1")


def test_one_failure_of_a_trial_opens_the_circuit_for_its_whole_time_again() -> None:
    with opened(stream(), OVERLOADED, stream()) as scene:
        scene.advance(LIFE)
        who_answered(scene, 2)
        assert breaker_of(scene)[0] is BreakerState.OPEN
        scene.advance(LIFE - 0.125)
        assert who_answered(scene, 1) == ["south"]
        scene.advance(0.125)
        assert who_answered(scene, 1) == ["north"]


def test_a_trial_that_is_limited_is_no_success_and_gives_its_place_back() -> None:
    with opened(*[LIMITED] * 2) as scene:
        scene.advance(LIFE)
        who_answered(scene, 1)
        scene.advance(7.0)
        who_answered(scene, 1)
        assert breaker_of(scene)[0] is BreakerState.HALF_OPEN


def test_a_probe_that_got_through_lets_calls_try_at_once() -> None:
    with opened(stream()) as scene:
        scene.contenders["north"].breaker.probe_succeeded(scene.clock.seconds())
        assert who_answered(scene, 1) == ["north"]


# -- deadlines, and faults that are not the provider's


def connecting() -> Step:
    return Step(after=None, reads=0)


PHASES = {
    "connecting": connecting(),
    "waiting for the head": HANGS,
    "an error's body": Step(503, pieces=((9.0, b"x"),)),
    "nothing but the opening": played([events("x")[0], *[PING] * 9], 0.5, end=None),
    "half a message": message(end=None),
}


@pytest.mark.parametrize("phase", PHASES.values(), ids=PHASES)
def test_an_answer_that_does_not_begin_in_time_counts_against_the_provider_in_every_phase(phase: Step) -> None:
    with Scene(upstream("north", phase), timeout=3.0) as scene:
        client = ask(scene)
        scene.advance(3.0)
        assert breaker_of(scene) == (BreakerState.CLOSED, 1)
    assert client.status == 504


def test_a_request_that_does_not_arrive_in_time_counts_against_nobody() -> None:
    body = say("hi", padding="x" * 1000)
    with Scene(upstream("north", HANGS), timeout=20.0) as scene:
        client = scene.call(length=len(body))
        for at in range(0, 1000, 50):
            client.send(body[at : at + 50])
            scene.advance(1.0)
        assert breaker_of(scene) == (BreakerState.CLOSED, 0)
    assert client.status == 504
    assert not scene.requests[0].complete


def test_a_faulty_request_says_nothing_of_a_provider() -> None:
    steps = [*[OVERLOADED] * 4, HANGS, HANGS, HANGS, OVERLOADED]
    with Scene(upstream("north", *steps)) as scene:
        for number in range(4):
            ask(scene, f"call {number}")
        for fault in (b",}", b',"model":"x"}', b"} x"):
            client = scene.call(say("hi")[:-1] + fault)
            assert client.status == 400
        client = scene.call(length=500, arrived=say("hi")[:-1])
        client.break_upload(ClientError(408, "invalid_request_error", "The request body stopped arriving"))
        assert breaker_of(scene) == (BreakerState.CLOSED, 4)


def test_a_relay_that_has_no_descriptor_left_says_so_and_blames_nobody() -> None:
    with Scene(upstream("north", fails(net.ConnectBindError(24, "Too many open files"))), upstream("south")) as scene:
        client = ask(scene)
    assert (client.status, client.header(b"retry-after")) == (503, b"1")
    assert scene.contenders["north"].breaker.failures == 0
