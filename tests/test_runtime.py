"""A configuration made to work: who serves, through which proxy, and what is told about the rest."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random
from typing import Any

import pytest
from twisted.logger import globalLogPublisher

from ccrelay.core.access import AccessRecord
from ccrelay.core.affinity import Home
from ccrelay.errors import ConfigError
from ccrelay.runtime import Runtime, cautions

from .config_loading import load_text, settings_of
from .upstream_rig import NamedReactor
from .web_rig import Daemon, post, read_replies

ANTHROPIC = "{name: north, type: anthropic, base_url: 'http://north.test', keys: [{key: sk-north}]}"
SIMULATOR = "{name: demo, type: simulator, simulator: {only_without_keys: true}}"
CALL = b'{"model":"claude-x","max_tokens":1,"messages":[{"role":"user","content":"hi"}]}'
MESSAGE = b'{"type":"message","content":[],"usage":{"input_tokens":1,"output_tokens":2}}'
ANSWER = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nServer: upstream\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\n"
    b"X-Request-ID: theirs\r\nRequest-Id: req_theirs\r\nContent-Length: %d\r\n\r\n%b" % (len(MESSAGE), MESSAGE)
)


def of(*providers: str, rest: str = "") -> str:
    return f"providers: [{', '.join(providers)}]\n{rest}"


def test_a_call_goes_all_the_way_and_back() -> None:
    daemon = Daemon(of(ANTHROPIC))
    client = daemon.connect()
    client.send(post(CALL, b"X-Request-ID: mine", b"Anthropic-Version: 2023-06-01"))
    origin = daemon.origin()
    head, _, body = origin.received.partition(b"\r\n\r\n")
    assert head.startswith(b"POST /v1/messages HTTP/1.1\r\n")
    assert b"x-api-key: sk-north" in head.lower()
    assert body == CALL
    origin.send(ANSWER)
    reply = client.reply
    assert (reply.status, reply.body, reply.ending) == (200, MESSAGE, "whole")
    assert reply.all(b"x-request-id") == [b"mine"]
    assert reply.all(b"request-id") == [b"req_theirs"]
    assert len(reply.all(b"date")) == 1
    assert reply.all(b"server") == []
    assert (daemon.root.load.calls, daemon.site.budget.held) == (0, 0)


@pytest.mark.parametrize("body", [b"[1,2]", b'{"model":1}', b'{"a":1}', b"", b'{"model":"m","model":"n"}', b"nonsense"])
def test_a_body_that_cannot_be_routed_is_400_and_leaves_nothing_behind(body: bytes) -> None:
    daemon = Daemon(of(ANTHROPIC))
    reply = daemon.ask(post(body))
    assert (reply.status, reply.error) == (400, "invalid_request_error")
    assert (daemon.root.load.calls, daemon.site.budget.held) == (0, 0)
    assert daemon.reactor.lookups == []


def test_a_client_that_leaves_takes_its_upstream_along_in_the_same_turn() -> None:
    daemon = Daemon(of(ANTHROPIC))
    client = daemon.connect()
    client.send(post(CALL))
    origin = daemon.origin()
    client.leave()
    assert origin.closing
    assert (daemon.root.load.calls, daemon.site.budget.held) == (0, 0)


# -- who serves


@pytest.mark.parametrize(
    ("providers", "serving"),
    [
        ((SIMULATOR,), ["demo"]),
        ((ANTHROPIC, SIMULATOR), ["north"]),
        (("{name: zai, type: zai, keys: [{key: k}]}", SIMULATOR), ["zai"]),
        (("{name: local, type: ollama}", SIMULATOR), ["local"]),
        ((ANTHROPIC, "{name: demo, type: simulator, simulator: {only_without_keys: false}}"), ["demo", "north"]),
        ((ANTHROPIC.replace("north,", "north, enabled: false,"), SIMULATOR), ["demo"]),
    ],
)
def test_a_simulator_that_only_stands_in_serves_until_somebody_else_can(
    providers: tuple[str, ...], serving: list[str]
) -> None:
    assert sorted(Daemon(of(*providers)).names()) == serving


def runtime_with_warnings(text: str) -> Runtime:
    return Runtime(load_text(text).settings, NamedReactor(), {}, Random(7))


def test_a_provider_without_a_key_leaves_the_simulator_to_answer() -> None:
    runtime = runtime_with_warnings(of("{name: north, type: anthropic, keys: [{key: ''}]}", SIMULATOR))
    assert [(entry.name, entry.usable) for entry in runtime.surface.providers()] == [("north", False), ("demo", True)]
    assert runtime.surface.usable()


def test_a_provider_without_a_key_can_be_asked_with_the_clients_own() -> None:
    own = "server: {listen: '127.0.0.1:1', auth: {allow_subscription: true}}"
    runtime = runtime_with_warnings(of("{name: north, type: anthropic, keys: [{key: ''}]}", SIMULATOR, rest=own))
    assert [(entry.name, entry.usable) for entry in runtime.surface.providers()] == [("north", True)]


def test_without_anybody_to_ask_health_says_so() -> None:
    runtime = runtime_with_warnings(of("{name: north, type: anthropic, keys: [{key: ''}]}"))
    assert not runtime.surface.usable()


def test_the_simulator_answers_a_call() -> None:
    reply = Daemon(of(SIMULATOR)).ask(post(CALL), seconds=600.0)
    assert (reply.status, reply.ending) == (200, "whole")
    assert reply.json["type"] == "message"


def test_providers_stand_in_the_order_of_their_priority() -> None:
    text = of(
        "{name: low, type: ollama, priority: 0}",
        "{name: high, type: zai, keys: [{key: k, priority: 2}]}",
        "{name: middle, type: ollama}",
        "{name: late, type: ollama}",
    )
    assert Daemon(text).names() == ["high", "middle", "late", "low"]


def test_models_are_listed_with_the_catalogues_names_and_mappings() -> None:
    text = of("{name: zai, type: zai, keys: [{key: k}], models: [glm-5.2], model_mapping: {claude-sonnet-5: glm-5.2}}")
    listed = {entry.id: entry for entry in Daemon(text).runtime.surface.models}
    assert set(listed) == {"glm-5.2", "claude-sonnet-5"}
    assert listed["claude-sonnet-5"].display_name.endswith("(glm-5.2)")
    assert {entry.provider for entry in listed.values()} == {"zai"}


# -- what is told of a configuration


@pytest.mark.parametrize(
    ("rest", "path"),
    [
        ("server: {listen: '127.0.0.1:1', workers: 2}", "server.workers"),
        ("logging: {debug_options: {log_request_body: true}}", "logging.debug_options.log_request_body"),
        ("logging: {level: warn, debug_options: {log_request_body: true}}", "logging.debug_options.log_request_body"),
    ],
)
def test_what_has_no_effect_or_gives_away_what_users_write_is_told(rest: str, path: str) -> None:
    assert [warning.path for warning in cautions(settings_of(of(ANTHROPIC, rest=rest)))] == [path]


def test_what_is_usual_needs_no_warning() -> None:
    assert cautions(settings_of(of(ANTHROPIC, SIMULATOR))) == ()


def test_http_2_is_refused() -> None:
    tls = "tls: {certificate: /c, private_key: /k}"
    settings = settings_of(of(ANTHROPIC, rest=f"server: {{listen: '127.0.0.1:1', enable_http2: true, {tls}}}"))
    with pytest.raises(ConfigError, match=r"server\.enable_http2"):
        Runtime(settings, NamedReactor(), {}, Random(7))


# -- connecting

SECURE = ANTHROPIC.replace("http://", "https://")


def first_hop(text: str, environ: Mapping[str, str]) -> tuple[str, int]:
    """Where the relay connects for a call."""
    daemon = Daemon(text, environ)
    daemon.connect().send(post(CALL))
    [(_, host, port)] = daemon.reactor.lookups
    return host, port


@pytest.mark.parametrize(
    ("provider", "environ", "hop"),
    [
        (ANTHROPIC, {}, ("north.test", 80)),
        (SECURE, {}, ("north.test", 443)),
        (SECURE, {"HTTPS_PROXY": "http://proxy.test:3128"}, ("proxy.test", 3128)),
        (SECURE, {"https_proxy": "http://u:p@proxy.test:3128"}, ("proxy.test", 3128)),
        (SECURE, {"HTTPS_PROXY": "http://proxy.test:3128", "NO_PROXY": ".test"}, ("north.test", 443)),
        (ANTHROPIC, {"HTTPS_PROXY": "http://proxy.test:3128"}, ("north.test", 80)),
        (SECURE.replace("keys", "proxy: 'http://proxy.test:1', keys"), {"NO_PROXY": "*"}, ("proxy.test", 1)),
    ],
)
def test_proxies_come_from_the_provider_or_the_environment(
    provider: str, environ: Mapping[str, str], hop: tuple[str, int]
) -> None:
    assert first_hop(of(provider), environ) == hop


@pytest.mark.parametrize(
    "proxy", ["http://user:canary#7@proxy:3128", "http://user:canary@proxy:port", "http://[canary", "http://canary:0x1"]
)
def test_a_proxy_that_cannot_be_used_is_refused_without_showing_it(proxy: str) -> None:
    with pytest.raises(ConfigError) as refused:
        Daemon(of(SECURE), {"HTTPS_PROXY": proxy})
    assert "HTTPS_PROXY" in str(refused.value)
    assert "canary" not in str(refused.value)


def test_making_a_runtime_connects_to_nobody() -> None:
    daemon = Daemon(of(SECURE, SIMULATOR))
    assert (daemon.reactor.lookups, daemon.reactor.tcpClients, daemon.reactor.getDelayedCalls()) == ([], [], [])


def test_closing_lets_go_of_idle_connections_and_not_of_those_in_use() -> None:
    daemon = Daemon(of(ANTHROPIC))
    origins = []
    for _ in range(2):
        daemon.connect().send(post(CALL))
        origins.append(daemon.origin())
    origins[0].send(ANSWER)
    daemon.runtime.close()
    daemon.reactor.advance(0)
    assert [origin.end for origin in origins] == ["aborted", None]
    origins[1].send(ANSWER)
    daemon.reactor.advance(0)
    assert origins[1].end == "aborted"
    assert daemon.site.budget.held == 0


def test_two_keys_are_tried_in_turn_and_pooling_off_leaves_one() -> None:
    two = "{name: north, type: anthropic, base_url: 'http://north.test', keys: [{key: a}, {key: b, priority: 2}]"
    tired = b"HTTP/1.1 429 Too Many\r\nContent-Type: application/json\r\nRetry-After: 3\r\nContent-Length: 2\r\n\r\n{}"
    for more, keys in (("}", [b"b", b"a"]), (", pooling: {enabled: false}}", [b"a"])):
        daemon = Daemon(of(two + more))
        client = daemon.connect()
        client.send(post(CALL))
        used = []
        origin = daemon.origin()
        while origin.received:
            used.append(origin.take().lower().partition(b"x-api-key: ")[2][:1])
            origin.send(tired)
            daemon.reactor.advance(0)
        assert used == keys
        assert client.reply.status == 429


# -- what is told


def test_each_call_leaves_one_record_at_its_end() -> None:
    seen: list[Any] = []
    globalLogPublisher.addObserver(seen.append)
    try:
        daemon = Daemon(of(ANTHROPIC, rest="server: {listen: '127.0.0.1:1', auth: {api_key: door}}"))
        daemon.ask(post(CALL))
        client = daemon.connect()
        client.send(post(CALL, b"X-Api-Key: door"))
        origin = daemon.origin()
        origin.send(ANSWER)
    finally:
        globalLogPublisher.removeObserver(seen.append)
    records = [event["record"] for event in seen if isinstance(event.get("record"), AccessRecord)]
    assert [(record.status, record.attempts) for record in records] == [(401, 0), (200, 1)]
    assert [reply.status for reply in read_replies(client.received, [b"POST"], eof=False)] == [200]


# -- a successor


def test_sessions_keep_their_homes_over_a_reload_and_go_by_the_new_time() -> None:
    before = runtime_with_warnings(of(ANTHROPIC))
    before.memory.affinity.settle(b"who", "a-session", "north", "k1", 0.0)
    shorter = load_text(of(ANTHROPIC, rest="routing: {affinity: {ttl: 60}}")).settings
    after = Runtime(shorter, NamedReactor(), {}, Random(7), before)
    after.take_over(before)
    assert after.memory.affinity.find(b"who", "a-session", 59.0) == Home("north", "k1")
    assert after.memory.affinity.find(b"who", "a-session", 60.0) is None
