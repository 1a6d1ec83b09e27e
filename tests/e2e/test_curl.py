"""curl, as people try things out with it."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from typing import IO

import pytest

from tests.e2e import answers
from tests.e2e.answers import Text
from tests.e2e.raw_client import KEY, body_for
from tests.e2e.relay_process import Relay, environment
from tests.e2e.upstream_process import Upstream

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")

EVENTS = answers.events([Text(["one", "two"])])
CUT_SHORT = {18, 56}
"""curl's words for an answer that ended too early and for a connection that was reset."""


def curl(relay: Relay, *arguments: str) -> subprocess.Popen[bytes]:
    key = f"x-api-key: {KEY}"
    command = ["curl", "-sS", "--max-time", "30", "-H", key, "-H", "content-type: application/json", *arguments]
    return subprocess.Popen(
        command, env=environment(relay.home), cwd=relay.home, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def finished(process: subprocess.Popen[bytes]) -> tuple[int, bytes]:
    out, err = process.communicate(timeout=40)
    return process.returncode, out + err if process.returncode == 2 else out


def read_to(stream: IO[bytes] | None, mark: bytes) -> bytes:
    assert stream is not None
    got = b""
    while not got.endswith(mark):
        byte = stream.read(1)
        assert byte, got
        got += byte
    return got


def test_a_stream_appears_event_by_event(relay: Relay, upstream: Upstream) -> None:
    upstream.queue(answers.held(EVENTS[:3], "rest", EVENTS[3:]))
    process = curl(relay, "-N", relay.url + "/v1/messages", "-d", body_for().decode())
    got = read_to(process.stdout, EVENTS[2])
    upstream.until(gates=["rest"])
    upstream.release("rest")
    code, rest = finished(process)
    assert (code, got + rest) == (0, b"".join(EVENTS))


def test_a_cut_stream_is_an_error(relay: Relay, upstream: Upstream) -> None:
    upstream.queue(answers.ended(EVENTS[:3], "clean"))
    code, got = finished(curl(relay, "-N", relay.url + "/v1/messages", "-d", body_for().decode()))
    assert code in CUT_SHORT
    assert got == b"".join(EVENTS[:3])


def test_a_large_body_for_which_curl_awaits_a_continue(relay: Relay, upstream: Upstream) -> None:
    body = body_for(padding="x" * 3_000_000)
    (relay.home / "body").write_bytes(body)
    upstream.queue(answers.conversation([Text(["ok"])]))
    arguments = ["-H", "Expect: 100-continue", "--expect100-timeout", "20", "--data-binary", "@body"]
    code, _ = finished(curl(relay, relay.url + "/v1/messages", *arguments))
    assert code == 0
    assert upstream.last().sha256 == hashlib.sha256(body).hexdigest()


def test_a_body_that_is_too_large_is_refused_before_it_is_sent(relay: Relay, upstream: Upstream) -> None:
    (relay.home / "huge").write_bytes(b"x" * 40_000_000)
    arguments = ["-H", "Expect: 100-continue", "--expect100-timeout", "20", "--data-binary", "@huge"]
    code, out = finished(curl(relay, relay.url + "/v1/messages", "-w", "\n%{size_upload}", *arguments))
    text, _, sent = out.rpartition(b"\n")
    assert (code, int(sent)) == (0, 0)
    assert json.loads(text)["error"]["type"] == "request_too_large"
    assert upstream.stats()["connections"] == 0


def test_health_with_curl_dash_f(relay: Relay) -> None:
    code, out = finished(curl(relay, "-f", relay.url + "/health"))
    assert (code, json.loads(out)) == (0, {"status": "ok"})
