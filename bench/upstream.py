"""The benchmark's upstream: one process, epoll, plain and TLS, answers as the model's name in the request says.

Started by run.py. Prints its two ports as JSON, and ends when its standard input does.
"""

from __future__ import annotations

import contextlib
import hashlib
import heapq
import json
import re
import select
import socket
import ssl
import sys
import time

import messages

READ = 1 << 18


class Connection:
    """One proxy's connection: reads a request, then writes its answer, event by event."""

    def __init__(self, server: Server, sock: socket.socket) -> None:
        self.server = server
        self.sock = sock
        self.handshaken = not isinstance(sock, ssl.SSLSocket)
        self.unsent = bytearray()
        self.watching = select.EPOLLIN
        self._expect_request()

    def _expect_request(self) -> None:
        self.head = b""
        self.missing = -1  # bytes of the body still to come; below 0: the head is not complete
        self.body_hash = hashlib.sha256()
        self.events = self.pace = 0

    def ready(self, mask: int) -> None:
        if not self.handshaken:
            self._handshake()
            return
        if mask & select.EPOLLOUT:
            self._flush()
        if mask & ~select.EPOLLOUT:
            self._receive()

    def _handshake(self) -> None:
        assert isinstance(self.sock, ssl.SSLSocket)
        try:
            self.sock.do_handshake()
        except ssl.SSLWantReadError:
            return
        except ssl.SSLWantWriteError:
            self._watch(select.EPOLLIN | select.EPOLLOUT)
            return
        except OSError:
            self.close()
            return
        self.handshaken = True
        self._receive()

    def _receive(self) -> None:
        while True:
            try:
                data = self.sock.recv(READ)
            except (BlockingIOError, ssl.SSLWantReadError):
                return
            except OSError:
                data = b""
            if not data:
                self.close()
                return
            self._take(data)
            if not isinstance(self.sock, ssl.SSLSocket) and len(data) < READ:
                return

    def _take(self, data: bytes) -> None:
        if self.missing < 0:
            self.head += data
            head, end, data = self.head.partition(messages.HEAD_END)
            if not end:
                return
            length = re.search(rb"(?im)^content-length: *(\d+)", head)
            if length is None:
                self.write(b"HTTP/1.1 411 Length Required\r\ncontent-length: 0\r\n\r\n")
                return
            self.missing = int(length[1])
            self.model = b""
        if len(self.model) < 64:
            self.model += data[:64]
        self.missing -= len(data)
        self.body_hash.update(data)
        if self.missing == 0:
            self._answer()

    def _answer(self) -> None:
        digest = self.body_hash.hexdigest()
        plan = re.match(rb'\{"model": *"bench-(\d+)-(\d+)"', self.model)
        if plan is None:
            self.write(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")
            return
        self._expect_request()
        self.events, self.pace = int(plan[1]), int(plan[2]) * 1_000_000
        if not self.events:
            self.write(messages.small_answer(digest))
            return
        opening = messages.opening_events(digest)
        self.sent_hash = hashlib.sha256(opening)
        self.write(messages.STREAM_HEAD + messages.chunk(opening))
        self.due = time.monotonic_ns()
        self.step()

    def step(self) -> None:
        """Write the event that is due, or all of them if none waits for its time."""
        while self.events:
            event = messages.delta_event(time.monotonic_ns())
            self.sent_hash.update(event)
            self.write(messages.chunk(event))
            self.events -= 1
            if self.events and self.pace:
                self.due += self.pace
                self.server.at(self.due, self)
                return
        self.sent_hash.update(messages.BLOCK_STOP)
        closing = messages.BLOCK_STOP + messages.closing_events(self.sent_hash.hexdigest())
        self.write(messages.chunk(closing) + messages.STREAM_END[2:])

    def write(self, data: bytes) -> None:
        if not self.unsent:
            try:
                sent = self.sock.send(data)
            except (BlockingIOError, ssl.SSLWantWriteError):
                sent = 0
            except OSError:
                self.close()
                return
            if sent == len(data):
                return
            data = data[sent:]
        self.unsent += data
        self._watch(select.EPOLLIN | select.EPOLLOUT)

    def _flush(self) -> None:
        data = bytes(self.unsent)
        self.unsent.clear()
        if data:
            self.write(data)
        if not self.unsent:
            self._watch(select.EPOLLIN)

    def _watch(self, mask: int) -> None:
        if mask != self.watching and self.sock.fileno() >= 0:
            self.watching = mask
            self.server.epoll.modify(self.sock, mask)

    def close(self) -> None:
        self.events = 0
        if self.sock.fileno() >= 0:
            self.server.connections.pop(self.sock.fileno(), None)
            self.sock.close()


class Server:
    """The event loop: sockets, and a heap of the events that are due."""

    def __init__(self, certificate: str) -> None:
        self.epoll = select.epoll()
        self.connections: dict[int, Connection] = {}
        self.waiting: list[tuple[int, int, Connection]] = []
        self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.tls.load_cert_chain(certificate)
        self.listeners: dict[int, tuple[socket.socket, bool]] = {}
        self.ports: dict[str, int] = {}
        for name in ("plain", "tls"):
            listener = socket.create_server(("127.0.0.1", 0), backlog=2048)
            listener.setblocking(False)
            self.epoll.register(listener, select.EPOLLIN)
            self.listeners[listener.fileno()] = (listener, name == "tls")
            self.ports[name] = listener.getsockname()[1]

    def at(self, due: int, connection: Connection) -> None:
        heapq.heappush(self.waiting, (due, id(connection), connection))

    def accept(self, listener: socket.socket, tls: bool) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                sock, _ = listener.accept()
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sock.setblocking(False)
                if tls:
                    sock = self.tls.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
                self.connections[sock.fileno()] = Connection(self, sock)
                self.epoll.register(sock, select.EPOLLIN)

    def run(self) -> None:
        """Serve until standard input ends."""
        stdin, poller = sys.stdin.fileno(), self.epoll.fileno()
        while True:
            now = time.monotonic_ns()
            while self.waiting and self.waiting[0][0] <= now:
                heapq.heappop(self.waiting)[2].step()
            wait = max(0.0, (self.waiting[0][0] - time.monotonic_ns()) / 1e9) if self.waiting else None
            # select() waits in microseconds where epoll would round up to the next millisecond and write in lumps.
            readable, _, _ = select.select([stdin, poller], [], [], wait)
            if stdin in readable and not sys.stdin.buffer.raw.read(1):  # type: ignore[attr-defined]
                return
            for fd, mask in self.epoll.poll(0):
                if fd in self.listeners:
                    self.accept(*self.listeners[fd])
                elif fd in self.connections:
                    self.connections[fd].ready(mask)


if __name__ == "__main__":
    server = Server(sys.argv[1])
    print(json.dumps(server.ports), flush=True)
    server.run()
