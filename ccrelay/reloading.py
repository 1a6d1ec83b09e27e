"""Where a new configuration comes from, and how the daemon notices that there is one."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from ccrelay.core.settings import Settings
from ccrelay.errors import Problem
from ccrelay.runtime import Runtime

_log = Logger(namespace="ccrelay.service")

WATCH_SECONDS: Final = 2.0
"""Between two looks at the file: soon enough for whoever has just saved it, and one ``stat`` costs nothing."""


Look = tuple[int, ...]
"""What tells two files apart."""


@dataclass(frozen=True, slots=True)
class Changed:
    """A configuration that was read. warnings: what the operator should know all the same."""

    settings: Settings
    warnings: tuple[Problem, ...]


@dataclass(frozen=True, slots=True)
class Source:
    """The configuration's file.

    read(): blocks; raises ConfigError, OSError, or UnicodeDecodeError. make(settings, previous): the runtime for it,
    which replaces ``previous``; raises ConfigError. seen: what ``look`` found before the file was read for the start.
    """

    path: str
    read: Callable[[], Changed]
    make: Callable[[Settings, Runtime], Runtime]
    seen: Look | None


@dataclass(slots=True)
class Reloads:
    """How reloads went, for the status. last_at: Unix seconds; last_error: of the last one, None if it succeeded."""

    count: int = 0
    failures: int = 0
    last_at: float | None = None
    last_error: str | None = None

    def succeeded(self, epoch: float) -> None:
        """A reload is done."""
        self.count += 1
        self.last_at, self.last_error = epoch, None

    def failed(self, epoch: float, error: str) -> None:
        """A reload was refused."""
        self.failures += 1
        self.last_at, self.last_error = epoch, error


class Watch:
    """Calls ``changed()`` when the file at ``path``, or what its links lead to, is another one than was last read.

    It waits until the file has looked the same twice: an editor may still be writing. One that is gone may come back.
    in_thread: as ``deferToThread``; a folder over the network may be slow to answer.
    """

    def __init__(
        self, clock: IReactorTime, path: str, changed: Callable[[], object], in_thread: Callable[..., Deferred[Any]]
    ) -> None:
        self._clock = clock
        self._path = path
        self._changed = changed
        self._in_thread = in_thread
        self._call: IDelayedCall | None = None
        self._running = False
        self._known: Look | None = None
        self._seen: Look | None = None

    def start(self, known: Look | None) -> None:
        """Begin. known: what ``look`` found before the file in force was read."""
        self._running = True
        self._known = self._seen = known
        self._wait()

    def read(self, known: Look | None) -> None:
        """The file is about to be read, good or bad; only another one is news after that."""
        self._known = known

    def stop(self) -> None:
        """Look no more."""
        self._running = False
        if self._call is not None and self._call.active():
            self._call.cancel()

    def _wait(self) -> None:
        if self._running:
            self._call = self._clock.callLater(WATCH_SECONDS, self._check)

    def _check(self) -> None:
        self._in_thread(look, self._path).addCallback(self._looked).addErrback(
            lambda failure: _log.failure("could not look at the configuration", failure=failure)
        ).addBoth(lambda _: self._wait())

    def _looked(self, found: Look | None) -> None:
        settled, self._seen = found == self._seen, found
        if settled and found is not None and found != self._known and self._running:
            self._known = found
            self._changed()


def look(path: str) -> Look | None:
    """The file at ``path`` as it is now; None if there is none that could be read. Blocks."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)
