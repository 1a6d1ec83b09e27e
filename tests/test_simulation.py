"""The simulator's answers, held against the official SDK, which reads the bytes without knowing who made them."""

from __future__ import annotations

import json
import sys
import tracemalloc
from random import Random
from typing import Any

import anthropic
import jsonschema
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from ccrelay.core.settings import FailSettings, SimulatorSettings
from ccrelay.core.simulation import Cut, Request, Script, Step, base_url, simulate
from ccrelay.core.simulation_schema import example

try:
    import httpx2 as httpx
except ImportError:
    import httpx

TOOL = {
    "name": "Bash",
    "description": "Run a command",
    "input_schema": {
        "type": "object",
        "properties": {"command": {"type": "string"}, "timeout": {"type": "integer", "minimum": 10}},
        "required": ["command", "timeout"],
    },
}
LONG = [{"type": "text", "text": "a long system prompt " * 500, "cache_control": {"type": "ephemeral"}}]
NO_FAILURE = FailSettings(status=0, rate=1.0, after_events=0, stall=0.0, cut=False)


def settings(**changes: Any) -> SimulatorSettings:
    values: dict[str, Any] = {
        "text": "",
        "tokens_per_second": 50.0,
        "first_byte": 0.25,
        "only_without_keys": False,
        "fail": None,
    }
    return SimulatorSettings(**{**values, **changes})


def failing(**changes: Any) -> SimulatorSettings:
    values: dict[str, Any] = {"status": 0, "rate": 1.0, "after_events": 0, "stall": 0.0, "cut": False}
    return settings(fail=FailSettings(**{**values, **changes}))


def ask(content: Any = "hi", **more: Any) -> dict[str, Any]:
    return {"model": "claude-x", "max_tokens": 1000, "messages": [{"role": "user", "content": content}], **more}


def play(body: Any, with_settings: SimulatorSettings | None = None, **request: Any) -> Script:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    sent = Request(request.pop("method", b"POST"), request.pop("target", b"/v1/messages?beta=true"), data)
    return simulate(sent, with_settings or settings(), Random(7), 3, 1_800_000_000.0, **request)


def received(script: Script) -> bytes:
    """All bytes of a body that ended in good order."""
    data = b""
    for step in script.steps:
        assert isinstance(step, Step)
        data += step.data
    return data


def error_of(script: Script) -> tuple[int, str, str]:
    assert script.head is not None
    error = json.loads(received(script))
    assert error["type"] == "error"
    assert error["request_id"].encode() == script.head.first(b"request-id")
    return script.head.status, error["error"]["type"], error["error"]["message"]


def sdk(with_settings: SimulatorSettings | None = None, scripts: list[Script] | None = None) -> anthropic.Anthropic:
    """The official client, whose every request is answered by the simulator in memory."""

    def handle(request: httpx.Request) -> httpx.Response:
        target = request.url.raw_path
        script = play(request.read(), with_settings, method=request.method.encode(), target=target)
        assert script.head is not None
        if scripts is not None:
            scripts.append(script)
        return httpx.Response(script.head.status, headers=list(script.head.headers), content=received(script))

    client = httpx.Client(transport=httpx.MockTransport(handle))
    return anthropic.Anthropic(base_url="http://simulator.test", api_key="dummy", http_client=client, max_retries=0)


def streamed(body: dict[str, Any], with_settings: SimulatorSettings | None = None) -> Any:
    with sdk(with_settings).messages.stream(**body) as stream:
        return stream.get_final_message()


def created(body: dict[str, Any], with_settings: SimulatorSettings | None = None) -> Any:
    return sdk(with_settings).messages.create(**body)


def event_names(script: Script) -> list[str]:
    lines = received(script).decode().splitlines()
    return [line.removeprefix("event: ") for line in lines if line.startswith("event: ")]


# -- answers


def test_the_default_answer_says_what_it_is_what_was_asked_and_what_to_configure() -> None:
    text = streamed(ask("Where is\nthe  harbour?")).content[0].text
    assert "simulator" in text
    assert "Where is the harbour?" in text
    assert "ANTHROPIC_API_KEY" in text


def test_a_long_prompt_is_repeated_only_in_its_beginning() -> None:
    assert len(streamed(ask("word " * 100_000)).content[0].text) < 1500


def test_reminders_of_the_client_are_not_taken_for_the_prompt() -> None:
    content = [
        {"type": "text", "text": "<system-reminder>before</system-reminder>"},
        {"type": "text", "text": "the prompt"},
        {"type": "text", "text": "<system-reminder>after</system-reminder>"},
    ]
    messages = [{"role": "user", "content": content}, {"role": "system", "content": "rules of the house"}]
    text = streamed(ask(messages=messages)).content[0].text
    assert "the prompt" in text
    assert "before" not in text
    assert "after" not in text
    assert "rules" not in text


def test_a_stream_has_the_events_of_the_api_in_their_order() -> None:
    names = event_names(play(ask(stream=True), settings(text="one two three")))
    assert names[:3] == ["message_start", "ping", "content_block_start"]
    assert names[3:-3] == ["content_block_delta"] * 3
    assert names[-3:] == ["content_block_stop", "message_delta", "message_stop"]


TEXTS = st.text(min_size=1)


@given(text=TEXTS)
def test_the_sdk_reads_any_text_from_the_stream_as_it_was_configured(text: str) -> None:
    message = streamed(ask(), settings(text=text))
    assert message.content[0].text == text
    assert message.stop_reason == "end_turn"


@pytest.mark.parametrize(
    "body",
    [
        ask(),
        ask(system=LONG),
        ask(thinking={"type": "enabled", "budget_tokens": 1024}),
        ask(thinking={"type": "adaptive", "display": "omitted"}),
        ask('simulate tool Bash {"command": "ls ☃", "timeout": 12}', tools=[TOOL]),
        ask(max_tokens=5),
        ask(tools=[TOOL], tool_choice={"type": "any"}),
        ask(tools=[TOOL], tool_choice={"type": "any"}, max_tokens=3),
        ask(thinking={"type": "adaptive"}, stop_sequences=["built-in"]),
    ],
)
def test_stream_and_whole_message_are_the_same_message(body: dict[str, Any]) -> None:
    assert streamed(body).to_dict() == created(body).to_dict()


def test_output_tokens_are_the_number_of_deltas_that_carried_them() -> None:
    script = play(ask(stream=True, thinking={"type": "adaptive"}))
    events = received(script)
    message = streamed(ask(thinking={"type": "adaptive"}))
    deltas = events.count(b'"text_delta"') + events.count(b'"thinking_delta"')
    assert message.usage.output_tokens == deltas
    assert b'"output_tokens":1,' in events.partition(b"\n\n")[0]
    assert b"output_tokens_details" not in events.partition(b"\n\n")[0]
    assert message.usage.output_tokens_details.thinking_tokens == events.count(b'"thinking_delta"')


# -- thinking


def test_shown_thinking_comes_before_the_text_with_a_signature() -> None:
    thinking, text = streamed(ask(thinking={"type": "enabled", "budget_tokens": 1024})).content
    assert thinking.thinking
    assert len(thinking.signature) > 100
    assert text.type == "text"


def test_omitted_thinking_is_one_signature_without_text() -> None:
    script = play(ask(stream=True, thinking={"type": "adaptive", "display": "omitted"}))
    data = received(script)
    assert data.count(b'"signature_delta"') == 1
    assert b"thinking_delta" not in data


def test_thinking_is_left_out_where_it_is_disabled_or_does_not_fit() -> None:
    assert [b.type for b in streamed(ask(thinking={"type": "disabled"})).content] == ["text"]
    assert [b.type for b in streamed(ask(thinking={"type": "adaptive"}, max_tokens=4)).content] == ["text"]


# -- tools


def test_a_tool_that_the_prompt_names_is_called_with_the_input_it_gives() -> None:
    message = streamed(ask('Please simulate tool Bash {"command": "echo \\"a}\\"", "more": [1]} now', tools=[TOOL]))
    assert message.stop_reason == "tool_use"
    assert [block.type for block in message.content] == ["text", "tool_use"]
    assert message.content[1].name == "Bash"
    assert message.content[1].input == {"command": 'echo "a}"', "more": [1]}


@pytest.mark.parametrize("phrase", ["simulate tool Bash", "simulate tool Bash {broken", "simulate tool Bash [1]"])
def test_without_an_input_object_the_tool_gets_one_that_its_schema_allows(phrase: str) -> None:
    block = streamed(ask(phrase, tools=[TOOL])).content[1]
    jsonschema.validate(block.input, TOOL["input_schema"])


@pytest.mark.parametrize("choice", [{"type": "any"}, {"type": "tool", "name": "Bash"}])
def test_a_forced_tool_is_called_without_text_or_thinking(choice: dict[str, str]) -> None:
    message = streamed(ask(tools=[TOOL], tool_choice=choice, thinking={"type": "adaptive"}))
    assert [block.type for block in message.content] == ["tool_use"]
    assert message.stop_reason == "tool_use"
    jsonschema.validate(message.content[0].input, TOOL["input_schema"])


def test_tools_that_are_not_offered_or_not_wanted_are_not_called() -> None:
    assert streamed(ask("simulate tool Read {}", tools=[TOOL])).stop_reason == "end_turn"
    assert streamed(ask("simulate tool Bash {}", tools=[TOOL], tool_choice={"type": "none"})).stop_reason == "end_turn"


def test_after_a_tool_result_comes_text_even_where_a_tool_is_forced() -> None:
    messages = [
        {"role": "user", "content": "simulate tool Bash"},
        {"role": "assistant", "content": [{"type": "tool_use", "id": "toolu_1", "name": "Bash", "input": {}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "content": "42 files"}]},
    ]
    message = streamed(ask(messages=messages, tools=[TOOL], tool_choice={"type": "any"}))
    assert message.stop_reason == "end_turn"
    assert "42 files" in message.content[0].text


def test_a_tool_input_that_does_not_fit_is_left_out() -> None:
    message = streamed(ask(tools=[TOOL], tool_choice={"type": "any"}, max_tokens=3))
    assert (message.stop_reason, message.usage.output_tokens) == ("max_tokens", 3)
    assert message.content[0].input == {}


# -- JSON answers


def test_a_json_answer_satisfies_its_schema_and_obeys_no_phrase() -> None:
    schema = {
        "type": "object",
        "properties": {"title": {"type": "string"}},
        "required": ["title"],
        "additionalProperties": False,
    }
    form = {"format": {"type": "json_schema", "schema": schema}}
    message = streamed(ask("simulate error 529", tools=[], output_config=form), settings(text="not JSON"))
    jsonschema.validate(json.loads(message.content[0].text), schema)


LIMITS = st.integers(-50, 50)
LEAVES = (
    st.fixed_dictionaries({"type": st.just("string")}, optional={"minLength": st.integers(0, 30)})
    | st.fixed_dictionaries({"type": st.just("string"), "maxLength": st.integers(0, 30)})
    | st.tuples(st.sampled_from(["integer", "number"]), LIMITS, LIMITS).map(
        lambda x: {"type": x[0], "minimum": min(x[1:]), "maximum": max(x[1:])}
    )
    | st.tuples(st.sampled_from(["integer", "number"]), LIMITS, st.integers(2, 9)).map(
        lambda x: {"type": x[0], "exclusiveMinimum": x[1], "exclusiveMaximum": x[1] + x[2]}
    )
    | st.tuples(
        st.sampled_from(["integer", "number"]),
        st.sampled_from(["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"]),
        st.floats(-99, 99),
    ).map(lambda x: {"type": x[0], x[1]: x[2]})
    | st.sampled_from([{"type": "boolean"}, {"type": "null"}, {"const": [1, "a"]}, {"enum": ["x", "y"]}, {}, True])
    | st.sampled_from([{"type": ["null", "string"]}, {"$ref": "#/$defs/named"}, {"type": ["null"]}])
)


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


SCHEMAS = st.recursive(
    LEAVES,
    lambda inner: (
        st.dictionaries(st.text(max_size=5), inner, max_size=3).map(_object)
        | st.builds(lambda items, n: {"type": "array", "items": items, "minItems": n}, inner, st.integers(0, 3))
        | st.lists(inner, min_size=1, max_size=2).map(lambda options: {"anyOf": options})
        | inner.map(lambda part: {"allOf": [{"properties": {"a": part}}, {"required": ["a"]}]})
    ),
    max_leaves=6,
)


@given(schema=SCHEMAS)
def test_examples_are_valid_by_an_independent_validator(schema: Any) -> None:
    whole = {"$defs": {"named": {"type": "integer"}}, **_object({"it": schema})}
    jsonschema.Draft202012Validator(whole).validate(example(whole))


def test_a_schema_without_end_has_an_example_with_one() -> None:
    names = [f"p{i}" for i in range(10)]
    node = {"type": "object", "properties": {n: {"$ref": "#"} for n in names}, "required": names}
    assert len(json.dumps(example(node))) < 100_000


# -- limits of an answer


@given(text=TEXTS, limit=st.integers(1, 20))
def test_max_tokens_ends_the_text_there(text: str, limit: int) -> None:
    whole, cut = streamed(ask(), settings(text=text)), streamed(ask(max_tokens=limit), settings(text=text))
    assert cut.usage.output_tokens == min(limit, whole.usage.output_tokens)
    assert text.startswith(cut.content[0].text)
    assert cut.stop_reason == ("end_turn" if cut.content[0].text == text else "max_tokens")


@given(
    text=st.text("abc ", min_size=1, max_size=30),
    sequences=st.lists(st.text("abc", min_size=1, max_size=2), max_size=3),
)
def test_the_text_ends_before_the_first_stop_sequence(text: str, sequences: list[str]) -> None:
    message = streamed(ask(stop_sequences=sequences), settings(text=text))
    said = message.content[0].text if message.content else ""
    if message.stop_reason == "stop_sequence":
        assert message.stop_sequence in sequences
        assert text.startswith(said + message.stop_sequence)
    else:
        assert said == text
    assert not any(sequence in said for sequence in sequences)


def test_a_text_that_is_cut_before_its_stop_sequence_did_not_stop_there() -> None:
    chosen = settings(text=" a" * 20 + " END")
    assert streamed(ask(stop_sequences=["END"]), chosen).stop_sequence == "END"
    cut = streamed(ask(stop_sequences=["END"], max_tokens=5), chosen)
    assert (cut.stop_reason, cut.stop_sequence) == ("max_tokens", None)


def test_no_max_tokens_is_too_large() -> None:
    assert streamed(ask(max_tokens=10**30)).stop_reason == "end_turn"


def test_a_long_answer_is_made_while_it_is_read() -> None:
    script = play(ask("simulate tokens 20000", max_tokens=128_000, stream=True))
    tracemalloc.start()
    total = sum(len(step.data) for step in script.steps if isinstance(step, Step))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert total > 2_000_000
    assert peak < 200_000


# -- usage


def input_total(usage: Any) -> int:
    return usage.input_tokens + usage.cache_creation_input_tokens + usage.cache_read_input_tokens


@pytest.mark.parametrize("more", [{}, {"system": "be brief"}, {"system": LONG, "tools": [TOOL]}])
def test_count_tokens_answers_what_the_usage_then_says(more: dict[str, Any]) -> None:
    body = ask("how much is this?", **more)
    counted = sdk().messages.count_tokens(model=body["model"], messages=body["messages"], **more)
    assert counted.input_tokens == input_total(created(body).usage)


def test_a_marked_prefix_is_written_on_the_first_turn_and_read_on_the_next() -> None:
    first = created(ask(system=LONG)).usage
    later = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
    newest = {"type": "text", "text": "and now?", "cache_control": {"type": "ephemeral"}}
    second = created(ask(messages=[*later, {"role": "user", "content": [newest]}], system=LONG)).usage
    assert first.cache_creation_input_tokens > 1024
    assert first.cache_read_input_tokens == 0
    assert first.cache_creation.ephemeral_5m_input_tokens == first.cache_creation_input_tokens
    assert second.cache_read_input_tokens >= first.cache_creation_input_tokens
    assert 0 < second.cache_creation_input_tokens < 100


def test_a_mark_on_the_whole_request_caches_all_of_it() -> None:
    usage = created(ask(system=[{"type": "text", "text": LONG[0]["text"]}], cache_control={"type": "ephemeral"})).usage
    assert usage.cache_creation_input_tokens == input_total(usage)


def test_a_prefix_may_be_cached_for_an_hour() -> None:
    system = [{**LONG[0], "cache_control": {"type": "ephemeral", "ttl": "1h"}}]
    written = created(ask(system=system)).usage.cache_creation
    assert written.ephemeral_1h_input_tokens > 1024
    assert written.ephemeral_5m_input_tokens == 0


def test_even_an_empty_prompt_has_input_tokens() -> None:
    assert created(ask("")).usage.input_tokens > 0


def test_nothing_is_cached_without_a_mark_or_below_the_minimum() -> None:
    marked = [{"type": "text", "text": "short", "cache_control": {"type": "ephemeral"}}]
    for system in ([{"type": "text", "text": LONG[0]["text"]}], marked):
        usage = created(ask(system=system)).usage
        assert usage.input_tokens == input_total(usage)


def test_an_image_counts_as_an_image_and_not_as_its_base64() -> None:
    source = {"type": "base64", "media_type": "image/png", "data": "A" * 1_000_000}
    body = ask([{"type": "image", "source": source}, {"type": "text", "text": "what is this?"}])
    assert 1000 < created(body).usage.input_tokens < 5000


# -- what the API refuses


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"messages": [], "max_tokens": 1}, "model: Field required"),
        ({"model": "m", "max_tokens": 1}, "messages: Field required"),
        ({"model": "m", "messages": [{"role": "user", "content": "x"}]}, "max_tokens: Field required"),
        (ask(max_tokens=0), "max_tokens: must be greater than or equal to 1"),
        (ask(max_tokens="9"), "max_tokens: Input should be a valid integer"),
        (ask(messages=[]), "messages: at least one message is required"),
        (ask(messages=[{"role": "user"}]), "messages.0.content: Field required"),
        (ask(stream="yes"), "stream: Input should be a valid boolean"),
        (ask(tools=[TOOL], tool_choice={"type": "tool", "name": "x"}), "Tool 'x' not found in provided tools"),
    ],
)
def test_what_is_missing_or_wrong_is_refused_in_the_words_of_the_api(body: Any, message: str) -> None:
    assert error_of(play(body)) == (400, "invalid_request_error", message)


def test_counting_asks_for_no_max_tokens() -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "x"}]}
    script = play(body, target=b"/v1/messages/count_tokens")
    assert list(json.loads(received(script))) == ["input_tokens"]


@pytest.mark.parametrize("body", [b"", b"{", b"\xff{}", b'{"model": 1e999', b"[" * 100_000])
def test_what_is_not_json_is_refused(body: bytes) -> None:
    status, kind, message = error_of(play(body))
    assert (status, kind) == (400, "invalid_request_error")
    assert message.startswith("The request body is not valid JSON")


def test_a_number_that_json_cannot_carry_is_not_sent_back() -> None:
    body = json.dumps(ask("simulate tool Bash", tools=[TOOL]))
    body = body.replace('"minimum": 10', '"const": 1e999')
    assert error_of(play(body.encode()))[0] == 400


def test_no_depth_of_nesting_escapes_as_an_error_of_ours() -> None:
    statuses = set()
    for depth in range(sys.getrecursionlimit() - 200, sys.getrecursionlimit()):
        deep = "[" * depth + "]" * depth
        script = play(ask(f'simulate tool Bash {{"a": {deep}}}', tools=[TOOL]))
        assert script.head is not None
        statuses.add(script.head.status)
    assert statuses <= {200, 400}


def test_other_paths_and_methods_are_refused() -> None:
    assert error_of(play(ask(), target=b"/v1/complete"))[:2] == (404, "not_found_error")
    script = play(b"", method=b"GET")
    assert script.head is not None
    assert script.head.first(b"allow") == b"POST"
    assert error_of(script)[:2] == (405, "invalid_request_error")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just("simulate tool Bash"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
KEYS = "type text content tool_result display name input_schema schema format cache_control ttl required allOf"
VALUES = JSON | st.sampled_from(["text", "tool_result", "any", "tool", "adaptive", "json_schema", "object", "array"])
SHAPES = JSON | st.dictionaries(st.sampled_from(KEYS.split()), VALUES, max_size=4)
FIELDS = "system tools tool_choice thinking output_config stop_sequences cache_control metadata".split()


@given(
    content=SHAPES | st.lists(SHAPES, max_size=3),
    role=JSON | st.just("user"),
    fields=st.dictionaries(st.sampled_from(FIELDS), SHAPES | st.lists(SHAPES, max_size=3), max_size=4),
    stream=st.booleans(),
)
def test_whatever_a_client_sends_the_answer_is_one_that_the_sdk_can_read(
    content: Any, role: Any, fields: dict[str, Any], stream: bool
) -> None:
    body = {**ask(stream=stream, **fields), "messages": [{"role": role, "content": content}]}
    script = play(body)
    assert script.head is not None
    data = received(script)
    if script.head.status == 200 and stream:
        payloads = [json.loads(line[6:]) for line in data.decode().split("\n") if line.startswith("data: ")]
        assert payloads[-1] == {"type": "message_stop"}
    else:
        assert json.loads(data)["type"] == ("message" if script.head.status == 200 else "error")


def test_half_a_surrogate_pair_from_a_client_does_not_break_the_answer() -> None:
    assert b"You asked: ?" in received(play(ask("\ud800")))


# -- heads


def test_answers_carry_the_headers_that_clients_and_key_pools_read() -> None:
    script = play(ask(stream=True))
    assert script.head is not None
    assert script.head.first(b"content-type") == b"text/event-stream; charset=utf-8"
    assert (script.head.first(b"request-id") or b"").startswith(b"req_sim_000003")
    assert script.head.first(b"anthropic-ratelimit-input-tokens-reset") == b"2027-01-15T08:00:01Z"
    for kind in (b"requests", b"tokens", b"input-tokens", b"output-tokens"):
        left = script.head.first(b"anthropic-ratelimit-%b-remaining" % kind)
        limit = script.head.first(b"anthropic-ratelimit-%b-limit" % kind)
        assert left is not None
        assert limit is not None
        assert 0 < int(left) < int(limit)


# -- pace


def test_a_stream_begins_after_the_first_byte_time_and_takes_the_time_of_its_tokens() -> None:
    script = play(ask(stream=True), settings(text="word " * 40, tokens_per_second=20.0, first_byte=1.5))
    assert script.delay == 1.5
    tokens = streamed(ask(), settings(text="word " * 40)).usage.output_tokens
    assert sum(step.delay for step in script.steps) == pytest.approx(tokens / 20.0)


def test_a_whole_message_takes_as_long_as_its_stream() -> None:
    chosen = settings(text="word " * 40, tokens_per_second=20.0, first_byte=1.5)
    stream = play(ask(stream=True), chosen)
    assert play(ask(), chosen).delay == pytest.approx(stream.delay + sum(step.delay for step in stream.steps))


def test_omitted_thinking_is_silent_for_as_long_as_it_would_be_shown() -> None:
    shown = play(ask(stream=True, thinking={"type": "adaptive"}))
    silent = play(ask(stream=True, thinking={"type": "adaptive", "display": "omitted"}))
    assert max(step.delay for step in silent.steps) > 0.3
    silent = play(ask(stream=True, thinking={"type": "adaptive", "display": "omitted"}))
    assert sum(s.delay for s in silent.steps) == pytest.approx(sum(s.delay for s in shown.steps))


def test_without_a_token_rate_nothing_waits() -> None:
    script = play(ask(stream=True), settings(tokens_per_second=0.0, first_byte=0.0))
    assert script.delay == 0
    assert {step.delay for step in script.steps} == {0}


# -- rehearsed failures


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, anthropic.BadRequestError),
        (401, anthropic.AuthenticationError),
        (403, anthropic.PermissionDeniedError),
        (429, anthropic.RateLimitError),
        (500, anthropic.InternalServerError),
        (529, anthropic.InternalServerError),
    ],
)
@pytest.mark.parametrize("by_prompt", [False, True])
def test_a_status_is_rehearsed_as_an_error_that_the_sdk_knows(status: int, error: Any, by_prompt: bool) -> None:
    chosen = settings() if by_prompt else failing(status=status)
    with pytest.raises(error) as caught:
        created(ask(f"simulate error {status}" if by_prompt else "hi"), chosen)
    assert caught.value.status_code == status
    assert caught.value.response.headers.get("retry-after") == ("1" if status in (429, 529) else None)


@pytest.mark.parametrize(("status", "kind"), [(529, "overloaded_error"), (429, "rate_limit_error"), (502, "api_error")])
def test_a_status_in_mid_stream_is_an_error_event(status: int, kind: str) -> None:
    script = play(ask(stream=True), failing(status=status, after_events=4))
    assert script.head is not None
    assert script.head.status == 200
    steps = list(script.steps)
    assert len(steps) == 5
    assert isinstance(steps[-1], Step)
    name, data = steps[-1].data.decode().rstrip("\n").split("\n")
    assert name == "event: error"
    assert json.loads(data.removeprefix("data: "))["error"]["type"] == kind


def test_a_cut_comes_after_the_events_asked_for() -> None:
    for script in (
        play(ask(stream=True), failing(cut=True, after_events=5, stall=2.0)),
        play(ask("simulate cut after 5", stream=True)),
    ):
        steps = list(script.steps)
        assert [type(step) for step in steps] == [Step] * 5 + [Cut]


def test_a_cut_before_any_event_leaves_no_head() -> None:
    for script in (play(ask(), failing(cut=True)), play(ask("simulate cut", stream=True))):
        assert script.head is None
        assert list(script.steps) == []


def test_a_stall_is_silence_at_its_place_and_nothing_is_lost_by_it() -> None:
    healthy = list(play(ask(stream=True), settings(fail=NO_FAILURE)).steps)
    stalled = list(play(ask(stream=True), failing(stall=9.0, after_events=3)).steps)
    assert stalled[3].delay == pytest.approx(healthy[3].delay + 9)
    assert [step.data for step in stalled] == [step.data for step in healthy]
    early = play(ask(stream=True), failing(stall=9.0))
    assert early.delay == pytest.approx(play(ask(stream=True)).delay + 9)
    assert sum(s.delay for s in early.steps) == pytest.approx(sum(s.delay for s in healthy))
    prompted = list(play(ask("simulate stall 2.5 after 3", stream=True)).steps)
    assert prompted[3].delay == pytest.approx(healthy[3].delay + 2.5)


def test_a_stall_can_end_in_a_cut_or_in_an_error() -> None:
    cut = list(play(ask(stream=True), failing(cut=True, after_events=1, stall=4.0)).steps)[-1]
    assert cut == Cut(4.0)
    assert play(ask(), failing(cut=True, stall=4.0)).delay == 4.0
    assert play(ask(), failing(status=529, stall=4.0)).delay == 4.0


@pytest.mark.parametrize("after", [1, 7])
def test_a_whole_message_fails_in_its_middle(after: int) -> None:
    first, end = play(ask(), failing(cut=True, after_events=after)).steps
    assert isinstance(first, Step)
    assert isinstance(end, Cut)
    assert first.data.startswith(b'{"id"')
    assert error_of(play(ask(), failing(status=529, after_events=after)))[0] == 529


@pytest.mark.parametrize("stream", [True, False])
def test_where_a_status_and_a_cut_are_both_configured_the_cut_wins(stream: bool) -> None:
    assert play(ask(stream=stream), failing(cut=True, status=529)).head is None
    assert isinstance(list(play(ask(stream=stream), failing(cut=True, status=529, after_events=1)).steps)[-1], Cut)


def test_only_the_configured_share_of_calls_fails() -> None:
    chosen, rng = failing(status=500, rate=0.25), Random(1)
    body = json.dumps(ask()).encode()
    scripts = [simulate(Request(b"POST", b"/v1/messages", body), chosen, rng, n, 0.0) for n in range(400)]
    failed = sum(script.head is not None and script.head.status == 500 for script in scripts)
    assert 60 < failed < 140
    assert error_of(play(ask(), failing(status=500, rate=1.0)))[0] == 500
    assert created(ask(), failing(status=500, rate=0.0)).stop_reason == "end_turn"


def test_counting_fails_like_any_call() -> None:
    assert error_of(play(ask(), failing(status=529), target=b"/v1/messages/count_tokens"))[0] == 529


def test_a_failure_that_asks_for_nothing_is_none() -> None:
    assert created(ask(), settings(fail=NO_FAILURE)).stop_reason == "end_turn"


# -- URLs


@given(name=st.text(min_size=1), other=st.text(min_size=1))
def test_two_providers_have_two_urls(name: str, other: str) -> None:
    assume(name != other)
    assert base_url(name) != base_url(other)


def test_a_plain_name_stays_readable_in_its_url() -> None:
    assert base_url("my-simulator2") == "simulator://my-simulator2"
