"""What an operator reads when a key, a type or a value is wrong."""

from __future__ import annotations

import pytest

from ccrelay.errors import ConfigError
from tests.config_loading import SIMULATOR, load_text, problems_of, warnings_of

STRATEGIES = "failover, round_robin, weighted_round_robin, shuffle, least_loaded, weighted_failover, model_based"
NOT_TEXT = "not text: leave out the quotes; what `${...}` gives must be exactly that"
TYPES = "anthropic, zai, minimax, ollama, bedrock, azure, vertex, simulator"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{name: a, type: simulator, prioritty: 1}", "prioritty: unknown key; did you mean `priority`?"),
        ("{name: a, type: simulator, Enabled: true}", "Enabled: unknown key; did you mean `enabled`?"),
        (
            "{name: a, type: vertex, gcp_project_id: p, gcp_region: eu, region: x}",
            "region: unknown key; did you mean `gcp_region`?",
        ),
        (
            "{name: a, type: bedrock, aws_region: us-east-1, region: x}",
            "region: unknown key; did you mean `aws_region`?",
        ),
        ("{name: a, type: simulator, ttl: 5}", "ttl: unknown key; it belongs under `routing.affinity`"),
        ("{name: a, type: simulator, xyzzy: 5}", "xyzzy: unknown key"),
        (
            "{name: a, type: simulator, simulator: {fail: {statsu: 500}}}",
            "simulator.fail.statsu: unknown key; did you mean `status`?",
        ),
        ("{name: a, type: olama}", f"type: must be one of {TYPES}; did you mean `ollama`?"),
        ("{name: a, type: gemini}", f"type: must be one of {TYPES}"),
        ("{name: a, type: 7}", f"type: must be one of {TYPES}"),
        ("{name: a}", f"type: is required: one of {TYPES}"),
        ("{type: simulator}", "name: is required, such as `name: anthropic`"),
        ("{name: 5, type: simulator}", "name: must be text: put it in quotes"),
        ("{name: yes, type: simulator}", "name: must be text: put it in quotes"),
        ("{name: [a], type: simulator}", "name: must be text"),
        ("{name: , type: simulator}", "name: must be text, but nothing stands here"),
        ("{name: '', type: simulator}", "name: is not of the right form; an example: anthropic"),
        ("{name: a, type: simulator, keys: {key: x}}", "keys: must be a list"),
        ("{name: a, type: simulator, pooling: true}", "pooling: must be a mapping (`key: value`)"),
        ("{name: a, type: simulator, enabled: 1}", "enabled: must be true or false"),
        ("{name: a, type: simulator, priority: 1.5}", "priority: must be a whole number"),
        (
            "{name: a, type: simulator, priority: '1'}",
            f"priority: must be a whole number, {NOT_TEXT}",
        ),
        ("{name: a, type: simulator, priority: 101}", "priority: must be between 0 and 100"),
        ("{name: a, type: simulator, weight: -0.5}", "weight: must be between 0 and 1000000"),
        ("{name: a, type: simulator, context_window: 0}", "context_window: must be at least 1"),
        ("{name: a, type: zai, keys: [{key: x, priority: 3}]}", "keys[0].priority: must be between 0 and 2"),
        ("{name: a, type: zai, keys: [{}]}", 'keys[0].key: is required, such as `key: "${ANTHROPIC_API_KEY}"`'),
        ("{name: a, type: zai, keys: [x]}", "keys[0]: must be a mapping (`key: value`)"),
        ("{name: a, type: ollama, model_mapping: {x: 1}}", "model_mapping.x: must be text: put it in quotes"),
        ("{name: a, type: ollama, models: ['']}", "models[0]: must not be empty"),
        (
            "{name: a, type: ollama, model_mapping: {claude-haiku-4.5: 1}}",
            'model_mapping["claude-haiku-4.5"]: must be text: put it in quotes',
        ),
        (
            "{name: a, type: bedrock, aws_region: US East}",
            "aws_region: is not of the right form; an example: us-east-1",
        ),
        ('{name: a, type: ollama, ca_file: "a\\nb"}', "ca_file: holds a line break or a control character"),
        (
            '{name: a, type: simulator, model_mapping: {"a\\0": b}}',
            "model_mapping: a key here holds a line break or a control character",
        ),
    ],
)
def test_a_mistake_in_a_provider_is_named_with_its_path_and_line(text: str, problem: str) -> None:
    assert problems_of(f"# comment\nproviders:\n  - {text}\n") == [f"line 3: providers[0].{problem}"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("timeout_ms: 5", "line 2: timeout_ms: unknown key; it belongs under `server`"),
        ("routing: [failover]", "line 2: routing: must be a mapping (`key: value`)"),
        (
            "routing: {strategy: fail_over}",
            f"line 2: routing.strategy: must be one of {STRATEGIES}; did you mean `failover`?",
        ),
        ("server: {}", "line 2: server.listen: is required, such as `listen: 127.0.0.1:8787`"),
        ("server: {listen: }", "line 2: server.listen: must be text or a list, but nothing stands here"),
        ("server: {listen: []}", "line 2: server.listen: must not be empty; an example: 127.0.0.1:8787"),
        ("server: {listen: 8787}", "line 2: server.listen: must be text or a list: put it in quotes"),
        (
            "server: {listen: '127.0.0.1:1', timeout_ms: 0}",
            "line 2: server.timeout_ms: must be between 1 and 86400000",
        ),
        ("server: {listen: '127.0.0.1:1', workers: 0}", "line 2: server.workers: must be between 1 and 256"),
        (
            "server: {listen: '127.0.0.1:1', tls: {certificate: /c.pem}}",
            "line 2: server.tls.private_key: is required, such as `private_key: /etc/cc-relay/tls/privkey.pem`",
        ),
        (
            "server: {listen: '127.0.0.1:1', allowed_hosts: ['relay.example.com:80']}",
            "line 2: server.allowed_hosts[0]: is not of the right form; an example: relay.example.com",
        ),
        (
            "logging: {level: WARN}",
            "line 2: logging.level: must be one of debug, info, warn, error; did you mean `warn`?",
        ),
    ],
)
def test_a_mistake_elsewhere_is_named_with_its_path_and_line(text: str, problem: str) -> None:
    assert problems_of(f"{SIMULATOR}{text}\n") == [problem]


@pytest.mark.parametrize("text", ["server: {listen: '127.0.0.1:1'}", "providers:", "providers: []"])
def test_providers_are_required(text: str) -> None:
    assert [problem.split(": ", 1)[1] for problem in problems_of(text)] in (
        ["is required"],
        ["providers: is required"],
        ["providers: must not be empty"],
    )


def test_all_mistakes_are_told_at_once_in_file_order() -> None:
    problems = problems_of("""
        server:
          timeout_ms: soon
        providers:
          - name: a
            type: anthropic
            keys:
              - key: "${UNSET}"
          - name: a
            type: bedrock
            aws_region: us-east-1
            aws_access_key_id: x
          - name: c
            type: azure
            keys: [{key: k}]
        """)

    assert [problem.split(": ")[:2] for problem in problems] == [
        ["line 2", "server.listen"],
        ["line 3", "server.timeout_ms"],
        ["line 8", "providers[0].keys[0].key"],
        ["line 9", "providers[1].aws_secret_access_key"],
        ["line 9", "providers[1].name"],
        ["line 13", "providers[2].azure_resource_name"],
    ]


def test_the_error_reads_as_a_list_under_the_name_of_the_file() -> None:
    with pytest.raises(ConfigError) as refused:
        load_text("providers:\n  - {name: a, typ: simulator}\n")

    assert str(refused.value).splitlines() == [
        "relay.yaml: 2 problem(s)",
        "  line 2: providers[0].typ: unknown key; did you mean `type`?",
        f"  line 2: providers[0].type: is required: one of {TYPES}",
    ]


def test_keys_of_older_files_give_one_warning_each() -> None:
    text = f"""
{SIMULATOR}
grpc:
  listen: ":9090"
metrics: {{enabled: true, port: 9}}
cache: {{mode: single}}
logging: {{file: /var/log/x, pretty: true, level: info}}
health:
  check_interval_seconds: 5
"""

    assert [warning.split(": has no effect")[0] for warning in warnings_of(text)] == [
        "line 4: grpc",
        "line 6: metrics",
        "line 7: cache",
        "line 8: logging.file",
        "line 8: logging.pretty",
        "line 10: health.check_interval_seconds",
    ]


@pytest.mark.parametrize(
    ("entry", "keys"),
    [
        ("{name: a, type: ollama, aws_region: us-east-1, bedrock_api: mantle}", ["aws_region", "bedrock_api"]),
        ("{name: a, type: simulator, base_url: 'http://x', auth_header: bearer}", ["base_url", "auth_header"]),
        ("{name: a, type: zai, keys: [{key: k}], simulator: {text: x}}", ["simulator"]),
    ],
)
def test_keys_of_another_type_give_a_warning(entry: str, keys: list[str]) -> None:
    warnings = warnings_of(f"providers:\n  - {entry}\n")

    assert [warning.split(": has no effect under type ")[0] for warning in warnings] == sorted(
        f"line 2: providers[0].{key}" for key in keys
    )


def test_what_a_key_without_a_value_is_called_stays_untold() -> None:
    assert problems_of("providers: [{name: a, type: zai, keys: [{hunter2}]}]") == [
        "line 1: providers[0].keys[0]: holds an unknown key",
        'line 1: providers[0].keys[0].key: is required, such as `key: "${ANTHROPIC_API_KEY}"`',
    ]
    assert problems_of(SIMULATOR + "sk-ant-1: 5") == ["holds an unknown key"]
