"""Trust for upstreams, by real handshakes on loopback with authorities of our own."""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from OpenSSL import SSL
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.protocol import Protocol, ServerFactory, connectionDone
from twisted.internet.ssl import CertificateOptions, PrivateCertificate
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase
from twisted.web.client import URI

from ccrelay.core.outcomes import Outcome
from ccrelay.upstream.agent import OriginAgent, origin_endpoint
from ccrelay.upstream.connect_proxy import ConnectProxyEndpoint
from ccrelay.upstream.failures import upstream_error
from ccrelay.upstream.tls import TlsEndpoint, client_context

from .upstream_rig import HELLO, NamedReactor, Receiver

pytestmark = pytest.mark.filterwarnings("ignore:Passing pyOpenSSL")  # what the servers here are made with


@dataclass(frozen=True)
class Signed:
    """A certificate and its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        form = serialization.PrivateFormat.PKCS8
        return self.key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())


def sign(subject: str, issuer: Signed | None = None, *names: x509.GeneralName, ended: bool = False) -> Signed:
    """A server's certificate for ``names`` by ``issuer``, or without one an authority's own."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)])
    now = datetime.now(UTC).replace(tzinfo=None)
    until = now - timedelta(days=1) if ended else now + timedelta(days=1)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name if issuer is None else issuer.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=2))
        .not_valid_after(until)
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return Signed(builder.sign(key if issuer is None else issuer.key, hashes.SHA256()), key)


def dns(name: str) -> x509.DNSName:
    return x509.DNSName(name)


class Origin(Protocol):
    """Answers each request head with HELLO; with ``proxied``, it is a CONNECT proxy first."""

    def __init__(self, server: Server, options: CertificateOptions | None) -> None:
        self.server = server
        self.proxy_for = options
        self.data = b""

    def connectionMade(self) -> None:
        self.server.open += 1
        if self.server.greeting:
            self.transport.write(self.server.greeting)  # type: ignore[union-attr]

    def dataReceived(self, data: bytes) -> None:
        transport: Any = self.transport
        self.data += data
        if not self.data.endswith(b"\r\n\r\n"):
            return
        self.server.requests.append(self.data)
        self.data = b""
        if self.proxy_for is not None:
            options, self.proxy_for = self.proxy_for, None
            transport.write(b"HTTP/1.1 200 OK\r\n\r\n")
            transport.startTLS(options)
            return
        self.server.protocols.append(getattr(transport, "negotiatedProtocol", None))
        transport.write(HELLO)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.server.left()


class Server(ServerFactory):
    """``gone``: a Deferred that waits until no client is connected any more. ``greeting``: said before anything."""

    noisy = False
    greeting = b""

    def __init__(self, proxied: CertificateOptions | None = None) -> None:
        self.requests: list[bytes] = []
        self.protocols: list[bytes | None] = []
        self.open = 0
        self._waiting: Deferred[None] | None = None
        self._proxied = proxied

    def buildProtocol(self, addr: object) -> Origin:
        made = Origin(self, self._proxied)
        made.factory = self
        return made

    def left(self) -> None:
        self.open -= 1
        if not self.open and self._waiting is not None:
            waiting, self._waiting = self._waiting, None
            waiting.callback(None)

    def gone(self) -> Deferred[None]:
        waiting: Deferred[None] = Deferred()
        if self.open:
            self._waiting = waiting
        else:
            waiting.callback(None)
        return waiting


class HandshakeTests(TestCase):
    """What an agent makes of servers with certificates of several kinds."""

    @classmethod
    def setUpClass(cls) -> None:
        cls.authority, cls.other = sign("one authority"), sign("another authority")
        cls.good = sign("x", cls.authority, dns("api.test"), x509.IPAddress(ip_address("127.0.0.1")))

    def setUp(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="ccrelay-tls-"))
        self.addCleanup(shutil.rmtree, self.folder)
        # The system's roots are those of the first authority, whatever this machine trusts.
        self.use_system_roots(self.authority)

    def use_system_roots(self, *trusted: Signed) -> None:
        for name, value in (("SSL_CERT_FILE", self.file(*trusted)), ("SSL_CERT_DIR", str(self.folder / "none"))):
            before = os.environ.get(name)
            os.environ[name] = value
            self.addCleanup(os.environ.pop if before is None else os.environ.__setitem__, name, before)

    def file(self, *trusted: Signed) -> str:
        """The path of a PEM file with these certificates."""
        path = self.folder / f"{len(os.listdir(self.folder))}.pem"
        path.write_bytes(b"".join(signed.pem for signed in trusted))
        return str(path)

    def listen(self, identity: Signed, *, proxied: bool = False) -> tuple[Server, int]:
        from twisted.internet import reactor

        running: Any = reactor
        options = PrivateCertificate.loadPEM(identity.pem + identity.key_pem).options()
        options._acceptableProtocols = [b"h2", b"http/1.1"]
        server = Server(options if proxied else None)
        listen = running.listenTCP if proxied else running.listenSSL
        port = listen(0, server, *([] if proxied else [options]), interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        return server, port.getHost().port

    def ask(self, endpoint: IStreamClientEndpoint, server: Server) -> Deferred[str]:
        """A request over ``endpoint``: the body of its answer, or the words for what went wrong."""
        agent = OriginAgent(Clock(), endpoint)
        self.addCleanup(server.gone)
        self.addCleanup(agent.close)
        ended: Deferred[str] = Deferred()

        def receive(response: Any) -> None:
            receiver = Receiver()
            receiver.connectionLost = lambda reason=None: ended.callback(receiver.data.decode())  # type: ignore[assignment,method-assign]
            response.deliverBody(receiver)

        def explain(failure: Failure) -> None:
            error = upstream_error(failure)
            assert error.outcome is Outcome.PROVIDER_ILL
            ended.callback(error.reason)

        agent.request(b"POST", b"https://api.test/").addCallbacks(receive, explain).addErrback(ended.errback)
        return ended

    def meet(self, identity: Signed, host: str = "api.test", ca_file: str | None = None) -> Deferred[str]:
        """Ask a server with that identity as if it were ``host``."""
        from twisted.internet import reactor

        server, port = self.listen(identity)
        self.server = server
        tcp = TCP4ClientEndpoint(reactor, "127.0.0.1", port)
        return self.ask(TlsEndpoint(tcp, client_context(ca_file), host), server)

    def expect(self, asked: Deferred[str], *words: str) -> Deferred[None]:
        def check(found: str) -> None:
            for word in words:
                self.assertIn(word, found)

        return asked.addCallback(check)

    def test_the_systems_roots_are_trusted_and_http_1_1_agreed_on(self) -> Deferred[None]:
        asked = self.expect(self.meet(self.good), "hello")
        return asked.addCallback(lambda _: self.assertEqual(self.server.protocols, [b"http/1.1"]))

    def test_a_certificate_for_another_name_is_refused(self) -> Deferred[None]:
        return self.expect(self.meet(self.good, "api.example"), "TLS failed", "not for this host")

    def test_a_certificate_without_names_is_refused(self) -> Deferred[None]:
        return self.expect(self.meet(sign("other.test", self.authority)), "TLS failed", "certificate")

    def test_a_certificate_with_a_name_that_is_none_is_refused(self) -> Deferred[None]:
        identity = sign("x", self.authority, dns("*.*"), dns("127.0.0.1"))
        return self.expect(self.meet(identity), "TLS failed", "certificate")

    def test_a_certificate_of_an_unknown_authority_is_refused(self) -> Deferred[None]:
        identity = sign("x", self.other, dns("api.test"))
        return self.expect(self.meet(identity), "TLS failed", "unable to get local issuer certificate")

    def test_a_certificate_that_has_ended_is_refused(self) -> Deferred[None]:
        identity = sign("x", self.authority, dns("api.test"), ended=True)
        return self.expect(self.meet(identity), "TLS failed", "certificate")

    def test_an_address_needs_a_certificate_for_the_address(self) -> Deferred[None]:
        return self.expect(self.meet(self.good, "127.0.0.1"), "hello")

    def test_an_address_that_the_certificate_does_not_list_is_refused(self) -> Deferred[None]:
        identity = sign("x", self.authority, dns("api.test"), x509.IPAddress(ip_address("127.0.0.2")))
        return self.expect(self.meet(identity, "127.0.0.1"), "TLS failed", "not for this host")

    def test_a_ca_file_is_trusted(self) -> Deferred[None]:
        identity = sign("x", self.other, dns("api.test"))
        return self.expect(self.meet(identity, ca_file=self.file(self.other)), "hello")

    def test_a_ca_file_adds_to_the_systems_roots(self) -> Deferred[None]:
        return self.expect(self.meet(self.good, ca_file=self.file(self.other)), "hello")

    def test_a_ca_file_takes_no_name_for_another(self) -> Deferred[None]:
        identity = sign("x", self.other, dns("elsewhere.test"))
        return self.expect(self.meet(identity, ca_file=self.file(self.other)), "not for this host")

    def test_a_server_without_tls_is_named_as_that(self) -> Deferred[None]:
        from twisted.internet import reactor

        running: Any = reactor
        factory = Server()
        factory.greeting = b"HTTP/1.1 400 Bad Request\r\n\r\n"
        port = running.listenTCP(0, factory, interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        tcp = TCP4ClientEndpoint(reactor, "127.0.0.1", port.getHost().port)
        return self.expect(self.ask(TlsEndpoint(tcp, client_context(None), "api.test"), factory), "TLS failed")

    def test_tls_goes_through_a_tunnel_to_the_host_that_was_asked_for(self) -> Deferred[None]:
        from twisted.internet import reactor

        server, port = self.listen(self.good, proxied=True)
        tunnel = ConnectProxyEndpoint(TCP4ClientEndpoint(reactor, "127.0.0.1", port), "api.test", 443)
        asked = self.expect(self.ask(TlsEndpoint(tunnel, client_context(None), "api.test"), server), "hello")
        return asked.addCallback(lambda _: self.assertEqual(server.requests[0].split()[1], b"api.test:443"))

    def test_a_proxy_cannot_pass_itself_off_as_the_origin(self) -> Deferred[None]:
        from twisted.internet import reactor

        server, port = self.listen(sign("x", self.authority, dns("proxy.test")), proxied=True)
        tunnel = ConnectProxyEndpoint(TCP4ClientEndpoint(reactor, "127.0.0.1", port), "api.test", 443)
        return self.expect(self.ask(TlsEndpoint(tunnel, client_context(None), "api.test"), server), "not for this host")

    def test_the_endpoint_of_an_https_origin_verifies_the_origins_name(self) -> Deferred[None]:
        from twisted.internet import reactor

        def ask(identity: Signed) -> Deferred[str]:
            server, port = self.listen(identity)
            uri = URI.fromBytes(b"https://127.0.0.1:%d/" % port)
            endpoint = origin_endpoint(reactor, uri, connect_timeout=30.0, ca_file=None, proxy=None)
            return self.ask(endpoint, server)

        asked = self.expect(ask(self.good), "hello")
        foreign = sign("x", self.authority, x509.IPAddress(ip_address("127.0.0.2")))
        return asked.addCallback(lambda _: self.expect(ask(foreign), "not for this host"))


@pytest.mark.parametrize("content", [None, b"", b"not a certificate", b"-----BEGIN CERTIFICATE-----\nAAAA\n"])
def test_a_ca_file_that_cannot_be_used_is_an_error_at_once(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises((OSError, SSL.Error)):
        client_context(str(path))


def test_an_http_origin_has_no_use_for_trust(tmp_path: Path) -> None:
    origin_endpoint(
        NamedReactor(),
        URI.fromBytes(b"http://localhost:11434"),
        connect_timeout=10.0,
        ca_file=str(tmp_path / "missing"),
        proxy=None,
    )
