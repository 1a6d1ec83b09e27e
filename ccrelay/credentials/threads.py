"""The threads in which credentials are fetched: never the reactor's, which also resolve host names."""

from __future__ import annotations

from collections.abc import Callable
from threading import Thread
from typing import Any, Final, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool

T = TypeVar("T")

_MOST: Final = 16
"""Threads at once. A provider uses one, or two while one hangs: eight that hang leave the others room for nothing, and
nobody configures that many clouds. More fetches wait their turn."""


class _DaemonThread(Thread):
    """Does not keep the process alive: it may be waiting for a server that never answers."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.daemon = True


class _DaemonPool(ThreadPool):
    threadFactory = _DaemonThread  # noqa: N815 - Twisted's name


class CredentialThreads:
    """A pool of threads that exists from the first fetch on. reactor: runs the callbacks (IReactorFromThreads)."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._pool: ThreadPool | None = None
        self._running = 0
        self._closed = False

    def run(self, function: Callable[[], T]) -> Deferred[T]:
        """Call ``function()`` in a thread. The Deferred fires in the reactor's with its result or its failure.

        A Deferred that is cancelled does not stop the thread. After ``close()`` it still works: calls that began with
        an old configuration end with it.
        """
        if self._pool is None:
            self._pool = _DaemonPool(minthreads=0, maxthreads=_MOST, name="credentials")
            self._pool.start()
        self._running += 1
        result: Deferred[T] = deferToThreadPool(self._reactor, self._pool, function)
        return result.addBoth(self._ended)

    def close(self) -> None:
        """Let the threads go as soon as nothing runs in them; never waits for one that does."""
        self._closed = True
        self._stop_if_idle()

    def _ended(self, result: T) -> T:
        self._running -= 1
        if self._closed:
            self._stop_if_idle()
        return result

    def _stop_if_idle(self) -> None:
        if self._pool is not None and not self._running:
            pool, self._pool = self._pool, None
            pool.stop()
