"""Which credentials a provider's settings ask for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.util import find_spec

from twisted.internet.interfaces import IReactorTime

from ccrelay.core.model import AwsKeys, HeaderCredential
from ccrelay.core.secret import Secret
from ccrelay.core.settings import AwsSettings, AzureSettings, GcpSettings, ProviderSettings
from ccrelay.credentials.aws import aws_fetch
from ccrelay.credentials.entra import client_secret_fetch, managed_identity_fetch
from ccrelay.credentials.google import check_credentials_file, google_fetch, installed_google_auth
from ccrelay.credentials.refreshing import Fetch, RefreshingCredentials
from ccrelay.credentials.static import StaticCredentials
from ccrelay.credentials.threads import CredentialThreads
from ccrelay.errors import ConfigError, CredentialError, Problem


def credentials_for(
    settings: ProviderSettings,
    environ: Mapping[str, str],
    threads: CredentialThreads,
    clock: IReactorTime,
    epoch: Callable[[], float],
) -> StaticCredentials | RefreshingCredentials | None:
    """What a provider authenticates with that has no ``keys``; None where it can only do so by keys, or needs nothing.

    environ: the process's own, as the clouds' libraries read it too. epoch(): Unix seconds. Fetches nothing yet:
    ``RefreshingCredentials.warm`` does. Raises ConfigError, by the setting that is at fault, for a library that is
    missing and for a credentials file or an authority that cannot be used.
    """
    fetch: Fetch
    if settings.aws is not None:
        fixed = _fixed_aws(settings, settings.aws, environ)
        if fixed is not None:
            return StaticCredentials(fixed)
        fetch = aws_fetch(settings.aws)
    elif settings.gcp is not None:
        fetch = _google(settings, settings.gcp, environ, epoch)
    elif settings.azure is not None and uses_entra(settings.azure):
        if settings.azure.managed_identity:
            fetch = managed_identity_fetch(settings.azure, environ, epoch)
        else:
            try:
                fetch = client_secret_fetch(settings.azure, environ, epoch, proxy=settings.proxy)
            except CredentialError as error:
                raise _problem(settings, "azure_client_secret", error.detail) from None
    else:
        return None
    return RefreshingCredentials(settings.name, fetch, threads.run, clock, epoch)


def uses_entra(settings: AzureSettings) -> bool:
    """Whether an Azure provider asks Entra ID for tokens instead of having a key."""
    return settings.managed_identity or settings.client_secret is not None


def _fixed_aws(
    settings: ProviderSettings, aws: AwsSettings, environ: Mapping[str, str]
) -> AwsKeys | HeaderCredential | None:
    """What is configured itself, in the order in which it wins; None: the chain is asked."""
    bearer = aws.bearer_token
    explicit = aws.access_key_id is not None or aws.profile is not None
    variable = environ.get("AWS_BEARER_TOKEN_BEDROCK", "").strip()
    if bearer is None and not explicit and variable:
        if not variable.isascii() or not variable.isprintable():
            raise _problem(settings, "aws_bearer_token", "AWS_BEARER_TOKEN_BEDROCK in the environment is no token")
        bearer = Secret(variable)
    if bearer is not None:
        return HeaderCredential(((b"authorization", Secret(f"Bearer {bearer.reveal()}")),))
    if find_spec("botocore") is None:
        message = "signing for AWS needs botocore: install python3-botocore, or this project with its extra bedrock"
        raise _problem(settings, "type", f"{message}, or set aws_bearer_token")
    if aws.access_key_id is None or aws.secret_access_key is None:
        return None
    return AwsKeys(aws.access_key_id, aws.secret_access_key, aws.session_token)


def _google(
    settings: ProviderSettings, gcp: GcpSettings, environ: Mapping[str, str], epoch: Callable[[], float]
) -> Fetch:
    if installed_google_auth() is None or find_spec("requests") is None:
        packages = "python3-google-auth and python3-requests, or this project with its extra vertex"
        raise _problem(settings, "type", f"Google credentials need google-auth and requests: install {packages}")
    if gcp.credentials_file is not None:
        try:
            check_credentials_file(gcp.credentials_file)
        except CredentialError as error:
            raise _problem(settings, "gcp_credentials_file", error.detail) from None
    return google_fetch(gcp, environ, epoch)


def _problem(settings: ProviderSettings, key: str, message: str) -> ConfigError:
    return ConfigError("configuration", (Problem(f"providers.{settings.name}.{key}", None, message),))
