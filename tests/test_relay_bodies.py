"""A request's body, from its first byte to its last, in however many attempts."""

from __future__ import annotations

import json

import pytest
from twisted.web.iweb import UNKNOWN_LENGTH

from ccrelay.errors import ClientError

from .scenarios import (
    STARTED,
    Scene,
    error,
    stream,
    upstream,
    whole,
)
from .scenarios_cases import (
    BODY,
    CALLERS_FAULT,
    HANGS,
    OVERLOADED,
    complaint,
    fingerprint_of,
    told,
)

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
