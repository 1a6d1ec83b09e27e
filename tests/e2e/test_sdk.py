"""The anthropic SDK, in a process and an environment of its own, talking through the relay."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e import answers
from tests.e2e.answers import Block, Text, Thinking, ToolUse
from tests.e2e.raw_client import KEY
from tests.e2e.relay_process import Relay, config, environment, provider
from tests.e2e.samples import MODELS
from tests.e2e.upstream_process import COUNT_TOKENS, Upstream

PYTHON = os.environ.get("CCRELAY_SDK_PYTHON", sys.executable)
SCRIPT = Path(__file__).with_name("clients") / "sdk_calls.py"
SLOWEST = 60
TEXT = ["Hello, ", "wörld ", "😀"]
Sdk = Callable[..., dict[str, Any]]
"""Make the call of that name through a relay, with a key if not the right one; returns what came of it."""

TALK = answers.conversation([Text(TEXT)])


def installed() -> bool:
    return subprocess.run([PYTHON, "-c", "import anthropic"], capture_output=True).returncode == 0


pytestmark = pytest.mark.skipif(
    not installed(), reason=f"{PYTHON} has no anthropic package (CCRELAY_SDK_PYTHON names another one)"
)


@pytest.fixture(scope="module")
def sdk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sdk]:
    home = tmp_path_factory.mktemp("sdk")
    command = [PYTHON, str(SCRIPT)]
    process = subprocess.Popen(
        command, env=environment(home), cwd=home, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )

    def call(relay: Relay, case: str, key: str = KEY) -> dict[str, Any]:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps([relay.url, key, case]) + "\n")
        process.stdin.flush()
        outcome: dict[str, Any] = json.loads(process.stdout.readline())
        return outcome

    yield call
    process.communicate(timeout=SLOWEST)


def value(outcome: dict[str, Any]) -> Any:
    assert "value" in outcome, outcome
    return outcome["value"]


def test_streaming(sdk: Sdk, relay: Relay, upstream: Upstream) -> None:
    upstream.route(TALK)
    got = value(sdk(relay, "streaming"))
    assert got["text"] == TEXT
    assert got["message"]["content"][0]["text"] == "".join(TEXT)
    assert got["message"]["stop_reason"] == "end_turn"
    assert got["message"]["usage"]["output_tokens"] == answers.OUTPUT_TOKENS
    assert got["message"]["usage"]["cache_read_input_tokens"] == answers.INPUT_USAGE["cache_read_input_tokens"]


def test_raw_events(sdk: Sdk, relay: Relay, upstream: Upstream) -> None:
    upstream.route(answers.conversation([Text(["a", "b"])]))
    delta = "content_block_delta"
    start = ["message_start", "content_block_start"]
    assert value(sdk(relay, "raw_events")) == [
        *start,
        delta,
        delta,
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]


def test_non_streaming(sdk: Sdk, relay: Relay, upstream: Upstream) -> None:
    upstream.route(TALK)
    assert value(sdk(relay, "whole"))["content"][0]["text"] == "".join(TEXT)
    assert json.loads(upstream.body(0)).get("stream") in (None, False)


def test_a_tool_loop_with_thinking(sdk: Sdk, relay: Relay, upstream: Upstream) -> None:
    signature = "RXJjQkNrZ0lCeEFCR0FJaVFM" * 20
    tool_use = ToolUse("toolu_9", "look", {"at": "die Tür"})
    asks: list[Block] = [Thinking(["I should ", "look."], signature), Text(["Looking."]), tool_use]
    upstream.queue(answers.conversation(asks), answers.conversation([Text(["A door."])]))
    first, second = value(sdk(relay, "tool_use"))
    thinking, _, tool = first["content"]
    assert (thinking["thinking"], thinking["signature"]) == ("I should look.", signature)
    assert (tool["name"], tool["input"], first["stop_reason"]) == ("look", {"at": "die Tür"}, "tool_use")
    assert second["content"][0]["text"] == "A door."
    history = json.loads(upstream.body(1))["messages"]
    assert history[1]["content"][0]["signature"] == signature
    assert history[2]["content"][0]["tool_use_id"] == "toolu_9"


def test_count_tokens(sdk: Sdk, relay: Relay, upstream: Upstream) -> None:
    upstream.route(answers.as_json({"input_tokens": 815}), path=COUNT_TOKENS)
    assert value(sdk(relay, "count_tokens")) == 815


def test_models_are_listed_over_several_pages(sdk: Sdk, relay: Relay) -> None:
    listed = value(sdk(relay, "models"))
    assert set(listed) >= set(MODELS)
    assert len(listed) == len(set(listed))


def test_a_model_is_retrieved(sdk: Sdk, relay: Relay) -> None:
    assert value(sdk(relay, "model"))["id"] == "claude-two"


def test_betas_arrive_verbatim(sdk: Sdk, relay: Relay, upstream: Upstream) -> None:
    upstream.route(TALK)
    value(sdk(relay, "betas"))
    sent = upstream.last().header("anthropic-beta")
    assert sent is not None and sent.replace(" ", "") == "context-1m-2025-08-07,unheard-of-2031-01-01"


@pytest.mark.parametrize(
    ("status", "kind", "exception"),
    [
        (400, "invalid_request_error", "BadRequestError"),
        (401, "authentication_error", "AuthenticationError"),
        (403, "permission_error", "PermissionDeniedError"),
        (404, "not_found_error", "NotFoundError"),
        (413, "request_too_large", "ContentTooLargeError"),
        (429, "rate_limit_error", "RateLimitError"),
        (500, "api_error", "InternalServerError"),
        (529, "overloaded_error", "OverloadedError"),
    ],
)
def test_errors_keep_their_meaning(sdk: Sdk, upstream: Upstream, status: int, kind: str, exception: str) -> None:
    headers = [("retry-after", "9")] if status == 429 else []
    upstream.route(answers.failure(status, kind, "told by the upstream", headers=headers))
    with Relay(config([provider("first", upstream.url)])) as relay:
        outcome = sdk(relay, "without_retries")
    assert (outcome["error"], outcome["status"]) == (exception, status)
    assert outcome["request_id"] == "req_upstream"
    assert outcome["body"]["error"] == {"type": kind, "message": "told by the upstream"}
    assert outcome["retry_after"] == ("9" if status == 429 else None)


def test_a_wrong_key_is_an_authentication_error_and_is_not_retried(sdk: Sdk, relay: Relay, upstream: Upstream) -> None:
    outcome = sdk(relay, "whole", key="wrong")
    assert (outcome["error"], outcome["status"]) == ("AuthenticationError", 401)
    assert upstream.stats()["connections"] == 0


def test_the_sdks_own_retries_reach_the_upstream(sdk: Sdk, relay: Relay, upstream: Upstream) -> None:
    overloaded = answers.failure(529, "overloaded_error")
    upstream.queue(overloaded, overloaded, TALK)
    assert value(sdk(relay, "whole"))["content"][0]["text"] == "".join(TEXT)
    counts = [seen.header("x-stainless-retry-count") for seen in upstream.requests()]
    assert counts == ["0", "1", "2"]


@pytest.mark.parametrize("how", ["clean", "close", "reset"])
def test_a_stream_without_its_end_is_an_exception_not_a_short_success(
    sdk: Sdk, relay: Relay, upstream: Upstream, how: str
) -> None:
    upstream.queue(answers.ended(answers.events([Text(TEXT)])[:4], how))
    outcome = sdk(relay, "streaming_without_retries")
    assert "error" in outcome, outcome
    assert outcome["error"] != "APIConnectionError", "it must have had an answer first"


def test_an_error_event_in_mid_stream_is_an_exception_with_its_type(sdk: Sdk, relay: Relay, upstream: Upstream) -> None:
    pieces = [*answers.events([Text(TEXT)])[:4], answers.error_event("overloaded_error", "Overloaded, alas")]
    upstream.queue(answers.ended(pieces, "clean"))
    outcome = sdk(relay, "streaming_without_retries")
    assert "Overloaded, alas" in json.dumps(outcome), outcome
