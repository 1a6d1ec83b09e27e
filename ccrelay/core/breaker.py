"""The circuit breaker of one provider: when it is left alone, and when it is tried again (design section 6).

    closed     --failure_threshold failures in a row-->                 open
    open       --open_duration has passed, or a probe got through-->    half open
    half open  --half_open_probes successes-->                          closed
    half open  --one failure-->                                         open

Each entry into a state begins a new period, and a call counts only in the period in which it began: what a call of an
earlier period ends in says what the provider was like before the breaker last changed its mind. So the stragglers of an
outage neither lengthen it nor open the circuit again, and an old stream's good end does not stand in for a trial.

Within the closed period failures are in a row if they were settled so: streams are settled at their end, and one that
ends well shows that the provider still answers.
"""

from __future__ import annotations

import enum

from ccrelay.core.outcomes import Outcome
from ccrelay.core.settings import HealthSettings


class BreakerState(enum.Enum):
    """Whether calls are let through. The value is the word used in logs, metrics and on the status page."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


VERDICTS: dict[Outcome, bool | None] = {
    Outcome.ANSWERED: True,
    Outcome.CALLERS_FAULT: True,
    Outcome.UNFIT: True,
    Outcome.KEY_TIRED: None,
    Outcome.KEY_DEAD: None,
    Outcome.PROVIDER_ILL: False,
    Outcome.TRUNCATED: False,
    Outcome.STALLED: False,
    Outcome.CLIENT_GONE: None,
}
"""What an attempt's end says of the provider's health: True well, False ill, None nothing."""


def breaker_verdict(outcome: Outcome) -> bool | None:
    """What to settle a permit with after ``outcome``."""
    return VERDICTS[outcome]


class Permit:
    """The right to make one attempt, from ``Breaker.begin``. To be settled at the attempt's end, however it ends."""

    __slots__ = ("_breaker", "_period")

    def __init__(self, breaker: Breaker, period: int) -> None:
        self._breaker: Breaker | None = breaker
        self._period = period

    def settle(self, verdict: bool | None, now: float) -> None:
        """The attempt has ended: well (True), badly (False), or in a way that says nothing of the provider (None).

        now: seconds, as for the breaker. Only the first call counts; every later one does nothing.
        """
        breaker, self._breaker = self._breaker, None
        if breaker is not None:
            breaker._settle(self, self._period, verdict, now)  # noqa: SLF001 - the other half of one class


class Breaker:
    """Decides from the ends of a provider's attempts whether another may begin.

    Pure: every method takes ``now``, seconds of one monotonic clock, and time passes only in them.
    settings: may be replaced, as on a reload; state and permits carry over.

    failures: calls in a row that ended badly, the last one that counted included; 0 again once the circuit closes.
    since: ``now`` at which the state last told began; None as long as the circuit has never opened.
    """

    def __init__(self, settings: HealthSettings) -> None:
        self.settings = settings
        self.failures = 0
        self.since: float | None = None
        self._state = BreakerState.CLOSED
        self._period = 0
        self._open_from = 0.0  # when it opened, or when the last probe of it failed
        self._successes = 0
        self._slots: dict[Permit, float] = {}

    def state(self, now: float) -> BreakerState:
        """The state at ``now``. An open circuit's time ends by itself, whether or not anybody probes."""
        if self._state is BreakerState.OPEN and now >= self._open_from + self.settings.open_duration:
            self._enter(BreakerState.HALF_OPEN, self._open_from + self.settings.open_duration)
        return self._state

    def until(self, now: float) -> float | None:
        """When the open circuit's time ends by itself; None unless it is open."""
        return self._open_from + self.settings.open_duration if self.state(now) is BreakerState.OPEN else None

    def admits(self, now: float) -> bool:
        """Whether an attempt may begin. Takes nothing: ask again where time passes before ``begin``."""
        state = self.state(now)
        if state is BreakerState.HALF_OPEN:
            return self._held(now) < self.settings.half_open_probes
        return state is BreakerState.CLOSED

    def begin(self, now: float) -> Permit:
        """An attempt begins; while half open it holds one of ``half_open_probes`` slots until it is settled.

        Raises RuntimeError where the breaker does not admit one: that was to be asked first, in the same turn.
        """
        if not self.admits(now):
            raise RuntimeError(f"the circuit admits no attempt: {self._state.value}")
        permit = Permit(self, self._period)
        if self._state is BreakerState.HALF_OPEN:
            self._slots[permit] = now
        return permit

    def probe_due(self, now: float) -> bool:
        """Whether the provider should be probed now: open for ``check_interval``, or so long after the last probe.

        Never where probes are disabled. It stays due until a probe's result is told: have one under way at a time. Ask
        every second or so; asked only once in an interval, it would be found due in every other one.
        """
        due = self._open_from + self.settings.check_interval
        return self.settings.check_enabled and self.state(now) is BreakerState.OPEN and now >= due

    def probe_succeeded(self, now: float) -> None:
        """A probe got through: an open circuit is half open at once. No effect in another state."""
        if self.state(now) is BreakerState.OPEN:
            self._enter(BreakerState.HALF_OPEN, now)

    def probe_failed(self, now: float) -> None:
        """A probe did not get through: an open circuit's time begins anew. No effect in another state."""
        if self.state(now) is BreakerState.OPEN:
            self._open_from = now

    def _settle(self, permit: Permit, period: int, verdict: bool | None, now: float) -> None:
        state = self.state(now)
        self._slots.pop(permit, None)
        if period != self._period or verdict is None:
            return
        if not verdict:
            self.failures += 1
            if state is BreakerState.HALF_OPEN or self.failures >= self.settings.failure_threshold:
                self._open_from = now
                self._enter(BreakerState.OPEN, now)
        elif state is BreakerState.CLOSED:
            self.failures = 0
        else:
            self._successes += 1
            if self._successes >= self.settings.half_open_probes:
                self.failures = 0
                self._enter(BreakerState.CLOSED, now)

    def _held(self, now: float) -> int:
        """Half-open slots that are taken.

        One held for ``open_duration`` is free again, or a few long streams would keep everybody else out; how its
        attempt ends still counts.
        """
        lapsed = now - self.settings.open_duration
        self._slots = {permit: taken for permit, taken in self._slots.items() if taken > lapsed}
        return len(self._slots)

    def _enter(self, state: BreakerState, now: float) -> None:
        self._state = state
        self.since = now
        self._period += 1
        self._successes = 0
        self._slots.clear()
