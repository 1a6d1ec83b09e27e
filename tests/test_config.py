"""From the text of a configuration to its settings."""

from __future__ import annotations

import pytest

from ccrelay.core.config import find_config
from ccrelay.core.secret import Secret
from ccrelay.core.settings import (
    AwsSettings,
    AzureSettings,
    FailSettings,
    GcpSettings,
    KeySettings,
    TimeoutSettings,
    TlsSettings,
)
from tests.config_loading import SIMULATOR, load_text, problems_of, provider_of, settings_of

EVERYTHING = """
    server:
      listen: ["127.0.0.1:8787", "unix:/run/relay.sock"]
      allowed_hosts: [Relay.Example.com]
      auth:
        {api_key: door, allow_bearer: true, bearer_secret: bear, allow_subscription: true, allow_unauthenticated: true}
      timeout_ms: 1500
      max_concurrent: 7
      max_body_bytes: 1000
      max_inflight_body_bytes: 2000
      header_timeout_ms: 1
      body_stall_timeout_ms: 2
      write_stall_timeout_ms: 3
      drain_timeout_ms: 0
      tls: {certificate: /c.pem, private_key: /k.pem}
      enable_http2: true
      workers: 4
    admin:
      listen: 127.0.0.1:9000
    providers:
      - name: one
        type: anthropic
        base_url: https://gateway.example.com/anthropic/
        keys:
          - {key: first, rpm_limit: 60, tpm_limit: 101, priority: 2, weight: 0}
          - {key: second, itpm_limit: 5, otpm_limit: 6, tpm_limit: 100, priority: 0, weight: 2.5}
        models: [a, b]
        model_mapping: {"claude-*": b}
        pooling: {enabled: false, strategy: weighted}
        priority: 9
        weight: 3
        context_window: 1234
        auth_header: bearer
        timeouts: {connect_ms: 1, first_byte_ms: 2, idle_ms: 3}
        ca_file: /ca.pem
        proxy: http://proxy.example.com:3128
    routing:
      strategy: model_based
      model_mapping: {claude: one}
      default_provider: one
      failover_timeout: 250
      max_attempts: 2
      retry_budget: 0.5
      affinity: {enabled: false, ttl: 60}
      debug: true
    health:
      circuit_breaker: {failure_threshold: 2, open_duration_ms: 500, half_open_probes: 1}
      health_check: {enabled: false, interval_ms: 700}
    logging:
      level: warn
      format: text
      output: stderr
      debug_options: {log_request_body: true, log_response_headers: true, max_body_log_size: 5}
"""

EVERYTHING_IN_TOML = """
    [server]
    listen = ["127.0.0.1:8787", "unix:/run/relay.sock"]
    allowed_hosts = ["Relay.Example.com"]
    timeout_ms = 1500
    max_concurrent = 7
    max_body_bytes = 1000
    max_inflight_body_bytes = 2000
    header_timeout_ms = 1
    body_stall_timeout_ms = 2
    write_stall_timeout_ms = 3
    drain_timeout_ms = 0
    enable_http2 = true
    workers = 4

    [server.auth]
    api_key = "door"
    allow_bearer = true
    bearer_secret = "bear"
    allow_subscription = true
    allow_unauthenticated = true

    [server.tls]
    certificate = "/c.pem"
    private_key = "/k.pem"

    [admin]
    listen = "127.0.0.1:9000"

    [[providers]]
    name = "one"
    type = "anthropic"
    base_url = "https://gateway.example.com/anthropic/"
    models = ["a", "b"]
    model_mapping = {"claude-*" = "b"}
    priority = 9
    weight = 3
    context_window = 1234
    auth_header = "bearer"
    ca_file = "/ca.pem"
    proxy = "http://proxy.example.com:3128"

    [[providers.keys]]
    key = "first"
    rpm_limit = 60
    tpm_limit = 101
    priority = 2
    weight = 0

    [[providers.keys]]
    key = "second"
    itpm_limit = 5
    otpm_limit = 6
    tpm_limit = 100
    priority = 0
    weight = 2.5

    [providers.pooling]
    enabled = false
    strategy = "weighted"

    [providers.timeouts]
    connect_ms = 1
    first_byte_ms = 2
    idle_ms = 3

    [routing]
    strategy = "model_based"
    model_mapping = {claude = "one"}
    default_provider = "one"
    failover_timeout = 250
    max_attempts = 2
    retry_budget = 0.5
    affinity = {enabled = false, ttl = 60}
    debug = true

    [health]
    circuit_breaker = {failure_threshold = 2, open_duration_ms = 500, half_open_probes = 1}
    health_check = {enabled = false, interval_ms = 700}

    [logging]
    level = "warn"
    format = "text"
    output = "stderr"
    debug_options = {log_request_body = true, log_response_headers = true, max_body_log_size = 5}
"""


def test_every_key_of_the_server_arrives() -> None:
    server = settings_of(EVERYTHING).server

    assert server.listen == ("tcp:8787:interface=127.0.0.1", "unix:/run/relay.sock")
    assert server.allowed_hosts == ("relay.example.com",)
    assert (server.auth.api_key, server.auth.bearer_secret) == (Secret("door"), Secret("bear"))
    assert (server.auth.allow_bearer, server.auth.allow_subscription, server.auth.allow_unauthenticated) == (True,) * 3
    assert (server.timeout, server.header_timeout, server.body_stall_timeout) == (1.5, 0.001, 0.002)
    assert (server.write_stall_timeout, server.drain_timeout) == (0.003, 0.0)
    assert (server.max_concurrent, server.max_body_bytes, server.max_inflight_body_bytes) == (7, 1000, 2000)
    assert server.tls == TlsSettings("/c.pem", "/k.pem")
    assert (server.enable_http2, server.workers) == (True, 4)


def test_every_key_of_a_provider_arrives() -> None:
    [one] = settings_of(EVERYTHING).providers

    assert one.base_url == "https://gateway.example.com/anthropic"
    assert one.models == ("a", "b")
    assert dict(one.model_mapping) == {"claude-*": "b"}
    assert (one.pooling.enabled, one.pooling.strategy) == (False, "weighted")
    assert (one.priority, one.weight, one.context_window) == (9, 3.0, 1234)
    assert (one.auth_header, one.ca_file, one.proxy) == ("bearer", "/ca.pem", "http://proxy.example.com:3128")
    assert one.timeouts == TimeoutSettings(0.001, 0.002, 0.003)


def test_a_token_limit_is_split_in_half_where_the_others_are_absent() -> None:
    [one] = settings_of(EVERYTHING).providers

    assert one.keys == (
        KeySettings(Secret("first"), rpm_limit=60, itpm_limit=51, otpm_limit=51, priority=2, weight=1.0),
        KeySettings(Secret("second"), rpm_limit=0, itpm_limit=5, otpm_limit=6, priority=0, weight=2.5),
    )


def test_every_key_of_the_other_sections_arrives() -> None:
    settings = settings_of(EVERYTHING)
    routing, health, logging = settings.routing, settings.health, settings.logging

    assert settings.admin_listen == ("tcp:9000:interface=127.0.0.1",)
    assert (routing.strategy, dict(routing.model_mapping), routing.default_provider) == (
        "model_based",
        {"claude": "one"},
        "one",
    )
    assert (routing.failover_timeout, routing.max_attempts, routing.retry_budget) == (0.25, 2, 0.5)
    assert (routing.affinity.enabled, routing.affinity.ttl, routing.debug) == (False, 60.0, True)
    assert (health.failure_threshold, health.open_duration, health.half_open_probes) == (2, 0.5, 1)
    assert (health.check_enabled, health.check_interval) == (False, 0.7)
    assert (logging.level, logging.format, logging.output) == ("warn", "text", "stderr")
    assert (logging.log_request_body, logging.log_response_headers, logging.max_body_log_size) == (True, True, 5)


def test_toml_means_the_same_as_yaml() -> None:
    assert settings_of(EVERYTHING_IN_TOML, syntax="toml") == settings_of(EVERYTHING)


def test_without_a_server_section_the_relay_listens_on_loopback() -> None:
    assert settings_of(SIMULATOR).server.listen == ("tcp:8787:interface=127.0.0.1",)


def test_a_section_whose_keys_are_all_commented_out_counts_as_absent() -> None:
    text = (
        "server:\nadmin:\nrouting:\n  affinity:\nproviders:\n  - {name: demo, type: simulator, keys: , simulator: }\n"
    )

    assert settings_of(text) == settings_of(SIMULATOR)


def test_the_defaults_are_those_of_the_documentation() -> None:
    settings = settings_of(SIMULATOR)

    assert (settings.server.timeout, settings.server.drain_timeout) == (600.0, 30.0)
    assert (settings.server.max_body_bytes, settings.server.max_inflight_body_bytes) == (32 << 20, 512 << 20)
    assert (settings.routing.strategy, settings.routing.failover_timeout, settings.routing.max_attempts) == (
        "failover",
        5.0,
        4,
    )
    assert (settings.health.failure_threshold, settings.health.open_duration) == (5, 30.0)
    assert (settings.logging.level, settings.logging.format, settings.logging.output) == ("info", None, "stdout")
    assert settings.admin_listen == ()


@pytest.mark.parametrize(
    ("entry", "base_url", "auth_header", "first_byte"),
    [
        ("{name: p, type: anthropic, keys: [{key: k}]}", "https://api.anthropic.com", "x-api-key", 120.0),
        ("{name: p, type: zai, keys: [{key: k}]}", "https://api.z.ai/api/anthropic", "bearer", 120.0),
        ("{name: p, type: minimax, keys: [{key: k}]}", "https://api.minimax.io/anthropic", "bearer", 120.0),
        ("{name: p, type: ollama}", "http://localhost:11434", "bearer", 330.0),
        (
            "{name: p, type: azure, azure_resource_name: mine, keys: [{key: k}]}",
            "https://mine.services.ai.azure.com/anthropic",
            "x-api-key",
            120.0,
        ),
        ("{name: p, type: bedrock, aws_region: us-east-1}", None, "x-api-key", 120.0),
        ("{name: p, type: vertex, gcp_project_id: p, gcp_region: global}", None, "x-api-key", 120.0),
        ("{name: p, type: simulator}", None, "x-api-key", 120.0),
    ],
)
def test_each_type_has_its_own_defaults(entry: str, base_url: str | None, auth_header: str, first_byte: float) -> None:
    provider = provider_of(entry)

    assert (provider.base_url, provider.auth_header, provider.timeouts.first_byte) == (
        base_url,
        auth_header,
        first_byte,
    )


def test_only_the_settings_of_its_own_cloud_are_set() -> None:
    bedrock = provider_of(
        "{name: p, type: bedrock, aws_region: eu-west-1, aws_access_key_id: i, aws_secret_access_key: s,"
        " aws_session_token: t, bedrock_api: mantle}"
    )
    bearer = provider_of("{name: p, type: bedrock, aws_region: eu-west-1, aws_bearer_token: b}")
    profile = provider_of("{name: p, type: bedrock, aws_region: eu-west-1, aws_profile: f}")
    vertex = provider_of(
        "{name: p, type: vertex, gcp_project_id: 'example.com:p', gcp_region: eu, gcp_count_tokens_region: us-east5,"
        " gcp_credentials_file: /f.json}"
    )
    azure = provider_of(
        "{name: p, type: azure, base_url: 'http://127.0.0.1:1', azure_api_version: 2024-06-01, azure_deployment_id: d,"
        " azure_tenant_id: t, azure_client_id: c, azure_client_secret: s}"
    )

    assert bedrock.aws == AwsSettings("eu-west-1", Secret("i"), Secret("s"), Secret("t"), None, None, "mantle")
    assert bearer.aws == AwsSettings("eu-west-1", None, None, None, None, Secret("b"), "invoke")
    assert profile.aws == AwsSettings("eu-west-1", None, None, None, "f", None, "invoke")
    assert vertex.gcp == GcpSettings("example.com:p", "eu", "us-east5", "/f.json")
    assert azure.azure == AzureSettings("2024-06-01", "d", "t", "c", Secret("s"), managed_identity=False)
    assert (bedrock.gcp, bedrock.azure, vertex.aws, vertex.azure, azure.aws, azure.gcp) == (None,) * 6


def test_the_simulator_rehearses_what_is_asked_for() -> None:
    plain = provider_of("{name: p, type: simulator}").simulator
    failing = provider_of("{name: p, type: simulator, simulator: {fail: {status: 529, stall_ms: 1500}}}").simulator
    spoken = provider_of(
        '{name: p, type: simulator, simulator: {text: "one\\ntwo", only_without_keys: false}}'
    ).simulator

    assert plain is not None
    assert (plain.fail, plain.only_without_keys) == (None, True)
    assert failing is not None
    assert failing.fail == FailSettings(status=529, rate=1.0, after_events=0, stall=1.5, cut=False)
    assert spoken is not None
    assert (spoken.text, spoken.only_without_keys) == ("one\ntwo", False)


def test_priority_and_weight_of_a_provider_are_those_of_its_first_key() -> None:
    keyed = provider_of("{name: p, type: zai, keys: [{key: a, priority: 2, weight: 5}, {key: b, priority: 0}]}")
    keyless = provider_of("{name: p, type: ollama}")
    zero = provider_of("{name: p, type: ollama, priority: 0, weight: 0}")

    assert (keyed.priority, keyed.weight) == (2, 5.0)
    assert (keyless.priority, keyless.weight) == (1, 1.0)
    assert (zero.priority, zero.weight) == (0, 1.0)


def test_a_second_key_makes_a_pool() -> None:
    assert provider_of("{name: p, type: zai, keys: [{key: a}, {key: b}]}").pooling.enabled
    assert not provider_of("{name: p, type: zai, keys: [{key: a}]}").pooling.enabled


def test_the_old_place_of_the_client_key_still_works() -> None:
    old = settings_of("server: {listen: '127.0.0.1:1', api_key: door}\n" + SIMULATOR)
    both = settings_of("server: {listen: '127.0.0.1:1', api_key: door, auth: {api_key: door}}\n" + SIMULATOR)

    assert old.server.auth.api_key == Secret("door")
    assert both == old


def test_disabled_providers_are_left_out() -> None:
    text = "providers: [{name: a, type: zai, enabled: false}, {name: b, type: simulator}]"

    assert [provider.name for provider in settings_of(text).providers] == ["b"]


@pytest.mark.parametrize("given", ["HTTP://Gateway.example.com:8080/x/", "http://Gateway.example.com:8080/x"])
def test_a_base_url_loses_its_last_slash(given: str) -> None:
    provider = provider_of(f"{{name: p, type: ollama, base_url: '{given}'}}")

    assert provider.base_url == "http://Gateway.example.com:8080/x"


def test_a_byte_order_mark_is_no_mistake() -> None:
    assert settings_of("\ufeff" + SIMULATOR) == settings_of(SIMULATOR)


def test_a_file_beyond_the_bound_is_not_even_parsed() -> None:
    assert problems_of("#" * 300_000) == ["larger than 262144 characters"]


def test_the_file_named_on_the_command_line_is_taken_as_it_is() -> None:
    assert find_config("missing.yaml", "/srv/relay", "/home/me", lambda path: False) == "missing.yaml"


def test_configurations_are_looked_for_from_the_nearest_place_to_the_farthest() -> None:
    there = [
        "/srv/relay/config.yaml",
        "/srv/relay/config.toml",
        "/home/me/.config/cc-relay/config.yaml",
        "/home/me/.config/cc-relay/config.toml",
        "/etc/cc-relay.yaml",
    ]
    found = [find_config(None, "/srv/relay", "/home/me", there[n:].__contains__) for n in range(len(there) + 1)]

    assert found == [*there, None]


def test_without_a_home_the_system_is_asked() -> None:
    tried: list[str] = []
    find_config(None, "/", "", lambda path: bool(tried.append(path)))

    assert tried == ["/config.yaml", "/config.toml", "/etc/cc-relay.yaml"]


def test_settings_show_no_secret() -> None:
    text = repr(load_text(EVERYTHING))

    assert not [secret for secret in ("'door'", "'bear'", "'first'", "'second'") if secret in text]
    assert Secret("first").fingerprint in text
