"""The kinds of upstream. To add one: a file here, a line in PROVIDERS, samples in tests/golden/providers."""

from __future__ import annotations

from ccrelay.core.settings import ProviderSettings
from ccrelay.errors import ConfigError, Problem
from ccrelay.providers.anthropic import AnthropicProvider
from ccrelay.providers.azure import AzureProvider
from ccrelay.providers.base import AnthropicFormat
from ccrelay.providers.bedrock import BedrockProvider, MantleProvider
from ccrelay.providers.minimax import MiniMaxProvider
from ccrelay.providers.ollama import OllamaProvider
from ccrelay.providers.simulator import SimulatorProvider
from ccrelay.providers.vertex import VertexProvider
from ccrelay.providers.zai import ZaiProvider

PROVIDERS: dict[str, type[AnthropicFormat]] = {
    "anthropic": AnthropicProvider,
    "azure": AzureProvider,
    "bedrock": BedrockProvider,
    "minimax": MiniMaxProvider,
    "ollama": OllamaProvider,
    "simulator": SimulatorProvider,
    "vertex": VertexProvider,
    "zai": ZaiProvider,
}


def build(settings: ProviderSettings) -> AnthropicFormat:
    """The IProvider for one configured provider. Raises ConfigError if this version does not know its type."""
    dialect = PROVIDERS.get(settings.type)
    if dialect is None:
        known = ", ".join(PROVIDERS)
        message = f"type {settings.type!r} is not supported by this version; known are {known}"
        raise ConfigError("configuration", (Problem(f"providers.{settings.name}", None, message),))
    if settings.aws is not None and settings.aws.api == "mantle":
        dialect = MantleProvider
    return dialect(settings)
