"""A client at the byte level: it sends what it is told and says exactly how an answer ended."""

from __future__ import annotations

import contextlib
import itertools
import json
import select
import socket
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Self

from tests.e2e.waiting import PATIENCE

KEY = "client-of-the-relay"
_numbers = itertools.count()


@dataclass(frozen=True)
class Reply:
    """An answer. ``ending``: ``complete`` as its framing says, else ``broken``."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes
    ending: str

    def header(self, name: str) -> str | None:
        found = [value for key, value in self.headers if key == name]
        assert len(found) < 2, f"{name} came {len(found)} times"
        return found[0] if found else None

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> str:
        """The error type of an answer that must be in Anthropic's envelope."""
        value = self.json
        assert value["type"] == "error" and isinstance(value["error"]["message"], str), value
        kind: str = value["error"]["type"]
        return kind


def body_for(stream: bool = True, model: str = "claude-opus-5-5", **members: Any) -> bytes:
    """A request body like no other, so that no two calls of a test run look like a client's retry."""
    text = f"hello {next(_numbers)}"
    return json.dumps(
        {"model": model, "messages": [{"role": "user", "content": text}], "max_tokens": 64, **members, "stream": stream}
    ).encode()


def request_head(method: str, target: str, headers: Iterable[tuple[str, str]]) -> bytes:
    lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers), "", ""]
    return "\r\n".join(lines).encode("latin-1")


def post(
    body: bytes, headers: Iterable[tuple[str, str]] = (), target: str = "/v1/messages", host: str = "127.0.0.1"
) -> bytes:
    """A whole POST as bytes."""
    lines = [
        ("Host", host),
        ("Content-Type", "application/json"),
        ("anthropic-version", "2023-06-01"),
        ("x-api-key", KEY),
        ("Content-Length", str(len(body))),
        *headers,
    ]
    return request_head("POST", target, lines) + body


def get(target: str, method: str = "GET", headers: Iterable[tuple[str, str]] = ()) -> bytes:
    return request_head(method, target, [("Host", "127.0.0.1"), ("x-api-key", KEY), *headers])


class Client:
    """One TCP connection. Every wait is bounded; waiting longer than ``patience`` seconds fails the test."""

    def __init__(self, port: int, patience: float = PATIENCE, receive_buffer: int | None = None) -> None:
        self.socket = socket.socket()
        if receive_buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(patience)
        self.socket.connect(("127.0.0.1", port))
        self.buffer = b""
        self.over = False

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def send_what_is_taken(self, data: bytes) -> None:
        """Send until the other side has had enough and closes."""
        with contextlib.suppress(ConnectionError):
            self.socket.sendall(data)

    def quiet(self, seconds: float) -> bool:
        """Whether nothing more comes for so long."""
        readable, _, _ = select.select([self.socket], [], [], seconds)
        return not readable

    def leave(self) -> None:
        self.socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self.leave()

    def _more(self) -> bool:
        try:
            data = self.socket.recv(65536)
        except TimeoutError as error:
            waited = self.socket.gettimeout()
            raise AssertionError(f"nothing came for {waited} s; unread: {self.buffer[-300:]!r}") from error
        except ConnectionError:
            data = b""
        self.buffer += data
        self.over = self.over or not data
        return bool(data)

    def line(self) -> bytes:
        while b"\r\n" not in self.buffer:
            if not self._more():
                raise EOFError
        line, _, self.buffer = self.buffer.partition(b"\r\n")
        return line

    def closed(self) -> bool:
        """Wait until the other side has closed the connection with nothing more to say; False if it says more."""
        return not self.buffer and not self._more()

    def head(self) -> tuple[int, tuple[tuple[str, str], ...]]:
        """Status and headers (names in lower case) of the next answer, 1xx included. EOFError if none comes."""
        status = int(self.line().split(b" ")[1])
        headers = []
        while line := self.line().decode("latin-1"):
            name, _, value = line.partition(":")
            headers.append((name.strip().lower(), value.strip()))
        return status, tuple(headers)

    def opened(self, method: str = "POST") -> Incoming:
        """The next answer's head; its body is read piece by piece. EOFError if the connection ends before a head."""
        return Incoming(self, method, *self.head())

    def reply(self, method: str = "POST") -> Reply:
        """The next whole answer, or what there is of it. EOFError if the connection ends before a head."""
        return self.opened(method).reply()

    def exactly(self, size: int) -> Iterator[bytes]:
        while size:
            if not self.buffer and not self._more():
                raise EOFError
            data, self.buffer = self.buffer[:size], self.buffer[size:]
            size -= len(data)
            yield data

    def to_the_end(self) -> Iterator[bytes]:
        while self.buffer or self._more():
            data, self.buffer = self.buffer, b""
            yield data


class Incoming:
    """An answer whose body is still arriving. ``ending`` is None until it has ended."""

    def __init__(self, client: Client, method: str, status: int, headers: tuple[tuple[str, str], ...]) -> None:
        self.client = client
        self.status = status
        self.headers = headers
        self.ending: str | None = None
        self._empty = method == "HEAD" or status in (100, 204)
        self._pieces = self._read()

    def _read(self) -> Iterator[bytes]:
        fields = dict(self.headers)
        try:
            if self._empty:
                pass
            elif fields.get("transfer-encoding") == "chunked":
                while size := int(self.client.line(), 16):
                    yield from self.client.exactly(size)
                    self.client.line()
                self.client.line()
            elif "content-length" in fields:
                yield from self.client.exactly(int(fields["content-length"]))
            else:
                yield from self.client.to_the_end()
        except EOFError:
            self.ending = "broken"
        else:
            self.ending = "complete"

    def __iter__(self) -> Iterator[bytes]:
        return self._pieces

    def until(self, mark: bytes) -> bytes:
        """Body bytes up to and with the read in which ``mark`` was seen; the rest can be read afterwards."""
        got = bytearray()
        for piece in self._pieces:
            got += piece
            if mark in got:
                return bytes(got)
        raise AssertionError(f"the answer ended ({self.ending}) before {mark!r}: {bytes(got)!r}")

    def reply(self) -> Reply:
        """What is left of the body, to its end."""
        body = b"".join(self._pieces)
        assert self.ending is not None
        return Reply(self.status, self.headers, body, self.ending)


def ask(port: int, request: bytes, method: str = "POST") -> Reply:
    """One request on a connection of its own."""
    with Client(port) as client:
        client.send(request)
        return client.reply(method)
