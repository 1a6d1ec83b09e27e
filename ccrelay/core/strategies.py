"""In which order the candidates of a call are tried: the strategies of ``routing.strategy``.

What a strategy remembers is kept by the provider's name, not by its place among the candidates: those differ from
call to call, as providers fall ill, tire or cannot take one, and that must neither cost anybody a turn nor give two.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from zope.interface import implementer

from ccrelay.core.bounded import BoundedMap
from ccrelay.core.settings import RoutingSettings
from ccrelay.interfaces import IStrategy

if TYPE_CHECKING:
    from random import Random

# Seconds after which a name that was no candidate is forgotten: longer than circuits stay open and keys usually cool,
# so that who comes back continues where it was; short enough that names of former configurations do not pile up.
_FORGET_AFTER = 3600.0
# Names remembered at once: more than any one file has providers, so that only time makes a strategy forget.
_MOST_NAMES = 10_000


@dataclass(frozen=True, slots=True)
class Standing:
    """A provider that may be tried now, as a strategy sees it.

    name: unique among the candidates. priority: higher is tried first. weight: above 0. in_flight: attempts under way.
    """

    name: str
    priority: int
    weight: float
    in_flight: int


@implementer(IStrategy)
class Failover:
    """Higher priority first, file order among equals."""

    def order(self, model: str, candidates: Sequence[Standing], now: float) -> tuple[str, ...]:
        return _names(_by_priority(candidates))


@implementer(IStrategy)
class RoundRobin:
    """Whoever has been first the longest ago comes first, whatever its priority; newcomers before all others.

    Only the first of an order has had its turn: that others were tried after it costs them nothing.
    """

    def __init__(self) -> None:
        self._turns = _Turns()

    def order(self, model: str, candidates: Sequence[Standing], now: float) -> tuple[str, ...]:
        last = self._turns.last(candidates, now)
        return self._turns.take(sorted(candidates, key=lambda c: last[c.name]), now)


@implementer(IStrategy)
class LeastLoaded:
    """Fewest attempts in flight first; among equals the higher priority, then whoever was first the longest ago."""

    def __init__(self) -> None:
        self._turns = _Turns()

    def order(self, model: str, candidates: Sequence[Standing], now: float) -> tuple[str, ...]:
        last = self._turns.last(candidates, now)
        return self._turns.take(sorted(candidates, key=lambda c: (c.in_flight, -c.priority, last[c.name])), now)


@implementer(IStrategy)
class WeightedRoundRobin:
    """Turns in proportion to the weights, spread evenly: 5, 1, 1 gives a a b a c a a, not a a a a a b c.

    Each call is one turn, shared out as credit by weight among its candidates, and paid for by the one who gets it:
    the one with most credit. The others follow in order of theirs, as they are the next to be due. As shares are parts
    of one turn, credit keeps its meaning when candidates come and go or weights change.
    """

    def __init__(self) -> None:
        self._credit: BoundedMap[str, float] = _memory()

    def order(self, model: str, candidates: Sequence[Standing], now: float) -> tuple[str, ...]:
        whole = sum(c.weight for c in candidates)
        credit = {c.name: (self._credit.get(c.name, now) or 0.0) + c.weight / whole for c in candidates}
        # Rounded, so that sums of thirds that ought to be equal are, and file order decides among them.
        order = sorted(credit, key=lambda name: -round(credit[name], 9))
        for name in order[:1]:
            credit[name] -= 1.0
        for name, left in credit.items():
            self._credit.set(name, left, now)
        return tuple(order)


@implementer(IStrategy)
class Shuffle:
    """Dealt like cards: each candidate is first once per deck, in random order; then the deck is shuffled anew.

    A card whose provider is no candidate waits, alone, until it is one again, and is then dealt next. A new deck is
    made when no candidate of a call has a card left, of cards for these candidates. A name never seen before gets a
    card at a random place of the deck in hand. Behind the cards left come those dealt already, in random order.
    """

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self._deck = 0
        # Deck and place in it: waiting cards of older decks come first, the infinite deck is that of the cards dealt.
        self._cards: BoundedMap[str, tuple[float, float]] = _memory()

    def order(self, model: str, candidates: Sequence[Standing], now: float) -> tuple[str, ...]:
        hand = {c.name: self._cards.get(c.name, now) or self._card(self._deck) for c in candidates}
        if all(math.isinf(deck) for deck, _ in hand.values()):
            self._deck += 1
            hand = {name: self._card(self._deck) for name in hand}
        order = sorted(hand, key=lambda name: hand[name])
        for name in order[:1]:
            hand[name] = self._card(math.inf)
        for name, card in hand.items():
            self._cards.set(name, card, now)
        return tuple(order)

    def _card(self, deck: float) -> tuple[float, float]:
        return deck, self._rng.random()


@implementer(IStrategy)
class WeightedFailover:
    """One drawn at random by weight is first; the others follow in order of priority."""

    def __init__(self, rng: Random) -> None:
        self._rng = rng

    def order(self, model: str, candidates: Sequence[Standing], now: float) -> tuple[str, ...]:
        if not candidates:
            return ()
        [first] = self._rng.choices(candidates, [c.weight for c in candidates])
        return (first.name, *_names(c for c in _by_priority(candidates) if c is not first))


@implementer(IStrategy)
class ModelBased:
    """The model asked for names the one provider that must serve it.

    The longest beginning of the model in ``routing.model_mapping`` decides (a ``*`` at its end adds nothing), else
    ``routing.default_provider``. The others are no candidates for that model: if the one named is none now, the order
    is empty, and the call fails rather than be answered by a provider that the operator did not choose for it. Where
    neither decides, all candidates follow in order of priority.
    """

    def __init__(self, mapping: Mapping[str, str], default: str | None) -> None:
        beginnings = {beginning.removesuffix("*"): name for beginning, name in mapping.items()}
        self._beginnings = sorted(beginnings.items(), key=lambda item: -len(item[0]))
        self._default = default

    def order(self, model: str, candidates: Sequence[Standing], now: float) -> tuple[str, ...]:
        fitting = (name for beginning, name in self._beginnings if model.startswith(beginning))
        chosen = next(fitting, self._default)
        if chosen is None:
            return _names(_by_priority(candidates))
        return tuple(c.name for c in candidates if c.name == chosen)


STRATEGIES: Mapping[str, Callable[[RoutingSettings, Random], IStrategy]] = {
    "failover": lambda _routing, _rng: Failover(),
    "round_robin": lambda _routing, _rng: RoundRobin(),
    "weighted_round_robin": lambda _routing, _rng: WeightedRoundRobin(),
    "shuffle": lambda _routing, rng: Shuffle(rng),
    "least_loaded": lambda _routing, _rng: LeastLoaded(),
    "weighted_failover": lambda _routing, rng: WeightedFailover(rng),
    "model_based": lambda routing, _rng: ModelBased(routing.model_mapping, routing.default_provider),
}
"""Every ``routing.strategy`` with what builds it."""


def build_strategy(routing: RoutingSettings, rng: Random) -> IStrategy:
    """The strategy that ``routing`` names, which must be one of ``STRATEGIES``. rng: for those that draw lots."""
    return STRATEGIES[routing.strategy](routing, rng)


class _Turns:
    """Who was first when, counted in orders given."""

    def __init__(self) -> None:
        self._turn = 0
        self._last: BoundedMap[str, int] = _memory()

    def last(self, candidates: Sequence[Standing], now: float) -> dict[str, int]:
        """The candidates' last turns, 0 for those that had none; they are kept in memory."""
        return {c.name: self._last.get(c.name, now, touch=True) or 0 for c in candidates}

    def take(self, order: Sequence[Standing], now: float) -> tuple[str, ...]:
        """The first of ``order`` has its turn. Returns the names of all, in order."""
        self._turn += 1
        for first in order[:1]:
            self._last.set(first.name, self._turn, now)
        return _names(order)


def _memory() -> BoundedMap[str, Any]:
    return BoundedMap(_MOST_NAMES, _FORGET_AFTER)


def _by_priority(candidates: Sequence[Standing]) -> list[Standing]:
    return sorted(candidates, key=lambda c: -c.priority)


def _names(candidates: Iterable[Standing]) -> tuple[str, ...]:
    return tuple(c.name for c in candidates)
