"""The rules that connect several keys."""

from __future__ import annotations

import pytest

from tests.config_loading import SIMULATOR, load_text, problems_of, provider_of, settings_of, warnings_of

UNGUARDED = (
    "without client authentication: set `server.auth.api_key`, or listen on 127.0.0.1, "
    "or say `server.auth.allow_unauthenticated: true`"
)
RESOURCE = "such as `azure_resource_name: my-azure-resource`"
USELESS = "is empty, and `server.auth.allow_subscription` is off: this provider can answer nobody"
NOT_ALONE = "is empty, which means the client's own credential: it must then be the only key"
NOT_A_HEADER = "begins or ends with white space, or holds something other than printable ASCII"


def server(values: str) -> str:
    return f"server: {{{values}}}\n{SIMULATOR}"


def providers(*entries: str) -> str:
    return "providers:\n" + "".join(f"  - {entry}\n" for entry in entries)


# Who may listen where


@pytest.mark.parametrize("listen", ["0.0.0.0:8787", ":8787", "192.0.2.1:8787", "'[::]:8787'", "tcp:8787", "relay:8787"])
def test_an_open_listener_without_authentication_is_refused(listen: str) -> None:
    assert problems_of(server(f"listen: '{listen.strip(chr(39))}'")) == [
        f"line 1: server.listen: listens beyond loopback {UNGUARDED}"
    ]


def test_the_listener_that_is_open_is_named() -> None:
    [problem] = problems_of(server("listen: ['127.0.0.1:1', '0.0.0.0:2']"))

    assert problem.startswith("line 1: server.listen[1]: listens beyond loopback")


def test_a_socket_whose_address_is_not_known_counts_as_open() -> None:
    [problem] = problems_of(server("listen: 'systemd:domain=INET:index=0'"))

    assert "may listen beyond loopback" in problem


@pytest.mark.parametrize(
    "auth",
    [
        "api_key: x",
        "auth: {api_key: x}",
        "auth: {allow_bearer: true, bearer_secret: x}",
        "auth: {allow_unauthenticated: true}",
        "auth: {allow_unauthenticated: true, allow_bearer: true}",
    ],
)
def test_an_open_listener_with_authentication_or_with_leave_is_taken(auth: str) -> None:
    assert settings_of(server(f"listen: ':8787', {auth}")).server.listen == ("tcp:8787",)


@pytest.mark.parametrize("auth", ["{allow_subscription: true}", "{bearer_secret: x}", "{allow_bearer: false}"])
def test_what_is_no_authentication_does_not_open_a_listener(auth: str) -> None:
    [problem] = problems_of(server(f"listen: ':8787', auth: {auth}"))

    assert "without client authentication" in problem


def test_any_bearer_passes_on_loopback_only() -> None:
    auth = "auth: {allow_bearer: true, api_key: x}"

    assert settings_of(server(f"listen: '127.0.0.1:1', {auth}")).server.auth.bearer_secret is None
    assert problems_of(server(f"listen: ':1', {auth}")) == [
        "line 1: server.listen: listens beyond loopback, where `allow_bearer` needs a `server.auth.bearer_secret`"
    ]


def test_a_bearer_secret_that_is_not_asked_for_is_pointed_out() -> None:
    assert warnings_of(server("listen: '127.0.0.1:1', auth: {bearer_secret: x}")) == [
        "line 1: server.auth.bearer_secret: has no effect without `allow_bearer: true`"
    ]


def test_two_different_client_keys_are_refused() -> None:
    assert problems_of(server("listen: '127.0.0.1:1', api_key: a, auth: {api_key: b}")) == [
        "line 1: server.api_key: differs from `server.auth.api_key`, its newer name: remove this one"
    ]


def test_the_same_address_twice_is_refused() -> None:
    assert problems_of(server("listen: ['127.0.0.1:1', 'localhost:1']")) == [
        "line 1: server.listen[1]: the same address twice"
    ]


def test_a_port_out_of_range_is_refused() -> None:
    assert problems_of(server("listen: '127.0.0.1:65536'")) == [
        "line 1: server.listen: the port must be a number between 0 and 65535"
    ]


@pytest.mark.parametrize("listen", ["0.0.0.0:1", "systemd:domain=INET:index=0", "192.0.2.7:1"])
def test_the_admin_listener_stays_on_the_machine(listen: str) -> None:
    assert problems_of(f"{SIMULATOR}admin: {{listen: '{listen}'}}") == [
        "line 2: admin.listen: must be on loopback or a unix socket, as it asks for no credential: 127.0.0.1:8788"
    ]


def test_the_admin_listener_is_never_the_clients_one() -> None:
    assert problems_of(f"{SIMULATOR}admin: {{listen: ['unix:/run/a', '127.0.0.1:8787']}}") == [
        "line 2: admin.listen[1]: is a client listener too; the admin listener needs an address of its own"
    ]


def test_the_memory_for_bodies_must_hold_the_largest() -> None:
    [problem] = problems_of(server("listen: '127.0.0.1:1', max_inflight_body_bytes: 99"))
    unlimited = settings_of(server("listen: '127.0.0.1:1', max_inflight_body_bytes: 0")).server

    assert problem.startswith("line 1: server.max_inflight_body_bytes: must be at least `max_body_bytes`")
    assert unlimited.max_inflight_body_bytes == 0


# Providers


def test_names_are_unique_among_disabled_providers_too() -> None:
    text = providers("{name: a, type: simulator}", "{name: b, type: simulator}", "{name: a, type: zai, enabled: false}")

    assert problems_of(text) == ["line 4: providers[2].name: the same name as providers[0]; names are unique"]


def test_one_provider_must_be_enabled() -> None:
    assert problems_of(providers("{name: a, type: simulator, enabled: false}")) == [
        "line 1: providers: every provider is disabled: enable at least one"
    ]


@pytest.mark.parametrize(
    ("entry", "missing"),
    [
        ("type: bedrock", ["aws_region: is required, such as `aws_region: us-east-1`"]),
        (
            "type: vertex",
            [
                "gcp_project_id: is required, such as `gcp_project_id: my-project`",
                "gcp_region: is required, such as `gcp_region: us-east5`",
            ],
        ),
        (
            "type: azure, keys: [{key: x}]",
            [
                f"azure_resource_name: is required, {RESOURCE}, unless there is a `base_url`",
            ],
        ),
        (
            "type: bedrock, aws_region: us-east-1, aws_session_token: x",
            ["aws_access_key_id: is required beside `aws_session_token`"],
        ),
        (
            "type: azure, azure_resource_name: r, azure_tenant_id: t",
            [
                "azure_client_id: is required beside `azure_tenant_id`",
                "azure_client_secret: is required beside `azure_tenant_id`",
                "keys: at least one key is required for azure",
            ],
        ),
    ],
)
def test_what_a_type_requires_is_named(entry: str, missing: list[str]) -> None:
    assert problems_of(providers(f"{{name: p, {entry}}}")) == [f"line 2: providers[0].{problem}" for problem in missing]


@pytest.mark.parametrize("kind", ["zai", "minimax", "anthropic", "azure"])
def test_a_key_is_required_where_nothing_else_can_serve(kind: str) -> None:
    [problem] = problems_of(providers(f"{{name: p, type: {kind}, base_url: 'http://h'}}"))

    assert problem.startswith(f"line 2: providers[0].keys: at least one key is required for {kind}")
    assert ("allow_subscription" in problem) == (kind == "anthropic")


@pytest.mark.parametrize(
    "entry",
    [
        "{name: p, type: ollama}",
        "{name: p, type: bedrock, aws_region: us-east-1}",
        "{name: p, type: vertex, gcp_project_id: p, gcp_region: us-east5}",
        "{name: p, type: simulator}",
        "{name: p, type: azure, azure_resource_name: r, azure_managed_identity: true}",
        "{name: p, type: azure, base_url: 'http://h', azure_tenant_id: t, azure_client_id: c, azure_client_secret: s}",
    ],
)
def test_keys_may_be_left_out_where_something_else_serves(entry: str) -> None:
    assert provider_of(entry).keys == ()


def test_anthropic_needs_no_key_where_clients_bring_their_own() -> None:
    text = "server: {listen: '127.0.0.1:1', auth: {allow_subscription: true}}\nproviders: [{name: a, type: anthropic}]"

    assert settings_of(text).providers[0].keys == ()


# Secrets


@pytest.mark.parametrize(
    ("text", "path"),
    [
        (server("listen: '127.0.0.1:1', api_key: ''"), "line 1: server.api_key"),
        (server("listen: '127.0.0.1:1', auth: {api_key: ''}"), "line 1: server.auth.api_key"),
        (providers("{name: p, type: zai, keys: [{key: ''}]}"), "line 2: providers[0].keys[0].key"),
        (providers("{name: p, type: ollama, keys: [{key: ''}]}"), "line 2: providers[0].keys[0].key"),
        (
            providers("{name: p, type: bedrock, aws_region: us-east-1, aws_bearer_token: ''}"),
            "line 2: providers[0].aws_bearer_token",
        ),
    ],
)
def test_an_empty_secret_is_refused(text: str, path: str) -> None:
    assert problems_of(text) == [f"{path}: is empty; a secret must not be"]


def test_an_empty_bearer_secret_is_not_the_same_as_none() -> None:
    assert problems_of(server("listen: '127.0.0.1:1', auth: {allow_bearer: true, bearer_secret: ''}")) == [
        "line 1: server.auth.bearer_secret: is empty; leave the key out if any bearer token shall pass"
    ]


def test_an_empty_key_of_anthropic_means_the_clients_own_credential() -> None:
    entry = "providers: [{name: a, type: anthropic, keys: [{key: '', priority: 2}]}]"
    loaded = load_text(entry)

    assert loaded.settings.providers[0].keys[0].secret is None
    assert [str(warning) for warning in loaded.warnings] == [f"line 1: providers[0].keys[0].key: {USELESS}"]
    assert warnings_of("server: {listen: '127.0.0.1:1', auth: {allow_subscription: true}}\n" + entry) == []


def test_an_empty_key_stands_alone() -> None:
    assert problems_of(providers("{name: a, type: anthropic, keys: [{key: x}, {key: ''}]}")) == [
        f"line 2: providers[0].keys[1].key: {NOT_ALONE}"
    ]


def test_an_empty_key_of_a_disabled_provider_waits_to_be_filled_in() -> None:
    text = providers("{name: a, type: zai, enabled: false, keys: [{key: ''}]}", "{name: b, type: simulator}")

    assert len(settings_of(text).providers) == 1


def test_the_same_key_twice_makes_no_pool() -> None:
    assert problems_of(providers("{name: a, type: zai, keys: [{key: x}, {key: y}, {key: x}]}")) == [
        "line 2: providers[0].keys[2].key: the same secret as keys[0] of this provider"
    ]


@pytest.mark.parametrize("secret", [" x", "x ", "a\nb", "a\x00b", "caf\u00e9", "sk\u2026", "x\r"])
def test_a_secret_that_no_header_can_carry_is_refused(secret: str) -> None:
    text = providers("{name: a, type: zai, keys: [{key: '${KEY}'}]}")

    assert problems_of(text, {"KEY": secret}) == [f"line 2: providers[0].keys[0].key: {NOT_A_HEADER}"]


# Addresses of providers


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("api.example.com", "must be a URL with a host: http://host or https://host"),
        ("ftp://api.example.com", "must be a URL with a host: http://host or https://host"),
        ("https://", "must be a URL with a host: http://host or https://host"),
        ("https:///v1", "must be a URL with a host: http://host or https://host"),
        ("https://a b.example.com", "must be a URL with a host: http://host or https://host"),
        ("https://b\u00fccher.example", "must be a URL with a host: http://host or https://host"),
        ("https://x.example:99999", "is not a URL"),
        ("https://[::1", "is not a URL"),
        ("https://me:pw@x.example", "must not hold a user name or password"),
        ("https://x.example/?key=1", "must not have a query, a fragment or white space"),
        ("https://x.example/?", "must not have a query, a fragment or white space"),
        ("https://x.example/#f", "must not have a query, a fragment or white space"),
        ("https://x.example/a b", "must not have a query, a fragment or white space"),
    ],
)
def test_a_base_url_is_a_plain_http_address(url: str, problem: str) -> None:
    assert problems_of(providers(f"{{name: a, type: ollama, base_url: '{url}'}}")) == [
        f"line 2: providers[0].base_url: {problem}"
    ]


@pytest.mark.parametrize("url", ["http://[::1]:11434", "http://10.0.0.1:1", "https://host_1.internal", "http://x/a/b"])
def test_addresses_of_all_kinds_are_taken(url: str) -> None:
    assert provider_of(f"{{name: a, type: ollama, base_url: '{url}'}}").base_url == url


def test_the_template_of_another_type_is_not_an_address() -> None:
    [problem] = problems_of(providers("{name: a, type: ollama, base_url: 'http://{azure_resource_name}'}"))

    assert "must be a URL with a host" in problem


@pytest.mark.parametrize("path", ["/v1", "/v1/messages", "/v1/"])
def test_a_base_url_with_the_path_that_will_be_added_is_pointed_out(path: str) -> None:
    [warning] = warnings_of(providers(f"{{name: a, type: ollama, base_url: 'http://x{path}'}}"))

    assert warning.startswith("line 2: providers[0].base_url: ends in the path that is added to it")


@pytest.mark.parametrize("proxy", ["https://proxy:3128", "http://me:pw@proxy:3128", "socks5://proxy"])
def test_a_proxy_speaks_http_and_asks_for_no_password(proxy: str) -> None:
    [problem] = problems_of(providers(f"{{name: a, type: ollama, proxy: '{proxy}'}}"))

    assert problem.startswith("line 2: providers[0].proxy: must ")


# Models, failures, routing


def test_a_star_stands_at_the_end_of_a_name() -> None:
    assert dict(provider_of("{name: a, type: ollama, model_mapping: {'claude-*': x, '*': y}}").model_mapping) == {
        "claude-*": "x",
        "*": "y",
    }
    assert problems_of(providers("{name: a, type: ollama, model_mapping: {'*-haiku': x}}")) == [
        'line 2: providers[0].model_mapping["*-haiku"]: a `*` has a meaning only at the end of a name'
    ]


def test_a_failure_to_rehearse_has_the_status_of_one() -> None:
    assert problems_of(providers("{name: a, type: simulator, simulator: {fail: {status: 200}}}")) == [
        "line 2: providers[0].simulator.fail.status: must be 400 or above, or 0"
    ]


def test_routing_names_providers_that_exist() -> None:
    text = (
        providers("{name: local, type: ollama}") + "routing: {model_mapping: {claude: locl}, default_provider: zai}\n"
    )

    assert problems_of(text) == [
        "line 3: routing.default_provider: no provider has this name",
        "line 3: routing.model_mapping.claude: no provider has this name; did you mean `local`?",
    ]


def test_names_in_routing_are_checked_beside_other_mistakes() -> None:
    text = (
        providers("{name: local, type: ollama, priorty: 1}") + "routing: {stratgy: failover, default_provider: locl}\n"
    )

    assert [problem.split(": ")[1] for problem in problems_of(text)] == [
        "providers[0].priorty",
        "routing.default_provider",
        "routing.stratgy",
    ]


@pytest.mark.parametrize(
    "entry", ["{type: ollama}", "local", "{name: 5, type: ollama}", "{name: '${N}', type: ollama}"]
)
def test_names_in_routing_are_left_alone_where_a_provider_has_none_that_can_be_read(entry: str) -> None:
    text = providers("{name: other, type: simulator}", entry) + "routing: {default_provider: local}\n"

    assert [problem for problem in problems_of(text) if "routing" in problem] == []


def test_routing_to_a_disabled_provider_counts_as_absent() -> None:
    text = (
        providers("{name: a, type: simulator}", "{name: b, type: zai, enabled: false}")
        + "routing: {strategy: model_based, model_mapping: {claude: a, glm: b}, default_provider: b}\n"
    )
    loaded = load_text(text)

    assert [warning.path for warning in loaded.warnings] == ["routing.default_provider", "routing.model_mapping.glm"]
    assert dict(loaded.settings.routing.model_mapping) == {"claude": "a"}
    assert loaded.settings.routing.default_provider is None


def test_model_based_routing_needs_something_to_go_by() -> None:
    assert problems_of(SIMULATOR + "routing: {strategy: model_based}") == [
        "line 2: routing.strategy: `model_based` needs `routing.model_mapping` or `routing.default_provider`"
    ]
