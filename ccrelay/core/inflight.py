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
    budget delays and cannot deadlock. The bytes held are thus below ``limit``, one body, and what each paused client
    had on its way. ``held``: the bytes held now.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held = 0
        self._holders: dict[Holder, int] = {}  # oldest first
        self._paused: set[Holder] = set()

    def add(self, holder: Holder, count: int) -> None:
        """``holder`` received ``count`` bytes more. Holders are told apart by identity; the first call sets the age."""
        self.held += count
        self._holders[holder] = self._holders.get(holder, 0) + count
        if self.limit and self.held > self.limit and holder not in self._paused and holder is not self._oldest():
            self._paused.add(holder)
            holder.pause()

    def release(self, holder: Holder) -> None:
        """``holder`` gave back all it held. It is resumed if it was paused, and so is whoever waits, the oldest first,
        as far as there is room. Nothing happens for a holder that is not known.
        """
        self.held -= self._holders.pop(holder, 0)
        self._resume(holder)
        oldest = self._oldest()
        if oldest is not None:
            self._resume(oldest)
        if self._paused:
            for waiting in list(self._holders):
                if self.held > self.limit:
                    break
                self._resume(waiting)

    def _oldest(self) -> Holder | None:
        return next(iter(self._holders), None)

    def _resume(self, holder: Holder) -> None:
        if holder in self._paused:
            self._paused.remove(holder)
            holder.resume()
