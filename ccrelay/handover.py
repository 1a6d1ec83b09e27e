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

from twisted.internet.error import ProcessDone, ProcessExitedAlready
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

    ready(pid): it serves. failed(reason): it does not, and never will. One of them is called, once, unless it is
    abandoned before.
    """

    def __init__(self, clock: Any, ready: Callable[[int], None], failed: Callable[[str], None]) -> None:
        self._clock = clock
        self._ready: Callable[[int], None] | None = ready
        self._failed = failed
        self._deadline: IDelayedCall | None = None

    def connectionMade(self) -> None:
        self._deadline = self._clock.callLater(START_SECONDS, self._too_late)

    def childDataReceived(self, childFD: int, data: bytes) -> None:  # noqa: N802, N803
        # Its own word for its number: a twistd that went to the background is not the process that we started.
        pid = int(data)
        ready = self._over()
        if ready is not None:
            ready(pid)

    def processEnded(self, reason: Failure) -> None:  # noqa: N802
        if self._over() is not None:
            how = "it ended" if reason.check(ProcessDone) else str(reason.value)
            self._failed(f"the new process did not come up: {how}; its log says why")

    def abandon(self) -> None:
        """This process is told to stop: the new one must not begin to serve."""
        if self._over() is not None:
            self._kill()

    def _too_late(self) -> None:
        if self._over() is not None:
            self._kill()
            self._failed(f"the new process did not serve within {START_SECONDS:g} s")

    def _kill(self) -> None:
        with contextlib.suppress(ProcessExitedAlready):
            self.transport.signalProcess("KILL")  # type: ignore[union-attr]

    def _over(self) -> Callable[[int], None] | None:
        if self._deadline is not None and self._deadline.active():
            self._deadline.cancel()
        ready, self._ready = self._ready, None
        return ready


def start(
    reactor: Any,
    successor: Successor,
    handed: Sequence[Handed],
    *,
    argv: Sequence[str],
    environ: Mapping[str, str],
) -> None:
    """Start the new process. argv: as in ``sys.orig_argv``, how this one was started. Raises OSError if that fails."""
    renumbered = [Handed(each.description, each.family, _FIRST + place) for place, each in enumerate(handed)]
    # What speaks of this process by its number is not for another one.
    env = {name: value for name, value in environ.items() if name not in ("LISTEN_PID", "LISTEN_FDS", "WATCHDOG_PID")}
    env[LISTENERS] = encode(renumbered)
    env[READY] = "3"
    descriptors: dict[int, Any] = {0: 0, 1: 1, 2: 2, 3: "r"}
    descriptors.update({new.descriptor: old.descriptor for new, old in zip(renumbered, handed, strict=True)})
    reactor.spawnProcess(successor, sys.executable, [sys.executable, *argv[1:]], env=env, childFDs=descriptors)


def as_before(twistd: MutableMapping[str, Any]) -> None:
    """Leave out what twistd does to a process at its start, in one that inherits it from the process before.

    twistd: its options. Its pid file names the process before, beside which it would refuse to start; root, user and
    folder are what that one changed to, and cannot be changed to again.
    """
    twistd.update({"pidfile": "", "rundir": ".", "chroot": None, "uid": None, "gid": None})


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
    """This process serves: say so to the one that started it for that, if one did and still is there."""
    descriptor = environ.pop(READY, "")
    if descriptor.isascii() and descriptor.isdecimal() and len(descriptor) < 10:  # more is no descriptor's number
        with contextlib.suppress(OSError), open(int(descriptor), "wb", buffering=0) as pipe:
            pipe.write(b"%d" % os.getpid())
