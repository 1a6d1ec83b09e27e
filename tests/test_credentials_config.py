"""Credentials in the configuration: what contradicts itself, and what each provider ends up with."""

from __future__ import annotations

import pytest

from tests.config_loading import problems_of, provider_of, warnings_of

BEDROCK = "name: p, type: bedrock, aws_region: us-east-1"
AZURE = "name: p, type: azure, azure_resource_name: r"
APPLICATION = "azure_tenant_id: t, azure_client_id: c, azure_client_secret: s"
KEY = "aws_access_key_id: a, aws_secret_access_key: b"


def one(entry: str) -> str:
    return f"providers:\n  - {{{entry}}}\n"


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        (
            f"{BEDROCK}, aws_access_key_id: a",
            "aws_secret_access_key: is required beside `aws_access_key_id`",
        ),
        (
            f"{BEDROCK}, aws_secret_access_key: b",
            "aws_access_key_id: is required beside `aws_secret_access_key`",
        ),
        (
            f"{BEDROCK}, {KEY}, aws_bearer_token: x",
            "aws_bearer_token: stands beside `aws_access_key_id`: keep one of the two",
        ),
        (
            f"{AZURE}, {APPLICATION}, azure_managed_identity: true",
            "azure_managed_identity: stands beside `azure_client_secret`: keep one of the two",
        ),
        (
            f"{AZURE}, {APPLICATION}, keys: [{{key: k}}]",
            "keys: stand beside `azure_client_secret`: keep the keys or Entra ID, not both",
        ),
        (
            f"{AZURE}, azure_managed_identity: true, keys: [{{key: k}}]",
            "keys: stand beside `azure_managed_identity`: keep the keys or Entra ID, not both",
        ),
    ],
)
def test_two_kinds_of_credentials_or_half_of_one_are_refused(entry: str, problem: str) -> None:
    assert problems_of(one(entry)) == [f"line 2: providers[0].{problem}"]


@pytest.mark.parametrize(
    ("entry", "warning"),
    [
        (f"{BEDROCK}, {KEY}, aws_profile: dev", "aws_profile: has no effect beside `aws_access_key_id`"),
        (f"{BEDROCK}, aws_bearer_token: x, aws_profile: dev", "aws_profile: has no effect beside `aws_bearer_token`"),
        (
            f"{AZURE}, azure_client_id: c, keys: [{{key: k}}]",
            "azure_client_id: has no effect without `azure_client_secret` or a managed identity",
        ),
    ],
)
def test_a_setting_that_another_outdoes_is_warned_of(entry: str, warning: str) -> None:
    assert warnings_of(one(entry)) == [f"line 2: providers[0].{warning}"]


@pytest.mark.parametrize(
    "entry",
    [
        f"{BEDROCK}, aws_profile: dev",
        f"{BEDROCK}, {KEY}, aws_session_token: t",
        f"{AZURE}, {APPLICATION}",
        f"{AZURE}, azure_managed_identity: true, azure_client_id: c",
        f"{AZURE}, keys: [{{key: k}}]",
    ],
)
def test_one_kind_of_credentials_is_taken_without_a_word(entry: str) -> None:
    assert provider_of(f"{{{entry}}}").name == "p"


def test_a_contradiction_is_told_beside_other_mistakes_of_the_same_provider() -> None:
    problems = problems_of(one(f"{AZURE}, azure_managed_identity: 3, {APPLICATION}, priority: x"))

    assert [problem.partition(": ")[2].partition(":")[0] for problem in problems] == [
        "providers[0].azure_managed_identity",
        "providers[0].priority",
    ]
