"""Claude Code itself, working through the relay. ``tools/install_claude_code.sh`` installs the version meant here."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.e2e import answers
from tests.e2e.answers import Text, ToolUse
from tests.e2e.raw_client import KEY
from tests.e2e.relay_process import ROOT, UPSTREAM_KEY, Relay, environment
from tests.e2e.upstream_process import MESSAGES, Received, Upstream

PROGRAM = Path(os.environ.get("CCRELAY_CLAUDE_CODE", ROOT / ".cache" / "claude-code" / "claude"))
PATIENCE = 90

pytestmark = pytest.mark.skipif(
    not PROGRAM.exists(),
    reason=f"no Claude Code at {PROGRAM}: run tools/install_claude_code.sh or set CCRELAY_CLAUDE_CODE",
)


def claude(relay: Relay, folder: Path, prompt: str, *arguments: str, **environ: str) -> dict[str, Any]:
    """Run ``claude -p`` in ``folder`` with nothing of this machine's environment. Returns the result it prints."""
    home = folder / "home"
    work = folder / "work"
    home.mkdir(exist_ok=True)
    work.mkdir(exist_ok=True)
    quiet = {"CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1", "DISABLE_AUTOUPDATER": "1", "DISABLE_TELEMETRY": "1"}
    done = subprocess.run(
        [str(PROGRAM), "-p", prompt, "--output-format", "json", *arguments],
        env=environment(home, ANTHROPIC_BASE_URL=relay.url, ANTHROPIC_API_KEY=KEY, **quiet, **environ),
        cwd=work,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    try:
        result: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        raise AssertionError(f"exit {done.returncode}\n{done.stdout}\n{done.stderr}") from None
    return result


def asked(upstream: Upstream, seen: Received) -> Any:
    return json.loads(upstream.body(seen.index))


def test_a_plain_answer_with_nothing_said_to_anybody_else(relay: Relay, upstream: Upstream, tmp_path: Path) -> None:
    upstream.queue(answers.conversation([Text(["The answer", " is ", "forty-two."])]))
    with Upstream() as trap:  # a proxy for everything that is not loopback
        result = claude(relay, tmp_path, "what is it?", HTTPS_PROXY=trap.url, HTTP_PROXY=trap.url, NO_PROXY="127.0.0.1")
        assert trap.stats()["connections"] == 0
    assert (result["result"], result["is_error"]) == ("The answer is forty-two.", False), result
    assert result["usage"]["output_tokens"] == answers.OUTPUT_TOKENS
    (seen,) = upstream.requests()
    assert (seen.method, seen.target) == ("POST", MESSAGES + "?beta=true")
    assert seen.header("x-api-key") == UPSTREAM_KEY.format(name="first")
    assert KEY not in "\n".join(seen.headers)
    betas = seen.header("anthropic-beta")
    assert betas is not None and betas.startswith("claude-code-20250219,")
    assert seen.header("x-claude-code-session-id") == result["session_id"]
    body = asked(upstream, seen)
    assert next(iter(body)) == "model" and body["stream"] is True
    assert relay.access_lines()[-1]["session"] == result["session_id"]


def test_a_tool_loop_of_three_turns(relay: Relay, upstream: Upstream, tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    notes = work / "notes.txt"
    notes.write_text("the password is swordfish\n")
    upstream.queue(
        answers.conversation([Text(["I'll read them."]), ToolUse("toolu_a", "Read", {"file_path": str(notes)})]),
        answers.conversation([ToolUse("toolu_b", "Bash", {"command": "wc -c notes.txt", "description": "Count"})]),
        answers.conversation([Text(["It is swordfish."])]),
    )
    result = claude(relay, tmp_path, "what is the password?", "--allowedTools", "Read,Bash")
    assert (result["result"], result["num_turns"], result["is_error"]) == ("It is swordfish.", 3, False), result
    requests = upstream.requests()
    assert len(requests) == 3
    assert len({seen.connection for seen in requests}) == 1
    history = asked(upstream, requests[-1])["messages"]
    results = [
        (block["tool_use_id"], json.dumps(block["content"]))
        for message in history
        if isinstance(message["content"], list)
        for block in message["content"]
        if block["type"] == "tool_result"
    ]
    assert [name for name, _ in results] == ["toolu_a", "toolu_b"]
    assert "swordfish" in results[0][1] and "26 notes.txt" in results[1][1]
    assert [line["outcome"] for line in relay.access_lines()[-3:]] == ["answered"] * 3


def test_a_400_that_it_repairs_itself(relay: Relay, upstream: Upstream, tmp_path: Path) -> None:
    text = "context_management: Extra inputs are not permitted"
    upstream.queue(
        answers.failure(400, "invalid_request_error", text), answers.conversation([Text(["Done without it."])])
    )
    result = claude(relay, tmp_path, "go on")
    assert (result["result"], result["is_error"]) == ("Done without it.", False), result
    first, second = upstream.requests()
    assert "context_management" in asked(upstream, first)
    assert "context_management" not in asked(upstream, second)


def test_a_cut_stream_that_it_asks_for_again(relay: Relay, upstream: Upstream, tmp_path: Path) -> None:
    half = answers.events([Text(["This is only ", "half"])])[:4]
    upstream.queue(answers.ended(half, "clean"), answers.conversation([Text(["This is the whole."])]))
    result = claude(relay, tmp_path, "go on")
    assert (result["result"], result["is_error"]) == ("This is the whole.", False), result
    bodies = [asked(upstream, seen) for seen in upstream.requests()]
    assert [body["stream"] for body in bodies] == [True, True]
    assert bodies[0]["messages"] == bodies[1]["messages"]
    assert [line["outcome"] for line in relay.access_lines()[-2:]] == ["truncated", "answered"]


def test_an_overload_that_it_waits_out(relay: Relay, upstream: Upstream, tmp_path: Path) -> None:
    upstream.queue(answers.failure(529, "overloaded_error"), answers.conversation([Text(["Here now."])]))
    result = claude(relay, tmp_path, "go on")
    assert (result["result"], result["is_error"]) == ("Here now.", False), result
    first, second = upstream.requests()
    assert first.sha256 == second.sha256
