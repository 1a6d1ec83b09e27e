"""The rules about a provider's credentials: each provider has one kind, and only that."""

from __future__ import annotations

from typing import Any

from ccrelay.core.config_document import Path, Report

_AWS = ("aws_bearer_token", "aws_access_key_id", "aws_profile")
"""Ways into AWS, in the order in which they win."""


def check_credentials(path: Path, provider: dict[str, Any], report: Report) -> None:
    """Whether one provider's ``aws_*`` or ``azure_*`` settings and keys contradict one another.

    provider: with the defaults filled in, its type known. What is half is told by the schema: the other half of an AWS
    key, the rest of an Entra application.
    """
    if provider["type"] == "bedrock" and report.clean(*((*path, key) for key in _AWS)):
        _check_aws(path, provider, report)
    entra = ("azure_client_secret", "azure_managed_identity", "azure_client_id", "keys")
    if provider["type"] == "azure" and report.clean(*((*path, key) for key in entra)):
        _check_azure(path, provider, report)


def _check_aws(path: Path, provider: dict[str, Any], report: Report) -> None:
    given = [key for key in _AWS if key in provider]
    if given[:2] == ["aws_bearer_token", "aws_access_key_id"]:
        report.error((*path, "aws_bearer_token"), "stands beside `aws_access_key_id`: keep one of the two")
    elif given[1:] == ["aws_profile"]:
        report.warn((*path, "aws_profile"), f"has no effect beside `{given[0]}`")


def _check_azure(path: Path, provider: dict[str, Any], report: Report) -> None:
    secret, identity = "azure_client_secret" in provider, provider["azure_managed_identity"]
    if secret and identity:
        report.error((*path, "azure_managed_identity"), "stands beside `azure_client_secret`: keep one of the two")
    elif (secret or identity) and provider["keys"]:
        setting = "azure_client_secret" if secret else "azure_managed_identity"
        report.error((*path, "keys"), f"stand beside `{setting}`: keep the keys or Entra ID, not both")
    elif "azure_client_id" in provider and not secret and not identity:
        report.warn((*path, "azure_client_id"), "has no effect without `azure_client_secret` or a managed identity")
