"""The embedded upstream's shell: an agent that plays the scripts of ``core.simulation`` on the reactor's clock.

It stands where the HTTP agent stands for real providers: treq, the pump and the failure table see what a connection
would show them, so that a rehearsed failure takes the same way as a true one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import count
from typing import Any, cast
from urllib.parse import urlsplit

from twisted.internet.defer import Deferred, fail, maybeDeferred, succeed
from twisted.internet.error import ConnectionAborted, ConnectionLost, DNSLookupError
from twisted.internet.interfaces import IConsumer, IDelayedCall, IProtocol, IPushProducer, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone, ResponseFailed
from twisted.web.error import SchemeNotSupported
from twisted.web.http import RESPONSES
from twisted.web.http_headers import Headers
from twisted.web.iweb import UNKNOWN_LENGTH, IAgent, IBodyProducer, IClientRequest, IResponse
from zope.interface import implementer

from ccrelay.core.model import Head
from ccrelay.core.settings import SimulatorSettings
from ccrelay.core.simulation import Cut, Request, Script, Step, base_url, simulate
from ccrelay.core.simulation_content import Rng

# Steps due within this many seconds are delivered together: at most 200 timers a second, whatever the token rate.
_TICK = 0.005

# Bytes delivered in one reactor turn, as from one read of a socket: a stream without pacing must not starve others.
_TURN_BYTES = 65536

_log = Logger()


@implementer(IAgent)
class SimulatorAgent:
    """Answers requests for ``simulator://`` URLs in this process.

    clock: seconds since 1970, as the reactor's. simulators: settings by provider name; a provider is reached under
    ``core.simulation.base_url(name)``. rng: as ``random.Random``.
    """

    def __init__(self, clock: IReactorTime, simulators: Mapping[str, SimulatorSettings], rng: Rng) -> None:
        self._clock = clock
        self._by_url = {base_url(name): settings for name, settings in simulators.items()}
        self._rng = rng
        self._serials = count(1)

    def request(
        self, method: bytes, uri: bytes, headers: Headers | None = None, bodyProducer: IBodyProducer | None = None
    ) -> Deferred[IResponse]:
        """Send a request to the simulator that the URL names.

        Returns a Deferred of the response, whose body waits until ``deliverBody``. It fails with SchemeNotSupported,
        DNSLookupError (no such simulator), ConnectionLost (a rehearsed cut before the head), or with what the body
        producer failed with. Cancelling it stops the upload, or the answer on its way.
        """
        url = urlsplit(uri)
        if url.scheme != b"simulator":
            return fail(SchemeNotSupported(f"not a simulator's URL: {url.scheme!r}"))
        settings = self._by_url.get(f"simulator://{url.netloc.decode('latin-1')}")
        if settings is None:
            return fail(DNSLookupError(f"no simulator is configured under {url.netloc!r}"))
        target = url.path + (b"?" + url.query if url.query else b"")

        def script(body: bytes) -> Script:
            return simulate(
                Request(method, target, body), settings, self._rng, next(self._serials), self._clock.seconds()
            )

        sent = _SentRequest(method, uri, headers if headers is not None else Headers())
        return _Exchange(self._clock, script, sent).start(bodyProducer)


@implementer(IClientRequest)
class _SentRequest:
    """What a response says about its request."""

    def __init__(self, method: bytes, uri: bytes, headers: Headers) -> None:
        self.method = method
        self.absoluteURI = uri
        self.headers = headers


@implementer(IConsumer)
class _Upload:
    """The request's body as it arrives. A simulator is never slow to read: nothing pauses the producer."""

    def __init__(self) -> None:
        self.body = bytearray()

    def write(self, data: bytes) -> None:
        self.body += data

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """Nothing to do: see the class."""

    def unregisterProducer(self) -> None:
        """Nothing to do: see the class."""


class _Exchange:
    """One request from its upload to its answer's head. ``script``: makes the answer of the whole body."""

    def __init__(self, clock: IReactorTime, script: Callable[[bytes], Script], sent: _SentRequest) -> None:
        self._clock = clock
        self._script = script
        self._sent = sent
        self._producer: IBodyProducer | None = None
        self._call: IDelayedCall | None = None
        self._answer: Deferred[IResponse] = Deferred(self._cancel)

    def start(self, producer: IBodyProducer | None) -> Deferred[IResponse]:
        upload = _Upload()
        self._producer = producer
        uploaded = maybeDeferred(producer.startProducing, upload) if producer is not None else succeed(None)
        uploaded.addCallback(self._uploaded, upload)
        uploaded.addErrback(self._answer.errback)
        return self._answer

    def _uploaded(self, _: object, upload: _Upload) -> None:
        self._producer = None
        script = self._script(bytes(upload.body))
        self._call = self._clock.callLater(script.delay, self._head_due, script)

    def _head_due(self, script: Script) -> None:
        self._call = None
        if script.head is None:
            self._answer.errback(Failure(ConnectionLost()))
        else:
            self._answer.callback(_Response(self._sent, script.head, _Playback(self._clock, script.steps)))

    def _cancel(self, _: object) -> None:
        if self._producer is not None:
            self._producer.stopProducing()
        if self._call is not None:
            self._call.cancel()


@implementer(IResponse)
class _Response:
    """An answer whose head has come; its body is played once somebody listens."""

    version = (b"HTTP", 1, 1)
    length = UNKNOWN_LENGTH
    previousResponse = None

    def __init__(self, sent: _SentRequest, head: Head, playback: _Playback) -> None:
        self.request = sent
        self.code = head.status
        self.phrase = RESPONSES.get(head.status, b"")
        self.headers = Headers()
        for name, value in head.headers:
            self.headers.addRawHeader(name, value)
        self._playback = playback

    def deliverBody(self, protocol: IProtocol) -> None:
        self._playback.play(protocol)

    def setPreviousResponse(self, response: IResponse) -> None:
        self.previousResponse = response


@implementer(IPushProducer)
class _Playback:
    """A script's steps on the clock, and the transport of the protocol that gets them.

    ``_due`` is when the next step may arrive, counted from the step before and not from when that was delivered, so
    that a late reactor does not slow a stream down. Paused, the time left until it stands still.
    """

    disconnecting = False  # read by LineReceiver of any transport

    def __init__(self, clock: IReactorTime, steps: Iterator[Step | Cut]) -> None:
        self._clock = clock
        self._steps = steps
        self._next: Step | Cut | None = None
        self._due = 0.0
        self._left: float | None = None
        self._call: IDelayedCall | None = None
        self._protocol: Any = None  # an IProtocol, whose transport this is without being a whole ITransport
        self._over = False

    def play(self, protocol: IProtocol) -> None:
        """Deliver the body to ``protocol``, from the next reactor turn on. Raises RuntimeError the second time."""
        if self._protocol is not None:
            raise RuntimeError("the body of this response has been given to another protocol already")
        self._protocol = receiver = cast(Any, protocol)
        self._due = self._clock.seconds()
        self._advance()
        receiver.makeConnection(self)
        self._wait()

    def pauseProducing(self) -> None:
        if self._left is None and not self._over:
            self._left = max(0.0, self._due - self._clock.seconds())
            self._stop_waiting()

    def resumeProducing(self) -> None:
        if self._left is not None:
            self._due = self._clock.seconds() + self._left
            self._left = None
            self._wait()

    def stopProducing(self) -> None:
        self.abortConnection()

    def loseConnection(self) -> None:
        self.abortConnection()

    def abortConnection(self) -> None:
        """Nothing further is delivered; the protocol loses its connection in the next turn, as with a socket."""
        if not self._over:
            self._over = True
            self._stop_waiting()
            self._clock.callLater(0, self._lose, ResponseFailed([Failure(ConnectionAborted())]))

    def _advance(self) -> None:
        self._next = next(self._steps, None)
        self._due += self._next.delay if self._next is not None else 0

    def _wait(self) -> None:
        """Have ``_turn`` called when the next step is due, unless there is a reason not to."""
        if self._call is None and self._left is None and not self._over:
            self._call = self._clock.callLater(max(0.0, self._due - self._clock.seconds()), self._turn)

    def _stop_waiting(self) -> None:
        if self._call is not None:
            self._call.cancel()
            self._call = None

    def _turn(self) -> None:
        self._call = None
        horizon = self._clock.seconds() + _TICK
        arrived = bytearray()
        while isinstance(self._next, Step) and self._due <= horizon and len(arrived) < _TURN_BYTES:
            arrived += self._next.data
            self._advance()
        if arrived:
            self._deliver(bytes(arrived))
        elif not isinstance(self._next, Step):
            self._end(ResponseDone() if self._next is None else ResponseFailed([Failure(ConnectionLost())]))
        self._wait()

    def _deliver(self, data: bytes) -> None:
        try:
            self._protocol.dataReceived(data)
        except Exception:  # noqa: BLE001
            # As a reactor does with a socket whose protocol raises: log it, and end the connection.
            failure = Failure()
            _log.failure("The receiver of a simulated answer failed", failure)
            self._end(ResponseFailed([failure]))

    def _end(self, reason: Exception) -> None:
        if not self._over:
            self._over = True
            self._stop_waiting()
            self._lose(reason)

    def _lose(self, reason: Exception) -> None:
        self._protocol.connectionLost(Failure(reason))
