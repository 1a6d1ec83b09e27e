"""The strategies: what each promises over many calls, with candidates that come and go."""

from __future__ import annotations

import tracemalloc
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise, permutations
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from zope.interface.verify import verifyObject

from ccrelay.core.settings import AffinitySettings, RoutingSettings
from ccrelay.core.strategies import (
    STRATEGIES,
    Failover,
    LeastLoaded,
    ModelBased,
    RoundRobin,
    Shuffle,
    Standing,
    WeightedFailover,
    WeightedRoundRobin,
    build_strategy,
)
from ccrelay.interfaces import IStrategy

ROUTING = RoutingSettings("failover", {}, None, 5.0, 4, 0.2, AffinitySettings(True, 3600.0), False)
NAMES = "abcdef"


def standing(name: str, priority: int = 1, weight: float = 1.0, in_flight: int = 0) -> Standing:
    return Standing(name, priority, weight, in_flight)


def plain(names: str) -> list[Standing]:
    return [standing(name) for name in names]


def weighted(weights: Mapping[str, float]) -> list[Standing]:
    return [standing(name, weight=weight) for name, weight in weights.items()]


def firsts(strategy: IStrategy, calls: Sequence[Sequence[Standing]]) -> str:
    """Who is first at each call, one name after the other; calls come a second apart."""
    return "".join(strategy.order("m", candidates, now)[0] for now, candidates in enumerate(calls))


# Some names of six, in file order, as are candidates at one call after the other.
some = st.sets(st.sampled_from(NAMES), min_size=1).map(sorted).map("".join)
histories = st.lists(some, min_size=1, max_size=40)
standings = st.lists(
    st.builds(standing, st.sampled_from(NAMES), st.integers(0, 2), st.floats(0.01, 1e6), st.integers(0, 3)),
    unique_by=lambda c: c.name,
)


# All of them


@pytest.mark.parametrize("name", STRATEGIES)
def test_each_is_a_strategy(name: str) -> None:
    assert verifyObject(IStrategy, build_strategy(replace(ROUTING, strategy=name), Random(1)))


@pytest.mark.parametrize("name", STRATEGIES)
@given(calls=st.lists(standings, max_size=20), seed=st.integers())
def test_an_order_holds_every_candidate_once(name: str, calls: list[list[Standing]], seed: int) -> None:
    strategy = build_strategy(replace(ROUTING, strategy=name), Random(seed))

    for now, candidates in enumerate(calls):
        order = strategy.order("m", candidates, float(now))
        assert isinstance(order, tuple)
        assert sorted(order) == sorted(c.name for c in candidates)


@pytest.mark.parametrize("name", STRATEGIES)
def test_the_same_seed_and_the_same_calls_give_the_same_orders(name: str) -> None:
    one, other = (build_strategy(replace(ROUTING, strategy=name), Random(7)) for _ in range(2))

    assert [one.order("m", plain(NAMES), i) for i in range(50)] == [
        other.order("m", plain(NAMES), i) for i in range(50)
    ]


# Failover


def test_failover_goes_by_priority_then_by_the_file() -> None:
    candidates = [standing("low", 0), standing("one", 1), standing("high", 2), standing("two", 1)]

    assert Failover().order("m", candidates, 0) == ("high", "one", "two", "low")


# Round robin


def test_round_robin_takes_turns_whatever_the_priorities() -> None:
    strategy = RoundRobin()
    candidates = [standing("a", 0), standing("b", 2), standing("c", 1)]

    assert [strategy.order("m", candidates, i) for i in range(4)] == [
        ("a", "b", "c"),
        ("b", "c", "a"),
        ("c", "a", "b"),
        ("a", "b", "c"),
    ]


@given(histories)
def test_round_robin_gives_the_turn_to_whoever_has_waited_longest(history: list[str]) -> None:
    strategy = RoundRobin()
    told = ""
    for now, names in enumerate(history):
        order = strategy.order("m", plain(names), now)
        waited_longest = sorted(names, key=lambda name: told.rfind(name))
        assert list(order) == waited_longest
        told += order[0]


def test_round_robin_is_fair_where_one_can_take_only_every_other_call() -> None:
    calls = [plain("ab"), plain("abc")] * 300

    counts = Counter(firsts(RoundRobin(), calls))

    # A third of the calls it could take is 100; a third of all calls is 200.
    assert 100 <= counts["c"] <= 200
    assert abs(counts["a"] - counts["b"]) <= 2


def test_who_comes_back_has_one_turn_at_once_and_not_all_it_missed() -> None:
    calls = [plain("abc")] * 3 + [plain("ab")] * 50 + [plain("abc")] * 6

    assert sorted(firsts(RoundRobin(), calls)[-6:-3]) == ["a", "b", "c"]
    assert firsts(RoundRobin(), calls)[-6] == "c"


# Least loaded


def test_least_loaded_goes_by_calls_in_flight_then_by_priority() -> None:
    candidates = [
        standing("busy", 2, in_flight=3),
        standing("calm", 0, in_flight=1),
        standing("calm and better", 1, in_flight=1),
        standing("idle", 0),
    ]

    assert LeastLoaded().order("m", candidates, 0) == ("idle", "calm and better", "calm", "busy")


def test_least_loaded_takes_turns_among_equals() -> None:
    candidates = [standing("busy", in_flight=1), *plain("abc")]

    assert firsts(LeastLoaded(), [candidates] * 7) == "abcabca"


def test_least_loaded_evens_out_calls_of_any_length() -> None:
    strategy, rng = LeastLoaded(), Random(5)
    loads = dict.fromkeys("abcd", 0)
    running: list[str] = []
    for now in range(500):
        first = strategy.order("m", [standing(name, in_flight=load) for name, load in loads.items()], now)[0]
        assert loads[first] == min(loads.values())
        loads[first] += 1
        running.append(first)
        while len(running) > 10:
            loads[running.pop(rng.randrange(len(running)))] -= 1

    assert sum(loads.values()) == 10


# Smooth weighted round robin


@pytest.mark.parametrize(
    ("weights", "cycle"),
    [
        ({"a": 5, "b": 1, "c": 1}, "aabacaa"),
        ({"a": 2, "b": 1}, "aba"),
        ({"a": 1, "b": 1, "c": 1}, "abc"),
        ({"a": 1, "b": 3}, "babb"),
        ({"a": 0.5, "b": 0.25, "c": 0.25}, "abca"),
        ({"a": 7}, "a"),
    ],
)
def test_weighted_turns_are_spread_evenly_cycle_after_cycle(weights: dict[str, float], cycle: str) -> None:
    calls = [weighted(weights)] * (len(cycle) * 200)

    assert firsts(WeightedRoundRobin(), calls) == cycle * 200


def smooth(weights: Mapping[str, int], calls: int) -> str:
    """The rule in whole numbers, as it is known from servers that balance load."""
    current = dict.fromkeys(weights, 0)
    told = ""
    for _ in range(calls):
        for name, weight in weights.items():
            current[name] += weight
        best = max(current, key=lambda name: current[name])
        current[best] -= sum(weights.values())
        told += best
    return told


@given(st.dictionaries(st.sampled_from(NAMES), st.integers(1, 12), min_size=1))
def test_weighted_turns_are_those_of_the_rule_in_whole_numbers(weights: dict[str, int]) -> None:
    cycle = sum(weights.values())
    told = firsts(WeightedRoundRobin(), [weighted(weights)] * (3 * cycle))

    assert told == smooth(weights, 3 * cycle)
    assert Counter(told[:cycle]) == weights


@given(histories, st.lists(st.integers(1, 9), min_size=6, max_size=6))
def test_nobody_is_far_from_its_share_of_the_calls_it_could_take(history: list[str], given_weights: list[int]) -> None:
    weights = dict(zip(NAMES, given_weights, strict=True))
    strategy = WeightedRoundRobin()
    owed = dict.fromkeys(NAMES, Fraction(0))
    for now, names in enumerate(history):
        for name in names:
            owed[name] += Fraction(weights[name], sum(weights[n] for n in names))
        owed[strategy.order("m", weighted({name: weights[name] for name in names}), now)[0]] -= 1

    # What is owed must not grow with the number of calls, of which there may be 40, only with those who share.
    assert all(abs(turns) < len(NAMES) for turns in owed.values())


def test_a_weight_that_changes_has_no_past() -> None:
    heavy, light = weighted({"a": 1_000_000, "b": 1}), weighted({"a": 1, "b": 1})
    told = firsts(WeightedRoundRobin(), [heavy] * 100 + [light] * 20)

    assert abs(told[100:].count("a") - told[100:].count("b")) <= 2


def test_the_next_to_be_due_follow_in_order() -> None:
    strategy = WeightedRoundRobin()
    candidates = weighted({"a": 3, "b": 2, "c": 1})

    assert strategy.order("m", candidates, 0) == ("a", "b", "c")
    assert strategy.order("m", candidates, 1) == ("b", "c", "a")


# Shuffle


@given(st.integers(1, 6), st.integers())
def test_shuffle_deals_each_once_per_deck(many: int, seed: int) -> None:
    told = firsts(Shuffle(Random(seed)), [plain(NAMES[:many])] * (many * 8))

    assert [sorted(told[i : i + many]) for i in range(0, len(told), many)] == [list(NAMES[:many])] * 8


@given(histories, st.integers())
def test_nobody_is_dealt_three_times_while_another_waits_for_its_second(history: list[str], seed: int) -> None:
    # Two cards of one name may lie next to each other where two decks meet; three cannot, whoever comes and goes.
    told = firsts(Shuffle(Random(seed)), [plain(names) for names in history])

    for name in NAMES:
        dealt = [i for i, first in enumerate(told) if first == name]
        for begin, end in zip(dealt, dealt[2:], strict=False):
            always_there = set(NAMES).intersection(*history[begin : end + 1]) - {name}
            assert always_there <= set(told[begin + 1 : end])


def test_calls_that_only_one_can_take_leave_the_deck_as_it_was() -> None:
    for seed in range(20):
        strategy = Shuffle(Random(seed))
        first = strategy.order("m", plain("abc"), 0)[0]
        for now in range(1, 8):
            assert strategy.order("m", plain(first), now) == (first,)
        rest = firsts(strategy, [plain("abc")] * 2)

        assert sorted(first + rest) == ["a", "b", "c"]


def test_a_card_waits_for_its_provider_but_does_not_multiply() -> None:
    for seed in range(20):
        strategy = Shuffle(Random(seed))
        strategy.order("m", plain("a"), 0)
        strategy.order("m", plain("ab"), 1)
        for now in range(2, 50):
            strategy.order("m", plain("a"), now)
        told = "".join(strategy.order("m", plain("ab"), now)[0] for now in range(50, 70))

        assert abs(told.count("a") - told.count("b")) <= 2


def test_decks_are_shuffled_without_favour() -> None:
    told = firsts(Shuffle(Random(3)), [plain("abc")] * 3600)
    decks = Counter(told[i : i + 3] for i in range(0, len(told), 3))

    # 1200 decks over 6 orders: 200 each, and a standard deviation of 13.
    assert set(decks) == {"".join(p) for p in permutations("abc")}
    assert all(abs(count - 200) < 5 * 13 for count in decks.values())


def test_cards_left_come_before_cards_dealt() -> None:
    strategy = Shuffle(Random(11))
    orders = [strategy.order("m", plain("abcd"), now) for now in range(4)]

    for done, order in enumerate(orders):
        assert set(order[4 - done :]) == {earlier[0] for earlier in orders[:done]}
    assert all(following[0] == order[1] for order, following in pairwise(orders))


# Weighted failover


def test_weights_decide_who_is_first_and_priority_who_follows() -> None:
    candidates = [standing("low", 0, 3.0), standing("high", 2, 1.0), standing("middle", 1, 6.0)]
    orders = Counter(WeightedFailover(Random(seed)).order("m", candidates, 0) for seed in range(300))

    assert set(orders) == {("low", "high", "middle"), ("high", "middle", "low"), ("middle", "high", "low")}


@pytest.mark.parametrize("seed", range(5))
def test_first_choices_are_distributed_as_the_weights(seed: int) -> None:
    weights = {"a": 1.0, "b": 2.0, "c": 3.0, "d": 0.5}
    calls = 6500
    counts = Counter(firsts(WeightedFailover(Random(seed)), [weighted(weights)] * calls))

    expected = {name: calls * weight / 6.5 for name, weight in weights.items()}
    chi_square = sum((counts[name] - expected[name]) ** 2 / expected[name] for name in weights)
    # Three degrees of freedom: once in a thousand it is above 16.3.
    assert chi_square < 16.3


def test_weights_share_out_among_those_who_are_there() -> None:
    counts = Counter(firsts(WeightedFailover(Random(2)), [weighted({"a": 1, "b": 3})] * 4000))

    assert abs(counts["b"] - 3000) < 5 * 27


# By model

MAPPING = {"claude": "anthropic", "claude-haiku": "ollama", "glm-*": "zai"}


@pytest.mark.parametrize(
    ("model", "default", "order"),
    [
        ("claude-opus-4", None, ("anthropic",)),
        ("claude-haiku-4-5", None, ("ollama",)),
        ("claude-haiku", "zai", ("ollama",)),
        ("glm-4.6", None, ("zai",)),
        ("Claude", "zai", ("zai",)),
        ("llama", "ollama", ("ollama",)),
        ("llama", None, ("zai", "ollama", "anthropic")),
    ],
)
def test_the_longest_beginning_names_the_only_provider(model: str, default: str | None, order: tuple[str, ...]) -> None:
    candidates = [standing("ollama", 1), standing("anthropic", 0), standing("zai", 2)]

    assert ModelBased(MAPPING, default).order(model, candidates, 0) == order


@pytest.mark.parametrize("model", ["claude-haiku-4-5", "llama"])
def test_nobody_stands_in_for_the_provider_that_a_model_is_bound_to(model: str) -> None:
    candidates = [standing("anthropic"), standing("zai")]

    assert ModelBased(MAPPING, "ollama").order(model, candidates, 0) == ()


# Forgetting


@pytest.mark.parametrize("name", ["round_robin", "weighted_round_robin", "shuffle", "least_loaded"])
def test_a_turn_is_remembered_over_minutes_and_forgotten_within_a_day(name: str) -> None:
    def has_two_turns_in_a_row(pause: float, seed: int) -> bool:
        strategy = build_strategy(replace(ROUTING, strategy=name), Random(seed))
        return strategy.order("m", plain("ab"), 0)[0] == strategy.order("m", plain("ab"), pause)[0]

    assert not any(has_two_turns_in_a_row(600, seed) for seed in range(20))
    assert any(has_two_turns_in_a_row(86400, seed) for seed in range(20))


@pytest.mark.parametrize("name", ["round_robin", "weighted_round_robin", "shuffle", "least_loaded"])
def test_names_of_former_configurations_do_not_pile_up(name: str) -> None:
    strategy = build_strategy(replace(ROUTING, strategy=name), Random(1))
    tracemalloc.start()
    try:
        for day in range(50):
            for number in range(100):
                strategy.order("m", [standing(f"{day}-{number}")], day * 86400.0)
            if day == 2:
                early = tracemalloc.get_traced_memory()[0]
        late = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()

    assert late < 1.5 * early
