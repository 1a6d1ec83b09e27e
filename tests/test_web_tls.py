"""TLS on the listener: what it speaks, and what it says about files that it cannot use."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
)
from OpenSSL import SSL
from twisted.web import http

from ccrelay.core.settings import TlsSettings
from ccrelay.web.tls import UnusableTlsFile, tls_factory

from .fakes import FakeConnection
from .web_rig import HEADER, HEALTH, WRITE_STALL, Web, post, read_replies

NOW = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)


def key_and_certificate(name: str) -> tuple[Any, bytes]:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(NOW)
        .not_valid_after(NOW + datetime.timedelta(days=10_000))
        .sign(key, hashes.SHA256())
    )
    return key, certificate.public_bytes(Encoding.PEM)


def pem(key: Any, encryption: KeySerializationEncryption) -> bytes:
    return bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("tls")
    key, certificate = key_and_certificate("localhost")
    other, _ = key_and_certificate("localhost")
    (place / "certificate").write_bytes(certificate)
    (place / "key").write_bytes(pem(key, NoEncryption()))
    (place / "other key").write_bytes(pem(other, NoEncryption()))
    (place / "locked key").write_bytes(pem(key, BestAvailableEncryption(b"passphrase")))
    (place / "old locked key").write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, BestAvailableEncryption(b"passphrase"))
    )
    (place / "both").write_bytes(certificate + pem(key, NoEncryption()))
    (place / "nonsense").write_text("nonsense\n")
    (place / "empty").write_text("")
    (place / "folder").mkdir()
    return place


@pytest.mark.parametrize(
    ("certificate", "key", "blamed", "why"),
    [
        ("none", "key", "none", "No such file"),
        ("folder", "key", "folder", "Is a directory"),
        ("nonsense", "key", "nonsense", "not a PEM certificate"),
        ("empty", "key", "empty", "not a PEM certificate"),
        ("key", "key", "key", "not a PEM certificate"),
        ("certificate", "none", "none", "No such file"),
        ("certificate", "nonsense", "nonsense", "not the private key"),
        ("certificate", "certificate", "certificate", "not the private key"),
        ("certificate", "other key", "other key", "not the private key"),
        ("certificate", "locked key", "locked key", "without a passphrase"),
        ("certificate", "old locked key", "old locked key", "without a passphrase"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_with_the_reason(
    folder: Path, certificate: str, key: str, blamed: str, why: str
) -> None:
    settings = TlsSettings(str(folder / certificate), str(folder / key))
    with pytest.raises(UnusableTlsFile) as caught:
        tls_factory(settings, Web().site)
    message = str(caught.value)
    assert message.startswith(f"{folder / blamed}: ")
    assert why in message
    assert "\n" not in message


def test_one_file_may_hold_both(folder: Path) -> None:
    both = str(folder / "both")
    tls_factory(TlsSettings(both, both), Web().site)


class TlsClient:
    """A client that speaks TLS by OpenSSL alone, its socket joined in memory to the site's listener.

    ``data``: what it has read. ``closed``: the other side said so inside TLS, or only by closing its socket.
    """

    def __init__(self, web: Web, folder: Path, configure: Callable[[SSL.Context], object] = lambda _: None) -> None:
        context = SSL.Context(SSL.TLS_METHOD)
        configure(context)
        self.tls = SSL.Connection(context, None)
        self.tls.set_connect_state()
        self.data = b""
        self.closed = False
        settings = TlsSettings(str(folder / "certificate"), str(folder / "key"))
        factory: Any = tls_factory(settings, web.site)
        factory._clock = web.clock  # newer versions of Twisted write small pieces in the global reactor's next turn
        self.socket = FakeConnection(web.clock, factory.buildProtocol(None))

    def shake_hands(self) -> TlsClient:
        """Raises SSL.Error if no handshake comes about."""
        while True:
            try:
                self.tls.do_handshake()
            except SSL.WantReadError:
                assert self._move(), "the handshake hangs"
            else:
                self._move()
                return self

    def send(self, data: bytes) -> None:
        self.tls.sendall(data)
        self.read()

    def read(self) -> None:
        """Take what has come, after a turn of the reactor."""
        self.socket.turn()
        self._move()
        while not self.closed:
            try:
                self.data += self.tls.recv(65536)
            except SSL.WantReadError:
                return
            except SSL.ZeroReturnError:
                self.closed = True

    def _move(self) -> bool:
        """Carry bytes both ways. Whether there were any."""
        moved = False
        try:
            self.socket.send(self.tls.bio_read(1 << 20))
            moved = True
        except SSL.WantReadError:
            pass
        received, self.socket.received = self.socket.received, b""
        if received:
            self.tls.bio_write(received)
        return moved or bool(received)


def test_requests_and_streams_pass_over_tls(folder: Path) -> None:
    web = Web()
    client = TlsClient(web, folder).shake_hands()
    client.send(HEALTH + post())
    sink = web.calls[0].sink
    sink.begin(200, ())
    sink.write(b"one ")
    client.read()
    health, stream = read_replies(client.data, [b"GET", b"POST"], eof=False)
    assert (health.json, stream.body) == ({"status": "ok"}, b"one ")
    sink.write(b"two")
    sink.finish()
    client.read()
    assert read_replies(client.data, [b"GET", b"POST"], eof=False)[1].ending == "whole"
    assert (client.socket.options, web.calls[0].call.peer) == (["nodelay=True", "keepalive=True"], "127.0.0.1")


def test_a_cut_stream_is_closed_inside_tls_without_its_last_chunk(folder: Path) -> None:
    web = Web()
    client = TlsClient(web, folder).shake_hands()
    client.send(post())
    sink = web.calls[0].sink
    sink.begin(200, ())
    sink.write(b"half")
    sink.abort()
    client.read()
    assert client.closed
    [reply] = read_replies(client.data, [b"POST"], eof=True)
    assert (reply.body, reply.ending) == (b"half", "broken")
    web.clock.advance(WRITE_STALL)
    web.clock.advance(0)
    assert client.socket.end is not None
    assert (web.site.open_channels, web.settled) == (0, True)


def test_a_client_that_leaves_is_noticed_over_tls(folder: Path) -> None:
    web = Web()
    client = TlsClient(web, folder).shake_hands()
    client.send(post())
    client.socket.leave()
    assert len(web.calls[0].gone) == 1
    assert (web.site.open_channels, web.settled) == (0, True)


def test_a_handshake_that_does_not_come_about_is_given_up_with_the_head_deadline(folder: Path) -> None:
    web = Web()
    client = TlsClient(web, folder)
    web.clock.advance(HEADER)
    web.clock.advance(0)
    assert client.socket.end is not None
    assert web.site.open_channels == 0
    assert web.clock.getDelayedCalls() == []


def test_tls_before_1_2_is_refused(folder: Path) -> None:
    def old_only(context: SSL.Context) -> None:
        context.set_cipher_list(b"ALL:@SECLEVEL=0")
        context.set_min_proto_version(SSL.TLS1_1_VERSION)
        context.set_max_proto_version(SSL.TLS1_1_VERSION)

    with pytest.raises(SSL.Error):
        TlsClient(Web(), folder, old_only).shake_hands()


def test_alpn_does_not_agree_on_h2_even_where_that_is_installed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "H2_ENABLED", True)
    client = TlsClient(Web(), folder, lambda context: context.set_alpn_protos([b"h2", b"http/1.1"])).shake_hands()
    assert client.tls.get_alpn_proto_negotiated() in (b"http/1.1", b"")  # the newest Twisted leaves ALPN unanswered


def test_plain_http_on_the_tls_port_gets_no_answer(folder: Path) -> None:
    client = TlsClient(Web(), folder)
    client.socket.send(HEALTH)
    client.socket.turn()
    assert b"HTTP/" not in client.socket.received
    assert client.socket.end is not None
