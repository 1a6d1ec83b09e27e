"""Google access tokens for Vertex AI: from a credentials file by google-auth, or from the metadata server.

Which source is used follows Google's application default credentials, looked up here: its library would run gcloud to
guess a project that the configuration names anyway, and wait for its metadata server where there is none. What comes
with the token, such as ``x-goog-user-project``, is left to the library. google-auth is imported in the thread.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

from ccrelay.core.model import HeaderCredential
from ccrelay.core.secret import Secret
from ccrelay.core.settings import GcpSettings
from ccrelay.credentials.blocking_http import fetch_json
from ccrelay.credentials.refreshing import Fetch, Fetched, Note
from ccrelay.errors import CredentialError

_SCOPE: Final = "https://www.googleapis.com/auth/cloud-platform"
_TOKEN_URI: Final = "https://oauth2.googleapis.com/token"  # noqa: S105 - an address
_USER_PROJECT: Final = "x-goog-user-project"

_LARGEST_FILE: Final = 256 * 1024
"""Bytes; a credentials file has 2 to 4 kB."""

_REQUEST_TIMEOUT: Final = 15
"""Seconds per request of google-auth, which takes 120 unless told: its retries are to fit into a caller's patience."""

_METADATA_TIMEOUT: Final = 3.0
"""Seconds: the server is on the same machine (google-auth's own value)."""

_FIELDS: Final = {
    "service_account": ("client_email", "private_key", "token_uri"),
    "authorized_user": ("client_id", "client_secret", "refresh_token"),
    "external_account": (),
    "external_account_authorized_user": (),
    "impersonated_service_account": (),
}
"""Types of credentials files, and what must be in those that every version of google-auth reads."""

_NEWER_SINCE: Final = (2, 23)
"""The google-auth from which on all of the other types are read."""

_AWS_SUBJECT: Final = "urn:ietf:params:aws:token-type:aws4_request"
"""The subject_token_type of a workload that runs on AWS."""

_OAUTH_CODE: Final = re.compile(r"(?:Error code )?([a-z]+(?:_[a-z]+)+)\b")


@dataclass(frozen=True, slots=True)
class _Source:
    """A credentials file, and the setting that named it."""

    path: Path
    setting: str


def google_fetch(settings: GcpSettings, environ: Mapping[str, str], epoch: Callable[[], float]) -> Fetch:
    """A fetch of access tokens: of ``gcp_credentials_file``, else of the application default credentials.

    Those are the file that GOOGLE_APPLICATION_CREDENTIALS names, gcloud's file, the metadata server. environ: for that
    variable, CLOUDSDK_CONFIG, HOME, GCE_METADATA_HOST and GOOGLE_CLOUD_QUOTA_PROJECT; google-auth's requests read
    HTTPS_PROXY from the process's own.
    """

    def fetch(note: Note) -> Fetched:
        source = _source(settings, environ)
        if source is None:
            return _from_metadata(note, environ, epoch)
        return _from_file(note, source, environ)

    return fetch


def check_credentials_file(path: str) -> None:
    """Whether ``gcp_credentials_file`` can be used with the google-auth that is installed. Raises CredentialError."""
    _read(_Source(Path(path), "gcp_credentials_file"))


def _source(settings: GcpSettings, environ: Mapping[str, str]) -> _Source | None:
    if settings.credentials_file is not None:
        return _Source(Path(settings.credentials_file), "gcp_credentials_file")
    if environ.get("GOOGLE_APPLICATION_CREDENTIALS"):
        return _Source(Path(environ["GOOGLE_APPLICATION_CREDENTIALS"]), "GOOGLE_APPLICATION_CREDENTIALS")
    folder = environ.get("CLOUDSDK_CONFIG") or (environ.get("HOME") and f"{environ['HOME']}/.config/gcloud")
    path = Path(folder or "/nonexistent") / "application_default_credentials.json"
    return _Source(path, "gcloud's login") if path.is_file() else None


def _read(source: _Source) -> dict[str, Any]:
    """The file's JSON object, of a type that can be used. Raises CredentialError."""

    def wrong(what: str) -> CredentialError:
        return CredentialError(f"{source.setting}: {what}", f"{source.setting}: {source.path}: {what}")

    try:
        with source.path.open("rb") as file:
            raw = file.read(_LARGEST_FILE)
    except FileNotFoundError:
        raise wrong("there is no such file") from None
    except OSError as error:
        raise wrong(f"the file cannot be read ({type(error).__name__})") from None
    try:
        info = json.loads(raw)
    except ValueError:
        raise wrong("the file is not JSON; a key or configuration file of Google Cloud is wanted") from None
    kind = info.get("type") if isinstance(info, dict) else None
    if not isinstance(kind, str) or kind not in _FIELDS:
        raise wrong(f"the file's type is none of {', '.join(_FIELDS)}")
    missing = [name for name in _FIELDS[kind] if not isinstance(info.get(name), str)]
    if missing:
        raise wrong(f"the file has no {', '.join(missing)}")
    installed = installed_google_auth()
    if not _FIELDS[kind] and (installed is None or _numbers(installed) < _NEWER_SINCE):
        needed = ".".join(str(number) for number in _NEWER_SINCE)
        raise wrong(f"files of type {kind} need google-auth {needed} or later; {installed or 'none'} is installed")
    return dict(info)


def installed_google_auth() -> str | None:
    """The version of google-auth, None where there is none."""
    try:
        return version("google-auth")
    except PackageNotFoundError:
        return None


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", text)[:2])


def _from_file(note: Note, source: _Source, environ: Mapping[str, str]) -> Fetched:
    info = _read(source)
    step = f"the token request for {source.setting} ({info['type']})"
    note(step)
    from google.auth import exceptions
    from google.auth.transport.requests import Request
    from requests import Session

    headers: dict[str, str] = {}
    with Session() as session:
        request = functools.partial(Request(session), timeout=_REQUEST_TIMEOUT)
        try:
            credentials = _credentials(source, info)
            credentials.refresh(request)
            credentials.apply(headers)
        except exceptions.GoogleAuthError as error:
            raise _refusal(step, error, info["type"]) from None
    quota = environ.get("GOOGLE_CLOUD_QUOTA_PROJECT") or info.get("quota_project_id")
    if isinstance(quota, str) and quota:  # a library that knows of it writes the file's
        headers[_USER_PROJECT] = quota
    lines = tuple((name.lower().encode("ascii"), Secret(value)) for name, value in headers.items())
    expiry = credentials.expiry
    return Fetched(HeaderCredential(lines), expiry and expiry.replace(tzinfo=UTC).timestamp())


def _credentials(source: _Source, info: dict[str, Any]) -> Any:
    """google-auth's object for a file. Raises CredentialError; GoogleAuthError for what is wrong with newer types."""
    from google.oauth2 import credentials, service_account

    if info["type"] == "authorized_user":
        return credentials.Credentials(
            None,
            refresh_token=info["refresh_token"],
            token_uri=info.get("token_uri") or _TOKEN_URI,
            client_id=info["client_id"],
            client_secret=info["client_secret"],
        )
    if info["type"] != "service_account":
        return _of_newer_type(source, info)
    try:
        return service_account.Credentials.from_service_account_info(info, scopes=[_SCOPE])
    except Exception:  # noqa: BLE001 - whatever the key's parser raises; its text may hold a part of the key
        what = "the file's private_key cannot be read; make a new key file"
        raise CredentialError(f"{source.setting}: {what}", f"{source.setting}: {source.path}: {what}") from None


def _of_newer_type(source: _Source, info: dict[str, Any]) -> Any:
    """google-auth's object for a file that 1.5.1 cannot read. Raises GoogleAuthError."""
    import google.auth
    from google.auth import aws, exceptions, identity_pool, pluggable

    origin = info.get("credential_source")
    kind: Any = identity_pool
    if info.get("subject_token_type") == _AWS_SUBJECT:
        kind = aws
    elif isinstance(origin, dict) and origin.get("executable") is not None:
        kind = pluggable
    try:
        if info["type"] == "external_account":
            # The library's loader would also ask Cloud Resource Manager for a project, which may be forbidden.
            return kind.Credentials.from_info(info, scopes=[_SCOPE])
        return google.auth.load_credentials_from_file(str(source.path), scopes=[_SCOPE])[0]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise exceptions.DefaultCredentialsError(f"the file is malformed ({type(error).__name__})") from None


def _refusal(step: str, error: Exception, kind: str) -> CredentialError:
    from google.auth import exceptions

    text = str(error.args[0]) if error.args else ""
    if isinstance(error, exceptions.TransportError) or isinstance(error.__cause__, exceptions.TransportError):
        # The text may hold a proxy's address, and that a password.
        return CredentialError(f"{step} got no answer ({type(error).__name__}): check the network, or HTTPS_PROXY")
    found = _OAUTH_CODE.match(text)
    code = found[1] if found else type(error).__name__
    if kind == "authorized_user":
        remedy = "log in anew by `gcloud auth application-default login`"
    elif code == "invalid_grant":
        remedy = "the key was deleted or its account disabled, or this machine's clock is wrong"
    else:
        remedy = "check the file and the rights of its account"
    message = f"{step} was refused ({code}): {remedy}"
    return CredentialError(message, f"{message}; {' '.join(text.split())[:300]}")


def _from_metadata(note: Note, environ: Mapping[str, str], epoch: Callable[[], float]) -> Fetched:
    """The token of the machine's service account (Google's page on access tokens from the metadata server)."""
    step = "the Google metadata server"
    note(step)
    remedy = "set gcp_credentials_file, or GOOGLE_APPLICATION_CREDENTIALS, or log in by gcloud"
    if environ.get("NO_GCE_CHECK", "").lower() == "true":
        raise CredentialError(f"no Google credentials were found: {remedy}")
    host = environ.get("GCE_METADATA_HOST") or environ.get("GCE_METADATA_ROOT") or "metadata.google.internal"
    path = "/computeMetadata/v1/instance/service-accounts/default/token"
    url = f"http://{host}{path}?{urlencode({'scopes': _SCOPE})}"
    try:
        status, answer = fetch_json(url, {"Metadata-Flavor": "Google"}, timeout=_METADATA_TIMEOUT)
    except OSError:
        message = f"no Google credentials were found, and {step} does not answer: {remedy}"
        raise CredentialError(message) from None
    token, life = answer.get("access_token"), answer.get("expires_in")
    if status == 404:
        raise CredentialError(f"{step} has no service account for this machine: attach one, or {remedy}")
    if status != 200 or not isinstance(token, str) or not isinstance(life, (int, float)):
        raise CredentialError(f"{step} gave no token (HTTP {status}): {remedy}")
    lines = [(b"authorization", Secret(f"Bearer {token}"))]
    if environ.get("GOOGLE_CLOUD_QUOTA_PROJECT"):
        lines.append((_USER_PROJECT.encode("ascii"), Secret(environ["GOOGLE_CLOUD_QUOTA_PROJECT"])))
    return Fetched(HeaderCredential(tuple(lines)), epoch() + life)
