"""Who is asked for a call, in which order and with which key: decided here, done elsewhere (design sections 6, 8)."""

from __future__ import annotations

import enum
import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from ccrelay.core.affinity import YIELDING, Affinity, Home, home_first, scope_digest
from ccrelay.core.breaker import BreakerState
from ccrelay.core.contenders import Contender, Pick
from ccrelay.core.histories import Histories
from ccrelay.core.key_pool import KeyWait
from ccrelay.core.model import Call, CallKind
from ccrelay.core.needs import SessionRatio, estimate_from_length
from ccrelay.core.outcomes import NEXT, Next, Outcome
from ccrelay.core.pairs import PairMemory
from ccrelay.core.rate_limits import Demand
from ccrelay.core.retry_budget import ClientRetries, RetryBudget, attempts_allowed, body_fingerprint, retry_count
from ccrelay.core.settings import RoutingSettings
from ccrelay.core.strategies import Standing
from ccrelay.core.thinking import SignatureMemory
from ccrelay.errors import ClientError
from ccrelay.interfaces import IStrategy

USUAL_OUTPUT = 500
"""Tokens of output reserved for an attempt until it has told what it cost: a turn of Claude Code is 100 to 1,000."""

_WITHOUT_TURNS = YIELDING | {"model_based"}
"""Strategies that may be asked although a session's home is known: nobody's turn is used up by it."""


class Why(enum.Enum):
    """Why a provider is not asked."""

    KIND = "kind"
    NO_KEY = "no key"
    KEYS = "keys"
    CIRCUIT = "circuit"
    SIZE = "size"
    CONTEXT = "context"
    FEATURE = "feature"
    MODEL = "model"


@dataclass(frozen=True, slots=True)
class Drop:
    """A provider that is passed over for a call.

    reason: one phrase that completes the provider's name. until: seconds of the monotonic clock when that may be over;
    None where time changes nothing. error: what the client is told if it comes to that. room: of several such errors
    the one with the most is told: bytes or tokens that would have been taken. advisory: it is our estimate against our
    catalogue, and the provider would say so itself.
    """

    provider: str
    why: Why
    reason: str
    until: float | None = None
    error: ClientError | None = None
    room: int = 0
    advisory: bool = False


@dataclass(slots=True)
class RoutingMemory:
    """What routing has learned, apart from the providers' own state. One object outlives the reloads."""

    affinity: Affinity
    budget: RetryBudget
    retries: ClientRetries
    ratios: SessionRatio
    signatures: SignatureMemory
    histories: Histories
    pairs: PairMemory

    @classmethod
    def fresh(cls, routing: RoutingSettings) -> RoutingMemory:
        return cls(
            Affinity(routing.affinity.ttl),
            RetryBudget(routing.retry_budget),
            ClientRetries(),
            SessionRatio(),
            SignatureMemory(),
            Histories(),
            PairMemory(),
        )

    def reconfigure(self, routing: RoutingSettings, now: float) -> None:
        """A reload: what was learned stays, and the new numbers count from now on."""
        self.affinity.change_ttl(routing.affinity.ttl, now)
        self.budget.share = routing.retry_budget


class Router:
    """Chooses among ``contenders`` (in the order of the file) for every call of one runtime.

    mixes_families: thinking blocks may come from a family that another contender cannot read. has_several_issuers: or
    at least from another account.
    """

    def __init__(
        self, contenders: Sequence[Contender], strategy: IStrategy, routing: RoutingSettings, memory: RoutingMemory
    ) -> None:
        self.contenders = tuple(contenders)
        self.strategy = strategy
        self.routing = routing
        self.memory = memory
        self.mixes_families = len({c.provider.family for c in self.contenders}) > 1
        self.has_several_issuers = sum(max(1, c.keys) for c in self.contenders) > 1
        self.priorities = {c.name: c.provider.settings.priority for c in self.contenders}

    def route(self, call: Call, model: str, now: float) -> Route:
        """Begin to choose for ``call``, which asks for ``model``."""
        return Route(self, call, model, now)


class Route:
    """One call's way along its candidates. ``now``: seconds of one monotonic clock, never less than before.

    The relay asks ``next`` for a contender, finds out whether it can take the call (``drop`` it if not), and takes it
    with ``take``; what the attempt came to is told by ``failed``, and how the call ended by ``finished``.

    drops: who was passed over, and why. begun: attempts made. home: where the session was last answered.
    stopped: which bound ended the search, as one phrase; None where the candidates did. trusted: names of those that
    are asked although we take the prompt for too long.
    """

    def __init__(self, router: Router, call: Call, model: str, now: float) -> None:
        self._router = router
        self._memory = router.memory
        self._call = call
        self._model = model
        self._now = now
        self.drops: list[Drop] = []
        self.begun = 0
        self.stopped: str | None = None
        self.trusted: set[str] = set()
        self.scope = scope_digest(call.principal.digest, call.session)
        self.home = self._find_home(now)
        self._tried: dict[str, set[str]] = {}
        self._first_failure: float | None = None
        self._same: Contender | None = None
        self._trials: list[Contender] = []
        self._over = False
        self._most: int | None = None
        self._fingerprint: bytes | None = None
        able = [c for c in router.contenders if self._keep(c, self._never(c))]
        self._order = self._ordered(able)

    # -- choosing

    def next(self, now: float) -> Contender | None:
        """Whom to ask now, or None: nobody may be asked any more."""
        self._now = now
        if self._over or not self._may_begin(now):
            return None
        if self._same is not None:
            same, self._same = self._same, None
            if self._keep(same, self._not_now(same, now)):
                return same
        for contender in self._order:
            if self._keep(contender, self._not_now(contender, now)):
                if not self._is_needless_risk(contender, now):
                    return contender
                self._trials.append(contender)
        while self._trials:
            trial = self._trials.pop(0)
            if self._keep(trial, self._not_now(trial, now)):
                return trial
        return self._asked_all_the_same(now)

    def _asked_all_the_same(self, now: float) -> Contender | None:
        """Whom our own doubts kept from being asked, where nobody is left and waiting changes nothing.

        Who refuses long prompts itself is the authority on them: one that takes more must not fail by our catalogue.
        """
        last = {drop.provider: drop for drop in self.drops}.values()
        if self.begun or any(drop.until is not None and math.isfinite(drop.until) for drop in last):
            return None
        doubted = [drop for drop in last if drop.advisory and drop.provider not in self.trusted]
        for drop in sorted(doubted, key=lambda drop: -drop.room):
            self.trusted.add(drop.provider)
            found = next(c for c in self._router.contenders if c.name == drop.provider)
            if self._keep(found, self._not_now(found, now)):
                return found
        return None

    def _is_needless_risk(self, contender: Contender, now: float) -> bool:
        """Whether to try somebody else first: a call that has one attempt left should not find out who is well again.

        A client that repeats a call would else lose one try after the other to a provider that is reachable and ill.
        """
        if contender.breaker.state(now) is not BreakerState.HALF_OPEN:
            return False
        most, attempts = self._router.routing.max_attempts, self._attempts(now)
        return (attempts < most and self.begun + 1 >= attempts) or (most > 1 and not self._memory.budget.allows(now))

    def take(self, contender: Contender, now: float) -> Pick | None:
        """The right to ask ``contender`` now; None if it went to somebody else since ``next``."""
        tried = self._tried.setdefault(contender.name, set())
        key, lease = None, None
        if not contender.breaker.admits(now):
            self._keep(contender, self._not_now(contender, now))
            return None
        if not contender.takes_own(self._call) and contender.pool is not None:
            found = contender.pool.choose(now, self._demand(), excluded=tried, preferred=self.home_key(contender))
            if isinstance(found, KeyWait):
                self._keep(contender, Drop(contender.name, Why.KEYS, found.reason, found.until))
                return None
            lease, key = found, found.key
            tried.add(key)
        if self.begun:
            self._memory.budget.spend(now)
        else:
            self._memory.budget.call(now)
        self.begun += 1
        contender.load.attempts += 1
        return Pick(contender, key, contender.breaker.begin(now), lease)

    def repeat(self, now: float) -> bool:
        """Whether the attempt that has just failed may be made once more at the same place, differently.

        A client's own repetition of the call may have one such attempt too: without it, it would fail for ever.
        """
        most = max(self._attempts(now), min(2, self._router.routing.max_attempts))
        if self.begun >= most or not self._memory.budget.allows(now):
            return False
        self._memory.budget.spend(now)
        self.begun += 1
        return True

    def drop(self, drop: Drop) -> None:
        """A contender turned out to be unable to take the call."""
        self.drops.append(drop)

    # -- what came of it

    def failed(self, pick: Pick, outcome: Outcome, now: float) -> None:
        """An attempt ended before anything was written to the client."""
        if self._first_failure is None:
            self._first_failure = now
        follows = NEXT[outcome]
        self._over = follows is Next.NOBODY
        if follows is Next.ANOTHER_KEY and pick.key is not None:
            self._same = pick.contender

    def committed(self, pick: Pick, now: float) -> None:
        """The answer to the call has begun: its session is at home there. Call it before the body is released."""
        self._remember_body()
        session = self._call.session
        if self._router.routing.affinity.enabled and session is not None and self._call.kind is CallKind.MESSAGES:
            digest = self._call.principal.digest
            self._memory.affinity.settle(digest, session, pick.contender.name, pick.key, now)

    def finished(self, outcome: Outcome | None, now: float) -> None:
        """The call has ended; its client may ask the same again. Call it before the body is released."""
        if not self.begun:
            return
        self._remember_body()
        if self._fingerprint is None:
            return
        if outcome in (Outcome.ANSWERED, Outcome.CALLERS_FAULT, Outcome.UNFIT):
            self._memory.retries.answered(self.scope, self._fingerprint)
        else:
            self._memory.retries.record(self.scope, self._fingerprint, self.begun, now)

    def reasons(self, pick: Pick, now: float) -> dict[str, str]:
        """What ``routing.debug`` tells of an attempt: names of header lines, less their prefix, and values."""
        contender = pick.contender
        told = {"health": contender.breaker.state(now).value}
        if self.home is not None:
            kept = self.home.provider == contender.name and self.home.key in (pick.key, None)
            told["affinity"] = "kept" if kept else "moved"
        elif self._router.routing.affinity.enabled and self._call.session is not None:
            told["affinity"] = "new"
        if contender.pool is not None and pick.key:
            told["key-id"] = pick.key
            told["keys-total"] = str(contender.pool.size)
            told["keys-available"] = str(contender.pool.available(now))
        return told

    # -- bounds

    def _may_begin(self, now: float) -> bool:
        if not self.begun:
            return True
        routing = self._router.routing
        if self.begun >= self._attempts(now):
            self.stopped = f"of {routing.max_attempts} attempts none is left, the client's earlier tries counted"
        elif self._first_failure is not None and now > self._first_failure + routing.failover_timeout:
            self.stopped = f"the {routing.failover_timeout:g} s for another attempt are over"
        elif not self._memory.budget.allows(now):
            self.stopped = "the extra attempts of this minute are used up"
        return self.stopped is None

    def _attempts(self, now: float) -> int:
        """How many attempts this call may make."""
        if self._most is not None:
            return self._most
        self._remember_body()
        most, claimed = self._router.routing.max_attempts, retry_count(self._call.headers)
        if self._fingerprint is None:  # too little of the body has come yet
            return attempts_allowed(most, claimed or 0)
        before = self._memory.retries.attempts_before(self.scope, self._fingerprint, claimed, now)
        self._most = attempts_allowed(most, before)
        return self._most

    def _remember_body(self) -> None:
        if self._fingerprint is None and not self._call.body.released:
            self._fingerprint = body_fingerprint(self._call.body)

    # -- who is able

    def _ordered(self, able: Sequence[Contender]) -> Iterator[Contender]:
        """The candidates in order. Whoever can be asked only later is left out when the order is made."""
        router = self._router
        names = {c.name: c for c in able}
        strategy = router.routing.strategy
        if self.home is not None and self.home.provider in names and strategy not in _WITHOUT_TURNS:
            yield names.pop(self.home.provider)
        without_turns = strategy in _WITHOUT_TURNS
        standing = [
            Standing(c.name, c.provider.settings.priority, c.provider.settings.weight, c.load.attempts)
            for c in names.values()
            if without_turns or self._keep(c, self._not_now(c, self._now))
        ]
        order = router.strategy.order(self._model, standing, self._now)
        for left_out in sorted({s.name for s in standing}.difference(order)):
            self.drops.append(Drop(left_out, Why.MODEL, f"does not serve {self._model} (routing.model_mapping)"))
        if without_turns:
            able_now = [name for name in order if self._keep(names[name], self._not_now(names[name], self._now))]
            order = home_first(self.home, able_now, router.priorities, strategy)
        for name in order:
            yield names[name]

    def _keep(self, contender: Contender, drop: Drop | None) -> bool:
        if drop is not None:
            self.drops.append(drop)
        return drop is None

    def _never(self, contender: Contender) -> Drop | None:
        """Why the call can never go there, whatever the time; None if it may."""
        name, provider = contender.name, contender.provider
        refusal = provider.refusal(self._call, provider.model_for(self._model))
        if refusal is not None:
            return Drop(name, Why.KIND, refusal)
        if not contender.has_key_for(self._call):
            return Drop(name, Why.NO_KEY, "has no key for this client")
        most = provider.max_body_bytes
        if most is not None and self._length() > most:
            too_large = ClientError(413, "request_too_large", f"Request exceeds the maximum size of {most} bytes")
            return Drop(name, Why.SIZE, f"takes requests of at most {most} bytes", error=too_large, room=most)
        return None

    def _not_now(self, contender: Contender, now: float) -> Drop | None:
        """Why the call cannot go there now; None if it can."""
        breaker = contender.breaker
        if not breaker.admits(now):
            state = breaker.state(now).value.replace("_", " ")
            return Drop(contender.name, Why.CIRCUIT, f"is ill (circuit {state})", breaker.until(now) or now + 1)
        if contender.takes_own(self._call) or contender.pool is None:
            return None
        tried: Collection[str] = self._tried.get(contender.name, ())
        wait = contender.pool.wait_for(now, self._demand(), excluded=tried)
        if wait is not None:
            return Drop(contender.name, Why.KEYS, wait.reason, wait.until)
        return None

    def _demand(self) -> Demand:
        if self._call.kind is CallKind.COUNT_TOKENS:  # uses no tokens, and has limits of its own
            return Demand(0, 0)
        # Most of a long prompt is read from a cache, which no limit counts: the low estimate is nearer to the truth.
        return Demand(estimate_from_length(self._length())[0], USUAL_OUTPUT)

    def _length(self) -> int:
        body = self._call.body
        return body.declared_length if body.declared_length is not None else body.received

    def _find_home(self, now: float) -> Home | None:
        if not self._router.routing.affinity.enabled or self._call.session is None:
            return None
        return self._memory.affinity.find(self._call.principal.digest, self._call.session, now)

    def home_key(self, contender: Contender) -> str | None:
        """The key with which the session was last answered there; None if it was not, or without one."""
        return self.home.key if self.home is not None and self.home.provider == contender.name else None
