"""The one timer both edges need: fire after a stretch of silence, at no cost per byte."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import IDelayedCall, IReactorTime


class SilenceTimer:
    """Calls ``on_silence()`` once nothing has touched it for ``limit`` seconds; then it is stopped.

    ``touch()`` only notes the time: the delayed call is re-armed for the remainder when it fires, so that a stream
    of many small events schedules nothing. What came while the reactor was busy is read before silence is concluded.

    clock: IReactorTime. limit: seconds, above 0. The timer starts stopped.
    """

    __slots__ = ("_call", "_clock", "_last", "_limit", "_on_silence")

    def __init__(self, clock: IReactorTime, limit: float, on_silence: Callable[[], None]) -> None:
        self._clock = clock
        self._limit = limit
        self._on_silence = on_silence
        self._call: IDelayedCall | None = None
        self._last = 0.0

    @property
    def running(self) -> bool:
        return self._call is not None

    def start(self) -> None:
        """Begin (or begin again) to count from now."""
        self._last = self._clock.seconds()
        if self._call is None:
            self._call = self._clock.callLater(self._limit, self._check)

    def touch(self, now: float) -> None:
        """Something happened at ``now`` (the clock's seconds). Harmless while stopped."""
        self._last = now

    def stop(self) -> None:
        """Never fire until started again."""
        if self._call is not None:
            self._call.cancel()
            self._call = None

    def _check(self) -> None:
        self._call = None
        remaining = self._last + self._limit - self._clock.seconds()
        if remaining > 0:
            self._call = self._clock.callLater(remaining, self._check)
        else:
            self._call = self._clock.callLater(0, self._conclude, self._last)

    def _conclude(self, last: float) -> None:
        self._call = None
        if self._last != last:
            self._check()
        else:
            self._on_silence()


class GapTimer(SilenceTimer):
    """A SilenceTimer that also knows the longest silence there was; a touch costs 30 ns more."""

    __slots__ = ("_longest",)

    def __init__(self, clock: IReactorTime, limit: float, on_silence: Callable[[], None]) -> None:
        super().__init__(clock, limit, on_silence)
        self._longest = 0.0

    def touch(self, now: float) -> None:
        """See SilenceTimer."""
        if now - self._last > self._longest:
            self._longest = now - self._last
        self._last = now

    def longest(self, now: float) -> float:
        """Seconds of the longest silence since the start, the one that lasts at ``now`` included."""
        return max(self._longest, now - self._last)
