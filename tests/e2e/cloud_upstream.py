"""`upstream.py` behind the door of a cloud that hands out tokens: what Vertex AI's and Azure's stand-ins share.

Orders and answers are those of `upstream.py`. A request that the cloud would turn away gets the cloud's own refusal,
whatever is scripted (a queued answer is used up by it), and its record says why: ``refusal``, null where it was let in.

Token endpoints are on the same port. They answer a valid request with a new token unless something else is scripted for
their path. One more step, for their answers, and one more order:

    ["token", SECONDS]      issue a token that lives so long, and write the answer that carries it
    {"do": "revoke"}        no token issued so far is good any more
"""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import Mapping
from typing import Any, ClassVar
from urllib.parse import parse_qs

from tests.e2e.upstream import Body, Connection, Upstream, orders

USUAL_LIFE = 3599


class Refused(Exception):
    """A request that the cloud turns away. document: what it says, as JSON. why: for the record."""

    def __init__(self, status: int, document: Any, why: str) -> None:
        self.status = status
        self.document = document
        self.why = why
        super().__init__(why)


class CloudUpstream(Upstream):
    """Scripted like any other upstream, behind the checks that a subclass makes.

    token_paths: where tokens are asked for. prefix: what tokens begin with.
    """

    token_paths: ClassVar[frozenset[str]]
    prefix: ClassVar[str]

    def __init__(self) -> None:
        super().__init__()
        self.tokens: dict[str, float] = {}
        self.issued = 0

    def check_token_request(self, path: str, record: dict[str, Any], body: bytes) -> None:
        """Raises Refused for one that gets no token."""
        raise NotImplementedError

    def check_call(self, path: str, record: dict[str, Any], body: bytes) -> None:
        """Raises Refused for a call that the models would never see."""
        raise NotImplementedError

    def is_good(self, token: str) -> bool:
        return self.tokens.get(token, 0.0) > time.time()

    def routed(self, path: str, headers: list[str], body: Body) -> dict[str, Any]:
        if path in self.token_paths and not any(way[0] == path for way in self.routes):
            return {"steps": [["token", USUAL_LIFE], ["end"]], "unstreamed": None}
        return super().routed(path, headers, body)

    async def perform(self, connection: Connection, body: Body, steps: list[list[Any]]) -> bool:
        record = next(record for record, its_body in self.records if its_body is body)
        path = record["target"].partition("?")[0]
        check = self.check_token_request if path in self.token_paths else self.check_call
        record["refusal"] = None
        if body.complete:  # an answer that comes before its request's body is one from before the check
            try:
                check(path, record, bytes(body.kept))
            except Refused as refused:
                record["refusal"] = refused.why
                steps = json_steps(refused.status, refused.document)
        return await super().perform(connection, body, [piece for step in steps for piece in self._expanded(step)])

    def _expanded(self, step: list[Any]) -> list[list[Any]]:
        if step[0] != "token":
            return [step]
        self.issued += 1
        token = f"{self.prefix}{self.issued:04d}"
        self.tokens[token] = time.time() + step[1]
        return json_steps(200, {"access_token": token, "expires_in": step[1], "token_type": "Bearer"})[:-1]

    async def command(self, order: dict[str, Any]) -> Any:
        if order["do"] == "revoke":
            self.tokens.clear()
            return None
        return await super().command(order)


def json_steps(status: int, document: Any) -> list[list[Any]]:
    """A whole answer, the connection kept."""
    body = json.dumps(document).encode()
    head = f"HTTP/1.1 {status} Said\r\nContent-Type: application/json; charset=UTF-8\r\nContent-Length: {len(body)}\r\n"
    return [["send", base64.b64encode(head.encode() + b"\r\n" + body).decode()], ["end"]]


def values(record: dict[str, Any], name: str) -> list[str]:
    """The values of all header lines of that name (lower case)."""
    split = [line.partition(":") for line in record["headers"]]
    return [value.strip() for key, _, value in split if key.strip().lower() == name]


def form_of(body: bytes) -> Mapping[str, str]:
    """A form's fields, those that come twice left out."""
    return {name: found[0] for name, found in parse_qs(body.decode("latin-1")).items() if len(found) == 1}


async def serve(upstream: CloudUpstream, **told: Any) -> None:
    """Listen, say where (and what else the test has to know), and follow orders until there are no more."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(upstream), "127.0.0.1", 0, backlog=2048)
    print(json.dumps({"port": server.sockets[0].getsockname()[1], **told}), flush=True)
    await orders(upstream.command)
