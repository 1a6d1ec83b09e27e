"""Which key of a provider a call gets, and what the pool makes of how the call ended (design section 6).

Rules of this file:
- A key that an upstream called tired has a "not before". Only time lifts it: of several the latest counts, and no
  success, which may belong to an older attempt, shortens it.
- A key that was refused (401, 403, no credit) is parked, and gets one call every PARK_LOOK seconds: a refusal ends
  without a word to us, when a bill is paid or a limit raised, and the outcome does not say which of them it was.
  Success of such a call or a reload brings it back. What was dispatched before a key was parked tells
  nothing about the time after.
- ``now`` is in seconds of one monotonic clock, the same for all pools that adopt from one another.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ccrelay.core.failures import MAX_WAIT
from ccrelay.core.model import Usage
from ccrelay.core.outcomes import Outcome
from ccrelay.core.rate_headers import LearnedLimits
from ccrelay.core.rate_limits import MINUTE, Demand, KeyLimits, LimitStatus, Reservation

if TYPE_CHECKING:
    from random import Random

TIRED_FOR: Final = MINUTE
"""Seconds a key rests after a 429 that names no time: the limits are per minute, so by then it has something left."""

PARK_LOOK: Final = 900.0
"""Seconds between two calls with a parked key: 96 refused attempts a day cost no money and little time, and a key whose
bill was paid is back within a coffee break, without anybody reloading."""

_LEAST: Final = Demand(1, 1)
"""The smallest call there is, for questions that are asked without a call."""

_ALIVE: Final = frozenset({Outcome.ANSWERED, Outcome.TRUNCATED, Outcome.STALLED})
"""Outcomes that only a key which the upstream accepts can have: an answer had begun."""

_REFUSED: Final = frozenset({Outcome.CALLERS_FAULT, Outcome.UNFIT, Outcome.KEY_TIRED, Outcome.KEY_DEAD})
"""Outcomes of which no token was used: the upstream said no before it did anything."""


class KeyState(enum.Enum):
    """Whether a key would be given out now, and if not, what it waits for. The value is the word on the status page."""

    USABLE = "usable"
    COOLING = "cooling"
    PARKED = "parked"
    EXHAUSTED = "exhausted"


@dataclass(frozen=True, slots=True)
class PoolKey:
    """A key as configured.

    id: its fingerprint, or "" for a provider without keys. priority: the highest go first. weight: above 0, its share
    under ``weighted``. rpm, input_tpm, output_tpm: requests and tokens per minute, 0: learn from headers.
    """

    id: str
    priority: int
    weight: float
    rpm: int
    input_tpm: int
    output_tpm: int


@dataclass(frozen=True, slots=True)
class KeyStatus:
    """A key for the status page. wait: seconds until it may be used (0: now). reason: why it is not usable, or ""."""

    id: str
    state: KeyState
    wait: float
    in_flight: int
    limits: tuple[LimitStatus, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class KeyWait:
    """No key can be had now.

    until: the earliest time at which one not excluded has room for the demand; inf if only parked ones are left, whose
    next look promises nothing, or none at all.
    """

    until: float
    reason: str


class _Key:
    """What is known of one key; shared by the pools and the leases that know it."""

    __slots__ = ("cooling_reason", "cooling_until", "in_flight", "limits", "look_at", "parked_reason", "parkings")

    def __init__(self, limits: KeyLimits) -> None:
        self.limits = limits
        self.in_flight = 0
        self.cooling_until = -math.inf
        self.cooling_reason = ""
        self.parked_reason: str | None = None
        self.look_at = math.inf
        self.parkings = 0

    def ready_at(self, now: float, demand: Demand) -> float:
        """When it may be given out: ``now``, or later; inf while it is parked and not due for a look."""
        at = max(self.cooling_until, self.limits.ready_at(now, demand))
        if self.parked_reason is not None and (at > now or self.look_at > now):
            return math.inf
        return max(at, now)

    def state(self, now: float) -> KeyState:
        if self.parked_reason is not None:
            return KeyState.PARKED
        if self.cooling_until > now:
            return KeyState.COOLING
        return KeyState.USABLE if self.limits.ready_at(now, _LEAST) <= now else KeyState.EXHAUSTED

    def status(self, now: float, name: str) -> KeyStatus:
        state = self.state(now)
        if state is KeyState.PARKED:
            at, reason = max(self.look_at, self.cooling_until), self.parked_reason or ""
        elif state is KeyState.COOLING:
            at, reason = self.ready_at(now, _LEAST), self.cooling_reason
        else:
            at = self.ready_at(now, _LEAST)
            reason = "" if state is KeyState.USABLE else "waits for its limits"
        return KeyStatus(name, state, max(0.0, at - now), self.in_flight, self.limits.status(now), reason)

    def cool(self, until: float, reason: str) -> None:
        if until > self.cooling_until:
            self.cooling_until = until
            self.cooling_reason = reason

    def park(self, now: float, reason: str) -> None:
        self.parked_reason = reason
        self.look_at = now + PARK_LOOK
        self.parkings += 1

    def unpark(self) -> None:
        self.parked_reason = None
        self.look_at = math.inf


class KeyLease:
    """The right to make one attempt with one key. ``key``: its id. To be settled once, however the attempt ends."""

    __slots__ = ("_parkings", "_reservation", "_settled", "_state", "key")

    def __init__(self, key: str, state: _Key, reservation: Reservation) -> None:
        self.key = key
        self._state = state
        self._reservation = reservation
        self._parkings = state.parkings
        self._settled = False
        state.in_flight += 1

    def learn(self, now: float, learned: LearnedLimits) -> None:
        """Take over what the head of a successful answer told, when it arrives: at the end of a stream it is old.

        Nothing happens once the lease is settled.
        """
        if self._settled:
            return
        self._state.limits.learn(now, learned, self._reservation)
        rest = learned.rest()
        if rest is not None:
            self._state.cool(now + rest[0], rest[1])

    def settle(
        self,
        now: float,
        outcome: Outcome,
        usage: Usage | None,
        retry_after: float | None,
        learned: LearnedLimits | None,
        reason: str = "",
    ) -> None:
        """The attempt has ended. A second time nothing happens.

        usage: what was used; None: not known, so the reservation stays counted, unless the upstream refused the call.
        retry_after: seconds the upstream asked to wait. learned: what its headers told, if they came just now;
        ``learn`` is for those that came earlier. reason: a short phrase for the status page, such as
        ``Failure.reason``.
        """
        if self._settled:
            return
        state = self._state
        if learned is not None:
            state.limits.learn(now, learned, self._reservation)
        state.limits.settle(now, self._reservation, Usage() if usage is None and outcome in _REFUSED else usage)
        state.in_flight -= 1
        self._settled = True

        rest = learned.rest() if learned is not None else None
        if outcome is Outcome.KEY_TIRED:
            # What the upstream asks for goes before its resets: those say when a window is full, not when it has room.
            if retry_after is not None and 0 < retry_after <= MAX_WAIT:
                rest = (retry_after, reason or outcome.value)
            elif rest is None:
                rest = (TIRED_FOR, reason or outcome.value)
        if rest is not None:
            state.cool(now + rest[0], rest[1])

        if self._parkings != state.parkings:
            return
        if outcome is Outcome.KEY_DEAD:
            state.park(now, reason or outcome.value)
        elif outcome in _ALIVE:
            state.unpark()


@dataclass(frozen=True, slots=True)
class _Choice:
    """A key that may be given out, as a strategy sees it. room: see ``KeyLimits.head_room``."""

    key: PoolKey
    state: _Key
    room: float


def _least_loaded(choices: Sequence[_Choice], rng: Random) -> _Choice:  # noqa: ARG001
    return min(choices, key=lambda choice: (-choice.room, choice.state.in_flight))


def _round_robin(choices: Sequence[_Choice], rng: Random) -> _Choice:  # noqa: ARG001
    return choices[0]


def _random(choices: Sequence[_Choice], rng: Random) -> _Choice:
    return rng.choice(choices)


def _weighted(choices: Sequence[_Choice], rng: Random) -> _Choice:
    return rng.choices(choices, [choice.key.weight for choice in choices])[0]


_STRATEGIES: Final[dict[str, Callable[[Sequence[_Choice], Random], _Choice]]] = {
    "least_loaded": _least_loaded,
    "round_robin": _round_robin,
    "random": _random,
    "weighted": _weighted,
}
"""Each gets at least one choice, all of one priority, beginning with the one after the key that was last chosen."""


class KeyPool:
    """The keys of one provider. Every method takes time linear in their number; nothing grows with the calls.

    keys: in the order of the file; of two with one id the first counts. strategy: ``least_loaded`` (the most room in
    the tightest window, then the fewest in flight), ``round_robin``, ``random`` or ``weighted``; KeyError for another
    word. rng: for the last two.
    """

    def __init__(self, keys: Sequence[PoolKey], strategy: str, rng: Random) -> None:
        self._pick = _STRATEGIES[strategy]
        self._rng = rng
        self._keys: dict[str, PoolKey] = {}
        for key in keys:
            self._keys.setdefault(key.id, key)
        self._states = {key.id: _Key(KeyLimits(key.rpm, key.input_tpm, key.output_tpm)) for key in self._keys.values()}
        self._order = list(self._keys)  # the key that was last chosen stands last

    def choose(
        self, now: float, demand: Demand, *, excluded: Collection[str] = (), preferred: str | None = None
    ) -> KeyLease | KeyWait:
        """A lease of the best key that is usable now, its demand reserved, or how long to wait for one.

        excluded: ids that this call has tried. preferred: the id that goes before priority and strategy while usable.
        """
        left = [name for name in self._order if name not in excluded]
        ready = {name: self._states[name].ready_at(now, demand) for name in left}
        usable = [name for name in left if ready[name] <= now]
        if not usable:
            return self._wait(now, left, min(ready.values(), default=math.inf))
        if preferred in usable and preferred is not None:
            return self._lease(now, preferred, demand)
        highest = max(self._keys[name].priority for name in usable)
        choices = [
            _Choice(self._keys[name], self._states[name], self._states[name].limits.head_room(now, demand))
            for name in usable
            if self._keys[name].priority == highest
        ]
        name = self._pick(choices, self._rng).key.id
        at = self._order.index(name) + 1
        self._order = self._order[at:] + self._order[:at]
        return self._lease(now, name, demand)

    @property
    def size(self) -> int:
        """How many keys there are."""
        return len(self._keys)

    def wait_for(self, now: float, demand: Demand, *, excluded: Collection[str] = ()) -> KeyWait | None:
        """Why ``choose`` would give no lease now; None if it would. Takes nothing."""
        left = [name for name in self._order if name not in excluded]
        ready = min((self._states[name].ready_at(now, demand) for name in left), default=math.inf)
        return None if ready <= now else self._wait(now, left, ready)

    def has_live_key(self) -> bool:
        """Whether any key is not parked."""
        return any(state.parked_reason is None for state in self._states.values())

    def available(self, now: float) -> int:
        """How many keys a small call could get now; a parked one that is due for a look counts."""
        return sum(state.ready_at(now, _LEAST) <= now for state in self._states.values())

    def status(self, now: float) -> tuple[KeyStatus, ...]:
        """Every key, in the order of the file."""
        return tuple(self._states[name].status(now, name) for name in self._keys)

    def adopt(self, other: KeyPool) -> None:
        """Take over what ``other``, the pool before a reload, knows of keys that both have; call it before ``choose``.

        The knowledge is shared from then on: what ``other`` has leased settles here too. The limits configured here
        apply to both. Parked keys are given another chance: a reload is how the operator says that they are repaired.
        """
        for name, state in other._states.items():
            key = self._keys.get(name)
            if key is not None:
                state.limits.configure(key.rpm, key.input_tpm, key.output_tpm)
                state.unpark()
                self._states[name] = state

    def _lease(self, now: float, name: str, demand: Demand) -> KeyLease:
        state = self._states[name]
        if state.parked_reason is not None:
            state.look_at = now + PARK_LOOK
        return KeyLease(name, state, state.limits.reserve(now, demand))

    def _wait(self, now: float, left: Sequence[str], until: float) -> KeyWait:
        if not left:
            return KeyWait(math.inf, "every key was tried" if self._keys else "no keys")
        # A key that is usable for a small call waits for its limits too, if it is not for this one.
        states = [self._states[name].state(now) for name in left]
        counts = {
            "cooling": states.count(KeyState.COOLING),
            "out of quota": states.count(KeyState.EXHAUSTED) + states.count(KeyState.USABLE),
            "parked": states.count(KeyState.PARKED),
        }
        parts = [
            f"{'all' if count == len(self._keys) else count} {'key' if count == 1 < len(self._keys) else 'keys'} {word}"
            for word, count in counts.items()
            if count
        ]
        return KeyWait(until, ", ".join(parts))
