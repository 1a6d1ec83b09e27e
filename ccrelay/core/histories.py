"""Which families of models have written to a session's history, as far as this relay has seen it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ccrelay.core.bounded import BoundedMap
from ccrelay.core.thinking import SIGNATURE_TTL

SESSIONS: Final = 32768
"""Sessions remembered, as many as have a home; a forgotten one has its next body read, nothing else."""


@dataclass(frozen=True, slots=True)
class History:
    """families: that have answered, or whose blocks were found. distrusted: unknown signatures in it were refused."""

    families: frozenset[str]
    distrusted: bool = False


_UNSEEN: Final = History(frozenset())


class Histories:
    """Spares the reading of bodies: a history that one family wrote holds nothing that this family cannot read.

    Only for sessions that clients name (scope: ``affinity.scope_digest``). ``now``: seconds of one monotonic clock.
    """

    __slots__ = ("_sessions",)

    def __init__(self) -> None:
        self._sessions: BoundedMap[bytes, History] = BoundedMap(SESSIONS, SIGNATURE_TTL)

    def of(self, scope: bytes, now: float) -> History:
        """What is known of the session; of one that has not been seen, nothing."""
        return self._sessions.get(scope, now) or _UNSEEN

    def written_by(self, scope: bytes, family: str, now: float) -> bool:
        """Whether nobody but ``family`` has written to it."""
        return self.of(scope, now) == History(frozenset({family}))

    def answered(self, scope: bytes, family: str, now: float, *, others: bool, distrusted: bool) -> None:
        """``family`` answers. others: blocks of another family were taken out; the client keeps them in its history.
        distrusted: it had refused signatures that nobody here knew."""
        known = self.of(scope, now)
        families = known.families | {family} | ({"another"} if others else set())
        self._sessions.set(scope, History(families, known.distrusted or distrusted), now)
