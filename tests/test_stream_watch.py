"""What the watch learns from golden and generated streams, however they are cut into blocks, and from JSON answers."""

from __future__ import annotations

import importlib
import itertools
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ccrelay.core.model import Usage
from ccrelay.core.sse import EventAligner
from ccrelay.core.stream_watch import (
    MAX_TOKENS,
    MessageFacts,
    StreamError,
    StreamWatch,
    usage_of_message,
)

untimed = settings(deadline=None)  # how fast the machine is says nothing about the code
GOLDEN = Path(__file__).parent / "golden" / "sse"


@dataclass
class Facts:
    """Everything a watch can know, for comparison."""

    content_started: bool = False
    stopped: bool = False
    error: StreamError | None = None
    usage: Usage = field(default_factory=Usage)
    model: str | None = None
    message_id: str | None = None
    stop_reason: str | None = None


def watched(blocks: list[bytes]) -> Facts:
    watch = StreamWatch()
    for block in blocks:
        watch.see(block)
    return Facts(**{name: getattr(watch, name) for name in Facts.__dataclass_fields__})


EXPECTED = {
    "text": Facts(True, True, None, Usage(25, 15), "claude-sonnet-4-6", "msg_01XFDUDYJgAACzvnptvVoYEL", "end_turn"),
    "tool_use": Facts(True, True, None, Usage(472, 89), "claude-opus-4-6", "msg_014p7gG3wDgGV9EUtLvnow3U", "tool_use"),
    "thinking": Facts(
        True, True, None, Usage(2095, 341, 1200, 18000), "claude-opus-4-8", "msg_01Kp2Qw8ZtJ4nVbR7sXyLmHc", "end_turn"
    ),
    "citations": Facts(
        True, True, None, Usage(610, 31), "claude-haiku-4-5-20251001", "msg_01GzhBqd5nVnm3c6qMRQ9kLe", "max_tokens"
    ),
    "server_tool_with_revised_usage": Facts(
        True, True, None, Usage(10682, 510, 311, 4096), "claude-opus-4-6", "msg_01G5tQWm2AeAaYBdDR3vC7Yp", "end_turn"
    ),
    "error_in_the_middle": Facts(
        True,
        False,
        StreamError("overloaded_error", "Overloaded"),
        Usage(88, 1, 0, 512),
        "claude-sonnet-4-6",
        "msg_01TAVwXe3bF8nRkq5mYcPzUj",
    ),
    "error_before_content": Facts(
        False,
        False,
        StreamError("api_error", "Internal server error"),
        Usage(88, 1),
        "claude-sonnet-4-6",
        "msg_01Vb9sNd6uQx2LrJm8HtWyKe",
    ),
    "without_event_lines": Facts(True, True, None, Usage(14, 3, 0, 6), "glm-4.7", "msg_9c1f", "end_turn"),
    "unknown_event_with_comments": Facts(True, True, None, Usage(5, 1), "claude-fable-5", "msg_01Yx7"),
}


def golden(name: str) -> bytes:
    return (GOLDEN / f"{name}.txt").read_bytes()


def test_every_golden_stream_has_its_facts() -> None:
    assert {path.stem for path in GOLDEN.iterdir()} == set(EXPECTED)


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("name", EXPECTED)
def test_a_golden_stream_gives_its_facts_whole_and_event_by_event(name: str, line_end: bytes) -> None:
    stream = golden(name)
    whole = stream.replace(b"\n", line_end)
    events = [part.replace(b"\n", line_end) + 2 * line_end for part in stream.split(b"\n\n")[:-1]]
    assert watched([whole]) == EXPECTED[name]
    assert watched(events) == EXPECTED[name]


@untimed
@given(st.sampled_from(sorted(EXPECTED)), st.lists(st.integers(0, 3000), max_size=10))
def test_a_golden_stream_gives_its_facts_however_the_network_cuts_it(name: str, cuts: list[int]) -> None:
    stream = golden(name)
    cuts = [0, *sorted(cuts), len(stream)]
    aligner = EventAligner()
    blocks = [aligner.receive_data(stream[a:b]) for a, b in itertools.pairwise(cuts)]
    assert watched(blocks) == EXPECTED[name]


@pytest.fixture(scope="module")
def sdk() -> Any:
    """The SDK and the HTTP library it was built on: httpx2 since its second major version."""
    anthropic = pytest.importorskip("anthropic")
    try:
        return anthropic, importlib.import_module("httpx2")
    except ImportError:
        return anthropic, importlib.import_module("httpx")


@pytest.mark.parametrize("name", ["text", "tool_use", "thinking", "citations", "server_tool_with_revised_usage"])
def test_the_sdk_reads_the_same_facts_from_a_golden_stream(sdk: Any, name: str) -> None:
    anthropic, httpx = sdk
    answer = httpx.Response(200, headers={"content-type": "text/event-stream"}, content=golden(name))
    transport = httpx.MockTransport(lambda request: answer)
    client = anthropic.Anthropic(
        api_key="dummy", base_url="http://127.0.0.1", http_client=httpx.Client(transport=transport, trust_env=False)
    )
    with client.messages.stream(model="m", max_tokens=9, messages=[{"role": "user", "content": "x"}]) as stream:
        message = stream.get_final_message()
    facts = watched([golden(name)])
    assert (message.model, message.id, message.stop_reason) == (facts.model, facts.message_id, facts.stop_reason)
    usage = message.usage
    assert facts.usage == Usage(
        usage.input_tokens, usage.output_tokens, usage.cache_creation_input_tokens, usage.cache_read_input_tokens
    )


def see_all(*events: tuple[str, object]) -> Facts:
    """Facts after events given as (name, JSON value or raw text), each in its own block."""
    return watched([encoded(name, data) for name, data in events])


def encoded(name: str, data: object) -> bytes:
    text = data if isinstance(data, str) else json.dumps(data)
    return (f"event: {name}\n" if name else "").encode() + f"data: {text}\n\n".encode()


CONTENT = ("content_block_delta", {"type": "content_block_delta", "delta": {"type": "text_delta", "text": "hi"}})


@pytest.mark.parametrize(
    "block",
    [
        b": comment\n\n",
        b"event: ping\ndata: {}\n\n",
        b'data: {"type":"ping"}\n\n',
        b'event: message\ndata: {"type":"ping"}\n\n',  # the default name says as little as none
        b"event: message_start\ndata: not json\n\n",
        b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error","message":"x"}}\n\n',
        b"event: content_block_start\n\n",  # no data line, hence no event
        b"\n",
        b"",
    ],
)
def test_an_opening_event_or_an_error_does_not_start_the_content(block: bytes) -> None:
    assert not watched([block]).content_started


@pytest.mark.parametrize(
    "block",
    [
        b"event: content_block_start\ndata: {}\n\n",
        b"event: content_block_delta\ndata: {}\n\n",
        b"event: message_delta\ndata: {}\n\n",
        b"event: message_stop\ndata: {}\n\n",
        b"event: something_new\ndata: {}\n\n",
        b'event:content_block_delta\rdata:{"type":"ping"}\r\r',
        b'data: {"type":"content_block_start"}\n\n',
        b"data: [DONE]\n\n",
        b'event: message\ndata: {"type":"message_stop"}\n\n',
    ],
)
def test_any_other_event_starts_the_content(block: bytes) -> None:
    assert watched([b"event: ping\ndata: {}\n\n" + block]).content_started


@pytest.mark.parametrize(
    ("data", "error"),
    [
        ({"error": {"code": "1302", "message": "busy"}}, StreamError("1302", "busy")),
        ({"error": {"code": 1302, "message": "busy"}}, StreamError("1302", "busy")),
        ({"error": {"type": "rate_limit_error", "code": "1113", "message": "x"}}, StreamError("rate_limit_error", "x")),
        ({"type": "error", "error": "model not found"}, StreamError("api_error", "model not found")),
        ({"message": "Too many requests"}, StreamError("api_error", "Too many requests")),
        ("upstream went away", StreamError("api_error", "upstream went away")),
        ("[1, 2]", StreamError("api_error", "[1, 2]")),
        (
            {"error": {"type": ["x"], "message": 5}},
            StreamError("api_error", '{"error": {"type": ["x"], "message": 5}}'),
        ),
        ('{"error":{"type":"\\ud800","message":"a\\udfff"}}', StreamError("?", "a?")),
        ({"error": {"type": "t" * 5000, "message": "漢" * 5000}}, StreamError("t" * 200, "漢" * 1000)),
        ("漢" * 5000, StreamError("api_error", "漢" * 1000)),
    ],
)
def test_an_error_event_is_read_in_every_form_a_provider_gives_it(data: object, error: StreamError) -> None:
    assert see_all(("error", data)).error == error
    assert see_all(CONTENT, ("error", data)).error == error


def test_an_error_without_an_event_line_is_an_error() -> None:
    assert see_all(("", {"type": "error", "error": {"type": "api_error", "message": "a"}})).error is not None
    assert see_all(CONTENT, ("", {"error": {"code": "1305", "message": "b"}})).error == StreamError("1305", "b")


def test_the_first_error_is_kept() -> None:
    assert see_all(("error", {"message": "first"}), ("error", {"message": "second"})).error == StreamError(
        "api_error", "first"
    )


def test_a_later_event_that_leaves_a_fact_out_does_not_take_it_back() -> None:
    facts = see_all(
        ("message_start", {"message": {"model": "m", "id": "i"}}),
        ("message_delta", {"delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 3}}),
        ("message_delta", {"delta": {"stop_reason": None}}),
        ("message_start", {"message": {"model": None}}),
    )
    assert facts == Facts(True, False, None, Usage(output=3), "m", "i", "tool_use")


GARBAGE_NUMBERS = [None, True, False, -1, 1.5, 12.0, "7", [7], {"n": 7}, MAX_TOKENS + 1, 10**30]


@pytest.mark.parametrize("garbage", GARBAGE_NUMBERS)
def test_what_is_no_count_leaves_the_earlier_count(garbage: object) -> None:
    good = {"input_tokens": 5, "output_tokens": 1, "cache_creation_input_tokens": 2, "cache_read_input_tokens": 3}
    facts = see_all(
        ("message_start", {"message": {"usage": good}}), ("message_delta", {"usage": dict.fromkeys(good, garbage)})
    )
    assert facts.usage == Usage(5, 1, 2, 3)


@pytest.mark.parametrize(
    "data",
    [
        "",
        "{",
        "null",
        "7",
        "[]",
        '"x"',
        '{"message": 7, "usage": [], "delta": null}',
        "[" * 100_000,
        "\x00",
        "1" * 10_000,
    ],
)
@pytest.mark.parametrize("name", ["message_start", "message_delta", "message_stop", "error", ""])
def test_malformed_json_changes_no_usage_and_does_no_harm(name: str, data: str) -> None:
    start = ("message_start", {"message": {"model": "m", "id": "i", "usage": {"input_tokens": 5}}})
    facts = see_all(start, CONTENT, (name, data), ("message_delta", {"usage": {"output_tokens": 2}}))
    assert (facts.usage, facts.model, facts.message_id) == (Usage(5, 2), "m", "i")


def test_bytes_that_are_not_utf8_do_no_harm() -> None:
    blocks = [
        b"event: %b\ndata: {\xff\xfe}\n\n" % name for name in (b"message_start", b"error", b"\xff", b"message_stop")
    ]
    facts = watched(blocks)
    assert facts.stopped
    assert facts.error == StreamError("api_error", "{\ufffd\ufffd}")


def test_names_from_an_upstream_are_bounded() -> None:
    long = "x" * 10_000
    facts = see_all(
        ("message_start", {"message": {"model": long, "id": long}}), ("message_delta", {"delta": {"stop_reason": long}})
    )
    assert [len(name or "") for name in (facts.model, facts.message_id, facts.stop_reason)] == [200, 200, 200]


# Streams made of structured events, so that what is expected needs no parser.

words = st.sampled_from(
    ["error", "message_stop", '{"type":"message_delta"}', "event: message_stop", "\n\n", "hi", "漢"]
)
texts = st.lists(words, max_size=4).map("".join)
counts = st.one_of(st.integers(0, MAX_TOKENS), st.sampled_from(GARBAGE_NUMBERS))
usages = st.dictionaries(
    st.sampled_from(
        ["input_tokens", "output_tokens", "cache_creation_input_tokens", "cache_read_input_tokens", "speed"]
    ),
    counts,
)
frames = st.one_of(
    st.builds(lambda u, m: {"type": "message_start", "message": {"usage": u, "model": m, "id": m}}, usages, texts),
    st.builds(lambda u, r: {"type": "message_delta", "usage": u, "delta": {"stop_reason": r}}, usages, texts),
    st.builds(lambda t, m: {"type": "error", "error": {"type": t, "message": m}}, texts, texts),
    st.builds(lambda t: {"type": "content_block_delta", "delta": {"type": "text_delta", "text": t}}, texts),
    st.sampled_from([{"type": "ping"}, {"type": "message_stop"}, {"type": "content_block_stop"}, {"type": "new"}]),
)
shapes = st.tuples(st.booleans(), st.sampled_from(["\n", "\r\n", "\r"]), st.sampled_from(["", " "]), st.booleans())


def expected_of(stream: list[dict[str, Any]]) -> Facts:
    facts = Facts()
    counted = {"input_tokens": 0, "output_tokens": 0, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0}
    for frame in stream:
        kind = frame["type"]
        facts.content_started = facts.content_started or kind not in ("message_start", "ping", "error")
        facts.stopped = facts.stopped or kind == "message_stop"
        if kind == "message_start":
            facts.model = frame["message"]["model"] or facts.model
            facts.message_id = facts.model
        if kind == "message_delta":
            facts.stop_reason = frame["delta"]["stop_reason"] or facts.stop_reason
        if kind == "error" and facts.error is None:
            facts.error = StreamError(frame["error"]["type"] or "api_error", frame["error"]["message"])
        usage = frame.get("message", frame).get("usage", {})
        counted.update({k: v for k, v in usage.items() if k in counted and not any(v is g for g in GARBAGE_NUMBERS)})
    facts.usage = Usage(*counted.values())
    return facts


@untimed
@given(st.lists(st.tuples(frames, shapes, st.booleans()), max_size=12))
def test_the_facts_do_not_depend_on_how_events_are_written_or_gathered(
    stream: list[tuple[dict[str, Any], tuple[bool, str, str, bool], bool]],
) -> None:
    blocks = [b""]
    for frame, (named, end, space, commented), new_block in stream:
        lines = [": error message_stop"] if commented else []
        lines += [f"event:{space}{frame['type']}"] if named else []
        lines += [f"data:{space}{json.dumps(frame)}", "", ""]
        event = end.join(lines).encode()
        if new_block:
            blocks.append(event)
        else:
            blocks[-1] += event
    assert watched(blocks) == expected_of([frame for frame, _, _ in stream])


@untimed
@given(st.lists(st.binary(), max_size=4), st.booleans())
def test_the_watch_never_raises(blocks: list[bytes], started: bool) -> None:
    watched([encoded(*CONTENT), *blocks] if started else blocks)


MESSAGE = {
    "id": "msg_1",
    "type": "message",
    "model": "claude-opus-4-6",
    "content": [{"type": "text", "text": 'an {"error": 1}'}],
    "stop_reason": "end_turn",
    "usage": {"input_tokens": 4, "output_tokens": 9, "cache_creation_input_tokens": 1, "cache_read_input_tokens": 2},
}


def test_a_json_answer_gives_its_facts() -> None:
    facts = MessageFacts(Usage(4, 9, 1, 2), "claude-opus-4-6", "msg_1", "end_turn", None)
    assert usage_of_message(json.dumps(MESSAGE, indent=1).encode()) == facts
    assert usage_of_message(json.dumps(MESSAGE | {"error": None}).encode()) == facts


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b'{"type":"error","error":{"type":"not_found_error","message":"a"}}', StreamError("not_found_error", "a")),
        (b'{"error":{"code":"1113","message":"b"},"request_id":"20260101"}', StreamError("1113", "b")),
        (b'{"error":"c"}', StreamError("api_error", "c")),
        (b'{"type":"error"}', StreamError("api_error", '{"type":"error"}')),
    ],
)
def test_a_json_answer_that_is_an_error_says_so(body: bytes, error: StreamError) -> None:
    assert usage_of_message(body) == MessageFacts(error=error)


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"null", b"\xff", b"[" * 100_000, b'{"usage": 3, "model": 4}'])
def test_a_json_answer_that_cannot_be_read_has_no_facts(body: bytes) -> None:
    assert usage_of_message(body) == MessageFacts()
