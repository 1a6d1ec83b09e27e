"""Entra ID tokens from servers on loopback: what is asked, what is made of the answer, what is told of a refusal."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccrelay.core.model import HeaderCredential
from ccrelay.core.secret import Secret
from ccrelay.core.settings import AzureSettings
from ccrelay.credentials import entra
from ccrelay.credentials.entra import client_secret_fetch, managed_identity_fetch
from ccrelay.credentials.refreshing import Fetch, Fetched
from ccrelay.errors import CredentialError
from tests.credential_servers import Asked, Reply, TokenServer, nobody, token_server

NOW = 1_700_000_000.0
TOKEN = {"token_type": "Bearer", "expires_in": 3599, "access_token": "the-token"}
BAD_SECRET = {
    "error": "invalid_client",
    "error_description": "AADSTS7000215: Invalid client secret provided. Ensure the secret being sent in the request "
    "is the client secret value, for a secret added to app 'the-app'. Trace ID: 1\r\nTimestamp: 2026",
    "error_codes": [7000215],
}


def application(login: str, environ: dict[str, str] | None = None, proxy: str | None = None) -> Fetch:
    settings = AzureSettings(None, None, "the-tenant", "the-app", Secret("s3&cr=t"), managed_identity=False)
    return client_secret_fetch(settings, {"AZURE_AUTHORITY_HOST": login, **(environ or {})}, lambda: NOW, proxy=proxy)


def machine(imds: str, environ: dict[str, str] | None = None, client_id: str | None = None) -> Fetch:
    settings = AzureSettings(None, None, None, client_id, None, managed_identity=True)
    return managed_identity_fetch(settings, environ or {}, lambda: NOW, imds=imds)


def get(fetch: Fetch) -> Fetched:
    return fetch(lambda _: None)


def refusal(fetch: Fetch) -> CredentialError:
    with pytest.raises(CredentialError) as caught:
        get(fetch)
    return caught.value


def answered(reply: Reply, fetch: Callable[[str], Fetch]) -> tuple[Fetched, TokenServer]:
    with token_server(lambda _: reply) as server:
        return get(fetch(server.url)), server


def refused_by(reply: Reply, fetch: Callable[[str], Fetch]) -> CredentialError:
    with token_server(lambda _: reply) as server:
        return refusal(fetch(server.url))


def test_an_application_shows_its_secret_and_gets_a_token() -> None:
    fetched, server = answered(Reply(200, TOKEN), application)

    assert fetched == Fetched(HeaderCredential(((b"authorization", Secret("Bearer the-token")),)), NOW + 3599)
    [asked] = server.asked
    assert (asked.method, asked.path) == ("POST", "/the-tenant/oauth2/v2.0/token")
    assert asked.form == {
        "grant_type": "client_credentials",
        "client_id": "the-app",
        "client_secret": "s3&cr=t",
        "scope": "https://ai.azure.com/.default",
    }


def authority(monkeypatch: pytest.MonkeyPatch, text: str | None) -> str:
    """Where a token is asked for in an environment that names this authority."""
    asked: list[str] = []

    def fetch_json(url: str, *_: object, **__: object) -> tuple[int, dict[str, object]]:
        asked.append(url)
        return 200, dict(TOKEN)

    monkeypatch.setattr(entra, "fetch_json", fetch_json)
    settings = AzureSettings(None, None, "the-tenant", "the-app", Secret("s"), managed_identity=False)
    environ = {} if text is None else {"AZURE_AUTHORITY_HOST": text}
    get(client_secret_fetch(settings, environ, lambda: NOW))
    [url] = asked
    return url.removesuffix("/the-tenant/oauth2/v2.0/token")


@pytest.mark.parametrize(
    ("given_text", "url"),
    [
        (None, "https://login.microsoftonline.com"),
        (" ", "https://login.microsoftonline.com"),
        ("login.microsoftonline.us", "https://login.microsoftonline.us"),
        ("https://login.chinacloudapi.cn/", "https://login.chinacloudapi.cn"),
        ("http://127.0.0.1:8080", "http://127.0.0.1:8080"),
        ("http://[::1]:8080/", "http://[::1]:8080"),
    ],
)
def test_a_national_clouds_login_may_be_named_as_for_azures_libraries(
    monkeypatch: pytest.MonkeyPatch, given_text: str | None, url: str
) -> None:
    assert authority(monkeypatch, given_text) == url


@pytest.mark.parametrize(
    "text",
    [
        "http://login.microsoftonline.us",
        "http://127.0.0.1.example",
        "http://localhost.example:80",
        "ftp://127.0.0.1",
        "https://me:canary@login.example",
        "https://login.example?canary",
        "https://login.example:port",
        "https://",
        "https://a b",
        "https://[canary",
        "l\u00f6gin.example",
    ],
)
def test_no_secret_goes_to_an_authority_that_is_not_https(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    with pytest.raises(CredentialError) as caught:
        authority(monkeypatch, text)

    assert str(caught.value) == "AZURE_AUTHORITY_HOST in the environment must be a host, or its https URL"
    assert "canary" not in caught.value.detail


def test_a_machine_asks_its_metadata_service() -> None:
    fetched, server = answered(Reply(200, {**TOKEN, "expires_in": "1800"}), machine)

    assert fetched == Fetched(HeaderCredential(((b"authorization", Secret("Bearer the-token")),)), NOW + 1800)
    [asked] = server.asked
    assert (asked.method, asked.path, asked.headers["metadata"]) == (
        "GET",
        "/metadata/identity/oauth2/token",
        "true",
    )
    assert asked.query == {"api-version": ["2018-02-01"], "resource": ["https://ai.azure.com"]}


def test_a_user_assigned_identity_is_named() -> None:
    _, server = answered(Reply(200, TOKEN), lambda url: machine(url, client_id="the-identity"))

    assert server.asked[0].query["client_id"] == ["the-identity"]


def test_an_app_service_is_asked_where_its_environment_says() -> None:
    reply = Reply(200, {"access_token": "the-token", "expires_on": str(int(NOW) + 600)})
    with nobody() as imds, token_server(lambda _: reply) as server:
        environ = {"IDENTITY_ENDPOINT": f"{server.url}/msi/token", "IDENTITY_HEADER": "proof"}
        fetched = get(machine(imds, environ))

    assert fetched.expires == NOW + 600
    [asked] = server.asked
    assert (asked.path, asked.headers["x-identity-header"]) == ("/msi/token", "proof")
    assert asked.query["api-version"] == ["2019-08-01"]


def test_a_refused_secret_is_told_by_code_and_setting_and_never_shown() -> None:
    error = refused_by(Reply(401, BAD_SECRET), application)

    assert str(error) == (
        "the Entra ID token request was refused (AADSTS7000215): azure_client_secret is not a secret of this "
        "application (its value is wanted, not its id)"
    )
    assert "the-app" in error.detail
    assert "Timestamp" not in error.detail
    assert "s3&cr=t" not in error.detail


@pytest.mark.parametrize(
    ("reply", "told"),
    [
        (Reply(400, {"error": "invalid_request", "error_description": "AADSTS90002: no"}), "(AADSTS90002): azure_ten"),
        (Reply(400, {"error": "invalid_request"}), "(invalid_request): check azure_tenant_id"),
        (Reply(503, "<html>"), "(HTTP 503): check azure_tenant_id"),
        (Reply(400, {"error": {"code": "x"}, "error_description": 5}), "(HTTP 400)"),
        (Reply(302, "", {"location": "http://127.0.0.1:1/"}), "(HTTP 302)"),
    ],
)
def test_any_refusal_is_told_by_the_best_code_there_is(reply: Reply, told: str) -> None:
    assert told in str(refused_by(reply, application))


def test_a_redirect_is_not_followed_with_the_secret() -> None:
    with token_server(lambda _: Reply(200, TOKEN)) as elsewhere:
        error = refused_by(Reply(307, "", {"location": elsewhere.url}), application)

    assert "HTTP 307" in str(error)
    assert elsewhere.asked == []


@pytest.mark.parametrize("content", [{}, {"access_token": 5}, {"access_token": ""}, "<html>", ["a"], "x" * 200_000])
def test_an_answer_without_a_token_is_told(content: object) -> None:
    error = refused_by(Reply(200, content), application)

    assert str(error) == "the Entra ID token request was answered without a token"


@pytest.mark.parametrize("life", [{}, {"expires_in": "soon"}, {"expires_in": None}, {"expires_in": []}])
def test_a_token_of_unknown_life_is_taken_for_an_hour(life: dict[str, object]) -> None:
    fetched, _ = answered(Reply(200, {"access_token": "the-token", **life}), application)

    assert fetched.expires == NOW + 3600


def test_a_machine_without_an_identity_is_told_what_to_do() -> None:
    reply = Reply(400, {"error": "invalid_request", "error_description": "Identity not found"})
    error = refused_by(reply, machine)

    assert str(error) == (
        "the managed identity's token request was refused (invalid_request): assign an identity to the machine, "
        "or let azure_client_id name one of its identities"
    )
    assert error.detail.endswith("; Identity not found")


def test_a_machine_elsewhere_is_told_that_it_is_none_of_azures() -> None:
    with nobody() as url:
        error = refusal(machine(url))

    assert str(error) == (
        "the managed identity's token request got no answer (ConnectionRefusedError): azure_managed_identity works on "
        "an Azure machine only; elsewhere set azure_client_secret"
    )


def test_something_that_is_not_http_is_no_answer() -> None:
    import socket
    import threading

    with socket.create_server(("127.0.0.1", 0)) as listener:

        def babble() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"\x00\x01\r\n")

        thread = threading.Thread(target=babble)
        thread.start()
        error = refusal(application(f"http://127.0.0.1:{listener.getsockname()[1]}"))
        thread.join()

    assert "got no answer" in str(error)


def through(asked: Asked) -> Reply:
    return Reply(200, TOKEN) if asked.path == "/the-tenant/oauth2/v2.0/token" else Reply(404, {})


def test_the_providers_proxy_is_used_and_the_environments_is_not_for_a_machines_own_service() -> None:
    with token_server(through) as proxy:
        get(application("http://127.0.0.9", proxy=proxy.url))
        assert [asked.headers["host"] for asked in proxy.asked] == ["127.0.0.9"]

        with token_server(lambda _: Reply(200, TOKEN)) as imds:
            get(machine(imds.url, {"HTTP_PROXY": proxy.url, "HTTPS_PROXY": proxy.url}))
        assert len(proxy.asked) == 1


def test_a_proxy_that_is_down_does_not_show_its_password() -> None:
    with nobody() as url:
        proxy = url.replace("http://", "http://me:pa55word@")
        error = refusal(application("http://127.0.0.9", proxy=proxy))

    assert "HTTPS_PROXY" in str(error)
    assert "pa55word" not in error.detail + str(error)


@given(st.text(), st.text(max_size=60), st.integers(300, 599))
def test_no_refusal_of_any_text_reaches_the_client(description: str, code: str, status: int) -> None:
    from ccrelay.credentials.entra import _refusal

    error = _refusal("the request", status, {"error": code, "error_description": f"{description} 123-the-tenant"}, "x")

    assert "123-the-tenant" not in str(error)
    assert str(error).isascii()
