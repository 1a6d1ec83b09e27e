"""What ``cc-relay doctor`` finds: against servers on loopback that break the contract one way at a time."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from ccrelay.cli import main
from ccrelay.cli.doctor_checks import SUSPICIOUS_BODY, judge_models, judge_stream
from ccrelay.cli.doctor_http import Arrival, Reply
from ccrelay.core.model import Head

SSE = (
    b'event: message_start\ndata: {}\n\nevent: ping\ndata: {}\n\nevent: message_stop\ndata: {"type":"message_stop"}\n\n'
)
STREAMED = Head(200, ((b"content-type", b"text/event-stream"),))


class Server:
    """A Messages API that costs. answers: by method and path, in place of its own. seen: what it was asked."""

    def __init__(self) -> None:
        self.answers: dict[str, tuple[int, str, bytes]] = {
            "HEAD /api/hello": (200, "text/plain", b""),
            "HEAD /": (404, "text/plain", b""),
            "GET /v1/models": (200, "application/json", b'{"data": [{"id": "claude-x"}]}'),
            "GET /v1/providers": (200, "application/json", b'{"data": [{"type": "anthropic"}]}'),
            "POST /v1/messages/count_tokens": (200, "application/json", b'{"input_tokens": 9}'),
            "POST /v1/messages": (
                400,
                "application/json",
                b'{"type":"error","error":{"message":"model: Field required"}}',
            ),
        }
        self.seen: list[tuple[str, dict[str, str], bytes]] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                what = f"{self.command} {self.path.partition('?')[0]}"
                server.seen.append((what, {k.lower(): v for k, v in self.headers.items()}, body))
                status, kind, data = server.answers.get(what, (404, "text/html", b"<html>"))
                if what == "POST /v1/messages" and b'"model"' in body:
                    status, kind, data = (200, "text/event-stream", SSE)
                self.send_response(status)
                self.send_header("content-type", kind)
                self.send_header("content-length", str(len(data)))
                if status in (301, 308):
                    self.send_header("location", "https://elsewhere.example/")
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(data)

            do_GET = do_POST = do_HEAD = answer  # noqa: N815

            def log_message(self, *_: object) -> None:
                """Quiet."""

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,))
        self._thread.start()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    @property
    def spent(self) -> list[bytes]:
        """Bodies of calls that a real provider would answer at a cost."""
        return [body for what, _, body in self.seen if what == "POST /v1/messages" and b'"model"' in body]


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.close()


@pytest.fixture
def doctor(capsys: pytest.CaptureFixture[str]) -> Any:
    """Run it: exit status, and the verdict and text of each check by ``where check``."""

    def run(*arguments: str) -> tuple[int, dict[str, tuple[str, str]]]:
        status = main(["doctor", *arguments])
        out = capsys.readouterr().out
        assert "\x1b" not in out
        found = {}
        for line in out.splitlines():
            verdict, _, rest = line.partition(" ")
            where, check, text = rest.strip().split(": ", 2)
            found[check] = (verdict, f"{where} {text}")
        return status, found

    return run


def verdicts(found: dict[str, tuple[str, str]]) -> dict[str, str]:
    return {check: verdict for check, (verdict, _) in found.items()}


def test_an_address_that_keeps_the_contract_is_well(server: Server, doctor: Any) -> None:
    status, found = doctor("--url", server.url, "--token", "sesame")

    assert status == 0
    assert verdicts(found) == {
        "hello": "ok",
        "models": "ok",
        "count_tokens": "ok",
        "large body": "ok",
        "stream": "skip",
    }
    assert {h.get("authorization") for w, h, _ in server.seen if w.startswith("POST")} == {"Bearer sesame"}
    assert server.spent == []


def test_only_spend_makes_a_call_and_a_short_one(server: Server, doctor: Any) -> None:
    status, found = doctor("--url", server.url, "--spend")

    assert (status, found["stream"][0]) == (0, "ok")
    [call] = server.spent
    assert json.loads(call)["max_tokens"] <= 100
    assert json.loads(call)["model"] == "claude-x"


def test_a_simulator_is_streamed_from_as_it_costs_nothing(server: Server, doctor: Any) -> None:
    server.answers["GET /v1/providers"] = (200, "application/json", b'{"data": [{"type": "simulator"}]}')

    _, found = doctor("--url", server.url)

    assert found["stream"][0] == "ok"


@pytest.mark.parametrize(
    ("request_", "answer", "check", "verdict", "told"),
    [
        ("HEAD /api/hello", (308, "text/html", b""), "hello", "fail", "https://elsewhere.example/"),
        ("HEAD /api/hello", (404, "text/html", b""), "hello", "warn", "is it the relay"),
        ("GET /v1/models", (401, "application/json", b'{"error":{"message":"no"}}'), "models", "fail", "credential"),
        ("GET /v1/models", (200, "text/html", b"<html>"), "models", "warn", "text/html"),
        ("POST /v1/messages/count_tokens", (501, "application/json", b"{}"), "count_tokens", "ok", "501"),
        ("POST /v1/messages/count_tokens", (404, "text/html", b"<html>"), "count_tokens", "warn", "404"),
        ("POST /v1/messages", (403, "text/html", b"<html>"), "large body", "fail", "firewall"),
        ("POST /v1/messages", (413, "text/html", b"<html>"), "large body", "fail", "client_max_body_size"),
    ],
)
def test_what_breaks_the_contract_is_told_with_what_to_do(
    server: Server, doctor: Any, request_: str, answer: tuple[int, str, bytes], check: str, verdict: str, told: str
) -> None:
    server.answers[request_] = answer

    status, found = doctor("--url", server.url)

    assert found[check][0] == verdict
    assert told in found[check][1]
    assert status == (1 if verdict == "fail" else 0)


def test_an_address_where_nobody_listens_is_told_once(server: Server, doctor: Any) -> None:
    server.close()

    status, found = doctor("--url", server.url)

    assert (status, verdicts(found)) == (1, {"reach": "fail"})
    server.__init__()  # type: ignore[misc]  (for the fixture to close)


def test_the_suspicious_body_is_as_large_as_it_says_and_asks_for_nothing() -> None:
    body = json.loads(SUSPICIOUS_BODY)

    assert 95_000 < len(SUSPICIOUS_BODY) < 130_000
    assert "model" not in body


# -- providers


def configured(tmp_path: Path, *entries: str) -> str:
    path = tmp_path / "relay.yaml"
    path.write_text("providers:\n" + "\n".join(f"  - {entry}" for entry in entries))
    return str(path)


def test_every_key_of_a_provider_is_tried_by_counting(server: Server, doctor: Any, tmp_path: Path) -> None:
    entry = f"{{name: a, type: anthropic, base_url: '{server.url}', keys: [{{key: planted-1}}, {{key: planted-2}}]}}"

    status, found = doctor("--config", configured(tmp_path, entry))

    assert (status, verdicts(found)) == (0, {"reach": "ok", "count_tokens": "ok", "stream": "skip"})
    keys = [h["x-api-key"] for w, h, _ in server.seen if w == "POST /v1/messages/count_tokens"]
    assert keys == ["planted-1", "planted-2"]
    assert server.spent == []


def test_a_dead_key_is_told_without_the_key(server: Server, doctor: Any, tmp_path: Path) -> None:
    refusal = b'{"type":"error","error":{"type":"authentication_error","message":"invalid: planted-1"}}'
    server.answers["POST /v1/messages/count_tokens"] = (401, "application/json", refusal)
    entry = f"{{name: a, type: anthropic, base_url: '{server.url}', keys: [{{key: planted-1}}]}}"

    status, found = doctor("--config", configured(tmp_path, entry))

    assert (status, found["count_tokens"][0]) == (1, "fail")
    assert "planted" not in str(found)


def test_a_provider_is_spent_at_only_when_told_to(server: Server, doctor: Any, tmp_path: Path) -> None:
    entry = (
        f"{{name: z, type: zai, base_url: '{server.url}', keys: [{{key: planted-1}}], model_mapping: {{'*': glm-9}}}}"
    )

    _, found = doctor("--config", configured(tmp_path, entry), "--spend")

    assert found["stream"][0] == "ok"
    [call] = server.spent
    assert json.loads(call)["model"] == "glm-9"


def test_a_simulator_needs_no_examination(doctor: Any, tmp_path: Path) -> None:
    status, found = doctor("--config", configured(tmp_path, "{name: demo, type: simulator}"))

    assert (status, verdicts(found)) == (0, {"reach": "ok"})


# -- judgements about time, without any passing


def test_models_that_come_too_late_are_a_warning() -> None:
    def reply(seconds: float) -> Reply:
        return Reply(Head(200, ()), b'{"data": []}', seconds)

    assert (judge_models("x", reply(2.9)).verdict, judge_models("x", reply(3.1)).verdict) == ("ok", "warn")


@pytest.mark.parametrize(
    ("times", "verdict"),
    [([0.2, 1.0, 2.0], "ok"), ([2.0, 2.0, 2.0], "fail"), ([1.95, 1.98, 2.0], "fail"), ([0.1, 0.2], "skip")],
)
def test_a_stream_that_comes_all_at_its_end_was_held_back(times: list[float], verdict: str) -> None:
    found = judge_stream("x", STREAMED, [Arrival(at, b".") for at in times], SSE)

    assert {finding.check: finding.verdict for finding in found} == {"stream": "ok", "buffering": verdict}


def test_a_stream_without_its_end_is_a_failure() -> None:
    [found] = judge_stream("x", STREAMED, [Arrival(0.1, b".")], b"event: message_start\ndata: {}\n\n")

    assert (found.verdict, "message_stop" in found.text) == ("fail", True)


def test_a_compressed_stream_is_a_failure() -> None:
    head = Head(200, (*STREAMED.headers, (b"content-encoding", b"gzip")))

    [found] = judge_stream("x", head, [Arrival(0.1, b".")], SSE)

    assert (found.verdict, "compressed" in found.text) == ("fail", True)
