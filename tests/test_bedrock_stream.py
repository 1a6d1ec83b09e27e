"""Bedrock's frames as Anthropic's events: bytes kept, extras gone, exceptions told in Anthropic's words."""

from __future__ import annotations

import base64
import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from zope.interface.verify import verifyObject

from ccrelay.core.bedrock_stream import METRICS, BedrockDecoder
from ccrelay.core.complaints import MAX_TEXT
from ccrelay.core.failures import failure_of_event
from ccrelay.core.model import Usage
from ccrelay.core.outcomes import Outcome
from ccrelay.core.sse import parse_events
from ccrelay.core.stream_watch import StreamError, StreamWatch
from ccrelay.errors import StreamViolation
from ccrelay.interfaces import IStreamDecoder
from tests.event_frames import chunk, encode_message, error, event, exception

untimed = settings(deadline=None)  # how fast the machine is says nothing about the code

START = (
    b'{"type":"message_start","message":{"model":"claude-opus-4-6","id":"msg_bdrk_1","type":"message","role":"assistant"'
    b',"content":[],"stop_reason":null,"usage":{"input_tokens":25,"cache_creation_input_tokens":3,'
    b'"cache_read_input_tokens":7,"output_tokens":1}}}'
)
DELTA = b'{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"gr\xc3\xbc\\u00df \\n"}}'
USAGE = b'{"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":15}}'
STOP = (
    b'{"type":"message_stop","amazon-bedrock-invocationMetrics":{"inputTokenCount":999,"outputTokenCount":888,'
    b'"invocationLatency":1482,"firstByteLatency":511}}'
)
ANSWER = [START, DELTA, USAGE, STOP]


def decode(*pieces: bytes) -> bytes:
    """What a whole stream becomes, cut like this."""
    decoder = BedrockDecoder()
    return b"".join(map(decoder.receive_data, pieces)) + decoder.receive_eof()


def the_error(answer: bytes) -> tuple[str, str]:
    """The one error event that an answer is."""
    (only,) = parse_events(answer)
    document = json.loads(only.data)
    assert only.name == document["type"] == "error"
    assert document.keys() == {"type", "error"}
    assert document["error"].keys() == {"type", "message"}
    return document["error"]["type"], document["error"]["message"]


def watched(answer: bytes) -> StreamWatch:
    watch = StreamWatch()
    watch.see(answer)
    return watch


def test_the_decoder_is_a_stream_decoder() -> None:
    assert verifyObject(IStreamDecoder, BedrockDecoder())


def test_an_answer_becomes_the_events_of_anthropics_own_api() -> None:
    assert decode(*map(chunk, ANSWER)) == (
        b"event: message_start\ndata: " + START + b"\n\n"
        b"event: content_block_delta\ndata: " + DELTA + b"\n\n"
        b"event: message_delta\ndata: " + USAGE + b"\n\n"
        b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
    )


def test_metrics_never_become_usage() -> None:
    watch = watched(decode(*map(chunk, ANSWER)))

    assert watch.usage == Usage(input=25, output=15, cache_write=3, cache_read=7)
    assert watch.stopped
    assert (watch.model, watch.message_id, watch.stop_reason) == ("claude-opus-4-6", "msg_bdrk_1", "end_turn")


frames = st.one_of(
    st.sampled_from(ANSWER).map(chunk),
    st.sampled_from(ANSWER).map(lambda document: event("metadata", document)),
    st.just(exception("throttlingException", b'{"message":"slow"}')),
    st.just(chunk(b"[]")),
)


@untimed
@given(st.lists(frames, max_size=6), st.binary(max_size=5), st.lists(st.integers(0, 2000), max_size=10))
def test_cutting_a_stream_changes_neither_its_events_nor_its_fault(
    sent: list[bytes], rest: bytes, places: list[int]
) -> None:
    stream = b"".join(sent) + rest
    cuts = [0, *sorted(min(place, len(stream)) for place in places), len(stream)]

    def ends(pieces: list[bytes]) -> str | bytes:
        try:
            return decode(*pieces)
        except StreamViolation as violation:
            return str(violation)

    bytewise = [stream[index : index + 1] for index in range(len(stream))]
    assert ends([stream]) == ends([stream[a:b] for a, b in pairwise(cuts)]) == ends(bytewise)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
spellings = st.sampled_from(
    [{}, {"separators": (",", ":")}, {"indent": 1}, {"indent": "\t", "ensure_ascii": False}, {"ensure_ascii": False}]
)


@untimed
@given(
    st.lists(st.tuples(st.text(max_size=6) | st.sampled_from(["index", METRICS, "type"]), json_values), max_size=5),
    st.sampled_from(["content_block_delta", "message_stop", "x y", "é", 'quo"te']),
    spellings,
)
def test_every_event_keeps_its_members_and_is_named_by_its_type(
    members: list[tuple[str, Any]], kind: str, spelling: dict[str, Any]
) -> None:
    document = {**dict(members), "type": kind}
    text = json.dumps(document, **spelling).encode()

    (only,) = parse_events(decode(chunk(text)))

    assert only.name == kind
    if kind != "message_stop" or METRICS not in document:
        assert only.data == text
    else:
        kept = [(name, value) for name, value in document.items() if name != METRICS]
        assert json.loads(only.data, object_pairs_hook=list) == json.loads(
            json.dumps(dict(kept)), object_pairs_hook=list
        )


@pytest.mark.parametrize(
    ("stop", "left"),
    [
        (b'{"type":"message_stop"}', b'{"type":"message_stop"}'),
        (b'{ "type" : "message_stop" , "M" : {"a": [1, "}"]} }', b'{ "type" : "message_stop" }'),
        (b'{"M":1,"type":"message_stop"}', b'{"type":"message_stop"}'),
        (b'{"type":"message_stop","M":1,"b":1.0e0}', b'{"type":"message_stop","b":1.0e0}'),
        (b'{"a":"\xc3\xa9","M":"\xf0\x9f\x98\x80", "type":"message_stop"}', b'{"a":"\xc3\xa9", "type":"message_stop"}'),
        (b'{"M":1,"M":2,"type":"message_stop","M":3}', b'{"type":"message_stop"}'),
        (b'{"type":"message_stop","amazon\\u002dbedrock-invocationMetrics":1}', b'{"type":"message_stop"}'),
        (b'{"type":"message_stop","b":{"M":1},"c":"M"}', b'{"type":"message_stop","b":{"M":1},"c":"M"}'),
    ],
)  # fmt: skip
def test_metrics_are_cut_out_and_every_other_byte_stays(stop: bytes, left: bytes) -> None:
    stop, left = (text.replace(b'"M"', b'"%b"' % METRICS.encode()) for text in (stop, left))

    assert decode(chunk(stop)) == b"event: message_stop\ndata: " + left + b"\n\n"


def test_metrics_elsewhere_are_the_answers_own_text() -> None:
    text = b'{"type":"content_block_delta","delta":{"text":"amazon-bedrock-invocationMetrics"},"%b":1}'

    assert decode(chunk(text % METRICS.encode())).endswith(text % METRICS.encode() + b"\n\n")


def test_json_over_several_lines_stays_one_event() -> None:
    (only,) = parse_events(decode(chunk(b'{\r\n"type": "ping",\n\n"a": 1\r}')))

    assert (only.name, only.data) == ("ping", b'{\n"type": "ping",\n\n"a": 1\n}')


@pytest.mark.parametrize(
    "frame",
    [
        event("chunk", b"{}"),
        event("chunk", b'{"p":"abc"}'),
        event("chunk", b'{"bytes":"","p":"abc"}'),
        event("chunk", b'{"bytes":null}'),
        chunk(b'{"index":0}'),
        chunk(b'{"type":null}'),
        chunk(b'{"type":7,"a":{"type":"ping"}}'),
        chunk(b'{"type":""}'),
        chunk(b'{"a":{"type":"ping"}}'),
        event("initial-response", b"{}"),
        event("throttlingException", b"not even JSON"),
        encode_message([(":message-type", 7, "news")], b"x"),
        encode_message([(":message-type", 0, True)], b"x"),
        encode_message([], b"x"),
    ],
)
def test_what_is_no_event_is_skipped_and_the_stream_goes_on(frame: bytes) -> None:
    assert decode(frame + chunk(DELTA)) == decode(chunk(DELTA))


@pytest.mark.parametrize(
    "payload",
    [
        b'{"p":"x","bytes":"%b"}',
        b'{ "bytes": "%b", "p": "a b" }',
        b'{"bytes":"%b"}',
        b'{"bytes":"%b","p":""}',
        b'{"bytes":"%b","p":"x","new":{"bytes":"eA=="}}',
        b'{"bytes":"%b","p":"\\u0041\xc3\xa9"}',
    ],
)
def test_the_payload_may_be_spelled_in_any_way(payload: bytes) -> None:
    assert decode(event("chunk", payload % base64.b64encode(DELTA))) == decode(chunk(DELTA))


@pytest.mark.parametrize(
    "frame",
    [
        event("chunk", b""),
        event("chunk", b"{"),
        event("chunk", b"[]"),
        event("chunk", b"\xff"),
        event("chunk", b"[" * 100_000),
        event("chunk", b'{"bytes":7}'),
        event("chunk", b'{"bytes":"e30"}'),  # no padding
        event("chunk", b'{"bytes":"e3 0="}'),
        event("chunk", b'{"bytes":"e30=e30="}'),
        event("chunk", b'{"bytes":"=e30"}'),
        event("chunk", b'{"bytes":"e30\\n="}'),
        event("chunk", b'{"bytes":"_-8="}'),
        event("chunk", b'{"bytes":"\xc3\xa9"}'),
        chunk(b"ping"),
        chunk(b'["type"]'),
        chunk(b'{"type":'),
        chunk(b"\xff"),
        chunk(b"[" * 100_000),
        chunk(b'{"type":"a\\nevent: b"}'),
        chunk(b'{"type":"message_stop"'),
        chunk(b'{"type":"message_stop",}'),
        chunk(b'{"type":"message_stop"}{}'),
        chunk(b'{"type":"message_stop","a":\xff}'),
        chunk(b'{"type":"message_stop","a" 1}'),
        chunk(b'{"type":"message_stop",1:1}'),
        chunk(b'{"type":"message_stop","a":' + b"[" * 100_000),
        chunk(DELTA)[:-1] + b"\0",
    ],
)
def test_a_chunk_that_cannot_be_read_breaks_the_stream_for_good(frame: bytes) -> None:
    decoder = BedrockDecoder()
    with pytest.raises(StreamViolation) as first:
        decoder.receive_data(chunk(START) + frame)

    for data in (chunk(DELTA), b""):
        with pytest.raises(StreamViolation) as again:
            decoder.receive_data(data)
        assert again.value is first.value
    with pytest.raises(StreamViolation) as at_the_end:
        decoder.receive_eof()
    assert at_the_end.value is first.value


def test_an_end_inside_a_frame_is_a_violation_and_one_between_frames_is_not() -> None:
    decoder = BedrockDecoder()
    decoder.receive_data(chunk(START) + chunk(DELTA)[:50])

    for _ in range(2):
        with pytest.raises(StreamViolation):
            decoder.receive_eof()
    assert not watched(decode(chunk(START))).stopped


@pytest.mark.parametrize(
    ("name", "kind", "outcome"),
    [
        ("throttlingException", "rate_limit_error", Outcome.KEY_TIRED),
        ("ThrottlingException", "rate_limit_error", Outcome.KEY_TIRED),
        ("serviceUnavailableException", "overloaded_error", Outcome.PROVIDER_ILL),
        ("modelNotReadyException", "overloaded_error", Outcome.PROVIDER_ILL),
        ("modelTimeoutException", "timeout_error", Outcome.PROVIDER_ILL),
        ("validationException", "invalid_request_error", Outcome.CALLERS_FAULT),
        ("internalServerException", "api_error", Outcome.PROVIDER_ILL),
        ("modelStreamErrorException", "api_error", Outcome.PROVIDER_ILL),
        ("accessDeniedException", "api_error", Outcome.PROVIDER_ILL),
        ("", "api_error", Outcome.PROVIDER_ILL),
    ],
)
def test_exceptions_and_errors_are_told_in_anthropics_types(name: str, kind: str, outcome: Outcome) -> None:
    for frame in (exception(name, b'{"message":"It did not work."}'), error(name, "It did not work.")):
        opening = watched(decode(chunk(START) + frame))

        assert the_error(decode(frame)) == (kind, "It did not work.")
        assert not opening.content_started
        assert opening.error is not None
        assert failure_of_event(opening.error, "req_1").outcome is outcome


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize(
    ("before", "kind"),
    [
        ([], "rate_limit_error"),
        ([START], "rate_limit_error"),
        ([START, b'{"type":"ping"}'], "rate_limit_error"),
        ([START, DELTA], "overloaded_error"),
        ([b'{"type":"content_block_start"}', START], "overloaded_error"),
    ],
)
def test_throttling_is_the_keys_until_content_has_been_passed_on(
    before: list[bytes], kind: str, together: bool
) -> None:
    frames = [*map(chunk, before), exception("throttlingException", b'{"message":"Too many tokens"}')]
    decoder = BedrockDecoder()

    told = [decoder.receive_data(piece) for piece in ([b"".join(frames)] if together else frames)]

    found = watched(b"".join(told))
    assert found.error == StreamError(kind, "Too many tokens")
    assert found.content_started == (kind == "overloaded_error")


@pytest.mark.parametrize(
    ("details", "told"),
    [
        ({"originalStatusCode": 529, "originalMessage": "Overloaded"}, ("overloaded_error", "Overloaded")),
        ({"originalStatusCode": 429, "originalMessage": "Too many"}, ("overloaded_error", "Too many")),
        ({"originalStatusCode": 400, "originalMessage": "Too long"}, ("invalid_request_error", "Too long")),
        ({"originalStatusCode": 504}, ("timeout_error", "outer")),
        ({"originalStatusCode": 500}, ("api_error", "outer")),
        ({"originalStatusCode": 403, "originalMessage": "denied"}, ("api_error", "denied")),
        ({"originalStatusCode": "529"}, ("api_error", "outer")),
        ({"originalStatusCode": True, "originalMessage": 7}, ("api_error", "outer")),
    ],
)
def test_a_model_stream_error_tells_what_the_model_said(details: dict[str, object], told: tuple[str, str]) -> None:
    payload = json.dumps({"message": "outer", **details}).encode()

    assert the_error(decode(exception("modelStreamErrorException", payload))) == told


@pytest.mark.parametrize("payload", [b"", b"{}", b"plain", b"[]", b'{"message":7}', b"[" * 100_000])
def test_an_exception_without_words_is_told_by_its_name(payload: bytes) -> None:
    assert the_error(decode(exception("throttlingException", payload))) == ("rate_limit_error", "throttlingException")


def test_an_exception_behind_the_end_of_a_message_does_not_spoil_it() -> None:
    stop = chunk(b'{"type":"message_stop"}')

    told = decode(chunk(START) + stop + exception("internalServerException", b'{"message":"late"}') + stop)

    assert told == decode(chunk(START) + stop)
    assert watched(told).error is None


def test_an_exception_without_name_or_words_is_told_all_the_same() -> None:
    kind, message = the_error(decode(encode_message([(":message-type", 7, "exception")], b"")))

    assert (kind, bool(message)) == ("api_error", True)
    assert the_error(decode(error("InternalError", ""))) == ("api_error", "InternalError")


def test_words_are_kept_bounded_and_without_the_account() -> None:
    def message(text: str) -> str:
        payload = json.dumps({"message": text}).encode()
        return the_error(decode(exception("validationException", payload)))[1]

    wording = 'Input is too long for requested model. "\n\u2028\x00'
    assert message(wording) == wording
    assert message("arn:aws:bedrock:us-east-1:123456789012:x/y failed for 123456789012") == "[arn] failed for [account]"
    assert len(message("x" * 100_000)) == MAX_TEXT
    assert message("half a pair: \ud83d") == "half a pair: \ud83d"
    assert the_error(decode(error("x", "123456789012"))) == ("api_error", "[account]")


def test_nothing_behind_an_exception_is_read() -> None:
    alone = decode(chunk(START) + exception("throttlingException", b"{}"))

    for rest in (chunk(DELTA), b"garbage that is no frame", chunk(DELTA)[:20]):
        assert decode(chunk(START) + exception("throttlingException", b"{}") + rest) == alone
        assert decode(chunk(START), exception("throttlingException", b"{}"), rest) == alone
