"""The status document: what the daemon is doing, as one value and as JSON.

``docs/status.md`` says what every field means; a field is added there and here. Nothing in it is a secret: keys appear
as fingerprints, clients as addresses, and no text of a prompt or an answer is known here.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from ccrelay.core.access import utc
from ccrelay.core.contenders import Contender
from ccrelay.core.key_pool import KeyState, KeyStatus
from ccrelay.core.live import LiveCall
from ccrelay.core.periods import Period, Sums
from ccrelay.core.rate_limits import LimitStatus
from ccrelay.core.router import RoutingMemory
from ccrelay.core.tally import RecentCall, Tally

VERSION: Final = 1
"""Of the document; it changes when a field is renamed, removed or means something else, not when one is added."""


@dataclass(frozen=True, slots=True)
class Daemon:
    """The process. time, started: epoch seconds. lag: how late the reactor was last, seconds. clients: connections.

    reload_at: of the last reload, epoch seconds, None if there was none; reload_error: why it was refused, else None.
    drain_left: while it drains, seconds until calls that have not finished are cut; else None.
    """

    version: str
    time: float
    started: float
    draining: bool
    lag: float
    clients: int
    reloads: int
    reload_failures: int
    reload_at: float | None
    reload_error: str | None
    drain_left: float | None = None


@dataclass(frozen=True, slots=True)
class Connections:
    """Upstream connections of one provider: in use, and kept for another exchange."""

    busy: int
    idle: int


@dataclass(frozen=True, slots=True)
class Circuit:
    """A breaker. failures: calls in a row that ended badly. since, until: seconds ago, seconds to go; None: n/a."""

    state: str
    failures: int
    since: float | None
    until: float | None


@dataclass(frozen=True, slots=True)
class Limit:
    """One limit of a key: per minute, what is left, seconds until full. history: shares left, oldest first."""

    name: str
    limit: int | None
    remaining: int | None
    reset: float | None
    history: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Key:
    """A pooled key. id: its fingerprint, "" where the provider needs none. wait: seconds until it may be used."""

    id: str
    state: str
    wait: float | None
    reason: str
    in_flight: int
    limits: tuple[Limit, ...]


@dataclass(frozen=True, slots=True)
class Provider:
    """A provider. usable: a call might be answered there. in_flight: attempts under way. streams: answers under way.

    connections: None where it has none (the simulator). sums: of the calls that ended there since the start.
    """

    name: str
    type: str
    priority: int
    usable: bool
    circuit: Circuit
    in_flight: int
    streams: int
    connections: Connections | None
    keys: tuple[Key, ...]
    sums: Sums


@dataclass(frozen=True, slots=True)
class Routing:
    """What routing knows. amplification: attempts per call over the last minute. The others: entries remembered."""

    strategy: str
    amplification: float
    sessions: int
    questions: int
    signatures: int
    refused_pairs: int


@dataclass(frozen=True, slots=True)
class Status:
    """Everything. live: the oldest calls under way, of ``in_flight`` in all. recent: newest first."""

    daemon: Daemon
    routing: Routing
    providers: tuple[Provider, ...]
    in_flight: int
    live: tuple[LiveCall, ...]
    recent: tuple[RecentCall, ...]
    total: Sums
    minutes: tuple[Period, ...]
    hours: tuple[Period, ...]

    @property
    def health(self) -> str:
        """``ok``, ``draining`` or ``no usable provider``: the same words as on the data port."""
        if self.daemon.draining:
            return "draining"
        return "ok" if any(provider.usable for provider in self.providers) else "no usable provider"


def status_of(
    daemon: Daemon,
    now: float,
    contenders: Sequence[Contender],
    memory: RoutingMemory,
    strategy: str,
    tally: Tally,
    usable: Callable[[Contender], bool],
    connections: Mapping[str, tuple[int, int]],
) -> Status:
    """The status at ``now``, seconds of the clock that contenders and memory are told.

    connections: by provider, open ones and the idle ones among them.
    """
    streams = tally.live.streams()
    return Status(
        daemon=daemon,
        routing=Routing(
            strategy=strategy,
            amplification=round(memory.budget.amplification(now), 3),
            sessions=len(memory.affinity),
            questions=len(memory.retries),
            signatures=len(memory.signatures),
            refused_pairs=len(memory.pairs.entries(now)),
        ),
        providers=tuple(
            _provider(each, now, tally, usable(each), connections.get(each.name), streams.get(each.name, 0))
            for each in sorted(contenders, key=lambda each: -each.provider.settings.priority)
        ),
        in_flight=len(tally.live),
        live=tally.live.seen(now),
        recent=tuple(reversed(tally.recent)),
        total=replace(tally.total),
        minutes=tally.minutes.last(daemon.time),
        hours=tally.hours.last(daemon.time),
    )


def as_json(status: Status) -> bytes:
    """The document, UTF-8; times are ``2026-11-22T09:30:00.125Z``, durations are seconds, unknown is null."""
    document = {"schema": VERSION, "health": status.health, **_members(status)}
    return json.dumps(document, default=_members).encode()


def _members(value: Any) -> dict[str, Any]:
    """One of our dataclasses, all of which have slots; ``dataclasses.asdict`` takes ten times as long."""
    found = {name: getattr(value, name) for name in value.__slots__}
    if isinstance(value, Daemon):
        found["uptime"] = round(value.time - value.started, 3)
        found["drain_left"] = _rounded(value.drain_left)
    for name in _TIMES & found.keys():
        found[name] = utc(found[name]) if found[name] is not None else None
    return found


_TIMES: Final = frozenset({"time", "started", "start", "reload_at"})
"""Names of members that are epoch seconds."""


def key_statuses(contenders: Sequence[Contender], now: float) -> list[tuple[str, KeyStatus]]:
    """Every pooled key there is, with its provider's name."""
    return [
        (contender.name, key)
        for contender in contenders
        if contender.pool is not None
        for key in contender.pool.status(now)
    ]


def _provider(
    contender: Contender, now: float, tally: Tally, usable: bool, connections: tuple[int, int] | None, streams: int
) -> Provider:
    name, breaker = contender.name, contender.breaker
    state, until = breaker.state(now), breaker.until(now)
    settings: Any = contender.provider.settings
    return Provider(
        name=name,
        type=settings.type,
        priority=settings.priority,
        usable=usable,
        circuit=Circuit(
            state=state.value,
            failures=breaker.failures,
            since=_rounded(now - breaker.since if breaker.since is not None else None),
            until=_rounded(until - now if until is not None else None),
        ),
        in_flight=contender.load.attempts,
        streams=streams,
        connections=Connections(connections[0] - connections[1], connections[1]) if connections else None,
        keys=tuple(_key(name, key, tally) for _, key in key_statuses([contender], now)),
        sums=replace(tally.by_provider.get(name) or Sums()),
    )


def _key(provider: str, key: KeyStatus, tally: Tally) -> Key:
    return Key(
        id=key.id,
        state=key.state.value,
        wait=_rounded(key.wait),
        reason=key.reason if key.state is not KeyState.USABLE else "",
        in_flight=key.in_flight,
        limits=tuple(_limit(limit, tally.burn_down.of(provider, key.id, limit.name)) for limit in key.limits),
    )


def _limit(limit: LimitStatus, history: tuple[float, ...]) -> Limit:
    return Limit(limit.name, limit.limit, limit.remaining, _rounded(limit.reset), history)


def _rounded(value: float | None) -> float | None:
    return round(value, 3) if value is not None and math.isfinite(value) else None
