"""Listening sockets on a reactor of their own: opened, kept, replaced, and shared with another holder."""

from __future__ import annotations

import contextlib
import gc
import os
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from OpenSSL import SSL
from twisted.internet import ssl
from twisted.internet.epollreactor import EPollReactor
from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import Factory, Protocol
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure

from ccrelay.listeners import CannotListen, Handed, Listeners, encode, inherit

PATIENCE = 10.0
ENDPOINTS = st.lists(
    st.builds(
        Handed,
        st.text(),
        st.sampled_from([int(socket.AF_INET), int(socket.AF_INET6), int(socket.AF_UNIX)]),
        st.integers(3, (1 << 31) - 1),
    ),
    unique_by=lambda handed: handed.description,
)


class Greeting(Factory):
    """Says one word to whoever connects, and hangs up."""

    noisy = False

    def __init__(self, word: bytes) -> None:
        self.word = word

    def buildProtocol(self, addr: Any) -> Protocol:
        protocol = Protocol()
        protocol.connectionMade = lambda: self._greet(protocol.transport)  # type: ignore[method-assign]
        return protocol

    def _greet(self, transport: Any) -> None:
        transport.write(self.word)
        transport.loseConnection()


@pytest.fixture
def reactor() -> Iterator[Any]:
    made: Any = EPollReactor()
    yield made
    for one in made.removeAll():
        one.connectionLost(Failure(ConnectionDone()))
    made._poller.close()


class House:
    """Listeners, and somebody at the door. They begin where nobody listens yet."""

    def __init__(self, reactor: Any, inherited: dict[str, Handed] | None = None) -> None:
        self.reactor = reactor
        self.listeners = Listeners(reactor, inherited)

    def turn(self) -> None:
        self.reactor.runUntilCurrent()
        self.reactor.doIteration(0.01)

    def greeting(self, client: socket.socket) -> bytes:
        """What this client is told until the other side hangs up."""
        client.setblocking(False)
        told = b""
        for _ in range(int(PATIENCE / 0.01)):
            self.turn()
            try:
                data = client.recv(100)
            except BlockingIOError:
                continue
            told += data
            if not data:
                client.close()
                return told
        raise AssertionError("nobody answers")

    def word(self, port: int) -> bytes:
        return self.greeting(socket.create_connection(("127.0.0.1", port), PATIENCE))

    def local_word(self, path: Path) -> bytes:
        client = socket.socket(socket.AF_UNIX)
        client.connect(str(path))
        return self.greeting(client)

    def handed(self) -> dict[str, Handed]:
        """What another process would get: descriptors of its own."""
        return {
            each.description: Handed(each.description, each.family, os.dup(each.descriptor))
            for each in self.listeners.handed()
        }


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def tcp(port: int) -> str:
    return f"tcp:{port}:interface=127.0.0.1"


def refused(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) != 0


# -- changing


def test_a_listener_that_stays_keeps_its_socket_and_serves_with_the_new_factory(reactor: Any) -> None:
    house, port = House(reactor), free_port()
    house.listeners.change({tcp(port): Greeting(b"old")})
    [before] = house.listeners.ports
    assert house.word(port) == b"old"
    house.listeners.change({tcp(port): Greeting(b"new")})
    assert house.word(port) == b"new"
    assert house.listeners.ports == (before,)


def test_removed_listeners_close_and_new_ones_open(reactor: Any) -> None:
    house, left, new = House(reactor), free_port(), free_port()
    house.listeners.change({tcp(left): Greeting(b"x")})
    house.listeners.change({tcp(new): Greeting(b"y")})
    house.turn()
    assert refused(left)
    assert house.word(new) == b"y"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_one_that_cannot_be_opened_changes_nothing(reactor: Any) -> None:
    house, kept, new = House(reactor), free_port(), free_port()
    house.listeners.change({tcp(kept): Greeting(b"old")})
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        number = taken.getsockname()[1]
        with pytest.raises(CannotListen, match=str(number)):
            house.listeners.change({tcp(new): Greeting(b"new"), tcp(number): Greeting(b"new")})
    gc.collect()  # Debian's Twisted leaves the socket that it could not bind to the collector, which warns of it
    house.turn()
    assert refused(new)
    assert house.word(kept) == b"old"


def test_a_unix_socket_and_its_mark_are_gone_when_the_stop_is_done(reactor: Any, tmp_path: Path) -> None:
    house, path = House(reactor), tmp_path / "s"
    house.listeners.change({f"unix:{path}": Greeting(b"x")})
    assert sorted(os.listdir(tmp_path)) == ["s", "s.lock"]
    done: list[Any] = []
    house.listeners.stop().addCallback(done.append)
    house.turn()
    assert len(done) == 1
    assert os.listdir(tmp_path) == []


# -- handing over


def test_a_socket_handed_over_serves_on_when_the_first_holder_lets_go(reactor: Any) -> None:
    first, port = House(reactor), free_port()
    first.listeners.change({tcp(port): Greeting(b"first")})
    second = House(reactor, first.handed())
    first.listeners.release(os.getpid())
    waiting = socket.create_connection(("127.0.0.1", port), PATIENCE)  # nobody accepts, and nobody refuses
    second.listeners.change({tcp(port): Greeting(b"second")})
    assert second.greeting(waiting) == b"second"
    assert first.listeners.ports == ()


def test_a_unix_socket_handed_over_keeps_its_file_its_mode_and_gets_a_new_mark(reactor: Any, tmp_path: Path) -> None:
    first, path = House(reactor), tmp_path / "s"
    description = f"unix:{path}:mode=600"
    first.listeners.change({description: Greeting(b"first")})
    os.chmod(path, 0o640)
    inode = path.stat().st_ino
    second = House(reactor, first.handed())
    second.listeners.change({description: Greeting(b"second")})
    first.listeners.release(4242)
    assert os.readlink(f"{path}.lock") == "4242"
    assert (path.stat().st_ino, stat.S_IMODE(path.stat().st_mode)) == (inode, 0o640)
    assert second.local_word(path) == b"second"
    second.listeners.stop()
    second.turn()
    assert os.listdir(tmp_path) == ["s.lock"]  # which names another process


def test_one_that_fails_to_take_over_leaves_the_file_to_the_first_holder(reactor: Any, tmp_path: Path) -> None:
    first, path, taken = House(reactor), tmp_path / "s", free_port()
    first.listeners.change({f"unix:{path}": Greeting(b"first"), tcp(taken): Greeting(b"first")})
    handed = first.handed()
    os.close(handed.pop(tcp(taken)).descriptor)
    second = House(reactor, handed)
    with pytest.raises(CannotListen, match=str(taken)):
        second.listeners.change({f"unix:{path}": Greeting(b"second"), tcp(taken): Greeting(b"second")})
    second.turn()
    assert first.local_word(path) == b"first"


def test_what_the_endpoint_puts_around_connections_survives_both(reactor: Any, tmp_path: Path) -> None:
    """An ``ssl:`` endpoint must never speak in the clear."""
    pem = certificate(tmp_path)
    port = free_port()
    description = f"ssl:{port}:privateKey={pem}:interface=127.0.0.1"
    first = House(reactor)
    first.listeners.change({description: Site(b"old")})
    first.listeners.change({description: Site(b"new")})
    assert secure_word(first, port) == b"new"
    second = House(reactor, first.handed())
    first.listeners.release(os.getpid())
    second.listeners.change({description: Site(b"second")})
    assert secure_word(second, port) == b"second"


def test_a_factory_with_tls_serves_the_next_connection_of_a_plain_listener(reactor: Any, tmp_path: Path) -> None:
    pem = str(certificate(tmp_path))
    house, port = House(reactor), free_port()
    house.listeners.change({tcp(port): Greeting(b"plain")})
    assert house.word(port) == b"plain"
    context = SSL.Context(SSL.TLS_METHOD)
    context.use_certificate_file(pem)
    context.use_privatekey_file(pem)
    contexts: Any = ssl.ContextFactory()
    contexts.getContext = lambda: context
    house.listeners.change({tcp(port): TLSMemoryBIOFactory(contexts, False, Greeting(b"secret"))})
    assert secure_word(house, port) == b"secret"


def test_a_systemd_socket_is_taken_over_without_systemds_numbers(reactor: Any) -> None:
    with socket.socket() as theirs:
        theirs.bind(("127.0.0.1", 0))
        theirs.listen()
        theirs.setblocking(False)
        name = "systemd:domain=INET:index=0"
        house = House(reactor, {name: Handed(name, socket.AF_INET, os.dup(theirs.fileno()))})
        house.listeners.change({name: Greeting(b"hello")})
        assert house.word(theirs.getsockname()[1]) == b"hello"


def test_what_the_configuration_does_not_name_is_closed(reactor: Any) -> None:
    first, port = House(reactor), free_port()
    first.listeners.change({tcp(port): Greeting(b"x")})
    second = House(reactor, first.handed())
    second.listeners.drop_inherited()
    assert not refused(port)
    first.listeners.release(os.getpid())
    assert refused(port)


def nothing() -> int:
    number = os.open(os.devnull, os.O_RDONLY)
    os.close(number)
    return number


def deaf() -> int:
    with socket.socket() as made:
        return os.dup(made.fileno())


@pytest.mark.parametrize("descriptor", [nothing, deaf, lambda: os.open(os.devnull, os.O_RDONLY)])
def test_a_descriptor_that_is_no_listening_socket_is_named(reactor: Any, descriptor: Callable[[], int]) -> None:
    name = tcp(1)
    house = House(reactor, {name: Handed(name, socket.AF_INET, descriptor())})
    with pytest.raises(CannotListen, match="cannot take over tcp:1"):
        house.listeners.change({name: Greeting(b"x")})


# -- the environment variable


@given(ENDPOINTS)
def test_what_is_encoded_is_inherited(handed: list[Handed]) -> None:
    text = encode(handed)
    assert list(inherit(text).values()) == handed
    assert text.isascii() and "\0" not in text  # an environment takes nothing else everywhere


@given(st.text() | st.recursive(st.integers() | st.text() | st.none(), st.lists).map(repr))
def test_nothing_else_is_an_error_of_another_kind(text: str) -> None:
    try:
        found = inherit(text)
    except ValueError:
        return
    assert inherit(encode(list(found.values()))) == found


@pytest.mark.parametrize(
    "text",
    ["", "nonsense", "{}", "[[]]", '[["a", 2]]', '[["a", 2, 2]]', '[["a", 99, 4]]', '[["a", 2, 4], ["a", 2, 5]]'],
)
def test_garbage_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        inherit(text)


def test_no_variable_is_nothing_to_inherit() -> None:
    assert inherit(None) == {}


# -- TLS


class Site(Greeting):
    """What an ``ssl:`` endpoint asks for beside connections."""

    def acceptableProtocols(self) -> list[bytes]:
        return [b"http/1.1"]


def certificate(folder: Path) -> Path:
    """A key and a certificate for it in one file."""
    from cryptography.hazmat.primitives.serialization import NoEncryption

    from tests.test_web_tls import key_and_certificate, pem

    key, chain = key_and_certificate("localhost")
    path = folder / "both.pem"
    path.write_bytes(chain + pem(key, NoEncryption()))
    return path


def secure_word(house: House, port: int) -> bytes:
    """The greeting over TLS; the handshake is done by hand, since both ends run in this thread."""
    client = SSL.Connection(SSL.Context(SSL.TLS_METHOD), None)
    client.set_connect_state()
    wire = socket.create_connection(("127.0.0.1", port), PATIENCE)
    wire.setblocking(False)
    for _ in range(int(PATIENCE / 0.01)):
        try:
            word: bytes = client.recv(100)
        except SSL.WantReadError:
            pass
        else:
            wire.close()
            return word
        with contextlib.suppress(SSL.WantReadError):
            wire.sendall(client.bio_read(65536))
        house.turn()
        try:
            client.bio_write(wire.recv(65536))
        except BlockingIOError:
            continue
    raise AssertionError("nobody answers")
