"""The configuration as frozen values: what `config.load` makes of a file and the runtime is built from.

Durations are in seconds (files give milliseconds), sizes in bytes. Defaults live in the JSON Schema, not here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ccrelay.core.secret import Secret


@dataclass(frozen=True, slots=True)
class AuthSettings:
    """Who may use the relay.

    api_key: what clients present, as ``x-api-key`` or bearer; None: not asked for.
    bearer_secret: what a bearer must equal; None with ``allow_bearer``: any bearer passes (loopback only).
    allow_subscription: a client's own Anthropic credential may pass through to ``type: anthropic``.
    """

    api_key: Secret | None
    allow_bearer: bool
    bearer_secret: Secret | None
    allow_subscription: bool
    allow_unauthenticated: bool


@dataclass(frozen=True, slots=True)
class TlsSettings:
    """PEM file paths of the listener's certificate chain and key."""

    certificate: str
    private_key: str


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """The data listener. ``listen``: Twisted endpoint strings. A limit of 0 means none.

    allowed_hosts: lower-case Host names, beyond the loopback ones, that a loopback listener answers to.
    workers: processes that share the listener.
    """

    listen: tuple[str, ...]
    allowed_hosts: tuple[str, ...]
    auth: AuthSettings
    timeout: float
    max_concurrent: int
    max_body_bytes: int
    max_inflight_body_bytes: int
    header_timeout: float
    body_stall_timeout: float
    write_stall_timeout: float
    drain_timeout: float
    tls: TlsSettings | None
    enable_http2: bool
    workers: int


@dataclass(frozen=True, slots=True)
class KeySettings:
    """One upstream key. Limits are per minute, 0: learn from headers. ``secret`` None: the client's own only."""

    secret: Secret | None
    rpm_limit: int
    itpm_limit: int
    otpm_limit: int
    priority: int
    weight: float


@dataclass(frozen=True, slots=True)
class PoolingSettings:
    """Whether all keys of a provider are used, and how one is chosen."""

    enabled: bool
    strategy: str


@dataclass(frozen=True, slots=True)
class TimeoutSettings:
    """Seconds, per attempt: TCP connect; from the end of the upload to the answer's head; between answer bytes."""

    connect: float
    first_byte: float
    idle: float


@dataclass(frozen=True, slots=True)
class AwsSettings:
    """A Bedrock provider's account; credentials that are None come from AWS's default chain."""

    region: str
    access_key_id: Secret | None
    secret_access_key: Secret | None
    session_token: Secret | None
    profile: str | None
    bearer_token: Secret | None
    api: str


@dataclass(frozen=True, slots=True)
class GcpSettings:
    """A Vertex provider's project; without a file the application default credentials are used."""

    project_id: str
    region: str
    count_tokens_region: str | None
    credentials_file: str | None


@dataclass(frozen=True, slots=True)
class AzureSettings:
    """An Azure AI Foundry resource. ``api_version`` is sent only if it was set. Entra ID fields replace a key."""

    api_version: str | None
    deployment_id: str | None
    tenant_id: str | None
    client_id: str | None
    client_secret: Secret | None
    managed_identity: bool


@dataclass(frozen=True, slots=True)
class FailSettings:
    """Failures the simulator rehearses.

    status: HTTP status to answer instead (0: none). rate: share of calls that fail, 0..1.
    after_events: fail in mid-stream after so many events (0: before the head). stall: seconds of silence at
    that point. cut: break the connection at that point.
    """

    status: int
    rate: float
    after_events: int
    stall: float
    cut: bool


@dataclass(frozen=True, slots=True)
class SimulatorSettings:
    """The embedded upstream. ``only_without_keys``: answer only while no other provider could be asked."""

    text: str
    tokens_per_second: float
    first_byte: float
    only_without_keys: bool
    fail: FailSettings | None


@dataclass(frozen=True, slots=True)
class ProviderSettings:
    """One enabled entry of ``providers``. ``base_url`` has no trailing slash; None where the type derives it.

    beta_overrides: names of betas or pairs (``core.pairs``), True to send them and False to leave them out.
    """

    name: str
    type: str
    base_url: str | None
    keys: tuple[KeySettings, ...]
    models: tuple[str, ...]
    model_mapping: Mapping[str, str]
    beta_overrides: Mapping[str, bool]
    pooling: PoolingSettings
    priority: int
    weight: float
    context_window: int | None
    auth_header: str
    timeouts: TimeoutSettings
    ca_file: str | None
    proxy: str | None
    aws: AwsSettings | None
    gcp: GcpSettings | None
    azure: AzureSettings | None
    simulator: SimulatorSettings | None


@dataclass(frozen=True, slots=True)
class AffinitySettings:
    """Whether a session keeps its provider and key, until it has been idle for ``ttl`` seconds."""

    enabled: bool
    ttl: float


@dataclass(frozen=True, slots=True)
class RoutingSettings:
    """How candidates are ordered and how many are tried. ``failover_timeout``: seconds. ``retry_budget``: a share."""

    strategy: str
    model_mapping: Mapping[str, str]
    default_provider: str | None
    failover_timeout: float
    max_attempts: int
    retry_budget: float
    affinity: AffinitySettings
    debug: bool


@dataclass(frozen=True, slots=True)
class HealthSettings:
    """The circuit breaker's numbers, and how often an open circuit is probed."""

    failure_threshold: int
    open_duration: float
    half_open_probes: int
    check_enabled: bool
    check_interval: float


@dataclass(frozen=True, slots=True)
class LoggingSettings:
    """``format``: json, text, console; None: console on a terminal, else json. ``output``: stdout, stderr, a path."""

    level: str
    format: str | None
    output: str
    log_request_body: bool
    log_response_headers: bool
    max_body_log_size: int


@dataclass(frozen=True, slots=True)
class Settings:
    """A whole configuration. ``providers``: the enabled ones, in file order. ``admin_listen``: endpoint strings."""

    server: ServerSettings
    admin_listen: tuple[str, ...]
    providers: tuple[ProviderSettings, ...]
    routing: RoutingSettings
    health: HealthSettings
    logging: LoggingSettings
