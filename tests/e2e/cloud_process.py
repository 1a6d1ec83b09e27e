"""The tests' handles on `vertex_upstream.py` and `azure_upstream.py` processes."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from tests.e2e.answers import Answer
from tests.e2e.azure_upstream import (
    API_KEY,
    CLIENT,
    CLIENT_SECRET,
    IDENTITY_HEADER,
    IDENTITY_PATH,
    PREFIX,
    TENANT,
)
from tests.e2e.upstream_process import Received, Upstream
from tests.e2e.vertex_upstream import ACCOUNT, COUNTING_REGION, KEY_ID, PROJECT, REGION, TOKEN_PATH


@dataclass(frozen=True)
class CloudReceived(Received):
    """A request as a cloud's stand-in got it. ``refusal``: why it was turned away, None if it was let in."""

    refusal: str | None = None


class CloudUpstream(Upstream):
    """Start one, script it by path, look at what it got. Speaks plain HTTP."""

    module: ClassVar[str]

    def __init__(self) -> None:
        command = [sys.executable, "-m", self.module]
        root = Path(__file__).resolve().parents[2]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root)
        self.told: dict[str, Any] = self._read()
        self.port = int(self.told["port"])
        self.url = f"http://127.0.0.1:{self.port}"

    def requests(self) -> list[Received]:
        seen = self._order(do="requests")
        return [CloudReceived(index, **{**one, "headers": tuple(one["headers"])}) for index, one in enumerate(seen)]

    def calls(self) -> list[CloudReceived]:
        """What came for the models, token requests left out."""
        return [one for one in self._received() if not self._is_for_a_token(one)]

    def token_requests(self) -> list[CloudReceived]:
        return [one for one in self._received() if self._is_for_a_token(one)]

    def body_of(self, received: Received) -> dict[str, Any]:
        """A request's JSON object."""
        document: dict[str, Any] = json.loads(self.body(received.index))
        return document

    def revoke(self) -> None:
        """Let no token that was issued so far be good any more."""
        self._order(do="revoke")

    def _received(self) -> list[CloudReceived]:
        return [one for one in self.requests() if isinstance(one, CloudReceived)]

    @staticmethod
    def _is_for_a_token(one: Received) -> bool:
        return one.target.partition("?")[0].endswith("/token")


class AzureUpstream(CloudUpstream):
    module = "tests.e2e.azure_upstream"


class VertexUpstream(CloudUpstream):
    module = "tests.e2e.vertex_upstream"

    def account_file(self, folder: Path) -> Path:
        """The key file of the service account, as Google's console gives it out."""
        account = {
            "type": "service_account",
            "project_id": PROJECT,
            "private_key_id": KEY_ID,
            "private_key": self.told["private_key"],
            "client_email": ACCOUNT,
            "client_id": "100000000000000000001",
            "token_uri": self.url + TOKEN_PATH,
        }
        path = folder / "account.json"
        path.write_text(json.dumps(account))
        path.chmod(0o600)
        return path


def vertex_entry(upstream: VertexUpstream, account: Path) -> dict[str, Any]:
    """A provider entry for the stand-in's project; ``account``: the key file."""
    return {
        "name": "google",
        "type": "vertex",
        "base_url": upstream.url,
        "gcp_project_id": PROJECT,
        "gcp_region": REGION,
        "gcp_count_tokens_region": COUNTING_REGION,
        "gcp_credentials_file": str(account),
    }


def azure_entry(upstream: AzureUpstream, how: str, **more: Any) -> dict[str, Any]:
    """A provider entry for the stand-in's resource. how: ``key``, ``application`` or ``identity``."""
    credentials: dict[str, dict[str, Any]] = {
        "key": {"keys": [{"key": API_KEY}]},
        "application": {
            "azure_tenant_id": TENANT,
            "azure_client_id": CLIENT,
            "azure_client_secret": CLIENT_SECRET,
        },
        "identity": {"azure_managed_identity": True},
    }
    return {"name": "foundry", "type": "azure", "base_url": upstream.url + PREFIX, **credentials[how], **more}


def azure_environ(upstream: AzureUpstream) -> dict[str, str]:
    """What the environment of a relay says of where tokens come from."""
    return {
        "AZURE_AUTHORITY_HOST": upstream.url,
        "IDENTITY_ENDPOINT": upstream.url + IDENTITY_PATH,
        "IDENTITY_HEADER": IDENTITY_HEADER,
    }


def tokens(seconds: float, *before: list[Any]) -> Answer:
    """What a token endpoint answers: these steps, then a token that lives so long."""
    return Answer((*before, ["token", seconds], ["end"]))


def predict(model: str, verb: str = "streamRawPredict", region: str = REGION) -> str:
    """A model's path at Vertex AI."""
    return f"/v1/projects/{PROJECT}/locations/{region}/publishers/anthropic/models/{model}:{verb}"
