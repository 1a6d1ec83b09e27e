"""Real clients of both clouds: through the relay they get what the clouds' own clients get, and send what those send.

What differs is listed here, with its reason.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from tests.e2e import answers
from tests.e2e.answers import Answer, Block, Text, Thinking, ToolUse
from tests.e2e.azure_upstream import API_KEY, PREFIX
from tests.e2e.cloud_process import (
    AzureUpstream,
    CloudReceived,
    CloudUpstream,
    VertexUpstream,
    azure_entry,
    predict,
    vertex_entry,
)
from tests.e2e.cloud_samples import SIGNATURE, differing, sent_headers
from tests.e2e.raw_client import KEY
from tests.e2e.relay_process import Relay, config, environment
from tests.e2e.test_claude_code import PROGRAM, claude
from tests.e2e.upstream_process import COUNT_TOKENS, MESSAGES
from tests.e2e.vertex_upstream import COUNTING_REGION, PROJECT, REGION

PYTHON = os.environ.get("CCRELAY_SDK_PYTHON", sys.executable)
SCRIPT = Path(__file__).with_name("clients") / "cloud_calls.py"
SLOWEST = 60
MODEL = "claude-opus-5-5"
CLOUDS = ("vertex", "azure")

TOOL_USE: list[Block] = [Thinking(["I ", "look."], SIGNATURE), ToolUse("toolu_9", "look", {"at": "die T\u00fcr"})]
DOOR: list[Block] = [Text(["A door."])]


@dataclass(frozen=True)
class Cloud:
    """A stand-in, a relay in front of it, and what the cloud's own client is made with.

    environ: what sends Claude Code there by itself. paths: of messages streamed and whole, and of counts.
    """

    upstream: CloudUpstream
    relay: Relay
    own_kind: str
    own: dict[str, Any]
    environ: dict[str, str]
    paths: tuple[str, str, str]

    def answer_next(self, case: str) -> None:
        """Let the models answer the SDK's call of that name, once."""
        streamed, whole, count = self.paths
        if case == "count_tokens":
            self.upstream.queue(answers.as_json({"input_tokens": 815}), path=count)
        if case in ("streaming", "tool_use"):
            self.upstream.queue(answers.conversation(TOOL_USE), path=streamed)
        if case in ("whole", "betas", "tool_use"):
            self.upstream.queue(answers.conversation(DOOR), path=whole)


@pytest.fixture(scope="module")
def vertex(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    with VertexUpstream() as upstream:
        account = upstream.account_file(tmp_path_factory.mktemp("account"))
        own = {"account": str(account), "project_id": PROJECT, "region": REGION, "base_url": upstream.url + "/v1"}
        count = predict("count-tokens", "rawPredict", COUNTING_REGION)
        with Relay(config([vertex_entry(upstream, account)])) as relay:
            environ = {
                "CLAUDE_CODE_USE_VERTEX": "1",
                "CLAUDE_CODE_SKIP_VERTEX_AUTH": "1",
                "ANTHROPIC_VERTEX_BASE_URL": upstream.url + "/v1",
                "ANTHROPIC_VERTEX_PROJECT_ID": PROJECT,
                "CLOUD_ML_REGION": REGION,
            }
            yield Cloud(upstream, relay, "vertex", own, environ, (predict(MODEL), predict(MODEL, "rawPredict"), count))


@pytest.fixture(scope="module")
def azure() -> Iterator[Cloud]:
    with AzureUpstream() as upstream, Relay(config([azure_entry(upstream, "key")])) as relay:
        own = {"api_key": API_KEY, "base_url": upstream.url + PREFIX + "/"}
        environ = {
            "CLAUDE_CODE_USE_FOUNDRY": "1",
            "ANTHROPIC_FOUNDRY_BASE_URL": upstream.url + PREFIX,
            "ANTHROPIC_FOUNDRY_API_KEY": API_KEY,
        }
        yield Cloud(
            upstream, relay, "foundry", own, environ, (PREFIX + MESSAGES, PREFIX + MESSAGES, PREFIX + COUNT_TOKENS)
        )


@pytest.fixture(params=CLOUDS)
def cloud(request: pytest.FixtureRequest) -> Cloud:
    found: Cloud = request.getfixturevalue(request.param)
    found.upstream.fresh()
    return found


# -- the SDK


def missing() -> str | None:
    modules = "anthropic, google.auth, requests"
    done = subprocess.run([PYTHON, "-c", f"import {modules}"], capture_output=True)
    return f"{PYTHON} lacks one of {modules} (CCRELAY_SDK_PYTHON names another one)" if done.returncode else None


MISSING = missing()
needs_sdk = pytest.mark.skipif(MISSING is not None, reason=str(MISSING))

Sdk = Callable[[str, dict[str, Any], str], Any]
"""Make the call of that name with a client of that kind, made with these options; its value."""


@pytest.fixture(scope="module")
def sdk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sdk]:
    home = tmp_path_factory.mktemp("sdk")
    process = subprocess.Popen(
        [PYTHON, str(SCRIPT)],
        env=environment(home),
        cwd=home,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )

    def call(kind: str, options: dict[str, Any], case: str) -> Any:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps([kind, options, case]) + "\n")
        process.stdin.flush()
        outcome = json.loads(process.stdout.readline())
        assert "value" in outcome, outcome
        return outcome["value"]

    yield call
    process.communicate(timeout=SLOWEST)


HEADERS = {
    "user-agent": "the client names itself",
    "accept-encoding": "the relay reads answers, so it wants them as they are",
    "connection": "the relay's connections stay open without saying so",
}
HEADERS_OF = {
    "vertex": {
        **HEADERS,
        "authorization": "each has a token of its own, of the same account",
        "anthropic-version": "the plain client's; Google takes it beside the body's (protocols, 4.2)",
        "content-length": "the body's anthropic_version has another length",
    },
    "foundry": {**HEADERS, "api-key": "the same key once more, which the endpoint does not need"},
}
MEMBERS_OF = {
    "vertex": {"anthropic_version": ("2026-10-21", "vertex-2023-10-16")},  # Google takes both; old models the older one
    "foundry": {},
}


@needs_sdk
@pytest.mark.parametrize("case", ["streaming", "whole", "tool_use", "count_tokens", "betas"])
def test_the_relay_asks_as_the_clouds_own_client_does_and_says_what_it_is_told(
    cloud: Cloud, sdk: Sdk, case: str
) -> None:
    own = dict(cloud.own)
    if case == "count_tokens" and "region" in own:
        own["region"] = COUNTING_REGION
    told = []
    for kind, options in ((cloud.own_kind, own), ("anthropic", plain(cloud))):
        cloud.answer_next(case)
        told.append(sdk(kind, options, case))
    assert told[0] == told[1]
    calls = cloud.upstream.calls()
    assert [seen.refusal for seen in calls] == [None] * len(calls)
    half = len(calls) // 2
    for direct, relayed in zip(calls[:half], calls[half:], strict=True):
        assert (relayed.method, relayed.target) == (direct.method, direct.target)
        found = differing(sent_headers(direct), sent_headers(relayed))
        assert set(found) <= set(HEADERS_OF[cloud.own_kind]), found
        assert members_that_differ(cloud, direct, relayed) == MEMBERS_OF[cloud.own_kind]


def plain(cloud: Cloud) -> dict[str, Any]:
    return {"base_url": cloud.relay.url, "api_key": KEY}


def members_that_differ(cloud: Cloud, one: CloudReceived, other: CloudReceived) -> dict[str, tuple[Any, Any]]:
    first, second = cloud.upstream.body_of(one), cloud.upstream.body_of(other)
    return {
        name: (first.get(name), second.get(name))
        for name in {*first, *second}
        if first.get(name) != second.get(name) or (name in first) != (name in second)
    }


@needs_sdk
def test_a_tool_loop_with_thinking_keeps_its_signature(cloud: Cloud, sdk: Sdk) -> None:
    cloud.answer_next("tool_use")
    first, second = sdk("anthropic", plain(cloud), "tool_use")
    assert [block["type"] for block in first["content"]] == ["thinking", "tool_use"]
    assert first["content"][0]["signature"] == SIGNATURE
    assert second["content"][0]["text"] == "A door."
    history = cloud.upstream.body_of(cloud.upstream.calls()[1])["messages"]
    assert history[1]["content"][0]["signature"] == SIGNATURE
    assert history[2]["content"][0]["tool_use_id"] == "toolu_9"


# -- Claude Code

needs_claude_code = pytest.mark.skipif(not PROGRAM.exists(), reason=f"no Claude Code at {PROGRAM}")


@needs_claude_code
def test_claude_code_reads_a_file_and_answers(cloud: Cloud, tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    notes = work / "notes.txt"
    notes.write_text("the password is swordfish\n")
    asks: list[Block] = [Thinking(["Hm."], SIGNATURE), ToolUse("toolu_a", "Read", {"file_path": str(notes)})]
    path = cloud.paths[0]
    cloud.upstream.queue(answers.conversation(asks), answers.conversation([Text(["It is swordfish."])]), path=path)
    result = claude(cloud.relay, tmp_path, "what is it?", "--allowedTools", "Read", "--model", MODEL)
    assert (result["result"], result["num_turns"], result["is_error"]) == ("It is swordfish.", 2, False), result
    assert result["usage"]["cache_read_input_tokens"] == 2 * answers.INPUT_USAGE["cache_read_input_tokens"]
    seen = cloud.upstream.calls()
    assert [one.refusal for one in seen] == [None, None]
    assert "swordfish" in json.dumps(cloud.upstream.body_of(seen[1])["messages"])


CLAUDE_CODE_HEADERS = {
    **HEADERS,
    "x-claude-code-session-id": "each run is a session",
    "content-length": "the working directories' names and the system prompts differ",
    "x-api-key": "the key of the relay is not passed on",
    "authorization": "without authentication of its own, Claude Code sends no token to Vertex",
    "anthropic-beta": "compared by itself",
}
CLAUDE_CODE_MEMBERS = {
    "system": "says whose agent it is, and how it was started",
    "messages": "name the working directory",
    "metadata": "names the session and the installation",
}
ONLY_BY_ITSELF = {"web-search-2025-03-05"}
"""Betas that Claude Code sends to clouds alone: nothing says that the relay's client would want it."""


def unchecked(answer: Answer) -> Answer:
    """An answer that is given before the stand-in's check, for a client without credentials."""
    return replace(answer, steps=(["body"], *answer.steps), unstreamed=None, before_body=True)


@needs_claude_code
def test_the_relay_asks_as_claude_code_itself_does_of_a_cloud(cloud: Cloud, tmp_path: Path) -> None:
    answer = answers.conversation([Text(["Yes."])])
    for name, environ in (("itself", cloud.environ), ("relayed", {})):
        folder = tmp_path / name
        folder.mkdir()
        cloud.upstream.queue(unchecked(answer) if environ else answer, path=cloud.paths[0])
        result = claude(cloud.relay, folder, "is it?", "--model", MODEL, **environ)
        assert (result["result"], result["is_error"]) == ("Yes.", False), result
    itself, relayed = cloud.upstream.calls()
    assert (relayed.refusal, relayed.target) == (None, itself.target)
    found = differing(sent_headers(itself), sent_headers(relayed))
    assert set(found) <= set(CLAUDE_CODE_HEADERS), found
    betas = [set((one.header("anthropic-beta") or "").split(",")) for one in (itself, relayed)]
    assert betas[0] - betas[1] <= ONLY_BY_ITSELF
    assert betas[1] - betas[0] == set()
    assert set(members_that_differ(cloud, itself, relayed)) <= set(CLAUDE_CODE_MEMBERS)
