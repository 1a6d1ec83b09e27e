"""The circuit breaker: its states, whose end counts, and the whole of it against a simple model."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ccrelay.core.breaker import VERDICTS, Breaker, BreakerState, breaker_verdict
from ccrelay.core.outcomes import Outcome
from ccrelay.core.settings import HealthSettings

SETTINGS = HealthSettings(
    failure_threshold=3, open_duration=30, half_open_probes=2, check_enabled=True, check_interval=10
)


def breaker(**changes: object) -> Breaker:
    return Breaker(replace(SETTINGS, **changes))  # type: ignore[arg-type]


def fail(circuit: Breaker, times: int, now: float) -> None:
    for _ in range(times):
        circuit.begin(now).settle(False, now)


def opened(**changes: object) -> Breaker:
    """A circuit that opened at 100."""
    circuit = breaker(**changes)
    fail(circuit, circuit.settings.failure_threshold, 100)
    assert circuit.state(100) is BreakerState.OPEN
    return circuit


# Closed


def test_failures_in_a_row_open_it() -> None:
    circuit = breaker()
    fail(circuit, 2, 5)
    before = circuit.state(5), circuit.admits(5), circuit.failures, circuit.since, circuit.until(5)
    fail(circuit, 1, 6)

    assert before == (BreakerState.CLOSED, True, 2, None, None)
    assert (circuit.state(6), circuit.admits(6), circuit.failures) == (BreakerState.OPEN, False, 3)
    assert (circuit.since, circuit.until(6)) == (6, 36)


def test_a_success_between_them_starts_the_row_anew() -> None:
    circuit = breaker()
    fail(circuit, 2, 0)
    circuit.begin(0).settle(True, 0)
    fail(circuit, 2, 0)

    assert (circuit.state(0), circuit.failures) == (BreakerState.CLOSED, 2)


def test_an_end_that_says_nothing_neither_breaks_the_row_nor_lengthens_it() -> None:
    circuit = breaker()
    fail(circuit, 2, 0)
    circuit.begin(0).settle(None, 0)
    still_closed = circuit.state(0)
    fail(circuit, 1, 0)

    assert (still_closed, circuit.state(0)) == (BreakerState.CLOSED, BreakerState.OPEN)


def test_calls_that_fail_together_open_it_once() -> None:
    circuit = breaker()
    permits = [circuit.begin(0) for _ in range(10)]
    for now, permit in enumerate(permits):
        permit.settle(False, now)

    assert (circuit.state(9), circuit.failures, circuit.since, circuit.until(9)) == (BreakerState.OPEN, 3, 2, 32)


@pytest.mark.parametrize("second", [True, False, None])
def test_only_the_first_settlement_counts(second: bool | None) -> None:
    circuit = breaker()
    permit = circuit.begin(0)
    permit.settle(False, 0)
    for _ in range(5):
        permit.settle(second, 0)

    assert (circuit.state(0), circuit.failures) == (BreakerState.CLOSED, 1)


# Open


def test_an_open_circuit_ends_by_itself_though_nobody_probes() -> None:
    circuit = opened(check_enabled=False)

    assert (circuit.admits(129.9), circuit.probe_due(129.9)) == (False, False)
    assert (circuit.state(500), circuit.since, circuit.until(500)) == (BreakerState.HALF_OPEN, 130, None)
    assert circuit.admits(500)


def test_begin_without_being_admitted_is_a_fault_of_the_caller() -> None:
    circuit = opened()

    with pytest.raises(RuntimeError, match="open"):
        circuit.begin(129)


@pytest.mark.parametrize("verdict", [True, False, None])
def test_a_call_from_before_does_not_change_an_open_circuit(verdict: bool | None) -> None:
    circuit = breaker()
    straggler = circuit.begin(0)
    fail(circuit, 3, 100)
    straggler.settle(verdict, 110)

    assert (circuit.state(110), circuit.until(110), circuit.failures) == (BreakerState.OPEN, 130, 3)


@pytest.mark.parametrize("verdict", [True, False])
def test_a_call_from_before_is_no_trial_of_a_half_open_circuit(verdict: bool) -> None:
    circuit = breaker(half_open_probes=1)
    stragglers = [circuit.begin(0) for _ in range(5)]
    fail(circuit, 3, 100)
    held = circuit.begin(130)
    for straggler in stragglers:
        straggler.settle(verdict, 131)

    assert (circuit.state(131), circuit.admits(131)) == (BreakerState.HALF_OPEN, False)
    held.settle(None, 132)
    assert circuit.admits(132)


def test_calls_from_before_an_outage_do_not_open_it_again_afterwards() -> None:
    circuit = breaker(half_open_probes=1)
    stragglers = [circuit.begin(0) for _ in range(5)]
    fail(circuit, 3, 100)
    circuit.begin(130).settle(True, 131)
    for straggler in stragglers:
        straggler.settle(False, 132)

    assert (circuit.state(132), circuit.failures) == (BreakerState.CLOSED, 0)


# Probes


def test_a_probe_is_due_an_interval_after_opening_and_after_each_failed_one() -> None:
    circuit = opened()
    first = circuit.probe_due(109.9), circuit.probe_due(110)
    circuit.probe_failed(112)

    assert first == (False, True)
    assert (circuit.probe_due(121.9), circuit.probe_due(122)) == (False, True)


def test_probes_are_due_only_while_it_is_open() -> None:
    closed, half_open = breaker(), opened()

    assert (closed.probe_due(1000), half_open.probe_due(130)) == (False, False)


def test_a_failed_probe_keeps_it_open_from_then_on() -> None:
    circuit = opened()
    circuit.probe_failed(120)

    assert (circuit.until(120), circuit.since, circuit.failures) == (150, 100, 3)
    assert (circuit.state(149.9), circuit.state(150)) == (BreakerState.OPEN, BreakerState.HALF_OPEN)


def test_a_probe_that_gets_through_half_opens_it_at_once() -> None:
    circuit = opened()
    circuit.probe_succeeded(101)

    assert (circuit.state(101), circuit.since, circuit.admits(101)) == (BreakerState.HALF_OPEN, 101, True)


def test_results_of_probes_mean_nothing_to_a_circuit_that_is_not_open() -> None:
    closed, half_open = breaker(), opened()
    fail(closed, 2, 0)
    held = half_open.begin(130)
    for circuit in closed, half_open:
        circuit.probe_failed(131)
        circuit.probe_succeeded(131)
    held.settle(True, 132)
    half_open.begin(132).settle(True, 132)

    assert (closed.state(131), closed.failures) == (BreakerState.CLOSED, 2)
    assert half_open.state(132) is BreakerState.CLOSED


# Half open


def test_half_open_lets_few_calls_through_at_once() -> None:
    circuit = opened()
    first = circuit.begin(130)
    circuit.begin(130)
    full = circuit.admits(131)
    first.settle(None, 132)

    assert (full, circuit.admits(132), circuit.state(132)) == (False, True, BreakerState.HALF_OPEN)
    with pytest.raises(RuntimeError, match="half_open"):
        [circuit.begin(132) for _ in range(2)]


def test_as_many_successes_close_it() -> None:
    circuit = opened()
    one, two = circuit.begin(130), circuit.begin(130)
    one.settle(True, 140)
    before = circuit.state(140), circuit.failures
    two.settle(True, 141)

    assert before == (BreakerState.HALF_OPEN, 3)
    assert (circuit.state(141), circuit.failures, circuit.since) == (BreakerState.CLOSED, 0, 141)
    fail(circuit, 2, 142)
    assert circuit.state(142) is BreakerState.CLOSED


def test_one_failure_opens_it_again_for_the_whole_time() -> None:
    circuit = opened()
    other = circuit.begin(130)
    circuit.begin(130).settle(True, 131)
    circuit.begin(131).settle(False, 135)
    other.settle(True, 136)

    assert (circuit.state(136), circuit.since, circuit.until(136), circuit.failures) == (BreakerState.OPEN, 135, 165, 4)


def test_successes_of_an_earlier_half_open_time_do_not_count_in_the_next() -> None:
    circuit = opened()
    circuit.begin(130).settle(True, 131)
    circuit.begin(131).settle(False, 132)
    circuit.begin(162).settle(True, 163)

    assert circuit.state(163) is BreakerState.HALF_OPEN


def test_long_streams_do_not_keep_it_half_open_for_ever() -> None:
    circuit = opened()
    streams = [circuit.begin(130), circuit.begin(135)]
    admitted = [circuit.admits(now) for now in (159.9, 160)]
    third = circuit.begin(160)
    full = circuit.admits(164.9)
    third.settle(True, 164.9)
    streams[0].settle(True, 164.9)

    assert (admitted, full) == ([False, True], False)
    assert circuit.state(164.9) is BreakerState.CLOSED


def test_a_long_stream_that_ends_badly_opens_it_though_its_slot_was_free_again() -> None:
    circuit = opened()
    stream = circuit.begin(130)
    assert circuit.admits(200)
    stream.settle(False, 201)

    assert (circuit.state(201), circuit.until(201)) == (BreakerState.OPEN, 231)


def test_new_settings_keep_the_state() -> None:
    circuit = opened()
    circuit.settings = replace(SETTINGS, open_duration=5.0)

    assert (circuit.state(104.9), circuit.until(104.9), circuit.state(105)) == (
        BreakerState.OPEN,
        105,
        BreakerState.HALF_OPEN,
    )


# Outcomes


def test_every_outcome_has_a_verdict() -> None:
    assert set(VERDICTS) == set(Outcome)


def test_only_what_the_provider_did_counts_for_or_against_it() -> None:
    verdicts = {verdict: {o for o in Outcome if breaker_verdict(o) is verdict} for verdict in (True, False, None)}

    assert verdicts[True] == {Outcome.ANSWERED, Outcome.CALLERS_FAULT, Outcome.UNFIT}
    assert verdicts[False] == {Outcome.PROVIDER_ILL, Outcome.TRUNCATED, Outcome.STALLED}
    assert verdicts[None] == {Outcome.KEY_TIRED, Outcome.KEY_DEAD, Outcome.CLIENT_GONE}


# Everything, against a model that keeps the whole story and looks back at it


@dataclass
class Begun:
    """A call of the model: when it began, in which period, and whether it has ended."""

    period: int
    at: int
    ended: bool = False


class Machine(RuleBasedStateMachine):
    """Time moves in whole seconds, so that boundaries are hit."""

    @initialize(
        threshold=st.integers(1, 4), duration=st.integers(1, 8), probes=st.integers(1, 3), interval=st.integers(1, 9)
    )
    def start(self, threshold: int, duration: int, probes: int, interval: int) -> None:
        self.settings = HealthSettings(threshold, duration, probes, True, interval)
        self.breaker = Breaker(self.settings)
        self.now = 0
        # One entry per period: state, beginning, and what counted in it.
        self.periods: list[tuple[str, int, list[bool]]] = [("closed", 0, [])]
        self.quiet_from = 0
        self.calls: list[Begun] = []
        self.permits: list[object] = []

    def enter(self, state: str, at: int) -> None:
        self.periods.append((state, at, []))
        if state == "open":
            self.quiet_from = at

    def model_admits(self) -> bool:
        state = self.periods[-1][0]
        held = [
            c
            for c in self.calls
            if c.period == len(self.periods) and not c.ended and self.now < c.at + self.settings.open_duration
        ]
        return state == "closed" or (state == "half_open" and len(held) < self.settings.half_open_probes)

    @rule(seconds=st.integers(1, 6))
    def wait(self, seconds: int) -> None:
        self.now += seconds
        end = self.quiet_from + self.settings.open_duration
        if self.periods[-1][0] == "open" and self.now >= end:
            self.enter("half_open", end)

    @rule()
    def begin(self) -> None:
        if not self.model_admits():
            with pytest.raises(RuntimeError):
                self.breaker.begin(self.now)
            return
        self.permits.append(self.breaker.begin(self.now))
        self.calls.append(Begun(len(self.periods), self.now))

    @precondition(lambda self: self.calls)
    @rule(data=st.data(), verdict=st.sampled_from([True, False, False, None]))
    def settle(self, data: st.DataObject, verdict: bool | None) -> None:
        # Any call, so also one that has ended already or began long ago.
        which = data.draw(st.integers(0, len(self.calls) - 1))
        self.permits[which].settle(verdict, self.now)  # type: ignore[attr-defined]
        call = self.calls[which]
        counts = not call.ended and call.period == len(self.periods) and verdict is not None
        call.ended = True
        if not counts:
            return
        state, _, verdicts = self.periods[-1]
        verdicts.append(bool(verdict))
        latest = verdicts[-self.settings.failure_threshold :]
        enough = len(latest) == self.settings.failure_threshold and not any(latest)
        if not verdict and (state == "half_open" or enough):
            self.enter("open", self.now)
        elif state == "half_open" and len(verdicts) == self.settings.half_open_probes:
            self.enter("closed", self.now)

    @rule(through=st.booleans())
    def probe(self, through: bool) -> None:
        (self.breaker.probe_succeeded if through else self.breaker.probe_failed)(self.now)
        if self.periods[-1][0] == "open":
            if through:
                self.enter("half_open", self.now)
            else:
                self.quiet_from = self.now

    @invariant()
    def agrees(self) -> None:
        state, since, _ = self.periods[-1]
        is_open = state == "open"

        assert self.breaker.state(self.now).value == state
        assert self.breaker.since == (since if len(self.periods) > 1 else None)
        assert self.breaker.admits(self.now) == self.model_admits()
        assert self.breaker.until(self.now) == (self.quiet_from + self.settings.open_duration if is_open else None)
        assert self.breaker.probe_due(self.now) == (
            is_open and self.now >= self.quiet_from + self.settings.check_interval
        )


TestAgainstAModel = Machine.TestCase
