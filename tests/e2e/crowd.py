"""Many clients at once, in one thread of the test's process: each says how its answer ended, as a raw client does."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterable, Sequence
from concurrent.futures import Future
from typing import Any, Self, TypeVar

from tests.e2e.raw_client import Reply, body_for, post

T = TypeVar("T")

PATIENCE = 60.0
"""Seconds until a crowd is given up: some hundred calls share a busy machine with all who answer them."""

NOTHING = Reply(0, (), b"", "broken")
"""What a client has whose connection ended before a head came."""


class Line:
    """A connection that is kept from call to call, and opened where there is none. ``began``: answers that began."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.began = 0
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, request: bytes) -> Reply:
        """Send one request, a POST, and read its answer to the end."""
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self.port)
        reader, writer = self._streams
        writer.write(request)
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")[:-2]
        except (asyncio.IncompleteReadError, ConnectionError):
            self.hang_up()
            return NOTHING
        lines = [line.partition(":") for line in head[1:]]
        headers = tuple((name.strip().lower(), value.strip()) for name, _, value in lines)
        body = bytearray()
        try:
            await self._read(reader, dict(headers), body)
            ending = "complete"
        except (asyncio.IncompleteReadError, ConnectionError):
            ending = "broken"
        if ending == "broken" or dict(headers).get("connection") == "close":
            self.hang_up()
        return Reply(int(head[0].split(" ")[1]), headers, bytes(body), ending)

    async def _read(self, reader: asyncio.StreamReader, fields: dict[str, str], body: bytearray) -> None:
        if fields.get("transfer-encoding") != "chunked":
            body += await reader.readexactly(int(fields["content-length"]))
            self.began += 1
            return
        while size := int(await reader.readuntil(b"\r\n"), 16):
            self.began += not body
            body += await reader.readexactly(size)
            await reader.readexactly(2)
        await reader.readexactly(2)

    def hang_up(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


class Persistent:
    """A client with Claude Code's patience: the same body and session, again and again, until it has an answer.

    Its waits are those of Claude Code times ``scale``: its back-off, and ``Retry-After`` where an answer has one.
    replies: what it was told, in order. answered: whether the last of it is an answer.
    """

    BACKOFF = (0.5, 1, 2, 4, 8, 17, 35, 35, 35, 35)
    GIVES_UP_ABOVE = 60

    def __init__(self, port: int, session: str, scale: float) -> None:
        self.line = Line(port)
        self.scale = scale
        self.replies: list[Reply] = []
        self.asked = 0
        headers = [("x-claude-code-session-id", session), ("x-stainless-retry-count", "0")]
        self._request = post(body_for(), headers)

    async def ask(self) -> None:
        for wait in (*self.BACKOFF, None):
            self.asked += 1
            reply = await self.line.ask(self._request)
            self.replies.append(reply)
            if wait is None or not self._tries_again(reply):
                break
            await asyncio.sleep(float(reply.header("retry-after") or wait) * self.scale)
        self.line.hang_up()

    @property
    def answered(self) -> bool:
        return bool(self.replies) and self.replies[-1].status == 200 and self.replies[-1].ending == "complete"

    def _tries_again(self, reply: Reply) -> bool:
        if reply.status not in (0, 429, 500, 502, 503, 529) or reply.header("x-should-retry") == "false":
            return False
        if [reply.status for reply in self.replies[-3:]] == [529] * 3:
            return False
        return float(reply.header("retry-after") or 0) <= self.GIVES_UP_ABOVE


class Crowd:
    """The thread in which clients of ``port`` wait for their answers while the test does something else."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()

    def begin(self, task: Coroutine[Any, Any, T]) -> Future[T]:
        return asyncio.run_coroutine_threadsafe(task, self._loop)

    def run(self, tasks: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
        """The results of tasks that all begin at once."""
        return results([self.begin(task) for task in tasks])

    def ask(self, requests: Iterable[bytes]) -> Asked:
        """Begin to ask all of them at once, each on a connection of its own."""
        return Asked(self, list(requests))

    def close(self) -> None:
        async def cancel() -> None:
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

        self.begin(cancel()).result(PATIENCE)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self.close()


class Asked:
    """Calls under way."""

    def __init__(self, crowd: Crowd, requests: Sequence[bytes]) -> None:
        self._lines = [Line(crowd.port) for _ in requests]
        asking = zip(self._lines, requests, strict=True)
        self._futures = [crowd.begin(self._once(line, request)) for line, request in asking]

    async def _once(self, line: Line, request: bytes) -> Reply:
        try:
            return await line.ask(request)
        finally:
            line.hang_up()

    @property
    def began(self) -> int:
        """How many have seen the first bytes of an answer's body."""
        return sum(line.began for line in self._lines)

    def replies(self) -> list[Reply]:
        """What they were told, in the order of the requests."""
        return results(self._futures)


def results(futures: Sequence[Future[T]]) -> list[T]:
    return [future.result(PATIENCE) for future in futures]
