"""What the init system is told of the daemon's life: the datagrams of sd_notify(3) and sd_watchdog_enabled(3).

Nothing here raises or waits: whoever supervises us may be gone, and no call may suffer for it.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from typing import Any

from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall

LONGEST_WATCHDOG = 1 << 63
"""Microseconds; systemd counts them in 64 bits, and what it calls infinite needs no ping."""


class Notifier:
    """Tells the supervisor, if there is one.

    address: a datagram socket's path, or ``@`` and an abstract name; None: nobody asked, and nothing is sent. What is
    neither is not sent to. watchdog: seconds after which a silent daemon is taken for hung, above 0; None: not watched.
    """

    def __init__(self, address: str | None = None, watchdog: float | None = None) -> None:
        self._address = address
        self._watchdog = watchdog
        self._pings: LoopingCall | None = None

    @classmethod
    def from_environ(cls, environ: Mapping[str, str], pid: int) -> Notifier:
        """As ``NOTIFY_SOCKET``, ``WATCHDOG_USEC`` and ``WATCHDOG_PID`` say. pid: ours; no other's watchdog is fed."""
        watched = environ.get("WATCHDOG_PID") in (None, str(pid))
        return cls(
            environ.get("NOTIFY_SOCKET") or None, _seconds(environ.get("WATCHDOG_USEC", "")) if watched else None
        )

    def ready(self) -> bool:
        """The daemon serves, after its start or again after a reload. True if the supervisor has been told."""
        return self._tell("READY=1")

    def reloading(self) -> bool:
        """A reload begins; ``ready`` ends it, whether the new configuration was taken or not."""
        # The time stamp, of CLOCK_MONOTONIC, is what Type=notify-reload matches its own request with.
        return self._tell(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> bool:
        """No new connection is taken; open streams finish. The watchdog is still fed."""
        return self._tell("STOPPING=1")

    def main_process(self, pid: int) -> bool:
        """From now on the process with this number is the daemon, and this one only ends its calls."""
        # Its own pings before this one were not taken from it, and its next may be half the watchdog's time away.
        return self._tell(f"MAINPID={pid}\nREADY=1\nWATCHDOG=1")

    def start_watchdog(self, clock: IReactorTime) -> None:
        """Ping from the reactor, now and at half the time, as sd_watchdog_enabled(3) advises: a hung one is silent."""
        if self._address is not None and self._watchdog is not None and self._pings is None:
            pings: Any = LoopingCall(self._tell, "WATCHDOG=1")
            pings.clock = clock
            pings.start(self._watchdog / 2)
            self._pings = pings

    def stop_watchdog(self) -> None:
        """Ping no more. Harmless where it was never started."""
        if self._pings is not None:
            self._pings.stop()
            self._pings = None

    def _tell(self, state: str) -> bool:
        if self._address is None or self._address[0] not in "/@":
            return False
        address = os.fsencode(self._address)
        if address.startswith(b"@"):
            address = b"\0" + address[1:]
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
                channel.setblocking(False)
                channel.sendto(state.encode("ascii"), address)
        except (OSError, ValueError):  # nobody there, nobody reading, or no address at all
            return False
        return True


def _seconds(microseconds: str) -> float | None:
    try:
        number = int(microseconds)
    except ValueError:
        return None
    return number / 1e6 if 0 < number < LONGEST_WATCHDOG else None
