"""The daemon's life: listen, serve, reload, hand over, drain, stop."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, Final

from twisted.application.service import Service
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.threads import deferToThread
from twisted.logger import ILogObserver, Logger
from twisted.python.components import Componentized

from ccrelay import __version__
from ccrelay.core.status import Daemon, Status
from ccrelay.errors import ConfigError
from ccrelay.handover import Successor, remove_pidfile, start, tell_predecessor, write_pidfile
from ccrelay.listeners import CannotListen, Listeners
from ccrelay.logs import LineObserver
from ccrelay.notify import Notifier
from ccrelay.reloading import Changed, Look, Reloads, Source, Watch, look
from ccrelay.runtime import Runtime
from ccrelay.web.admin import Watcher, admin_site
from ccrelay.web.resources import Root
from ccrelay.web.site import RelaySite
from ccrelay.web.tls import UnusableTlsFile, tls_factory

_log = Logger(namespace="ccrelay.service")

SETTLE_SECONDS: Final = 2.0
"""Between leaving the listeners to a new process and closing what is idle: a client that has just been accepted sends
its request within a round trip, and would else find the connection closed."""


class RelayService(Service):
    """Listens with one runtime at a time.

    observer: where the process's log goes. source: where a new configuration comes from; None: there is none.
    listeners: with what a process before has handed over. notifier: who is told of the daemon's life. in_thread: as
    ``deferToThread``.
    """

    name = "ccrelay"

    def __init__(
        self,
        reactor: Any,
        runtime: Runtime,
        observer: LineObserver,
        source: Source | None = None,
        *,
        listeners: Listeners | None = None,
        notifier: Notifier | None = None,
        in_thread: Callable[..., Deferred[Any]] = deferToThread,
    ) -> None:
        self._reactor = reactor
        self._runtime = runtime
        self._observer = observer
        self._source = source
        self._in_thread = in_thread
        self._listeners = Listeners(reactor) if listeners is None else listeners
        self._notifier = Notifier() if notifier is None else notifier
        self._watch = Watch(reactor, source.path, self.reload, in_thread) if source is not None else None
        self._stopping = False
        self._cut: Callable[[], None] | None = None
        self._deadline: IDelayedCall | None = None
        self._signalled = False
        self._reloading = self._reload_again = False
        self._successor: Successor | None = None
        self._hand_over_next = self._handed_over = False
        self.reloads = Reloads()
        self.site = RelaySite(Root(lambda: self._runtime.surface), reactor, lambda: self._runtime.surface)
        self.admin = admin_site(reactor, lambda: self._runtime.surface, self._status, runtime.tally)
        self._watcher = Watcher(reactor, runtime.tally, self._sample)

    def setServiceParent(self, parent: Any) -> None:
        """twistd looks for the log observer on the application, which only here is known."""
        if isinstance(parent, Componentized) and parent.getComponent(ILogObserver, None) is None:
            parent.setComponent(ILogObserver, self._observer)
        super().setServiceParent(parent)

    # -- starting

    def privilegedStartService(self) -> None:
        """Open the listeners. A listener that cannot be opened ends the process: SystemExit with one line."""
        super().privilegedStartService()
        try:
            self._listeners.change(self._wanted(self._runtime))
        except UnusableTlsFile as error:
            raise SystemExit(f"cc-relay: server.tls: {error}") from None
        except CannotListen as error:
            self._listeners.stop()
            raise SystemExit(f"cc-relay: {error}") from None
        self._listeners.drop_inherited()

    def _wanted(self, runtime: Runtime) -> dict[str, Any]:
        """Where to listen, with the factory for each. Reads the files of ``server.tls``."""
        server = runtime.settings.server
        factory: Any = self.site if server.tls is None else tls_factory(server.tls, self.site)
        return {**dict.fromkeys(server.listen, factory), **dict.fromkeys(runtime.settings.admin_listen, self.admin)}

    def startService(self) -> None:
        super().startService()
        self._reactor.callWhenRunning(self._serving)
        self._runtime.start()
        self._watch_over(self._runtime)
        for port in self._listeners.ports:
            _log.info("listening on {address}", address=_address(port))
        for entry in self._runtime.surface.providers():
            state = "ready" if entry.usable else "has no key"
            _log.info("provider {name} ({type}): {state}", name=entry.name, type=entry.type, state=state)

    def _serving(self) -> None:
        self._take_signals()
        if self._watch is not None and self._source is not None:
            self._watch.start(self._source.seen)
        self._notifier.ready()
        self._notifier.start_watchdog(self._reactor)
        try:
            write_pidfile(os.environ)
        except OSError as error:
            _log.error("the pid file could not be written: {why}", why=error.strerror)
        tell_predecessor(os.environ)

    # -- signals

    def _take_signals(self) -> None:
        """Our own SIGTERM and SIGINT: a clean stop exits with 0 (Twisted's handler would re-raise the signal at the
        end), and a second signal does not wait for calls to finish."""
        if threading.current_thread() is not threading.main_thread():
            return
        self._on((signal.SIGTERM, signal.SIGINT), self._told_to_stop)
        self._on((signal.SIGHUP,), self.reload)
        self._on((signal.SIGUSR2,), self.hand_over)
        if signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL:  # else twistd rotates a log of its own by it
            self._on((signal.SIGUSR1,), self._reopen_log)

    def _on(self, numbers: tuple[signal.Signals, ...], action: Callable[[], object]) -> None:
        for number in numbers:
            signal.signal(number, lambda *_: self._reactor.callFromThread(action))

    def _told_to_stop(self) -> None:
        # The first one of a process that has handed over asks it for what it does already.
        if self._cut is not None and (self._signalled or not self._handed_over):
            self._cut()
        elif self._cut is None:
            self._stop()
        self._signalled = True

    def _stop(self) -> None:
        # Not twice: a reactor that was told to stop and has not gone round yet refuses to hear it again.
        if not self._stopping:
            self._stopping = True
            _log.info("stopping")
            self._reactor.stop()

    def _reopen_log(self) -> None:
        try:
            self._observer.reopen()
        except OSError as error:
            _log.error("the log goes on in the old file: {why}", why=error.strerror)

    # -- telling

    def _status(self) -> Status:
        runtime, reloads = self._runtime, self.reloads
        return runtime.status(
            Daemon(
                version=__version__,
                time=time.time(),
                started=runtime.tally.started,
                draining=self.site.draining,
                drain_left=self._drain_left(),
                lag=runtime.tally.last_lag,
                clients=self.site.open_channels,
                reloads=reloads.count,
                reload_failures=reloads.failures,
                reload_at=reloads.last_at,
                reload_error=reloads.last_error,
            )
        )

    def _drain_left(self) -> float | None:
        if self._deadline is None:
            return None
        return max(0.0, self._deadline.getTime() - self._reactor.seconds()) if self._deadline.active() else 0.0

    def _sample(self) -> None:
        self._runtime.sample()

    def _watch_over(self, runtime: Runtime) -> None:
        """Measure only where somebody can see it."""
        if runtime.settings.admin_listen:
            self._watcher.start()
        else:
            self._watcher.stop()

    # -- reloading

    def reload(self) -> Deferred[None]:
        """Read the configuration again and serve with it; a bad one changes nothing but the log and ``reloads``.

        The Deferred fires when that is decided. One reload runs at a time, and none while a new process comes up, which
        must find the sockets as they were handed over; of those asked for meanwhile one follows.
        """
        if self._source is None or self._stopping or self._handed_over:
            return succeed(None)
        if self._reloading or self._successor is not None:
            self._reload_again = True
            return succeed(None)
        self._reloading = True
        return Deferred.fromCoroutine(self._reload(self._source))

    async def _reload(self, source: Source) -> None:
        self._notifier.reloading()
        again = True
        while again:
            self._reload_again = False
            await self._reload_once(source)
            again = self._reload_again and bool(self.running)
        # The old runtime is a knot that holds TLS trust, megabytes of which the collector sees nothing. Imports are set
        # apart at the start, so this looks at little more than the calls under way.
        gc.collect()
        self._reloading = False
        if self.running:
            self._notifier.ready()
            if self._hand_over_next:
                self._hand_over_next = False
                self.hand_over()

    async def _reload_once(self, source: Source) -> None:
        try:
            seen: Look | None = await self._in_thread(look, source.path)
            if self._watch is not None:
                self._watch.read(seen)
            changed: Changed = await self._in_thread(source.read)
            runtime = source.make(changed.settings, self._runtime)
            try:
                wanted = await self._in_thread(self._wanted, runtime)
                if not self.running:  # told to stop meanwhile: nothing is opened any more
                    runtime.close()
                    return
                self._observer.reconfigure(changed.settings.logging)
                self._listeners.change(wanted)
            except BaseException:
                with contextlib.suppress(OSError):  # if its file has gone too, the log stays where it is
                    self._observer.reconfigure(self._runtime.settings.logging)
                runtime.close()
                raise
            self._swap(runtime)
            self.reloads.succeeded(time.time())
            _log.info("the configuration is reloaded")
            for warning in changed.warnings:
                _log.warn("{path}: {warning}", path=source.path, warning=str(warning))
        except (ConfigError, CannotListen, UnusableTlsFile, OSError, UnicodeDecodeError) as error:
            self.reloads.failed(time.time(), str(error))
            for line in str(error).splitlines():
                _log.error("not reloaded, the old configuration stays: {line}", line=line.strip())
        except Exception:  # noqa: BLE001  (a bug must not end the service: the old configuration can serve)
            self.reloads.failed(time.time(), "internal error; the log has the details")
            _log.failure("not reloaded, the old configuration stays")

    def _swap(self, runtime: Runtime) -> None:
        """From here on calls are served with ``runtime``; those under way end with what they began with."""
        old, self._runtime = self._runtime, runtime
        runtime.take_over(old)
        runtime.start()
        self._watch_over(runtime)
        old.close()
        self.site.budget.limit = runtime.settings.server.max_inflight_body_bytes

    # -- handing over

    def hand_over(self) -> None:
        """Start a new process that takes the listeners over; end this one's calls and stop, once that one serves.

        While a reload is under way it waits for its end. Asked for again before the new one serves, it does nothing.
        """
        if self._stopping or self._handed_over or self._successor is not None:
            return
        if self._reloading:
            self._hand_over_next = True
            return
        if os.getpid() == 1:
            _log.error("this process serves on: it is the first of its container, which ends with it")
            return
        _log.info("starting the process that takes over")
        self._successor = successor = Successor(self._reactor, self._succeeded, self._not_succeeded)
        try:
            start(self._reactor, successor, self._listeners.handed(), argv=sys.orig_argv, environ=os.environ)
        except OSError as error:
            self._not_succeeded(str(error))

    def _succeeded(self, pid: int) -> None:
        _log.info("process {pid} serves; this one ends its calls", pid=pid)
        self._successor = None
        self._handed_over = True
        self._notifier.main_process(pid)
        self._notifier.stop_watchdog()
        if self._watch is not None:
            self._watch.stop()
        self._listeners.release(pid)
        self._reactor.callLater(SETTLE_SECONDS, self._stop)

    def _not_succeeded(self, reason: str) -> None:
        self._successor = None
        _log.error("this process serves on: {reason}", reason=reason)
        if self._reload_again:
            self._reload_again = False
            self.reload()

    # -- stopping

    def stopService(self) -> Deferred[None]:
        """Take no new connection, let calls finish for ``server.drain_timeout``, then cut what is left.

        The admin listener stays open until then: whoever waits for the end can see what it is that lasts.
        """
        super().stopService()
        drained: Deferred[None] = Deferred()
        if self._successor is not None:
            self._successor.abandon()
        if self._watch is not None:
            self._watch.stop()
        closed = self._listeners.stop(besides=self._runtime.settings.admin_listen)

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
        if not self._handed_over:
            self._notifier.stopping()
        self._deadline = deadline = self._reactor.callLater(self._runtime.settings.server.drain_timeout, cut)
        self.site.on_channel_closed = check
        self.site.drain()
        check()
        drained.addCallback(lambda _: self._listeners.stop())
        return drained.addCallback(lambda _: closed).addCallback(lambda _: self._close())

    def _close(self) -> None:
        if threading.current_thread() is threading.main_thread():
            # There is nothing left to hurry, and the interpreter's own end must not turn into a death by signal.
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, signal.SIG_IGN)
        self._watcher.stop()
        self.admin.abort_all()
        self._runtime.close()
        self._notifier.stop_watchdog()
        remove_pidfile(os.environ)


def _address(port: Any) -> str:
    address: Any = port.getHost()
    host = getattr(address, "host", None)
    if host is None:
        name = getattr(address, "name", None)
        return os.fsdecode(name) if name else str(address)
    return f"[{host}]:{address.port}" if ":" in host else f"{host}:{address.port}"
