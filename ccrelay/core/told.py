"""What has been said once and need not be said again."""

from __future__ import annotations

from typing import Final

MOST: Final = 1000
"""Things remembered; beyond that nothing is news any more, as whoever makes up so many would fill the log with them."""


class ToldOnce:
    """Keeps the log short: each thing is news once for as long as the object lives."""

    __slots__ = ("_told",)

    def __init__(self) -> None:
        self._told: set[str] = set()

    def is_news(self, thing: str) -> bool:
        """Whether ``thing`` has not been asked about before."""
        if thing in self._told or len(self._told) >= MOST:
            return False
        self._told.add(thing)
        return True
