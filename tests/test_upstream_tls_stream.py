"""The TLS stream between two memory ends: the server's is ``ssl`` itself, so every cut of the wire can be played."""

from __future__ import annotations

import ssl
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from ccrelay.upstream.tls import TlsClient, client_context

from .test_upstream_tls import Signed, dns, sign

AUTHORITY = sign("authority")
GOOD = sign("x", AUTHORITY, dns("api.test"))


class Wire(StringTransport):
    """The stream's transport. ``log``: how it was closed, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.log: list[str] = []

    def taken(self) -> bytes:
        data = bytes(self.value())
        self.clear()
        return data

    def loseConnection(self) -> None:
        self.log.append("lose")

    def abortConnection(self) -> None:
        self.log.append("abort")


class Inner(Protocol):
    """What is at home in the stream."""

    def __init__(self) -> None:
        self.made = 0
        self.data = b""
        self.reads = 0
        self.lost: list[Failure] = []

    def connectionMade(self) -> None:
        self.made += 1

    def dataReceived(self, data: bytes) -> None:
        self.reads += 1
        self.data += data

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost.append(reason)


class Peer:
    """A server's end."""

    def __init__(self, folder: Path, identity: Signed, version: ssl.TLSVersion | None = None) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        (folder / "server.pem").write_bytes(identity.pem + identity.key_pem)
        context.load_cert_chain(folder / "server.pem")
        if version is not None:
            context.maximum_version = version
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_side=True)
        self.shaken = False
        self.data = b""

    def receive(self, data: bytes) -> bytes:
        """Take the client's bytes; returns what there is to say to them."""
        if data:
            self.incoming.write(data)
        with suppress(ssl.SSLError):  # more is wanted, or the client has refused
            if not self.shaken:
                self.tls.do_handshake()
                self.shaken = True
            while piece := self.tls.read(65536):
                self.data += piece
        return self.outgoing.read()

    def say(self, data: bytes) -> bytes:
        self.tls.write(data)
        return self.outgoing.read()

    def end(self) -> bytes:
        with suppress(ssl.SSLError):
            self.tls.unwrap()
        return self.outgoing.read()


class Rig:
    """A client's end that has been given a connection."""

    def __init__(self, folder: Path, identity: Signed = GOOD, version: ssl.TLSVersion | None = None) -> None:
        (folder / "ca.pem").write_bytes(AUTHORITY.pem)
        self.inner, self.wire = Inner(), Wire()
        self.opened: Deferred[Any] = Deferred()
        self.results: list[Any] = []
        self.opened.addBoth(self.results.append)
        self.client = TlsClient(client_context(str(folder / "ca.pem")), "api.test", self.inner, self.opened)
        self.peer = Peer(folder, identity, version)
        self.client.makeConnection(self.wire)

    def exchange(self, size: int = 1 << 20) -> None:
        """Pass bytes to and fro until neither end has more to say, so many at a time."""
        while sent := self.wire.taken():
            answer = self.peer.receive(sent)
            for start in range(0, len(answer), size):
                self.client.dataReceived(answer[start : start + size])

    def open(self, size: int = 1 << 20) -> Rig:
        self.exchange(size)
        assert self.results == [self.inner]
        return self

    def feed(self, pieces: Iterable[bytes]) -> None:
        for piece in pieces:
            self.client.dataReceived(piece)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tls")


VERSIONS = pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])


@VERSIONS
@pytest.mark.parametrize("size", [1, 7, 1 << 20])
def test_both_ways_carry_what_was_said_however_the_wire_is_cut(
    folder: Path, version: ssl.TLSVersion, size: int
) -> None:
    rig = Rig(folder, version=version).open(size)
    assert (rig.inner.made, rig.peer.tls.version()) == (1, version.name.replace("_", "."))
    body = bytes(range(256)) * 300
    rig.client.write(body)
    assert rig.peer.receive(rig.wire.taken()) == b""
    assert rig.peer.data == body
    answer = rig.peer.say(body)
    rig.feed(answer[start : start + size] for start in range(0, len(answer), size))
    assert rig.inner.data == body


def test_records_that_come_together_are_delivered_together(folder: Path) -> None:
    rig = Rig(folder).open()
    rig.feed([b"".join(rig.peer.say(b"%d" % number) for number in range(20))])
    assert (rig.inner.reads, rig.inner.data) == (1, b"".join(b"%d" % number for number in range(20)))


def test_nothing_reaches_a_peer_that_has_not_proved_who_it_is(folder: Path) -> None:
    rig = Rig(folder, sign("x", AUTHORITY, dns("other.test")))
    rig.exchange()
    rig.client.connectionLost(Failure(ConnectionDone()))
    assert isinstance(rig.results[0].value, ssl.SSLCertVerificationError)
    assert (rig.inner.made, rig.inner.lost, rig.peer.data) == (0, [], b"")
    assert rig.wire.log == ["lose"]


def test_a_peer_that_hangs_up_over_the_handshake_is_a_lost_connection(folder: Path) -> None:
    rig = Rig(folder)
    rig.client.connectionLost(Failure(ConnectionDone()))
    assert rig.results[0].check(ConnectionLost)
    assert rig.inner.lost == []


def test_whoever_gives_up_over_the_handshake_hears_no_more(folder: Path) -> None:
    rig = Rig(folder)
    rig.client.give_up()
    assert rig.wire.log == ["abort"]
    rig.feed([rig.peer.receive(rig.wire.taken())])
    rig.client.connectionLost(Failure(ConnectionLost()))
    assert (rig.results, rig.inner.made, rig.inner.lost) == ([], 0, [])


def test_an_end_that_was_announced_is_told_from_a_cut(folder: Path) -> None:
    ended = Rig(folder).open()
    ended.feed([ended.peer.say(b"all") + ended.peer.end()])
    assert (ended.inner.data, ended.wire.log) == (b"all", ["lose"])
    ended.client.connectionLost(Failure(ConnectionDone()))
    assert [reason.type for reason in ended.inner.lost] == [ConnectionDone]
    cut = Rig(folder).open()
    cut.feed([cut.peer.say(b"half")])
    cut.client.connectionLost(Failure(ConnectionDone()))
    assert (cut.inner.data, [reason.type for reason in cut.inner.lost]) == (b"half", [ConnectionLost])


@given(place=st.integers(5, 60), bit=st.integers(0, 7))
@settings(max_examples=30, deadline=None)
def test_a_record_that_was_tampered_with_breaks_the_connection(
    tmp_path_factory: pytest.TempPathFactory, place: int, bit: int
) -> None:
    rig = Rig(tmp_path_factory.mktemp("t")).open()
    record = bytearray(rig.peer.say(b"x" * 40))
    record[min(place, len(record) - 1)] ^= 1 << bit
    rig.feed([bytes(record)])
    assert (rig.inner.data, rig.wire.log) == (b"", ["abort"])
    rig.client.connectionLost(Failure(ConnectionLost()))
    assert isinstance(rig.inner.lost[0].value, ssl.SSLError)


def test_closing_says_goodbye_once_and_writes_nothing_more(folder: Path) -> None:
    rig = Rig(folder).open()
    rig.client.write(b"last")
    rig.client.loseConnection()
    rig.client.loseConnection()
    rig.client.write(b"too late")
    rig.peer.receive(rig.wire.taken())
    assert rig.peer.data == b"last"
    assert rig.peer.tls.read(1) == b"", "told that nothing more comes"


def test_what_concerns_the_stream_is_the_streams(folder: Path) -> None:
    rig = Rig(folder).open()
    rig.client.pauseProducing()
    assert rig.wire.producerState == "paused"
    rig.client.resumeProducing()
    assert rig.wire.producerState == "producing"
    producer = object()
    rig.client.registerProducer(producer, True)
    assert rig.wire.producer is producer
    rig.client.unregisterProducer()
    assert rig.client.getPeer() == rig.wire.getPeer()
    with pytest.raises(AttributeError):
        rig.client.negotiatedProtocol  # noqa: B018
