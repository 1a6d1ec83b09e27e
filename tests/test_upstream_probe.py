"""Probes by real handshakes on loopback, and their rounds by a clock."""

from __future__ import annotations

import itertools
import shutil
import tempfile
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.error import ConnectionRefusedError as Refused
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.protocol import Protocol, ServerFactory, connectionDone
from twisted.internet.ssl import CertificateOptions, PrivateCertificate
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase
from twisted.web.client import URI

from ccrelay.core.breaker import Breaker
from ccrelay.core.settings import HealthSettings
from ccrelay.upstream.agent import origin_endpoint
from ccrelay.upstream.connect_proxy import ConnectProxyEndpoint
from ccrelay.upstream.probe import (
    PROBE_TIMEOUT,
    ProbeFailed,
    Prober,
    ProbeRequest,
    ProbeTarget,
    ollama_version,
    probe,
)
from ccrelay.upstream.tls import TlsEndpoint, client_context

from .test_upstream_tls import Signed, dns, sign
from .upstream_rig import OK, FakeEndpoint, failure_of, fired, nothing_logged

pytestmark = pytest.mark.filterwarnings("ignore:Passing pyOpenSSL")  # what the servers here are made with

TIMEOUT = 7.0
VERSION = ollama_version("http://127.0.0.1:11434")


class Visit(Protocol):
    """A connection as the server sees it."""

    def __init__(self, server: Server) -> None:
        self.server = server

    def connectionMade(self) -> None:
        transport: Any = self.transport
        if self.server.greeting:
            transport.write(self.server.greeting)
        if self.server.hangs_up:
            transport.loseConnection()
        self.server.came.callback(None)

    def dataReceived(self, data: bytes) -> None:
        transport: Any = self.transport
        self.server.received += data
        if self.server.tunnel_to is not None and self.server.received.endswith(b"\r\n\r\n"):
            options, self.server.tunnel_to = self.server.tunnel_to, None
            transport.write(b"HTTP/1.1 200 OK\r\n\r\n")
            transport.startTLS(options)
        elif self.server.answer and self.server.received.endswith(b"\r\n\r\n"):
            transport.write(self.server.answer)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.server.went.callback(None)


class Server(ServerFactory):
    """Takes one visitor. ``came``, ``went``: Deferreds of it. ``tunnel_to``: first be a CONNECT proxy, then this."""

    noisy = False

    def __init__(
        self, *, greeting: bytes = b"", answer: bytes = b"", hangs_up: bool = False, tunnel_to: Any = None
    ) -> None:
        self.greeting, self.answer, self.hangs_up, self.tunnel_to = greeting, answer, hangs_up, tunnel_to
        self.received = b""
        self.came: Deferred[None] = Deferred()
        self.went: Deferred[None] = Deferred()

    def buildProtocol(self, addr: object) -> Visit:
        return Visit(self)


class RealProbes(TestCase):
    """What a probe makes of listeners of several kinds."""

    authority: Signed
    good: Signed

    @classmethod
    def setUpClass(cls) -> None:
        cls.authority = sign("an authority")
        cls.good = sign("x", cls.authority, dns("api.test"), x509.IPAddress(ip_address("127.0.0.1")))

    def setUp(self) -> None:
        folder = Path(tempfile.mkdtemp(prefix="ccrelay-probe-"))
        self.addCleanup(shutil.rmtree, folder)
        self.ca_file = str(folder / "ca.pem")
        (folder / "ca.pem").write_bytes(self.authority.pem)
        self.clock = Clock()

    def options(self, identity: Signed) -> CertificateOptions:
        options = PrivateCertificate.loadPEM(identity.pem + identity.key_pem).options()
        options._acceptableProtocols = [b"http/1.1"]
        return options

    def listen(self, server: Server, identity: Signed | None = None) -> int:
        from twisted.internet import reactor

        running: Any = reactor
        if identity is None:
            port = running.listenTCP(0, server, interface="127.0.0.1")
        else:
            port = running.listenSSL(0, server, self.options(identity), interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        number: int = port.getHost().port
        return number

    def origin(self, url: str) -> IStreamClientEndpoint:
        """As a call would connect there."""
        from twisted.internet import reactor

        uri = URI.fromBytes(url.encode())
        return origin_endpoint(reactor, uri, connect_timeout=30.0, ca_file=self.ca_file, proxy=None)

    def tls_to(self, port: int, host: str) -> IStreamClientEndpoint:
        from twisted.internet import reactor

        tcp = TCP4ClientEndpoint(reactor, "127.0.0.1", port)
        return TlsEndpoint(tcp, client_context(self.ca_file), host)

    def probe(self, endpoint: IStreamClientEndpoint, http: ProbeRequest | None = None) -> Deferred[None]:
        return Deferred.fromCoroutine(probe(self.clock, endpoint, http=http, timeout=TIMEOUT))

    def check_reached(self, probing: Deferred[None], server: Server) -> Deferred[None]:
        """It succeeds, leaves the server at once, and no timer behind."""

        def check(_: None) -> Deferred[None]:
            self.assertEqual(self.clock.getDelayedCalls(), [])
            return server.went

        return probing.addCallback(check)

    def check_failed(self, probing: Deferred[None], words: str) -> Deferred[None]:
        def check(error: ProbeFailed) -> None:
            self.assertIn(words, error.reason)
            self.assertEqual(self.clock.getDelayedCalls(), [])

        return self.assertFailure(probing, ProbeFailed).addCallback(check)

    def test_a_tcp_listener_is_reached_and_gets_no_byte(self) -> Deferred[None]:
        server = Server()
        reached = self.check_reached(self.probe(self.origin(f"http://127.0.0.1:{self.listen(server)}")), server)
        return reached.addCallback(lambda _: self.assertEqual(server.received, b""))

    def test_a_finished_handshake_is_enough_and_no_byte_follows_it(self) -> Deferred[None]:
        server = Server()
        port = self.listen(server, self.good)
        reached = self.check_reached(self.probe(self.origin(f"https://127.0.0.1:{port}")), server)
        return reached.addCallback(lambda _: self.assertEqual(server.received, b""))

    def test_a_tunnel_leads_to_a_handshake_with_the_origin(self) -> Deferred[None]:
        from twisted.internet import reactor

        server = Server(tunnel_to=self.options(self.good))
        hop = TCP4ClientEndpoint(reactor, "127.0.0.1", self.listen(server))
        tunnel = ConnectProxyEndpoint(hop, "api.test", 443)
        probing = self.probe(TlsEndpoint(tunnel, client_context(self.ca_file), "api.test"))
        reached = self.check_reached(probing, server)
        return reached.addCallback(lambda _: self.assertEqual(server.received.split()[1], b"api.test:443"))

    def test_a_tunnel_whose_other_end_is_somebody_else_is_a_failure(self) -> Deferred[None]:
        from twisted.internet import reactor

        server = Server(tunnel_to=self.options(sign("x", self.authority, dns("proxy.test"))))
        hop = TCP4ClientEndpoint(reactor, "127.0.0.1", self.listen(server))
        tunnel = ConnectProxyEndpoint(hop, "api.test", 443)
        probing = self.probe(TlsEndpoint(tunnel, client_context(self.ca_file), "api.test"))
        return self.check_failed(probing, "not for this host").addCallback(lambda _: server.went)

    def test_a_certificate_for_another_host_is_a_failure(self) -> Deferred[None]:
        server = Server()
        failed = self.check_failed(self.probe(self.tls_to(self.listen(server, self.good), "api.example")), "not for")
        return failed.addCallback(lambda _: server.went)

    def test_a_certificate_of_an_unknown_authority_is_a_failure(self) -> Deferred[None]:
        server = Server()
        stranger = sign("x", sign("another authority"), dns("api.test"))
        failed = self.check_failed(self.probe(self.tls_to(self.listen(server, stranger), "api.test")), "local issuer")
        return failed.addCallback(lambda _: server.went)

    def test_a_listener_that_does_not_speak_tls_is_a_failure(self) -> Deferred[None]:
        server = Server(greeting=b"HTTP/1.1 400 Bad Request\r\n\r\n")
        failed = self.check_failed(self.probe(self.tls_to(self.listen(server), "api.test")), "TLS failed")
        return failed.addCallback(lambda _: server.went)

    def test_a_listener_that_hangs_up_before_the_handshake_is_a_failure(self) -> Deferred[None]:
        server = Server(hangs_up=True)
        failed = self.check_failed(self.probe(self.tls_to(self.listen(server), "api.test")), "connection")
        return failed.addCallback(lambda _: server.went)

    def test_a_listener_that_accepts_and_says_nothing_is_a_failure_when_time_is_up(self) -> Deferred[None]:
        server = Server()
        probing = self.probe(self.tls_to(self.listen(server), "api.test"))

        def wait(_: None) -> Deferred[None]:
            self.clock.advance(TIMEOUT - 1)
            self.assertFalse(probing.called)
            self.clock.advance(1)
            return self.check_failed(probing, "not reached within 7 s")

        return server.came.addCallback(wait).addCallback(lambda _: server.went)

    def test_a_closed_port_is_a_failure(self) -> Deferred[None]:
        from twisted.internet import reactor

        running: Any = reactor
        port = running.listenTCP(0, Server(), interface="127.0.0.1")
        number = port.getHost().port

        def closed(_: None) -> Deferred[None]:
            return self.check_failed(self.probe(self.origin(f"http://127.0.0.1:{number}")), "connection refused")

        stopped: Deferred[None] = port.stopListening()
        return stopped.addCallback(closed)

    def test_a_version_over_tls_is_asked_for_without_any_credential(self) -> Deferred[None]:
        server = Server(answer=OK + b"Content-Length: 19\r\n\r\n" + b'{"version":"0.9.9"}')
        url = f"https://127.0.0.1:{self.listen(server, self.good)}"
        reached = self.check_reached(self.probe(self.origin(url), ollama_version(url)), server)

        def check(_: None) -> None:
            head = server.received.lower()
            self.assertTrue(head.startswith(b"get /api/version http/1.1\r\nhost: 127.0.0.1:"), head)
            self.assertNotIn(b"authorization", head)
            self.assertNotIn(b"x-api-key", head)
            self.assertTrue(head.endswith(b"\r\n\r\n"), head)

        return reached.addCallback(check)

    def test_a_probe_that_is_cancelled_in_the_handshake_leaves(self) -> Deferred[None]:
        server = Server()
        probing = self.probe(self.tls_to(self.listen(server), "api.test"))
        server.came.addCallback(lambda _: probing.cancel())
        server.came.addCallback(lambda _: server.went)
        return server.came.addCallback(lambda _: self.assertFailure(probing, Exception)).addCallback(
            lambda _: self.assertEqual(self.clock.getDelayedCalls(), [])
        )


# -- in memory


@pytest.fixture(autouse=True)
def _silent(request: pytest.FixtureRequest) -> Iterator[None]:
    if request.cls is not None:
        yield  # trial looks after its own
        return
    with nothing_logged():
        yield


def memory_probe(clock: Clock, endpoint: FakeEndpoint, http: ProbeRequest | None) -> list[Any]:
    return fired(Deferred.fromCoroutine(probe(clock, endpoint, http=http, timeout=TIMEOUT)))


@pytest.mark.parametrize("status", [200, 204, 299, 401, 403])
def test_an_answer_that_shows_it_at_work_is_a_success(status: int) -> None:
    clock = Clock()
    endpoint = FakeEndpoint(clock)
    results = memory_probe(clock, endpoint, VERSION)
    endpoint.made[0].send(b"HTTP/1.1 %d x\r\nContent-Length: 0\r\n\r\n" % status)
    clock.advance(0)
    assert results == [None]
    assert endpoint.made[0].end == "aborted"
    assert clock.getDelayedCalls() == []


@pytest.mark.parametrize("status", [301, 400, 404, 429, 500, 502, 503])
def test_any_other_answer_is_a_failure_that_is_named(status: int) -> None:
    clock = Clock()
    endpoint = FakeEndpoint(clock)
    results = memory_probe(clock, endpoint, VERSION)
    endpoint.made[0].send(b"HTTP/1.1 %d x\r\nContent-Length: 5\r\n\r\n" % status)
    clock.advance(0)
    assert str(status) in failure_of(results, ProbeFailed).reason
    assert endpoint.made[0].end == "aborted"


@pytest.mark.parametrize("said", [b"SSH-2.0-x\r\n", b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n", None])
def test_what_is_no_readable_answer_is_a_failure(said: bytes | None) -> None:
    clock = Clock()
    endpoint = FakeEndpoint(clock)
    results = memory_probe(clock, endpoint, VERSION)
    if said is None:
        endpoint.made[0].leave()
    else:
        endpoint.made[0].send(said)
    clock.advance(0)
    failure_of(results, ProbeFailed)
    assert clock.getDelayedCalls() == []


def test_an_answer_that_does_not_come_in_time_is_a_failure_and_its_connection_is_closed() -> None:
    clock = Clock()
    endpoint = FakeEndpoint(clock)
    results = memory_probe(clock, endpoint, VERSION)
    clock.advance(TIMEOUT - 1)
    assert results == []
    clock.advance(1)
    clock.advance(0)
    assert "7 s" in failure_of(results, ProbeFailed).reason
    assert endpoint.made[0].end == "aborted"


@pytest.mark.parametrize("http", [None, VERSION])
def test_the_time_also_runs_while_connecting(http: ProbeRequest | None) -> None:
    clock = Clock()
    endpoint = FakeEndpoint(clock, ready=False)
    results = memory_probe(clock, endpoint, http)
    clock.advance(TIMEOUT)
    assert "7 s" in failure_of(results, ProbeFailed).reason
    assert endpoint.cancelled == 1


# -- rounds

INTERVAL = 10.0


class Rig:
    """A prober of fake endpoints by a clock. ``due``: names that want a probe. ``told``: (time, name, result)."""

    def __init__(self, *names: str, ready: bool = False) -> None:
        self.clock = Clock()
        self.due = set(names)
        self.told: list[tuple[float, str, bool]] = []
        self.endpoints = {name: FakeEndpoint(self.clock, ready=ready) for name in names}
        self.prober = Prober(self.clock, [self.target(name) for name in names], INTERVAL)

    def target(self, name: str) -> ProbeTarget:
        def tell(result: bool) -> Callable[[float], None]:
            return lambda now: self.told.append((now, name, result))

        return ProbeTarget(name, lambda now: name in self.due, tell(True), tell(False), self.endpoints[name], None)

    def connecting(self) -> list[str]:
        return [name for name, endpoint in self.endpoints.items() if endpoint.pending]


def test_each_round_probes_what_is_due_and_tells_the_result() -> None:
    rig = Rig("a", "b", "c")
    rig.due.remove("c")
    rig.prober.start()
    assert rig.connecting() == []
    rig.clock.advance(INTERVAL)
    assert rig.connecting() == ["a", "b"]
    rig.endpoints["a"].succeed()
    rig.due = {"c"}
    rig.clock.advance(1)
    rig.endpoints["b"].fail(Refused())
    assert rig.told == [(10.0, "a", True), (11.0, "b", False)]
    assert rig.connecting() == ["c"]
    rig.prober.stop()


@pytest.mark.parametrize("interval", [0.3, 10.0])
def test_an_open_circuit_is_probed_once_in_every_interval_not_in_every_other_one(interval: float) -> None:
    health = HealthSettings(1, 1000.0, 1, True, interval)
    rig = Rig("a")
    breaker = Breaker(health)
    target = ProbeTarget(
        "a", breaker.probe_due, breaker.probe_succeeded, breaker.probe_failed, rig.endpoints["a"], None
    )
    rig.prober = Prober(rig.clock, [target], interval)
    rig.prober.start()
    rig.clock.advance(interval / 50)  # between two rounds
    breaker.begin(rig.clock.seconds()).settle(False, rig.clock.seconds())
    probes = []
    while rig.clock.seconds() < 20 * interval:
        rig.clock.advance(interval / 50)
        if rig.endpoints["a"].pending:
            probes.append(rig.clock.seconds())
            rig.endpoints["a"].fail(Refused())
    rig.prober.stop()
    gaps = [later - earlier for earlier, later in itertools.pairwise([interval / 50, *probes])]
    assert probes
    assert min(gaps) >= interval * 0.99
    assert max(gaps) <= interval * 1.3


def test_a_probe_that_lasts_is_not_joined_by_a_second_one_and_ends_by_its_timeout() -> None:
    rig = Rig("a")
    rig.prober = Prober(rig.clock, [rig.target("a")], PROBE_TIMEOUT / 4)
    rig.prober.start()
    rig.clock.pump([PROBE_TIMEOUT / 4] * 4)
    assert len(rig.endpoints["a"].pending) == 1
    rig.clock.advance(PROBE_TIMEOUT / 4)
    assert rig.told == [(PROBE_TIMEOUT * 1.25, "a", False)]
    rig.clock.advance(PROBE_TIMEOUT / 4)
    assert len(rig.endpoints["a"].pending) == 1
    rig.prober.stop()


def test_stopping_breaks_off_what_is_under_way_and_tells_nobody() -> None:
    rig = Rig("a", "b")
    rig.prober.start()
    rig.clock.advance(INTERVAL)
    rig.prober.stop()
    rig.clock.advance(INTERVAL * 3)
    assert [endpoint.cancelled for endpoint in rig.endpoints.values()] == [1, 1]
    assert rig.told == []
    assert rig.clock.getDelayedCalls() == []
    rig.prober.stop()


def test_it_can_be_started_twice_and_begin_again() -> None:
    rig = Rig("a", ready=True)
    rig.prober.start()
    rig.prober.start()
    rig.clock.advance(INTERVAL)
    assert len(rig.told) == 1
    rig.prober.stop()
    rig.prober.start()
    rig.clock.advance(INTERVAL)
    assert len(rig.told) == 2
    rig.prober.stop()


def test_a_result_may_stop_the_prober() -> None:
    rig = Rig("a", ready=True)
    target = rig.target("a")
    rig.prober = Prober(
        rig.clock,
        [
            ProbeTarget("a", target.due, lambda now: rig.prober.stop(), target.failed, target.endpoint, None),
            ProbeTarget("b", target.due, target.succeeded, target.failed, target.endpoint, None),
        ],
        INTERVAL,
    )
    rig.prober.start()
    rig.clock.advance(INTERVAL)
    rig.clock.advance(INTERVAL)
    assert rig.told == []
    assert len(rig.endpoints["a"].made) == 1
    assert rig.clock.getDelayedCalls() == []


class Defect(Exception):
    """Nobody expects it."""


class Logged(TestCase):
    """Defects are logged, and the rounds go on."""

    def check(self, rig: Rig, broken: ProbeTarget, told: list[str]) -> None:
        rig.prober = Prober(rig.clock, [broken, rig.target("sane")], INTERVAL)
        rig.prober.start()
        for round_number in (1, 2):
            rig.clock.advance(INTERVAL)
            self.assertEqual(len(self.flushLoggedErrors(Defect)), 1)
            self.assertEqual([name for _, name, _ in rig.told], told * round_number)
        rig.prober.stop()

    def test_a_target_that_cannot_say_whether_it_is_due(self) -> None:
        rig = Rig("broken", "sane", ready=True)
        target = rig.target("broken")

        def due(now: float) -> bool:
            raise Defect

        broken = ProbeTarget("broken", due, target.succeeded, target.failed, target.endpoint, None)
        self.check(rig, broken, ["sane"])

    def test_a_target_that_cannot_take_its_result(self) -> None:
        rig = Rig("broken", "sane", ready=True)
        target = rig.target("broken")

        def succeeded(now: float) -> None:
            raise Defect

        broken = ProbeTarget("broken", target.due, succeeded, target.failed, target.endpoint, None)
        self.check(rig, broken, ["sane"])

    def test_an_endpoint_that_breaks_counts_as_a_failed_probe(self) -> None:
        rig = Rig("broken", "sane", ready=True)
        target = rig.target("broken")

        class Broken(FakeEndpoint):
            def connect(self, protocolFactory: Any) -> Deferred[Any]:
                raise Defect

        broken = ProbeTarget("broken", target.due, target.succeeded, target.failed, Broken(rig.clock), None)
        self.check(rig, broken, ["broken", "sane"])
        self.assertEqual([result for _, name, result in rig.told if name == "broken"], [False, False])


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("pass"), st.integers(0, 12)),
            st.tuples(st.sampled_from(["connect", "refuse", "want", "satisfy"]), st.integers(0, 2)),
        ),
        max_size=40,
    )
)
def test_whatever_happens_a_target_has_one_probe_at_most_and_one_result_for_each(
    script: list[tuple[str, int]],
) -> None:
    names = ["a", "b", "c"]
    rig = Rig(*names)
    rig.prober.start()
    refused = dict.fromkeys(names, 0)
    for action, number in script:
        name = names[number % 3]
        endpoint = rig.endpoints[name]
        if action == "pass":
            rig.clock.pump([1] * number)
        elif action == "want":
            rig.due.add(name)
        elif action == "satisfy":
            rig.due.discard(name)
        elif endpoint.pending and action == "connect":
            endpoint.succeed()
        elif endpoint.pending:
            endpoint.fail(Refused())
            refused[name] += 1
        assert all(len(endpoint.pending) <= 1 for endpoint in rig.endpoints.values())
    for name, endpoint in rig.endpoints.items():
        results = [result for _, told, result in rig.told if told == name]
        assert results.count(True) == len(endpoint.made)
        assert results.count(False) == refused[name] + endpoint.cancelled
        assert len(results) <= rig.clock.seconds()  # rounds are a second apart, and here everybody is always due
    rig.prober.stop()
    rig.clock.advance(0)
    assert rig.clock.getDelayedCalls() == []
    assert all(side.end == "aborted" for endpoint in rig.endpoints.values() for side in endpoint.made)
