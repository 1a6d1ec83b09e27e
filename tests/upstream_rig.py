"""An upstream in memory: endpoints whose connections are FakeConnections, uploads and receivers that record."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectingCancelledError, ConnectionDone
from twisted.internet.interfaces import (
    IConsumer,
    IProtocolFactory,
    IPushProducer,
    IReactorPluggableNameResolver,
    IStreamClientEndpoint,
)
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import globalLogPublisher
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone
from twisted.web.http import PotentialDataLoss
from twisted.web.iweb import UNKNOWN_LENGTH, IBodyProducer
from zope.interface import implementer

from .fakes import FakeConnection

OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
HELLO = OK + b"Content-Length: 5\r\n\r\nhello"


@contextmanager
def nothing_logged() -> Iterator[None]:
    """Fails if an error is logged meanwhile, such as a Deferred's that nobody handled."""
    errors: list[str] = []

    def observe(event: Any) -> None:
        if "log_failure" in event:
            errors.append(event["log_failure"].getTraceback())

    globalLogPublisher.addObserver(observe)
    try:
        yield
        gc.collect(1)  # a Deferred complains when it is freed
    finally:
        globalLogPublisher.removeObserver(observe)
    assert not errors, "\n".join(errors)


def fired(deferred: Deferred[Any]) -> list[Any]:
    """What the Deferred fires with, now or later; a failure is taken from it."""
    results: list[Any] = []
    deferred.addBoth(results.append)
    return results


def failure_of(results: list[Any], *kinds: type[BaseException]) -> Any:
    """The exception that a Deferred failed with, which must be one of ``kinds``."""
    assert len(results) == 1, results
    assert isinstance(results[0], Failure), results[0]
    results[0].trap(*kinds)
    return results[0].value


class OriginSide(FakeConnection):
    """One connection as its origin sees it."""

    def lose(self, reason: BaseException | None = None) -> None:
        """The connection is lost, and noticed, whether anybody reads or not: as by a reset."""
        self._lost("left", reason or ConnectionDone())  # type: ignore[arg-type]

    def take(self) -> bytes:
        """What has come since this was last asked."""
        received, self.received = self.received, b""
        return received

    def _lost(self, how: str, reason: Exception) -> None:
        producer, self.producer = self.producer, None
        if producer is not None and self.end is None:
            producer.stopProducing()  # as Twisted's transports do
        super()._lost(how, reason)


@implementer(IStreamClientEndpoint)
class FakeEndpoint:
    """Connects at once, or, with ``ready`` false, when told to. ``made``: its connections so far.

    ``slow``: as FakeConnection's, of the connections to be made.
    """

    def __init__(self, clock: Clock, *, ready: bool = True) -> None:
        self.clock = clock
        self.ready = ready
        self.slow = False
        self.made: list[OriginSide] = []
        self.pending: list[tuple[Deferred[Any], IProtocolFactory]] = []
        self.cancelled = 0

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[Any]:
        connecting: Deferred[Any] = Deferred(self._cancel)
        self.pending.append((connecting, protocolFactory))
        if self.ready:
            self.succeed()
        return connecting

    def succeed(self) -> None:
        """The oldest pending attempt connects."""
        connecting, factory = self.pending.pop(0)
        protocol = factory.buildProtocol(None)  # type: ignore[arg-type]
        self.made.append(OriginSide(self.clock, protocol))
        self.made[-1].slow = self.slow
        connecting.callback(protocol)

    def fail(self, reason: Exception) -> None:
        """The oldest pending attempt fails."""
        connecting, _ = self.pending.pop(0)
        connecting.errback(Failure(reason))

    def _cancel(self, connecting: Deferred[Any]) -> None:
        self.cancelled += 1
        self.pending = [entry for entry in self.pending if entry[0] is not connecting]
        connecting.errback(Failure(ConnectingCancelledError(None)))  # what Twisted's endpoints fail with


@implementer(IReactorPluggableNameResolver)
class NamedReactor(MemoryReactorClock):
    """A reactor in memory that knows addresses, and the names in ``names``; it looks up when ``resolve()`` says so."""

    def __init__(self, names: Mapping[str, str] = MappingProxyType({})) -> None:
        super().__init__()
        self.names = names
        self.lookups: list[tuple[Any, str, int]] = []
        self.nameResolver = self

    def resolveHostName(self, resolutionReceiver: Any, hostName: str, portNumber: int = 0, **kinds: Any) -> Any:
        self.lookups.append((resolutionReceiver, hostName, portNumber))
        resolutionReceiver.resolutionBegan(None)

    def resolve(self) -> None:
        """Answer the oldest lookup."""
        receiver, name, port = self.lookups.pop(0)
        address = self.names.get(name, name)
        if isIPv6Address(address):
            receiver.addressResolved(IPv6Address("TCP", address, port))
        elif isIPAddress(address):
            receiver.addressResolved(IPv4Address("TCP", address, port))
        receiver.resolutionComplete()

    def accept(self) -> OriginSide:
        """The newest connection attempt succeeds."""
        host, port, factory, _, _ = self.tcpClients[-1]
        return OriginSide(self, factory.buildProtocol(IPv4Address("TCP", host, port)))


@implementer(IBodyProducer, IPushProducer)
class Upload:
    """A request body that goes out when the test says so; may be started more than once."""

    def __init__(self, body: bytes, *, length: Any = None) -> None:
        self.body = body
        self.length = len(body) if length is None else length
        self.log: list[str] = []
        self.consumer: Any = None
        self.done: Deferred[None] = Deferred()

    def startProducing(self, consumer: IConsumer) -> Deferred[None]:
        self.log.append("start")
        self.consumer = consumer
        self.done = Deferred()
        self.consumer.registerProducer(self, True)
        return self.done

    def send(self, *pieces: bytes) -> None:
        """Hand these over; nothing: all of the body, and the end."""
        for piece in pieces or (self.body,):
            self.consumer.write(piece)
        if not pieces:
            self.finish()

    def finish(self) -> None:
        self.consumer.unregisterProducer()
        self.done.callback(None)

    def pauseProducing(self) -> None:
        self.log.append("pause")

    def resumeProducing(self) -> None:
        self.log.append("resume")

    def stopProducing(self) -> None:
        self.log.append("stop")


CHUNKED: Any = UNKNOWN_LENGTH


class Receiver(Protocol):
    """Keeps a body. ``on_data(self)`` runs at each piece, ``on_start(self)`` before the first."""

    def __init__(
        self,
        on_data: Callable[[Any], object] = lambda _: None,
        on_start: Callable[[Any], object] = lambda _: None,
    ) -> None:
        self.pieces: list[bytes] = []
        self.lost: list[Failure] = []
        self._on_data = on_data
        self._on_start = on_start

    def connectionMade(self) -> None:
        self._on_start(self)

    def dataReceived(self, data: bytes) -> None:
        assert not self.lost, "data after the end"
        assert data
        self.pieces.append(data)
        self._on_data(self)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost.append(reason)

    @property
    def data(self) -> bytes:
        return b"".join(self.pieces)

    @property
    def ending(self) -> str | None:
        """``whole``, ``unframed``, ``cut``, or None while the body goes on."""
        if not self.lost:
            return None
        [reason] = self.lost
        if reason.check(ResponseDone):
            return "whole"
        return "unframed" if reason.check(PotentialDataLoss) else "cut"
