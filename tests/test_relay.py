"""A call's whole story, told by scripts: who is asked with what, what the client sees, and what the record says."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from OpenSSL import SSL
from twisted.internet import error as net
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone, ResponseFailed
from twisted.web.http import PotentialDataLoss
from twisted.web.iweb import UNKNOWN_LENGTH
from zope.interface import implementer

from ccrelay.core.access import REFUSED
from ccrelay.core.http1 import HttpViolation
from ccrelay.core.model import ApiKey, CallKind, Credential, Headers, Usage
from ccrelay.core.outcomes import Outcome
from ccrelay.core.secret import Secret
from ccrelay.core.settings import PoolingSettings, TimeoutSettings
from ccrelay.core.sse import PING
from ccrelay.errors import ClientError, CredentialError
from ccrelay.interfaces import ICredentials
from ccrelay.upstream.agent import OriginAgent
from ccrelay.upstream.connection import NoAnswer

from .scenarios import (
    DOOR,
    DOOR_KEY,
    JSON,
    STARTED,
    USAGE,
    Client,
    Scene,
    Scripted,
    Step,
    door,
    envelope,
    error,
    error_event,
    event,
    events,
    fails,
    message,
    played,
    says,
    stream,
    upstream,
    whole,
)

BODY = b'{"model": "claude-opus-5-5",\n "messages": [{"role":"user", "content":"na\\u00efve \xc3\xa9"}], "stream":true}'
ANSWERED, GONE, ILL = Outcome.ANSWERED, Outcome.CLIENT_GONE, Outcome.PROVIDER_ILL
CALLERS_FAULT, TIRED, DEAD, TRUNCATED = (
    Outcome.CALLERS_FAULT, Outcome.KEY_TIRED, Outcome.KEY_DEAD, Outcome.TRUNCATED
)  # fmt: skip
CUT = ResponseFailed([Failure(net.ConnectionLost())])
OVERLOADED = error(529, "overloaded_error", "Overloaded")
LIMITED = error(429, "rate_limit_error", "Slow down", headers=((b"retry-after", b"7"),))
HANGS = Step(after=None)


def fingerprint_of(key: str) -> str:
    return Secret(key).fingerprint


def told(client: Client) -> tuple[object, ...]:
    """Of the access record: outcome, status, attempts, provider, key."""
    record = client.record
    return record.outcome, record.status, record.attempts, record.provider, record.key


def complaint(client: Client) -> tuple[str, str]:
    """Type and message of the error a client was told of, in Anthropic's envelope."""
    document = json.loads(client.body)
    assert document["type"] == "error"
    return document["error"]["type"], document["error"]["message"]


# -- who is asked next


def test_an_answer_passes_byte_for_byte_with_its_headers() -> None:
    answer = stream("north", 0.5, headers=((b"request-id", b"req_1"), (b"x-new", b"kept"), (b"set-cookie", b"a=b")))
    with Scene(upstream("north", answer)) as scene:
        client = scene.call(BODY)
    assert scene.asked == ["north k1"]
    assert scene.requests[0].url == "https://north.test/v1/messages?beta=true"
    assert scene.requests[0].body == BODY
    assert client.view == (200, whole(answer), "finished")
    assert client.headers == (
        (b"content-type", b"text/event-stream; charset=utf-8"),
        (b"request-id", b"req_1"),
        (b"x-new", b"kept"),
        (b"cache-control", b"no-cache, no-transform"),
        (b"x-accel-buffering", b"no"),
    )
    assert told(client) == (ANSWERED, 200, 1, "north", fingerprint_of("k1"))
    assert client.record.reason is None


def test_providers_are_tried_by_priority_and_equals_in_the_files_order() -> None:
    with Scene(
        upstream("first", OVERLOADED, keys=["f"], priority=1),
        upstream("last", stream("last"), keys=["l"], priority=0),
        upstream("second", OVERLOADED, keys=["s"], priority=1),
        upstream("top", OVERLOADED, keys=["t"], priority=2),
    ) as scene:
        client = scene.call(BODY)
    assert scene.asked == ["top t", "first f", "second s", "last l"]
    assert client.view == (200, whole(stream("last")), "finished")
    assert told(client) == (ANSWERED, 200, 4, "last", fingerprint_of("l"))
    assert [exchange.body for exchange in scene.requests] == [BODY] * 4


def test_keys_are_tried_by_priority_and_equals_in_the_files_order() -> None:
    keys = [("low", 0), ("high", 2), ("mid-1", 1), ("mid-2", 1)]
    with Scene(upstream("north", LIMITED, LIMITED, LIMITED, stream(), keys=keys)) as scene:
        client = scene.call(BODY)
    assert scene.asked == ["north high", "north mid-1", "north mid-2", "north low"]
    assert told(client) == (ANSWERED, 200, 4, "north", fingerprint_of("low"))


def test_without_pooling_only_the_first_key_is_used() -> None:
    settings = PoolingSettings(enabled=False, strategy="least_loaded")
    with Scene(upstream("north", LIMITED, keys=["k1", "k2"], pooling=settings), upstream("south", stream())) as scene:
        scene.call(BODY)
    assert scene.asked == ["north k1", "south k1"]


SPENT = error(400, "invalid_request_error", "You have reached your specified API usage limits. You regain access on X")
CAPPED = says(
    429,
    b'{"type":"error","error":{"type":"rate_limit_error","message":"Spend limit",'
    b'"details":{"error_code":"enforced_spend_limit_reached"}}}',
)
KEY_TROUBLE = {
    "429": LIMITED,
    "401": error(401, "authentication_error", "invalid x-api-key"),
    "402": error(402, "billing_error", "Pay first"),
    "403": error(403, "permission_error", "Not for you"),
    "a 400 about the spend limit": SPENT,
    "a 429 about the spend limit": CAPPED,
    "a 400 about the balance": error(400, "invalid_request_error", "Your credit balance is too low to access the API"),
    "an event about the rate first": played([events("x")[0], error_event("rate_limit_error", "Slow down")], end=None),
}


@pytest.mark.parametrize("trouble", KEY_TROUBLE.values(), ids=KEY_TROUBLE)
def test_trouble_with_a_key_leads_to_the_providers_next_key_then_to_the_next_provider(trouble: Step) -> None:
    with Scene(
        upstream("north", trouble, trouble, keys=["n1", "n2"]), upstream("south", stream("south"), keys=["s1"])
    ) as scene:
        client = scene.call(BODY)
    assert scene.asked == ["north n1", "north n2", "south s1"]
    assert client.view == (200, whole(stream("south")), "finished")
    assert told(client) == (ANSWERED, 200, 3, "south", fingerprint_of("s1"))


def no_answer(reason: Exception) -> NoAnswer:
    return NoAnswer(Failure(reason), False)


TLS = SSL.Error([("SSL routines", "", "certificate verify failed")])
HTML = b"<html><body>Welcome</body></html>"
PAGE = ((b"content-type", b"text/html"),)
BROTLI = ((b"content-encoding", b"br"),)
ILLNESS = {
    "500": (error(500, "api_error"), "answered 500 api_error"),
    "503": (error(503, "overloaded_error"), "answered 503 overloaded_error"),
    "504": (error(504, "timeout_error"), "answered 504 timeout_error"),
    "529": (OVERLOADED, "answered 529 overloaded_error"),
    "502 of a gateway": (Step(502, PAGE, ((0.0, HTML),)), "answered 502 api_error"),
    "refused": (fails(net.ConnectionRefusedError()), "connection refused"),
    "unknown host": (fails(net.DNSLookupError()), "host name not found"),
    "connecting takes too long": (fails(net.TimeoutError(), after=10.0), "connecting timed out"),
    "unreachable": (fails(net.NoRouteError()), "no route to host"),
    "TLS": (fails(no_answer(TLS), reads=20), "TLS failed: certificate verify failed"),
    "reset during the upload": (fails(no_answer(net.ConnectionLost()), reads=20), "connection lost"),
    "closed before the head": (fails(no_answer(net.ConnectionDone()), reads=None), "closed the connection"),
    "not HTTP": (
        fails(ResponseFailed([Failure(HttpViolation(502, "nonsense"))]), reads=None), "did not answer in HTTP"
    ),
    "never a head": (HANGS, "no answer within 120 s of the request"),
    "never reads": (Step(after=None, reads=0), "no answer within 120 s of the request"),
    "HTML with 200": (Step(200, PAGE, ((0.0, HTML),)), "answered 200 with text/html"),
    "no type with 200": (Step(200, (), ((0.0, b""),)), "answered 200 with no content-type"),
    "HTML with 403": (Step(403, PAGE, ((0.0, HTML),)), "answered 403 permission_error"),
    "HTML with 404": (Step(404, PAGE, ((0.0, HTML),)), "answered 404 not_found_error"),
    "compressed unasked": (stream(headers=BROTLI), "the answer is compressed, which was not offered"),
    "a redirect": (Step(307, ((b"location", b"https://else.test/?t=1"),)), "answered 307 api_error"),
    "an error event first": (played([error_event()], end=None), "began with an error event (overloaded_error)"),
    "an error event after the opening": (
        played([events("x")[0], PING, error_event("api_error")], 1.0), "began with an error event (api_error)"
    ),
    "an error with 200": (says(200, envelope("api_error", "Oh")), "began with an error event (api_error)"),
    "an empty stream": (played([]), "the stream ended without message_stop"),
    "a stream cut before its content": (played(events("x")[:1], end=CUT), "connection lost"),
    "a stream cut inside its first event": (played([events("x")[0][:9]]), "the event stream ended inside an event"),
    "a message cut": (message(end=CUT), "connection lost"),
    "silence before the content": (played([], end=None), "the answer fell silent"),
}  # fmt: skip


@pytest.mark.parametrize(("illness", "reason"), ILLNESS.values(), ids=ILLNESS)
def test_an_ill_provider_is_left_with_all_its_keys_and_the_next_one_answers(illness: Step, reason: str) -> None:
    with Scene(upstream("north", illness, keys=["n1", "n2"]), upstream("south", stream("south"), keys=["s1"])) as scene:
        client = scene.call(BODY)
    assert scene.asked == ["north n1", "south s1"]
    assert scene.requests[1].body == BODY
    assert client.view == (200, whole(stream("south")), "finished")
    assert told(client) == (ANSWERED, 200, 2, "south", fingerprint_of("s1"))
    assert [(attempt.outcome, attempt.reason) for attempt in scene.attempts] == [(ILL, reason), (None, None)]


@pytest.mark.parametrize(("illness", "reason"), ILLNESS.values(), ids=ILLNESS)
def test_an_ill_provider_that_is_the_only_one_is_told_as_an_error(illness: Step, reason: str) -> None:
    with Scene(upstream("north", illness, keys=["n1", "n2"])) as scene:
        client = scene.call(BODY)
    assert scene.asked == ["north n1"]
    assert client.end == "finished"
    assert client.status is not None
    assert client.status >= 400
    assert complaint(client)
    assert told(client) == (ILL, client.status, 1, "north", fingerprint_of("n1"))
    assert client.record.reason == reason


FAULTS = {
    "400": error(400, "invalid_request_error", "messages.0: bad", headers=((b"request-id", b"req_1"),)),
    "404": error(404, "not_found_error", "model: claude-opus-9"),
    "409": error(409, "conflict_error"),
    "413": error(413, "request_too_large", "Request exceeds the maximum size"),
    "422": error(422, "invalid_request_error", headers=((b"x-should-retry", b"false"), (b"x-other", b"1"))),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_the_callers_fault_is_told_at_once_and_unchanged_and_nobody_else_is_asked(fault: Step) -> None:
    with Scene(upstream("north", fault, keys=["n1", "n2"]), upstream("south", stream())) as scene:
        client = scene.call(BODY)
    assert scene.asked == ["north n1"]
    assert client.view == (fault.status, whole(fault), "finished")
    assert client.headers == fault.headers
    assert told(client) == (CALLERS_FAULT, fault.status, 1, "north", fingerprint_of("n1"))


@pytest.mark.parametrize("status", [400, 401, 403, 404, 429, 500, 503, 504, 529])
def test_a_lone_attempts_error_passes_unchanged(status: int) -> None:
    answer = error(status, "some_error", headers=((b"retry-after", b"70"), (b"request-id", b"req_1")))
    with Scene(upstream("north", answer)) as scene:
        client = scene.call(BODY)
    assert client.view == (status, whole(answer), "finished")
    assert client.headers == answer.headers
    assert (client.record.status, client.record.upstream_request_id) == (status, "req_1")


# -- what happens after the commit


def test_an_error_event_after_content_is_passed_on_and_nobody_else_is_asked() -> None:
    pieces = [*events("north")[:3], error_event()]
    with Scene(upstream("north", played(pieces, 1.0), keys=["n1", "n2"]), upstream("south", stream())) as scene:
        client = scene.call(BODY)
    assert scene.asked == ["north n1"]
    assert client.view == (200, b"".join(pieces), "finished")
    assert told(client) == (TRUNCATED, 200, 1, "north", fingerprint_of("n1"))
    assert client.record.reason == "error event: overloaded_error"
    assert client.record.usage == STARTED


@pytest.mark.parametrize("end", [CUT, PotentialDataLoss(), None], ids=["cut", "closed", "silent"])
def test_a_committed_stream_that_dies_is_cut_and_nobody_else_is_asked(end: Exception | None) -> None:
    pieces = events("north")[:4]
    with Scene(
        upstream("north", played([*pieces, b"event: mess"], 1.0, end=end), keys=["n1", "n2"]),
        upstream("south", stream()),
    ) as scene:
        client = scene.call(BODY)
    assert scene.asked == ["north n1"]
    assert (client.status, client.body.replace(PING, b""), client.end) == (200, b"".join(pieces), "aborted")
    outcome = Outcome.STALLED if end is None else TRUNCATED
    assert told(client) == (outcome, 200, 1, "north", fingerprint_of("n1"))
    assert client.record.usage == STARTED


def test_a_clean_end_without_message_stop_is_cut_too() -> None:
    pieces = events("north")[:-1]
    with Scene(upstream("north", played(pieces))) as scene:
        client = scene.call(BODY)
    assert client.view == (200, b"".join(pieces), "aborted")
    assert told(client)[0] is TRUNCATED
    assert client.record.usage == USAGE


def test_a_large_message_that_is_cut_after_its_beginning_went_out_is_cut() -> None:
    answer = says(200, b'{"content":"' + b"x" * 99_999, end=CUT)
    with Scene(upstream("north", answer), upstream("south", stream())) as scene:
        client = scene.call(BODY)
    assert scene.asked == ["north k1"]
    assert client.view == (200, whole(answer), "aborted")
    assert told(client)[0] is TRUNCATED


def test_a_slow_client_slows_its_upstream_and_gets_everything() -> None:
    answer = stream("north", 1.0)
    with Scene(upstream("north", answer)) as scene:
        client = scene.call(BODY)
        scene.advance(2.0)
        client.producer.pauseProducing()
        had = client.body
        scene.advance(1000.0)
        assert client.body == had
        assert client.end is None
        client.producer.resumeProducing()
    assert client.view == (200, whole(answer), "finished")
    assert scene.requests[0].log == ["pause", "resume"]
    assert told(client)[0] is ANSWERED


# -- when everything fails


@pytest.mark.parametrize(
    ("steps", "status", "outcome"),
    [
        ([OVERLOADED, LIMITED], 429, TIRED),
        ([LIMITED, OVERLOADED], 429, ILL),
        ([LIMITED, error(401, "authentication_error")], 429, DEAD),
        ([error(401, "authentication_error"), OVERLOADED], 401, ILL),
        ([error(403, "permission_error"), fails(net.ConnectionRefusedError())], 403, ILL),
        ([OVERLOADED, error(400, "invalid_request_error")], 400, CALLERS_FAULT),
        ([LIMITED, error(404, "not_found_error")], 404, CALLERS_FAULT),
        ([error(501, "not_supported"), OVERLOADED], 501, ILL),
        ([OVERLOADED, error(500, "api_error")], 502, ILL),
        ([fails(net.ConnectionRefusedError()), fails(net.DNSLookupError())], 502, ILL),
    ],
)
def test_of_several_errors_the_most_useful_is_told(steps: list[Step], status: int, outcome: Outcome) -> None:
    steps = [replace(step, headers=(*step.headers, (b"request-id", b"%d" % step.status))) for step in steps]
    scripted = [upstream(f"p{number}", step) for number, step in enumerate(steps)]
    with Scene(*scripted) as scene:
        client = scene.call(BODY)
    assert scene.asked == ["p0 k1", "p1 k1"]
    assert client.end == "finished"
    assert client.status == status
    if status != 502:
        assert client.body in [whole(step) for step in steps if step.status == status]
        assert client.record.upstream_request_id == str(status), "of the answer that was told"
    else:
        assert client.record.upstream_request_id is None
        assert complaint(client) == ("api_error", "No provider could answer: 2 attempts were made, all failed")
        assert json.loads(client.body)["request_id"] == client.id
    assert told(client) == (outcome, status, 2, "p1", fingerprint_of("k1"))


def test_a_429_of_several_tells_the_earliest_time_at_which_a_key_works_again() -> None:
    def limited(wait: bytes) -> Step:
        return error(429, "rate_limit_error", "Wait " + wait.decode(), headers=((b"retry-after", wait),))

    keys = ["key-1", "key-2", "key-3"]
    with Scene(upstream("north", limited(b"50"), limited(b"20"), limited(b"90"), keys=keys)) as scene:
        client = scene.call(BODY)
    assert client.view == (429, envelope("rate_limit_error", "Wait 90"), "finished")
    assert client.header(b"retry-after") == b"20"
    assert client.header(b"x-should-retry") is None


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


LIMITED_SLOWLY = Step(429, JSON, ((99.0, b"{}"),))
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


# -- the request's body


PIECES = [BODY[:30], BODY[30:45], BODY[45:-1], BODY[-1:]]


@pytest.mark.parametrize("chunked", [True, False])
def test_an_attempt_begins_during_the_upload_and_the_next_one_sends_the_same_bytes_again(chunked: bool) -> None:
    early = error(503, "overloaded_error", reads=40)
    with Scene(upstream("north", early), upstream("south", stream("south"))) as scene:
        client = scene.call(length=len(BODY), chunked=chunked)
        seen = []
        for piece in PIECES:
            client.send(piece)
            scene.advance(1.0)
            seen.append([len(exchange.body) for exchange in scene.requests])
        client.finish_upload()
    assert seen == [[30], [45, 45], [45, len(BODY) - 1], [45, len(BODY)]]
    assert [exchange.body for exchange in scene.requests] == [BODY[:45], BODY]
    assert [exchange.length for exchange in scene.requests] == [UNKNOWN_LENGTH if chunked else len(BODY)] * 2
    assert client.view == (200, whole(stream("south")), "finished")
    assert (client.record.attempts, client.record.bytes_in) == (2, len(BODY))


def test_a_model_that_comes_last_is_waited_for() -> None:
    body = b'{"messages": [], "stream": true, "model": "m"}'
    with Scene(upstream("north", stream())) as scene:
        client = scene.call(length=len(body))
        for byte in body:
            assert scene.requests == [] or client.upload.received >= body.rindex(b'"')
            client.send(bytes([byte]))
        client.finish_upload()
    assert scene.requests[0].body == body


LATE_FAULTS = {
    "a second model": b',"model":"claude-haiku-4-5"}',
    "something after the end": b"} x",
    "a stray comma": b",}",
    "cut short": b"",
}


@pytest.mark.parametrize("chunked", [True, False])
@pytest.mark.parametrize("early", [0, 60], ids=["", "begun at once"])
@pytest.mark.parametrize("tail", LATE_FAULTS.values(), ids=LATE_FAULTS)
def test_a_fault_late_in_the_body_is_told_and_the_upstream_never_has_the_whole(
    tail: bytes, early: int, chunked: bool
) -> None:
    body = BODY[:-1] + tail
    with Scene(upstream("north", stream()), upstream("south")) as scene:
        client = scene.call(length=len(body), chunked=chunked, arrived=body[:early])
        client.send(body[early:60])
        client.send(body[60:])
        client.finish_upload()
        assert scene.open == []
        assert client.settled
    assert scene.asked == ["north k1"]
    assert not scene.requests[0].complete
    assert scene.requests[0].body == BODY[:60] or not tail
    assert (client.status, complaint(client)[0]) == (400, "invalid_request_error")
    assert told(client) == (CALLERS_FAULT, 400, 1, "north", fingerprint_of("k1"))


def test_a_fault_in_the_body_of_a_call_that_is_being_answered_cuts_the_answer() -> None:
    with Scene(upstream("north", stream("north", 1.0, reads=40))) as scene:
        client = scene.call(chunked=True)
        client.send(BODY[:60])
        scene.advance(3.0)
        had = client.body
        assert had
        client.send(BODY[60:] + b"]")
        assert scene.open == []
    assert client.view == (200, had, "aborted")
    assert told(client) == (CALLERS_FAULT, 200, 1, "north", fingerprint_of("k1"))
    assert client.record.usage == STARTED


def test_an_answer_that_comes_before_the_upload_ends_is_passed_on_and_the_upload_goes_on() -> None:
    with Scene(upstream("north", stream("north", 1.0, reads=40))) as scene:
        client = scene.call(length=len(BODY))
        client.send(BODY[:60])
        scene.advance(3.0)
        assert client.committed
        client.send(BODY[60:])
        client.finish_upload()
    assert scene.requests[0].body == BODY
    assert client.view == (200, whole(stream("north")), "finished")


def test_an_upstream_may_refuse_a_body_before_it_has_it() -> None:
    refusal = error(413, "request_too_large", "Request exceeds the maximum size", reads=20)
    with Scene(upstream("north", refusal), upstream("south", stream())) as scene:
        client = scene.call(length=1000)
        client.send(BODY[:60])
        scene.advance(1.0)
    assert scene.asked == ["north k1"]
    assert client.view == (413, whole(refusal), "finished")
    assert told(client)[0] is CALLERS_FAULT


def test_a_body_that_grows_beyond_its_limit_ends_the_call() -> None:
    with Scene(upstream("north", stream()), body_limit=100) as scene:
        client = scene.call(chunked=True)
        client.send(BODY[:60])
        client.send(b" " * 50)
        assert scene.open == []
    assert (client.status, complaint(client)[0]) == (413, "request_too_large")
    assert told(client)[:3] == (CALLERS_FAULT, 413, 1)


def test_a_body_that_stops_arriving_ends_the_call() -> None:
    with Scene(upstream("north", stream()), upstream("south")) as scene:
        client = scene.call(length=len(BODY))
        client.send(BODY[:60])
        client.break_upload(ClientError(408, "invalid_request_error", "The request body stopped arriving"))
        assert scene.open == []
    assert client.status == 408
    assert told(client)[:3] == (CALLERS_FAULT, 408, 1)


@pytest.mark.parametrize(
    "body",
    [b"[]", b"nonsense", b'{"messages": []}', b'{"model": 7}', b'{"model": ""}', b'{"model":"a","model":"a"}', b'{"m'],
)
def test_a_body_that_cannot_be_routed_is_refused_and_nobody_is_asked(body: bytes) -> None:
    with Scene(upstream("north", HANGS)) as scene:
        client = scene.call(body)
    assert [exchange.complete for exchange in scene.requests] in ([], [False])
    assert (client.status, complaint(client)[0]) == (400, "invalid_request_error")
    assert client.record.status == 400


MAPPING = {"claude-opus-*": "claude-opus-4-8", "claude-opus-5-*": "glm \u00e9/5.3"}


def test_a_mapped_model_is_the_only_change_to_the_body() -> None:
    with Scene(
        upstream("north", OVERLOADED, model_mapping=MAPPING), upstream("south", OVERLOADED), upstream("west", stream())
    ) as scene:
        client = scene.call(BODY)
    mapped = BODY.replace(b'"claude-opus-5-5"', json.dumps("glm \u00e9/5.3").encode())
    assert [exchange.body for exchange in scene.requests] == [mapped, BODY, BODY]
    assert [exchange.length for exchange in scene.requests] == [len(mapped), len(BODY), len(BODY)]
    assert (client.record.model_asked, client.record.model_sent) == ("claude-opus-5-5", "claude-opus-5-5")


def test_the_record_names_the_model_that_was_sent() -> None:
    with Scene(upstream("north", stream(), model_mapping=MAPPING)) as scene:
        client = scene.call(BODY)
    assert (client.record.model_asked, client.record.model_sent) == ("claude-opus-5-5", "glm \u00e9/5.3")


# -- credentials

OPEN_TO_OWN = door(allow_subscription=True)
OWN = b"Bearer sk-ant-oat01-clients-own"
BETAS = b"claude-code-20250219,oauth-2025-04-20"
OWN_BESIDE_THE_DOORS = (*DOOR, (b"authorization", OWN), (b"anthropic-beta", BETAS))
OWN_ALONE = ((b"authorization", OWN), (b"anthropic-beta", BETAS))


def credentials_of(headers: Headers) -> list[tuple[bytes, bytes]]:
    return [line for line in headers if line[0] in (b"x-api-key", b"authorization", b"api-key")]


@pytest.mark.parametrize("line", [(b"x-api-key", DOOR_KEY), (b"authorization", "Bearer " + DOOR_KEY)])
@pytest.mark.parametrize("setting", ["x-api-key", "bearer"])
def test_the_relays_own_key_stays_here_and_the_pooled_one_goes_in_its_configured_header(
    line: tuple[bytes, str], setting: str
) -> None:
    with Scene(upstream("north", stream(), auth_header=setting)) as scene:
        client = scene.call(BODY, headers=((line[0], line[1].encode()), (b"anthropic-beta", b"a,b")))
    expected = (b"x-api-key", b"k1") if setting == "x-api-key" else (b"authorization", b"Bearer k1")
    assert credentials_of(scene.requests[0].headers) == [expected]
    assert (b"anthropic-beta", b"a,b") in scene.requests[0].headers
    assert told(client)[0] is ANSWERED


def test_a_clients_own_credential_goes_to_anthropic_alone_and_unchanged_and_nowhere_else() -> None:
    with Scene(
        upstream("north", LIMITED, keys=["n1", "n2"], priority=2),
        upstream("zai", OVERLOADED, type="zai", keys=["z1"], priority=1),
        upstream("ollama", OVERLOADED, type="ollama", keys=[], priority=1),
        upstream("azure", stream(), type="azure", keys=["a1"]),
        auth=OPEN_TO_OWN,
    ) as scene:
        client = scene.call(BODY, headers=OWN_BESIDE_THE_DOORS)
    assert scene.asked == ["north sk-ant-oat01-clients-own", "zai z1", "ollama -", "azure a1"]
    assert credentials_of(scene.requests[0].headers) == [(b"authorization", OWN)]
    for exchange in scene.requests:
        assert (b"anthropic-beta", BETAS) in exchange.headers
        assert DOOR_KEY.encode() not in b"".join(value for _, value in exchange.headers)
    for exchange in scene.requests[1:]:
        assert OWN not in [value for _, value in exchange.headers]
    assert told(client) == (ANSWERED, 200, 4, "azure", fingerprint_of("a1"))


QUOTA = ((b"anthropic-ratelimit-unified-status", b"rejected"), (b"anthropic-organization-id", b"org"))


@pytest.mark.parametrize(("headers", "told_quota"), [(OWN_BESIDE_THE_DOORS, QUOTA), (DOOR, ())])
@pytest.mark.parametrize("answer", [stream(headers=QUOTA), error(429, "rate_limit_error", headers=QUOTA)])
def test_an_accounts_quota_is_told_to_whoever_owns_the_account(
    answer: Step, headers: Headers, told_quota: Headers
) -> None:
    with Scene(upstream("north", answer), auth=OPEN_TO_OWN) as scene:
        client = scene.call(BODY, headers=headers)
    assert tuple(line for line in client.headers if line in QUOTA) == told_quota


def test_a_client_that_has_only_its_own_credential_never_spends_a_pooled_key() -> None:
    with Scene(
        upstream("north", LIMITED, keys=["n1"], priority=1),
        upstream("zai", type="zai", keys=["z1"]),
        upstream("ollama", type="ollama", keys=[]),
        auth=OPEN_TO_OWN,
    ) as scene:
        client = scene.call(BODY, headers=OWN_ALONE)
    assert scene.asked == ["north sk-ant-oat01-clients-own"]
    assert client.view == (429, whole(LIMITED), "finished")
    assert told(client) == (TIRED, 429, 1, "north", None)
    assert client.record.principal is not None
    assert client.record.principal.own_credential_only


def test_a_client_that_has_only_its_own_credential_is_refused_where_nobody_takes_it() -> None:
    with Scene(upstream("zai", type="zai", keys=["z1"]), auth=OPEN_TO_OWN) as scene:
        client = scene.call(BODY, headers=OWN_ALONE)
    assert scene.requests == []
    assert (client.status, client.header(b"x-should-retry")) == (503, b"false")


@pytest.mark.parametrize("header", [b"x-api-key", b"authorization"])
def test_the_placeholder_is_never_forwarded(header: bytes) -> None:
    value = b"managed-by-cc-relay" if header == b"x-api-key" else b"Bearer managed-by-cc-relay"
    auth = door(api_key=None, allow_bearer=False, bearer_secret=None, allow_subscription=True)
    with Scene(upstream("north", stream(), keys=["n1"]), auth=auth) as scene:
        scene.call(BODY, headers=((header, value),))
    assert scene.asked == ["north n1"]
    assert credentials_of(scene.requests[0].headers) == [(b"x-api-key", b"n1")]


@pytest.mark.parametrize(
    ("type_", "status", "kind"), [("anthropic", 401, "authentication_error"), ("zai", 503, "api_error")]
)
def test_without_any_key_the_client_is_told_not_to_try_again(type_: str, status: int, kind: str) -> None:
    with Scene(upstream("north", type=type_, keys=[])) as scene:
        client = scene.call(BODY)
    assert scene.requests == []
    assert (client.status, complaint(client)[0]) == (status, kind)
    assert client.header(b"x-should-retry") == b"false"
    assert told(client) == (REFUSED, status, 0, None, None)
    assert client.record.model_asked == "claude-opus-5-5"


def test_a_provider_that_needs_no_key_is_asked_without_one() -> None:
    with Scene(upstream("ollama", stream(), type="ollama", keys=[])) as scene:
        client = scene.call(BODY)
    assert scene.asked == ["ollama -"]
    assert told(client) == (ANSWERED, 200, 1, "ollama", None)


@implementer(ICredentials)
class NoCredentials:
    def __init__(self, key: ApiKey) -> None:
        self._key = key

    def current(self) -> Deferred[Credential]:
        if self._key.secret.reveal() == "bad":
            return fail(CredentialError("the token endpoint refused the key; set a new one"))
        return succeed(self._key)

    def renew(self, refused: Credential) -> Deferred[Credential]:
        return self.current()


def test_a_provider_whose_secret_cannot_be_had_is_followed_by_the_next_and_its_key_is_not_to_blame() -> None:
    north = upstream("north", stream(), keys=["bad"], credentials=NoCredentials, priority=1)
    with Scene(north, upstream("south", stream(), stream(), keys=["s1"])) as scene:
        client = scene.call(BODY)
        assert scene.contenders["north"].pool is not None
        assert scene.contenders["north"].pool.available(scene.clock.seconds()) == 1
    assert scene.asked == ["south s1"]
    assert scene.attempts[0].reason == "the token endpoint refused the key; set a new one"
    assert told(client) == (ANSWERED, 200, 2, "south", fingerprint_of("s1"))


# -- count_tokens

COUNT = CallKind.COUNT_TOKENS


def test_tokens_are_counted_by_one_that_can() -> None:
    with Scene(
        upstream("zai", type="zai", priority=2),
        upstream("ollama", type="ollama", keys=[], priority=1),
        upstream("north", says(200, b'{"input_tokens": 2095}')),
    ) as scene:
        client = scene.call(BODY, kind=COUNT)
    assert scene.asked == ["north k1"]
    assert scene.requests[0].url == "https://north.test/v1/messages/count_tokens?beta=true"
    assert scene.requests[0].body == BODY
    assert client.view == (200, b'{"input_tokens": 2095}', "finished")
    assert told(client) == (ANSWERED, 200, 1, "north", fingerprint_of("k1"))
    assert client.record.kind is COUNT
    assert client.record.usage == Usage(), "nothing was spent"


def test_where_nobody_counts_tokens_the_client_is_told_so_for_good() -> None:
    with Scene(upstream("zai", type="zai"), upstream("ollama", type="ollama", keys=[])) as scene:
        client = scene.call(BODY, kind=COUNT)
    assert scene.requests == []
    assert (client.status, client.header(b"x-should-retry")) == (501, b"false")
    assert complaint(client) == ("not_supported", "cc-relay: zai has no count_tokens; ollama has no count_tokens")
    assert told(client) == (REFUSED, 501, 0, None, None)


def test_where_nobody_has_a_key_to_count_with_that_is_what_the_client_is_told() -> None:
    with Scene(upstream("north", keys=[])) as scene:
        client = scene.call(BODY, kind=COUNT)
    assert (client.status, client.header(b"x-should-retry")) == (401, b"false")


def test_a_count_that_fails_at_one_is_made_by_the_next() -> None:
    with Scene(
        upstream("north", OVERLOADED), upstream("azure", says(200, b'{"input_tokens": 7}'), type="azure", keys=["a1"])
    ) as scene:
        client = scene.call(BODY, kind=COUNT)
    assert scene.asked == ["north k1", "azure a1"]
    assert client.body == b'{"input_tokens": 7}'


# -- what the dialects say


def zai_error(code: str, status: int = 429) -> Step:
    error = {"code": code, "message": f"[{code}] Said so"}
    return says(status, json.dumps({"error": error, "request_id": "2026"}).encode())


@pytest.mark.parametrize(
    ("code", "asked", "outcome"),
    [
        ("1302", ["zai z1", "zai z2", "south s1"], TIRED),
        ("1308", ["zai z1", "zai z2", "south s1"], TIRED),
        ("1113", ["zai z1", "zai z2", "south s1"], DEAD),
        ("1313", ["zai z1", "zai z2", "south s1"], DEAD),
        ("1305", ["zai z1", "south s1"], ILL),
        ("1211", ["zai z1"], CALLERS_FAULT),
        ("1301", ["zai z1"], CALLERS_FAULT),
    ],
)
def test_a_429_of_zai_means_what_its_code_says(code: str, asked: list[str], outcome: Outcome) -> None:
    south = upstream("south", OVERLOADED, keys=["s1"])
    with Scene(upstream("zai", zai_error(code), zai_error(code), type="zai", keys=["z1", "z2"]), south) as scene:
        client = scene.call(BODY)
    assert scene.asked == asked
    assert credentials_of(scene.requests[0].headers) == [(b"authorization", b"Bearer z1")]
    if len(asked) == 1:
        assert complaint(client)[1] == f"[{code}] Said so"
        assert told(client)[0] is outcome
    else:
        assert scene.attempts[0].outcome is outcome
        assert code in str(scene.attempts[0].reason)


def test_an_unpaid_zai_account_is_no_429_that_a_client_waits_for() -> None:
    with Scene(upstream("zai", zai_error("1113"), type="zai", keys=["z1"])) as scene:
        client = scene.call(BODY)
    assert (client.status, client.header(b"x-should-retry")) == (429, b"false")
    assert complaint(client) == ("billing_error", "[1113] Said so")


def test_a_model_that_ollama_does_not_have_is_the_callers_fault_and_a_path_it_does_not_have_is_not() -> None:
    pulled = error(404, "not_found_error", 'model "claude-opus-5-5" not found')
    with Scene(upstream("ollama", pulled, type="ollama", keys=[]), upstream("south")) as scene:
        client = scene.call(BODY)
    assert scene.asked == ["ollama -"]
    assert client.view == (404, whole(pulled), "finished")
    old = Step(404, ((b"content-type", b"text/plain"),), ((0.0, b"404 page not found"),))
    with Scene(upstream("ollama", old, type="ollama", keys=[]), upstream("south", stream())) as scene:
        client = scene.call(BODY)
    assert scene.asked == ["ollama -", "south k1"]
    assert told(client)[0] is ANSWERED


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed_and_its_target_not_told(status: int) -> None:
    headers = ((b"location", b"https://elsewhere.test/?token=s3cret"), (b"content-type", b"text/html"))
    with Scene(upstream("north", Step(status, headers))) as scene:
        client = scene.call(BODY)
    assert scene.asked == ["north k1"]
    assert client.status == 502
    assert "a redirect" in complaint(client)[1]
    assert b"s3cret" not in client.body + repr(client.headers).encode()
    assert "s3cret" not in repr(client.record)


# -- what the record says


@pytest.mark.parametrize(
    "answer", [stream("north"), message("north"), message("north", headers=((b"x", b"y"),), end=PotentialDataLoss())]
)
def test_the_record_counts_all_four_classes_of_tokens(answer: Step) -> None:
    with Scene(upstream("north", answer)) as scene:
        client = scene.call(BODY)
    assert client.view == (200, whole(answer), "finished")
    assert client.record.usage == USAGE
    assert client.record.stream is (answer.headers[0][1] != b"application/json")


def test_a_message_streamed_because_it_is_large_is_counted_too() -> None:
    usage = b'"usage":{"input_tokens":5,"output_tokens":6,"cache_read_input_tokens":7}'
    body = b'{"text":"' + b"x" * 200_000 + b'",' + usage + b"}"
    with Scene(upstream("north", Step(200, JSON, ((0.0, body[:100_000]), (1.0, body[100_000:]))))) as scene:
        client = scene.call(BODY)
        scene.advance(0.5)
        assert len(client.body) == 100_000
    assert client.view == (200, body, "finished")
    assert client.record.usage == Usage(input=5, output=6, cache_read=7)


def test_tokens_told_by_a_failed_attempt_are_not_charged_to_the_next_ones_answer() -> None:
    with Scene(
        upstream("north", played([*events("n")[:1], error_event()])), upstream("south", says(200, b'{"id":"m"}'))
    ) as scene:
        client = scene.call(BODY)
    assert client.body == b'{"id":"m"}'
    assert client.record.usage == Usage()


def test_the_times_are_counted_from_the_calls_beginning() -> None:
    slow = error(529, "overloaded_error", after=2.0)
    with Scene(upstream("north", slow), upstream("south", stream("south", 1.0, after=3.0))) as scene:
        scene.advance(50.0)
        client = scene.call(length=len(BODY))
        scene.advance(4.0)
        client.send(BODY)
        client.finish_upload()
    record = client.record
    assert client.committed_at == 50 + 4 + 2 + 3 + 2
    assert record.ttfb == 4 + 2 + 3 + 2
    assert record.duration == 4 + 2 + 3 + 7
    assert record.time == 1_800_000_000 + 50 + 16
    assert [piece for _, piece in client.pieces][1:] == list(events("south"))[2:]


def test_an_error_is_the_first_byte_of_its_answer() -> None:
    with Scene(upstream("north", error(400, "invalid_request_error", after=2.5))) as scene:
        client = scene.call(BODY)
    assert (client.record.ttfb, client.record.duration) == (2.5, 2.5)


@pytest.mark.parametrize(
    ("last", "status"), [(stream("south"), 200), (error(400, "invalid_request_error"), 400), (OVERLOADED, 502)]
)
def test_debugging_headers_tell_how_the_answer_came_about(last: Step, status: int) -> None:
    with Scene(upstream("north", error(503, "api_error")), upstream("south", last), debug=True) as scene:
        client = scene.call(BODY)
    assert client.status == status
    assert client.header(b"x-cc-relay-strategy") == b"failover"
    assert client.header(b"x-cc-relay-provider") == b"south"
    assert client.header(b"x-cc-relay-attempts") == b"2"


def test_without_debugging_no_header_tells() -> None:
    with Scene(upstream("north", stream(headers=((b"x-cc-relay-provider", b"one behind"),)))) as scene:
        client = scene.call(BODY)
    assert [name for name, _ in client.headers if name.startswith(b"x-cc-relay")] == []


@pytest.mark.parametrize("name", [b"request-id", b"x-request-id", b"apim-request-id"])
def test_the_record_holds_the_request_ids_of_both_sides(name: bytes) -> None:
    with Scene(upstream("north", OVERLOADED), upstream("south", stream(headers=((name, b"req_up"),)))) as scene:
        client = scene.call(BODY)
    assert (client.record.request_id, client.record.upstream_request_id) == ("call-1", "req_up")
    assert client.header(b"request-id") == (b"req_up" if name == b"request-id" else None)


def test_calls_at_once_do_not_mix() -> None:
    with Scene(upstream("north", *(stream(f"m{n}", 1.0 + n) for n in range(3)))) as scene:
        clients = [scene.call(BODY) for _ in range(3)]
        scene.advance(2.5)
        clients[1].leave()
    assert [client.view for client in (clients[0], clients[2])] == [
        (200, whole(stream(name)), "finished") for name in ("m0", "m2")
    ]
    assert [client.record.outcome for client in clients] == [ANSWERED, GONE, ANSWERED]


# -- with the real agent on wires in memory


@implementer(IStreamClientEndpoint)
class Wire:
    """An endpoint that always connects. transports: of the connections made, in order; protocols: likewise."""

    def __init__(self) -> None:
        self.transports: list[StringTransport] = []
        self.protocols: list[Any] = []

    def connect(self, factory: Any) -> Deferred[Any]:
        self.protocols.append(factory.buildProtocol(None))
        self.transports.append(StringTransport())
        self.transports[-1].setTcpNoDelay = self.transports[-1].setTcpKeepAlive = lambda _: None
        self.protocols[-1].makeConnection(self.transports[-1])
        return succeed(self.protocols[-1])

    def answer(self, number: int, step: Step) -> None:
        body = whole(step)
        head = b"".join(b"%b: %b\r\n" % line for line in step.headers)
        lines = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n%b\r\n" % (len(body), head)
        self.protocols[number].dataReceived(lines + body)

    def lose(self, number: int) -> None:
        self.protocols[number].connectionLost(Failure(net.ConnectionLost()))


def test_a_request_repeated_because_its_connection_was_stale_is_one_attempt() -> None:
    wire = Wire()
    with Scene(upstream("north", agent=lambda clock: OriginAgent(clock, wire)), max_attempts=1) as scene:
        scene.call(BODY)
        wire.answer(0, stream())
        second = scene.call(BODY)
        wire.lose(0)
        assert len(wire.protocols) == 2
        wire.answer(1, stream("again"))
    assert wire.transports[0].value().count(BODY) == 2
    assert wire.transports[1].value().count(BODY) == 1
    assert second.view == (200, whole(stream("again")), "finished")
    assert told(second) == (ANSWERED, 200, 1, "north", fingerprint_of("k1"))


@pytest.mark.parametrize("coding", [b"gzip", b"br"])
def test_an_answer_compressed_unasked_is_refused_before_anybody_unpacks_it(coding: bytes) -> None:
    wire = Wire()
    north = upstream("north", agent=lambda clock: OriginAgent(clock, wire), priority=1)
    with Scene(north, upstream("south", stream("south"))) as scene:
        client = scene.call(BODY)
        wire.answer(0, stream(headers=((b"content-encoding", coding),)))
        assert wire.transports[0].disconnected
    assert client.view == (200, whole(stream("south")), "finished")
    assert told(client)[:3] == (ANSWERED, 200, 2)


def test_a_request_lost_on_a_fresh_connection_is_not_repeated_there() -> None:
    wire = Wire()
    with Scene(
        upstream("north", agent=lambda clock: OriginAgent(clock, wire), keys=["n1", "n2"]), upstream("south", stream())
    ) as scene:
        client = scene.call(BODY)
        wire.lose(0)
    assert len(wire.protocols) == 1
    assert scene.asked == ["south k1"]
    assert told(client)[:3] == (ANSWERED, 200, 2)


# -- whatever happens


ENDS = st.sampled_from([ResponseDone(), PotentialDataLoss(), CUT, None])
SHORT = st.sampled_from([0.0, 0.0, 0.3, 4.0])
DELAYS = SHORT | st.sampled_from([17.0, 250.0])


@st.composite
def cut_up(draw: st.DrawFn, body: bytes, delays: st.SearchStrategy[float] = DELAYS) -> tuple[tuple[float, bytes], ...]:
    """``body`` in pieces cut anywhere, each after some time."""
    cuts = sorted({0, len(body), *draw(st.lists(st.integers(0, len(body)), max_size=5))})
    return tuple((draw(delays), body[a:b]) for a, b in pairwise(cuts))


@st.composite
def any_stream(draw: st.DrawFn) -> Step:
    """A stream that may carry an error event anywhere, and may break off anywhere."""
    parts = list(events(draw(st.sampled_from(["north \u00e9", "south"]))))
    if draw(st.booleans()):
        parts.insert(draw(st.integers(0, len(parts))), error_event())
    body = b"".join(parts)
    if draw(st.booleans()):
        body = body[: draw(st.integers(0, len(body)))]
    return Step(200, stream().headers, draw(cut_up(body)), draw(ENDS), after=draw(DELAYS))


@st.composite
def any_message(draw: st.DrawFn) -> Step:
    body = b'{"text":"' + b"x" * draw(st.sampled_from([3, 70_000])) + b'"}'
    if draw(st.booleans()):
        body = body[: draw(st.integers(0, len(body)))]
    return Step(200, JSON, draw(cut_up(body)), draw(ENDS))


FAILING = st.sampled_from([
    *KEY_TROUBLE.values(),
    *(step for step, _ in ILLNESS.values()),
    *FAULTS.values(),
    HANGS,
    LIMITED_SLOWLY,
    error(503, "overloaded_error", reads=20),
    error(400, "invalid_request_error", reads=20, after=1.0),
])  # fmt: skip
STEPS = st.one_of(any_stream(), any_message(), FAILING, FAILING)


@st.composite
def scripts(draw: st.DrawFn) -> tuple[list[Scripted], list[str]]:
    """Upstreams with four candidates at most, and all of these in the order in which they may be asked."""
    left, scripted, order = 4, [], []
    for name in ("first", "second", "third"):
        keys = [f"{name}-{n}" for n in range(draw(st.integers(0, left) if name != "first" else st.integers(1, 3)))]
        left -= len(keys)
        scripted.append(upstream(name, *(draw(STEPS) for _ in keys), keys=keys))
        order += [f"{name} {key}" for key in keys]
    return scripted, order


def may_be_seen(step: Step, body: bytes) -> bool:
    """Whether a client may have got ``body`` of this answer: any beginning of a message, but only whole events."""
    if step.headers == JSON:
        return whole(step).startswith(body)
    parts = whole(step).split(b"\n\n")
    return any(b"".join(part + b"\n\n" for part in parts[:count]) == body for count in range(len(parts)))


@given(
    script=scripts(),
    upload=cut_up(BODY, SHORT),
    fault=st.sampled_from([b"", b"", b"", b"", b"]", b',"model":"x"}']),
    chunked=st.booleans(),
    leaves=st.one_of(st.none(), st.none(), st.none(), st.floats(0.0, 30.0), st.floats(0.0, 300.0)),
    stops_reading=st.none() | st.tuples(st.floats(0.0, 20.0), st.floats(0.0, 300.0)),
    most=st.sampled_from([4, 3, 2, 1]),
    window=st.sampled_from([200.0, 5.0, 0.0]),
    timeout=st.sampled_from([3600.0, 600.0, 60.0, 1.0]),
)
def test_whatever_happens_a_call_stays_within_its_bounds(
    script: tuple[list[Scripted], list[str]],
    upload: tuple[tuple[float, bytes], ...],
    fault: bytes,
    chunked: bool,
    leaves: float | None,
    stops_reading: tuple[float, float] | None,
    most: int,
    window: float,
    timeout: float,
) -> None:
    """Beyond what a scene checks by itself: see Scene.settle and Scene.sending."""
    scripted, order = script
    sent = (BODY[:-1] if fault else BODY) + fault
    with Scene(*scripted, max_attempts=most, window=window, timeout=timeout) as scene:
        client = scene.call(length=len(sent), chunked=chunked)
        if leaves is not None:
            scene.later(leaves, lambda: client.end is None and client.leave())
        if stops_reading is not None:
            scene.later(stops_reading[0], client.stop_reading)
            scene.later(sum(stops_reading), client.read_again)
        for delay, piece in upload:
            scene.advance(delay)
            client.send(sent[client.upload.received :][: len(piece)])
        client.send(sent[client.upload.received :])
        client.finish_upload()
    assert scene.asked == [candidate for candidate in order if candidate in scene.asked]
    for exchange in scene.requests:
        assert sent.startswith(exchange.body)
        assert exchange.complete <= (exchange.body == BODY)
    seen = client.body.replace(PING, b"")
    answer = scene.requests[-1].step if scene.requests else None
    if client.status == 200:
        assert answer is not None
        assert may_be_seen(answer, seen)
        if client.end == "finished":
            assert seen == whole(answer)
            assert answer.headers == JSON or b"message_stop" in seen or b"event: error" in seen
    elif client.status is not None:
        assert client.end == "finished"
        assert complaint(client)
    assert (client.record.outcome is ANSWERED) <= (client.status == 200 and client.end == "finished")
    assert (client.record.outcome is GONE) == client.gone
