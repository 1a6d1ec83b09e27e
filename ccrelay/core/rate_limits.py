"""How much of its limits a key has left: token buckets, filled by time and by what the upstream says.

A bucket holds one minute's limit and refills continuously. A call takes its estimate out when it is dispatched and is
settled with its true usage. For one limit of the configuration, and calls that use no more than was reserved for
them, this holds: what is used by the calls dispatched in any span of t seconds is at most ``limit * (1 + t / 60)``. A
learned limit is the upstream's to know: what it says of it is believed, upwards too. Where a class has both, a call
needs room in both.

Refunds need care for that: a reservation that came back in full after the bucket had refilled would be spent twice.
So a bucket also counts what it may still have to give back (``_held``), level and held never make more than the limit
together, and what refills beyond that is taken from the refunds to come, from all in proportion.

A limit may be enforced in pieces (60 a minute as 1 a second). The burst of a whole minute is let through all the same:
nothing queues here, so spacing calls out would refuse what the upstream mostly takes, while its own 429 names the
second or so to wait.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from ccrelay.core.model import Usage
from ccrelay.core.rate_headers import INFORMATIVE, LearnedLimits, LearnedWindow, Window

MINUTE: Final = 60.0

_ROUNDING: Final = 1e-6
"""The part of a limit that may be missing: whoever waits until ``ready_at`` must find room in spite of float sums."""


@dataclass(frozen=True, slots=True)
class Demand:
    """The tokens a call is expected to use. Input: without what a cache will serve."""

    input_tokens: int
    output_tokens: int


@dataclass(frozen=True, slots=True)
class LimitStatus:
    """One class of a key for the status page.

    name: of the class. limit: per minute, remaining: of it, reset: seconds until full; None: not known.
    """

    name: str
    limit: int | None
    remaining: int | None
    reset: float | None


@dataclass(slots=True)
class Hold:
    """What one call has taken out of one bucket.

    told: the upstream has since said what is left, so all but what was still to come is counted. The rest is the
    bucket's own.
    """

    amount: int
    share: float
    generation: int
    told: bool = False


class Bucket:
    """One limit of one key. ``limit``: requests or tokens per minute, at least 1. Starts full.

    ``now``: seconds of one monotonic clock. An amount above the limit counts as the limit: a call that is larger than
    a minute's worth goes when the bucket is full, or it would never go.
    """

    __slots__ = ("_generation", "_held", "_level", "_rate", "_reset_at", "_scale", "_stamp", "limit")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._level = float(limit)
        self._rate = limit / MINUTE
        self._reset_at = math.inf
        self._stamp = -math.inf
        self._held = 0.0
        self._scale = 1.0  # of every hold's share; one number shrinks them all
        self._generation = 0  # holds of an earlier one have nothing left to give back

    def level(self, now: float) -> float:
        """What is left; below 0 while more was used than reserved."""
        self._advance(now)
        return self._level

    def ready_at(self, now: float, amount: int) -> float:
        """The earliest time at which ``amount`` can be taken, if nobody else takes or gives back; ``now``: at once."""
        self._advance(now)
        need = min(amount, self.limit)
        if self._fits(need):
            return now
        refilled = now + (need - self._level) / self._rate
        if refilled <= self._reset_at:
            return refilled
        missing = max(0.0, need - (self.limit - self._held))
        return self._reset_at + missing * MINUTE / self.limit

    def full_at(self, now: float) -> float:
        """The time at which nothing is missing any more."""
        return self.ready_at(now, self.limit)

    def take(self, now: float, amount: int) -> Hold:
        """Reserve ``amount``, whether it is there or not. The hold is for ``settle``, and for ``tell`` before it."""
        self._advance(now)
        amount = min(amount, self.limit)
        self._level -= amount
        self._held += amount
        return Hold(amount, amount / self._scale, self._generation)

    def settle(self, now: float, hold: Hold, used: int | None) -> None:
        """Replace the reservation by what was used; None: the reservation stands. Once per hold."""
        self._advance(now)
        credit = self._credit(hold)
        self._held = max(0.0, self._held - credit)
        if used is None:
            return
        if used <= hold.amount:
            self._level += min(hold.amount - used, credit)
        else:
            # Never deeper in debt than one limit: no upstream remembers more, and usage is only what it claims.
            self._level = max(self._level - min(used - hold.amount, 2 * self.limit), -self.limit)

    def tell(self, now: float, told: LearnedWindow, hold: Hold | None, to_come: int) -> None:
        """The upstream said so in its answer to ``hold``, just now.

        to_come: what that call will use and the upstream cannot have counted yet. Of the other calls under way it is
        not known whether they are counted: what they hold is taken off, so that this errs on the safe side.
        """
        self._advance(now)
        if told.limit is not None:
            self.resize(told.limit)
        if told.remaining is not None:
            remaining = min(told.remaining, self.limit)
            if hold is not None:
                credit = self._credit(hold)
                kept = min(credit, to_come)
                self._held = max(0.0, self._held - (credit - kept))
                hold.amount = min(hold.amount, to_come)
                hold.share = kept / self._scale
                hold.told = True
            self._level = max(remaining - self._held, -self.limit)
            self._rate = self.limit / MINUTE
            self._reset_at = math.inf
            if told.reset is not None and remaining < self.limit:
                # Some windows are longer than a minute: then they do not fill at a minute's pace.
                self._rate = min(self._rate, (self.limit - remaining) / told.reset)
            self._shrink()
        if told.reset is not None:
            self._reset_at = now + told.reset

    def resize(self, limit: int) -> None:
        """Another limit from now on. What is used up stays so; a higher limit comes with time."""
        if limit != self.limit:
            self.limit = limit
            self._rate = limit / MINUTE
            self._level = min(self._level, limit)
            self._shrink()

    def _fits(self, need: float) -> bool:
        return self._level + _ROUNDING * self.limit >= need

    def _advance(self, now: float) -> None:
        if now >= self._reset_at:
            self._flow(self._reset_at)
            self._level = self.limit - self._held
            self._rate = self.limit / MINUTE
            self._reset_at = math.inf
        self._flow(now)

    def _flow(self, now: float) -> None:
        if now > self._stamp:
            self._level = min(self.limit, self._level + (now - self._stamp) * self._rate)
            self._stamp = now
            self._shrink()

    def _shrink(self) -> None:
        room = self.limit - self._level
        if self._held <= room:
            return
        if room <= _ROUNDING * self.limit:
            self._held = 0.0
            self._scale = 1.0
            self._generation += 1
        else:
            self._scale *= room / self._held
            self._held = room

    def _credit(self, hold: Hold) -> float:
        """What of ``hold`` can still be given back."""
        return min(hold.share * self._scale, self._held) if hold.generation == self._generation else 0.0


@dataclass(frozen=True, slots=True)
class Reservation:
    """What one call has taken out of all buckets of a key: from ``KeyLimits.reserve``, for ``learn`` and ``settle``."""

    demand: Demand
    holds: tuple[tuple[Window, Bucket, Hold], ...]


class KeyLimits:
    """All limits of one key. requests, input_tokens, output_tokens: per minute, 0: only what is learned counts."""

    __slots__ = ("_configured", "_learned", "_told")

    def __init__(self, requests: int, input_tokens: int, output_tokens: int) -> None:
        self._configured: dict[Window, Bucket] = {}
        self._learned: dict[Window, Bucket] = {}
        self._told: dict[Window, tuple[LearnedWindow, float]] = {}
        self.configure(requests, input_tokens, output_tokens)

    def configure(self, requests: int, input_tokens: int, output_tokens: int) -> None:
        """Other limits from the configuration; what is learned, and what is used of those that stay, is kept."""
        limits = ((Window.REQUESTS, requests), (Window.INPUT, input_tokens), (Window.OUTPUT, output_tokens))
        for window, limit in limits:
            if not limit:
                self._configured.pop(window, None)
            elif window in self._configured:
                self._configured[window].resize(limit)
            else:
                self._configured[window] = Bucket(limit)

    def ready_at(self, now: float, demand: Demand) -> float:
        """The earliest time at which ``demand`` has room in every bucket; ``now`` if at once."""
        return max(
            (bucket.ready_at(now, _cost(window, demand.input_tokens, demand.output_tokens)) for window, bucket in self),
            default=now,
        )

    def head_room(self, now: float, demand: Demand) -> float:
        """The share of its limit that the tightest bucket would have left after ``demand``: 1.0 without limits."""
        return min(
            (
                (bucket.level(now) - _cost(window, demand.input_tokens, demand.output_tokens)) / bucket.limit
                for window, bucket in self
            ),
            default=1.0,
        )

    def reserve(self, now: float, demand: Demand) -> Reservation:
        """Take ``demand`` and one request out of every bucket. Settle it exactly once."""
        holds = (
            (window, bucket, bucket.take(now, _cost(window, demand.input_tokens, demand.output_tokens)))
            for window, bucket in self
        )
        return Reservation(demand, tuple(holds))

    def learn(self, now: float, learned: LearnedLimits, reservation: Reservation) -> None:
        """Take over what the answer to ``reservation``, not yet settled, told at ``now``.

        By then the upstream has counted the request and its input; its output is still to come.
        """
        for told in learned.windows:
            window = told.window
            if window in INFORMATIVE:
                self._told[window] = (told, now)
                continue
            bucket = self._learned.get(window)
            if bucket is None:
                if told.limit is None:
                    continue
                bucket = self._learned[window] = Bucket(told.limit)
            hold = next((hold for _, owner, hold in reservation.holds if owner is bucket), None)
            bucket.tell(now, told, hold, _cost_to_come(window, reservation.demand.output_tokens))

    def settle(self, now: float, reservation: Reservation, usage: Usage | None) -> None:
        """Replace the reservation by the true usage; None: it stays counted.

        Reads of a cache do not count against input limits, writes to it do (Anthropic's page on rate limits).
        """
        for window, bucket, hold in reservation.holds:
            used = None
            if usage is not None and hold.told:
                used = _cost_to_come(window, usage.output)
            elif usage is not None:
                used = _cost(window, usage.input + usage.cache_write, usage.output)
            bucket.settle(now, hold, used)

    def status(self, now: float) -> tuple[LimitStatus, ...]:
        """Every class of which a limit is known, with the tighter of the limits that bound it."""
        found = []
        for window in Window:
            buckets = [known[window] for known in (self._configured, self._learned) if window in known]
            if buckets:
                bucket = min(buckets, key=lambda bucket: bucket.level(now))
                remaining = max(0, int(bucket.level(now)))
                found.append(LimitStatus(window.value, bucket.limit, remaining, bucket.full_at(now) - now))
            elif window in self._told:
                told, then = self._told[window]
                reset = None if told.reset is None else max(0.0, then + told.reset - now)
                found.append(LimitStatus(window.value, told.limit, told.remaining, reset))
        return tuple(found)

    def __iter__(self) -> Iterator[tuple[Window, Bucket]]:
        yield from self._configured.items()
        yield from self._learned.items()


def _cost(window: Window, input_tokens: int, output_tokens: int) -> int:
    if window is Window.REQUESTS:
        return 1
    if window is Window.INPUT:
        return input_tokens
    if window is Window.OUTPUT:
        return output_tokens
    return input_tokens + output_tokens


def _cost_to_come(window: Window, output_tokens: int) -> int:
    return output_tokens if window in (Window.OUTPUT, Window.COMBINED) else 0
