"""The daemon's life: listening or refusing to start, draining, cutting, signals."""

from __future__ import annotations

import gc
import os
import signal
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from random import Random
from typing import Any, Self

import pytest
from twisted.application.service import Application, IService
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.defer import Deferred
from twisted.internet.epollreactor import EPollReactor
from twisted.internet.error import CannotListenError, ReactorNotRunning
from twisted.internet.interfaces import IListeningPort
from twisted.logger import ILogObserver, formatEvent, globalLogPublisher
from twisted.protocols.tls import TLSMemoryBIOFactory
from zope.interface import implementer
from zope.interface.verify import verifyObject

from ccrelay import listeners as listeners_module
from ccrelay import service as service_module
from ccrelay.logs import LineObserver
from ccrelay.notify import Notifier
from ccrelay.runtime import Runtime
from ccrelay.service import RelayService

from .config_loading import settings_of
from .upstream_rig import NamedReactor, OriginSide, fired
from .web_rig import Client, get, post

DRAIN = 30.0
PROVIDER = "providers: [{name: north, type: anthropic, base_url: 'http://north.test', keys: [{key: k}]}]\n"
CALL = b'{"model":"claude-x","max_tokens":1,"messages":[]}'
START = b'event: message_start\ndata: {"type":"message_start","message":{}}\n\n'
EVENTS = START + b'event: content_block_start\ndata: {"type":"content_block_start"}\n\n'
STOP = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


@implementer(IListeningPort)
class Port:
    """An open listener."""

    def __init__(self, address: Any, factory: Any) -> None:
        self.address = address
        self.factory = factory
        self.open = True

    def startListening(self) -> None:
        """It is open."""

    def stopListening(self) -> None:
        self.open = False

    def getHost(self) -> Any:
        return self.address


class Reactor(NamedReactor):
    """Listens in memory. ``taken``: ports that somebody else has. ``stops``: how often it was told to stop."""

    def __init__(self, *taken: int) -> None:
        super().__init__({"north.test": "192.0.2.1"})
        self.taken = taken
        self.ports: list[Port] = []
        self.stops = 0
        self.later: list[Callable[[], object]] = []

    def listenTCP(self, port: int, factory: Any, backlog: int = 50, interface: str = "") -> Port:
        if port in self.taken:
            raise CannotListenError(interface, port, OSError(98, "Address already in use"))
        kind = IPv6Address if ":" in interface else IPv4Address
        return self._opened(kind("TCP", interface or "0.0.0.0", port), factory)

    def listenUNIX(self, address: str, factory: Any, *more: Any, **options: Any) -> Port:
        return self._opened(UNIXAddress(os.fsencode(address)), factory)  # bytes, as from a real socket

    def _opened(self, address: Any, factory: Any) -> Port:
        self.ports.append(Port(address, factory))
        return self.ports[-1]

    def callWhenRunning(self, work: Callable[[], object]) -> None:  # type: ignore[override]
        work()

    def callFromThread(self, work: Callable[[], object]) -> None:
        self.later.append(work)

    def stop(self) -> None:
        self.stops += 1
        if self.stops > 1:
            raise ReactorNotRunning("Can't stop reactor that isn't running.")

    def turn(self) -> None:
        later, self.later = self.later, []
        for call in later:
            call()
        self.advance(0)


@pytest.fixture(autouse=True)
def handlers(monkeypatch: pytest.MonkeyPatch) -> dict[int, Callable[..., object]]:
    """The signal handlers that were asked for, by signal."""
    asked: dict[int, Callable[..., object]] = {}
    monkeypatch.setattr(signal, "signal", lambda number, handler: asked.update({number: handler}))
    return asked


class Life:
    """A service between its start and its end."""

    def __init__(self, server: str = "listen: '127.0.0.1:8787'", *taken: int) -> None:
        self.reactor = Reactor(*taken)
        self.settings = settings_of(PROVIDER + f"server: {{{server}}}\n")
        self.runtime = Runtime(self.settings, self.reactor, {}, Random(7))
        self.observer = LineObserver(None, "json", "info")  # type: ignore[arg-type]
        self.service = RelayService(self.reactor, self.runtime, self.observer)

    def start(self) -> Self:
        self.service.privilegedStartService()
        self.service.startService()
        return self

    def connect(self) -> Client:
        return Client(self.reactor, self.reactor.ports[0].factory.buildProtocol(None))

    def call(self) -> tuple[Client, OriginSide]:
        """A call whose stream has begun."""
        client = self.connect()
        client.send(post(CALL))
        self.reactor.resolve()
        self.reactor.advance(0)
        origin = self.reactor.accept()
        origin.send(STREAM + chunk(EVENTS))
        assert client.reply.body == EVENTS
        return client, origin

    def stop(self) -> list[Any]:
        """What the Deferred of stopService fires with."""
        return fired(self.service.stopService())


def logged(work: Callable[[], object]) -> list[str]:
    """The messages that are logged meanwhile."""
    seen: list[str] = []

    def observe(event: Any) -> None:
        seen.append(formatEvent(event))

    globalLogPublisher.addObserver(observe)
    try:
        work()
    finally:
        globalLogPublisher.removeObserver(observe)
    return seen


# -- starting


def test_it_is_a_service_with_a_name() -> None:
    service = Life().service
    verifyObject(IService, service)
    assert service.name == "ccrelay"


@pytest.mark.parametrize(
    ("server", "addresses"),
    [
        ("listen: '127.0.0.1:8787'", ["127.0.0.1:8787"]),
        ("listen: ['127.0.0.1:8787', '[::1]:8788']", ["127.0.0.1:8787", "[::1]:8788"]),
        ("listen: 'unix:/run/relay.sock'", ["/run/relay.sock"]),
        ("listen: ':8787', auth: {api_key: k}", ["0.0.0.0:8787"]),
    ],
)
def test_it_listens_where_it_is_told_and_says_so(server: str, addresses: list[str]) -> None:
    life = Life(server)
    life.service.privilegedStartService()
    messages = logged(life.service.startService)
    assert [message for message in messages if message.startswith("listening")] == [
        f"listening on {address}" for address in addresses
    ]
    assert len(life.reactor.ports) == len(addresses)
    assert all(port.factory.current is life.service.site for port in life.reactor.ports)


def test_it_says_which_providers_are_ready() -> None:
    assert "provider north (anthropic): ready" in logged(lambda: Life().start())


def test_it_serves() -> None:
    client = Life().start().connect()
    client.send(get(b"/health"))
    assert client.replies(b"GET")[0].json == {"status": "ok"}


def test_the_log_goes_where_the_configuration_says() -> None:
    life = Life()
    application = Application("test")
    life.service.setServiceParent(application)
    assert application.getComponent(ILogObserver) is life.observer


def test_a_log_observer_that_twistd_was_given_stays() -> None:
    application = Application("test")
    theirs = LineObserver(None, "json", "info")  # type: ignore[arg-type]
    application.setComponent(ILogObserver, theirs)
    Life().service.setServiceParent(application)
    assert application.getComponent(ILogObserver) is theirs


# -- listeners that cannot open


def refusal(start: Callable[[], object]) -> str:
    """The one line that the process ends with; as a text, hence with status 1."""
    with pytest.raises(SystemExit) as ended:
        start()
    message = ended.value.code
    assert isinstance(message, str)
    assert message.startswith("cc-relay: ")
    assert "\n" not in message
    return message


def test_a_taken_port_is_named_and_the_other_listeners_closed_again() -> None:
    life = Life("listen: ['127.0.0.1:8787', '127.0.0.1:8788']", 8788)
    message = refusal(life.service.privilegedStartService)
    assert "8788" in message
    assert "8787" not in message
    assert "in use" in message
    assert [port.open for port in life.reactor.ports] == [False]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_port_that_is_really_taken_is_named() -> None:
    reactor = EPollReactor()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        number = taken.getsockname()[1]
        life = Life(f"listen: '127.0.0.1:{number}'")
        service = RelayService(reactor, life.runtime, life.observer)
        assert str(number) in refusal(service.privilegedStartService)
    for descriptor in list(reactor._selectables.values()):
        descriptor.connectionLost(None)
    reactor._poller.close()
    gc.collect()  # Debian's Twisted leaves the socket that it could not bind to the collector, which warns of it


@pytest.mark.parametrize("address", ["nosuch:address=1", "tcp:8787:interface=127.0.0.1:nosuch=1"])
def test_an_endpoint_that_twisted_does_not_know_is_named(address: str) -> None:
    life = Life(f"listen: '{address}', auth: {{api_key: k}}")
    assert address in refusal(life.service.privilegedStartService)


def test_an_endpoint_that_opens_some_time_later_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow:
        def listen(self, factory: Any) -> Deferred[Any]:
            return Deferred()

    monkeypatch.setattr(listeners_module, "serverFromString", lambda *_: Slow())
    assert "at once" in refusal(Life().service.privilegedStartService)


def test_a_tls_file_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    life = Life(f"listen: '127.0.0.1:8787', tls: {{certificate: {tmp_path}/c.pem, private_key: {tmp_path}/k.pem}}")
    message = refusal(life.service.privilegedStartService)
    assert message == f"cc-relay: server.tls: {tmp_path}/c.pem: No such file or directory"
    assert life.reactor.ports == []


def test_with_tls_every_listener_speaks_it(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []

    def factory(settings: Any, inner: Any) -> TLSMemoryBIOFactory:
        made.append((settings, inner))
        return TLSMemoryBIOFactory.__new__(TLSMemoryBIOFactory)

    monkeypatch.setattr(service_module, "tls_factory", factory)
    life = Life("listen: ['127.0.0.1:1', '127.0.0.1:2'], tls: {certificate: /c, private_key: /k}")
    life.service.privilegedStartService()
    assert made == [(life.settings.server.tls, life.service.site)]
    assert [type(port.factory.current) for port in life.reactor.ports] == [TLSMemoryBIOFactory] * 2


# -- stopping


def test_with_nobody_connected_it_stops_at_once_and_leaves_no_timer() -> None:
    life = Life().start()
    assert life.stop() == [None]
    assert [port.open for port in life.reactor.ports] == [False]
    assert life.reactor.getDelayedCalls() == []


def test_idle_connections_are_closed_at_once() -> None:
    life = Life().start()
    clients = [life.connect() for _ in range(3)]
    clients[0].send(get(b"/health"))
    stopped = life.stop()
    assert stopped == []
    life.reactor.turn()
    assert [client.end for client in clients] == ["closed"] * 3
    assert stopped == [None]
    assert life.reactor.getDelayedCalls() == []


def test_a_stream_may_finish_and_then_the_service_has_stopped() -> None:
    life = Life().start()
    client, origin = life.call()
    stopped = life.stop()
    life.reactor.advance(10)
    assert (stopped, client.end) == ([], None)
    origin.send(chunk(STOP) + b"0\r\n\r\n")
    life.reactor.turn()
    assert (client.reply.body, client.reply.ending) == (EVENTS + STOP, "whole")
    assert (client.end, stopped) == ("closed", [None])
    life.reactor.turn()
    assert origin.end is not None
    assert life.reactor.getDelayedCalls() == []


def test_a_stream_that_outlives_the_drain_is_cut_with_its_upstream() -> None:
    life = Life().start()
    client, origin = life.call()
    stopped = life.stop()
    messages = logged(lambda: life.reactor.advance(DRAIN))
    assert "cutting 1 connections that have not finished" in messages
    life.reactor.turn()
    assert (client.end, client.reply.ending) == ("aborted", "broken")
    assert stopped == [None]
    life.reactor.turn()
    assert origin.end == "aborted"
    assert life.reactor.getDelayedCalls() == []


def test_while_calls_end_the_admin_listener_takes_new_connections_and_says_what_is_waited_for() -> None:
    life = Life()
    life.settings = settings_of(PROVIDER + "server: {listen: '127.0.0.1:8787'}\nadmin: {listen: '127.0.0.1:8788'}\n")
    life.runtime = Runtime(life.settings, life.reactor, {}, Random(7))
    life.service = RelayService(life.reactor, life.runtime, life.observer)
    life.start()
    client, origin = life.call()

    def told(path: bytes) -> Any:
        watching = Client(life.reactor, life.reactor.ports[1].factory.buildProtocol(None))
        watching.send(get(path))
        return watching.replies(b"GET")[0]

    assert told(b"/status").json["daemon"]["drain_left"] is None
    stopped = life.stop()
    life.reactor.advance(10)
    assert [port.open for port in life.reactor.ports] == [False, True]
    health = told(b"/health")
    assert (health.status, health.json["status"]) == (503, "draining")
    assert health.json["waiting_for"] == {"calls": 1, "connections": 1, "seconds_left": DRAIN - 10}
    assert told(b"/status").json["daemon"]["drain_left"] == DRAIN - 10
    origin.send(chunk(STOP) + b"0\r\n\r\n")
    life.reactor.turn()
    assert (client.reply.ending, stopped, life.reactor.ports[1].open) == ("whole", [None], False)
    life.reactor.turn()
    assert life.reactor.getDelayedCalls() == []


def test_a_drain_of_0_cuts_in_the_next_turn() -> None:
    life = Life("listen: '127.0.0.1:8787', drain_timeout_ms: 0").start()
    client, _ = life.call()
    stopped = life.stop()
    life.reactor.turn()
    life.reactor.turn()
    assert (client.end, stopped) == ("aborted", [None])


def test_idle_upstream_connections_are_let_go_when_all_has_ended() -> None:
    life = Life().start()
    client, origin = life.call()
    origin.send(chunk(STOP) + b"0\r\n\r\n")
    assert origin.end is None
    stopped = life.stop()
    life.reactor.turn()
    life.reactor.turn()
    assert (client.end, origin.end, stopped) == ("closed", "aborted", [None])


# -- signals


def test_a_signal_stops_the_reactor_once_and_a_second_one_cuts(handlers: Mapping[int, Callable[..., object]]) -> None:
    life = Life().start()
    assert set(handlers) == {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2}
    client, _ = life.call()
    handlers[signal.SIGTERM](signal.SIGTERM, None)
    assert life.reactor.stops == 0  # not in the handler: it may interrupt anything
    life.reactor.turn()
    assert life.reactor.stops == 1
    stopped = life.stop()
    life.reactor.advance(1)
    assert client.end is None
    handlers[signal.SIGINT](signal.SIGINT, None)
    life.reactor.turn()
    life.reactor.turn()
    assert (client.end, stopped, life.reactor.stops) == ("aborted", [None], 1)


def test_two_signals_in_one_turn_stop_the_reactor_once(handlers: Mapping[int, Callable[..., object]]) -> None:
    life = Life().start()
    for _ in range(2):
        handlers[signal.SIGTERM](signal.SIGTERM, None)
    life.reactor.turn()
    assert life.reactor.stops == 1


def test_a_signal_after_the_end_does_nothing(handlers: Mapping[int, Any]) -> None:
    """Not even to an interpreter that is about to end: the handlers of Python's own are gone by then."""
    life = Life().start()
    assert life.stop() == [None]
    assert (handlers[signal.SIGTERM], handlers[signal.SIGINT]) == (signal.SIG_IGN, signal.SIG_IGN)
    assert life.reactor.stops == 0


# -- the supervisor


def test_the_supervisor_hears_of_the_start_and_the_stop_and_is_pinged_until_the_last_stream_has_ended() -> None:
    name = f"ccrelay-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as supervisor:
        supervisor.bind(f"\0{name}")
        supervisor.setblocking(False)

        def heard() -> bytes | None:
            try:
                return supervisor.recv(100)
            except BlockingIOError:
                return None

        life = Life()
        life.service = RelayService(
            life.reactor, life.runtime, life.observer, notifier=Notifier(f"@{name}", watchdog=20.0)
        )
        life.service.privilegedStartService()
        assert heard() is None
        life.service.startService()
        assert (heard(), heard()) == (b"READY=1", b"WATCHDOG=1")
        client, origin = life.call()
        life.stop()
        assert heard() == b"STOPPING=1"
        life.reactor.advance(10)
        assert (client.end, heard()) == (None, b"WATCHDOG=1")
        origin.send(chunk(STOP) + b"0\r\n\r\n")
        life.reactor.turn()
        life.reactor.turn()
        assert life.reactor.getDelayedCalls() == []
        assert heard() is None
