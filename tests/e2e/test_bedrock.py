"""Bedrock behind the relay: whole answers, streams and counts, by InvokeModel and mantle, every signature verified."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("botocore.auth")

from tests.e2e import answers, bedrock_answers
from tests.e2e.answers import Block, Text, Thinking, ToolUse
from tests.e2e.bedrock_process import OPUS, BedrockUpstream, chained, keyed, target
from tests.e2e.bedrock_upstream import ACCESS_KEY, API_KEY, SESSION_TOKEN
from tests.e2e.raw_client import KEY, Reply, ask, body_for, post
from tests.e2e.relay_process import Relay, config
from tests.e2e.upstream_process import COUNT_TOKENS, MESSAGES, Received
from tests.event_frames import chunk as chunk_frame

ARN = "arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/abc123def456"
PROFILE_ARN = f"arn:aws:bedrock:us-east-1:123456789012:inference-profile/{OPUS}"
MAPPING = {"claude-of-the-account": ARN, "claude-by-arn": PROFILE_ARN, "claude-old": "anthropic.claude-v2:1"}
GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "sse"
SIGNATURE = "RXJjQkNrZ0lCeEFCR0FJaVFM" * 20
BLOCKS: list[Block] = [
    Thinking(["I should ", "look."], SIGNATURE),
    Text(["Gr\u00fc\u00dfe", " \U0001f600"]),
    ToolUse("toolu_9", "look", {"at": "die T\u00fcr"}),
]
CLAUDE_CODES = (
    "claude-code-20250219,interleaved-thinking-2025-05-14,context-management-2025-06-27,"
    "per-turn-control-2026-07-01,advanced-tool-use-2025-11-20,effort-2025-11-24"
)


@pytest.fixture(scope="module")
def process() -> Iterator[BedrockUpstream]:
    with BedrockUpstream() as started:
        yield started


@pytest.fixture
def bedrock(process: BedrockUpstream) -> BedrockUpstream:
    process.fresh()
    return process


@pytest.fixture(scope="module")
def relay(process: BedrockUpstream) -> Iterator[Relay]:
    with Relay(config([keyed("aws", process.url, model_mapping=MAPPING)])) as started:
        yield started


@pytest.fixture(scope="module")
def mantle(process: BedrockUpstream) -> Iterator[Relay]:
    with Relay(config([keyed("mantle", process.url, bedrock_api="mantle")])) as started:
        yield started


def sent_to(bedrock: BedrockUpstream, path: str, reply: Reply, status: int = 200) -> tuple[Received, Any]:
    """The only request, which went to ``path`` and was let in, and its body as JSON."""
    (seen,) = bedrock.requests()
    assert (reply.status, reply.ending, seen.target) == (status, "complete", path), reply
    assert bedrock.refusals() == [None]
    return seen, json.loads(bedrock.body(seen.index))


@pytest.mark.parametrize("seed", range(3))
def test_a_stream_of_frames_cut_anywhere_is_the_sse_of_anthropics_api(
    relay: Relay, bedrock: BedrockUpstream, seed: int
) -> None:
    bedrock.queue(bedrock_answers.conversation(BLOCKS, seed), path=target())

    reply = ask(relay.port, post(body_for()))

    assert reply.body == b"".join(answers.events(BLOCKS))
    assert reply.header("content-type") == "text/event-stream; charset=utf-8"
    assert reply.header("request-id") == bedrock_answers.REQUEST_ID[1]
    assert not [name for name, _ in reply.headers if name.startswith(("x-amz", "content-encoding"))]
    line = relay.access_line(reply.header("x-request-id"))
    assert (line["outcome"], line["output_tokens"]) == ("answered", answers.OUTPUT_TOKENS)


@pytest.mark.parametrize("name", ["text", "thinking", "tool_use", "citations", "server_tool_with_revised_usage"])
def test_what_anthropics_api_has_streamed_comes_through_byte_for_byte(
    relay: Relay, bedrock: BedrockUpstream, name: str
) -> None:
    sample = (GOLDEN / f"{name}.txt").read_bytes()
    documents = [line.removeprefix(b"data: ") for line in sample.splitlines() if line.startswith(b"data: ")]
    metrics = b',"amazon-bedrock-invocationMetrics":' + json.dumps(bedrock_answers.METRICS).encode() + b"}"
    frames = [chunk_frame(document) for document in [*documents[:-1], documents[-1][:-1].rstrip() + metrics]]
    bedrock.queue(bedrock_answers.streamed(frames), path=target())

    assert ask(relay.port, post(body_for())).body == sample


def test_a_stream_of_32000_tokens(relay: Relay, bedrock: BedrockUpstream) -> None:
    blocks = [Text([f" token{number}" for number in range(32_000)])]
    bedrock.queue(bedrock_answers.conversation(blocks), path=target())

    reply = ask(relay.port, post(body_for()))

    assert (reply.status, reply.ending) == (200, "complete")
    assert reply.body == b"".join(answers.events(blocks))


def test_a_whole_answer_passes_as_it_is(relay: Relay, bedrock: BedrockUpstream) -> None:
    bedrock.queue(bedrock_answers.whole(BLOCKS), path=target("invoke"))

    reply = ask(relay.port, post(body_for(stream=False)))

    seen, body = sent_to(bedrock, target("invoke"), reply)
    assert reply.body == json.dumps(answers.message(BLOCKS)).encode()
    assert (body.get("model"), body.get("stream"), body["anthropic_version"]) == (None, None, "bedrock-2023-05-31")
    assert seen.header("accept") == "application/json"
    assert KEY not in "\n".join(seen.headers)
    assert relay.access_line(reply.header("x-request-id"))["output_tokens"] == answers.OUTPUT_TOKENS


def test_tokens_are_counted_of_the_foundation_model(relay: Relay, bedrock: BedrockUpstream) -> None:
    path = target("count-tokens", OPUS.removeprefix("us."))
    bedrock.queue(bedrock_answers.counted(815), path=path)

    reply = ask(relay.port, post(b'{"model":"claude-opus-5-5","messages":[],"tools":[]}', target=COUNT_TOKENS))

    _, body = sent_to(bedrock, path, reply)
    assert reply.json == {"input_tokens": 815}
    assert json.loads(base64.b64decode(body["input"]["invokeModel"]["body"])) == {
        "anthropic_version": "bedrock-2023-05-31",
        "max_tokens": 1,
        "messages": [],
    }


@pytest.mark.parametrize(
    ("asked", "model"),
    [
        ("claude-opus-5-5", OPUS),
        ("claude-sonnet-4-5-20250929", "us.anthropic.claude-sonnet-4-5-20250929-v1:0"),
        ("global.anthropic.claude-opus-5-5", "global.anthropic.claude-opus-5-5"),
        ("claude-by-arn", PROFILE_ARN),
        ("claude-of-the-account", ARN),
        ("claude-old", "anthropic.claude-v2:1"),
    ],
)
def test_every_kind_of_name_is_one_signed_segment_of_the_path(
    relay: Relay, bedrock: BedrockUpstream, asked: str, model: str
) -> None:
    bedrock.queue(bedrock_answers.conversation(BLOCKS), path=target(model=model))

    reply = ask(relay.port, post(body_for(model=asked)))

    sent_to(bedrock, target(model=model), reply)
    assert b"123456789012" not in reply.body and "123456789012" not in str(reply.headers)


def test_a_name_that_no_path_can_hold_is_the_clients_fault(relay: Relay, bedrock: BedrockUpstream) -> None:
    reply = ask(relay.port, post(body_for(model="..")))

    assert (reply.status, reply.error) == (400, "invalid_request_error")
    assert bedrock.requests() == []


def test_betas_go_into_the_body_and_what_bedrock_lacks_is_left_out_and_told_once(
    relay: Relay, bedrock: BedrockUpstream
) -> None:
    bedrock.route(bedrock_answers.conversation(BLOCKS), path=target())
    members: dict[str, Any] = {"context_management": {"edits": []}, "output_config": {"effort": "low"}}

    for _ in range(2):
        reply = ask(relay.port, post(body_for(**members), [("anthropic-beta", CLAUDE_CODES)]))
        assert reply.status == 200

    seen = bedrock.requests()[-1]
    body = json.loads(bedrock.body(seen.index))
    assert body["anthropic_beta"] == [
        "interleaved-thinking-2025-05-14",
        "tool-search-tool-2025-10-19",
        "effort-2025-11-24",
    ]
    assert "context_management" not in body and body["output_config"] == {"effort": "low"}
    assert seen.header("anthropic-beta") is None
    told = [line for line in relay.output().splitlines() if "does not take context_management" in line]
    assert len(told) == 1


def test_a_request_above_bedrocks_limit_is_refused_before_it_is_sent(relay: Relay, bedrock: BedrockUpstream) -> None:
    reply = ask(relay.port, post(body_for(padding="x" * 20_000_000)))

    assert (reply.status, reply.error) == (413, "request_too_large")
    assert bedrock.requests() == []


@pytest.mark.parametrize("mode", ["key", "bearer"])
def test_an_api_key_is_sent_as_a_bearer_and_nothing_is_signed(bedrock: BedrockUpstream, mode: str) -> None:
    more: dict[str, Any] = {"keys": [{"key": API_KEY}]} if mode == "key" else {"aws_bearer_token": API_KEY}
    bedrock.queue(bedrock_answers.conversation(BLOCKS), path=target())

    with Relay(config([chained("aws", bedrock.url, **more)])) as relay:
        seen, _ = sent_to(bedrock, target(), ask(relay.port, post(body_for())))
        assert API_KEY not in relay.output()

    assert seen.header("authorization") == f"Bearer {API_KEY}"
    assert not [line for line in seen.headers if line.lower().startswith("x-amz-")]


def test_a_signature_names_the_session_and_its_secrets_are_nowhere_in_the_log(
    relay: Relay, bedrock: BedrockUpstream
) -> None:
    bedrock.queue(bedrock_answers.whole(BLOCKS), path=target("invoke"))

    seen, _ = sent_to(bedrock, target("invoke"), ask(relay.port, post(body_for(stream=False))))

    assert (seen.header("authorization") or "").startswith(f"AWS4-HMAC-SHA256 Credential={ACCESS_KEY}/")
    assert seen.header("x-amz-security-token") == SESSION_TOKEN
    assert SESSION_TOKEN not in relay.output()


# ---------------------------------------------------------------- mantle


def test_mantle_gets_anthropics_format_and_its_stream_passes_unchanged(mantle: Relay, bedrock: BedrockUpstream) -> None:
    bedrock.queue(answers.conversation(BLOCKS))

    reply = ask(mantle.port, post(body_for(), [("anthropic-beta", CLAUDE_CODES)], target=f"{MESSAGES}?beta=true"))

    seen, body = sent_to(bedrock, f"{MESSAGES}?beta=true", reply)
    assert reply.body == b"".join(answers.events(BLOCKS))
    assert (body["model"], body["stream"]) == ("anthropic.claude-opus-5-5", True)
    assert "per-turn-control" not in (seen.header("anthropic-beta") or "")
    assert "context-management-2025-06-27" in (seen.header("anthropic-beta") or "")


def test_mantle_answers_whole_and_counts(mantle: Relay, bedrock: BedrockUpstream) -> None:
    bedrock.queue(answers.conversation(BLOCKS))
    bedrock.queue(answers.as_json({"input_tokens": 4711}), path=COUNT_TOKENS)

    whole = ask(mantle.port, post(body_for(stream=False)))
    counted = ask(mantle.port, post(b'{"model":"claude-opus-5-5","messages":[]}', target=COUNT_TOKENS))

    assert whole.json == answers.message(BLOCKS)
    assert counted.json == {"input_tokens": 4711}
    assert bedrock.refusals() == [None, None]
