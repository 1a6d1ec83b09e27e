"""AWS credentials by botocore's chain: profile, environment, web identity, SSO, process, container, IMDS, roles.

Each fetch begins anew, with a session of its own: botocore refreshes inside attribute access, on whatever thread that
is, and keeps what it knows for as long as it likes; a fresh chain also sees files that have changed. Of what it finds
only a frozen triple leaves the thread. botocore is imported there, and reads the process's own environment.
"""

from __future__ import annotations

import re
from typing import Any, Final, NoReturn

from ccrelay.core.aws_text import without_accounts
from ccrelay.core.model import AwsKeys
from ccrelay.core.secret import Secret
from ccrelay.core.settings import AwsSettings
from ccrelay.credentials.refreshing import Fetch, Fetched, Note
from ccrelay.errors import CredentialError

_STEPS: Final = {
    "env": "the environment (AWS_ACCESS_KEY_ID)",
    "assume-role": "assuming the profile's role",
    "assume-role-with-web-identity": "the web identity's role",
    "sso": "the SSO login",
    "shared-credentials-file": "the shared credentials file",
    "login": "the login session",
    "custom-process": "the profile's credential_process",
    "config-file": "the AWS config file",
    "container-role": "the container's credentials endpoint",
    "iam-role": "the instance metadata service",
}
"""botocore's names for the links of its chain, in words. Two that only read boto 2's files have none."""

_CODE: Final = re.compile(r"[A-Za-z0-9.]{1,64}")
_EVERYTHING: Final = "aws_profile, or aws_access_key_id and aws_secret_access_key, or aws_bearer_token"
_LONGEST_TEXT: Final = 500
"""Characters of a foreign text that are logged: a credential_process may print anything."""


def aws_fetch(settings: AwsSettings) -> Fetch:
    """A fetch by botocore's chain, for ``aws_profile`` if it is set; ``aws_region`` is where roles are assumed."""

    def fetch(note: Note) -> Fetched:
        note("reading the AWS configuration")
        from botocore.session import Session

        session = Session(profile=settings.profile)
        session.set_config_variable("region", settings.region)
        step = "reading the AWS configuration"
        try:
            for provider in session.get_component("credential_provider").providers:
                step = _STEPS.get(provider.METHOD, provider.METHOD)
                note(step)
                _forbid_questions(provider)
                found = provider.load()
                if found is not None:
                    return _frozen(found)
        except CredentialError:
            raise
        except Exception as error:  # noqa: BLE001 - the chain's links raise what they like; all of it is told
            raise _told(error, step, settings.profile, session) from None
        raise _nothing_found(settings.profile)

    return fetch


def _frozen(found: Any) -> Fetched:
    """What a link of the chain found: here those that are lazy make their requests."""
    frozen = found.get_frozen_credentials()
    expiry = getattr(found, "_expiry_time", None)  # there is no public name for it
    token = frozen.token
    keys = AwsKeys(Secret(frozen.access_key), Secret(frozen.secret_key), Secret(token) if token else None)
    return Fetched(keys, None if expiry is None else expiry.timestamp())


def _forbid_questions(provider: Any) -> None:
    """A role that asks for a second factor would be asked for on the daemon's terminal, if it has one."""

    def refuse(_: str) -> NoReturn:
        raise CredentialError(
            "assuming the profile's role needs a second factor (mfa_serial), which a daemon cannot give: "
            "let aws_profile name a profile without one"
        )

    if hasattr(provider, "_prompter"):  # the chain builds this link itself, and passes none
        provider._prompter = refuse  # noqa: SLF001


def _nothing_found(profile: str | None) -> CredentialError:
    message = f"no AWS credentials were found: set {_EVERYTHING}"
    if profile is not None:
        message = "the profile that aws_profile names has no credentials, and nothing else gave any"
    named = "" if profile is None else f" (profile {profile})"
    return CredentialError(message, f"{message}{named}; looked at: {', '.join(_STEPS.values())}")


def _told(error: Exception, step: str, profile: str | None, session: Any) -> CredentialError:
    """A failure of the chain in two texts: for clients without accounts, roles, hosts and files."""
    from botocore import exceptions

    login = f"aws sso login --profile {profile}" if profile else "aws sso login"
    files = f"{session.get_config_variable('config_file')}, {session.get_config_variable('credentials_file')}"
    if isinstance(error, exceptions.ProfileNotFound):
        setting = "aws_profile" if profile else "AWS_PROFILE"
        return _both(f"{setting} names a profile that is in neither AWS file", f"{error} Looked in {files}")
    if isinstance(error, exceptions.ClientError):
        code = str(error.response.get("Error", {}).get("Code", ""))
        shown = code if _CODE.fullmatch(code) else "an error"
        if "sso" in step.lower():
            return _both(f"{step} was refused ({shown}): run `aws sso login` where the relay runs", f"{error}: {login}")
        return _both(f"{step} was refused ({shown}): check its trust policy and the caller's rights", str(error))
    if isinstance(error, (exceptions.SSOError, exceptions.TokenRetrievalError)):
        return _both(f"{step} has expired or is missing: run `aws sso login` where the relay runs", f"{login}: {error}")
    if isinstance(error, exceptions.PartialCredentialsError):
        return _both(f"{step} has one half of a key without the other", str(error))
    if isinstance(error, (exceptions.HTTPClientError, exceptions.ConnectionError)):
        return _both(f"{step} got no answer ({type(error).__name__}): check the network and aws_region", str(error))
    if isinstance(error, OSError):
        what = "there is no such file" if isinstance(error, FileNotFoundError) else type(error).__name__
        remedy = "check AWS_WEB_IDENTITY_TOKEN_FILE and the files of the profile"
        return _both(f"{step} cannot be read ({what}): {remedy}", str(error))
    if isinstance(error, RuntimeError):
        return _both(
            f"{step} gives credentials that have expired: renew them there, or set this machine's clock", str(error)
        )
    kind = type(error).__name__
    return _both(f"{step} failed ({kind}); the relay's log says more, or set {_EVERYTHING}", str(error))


def _both(message: str, detail: str) -> CredentialError:
    text = " ".join(detail.split())[:_LONGEST_TEXT]
    return CredentialError(without_accounts(message), f"{message}; {text}")
