"""One HTTP/1.1 connection to an upstream: a request goes out, its answer comes back, then it may be used again.

The bytes of an answer's body go from ``dataReceived`` through the framing decoder straight to the protocol given to
``deliverBody``: no queue, no coroutine step. Reading is paused between the head and ``deliverBody``, so nothing
piles up while nobody listens.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IConsumer, IProtocol, IPushProducer
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone, ResponseFailed
from twisted.web.http import PotentialDataLoss
from twisted.web.http_headers import Headers
from twisted.web.iweb import UNKNOWN_LENGTH, IBodyProducer, IResponse
from zope.interface import implementer

from ccrelay.core.http1 import (
    LAST_CHUNK,
    BodyDecoder,
    HttpViolation,
    ResponseHead,
    ResponseHeadParser,
    body_decoder,
    encode_chunk,
)

HIDDEN_FROM_TREQ = frozenset({b"set-cookie", b"set-cookie2"})
"""Answer headers that treq parses for a cookie jar nobody wants, with code that a hostile value keeps busy."""


class NoAnswer(Exception):
    """The connection ended before one byte of an answer came. ``reused``: it was an idle pooled one."""

    def __init__(self, reason: Failure, reused: bool) -> None:
        self.reason = reason
        self.reused = reused
        super().__init__(f"no answer: {reason.value}")


@implementer(IResponse)
class UpstreamResponse:
    """An answer whose head has come. See IResponse; ``request`` and ``previousResponse`` are not kept."""

    request = None
    previousResponse = None

    def __init__(self, connection: UpstreamConnection, head: ResponseHead) -> None:
        self._connection = connection
        self.head = head
        self.version = (b"HTTP", 1, int(head.version[-1:]))
        self.code = head.status
        self.phrase = head.reason
        self.headers = Headers()
        for name, value in head.headers:
            if name not in HIDDEN_FROM_TREQ:
                self.headers.addRawHeader(name, value)
        self.length = head.framing.length if head.framing.length is not None else UNKNOWN_LENGTH

    def deliverBody(self, protocol: IProtocol) -> None:
        self._connection.deliver(protocol)

    def refuse(self) -> None:
        """Close the connection instead of reading the body."""
        self._connection.abort()

    def setPreviousResponse(self, response: IResponse) -> None:
        """Only redirecting agents call it, and nothing here follows a redirect."""


@implementer(IPushProducer)
class BodyTransport:
    """What the receiver of a body gets as its transport; dead once the body has ended, whatever it then calls."""

    def __init__(self, connection: UpstreamConnection) -> None:
        self._connection: UpstreamConnection | None = connection

    def detach(self) -> None:
        self._connection = None

    def pauseProducing(self) -> None:
        if self._connection is not None:
            self._connection.pause()

    def resumeProducing(self) -> None:
        if self._connection is not None:
            self._connection.resume()

    def stopProducing(self) -> None:
        self.abortConnection()

    def loseConnection(self) -> None:
        self.abortConnection()

    def abortConnection(self) -> None:
        if self._connection is not None:
            self._connection.abort()


@implementer(IConsumer)
class _BodyWriter:
    """Frames a request body onto the transport, and lets the transport slow its producer down."""

    def __init__(self, transport: Any, chunked: bool) -> None:
        self._transport = transport
        self._chunked = chunked

    def write(self, data: bytes) -> None:
        self._transport.write(encode_chunk(data) if self._chunked else data)

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        self._transport.registerProducer(producer, streaming)

    def unregisterProducer(self) -> None:
        self._transport.unregisterProducer()

    def end(self) -> None:
        if self._chunked:
            self._transport.write(LAST_CHUNK)


class UpstreamConnection(Protocol):
    """See the module. One exchange at a time; the pool sees to that.

    on_open(connection): the socket is there. on_idle(connection): the exchange is over and another may begin.
    on_closed(connection): the socket is gone, or going. ``closed``: likewise.
    """

    def __init__(
        self,
        on_open: Callable[[UpstreamConnection], None],
        on_idle: Callable[[UpstreamConnection], None],
        on_closed: Callable[[UpstreamConnection], None],
    ) -> None:
        self._on_open = on_open
        self._on_idle = on_idle
        self._on_closed = on_closed
        self.reused = False
        self.closed = False
        self._heard = False
        self._parser: ResponseHeadParser | None = None
        self._answered: Deferred[UpstreamResponse] | None = None
        self._head: ResponseHead | None = None
        self._decoder: BodyDecoder | None = None
        self._receiver: IProtocol | None = None
        self._body_transport: BodyTransport | None = None
        self._early = b""
        self._producer: IBodyProducer | None = None
        self._violation: Failure | None = None
        self._lost: Failure | None = None

    def connectionMade(self) -> None:
        transport: Any = self.transport
        # Without NODELAY a burst of small pieces stalls for 40 ms; without keep-alive a half-dead peer holds a call.
        transport.setTcpNoDelay(True)
        transport.setTcpKeepAlive(True)
        self._on_open(self)

    # -- the request

    def exchange(self, method: bytes, head: bytes, producer: IBodyProducer | None) -> Deferred[UpstreamResponse]:
        """Send a request. ``head``: its encoded head, framing headers included, matching ``producer.length``.

        Returns a Deferred of the response. It fails with NoAnswer (nothing came back) or with ResponseFailed (an
        answer began and broke, was not HTTP, or the producer failed). Cancelling it, or losing interest later through
        the body's transport, closes the socket in the same turn.
        """
        transport: Any = self.transport
        self._parser = ResponseHeadParser(method)
        self._heard = False
        answered: Deferred[UpstreamResponse] = Deferred(self._given_up)
        self._answered = answered
        transport.write(head)
        if producer is not None and producer.length != 0:
            self._producer = producer
            writer = _BodyWriter(transport, producer.length is UNKNOWN_LENGTH)
            producer.startProducing(writer).addCallbacks(self._sent, self._not_sent, callbackArgs=(writer,))
        return answered

    def _given_up(self, _: object) -> None:
        self._answered = None
        self.abort()

    def _sent(self, _: object, writer: _BodyWriter) -> None:
        self._producer = None
        writer.end()

    def _not_sent(self, reason: Failure) -> None:
        self._producer = None
        self._violation = reason
        self.abort()

    # -- the answer

    def dataReceived(self, data: bytes) -> None:
        receiver = self._receiver
        if receiver is not None:
            self._body_received(data, receiver)
        elif self._parser is not None:
            self._head_received(data)
        elif self._decoder is not None:
            self._early += data
        else:
            self._on_closed(self)  # the pool must not hand it out in the turn that is left to the socket
            self.abort()

    def _head_received(self, data: bytes) -> None:
        assert self._parser is not None
        self._heard = True
        try:
            head = self._parser.receive_data(data)
        except HttpViolation:
            self._violation = Failure()
            self.abort()
            return
        if head is None:
            return
        self._early = self._parser.trailing
        self._parser = None
        self._head = head
        self._decoder = body_decoder(head.framing)
        answered, self._answered = self._answered, None
        assert answered is not None
        answered.callback(UpstreamResponse(self, head))
        if self._receiver is None and self._decoder is not None:
            self.pause()

    def deliver(self, receiver: IProtocol) -> None:
        """Give the body to ``receiver``, from its first byte on. RuntimeError: somebody has it, or has had it."""
        if self._decoder is None or self._receiver is not None:
            raise RuntimeError("a body is delivered once")
        self._body_transport = BodyTransport(self)
        self._receiver = receiver
        receiver.makeConnection(self._body_transport)  # type: ignore[arg-type]
        if self.closed and self._lost is None:
            return  # given up: the socket's loss will tell the receiver
        early, self._early = self._early, b""
        self.resume()
        self._body_received(early, receiver)
        if self._lost is not None:
            self._body_lost()

    def _body_received(self, data: bytes, receiver: IProtocol) -> None:
        decoder = self._decoder
        assert decoder is not None
        try:
            body = decoder.receive_data(data)
        except HttpViolation:
            self._violation = Failure()
            self.abort()
            return
        if body:
            receiver.dataReceived(body)
        if decoder.done and self._receiver is receiver:
            self._answer_complete(decoder)

    def _answer_complete(self, decoder: BodyDecoder) -> None:
        assert self._head is not None
        reusable = self._head.keep_alive and self._producer is None and not decoder.trailing and not self.closed
        receiver = self._end_exchange()
        if reusable:
            self.reused = True
            self.resume()  # the receiver may have paused it at the very end, and can no longer undo that
            self._on_idle(self)
        else:
            self.abort()
        if receiver is not None:
            receiver.connectionLost(Failure(ResponseDone()))

    def _end_exchange(self) -> IProtocol | None:
        receiver, self._receiver = self._receiver, None
        self._decoder = self._head = None
        self._early = b""
        if self._body_transport is not None:
            self._body_transport.detach()
            self._body_transport = None
        self._stop_upload()
        return receiver

    def _stop_upload(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            producer.stopProducing()

    # -- the socket

    def pause(self) -> None:
        if not self.closed:
            self.transport.pauseProducing()  # type: ignore[union-attr]

    def resume(self) -> None:
        if not self.closed:
            self.transport.resumeProducing()  # type: ignore[union-attr]

    def abort(self) -> None:
        """Close the socket now; what is under way fails."""
        self._stop_upload()
        if not self.closed:
            self.closed = True
            self.transport.abortConnection()  # type: ignore[union-attr]

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.closed = True
        self._on_closed(self)
        self._lost = cause = self._violation or reason
        self._parser = None
        answered, self._answered = self._answered, None
        if answered is not None:
            self._end_exchange()
            silent = not self._heard and self._violation is None
            answered.errback(Failure(NoAnswer(reason, self.reused) if silent else ResponseFailed([cause])))
        elif self._receiver is not None:
            self._body_lost()
        else:
            self._stop_upload()  # a body that nobody has asked for yet keeps its end for ``deliver``

    def _body_lost(self) -> None:
        decoder, cause = self._decoder, self._lost
        receiver = self._end_exchange()
        if receiver is not None and decoder is not None and cause is not None:
            receiver.connectionLost(self._body_end(decoder, cause))

    @staticmethod
    def _body_end(decoder: BodyDecoder, cause: Failure) -> Failure:
        try:
            decoder.receive_eof()
        except HttpViolation:
            return Failure(ResponseFailed([cause]))
        return Failure(PotentialDataLoss() if cause.check(ConnectionDone) else ResponseFailed([cause]))
