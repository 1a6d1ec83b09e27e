"""Reaching an origin through a proxy's CONNECT, in memory and with TLS inside the tunnel."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Iterator
from typing import Any

import h11
import pytest
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectError, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.protocol import Factory
from twisted.internet.task import Clock
from twisted.web.client import URI
from zope.interface.verify import verifyObject

from ccrelay.core.proxies import proxy_for
from ccrelay.upstream.agent import OriginAgent, origin_endpoint
from ccrelay.upstream.connect_proxy import ConnectProxyEndpoint, ProxyRefused

from .upstream_rig import HELLO, FakeEndpoint, NamedReactor, OriginSide, Receiver, failure_of, fired, nothing_logged

ESTABLISHED = b"HTTP/1.1 200 Connection established\r\n\r\n"


@pytest.fixture(autouse=True)
def _silent() -> Iterator[None]:
    with nothing_logged():
        yield


class Rig:
    """A tunnel to ``host`` through a proxy in memory."""

    def __init__(self, host: str = "api.example.com", *, login: str | None = None, ready: bool = True) -> None:
        self.clock = Clock()
        self.hop = FakeEndpoint(self.clock, ready=ready)
        self.endpoint = ConnectProxyEndpoint(self.hop, host, 443, login)
        self.inner: list[Receiver] = []
        self.opening: Deferred[Any] = self.endpoint.connect(Factory.forProtocol(self._inner))
        self.opened = fired(self.opening)

    def _inner(self) -> Receiver:
        self.inner.append(Receiver(on_start=lambda self: self.transport.write(b"hi")))
        return self.inner[-1]

    @property
    def proxy(self) -> OriginSide:
        [origin] = self.hop.made
        return origin

    @property
    def closed(self) -> bool:
        self.clock.advance(0)
        return self.proxy.end is not None


def request_of(proxy: OriginSide) -> tuple[h11.Request, dict[bytes, bytes]]:
    """What the proxy was asked, as h11 reads it."""
    reader = h11.Connection(h11.SERVER)
    reader.receive_data(proxy.received)
    request = reader.next_event()
    assert isinstance(request, h11.Request)
    return request, dict(request.headers)


def test_it_is_an_endpoint() -> None:
    verifyObject(IStreamClientEndpoint, Rig().endpoint)


@pytest.mark.parametrize(
    ("host", "authority"), [("api.example.com", b"api.example.com:443"), ("2001:db8::1", b"[2001:db8::1]:443")]
)
def test_the_proxy_is_asked_for_the_origin_and_nothing_else(host: str, authority: bytes) -> None:
    request, headers = request_of(Rig(host).proxy)
    assert (request.method, request.target, headers) == (b"CONNECT", authority, {b"host": authority})


def test_a_proxy_that_wants_a_login_gets_it() -> None:
    _, headers = request_of(Rig(login="na me:p:ä").proxy)
    scheme, _, value = headers[b"proxy-authorization"].partition(b" ")
    assert scheme == b"Basic"
    assert b64decode(value).decode() == "na me:p:ä"


@pytest.mark.parametrize(
    "answer", [ESTABLISHED, b"HTTP/1.0 200 OK\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"]
)
def test_an_open_tunnel_belongs_to_the_protocol_inside(answer: bytes) -> None:
    for size in (1, len(answer)):
        rig = Rig()
        rig.proxy.take()
        for start in range(0, len(answer), size):
            assert rig.opened == []
            assert rig.inner[0].transport is None
            rig.proxy.send(answer[start : start + size])
        assert rig.opened == rig.inner
        assert rig.proxy.take() == b"hi"
        rig.proxy.send(b"welcome")
        rig.proxy.lose(ConnectionLost())
        assert rig.inner[0].data == b"welcome"
        assert rig.inner[0].lost[0].check(ConnectionLost)


def test_an_origin_that_speaks_first_is_heard() -> None:
    rig = Rig()
    rig.proxy.send(ESTABLISHED + b"welcome")
    assert rig.opened == rig.inner
    assert rig.inner[0].data == b"welcome"


@pytest.mark.parametrize(
    "status", [b"407 Proxy Authentication Required", b"403 Forbidden", b"502 Bad Gateway", b"302 Found"]
)
def test_a_refusal_closes_and_names_the_status(status: bytes) -> None:
    rig = Rig()
    rig.proxy.send(b"HTTP/1.1 " + status + b"\r\nContent-Length: 3\r\n\r\nno!")
    assert status[:3].decode() in str(failure_of(rig.opened, ProxyRefused))
    assert rig.closed
    assert rig.inner[0].transport is None


@pytest.mark.parametrize("garbage", [b"SSH-2.0-x\r\n", b"\x15\x03\x03\x00\x02\x02\x46", b"HTTP/1.1 OK\r\n\r\n"])
def test_a_proxy_that_is_none_is_refused(garbage: bytes) -> None:
    rig = Rig()
    rig.proxy.send(garbage)
    assert "HTTP" in str(failure_of(rig.opened, ProxyRefused))
    assert rig.closed


@pytest.mark.parametrize("before", [b"", b"HTTP/1.1 20"])
def test_a_proxy_that_closes_is_told_of(before: bytes) -> None:
    rig = Rig()
    rig.proxy.send(before)
    rig.proxy.lose(ConnectionDone())
    assert "closed" in str(failure_of(rig.opened, ProxyRefused))


def test_a_proxy_that_cannot_be_reached_fails_as_connecting_does() -> None:
    rig = Rig(ready=False)
    rig.hop.fail(ConnectError())
    failure_of(rig.opened, ConnectError)


def test_cancelled_while_connecting_to_the_proxy_it_stops_that() -> None:
    rig = Rig(ready=False)
    rig.opening.cancel()
    assert len(rig.opened) == 1
    assert rig.hop.cancelled == 1
    assert rig.clock.getDelayedCalls() == []


@pytest.mark.parametrize("before", [b"", b"HTTP/1.1 20"])
def test_cancelled_while_the_proxy_has_not_answered_it_closes_in_the_same_turn(before: bytes) -> None:
    rig = Rig()
    rig.proxy.send(before)
    rig.opening.cancel()
    assert len(rig.opened) == 1
    assert rig.proxy.closing
    assert rig.closed


def test_requests_and_answers_pass_through_the_tunnel_and_share_it() -> None:
    clock = Clock()
    hop = FakeEndpoint(clock)
    agent = OriginAgent(clock, ConnectProxyEndpoint(hop, "localhost", 80))
    for number in range(2):
        answers = fired(agent.request(b"POST", b"http://localhost/x"))
        [proxy] = hop.made
        if not number:
            proxy.send(ESTABLISHED)
        assert proxy.take().endswith(b"POST /x HTTP/1.1\r\nHost: localhost\r\nAccept-Encoding: identity\r\n\r\n")
        proxy.send(HELLO)
        receiver = Receiver()
        answers[0].deliverBody(receiver)
        clock.advance(0)
        assert (receiver.data, receiver.ending) == (b"hello", "whole")
    agent.close()


def test_a_cancelled_request_closes_the_tunnel_that_is_being_opened() -> None:
    clock = Clock()
    hop = FakeEndpoint(clock)
    asking = OriginAgent(clock, ConnectProxyEndpoint(hop, "localhost", 80)).request(b"POST", b"http://localhost/x")
    answers = fired(asking)
    asking.cancel()
    assert len(answers) == 1
    assert hop.made[0].closing
    clock.advance(0)


# -- addresses of proxies


@pytest.mark.parametrize(
    ("proxy", "host", "port", "login"),
    [
        ("http://127.0.0.1:3128", "127.0.0.1", 3128, None),
        ("http://127.0.0.1", "127.0.0.1", 8080, None),
        ("http://127.0.0.1:3128/", "127.0.0.1", 3128, None),
        ("http://[::1]:3128", "::1", 3128, None),
        ("http://user:secret@127.0.0.1:3128", "127.0.0.1", 3128, b"user:secret"),
        ("http://us%40er:p%3Aw%20@127.0.0.1:3128", "127.0.0.1", 3128, b"us@er:p:w "),
        ("http://user@127.0.0.1:3128", "127.0.0.1", 3128, b"user:"),
        ("127.0.0.1:3128", "127.0.0.1", 3128, None),
        ("user:secret@127.0.0.1:3128", "127.0.0.1", 3128, b"user:secret"),
    ],
)
def test_a_proxy_of_the_environment_is_reached_where_it_says(
    proxy: str, host: str, port: int, login: bytes | None
) -> None:
    reactor = NamedReactor()
    chosen = proxy_for("https://api.example.com", None, {"HTTPS_PROXY": proxy})
    endpoint = origin_endpoint(
        reactor, URI.fromBytes(b"http://api.example.com"), connect_timeout=7.0, ca_file=None, proxy=chosen
    )
    opening = endpoint.connect(Factory.forProtocol(Receiver))
    reactor.resolve()
    [(*address, _, timeout, _)] = reactor.tcpClients
    assert (*address, timeout) == (host, port, 7.0)
    request, headers = request_of(reactor.accept())
    assert request.target == b"api.example.com:80"
    sent = headers.get(b"proxy-authorization")
    assert (sent and b64decode(sent.removeprefix(b"Basic "))) == login
    opening.addErrback(lambda _: None)
    opening.cancel()
    reactor.advance(0)
    assert reactor.getDelayedCalls() == []
