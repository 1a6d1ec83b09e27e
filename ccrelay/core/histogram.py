"""Counts of observed values by size, as Prometheus takes them."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence


class Histogram:
    """How many of the values observed were at most each of ``bounds`` (ascending), and their sum. Never grows."""

    __slots__ = ("_counts", "bounds", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.sum = 0.0
        self._counts = [0] * (len(self.bounds) + 1)

    def observe(self, value: float) -> None:
        """Count ``value``; what is below 0 counts as 0, for a clock that was set back is no negative duration."""
        value = max(0.0, value)
        self._counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    @property
    def count(self) -> int:
        """Values observed."""
        return sum(self._counts)

    def cumulative(self) -> tuple[int, ...]:
        """For each bound, then for infinity: how many values were not above it."""
        found, total = [], 0
        for count in self._counts:
            total += count
            found.append(total)
        return tuple(found)
