"""The upstream's side of a scene: an agent below treq that answers by script."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionAborted
from twisted.internet.interfaces import IConsumer, IDelayedCall, IProtocol, IPushProducer
from twisted.python.failure import Failure
from twisted.web.client import ResponseFailed
from twisted.web.http_headers import Headers as WebHeaders
from twisted.web.iweb import UNKNOWN_LENGTH, IAgent, IBodyProducer, IResponse
from zope.interface import implementer
from zope.interface.exceptions import Invalid
from zope.interface.verify import verifyObject

from ccrelay.core.headers import first
from ccrelay.core.model import Headers

from .scenarios_steps import (
    Step,
)

if TYPE_CHECKING:
    from .scenarios import Scene, Scripted


@implementer(IConsumer, IPushProducer)
class Exchange:
    """One upstream request. body: what the upstream has of it. complete: that is all. closed: when the relay closed it.

    over: nothing flows any more, either way. log: what was asked of the answer's transport, in order. step: its script.
    """

    def __init__(self, scene: Scene, provider: str, step: Step, uri: bytes, headers: Headers, length: Any) -> None:
        self._scene = scene
        self._clock = scene.clock
        self.step = step
        self.provider, self.url, self.headers, self.length = provider, uri.decode("ascii"), headers, length
        self.began = scene.clock.seconds()
        self.body = b""
        self.complete = False
        self.closed: float | None = None
        self.over = False
        self.log: list[str] = []
        self.answered: Deferred[IResponse] = Deferred(self._cancelled)
        self._producer: Any = None
        self._held_back = False
        self._arrived = False
        self._receiver: Any = None
        self._pieces = [*step.pieces]
        self._paused = self._playing = self._waited = False
        self._call: IDelayedCall | None = None

    @property
    def key(self) -> str:
        """The credential it was sent with, ``-`` without one."""
        bearer = first(self.headers, b"authorization") or b""
        return (first(self.headers, b"x-api-key") or bearer.removeprefix(b"Bearer ") or b"-").decode("latin-1")

    # -- the request

    def start(self, producer: Any) -> Deferred[IResponse]:
        if self.step.reads == 0:
            self._taken()
        else:
            self._producer = producer
            producer.startProducing(self).addCallback(self._uploaded)
        return self.answered

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        self._scene.check(streaming and IPushProducer.providedBy(producer), "the body is not pushed")

    def unregisterProducer(self) -> None:
        self._held_back = False

    def write(self, data: bytes) -> None:
        self._scene.check(not self.over and not self.complete, "written to after the end")
        self._scene.check(not self._held_back, "written to while told to wait")
        self._scene.check(isinstance(data, bytes) and data != b"", "an empty write")
        self.body += data
        self._scene.check(self.length is UNKNOWN_LENGTH or len(self.body) <= self.length, "more than was declared")
        if self.step.reads is not None and len(self.body) >= self.step.reads and not self._arrived:
            self._held_back = True
            self._producer.pauseProducing()
            self._taken()

    def _uploaded(self, _: object) -> None:
        self._producer = None
        self.complete = True
        self._scene.check(self.length in (UNKNOWN_LENGTH, len(self.body)), "less than was declared")
        self._taken()

    def _taken(self) -> None:
        if not self._arrived:
            self._arrived = True
            if self.step.after is not None:
                self._call = self._clock.callLater(self.step.after, self._head)

    def _stop_upload(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            producer.stopProducing()

    def _cancelled(self, answered: Deferred[IResponse]) -> None:
        self.abortConnection()
        if self.step.given_up is not None:
            answered.errback(self.step.given_up)

    # -- the answer

    def _head(self) -> None:
        self._call = None
        if self.step.error is not None:
            self._finish()
            self.answered.errback(Failure(self.step.error))
            return
        self.answered.callback(ScriptedResponse(self, self.step))
        if self._held_back and self._producer is not None:
            self._held_back = False
            self._producer.resumeProducing()

    def deliver(self, receiver: IProtocol) -> None:
        self._scene.check(self._receiver is None, "a body delivered twice")
        self._receiver = receiver
        receiver.makeConnection(self)  # type: ignore[arg-type]
        self._play()

    def _waited_enough(self) -> None:
        self._call = None
        self._waited = True
        self._play()

    def _play(self) -> None:
        self._playing = True
        while not self.over and not self._paused and self._call is None:
            delay = self._pieces[0][0] if self._pieces else self.step.end_after
            if delay and not self._waited:
                self._call = self._clock.callLater(delay, self._waited_enough)
                break
            self._waited = False
            if self._pieces:
                self._receive(self._pieces.pop(0)[1])
            elif self.step.end is None:
                break
            else:
                self._finish()
                self._receiver.connectionLost(Failure(self.step.end))
        self._playing = False

    def _receive(self, data: bytes) -> None:
        try:
            self._receiver.dataReceived(data)
        except Exception:  # noqa: BLE001  (as a reactor: whoever raises loses the connection)
            self._finish()
            self._receiver.connectionLost(Failure(ResponseFailed([Failure()])))

    def _finish(self) -> None:
        self.over = True
        self._stop_upload()
        if self._call is not None and self._call.active():
            self._call.cancel()

    def pauseProducing(self) -> None:
        self.log.append("pause")
        self._paused = True

    def resumeProducing(self) -> None:
        self.log.append("resume")
        self._paused = False
        if self._receiver is not None and not self._playing:
            self._play()

    def stopProducing(self) -> None:
        self.abortConnection()

    def loseConnection(self) -> None:
        self.abortConnection()

    def abortConnection(self) -> None:
        if self.over:
            return
        self.closed = self._clock.seconds()
        self._finish()
        if self._receiver is not None:
            self._clock.callLater(
                0, self._receiver.connectionLost, Failure(ResponseFailed([Failure(ConnectionAborted())]))
            )


@implementer(IResponse)
class ScriptedResponse:
    """The answer of an exchange."""

    version = (b"HTTP", 1, 1)
    phrase = b""
    length = UNKNOWN_LENGTH
    request = None
    previousResponse = None

    def __init__(self, exchange: Exchange, step: Step) -> None:
        self._exchange = exchange
        self.code = step.status
        self.headers = WebHeaders()
        for name, value in step.headers:
            self.headers.addRawHeader(name, value)

    def deliverBody(self, protocol: IProtocol) -> None:
        self._exchange.deliver(protocol)

    def setPreviousResponse(self, response: IResponse) -> None:
        raise AssertionError("nothing here follows a redirect")


@implementer(IAgent)
class ScriptedAgent:
    """Answers by script. An argument that IAgent does not allow is a violation of the scene."""

    def __init__(self, scene: Scene, scripted: Scripted) -> None:
        self._scene = scene
        self._name = scripted.settings.name
        self.steps = list(scripted.steps)

    def request(
        self, method: bytes, uri: bytes, headers: WebHeaders | None = None, bodyProducer: IBodyProducer | None = None
    ) -> Deferred[IResponse]:
        scene, producer = self._scene, bodyProducer
        scene.check(method == b"POST" and isinstance(uri, bytes), f"not a call: {method!r} {uri!r}")
        scene.check(isinstance(headers, WebHeaders), "headers of another type")
        try:
            verifyObject(IBodyProducer, producer)
        except Invalid as error:
            scene.check(False, str(error))
        assert headers is not None
        assert producer is not None
        scene.check(producer.length is UNKNOWN_LENGTH or isinstance(producer.length, int), "no usable length")
        lines = tuple(
            (name.lower(), value)
            for name, values in headers.getAllRawHeaders()
            for value in values
            if name.lower() != b"accept-encoding"  # treq adds its own; the agent that is replaced here writes neither
        )
        if not self.steps:
            scene.check(False, f"{self._name} was asked more often than the script says")
            self.steps.append(Step(after=None))
        exchange = Exchange(scene, self._name, self.steps.pop(0), uri, lines, producer.length)
        scene.sending(exchange)
        return exchange.start(producer)
