"""Who is asked next, and what of several failures a client is told."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from twisted.internet import error as net
from twisted.web.http import PotentialDataLoss

from ccrelay.core.outcomes import Outcome
from ccrelay.core.settings import PoolingSettings
from ccrelay.core.sse import PING

from .scenarios import (
    STARTED,
    USAGE,
    Scene,
    Step,
    envelope,
    error,
    error_event,
    events,
    fails,
    played,
    says,
    stream,
    upstream,
    whole,
)
from .scenarios_cases import (
    ANSWERED,
    BODY,
    CALLERS_FAULT,
    CUT,
    DEAD,
    FAULTS,
    ILL,
    ILLNESS,
    KEY_TROUBLE,
    LIMITED,
    OVERLOADED,
    TIRED,
    TRUNCATED,
    complaint,
    fingerprint_of,
    told,
)

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


@pytest.mark.parametrize("trouble", KEY_TROUBLE.values(), ids=KEY_TROUBLE)
def test_trouble_with_a_key_leads_to_the_providers_next_key_then_to_the_next_provider(trouble: Step) -> None:
    with Scene(
        upstream("north", trouble, trouble, keys=["n1", "n2"]), upstream("south", stream("south"), keys=["s1"])
    ) as scene:
        client = scene.call(BODY)
    assert scene.asked == ["north n1", "north n2", "south s1"]
    assert client.view == (200, whole(stream("south")), "finished")
    assert told(client) == (ANSWERED, 200, 3, "south", fingerprint_of("s1"))


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
