"""Our IAgent, innermost under treq: one origin, pooled connections, bodies streamed both ways.

What treq adds around an agent cannot reach the wire: ``Accept-Encoding`` is always ``identity`` here, because an
answer that the relay cannot read can neither be metered nor cut at an event.
"""

from __future__ import annotations

from functools import lru_cache
from urllib.parse import unquote, urlsplit

from twisted.internet.defer import Deferred, succeed
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.interfaces import IReactorTime, IStreamClientEndpoint
from twisted.internet.protocol import Factory
from twisted.web.client import URI
from twisted.web.http_headers import Headers
from twisted.web.iweb import UNKNOWN_LENGTH, IAgent, IBodyProducer, IResponse
from zope.interface import implementer

from ccrelay.core.http1 import encode_request_head
from ccrelay.core.outcomes import Outcome, UpstreamError
from ccrelay.upstream.connect_proxy import ConnectProxyEndpoint
from ccrelay.upstream.connection import NoAnswer, UpstreamConnection, UpstreamResponse
from ccrelay.upstream.pool import IdlePool
from ccrelay.upstream.tls import TlsEndpoint, client_context

_OURS = frozenset({b"host", b"content-length", b"transfer-encoding", b"accept-encoding", b"connection"})


def origin_endpoint(
    reactor: object, uri: URI, *, connect_timeout: float, ca_file: str | None, proxy: str | None
) -> IStreamClientEndpoint:
    """How to connect to the origin of ``uri``: over TLS for https, through ``proxy`` if given.

    proxy: ``http://host:port``, or with ``name:password@`` (percent-encoded) before the host, as environments have it.

    connect_timeout: seconds for the TCP connection. Raises OSError for an unreadable ``ca_file``. Reads the trust
    store: call it once per provider.
    """
    host = uri.host.decode("ascii")
    endpoint: IStreamClientEndpoint
    if proxy is None:
        endpoint = HostnameEndpoint(reactor, host, uri.port, timeout=connect_timeout)
    else:
        via = urlsplit(proxy)
        hop = HostnameEndpoint(reactor, via.hostname or "", via.port or 8080, timeout=connect_timeout)
        login = None if via.username is None else f"{unquote(via.username)}:{unquote(via.password or '')}"
        endpoint = ConnectProxyEndpoint(hop, host, uri.port, login)
    if uri.scheme == b"https":
        return TlsEndpoint(endpoint, client_context(ca_file), host)
    return endpoint


@implementer(IAgent)
class OriginAgent:
    """Sends requests to one origin (scheme, host and port), whatever path they have.

    A request that fails on a reused connection before one byte of an answer came is sent once more on a fresh one:
    the pooled connection was stale. Nothing else is repeated.
    """

    def __init__(self, clock: IReactorTime, endpoint: IStreamClientEndpoint) -> None:
        self._endpoint = endpoint
        self._pool = IdlePool(clock)
        self._factory = Factory.forProtocol(self._pool.new)
        self._factory.noisy = False

    def request(
        self, method: bytes, uri: bytes, headers: Headers | None = None, bodyProducer: IBodyProducer | None = None
    ) -> Deferred[IResponse]:
        """See IAgent. Fails with what connecting fails with, NoAnswer, or ResponseFailed; with ValueError for a URL or
        header that HTTP cannot carry. Cancel it to give up.
        """
        return Deferred.fromCoroutine(self._request(method, uri, headers or Headers(), bodyProducer))

    async def _request(self, method: bytes, uri: bytes, headers: Headers, producer: IBodyProducer | None) -> IResponse:
        head = request_head(method, uri, headers, producer)
        connection = self._pool.take() or await self._connect()
        try:
            return _readable(await connection.exchange(method, head, producer))
        except NoAnswer as failure:
            if not failure.reused:
                raise
        connection = await self._connect()
        return _readable(await connection.exchange(method, head, producer))

    def _connect(self) -> Deferred[UpstreamConnection]:
        return self._endpoint.connect(self._factory)  # type: ignore[return-value]

    @property
    def connections(self) -> tuple[int, int]:
        """Open ones, and those of them that are idle."""
        return self._pool.sizes

    def close(self) -> Deferred[None]:
        """Let go of idle connections; the ones in use close when their exchange ends."""
        self._pool.close()
        return succeed(None)


def _readable(response: UpstreamResponse) -> UpstreamResponse:
    """``response``, unless it is compressed: treq would unpack it, however large it gets and however often packed."""
    encodings = [value for name, value in response.head.headers if name == b"content-encoding"]
    if any(value.strip().lower() not in (b"", b"identity") for value in encodings):
        response.refuse()
        raise UpstreamError(Outcome.PROVIDER_ILL, "the answer is compressed, which was not offered", answered=True)
    return response


@lru_cache(maxsize=256)  # a provider has two or three URLs; clients may vary their queries
def parsed(url: bytes) -> URI:
    """An absolute URL taken apart; not to be changed. Raises ValueError for a port that is no number."""
    uri: URI = URI.fromBytes(url)
    return uri


def request_head(method: bytes, url: bytes, headers: Headers, producer: IBodyProducer | None) -> bytes:
    """The head of a request as it goes out, with its empty line: framing, Host and Accept-Encoding are ours.

    Raises ValueError for a URL or header that HTTP cannot carry.
    """
    uri = parsed(url)
    default_port = 443 if uri.scheme == b"https" else 80
    host = b"[%b]" % uri.host if b":" in uri.host else uri.host
    lines = [(b"Host", host if uri.port == default_port else b"%b:%d" % (host, uri.port))]
    lines += [
        (name, value) for name, values in headers.getAllRawHeaders() if name.lower() not in _OURS for value in values
    ]
    lines.append((b"Accept-Encoding", b"identity"))
    if producer is not None:
        if producer.length is UNKNOWN_LENGTH:
            lines.append((b"Transfer-Encoding", b"chunked"))
        else:
            lines.append((b"Content-Length", b"%d" % producer.length))
    return encode_request_head(method, uri.originForm, tuple(lines))
