"""HTTP for ``cc-relay doctor``: the standard library's client, which shares nothing with what it examines."""

from __future__ import annotations

import base64
import http.client
import json
import os
import ssl
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from ccrelay.core.model import Head, Headers
from ccrelay.core.proxies import proxy_for

PATIENCE: Final = 10.0
"""Seconds for whatever should be answered at once."""

MOST: Final = 1 << 20
"""Bytes read of an answer: what is examined is far smaller, a page of HTML in its place may not be."""


class Unreachable(Exception):
    """There was no answer; the text says at which step, and what to look at. It holds no secret."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole answer. seconds: from the connection's beginning to the answer's head."""

    head: Head
    body: bytes
    seconds: float

    @property
    def status(self) -> int:
        """The HTTP status."""
        return self.head.status

    @property
    def kind(self) -> str:
        """The content type, without its parameters."""
        return (self.head.first(b"content-type") or b"none").partition(b";")[0].strip().lower().decode("latin-1")

    @property
    def json(self) -> Any:
        """The body as JSON; None if it is none."""
        try:
            return json.loads(self.body)
        except ValueError:
            return None


@dataclass(frozen=True, slots=True)
class Arrival:
    """Bytes of an answer's body, and when they came: seconds since the request."""

    at: float
    data: bytes


class Origin:
    """Where requests go. ca_file, proxy: as in a provider's settings. clock(): seconds of a monotonic clock."""

    def __init__(
        self,
        url: str,
        *,
        ca_file: str | None = None,
        proxy: str | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._parts = urlsplit(url)
        self._ca_file = ca_file
        self._proxy = proxy_for(url, proxy, os.environ)
        self._clock = clock

    def ask(self, method: str, target: str, headers: Headers = (), body: bytes | None = None) -> Reply:
        """One request and its whole answer; redirects are answers like others. Raises Unreachable."""
        began = self._clock()
        connection = self._connection(PATIENCE)
        try:
            response = self._send(connection, method, target, headers, body)
            seconds = self._clock() - began
            return Reply(_head(response), response.read(MOST), seconds)
        except (OSError, http.client.HTTPException) as error:
            raise Unreachable(self._told(error)) from None
        finally:
            connection.close()

    def follow(self, target: str, headers: Headers, body: bytes, patience: float) -> Iterator[Head | Arrival]:
        """POST, and yield the answer's head, then its body as it comes. Raises Unreachable if it breaks."""
        began = self._clock()
        connection = self._connection(patience)
        received = 0
        try:
            response = self._send(connection, "POST", target, headers, body)
            yield _head(response)
            while received < MOST and (data := response.read1(65536)):
                received += len(data)
                yield Arrival(self._clock() - began, data)
        except (OSError, http.client.HTTPException) as error:
            raise Unreachable(self._told(error)) from None
        finally:
            connection.close()

    def _connection(self, timeout: float) -> http.client.HTTPConnection:
        host, secure = self._parts.hostname or "", self._parts.scheme == "https"
        port = self._parts.port or (443 if secure else 80)
        via = urlsplit(self._proxy) if self._proxy else None
        at = (via.hostname or "", via.port or 8080) if via is not None else (host, port)
        connection: http.client.HTTPConnection
        if secure:
            context = ssl.create_default_context()
            if self._ca_file is not None:
                try:
                    context.load_verify_locations(self._ca_file)
                except (OSError, ssl.SSLError):
                    raise Unreachable(f"ca_file {self._ca_file} cannot be read") from None
            connection = http.client.HTTPSConnection(*at, timeout=timeout, context=context)
        else:
            connection = http.client.HTTPConnection(*at, timeout=timeout)
        if via is not None:
            login = f"{unquote(via.username)}:{unquote(via.password or '')}" if via.username is not None else None
            extra = {"Proxy-Authorization": f"Basic {base64.b64encode(login.encode()).decode()}"} if login else {}
            connection.set_tunnel(host, port, extra)
        return connection

    def _send(
        self, connection: http.client.HTTPConnection, method: str, target: str, headers: Headers, body: bytes | None
    ) -> http.client.HTTPResponse:
        connection.putrequest(method, target, skip_accept_encoding=True)
        for name, value in headers:
            connection.putheader(name.decode("ascii"), value)
        if body is not None:
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body)
        return connection.getresponse()

    def _told(self, error: Exception) -> str:
        if isinstance(error, ssl.SSLCertVerificationError):
            return f"its certificate is not trusted ({error.verify_message}); is ca_file missing?"
        if isinstance(error, ssl.SSLError):
            return f"TLS failed ({error.reason}); is it https at all?"
        if isinstance(error, TimeoutError):
            return "no answer in time; is a firewall or a proxy in between?"
        if isinstance(error, OSError):
            return f"no connection ({error.strerror or type(error).__name__}); check host, port and proxy"
        return f"what answered is not HTTP as it should be, or broke off ({type(error).__name__})"


def _head(response: http.client.HTTPResponse) -> Head:
    lines = tuple((name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in response.getheaders())
    return Head(response.status, lines)
