"""Which credentials each provider's settings come to, and what is refused at the start."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from ccrelay.core.model import AwsKeys, HeaderCredential
from ccrelay.core.secret import Secret
from ccrelay.credentials import build
from ccrelay.credentials.build import credentials_for
from ccrelay.credentials.refreshing import RefreshingCredentials
from ccrelay.credentials.static import StaticCredentials
from ccrelay.credentials.threads import CredentialThreads
from ccrelay.errors import ConfigError
from tests.config_loading import provider_of

ROOT = Path(__file__).resolve().parent.parent
BEDROCK = "name: p, type: bedrock, aws_region: us-east-1"
VERTEX = "name: p, type: vertex, gcp_project_id: q, gcp_region: global"
AZURE = "name: p, type: azure, azure_resource_name: r"
KEY = "aws_access_key_id: a, aws_secret_access_key: b"


def built(entry: str, **environ: str) -> StaticCredentials | RefreshingCredentials | None:
    settings = provider_of(f"{{{entry}}}")
    return credentials_for(settings, environ, CredentialThreads(object()), Clock(), lambda: 0.0)


def fixed(entry: str, **environ: str) -> object:
    credentials = built(entry, **environ)
    assert isinstance(credentials, StaticCredentials)
    found: list[object] = []
    current: Deferred[Any] = credentials.current()
    current.addCallback(found.append)
    return found[0]


def bearer(text: str) -> HeaderCredential:
    return HeaderCredential(((b"authorization", Secret(f"Bearer {text}")),))


def problem(entry: str, **environ: str) -> str:
    with pytest.raises(ConfigError) as refused:
        built(entry, **environ)
    [one] = refused.value.problems
    return str(one)


def test_keys_that_are_configured_are_used_as_they_are() -> None:
    assert fixed(f"{BEDROCK}, {KEY}") == AwsKeys(Secret("a"), Secret("b"), None)
    assert fixed(f"{BEDROCK}, {KEY}, aws_session_token: c") == AwsKeys(Secret("a"), Secret("b"), Secret("c"))


def test_a_bearer_token_is_sent_as_one_and_the_setting_wins_over_the_environment() -> None:
    assert fixed(f"{BEDROCK}, aws_bearer_token: x", AWS_BEARER_TOKEN_BEDROCK="y") == bearer("x")
    assert fixed(BEDROCK, AWS_BEARER_TOKEN_BEDROCK="y\n") == bearer("y")


@pytest.mark.parametrize("explicit", [KEY, "aws_profile: dev"])
def test_what_is_configured_wins_over_a_bearer_token_of_the_environment(explicit: str) -> None:
    credentials = built(f"{BEDROCK}, {explicit}", AWS_BEARER_TOKEN_BEDROCK="y")

    assert isinstance(credentials, StaticCredentials if explicit == KEY else RefreshingCredentials)


@pytest.mark.parametrize(
    "entry",
    [
        BEDROCK,
        VERTEX,
        f"{AZURE}, azure_managed_identity: true",
        f"{AZURE}, azure_tenant_id: t, azure_client_id: c, azure_client_secret: s",
    ],
)
def test_what_expires_is_refreshed_and_nothing_is_fetched_by_building(entry: str) -> None:
    # The reactor stand-in can do nothing: a fetch would raise.
    assert isinstance(built(entry), RefreshingCredentials)


@pytest.mark.parametrize("entry", [f"{AZURE}, keys: [{{key: k}}]", "name: p, type: zai, keys: [{key: k}]"])
def test_a_provider_with_keys_has_no_other_credentials(entry: str) -> None:
    assert built(entry) is None


def test_a_token_of_the_environment_that_no_header_can_carry_is_refused_without_being_shown() -> None:
    told = problem(BEDROCK, AWS_BEARER_TOKEN_BEDROCK="to\nken")

    assert told == "providers.p.aws_bearer_token: AWS_BEARER_TOKEN_BEDROCK in the environment is no token"


def test_a_credentials_file_is_checked_at_the_start(tmp_path: Path) -> None:
    told = problem(f"{VERTEX}, gcp_credentials_file: {tmp_path}/none.json")

    assert told == (
        f"providers.p.gcp_credentials_file: gcp_credentials_file: {tmp_path}/none.json: there is no such file"
    )


def test_an_authority_that_cannot_be_used_is_refused_at_the_start() -> None:
    entry = f"{AZURE}, azure_tenant_id: t, azure_client_id: c, azure_client_secret: s"
    told = problem(entry, AZURE_AUTHORITY_HOST="http://login.example")

    assert told.startswith("providers.p.azure_client_secret: AZURE_AUTHORITY_HOST in the environment must be")
    assert isinstance(
        built(f"{AZURE}, azure_managed_identity: true", AZURE_AUTHORITY_HOST="http://x"), RefreshingCredentials
    )


def test_a_library_that_is_missing_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "find_spec", lambda name: None)

    assert "install python3-botocore, or this project with its extra bedrock" in problem(BEDROCK)
    assert "python3-requests, or this project with its extra vertex" in problem(VERTEX)
    assert fixed(f"{BEDROCK}, aws_bearer_token: x") == bearer("x")


def test_the_clouds_libraries_are_not_loaded_until_something_is_fetched() -> None:
    code = (
        "import sys, ccrelay.credentials.build;"
        "print(sorted({'botocore', 'requests', 'urllib3', 'google.auth'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": str(ROOT), "PATH": os.defpath},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )

    assert done.stdout == "[]\n"
