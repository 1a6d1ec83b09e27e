"""Sessions and their homes: who answers the next call of one, when it moves, and when it moves back."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ccrelay.core.model import CallKind
from ccrelay.core.settings import PoolingSettings

from .scenarios import HEALTH, Scene, door, error, message, says, stream, upstream
from .scenarios_cases import LIMITED, OVERLOADED, ask, passed_over

COUNT = CallKind.COUNT_TOKENS
IN_TURN = PoolingSettings(enabled=True, strategy="round_robin")


def asked(scene: Scene, session: str | None, **options: object) -> str:
    """Who is asked for one call of a session, as ``provider key`` in order; no call is like another."""
    before = len(scene.requests)
    ask(scene, f"call {len(scene.clients)}", session=session, **options)
    return ", ".join(scene.asked[before:])


def two(*, strategy: str = "round_robin", **options: object) -> Scene:
    """Two healthy providers of two keys each, everything in turn."""
    scripted = [
        upstream(name, *[stream()] * 9, keys=[f"{name}1", f"{name}2"], pooling=IN_TURN) for name in ("north", "south")
    ]
    return Scene(*scripted, strategy=strategy, **options)  # type: ignore[arg-type]


def test_a_session_keeps_its_provider_and_its_key_while_others_take_turns() -> None:
    with two() as scene:
        assert asked(scene, "one") == "north north1"
        assert asked(scene, None) == "south south1"
        assert [asked(scene, "one") for _ in range(3)] == ["north north1"] * 3
        assert asked(scene, "two") == "north north2"
        assert asked(scene, None) == "south south2"
        assert asked(scene, "one") == "north north1"
    assert scene.attempts[0].chosen_by == "round_robin"
    assert scene.attempts[2].chosen_by == "affinity"


@pytest.mark.parametrize("strategy", ["weighted_round_robin", "shuffle", "least_loaded", "weighted_failover"])
def test_a_session_stays_under_every_strategy_that_spreads_calls(strategy: str) -> None:
    with two(strategy=strategy) as scene:
        homes = [asked(scene, "one") for _ in range(8)]
    assert set(homes) == {homes[0]}


def test_a_session_that_stays_costs_nobody_a_turn() -> None:
    with two() as scene:
        asked(scene, "one")
        for _ in range(3):
            asked(scene, "one")
        assert asked(scene, None).split()[0] == "south"
        assert asked(scene, None).split()[0] == "north"


def test_without_affinity_every_call_takes_its_turn() -> None:
    with two(affinity=False) as scene:
        assert [asked(scene, "one") for _ in range(4)] == [
            "north north1",
            "south south1",
            "north north2",
            "south south2",
        ]


@pytest.mark.parametrize(("idle", "home"), [(99.0, "north north1"), (100.0, "south south1")])
def test_a_session_that_was_idle_for_the_configured_time_begins_anew(idle: float, home: str) -> None:
    with two(affinity_ttl=100.0) as scene:
        asked(scene, "one")
        scene.advance(60.0)
        asked(scene, "one")
        scene.advance(idle)
        assert asked(scene, "one") == home


def test_another_clients_session_of_the_same_name_is_another_session() -> None:
    own = ((b"authorization", b"Bearer sk-ant-oat01-own"),)
    with two(auth=door(allow_subscription=True)) as scene:
        assert asked(scene, "one") == "north north1"
        assert asked(scene, "one", headers=own).split()[0] == "south"
        assert asked(scene, "one", headers=own).split()[0] == "south"
        assert asked(scene, "one") == "north north1"


def test_a_tired_key_is_left_for_another_of_the_same_provider_which_is_home_from_then_on() -> None:
    north = upstream("north", stream(), LIMITED, *[stream()] * 4, keys=["n1", "n2"], pooling=IN_TURN)
    with Scene(north, upstream("south", stream()), strategy="round_robin") as scene:
        assert asked(scene, "one") == "north n1"
        assert asked(scene, "one") == "north n1, north n2"
        scene.advance(30.0)
        assert asked(scene, "one") == "north n2", "though n1 may be asked again: the cache is with n2 now"


def test_a_session_whose_key_rests_does_not_wait_for_it() -> None:
    north = upstream("north", stream(), LIMITED, stream(), keys=["n1"])
    with Scene(north, upstream("south", *[stream()] * 4), strategy="round_robin") as scene:
        assert asked(scene, "one") == "north n1"
        assert asked(scene, None) == "south k1"
        assert asked(scene, None) == "north n1, south k1"
        assert asked(scene, "one") == "south k1"
        scene.advance(30.0)
        assert asked(scene, "one") == "south k1"


def test_a_session_leaves_an_ill_provider_and_stays_where_it_was_answered() -> None:
    with Scene(
        upstream("north", stream(), OVERLOADED, stream()), upstream("south", *[stream()] * 3), strategy="round_robin"
    ) as scene:
        assert asked(scene, "one") == "north k1"
        assert asked(scene, "one") == "north k1, south k1"
        assert [asked(scene, "one") for _ in range(2)] == ["south k1"] * 2


def test_a_home_whose_circuit_is_open_is_passed_over() -> None:
    health = replace(HEALTH, failure_threshold=1)
    north, south = upstream("north", stream(), OVERLOADED), upstream("south", *[stream()] * 3)
    with Scene(north, south, strategy="round_robin", health=health) as scene:
        assert asked(scene, "one") == "north k1"
        assert asked(scene, None) == "south k1"
        assert asked(scene, None) == "north k1, south k1"
        assert asked(scene, "one") == "south k1"
    assert passed_over(scene) == [("north", "is ill (circuit open)")]


def test_under_failover_a_session_goes_back_to_the_higher_priority_as_soon_as_that_is_well() -> None:
    health = replace(HEALTH, failure_threshold=1)
    with Scene(
        upstream("north", stream(), OVERLOADED, stream(), priority=1), upstream("south", *[stream()] * 2), health=health
    ) as scene:
        assert asked(scene, "one") == "north k1"
        assert asked(scene, "one") == "north k1, south k1"
        scene.advance(29.0)
        assert asked(scene, "one") == "south k1"
        scene.advance(1.0)
        assert asked(scene, "one") == "north k1"


def test_under_failover_a_session_goes_back_when_the_higher_prioritys_key_has_rested() -> None:
    north = upstream("north", LIMITED, stream(), priority=1)
    with Scene(north, upstream("south", stream(), stream())) as scene:
        assert asked(scene, "one") == "north k1, south k1"
        assert asked(scene, "one") == "south k1"
        scene.advance(7.0)
        assert asked(scene, "one") == "north k1"


def test_under_failover_a_session_stays_among_equals() -> None:
    north = upstream("north", OVERLOADED, stream())
    with Scene(north, upstream("south", *[stream()] * 2)) as scene:
        assert asked(scene, "one") == "north k1, south k1"
        assert asked(scene, "one") == "south k1"
        assert asked(scene, None) == "north k1"


def test_counting_tokens_goes_home_and_does_not_move_it() -> None:
    counted = says(200, b'{"input_tokens": 7}')
    with Scene(
        upstream("zai", *[stream()] * 3, type="zai", keys=["z1"]),
        upstream("north", counted, stream(), counted),
        strategy="round_robin",
    ) as scene:
        assert asked(scene, "one") == "zai z1"
        assert asked(scene, "one", kind=COUNT) == "north k1", "zai cannot count"
        assert asked(scene, "one") == "zai z1"
        assert asked(scene, None) == "zai z1"
        assert asked(scene, "two") == "north k1"
        assert asked(scene, "two", kind=COUNT) == "north k1"


def test_only_an_answer_makes_a_home() -> None:
    fault = error(400, "invalid_request_error", "no")
    with Scene(upstream("north", fault, stream()), upstream("south", stream()), strategy="round_robin") as scene:
        assert asked(scene, "one") == "north k1"
        assert asked(scene, "one") == "south k1", "the next in turn"


def test_calls_of_one_session_at_once_share_its_home_once_there_is_one() -> None:
    slow = stream(delay=5.0)
    with Scene(
        upstream("north", slow, *[message()] * 5), upstream("south", *[message()] * 5), strategy="round_robin"
    ) as scene:
        asked(scene, "one")
        scene.advance(12.0)
        assert scene.open
        assert [asked(scene, "one") for _ in range(4)] == ["north k1"] * 4


def test_debugging_headers_tell_whether_a_session_was_kept() -> None:
    north = upstream("north", stream(), stream(), OVERLOADED, stream())
    with Scene(north, upstream("south", stream(), stream()), debug=True) as scene:
        clients = [ask(scene, f"call {number}", session="one") for number in range(3)]
        clients.append(ask(scene, "no session"))
    told = [client.header(b"x-cc-relay-affinity") for client in clients]
    assert told == [b"new", b"kept", b"moved", None]
