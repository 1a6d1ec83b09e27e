"""Which candidate is tried next, decided without doing anything (design sections 5 and 6)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from ccrelay.core.outcomes import NEXT, Next, Outcome
from ccrelay.core.settings import KeySettings, ProviderSettings

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Candidate(Generic[T]):
    """A provider that could take the call with one of its keys.

    provider: its configured name; candidates of one provider share it. target: whatever the caller needs to try it.
    """

    provider: str
    target: T


def key_order(settings: ProviderSettings) -> tuple[KeySettings, ...]:
    """The keys to try, higher priority first, file order among equals; only the first one with pooling off."""
    if not settings.pooling.enabled:
        return settings.keys[:1]
    return tuple(sorted(settings.keys, key=lambda key: -key.priority))


def priority_order(providers: Iterable[ProviderSettings]) -> tuple[ProviderSettings, ...]:
    """Providers as the ``failover`` strategy tries them: higher priority first, file order among equals."""
    return tuple(sorted(providers, key=lambda provider: -provider.priority))


class AttemptLoop(Generic[T]):
    """The walk over a call's candidates, in the order given, under its bounds.

    most: attempts allowed in all (``routing.max_attempts``). window: seconds after the first failure in which
    another attempt may still begin (``routing.failover_timeout``).
    """

    def __init__(self, candidates: Sequence[Candidate[T]], most: int, window: float) -> None:
        self._waiting = list(candidates)
        self._most = most
        self._window = window
        self._first_failure: float | None = None
        self._current: Candidate[T] | None = None
        self.begun = 0

    def next(self, now: float) -> Candidate[T] | None:
        """The candidate to try at ``now`` (seconds), or None when nobody may be tried any more."""
        if not self._waiting or self.begun >= self._most:
            return None
        if self._first_failure is not None and now > self._first_failure + self._window:
            return None
        self._current = self._waiting.pop(0)
        self.begun += 1
        return self._current

    def failed(self, outcome: Outcome, now: float) -> None:
        """The candidate last given out ended in ``outcome``, before anything was written to the client."""
        if self._first_failure is None:
            self._first_failure = now
        allowed = NEXT[outcome]
        if allowed is Next.NOBODY:
            self._waiting.clear()
        elif allowed is Next.ANOTHER_PROVIDER and self._current is not None:
            ill = self._current.provider
            self._waiting = [c for c in self._waiting if c.provider != ill]
