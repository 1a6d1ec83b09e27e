"""Stand-ins that declare their interface and record what was done to them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionAborted, ConnectionDone
from twisted.internet.interfaces import IConsumer, IPushProducer, ITransport
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from zope.interface import implementer

from ccrelay.core.model import Answer, Headers
from ccrelay.interfaces import IResponseSink


@implementer(IResponseSink)
class FakeSink:
    """Collects an answer. ``body``: what the client has; ``end``: ``finished``, ``aborted`` or None so far."""

    def __init__(self) -> None:
        self.status: int | None = None
        self.headers: Headers = ()
        self.body = b""
        self.end: str | None = None
        self.gone = False
        self.committed = False
        self.producer: Any = None
        self._on_gone: Callable[[], None] | None = None

    @property
    def bytes_out(self) -> int:
        return len(self.body)

    def when_gone(self, callback: Callable[[], None] | None) -> None:
        self._on_gone = callback
        if self.gone and callback is not None:
            callback()

    def leave(self) -> None:
        """The client goes away."""
        self.gone = True
        callback, self._on_gone = self._on_gone, None
        if callback is not None:
            callback()

    def respond(self, answer: Answer) -> None:
        assert not self.committed
        self.begin(answer.status, answer.headers)
        self.body = answer.body
        self.finish()

    def begin(self, status: int, headers: Headers) -> None:
        assert not self.committed
        self.committed = True
        self.status, self.headers = status, headers

    def write(self, data: bytes) -> None:
        assert self.committed
        assert self.end is None
        assert data
        self.body += data

    def attach(self, producer: Any) -> None:
        self.producer = producer

    def finish(self) -> None:
        assert self.end is None
        self.end = "finished"

    def abort(self) -> None:
        assert self.end is None
        self.end = "aborted"


@implementer(IPushProducer)
class FakeTransport:
    """The upstream's side of a body. ``log``: what was asked of it, in order."""

    def __init__(self) -> None:
        self.log: list[str] = []

    def pauseProducing(self) -> None:
        self.log.append("pause")

    def resumeProducing(self) -> None:
        self.log.append("resume")

    def stopProducing(self) -> None:
        self.log.append("stop")

    def abortConnection(self) -> None:
        self.log.append("abort")


@implementer(ITransport, IConsumer, IPushProducer)
class FakeConnection:
    """Both ends of a TCP connection in memory: the transport of a protocol, and its peer.

    As with a socket, nothing comes back in the turn that asked for it: what waited while reading was paused, and the
    loss of the connection, arrive with the clock's next turn. ``received``: what the peer has read. ``slow``: the peer
    reads nothing, so that what is written stays ``unsent``, and beyond ``buffer_size`` the producer is paused.
    ``end``: None while open, then ``closed``, ``aborted`` or ``left``.
    """

    buffer_size = 65536

    def __init__(self, clock: Clock, protocol: Any, *, host: Any = None, peer: Any = None) -> None:
        self.clock = clock
        self.protocol = protocol
        self.host = host if host is not None else IPv4Address("TCP", "127.0.0.1", 8787)
        self.peer = peer if peer is not None else IPv4Address("TCP", "127.0.0.1", 50000)
        self.received = b""
        self.slow = False
        self.reading = True
        self.closing = False
        self.end: str | None = None
        self.producer: Any = None
        self.producer_paused = False
        self.options: list[str] = []
        self._unread = b""
        self.unsent = b""
        protocol.makeConnection(self)

    # -- the peer

    def send(self, data: bytes) -> None:
        """The peer sends; nothing is lost while the other side does not read."""
        self._unread += data
        self._deliver()

    def leave(self) -> None:
        """The peer goes away; noticed at once, as while reading."""
        assert self.reading, "a socket that nobody reads does not tell that its peer has left"
        self._lost("left", ConnectionDone())

    def read(self) -> None:
        """The peer reads everything, and goes on reading."""
        self.slow = False
        self._flush()

    def turn(self) -> None:
        """Let the reactor go round once."""
        self.clock.advance(0)

    def _deliver(self) -> None:
        if self._unread and self.reading and not self.closing and self.end is None:
            data, self._unread = self._unread, b""
            self.protocol.dataReceived(data)

    def _flush(self) -> None:
        self.received += self.unsent
        self.unsent = b""
        if self.producer is not None and self.producer_paused:
            # Twisted's too: a paused producer may have more to say, so a closing connection waits for it.
            self.producer_paused = False
            self.producer.resumeProducing()
        elif self.closing and self.end is None:
            self.clock.callLater(0, self._lost, "closed", ConnectionDone())

    def _lost(self, how: str, reason: Exception) -> None:
        if self.end is None:
            self.end = how
            self.protocol.connectionLost(Failure(reason))

    # -- the transport

    def write(self, data: bytes) -> None:
        assert isinstance(data, bytes)
        if self.end is not None:
            return
        if not self.slow:
            self.received += data
            return
        self.unsent += data
        if self.producer is not None and len(self.unsent) > self.buffer_size:
            self.producer_paused = True
            self.producer.pauseProducing()

    def writeSequence(self, data: Any) -> None:
        self.write(b"".join(data))

    def loseConnection(self) -> None:
        if not self.closing:
            self.closing = True
            if not self.unsent:
                self._flush()

    def abortConnection(self) -> None:
        self.closing = True
        self.unsent = b""
        self.clock.callLater(0, self._lost, "aborted", ConnectionAborted())

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        assert self.producer is None
        assert streaming
        self.producer = producer

    def unregisterProducer(self) -> None:
        self.producer = None
        if self.closing and not self.unsent:
            self._flush()

    def pauseProducing(self) -> None:
        self.reading = False

    def resumeProducing(self) -> None:
        if not self.reading and self.end is None:
            self.reading = True
            self.clock.callLater(0, self._deliver)

    def stopProducing(self) -> None:
        self.loseConnection()

    def getHost(self) -> Any:
        return self.host

    def getPeer(self) -> Any:
        return self.peer

    def setTcpNoDelay(self, enabled: bool) -> None:
        self.options.append(f"nodelay={enabled}")

    def setTcpKeepAlive(self, enabled: bool) -> None:
        self.options.append(f"keepalive={enabled}")
