"""A credential that does not change: a configured key, or the one a client sent for its own call."""

from __future__ import annotations

from twisted.internet.defer import Deferred, fail, succeed
from zope.interface import implementer

from ccrelay.core.model import Credential
from ccrelay.errors import CredentialError
from ccrelay.interfaces import ICredentials


@implementer(ICredentials)
class StaticCredentials:
    """Always ``credential``."""

    def __init__(self, credential: Credential) -> None:
        self._credential = credential

    def current(self) -> Deferred[Credential]:
        return succeed(self._credential)

    def renew(self, refused: Credential) -> Deferred[Credential]:
        """There is no other."""
        return fail(CredentialError("the configured key was refused; replace it in the configuration"))
