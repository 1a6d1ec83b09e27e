"""The bounds of a call, and clients that leave."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from twisted.internet import error as net
from twisted.internet.defer import Deferred
from zope.interface import implementer

from ccrelay.core.access import REFUSED
from ccrelay.core.model import Credential, Usage
from ccrelay.core.settings import TimeoutSettings
from ccrelay.core.sse import PING
from ccrelay.errors import CredentialError
from ccrelay.interfaces import ICredentials

from .scenarios import (
    JSON,
    STARTED,
    Client,
    Scene,
    Step,
    error,
    event,
    events,
    message,
    played,
    says,
    stream,
    upstream,
    whole,
)
from .scenarios_cases import (
    ANSWERED,
    BODY,
    GONE,
    HANGS,
    ILL,
    LIMITED,
    LIMITED_SLOWLY,
    TIRED,
    complaint,
    fingerprint_of,
    told,
)

# -- bounds


def test_a_call_makes_no_more_attempts_than_allowed() -> None:
    with Scene(upstream("north", *[LIMITED] * 9, keys=[f"k{n}" for n in range(9)]), max_attempts=3) as scene:
        client = scene.call(BODY)
    assert scene.asked == ["north k0", "north k1", "north k2"]
    assert told(client) == (TIRED, 429, 3, "north", fingerprint_of("k2"))


def test_another_attempt_may_begin_only_so_long_after_the_first_failure() -> None:
    def slow(seconds: float) -> Step:
        return error(503, "overloaded_error", after=seconds)

    names = ["a", "b", "c", "d"]
    steps = [slow(60.0), slow(5.0), slow(0.1), stream()]
    with Scene(*(upstream(name, step) for name, step in zip(names, steps, strict=True)), window=5.0) as scene:
        client = scene.call(BODY)
    assert [(asked.provider, asked.began) for asked in scene.requests] == [("a", 0.0), ("b", 60.0), ("c", 65.0)]
    assert told(client)[:3] == (ILL, 502, 3)
    assert client.record.duration == pytest.approx(65.1)


def test_all_attempts_together_must_begin_to_answer_in_time() -> None:
    with Scene(upstream("north", HANGS), upstream("south", HANGS), timeout=200.0) as scene:
        client = scene.call(BODY)
        scene.advance(199.9)
        assert [exchange.closed for exchange in scene.requests] == [130.0, None]
        scene.advance(0.1)
        assert (client.status, complaint(client)[0]) == (504, "timeout_error")
        assert scene.requests[1].closed == 200.0
    assert scene.asked == ["north k1", "south k1"]
    assert told(client) == (ILL, 504, 2, "south", fingerprint_of("k1"))
    assert client.record.duration == 200.0


def test_an_attempt_that_is_given_up_is_not_taken_for_one_that_failed_by_itself() -> None:
    looking_up = Step(after=None, reads=0, given_up=net.DNSLookupError())
    with Scene(upstream("north", looking_up), upstream("south"), timeout=5.0) as scene:
        client = scene.call(BODY)
    assert scene.asked == ["north k1"]
    assert client.status == 504
    assert client.record.reason == "cc-relay: no answer began within 5 s (server.timeout_ms)"


def test_a_held_stream_that_has_not_begun_in_time_is_given_up() -> None:
    opening = played([PING] * 20, 4.0, headers=(), end=None)
    with Scene(upstream("north", opening), timeout=9.0) as scene:
        client = scene.call(BODY)
    assert (client.status, scene.requests[0].closed) == (504, 9.0)


def test_a_stream_that_began_in_time_is_not_cut_by_that_bound() -> None:
    answer = played([*events("n")[:2], *[event("content_block_delta", index=0)] * 50, *events("n")[2:]], 200.0)
    with Scene(upstream("north", answer), timeout=600.0) as scene:
        client = scene.call(BODY)
    assert client.body.replace(PING, b"") == whole(answer)
    assert client.end == "finished"
    assert client.record.duration > 10_000


def test_a_client_that_never_says_which_model_is_told_so_in_the_end() -> None:
    with Scene(upstream("north"), timeout=30.0) as scene:
        client = scene.call(length=100)
        client.send(b'{"messages": [')
        scene.advance(30.0)
        assert client.status == 504
    assert scene.requests == []
    assert told(client) == (REFUSED, 504, 0, None, None)


def test_the_time_for_an_answers_head_counts_from_the_last_byte_sent() -> None:
    limits = TimeoutSettings(connect=10.0, first_byte=120.0, idle=240.0)
    with Scene(upstream("north", HANGS, timeouts=limits)) as scene:
        client = scene.call(length=len(BODY))
        client.send(BODY[:40])
        scene.advance(100.0)
        client.send(BODY[40:60])
        scene.advance(100.0)
        client.send(BODY[60:])
        client.finish_upload()
    assert scene.requests[0].closed == 330.0
    assert client.record.reason == "no answer within 120 s of the request"


def test_a_slow_error_body_is_not_waited_for_longer_than_a_moment() -> None:
    drip = Step(529, JSON, tuple((1.0, b" ") for _ in range(99)))
    with Scene(upstream("north", drip), upstream("south", stream())) as scene:
        client = scene.call(BODY)
    assert scene.requests[0].closed == scene.requests[1].began == 10.0
    assert told(client)[0] is ANSWERED


# -- clients that leave


def leaving_before_the_model_is_known(scene: Scene) -> Client:
    client = scene.call(length=len(BODY))
    client.send(BODY[:9])
    return client


def leaving_during_the_upload(scene: Scene) -> Client:
    client = scene.call(length=len(BODY))
    client.send(BODY[:50])
    return client


def leaving_while_waiting(scene: Scene) -> Client:
    client = scene.call(BODY)
    scene.advance(3.0)
    return client


def leaving_while_streaming(scene: Scene) -> Client:
    client = scene.call(BODY)
    scene.advance(3.5)
    assert client.committed
    return client


MOMENTS: dict[str, tuple[Callable[[Scene], Client], list[Step], Usage]] = {
    "before the model is known": (leaving_before_the_model_is_known, [], Usage()),
    "during the upload": (leaving_during_the_upload, [HANGS], Usage()),
    "while connecting": (leaving_while_waiting, [Step(after=None, reads=0)], Usage()),
    "while a name is looked up": (
        leaving_while_waiting,
        [Step(after=None, reads=0, given_up=net.DNSLookupError())],
        Usage(),
    ),
    "while the upstream does not read": (leaving_while_waiting, [Step(after=None, reads=20)], Usage()),
    "while waiting for the head": (leaving_while_waiting, [HANGS], Usage()),
    "while an error body arrives": (leaving_while_waiting, [LIMITED_SLOWLY], Usage()),
    "while a stream says nothing": (leaving_while_waiting, [stream(delay=9.0)], Usage()),
    "while an opening is held": (leaving_while_waiting, [stream(delay=2.0)], STARTED),
    "while a message is held": (leaving_while_waiting, [message(end=None)], Usage()),
    "during the second attempt": (leaving_while_waiting, [LIMITED, HANGS], Usage()),
    "while streaming": (leaving_while_streaming, [stream(delay=1.0)], STARTED),
    "while a large message streams": (
        leaving_while_streaming,
        [says(200, b" " * 70_000, end=None)],
        Usage(),
    ),
}


@pytest.mark.parametrize(("moment", "steps", "usage"), MOMENTS.values(), ids=MOMENTS)
def test_a_client_that_leaves_takes_its_upstream_along_in_the_same_turn_and_nobody_else_is_asked(
    moment: Callable[[Scene], Client], steps: list[Step], usage: Usage
) -> None:
    with Scene(upstream("north", *steps, keys=["key-1", "key-2", "key-3"]), upstream("south")) as scene:
        client = moment(scene)
        assert len(scene.open) == (1 if steps else 0)
        client.leave()
        assert scene.open == []
        assert [exchange.closed for exchange in scene.requests if exchange.closed is not None] == (
            [scene.clock.seconds()] if steps else []
        )
        assert client.settled
        left_with = client.body
    assert len(scene.requests) == len(steps)
    assert client.view == (200 if client.committed else None, left_with, None)
    assert client.record.outcome is GONE
    assert client.record.attempts == len(steps)
    assert client.record.usage == usage
    assert client.record.upstream_request_id is None


def test_nobody_is_asked_for_a_client_that_had_left_already() -> None:
    with Scene(upstream("north")) as scene:
        client = scene.call(length=len(BODY), arrived=BODY[:60], left=True)
    assert scene.requests == []
    assert told(client) == (GONE, None, 0, None, None)


@implementer(ICredentials)
class SlowCredentials:
    """Nobody knows when they come. given_up: nobody wants them any more. error: what giving them up makes of them."""

    def __init__(self, error: Exception | None) -> None:
        self.given_up = False
        self._error = error

    def current(self) -> Deferred[Credential]:
        return Deferred(self._give_up)

    def renew(self, refused: Credential) -> Deferred[Credential]:
        return self.current()

    def _give_up(self, waiting: Deferred[Credential]) -> None:
        self.given_up = True
        if self._error is not None:
            waiting.errback(self._error)


@pytest.mark.parametrize("error", [None, CredentialError("the token endpoint did not answer; check its address")])
def test_a_client_that_leaves_while_a_credential_is_fetched_costs_no_request(error: Exception | None) -> None:
    slow = SlowCredentials(error)
    with Scene(upstream("north", credentials=lambda _: slow, priority=1), upstream("south")) as scene:
        client = scene.call(BODY)
        client.leave()
        assert slow.given_up
        assert client.settled
    assert scene.requests == []
    assert client.record.outcome is GONE
