"""The walk over candidates: bounds, and who is left after each outcome."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccrelay.core.attempts import AttemptLoop, Candidate
from ccrelay.core.outcomes import Outcome


def candidates(*names: str) -> list[Candidate[str]]:
    return [Candidate(name[0], name) for name in names]


def walk(loop: AttemptLoop[str], *outcomes: Outcome) -> list[str]:
    seen = []
    for outcome in outcomes:
        candidate = loop.next(0.0)
        if candidate is None:
            break
        seen.append(candidate.target)
        loop.failed(outcome, 0.0)
    return seen


def test_an_ill_provider_is_left_with_all_its_keys() -> None:
    loop = AttemptLoop(candidates("a1", "a2", "b1"), most=9, window=5)
    assert walk(loop, Outcome.PROVIDER_ILL, Outcome.PROVIDER_ILL, Outcome.PROVIDER_ILL) == ["a1", "b1"]


@pytest.mark.parametrize("outcome", [Outcome.KEY_TIRED, Outcome.KEY_DEAD])
def test_another_key_of_the_same_provider_follows_a_key_that_cannot(outcome: Outcome) -> None:
    loop = AttemptLoop(candidates("a1", "a2", "b1"), most=9, window=5)
    assert walk(loop, outcome, outcome, outcome, outcome) == ["a1", "a2", "b1"]


def test_the_callers_own_fault_ends_the_walk() -> None:
    loop = AttemptLoop(candidates("a1", "a2", "b1"), most=9, window=5)
    assert walk(loop, Outcome.CALLERS_FAULT, Outcome.ANSWERED) == ["a1"]


def test_no_attempt_begins_after_the_window_that_the_first_failure_opens() -> None:
    loop = AttemptLoop(candidates("a1", "b1", "c1"), most=9, window=5)
    assert loop.next(100.0) is not None
    loop.failed(Outcome.PROVIDER_ILL, 200.0)
    assert loop.next(205.0) is not None
    loop.failed(Outcome.PROVIDER_ILL, 205.1)
    assert loop.next(205.2) is None


@given(
    st.lists(st.sampled_from(["a1", "a2", "b1", "b2", "c1"]), unique=True),
    st.integers(1, 6),
    st.lists(st.sampled_from([o for o in Outcome if o is not Outcome.ANSWERED]), min_size=8, max_size=8),
)
def test_never_more_than_the_bound_never_twice_and_always_in_order(
    names: list[str], most: int, outcomes: list[Outcome]
) -> None:
    loop = AttemptLoop(candidates(*names), most=most, window=5)
    seen = walk(loop, *outcomes)
    assert len(seen) == loop.begun <= most
    assert seen == [name for name in names if name in seen]
    assert bool(names) == bool(seen)
