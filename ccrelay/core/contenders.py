"""What routing keeps of each provider, and the right to make one attempt with it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ccrelay.core.breaker import Breaker, Permit, breaker_verdict
from ccrelay.core.key_pool import KeyLease, KeyPool
from ccrelay.core.model import Call, Usage
from ccrelay.core.outcomes import Outcome
from ccrelay.core.rate_headers import LearnedLimits
from ccrelay.core.settings import HealthSettings


@dataclass(slots=True)
class Load:
    """What is under way at a provider, whichever configuration it began with."""

    attempts: int = 0


@dataclass(slots=True)
class Contender:
    """A configured provider and its living state.

    provider: the IProvider. pool: its keys, or the one nameless key of a provider that needs none; None where only a
    client's own credential can open it.
    """

    provider: Any
    breaker: Breaker
    pool: KeyPool | None
    load: Load = field(default_factory=Load)

    @property
    def name(self) -> str:
        name: str = self.provider.name
        return name

    @property
    def keys(self) -> int:
        """How many pooled keys it has."""
        return self.pool.size if self.pool is not None else 0

    def adopt(self, other: Contender, health: HealthSettings) -> None:
        """Take over what is known of the same provider before a reload, and go on by ``health``.

        The knowledge is shared from then on: attempts that began with ``other`` end for both.
        """
        self.load = other.load
        self.breaker = other.breaker
        self.breaker.settings = health
        if self.pool is not None and other.pool is not None:
            self.pool.adopt(other.pool)

    def takes_own(self, call: Call) -> bool:
        """Whether ``call`` goes there with its client's own credential, and with no other."""
        return call.own_credential is not None and bool(self.provider.accepts_own_credential)

    def has_key_for(self, call: Call) -> bool:
        """Whether there is anything at all that ``call`` could be sent with."""
        return self.takes_own(call) or (self.pool is not None and not call.principal.own_credential_only)


@dataclass(slots=True)
class Pick:
    """The right to make one attempt, to be settled once with how it ended; later settlements are ignored.

    key: the id of the pooled key; None for the client's own credential.
    """

    contender: Contender
    key: str | None
    _permit: Permit
    _lease: KeyLease | None
    _settled: bool = field(default=False, init=False)

    def learn(self, now: float, learned: LearnedLimits) -> None:
        """What the head of a successful answer told of limits, when it came."""
        if self._lease is not None:
            self._lease.learn(now, learned)

    def release(self, now: float, usage: Usage) -> None:
        """The attempt has ended for a reason that tells nothing of the key or the provider; ``usage`` is counted."""
        self.settle(now, Outcome.CLIENT_GONE, usage)

    def settle(
        self,
        now: float,
        outcome: Outcome,
        usage: Usage | None = None,
        retry_after: float | None = None,
        learned: LearnedLimits | None = None,
        reason: str = "",
    ) -> None:
        """The attempt has ended; see ``KeyLease.settle``."""
        if self._settled:
            return
        self._settled = True
        self.contender.load.attempts -= 1
        self._permit.settle(breaker_verdict(outcome), now)
        if self._lease is not None:
            self._lease.settle(now, outcome, usage, retry_after, learned, reason)
