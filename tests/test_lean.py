"""The two shortcuts through Twisted: they keep order and back-pressure, and leave alone what they do not know."""

from __future__ import annotations

import errno
import importlib.util
import socket
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from twisted.internet import abstract, tcp
from twisted.internet.epollreactor import EPollReactor
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.selectreactor import SelectReactor
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from ccrelay.lean import poll_leanly, write_now

from .fakes import FakeConnection


class Watcher:
    """The reactor of a socket: notes what it is asked to watch."""

    def __init__(self) -> None:
        self.writing = False
        self.reading = False

    def addWriter(self, _: Any) -> None:
        self.writing = True

    def removeWriter(self, _: Any) -> None:
        self.writing = False

    def addReader(self, _: Any) -> None:
        self.reading = True

    def removeReader(self, _: Any) -> None:
        self.reading = False

    def callLater(self, *_: Any) -> None:
        """For loseConnection and abortConnection."""


class Socket:
    """A transport on a real socket, and its other end. ``room``: bytes that its kernel buffer takes, once."""

    def __init__(self) -> None:
        ours, self.theirs = socket.socketpair()
        self.theirs.setblocking(False)
        self.watcher = Watcher()
        self.transport = tcp.Connection(ours, Protocol(), self.watcher)
        self.transport.connected = 1
        self.sends = 0
        self.ours = ours

    def read(self) -> bytes:
        got = b""
        while True:
            try:
                got += self.theirs.recv(1 << 20)
            except BlockingIOError:
                return got

    def drain(self) -> bytes:
        """Let the reactor write, and the other end read, until all is there."""
        got = self.read()
        while self.watcher.writing:
            assert self.transport.doWrite() is None
            got += self.read()
        return got

    def close(self) -> None:
        self.ours.close()
        self.theirs.close()


@pytest.fixture
def pair() -> Iterator[Socket]:
    made = Socket()
    yield made
    made.close()


def test_a_write_arrives_in_the_same_turn_and_nobody_watches_for_room(pair: Socket) -> None:
    write_now(pair.transport, b"event")
    assert pair.read() == b"event"
    assert not pair.watcher.writing


def test_what_waits_goes_first(pair: Socket) -> None:
    pair.transport.write(b"one ")
    write_now(pair.transport, b"two ")
    pair.transport.write(b"three")
    assert pair.read() == b""
    assert pair.drain() == b"one two three"


def test_what_is_half_sent_goes_first(pair: Socket) -> None:
    big = b"x" * 5_000_000
    pair.transport.write(big)
    assert pair.transport.doWrite() is None
    assert 0 < pair.transport.offset < len(big)
    write_now(pair.transport, b"end")
    assert pair.drain() == big + b"end"


def test_what_the_kernel_does_not_take_waits_in_the_transport(pair: Socket) -> None:
    big = bytes(range(256)) * 20_000
    write_now(pair.transport, big)
    assert pair.watcher.writing
    write_now(pair.transport, b"end")
    assert pair.drain() == big + b"end"
    write_now(pair.transport, b"again")
    assert pair.read() == b"again"


def test_a_full_buffer_pauses_the_producer_as_ever(pair: Socket) -> None:
    asked: list[str] = []

    class Producer:
        def pauseProducing(self) -> None:
            asked.append("pause")

        def resumeProducing(self) -> None:
            asked.append("resume")

        def stopProducing(self) -> None:
            asked.append("stop")

    pair.transport.registerProducer(Producer(), True)
    write_now(pair.transport, b"small")
    assert asked == []
    write_now(pair.transport, b"x" * 5_000_000)
    assert asked == ["pause"]
    pair.drain()
    assert asked == ["pause", "resume"]


def test_a_kernel_that_takes_nothing_loses_nothing(pair: Socket, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as refused:
        refused.setattr(pair.transport, "writeSomeData", lambda _: 0)
        write_now(pair.transport, b"event")
    assert pair.read() == b""
    assert pair.drain() == b"event"


def test_a_write_that_fails_is_left_to_the_transport(pair: Socket) -> None:
    pair.theirs.close()
    write_now(pair.transport, b"into the void")
    assert pair.transport.connected
    assert pair.watcher.writing
    assert isinstance(pair.transport.doWrite(), Exception)


def test_after_close_it_is_the_transports_word(pair: Socket) -> None:
    pair.transport.loseConnection()
    write_now(pair.transport, b"last words")
    assert pair.read() == b""
    assert pair.watcher.writing
    pair.transport.connected = 0
    write_now(pair.transport, b"never")
    assert pair.transport._tempDataBuffer == [b"last words"]


@pytest.mark.parametrize("make", [StringTransport, lambda: FakeConnection(Clock(), Protocol())], ids=["string", "fake"])
def test_any_other_transport_is_written_to_as_usual(make: Any) -> None:
    """TLS and the proxy protocol wrap a socket's transport; their write is the only way that is theirs."""
    transport = make()
    write_now(transport, b"one ")
    write_now(transport, b"two")
    written = transport.value() if isinstance(transport, StringTransport) else transport.received
    assert written == b"one two"


def test_a_descriptor_that_is_no_socket_is_written_to_as_usual() -> None:
    class Pipe(abstract.FileDescriptor):
        connected = 1

    pipe = Pipe(Watcher())
    write_now(pipe, b"x")
    assert pipe._tempDataBuffer == [b"x"]


# -- polling


class Echo(Protocol):
    """Answers what it gets; ``boom`` raises."""

    def __init__(self) -> None:
        self.lost = False

    def dataReceived(self, data: bytes) -> None:
        if data == b"boom":
            raise RuntimeError("a bug")
        write_now(self.transport, data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost = True


class PollingTests(SynchronousTestCase):
    """On a reactor of our own, with real sockets; nothing is installed and nothing sleeps."""

    def setUp(self) -> None:
        self.reactor = EPollReactor()
        self.before = self.reactor.doIteration
        self.sockets: list[socket.socket] = []
        poll_leanly(self.reactor)
        self.addCleanup(self.close)

    def close(self) -> None:
        for selectable in self.reactor.removeAll():
            selectable.connectionLost(connectionDone)
        for descriptor in list(self.reactor._selectables.values()):
            descriptor.connectionLost(connectionDone)
        self.reactor._poller.close()
        # Only now: a poller cannot forget a descriptor that is closed already.
        for ours in self.sockets:
            ours.close()

    def echo(self) -> tuple[Echo, socket.socket]:
        ours, theirs = socket.socketpair()
        protocol = Echo()
        transport = tcp.Connection(ours, protocol, self.reactor)
        transport.connected = 1
        protocol.makeConnection(transport)
        transport.startReading()
        theirs.settimeout(5)
        self.addCleanup(theirs.close)
        self.sockets.append(ours)
        return protocol, theirs

    def turn(self) -> None:
        self.reactor.runUntilCurrent()
        self.reactor.doIteration(0)

    def test_ready_sockets_are_served(self) -> None:
        self.assertIsNot(self.before, self.reactor.doIteration)
        clients = [self.echo() for _ in range(3)]
        for number, (_, theirs) in enumerate(clients):
            theirs.sendall(b"%d" % number)
        self.turn()
        self.assertEqual([theirs.recv(10) for _, theirs in clients], [b"0", b"1", b"2"])

    def test_a_closed_socket_is_lost_and_forgotten(self) -> None:
        protocol, theirs = self.echo()
        theirs.close()
        self.turn()
        self.assertTrue(protocol.lost)
        self.assertNotIn(protocol.transport, self.reactor.getReaders())

    def test_a_descriptor_removed_in_the_same_turn_is_passed_over(self) -> None:
        (first, one), (second, two) = self.echo(), self.echo()

        def remove_the_other(_: bytes) -> None:
            removed.append(True)
            for protocol in (first, second):
                protocol.transport.stopReading()

        removed: list[bool] = []
        first.dataReceived = second.dataReceived = remove_the_other  # type: ignore[method-assign]
        one.sendall(b"x")
        two.sendall(b"x")
        self.turn()
        self.assertEqual(removed, [True])

    def test_timed_calls_and_idle_polls_work(self) -> None:
        called: list[bool] = []
        self.reactor.callLater(0, called.append, True)
        self.turn()
        self.reactor.doIteration(0.0)
        self.assertEqual(called, [True])

    def test_no_timeout_means_to_wait_for_an_event(self) -> None:
        protocol, theirs = self.echo()
        theirs.close()
        self.reactor.doIteration(None)
        self.assertTrue(protocol.lost)

    def test_one_protocols_bug_costs_its_connection_only(self) -> None:
        (broken, one), (_, two) = self.echo(), self.echo()
        one.sendall(b"boom")
        two.sendall(b"fine")
        self.turn()
        self.assertEqual(two.recv(10), b"fine")
        self.assertTrue(broken.lost)
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)

    def test_a_bug_that_the_reactor_does_not_catch_does_not_end_the_loop(self) -> None:
        (broken, one), (_, two) = self.echo(), self.echo()

        def raise_again(reason: Failure = connectionDone) -> None:
            raise RuntimeError("a bug in connectionLost")

        broken.connectionLost = raise_again  # type: ignore[method-assign]
        one.close()
        two.sendall(b"fine")
        self.turn()
        self.turn()
        self.assertEqual(two.recv(10), b"fine")
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)


class Poller:
    """A poller that sees nothing, or whose call was interrupted by a signal, or failed."""

    def __init__(self, number: int = 0) -> None:
        self.number = number
        self.asked: list[tuple[float, int]] = []

    def poll(self, timeout: float, most: int) -> list[tuple[int, int]]:
        self.asked.append((timeout, most))
        if self.number:
            raise OSError(self.number, "told so")
        return []


def polling(poller: Poller) -> Any:
    reactor = object.__new__(EPollReactor)
    reactor._poller = poller
    reactor._selectables = {3: object(), 4: object()}
    poll_leanly(reactor)
    return reactor


@pytest.mark.parametrize(("timeout", "asked"), [(None, -1), (0, 0), (2.5, 2.5)])
def test_a_poll_waits_as_long_as_the_reactor_says(timeout: float | None, asked: float) -> None:
    poller = Poller()
    polling(poller).doIteration(timeout)
    assert poller.asked == [(asked, 2)]


def test_a_signal_in_the_middle_of_a_poll_is_no_error() -> None:
    assert polling(Poller(errno.EINTR)).doIteration(1) is None


def test_any_other_failure_of_a_poll_is_one() -> None:
    with pytest.raises(OSError, match="told so"):
        polling(Poller(errno.EBADF)).doIteration(1)


@pytest.mark.parametrize("make", [MemoryReactorClock, Clock, lambda: object.__new__(SelectReactor), object])
def test_other_reactors_are_left_as_they_are(make: Any) -> None:
    reactor = make()
    before = dict(vars(reactor)) if hasattr(reactor, "__dict__") else {}
    poll_leanly(reactor)
    assert (dict(vars(reactor)) if hasattr(reactor, "__dict__") else {}) == before


def test_a_reactor_derived_from_epolls_is_left_alone() -> None:
    class Derived(EPollReactor):
        def __init__(self) -> None:
            """Without a poller to close."""
            self._poller = self._selectables = None

    reactor = Derived()
    poll_leanly(reactor)
    assert "doIteration" not in vars(reactor)


def test_it_can_be_imported_where_there_is_no_epoll(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "twisted.internet.epollreactor", None)
    spec = importlib.util.find_spec("ccrelay.lean")
    assert spec is not None
    assert spec.loader is not None
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
