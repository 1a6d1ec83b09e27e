"""The daemon's listening sockets: opened, changed on a reload, handed to the process that takes over.

A socket is known by the endpoint string that the configuration names it with.
"""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from twisted.internet import tcp, unix
from twisted.internet.endpoints import serverFromString
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IListeningPort
from twisted.python.failure import Failure


class CannotListen(Exception):
    """A listener could not be opened; the text says which and why."""


@dataclass(frozen=True, slots=True)
class Handed:
    """A listening socket on its way to another process. family: as in ``socket``. descriptor: open in both."""

    description: str
    family: int
    descriptor: int


class Listeners:
    """All listening sockets. inherited: those of the process before, by endpoint string."""

    def __init__(self, reactor: Any, inherited: Mapping[str, Handed] | None = None) -> None:
        self._reactor = reactor
        self._inherited = dict(inherited or {})
        self._open: dict[str, Any] = {}

    @property
    def ports(self) -> tuple[Any, ...]:
        """The open IListeningPorts, in the order in which they were opened."""
        return tuple(self._open.values())

    def change(self, wanted: Mapping[str, Any]) -> None:
        """Listen on exactly these from now on.

        wanted: by endpoint string, the factory for its connections; one that stays open gets it for new ones. Raises
        CannotListen if one cannot be opened; everything is as before then.
        """
        opened: dict[str, Any] = {}
        try:
            for description, factory in wanted.items():
                if description not in self._open:
                    opened[description] = self._listen(description, factory)
        except CannotListen:
            for port in opened.values():
                port.stopListening()
            raise
        for description, port in list(self._open.items()):
            if description in wanted:
                port.factory = wanted[description]
            else:
                port.stopListening()
                del self._open[description]
        self._open.update(opened)

    def drop_inherited(self) -> None:
        """Close what the process before handed over and this configuration does not name."""
        for handed in self._inherited.values():
            os.close(handed.descriptor)
        self._inherited.clear()

    def stop(self) -> None:
        """Accept nothing more; unix sockets disappear."""
        for port in self._open.values():
            port.stopListening()
        self._open.clear()

    def release(self) -> None:
        """Accept nothing more, but leave the sockets to the process that has them now, their files included."""
        for port in self._open.values():
            if isinstance(port, tcp.Port):
                port.stopReading()
                port._shouldShutdown = False  # noqa: SLF001 - that would close it for both
                # Not unix.Port's, which would remove the file under the other process.
                tcp.Port.connectionLost(port, Failure(ConnectionDone()))
            else:
                port.stopListening()
        self._open.clear()

    def handed(self) -> tuple[Handed, ...]:
        """What another process can take over."""
        return tuple(
            Handed(description, port.addressFamily, port.fileno())
            for description, port in self._open.items()
            if isinstance(port, tcp.Port)
        )

    def _listen(self, description: str, factory: Any) -> Any:
        handed = self._inherited.pop(description, None)
        if handed is not None:
            return self._adopt(handed, factory)
        opened: list[Any] = []
        try:
            serverFromString(self._reactor, description).listen(factory).addBoth(opened.append)
        except Exception as error:
            raise CannotListen(f"cannot listen on {description}: {error}") from error
        port = opened[0] if opened else None
        if not IListeningPort.providedBy(port):
            reason = getattr(port, "value", "the endpoint did not open at once")
            raise CannotListen(f"cannot listen on {description}: {reason}")
        return port

    def _adopt(self, handed: Handed, factory: Any) -> Any:
        try:
            if handed.family != socket.AF_UNIX:
                return self._reactor.adoptStreamPort(handed.descriptor, handed.family, factory)
            # By hand: adoptStreamPort would open the socket's file to everybody.
            port: Any = unix.Port._fromListeningDescriptor(self._reactor, handed.descriptor, factory)  # noqa: SLF001
            port.mode = stat.S_IMODE(os.stat(port._preexistingSocket.getsockname()).st_mode)  # noqa: SLF001
            port.startListening()
            return port
        except OSError as error:
            raise CannotListen(f"cannot take over {handed.description}: {error}") from error
        finally:
            os.close(handed.descriptor)


def inherit(text: str | None) -> dict[str, Handed]:
    """What ``encode`` wrote, by endpoint string; empty for None. Raises ValueError for anything else."""
    found = {}
    for part in (text or "").split("\n"):
        if part:
            family, descriptor, description = part.split(" ", 2)
            found[description] = Handed(description, int(family), int(descriptor))
    return found


def encode(handed: Sequence[Handed]) -> str:
    """``handed`` as one environment variable's value."""
    return "\n".join(f"{each.family} {each.descriptor} {each.description}" for each in handed)
