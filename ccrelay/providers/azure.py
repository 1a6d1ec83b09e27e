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
from ccrelay.core.failures import Remedy
from ccrelay.core.mapping import MappedModel
from ccrelay.core.model import Call, Head
from ccrelay.core.settings import ProviderSettings
from ccrelay.providers.base import AnthropicFormat

_ACCOUNT: Final = re.compile(
    r"/?subscriptions/[^\s'\"`]+"
    r"|[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
    r"|[\w-]{1,64}+(?=\.(?:services\.ai|openai|cognitiveservices)\.azure\.com)",
    re.ASCII | re.IGNORECASE,
)


class AzureProvider(AnthropicFormat):
    """``type: azure``. It takes Anthropic's format, and all of its betas until it has refused one."""

    table = "azure"

    def __init__(self, settings: ProviderSettings) -> None:
        super().__init__(settings)
        self.inspects_body = not all(settings.beta_overrides.values())  # else there is nothing to look for

    def mapping_of(self, asked: str) -> MappedModel:
        """The deployment that is mapped to, else the configured one, else the one named like the model."""
        found = super().mapping_of(asked)
        deployment = self.settings.azure and self.settings.azure.deployment_id
        return MappedModel(deployment, "azure_deployment_id") if deployment and found.by != "model_mapping" else found

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

    def remedy(self, complaint: Complaint) -> Remedy | None:
        """A token of Entra ID may have expired early; a key is no better the second time."""
        if complaint.status == 401 and not self.settings.keys:
            return Remedy(renew=True)
        return super().remedy(complaint)
