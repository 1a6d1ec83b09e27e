"""Probes: finding out that a provider can be reached again, without a call of anyone's and without its key.

A probe connects as calls do (the same endpoint, so the same proxy and the same trust), finishes the TLS handshake and
hangs up. Where a type has a page that costs nothing and needs no key, it asks for that. It never generates a token.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import (
    IDelayedCall,
    IHandshakeListener,
    IReactorTime,
    ISSLTransport,
    IStreamClientEndpoint,
)
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.http_headers import Headers
from zope.interface import implementer

from ccrelay.errors import RelayError
from ccrelay.upstream.agent import OriginAgent
from ccrelay.upstream.failures import upstream_error

_log = Logger(namespace="ccrelay.probe")

PROBE_TIMEOUT = 10.0
"""Seconds for a whole probe: what a call's TCP connection alone is given by default, and no longer than the default
interval, so that a provider that swallows connections is asked about as often as one that refuses them."""

_LONGEST_PAUSE = 1.0
"""Seconds between two rounds: so much later than its time may a probe be where the interval is long."""

_WANTS_A_KEY = frozenset({401, 403})
"""A proxy in front that wants the key, which a probe never sends: whether it lets calls through is for calls to find
out. Taken for illness, it would keep the circuit open for ever."""


class ProbeFailed(RelayError):
    """The provider is not there yet. ``reason``: one short phrase for the log, without any secret."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


@dataclass(frozen=True, slots=True)
class ProbeRequest:
    """A GET that shows a provider at work. ``url``: absolute, on the origin that the endpoint leads to."""

    url: bytes


@dataclass(frozen=True, slots=True)
class ProbeTarget:
    """A provider to be probed while its circuit is open.

    due(now): whether it wants a probe. succeeded(now), failed(now): the result; ``now`` in the clock's seconds.
    endpoint: from ``agent.origin_endpoint``, as its calls use it. http: what to ask for; None: only connect.
    """

    name: str
    due: Callable[[float], bool]
    succeeded: Callable[[float], None]
    failed: Callable[[float], None]
    endpoint: IStreamClientEndpoint
    http: ProbeRequest | None


def ollama_version(base_url: str) -> ProbeRequest:
    """Ollama's ``GET /api/version``, which touches no model. base_url: ASCII, without a trailing slash."""
    return ProbeRequest(base_url.encode("ascii") + b"/api/version")


async def probe(
    clock: IReactorTime,
    endpoint: IStreamClientEndpoint,
    *,
    http: ProbeRequest | None,
    timeout: float,  # noqa: ASYNC109  (by the clock given, which asyncio's is not)
) -> None:
    """Return once the provider behind ``endpoint`` has shown that it can be reached; the connection is gone then.

    Without ``http`` it has accepted a TCP connection and, where the endpoint speaks TLS, finished the handshake with
    a certificate that is trusted. With it, it has also answered 2xx (or 401 or 403: see _WANTS_A_KEY).
    timeout: seconds for all of that. Raises ProbeFailed; ask again later. Wrapped in a Deferred it can be cancelled,
    which closes the connection in the same turn and fails with whatever the interrupted step fails with.
    """
    expired: list[float] = []

    def expire() -> None:
        expired.append(timeout)
        asking.cancel()

    asking = Deferred.fromCoroutine(_connect(endpoint) if http is None else _ask(clock, endpoint, http))
    timer = clock.callLater(timeout, expire)
    try:
        await asking
    except ProbeFailed:
        raise
    except Exception:  # noqa: BLE001  (what an interrupted step fails with is up to the library; upstream_error sorts)
        if expired:
            raise ProbeFailed(f"not reached within {timeout:g} s") from None
        raise ProbeFailed(upstream_error(Failure()).reason) from None
    finally:
        if timer.active():
            timer.cancel()


async def _connect(endpoint: IStreamClientEndpoint) -> None:
    knock = _Knock()
    await endpoint.connect(_Knocks.forProtocol(lambda: knock))
    try:
        await knock.opened
    finally:
        knock.hang_up()


async def _ask(clock: IReactorTime, endpoint: IStreamClientEndpoint, http: ProbeRequest) -> None:
    agent = OriginAgent(clock, endpoint)
    agent.close()  # so that no connection is kept for another request
    response: Any = await agent.request(b"GET", http.url, Headers({b"accept": [b"*/*"]}))
    response.refuse()
    if not 200 <= response.code < 300 and response.code not in _WANTS_A_KEY:
        raise ProbeFailed(f"answered {response.code} to the probe")


class _Knocks(Factory):
    noisy = False  # or each probe of an outage would leave two lines in the log


@implementer(IHandshakeListener)
class _Knock(Protocol):
    """``opened`` fires when a call could be sent, or fails with what the connection was lost for.

    Over TLS that is at ``handshakeCompleted``: Twisted calls ``connectionMade`` before the handshake has begun.
    """

    def __init__(self) -> None:
        self.opened: Deferred[None] = Deferred()
        self._lost = False

    def connectionMade(self) -> None:
        if not ISSLTransport.providedBy(self.transport):
            self.opened.callback(None)

    def handshakeCompleted(self) -> None:  # noqa: N802  (of IHandshakeListener)
        self.opened.callback(None)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._lost = True
        if not self.opened.called:
            self.opened.errback(reason)

    def hang_up(self) -> None:
        """Close the connection now."""
        transport: Any = self.transport
        if not self._lost:
            transport.abortConnection()


class Prober:
    """Probes those of ``targets`` that are due until it is stopped.

    interval: seconds between two probes of a target, which is for ``due`` to see to; rounds are closer together, or a
    target that becomes due just after one would be probed in every other interval only.
    Targets are probed side by side, each once at a time: one that takes longer than the interval is left alone until
    its result is there. Whatever goes wrong is a failed probe, and in the log if it is a defect; the next round comes.
    """

    def __init__(self, clock: IReactorTime, targets: Sequence[ProbeTarget], interval: float) -> None:
        self._clock = clock
        self._targets = tuple(targets)
        self._pause = min(_LONGEST_PAUSE, interval / 4)
        self._next: IDelayedCall | None = None
        self._under_way: dict[str, Deferred[None]] = {}

    def start(self) -> None:
        """Rounds begin. Nothing happens if they have."""
        if self._next is None:
            self._next = self._clock.callLater(self._pause, self._round)

    def stop(self) -> None:
        """No more rounds; what is under way is broken off, and its result told to nobody."""
        following, self._next = self._next, None
        if following is not None:
            following.cancel()
        under_way, self._under_way = self._under_way, {}
        for probing in under_way.values():
            probing.cancel()

    def _round(self) -> None:
        self._next = self._clock.callLater(self._pause, self._round)
        for target in self._targets:
            try:
                if self._wanted(target):
                    self._probe(target)
            except Exception:  # noqa: BLE001  (one target must not cost the others their round)
                _log.failure("probe of {name} could not begin", name=target.name)

    def _wanted(self, target: ProbeTarget) -> bool:
        stopped = self._next is None  # by the result of a probe of this very round
        return not stopped and target.name not in self._under_way and target.due(self._clock.seconds())

    def _probe(self, target: ProbeTarget) -> None:
        probing = Deferred.fromCoroutine(probe(self._clock, target.endpoint, http=target.http, timeout=PROBE_TIMEOUT))
        self._under_way[target.name] = probing

        def reached(_: None) -> None:
            _log.info("{name} can be reached again", name=target.name)
            target.succeeded(self._clock.seconds())

        def not_reached(failure: Failure) -> None:
            if isinstance(failure.value, ProbeFailed):
                _log.debug("probe of {name} failed: {reason}", name=target.name, reason=failure.value.reason)
            else:
                _log.failure("probe of {name} broke", failure=failure, name=target.name)
            target.failed(self._clock.seconds())

        def ended(result: Any) -> None:
            if self._under_way.pop(target.name, None) is not probing:
                return  # stopped meanwhile
            told = reached if not isinstance(result, Failure) else not_reached
            told(result)

        probing.addBoth(ended)
        probing.addErrback(
            lambda failure: _log.failure(
                "result of the probe of {name} was not taken", failure=failure, name=target.name
            )
        )
