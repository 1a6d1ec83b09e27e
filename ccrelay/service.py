"""The daemon's life: listen, serve, drain, stop."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.interfaces import IListeningPort
from twisted.logger import ILogObserver, Logger
from twisted.python.components import Componentized

from ccrelay.runtime import Runtime
from ccrelay.web.resources import Root
from ccrelay.web.site import RelaySite
from ccrelay.web.tls import UnusableTlsFile, tls_factory

_log = Logger(namespace="ccrelay.service")


class CannotListen(Exception):
    """A listener could not be opened; the text says which and why."""


class RelayService(Service):
    """Listens with one runtime. ``observer``: where the process's log goes."""

    name = "ccrelay"

    def __init__(self, reactor: Any, runtime: Runtime, observer: ILogObserver) -> None:
        self._reactor = reactor
        self._runtime = runtime
        self._observer = observer
        self._ports: list[IListeningPort] = []
        self._stopping = False
        self._cut: Callable[[], None] | None = None
        self.site = RelaySite(Root(lambda: self._runtime.surface), reactor, lambda: self._runtime.surface)

    def setServiceParent(self, parent: Any) -> None:
        """twistd looks for the log observer on the application, which only here is known."""
        if isinstance(parent, Componentized) and parent.getComponent(ILogObserver, None) is None:
            parent.setComponent(ILogObserver, self._observer)
        super().setServiceParent(parent)

    def privilegedStartService(self) -> None:
        """Open the listeners. A listener that cannot be opened ends the process: SystemExit with one line."""
        super().privilegedStartService()
        try:
            self._listen()
        except CannotListen as error:
            for port in self._ports:
                port.stopListening()
            raise SystemExit(f"cc-relay: {error}") from None

    def _listen(self) -> None:
        server = self._runtime.settings.server
        factory: Any = self.site
        if server.tls is not None:
            try:
                factory = tls_factory(server.tls, self.site)
            except UnusableTlsFile as error:
                raise CannotListen(f"server.tls: {error}") from error
        for description in server.listen:
            opened: list[Any] = []
            try:
                serverFromString(self._reactor, description).listen(factory).addBoth(opened.append)
            except Exception as error:
                raise CannotListen(f"cannot listen on {description}: {error}") from error
            port = opened[0] if opened else None
            if not IListeningPort.providedBy(port):
                reason = getattr(port, "value", "the endpoint did not open at once")
                raise CannotListen(f"cannot listen on {description}: {reason}")
            self._ports.append(port)

    def startService(self) -> None:
        super().startService()
        self._reactor.callWhenRunning(self._take_signals)
        self._runtime.start()
        for port in self._ports:
            _log.info("listening on {address}", address=_address(port))
        for entry in self._runtime.surface.providers():
            _log.info(
                "provider {name} ({type}): {state}",
                name=entry.name,
                type=entry.type,
                state="ready" if entry.usable else "has no key",
            )

    def _take_signals(self) -> None:
        """Our own SIGTERM and SIGINT: a clean stop exits with 0 (Twisted's handler would re-raise the signal at the
        end), and a second signal does not wait for calls to finish."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, lambda *_: self._reactor.callFromThread(self._signalled))

    def _signalled(self) -> None:
        if self._cut is not None:
            self._cut()
        elif not self._stopping:
            # Not twice: a reactor that was told to stop and has not gone round yet refuses to hear it again.
            self._stopping = True
            _log.info("stopping")
            self._reactor.stop()

    def stopService(self) -> Deferred[None]:
        """Take no new connection, let calls finish for ``server.drain_timeout``, then cut what is left."""
        super().stopService()
        drained: Deferred[None] = Deferred()
        for port in self._ports:
            port.stopListening()

        def check() -> None:
            if self.site.open_channels == 0 and not drained.called:
                if deadline.active():
                    deadline.cancel()
                drained.callback(None)

        def cut() -> None:
            if not drained.called:
                _log.warn("cutting {count} connections that have not finished", count=self.site.open_channels)
                self.site.abort_all()

        self._cut = cut
        deadline = self._reactor.callLater(self._runtime.settings.server.drain_timeout, cut)
        self.site.on_channel_closed = check
        self.site.drain()
        check()
        return drained.addCallback(lambda _: self._runtime.close())


def _address(port: IListeningPort) -> str:
    address: Any = port.getHost()
    host = getattr(address, "host", None)
    if host is None:
        name = getattr(address, "name", None)
        return os.fsdecode(name) if name else str(address)
    return f"[{host}]:{address.port}" if ":" in host else f"{host}:{address.port}"
