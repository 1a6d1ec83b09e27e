"""The budget delays who adds beyond it, loses no byte of account, and never leaves everybody waiting."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from ccrelay.core.inflight import BodyBudget

LIMIT = 100


class Client:
    """Receives a body; complains when paused or resumed twice. ``waiting``: bytes that come once it is resumed."""

    def __init__(self, budget: BodyBudget, size: int = 0) -> None:
        self.budget = budget
        self.left = size
        self.held = 0
        self.paused = False
        self.waiting = 0

    def receive(self, count: int) -> None:
        self.held += count
        self.left -= count
        self.budget.add(self, count)

    def pause(self) -> None:
        assert not self.paused
        self.paused = True

    def resume(self) -> None:
        assert self.paused
        self.paused = False
        if self.waiting:  # as a transport does that has data buffered
            count, self.waiting = self.waiting, 0
            self.receive(count)


class BudgetMachine(RuleBasedStateMachine):
    """Clients come, send, have data waiting while they are paused, and go, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.budget = BodyBudget(LIMIT)
        self.clients: list[Client] = []

    @rule(count=st.integers(0, 80))
    def come(self, count: int) -> None:
        client = Client(self.budget)
        self.clients.append(client)
        client.receive(count)

    @precondition(lambda self: any(not client.paused for client in self.clients))
    @rule(data=st.data(), count=st.integers(0, 80))
    def send(self, data: st.DataObject, count: int) -> None:
        data.draw(st.sampled_from([client for client in self.clients if not client.paused])).receive(count)

    @precondition(lambda self: any(client.paused for client in self.clients))
    @rule(data=st.data(), count=st.integers(1, 80))
    def have_more_waiting(self, data: st.DataObject, count: int) -> None:
        data.draw(st.sampled_from([client for client in self.clients if client.paused])).waiting = count

    @precondition(lambda self: self.clients)
    @rule(data=st.data())
    def go(self, data: st.DataObject) -> None:
        client = data.draw(st.sampled_from(self.clients))
        client.waiting = 0
        self.clients.remove(client)
        self.budget.release(client)
        assert not client.paused

    @invariant()
    def the_account_is_exact(self) -> None:
        assert self.budget.held == sum(client.held for client in self.clients)

    @invariant()
    def the_oldest_may_always_send(self) -> None:
        assert not self.clients or not self.clients[0].paused

    @invariant()
    def nobody_waits_while_there_is_room(self) -> None:
        if self.budget.held <= LIMIT:
            assert not any(client.paused for client in self.clients)

    def teardown(self) -> None:
        while self.clients:
            self.go_first()

    def go_first(self) -> None:
        client = self.clients.pop(0)
        self.budget.release(client)
        self.the_account_is_exact()
        self.the_oldest_may_always_send()


TestBudget = BudgetMachine.TestCase


@given(st.lists(st.integers(1, 250), min_size=1, max_size=8), st.lists(st.integers(0, 7)))
def test_bodies_that_together_exceed_the_budget_finish_one_after_another(sizes: list[int], order: list[int]) -> None:
    budget = BodyBudget(LIMIT)
    clients = [Client(budget, size) for size in sizes]
    turn = 0
    while clients:
        able = [client for client in clients if not client.paused]
        assert able
        client = able[order[turn % len(order)] % len(able) if order else 0]
        turn += 1
        if client.left:
            client.receive(min(client.left, 64))
        else:
            clients.remove(client)
            budget.release(client)
    assert budget.held == 0


def test_waiting_clients_go_on_oldest_first_and_only_while_there_is_room() -> None:
    budget = BodyBudget(LIMIT)
    resumed: list[str] = []

    class Named(Client):
        def __init__(self, name: str) -> None:
            super().__init__(budget)
            self.name = name

        def resume(self) -> None:
            resumed.append(self.name)
            super().resume()

    first, second, third, fourth = (Named(name) for name in ("first", "second", "third", "fourth"))
    first.receive(90)
    second.receive(5)
    third.receive(20)
    fourth.receive(20)
    second.receive(5)
    assert [client.paused for client in (first, second, third, fourth)] == [False, True, True, True]
    second.waiting = 60
    budget.release(first)
    assert resumed == ["second"]
    assert not second.paused
    budget.release(second)
    assert resumed == ["second", "third", "fourth"]


@pytest.mark.parametrize("count", [1, 10**9])
def test_without_a_limit_nobody_waits(count: int) -> None:
    budget = BodyBudget(0)
    clients = [Client(budget) for _ in range(3)]
    for client in clients:
        client.receive(count)
    assert budget.held == 3 * count
    assert not any(client.paused for client in clients)
