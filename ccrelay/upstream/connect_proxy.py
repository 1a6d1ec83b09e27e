"""An endpoint that reaches its host through an HTTP proxy's CONNECT (RFC 9110 section 9.3.6)."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IProtocol, IProtocolFactory, IStreamClientEndpoint
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from ccrelay.core.http1 import HttpViolation, ResponseHeadParser, encode_request_head


class ProxyRefused(Exception):
    """The proxy did not open the tunnel; the text says with which status."""


class _Tunnel(Protocol):
    def __init__(self, authority: bytes, inner: IProtocol, opened: Deferred[IProtocol]) -> None:
        self._authority = authority
        self._inner = inner
        self._opened: Deferred[IProtocol] | None = opened
        self._parser = ResponseHeadParser(b"CONNECT")

    def connectionMade(self) -> None:
        head = encode_request_head(b"CONNECT", self._authority, ((b"host", self._authority),))
        self.transport.write(head)  # type: ignore[union-attr]

    def dataReceived(self, data: bytes) -> None:
        transport: Any = self.transport
        try:
            head = self._parser.receive_data(data)
        except HttpViolation as violation:
            self._fail(ProxyRefused(f"the proxy did not answer in HTTP: {violation}"))
            return
        if head is None:
            return
        if not 200 <= head.status < 300:
            self._fail(ProxyRefused(f"the proxy answered {head.status} to CONNECT"))
            return
        opened, self._opened = self._opened, None
        transport.protocol = self._inner
        self._inner.makeConnection(transport)
        if opened is not None:
            opened.callback(self._inner)
        if self._parser.trailing:
            self._inner.dataReceived(self._parser.trailing)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._opened is not None:
            self._fail(ProxyRefused(f"the proxy closed the connection: {reason.value}"))

    def abort(self) -> None:
        """Give the tunnel up, if the proxy has been reached at all."""
        transport: Any = self.transport
        if transport is not None:
            transport.abortConnection()

    def _fail(self, error: Exception) -> None:
        opened, self._opened = self._opened, None
        self.abort()
        if opened is not None:
            opened.errback(Failure(error))


@implementer(IStreamClientEndpoint)
class ConnectProxyEndpoint:
    """Connects to ``host:port`` through a tunnel that the proxy behind ``proxy`` opens.

    ``connect`` fails with ProxyRefused, or with what connecting to the proxy fails with.
    """

    def __init__(self, proxy: IStreamClientEndpoint, host: str, port: int) -> None:
        self._proxy = proxy
        self._authority = (f"[{host}]:{port}" if ":" in host else f"{host}:{port}").encode("ascii")

    def connect(self, factory: IProtocolFactory) -> Deferred[IProtocol]:
        inner: Any = factory.buildProtocol(None)  # type: ignore[arg-type]

        def cancel(_: object) -> None:
            connecting.cancel()
            tunnel.abort()

        opened: Deferred[IProtocol] = Deferred(cancel)
        tunnel = _Tunnel(self._authority, inner, opened)
        connecting: Deferred[Any] = self._proxy.connect(Factory.forProtocol(lambda: tunnel))

        def failed(failure: Failure) -> None:
            if not opened.called:
                opened.errback(failure)

        connecting.addErrback(failed)
        return opened
