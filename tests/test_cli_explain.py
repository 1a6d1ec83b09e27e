"""What ``cc-relay explain`` says is what the relay sends: compared with what a scripted upstream was really sent."""

from __future__ import annotations

import io
import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest

from ccrelay.cli import main
from ccrelay.cli.rehearsal import Rehearsal, rehearse
from ccrelay.core.model import AwsKeys, Call, CallKind, HeaderCredential, Headers, Principal
from ccrelay.core.request_body import RequestBody
from ccrelay.core.secret import Secret
from ccrelay.core.settings import AwsSettings, Settings
from ccrelay.credentials.static import StaticCredentials

from .config_loading import settings_of
from .scenarios import DOOR, Scene, Scripted, error, upstream

HEADERS: Headers = (
    (b"content-type", b"application/json"),
    (b"anthropic-version", b"2023-06-01"),
    (b"anthropic-beta", b"context-management-2025-06-27,interleaved-thinking-2025-05-14"),
    (b"x-stainless-retry-count", b"0"),
)
BODY = json.dumps(
    {
        "model": "claude-sonnet-4-5",
        "messages": [{"role": "user", "content": "Hé"}],
        "max_tokens": 10,
        "context_management": {"edits": []},
        "stream": True,
    },
    ensure_ascii=False,
).encode()
AWS_KEYS = AwsKeys(Secret("AKIAPLANTED"), Secret("planted-secret-key"), None)
AWS = AwsSettings("us-east-1", AWS_KEYS.access_key_id, AWS_KEYS.secret_access_key, None, None, None, "invoke")
GOOGLE = HeaderCredential(((b"authorization", Secret("Bearer planted-google-token")),))


REFUSED = error(400, "invalid_request_error")
"""Ends a call with its first request, whoever is asked."""


UPSTREAMS = {
    "anthropic": upstream("up", REFUSED, keys=("planted-key",)),
    "zai": upstream("up", REFUSED, type="zai", keys=("planted-key",), model_mapping={"claude-sonnet-*": "glm-5.3"}),
    "bedrock": upstream("up", REFUSED, type="bedrock", aws=AWS, credentials=lambda _: StaticCredentials(AWS_KEYS)),
    "vertex": upstream("up", REFUSED, type="vertex", credentials=lambda _: StaticCredentials(GOOGLE)),
}


def settings_for(scripted: Scripted) -> Settings:
    base = settings_of("providers: [{name: up, type: simulator}]")
    fetched = scripted.credentials is not StaticCredentials  # a cloud's: the scene needs a key to hang them on
    return replace(base, providers=(replace(scripted.settings, keys=()) if fetched else scripted.settings,))


def rehearsed(settings: Settings, body: bytes = BODY, headers: Headers = HEADERS) -> Rehearsal:
    upload = RequestBody(len(body), 0)
    upload.receive_data(body)
    upload.receive_eof()
    principal = Principal("open", "-", b"", own_credential_only=False)
    call = Call("id", CallKind.MESSAGES, principal, b"beta=true", headers, None, None, "-", upload)
    return rehearse(settings, call, {}, Random(1))


def comparable(name: str, value: str) -> str:
    """A header's value without what differs from one attempt to the next, or is a secret."""
    if name == "x-amz-date":
        return "DATE"
    value = re.sub(r"Credential=[^/]+/\d+/", "Credential=ID/DAY/", value)
    value = re.sub(r"Signature=\S+", "Signature=S", value)
    return re.sub(r"planted-[a-z-]+|<[^>]+>", "SECRET", value)


@pytest.mark.parametrize("type_", UPSTREAMS)
def test_the_request_is_the_one_that_the_upstream_gets(type_: str) -> None:
    scripted = UPSTREAMS[type_]
    with Scene(scripted) as scene:
        scene.call(BODY, headers=(*DOOR, *HEADERS))
    [really] = scene.requests

    first = rehearsed(settings_for(scripted)).first

    assert first is not None
    assert (first.url, first.body) == (really.url, really.body)
    lines = [line.split(": ", 1) for line in first.head.decode("latin-1").split("\r\n")[1:] if line]
    told = [(name.lower(), comparable(name.lower(), value)) for name, value in lines]
    sent = [(n.decode(), comparable(n.decode(), v.decode("latin-1"))) for n, v in really.headers]
    ours = {"host", "accept-encoding", "content-length", "x-test-call"}  # the last: the scene's own
    assert [line for line in told if line[0] not in ours] == [line for line in sent if line[0] not in ours]
    assert dict(told)["content-length"] == str(len(really.body))


@pytest.mark.parametrize("type_", UPSTREAMS)
def test_the_edits_make_the_body_that_is_sent(type_: str) -> None:
    first = rehearsed(settings_for(UPSTREAMS[type_])).first

    assert first is not None
    body = BODY
    for edit, replaced in reversed([*zip(first.edits, first.replaced, strict=True)]):
        assert body[edit.start : edit.end] == replaced
        body = body[: edit.start] + edit.replacement + body[edit.end :]
    assert body == first.body


# -- the command

CONFIG = """\
server:
  listen: "127.0.0.1:8787"
  auth: {api_key: planted-door-key, allow_subscription: true}
providers:
  - {name: first, type: anthropic, keys: [{key: planted-one}, {key: planted-two}], priority: 2}
  - {name: local, type: ollama, priority: 1, context_window: 1000}
  - {name: last, type: zai, keys: [{key: planted-three}], model_mapping: {"claude-*": glm-5.3}}
  - {name: demo, type: simulator}
"""


@pytest.fixture
def explain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Run it with CONFIG: exit status, output, complaint."""
    path = tmp_path / "relay.yaml"
    path.write_text(CONFIG)

    def run(*arguments: str, body: bytes = BODY) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(body)))
        status = main(["explain", "--config", str(path), *arguments])
        printed = capsys.readouterr()
        assert "planted" not in printed.out + printed.err
        return status, printed.out, printed.err

    return run


def test_every_candidate_is_named_with_its_fate_and_the_order_of_attempts(explain: Any) -> None:
    status, out, _ = explain("--json")

    told = json.loads(out)
    assert status == 0
    assert {c["provider"]: (c["fate"], c["reason"]) for c in told["candidates"]} == {
        "first": ("asked", None),
        "local": ("asked", None),
        "last": ("asked", None),
        "demo": ("dropped", "only answers while no other provider could be asked"),
    }
    assert [(a["provider"], a["model"]) for a in told["attempts"]] == [
        ("first", "claude-sonnet-4-5"),
        ("local", "claude-sonnet-4-5"),
        ("last", "glm-5.3"),
    ]


def test_a_candidate_that_cannot_hold_the_call_is_dropped_with_the_reason(explain: Any) -> None:
    long = json.dumps({"model": "claude-sonnet-4-5", "messages": [{"role": "user", "content": "word " * 9000}]})

    _, out, _ = explain("--json", body=long.encode())

    local = next(c for c in json.loads(out)["candidates"] if c["provider"] == "local")
    assert local["fate"] == "dropped"
    assert "1000" in local["reason"]


def test_what_the_attempts_do_not_reach_is_said(explain: Any, tmp_path: Path) -> None:
    (tmp_path / "relay.yaml").write_text(CONFIG + "routing: {max_attempts: 1}\n")

    _, out, _ = explain("--json")

    fates = {c["provider"]: c["fate"] for c in json.loads(out)["candidates"]}
    assert (fates["first"], fates["local"], fates["last"]) == ("asked", "not reached", "not reached")


def test_a_clients_own_credential_is_shown_as_a_placeholder(explain: Any) -> None:
    _, out, _ = explain("--header", "Authorization: Bearer sk-ant-planted-own")

    assert re.search(r"Authorization: Bearer <the client's own [0-9a-f]{8}>", out)


def test_the_text_shows_the_request_line_headers_and_edits(explain: Any, tmp_path: Path) -> None:
    (tmp_path / "relay.yaml").write_text(CONFIG.replace("priority: 2", "priority: 0, enabled: false"))
    _, out, _ = explain("--header", "anthropic-version: 2023-06-01", "--session", "s-1", "--path", "/v1/messages?x=y")

    assert "  URL: http://localhost:11434/v1/messages?x=y" in out
    assert "  Anthropic-Version: 2023-06-01" in out
    assert "  X-Claude-Code-Session-Id: s-1" in out
    assert "byte for byte" in out


def test_a_body_that_cannot_be_routed_is_told_as_the_client_would_be(explain: Any) -> None:
    status, out, _ = explain(body=b'{"messages": []}')

    assert status == 1
    assert "400: " in out
    assert "model" in out


def test_a_stranger_is_refused_as_by_the_relay(explain: Any, tmp_path: Path) -> None:
    (tmp_path / "relay.yaml").write_text(CONFIG.replace(", allow_subscription: true", ""))

    status, out, err = explain("--header", "x-api-key: wrong")

    assert (status, out) == (1, "")
    assert "401 authentication_error" in err


def test_nothing_of_the_body_reaches_the_terminal_as_a_command(explain: Any) -> None:
    _, out, _ = explain(body=json.dumps({"model": "\x1b[31mclaude", "messages": []}, ensure_ascii=True).encode())

    assert "\x1b" not in out
    assert "\\x1b[31mclaude" in out
