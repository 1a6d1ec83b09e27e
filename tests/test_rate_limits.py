"""Token buckets: what they let through in any span of time, what they give back, and what the upstream may correct."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccrelay.core.model import Usage
from ccrelay.core.rate_headers import LearnedLimits, LearnedWindow, Window
from ccrelay.core.rate_limits import Bucket, Demand, Hold, KeyLimits, Reservation

SMALL = Demand(1, 1)


def told(
    window: Window, limit: int | None = None, remaining: int | None = None, reset: float | None = None
) -> LearnedLimits:
    return LearnedLimits((LearnedWindow(window, limit, remaining, reset),))


def ready(limits: KeyLimits, now: float, demand: Demand = SMALL) -> bool:
    return limits.ready_at(now, demand) <= now


def spend(limits: KeyLimits, now: float, demand: Demand = SMALL) -> Reservation:
    assert ready(limits, now, demand)
    return limits.reserve(now, demand)


def answered(limits: KeyLimits, now: float, learned: LearnedLimits, demand: Demand = SMALL) -> Reservation:
    """A call that is dispatched and whose head tells ``learned``, at once."""
    reservation = limits.reserve(now, demand)
    limits.learn(now, learned, reservation)
    return reservation


# One bucket against what its docstring promises.


@dataclass
class Dispatch:
    at: float
    hold: Hold
    reserved: int
    used: int | None = None
    settled: bool = False


@dataclass
class Log:
    """What went through a bucket; the promise is checked over every pair of dispatches."""

    limit: int
    calls: list[Dispatch] = field(default_factory=list)

    def check(self) -> None:
        for first, start in enumerate(self.calls):
            total = 0.0
            for call in self.calls[first:]:
                total += call.reserved if call.used is None else call.used
                assert total <= self.limit * (1 + (call.at - start.at) / 60) * (1 + 1e-4)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("wait"), st.floats(0, 90)),
        st.tuples(st.just("take"), st.integers(1, 150)),
        st.tuples(st.just("settle"), st.floats(0, 1)),
    ),
    max_size=60,
)


@given(limit=st.integers(1, 100), steps=STEPS)
def test_no_span_of_time_sees_more_used_than_the_limit_and_what_refills_in_it(
    limit: int, steps: list[tuple[str, float]]
) -> None:
    bucket = Bucket(limit)
    log = Log(limit)
    now = 1000.0
    for step, value in steps:
        open_calls = [call for call in log.calls if not call.settled]
        if step == "wait":
            now += value
        elif step == "take":
            now = bucket.ready_at(now, int(value)) if len(log.calls) % 2 else now
            if bucket.ready_at(now, int(value)) <= now:
                log.calls.append(Dispatch(now, bucket.take(now, int(value)), min(int(value), limit)))
        elif open_calls:
            call = open_calls[len(open_calls) // 2]
            call.settled = True
            call.used = None if value > 0.9 else int(call.reserved * value)
            bucket.settle(now, call.hold, call.used)
    log.check()


@given(st.integers(1, 100), st.lists(st.tuples(st.integers(1, 100), st.floats(0, 1), st.floats(0, 90)), max_size=20))
def test_calls_one_after_another_leave_what_would_be_left_had_their_usage_been_known_before(
    limit: int, calls: list[tuple[int, float, float]]
) -> None:
    real, exact = Bucket(limit), Bucket(limit)
    now = 0.0
    for reserved, share, duration in calls:
        now = max(real.ready_at(now, reserved), exact.ready_at(now, reserved))
        used = int(min(reserved, limit) * share)
        hold = real.take(now, reserved)
        exact.settle(now, exact.take(now, used), None)
        now += duration
        real.settle(now, hold, used)
        assert real.level(now) == pytest.approx(exact.level(now), abs=1e-3 * limit)


@given(limit=st.integers(1, 10**10), taken=st.floats(0, 1), amount=st.integers(1, 10**11), now=st.floats(0, 10**8))
def test_whoever_waits_as_long_as_told_finds_room_and_no_earlier(
    limit: int, taken: float, amount: int, now: float
) -> None:
    bucket = Bucket(limit)
    bucket.take(now, int(limit * taken))
    at = bucket.ready_at(now, amount)
    assert at <= now + 60.001
    assert bucket.ready_at(at, amount) == at
    if at > now + 0.1:
        fresh = Bucket(limit)
        fresh.take(now, int(limit * taken))
        assert fresh.ready_at(at - 0.1, amount) > at - 0.1


def test_a_call_larger_than_the_limit_goes_when_the_bucket_is_full() -> None:
    bucket = Bucket(100)
    assert bucket.ready_at(0.0, 5000) == 0.0
    bucket.take(0.0, 5000)
    assert bucket.ready_at(0.0, 5000) == pytest.approx(60.0)


def test_more_use_than_reserved_is_a_debt_of_one_limit_at_most() -> None:
    bucket = Bucket(60)
    hold = bucket.take(0.0, 10)
    bucket.settle(0.0, hold, 80)
    assert bucket.level(0.0) == -20
    hold = bucket.take(20.0, 0)
    bucket.settle(20.0, hold, 10**400)
    assert bucket.ready_at(20.0, 1) == pytest.approx(20.0 + 61)


# All limits of a key.


def test_a_key_without_limits_is_always_ready() -> None:
    limits = KeyLimits(0, 0, 0)
    for _ in range(1000):
        limits.reserve(0.0, Demand(10**9, 10**9))
    assert ready(limits, 0.0, Demand(10**9, 10**9))
    assert limits.head_room(0.0, Demand(10**9, 10**9)) == 1.0
    assert limits.status(0.0) == ()


@pytest.mark.parametrize(
    ("configured", "demand"),
    [((2, 0, 0), Demand(0, 0)), ((0, 200, 0), Demand(100, 0)), ((0, 0, 200), Demand(0, 100))],
)
def test_each_class_is_bounded_by_itself(configured: tuple[int, int, int], demand: Demand) -> None:
    limits = KeyLimits(*configured)
    spend(limits, 0.0, demand)
    spend(limits, 0.0, demand)
    assert limits.ready_at(0.0, demand) == pytest.approx(30.0)


def test_a_whole_minutes_requests_may_go_at_once_and_then_one_a_second() -> None:
    limits = KeyLimits(60, 0, 0)
    for _ in range(60):
        spend(limits, 5.0)
    assert limits.ready_at(5.0, SMALL) == pytest.approx(6.0)


def test_cache_writes_count_as_input_and_cache_reads_do_not() -> None:
    limits = KeyLimits(0, 1000, 0)
    reservation = limits.reserve(0.0, Demand(900, 0))
    limits.settle(0.0, reservation, Usage(input=10, output=5, cache_write=90, cache_read=10**6))
    assert [status.remaining for status in limits.status(0.0)] == [900]


def test_unknown_usage_leaves_the_reservation_counted() -> None:
    limits = KeyLimits(0, 0, 1000)
    limits.settle(0.0, limits.reserve(0.0, Demand(0, 600)), None)
    assert [status.remaining for status in limits.status(0.0)] == [400]


def test_a_request_is_spent_whatever_becomes_of_it() -> None:
    limits = KeyLimits(1, 0, 0)
    limits.settle(0.0, limits.reserve(0.0, SMALL), Usage())
    assert not ready(limits, 0.0)


def test_the_tightest_class_is_the_head_room() -> None:
    limits = KeyLimits(10, 1000, 0)
    assert limits.head_room(0.0, Demand(100, 0)) == pytest.approx(0.9)
    assert limits.head_room(0.0, Demand(700, 0)) == pytest.approx(0.3)


def test_what_the_upstream_says_is_left_counts_downwards_and_upwards() -> None:
    limits = KeyLimits(0, 0, 0)
    answered(limits, 0.0, told(Window.REQUESTS, 50, 1, 58.0))
    limits.settle(0.0, spend(limits, 0.0), None)
    assert not ready(limits, 0.0)
    answered(limits, 0.0, told(Window.REQUESTS, 50, 30, 24.0))
    for _ in range(30):
        spend(limits, 0.0)
    assert not ready(limits, 0.0)


def test_the_lower_of_a_configured_and_a_learned_limit_rules() -> None:
    generous = KeyLimits(3, 0, 0)
    answered(generous, 0.0, told(Window.REQUESTS, 50, 49))
    spend(generous, 0.0)
    spend(generous, 0.0)
    assert not ready(generous, 0.0)
    strict = KeyLimits(50, 0, 0)
    answered(strict, 0.0, told(Window.REQUESTS, 3, 1))
    spend(strict, 0.0)
    assert not ready(strict, 0.0)


def test_a_reset_fills_the_window_at_its_time() -> None:
    limits = KeyLimits(0, 0, 0)
    answered(limits, 0.0, told(Window.REQUESTS, 60, 0, 5.0))
    assert limits.ready_at(0.0, SMALL) == pytest.approx(1.0)
    for _ in range(60):
        spend(limits, 5.0)
    assert not ready(limits, 5.0)


def test_a_window_longer_than_a_minute_fills_at_its_own_pace() -> None:
    limits = KeyLimits(0, 0, 0)
    answered(limits, 0.0, told(Window.REQUESTS, 1000, 0, 10_000.0))
    assert limits.ready_at(0.0, SMALL) == pytest.approx(10.0)


def test_an_answers_output_is_still_to_come_when_its_head_tells_what_is_left() -> None:
    limits = KeyLimits(0, 0, 0)
    answered(limits, 0.0, told(Window.OUTPUT, 1000, 1000))
    reservation = answered(limits, 0.0, told(Window.OUTPUT, 1000, 1000), Demand(0, 700))
    assert not ready(limits, 0.0, Demand(0, 400))
    limits.settle(0.0, reservation, Usage(output=100))
    assert [status.remaining for status in limits.status(0.0)] == [900]


@pytest.mark.parametrize("window", [Window.REQUESTS, Window.INPUT])
def test_what_the_upstream_has_counted_with_the_head_is_not_counted_again(window: Window) -> None:
    limits = KeyLimits(0, 0, 0)
    answered(limits, 0.0, told(window, 1000, 1000))
    reservation = answered(limits, 0.0, told(window, 1000, 200), Demand(800, 10))
    limits.settle(0.0, reservation, Usage(input=800, output=10))
    assert [status.remaining for status in limits.status(0.0)] == [200]


def test_of_a_combined_limit_only_the_output_is_still_to_come() -> None:
    limits = KeyLimits(0, 0, 0)
    limits.settle(0.0, answered(limits, 0.0, told(Window.COMBINED, 1000, 1000)), Usage())
    reservation = answered(limits, 0.0, told(Window.COMBINED, 1000, 500), Demand(500, 300))
    assert [status.remaining for status in limits.status(0.0)] == [200]
    limits.settle(0.0, reservation, Usage(input=500, output=50))
    assert [status.remaining for status in limits.status(0.0)] == [450]


def test_calls_the_upstream_may_not_have_seen_are_taken_off_what_it_says_is_left() -> None:
    limits = KeyLimits(0, 0, 0)
    answered(limits, 0.0, told(Window.REQUESTS, 10, 10))
    for _ in range(4):
        limits.reserve(0.0, SMALL)
    answered(limits, 0.0, told(Window.REQUESTS, 10, 9))
    assert [status.remaining for status in limits.status(0.0)] == [5]


def test_the_priority_tier_is_shown_and_holds_nothing_back() -> None:
    limits = KeyLimits(0, 0, 0)
    answered(limits, 0.0, told(Window.PRIORITY_OUTPUT, 1000, 0, 30.0))
    assert ready(limits, 0.0, Demand(0, 10**6))
    (status,) = limits.status(10.0)
    assert (status.name, status.limit, status.remaining, status.reset) == ("priority-output-tokens", 1000, 0, 20.0)


def test_another_configured_limit_keeps_what_is_used() -> None:
    limits = KeyLimits(10, 0, 0)
    for _ in range(8):
        spend(limits, 0.0)
    limits.configure(4, 0, 0)
    assert [status.remaining for status in limits.status(0.0)] == [2]
    limits.configure(100, 0, 0)
    assert [status.remaining for status in limits.status(0.0)] == [2]
    limits.configure(0, 0, 0)
    assert limits.status(0.0) == ()


WINDOWS = st.builds(
    LearnedWindow,
    st.sampled_from(Window),
    st.one_of(st.none(), st.integers(1, 10**11)),
    st.one_of(st.none(), st.integers(0, 10**11)),
    st.one_of(st.none(), st.floats(1e-9, 31 * 86400)),
)
TOLD = st.builds(LearnedLimits, st.lists(WINDOWS, max_size=3).map(tuple))
DEMANDS = st.builds(Demand, st.integers(0, 10**6), st.integers(0, 10**6))


@given(
    st.tuples(*[st.sampled_from([0, 1, 50, 10**7])] * 3),
    st.lists(st.tuples(st.floats(0, 100), DEMANDS, TOLD, st.integers(0, 10**30)), min_size=1, max_size=20),
)
def test_whatever_is_told_and_used_a_key_is_ready_again_and_never_shows_nonsense(
    configured: tuple[int, int, int], calls: list[tuple[float, Demand, LearnedLimits, int]]
) -> None:
    limits = KeyLimits(*configured)
    now = 0.0
    for pause, demand, learned, used in calls:
        now += pause
        limits.settle(now, answered(limits, now, learned, demand), Usage(used, used))
    for status in limits.status(now):
        assert (
            status.limit is None
            or status.remaining is None
            or status.name.startswith("priority")
            or (0 <= status.remaining <= status.limit)
        )
    latest = now + 2 * 31 * 86400 + 120  # twice the longest window, as debts go down to a limit below nothing
    for _ in range(5):
        at = limits.ready_at(now, SMALL)
        assert now <= at <= latest
        now = at
    assert ready(limits, now)
