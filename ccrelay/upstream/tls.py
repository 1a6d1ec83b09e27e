"""Trust for connections to upstreams: the system's roots, and one more file where a provider names it."""

from __future__ import annotations

from typing import Any

from twisted.internet import ssl
from twisted.internet._sslverify import IOpenSSLTrustRoot
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator
from zope.interface import implementer


@implementer(IOpenSSLTrustRoot)
class SystemRootsAnd:
    """The platform's trust roots plus the certificates of a PEM file (``ca_file``).

    IOpenSSLTrustRoot and its one method have no public name in Twisted, and no public class joins two roots.
    """

    def __init__(self, ca_file: str) -> None:
        self._ca_file = ca_file

    def _addCACertsToContext(self, context: Any) -> None:
        context.set_default_verify_paths()
        context.load_verify_locations(self._ca_file)


def connection_creator(host: str, ca_file: str | None) -> IOpenSSLClientConnectionCreator:
    """How to speak TLS to ``host`` (a name or an address): verified, TLS 1.2 or newer, HTTP/1.1 by ALPN.

    Building it reads the whole trust store (tens of milliseconds): once per provider, not per connection.
    Raises OSError or OpenSSL.SSL.Error if ``ca_file`` cannot be read as PEM.
    """
    root = ssl.platformTrust() if ca_file is None else SystemRootsAnd(ca_file)
    return ssl.optionsForClientTLS(
        host,
        trustRoot=root,
        acceptableProtocols=[b"http/1.1"],
        extraCertificateOptions={"raiseMinimumTo": ssl.TLSVersion.TLSv1_2},
    )
