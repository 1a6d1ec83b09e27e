"""A checked tree with its defaults to Settings: milliseconds become seconds, texts become secrets."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from ccrelay.core.catalogue import default_models
from ccrelay.core.config_listen import parse_listener
from ccrelay.core.config_schema import AZURE_RESOURCE
from ccrelay.core.secret import Secret
from ccrelay.core.settings import (
    AffinitySettings,
    AuthSettings,
    AwsSettings,
    AzureSettings,
    FailSettings,
    GcpSettings,
    HealthSettings,
    KeySettings,
    LoggingSettings,
    PoolingSettings,
    ProviderSettings,
    RoutingSettings,
    ServerSettings,
    Settings,
    SimulatorSettings,
    TimeoutSettings,
    TlsSettings,
)

Tree = dict[str, Any]


def build_settings(tree: Tree) -> Settings:
    """The settings that a tree stands for. It must have passed every check; nothing is checked here."""
    providers = tuple(_provider(provider) for provider in tree["providers"] if provider["enabled"])
    return Settings(
        server=_server(tree["server"]),
        admin_listen=_endpoints(tree["admin"].get("listen", [])),
        providers=providers,
        routing=_routing(tree["routing"], {provider.name for provider in providers}),
        health=_health(tree["health"]),
        logging=_logging(tree["logging"]),
    )


def _server(tree: Tree) -> ServerSettings:
    auth = tree["auth"]
    return ServerSettings(
        listen=_endpoints(tree["listen"]),
        allowed_hosts=tuple(name.lower() for name in tree["allowed_hosts"]),
        auth=AuthSettings(
            api_key=_secret(auth, "api_key") or _secret(tree, "api_key"),
            allow_bearer=auth["allow_bearer"],
            bearer_secret=_secret(auth, "bearer_secret"),
            allow_subscription=auth["allow_subscription"],
            allow_unauthenticated=auth["allow_unauthenticated"],
        ),
        timeout=_seconds(tree, "timeout_ms"),
        max_concurrent=int(tree["max_concurrent"]),
        max_body_bytes=int(tree["max_body_bytes"]),
        max_inflight_body_bytes=int(tree["max_inflight_body_bytes"]),
        header_timeout=_seconds(tree, "header_timeout_ms"),
        body_stall_timeout=_seconds(tree, "body_stall_timeout_ms"),
        write_stall_timeout=_seconds(tree, "write_stall_timeout_ms"),
        drain_timeout=_seconds(tree, "drain_timeout_ms"),
        tls=TlsSettings(**tree["tls"]) if "tls" in tree else None,
        enable_http2=tree["enable_http2"],
        workers=int(tree["workers"]),
    )


def _provider(tree: Tree) -> ProviderSettings:
    kind = tree["type"]
    keys = tuple(_key(key) for key in tree["keys"])
    timeouts, pooling = tree["timeouts"], tree["pooling"]
    return ProviderSettings(
        name=tree["name"],
        type=kind,
        base_url=_base_url(tree) if kind != "simulator" else None,
        keys=keys,
        models=tuple(tree["models"]) if "models" in tree else default_models(kind),
        model_mapping=MappingProxyType(tree["model_mapping"]),
        beta_overrides=MappingProxyType(tree["beta_overrides"]),
        pooling=PoolingSettings(pooling.get("enabled", len(keys) > 1), pooling["strategy"]),
        priority=int(tree.get("priority", keys[0].priority if keys else 1)),
        weight=_weight(tree) if "weight" in tree else keys[0].weight if keys else 1.0,
        context_window=int(tree["context_window"]) if "context_window" in tree else None,
        auth_header=tree["auth_header"],
        timeouts=TimeoutSettings(
            connect=_seconds(timeouts, "connect_ms"),
            first_byte=_seconds(timeouts, "first_byte_ms"),
            idle=_seconds(timeouts, "idle_ms"),
        ),
        ca_file=tree.get("ca_file"),
        proxy=_url(tree["proxy"]) if "proxy" in tree else None,
        aws=_aws(tree) if kind == "bedrock" else None,
        gcp=_gcp(tree) if kind == "vertex" else None,
        azure=_azure(tree) if kind == "azure" else None,
        simulator=_simulator(tree["simulator"]) if kind == "simulator" else None,
    )


def _key(tree: Tree) -> KeySettings:
    half = (int(tree["tpm_limit"]) + 1) // 2  # rounded up: half of 1 must not become 0, which means "learn"
    return KeySettings(
        secret=_secret(tree, "key"),
        rpm_limit=int(tree["rpm_limit"]),
        itpm_limit=int(tree.get("itpm_limit", half)),
        otpm_limit=int(tree.get("otpm_limit", half)),
        priority=int(tree["priority"]),
        weight=_weight(tree),
    )


def _aws(tree: Tree) -> AwsSettings:
    return AwsSettings(
        region=tree["aws_region"],
        access_key_id=_secret(tree, "aws_access_key_id"),
        secret_access_key=_secret(tree, "aws_secret_access_key"),
        session_token=_secret(tree, "aws_session_token"),
        profile=tree.get("aws_profile"),
        bearer_token=_secret(tree, "aws_bearer_token"),
        api=tree["bedrock_api"],
    )


def _gcp(tree: Tree) -> GcpSettings:
    return GcpSettings(
        project_id=tree["gcp_project_id"],
        region=tree["gcp_region"],
        count_tokens_region=tree.get("gcp_count_tokens_region"),
        credentials_file=tree.get("gcp_credentials_file"),
    )


def _azure(tree: Tree) -> AzureSettings:
    return AzureSettings(
        api_version=tree.get("azure_api_version"),
        deployment_id=tree.get("azure_deployment_id"),
        tenant_id=tree.get("azure_tenant_id"),
        client_id=tree.get("azure_client_id"),
        client_secret=_secret(tree, "azure_client_secret"),
        managed_identity=tree["azure_managed_identity"],
    )


def _simulator(tree: Tree) -> SimulatorSettings:
    fail = tree.get("fail")
    return SimulatorSettings(
        text=tree["text"],
        tokens_per_second=float(tree["tokens_per_second"]),
        first_byte=_seconds(tree, "first_byte_ms"),
        only_without_keys=tree["only_without_keys"],
        fail=None
        if fail is None
        else FailSettings(
            status=int(fail["status"]),
            rate=float(fail["rate"]),
            after_events=int(fail["after_events"]),
            stall=_seconds(fail, "stall_ms"),
            cut=fail["cut"],
        ),
    )


def _routing(tree: Tree, enabled: set[str]) -> RoutingSettings:
    """Entries that name a disabled provider are left out, so that a shorter beginning or the default applies."""
    default = tree.get("default_provider")
    return RoutingSettings(
        strategy=tree["strategy"],
        model_mapping=MappingProxyType({k: name for k, name in tree["model_mapping"].items() if name in enabled}),
        default_provider=default if default in enabled else None,
        failover_timeout=_seconds(tree, "failover_timeout"),
        max_attempts=int(tree["max_attempts"]),
        retry_budget=float(tree["retry_budget"]),
        affinity=AffinitySettings(tree["affinity"]["enabled"], float(tree["affinity"]["ttl"])),
        debug=tree["debug"],
    )


def _health(tree: Tree) -> HealthSettings:
    breaker, check = tree["circuit_breaker"], tree["health_check"]
    return HealthSettings(
        failure_threshold=int(breaker["failure_threshold"]),
        open_duration=_seconds(breaker, "open_duration_ms"),
        half_open_probes=int(breaker["half_open_probes"]),
        check_enabled=check["enabled"],
        check_interval=_seconds(check, "interval_ms"),
    )


def _logging(tree: Tree) -> LoggingSettings:
    debug = tree["debug_options"]
    return LoggingSettings(
        level=tree["level"],
        format=tree.get("format"),
        output=tree["output"],
        log_request_body=debug["log_request_body"],
        log_response_headers=debug["log_response_headers"],
        max_body_log_size=int(debug["max_body_log_size"]),
    )


def _endpoints(given: str | list[str]) -> tuple[str, ...]:
    return tuple(parse_listener(text).endpoint for text in ([given] if isinstance(given, str) else given))


def _base_url(tree: Tree) -> str | None:
    url = tree.get("base_url")
    return None if url is None else _url(url.replace(AZURE_RESOURCE, tree.get("azure_resource_name", "")))


def _url(text: str) -> str:
    """The URL with its scheme in lower case and without slashes at the end."""
    return urlunsplit(urlsplit(text)).rstrip("/")


def _secret(tree: Mapping[str, Any], key: str) -> Secret | None:
    return Secret(tree[key]) if tree.get(key) else None


def _seconds(tree: Mapping[str, Any], key: str) -> float:
    return float(tree[key]) / 1000


def _weight(tree: Mapping[str, Any]) -> float:
    return float(tree["weight"]) or 1.0
