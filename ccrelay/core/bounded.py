"""A map that forgets: entries that have not been touched for a while, and the oldest ones when it is full."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class BoundedMap(Generic[K, V]):
    """At most ``capacity`` entries, each kept for ``ttl`` seconds after it was last set or touched.

    For maps whose keys a client or an upstream chooses: whatever they send, memory stays bounded and every operation
    takes the same short time. ``now``: seconds of one monotonic clock, never less than before.
    """

    __slots__ = ("_capacity", "_entries", "_ttl")

    def __init__(self, capacity: int, ttl: float) -> None:
        self._capacity = capacity
        self._ttl = ttl
        self._entries: OrderedDict[K, tuple[float, V]] = OrderedDict()

    def get(self, key: K, now: float, *, touch: bool = False) -> V | None:
        """The value of ``key``, or None. touch: its time begins anew."""
        found = self._entries.get(key)
        if found is None:
            return None
        expires, value = found
        if now >= expires:
            del self._entries[key]
            return None
        if touch:
            self.set(key, value, now)
        return value

    def peek(self, key: K, now: float) -> V | None:
        """As ``get``, but changes nothing: another thread may ask too."""
        found = self._entries.get(key)
        return found[1] if found is not None and now < found[0] else None

    def set(self, key: K, value: V, now: float) -> None:
        """Keep ``value``, from ``now`` on; the entries that were touched longest ago make room."""
        self._entries[key] = (now + self._ttl, value)
        self._entries.move_to_end(key)
        # Touching keeps the order by expiry, so what has expired is always in front.
        while len(self._entries) > self._capacity or next(iter(self._entries.values()))[0] <= now:
            self._entries.popitem(last=False)

    def discard(self, key: K) -> None:
        """Forget ``key``, if it is known."""
        self._entries.pop(key, None)

    def items(self, now: float) -> Iterator[tuple[K, V]]:
        """What is known at ``now``, the longest untouched first."""
        for key, (expires, value) in list(self._entries.items()):
            if now < expires:
                yield key, value

    def __len__(self) -> int:
        """Entries held; some may have expired."""
        return len(self._entries)
