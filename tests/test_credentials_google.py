"""Google's credentials files and its metadata server, against servers on loopback, with the google-auth at hand."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from typing import Any

import pytest

from ccrelay.core.model import HeaderCredential
from ccrelay.core.secret import Secret
from ccrelay.core.settings import GcpSettings
from ccrelay.credentials import google
from ccrelay.credentials.google import check_credentials_file, google_fetch, installed_google_auth
from ccrelay.credentials.refreshing import Fetched
from ccrelay.errors import CredentialError
from tests.credential_servers import Asked, Reply, nobody, token_server

pytest.importorskip("google.auth")
pytest.importorskip("requests")

NOW = 1_700_000_000.0
TOKEN = {"access_token": "the-token", "expires_in": 3600, "token_type": "Bearer"}
BEARER = (b"authorization", Secret("Bearer the-token"))
OLD = installed_google_auth() == "1.5.1"


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name != "PYTEST_CURRENT_TEST":
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.fixture(scope="module")
def private_key() -> str:
    from cryptography.hazmat.primitives.asymmetric import rsa
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    made = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return made.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()).decode()


def service_account(private_key: str, url: str, **more: Any) -> dict[str, Any]:
    return {
        "type": "service_account",
        "client_email": "relay@p.iam.gserviceaccount.com",
        "private_key": private_key,
        "private_key_id": "1",
        "token_uri": f"{url}/token",
        **more,
    }


def user(url: str, **more: Any) -> dict[str, Any]:
    secrets = {"client_id": "c", "client_secret": "cs", "refresh_token": "the-refresh-token"}
    return {"type": "authorized_user", "token_uri": f"{url}/token", **secrets, **more}


def write(path: Path, content: object) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return str(path)


def fetch(file: str | None, **environ: str) -> Fetched:
    return google_fetch(GcpSettings("p", "us-east5", None, file), environ, lambda: NOW)(lambda _: None)


def refusal(file: str | None, **environ: str) -> CredentialError:
    with pytest.raises(CredentialError) as caught:
        fetch(file, **environ)
    return caught.value


def lines(fetched: Fetched) -> tuple[tuple[bytes, Secret], ...]:
    assert isinstance(fetched.credential, HeaderCredential)
    return fetched.credential.lines


def claims(asked: Asked) -> dict[str, Any]:
    payload = asked.form["assertion"].split(".")[1]
    found: dict[str, Any] = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    return found


# Files


def test_a_service_account_signs_for_a_token_of_the_cloud_platform(tmp_path: Path, private_key: str) -> None:
    import time

    with token_server(lambda _: Reply(200, TOKEN)) as server:
        before = time.time()
        fetched = fetch(write(tmp_path / "key.json", service_account(private_key, server.url)))
        after = time.time()

    assert lines(fetched) == (BEARER,)
    assert fetched.expires is not None
    assert before + 3590 <= fetched.expires <= after + 3600
    assert claims(server.asked[0])["scope"] == "https://www.googleapis.com/auth/cloud-platform"
    assert claims(server.asked[0])["iss"] == "relay@p.iam.gserviceaccount.com"


def test_a_users_login_is_exchanged_and_pays_with_its_project(tmp_path: Path) -> None:
    with token_server(lambda _: Reply(200, TOKEN)) as server:
        fetched = fetch(write(tmp_path / "user.json", user(server.url, quota_project_id="payer")))

    assert lines(fetched) == (BEARER, (b"x-goog-user-project", Secret("payer")))
    assert server.asked[0].form["refresh_token"] == "the-refresh-token"


def test_the_environments_project_pays_before_the_files(tmp_path: Path) -> None:
    with token_server(lambda _: Reply(200, TOKEN)) as server:
        file = write(tmp_path / "user.json", user(server.url, quota_project_id="payer"))
        fetched = fetch(file, GOOGLE_CLOUD_QUOTA_PROJECT="other")

    assert lines(fetched)[1] == (b"x-goog-user-project", Secret("other"))


def test_the_order_of_sources_is_setting_variable_gcloud(tmp_path: Path) -> None:
    def answer(asked: Asked) -> Reply:
        return Reply(200, {**TOKEN, "access_token": asked.form["client_id"]})

    with token_server(answer) as server:
        setting = write(tmp_path / "a.json", user(server.url, client_id="setting"))
        variable = write(tmp_path / "b.json", user(server.url, client_id="variable"))
        adc = "application_default_credentials.json"
        write(tmp_path / ".config/gcloud" / adc, user(server.url, client_id="gcloud"))
        write(tmp_path / "sdk" / adc, user(server.url, client_id="elsewhere"))
        home = {"HOME": str(tmp_path)}
        found = [
            fetch(setting, GOOGLE_APPLICATION_CREDENTIALS=variable, **home),
            fetch(None, GOOGLE_APPLICATION_CREDENTIALS=variable, **home),
            fetch(None, **home),
            fetch(None, CLOUDSDK_CONFIG=str(tmp_path / "sdk"), **home),
        ]

    names = [lines(one)[0][1].reveal().removeprefix("Bearer ") for one in found]
    assert names == ["setting", "variable", "gcloud", "elsewhere"]


def workload(tmp_path: Path, url: str) -> dict[str, Any]:
    return {
        "type": "external_account",
        "audience": "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p/providers/q",
        "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
        "token_url": f"{url}/v1/token",
        "credential_source": {"file": write(tmp_path / "subject", "the-jwt")},
    }


@pytest.mark.skipif(OLD, reason="google-auth 1.5.1 knows no workload identity")
def test_a_workload_identity_is_exchanged(tmp_path: Path) -> None:
    with token_server(lambda _: Reply(200, {**TOKEN, "issued_token_type": "x"})) as server:
        fetched = fetch(write(tmp_path / "wif.json", workload(tmp_path, server.url)))

    assert lines(fetched)[0] == BEARER
    [asked] = server.asked
    assert asked.form["subject_token"] == "the-jwt"


@pytest.mark.skipif(OLD, reason="google-auth 1.5.1 knows no workload identity")
@pytest.mark.parametrize(
    "change",
    [
        {"credential_source": {}},
        {"credential_source": 5},
        {"credential_source": {"executable": {"command": "/bin/false", "timeout_millis": 5000}}},
        {"subject_token_type": "urn:ietf:params:aws:token-type:aws4_request"},
    ],
)
def test_a_workload_identity_that_cannot_be_used_is_told_by_its_file(tmp_path: Path, change: dict[str, object]) -> None:
    error = refusal(write(tmp_path / "wif.json", workload(tmp_path, "http://127.0.0.1:1") | change))

    assert str(error).startswith("the token request for gcp_credentials_file (external_account) was refused (")


@pytest.mark.skipif(OLD, reason="google-auth 1.5.1 knows no impersonation")
@pytest.mark.filterwarnings("ignore:The load_credentials_from_file method:DeprecationWarning")
def test_an_account_is_impersonated_by_a_login(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(asked: Asked) -> Reply:
        if asked.path == "/token":
            return Reply(200, TOKEN)
        return Reply(200, {"accessToken": "the-other-token", "expireTime": "2099-01-02T03:04:05Z"})

    with token_server(answer) as server:
        # Google's library takes a user's login to Google's own address only, and impersonation with it.
        monkeypatch.setattr("google.oauth2.credentials._GOOGLE_OAUTH2_TOKEN_ENDPOINT", f"{server.url}/token")
        document = {
            "type": "impersonated_service_account",
            "service_account_impersonation_url": f"{server.url}/v1/projects/-/serviceAccounts/"
            "relay@p.iam.gserviceaccount.com:generateAccessToken",
            "source_credentials": user(server.url),
        }
        monkeypatch.setattr(
            "google.auth.iam._IAM_ENDPOINT", f"{server.url}/v1/projects/-/serviceAccounts/{{}}:generateAccessToken"
        )
        fetched = fetch(write(tmp_path / "imp.json", document))

    assert lines(fetched)[0] == (b"authorization", Secret("Bearer the-other-token"))


@pytest.mark.parametrize("kind", ["external_account", "impersonated_service_account"])
def test_what_an_old_library_cannot_do_names_the_version_that_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(google, "version", lambda _: "1.5.1")
    file = write(tmp_path / "f.json", {"type": kind})
    with pytest.raises(CredentialError) as caught:
        check_credentials_file(file)

    assert str(caught.value) == (
        f"gcp_credentials_file: files of type {kind} need google-auth 2.23 or later; 1.5.1 is installed"
    )


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (None, "there is no such file"),
        ("", "the file is not JSON"),
        ("{", "the file is not JSON"),
        ("\udcff", "the file is not JSON"),
        ("[]", "the file's type is none of service_account, authorized_user"),
        ({"type": "web"}, "the file's type is none of"),
        ({"type": ["service_account"]}, "the file's type is none of"),
        ({"type": "authorized_user", "client_id": "c"}, "the file has no client_secret, refresh_token"),
        ({"type": "service_account"}, "the file has no client_email, private_key, token_uri"),
    ],
)
def test_a_file_that_cannot_be_used_is_told_with_the_setting_and_its_path_only_to_the_log(
    tmp_path: Path, content: object, complaint: str
) -> None:
    path = tmp_path / "f.json"
    if isinstance(content, str):
        path.write_bytes(content.encode("utf-8", "surrogateescape"))
    elif content is not None:
        write(path, content)
    with pytest.raises(CredentialError) as caught:
        check_credentials_file(str(path))

    assert str(caught.value).startswith(f"gcp_credentials_file: {complaint}")
    assert caught.value.detail.startswith(f"gcp_credentials_file: {path}: {complaint}")


def test_a_variable_that_names_no_file_is_told_by_its_name() -> None:
    assert str(refusal(None, GOOGLE_APPLICATION_CREDENTIALS="/nonexistent")) == (
        "GOOGLE_APPLICATION_CREDENTIALS: there is no such file"
    )


def test_a_private_key_that_cannot_be_read_is_not_shown(tmp_path: Path) -> None:
    broken = "-----BEGIN RSA PRIVATE KEY-----\nc2VjcmV0\n-----END RSA PRIVATE KEY-----\n"
    error = refusal(write(tmp_path / "key.json", service_account(broken, "http://127.0.0.1:1")))

    assert str(error) == "gcp_credentials_file: the file's private_key cannot be read; make a new key file"
    assert "c2VjcmV0" not in error.detail
    assert error.__cause__ is None
    assert error.__suppress_context__


def test_a_key_that_was_deleted_is_told(tmp_path: Path, private_key: str) -> None:
    answer = {"error": "invalid_grant", "error_description": "Invalid JWT Signature."}
    with token_server(lambda _: Reply(400, answer)) as server:
        error = refusal(write(tmp_path / "key.json", service_account(private_key, server.url)))

    assert str(error) == (
        "the token request for gcp_credentials_file (service_account) was refused (invalid_grant): "
        "the key was deleted or its account disabled, or this machine's clock is wrong"
    )
    assert "Invalid JWT Signature" in error.detail


def test_a_login_that_is_over_names_the_command(tmp_path: Path) -> None:
    answer = {"error": "invalid_grant", "error_description": "Token has been expired or revoked."}
    with token_server(lambda _: Reply(400, answer)) as server:
        error = refusal(write(tmp_path / "user.json", user(server.url)))

    assert "(invalid_grant): log in anew by `gcloud auth application-default login`" in str(error)
    assert "the-refresh-token" not in error.detail


def test_a_token_server_that_does_not_answer_is_told(tmp_path: Path) -> None:
    with nobody() as url:
        error = refusal(write(tmp_path / "user.json", user(url)))

    assert str(error).endswith("check the network, or HTTPS_PROXY")
    assert "127.0.0.1" not in error.detail


# The metadata server


def metadata(reply: Reply, **environ: str) -> tuple[Fetched | CredentialError, list[Asked]]:
    with token_server(lambda _: reply) as server:
        host = server.url.removeprefix("http://")
        try:
            return fetch(None, GCE_METADATA_HOST=host, **environ), server.asked
        except CredentialError as error:
            return error, server.asked


def test_a_machine_of_google_has_a_token() -> None:
    fetched, [asked] = metadata(Reply(200, TOKEN), GOOGLE_CLOUD_QUOTA_PROJECT="payer")

    credential = HeaderCredential((BEARER, (b"x-goog-user-project", Secret("payer"))))
    assert fetched == Fetched(credential, NOW + 3600)
    assert asked.path == "/computeMetadata/v1/instance/service-accounts/default/token"
    assert asked.headers["metadata-flavor"] == "Google"


@pytest.mark.parametrize(
    ("reply", "told"),
    [
        (Reply(404, "no"), "the Google metadata server has no service account for this machine: attach one, or set"),
        (Reply(500, ""), "the Google metadata server gave no token (HTTP 500): set gcp_credentials_file"),
        (Reply(200, {}), "the Google metadata server gave no token (HTTP 200): set gcp_credentials_file"),
    ],
)
def test_a_machine_without_a_token_is_told_what_to_set(reply: Reply, told: str) -> None:
    error, _ = metadata(reply)

    assert str(error).startswith(told)


def test_where_there_is_nothing_at_all_the_ways_are_named() -> None:
    with nobody() as url:
        error = refusal(None, GCE_METADATA_HOST=url.removeprefix("http://"))

    assert str(error) == (
        "no Google credentials were found, and the Google metadata server does not answer: set gcp_credentials_file, "
        "or GOOGLE_APPLICATION_CREDENTIALS, or log in by gcloud"
    )


def test_a_machine_that_is_none_of_googles_may_say_so() -> None:
    found, asked = metadata(Reply(200, TOKEN), NO_GCE_CHECK="true")

    assert str(found).startswith("no Google credentials were found: set gcp_credentials_file")
    assert asked == []
