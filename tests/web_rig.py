"""A site on a clock, its relay played by the test or a whole runtime, and h11 as the client that reads its answers."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

import h11
from twisted.internet.task import Clock

from ccrelay.core.access import AccessRecord
from ccrelay.core.answers import answer_of
from ccrelay.core.listing import ModelEntry
from ccrelay.core.model import Answer, Call
from ccrelay.core.settings import ServerSettings
from ccrelay.errors import ClientError
from ccrelay.runtime import Runtime
from ccrelay.web.auth import Doorkeeper
from ccrelay.web.resources import Root
from ccrelay.web.sink import ClientSink
from ccrelay.web.site import RelaySite
from ccrelay.web.surface import ProviderEntry, Surface
from tests.config_loading import SIMULATOR, settings_of
from tests.fakes import FakeConnection
from tests.upstream_rig import NamedReactor, OriginSide

HEADER, BODY_STALL, WRITE_STALL = 10.0, 30.0, 300.0
"""Seconds: the configuration's defaults."""

BODY = b'{"model":"claude-x","messages":[]}'


def server_settings(**changes: Any) -> ServerSettings:
    """The defaults of a configuration file, with these fields of ServerSettings changed."""
    return replace(settings_of(SIMULATOR).server, **changes)


@dataclass
class Reply:
    """One answer as a client library reads it. ``ending``: ``whole``, ``unfinished`` or ``broken``."""

    status: int
    headers: list[tuple[bytes, bytes]]
    interim: list[int]
    body: bytes = b""
    ending: str = "unfinished"

    def all(self, name: bytes) -> list[bytes]:
        return [value for key, value in self.headers if key == name]

    def header(self, name: bytes) -> bytes | None:
        values = self.all(name)
        assert len(values) <= 1, f"{name!r} is repeated"
        return values[0] if values else None

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> str:
        """The error type of Anthropic's envelope, whose request id must be the header's."""
        document = self.json
        assert document["type"] == "error"
        assert document["request_id"].encode() == self.header(b"x-request-id")
        assert document["error"]["message"]
        return str(document["error"]["type"])


def read_replies(wire: bytes, methods: list[bytes], *, eof: bool) -> list[Reply]:
    """What h11 makes of ``wire``, as the answers to requests with these methods.

    h11 must accept every byte; bytes after the last answer fail the test.
    """
    client = h11.Connection(h11.CLIENT)
    client.receive_data(wire)
    if eof:
        client.receive_data(b"")
    replies: list[Reply] = []
    for number, method in enumerate(methods):
        if number:
            if client.our_state is not h11.DONE or client.their_state is not h11.DONE:
                break
            client.start_next_cycle()
        client.send(h11.Request(method=method, target="/", headers=[("Host", "x")]))
        client.send(h11.EndOfMessage())
        interim: list[int] = []
        reply: Reply | None = None
        while True:
            try:
                event = client.next_event()
            except h11.RemoteProtocolError:
                assert reply is not None, f"not a response: {wire!r}"
                reply.ending = "broken"
                break
            if isinstance(event, h11.InformationalResponse):
                interim.append(event.status_code)
            elif isinstance(event, h11.Response):
                reply = Reply(event.status_code, list(event.headers), interim)
                replies.append(reply)
            elif isinstance(event, h11.Data):
                assert reply is not None
                reply.body += bytes(event.data)
            else:
                if isinstance(event, h11.EndOfMessage):
                    assert reply is not None
                    reply.ending = "whole"
                break
    assert client.trailing_data[0] == b"", f"bytes behind the last answer: {client.trailing_data[0]!r}"
    return replies


class Client(FakeConnection):
    """A client of the site under test."""

    def replies(self, *methods: bytes) -> list[Reply]:
        """The answers so far; ``methods``: of the requests sent, one POST unless told."""
        return read_replies(self.received, list(methods or (b"POST",)), eof=self.end is not None)

    @property
    def reply(self) -> Reply:
        """The only answer, to a request other than HEAD."""
        [reply] = self.replies()
        return reply


@dataclass
class Served:
    """A call that reached the relay. ``gone``: how often its client was told to have left."""

    call: Call
    sink: ClientSink
    gone: list[float] = field(default_factory=list)


class Web:
    """A RelaySite with this ``server`` section, changed as given.

    calls: what reached the relay, which the test plays. refused: access records of what did not. on_call(served):
    runs as the relay would, inside the dispatch.
    """

    def __init__(self, on_call: Callable[[Served], object] = lambda _: None, **server: Any) -> None:
        self.clock = Clock()
        self.calls: list[Served] = []
        self.refused: list[AccessRecord] = []
        self.on_call = on_call
        self.providers: tuple[ProviderEntry, ...] = ()
        self.usable = True
        settings = server_settings(**server)
        self.surface = Surface(
            server=settings,
            doorkeeper=Doorkeeper(settings.auth),
            handle=self._handle,
            refused=self.refused.append,
            models=(),
            providers=lambda: self.providers,
            usable=lambda: self.usable,
        )
        self.root = Root(lambda: self.surface)
        self.site = RelaySite(self.root, self.clock, lambda: self.surface)

    def _handle(self, call: Call, sink: ClientSink) -> None:
        served = Served(call, sink)
        sink.when_gone(lambda: served.gone.append(self.clock.seconds()))
        self.calls.append(served)
        self.on_call(served)

    def list_models(self, *entries: ModelEntry) -> None:
        self.surface = replace(self.surface, models=entries)

    def connect(self, *, host: Any = None, peer: Any = None) -> Client:
        """A client that has just connected."""
        return Client(self.clock, self.site.buildProtocol(None), host=host, peer=peer)

    def ask(self, data: bytes, *, host: Any = None) -> Reply:
        """The one answer to ``data``, sent on a connection of its own."""
        client = self.connect(host=host)
        client.send(data)
        [reply] = client.replies(data.partition(b" ")[0])
        return reply

    @property
    def load(self) -> int:
        """Calls that count against ``server.max_concurrent``."""
        return self.root.load.calls

    @property
    def settled(self) -> bool:
        """Nothing is held for any call."""
        return self.load == 0 and self.site.budget.held == 0

    def ended(self, client: Client) -> bool:
        """The connection is gone, the last one, and left neither a timer nor a count behind."""
        alone = self.site.open_channels == 0 and not self.clock.getDelayedCalls()
        return client.end is not None and alone and self.settled


def head(method: bytes = b"POST", target: bytes = b"/v1/messages", *lines: bytes, host: bytes = b"localhost") -> bytes:
    """A request's head."""
    return b"\r\n".join([b"%b %b HTTP/1.1" % (method, target), b"Host: " + host, *lines, b"", b""])


def get(target: bytes, *lines: bytes, method: bytes = b"GET") -> bytes:
    """A request without a body."""
    return head(method, target, *lines)


def post(body: bytes = BODY, *lines: bytes, target: bytes = b"/v1/messages") -> bytes:
    """A request with a body of known length."""
    return head(b"POST", target, *lines, b"Content-Length: %d" % len(body)) + body


def chunked(*pieces: bytes, lines: tuple[bytes, ...] = ()) -> bytes:
    """A request with a chunked body, without the last chunk."""
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    return head(b"POST", b"/v1/messages", *lines, b"Transfer-Encoding: chunked") + chunks


HEALTH = get(b"/health")
OK = Answer(200, ((b"content-type", b"application/json"),), b'{"type":"message"}')


def respond(served: Served) -> None:
    """Answer at once."""
    served.sink.respond(OK)


def respond_when_complete(served: Served) -> None:
    """As the relay: answer once the body has come, or say at once what is wrong with it."""
    body = served.call.body

    def changed() -> None:
        if served.sink.committed:
            return
        if isinstance(body.error, ClientError):
            served.sink.respond(answer_of(body.error, served.call.request_id))
        elif body.complete:
            served.sink.respond(Answer(200, (), b"%d bytes" % body.received))

    body.watch(changed)
    changed()


class Daemon:
    """The runtime of a configuration behind its HTTP surface, on a reactor in memory."""

    def __init__(self, text: str, environ: Mapping[str, str] | None = None) -> None:
        self.reactor = NamedReactor({"north.test": "192.0.2.1", "proxy.test": "192.0.2.9"})
        self.settings = settings_of(text)
        self.runtime = Runtime(self.settings, self.reactor, environ or {}, Random(7))
        surface = self.runtime.surface
        self.root = Root(lambda: surface)
        self.site = RelaySite(self.root, self.reactor, lambda: surface)

    def connect(self) -> Client:
        return Client(self.reactor, self.site.buildProtocol(None))

    def ask(self, data: bytes, seconds: float = 0.0) -> Reply:
        """The answer to one request, after that time."""
        client = self.connect()
        client.send(data)
        self.pass_time(seconds)
        [reply] = client.replies(data.partition(b" ")[0])
        return reply

    def pass_time(self, seconds: float) -> None:
        end = self.reactor.seconds() + seconds
        while True:
            due = [call.getTime() for call in self.reactor.getDelayedCalls() if call.getTime() <= end]
            if not due:
                break
            self.reactor.advance(max(0.0, min(due) - self.reactor.seconds()))
        self.reactor.advance(end - self.reactor.seconds())

    def origin(self) -> OriginSide:
        """The connection that the relay is opening, accepted by its origin."""
        self.reactor.resolve()
        self.reactor.advance(0)
        return self.reactor.accept()

    def names(self) -> list[str]:
        return [entry.name for entry in self.runtime.surface.providers()]
