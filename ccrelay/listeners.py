"""The daemon's listening sockets: opened, changed on a reload, handed to the process that takes over.

A socket is known by the endpoint string that the configuration names it with.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import stat
from collections.abc import Collection, Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Any

from twisted.internet import tcp, unix
from twisted.internet.defer import Deferred, DeferredList, maybeDeferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IAddress, IListeningPort, IProtocolNegotiationFactory
from twisted.internet.protocol import Factory
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure
from zope.interface import implementer

_FAMILIES = frozenset({socket.AF_INET, socket.AF_INET6, socket.AF_UNIX})


class CannotListen(Exception):
    """A listener could not be opened; the text says which and why."""


@dataclass(frozen=True, slots=True)
class Handed:
    """A listening socket on its way to another process. family: as in ``socket``. descriptor: open in both."""

    description: str
    family: int
    descriptor: int


@implementer(IProtocolNegotiationFactory)
class Listener(Factory):
    """The factory of one listening socket: ``current`` serves the next connection.

    Endpoints may put a factory of their own around this one (``ssl:``, ``haproxy:``), so it is never replaced itself.
    """

    noisy = False

    def __init__(self, current: Any) -> None:
        self.current = current

    def buildProtocol(self, addr: IAddress | None) -> Any:
        return self.current.buildProtocol(addr)

    def acceptableProtocols(self) -> list[bytes]:  # noqa: N802
        """What ALPN offers, where the endpoint speaks TLS by itself."""
        return self.current.acceptableProtocols()  # type: ignore[no-any-return]


@dataclass(frozen=True, slots=True)
class _Open:
    port: Any
    listener: Listener
    adopted: bool


class Listeners:
    """All listening sockets. inherited: those of the process before, by endpoint string."""

    def __init__(self, reactor: Any, inherited: Mapping[str, Handed] | None = None) -> None:
        self._reactor = reactor
        self._inherited = dict(inherited or {})
        self._open: dict[str, _Open] = {}

    @property
    def ports(self) -> tuple[Any, ...]:
        """The open IListeningPorts, in the order in which they were opened."""
        return tuple(each.port for each in self._open.values())

    def change(self, wanted: Mapping[str, Any]) -> None:
        """Listen on exactly these from now on.

        wanted: by endpoint string, the factory for its connections; one that stays open gets it for new ones. Raises
        CannotListen if one cannot be opened; everything is as before then.
        """
        opened: dict[str, _Open] = {}
        try:
            for description, factory in wanted.items():
                if description not in self._open:
                    opened[description] = self._listen(description, Listener(factory))
        except CannotListen:
            for each in opened.values():
                _leave(each.port) if each.adopted else each.port.stopListening()
            raise
        for description, each in list(self._open.items()):
            if description in wanted:
                each.listener.current = wanted[description]
            else:
                each.port.stopListening()
                del self._open[description]
        self._open.update(opened)

    def drop_inherited(self) -> None:
        """Close what the process before handed over and this configuration does not name."""
        for handed in self._inherited.values():
            _close(handed.descriptor)
        self._inherited.clear()

    def stop(self, besides: Collection[str] = ()) -> Deferred[Any]:
        """Accept nothing more, but where ``besides`` says, as endpoint strings: these stay open.

        The Deferred fires when the sockets are closed, and the files of unix sockets gone.
        """
        leaving = [description for description in self._open if description not in besides]
        closing = [maybeDeferred(self._open.pop(description).port.stopListening) for description in leaving]
        return DeferredList(closing, consumeErrors=True)

    def release(self, successor: int) -> None:
        """Accept nothing more, but leave the sockets to the process with this number, their files included."""
        for each in self._open.values():
            if isinstance(each.port, unix.Port) and each.port.lockFile is not None:
                _Mark(each.port.socket.getsockname()).pass_to(successor)
            _leave(each.port)
        self._open.clear()

    def handed(self) -> tuple[Handed, ...]:
        """What another process can take over."""
        return tuple(
            Handed(description, each.port.addressFamily, each.port.fileno())
            for description, each in self._open.items()
            if isinstance(each.port, tcp.Port)
        )

    def _listen(self, description: str, listener: Listener) -> _Open:
        handed = self._inherited.pop(description, None)
        if handed is None:
            return _Open(_open(self._reactor, description, listener), listener, adopted=False)
        try:
            _check(handed)
            adopting: Any = _Adopting(self._reactor, handed)
            if description.startswith("systemd:"):  # whose numbers for its sockets count in the first process only
                port = adopting.listenTCP(0, listener)
            else:
                port = _open(adopting, description, listener)
            return _Open(port, listener, adopted=True)
        except (OSError, ValueError) as error:
            raise CannotListen(f"cannot take over {description}: {error}") from error
        finally:
            _close(handed.descriptor)


class _Adopting:
    """The reactor of an endpoint that has its socket already: where it would listen, that one is taken."""

    def __init__(self, reactor: Any, handed: Handed) -> None:
        self._reactor = reactor
        self._handed = handed

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reactor, name)

    def listenTCP(self, port: int, factory: Any, backlog: int = 50, interface: str = "") -> Any:  # noqa: N802
        if self._handed.family == socket.AF_UNIX:
            return self.listenUNIX("", factory)
        return self._reactor.adoptStreamPort(self._handed.descriptor, self._handed.family, factory)

    def listenSSL(self, port: int, factory: Any, contextFactory: Any, *more: Any, **named: Any) -> Any:  # noqa: N802, N803
        return self.listenTCP(port, TLSMemoryBIOFactory(contextFactory, False, factory))

    def listenUNIX(  # noqa: N802
        self,
        address: str,
        factory: Any,
        backlog: int = 50,
        mode: int = 0o666,
        wantPID: bool = False,  # noqa: N803
    ) -> Any:
        # By hand: adoptStreamPort would open the socket's file to everybody.
        port: Any = unix.Port._fromListeningDescriptor(self._reactor, self._handed.descriptor, factory)  # noqa: SLF001
        path = port._preexistingSocket.getsockname()  # noqa: SLF001
        port.mode = stat.S_IMODE(os.stat(path).st_mode)
        port.startListening()
        if wantPID:
            port.lockFile = _Mark(path)
        return port


class _Mark:
    """The link beside a unix socket that names its process, as ``twisted.python.lockfile`` makes it.

    One that names a dead process invites the next daemon to take the socket's file away.
    """

    def __init__(self, path: str) -> None:
        self._link = path + ".lock"

    def pass_to(self, pid: int) -> None:
        """From now on it names that process. Without effect where the folder may not be written to any more."""
        with contextlib.suppress(OSError):
            os.symlink(str(pid), self._link + ".new")
            os.replace(self._link + ".new", self._link)

    def unlock(self) -> None:
        """Take it away, if it is ours (Twisted's name for it)."""
        with contextlib.suppress(OSError, ValueError):
            if int(os.readlink(self._link)) == os.getpid():
                os.remove(self._link)


def _open(reactor: Any, description: str, listener: Listener) -> Any:
    opened: list[Any] = []
    try:
        serverFromString(reactor, description).listen(listener).addBoth(opened.append)
    except Exception as error:
        raise CannotListen(f"cannot listen on {description}: {error}") from error
    port = opened[0] if opened else None
    if not IListeningPort.providedBy(port):
        reason = getattr(port, "value", "the endpoint did not open at once")
        raise CannotListen(f"cannot listen on {description}: {reason}")
    return port


def _leave(port: Any) -> None:
    """Close our hold on a socket that another process has too."""
    if not isinstance(port, tcp.Port):
        port.stopListening()
        return
    port.stopReading()
    port._shouldShutdown = False  # noqa: SLF001 - that would close it for both
    # Not unix.Port's, which would remove the file under the other process.
    tcp.Port.connectionLost(port, Failure(ConnectionDone()))


def _check(handed: Handed) -> None:
    """Raises OSError or ValueError unless the descriptor is what it is said to be: any number may stand there."""
    with socket.socket(fileno=os.dup(handed.descriptor)) as found:
        listening = found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        if not listening or found.family != handed.family:
            raise ValueError(f"descriptor {handed.descriptor} is no listening socket of its kind")


def _close(descriptor: int) -> None:
    with contextlib.suppress(OSError):
        os.close(descriptor)


def encode(handed: Sequence[Handed]) -> str:
    """``handed`` as one environment variable's value."""
    return json.dumps([astuple(each) for each in handed])


def inherit(text: str | None) -> dict[str, Handed]:
    """What ``encode`` wrote, by endpoint string; empty for None. Raises ValueError for anything else."""
    found: dict[str, Handed] = {}
    entries = json.loads(text) if text is not None else []
    for entry in entries if isinstance(entries, list) else [entries]:
        match entry:
            case [str() as description, int() as family, int() as descriptor]:
                handed = Handed(description, family, descriptor)
            case _:
                raise ValueError("not a list of sockets")
        if family not in _FAMILIES or not 2 < descriptor < 1 << 31 or description in found:
            raise ValueError("no socket can be like that")
        found[description] = handed
    return found
