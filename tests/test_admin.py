"""The admin listener: what it serves, to whom, and that nothing a client sends gets into the page as more than text."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import sys
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.task import Clock

from ccrelay.core.access import AccessRecord
from ccrelay.core.model import CallKind, Usage
from ccrelay.core.outcomes import Outcome
from ccrelay.core.status import Daemon, Status, as_json
from ccrelay.core.tally import Tally
from ccrelay.web.admin import LAG_EVERY, Watcher, admin_site
from ccrelay.web.page import page, security_headers

from .fakes import FakeConnection
from .web_rig import Daemon as Rig
from .web_rig import Reply, get, head, read_replies

SECRET = "sk-canary-of-the-upstream"
DOOR = "canary-of-the-door"
CONFIG = f"""
providers:
- {{name: north, type: anthropic, base_url: 'http://north.test', keys: [{{key: {SECRET}, rpm_limit: 10}}], priority: 2}}
- {{name: demo, type: simulator, simulator: {{only_without_keys: false}}}}
server: {{listen: '127.0.0.1:1', auth: {{api_key: {DOOR}}}}}
"""
NOW = 1_800_000_000.0
CALL = AccessRecord(
    time=NOW - 5,
    request_id="r1",
    outcome=Outcome.ANSWERED,
    duration=2.0,
    attempts=1,
    status=200,
    kind=CallKind.MESSAGES,
    provider="north",
    model_sent="claude-opus-4-6",
    ttfb=0.5,
    usage=Usage(1, 2, 3, 4),
)


class Admin:
    """The admin site of a runtime in memory."""

    def __init__(self, **daemon: Any) -> None:
        self.rig = Rig(CONFIG)
        self.tally = self.rig.runtime.tally
        told: dict[str, Any] = {
            "version": "0",
            "time": NOW,
            "started": NOW - 60,
            "draining": False,
            "lag": 0.0,
            "clients": 0,
            "reloads": 0,
            "reload_failures": 0,
            "reload_at": None,
            "reload_error": None,
        }
        self.daemon = Daemon(**{**told, **daemon})
        surface = self.rig.runtime.surface
        self.site = admin_site(self.rig.reactor, lambda: surface, self.status, self.tally)

    def status(self) -> Status:
        return self.rig.runtime.status(self.daemon)

    def ask(self, request: bytes, host: Any = None) -> Reply:
        client = FakeConnection(self.rig.reactor, self.site.buildProtocol(None), host=host)
        client.send(request)
        [reply] = read_replies(client.received, [request.partition(b" ")[0]], eof=client.end is not None)
        return reply


# -- what is served


@pytest.mark.parametrize("path", [b"/", b"/status", b"/health", b"/metrics"])
def test_every_page_is_fresh_and_names_its_type(path: bytes) -> None:
    pytest.importorskip("prometheus_client")
    reply = Admin().ask(get(path))
    assert (reply.status, reply.ending) == (200, "whole")
    assert reply.header(b"cache-control") == b"no-store"
    assert reply.header(b"x-content-type-options") == b"nosniff"
    assert reply.all(b"access-control-allow-origin") == []
    assert len(reply.all(b"content-type")) == 1


@pytest.mark.parametrize("path", [b"/v1/messages", b"/statu", b"/status/x", b"//", b"/favicon.ico"])
def test_nothing_else_is_served(path: bytes) -> None:
    reply = Admin().ask(get(path))
    assert (reply.status, reply.error) == (404, "not_found_error")


@pytest.mark.parametrize("method", [b"POST", b"DELETE", b"OPTIONS"])
def test_nothing_can_be_changed(method: bytes) -> None:
    reply = Admin().ask(head(method, b"/status", b"Content-Length: 0"))
    assert (reply.status, reply.header(b"allow")) == (405, b"GET, HEAD")


def test_a_page_of_another_origin_cannot_ask_under_its_own_name() -> None:
    from twisted.internet.address import IPv4Address

    here = IPv4Address("TCP", "127.0.0.1", 8788)
    reply = Admin().ask(head(b"GET", b"/status", host=b"evil.example"), host=here)
    assert (reply.status, reply.error) == (403, "permission_error")
    assert Admin().ask(head(b"GET", b"/status", host=b"localhost:8788"), host=here).status == 200


@pytest.mark.parametrize(("draining", "code", "word"), [(False, 200, "ok"), (True, 503, "draining")])
def test_health_says_in_detail_what_the_data_port_says_in_a_word(draining: bool, code: int, word: str) -> None:
    reply = Admin(draining=draining).ask(get(b"/health"))
    assert (reply.status, reply.json["status"]) == (code, word)
    [north, demo] = reply.json["providers"]
    assert (north["name"], north["health"], list(north["keys"].values())) == ("north", "usable", ["usable"])
    assert (demo["name"], demo["circuit_breaker"]) == ("demo", "closed")


def test_while_draining_health_says_what_is_waited_for() -> None:
    reply = Admin(draining=True, clients=2, drain_left=12.5).ask(get(b"/health"))
    assert reply.json["waiting_for"] == {"calls": 0, "connections": 2, "seconds_left": 12.5}
    assert "waiting_for" not in Admin(clients=2).ask(get(b"/health")).json


def test_without_the_library_there_are_no_metrics_and_the_answer_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    reply = Admin().ask(get(b"/metrics"))
    assert (reply.status, reply.error, reply.header(b"x-should-retry")) == (501, "not_supported", b"false")
    assert "python3-prometheus-client" in reply.json["error"]["message"]


def test_the_document_has_times_as_text_and_nothing_that_json_cannot_say() -> None:
    admin = Admin(reload_at=NOW - 1, reload_error="line 3: no")
    admin.tally.call_ended(CALL)
    admin.rig.runtime.sample()
    document = json.loads(as_json(admin.status()), parse_constant=lambda word: pytest.fail(word))
    assert document["daemon"]["uptime"] == 60.0
    assert document["daemon"]["reload_at"].endswith("Z") and document["daemon"]["time"].startswith(
        "2027-01-15T08:00:00"
    )
    assert document["hours"][-2]["sums"]["output_tokens"] == document["total"]["output_tokens"] == 2
    [limit] = document["providers"][0]["keys"][0]["limits"]
    assert (limit["name"], limit["limit"], limit["remaining"], limit["history"]) == ("requests", 10, 10, [1.0])
    assert document["recent"][0]["time"] == "2027-01-15T07:59:55.000Z"


def test_no_secret_is_on_any_page() -> None:
    admin = Admin()
    client = admin.rig.connect()
    client.send(get(b"/v1/models", b"X-Api-Key: " + DOOR.encode()))
    for path in (b"/", b"/status", b"/health", b"/metrics"):
        body = admin.ask(get(path)).body
        assert b"canary" not in body, path


# -- the page


class Reader(HTMLParser):
    """What a browser makes of the page: elements with their attributes, and the text between."""

    def __init__(self, document: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(document)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def shape(reader: Reader) -> list[tuple[str, list[str]]]:
    return [(tag, sorted(attributes)) for tag, attributes in reader.elements]


hostile = st.text(min_size=1, max_size=40) | st.sampled_from(
    [
        "<script>alert(1)</script>",
        "'><img src=x onerror=alert(1)>",
        "</title></svg><script>",
        "&lt;b&gt;",
        '" onload=x ',
    ]
)


@settings(max_examples=30)
@given(hostile)
def test_what_a_client_sends_is_text_and_nothing_else(name: str) -> None:
    admin = Admin(reload_error=name)
    plain = Admin(reload_error="x")
    for each, word in ((admin, name), (plain, "x")):
        each.tally.call_ended(
            AccessRecord(
                time=NOW, request_id=word, outcome="refused", duration=0, reason=word, model_asked=word, key=word
            )
        )
    shown, expected = Reader(page(admin.status()).decode()), Reader(page(plain.status()).decode())
    assert shape(shown) == shape(expected)
    visible = re.sub(r"\s+", " ", shown.text)
    assert re.sub(r"\s+", " ", name).strip() in visible


def test_the_policy_admits_the_pages_own_style_and_script_and_no_other() -> None:
    policy = dict(security_headers())[b"content-security-policy"].decode()
    document = page(Admin().status()).decode()
    for tag in ("style", "script"):
        [inline] = re.findall(f"<{tag}>(.*?)</{tag}>", document, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(inline.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
    outside = [a for _, a in Reader(document).elements for n in a if n in ("src", "style", "onclick") or n[:2] == "on"]
    assert outside == []


def test_every_part_that_the_script_renews_has_a_name_of_its_own() -> None:
    parts = [a.get("id") for _, a in Reader(page(Admin().status()).decode()).elements if "data-live" in a]
    assert None not in parts and len(parts) == len(set(parts)) >= 5


# -- the watcher


def test_lateness_is_measured_against_the_second_it_was_due() -> None:
    clock, tally, samples = Clock(), Tally(NOW), []
    watcher = Watcher(clock, tally, lambda: samples.append(clock.seconds()))
    watcher.start()
    watcher.start()
    for _ in range(3):
        clock.advance(LAG_EVERY)
    assert (tally.lag.count, tally.lag.sum) == (3, 0.0)
    clock.advance(LAG_EVERY + 0.4)
    assert tally.last_lag == pytest.approx(0.4)
    clock.advance(LAG_EVERY - 0.4)
    assert tally.lag.count == 5
    assert tally.last_lag == pytest.approx(0.0)
    clock.advance(3 * LAG_EVERY)
    assert tally.last_lag == pytest.approx(2 * LAG_EVERY)
    for _ in range(40):
        clock.advance(0.5)
    assert samples == [10.0, 20.0]
    watcher.stop()
    assert clock.getDelayedCalls() == []
