"""Who the client is, from its headers and in memory alone; and which credential of its own may pass through.

Nothing remote is asked and the body is not waited for, so a stranger costs a hash.
"""

from __future__ import annotations

from dataclasses import dataclass

from ccrelay.core.headers import first
from ccrelay.core.model import Headers, OwnCredential, Principal
from ccrelay.core.secret import Secret
from ccrelay.core.settings import AuthSettings
from ccrelay.errors import ClientError

PLACEHOLDER = b"managed-by-cc-relay"
"""What clients are told to configure as a key when the relay holds the real ones; never worth forwarding."""

_OPEN = Principal("open", "-", b"", own_credential_only=False)


@dataclass(frozen=True, slots=True)
class Admission:
    """A client that may go on. ``own_credential``: may be sent to ``type: anthropic`` in place of a pooled key."""

    principal: Principal
    own_credential: OwnCredential | None


class Doorkeeper:
    """Applies ``server.auth`` to a request's headers."""

    def __init__(self, settings: AuthSettings) -> None:
        self._settings = settings
        self._locked = bool(settings.api_key) or settings.allow_bearer

    def admit(self, headers: Headers) -> Admission:
        """Let the client in, or raise ClientError 401.

        A key opens the door in ``x-api-key`` or as a bearer. Of what a client presents, whatever opened the door
        stays here; another credential is its own, and passes on only with ``allow_subscription``.
        """
        opened, own = None, None
        for header, value, presented in _presented(headers):
            method = self._opens(header, presented)
            if method is None:
                if self._settings.allow_subscription and presented != PLACEHOLDER and own is None:
                    own = OwnCredential(header, Secret(value.decode("latin-1")))
            elif opened is None:
                opened = _principal(method, presented, own_credential_only=False)
        if opened is not None:
            return Admission(opened, own)
        if own is not None and self._locked:
            return Admission(_principal("own_credential", own.value.reveal().encode("latin-1"), True), own)
        if not self._locked:
            return Admission(_OPEN, own)
        raise ClientError(
            401,
            "authentication_error",
            "cc-relay: the credential is missing or wrong; send the relay's key as x-api-key or as a bearer token",
            should_retry=False,
        )

    def _opens(self, header: bytes, presented: bytes) -> str | None:
        settings = self._settings
        if settings.api_key and settings.api_key.matches(presented):
            return "api_key"
        if header == b"authorization" and settings.allow_bearer:
            if settings.bearer_secret:
                return "bearer" if settings.bearer_secret.matches(presented) else None
            # Any bearer passes; but where a client's own may be forwarded, it is the client's own.
            return None if settings.allow_subscription and presented != PLACEHOLDER else "bearer"
        return None


def _presented(headers: Headers) -> list[tuple[bytes, bytes, bytes]]:
    """The credentials among ``headers``: header name, its whole value, and the credential inside it."""
    found = []
    key = first(headers, b"x-api-key")
    if key:
        found.append((b"x-api-key", key, key))
    authorization = first(headers, b"authorization")
    if authorization:
        scheme, _, token = authorization.partition(b" ")
        if scheme.lower() == b"bearer" and token.strip():
            found.append((b"authorization", authorization, token.strip()))
    return found


def _principal(method: str, presented: bytes, own_credential_only: bool) -> Principal:
    secret = Secret(presented.decode("latin-1"))
    return Principal(method, secret.fingerprint, secret.digest, own_credential_only)
