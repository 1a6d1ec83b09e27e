"""The right to make one attempt, and what becomes of it."""

from __future__ import annotations

import pytest

from ccrelay.core.breaker import BreakerState
from ccrelay.core.contenders import Pick
from ccrelay.core.key_pool import KeyState
from ccrelay.core.model import Usage
from ccrelay.core.outcomes import Outcome

from .scenarios_routes import call_of, contender, router_of


def pick_of(keys: int = 1) -> Pick:
    north = contender("north", keys)
    route = router_of([north]).route(call_of(own=not keys), "m", 0.0)
    assert route.next(0.0) is north
    pick = route.take(north, 0.0)
    assert pick is not None
    return pick


def state_of(pick: Pick) -> KeyState:
    assert pick.contender.pool is not None
    return pick.contender.pool.status(0.0)[0].state


@pytest.mark.parametrize(
    ("outcome", "failures", "state"),
    [
        (Outcome.ANSWERED, 0, KeyState.USABLE),
        (Outcome.CALLERS_FAULT, 0, KeyState.USABLE),
        (Outcome.UNFIT, 0, KeyState.USABLE),
        (Outcome.KEY_TIRED, 0, KeyState.COOLING),
        (Outcome.KEY_DEAD, 0, KeyState.PARKED),
        (Outcome.PROVIDER_ILL, 1, KeyState.USABLE),
        (Outcome.TRUNCATED, 1, KeyState.USABLE),
        (Outcome.STALLED, 1, KeyState.USABLE),
        (Outcome.CLIENT_GONE, 0, KeyState.USABLE),
    ],
)
def test_an_end_is_told_to_the_circuit_and_to_the_key_once(outcome: Outcome, failures: int, state: KeyState) -> None:
    pick = pick_of()
    assert pick.contender.load.attempts == 1
    pick.settle(0.0, outcome)
    pick.settle(0.0, Outcome.PROVIDER_ILL)
    pick.release(0.0, Usage())
    assert pick.contender.load.attempts == 0
    assert pick.contender.breaker.failures == failures
    assert state_of(pick) is state


def test_attempts_that_began_before_a_reload_are_under_way_after_it_and_end_for_both() -> None:
    pick = pick_of()
    before, after = pick.contender, contender("north")
    after.adopt(before, before.breaker.settings)
    assert after.load.attempts == 1
    pick.settle(0.0, Outcome.PROVIDER_ILL)
    assert (after.load.attempts, before.load.attempts, after.breaker.failures) == (0, 0, 1)


def test_a_released_pick_blames_nobody_and_praises_nobody() -> None:
    pick = pick_of()
    breaker = pick.contender.breaker
    breaker.begin(0.0).settle(False, 0.0)
    pick.release(0.0, Usage(input=1))
    assert (breaker.failures, breaker.state(0.0)) == (1, BreakerState.CLOSED)
    assert state_of(pick) is KeyState.USABLE
    assert pick.contender.load.attempts == 0


def test_a_clients_own_credential_needs_no_pool() -> None:
    pick = pick_of(keys=0)
    assert pick.key is None
    assert pick.contender.keys == 0
    pick.settle(0.0, Outcome.KEY_DEAD)
    assert pick.contender.load.attempts == 0
