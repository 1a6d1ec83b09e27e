"""Who is asked for one call after another, by each strategy, and what is said of whom it leaves out."""

from __future__ import annotations

import pytest

from ccrelay.core.model import CallKind
from ccrelay.core.outcomes import Outcome

from .scenarios import DOOR, Scene, Step, door, error, stream, upstream
from .scenarios_cases import LIMITED, OVERLOADED, ask, complaint, passed_over, who_answered


def test_failover_asks_the_first_as_long_as_it_answers() -> None:
    with Scene(upstream("first", *[stream()] * 3, priority=1), upstream("second")) as scene:
        assert who_answered(scene, 3) == ["first"] * 3
    assert [attempt.chosen_by for attempt in scene.attempts] == ["failover"] * 3


def test_round_robin_gives_everybody_a_turn_whatever_the_priority() -> None:
    a, b, c = upstream("a", *[stream()] * 3), upstream("b", *[stream()] * 2, priority=2), upstream("c", *[stream()] * 2)
    with Scene(a, b, c, strategy="round_robin") as scene:
        assert who_answered(scene, 7) == ["a", "b", "c", "a", "b", "c", "a"]


def test_whoever_stands_in_for_another_keeps_its_own_turn() -> None:
    a, b = upstream("a", OVERLOADED, stream()), upstream("b", stream(), stream(), stream())
    with Scene(a, b, strategy="round_robin") as scene:
        who_answered(scene, 4)
    assert [exchange.provider for exchange in scene.requests] == ["a", "b", "b", "a", "b"]


def test_a_provider_that_is_passed_over_loses_no_turn_by_it() -> None:
    a, b = upstream("a", LIMITED, stream(), stream()), upstream("b", *[stream()] * 4)
    with Scene(a, b, strategy="round_robin") as scene:
        who_answered(scene, 3)
        assert [exchange.provider for exchange in scene.requests] == ["a", "b", "b", "b"]
        scene.advance(7.0)
        assert who_answered(scene, 3) == ["a", "b", "a"]


def test_weighted_round_robin_spreads_the_turns_evenly() -> None:
    a = upstream("a", *[stream()] * 10, weight=5.0)
    others = [upstream(name, stream(), stream()) for name in ("b", "c")]
    with Scene(a, *others, strategy="weighted_round_robin") as scene:
        assert who_answered(scene, 14) == [*"aabacaa", *"aabacaa"]


def test_a_shuffled_deck_gives_everybody_one_card() -> None:
    names = ["a", "b", "c", "d"]
    with Scene(*(upstream(name, *[stream()] * 5) for name in names), strategy="shuffle") as scene:
        decks = [who_answered(scene, 4) for _ in range(5)]
    assert [sorted(deck) for deck in decks] == [names] * 5
    assert len({tuple(deck) for deck in decks}) > 1, "not always in one order"


def test_least_loaded_asks_whoever_has_the_fewest_answers_under_way() -> None:
    slow = [stream(delay=delay) for delay in (9.0, 9.0, 1.0)]
    scripted = [upstream(name, step, stream(delay=9.0)) for name, step in zip("abc", slow, strict=True)]
    with Scene(*scripted, strategy="least_loaded") as scene:
        assert who_answered(scene, 3) == ["a", "b", "c"]
        scene.advance(7.0)
        assert who_answered(scene, 1) == ["c"], "its answer has come to its end"
        assert who_answered(scene, 2) == ["a", "b"]


def test_a_load_that_ended_badly_is_a_load_no_more() -> None:
    a, b = upstream("a", OVERLOADED, stream(delay=9.0), priority=1), upstream("b", stream(delay=9.0))
    with Scene(a, b, strategy="least_loaded") as scene:
        who_answered(scene, 2)
    assert [exchange.provider for exchange in scene.requests] == ["a", "b", "a"]


def test_weighted_failover_draws_the_first_and_goes_on_by_priority() -> None:
    a, c = upstream("a", OVERLOADED, priority=0), upstream("c", OVERLOADED, priority=2)
    b = upstream("b", OVERLOADED, weight=1e15, priority=1)
    with Scene(a, b, c, strategy="weighted_failover") as scene:
        ask(scene)
    assert [exchange.provider for exchange in scene.requests] == ["b", "c", "a"]


def test_weighted_failover_draws_anew_for_each_call() -> None:
    scripted = [upstream(name, *[stream()] * 40) for name in ("a", "b")]
    with Scene(*scripted, strategy="weighted_failover") as scene:
        assert set(who_answered(scene, 40)) == {"a", "b"}


def of_model(model: str) -> bytes:
    return b'{"model": "%b", "messages": []}' % model.encode()


BY_MODEL = {"claude-": "north", "glm-": "zai", "glm-4.5-air*": "south"}


@pytest.mark.parametrize(
    ("model", "provider"), [("claude-opus-5-5", "north"), ("glm-4.7", "zai"), ("glm-4.5-air-x", "south")]
)
def test_by_model_the_longest_beginning_decides(model: str, provider: str) -> None:
    kinds = {"south": "anthropic", "zai": "zai", "north": "anthropic"}
    scripted = [upstream(name, *[stream()] * (name == provider), type=kind) for name, kind in kinds.items()]
    with Scene(*scripted, strategy="model_based", model_mapping=BY_MODEL) as scene:
        client = ask(scene, of_model(model))
    assert scene.asked == [f"{provider} k1"]
    assert client.status == 200
    reason = f"does not serve {model} (routing.model_mapping)"
    assert sorted(passed_over(scene)) == [(name, reason) for name in sorted(kinds) if name != provider]


def test_by_model_nobody_stands_in_for_the_provider_that_the_operator_chose() -> None:
    with Scene(
        upstream("zai", OVERLOADED, type="zai"), upstream("north"), strategy="model_based", model_mapping=BY_MODEL
    ) as scene:
        client = ask(scene, of_model("glm-4.7"))
    assert scene.asked == ["zai k1"]
    assert client.status == 529


def test_by_model_what_no_beginning_names_goes_to_the_default_provider() -> None:
    with Scene(
        upstream("zai", type="zai"),
        upstream("north", stream()),
        strategy="model_based",
        model_mapping=BY_MODEL,
        default_provider="north",
    ) as scene:
        ask(scene, of_model("mistral-9"))
    assert scene.asked == ["north k1"]


def test_by_model_what_nothing_names_is_tried_everywhere_by_priority() -> None:
    with Scene(
        upstream("zai", stream(), type="zai"),
        upstream("north", OVERLOADED, priority=1),
        strategy="model_based",
        model_mapping=BY_MODEL,
    ) as scene:
        ask(scene, of_model("mistral-9"))
    assert scene.asked == ["north k1", "zai k1"]


def test_by_model_a_chosen_provider_that_is_tired_is_waited_for() -> None:
    with Scene(
        upstream("zai", LIMITED, type="zai"), upstream("north"), strategy="model_based", model_mapping=BY_MODEL
    ) as scene:
        ask(scene, of_model("glm-4.7"))
        client = ask(scene, of_model("glm-4.6"))
    assert scene.asked == ["zai k1"]
    assert (client.status, client.header(b"retry-after")) == (429, b"7")


def test_by_model_a_client_that_may_not_use_the_chosen_provider_is_told_that_nobody_else_serves_it() -> None:
    own = ((b"authorization", b"Bearer sk-ant-oat01-own"),)
    with Scene(
        upstream("zai", type="zai"),
        upstream("north"),
        strategy="model_based",
        model_mapping=BY_MODEL,
        auth=door(allow_subscription=True),
    ) as scene:
        client = ask(scene, of_model("glm-4.7"), headers=own)
    assert scene.requests == []
    assert (client.status, complaint(client)[0]) == (404, "not_found_error")
    assert client.header(b"x-should-retry") == b"false"
    assert complaint(client)[1] == "cc-relay: north does not serve glm-4.7 (routing.model_mapping)"


def test_tokens_of_a_model_that_its_provider_cannot_count_are_counted_by_nobody() -> None:
    with Scene(upstream("zai", type="zai"), upstream("north"), strategy="model_based", model_mapping=BY_MODEL) as scene:
        client = ask(scene, of_model("glm-4.7"), kind=CallKind.COUNT_TOKENS)
    assert scene.requests == []
    assert (client.status, client.header(b"x-should-retry")) == (501, b"false")


def test_calls_of_all_principals_share_the_turns() -> None:
    bearer = ((b"authorization", b"Bearer " + DOOR[0][1]),)
    a, b = upstream("a", stream()), upstream("b", stream())
    with Scene(a, b, strategy="round_robin") as scene:
        ask(scene, "one", headers=DOOR)
        ask(scene, "two", headers=bearer)
    assert [exchange.provider for exchange in scene.requests] == ["a", "b"]
    assert [record.outcome for record in scene.records] == [Outcome.ANSWERED] * 2


def test_by_model_the_wait_is_that_of_the_provider_which_serves_the_model() -> None:
    def tired(seconds: bytes) -> Step:
        return error(429, "rate_limit_error", headers=((b"retry-after", seconds),))

    one, two = upstream("one", tired(b"20")), upstream("two", tired(b"300"))
    mapping = {"one": "one", "claude": "two"}
    with Scene(one, two, strategy="model_based", model_mapping=mapping) as scene:
        scene.call(b'{"model":"one"}')
        ask(scene)
        again = ask(scene, "again")
        assert again.header(b"retry-after") == b"300"
        assert again.header(b"x-should-retry") == b"false"
        assert [(drop.provider, drop.why.value) for drop in scene.attempts[-1].passed_over] == [("one", "model")]
