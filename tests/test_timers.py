"""The silence timer: fires after silence only, and one delayed call serves any number of touches."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock

from ccrelay.timers import GapTimer, SilenceTimer

LIMIT = 10.0


class Rig:
    """A timer on a clock. ``fired``: when."""

    def __init__(self, limit: float = LIMIT) -> None:
        self.clock = Clock()
        self.fired: list[float] = []
        self.timer = SilenceTimer(self.clock, limit, lambda: self.fired.append(self.clock.seconds()))

    def touch(self) -> None:
        self.timer.touch(self.clock.seconds())


def test_it_fires_once_after_the_limit_and_is_stopped_then() -> None:
    rig = Rig()
    rig.timer.start()
    rig.clock.advance(LIMIT - 1)
    assert rig.timer.running
    rig.clock.advance(1)
    rig.clock.advance(LIMIT * 3)
    assert rig.fired == [LIMIT]
    assert not rig.timer.running
    assert rig.clock.getDelayedCalls() == []


def test_it_does_not_run_before_it_is_started_even_if_touched() -> None:
    rig = Rig()
    rig.touch()
    rig.clock.advance(LIMIT * 3)
    assert not rig.timer.running
    assert rig.fired == []


def test_a_touch_counts_from_its_own_time() -> None:
    rig = Rig()
    rig.timer.start()
    rig.clock.advance(6)
    rig.touch()
    rig.clock.advance(LIMIT - 0.5)
    assert rig.fired == []
    rig.clock.advance(0.5)
    assert rig.fired == [6 + LIMIT]


def test_what_lies_unread_when_a_long_turn_ends_counts_before_silence_does() -> None:
    rig = Rig()
    rig.timer.start()
    rig.clock.callLater(LIMIT, rig.touch)
    rig.clock.advance(LIMIT)
    assert rig.fired == []
    rig.clock.advance(LIMIT)
    assert rig.fired == [2 * LIMIT]


def test_touching_schedules_nothing() -> None:
    rig = Rig()
    rig.timer.start()
    [before] = rig.clock.getDelayedCalls()
    for _ in range(100):
        rig.clock.advance(0.01)
        rig.touch()
    assert rig.clock.getDelayedCalls() == [before]


def test_stopping_leaves_no_delayed_call_and_may_be_repeated() -> None:
    rig = Rig()
    rig.timer.start()
    rig.timer.stop()
    rig.timer.stop()
    assert rig.clock.getDelayedCalls() == []
    rig.clock.advance(LIMIT * 3)
    assert rig.fired == []


def test_starting_again_counts_anew_with_one_delayed_call() -> None:
    rig = Rig()
    rig.timer.start()
    rig.clock.advance(6)
    rig.timer.start()
    assert len(rig.clock.getDelayedCalls()) == 1
    rig.clock.advance(LIMIT - 0.5)
    assert rig.fired == []
    rig.clock.advance(0.5)
    assert rig.fired == [6 + LIMIT]


def test_it_can_be_started_from_its_own_callback() -> None:
    clock = Clock()
    fired: list[float] = []

    def silent() -> None:
        fired.append(clock.seconds())
        timer.start()

    timer = SilenceTimer(clock, LIMIT, silent)
    timer.start()
    clock.pump([LIMIT] * 3)
    assert fired == [LIMIT, LIMIT * 2, LIMIT * 3]


@given(
    st.floats(0.001, 1000.0),
    st.lists(st.tuples(st.sampled_from(["touch", "start", "stop", "wait"]), st.floats(0, 2000.0)), max_size=30),
)
def test_it_fires_exactly_when_nothing_happened_for_the_limit(limit: float, steps: list[tuple[str, float]]) -> None:
    """Against a model that is asked at every step; times are far from what floats cannot tell apart."""
    rig = Rig(limit)
    running, last, expected = False, 0.0, 0
    for what, wait in steps:
        rig.clock.advance(wait)
        now = rig.clock.seconds()
        if running and now - last > limit + 1e-9:
            running, expected = False, expected + 1
        elif running and now - last > limit - 1e-9:
            return  # a tie that rounding decides
        assert len(rig.fired) == expected
        assert rig.timer.running is running
        if what == "start":
            running, last = True, now
            rig.timer.start()
        elif what == "touch":
            last = now
            rig.touch()
        elif what == "stop":
            running = False
            rig.timer.stop()
    assert len(rig.clock.getDelayedCalls()) == running


def test_a_gap_timer_knows_the_longest_silence_and_the_one_that_lasts() -> None:
    clock = Clock()
    timer = GapTimer(clock, 100.0, lambda: None)
    clock.advance(50.0)
    timer.start()
    for pause in (2.0, 7.0, 3.0):
        clock.advance(pause)
        timer.touch(clock.seconds())
    assert timer.longest(clock.seconds()) == 7.0
    clock.advance(9.0)
    assert timer.longest(clock.seconds()) == 9.0
