"""The test's handle on an `upstream.py` process."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from tests.e2e.answers import Answer
from tests.e2e.waiting import PATIENCE

MESSAGES = "/v1/messages"
COUNT_TOKENS = "/v1/messages/count_tokens"


@dataclass(frozen=True)
class Received:
    """A request as the upstream got it. ``headers``: the lines as they came."""

    index: int
    method: str
    target: str
    headers: tuple[str, ...]
    connection: int
    length: int
    sha256: str
    complete: bool

    def all(self, name: str) -> list[str]:
        split = [line.partition(":") for line in self.headers]
        return [value.strip() for key, _, value in split if key.strip().lower() == name]

    def header(self, name: str) -> str | None:
        values = self.all(name)
        assert len(values) < 2, f"{name} came {len(values)} times"
        return values[0] if values else None


def start_upstreams(started: ExitStack, count: int, tls: tuple[Path, Path] | None = None) -> list[Upstream]:
    """That many, started side by side, to end with ``started``."""
    with ThreadPoolExecutor() as pool:
        return [started.enter_context(upstream) for upstream in pool.map(Upstream, [tls] * count)]


class Upstream:
    """Start one, script it, look at what it got.

    tls: certificate chain and key file, for a TLS listener. port: where another one has been; 0: any free one.
    """

    def __init__(self, tls: tuple[Path, Path] | None = None, port: int = 0) -> None:
        command = [sys.executable, str(Path(__file__).with_name("upstream.py")), str(port), *map(str, tls or ())]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.port = int(self._read()["port"])
        self.url = f"https://localhost:{self.port}" if tls else f"http://127.0.0.1:{self.port}"

    def _read(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "the upstream process has ended; its traceback is above"
        return json.loads(line)

    def _order(self, **order: Any) -> Any:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        return self._read()

    def queue(self, *answers: Answer, path: str = MESSAGES) -> None:
        for answer in answers:
            self._order(do="queue", path=path, answer=answer.as_json())

    def route(self, answer: Answer, path: str = MESSAGES, model: str | None = None, key: str | None = None) -> None:
        self._order(do="route", path=path, model=model, key=key, answer=answer.as_json())

    def requests(self) -> list[Received]:
        seen = self._order(do="requests")
        return [Received(index, **{**one, "headers": tuple(one["headers"])}) for index, one in enumerate(seen)]

    def last(self) -> Received:
        return self.requests()[-1]

    def body(self, index: int) -> bytes:
        return base64.b64decode(self._order(do="body", index=index))

    def stats(self) -> dict[str, Any]:
        counts: dict[str, Any] = self._order(do="stats")
        return counts

    def until(self, **counts: Any) -> None:
        """Wait until the named counts are exactly so; see `upstream.py` for their names."""
        if not self._order(do="until", counts=counts, seconds=PATIENCE):
            raise AssertionError(f"the upstream never saw {counts}; it has {self.stats()}")

    def fresh(self) -> None:
        """Forget everything scripted and seen, and have no connection open."""
        assert self._order(do="fresh")

    def release(self, gate: str) -> None:
        self._order(do="release", gate=gate)

    def kill(self) -> None:
        """End it as a crash does: nobody is told, and the kernel resets what was open."""
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.close()
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self.close()
