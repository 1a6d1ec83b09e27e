"""Keys that tire, die and come back: when they are asked again, and what a client is told while none can be."""

from __future__ import annotations

import json
from dataclasses import replace
from email.utils import formatdate

import pytest

from ccrelay.core.model import Headers

from .scenarios import EPOCH, HEALTH, Scene, Step, error, says, stream, upstream, whole
from .scenarios_cases import CAPPED, OVERLOADED, SPENT, ask, complaint, fingerprint_of, passed_over


def limited(*headers: tuple[bytes, bytes]) -> Step:
    return error(429, "rate_limit_error", "Slow down", headers=headers)


def date(epoch: float) -> bytes:
    return formatdate(epoch, usegmt=True).encode()


def rfc3339(seconds: int) -> bytes:
    """EPOCH and so many seconds more."""
    return b"2027-01-15T08:%02d:%02dZ" % divmod(seconds, 60)


NO_REQUESTS_LEFT: Headers = (
    (b"anthropic-ratelimit-requests-limit", b"50"),
    (b"anthropic-ratelimit-requests-remaining", b"0"),
    (b"anthropic-ratelimit-requests-reset", rfc3339(25)),
)
WAITS = {
    "seconds": (((b"retry-after", b"7"),), 7.0),
    "milliseconds": (((b"retry-after-ms", b"2500"), (b"retry-after", b"3")), 2.5),
    # Measured by the upstream's own clock, which is an hour ahead of ours here.
    "a date": (((b"retry-after", date(EPOCH + 3609)), (b"date", date(EPOCH + 3600))), 9.0),
    "the reset of what is used up": (NO_REQUESTS_LEFT, 25.0),
    "a subscription's reset": (
        (
            (b"anthropic-ratelimit-unified-status", b"rejected"),
            (b"anthropic-ratelimit-unified-reset", b"%d" % (EPOCH + 40)),
        ),
        40.0,
    ),
    "what was asked for, though the window is full later": ((*NO_REQUESTS_LEFT, (b"retry-after", b"2")), 2.0),
    "nothing": ((), 60.0),
    "garbage": (((b"retry-after", b"soon"),), 60.0),
}


@pytest.mark.parametrize(("headers", "wait"), WAITS.values(), ids=WAITS)
@pytest.mark.parametrize("keys", [1, 3])
def test_a_tired_key_rests_as_long_as_the_upstream_says_and_is_not_asked_sooner(
    headers: Headers, wait: float, keys: int
) -> None:
    north = upstream("north", *[limited(*headers)] * keys, stream(), keys=[f"k{n}" for n in range(keys)])
    with Scene(north) as scene:
        first = ask(scene, "first")
        scene.advance(wait - 0.125)
        refused = ask(scene, "too soon")
        assert len(scene.requests) == keys
        scene.advance(0.125)
        last = ask(scene, "in time")
    assert first.status == 429
    assert (refused.status, refused.header(b"retry-after")) == (429, b"1")
    assert complaint(refused) == ("rate_limit_error", "cc-relay: no key can be used for 1 s: north all keys cooling")
    assert last.status == 200


@pytest.mark.parametrize(("wait", "should_retry"), [(59.5, None), (60, None), (61, b"false"), (6 * 3600, b"false")])
def test_a_wait_that_no_client_can_sit_out_is_told_as_one(wait: float, should_retry: bytes | None) -> None:
    with Scene(upstream("north", limited((b"retry-after", str(wait).encode())))) as scene:
        ask(scene, "first")
        client = ask(scene, "second")
    assert client.status == 429
    assert client.header(b"retry-after") == (b"60" if wait < 60 else b"%d" % wait)
    assert client.header(b"x-should-retry") == should_retry
    assert len(scene.requests) == 1


def test_the_earliest_reset_of_all_keys_and_providers_is_told() -> None:
    with Scene(
        upstream("north", limited((b"retry-after", b"50")), limited((b"retry-after", b"30")), keys=["n1", "n2"]),
        upstream("south", limited((b"retry-after", b"20"))),
        upstream("west", OVERLOADED),
        health=replace(HEALTH, failure_threshold=1),
    ) as scene:
        ask(scene, "first")
        scene.advance(10.0)
        client = ask(scene, "second")
    assert len(scene.requests) == 4
    assert (client.status, client.header(b"retry-after")) == (429, b"10")
    assert "west is ill (circuit open)" in complaint(client)[1]


def test_a_429_of_the_last_key_names_the_one_that_is_free_before_it() -> None:
    long, short = limited((b"retry-after", b"50")), limited((b"retry-after", b"9"))
    with Scene(upstream("north", short, stream(), long, keys=["n1", "n2"])) as scene:
        ask(scene, "first")
        scene.advance(4.0)
        client = ask(scene, "second")
    assert scene.asked == ["north n1", "north n2", "north n2"]
    assert client.body == whole(long)
    assert (client.status, client.header(b"retry-after")) == (429, b"5")


def test_a_key_that_rests_is_passed_over_for_another_and_then_for_another_provider() -> None:
    long, short = limited((b"retry-after", b"30")), limited((b"retry-after", b"9"))
    with Scene(
        upstream("north", long, stream(), short, stream(), keys=["n1", "n2"]), upstream("south", stream(), stream())
    ) as scene:
        ask(scene, "call 1")
        ask(scene, "call 2")
        assert scene.asked == ["north n1", "north n2", "north n2", "south k1"]
        assert passed_over(scene) == [("north", "1 key cooling")]
        ask(scene, "call 3")
        assert passed_over(scene) == [("north", "all keys cooling")]
        scene.advance(9.0)
        ask(scene, "call 4")
    assert scene.asked[4:] == ["south k1", "north n2"]


def test_a_cooling_key_never_counts_against_its_provider() -> None:
    with Scene(upstream("north", *[limited((b"retry-after", b"1"))] * 9)) as scene:
        for number in range(9):
            ask(scene, f"call {number}")
            scene.advance(1.0)
    assert scene.contenders["north"].breaker.failures == 0
    assert len(scene.requests) == 9


def zai(code: str) -> Step:
    return says(429, json.dumps({"error": {"code": code, "message": "No"}}).encode())


DEATHS = {
    "401": ("anthropic", error(401, "authentication_error", "invalid x-api-key")),
    "402": ("anthropic", error(402, "billing_error", "Pay first")),
    "403": ("anthropic", error(403, "permission_error", "Not for you")),
    "a spend limit as 400": ("anthropic", SPENT),
    "a spend limit as 429": ("anthropic", CAPPED),
    "no balance at Z.AI": ("zai", zai("1113")),
    "a locked account at Z.AI": ("zai", zai("1112")),
    "an expired plan at Z.AI": ("zai", zai("1309")),
    "a banned account at Z.AI": ("zai", zai("1313")),
}


@pytest.mark.parametrize(("type_", "death"), DEATHS.values(), ids=DEATHS)
def test_a_refused_key_is_parked_for_a_quarter_of_an_hour_loudly(type_: str, death: Step) -> None:
    with Scene(
        upstream("north", death, *[stream()] * 3, keys=["dead", "alive"], type=type_), upstream("south")
    ) as scene:
        ask(scene, "first")
        ask(scene, "second")
        scene.advance(899.0)
        ask(scene, "third")
    assert scene.asked == ["north dead", "north alive", "north alive", "north alive"]
    parked = [line for line in scene.logged if "is parked" in line]
    assert len(parked) == 1
    assert f"key {fingerprint_of('dead')} of north is parked: {scene.attempts[0].reason}" in parked[0]


def test_a_parked_key_gets_one_look_after_fifteen_minutes_and_another_after_the_next() -> None:
    dead = error(401, "authentication_error", "invalid x-api-key")
    with Scene(upstream("north", dead, dead, stream(), stream())) as scene:
        refused = ask(scene, "first")
        second = ask(scene, "second")
        scene.advance(900.0)
        ask(scene, "a look")
        ask(scene, "no second look")
        assert len(scene.requests) == 2
        scene.advance(900.0)
        ask(scene, "another look")
        ask(scene, "it is good again")
    assert refused.status == 401
    assert (second.status, complaint(second)[0]) == (503, "api_error")
    assert second.header(b"x-should-retry") == b"false"
    assert second.header(b"retry-after") is None
    assert complaint(second)[1].startswith("cc-relay: north all keys parked; the operator finds the reasons")
    assert [exchange.began for exchange in scene.requests] == [0.0, 900.0, 1800.0, 1800.0]


def test_while_some_keys_are_parked_and_others_cool_the_client_is_told_when_to_come_back() -> None:
    dead = error(403, "permission_error", "Not for you")
    with Scene(upstream("north", dead, limited((b"retry-after", b"20")), keys=["n1", "n2"])) as scene:
        ask(scene, "first")
        client = ask(scene, "second")
    assert (client.status, client.header(b"retry-after")) == (429, b"20")
    assert "1 key cooling, 1 key parked" in complaint(client)[1]


def test_a_credential_that_is_no_configured_key_is_parked_loudly_too() -> None:
    refusal = error(401, "authentication_error", "unauthorized")
    with Scene(upstream("ollama", refusal, type="ollama", keys=[])) as scene:
        ask(scene)
    assert [line for line in scene.logged if line.startswith("the credential of ollama is parked: answered 401")]
