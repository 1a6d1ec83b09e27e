"""An endpoint that reaches its host through an HTTP proxy's CONNECT (RFC 9110 section 9.3.6)."""

from __future__ import annotations

from base64 import b64encode
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
    def __init__(self, request: bytes, inner: IProtocol, opened: Deferred[IProtocol]) -> None:
        self._request = request
        self._inner = inner
        self._opened: Deferred[IProtocol] | None = opened
        self._parser = ResponseHeadParser(b"CONNECT")

    def connectionMade(self) -> None:
        self.transport.write(self._request)  # type: ignore[union-attr]

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
        assert opened is not None
        transport.protocol = self._inner
        self._inner.makeConnection(transport)
        opened.callback(self._inner)
        if self._parser.trailing:
            self._inner.dataReceived(self._parser.trailing)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._opened is not None:
            self._fail(ProxyRefused(f"the proxy closed the connection: {reason.value}"))

    def abort(self) -> None:
        """Give the tunnel up, if the proxy has been reached at all; ``opened`` is left to whoever gives up."""
        self._opened = None
        transport: Any = self.transport
        if transport is not None:
            transport.abortConnection()

    def _fail(self, error: Exception) -> None:
        opened = self._opened
        self.abort()
        if opened is not None:
            opened.errback(Failure(error))


@implementer(IStreamClientEndpoint)
class ConnectProxyEndpoint:
    """Connects to ``host:port`` through a tunnel that the proxy behind ``proxy`` opens.

    login: ``name:password`` for a proxy that wants one, sent as Basic credentials (RFC 7617).
    ``connect`` fails with ProxyRefused, or with what connecting to the proxy fails with.
    """

    def __init__(self, proxy: IStreamClientEndpoint, host: str, port: int, login: str | None = None) -> None:
        self._proxy = proxy
        authority = (f"[{host}]:{port}" if ":" in host else f"{host}:{port}").encode("ascii")
        lines = [(b"host", authority)]
        if login is not None:
            lines.append((b"proxy-authorization", b"Basic " + b64encode(login.encode("utf-8"))))
        self._request = encode_request_head(b"CONNECT", authority, tuple(lines))

    def connect(self, factory: IProtocolFactory) -> Deferred[IProtocol]:
        inner: Any = factory.buildProtocol(None)  # type: ignore[arg-type]

        def cancel(_: object) -> None:
            connecting.cancel()
            tunnel.abort()

        opened: Deferred[IProtocol] = Deferred(cancel)
        tunnel = _Tunnel(self._request, inner, opened)
        connecting: Deferred[Any] = self._proxy.connect(Factory.forProtocol(lambda: tunnel))

        def failed(failure: Failure) -> None:
            if not opened.called:
                opened.errback(failure)

        connecting.addErrback(failed)
        return opened
