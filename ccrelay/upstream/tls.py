"""Trust for connections to upstreams: the system's roots, and one more file where a provider names it."""

from __future__ import annotations

from typing import Any
from weakref import ref

from OpenSSL import SSL
from service_identity import CertificateError, VerificationError
from service_identity.cryptography import verify_certificate_hostname, verify_certificate_ip_address
from twisted.internet import ssl
from twisted.internet._sslverify import IOpenSSLTrustRoot
from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator
from twisted.python.failure import Failure
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


@implementer(IOpenSSLClientConnectionCreator)
class _VerifiedConnections:
    """Makes TLS connections to ``host``, which end unless the certificate is trusted and names it.

    Not ``optionsForClientTLS``: Twisted 26.10's accepts a certificate whose names are missing or cannot be read (it
    logs the CertificateError and goes on), and finds an unreadable ``ca_file`` at the first connection only.
    """

    def __init__(self, host: str, context: SSL.Context) -> None:
        self._host = host
        self._context = context
        self._is_address = isIPAddress(host) or isIPv6Address(host)

    def clientConnectionForTLS(self, protocol: Any) -> SSL.Connection:
        connection = SSL.Connection(self._context, None)
        if not self._is_address:  # RFC 6066 section 3 allows no addresses there
            connection.set_tlsext_host_name(self._host.encode("ascii"))
        connection.set_alpn_protos([b"http/1.1"])
        owner = ref(protocol)

        def verify(_connection: SSL.Connection, certificate: Any, _code: int, depth: int, trusted: int) -> bool:
            if not trusted or depth:
                return bool(trusted)
            try:
                self._check_name(certificate.to_cryptography())
            except Exception as error:  # noqa: BLE001  (whatever it is, the name has not been proved)
                reason = error if isinstance(error, VerificationError) else CertificateError(str(error))
                tls: Any = owner()
                tls.failVerification(Failure(reason))
                return False
            return True

        connection.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, verify)
        return connection

    def _check_name(self, certificate: Any) -> None:
        check = verify_certificate_ip_address if self._is_address else verify_certificate_hostname
        check(certificate, self._host)


def connection_creator(host: str, ca_file: str | None) -> IOpenSSLClientConnectionCreator:
    """How to speak TLS to ``host`` (a name or an address): verified, TLS 1.2 or newer, HTTP/1.1 by ALPN.

    Building it reads the whole trust store (tens of milliseconds): once per provider, not per connection.
    Raises OSError or OpenSSL.SSL.Error if ``ca_file`` cannot be read as PEM.
    """
    root = ssl.platformTrust() if ca_file is None else SystemRootsAnd(ca_file)
    options = ssl.CertificateOptions(trustRoot=root, raiseMinimumTo=ssl.TLSVersion.TLSv1_2)
    return _VerifiedConnections(host, options.getContext())
