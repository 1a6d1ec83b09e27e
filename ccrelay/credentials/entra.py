"""Entra ID tokens for Azure AI Foundry: of an application with a secret, or of the machine's managed identity.

Two requests of the standard library, in a thread, instead of azure-identity. Endpoints and fields: Microsoft's pages on
the client credentials flow, on managed identities (IMDS, 2018-02-01) and on App Service identities (2019-08-01).
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import quote, urlencode, urlsplit

from ccrelay.core.model import HeaderCredential
from ccrelay.core.proxies import proxy_for
from ccrelay.core.secret import Secret
from ccrelay.core.settings import AzureSettings
from ccrelay.credentials.blocking_http import fetch_json
from ccrelay.credentials.refreshing import Fetch, Fetched, Note
from ccrelay.errors import CredentialError

_LOGIN: Final = "https://login.microsoftonline.com"
_IMDS: Final = "http://169.254.169.254"
_RESOURCE: Final = "https://ai.azure.com"

_IMDS_TIMEOUT: Final = 3.0
"""Seconds: the service is on the same machine, and outside of Azure the address answers nobody."""

_USUAL_LIFE: Final = 3600.0
"""Seconds a token is taken to live where its answer does not say."""

_AADSTS: Final = re.compile(r"AADSTS\d{1,10}")
_OAUTH_CODE: Final = re.compile(r"[a-z_]{1,40}")

_REMEDIES: Final = {
    "AADSTS7000215": "azure_client_secret is not a secret of this application (its value is wanted, not its id)",
    "AADSTS7000222": "azure_client_secret has expired: make a new one",
    "AADSTS700016": "azure_client_id names no application of this tenant",
    "AADSTS90002": "azure_tenant_id names no tenant",
    "AADSTS900023": "azure_tenant_id is no tenant's id or domain",
}
"""What to do about Entra's codes that a setting explains (Microsoft's list of AADSTS error codes)."""


def client_secret_fetch(
    settings: AzureSettings, environ: Mapping[str, str], epoch: Callable[[], float], *, proxy: str | None = None
) -> Fetch:
    """A fetch of tokens by ``azure_tenant_id``, ``azure_client_id`` and ``azure_client_secret``, which must be set.

    environ: for HTTPS_PROXY, and for AZURE_AUTHORITY_HOST, which names the login of a national cloud. proxy: the
    provider's own, which wins. Raises CredentialError for an AZURE_AUTHORITY_HOST that cannot be used.
    """
    login = _login(environ)
    tenant, client, secret = settings.tenant_id, settings.client_id, settings.client_secret
    if tenant is None or client is None or secret is None:
        raise ValueError("azure_tenant_id, azure_client_id and azure_client_secret go together")
    url = f"{login}/{quote(tenant, safe='')}/oauth2/v2.0/token"
    step = "the Entra ID token request"

    def fetch(note: Note) -> Fetched:
        note(step)
        fields = {
            "grant_type": "client_credentials",
            "client_id": client,
            "client_secret": secret.reveal(),
            "scope": f"{_RESOURCE}/.default",
        }
        through = proxy_for(url, proxy, environ)
        try:
            status, answer = fetch_json(url, {}, form=urlencode(fields).encode("ascii"), proxy=through)
        except OSError as error:
            # A proxy's address may hold a password, so that of what failed only the kind is told.
            raise _unreachable(step, error, "check the network, or proxy and HTTPS_PROXY") from None
        if status != 200:
            raise _refusal(step, status, answer, "check azure_tenant_id, azure_client_id and azure_client_secret")
        return _token(step, answer, epoch())

    return fetch


def managed_identity_fetch(
    settings: AzureSettings, environ: Mapping[str, str], epoch: Callable[[], float], *, imds: str = _IMDS
) -> Fetch:
    """A fetch of tokens of the machine's identity, or of the user-assigned one that ``azure_client_id`` names.

    environ: App Service and Container Apps say there where they serve tokens (IDENTITY_ENDPOINT, IDENTITY_HEADER).
    imds: where virtual machines do.
    """
    query = {"resource": _RESOURCE}
    if settings.client_id is not None:
        query["client_id"] = settings.client_id
    service, proof = environ.get("IDENTITY_ENDPOINT"), environ.get("IDENTITY_HEADER")
    if service and proof:
        url = f"{service}?{urlencode({'api-version': '2019-08-01', **query})}"
        headers = {"X-IDENTITY-HEADER": proof}
    else:
        url = f"{imds}/metadata/identity/oauth2/token?{urlencode({'api-version': '2018-02-01', **query})}"
        headers = {"Metadata": "true"}
    step = "the managed identity's token request"

    def fetch(note: Note) -> Fetched:
        note(step)
        try:
            status, answer = fetch_json(url, headers, timeout=_IMDS_TIMEOUT)
        except OSError as error:
            remedy = "azure_managed_identity works on an Azure machine only; elsewhere set azure_client_secret"
            raise _unreachable(step, error, remedy) from None
        if status != 200:
            remedy = "assign an identity to the machine, or let azure_client_id name one of its identities"
            raise _refusal(step, status, answer, remedy)
        return _token(step, answer, epoch())

    return fetch


def _login(environ: Mapping[str, str]) -> str:
    """Where the tenants' token endpoints are.

    A host or a URL, as in azure-identity; the application's secret goes there, so only over TLS or to this machine.
    """
    given = environ.get("AZURE_AUTHORITY_HOST", "").strip()
    if not given:
        return _LOGIN
    url = given if "://" in given else f"https://{given}"
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        host = ""
    fit = bool(host) and (parts.scheme == "https" or (parts.scheme == "http" and _is_this_machine(host)))
    if not fit or parts.username is not None or parts.query or parts.fragment or not url.isascii() or " " in url:
        raise CredentialError("AZURE_AUTHORITY_HOST in the environment must be a host, or its https URL")
    return url.rstrip("/")


def _is_this_machine(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _token(step: str, answer: dict[str, Any], now: float) -> Fetched:
    token = answer.get("access_token")
    if not isinstance(token, str) or not token:
        raise CredentialError(f"{step} was answered without a token")
    try:
        life = float(answer.get("expires_in") or float(answer.get("expires_on") or now + _USUAL_LIFE) - now)
    except (TypeError, ValueError):
        life = _USUAL_LIFE
    return Fetched(HeaderCredential(((b"authorization", Secret(f"Bearer {token}")),)), now + life)


def _refusal(step: str, status: int, answer: dict[str, Any], usual_remedy: str) -> CredentialError:
    description = str(answer.get("error_description") or "").splitlines()[:1]
    found = _AADSTS.search(description[0]) if description else None
    code = found[0] if found else _oauth_code(answer.get("error")) or f"HTTP {status}"
    message = f"{step} was refused ({code}): {_REMEDIES.get(code, usual_remedy)}"
    # The rest of the description names the tenant and the application, and may be long.
    return CredentialError(message, f"{message}; {description[0][:300]}" if description else None)


def _oauth_code(error: object) -> str | None:
    return error if isinstance(error, str) and _OAUTH_CODE.fullmatch(error) else None


def _unreachable(step: str, error: OSError, remedy: str) -> CredentialError:
    reason = getattr(error, "reason", error)
    return CredentialError(f"{step} got no answer ({type(reason).__name__}): {remedy}")
