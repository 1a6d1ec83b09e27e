"""Azure AI Foundry: Anthropic's API under a resource's own host, models called by the names of their deployments.

What the gateway in front of the models refuses comes in Azure's ``{"error": {"code", "message"}}``, and its sentences
name subscriptions, tenants and resources; the models' own errors are Anthropic's envelope.
Source: anthropic SDK, lib/foundry.py; learn.microsoft.com on Claude in Foundry.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Final
from urllib.parse import quote

from ccrelay.core.complaints import Complaint
from ccrelay.core.mapping import mapped_model
from ccrelay.core.model import Call, Head
from ccrelay.providers.base import AnthropicFormat

_ACCOUNT: Final = re.compile(
    r"/?subscriptions/[^\s'\"`]+"
    r"|[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
    r"|[\w-]{1,64}+(?=\.(?:services\.ai|openai|cognitiveservices)\.azure\.com)",
    re.ASCII | re.IGNORECASE,
)


class AzureProvider(AnthropicFormat):
    """``type: azure``."""

    def model_for(self, asked: str) -> str:
        """The deployment that is mapped to, else the configured one, else the one named like the model."""
        found = mapped_model(asked, self.settings.model_mapping)
        if found is not None:
            return found
        return (self.settings.azure and self.settings.azure.deployment_id) or asked

    def query(self, call: Call) -> bytes:
        """The client's query; the operator's ``api-version``, where one is set, replaces the client's."""
        version = self.settings.azure.api_version if self.settings.azure else None
        if not version:
            return call.query
        pairs = [pair for pair in call.query.split(b"&") if pair and not pair.startswith(b"api-version=")]
        return b"&".join([*pairs, b"api-version=" + quote(version, safe="").encode("ascii")])

    def complaint(self, head: Head, body: bytes) -> Complaint:
        """Azure's own sentences lose what identifies the operator's account; Anthropic's envelope passes as it is."""
        found = super().complaint(head, body)
        return found if found.envelope else replace(found, message=_ACCOUNT.sub("[id]", found.message))
