"""Ollama, local or in its cloud, by its Anthropic endpoint (since v0.14). Errors are Anthropic's envelope.

Source: docs/api/anthropic-compatibility.mdx and middleware/anthropic.go of github.com/ollama/ollama.
"""

from __future__ import annotations

from ccrelay.providers.base import AnthropicFormat


class OllamaProvider(AnthropicFormat):
    """``type: ollama``. A local one asks for no key; the cloud takes it as a bearer only."""

    family = "ollama"
    needs_key = False
    counts_tokens = False
