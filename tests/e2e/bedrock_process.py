"""The test's handle on a `bedrock_upstream.py` process."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.e2e.upstream_process import Received, Upstream


@dataclass(frozen=True)
class BedrockReceived(Received):
    """A request as Bedrock's stand-in got it. ``refusal``: why AWS would have turned it away, None if it would not."""

    refusal: str | None = None


class BedrockUpstream(Upstream):
    """Start one, script it by path, look at what it got. Speaks plain HTTP."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "tests.e2e.bedrock_upstream"]
        root = Path(__file__).resolve().parents[2]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root)
        self.port = int(self._read()["port"])
        self.url = f"http://127.0.0.1:{self.port}"

    def requests(self) -> list[Received]:
        seen = self._order(do="requests")
        return [BedrockReceived(index, **{**one, "headers": tuple(one["headers"])}) for index, one in enumerate(seen)]

    def refusals(self) -> list[str | None]:
        """Of each request so far, why it was turned away."""
        return [one.refusal for one in self.requests() if isinstance(one, BedrockReceived)]
