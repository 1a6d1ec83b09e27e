"""How many attempts a call may make: what its client tried before, what others try, and how much time has passed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ccrelay.core.model import Headers

from .scenarios import DOOR, HEALTH, Client, Scene, Step, door, error, stream, upstream
from .scenarios_cases import HANGS, OVERLOADED, ask, complaint, say

PATIENT = replace(HEALTH, failure_threshold=1000)
NAMES = ["a", "b", "c", "d", "e"]


def outage(steps: int = 20, **options: object) -> Scene:
    """Five providers that are ill for so many attempts each, and whose circuits stay closed."""
    return Scene(*(upstream(name, *[OVERLOADED] * steps) for name in NAMES), health=PATIENT, **options)  # type: ignore[arg-type]


def asked_for(scene: Scene, text: str = "hi", **options: object) -> str:
    """Who is asked for one call, in order, by their letters."""
    before = len(scene.requests)
    ask(scene, text, **options)
    return "".join(exchange.provider for exchange in scene.requests[before:])


def test_a_new_question_may_be_put_to_four() -> None:
    with outage() as scene:
        assert asked_for(scene, "first") == "abcd"
        assert asked_for(scene, "second") == "abcd"


def test_the_same_question_again_is_put_to_one() -> None:
    with outage() as scene:
        assert [asked_for(scene) for _ in range(4)] == ["abcd", "a", "a", "a"]


def test_whoever_comes_back_is_found_by_the_next_repetition() -> None:
    with Scene(upstream("a", OVERLOADED, stream()), upstream("b", OVERLOADED)) as scene:
        assert asked_for(scene) == "ab"
        client = ask(scene)
    assert client.status == 200


@pytest.mark.parametrize(("wait", "asked"), [(119.0, "a"), (120.0, "abcd")])
def test_a_question_is_new_after_two_minutes(wait: float, asked: str) -> None:
    with outage() as scene:
        asked_for(scene)
        scene.advance(wait)
        assert asked_for(scene) == asked


def test_a_question_is_another_one_for_another_session_or_client() -> None:
    auth = door(allow_subscription=True)
    own = ((b"authorization", b"Bearer sk-ant-oat01-own"),)
    with outage(retry_budget=10.0, auth=auth) as scene:
        assert asked_for(scene, session="one") == "abcd"
        assert asked_for(scene, session="two") == "abcd"
        assert asked_for(scene) == "abcd"
        assert asked_for(scene, session="one", headers=own) == "abcd"
        assert asked_for(scene, session="one") == "a"


def test_a_question_that_was_answered_is_new_when_it_comes_again() -> None:
    with Scene(upstream("a", OVERLOADED, stream(), OVERLOADED), upstream("b", OVERLOADED, stream())) as scene:
        assert [asked_for(scene) for _ in range(3)] == ["ab", "a", "ab"]


@pytest.mark.parametrize(
    ("count", "asked"), [(b"0", "abcd"), (b"1", "abc"), (b"2", "ab"), (b"3", "a"), (b"9999", "a"), (b"-1", "abcd")]
)
def test_an_sdk_that_counts_its_retries_is_believed(count: bytes, asked: str) -> None:
    headers: Headers = (*DOOR, (b"x-stainless-retry-count", count))
    with outage() as scene:
        assert asked_for(scene, headers=headers) == asked


def leaves_while_it_hangs(scene: Scene) -> Client:
    client = ask(scene)
    scene.advance(9.0)
    client.leave()
    return client


def test_a_client_that_left_and_comes_again_has_the_attempts_that_it_left() -> None:
    with Scene(*(upstream(name, HANGS if name == "a" else OVERLOADED, OVERLOADED) for name in NAMES)) as scene:
        leaves_while_it_hangs(scene)
        assert asked_for(scene) == "abc"


def test_a_stream_that_was_cut_counts_as_a_try() -> None:
    cut = replace(stream(), pieces=stream().pieces[:4])
    with Scene(*(upstream(name, cut if name == "a" else OVERLOADED, OVERLOADED) for name in NAMES)) as scene:
        assert asked_for(scene) == "a"
        assert asked_for(scene) == "abc"


def test_repetitions_of_a_long_outage_cost_one_attempt_each() -> None:
    with outage() as scene:
        for _ in range(11):
            ask(scene)
            scene.advance(17.0)
    assert len(scene.requests) == 4 + 10


@pytest.mark.parametrize("most", [1, 2, 5])
def test_no_call_makes_more_attempts_than_the_operator_allows(most: int) -> None:
    with outage(max_attempts=most) as scene:
        assert asked_for(scene) == "abcde"[:most]


# -- the budget of all calls


def one_ill(calls: int) -> Scene:
    """``a`` is always ill, ``b`` always answers."""
    steps: list[Step] = [OVERLOADED] * calls
    return Scene(upstream("a", *steps, priority=1), upstream("b", *[stream()] * calls), health=PATIENT)


def test_ten_extra_attempts_a_minute_are_everybodys_then_the_first_answer_stands() -> None:
    with one_ill(24) as scene:
        assert [asked_for(scene, f"call {number}") for number in range(12)] == ["ab"] * 10 + ["a"] * 2
        assert scene.clients["call-12"].status == 529
        scene.advance(62.0)
        assert asked_for(scene, "a minute later") == "ab"


def test_many_calls_may_have_a_fifth_of_their_number_as_extra_attempts() -> None:
    with Scene(
        upstream("a", *[stream()] * 60, *[OVERLOADED] * 20, priority=1), upstream("b", *[stream()] * 20), health=PATIENT
    ) as scene:
        for number in range(60):
            ask(scene, f"good {number}")
        scene.advance(2.0)
        asked = [asked_for(scene, f"bad {number}") for number in range(20)]
    assert asked[:12] == ["ab"] * 12
    assert 12 <= asked.count("ab") <= 80 // 5


def test_a_first_attempt_is_never_refused() -> None:
    with one_ill(40) as scene:
        assert all(asked_for(scene, f"call {number}").startswith("a") for number in range(40))


def test_calls_that_nobody_could_be_asked_for_count_for_nothing() -> None:
    tired = error(429, "rate_limit_error", headers=((b"retry-after", b"3000"),))
    with Scene(upstream("a", tired)) as scene:
        ask(scene, "first")
        for number in range(30):
            assert complaint(ask(scene, f"call {number}"))[0] == "rate_limit_error"
        assert scene.memory.budget.amplification(scene.clock.seconds()) == 1.0
    assert len(scene.requests) == 1


def test_an_uploading_clients_failed_attempt_is_followed_although_nobody_can_know_its_body_yet() -> None:
    body = say("x" * 500)
    with Scene(upstream("a", replace(OVERLOADED, reads=40)), upstream("b", stream())) as scene:
        client = scene.call(length=len(body), arrived=body[:200])
        scene.advance(1.0)
        client.send(body[200:])
        client.finish_upload()
    assert [exchange.provider for exchange in scene.requests] == ["a", "b"]
    assert client.status == 200


def test_the_one_try_of_a_repetition_is_not_spent_on_finding_out_who_is_well_again() -> None:
    soon = replace(HEALTH, failure_threshold=1, half_open_probes=1)
    a = upstream("a", OVERLOADED, OVERLOADED, priority=1)
    with Scene(a, upstream("b", OVERLOADED, stream(), stream(), stream()), health=soon, max_attempts=2) as scene:
        assert asked_for(scene, "lost") == "ab"
        scene.contenders["b"].breaker.probe_succeeded(scene.clock.seconds())
        assert asked_for(scene, "another") == "b"
        scene.contenders["a"].breaker.probe_succeeded(scene.clock.seconds())
        assert asked_for(scene, "lost") == "b"
        assert asked_for(scene, "a third") == "ab", "whoever has tries left finds out"


def test_where_nobody_else_is_left_a_repetition_is_a_trial_as_good_as_any() -> None:
    with Scene(upstream("a", OVERLOADED, stream()), health=replace(HEALTH, failure_threshold=1)) as scene:
        assert asked_for(scene) == "a"
        scene.contenders["a"].breaker.probe_succeeded(scene.clock.seconds())
        assert asked_for(scene) == "a"
