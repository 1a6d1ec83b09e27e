"""The server side of one HTTP/1.1 client connection, under twisted.web's Request and Resources.

Differs from twisted.web's channel where a relay needs it: a request is dispatched when its headers are complete, not
when its body is; bodies stay in memory, capped; deadlines are absolute; framing is our own strict parser, the same on
every version of Twisted. One request at a time: pipelined ones wait, and past a bound the socket is not read.

    reading head -> dispatched (body arriving, answer under way, in any order) -> both done -> reading head
                                                            \\-> answer done, body not -> discarding -> closed
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import IDelayedCall, IPushProducer, IReactorTime
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.http import RESPONSES
from zope.interface import implementer

from ccrelay.core.answers import error_answer
from ccrelay.core.http1 import (
    LAST_CHUNK,
    BodyDecoder,
    HttpViolation,
    RequestHead,
    RequestHeadParser,
    body_decoder,
    encode_response_head,
)
from ccrelay.core.model import Answer, Headers
from ccrelay.lean import write_now
from ccrelay.timers import SilenceTimer

if TYPE_CHECKING:
    from ccrelay.web.request import RelayRequest
    from ccrelay.web.site import RelaySite

KEEP_ALIVE_SECONDS = 300.0
"""How long an idle connection is kept: Claude Code's turns are minutes apart, and a reconnect costs it a round trip."""

PIPELINED_BYTES = 65536
"""Read ahead while an answer is under way: enough to notice a disconnect, too little to hoard."""

DISCARD_BYTES = 33554432
DISCARD_SECONDS = 5.0
"""Of an upload nobody wants, read so that the answer is not lost to a reset: the largest body, for a short while."""

PROGRESS_BYTES = 1024
"""Of a body that count as progress within ``body_stall_timeout``: 34 bytes a second with the default, slower than any
link that can carry an answer, and too fast for a client that only means to hold a connection."""

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


@implementer(IPushProducer)
class RelayChannel(Protocol):
    """One client connection. Made by ``RelaySite.buildProtocol``."""

    site: RelaySite

    def __init__(self, site: RelaySite, clock: IReactorTime, request_factory: Callable[..., RelayRequest]) -> None:
        self.site = site
        self.factory: Any = site
        self._clock = clock
        self._request_factory = request_factory
        self._parser = RequestHeadParser()
        self._request: RelayRequest | None = None
        self._decoder: BodyDecoder | None = None
        self._unread = b""
        self._reading = False
        self._keep_alive = True
        self._discarded = 0
        self._closing = False
        self._chunked = False
        self._progress = 0
        self._producer: Any = None
        self._backed_up = False
        self._reading_paused = False
        self._deadline: IDelayedCall | None = None
        limits = site.limits
        self._body_stall = SilenceTimer(clock, limits.body_stall_timeout, self._body_stalled)
        self._write_stall = SilenceTimer(clock, limits.write_stall_timeout, self.abort)

    # -- the connection

    def connectionMade(self) -> None:
        transport: Any = self.transport
        if isinstance(transport.getHost(), (IPv4Address, IPv6Address)):  # a unix socket's transport refuses these
            transport.setTcpNoDelay(True)
            transport.setTcpKeepAlive(True)
        transport.registerProducer(self, True)
        self.site.channel_opened(self)
        self._wait(self.site.limits.header_timeout, self._head_late)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._closing = True
        self._stop_waiting()
        self._body_stall.stop()
        self._write_stall.stop()
        self.site.channel_closed(self)
        request, self._request = self._request, None
        self._producer = None
        if request is not None:
            request.connectionLost(reason)

    def getPeer(self) -> Any:
        return self.transport.getPeer()  # type: ignore[union-attr]

    def getHost(self) -> Any:
        return self.transport.getHost()  # type: ignore[union-attr]

    def abort(self) -> None:
        """Reset the connection; what has not left yet is lost."""
        self._closing = True
        self.transport.abortConnection()  # type: ignore[union-attr]

    def cut(self) -> None:
        """End an answer so that the client cannot take it for whole, after what was written of it.

        A chunked body that stops without its last chunk says so by itself; without chunks only a reset does.
        """
        if self._chunked and not self._closing:
            self._keep_alive = False
            self._close(linger=False)
        else:
            self.abort()

    @property
    def idle(self) -> bool:
        """No request is being read or answered."""
        return self._request is None and not self._parser.began

    @property
    def waiting(self) -> bool:
        """No request is being answered, though the head of one may be on its way."""
        return self._request is None and not self._closing

    @property
    def receiving(self) -> bool:
        """The body of the request under way has not all come."""
        return self._decoder is not None

    # -- reading

    def dataReceived(self, data: bytes) -> None:
        self._unread += data
        self._read_on()

    def _read_on(self) -> None:
        """Take what is unread, in a loop: one packet may hold a thousand requests, and recursion would not."""
        if self._reading:
            return
        self._reading = True
        try:
            while self._unread and not self._busy:
                data, self._unread = self._unread, b""
                if self._closing:
                    self._discard(len(data))
                elif self._decoder is not None:
                    self._body_received(data)
                else:
                    self._head_received(data)
        finally:
            self._reading = False
        if len(self._unread) > PIPELINED_BYTES:
            self.pause_reading()

    @property
    def _busy(self) -> bool:
        """Another request has to wait: for the answer under way, or until the client reads the answers it has."""
        if self._closing or self._decoder is not None:
            return False
        return self._request is not None or self._backed_up

    def _head_received(self, data: bytes) -> None:
        if not self._parser.began:
            self._wait(self.site.limits.header_timeout, self._head_late)
        try:
            head = self._parser.receive_data(data)
        except HttpViolation as violation:
            self._refuse(violation.status, str(violation))
            return
        if head is None:
            return
        self._stop_waiting()
        self._unread = self._parser.trailing
        self._parser = RequestHeadParser()
        self._dispatch(head)

    def _dispatch(self, head: RequestHead) -> None:
        self._keep_alive = head.keep_alive
        decoder = body_decoder(head.framing)
        self._decoder = None if decoder.done else decoder
        self._request = request = self._request_factory(self, head)
        request.begin()

    def body_wanted(self) -> None:
        """The request is going to be served: let its body come."""
        if self._request is not None and self._decoder is not None:
            if self._request.head.expects_continue:
                self.transport.write(CONTINUE)  # type: ignore[union-attr]
            self._body_stall.start()

    def _body_received(self, data: bytes) -> None:
        decoder, request = self._decoder, self._request
        assert decoder is not None
        assert request is not None
        self._progress += len(data)
        if self._progress >= PROGRESS_BYTES:
            self._progress = 0
            self._body_stall.touch(self._clock.seconds())
        try:
            body = decoder.receive_data(data)
        except HttpViolation as violation:
            request.body_broken(violation)
            return
        if decoder.done:
            # Before the request hears of it: whatever it then answers, the next request begins behind this body.
            self._decoder = None
            self._body_stall.stop()
            self._unread = decoder.trailing
        if body:
            request.body_received(body)
        if decoder.done:
            request.body_complete()

    def _discard(self, count: int) -> None:
        self._discarded += count
        if self._discarded > DISCARD_BYTES:
            self.transport.abortConnection()  # type: ignore[union-attr]

    def pause_reading(self) -> None:
        """Take nothing more from the client for now; its body timer stands still meanwhile."""
        if not self._reading_paused:
            self._reading_paused = True
            self._body_stall.stop()
            self.transport.pauseProducing()  # type: ignore[union-attr]

    def resume_reading(self) -> None:
        """Undo ``pause_reading``."""
        if self._reading_paused:
            self._reading_paused = False
            if self._decoder is not None and self._request is not None:
                self._body_stall.start()
            self.transport.resumeProducing()  # type: ignore[union-attr]

    # -- writing

    def send(self, answer: Answer, *, with_body: bool) -> None:
        """Write a whole answer. ``with_body``: false for HEAD."""
        self._keep_alive = self._keep_alive and self._decoder is None
        length = (b"content-length", b"%d" % len(answer.body))
        head = self._head(answer.status, (*answer.headers, length))
        self.transport.write(head + answer.body if with_body else head)  # type: ignore[union-attr]

    def begin(self, status: int, headers: Headers, *, chunked: bool) -> None:
        """Write the head of an answer whose length is not known; without ``chunked`` it ends with the connection."""
        self._chunked = chunked
        if chunked:
            headers = (*headers, (b"transfer-encoding", b"chunked"))
        else:
            self._keep_alive = False
        self.transport.write(self._head(status, headers))  # type: ignore[union-attr]

    def _head(self, status: int, headers: Headers) -> bytes:
        if not self._keep_alive or self.site.draining:
            headers = (*headers, (b"connection", b"close"))
        return encode_response_head(status, RESPONSES.get(status, b""), headers)

    def write_body(self, data: bytes) -> None:
        """Write a piece of the body begun with ``begin``. An empty one is none: as a chunk it would be the last."""
        if data:
            write_now(self.transport, b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data)

    def end_body(self) -> None:
        """End the body begun with ``begin``."""
        if self._chunked:
            self.transport.write(LAST_CHUNK)  # type: ignore[union-attr]

    def attach(self, producer: IPushProducer | None) -> None:
        """Pause and resume ``producer`` as the client's reading asks for; None: nobody."""
        self._producer = producer
        if producer is not None and self._backed_up:
            producer.pauseProducing()

    def pauseProducing(self) -> None:
        self._backed_up = True
        self._write_stall.start()
        if self._producer is not None:
            self._producer.pauseProducing()

    def resumeProducing(self) -> None:
        self._backed_up = False
        self._write_stall.stop()
        if self._producer is not None:
            self._producer.resumeProducing()
        if self._request is None and not self._closing:
            self._next()

    def stopProducing(self) -> None:
        """The transport is gone; ``connectionLost`` follows."""

    # -- the end of an exchange

    def requestDone(self, request: RelayRequest) -> None:
        """The answer is written (twisted.web's name for it)."""
        self._request = None
        self._producer = None
        self._body_stall.stop()
        if self._closing:
            return
        if self._decoder is not None:
            self._close(linger=True)
        elif self._keep_alive and not self.site.draining:
            self._wait(KEEP_ALIVE_SECONDS, self.close_idle)
            self._next()
        else:
            self._close(linger=False)

    def _next(self) -> None:
        """Read what follows, unless the client does not read itself: answers it leaves lying must not pile up."""
        if not self._backed_up:
            self.resume_reading()
            self._read_on()

    def close_idle(self) -> None:
        """Close if nothing is under way."""
        if self._request is None and not self._closing:
            self._close(linger=False)

    def give_way(self) -> None:
        """Close, whatever is being waited for: others need the descriptor."""
        self._close(linger=False)

    def _close(self, *, linger: bool) -> None:
        """Stop serving. With ``linger`` an upload is read on for a while, or its reset could overtake the answer."""
        self._closing = True
        self.resume_reading()
        if linger:
            self._wait(DISCARD_SECONDS, self._lose)
        else:
            self._lose()

    def _lose(self) -> None:
        transport: Any = self.transport
        transport.unregisterProducer()
        transport.loseConnection()
        self._wait(self.site.limits.write_stall_timeout, transport.abortConnection)

    def _refuse(self, status: int, message: str) -> None:
        """Answer what is not a request, in the envelope, and close: where the next one would begin is not known."""
        request_id = self.site.new_request_id()
        kind = "request_too_large" if status in (413, 414, 431) else "invalid_request_error"
        answer = error_answer(status, kind, message, request_id)
        headers = self.site.answer_headers(request_id, answer.headers)
        self._keep_alive = False
        self.send(Answer(answer.status, headers, answer.body), with_body=True)
        self._close(linger=True)

    # -- deadlines

    def _wait(self, seconds: float, then: Callable[[], None]) -> None:
        self._stop_waiting()
        self._deadline = self._clock.callLater(seconds, self._due, then)

    def _due(self, then: Callable[[], None]) -> None:
        """The time is over; but where a turn of the reactor took long, what came in time may still lie unread."""
        self._deadline = self._clock.callLater(0, then)

    def _stop_waiting(self) -> None:
        if self._deadline is not None and self._deadline.active():
            self._deadline.cancel()
        self._deadline = None

    def _head_late(self) -> None:
        if self._parser.began:
            self._refuse(408, "The request's headers did not arrive in time")
        else:
            self._close(linger=False)

    def _body_stalled(self) -> None:
        if self._request is not None:
            self._request.body_stalled()
