"""TLS to upstreams: a verified connection over any stream endpoint, by the standard library's ``ssl`` on memory BIOs.

Not Twisted's: through pyOpenSSL every piece of a stream costs 20 us more, and 26.10's ``optionsForClientTLS`` accepts a
certificate whose names are missing or cannot be read. Here OpenSSL itself checks the name while it shakes hands, and an
endpoint's ``connect`` fires when that has succeeded: nothing is written to a peer that has not proved who it is.
"""

from __future__ import annotations

import ssl
from contextlib import suppress
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IProtocolFactory, IStreamClientEndpoint
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

_PIECE = 65536
"""Plain bytes asked for at once; a record holds 16 KiB at most, so each read gives a whole one."""


def client_context(ca_file: str | None) -> ssl.SSLContext:
    """What connections are verified by: the system's roots and those of ``ca_file`` (PEM), TLS 1.2 or newer.

    Building it reads the whole trust store (tens of milliseconds): once per provider, not per connection. Raises
    OSError, of which ssl.SSLError is one, if ``ca_file`` cannot be read as PEM.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # which means: verify, and check the name
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.hostname_checks_common_name = False
    context.set_alpn_protocols(["http/1.1"])
    context.load_default_certs()
    if ca_file is not None:
        context.load_verify_locations(ca_file)
    return context


@implementer(IStreamClientEndpoint)
class TlsEndpoint:
    """Connects to ``host`` (a name or an address) through ``endpoint`` and speaks TLS with it.

    ``connect`` fires with the protocol when the peer is verified, and its ``connectionMade`` has been called. It fails
    with what connecting fails with, with ssl.SSLError, or with ConnectionLost for a peer that hangs up over it.
    """

    def __init__(self, endpoint: IStreamClientEndpoint, context: ssl.SSLContext, host: str) -> None:
        self._endpoint = endpoint
        self._context = context
        self._host = host

    def connect(self, factory: IProtocolFactory) -> Deferred[Any]:
        inner: Any = factory.buildProtocol(None)  # type: ignore[arg-type]

        def cancel(_: object) -> None:
            connecting.cancel()
            outer.give_up()

        opened: Deferred[Any] = Deferred(cancel)
        outer = TlsClient(self._context, self._host, inner, opened)

        def failed(failure: Failure) -> None:
            if not opened.called:
                opened.errback(failure)

        connecting: Deferred[Any] = self._endpoint.connect(_Quiet.forProtocol(lambda: outer))
        connecting.addErrback(failed)
        return opened


class _Quiet(Factory):
    noisy = False


class TlsClient(Protocol):
    """Between a stream's transport, whose protocol it is, and ``inner``, whose transport it is.

    opened: fires with ``inner`` after the handshake, or fails.

    What ``inner`` writes is encrypted and passed on at once; back-pressure is the stream transport's own.
    """

    def __init__(self, context: ssl.SSLContext, host: str, inner: Any, opened: Deferred[Any]) -> None:
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)
        self._inner = inner
        self._opened: Deferred[Any] | None = opened
        self._ended = False
        self._violation: Failure | None = None

    def give_up(self) -> None:
        """Nobody waits for ``opened`` any more."""
        self._opened = self._inner = None
        self.abortConnection()

    # -- as a protocol of the stream

    def connectionMade(self) -> None:
        self._shake_hands()

    def dataReceived(self, data: bytes) -> None:
        if self._ended or self._inner is None:
            return
        self._incoming.write(data)
        if self._opened is not None:
            self._shake_hands()
        if self._opened is None:
            self._read()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        opened, self._opened = self._opened, None
        if self._violation is not None:
            reason = self._violation
        elif reason.check(ConnectionDone) and not self._ended:
            reason = Failure(ConnectionLost("closed without the notice that TLS wants"))
        if opened is not None:
            opened.errback(reason)
        elif self._inner is not None:
            inner, self._inner = self._inner, None
            inner.connectionLost(reason)

    def _shake_hands(self) -> None:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
            return
        except ssl.SSLError as error:
            self._flush()  # the alert, so that the peer knows why
            self._fail(error)
            return
        self._flush()
        opened, self._opened = self._opened, None
        self._inner.makeConnection(self)
        if opened is not None:
            opened.callback(self._inner)

    def _read(self) -> None:
        read, incoming = self._tls.read, self._incoming
        pieces = []
        try:
            while incoming.pending or self._tls.pending():
                piece = read(_PIECE)
                if not piece:
                    self._end()
                    break
                pieces.append(piece)
        except ssl.SSLWantReadError:
            pass  # the rest of a record is on its way
        except ssl.SSLZeroReturnError:
            self._end()
        except ssl.SSLError as error:
            self._violation = Failure(error)
        if self._outgoing.pending:  # the answer to a key update
            self._flush()
        if pieces and self._inner is not None:
            self._inner.dataReceived(pieces[0] if len(pieces) == 1 else b"".join(pieces))
        if self._violation is not None:
            self.transport.abortConnection()  # type: ignore[union-attr]

    def _end(self) -> None:
        """The peer has said that nothing more comes."""
        self._ended = True
        self.transport.loseConnection()  # type: ignore[union-attr]

    def _fail(self, error: Exception) -> None:
        self._violation = Failure(error)
        # Not aborted: the alert is still to leave.
        self.transport.loseConnection()  # type: ignore[union-attr]

    def _flush(self) -> None:
        data = self._outgoing.read()
        if data:
            self.transport.write(data)  # type: ignore[union-attr]

    # -- as the transport of inner

    def write(self, data: bytes) -> None:
        """Send ``data``. Nothing happens once the connection is being closed."""
        if self._ended or self._violation is not None or not data:
            return
        left = memoryview(data)
        try:
            while left:
                left = left[self._tls.write(left) :]
        except ssl.SSLError as error:
            self._violation = Failure(error)
            self.abortConnection()
            return
        self._flush()

    def writeSequence(self, pieces: Any) -> None:
        """See ITransport."""
        self.write(b"".join(pieces))

    def loseConnection(self) -> None:
        """Close once what was written has left; the peer is told that this is the end."""
        if not self._ended:
            self._ended = True
            with suppress(ssl.SSLError):  # the peer's notice is not waited for
                self._tls.unwrap()
            self._flush()
        if self.transport is not None:
            self.transport.loseConnection()

    def abortConnection(self) -> None:
        """Close now."""
        self._ended = True
        transport: Any = self.transport
        if transport is not None:
            transport.abortConnection()

    def __getattr__(self, name: str) -> Any:
        # Producers, options and addresses are the stream transport's own matter.
        if name in _PASSED_ON:
            return getattr(self.transport, name)
        raise AttributeError(name)


_PASSED_ON = frozenset(
    {
        "getHost",
        "getPeer",
        "pauseProducing",
        "registerProducer",
        "resumeProducing",
        "setTcpKeepAlive",
        "setTcpNoDelay",
        "unregisterProducer",
    }
)
