"""How many body bytes are held over all calls, and which clients wait until there is room."""

from __future__ import annotations

from typing import Protocol


class Holder(Protocol):
    """Whoever receives a body."""

    def pause(self) -> None:
        """Take no more from the client for now."""

    def resume(self) -> None:
        """Go on."""


class BodyBudget:
    """Counts the bytes of all bodies against ``limit`` (0: none) and pauses who adds to them beyond it.

    The oldest holder is never paused: bodies that together pass the limit still arrive, one after another, so the
    budget delays and cannot deadlock. The bytes held are thus below ``limit`` and one body and what each paused
    client had on its way.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held = 0
        self._holders: dict[Holder, int] = {}
        self._paused: dict[Holder, None] = {}

    def add(self, holder: Holder, count: int) -> None:
        """``holder`` received ``count`` bytes more."""
        self.held += count
        self._holders[holder] = self._holders.get(holder, 0) + count
        if self.limit and self.held > self.limit and holder not in self._paused and holder is not self._oldest():
            self._paused[holder] = None
            holder.pause()

    def release(self, holder: Holder) -> None:
        """``holder`` gave back all it held; whoever waits goes on as far as there is room."""
        self.held -= self._holders.pop(holder, 0)
        self._paused.pop(holder, None)
        oldest = self._oldest()
        if oldest is not None and oldest in self._paused:
            self._resume(oldest)
        while self._paused and self.held <= self.limit:
            self._resume(next(iter(self._paused)))

    def _oldest(self) -> Holder | None:
        return next(iter(self._holders), None)

    def _resume(self, holder: Holder) -> None:
        del self._paused[holder]
        holder.resume()
