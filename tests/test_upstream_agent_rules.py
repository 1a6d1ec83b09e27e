"""Whatever happens to an agent's connections: no answer crosses to another request, none is repeated without need."""

from __future__ import annotations

import re
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionLost
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from ccrelay.upstream.agent import OriginAgent
from ccrelay.upstream.pool import IDLE_TIMEOUT

from .upstream_rig import FakeEndpoint, OriginSide, Receiver, fired, nothing_logged

STEPS = ["ask", "ask", "answer", "answer", "begin", "lose", "cancel", "drop", "chatter", "wait", "close"]


class Asked:
    """One request. Its receiver goes away (``aborts``) or pauses (``pauses``) whenever it gets a byte."""

    def __init__(self, number: int, asking: Deferred[Any], *, aborts: bool, pauses: bool) -> None:
        self.number = number
        self.asking = asking
        self.aborts = aborts
        self.receiver = Receiver(self._on_data)
        self.pauses = pauses
        self.cancelled = False
        asking.addCallback(lambda response: response.deliverBody(self.receiver))
        self.results = fired(asking)

    def _on_data(self, receiver: Any) -> None:
        if self.aborts:
            receiver.transport.abortConnection()
        elif self.pauses:
            receiver.transport.pauseProducing()

    @property
    def failure(self) -> Failure | None:
        return self.results[0] if self.results and isinstance(self.results[0], Failure) else None


class World:
    """An agent, and its origin's view of every connection."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.endpoint = FakeEndpoint(self.clock)
        self.agent = OriginAgent(self.clock, self.endpoint)
        self.asked: list[Asked] = []
        self.answered: dict[OriginSide, int] = {}
        self.begun: set[OriginSide] = set()

    def requests(self, origin: OriginSide) -> list[int]:
        return [int(number) for number in re.findall(rb"POST /(\d+) ", origin.received)]

    def waiting(self) -> list[OriginSide]:
        """Connections with a request that has not been answered."""
        return [
            origin
            for origin in self.endpoint.made
            if origin.end is None and not origin.closing and len(self.requests(origin)) > self.answered.get(origin, 0)
        ]

    def receiving(self, origin: OriginSide) -> Asked | None:
        """Who has a part of the newest answer on a connection, but not its end."""
        if not self.requests(origin):
            return None
        asked = self.asked[self.requests(origin)[-1]]
        return asked if asked.results and not asked.failure and not asked.receiver.lost else None

    def step(self, what: str, pick: int) -> None:
        waiting = self.waiting()
        live = [origin for origin in self.endpoint.made if origin.end is None and not origin.closing]
        idle = [origin for origin in live if origin not in waiting]
        if what == "ask":
            number = len(self.asked)
            asking = self.agent.request(b"POST", b"http://localhost/%d" % number)
            self.asked.append(Asked(number, asking, aborts=pick % 5 == 4, pauses=pick % 3 == 2))
        elif what in ("answer", "begin") and waiting:
            origin = waiting[pick % len(waiting)]
            self.answer(origin, begin_only=what == "begin")
        elif what == "lose" and live:
            live[pick % len(live)].lose(ConnectionLost())
        elif what == "cancel" and self.asked:
            asked = self.asked[pick % len(self.asked)]
            asked.cancelled = not asked.results
            asked.asking.cancel()
        elif what == "drop" and self.asked:
            transport: Any = self.asked[pick % len(self.asked)].receiver.transport
            if transport is not None:
                transport.abortConnection()
        elif what == "chatter" and idle:
            idle[pick % len(idle)].send(b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n")
        elif what == "wait":
            self.clock.advance(IDLE_TIMEOUT / 2)
        elif what == "close":
            self.agent.close()
        if pick % 2:
            self.clock.advance(0)

    def answer(self, origin: OriginSide, *, begin_only: bool) -> None:
        number = self.requests(origin)[-1]
        whole = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n%-9d" % number
        if origin in self.begun:
            self.begun.discard(origin)
            whole = whole[-5:]
        elif begin_only:
            self.begun.add(origin)
            origin.send(whole[:-5])
            return
        self.answered[origin] = self.answered.get(origin, 0) + 1
        origin.send(whole)

    def check(self) -> None:
        for origin in self.endpoint.made:
            assert len(self.requests(origin)) <= self.answered.get(origin, 0) + 1, "two requests at once"
            between = origin.end is None and not origin.closing and self.receiving(origin) is None
            assert origin.reading or not between, "nobody reads the next answer"
        for asked in self.asked:
            assert (b"%-9d" % asked.number).startswith(asked.receiver.data)
            if asked.cancelled:
                assert asked.failure is not None
                assert asked.failure.check(CancelledError)
            carried = [origin for origin in self.endpoint.made if asked.number in self.requests(origin)]
            assert len(carried) <= 2
            if len(carried) == 2:
                stale = carried[0]
                assert self.requests(stale)[-1] == asked.number
                assert len(self.requests(stale)) > 1, "a fresh connection's request was repeated"
                assert stale.end is not None


@given(st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 11)), max_size=25))
def test_answers_never_cross_and_requests_are_repeated_only_for_stale_connections(
    steps: list[tuple[str, int]],
) -> None:
    with nothing_logged():
        world = World()
        for what, pick in steps:
            world.step(what, pick)
            world.check()
        for asked in world.asked:
            asked.asking.cancel()
            if asked.receiver.transport is not None:
                asked.receiver.transport.abortConnection()
        world.agent.close()
        world.clock.advance(0)
        world.check()
        assert all(asked.results for asked in world.asked)
        assert all(asked.failure or asked.receiver.lost for asked in world.asked)
        assert all(origin.end is not None for origin in world.endpoint.made)
        assert world.clock.getDelayedCalls() == []
