"""The reference runner: a relay between scripted clients and scripted upstreams, in memory, on a scripted clock.

Real are the relay, the providers, the body, the doorkeeper and treq; scripted are the agent below treq, the client and
the clock. A Scene is used as a context manager: on leaving it time passes until every call is settled, and then it
checks what must hold whatever the script was (``Scene.settle``).

The upstream's side behaves as ``ccrelay.upstream.agent`` does: a request's body is read only when there is a
connection, a response's body flows only to whoever asked for it, an abort is noticed one turn later.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from http.cookiejar import CookieJar, DefaultCookiePolicy
from random import Random
from typing import Any, Self

from treq.client import HTTPClient
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.error import ConnectionAborted
from twisted.internet.interfaces import IConsumer, IDelayedCall, IProtocol, IPushProducer
from twisted.internet.task import Clock
from twisted.logger import formatEvent, globalLogPublisher
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone, ResponseFailed
from twisted.web.http_headers import Headers as WebHeaders
from twisted.web.iweb import UNKNOWN_LENGTH, IAgent, IBodyProducer, IResponse
from zope.interface import implementer
from zope.interface.exceptions import Invalid
from zope.interface.verify import verifyObject

from ccrelay.asking import Tools, Upstream
from ccrelay.core.access import AccessRecord
from ccrelay.core.attempt_record import AttemptRecord
from ccrelay.core.attempts import key_order
from ccrelay.core.headers import first
from ccrelay.core.model import ApiKey, Call, CallKind, Headers, Usage
from ccrelay.core.request_body import RequestBody
from ccrelay.core.router import Router, RoutingMemory
from ccrelay.core.secret import Secret
from ccrelay.core.settings import AffinitySettings, AuthSettings, HealthSettings, ProviderSettings, RoutingSettings
from ccrelay.core.strategies import build_strategy
from ccrelay.core.told import ToldOnce
from ccrelay.credentials.static import StaticCredentials
from ccrelay.errors import BodyTooLarge, RelayError
from ccrelay.interfaces import ICredentials
from ccrelay.providers import PROVIDERS
from ccrelay.relay import Relay
from ccrelay.runtime import contender_of
from ccrelay.web.auth import Doorkeeper
from ccrelay.web.request import ClientGone

from .fakes import FakeSink
from .provider_settings import key_settings, provider_settings

DOOR_KEY = "the-relays-own-key"
DOOR = ((b"x-api-key", DOOR_KEY.encode()),)
EPOCH = 1_800_000_000.0
HEALTH = HealthSettings(5, 30.0, 3, True, 10.0)
_CALL_ID = b"x-test-call"  # an unknown header, so it passes: tells whose upstream request one is
_LONGEST = 4 * 3600.0  # nothing a relay waits for takes longer
_DONE = ResponseDone()


@dataclass(frozen=True, slots=True)
class Step:
    """What one upstream request meets.

    reads: bytes of the request's body taken first; None: all; 0: none, for no connection comes about. Unless ``reads``
    is 0 the rest is taken once the head has been sent. after: seconds from then to the head, or to ``error``; None:
    nothing ever comes. error: the request fails with it. given_up: what it fails with when it is cancelled; None: as
    Deferreds do. pieces: of the answer's body, each with the seconds since the
    one before; none: the same turn. end: what its end is told with, ``end_after`` the last piece; None: it never ends.
    """

    status: int = 200
    headers: Headers = ()
    pieces: tuple[tuple[float, bytes], ...] = ()
    end: Exception | None = _DONE
    end_after: float = 0.0
    reads: int | None = None
    after: float | None = 0.0
    error: Exception | None = None
    given_up: Exception | None = None


@dataclass(frozen=True, slots=True)
class Scripted:
    """An upstream and what its requests meet, in order.

    credentials: where a key's comes from. agent: made with the clock, used in place of the script.
    """

    settings: ProviderSettings
    steps: tuple[Step, ...]
    credentials: Callable[[ApiKey], ICredentials]
    agent: Callable[[Clock], IAgent] | None


def upstream(
    name: str,
    *steps: Step,
    type: str = "anthropic",  # noqa: A002
    keys: Sequence[str | tuple[str, int]] = ("k1",),
    credentials: Callable[[ApiKey], ICredentials] = StaticCredentials,
    agent: Callable[[Clock], IAgent] | None = None,
    **changes: Any,
) -> Scripted:
    """A configured provider at ``https://NAME.test``. keys: secrets, or secrets with their priority."""
    pairs = [key if isinstance(key, tuple) else (key, 0) for key in keys]
    settings = provider_settings(type, name=name, base_url=f"https://{name}.test", **changes)
    keyed = tuple(replace(key_settings(text), priority=priority) for text, priority in pairs)
    return Scripted(replace(settings, keys=keyed), steps, credentials, agent)


# -- what upstreams say

JSON = ((b"content-type", b"application/json"),)
SSE = ((b"content-type", b"text/event-stream; charset=utf-8"),)
USAGE = Usage(input=11, output=22, cache_write=33, cache_read=44)
"""What ``stream()`` and ``message()`` tell of, and ``STARTED`` as far as a ``message_start`` knows it."""
STARTED = replace(USAGE, output=1)
_USAGE_START = {
    "input_tokens": 11,
    "output_tokens": 1,
    "cache_creation_input_tokens": 33,
    "cache_read_input_tokens": 44,
}


def door(**changes: Any) -> AuthSettings:
    """Client auth that takes the relay's own key only."""
    return replace(AuthSettings(Secret(DOOR_KEY), True, Secret(DOOR_KEY), False, False), **changes)


def event(kind: str, **members: object) -> bytes:
    """One event as Anthropic writes it."""
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **members}, ensure_ascii=False)}\n\n".encode()


def events(who: str, words: Sequence[str] = ("Hello", " there")) -> tuple[bytes, ...]:
    """A whole answer's events: the opening, the content, then ``message_delta`` and ``message_stop``."""
    return (
        event("message_start", message={"id": f"msg_{who}", "model": who, "usage": _USAGE_START}),
        event("content_block_start", index=0, content_block={"type": "text", "text": ""}),
        *(event("content_block_delta", index=0, delta={"type": "text_delta", "text": word}) for word in words),
        event("content_block_stop", index=0),
        event("message_delta", delta={"stop_reason": "end_turn"}, usage={"output_tokens": 22}),
        event("message_stop"),
    )


def error_event(kind: str = "overloaded_error", text: str = "Overloaded") -> bytes:
    return event("error", error={"type": kind, "message": text})


def envelope(kind: str, text: str) -> bytes:
    """An error body, spaced in a way that no writer here would choose."""
    return b'{ "type":"error", "error":{"type":"%b", "message":%b}}\n' % (kind.encode(), json.dumps(text).encode())


def played(pieces: Sequence[bytes], delay: float = 0.0, *, headers: Headers = (), **changes: Any) -> Step:
    """A stream that consists of these pieces, ``delay`` seconds before each."""
    return Step(headers=(*SSE, *headers), pieces=tuple((delay, piece) for piece in pieces), **changes)


def stream(who: str = "m", delay: float = 0.0, **changes: Any) -> Step:
    """A whole stream, an event a piece."""
    return played(events(who), delay, **changes)


def message(who: str = "m", *, headers: Headers = (), **changes: Any) -> Step:
    """A whole JSON answer."""
    body = json.dumps({"id": f"msg_{who}", "type": "message", "usage": {**_USAGE_START, "output_tokens": 22}}).encode()
    return says(200, body, headers=headers, **changes)


def says(status: int, body: bytes, *, headers: Headers = (), **changes: Any) -> Step:
    """An answer that is this JSON."""
    return Step(status, (*JSON, *headers), ((0.0, body),), **changes)


def error(status: int, kind: str, text: str = "What went wrong", *, headers: Headers = (), **changes: Any) -> Step:
    """An unsuccessful answer in Anthropic's envelope."""
    return says(status, envelope(kind, text), headers=headers, **changes)


def fails(error: Exception, **changes: Any) -> Step:
    """No answer at all; no connection either, unless ``reads`` says otherwise."""
    return Step(error=error, **{"reads": 0, **changes})


def whole(step: Step) -> bytes:
    """The body of ``step``'s answer."""
    return b"".join(data for _, data in step.pieces)


@implementer(IConsumer, IPushProducer)
class Exchange:
    """One upstream request. body: what the upstream has of it. complete: that is all. closed: when the relay closed it.

    over: nothing flows any more, either way. log: what was asked of the answer's transport, in order. step: its script.
    """

    def __init__(self, scene: Scene, provider: str, step: Step, uri: bytes, headers: Headers, length: object) -> None:
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


class Client(FakeSink):
    """A client that makes one call. committed_at, left_at: seconds. pieces: what it got, each with its time."""

    def __init__(self, scene: Scene, call_id: str, length: int | None, limit: int) -> None:
        super().__init__()
        self._scene = scene
        self.id = call_id
        self.upload = RequestBody(length, limit)
        self.committed_at: float | None = None
        self.pieces: list[tuple[float, bytes]] = []
        self.ends = 0
        self.settled = False

    @property
    def record(self) -> AccessRecord:
        """The call's access record."""
        (found,) = (record for record in self._scene.records if record.request_id == self.id)
        return found

    @property
    def view(self) -> tuple[int | None, bytes, str | None]:
        """The status, the body, and how it ended: ``finished``, ``aborted`` or None."""
        return self.status, self.body, self.end

    def header(self, name: bytes) -> bytes | None:
        return first(self.headers, name)

    # -- what it does

    def send(self, data: bytes) -> None:
        """Upload some bytes."""
        with suppress(BodyTooLarge):  # the relay hears of it from the body
            self.upload.receive_data(data)

    def finish_upload(self) -> None:
        self.upload.receive_eof()

    def break_upload(self, error: RelayError) -> None:
        self.upload.fail(error)

    def leave(self) -> None:
        """Close the connection, as the channel tells it."""
        self.gone = True
        if not self.upload.complete:
            self.upload.fail(ClientGone("the client closed its connection"))
        super().leave()

    def stop_reading(self) -> None:
        """Take nothing more for now; the answer's producer hears of it, as from a full socket."""
        if self.producer is not None and self.end is None and not self.gone:
            self.producer.pauseProducing()

    def read_again(self) -> None:
        if self.producer is not None and self.end is None and not self.gone:
            self.producer.resumeProducing()

    # -- what it gets

    def begin(self, status: int, headers: Headers) -> None:
        self.committed_at = self._scene.clock.seconds()
        super().begin(status, headers)

    def write(self, data: bytes) -> None:
        super().write(data)
        self.pieces.append((self._scene.clock.seconds(), data))

    def finish(self) -> None:
        self.ends += 1
        super().finish()

    def abort(self) -> None:
        self.ends += 1
        super().abort()


class Scene:
    """See the module. requests: what upstreams were sent, in order. records: what was observed. logged: as text."""

    def __init__(
        self,
        *upstreams: Scripted,
        timeout: float = 600.0,
        max_attempts: int = 4,
        window: float = 5.0,
        debug: bool = False,
        auth: AuthSettings | None = None,
        body_limit: int = 0,
        strategy: str = "failover",
        affinity: bool = True,
        retry_budget: float = 0.2,
        health: HealthSettings = HEALTH,
        **routing: Any,
    ) -> None:
        self.clock = Clock()
        self.requests: list[Exchange] = []
        self.records: list[AccessRecord] = []
        self.attempts: list[AttemptRecord] = []
        self.clients: dict[str, Client] = {}
        self.violations: list[str] = []
        self.logged: list[str] = []
        self._max_attempts = max_attempts
        self._planned: list[IDelayedCall] = []
        self._scripted = all(s.agent is None and s.credentials is StaticCredentials for s in upstreams)
        self._body_limit = body_limit
        self._door = Doorkeeper(auth or door())
        settings = RoutingSettings(
            strategy,
            routing.get("model_mapping", {}),
            routing.get("default_provider"),
            window,
            max_attempts,
            retry_budget,
            AffinitySettings(affinity, 3600.0),
            debug,
        )
        rng = Random(7)
        reached = {scripted.settings.name: self._upstream(scripted) for scripted in upstreams}
        contenders = [contender_of(s.settings, reached[s.settings.name], health, rng) for s in upstreams]
        self.contenders = {contender.name: contender for contender in contenders}
        self.memory = RoutingMemory.fresh(settings)
        tools = Tools(
            self.clock,
            Router(contenders, build_strategy(settings, rng), settings, self.memory),
            reached,
            epoch=lambda: EPOCH + self.clock.seconds(),
            in_thread=maybeDeferred,
            observe_attempt=self.attempts.append,
            told=ToldOnce(),
        )
        self._relay = Relay(tools, timeout, observe=self.records.append)

    def _upstream(self, scripted: Scripted) -> Upstream:
        settings = scripted.settings
        agent = scripted.agent(self.clock) if scripted.agent is not None else ScriptedAgent(self, scripted)
        credentials = {
            key.secret.fingerprint: scripted.credentials(ApiKey(key.secret))
            for key in key_order(settings)
            if key.secret is not None
        }
        if not credentials and not PROVIDERS[settings.type].needs_key:
            credentials[""] = StaticCredentials(None)
        cookies: Any = CookieJar(policy=DefaultCookiePolicy(allowed_domains=[]))
        return Upstream(HTTPClient(agent, cookiejar=cookies), settings.timeouts, credentials)

    def call(
        self,
        body: bytes = b"",
        *,
        headers: Headers = DOOR,
        kind: CallKind = CallKind.MESSAGES,
        query: bytes = b"beta=true",
        length: int | None = None,
        chunked: bool = False,
        arrived: bytes = b"",
        left: bool = False,
        session: str | None = None,
    ) -> Client:
        """A client calls, and uploads ``body`` if there is one; otherwise ``send`` and ``finish_upload`` do.

        length: declared for a body that is sent piecemeal. Before the relay hears of the call: arrived: came of the
        body; left: the client has gone.
        """
        declared = None if chunked else len(body) if body else length
        client = Client(self, f"call-{len(self.clients) + 1}", declared, self._body_limit)
        self.clients[client.id] = client
        admission = self._door.admit(headers)
        client.gone = left
        call = Call(
            request_id=client.id,
            kind=kind,
            principal=admission.principal,
            query=query,
            headers=(*headers, (_CALL_ID, client.id.encode())),
            own_credential=admission.own_credential,
            session=session,
            peer="192.0.2.7",
            body=client.upload,
        )
        client.send(arrived)
        self._relay.handle(call, client).addCallback(lambda _: setattr(client, "settled", True))
        if body:
            client.send(body)
            client.finish_upload()
        return client

    def sending(self, exchange: Exchange) -> None:
        """An upstream request begins."""
        client = self._caller(exchange)
        self.check(not client.committed, "an attempt after the commit")
        self.check(not client.gone, "an attempt for a client that has left")
        self.requests.append(exchange)

    def _caller(self, exchange: Exchange) -> Client:
        """Whose call it is made for; a cloud gets no header of the client's, so there only one may call."""
        call_id = first(exchange.headers, _CALL_ID)
        if call_id is not None:
            return self.clients[call_id.decode()]
        (client,) = self.clients.values()
        return client

    def check(self, condition: object, complaint: str) -> None:
        """Note a violation: raising would only reach the code under test."""
        if not condition:
            self.violations.append(complaint)

    @property
    def asked(self) -> list[str]:
        """Who was asked with which credential, in order, as ``name key``."""
        return [f"{exchange.provider} {exchange.key}" for exchange in self.requests]

    @property
    def open(self) -> list[Exchange]:
        """Upstream requests that have not ended."""
        return [exchange for exchange in self.requests if not exchange.over]

    # -- time

    def advance(self, seconds: float) -> None:
        """Let time pass, stopping at every moment at which something is due."""
        until = self.clock.seconds() + seconds
        while due := [c.getTime() for c in self.clock.getDelayedCalls() if c.getTime() <= until]:
            self.clock.advance(max(0.0, min(due) - self.clock.seconds()))
        self.clock.advance(max(0.0, until - self.clock.seconds()))

    def later(self, seconds: float, action: Callable[[], object]) -> None:
        """Do something in so many seconds, if the scene lasts so long."""
        self._planned.append(self.clock.callLater(seconds, action))

    def settle(self) -> None:
        """Let time pass until every call is settled, then check what always holds.

        By then each call has one record, one end and its body given back; each of its attempts was recorded and has
        ended; no timer is left and no failure was logged.
        """
        while not all(client.settled for client in self.clients.values()) and self.clock.seconds() < _LONGEST:
            due = [call.getTime() for call in self.clock.getDelayedCalls()]
            assert due, "a call waits for nothing"
            self.advance(max(0.0, min(due) - self.clock.seconds()))
        self.advance(0.0)
        timers = [call for call in self.clock.getDelayedCalls() if call not in self._planned]
        assert not self.violations, self.violations
        assert not self._scripted or not timers, timers
        assert not self.open, self.open
        assert sorted(record.request_id for record in self.records) == sorted(self.clients)
        for client in self.clients.values():
            self._check_client(client)

    def _check_client(self, client: Client) -> None:
        record = client.record
        assert client.settled, "the call's Deferred has not fired"
        assert client.upload.released, "the body is still held"
        assert client.ends <= 1, "more than one end"
        assert client.end is not None or client.gone, "no end"
        assert record.status == client.status, record
        assert record.bytes_out == len(client.body), record
        assert record.attempts <= self._max_attempts, record
        if self._scripted:
            sent = [exchange for exchange in self.requests if self._caller(exchange) is client]
            assert record.attempts == len(sent), record

    def __enter__(self) -> Self:
        globalLogPublisher.addObserver(self._log)
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            if kind is None:
                self.settle()
        finally:
            globalLogPublisher.removeObserver(self._log)

    def _log(self, event: Any) -> None:
        self.logged.append(formatEvent(event))
        failure = event.get("log_failure")
        if failure is not None:
            self.violations.append(f"logged a failure: {failure.getTraceback()}")
