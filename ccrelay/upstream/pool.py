"""Idle upstream connections of one origin, newest first."""

from __future__ import annotations

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from ccrelay.upstream.connection import UpstreamConnection

IDLE_TIMEOUT = 55.0
"""Seconds an idle connection is kept: below the 60 s at which common load balancers drop theirs, so that a stale one
is rarely picked."""

MOST_IDLE = 128
"""Connections kept idle: more than one office's burst of sub-agents needs, few enough to be kind to an upstream."""


class IdlePool:
    """Connections that wait for another exchange. The newest goes first, so that a quiet pool shrinks."""

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._idle: dict[UpstreamConnection, IDelayedCall] = {}
        self._open: set[UpstreamConnection] = set()
        self._closing = False

    def __repr__(self) -> str:
        return f"<IdlePool open={len(self._open)} idle={len(self._idle)}>"

    @property
    def sizes(self) -> tuple[int, int]:
        """Connections that are open, and those of them that are idle."""
        return len(self._open), len(self._idle)

    def new(self) -> UpstreamConnection:
        """A connection that comes back here when its exchange is over."""
        return UpstreamConnection(self._connected, self._keep, self._forget)

    def take(self) -> UpstreamConnection | None:
        """An idle connection, or None."""
        if not self._idle:
            return None
        connection, timeout = self._idle.popitem()
        timeout.cancel()
        return connection

    def close(self) -> None:
        """Close what is idle, and from now on every connection as soon as its exchange is over."""
        self._closing = True
        for connection in list(self._idle):
            self._drop(connection)

    def _connected(self, connection: UpstreamConnection) -> None:
        self._open.add(connection)

    def _keep(self, connection: UpstreamConnection) -> None:
        if self._closing or len(self._idle) >= MOST_IDLE:
            connection.abort()
            return
        self._idle[connection] = self._clock.callLater(IDLE_TIMEOUT, self._drop, connection)

    def _drop(self, connection: UpstreamConnection) -> None:
        timeout = self._idle.pop(connection, None)
        if timeout is not None and timeout.active():
            timeout.cancel()
        connection.abort()

    def _forget(self, connection: UpstreamConnection) -> None:
        self._open.discard(connection)
        timeout = self._idle.pop(connection, None)
        if timeout is not None:
            timeout.cancel()
