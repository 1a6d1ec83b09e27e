"""The listener's factory: makes channels, holds what they share, and guards every request before its resource."""

from __future__ import annotations

import ipaddress
import re
import resource as limits_of_process
import secrets
import sys
import time
from collections.abc import Callable
from email.utils import formatdate
from typing import Any

from twisted.internet.interfaces import IAddress, IReactorTime
from twisted.internet.protocol import Factory
from twisted.web import resource, server

from ccrelay.core.headers import first
from ccrelay.core.http1 import RequestHead
from ccrelay.core.inflight import BodyBudget
from ccrelay.core.model import Headers
from ccrelay.core.settings import ServerSettings
from ccrelay.errors import ClientError
from ccrelay.web.channel import RelayChannel
from ccrelay.web.request import RelayRequest
from ccrelay.web.surface import Surface

_SANE_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}\Z")
"""A client's request id is kept if it cannot forge anything in a header or a log line."""


class RelaySite(server.Site):
    """A twisted.web Site on RelayChannels.

    current(): the Surface in force; looked up for each request. draining: no further request on a connection.
    most_channels: connections beyond which the oldest that nothing is asked on makes room for a new one.
    """

    noisy = False

    def __init__(self, root: resource.IResource, clock: IReactorTime, current: Callable[[], Surface]) -> None:
        super().__init__(root, reactor=clock)
        self._clock = clock
        self._current = current
        self._channels: dict[RelayChannel, None] = {}  # oldest first
        self.most_channels = _half_the_descriptors()
        self.budget: BodyBudget = BodyBudget(current().server.max_inflight_body_bytes)
        self.draining = False
        self.displayTracebacks = False
        self._date = (0, b"")
        self.on_channel_closed: Callable[[], None] | None = None

    # -- twisted.web's factory

    def startFactory(self) -> None:
        """Nothing to start: the access log is the relay's own."""
        Factory.startFactory(self)  # type: ignore[arg-type]

    def stopFactory(self) -> None:
        """See startFactory."""
        Factory.stopFactory(self)  # type: ignore[arg-type]

    def log(self, request: Any) -> None:
        """twisted.web's access log, which this project does not keep."""

    def acceptableProtocols(self) -> list[bytes]:  # noqa: N802
        """What ALPN offers; twisted.web would promise HTTP/2 wherever ``h2`` happens to be installed."""
        return [b"http/1.1"]

    def buildProtocol(self, addr: IAddress | None) -> RelayChannel:  # type: ignore[override]
        return RelayChannel(self, self._clock, RelayRequest)

    # -- the channels

    @property
    def limits(self) -> ServerSettings:
        """The listener's limits now in force."""
        return self._current().server

    def channel_opened(self, channel: RelayChannel) -> None:
        if len(self._channels) >= self.most_channels:  # strangers, too, may connect and ask nothing
            waiting = next((other for other in self._channels if other.waiting), None)
            if waiting is not None:
                waiting.give_way()
        self._channels[channel] = None

    def channel_closed(self, channel: RelayChannel) -> None:
        self._channels.pop(channel, None)
        if self.on_channel_closed is not None:
            self.on_channel_closed()

    @property
    def open_channels(self) -> int:
        return len(self._channels)

    def drain(self) -> None:
        """Serve what is under way, then close each connection; idle ones now."""
        self.draining = True
        for channel in list(self._channels):
            if channel.idle:
                channel.close_idle()

    def abort_all(self) -> None:
        """Cut every connection."""
        for channel in list(self._channels):
            channel.abort()

    # -- every request and answer

    def guard(self, request: RelayRequest) -> None:
        """Refuse what no resource should see. Raises ClientError.

        A page in the user's browser can reach a loopback listener under a name of its own choosing; so there the
        Host must be a loopback name (DNS rebinding). Under the true name it can post, though it cannot read the
        answer, and spend the operator's tokens: so no page of the web may ask at all.
        """
        host = first(request.head.headers, b"host") or b""
        local = getattr(request.getHost(), "host", None)
        if local is None or not _is_loopback(local):
            return
        name = _host_name(host)
        if name and not self._is_ours(name):
            raise _forbidden("this listener answers to loopback names only; add the name to server.allowed_hosts")
        scheme, _, page = (first(request.head.headers, b"origin") or b"").lower().partition(b"://")
        # Of other schemes are the pages of programs on this machine; a page can hide its own behind "null".
        if scheme == b"null" or (scheme in (b"http", b"https") and not self._is_ours(_host_name(page))):
            raise _forbidden("this listener answers to no page of another host; add it to server.allowed_hosts")

    def _is_ours(self, name: str) -> bool:
        return _is_loopback(name) or name in self.limits.allowed_hosts

    def new_request_id(self) -> str:
        """An id of our own for a request that has none."""
        return f"req_relay_{secrets.token_hex(12)}"

    def request_id_for(self, head: RequestHead) -> str:
        """The client's ``X-Request-ID`` if it is sane, else a new one."""
        given = first(head.headers, b"x-request-id")
        return given.decode("ascii") if given and _SANE_ID.match(given) else self.new_request_id()

    def answer_headers(self, request_id: str, headers: Headers) -> Headers:
        """``headers`` with what every answer carries."""
        now = int(time.time())
        if now != self._date[0]:
            self._date = (now, formatdate(now, usegmt=True).encode("ascii"))
        return (*headers, (b"x-request-id", request_id.encode("ascii")), (b"date", self._date[1]))


def _half_the_descriptors() -> int:
    """Each call takes two: where clients hold one half, the other is left to reach upstreams."""
    most, _ = limits_of_process.getrlimit(limits_of_process.RLIMIT_NOFILE)
    return sys.maxsize if most == limits_of_process.RLIM_INFINITY else most // 2


def _forbidden(why: str) -> ClientError:
    return ClientError(403, "permission_error", f"cc-relay: {why}", should_retry=False)


def _host_name(host: bytes) -> str:
    text = host.decode("latin-1").lower()
    if text.startswith("["):
        return text[1:].partition("]")[0]
    return text.partition(":")[0].rstrip(".")


def _is_loopback(name: str) -> bool:
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback
