"""Real clients: what they get of Bedrock through the relay, and how what it sends differs from the official client's.

The official client for Bedrock is sent to the same stand-in; the differences are listed here, each with its reason.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

pytest.importorskip("botocore.auth")

from tests.e2e import answers, bedrock_answers
from tests.e2e.answers import Block, Text, Thinking, ToolUse
from tests.e2e.bedrock_answers import broken_by
from tests.e2e.bedrock_process import BedrockUpstream, keyed, target
from tests.e2e.bedrock_upstream import ACCESS_KEY, API_KEY, REGION, SECRET_KEY, SESSION_TOKEN
from tests.e2e.raw_client import KEY
from tests.e2e.relay_process import Relay, config, environment
from tests.e2e.test_claude_code import PROGRAM, claude
from tests.e2e.upstream_process import MESSAGES, Received

PYTHON = os.environ.get("CCRELAY_SDK_PYTHON", sys.executable)
SCRIPT = Path(__file__).with_name("clients") / "bedrock_calls.py"
SLOWEST = 60
MODEL = "us.anthropic.claude-sonnet-4-5-20250929-v1:0"
SIGNATURE = "RXJjQkNrZ0lCeEFCR0FJaVFM" * 20
TOOL_USE: list[Block] = [
    Thinking(["I should ", "look."], SIGNATURE),
    Text(["Looking."]),
    ToolUse("toolu_9", "look", {"at": "die T\u00fcr"}),
]
DOOR: list[Block] = [Text(["A door."])]
SIGNED = {
    "aws_access_key": ACCESS_KEY,
    "aws_secret_key": SECRET_KEY,
    "aws_session_token": SESSION_TOKEN,
    "aws_region": REGION,
}
Sdk = Callable[..., Any]
"""Make the call of that name with a client of that kind and these options; the value that came of it."""


@functools.cache
def runs(statement: str) -> bool:
    """Whether the SDK's Python can do that."""
    return subprocess.run([PYTHON, "-c", statement], capture_output=True).returncode == 0


needs_sdk = pytest.mark.skipif(
    not runs("import anthropic.lib.bedrock"), reason=f"{PYTHON} has no anthropic package (CCRELAY_SDK_PYTHON names one)"
)
needs_program = pytest.mark.skipif(not PROGRAM.exists(), reason=f"no Claude Code at {PROGRAM}")


@pytest.fixture(scope="module")
def sdk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sdk]:
    home = tmp_path_factory.mktemp("sdk")
    process = subprocess.Popen(
        [PYTHON, str(SCRIPT)], env=environment(home), cwd=home, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )

    def call(case: str, kind: str = "Anthropic", **options: Any) -> Any:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps([kind, options, case]) + "\n")
        process.stdin.flush()
        outcome: dict[str, Any] = json.loads(process.stdout.readline())
        assert "value" in outcome, outcome
        return outcome["value"]

    yield call
    process.communicate(timeout=SLOWEST)


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
    with Relay(config([keyed("aws", process.url)])) as started:
        yield started


@pytest.fixture(scope="module")
def mantle(process: BedrockUpstream) -> Iterator[Relay]:
    with Relay(config([keyed("mantle", process.url, bedrock_api="mantle")])) as started:
        yield started


def answering(bedrock: BedrockUpstream, *paths: str) -> None:
    """A tool use for whoever streams, a door for all others; at every spelling of a path."""
    for path in paths:
        streams = path.endswith("-stream")
        bedrock.route(bedrock_answers.conversation(TOOL_USE) if streams else bedrock_answers.whole(DOOR), path=path)


# ---------------------------------------------------------------- the SDK


@needs_sdk
def test_the_sdk_streams_and_loops_over_tools(sdk: Sdk, relay: Relay, bedrock: BedrockUpstream) -> None:
    answering(bedrock, target(model=MODEL), target("invoke", MODEL))

    first, second = sdk("tool_use", base_url=relay.url, api_key=KEY)

    thinking, text, tool = first["content"]
    assert (thinking["thinking"], thinking["signature"]) == ("I should look.", SIGNATURE)
    assert (text["text"], tool["input"], first["stop_reason"]) == ("Looking.", {"at": "die T\u00fcr"}, "tool_use")
    assert first["usage"]["output_tokens"] == answers.OUTPUT_TOKENS
    assert first["usage"]["cache_read_input_tokens"] == answers.INPUT_USAGE["cache_read_input_tokens"]
    assert second["content"][0]["text"] == "A door."
    history = json.loads(bedrock.body(1))["messages"]
    assert history[1]["content"][0]["signature"] == SIGNATURE
    assert bedrock.refusals() == [None, None]


@needs_sdk
def test_the_sdk_counts(sdk: Sdk, relay: Relay, bedrock: BedrockUpstream) -> None:
    bedrock.queue(bedrock_answers.counted(815), path=target("count-tokens", MODEL.removeprefix("us.")))

    assert sdk("count_tokens", base_url=relay.url, api_key=KEY) == 815


@needs_sdk
def test_the_sdk_talks_to_mantle(sdk: Sdk, mantle: Relay, bedrock: BedrockUpstream) -> None:
    bedrock.queue(answers.conversation(TOOL_USE), answers.conversation(DOOR))

    first, second = sdk("tool_use", base_url=mantle.url, api_key=KEY)

    assert (first["content"][2]["name"], second["content"][0]["text"]) == ("look", "A door.")
    assert bedrock.refusals() == [None, None]


# ---------------------------------------------------------------- beside the official client

OTHER_HEADERS = {
    "accept": "theirs is application/json for streams too; botocore asks for the event stream by its name, as we do",
    "accept-encoding": "ours is identity: what is not compressed passes on as it comes",
    "anthropic-beta": "in the body only: what also stood in a header would come in behind the filter of betas",
    "connection": "HTTP/1.1 keeps connections without being asked to",
    "content-length": "the versions have different lengths",
    "user-agent": "not sent: it tells AWS nothing about the client that it needs",
    "x-amz-content-sha256": "ours only: AWS's own SDKs send it",
    "x-stainless-*": "a client's own, of no use to AWS",
}
SIGNATURES = {"authorization": "of other headers, in another second", "x-amz-date": "of another second"}
OTHER_MEMBERS = {
    "anthropic_version": ("bedrock-2023-05-31", "the only one that AWS documents; the SDK sends a newer one")
}


def header_names(seen: Received) -> set[str]:
    names = {line.partition(":")[0].lower() for line in seen.headers}
    return {"x-stainless-*" if name.startswith("x-stainless-") else name for name in names}


def differing(ours: Received, theirs: Received) -> set[str]:
    """The names of headers that not both sent, or not with the same value."""
    both = header_names(ours) & header_names(theirs)
    return header_names(ours) ^ header_names(theirs) | {name for name in both if ours.all(name) != theirs.all(name)}


@needs_sdk
@pytest.mark.parametrize(
    ("case", "operation"),
    [("streaming", "invoke-with-response-stream"), ("whole", "invoke"), ("with_betas", "invoke")],
)
@pytest.mark.parametrize("own", ["signed", "keyed"])
def test_what_is_sent_is_what_the_official_client_sends_but_for_what_is_listed(
    sdk: Sdk, relay: Relay, bedrock: BedrockUpstream, case: str, operation: str, own: str
) -> None:
    if own == "signed" and not runs("import boto3"):
        pytest.skip(f"{PYTHON} has no boto3, which the official client signs with")
    knows = "import botocore.session as it; it.Session().get_service_model('bedrock-runtime')"
    if case == "streaming" and not runs(knows):
        pytest.skip(f"{PYTHON}'s botocore does not know Bedrock, whose streams the official client reads by it")
    options = SIGNED if own == "signed" else {"api_key": API_KEY, "aws_region": REGION}
    path = target(operation, MODEL)
    answering(bedrock, path, path.replace("%3A", ":"))

    got = sdk(case, base_url=relay.url, api_key=KEY)
    expected = sdk(case, "AnthropicBedrock", base_url=bedrock.url, **options)

    assert (got, bedrock.refusals()) == (expected, [None, None])
    ours, theirs = bedrock.requests()
    assert (ours.method, unquote(ours.target)) == (
        theirs.method,
        unquote(theirs.target),
    )  # they leave colons as they are
    of_the_credential = {*SIGNATURES, *(["x-amz-security-token"] if own == "keyed" else [])}
    assert differing(ours, theirs) - of_the_credential <= set(OTHER_HEADERS)
    sent, meant = (json.loads(bedrock.body(seen.index)) for seen in (ours, theirs))
    assert list(sent) == list(meant)
    unequal = {name: sent[name] for name in sent if sent[name] != meant[name]}
    assert unequal.items() <= {name: value for name, (value, _) in OTHER_MEMBERS.items()}.items()


# ---------------------------------------------------------------- Claude Code


@needs_program
def test_claude_code_loops_over_a_tool(relay: Relay, bedrock: BedrockUpstream, tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    (work / "notes.txt").write_text("the password is swordfish\n")
    reads = ToolUse("toolu_a", "Read", {"file_path": str(work / "notes.txt")})
    bedrock.queue(
        bedrock_answers.conversation([Thinking(["Hm."], SIGNATURE), Text(["I'll read them."]), reads]),
        bedrock_answers.conversation([Text(["It is swordfish."])]),
        path=target(),
    )

    result = claude(relay, tmp_path, "what is the password?", "--allowedTools", "Read", "--model", "claude-opus-5-5")

    assert (result["result"], result["is_error"]) == ("It is swordfish.", False), result
    assert bedrock.refusals() == [None, None]
    first, second = (json.loads(bedrock.body(seen.index)) for seen in bedrock.requests())
    assert set(first["anthropic_beta"]) <= {
        "interleaved-thinking-2025-05-14",
        "thinking-token-count-2026-05-13",
        "tool-search-tool-2025-10-19",
        "effort-2025-11-24",
    }
    assert not {"model", "stream", "context_management"} & set(first)
    assert "swordfish" in json.dumps(second["messages"]) and SIGNATURE in json.dumps(second["messages"])


@needs_program
def test_claude_code_asks_again_after_an_exception_in_mid_stream(
    relay: Relay, bedrock: BedrockUpstream, tmp_path: Path
) -> None:
    bedrock.queue(broken_by("modelStreamErrorException", [Text(["This is only ", "half"])], 3), path=target())
    whole = [Text(["This is the whole."])]
    bedrock.route(bedrock_answers.conversation(whole), path=target())
    bedrock.route(bedrock_answers.whole(whole), path=target("invoke"))

    result = claude(relay, tmp_path, "go on", "--model", "claude-opus-5-5")

    assert (result["result"], result["is_error"]) == ("This is the whole.", False), result
    assert len(bedrock.requests()) == 2


@needs_program
def test_claude_code_talks_to_mantle(mantle: Relay, bedrock: BedrockUpstream, tmp_path: Path) -> None:
    bedrock.queue(answers.conversation([Text(["The answer."])]))

    result = claude(mantle, tmp_path, "what is it?", "--model", "claude-opus-5-5")

    assert (result["result"], result["is_error"]) == ("The answer.", False), result
    (seen,) = bedrock.requests()
    assert seen.target.partition("?")[0] == MESSAGES and bedrock.refusals() == [None]
