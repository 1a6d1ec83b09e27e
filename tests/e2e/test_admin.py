"""The admin listener of a real relay: every number on it is what the upstreams and the clients counted themselves."""

from __future__ import annotations

import shutil
import signal
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from ccrelay.web.page import page, security_headers
from tests.e2e import answers
from tests.e2e.answers import Text
from tests.e2e.raw_client import Client, ask, body_for, get, post
from tests.e2e.relay_process import Relay, config, environment, free_port, provider
from tests.e2e.upstream_process import Upstream
from tests.e2e.waiting import PATIENCE, wait_for
from tests.test_admin import CALL, Admin

MODEL = "claude-opus-4-6"
PRICED = {"claude-opus-4-6": (5.0, 25.0, 6.25, 0.5)}
"""USD per million tokens of input, output, cache writes and cache reads, from Anthropic's price list."""

EVENTS = answers.events([Text(["one", "two"])], model=MODEL)
TALK = answers.conversation([Text(["one", "two"])])
WHOLE = (11, 44, 22, 33)
CUT = (11, 1, 22, 33)
"""Tokens that an upstream tells of in a whole answer, and in one that ends early."""


@pytest.fixture
def admin_port() -> int:
    return free_port()


@pytest.fixture
def relay(upstream: Upstream, second: Upstream, admin_port: int) -> Iterator[Relay]:
    providers = [
        provider("first", upstream.url, models=[MODEL], priority=2),
        provider("second", second.url, models=[MODEL]),
    ]
    with Relay(config(providers, admin={"listen": f"127.0.0.1:{admin_port}"})) as started:
        yield started


def status(port: int) -> Any:
    return ask(port, get("/status"), "GET").json


def metrics(port: int) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Every sample by its name and labels, as Prometheus's own parser reads them."""
    parser = pytest.importorskip("prometheus_client.parser")
    text = ask(port, get("/metrics"), "GET").body.decode()
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in parser.text_string_to_metric_families(text)
        for sample in family.samples
    }


def sums(samples: dict[tuple[str, frozenset[tuple[str, str]]], float], name: str, *by: str) -> dict[Any, float]:
    """The samples of one metric, added up by these labels; what is 0 is left out."""
    found: Counter[Any] = Counter()
    for (sample, labels), value in samples.items():
        if sample == name:
            named = dict(labels)
            found[tuple(named[label] for label in by)] += value  # type: ignore[assignment]
    return {key: value for key, value in found.items() if value}


def test_every_number_is_what_the_upstreams_counted(
    relay: Relay, upstream: Upstream, second: Upstream, admin_port: int
) -> None:
    ended: Counter[str] = Counter()

    def call(body: bytes, outcome: str) -> None:
        ask(relay.port, post(body))
        ended[outcome] += 1

    stream, plain = body_for(model=MODEL), body_for(stream=False, model=MODEL)
    for body in (stream, plain, stream):
        upstream.queue(TALK)
        call(body, "answered")
    for _ in range(2):
        upstream.queue(answers.failure(500, "api_error"))
        second.queue(TALK)
        call(plain, "answered")
    upstream.queue(answers.failure(400, "invalid_request_error"))
    call(plain, "callers_fault")
    upstream.queue(answers.ended(EVENTS[:4], "close"))
    call(stream, "truncated")
    upstream.queue(answers.Answer((["hang"],)))
    with Client(relay.port) as client:
        client.send(post(plain))
        upstream.until(requests=8)
        client.leave()
    ended["client_gone"] += 1
    call(b"[]", "refused")
    wait_for(lambda: len(relay.access_lines()) >= sum(ended.values()), "every access line")

    samples = metrics(admin_port)
    seen = {("first",): float(len(upstream.requests())), ("second",): float(len(second.requests()))}
    assert sums(samples, "ccrelay_attempts_total", "provider") == seen
    assert sums(samples, "ccrelay_calls_total", "outcome") == {(word,): count for word, count in ended.items()}
    assert sums(samples, "ccrelay_call_duration_seconds_count") == {(): sum(ended.values())}
    assert sums(samples, "ccrelay_attempts_total", "provider", "outcome") == {
        ("first", "committed"): 4,
        ("first", "provider_ill"): 2,
        ("first", "callers_fault"): 1,
        ("first", "client_gone"): 1,
        ("second", "committed"): 2,
    }
    usages = {"first": [WHOLE, WHOLE, WHOLE, CUT], "second": [WHOLE, WHOLE]}
    names = ("input", "output", "cache_write", "cache_read")
    assert sums(samples, "ccrelay_tokens_total", "provider", "class") == {
        (name, kind): sum(usage[at] for usage in used) for name, used in usages.items() for at, kind in enumerate(names)
    }
    cost = {
        name: sum(tokens * price / 1e6 for usage in used for tokens, price in zip(usage, PRICED[MODEL], strict=True))
        for name, used in usages.items()
    }
    told = sums(samples, "ccrelay_cost_usd_total", "provider")
    assert told == {(name,): pytest.approx(amount) for name, amount in cost.items()}
    assert sums(samples, "ccrelay_stream_gap_seconds_count", "provider") == {("first",): 3}
    assert sums(samples, "ccrelay_body_bytes_total", "direction")["in",] == sum(
        line["bytes_in"] for line in relay.access_lines()
    )

    document = status(admin_port)
    assert document["total"]["calls"] == sum(ended.values())
    assert document["total"]["attempts"] == sum(seen.values())
    assert document["total"]["cost"] == pytest.approx(sum(cost.values()))
    assert Counter(each["outcome"] for each in document["recent"]) == ended
    by_hour = [period["sums"]["calls"] for period in document["hours"]]
    assert sum(by_hour) == sum(period["sums"]["calls"] for period in document["minutes"]) == sum(ended.values())


def test_calls_under_way_and_connections_are_seen_while_they_last(
    relay: Relay, upstream: Upstream, admin_port: int
) -> None:
    upstream.queue(answers.held(EVENTS[:4], "gate", EVENTS[4:]))
    with Client(relay.port) as client:
        client.send(post(body_for(model=MODEL)))
        incoming = client.opened()
        during, samples = status(admin_port), metrics(admin_port)
        upstream.release("gate")
        assert incoming.reply().ending == "complete"
    relay.next_access_line(0)
    after = status(admin_port)
    [live] = during["live"]
    assert (live["provider"], live["model_asked"], live["attempts"]) == ("first", MODEL, 1)
    assert live["bytes_out"] > 0 and live["ttfb"] <= live["age"]
    assert during["providers"][0]["connections"] == {"busy": 1, "idle": 0}
    assert sums(samples, "ccrelay_open_streams", "provider") == {("first",): 1}
    assert sums(samples, "ccrelay_calls_in_flight") == {(): 1}
    assert (after["live"], after["in_flight"], after["providers"][0]["streams"]) == ([], 0, 0)
    assert after["providers"][0]["connections"] == {"busy": 0, "idle": 1}


def test_a_reload_keeps_the_counts_and_is_one_of_them(relay: Relay, upstream: Upstream, admin_port: int) -> None:
    upstream.queue(TALK)
    ask(relay.port, post(body_for(model=MODEL)))
    relay.process.send_signal(signal.SIGHUP)
    wait_for(lambda: status(admin_port)["daemon"]["reloads"] == 1, "a reload")
    assert status(admin_port)["total"]["answered"] == 1
    upstream.queue(TALK)
    ask(relay.port, post(body_for(model=MODEL)))
    wait_for(lambda: status(admin_port)["total"]["answered"] == 2, "the second call counted")
    assert metrics(admin_port)["ccrelay_reloads_total", frozenset({("result", "accepted")})] == 1


def test_whoever_watches_sees_the_relay_drain_and_does_not_keep_it(
    relay: Relay, upstream: Upstream, admin_port: int
) -> None:
    upstream.queue(answers.held(EVENTS[:4], "gate", EVENTS[4:]))
    with Client(relay.port) as client, Client(admin_port) as watching:

        def health() -> str:
            watching.send(get("/health"))
            return str(watching.reply("GET").json["status"])

        client.send(post(body_for(model=MODEL)))
        incoming = client.opened()
        assert health() == "ok"
        relay.process.send_signal(signal.SIGTERM)
        wait_for(lambda: health() == "draining", "the word draining")
        told = ask(admin_port, get("/health"), "GET")
        assert (told.status, told.json["waiting_for"]["calls"]) == (503, 1)
        assert status(admin_port)["daemon"]["draining"]
        with pytest.raises(ConnectionRefusedError):
            ask(relay.port, get("/health"), "GET")
        upstream.release("gate")
        assert incoming.reply().ending == "complete"
        assert relay.process.wait(PATIENCE) == 0


def test_the_admin_pages_are_not_on_the_data_port(relay: Relay) -> None:
    for path in ("/status", "/metrics"):
        assert ask(relay.port, get(path), "GET").status == 404


# -- in a browser

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


class _Pages(BaseHTTPRequestHandler):
    """The page as the admin listener sends it, with one call more each time."""

    admin: Admin
    hostile = "<img src=x onerror=\"document.body.textContent='broken'\"><script>document.title='broken'</script>"

    def do_GET(self) -> None:
        if self.path != "/":
            self.send_error(404)
            return
        self.admin.tally.call_ended(
            replace(CALL, request_id=f"seen-{self.admin.tally.total.calls}", model_sent=self.hostile)
        )
        body = page(self.admin.status())
        self.send_response(200)
        self.send_header("content-type", "text/html; charset=utf-8")
        for name, value in security_headers():
            self.send_header(name.decode(), value.decode())
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
def test_the_page_keeps_itself_fresh_in_a_browser_and_runs_nothing_of_a_clients(tmp_path: Path) -> None:
    _Pages.admin = Admin()
    with ThreadingHTTPServer(("127.0.0.1", 0), _Pages) as server:
        threading.Thread(target=server.serve_forever).start()
        command = [str(CHROMIUM), "--headless=new", "--no-sandbox", "--disable-gpu", "--dump-dom"]
        more = [f"--user-data-dir={tmp_path}", "--virtual-time-budget=5000", f"http://127.0.0.1:{server.server_port}/"]
        try:
            done = subprocess.run(
                command + more, capture_output=True, text=True, timeout=60, env=environment(tmp_path), check=True
            )
        finally:
            server.shutdown()
    assert "seen-0" in done.stdout and "seen-1" in done.stdout
    assert "stale" not in done.stdout.partition("<body")[2].partition(">")[0]
    assert "broken" not in done.stdout.partition("<title>")[2].partition("</title>")[0]
    assert "&lt;img src=x" in done.stdout
