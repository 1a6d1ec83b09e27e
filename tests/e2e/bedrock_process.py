"""The test's handle on a `bedrock_upstream.py` process, and what a relay is configured with to ask it."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tests.e2e.bedrock_upstream import ACCESS_KEY, REGION, SECRET_KEY, SESSION_TOKEN
from tests.e2e.upstream_process import Received, Upstream

OPUS = "us.anthropic.claude-opus-5-5"
"""What the catalogue calls claude-opus-5-5 in ``REGION``."""

LEFT_ALONE = {"AWS_EC2_METADATA_DISABLED": "true"}
"""Of a relay's environment: AWS's default chain ends without a look at the network."""


def target(operation: str = "invoke-with-response-stream", model: str = OPUS) -> str:
    """The path of InvokeModel for a model."""
    return f"/model/{quote(model, safe='')}/{operation}"


def chained(name: str, base_url: str, **more: Any) -> dict[str, Any]:
    """A provider entry without credentials: AWS's default chain is asked for them."""
    return {"name": name, "type": "bedrock", "base_url": base_url, "aws_region": REGION, **more}


def keyed(name: str, base_url: str, **more: Any) -> dict[str, Any]:
    """A provider entry with a session's keys."""
    keys = {"aws_access_key_id": ACCESS_KEY, "aws_secret_access_key": SECRET_KEY, "aws_session_token": SESSION_TOKEN}
    return chained(name, base_url, **keys, **more)


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
