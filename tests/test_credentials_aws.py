"""botocore's chain, link by link, against servers on loopback; and what is told, to whom, when a link fails."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from ccrelay.core.model import AwsKeys
from ccrelay.core.secret import Secret
from ccrelay.core.settings import AwsSettings
from ccrelay.credentials.aws import aws_fetch
from ccrelay.credentials.refreshing import Fetched
from ccrelay.errors import CredentialError
from tests.credential_servers import STS_DENIED, Asked, Reply, TokenServer, nobody, sts_role, token_server

pytest.importorskip("botocore")

EXPIRES = "2099-01-02T03:04:05Z"
EXPIRES_UNIX = datetime(2099, 1, 2, 3, 4, 5, tzinfo=UTC).timestamp()
ROLE = "arn:aws:iam::123456789012:role/bedrock"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home directory, and nothing of this machine's environment."""
    for name in list(os.environ):
        if name != "PYTEST_CURRENT_TEST":
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    (tmp_path / ".aws").mkdir()
    # Where logins are kept is looked up when botocore is imported, from the home directory of that moment.
    monkeypatch.setattr("botocore.credentials.SSOProvider._SSO_TOKEN_CACHE_DIR", str(tmp_path / ".aws/sso/cache"))
    return tmp_path


def settings(profile: str | None = None) -> AwsSettings:
    return AwsSettings("us-east-1", None, None, None, profile, None, "invoke")


def fetch(profile: str | None = None) -> tuple[Fetched, list[str]]:
    """What the chain brings, and the steps it took."""
    steps: list[str] = []
    return aws_fetch(settings(profile))(steps.append), steps


def keys(fetched: Fetched) -> tuple[str, str, str | None]:
    found = fetched.credential
    assert isinstance(found, AwsKeys)
    token = found.session_token
    return found.access_key_id.reveal(), found.secret_access_key.reveal(), token.reveal() if token else None


def refused(profile: str | None = None) -> CredentialError:
    with pytest.raises(CredentialError) as caught:
        fetch(profile)
    return caught.value


def write(home: Path, name: str, text: str) -> None:
    (home / ".aws" / name).write_text(text, encoding="utf-8")


@pytest.fixture
def service(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """Serves STS or SSO on loopback. The old botocore has no setting for that: both read its rules from here."""
    with_exits = []

    def serve(name: str, version: str, answer: Callable[[Asked], Reply], url: str | None = None) -> TokenServer:
        manager = token_server(answer)
        server = manager.__enter__()
        with_exits.append(manager)
        parameters = {
            "Region": {"type": "String", "builtIn": "AWS::Region", "documentation": "", "required": False},
            "UseDualStack": flag("AWS::UseDualStack"),
            "UseFIPS": flag("AWS::UseFIPS"),
            "Endpoint": {"type": "String", "builtIn": "SDK::Endpoint", "documentation": "", "required": False},
            **({"UseGlobalEndpoint": flag("AWS::STS::UseGlobalEndpoint")} if name == "sts" else {}),
        }
        endpoint = {"url": url or server.url, "properties": {}, "headers": {}}
        rules = [{"conditions": [], "endpoint": endpoint, "type": "endpoint"}]
        folder = home / "rules" / name / version
        folder.mkdir(parents=True)
        document = json.dumps({"version": "1.0", "parameters": parameters, "rules": rules})
        (folder / "endpoint-rule-set-1.json").write_text(document, encoding="utf-8")
        monkeypatch.setenv("AWS_DATA_PATH", str(home / "rules"))
        return server

    yield serve
    for manager in with_exits:
        manager.__exit__(None, None, None)


def flag(built_in: str) -> dict[str, object]:
    return {"type": "Boolean", "builtIn": built_in, "default": False, "required": True, "documentation": ""}


def sts(service: Callable[..., Any], reply: Reply, url: str | None = None) -> TokenServer:
    server: TokenServer = service("sts", "2011-06-15", lambda _: reply, url)
    return server


def role_profile(home: Path, extra: str = "") -> None:
    write(home, "config", f"[profile work]\nrole_arn = {ROLE}\nsource_profile = base\n{extra}")
    write(home, "credentials", "[base]\naws_access_key_id = AKIABASE\naws_secret_access_key = base-secret\n")


# What is found


def test_keys_of_the_environment_have_no_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAENV")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "env-secret")

    fetched, steps = fetch()

    assert keys(fetched) == ("AKIAENV", "env-secret", None)
    assert fetched.expires is None
    assert steps[-1] == "the environment (AWS_ACCESS_KEY_ID)"


def test_a_profile_that_is_configured_wins_over_the_environment(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAENV")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "env-secret")
    write(home, "credentials", "[dev]\naws_access_key_id = AKIADEV\naws_secret_access_key = s\naws_session_token = t\n")

    assert keys(fetch("dev")[0]) == ("AKIADEV", "s", "t")


def test_a_file_that_has_changed_is_read_again(home: Path) -> None:
    again = aws_fetch(settings("dev"))
    for name in ("AKIAONE", "AKIATWO"):
        write(home, "credentials", f"[dev]\naws_access_key_id = {name}\naws_secret_access_key = s\n")
        assert keys(again(lambda _: None))[0] == name


def test_a_role_is_assumed_with_the_source_profiles_keys_anew_each_time(
    home: Path, service: Callable[..., Any]
) -> None:
    role_profile(home)
    server = sts(service, Reply(200, sts_role("AssumeRole", EXPIRES)))

    for _ in range(2):
        fetched, steps = fetch("work")
        assert keys(fetched) == ("ASIAROLE", "role-secret", "role-token")
        assert fetched.expires == EXPIRES_UNIX
        assert steps[-1] == "assuming the profile's role"

    assert [asked.form["RoleArn"] for asked in server.asked] == [ROLE, ROLE]
    assert "Credential=AKIABASE/" in server.asked[0].headers["authorization"]
    assert "/us-east-1/sts/" in server.asked[0].headers["authorization"]


def test_a_web_identity_is_exchanged(home: Path, service: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "token").write_text("the-jwt", encoding="utf-8")
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(home / "token"))
    monkeypatch.setenv("AWS_ROLE_ARN", ROLE)
    server = sts(service, Reply(200, sts_role("AssumeRoleWithWebIdentity", EXPIRES)))

    fetched, _ = fetch()

    assert keys(fetched) == ("ASIAROLE", "role-secret", "role-token")
    assert fetched.expires == EXPIRES_UNIX
    assert server.asked[0].form["WebIdentityToken"] == "the-jwt"


SSO = """[profile sso]
sso_start_url = https://sso.example/start
sso_region = us-east-1
sso_account_id = 123456789012
sso_role_name = relay
"""


def sso_login(home: Path, expires: str) -> None:
    folder = home / ".aws" / "sso" / "cache"
    folder.mkdir(parents=True)
    document = {"startUrl": "https://sso.example/start", "accessToken": "the-login", "expiresAt": expires}
    # The file's name is the SHA-1 of the start URL, by botocore's SSOTokenLoader and the aws program that writes it.
    name = hashlib.sha1(b"https://sso.example/start").hexdigest()
    (folder / f"{name}.json").write_text(json.dumps(document), encoding="utf-8")


def test_an_sso_login_is_exchanged(home: Path, service: Callable[..., Any]) -> None:
    write(home, "config", SSO)
    sso_login(home, EXPIRES)
    role = {
        "accessKeyId": "ASIASSO",
        "secretAccessKey": "sso-secret",
        "sessionToken": "sso-token",
        "expiration": int(EXPIRES_UNIX * 1000),
    }
    server = service("sso", "2019-06-10", lambda _: Reply(200, {"roleCredentials": role}))

    fetched, steps = fetch("sso")

    assert keys(fetched) == ("ASIASSO", "sso-secret", "sso-token")
    assert fetched.expires == EXPIRES_UNIX
    assert steps[-1] == "the SSO login"
    assert server.asked[0].headers["x-amz-sso_bearer_token"] == "the-login"


def test_a_containers_endpoint_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    document = {"AccessKeyId": "ASIATASK", "SecretAccessKey": "s", "Token": "t", "Expiration": EXPIRES}
    with token_server(lambda _: Reply(200, document)) as server:
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{server.url}/task")
        monkeypatch.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN", "pod")
        fetched, _ = fetch()

    assert keys(fetched) == ("ASIATASK", "s", "t")
    assert fetched.expires == EXPIRES_UNIX
    assert (server.asked[0].path, server.asked[0].headers["authorization"]) == ("/task", "pod")


def test_the_instances_role_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_EC2_METADATA_DISABLED")
    role = {"Code": "Success", "Type": "AWS-HMAC", "LastUpdated": "2026-01-01T00:00:00Z", "Expiration": EXPIRES}
    role |= {"AccessKeyId": "ASIAINSTANCE", "SecretAccessKey": "s", "Token": "t"}

    def answer(asked: Asked) -> Reply:
        if asked.method == "PUT":
            return Reply(200, "imds-token")
        assert asked.headers["x-aws-ec2-metadata-token"] == "imds-token"
        return Reply(200, role) if asked.path.endswith("/relay") else Reply(200, "relay")

    with token_server(answer) as server:
        monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", server.url)
        fetched, steps = fetch()

    assert keys(fetched) == ("ASIAINSTANCE", "s", "t")
    assert fetched.expires == EXPIRES_UNIX
    assert steps[-1] == "the instance metadata service"


def test_a_credential_process_is_run(home: Path) -> None:
    document = json.dumps({"Version": 1, "AccessKeyId": "AKIAPROCESS", "SecretAccessKey": "s", "Expiration": EXPIRES})
    (home / "answer.json").write_text(document, encoding="utf-8")
    write(home, "config", f"[profile own]\ncredential_process = /bin/cat {home}/answer.json\n")

    fetched, _ = fetch("own")

    assert keys(fetched) == ("AKIAPROCESS", "s", None)
    assert fetched.expires == EXPIRES_UNIX


# What is told


def test_an_unknown_profile_is_named_for_the_log_with_the_files() -> None:
    error = refused("nobody")

    assert str(error) == "aws_profile names a profile that is in neither AWS file"
    assert "nobody" in error.detail
    assert "~/.aws/config" in error.detail
    assert "~/.aws/credentials" in error.detail


def test_an_unknown_profile_of_the_environment_is_told_by_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "nobody")

    assert str(refused()) == "AWS_PROFILE names a profile that is in neither AWS file"


def test_where_there_is_nothing_the_settings_and_every_place_are_named() -> None:
    error = refused()

    assert str(error) == (
        "no AWS credentials were found: set aws_profile, or aws_access_key_id and aws_secret_access_key, "
        "or aws_bearer_token"
    )
    assert "looked at: the environment (AWS_ACCESS_KEY_ID), assuming the profile's role" in error.detail
    assert error.detail.endswith("the instance metadata service")


def test_a_profile_without_credentials_is_told(home: Path) -> None:
    write(home, "config", "[profile dev]\nregion = us-east-1\n")
    error = refused("dev")

    assert str(error) == "the profile that aws_profile names has no credentials, and nothing else gave any"
    assert "(profile dev)" in error.detail


def test_half_a_key_in_the_environment_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAENV")
    error = refused()

    assert str(error) == "the environment (AWS_ACCESS_KEY_ID) has one half of a key without the other"
    assert "AWS_SECRET_ACCESS_KEY" in error.detail


def test_a_role_that_is_denied_is_told_by_code_and_its_account_only_to_the_log(
    home: Path, service: Callable[..., Any]
) -> None:
    role_profile(home)
    sts(service, Reply(403, STS_DENIED))

    error = refused("work")

    assert str(error) == (
        "assuming the profile's role was refused (AccessDenied): check its trust policy and the caller's rights"
    )
    assert "123456789012:role/bedrock" in error.detail
    assert "base-secret" not in error.detail


def test_a_role_that_needs_a_second_factor_is_refused_instead_of_asked_for(
    home: Path, service: Callable[..., Any]
) -> None:
    role_profile(home, "mfa_serial = arn:aws:iam::123456789012:mfa/me\n")
    server = sts(service, Reply(200, sts_role("AssumeRole", EXPIRES)))

    assert "mfa_serial" in str(refused("work"))
    assert server.asked == []


def test_a_missing_web_identity_file_is_told_by_the_variable(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(home / "missing"))
    monkeypatch.setenv("AWS_ROLE_ARN", ROLE)
    error = refused()

    assert str(error) == (
        "the web identity's role cannot be read (there is no such file): "
        "check AWS_WEB_IDENTITY_TOKEN_FILE and the files of the profile"
    )
    assert str(home / "missing") in error.detail


@pytest.mark.parametrize("logged_in", [True, False])
def test_an_sso_login_that_is_over_or_was_never_made_names_the_command(
    home: Path, service: Callable[..., Any], logged_in: bool
) -> None:
    write(home, "config", SSO)
    if logged_in:
        sso_login(home, "2020-01-01T00:00:00Z")
    service("sso", "2019-06-10", lambda _: Reply(401, {"message": "Session token not found or invalid"}))
    error = refused("sso")

    assert str(error).startswith("the SSO login ")
    assert "run `aws sso login` where the relay runs" in str(error)
    assert "aws sso login --profile sso" in error.detail
    assert "the-login" not in error.detail


def test_an_sts_that_does_not_answer_is_told(
    home: Path, service: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    role_profile(home)
    with nobody() as url:
        sts(service, Reply(500, ""), url)
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
        error = refused("work")

    assert str(error).startswith("assuming the profile's role got no answer (EndpointConnectionError)")
    assert "127.0.0.1" not in str(error)
    assert "127.0.0.1" in error.detail


def test_a_containers_endpoint_that_fails_is_told_by_its_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("botocore.utils.ContainerMetadataFetcher.SLEEP_TIME", 0)
    with token_server(lambda _: Reply(500, {"message": "no"})) as server:
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{server.url}/task")
        error = refused()

    assert str(error).startswith("the container's credentials endpoint failed (CredentialRetrievalError)")
    assert server.url not in str(error)


def test_credentials_that_were_given_out_dead_are_told(home: Path, service: Callable[..., Any]) -> None:
    role_profile(home)
    sts(service, Reply(200, sts_role("AssumeRole", "2020-01-01T00:00:00Z")))

    assert "have expired" in str(refused("work"))


def test_no_secret_is_in_what_was_fetched_when_it_is_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAENV")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "env-secret")

    fetched, _ = fetch()

    assert "env-secret" not in repr(fetched)
    assert fetched.credential == AwsKeys(Secret("AKIAENV"), Secret("env-secret"), None)
