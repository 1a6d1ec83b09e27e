"""The log of a real relay shows bodies and headers from the reload on that asks for them, and no credential."""

from __future__ import annotations

import json
import signal
from typing import Any

from tests.e2e import answers
from tests.e2e.answers import Text
from tests.e2e.raw_client import KEY, ask, body_for, post
from tests.e2e.relay_process import UPSTREAM_KEY, Relay, config, provider
from tests.e2e.upstream_process import Upstream
from tests.e2e.waiting import wait_for


def lines_with(relay: Relay, field: str) -> list[dict[str, Any]]:
    lines = [line for line in relay.output().splitlines() if line.startswith("{")]
    return [line for line in map(json.loads, lines) if field in line]


def test_a_reload_turns_excerpts_on_and_they_hold_no_credential(upstream: Upstream) -> None:
    secret = UPSTREAM_KEY.format(name="first")
    with Relay(config([provider("first", upstream.url)])) as relay:
        upstream.queue(answers.conversation([Text(["one"])]))
        ask(relay.port, post(body_for()))
        relay.next_access_line(0)
        assert lines_with(relay, "request_body") == lines_with(relay, "response_headers") == []

        path = relay.home / "relay.yaml"
        document = json.loads(path.read_text())
        document["logging"]["debug_options"] = {"log_request_body": True, "log_response_headers": True}
        path.write_text(json.dumps(document))
        relay.process.send_signal(signal.SIGHUP)
        wait_for(lambda: "is reloaded" in relay.output(), "a reload")
        assert "what users write" in relay.output()

        upstream.queue(answers.conversation([Text(["two"])]))
        body = json.loads(body_for())
        body["messages"][-1]["content"] = f"marked {secret} and {KEY}"
        reply = ask(relay.port, post(json.dumps(body).encode()))
        [told] = wait_for(lambda: lines_with(relay, "request_body"), "the body's line")
        [answered] = lines_with(relay, "response_headers")
        assert told["request_id"] == answered["request_id"] == relay.access_line(told["request_id"])["request_id"]
        assert "marked <redacted> and <redacted>" in told["request_body"]
        assert "content-type: text/event-stream" in answered["response_headers"]
        assert reply.status == answered["status"] == 200
        assert secret not in relay.output() and KEY not in relay.output()
