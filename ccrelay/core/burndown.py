"""How much of each key's limits was left over the last minutes: what the status page draws."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Final

from ccrelay.core.key_pool import KeyStatus

EVERY: Final = 10.0
"""Seconds between two samples: limits refill within a minute, so six of them show how."""

POINTS: Final = 90
"""Samples kept: a quarter of an hour, in which a burst and the recovery from it can both be seen."""


class BurnDown:
    """The shares that were left, by provider, key and limit. What is no longer sampled is forgotten."""

    __slots__ = ("_series",)

    def __init__(self) -> None:
        self._series: dict[tuple[str, str, str], deque[float]] = {}

    def sample(self, keys: Iterable[tuple[str, KeyStatus]]) -> None:
        """What is left now; keys: every key there is, with its provider's name. Call it every EVERY seconds."""
        series: dict[tuple[str, str, str], deque[float]] = {}
        for provider, key in keys:
            for limit in key.limits:
                if limit.limit and limit.remaining is not None:
                    name = (provider, key.id, limit.name)
                    points = series[name] = self._series.get(name) or deque(maxlen=POINTS)
                    points.append(round(min(1.0, max(0.0, limit.remaining / limit.limit)), 3))
        self._series = series

    def of(self, provider: str, key: str, limit: str) -> tuple[float, ...]:
        """Shares 0..1, oldest first, at most POINTS."""
        return tuple(self._series.get((provider, key, limit), ()))
