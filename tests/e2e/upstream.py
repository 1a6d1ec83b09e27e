"""An upstream that misbehaves on demand: a process of its own, standard library only, nothing of the relay's.

    python upstream.py PORT [CERTIFICATE KEY]

It listens on that loopback port, on a free one for 0, and speaks JSON lines on stdin and stdout. The first line out is
``{"port": N}``; then one line out for each line in. End of stdin ends the process, so it never outlives the test that
started it.

    {"do": "queue", "path": P, "answer": A}     answer the next request for P that way, once
    {"do": "route", "path": P, "model": M, "key": K, "answer": A}   answer all requests for P so (of that model, with
                                                that x-api-key, unless null; the key's goes before the model's)
    {"do": "requests"}                          everything received so far, as below
    {"do": "body", "index": I}                  the body of request I, base64, if it was not larger than KEPT_BODY
    {"do": "until", "counts": {...}, "seconds": S}   answer once all counts are as named, or give up and say so
    {"do": "release", "gate": G}                let answers waiting at that gate go on
    {"do": "stats"}                             {"open", "connections", "requests", "complete", "lost", "sent", "gates",
                                                "busy": requests under way, "busiest": most of them at once}
    {"do": "fresh"}                             forget scripts, requests and counts; close every connection

An answer is ``{"steps": [...], "unstreamed": [...] or null, "before_body": bool}``: the bytes to send and the mishaps
to have, in order, with nothing added. ``unstreamed`` is taken instead when the body does not ask for a stream;
``before_body`` starts it as soon as the head is in. Steps:

    ["send", BASE64]             write bytes                   ["repeat", BASE64, N]     write them N times
    ["pace", [BASE64...], S]     one write every S seconds     ["gate", NAME]            wait for the release
    ["body"]                     read the request's body       ["hang"]                  silence until the peer leaves
    ["end"]                      keep the connection           ["close"]                 finish writing, then close
    ["reset"]                    close with a TCP reset

A request is recorded as method, target, header lines exactly as received, connection number, length and SHA-256 of its
body and whether all of it came.
"""

from __future__ import annotations

import asyncio
import base64
import collections
import hashlib
import json
import socket
import ssl
import struct
import sys
from collections.abc import Callable
from typing import Any

KEPT_BODY = 4 * 1024 * 1024  # a Claude Code body is some 100 kB; the large ones are compared by hash
UNREAD = 1024 * 1024  # received and not yet consumed, before the peer is made to wait


class Gone(Exception):
    """The peer closed or reset the connection."""


class Connection(asyncio.Protocol):
    """One socket: buffered reading that also notices, while an answer is under way, that the peer has left."""

    def __init__(self, upstream: Upstream) -> None:
        self.upstream = upstream
        self.buffer = bytearray()
        self.left = False
        self._changed = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.number = self.upstream.opened(self)
        self.task = asyncio.ensure_future(self.upstream.serve(self))

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        if len(self.buffer) > UNREAD:
            self.transport.pause_reading()
        self._changed.set()

    def eof_received(self) -> bool:
        self._leave()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._leave()
        self.upstream.lost(self)

    def _leave(self) -> None:
        self.left = True
        self._changed.set()
        self._writable.set()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    async def changed(self) -> None:
        """Wait for more bytes. Raises Gone when there will be none."""
        self._changed.clear()
        if self.left:
            raise Gone
        await self._changed.wait()

    def take(self, count: int) -> bytes:
        data = bytes(self.buffer[:count])
        del self.buffer[:count]
        if len(self.buffer) <= UNREAD and not self.transport.is_closing():
            self.transport.resume_reading()
        return data

    async def take_until(self, mark: bytes) -> bytes:
        while (found := self.buffer.find(mark)) < 0:
            await self.changed()
        return self.take(found + len(mark))

    async def gone(self) -> None:
        while not self.left:
            self._changed.clear()
            await self._changed.wait()

    async def write(self, data: bytes) -> None:
        if self.left:
            raise Gone
        self.transport.write(data)
        self.upstream.counts["sent"] += len(data)
        if not self._writable.is_set():
            await self._writable.wait()

    def reset(self) -> None:
        raw = self.transport.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()


class Body:
    """Reads one request body off a connection, hashing it."""

    def __init__(self, connection: Connection, headers: list[str]) -> None:
        fields = {line.partition(":")[0].strip().lower(): line.partition(":")[2].strip() for line in headers}
        self.connection = connection
        self.chunked = fields.get("transfer-encoding", "").lower() == "chunked"
        self.declared = int(fields.get("content-length", "0"))
        self.awaited = fields.get("expect", "").lower() == "100-continue"
        self.length = 0
        self.hash = hashlib.sha256()
        self.kept = bytearray()
        self.complete = False

    def _add(self, data: bytes) -> None:
        self.length += len(data)
        self.hash.update(data)
        if self.length <= KEPT_BODY:
            self.kept += data

    async def _exactly(self, count: int) -> None:
        while count:
            if not self.connection.buffer:
                await self.connection.changed()
                continue
            data = self.connection.take(count)
            count -= len(data)
            self._add(data)

    async def read(self) -> None:
        if self.complete:
            return
        if self.awaited and not self.length:
            await self.connection.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if self.chunked:
            while size := int((await self.connection.take_until(b"\r\n")).split(b";")[0], 16):
                await self._exactly(size)
                await self.connection.take_until(b"\r\n")
            while await self.connection.take_until(b"\r\n") != b"\r\n":
                pass
        else:
            await self._exactly(self.declared - self.length)
        self.complete = True


class Upstream:
    """What has been scripted and what has been seen."""

    def __init__(self) -> None:
        self.open: set[Connection] = set()
        self.watchers: set[asyncio.Event] = set()
        self.forget()

    def forget(self) -> None:
        for connection in self.open:
            connection.transport.close()
        self.queue: dict[str, collections.deque[dict[str, Any]]] = collections.defaultdict(collections.deque)
        self.routes: dict[tuple[str, str | None, str | None], dict[str, Any]] = {}
        self.records: list[tuple[dict[str, Any], Body]] = []
        self.counts = {"connections": 0, "requests": 0, "complete": 0, "lost": 0, "sent": 0, "busy": 0, "busiest": 0}
        self.gates: dict[str, asyncio.Event] = collections.defaultdict(asyncio.Event)
        self.waiting: set[str] = set()

    def stir(self) -> None:
        for watcher in self.watchers:
            watcher.set()

    def count(self, name: str) -> None:
        self.counts[name] += 1
        self.stir()

    def opened(self, connection: Connection) -> int:
        self.open.add(connection)
        self.count("connections")
        return self.counts["connections"]

    def lost(self, connection: Connection) -> None:
        self.open.discard(connection)
        self.stir()

    def stats(self) -> dict[str, Any]:
        return {"open": len(self.open), "gates": sorted(self.waiting), **self.counts}

    async def until(self, counts: dict[str, Any], seconds: float) -> bool:
        watcher = asyncio.Event()
        self.watchers.add(watcher)

        async def agreed() -> None:
            while any(self.stats()[name] != value for name, value in counts.items()):
                watcher.clear()
                await watcher.wait()

        try:
            await asyncio.wait_for(agreed(), seconds)
        except TimeoutError:
            return False
        finally:
            self.watchers.discard(watcher)
        return True

    async def serve(self, connection: Connection) -> None:
        try:
            while await self.exchange(connection):
                pass
            connection.transport.close()
        except Gone:
            connection.transport.close()

    async def exchange(self, connection: Connection) -> bool:
        """Serve one request. Returns whether another may follow on the connection."""
        lines = (await connection.take_until(b"\r\n\r\n")).decode("latin-1").split("\r\n")[:-2]
        method, target, _ = lines[0].split(" ", 2)
        body = Body(connection, lines[1:])
        record: dict[str, Any] = {
            "method": method,
            "target": target,
            "headers": lines[1:],
            "connection": connection.number,
        }
        self.records.append((record, body))
        counts = self.counts  # those of now: a request that outlives them must not be taken off the next ones
        counts["busy"] += 1
        counts["busiest"] = max(counts["busy"], counts["busiest"])
        self.count("requests")
        path = target.partition("?")[0]
        queue = self.queue[path]
        try:
            if not (queue and queue[0]["before_body"]):
                await body.read()
                self.count("complete")
            answer = queue.popleft() if queue else self.routed(path, lines[1:], body)
            return await self.perform(connection, body, self.steps(answer, body))
        except Gone:
            self.count("lost")
            raise
        finally:
            counts["busy"] -= 1
            self.stir()

    def routed(self, path: str, headers: list[str], body: Body) -> dict[str, Any]:
        model = asked(body).get("model")
        fields = {line.partition(":")[0].strip().lower(): line.partition(":")[2].strip() for line in headers}
        missing = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
        unknown = {"steps": [["send", base64.b64encode(missing).decode()], ["end"]], "unstreamed": None}
        ways = [(path, None, fields.get("x-api-key")), (path, model if isinstance(model, str) else None, None)]
        return next((self.routes[way] for way in [*ways, (path, None, None)] if way in self.routes), unknown)

    @staticmethod
    def steps(answer: dict[str, Any], body: Body) -> list[list[Any]]:
        if answer["unstreamed"] is not None and asked(body).get("stream") is not True:
            unstreamed: list[list[Any]] = answer["unstreamed"]
            return unstreamed
        steps: list[list[Any]] = answer["steps"]
        return steps

    async def perform(self, connection: Connection, body: Body, steps: list[list[Any]]) -> bool:
        for name, *arguments in steps:
            if name == "send":
                await connection.write(base64.b64decode(arguments[0]))
            elif name == "repeat":
                piece = base64.b64decode(arguments[0])
                for _ in range(arguments[1]):
                    await connection.write(piece)
            elif name == "pace":
                clock = asyncio.get_running_loop()
                due = clock.time()
                for encoded in arguments[0]:
                    await connection.write(base64.b64decode(encoded))
                    due += arguments[1]
                    await asyncio.sleep(max(0.0, due - clock.time()))
            elif name == "gate":
                await self.at_gate(connection, arguments[0])
            elif name == "body":
                await body.read()
                self.count("complete")
            elif name == "hang":
                await connection.gone()
                raise Gone
            elif name == "reset":
                connection.reset()
                return False
            elif name == "close":
                return False
            elif name == "end":
                return True
            else:
                raise ValueError(f"unknown step {name!r}")
        return True

    async def at_gate(self, connection: Connection, name: str) -> None:
        self.waiting.add(name)
        self.stir()
        leaving = asyncio.ensure_future(connection.gone())
        passing = asyncio.ensure_future(self.gates[name].wait())
        await asyncio.wait({leaving, passing}, return_when=asyncio.FIRST_COMPLETED)
        self.waiting.discard(name)
        leaving.cancel()
        passing.cancel()
        if connection.left:
            raise Gone

    async def command(self, order: dict[str, Any]) -> Any:
        name = order["do"]
        if name == "queue":
            self.queue[order["path"]].append(order["answer"])
        elif name == "route":
            self.routes[order["path"], order["model"], order["key"]] = order["answer"]
        elif name == "release":
            self.gates[order["gate"]].set()
        elif name == "body":
            return base64.b64encode(self.records[order["index"]][1].kept).decode()
        elif name == "requests":
            return [
                {**record, "length": body.length, "sha256": body.hash.hexdigest(), "complete": body.complete}
                for record, body in self.records
            ]
        elif name == "until":
            return await self.until(order["counts"], order["seconds"])
        elif name == "stats":
            return self.stats()
        elif name == "fresh":
            self.forget()
            return await self.until({"open": 0}, 5.0)
        else:
            raise ValueError(f"unknown order {name!r}")
        return None


def asked(body: Body) -> dict[str, Any]:
    """The request's top-level members, empty where it is no JSON object."""
    try:
        value = json.loads(body.kept)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


async def orders(handle: Callable[[dict[str, Any]], Any]) -> None:
    reader = asyncio.StreamReader(limit=256 * 1024 * 1024)  # an answer is one line, and may carry megabytes
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        print(json.dumps(await handle(json.loads(line))), flush=True)


async def main(arguments: list[str]) -> None:
    port, *certificate = arguments
    tls = None
    if certificate:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(*certificate)
    upstream = Upstream()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(upstream), "127.0.0.1", int(port), ssl=tls, backlog=2048)
    print(json.dumps({"port": server.sockets[0].getsockname()[1]}), flush=True)
    await orders(upstream.command)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
