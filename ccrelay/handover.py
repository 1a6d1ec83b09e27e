"""An upgrade without a pause: a new process takes the listening sockets over while the old one ends its calls.

The old process starts the new one as it was started itself, with the sockets' descriptors and the end of a pipe. The
new one opens its listeners from them and says on the pipe that it serves. Only then the old one stops accepting and
drains. A new process that dies or is silent changes nothing: the old one serves on.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from typing import Any, Final

from twisted.internet.error import ProcessDone
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure

from ccrelay.listeners import Handed, encode

LISTENERS: Final = "CC_RELAY_LISTENERS"
"""Environment variable with the sockets that are handed over; see ``listeners.inherit``."""

READY: Final = "CC_RELAY_READY"
"""Environment variable with the descriptor to write to, and close, when the new process serves."""

PIDFILE: Final = "CC_RELAY_PIDFILE"
"""Environment variable with the path of a file that always names the process in charge. twistd's own names the first
one, and goes away with it."""

START_SECONDS: Final = 60.0
"""Time for the new process to begin to serve: a slow machine needs ten seconds for the imports."""

_FIRST: Final = 4  # descriptors 0 to 2 are the process's own, 3 is the pipe


class Successor(ProcessProtocol):
    """The new process, seen from the old one.

    ready(pid): it serves. failed(reason): it does not, and never will. One of them is called, once.
    """

    def __init__(self, clock: Any, ready: Callable[[int], None], failed: Callable[[str], None]) -> None:
        self._clock = clock
        self._ready: Callable[[int], None] | None = ready
        self._failed = failed
        self._deadline: IDelayedCall | None = None

    def connectionMade(self) -> None:
        self._deadline = self._clock.callLater(START_SECONDS, self._too_late)

    def childDataReceived(self, childFD: int, data: bytes) -> None:  # noqa: N802, N803
        ready = self._over()
        if ready is not None:
            ready(self.transport.pid)  # type: ignore[union-attr]

    def processEnded(self, reason: Failure) -> None:  # noqa: N802
        if self._over() is not None:
            how = "ended" if reason.check(ProcessDone) else str(reason.value)
            self._failed(f"the new process did not come up: {how}; its log says why")

    def _too_late(self) -> None:
        if self._over() is not None:
            self.transport.signalProcess("KILL")  # type: ignore[union-attr]
            self._failed(f"the new process did not serve within {START_SECONDS:g} s")

    def _over(self) -> Callable[[int], None] | None:
        if self._deadline is not None and self._deadline.active():
            self._deadline.cancel()
        ready, self._ready = self._ready, None
        return ready


def succeed(
    reactor: Any,
    successor: Successor,
    handed: Sequence[Handed],
    *,
    argv: Sequence[str],
    environ: Mapping[str, str],
) -> None:
    """Start the new process. argv: as in ``sys.orig_argv``, how this one was started. Raises OSError if that fails."""
    renumbered = [Handed(each.description, each.family, _FIRST + place) for place, each in enumerate(handed)]
    env = {name: value for name, value in environ.items() if name not in ("LISTEN_PID", "LISTEN_FDS", "WATCHDOG_PID")}
    env[LISTENERS] = encode(renumbered)
    env[READY] = "3"
    descriptors: dict[int, Any] = {0: 0, 1: 1, 2: 2, 3: "r"}
    descriptors.update({new.descriptor: old.descriptor for new, old in zip(renumbered, handed, strict=True)})
    command = [sys.executable, *_without_pidfile(argv[1:])]
    reactor.spawnProcess(successor, sys.executable, command, env=env, childFDs=descriptors)


def _without_pidfile(arguments: Sequence[str]) -> list[str]:
    """twistd refuses to start beside a process that its pid file names: the new one keeps none."""
    found = list(arguments)
    if "ccrelay" in found:
        found.insert(found.index("ccrelay"), "--pidfile=")
    return found


def write_pidfile(environ: Mapping[str, str]) -> None:
    """Say which process is the daemon now, where PIDFILE asks for it. Raises OSError if the file cannot be written."""
    path = environ.get(PIDFILE)
    if path:
        with open(f"{path}.new", "w", encoding="ascii") as file:
            file.write(f"{os.getpid()}\n")
        os.replace(f"{path}.new", path)


def remove_pidfile(environ: Mapping[str, str]) -> None:
    """Take the file away, unless it speaks of another process by now."""
    path = environ.get(PIDFILE)
    if not path:
        return
    with contextlib.suppress(OSError, ValueError):
        with open(path, encoding="ascii") as file:
            ours = int(file.read(20)) == os.getpid()
        if ours:
            os.remove(path)


def tell_predecessor(environ: MutableMapping[str, str]) -> None:
    """This process serves: say so to the one that started it for that, if one did."""
    descriptor = environ.pop(READY, None)
    if descriptor is not None and descriptor.isdecimal():
        number = int(descriptor)
        try:
            os.write(number, b"ready")
        finally:
            os.close(number)
