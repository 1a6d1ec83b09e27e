"""Settings of one provider as a file with its bare minimum gives them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ccrelay.core.secret import Secret
from ccrelay.core.settings import (
    AwsSettings,
    AzureSettings,
    GcpSettings,
    KeySettings,
    PoolingSettings,
    ProviderSettings,
    TimeoutSettings,
)

ADDRESSES = {
    "anthropic": "https://api.anthropic.com",
    "azure": "https://res.services.ai.azure.com/anthropic",
    "minimax": "https://api.minimax.io/anthropic",
    "ollama": "http://localhost:11434",
    "zai": "https://api.z.ai/api/anthropic",
}
AWS = AwsSettings("us-east-1", None, None, None, None, None, "invoke")
GCP = GcpSettings("my-project", "us-east5", None, None)
AZURE = AzureSettings(None, None, None, None, None, managed_identity=False)


def key_settings(text: str) -> KeySettings:
    return KeySettings(Secret(text), 0, 0, 0, priority=0, weight=1.0)


def provider_settings(
    type_: str, *, name: str = "north", keys: tuple[str, ...] = (), **changes: Any
) -> ProviderSettings:
    """Settings of that type. keys: secrets. changes: fields of ProviderSettings."""
    bare = ProviderSettings(
        name=name,
        type=type_,
        base_url=ADDRESSES.get(type_),
        keys=tuple(key_settings(text) for text in keys),
        models=(),
        model_mapping={},
        beta_overrides={},
        pooling=PoolingSettings(enabled=True, strategy="least_loaded"),
        priority=0,
        weight=1.0,
        context_window=None,
        auth_header="bearer" if type_ in ("minimax", "ollama", "zai") else "x-api-key",
        timeouts=TimeoutSettings(10.0, 120.0, 240.0),
        ca_file=None,
        proxy=None,
        aws=AWS if type_ == "bedrock" else None,
        gcp=GCP if type_ == "vertex" else None,
        azure=AZURE if type_ == "azure" else None,
        simulator=None,
    )
    return replace(bare, **changes)
