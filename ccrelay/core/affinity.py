"""Session affinity: which provider and key last answered a session (design section 8).

Prompt caches and thinking blocks are bound to both, so a session goes back there. It is a preference, never a lock: the
home of a session whose provider is ill or whose key is tired is passed over for that call, and what answers instead
becomes the new home. Nothing here is pinned for longer than ``ttl`` without an answer.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ccrelay.core.bounded import BoundedMap

CAPACITY = 32768
"""Sessions remembered, about 12 MB. A thousand developers that start thirty sessions in an hour fit; beyond that the
one that was quiet for longest loses a warm prompt cache, nothing else."""

YIELDING = frozenset({"failover"})
"""Strategies whose order of priority goes before a session's home."""


@dataclass(frozen=True, slots=True)
class Home:
    """Where a session was last answered: the provider's name, and its key's fingerprint (None: it needed none)."""

    provider: str
    key: str | None


@dataclass(frozen=True, slots=True)
class _Stay:
    home: Home
    since: float


def scope_digest(principal_digest: bytes, session: str | None) -> bytes:
    """The 32 bytes that stand for one client's session, or for all of a client's calls that name none.

    principal_digest: ``Principal.digest``. session: as the client sent it, any text. However long that is, what is
    kept of it is not; and whoever copies another client's session id ends in a scope of their own.
    """
    name = b"" if session is None else b"\1" + session.encode("utf-8", "surrogatepass")
    return hashlib.sha256(b"cc-relay session scope\0%d:%b%b" % (len(principal_digest), principal_digest, name)).digest()


class Affinity:
    """The homes of sessions, each forgotten when its session has been idle for ``ttl`` seconds.

    One object outlives the reloads, so that a call of the runtime before still tells it where it was answered.
    ``now``: seconds of one monotonic clock, never less than before.
    """

    __slots__ = ("_stays", "_ttl")

    def __init__(self, ttl: float) -> None:
        self._ttl = ttl
        self._stays: BoundedMap[bytes, _Stay] = BoundedMap(CAPACITY, ttl)

    def find(self, principal_digest: bytes, session: str, now: float) -> Home | None:
        """Where the session was last answered, or None. Asking does not count as use: only answers do."""
        stay = self._stays.get(scope_digest(principal_digest, session), now)
        return None if stay is None else stay.home

    def settle(self, principal_digest: bytes, session: str, provider: str, key: str | None, now: float) -> None:
        """The session was answered at ``now`` by ``provider`` with ``key``: that is its home from here on.

        For answered calls to /v1/messages only: a count of tokens warms no cache, and may have gone elsewhere because
        the home cannot count.
        """
        self._stays.set(scope_digest(principal_digest, session), _Stay(Home(provider, key), now), now)

    def change_ttl(self, ttl: float, now: float) -> None:
        """A reload: sessions keep their homes, and their time counts by the new ``ttl`` from their last answer on."""
        if ttl == self._ttl:
            return
        stays: BoundedMap[bytes, _Stay] = BoundedMap(CAPACITY, ttl)
        for key, stay in self._stays.items(now):
            if now < stay.since + ttl:
                stays.set(key, stay, stay.since)
        self._ttl, self._stays = ttl, stays

    def __len__(self) -> int:
        """Homes held; some may have expired."""
        return len(self._stays)


def stays(home: Home, order: Sequence[str], priorities: Mapping[str, int], strategy: str) -> bool:
    """Whether a session goes home for this call.

    order: names of the providers that may be tried for it now, as the strategy orders them: circuit not open, a key
    usable, the call within what they can take. A half-open circuit that has a place free counts, for otherwise a
    relay whose sessions have all moved away would never find out that it can be closed. priorities: of at least those.

    Home must be among them. Under ``failover`` it must also have the highest priority there: as soon as a better
    provider may be tried again, sessions move back to it. Under any other strategy a home that can be used is kept.
    """
    if home.provider not in order:
        return False
    return strategy not in YIELDING or priorities[home.provider] >= max(priorities[name] for name in order)


def home_first(
    home: Home | None, order: Sequence[str], priorities: Mapping[str, int], strategy: str
) -> tuple[str, ...]:
    """``order`` with the session's home in front if it ``stays``; the others keep their order behind it."""
    if home is None or not stays(home, order, priorities, strategy):
        return tuple(order)
    return (home.provider, *(name for name in order if name != home.provider))
