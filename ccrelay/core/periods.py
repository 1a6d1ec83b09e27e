"""Sums by the minute and by the hour, for as many of them as are shown."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace

from ccrelay.core.model import Usage
from ccrelay.core.outcomes import Outcome


@dataclass(slots=True)
class Sums:
    """What calls came to; it is added to in place, a few times for every call.

    answered, refused, gone and failed make up ``calls``. refused: by ourselves without asking anybody, or as the
    caller's fault by an upstream. gone: their client left. cost: USD at list price, of the calls whose price is known.
    unpriced: calls with tokens whose price is not.
    """

    calls: int = 0
    answered: int = 0
    refused: int = 0
    gone: int = 0
    failed: int = 0
    attempts: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cache_write_tokens: int = 0
    cache_read_tokens: int = 0
    cost: float = 0.0
    unpriced: int = 0

    def add(self, other: Sums) -> None:
        """``other`` too."""
        self.calls += other.calls
        self.answered += other.answered
        self.refused += other.refused
        self.gone += other.gone
        self.failed += other.failed
        self.attempts += other.attempts
        self.input_tokens += other.input_tokens
        self.output_tokens += other.output_tokens
        self.cache_write_tokens += other.cache_write_tokens
        self.cache_read_tokens += other.cache_read_tokens
        self.cost += other.cost
        self.unpriced += other.unpriced

    def tokens(self) -> tuple[tuple[str, int], ...]:
        """The four classes by the names that labels and documents have for them."""
        return (
            ("input", self.input_tokens),
            ("output", self.output_tokens),
            ("cache_write", self.cache_write_tokens),
            ("cache_read", self.cache_read_tokens),
        )


def sums_of_call(outcome: Outcome | str, attempts: int, usage: Usage, cost: float | None) -> Sums:
    """One call. outcome: as in its access record. cost: None where it is not known."""
    refused = not isinstance(outcome, Outcome) or outcome is Outcome.CALLERS_FAULT
    answered, gone = outcome is Outcome.ANSWERED, outcome is Outcome.CLIENT_GONE
    return Sums(
        1,
        int(answered),
        int(refused),
        int(gone),
        int(not (answered or refused or gone)),
        attempts,
        usage.input,
        usage.output,
        usage.cache_write,
        usage.cache_read,
        cost or 0.0,
        int(cost is None),
    )


@dataclass(frozen=True, slots=True)
class Period:
    """A stretch of time. start: epoch seconds."""

    start: float
    sums: Sums


class Periods:
    """The last ``count`` periods of ``width`` seconds each, on the wall clock's own boundaries.

    ``now``: epoch seconds. What comes after the clock was set back counts in the newest period that there is.
    """

    __slots__ = ("_count", "_kept", "_width")

    def __init__(self, width: float, count: int) -> None:
        self._width = width
        self._count = count
        self._kept: deque[Period] = deque(maxlen=count)

    def add(self, now: float, sums: Sums) -> None:
        """``sums`` happened at ``now``."""
        start = now // self._width * self._width
        if not self._kept or start > self._kept[-1].start:
            self._kept.append(Period(start, Sums()))
        self._kept[-1].sums.add(sums)

    def last(self, now: float) -> tuple[Period, ...]:
        """All ``count`` periods up to the one of ``now``, oldest first, those in which nothing happened included."""
        newest = now // self._width * self._width
        if self._kept:
            newest = max(newest, self._kept[-1].start)
        kept = {period.start: period for period in self._kept}
        starts = (newest - back * self._width for back in range(self._count - 1, -1, -1))
        return tuple(
            Period(start, replace(kept[start].sums)) if start in kept else Period(start, Sums()) for start in starts
        )
