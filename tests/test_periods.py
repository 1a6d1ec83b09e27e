"""Sums by the minute and by the hour, against a list of everything that was added."""

from __future__ import annotations

from dataclasses import fields, replace
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from ccrelay.core.model import Usage
from ccrelay.core.outcomes import Outcome
from ccrelay.core.periods import Periods, Sums, sums_of_call

WIDTH, COUNT = 60.0, 5
small = st.integers(0, 9)
usages = st.builds(Usage, small, small, small, small)
outcomes = st.sampled_from([*Outcome, "refused"])
calls = st.builds(sums_of_call, outcomes, small, usages, st.none() | st.integers(0, 4).map(float))


def together(many: list[Sums]) -> Sums:
    return Sums(**{field.name: sum(getattr(one, field.name) for one in many) for field in fields(Sums)})


@given(st.lists(st.tuples(st.floats(0, 200), calls)), st.floats(0, 1000))
def test_every_period_sums_what_fell_into_it(steps: list[tuple[float, Sums]], later: float) -> None:
    periods = Periods(WIDTH, COUNT)
    now = 1_800_000_000.0
    added = []
    for pause, sums in steps:
        now += pause
        periods.add(now, sums)
        added.append((now, replace(sums)))
    now += later
    last = periods.last(now)
    assert len(last) == COUNT
    assert last[-1].start <= now < last[-1].start + WIDTH
    assert [b.start - a.start for a, b in pairwise(last)] == [WIDTH] * (COUNT - 1)
    for period in last:
        assert period.sums == together([s for at, s in added if period.start <= at < period.start + WIDTH])


@given(st.lists(st.tuples(st.floats(-10_000, 0), calls)))
def test_a_clock_that_is_set_back_loses_nothing(steps: list[tuple[float, Sums]]) -> None:
    periods = Periods(WIDTH, COUNT)
    now = 1_800_000_000.0
    for pause, sums in steps:
        now += pause
        periods.add(now, sums)
    assert together([period.sums for period in periods.last(now)]) == together([sums for _, sums in steps])


def test_what_is_handed_out_does_not_change_afterwards() -> None:
    periods = Periods(WIDTH, COUNT)
    periods.add(0.0, Sums(calls=1))
    before = periods.last(0.0)
    periods.add(0.0, Sums(calls=1))
    assert (before[-1].sums.calls, periods.last(0.0)[-1].sums.calls) == (1, 2)


@given(outcomes, usages)
def test_a_call_ends_in_one_way(outcome: Outcome | str, usage: Usage) -> None:
    sums = sums_of_call(outcome, 1, usage, None)
    assert sums.answered + sums.refused + sums.gone + sums.failed == sums.calls == 1
    assert sums.answered == (outcome is Outcome.ANSWERED)
