"""The choice of whom to ask: for any state of the providers and any ends of the attempts."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccrelay.core.contenders import Contender
from ccrelay.core.key_pool import KeyLease
from ccrelay.core.model import Call, CallKind
from ccrelay.core.outcomes import NEXT, Next, Outcome
from ccrelay.core.rate_limits import Demand
from ccrelay.core.router import RoutingMemory, Why
from ccrelay.core.settings import AffinitySettings
from ccrelay.core.strategies import STRATEGIES

from .scenarios_routes import HEALTH, ROUTING, call_of, contender, router_of

FAILURES = [outcome for outcome in Outcome if outcome is not Outcome.ANSWERED]


def ill(found: Contender, now: float = 0.0) -> None:
    for _ in range(HEALTH.failure_threshold):
        found.breaker.begin(now).settle(False, now)


def tire(found: Contender, wait: float, now: float = 0.0) -> None:
    """All its keys."""
    assert found.pool is not None
    for status in found.pool.status(now):
        lease = found.pool.choose(now, Demand(1, 1), preferred=status.id)
        assert isinstance(lease, KeyLease)
        lease.settle(now, Outcome.KEY_TIRED, None, wait, None)


@st.composite
def contenders(draw: st.DrawFn) -> list[Contender]:
    """Up to four of any kind, well, ill, tired, or without a key."""
    found = []
    for name in draw(st.sampled_from(["a", "ab", "abc", "abcd"])):
        type_ = draw(st.sampled_from(["anthropic", "anthropic", "zai", "ollama"]))
        made = contender(name, draw(st.integers(0, 3)), type_, draw(st.integers(0, 2)))
        state = draw(st.sampled_from(["well", "well", "well", "ill", "tired"]))
        if state == "ill":
            ill(made)
        elif state == "tired" and made.pool is not None:
            tire(made, draw(st.sampled_from([1.0, 50.0])))
        found.append(made)
    return found


STEPS = st.lists(
    st.tuples(st.sampled_from(FAILURES), st.sampled_from([0.0, 0.0, 0.4, 3.0]), st.booleans()), min_size=12, max_size=12
)


@given(
    found=contenders(),
    strategy=st.sampled_from(sorted(STRATEGIES)),
    most=st.integers(1, 6),
    steps=STEPS,
    own=st.booleans(),
    kind=st.sampled_from(CallKind),
    home=st.none() | st.sampled_from("abcd"),
)
def test_whatever_attempts_come_to_a_call_stays_within_its_bounds(
    found: list[Contender],
    strategy: str,
    most: int,
    steps: list[tuple[Outcome, float, bool]],
    own: bool,
    kind: CallKind,
    home: str | None,
) -> None:
    routing = replace(ROUTING, strategy=strategy, max_attempts=most)
    router = router_of(found, routing)
    if home is not None:
        router.memory.affinity.settle(b"d" * 32, "s", home, f"{home}0", 0.0)
    route = router.route(call_of(session="s", own=own, kind=kind), "claude-opus-5-5", 0.0)
    now, attempts, asked = 0.0, 0, []
    first_failure: float | None = None
    left: set[str] = set()
    last = Outcome.KEY_TIRED
    while (chosen := route.next(now)) is not None:
        outcome, seconds, repeats = steps[len(asked)]
        assert NEXT[last] is not Next.NOBODY
        assert first_failure is None or now <= first_failure + routing.failover_timeout
        assert chosen.name not in left
        assert chosen.breaker.admits(now)
        pick = route.take(chosen, now)
        assert pick is not None, "in the same turn nobody can have taken it away"
        assert chosen.load.attempts == 1
        asked.append((chosen.name, pick.key))
        attempts += 1
        now += seconds
        if repeats and route.repeat(now):
            attempts += 1
        pick.settle(now, outcome)
        route.failed(pick, outcome, now)
        first_failure = now if first_failure is None else first_failure
        if NEXT[outcome] is Next.ANOTHER_PROVIDER or pick.key is None:
            left.add(chosen.name)
        last = outcome
    assert attempts == route.begun <= most
    assert len(set(asked)) == len(asked), "a key is asked once"
    assert [c.load.attempts for c in found] == [0] * len(found)
    names = {c.name for c in found}
    assert {drop.provider for drop in route.drops} <= names
    if route.stopped is None and NEXT[last] is not Next.NOBODY:
        assert names == {drop.provider for drop in route.drops} | {name for name, _ in asked}
    assert route.next(now) is None


@given(found=contenders(), strategy=st.sampled_from(sorted(STRATEGIES)))
def test_everybody_who_is_able_is_asked_before_a_call_is_given_up(found: list[Contender], strategy: str) -> None:
    routing = replace(ROUTING, strategy=strategy, max_attempts=99, retry_budget=99.0)
    able = {c.name for c in found if c.pool is not None and c.breaker.admits(0.0) and c.pool.available(0.0)}
    route = router_of(found, routing).route(call_of(), "m", 0.0)
    asked = []
    while (chosen := route.next(0.0)) is not None:
        pick = route.take(chosen, 0.0)
        assert pick is not None
        asked.append((chosen.name, pick.key))
        pick.settle(0.0, Outcome.KEY_TIRED)
        route.failed(pick, Outcome.KEY_TIRED, 0.0)
    assert {name for name, _ in asked} == able
    keys = sum(c.keys for c in found if c.name in able)
    assert len(asked) == min(keys, 11), "ten extra attempts a minute"


def whys(contender_: Contender, call: Call, *, now: float = 0.0) -> list[tuple[Why, str, float | None]]:
    route = router_of([contender_]).route(call, "m", now)
    assert route.next(now) is None
    return [(drop.why, drop.reason, drop.until) for drop in route.drops]


def test_every_reason_to_pass_somebody_over_tells_how_long_it_holds() -> None:
    sick, tired = contender("sick"), contender("tired", 2)
    ill(sick)
    tire(tired, 50.0)
    assert whys(sick, call_of()) == [(Why.CIRCUIT, "is ill (circuit open)", 30.0)]
    assert whys(tired, call_of()) == [(Why.KEYS, "all keys cooling", 50.0)]
    assert whys(contender("x", 0), call_of()) == [(Why.NO_KEY, "has no key for this client", None)]
    assert whys(contender("x", type_="zai"), call_of(only_own=True)) == [
        (Why.NO_KEY, "has no key for this client", None)
    ]
    assert whys(contender("x", type_="zai"), call_of(kind=CallKind.COUNT_TOKENS)) == [
        (Why.KIND, "has no count_tokens", None)
    ]


def test_a_key_that_went_to_another_call_meanwhile_is_a_reason_too() -> None:
    north = contender("north")
    route = router_of([north]).route(call_of(), "m", 0.0)
    assert route.next(0.0) is north
    tire(north, 50.0)
    assert route.take(north, 0.0) is None
    assert [(drop.why, drop.until) for drop in route.drops] == [(Why.KEYS, 50.0)]
    assert route.begun == 0


def test_a_circuit_that_opened_meanwhile_is_a_reason_too() -> None:
    north, south = contender("north"), contender("south")
    route = router_of([north, south]).route(call_of(), "m", 0.0)
    assert route.next(0.0) is north
    ill(north)
    assert route.take(north, 0.0) is None
    assert [drop.why for drop in route.drops] == [Why.CIRCUIT]
    assert route.next(0.0) is south


def test_without_turns_nobody_loses_one_to_a_session_that_is_at_home() -> None:
    found = [contender(name) for name in "ab"]
    router = router_of(found, replace(ROUTING, strategy="round_robin"))
    router.memory.affinity.settle(b"d" * 32, "s", "b", "b0", 0.0)
    for session, expected in [("s", "b"), (None, "a"), ("s", "b"), (None, "b"), (None, "a")]:
        route = router.route(call_of(session=session), "m", 0.0)
        chosen = route.next(0.0)
        assert chosen is not None
        assert chosen.name == expected


@pytest.mark.parametrize(("most", "repeats"), [(1, 0), (2, 1), (4, 3)])
def test_an_attempt_may_be_repeated_within_what_the_operator_allows(most: int, repeats: int) -> None:
    route = router_of([contender("a")], replace(ROUTING, max_attempts=most)).route(call_of(), "m", 0.0)
    chosen = route.next(0.0)
    assert chosen is not None
    pick = route.take(chosen, 0.0)
    assert pick is not None
    assert [route.repeat(0.0) for _ in range(5)] == [True] * repeats + [False] * (5 - repeats)
    pick.settle(0.0, Outcome.PROVIDER_ILL)


def test_a_reload_changes_the_numbers_and_keeps_what_was_learned() -> None:
    memory = RoutingMemory.fresh(ROUTING)
    memory.affinity.settle(b"d", "s", "north", "k", 0.0)
    memory.histories.answered(b"scope", "claude", 0.0, others=False, distrusted=False)
    memory.reconfigure(replace(ROUTING, retry_budget=0.7, affinity=AffinitySettings(True, 100.0)), 50.0)
    assert memory.budget.share == 0.7
    assert memory.affinity.find(b"d", "s", 99.0) is not None
    assert memory.affinity.find(b"d", "s", 101.0) is None
    assert memory.histories.written_by(b"scope", "claude", 101.0)
