"""Two shortcuts through Twisted that matter when an event costs 30 us: writing at once, polling without log context.

Measured on paced streams, each saves about a quarter of the CPU time per event. Both do nothing where Twisted is not
as they know it, so that a new version costs speed, not service.
"""

from __future__ import annotations

import errno
from typing import Any

from twisted.internet import tcp
from twisted.logger import Logger

log = Logger(namespace="ccrelay.lean")


def write_now(transport: Any, data: bytes) -> None:
    """Write ``data``; on a TCP socket that has nothing waiting, in this turn instead of the reactor's next.

    ``transport.write`` would have the reactor watch for room, poll, send and stop watching: three more system calls.
    Order is kept, and so are buffering, back-pressure and the handling of errors, which stay the transport's.
    """
    if (
        isinstance(transport, tcp.Connection)
        and transport.connected
        and not transport.disconnecting
        and not transport._tempDataBuffer
        and len(transport.dataBuffer) == transport.offset
    ):
        sent = transport.writeSomeData(data)
        if isinstance(sent, int) and sent >= 0:
            if sent == len(data):
                return
            data = data[sent:]
    transport.write(data)


def _is_known(reactor: object) -> bool:
    # By name: where there is no epoll, the module cannot be imported.
    kind = (type(reactor).__module__, type(reactor).__name__)
    known = kind == ("twisted.internet.epollreactor", "EPollReactor")
    return known and hasattr(reactor, "_poller") and hasattr(reactor, "_selectables")


def poll_leanly(reactor: Any) -> None:
    """Let an epoll reactor call a ready descriptor straight away, not inside a context that names it for legacy logs.

    Our log lines carry namespaces and never that name. Other reactors are left as they are.
    """
    if not _is_known(reactor):
        return
    poll, selectables, ready = reactor._poller.poll, reactor._selectables, reactor._doReadOrWrite

    def do_poll(timeout: float | None) -> None:
        try:
            events = poll(-1 if timeout is None else timeout, len(selectables))
        except OSError as error:
            if error.errno == errno.EINTR:
                return
            raise
        for descriptor, event in events:
            selectable = selectables.get(descriptor)
            if selectable is not None:
                try:
                    ready(selectable, descriptor, event)
                except Exception:  # noqa: BLE001  (as Twisted: one descriptor's bug must not end the loop)
                    log.failure("a ready descriptor's callback failed")

    reactor.doIteration = do_poll
