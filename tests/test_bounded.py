"""The map that forgets, against a plain model of it."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from ccrelay.core.bounded import BoundedMap

CAPACITY = 3
TTL = 10.0
KEYS = st.integers(0, 5)


class Bounded(RuleBasedStateMachine):
    """The model: a list of [key, value, last touched], the longest untouched first."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.real: BoundedMap[int, int] = BoundedMap(CAPACITY, TTL)
        self.model: list[list[float]] = []

    def alive(self) -> list[list[float]]:
        return [entry for entry in self.model if self.now < entry[2] + TTL]

    @rule(seconds=st.floats(0, 12))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(key=KEYS, value=st.integers())
    def put(self, key: int, value: int) -> None:
        self.real.set(key, value, self.now)
        kept = [entry for entry in self.alive() if entry[0] != key]
        self.model = [*kept, [key, value, self.now]][-CAPACITY:]

    @rule(key=KEYS, touch=st.booleans())
    def look(self, key: int, touch: bool) -> None:
        expected = next((entry for entry in self.alive() if entry[0] == key), None)
        assert self.real.peek(key, self.now) == (expected[1] if expected else None)
        assert self.real.get(key, self.now, touch=touch) == (expected[1] if expected else None)
        if expected and touch:
            self.model.remove(expected)
            self.model.append([key, expected[1], self.now])

    @rule(key=KEYS)
    def drop(self, key: int) -> None:
        self.real.discard(key)
        self.model = [entry for entry in self.model if entry[0] != key]

    @invariant()
    def agrees(self) -> None:
        assert list(self.real.items(self.now)) == [(entry[0], entry[1]) for entry in self.alive()]
        assert len(self.real) <= CAPACITY


TestBounded = Bounded.TestCase
