"""What has hurt users of other gateways, played against this one.

Each test names its lesson by number, as the list of lessons has them. Lessons about the listener, the configuration or
single parsers are tested with those.
"""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet import error as net
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone, ResponseFailed
from twisted.web.http import PotentialDataLoss

from ccrelay.core.access import as_json, as_text
from ccrelay.core.headers import first
from ccrelay.core.outcomes import Outcome
from ccrelay.core.sse import PING, parse_events
from ccrelay.providers import PROVIDERS

from .scenarios import (
    DOOR,
    DOOR_KEY,
    JSON,
    USAGE,
    Client,
    Scene,
    Scripted,
    Step,
    error,
    error_event,
    events,
    message,
    played,
    says,
    stream,
    upstream,
    whole,
)

BODY = b'{"model":"claude-opus-5-5","messages":[{"role":"user","content":"hi"}],"max_tokens":9,"stream":true}'
TYPES = sorted(PROVIDERS)
ANTHROPIC_FORMAT = [type_ for type_ in TYPES if type_ not in ("bedrock", "vertex")]  # what takes bodies as they are
CUT = ResponseFailed([Failure(net.ConnectionLost())])
OVERLOADED = error(529, "overloaded_error", "Overloaded")


def keys_for(type_: str) -> list[str]:
    return ["pooled-key"] if PROVIDERS[type_].needs_key else []


# -- fidelity


@given(
    betas=st.lists(st.sampled_from(["context-management-2025-06-27", "never-heard-of-2031-01-01", "", " oauth-x"])),
    field=st.sampled_from([b'"context_management":{"edits":[]}', b'"never_heard_of":[1e400]', b'"safeguards":null']),
)
def test_lesson_1_a_beta_and_its_field_reach_every_provider_together_and_unchanged(
    betas: list[str], field: bytes
) -> None:
    value = ",".join(betas).encode()
    body = BODY[:-1] + b", " + field + b"}"
    for type_ in ANTHROPIC_FORMAT:
        with Scene(upstream("north", stream(), type=type_, keys=keys_for(type_))) as scene:
            scene.call(body, headers=(*DOOR, (b"anthropic-beta", value)))
        assert first(scene.requests[0].headers, b"anthropic-beta") == value
        assert scene.requests[0].body == body


def test_lesson_2_no_provider_builds_a_request_of_its_own() -> None:
    version = (b"anthropic-version", b"2023-06-01")
    client_lines = (version, (b"x-app", b"cli"), (b"x-unknown", b"1"), (b"x-unknown", b"2"))
    credentials = (b"x-api-key", b"authorization")
    seen = {}
    for type_ in ANTHROPIC_FORMAT:
        with Scene(upstream("north", stream(), type=type_, keys=keys_for(type_))) as scene:
            scene.call(BODY, headers=(*client_lines, *DOOR))
        (sent,) = scene.requests
        seen[type_] = (tuple(line for line in sent.headers if line[0] not in credentials), sent.body)
        assert len([line for line in sent.headers if line[0] in credentials]) == len(keys_for(type_))
    assert len(set(seen.values())) == 1
    assert set(client_lines) <= set(seen["anthropic"][0])


def test_lesson_3_history_keeps_its_bytes_when_the_model_is_mapped() -> None:
    body = (
        b'{ "messages" : [{"role":"assistant","content":[{"type":"thinking","thinking":"\\u00e9\\/","signature":'
        b'"EqQB\\/+=="}, {"model":"claude-opus-5-5"}]}], "temperature":1.0, "model" : "claude-opus-5-5" ,"n":1E2 }\n'
    )
    for type_ in ANTHROPIC_FORMAT:
        mapped = upstream("north", stream(), type=type_, keys=keys_for(type_), model_mapping={"claude-*": "other"})
        with Scene(mapped) as scene:
            scene.call(body)
        before, after = body.split(b'"model" : "claude-opus-5-5"')
        assert scene.requests[0].body == before + b'"model" : "other"' + after


WORDS = ("na\u00efve \U0001f98a", "\u4f60\u597d\u2028", "e\u0301")


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 64, 100_000])
def test_lesson_4_characters_cut_by_a_chunk_arrive_whole(size: int) -> None:
    body = b"".join(events("north", WORDS))
    with Scene(upstream("north", played([body[i : i + size] for i in range(0, len(body), size)], 0.01))) as scene:
        client = scene.call(BODY)
    assert client.view == (200, body, "finished")
    texts = "".join(
        json.loads(event.data)["delta"]["text"]
        for _, piece in client.pieces
        for event in parse_events(piece.decode("utf-8", "strict").encode())
        if event.name == "content_block_delta"
    )
    assert texts == "".join(WORDS)


@pytest.mark.parametrize("type_", TYPES)
def test_lesson_5_the_usage_that_the_client_sees_is_the_upstreams(type_: str) -> None:
    with Scene(upstream("north", stream(), type=type_, keys=keys_for(type_))) as scene:
        client = scene.call(BODY)
    start = json.loads(next(parse_events(client.body)).data)
    assert start["message"]["usage"]["cache_read_input_tokens"] == USAGE.cache_read
    assert client.record.usage == USAGE


@pytest.mark.parametrize(
    "field", [b'"thinking":{"type":"enabled","budget_tokens":0}', b'"max_tokens":-1', b'"messages":7', b'"stream":"x"']
)
def test_lesson_6_what_the_upstream_validates_is_left_to_it(field: bytes) -> None:
    refusal = error(400, "invalid_request_error", "budget_tokens: Input should be greater than or equal to 1024")
    body = BODY[:-1] + b"," + field + b"}"
    with Scene(upstream("north", refusal), upstream("south")) as scene:
        client = scene.call(body)
    assert scene.requests[0].body == body
    assert client.view == (400, whole(refusal), "finished")


@pytest.mark.parametrize("newline", [b"\n", b"\r\n", b"\r"], ids=["LF", "CRLF", "CR"])
@pytest.mark.parametrize("space", [b": ", b":"])
@pytest.mark.parametrize("size", [1, 3, 100_000])
def test_lesson_7_event_streams_are_understood_however_they_are_written(
    newline: bytes, space: bytes, size: int
) -> None:
    body = b"".join(events("north")).replace(b"data: ", b"data" + space).replace(b"\n", newline)
    with Scene(upstream("north", played([body[i : i + size] for i in range(0, len(body), size)]))) as scene:
        client = scene.call(BODY)
    assert client.view == (200, body, "finished")
    assert (client.record.outcome, client.record.usage) == (Outcome.ANSWERED, USAGE)


REPAIRABLE = {
    "lesson 1": "context_management: Extra inputs are not permitted",
    "lesson 8": "Unexpected value(s) `never-heard-of-2031-01-01` for the `anthropic-beta` header",
    "lesson 9": "messages.1.content.0: Invalid `signature` in `thinking` block",
    "lesson 27": "prompt is too long: 210000 tokens > 200000 maximum",
}


@pytest.mark.parametrize("wording", REPAIRABLE.values(), ids=REPAIRABLE)
def test_lessons_8_9_and_27_a_refusal_that_clients_repair_themselves_by_reaches_them_word_for_word(
    wording: str,
) -> None:
    refusal = error(400, "invalid_request_error", wording)
    with Scene(
        upstream("ill", OVERLOADED, keys=["k1", "k2"], priority=2),
        upstream("tired", *[error(429, "rate_limit_error")] * 2, keys=["k1", "k2"], priority=1),
        upstream("north", refusal, keys=["n1", "n2"]),
        upstream("south"),
        max_attempts=9,
    ) as scene:
        client = scene.call(BODY)
    assert scene.asked == ["ill k1", "tired k1", "tired k2", "north n1"]
    assert client.view == (400, whole(refusal), "finished")
    assert client.record.outcome is Outcome.CALLERS_FAULT, "it is neither the key's fault nor the provider's"


# -- streams


def test_lesson_11_an_overload_told_inside_a_200_fails_over_and_alone_has_the_status_it_stands_for() -> None:
    overloaded = played([events("north")[0], error_event()], 1.0)
    with Scene(upstream("north", overloaded), upstream("south", stream("south"))) as scene:
        assert scene.call(BODY).body == b""
        scene.advance(1.0)
        assert scene.asked == ["north k1"]
    assert scene.asked == ["north k1", "south k1"]
    with Scene(upstream("north", overloaded)) as scene:
        client = scene.call(BODY)
    assert client.status == 529
    assert json.loads(client.body)["error"] == {"type": "overloaded_error", "message": "Overloaded"}


ENDS = {"done": ResponseDone(), "closed": PotentialDataLoss(), "cut": CUT, "silent": None}


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
def test_lesson_12_only_a_stream_that_said_message_stop_ends_well_wherever_it_breaks(end: Exception | None) -> None:
    parts = events("north")
    body = b"".join(parts)
    boundaries = {len(b"".join(parts[:count])) for count in range(len(parts) + 1)}
    opening = len(parts[0])
    around = {boundary + shift for boundary in boundaries for shift in (-2, -1, 0, 1)}
    for length in sorted(length for length in {*around, *range(0, len(body), 31)} if 0 <= length < len(body)):
        with Scene(upstream("north", played([body[:length]], end=end))) as scene:
            client = scene.call(BODY)
        whole_events = max(boundary for boundary in boundaries if boundary <= length)
        if whole_events <= opening:
            if end is None and whole_events:  # an opening is held for so long, then shown
                assert (client.body.replace(PING, b""), client.end) == (body[:whole_events], "aborted")
            else:
                assert client.status == 502, "nothing was shown yet, so another could still have answered"
            continue
        assert (client.body.replace(PING, b""), client.end) == (body[:whole_events], "aborted")
        assert client.record.outcome is (Outcome.STALLED if end is None else Outcome.TRUNCATED)


def test_lesson_14_a_stream_is_settled_when_it_ends_and_not_before() -> None:
    with Scene(upstream("north", stream("north", 1.0)), upstream("ill", played(events("x")[:4], 1.0))) as scene:
        client = scene.call(BODY)
        scene.advance(6.9)
        assert client.committed
        assert scene.records == []
        scene.advance(0.1)
        assert [record.outcome for record in scene.records] == [Outcome.ANSWERED]
        assert client.settled


def test_lesson_15_pings_fill_a_pause_and_never_hide_a_dead_upstream() -> None:
    parts = events("north")
    pausing = Step(200, stream().headers, ((0.0, b"".join(parts[:3])), (200.0, b"".join(parts[3:5]))), end=None)
    with Scene(upstream("north", pausing)) as scene:
        client = scene.call(BODY)
        scene.advance(199.0)
        assert client.body == b"".join(parts[:3]) + PING * 13
        waits = [after - before for (before, _), (after, _) in pairwise(client.pieces)]
        assert set(waits) == {15.0}
    assert client.end == "aborted"
    assert client.record.outcome is Outcome.STALLED
    assert client.record.duration == 200.0 + 240.0
    assert scene.requests[0].closed == 440.0


def test_lesson_17_every_event_arrives_in_the_turn_in_which_it_was_sent() -> None:
    with Scene(upstream("north", stream("north", 0.25))) as scene:
        client = scene.call(BODY)
    parts = events("north")
    assert client.pieces == [(0.5, parts[0] + parts[1])] + [
        (0.25 * (index + 1), part) for index, part in enumerate(parts) if index > 1
    ]


@pytest.mark.parametrize("type_", ANTHROPIC_FORMAT)
def test_lesson_18_a_call_that_does_not_stream_is_served_by_every_provider(type_: str) -> None:
    body = BODY.replace(b'"stream":true', b'"stream":false')
    with Scene(upstream("north", message(), type=type_, keys=keys_for(type_))) as scene:
        client = scene.call(body)
    assert scene.requests[0].body == body
    assert client.view == (200, whole(message()), "finished")
    assert first(client.headers, b"content-type") == b"application/json"
    assert (client.record.usage, client.record.stream) == (USAGE, False)


# -- clients that leave

EVENTFUL = [
    error(429, "rate_limit_error", after=1.0),
    Step(529, JSON, ((1.0, b"{"), (1.0, b"}"))),
    played([events("x")[0], error_event()], 1.0, after=1.0),
    stream("north", 1.0, after=1.0),
]


@pytest.mark.parametrize("streams", [True, False], ids=["streamed", "whole"])
def test_lessons_19_and_20_leaving_at_any_moment_closes_the_upstream_at_once_and_begins_nothing(
    streams: bool,
) -> None:
    last = EVENTFUL[-1] if streams else Step(200, JSON, ((1.0, b"{"), (3.0, b" "), (3.0, b"}")), after=1.0)
    moments = 0
    with Scene(*script_of([*EVENTFUL[:-1], last])) as scene:
        total = whole_time(scene, scene.call(BODY))
    for half_seconds in range(int(2 * total)):
        with Scene(*script_of([*EVENTFUL[:-1], last])) as scene:
            client = scene.call(BODY)
            scene.advance(half_seconds / 2 + 0.25)
            assert len(scene.open) == 1
            client.leave()
            assert scene.open == []
            asked = list(scene.asked)
        assert scene.asked == asked
        assert client.record.outcome is Outcome.CLIENT_GONE
        moments += 1
    assert moments > 15


def script_of(steps: list[Step]) -> list[Scripted]:
    return [upstream(f"p{number}", step) for number, step in enumerate(steps)]


def whole_time(scene: Scene, client: Client) -> float:
    scene.settle()
    assert client.end == "finished"
    return client.record.duration


# -- limits and retries


def test_lesson_21_a_429_tells_when_to_come_back() -> None:
    exhausted = json.dumps({"error": {"code": "1308", "message": "Used up; reset at 2026-11-22 12:00:00"}}).encode()
    dated = says(429, exhausted, headers=((b"date", b"Sun, 22 Nov 2026 03:00:00 GMT"),))
    with Scene(upstream("zai", dated, type="zai")) as scene:
        client = scene.call(BODY)
    assert client.status == 429
    assert client.header(b"retry-after") == b"3600"
    assert client.header(b"x-should-retry") == b"false", "nobody waits for an hour, but some clients would"
    forwarded = error(429, "rate_limit_error", headers=((b"retry-after", b"17"), (b"anthropic-ratelimit-x", b"0")))
    with Scene(upstream("north", forwarded)) as scene:
        client = scene.call(BODY)
    assert client.headers == forwarded.headers


@pytest.mark.parametrize("trouble", [error(429, "rate_limit_error"), OVERLOADED, error(401, "authentication_error")])
def test_lesson_23_one_call_can_neither_become_a_storm_nor_fill_the_log(trouble: Step) -> None:
    keys = [f"key-{number}" for number in range(50)]
    with Scene(*(upstream(f"p{n}", *[trouble] * 50, keys=keys) for n in range(20)), max_attempts=4) as scene:
        scene.call(BODY)
    assert len(scene.requests) == 4
    assert len(scene.attempts) == 4
    assert len(scene.logged) <= 4
    assert all(len(line) < 1000 for line in (*scene.logged, *map(as_json, scene.attempts)))


def test_lesson_36_too_many_at_once_and_an_unpaid_bill_are_different_429s() -> None:
    def zai(code: str) -> Step:
        return says(429, json.dumps({"error": {"code": code, "message": "429"}}).encode())

    outcomes = {}
    for code in ("1302", "1113"):
        with Scene(upstream("zai", zai(code), type="zai")) as scene:
            client = scene.call(BODY)
        outcomes[code] = (client.record.outcome, client.header(b"x-should-retry"))
    assert outcomes == {"1302": (Outcome.KEY_TIRED, None), "1113": (Outcome.KEY_DEAD, b"false")}


# -- security


def test_lesson_38_no_header_and_no_query_chooses_where_a_call_goes() -> None:
    lines = (
        (b"host", b"evil.test"),
        (b"x-forwarded-host", b"evil.test"),
        (b"forwarded", b"host=evil.test"),
        (b"x-upstream", b"https://evil.test"),
    )
    query = b"beta=true&api_base=https://evil.test&url=//evil.test/@north.test"
    body = BODY[:-1] + b',"api_base":"https://evil.test","base_url":"https://evil.test"}'
    with Scene(upstream("north", stream())) as scene:
        scene.call(body, headers=(*DOOR, *lines), query=query)
    assert scene.requests[0].url == "https://north.test/v1/messages?" + query.decode()
    assert first(scene.requests[0].headers, b"host") is None
    assert first(scene.requests[0].headers, b"x-forwarded-host") is None


SECRETS = ["sk-ant-api03-first-canary", "sk-ant-api03-second-canary", DOOR_KEY]


@pytest.mark.parametrize("status", [400, 401, 403, 429, 500, 302, 200])
def test_lesson_40_no_secret_is_in_a_log_a_record_or_an_answer_even_if_the_upstream_repeats_it(status: int) -> None:
    told = f"The key {SECRETS[0]} or {SECRETS[1]} is wrong"
    lines = ((b"x-debug", b"key=" + SECRETS[0].encode()), (b"location", b"https://x.test/" + SECRETS[1].encode()))
    answers = [error(status, "authentication_error", told, headers=lines) for _ in range(2)]
    with Scene(upstream("north", *answers, keys=SECRETS[:2])) as scene:
        client = scene.call(BODY, headers=(*DOOR, (b"authorization", b"Bearer " + DOOR_KEY.encode())))
    record = client.record
    shown = [*scene.logged, repr(record), as_json(record), as_text(record)]
    shown += [client.body.decode(), repr(client.headers)]
    assert scene.requests[0].key == SECRETS[0]
    for secret in SECRETS:
        assert not [text for text in shown if secret in text]
