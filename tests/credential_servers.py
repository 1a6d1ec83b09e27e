"""Token servers on loopback, in threads: what AWS, Google and Microsoft answer, as far as their pages say."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit


@dataclass(frozen=True)
class Asked:
    """A request as the server saw it. headers: names in lower case."""

    method: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    body: bytes

    @property
    def form(self) -> dict[str, str]:
        return {name: values[0] for name, values in parse_qs(self.body.decode()).items()}


@dataclass(frozen=True)
class Reply:
    """What to answer: a document becomes JSON, a str goes as XML."""

    status: int
    content: Any
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class TokenServer:
    """``url`` without a slash at the end; ``asked``: what came so far."""

    url: str
    asked: list[Asked] = field(default_factory=list)


@contextmanager
def token_server(answer: Callable[[Asked], Reply]) -> Iterator[TokenServer]:
    """Serve ``answer`` until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            headers = {name.lower(): value for name, value in self.headers.items()}
            asked = Asked(self.command, parts.path, parse_qs(parts.query), headers, body)
            state.asked.append(asked)
            reply = answer(asked)
            text = reply.content if isinstance(reply.content, str) else json.dumps(reply.content)
            kind = "text/xml" if isinstance(reply.content, str) else "application/json"
            self.send_response(reply.status)
            for name, value in {"content-type": kind, **reply.headers}.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(text.encode())))
            self.end_headers()
            self.wfile.write(text.encode())

        do_POST = do_PUT = do_GET  # noqa: N815

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    state = TokenServer(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def nobody() -> Iterator[str]:
    """The URL of a port where nobody listens."""
    with token_server(lambda _: Reply(200, {})) as server:
        url = server.url
    yield url


STS_DENIED = """<ErrorResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><Error><Type>Sender</Type>
<Code>AccessDenied</Code><Message>User: arn:aws:iam::123456789012:user/relay is not authorized to perform:
sts:AssumeRole on resource: arn:aws:iam::123456789012:role/bedrock</Message></Error>
<RequestId>01234567-89ab-cdef-0123-456789abcdef</RequestId></ErrorResponse>"""


def sts_role(action: str, expires: str) -> str:
    """STS's answer to AssumeRole or AssumeRoleWithWebIdentity (its API reference)."""
    return f"""<{action}Response xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><{action}Result>
<AssumedRoleUser><Arn>arn:aws:sts::123456789012:assumed-role/bedrock/s</Arn>
<AssumedRoleId>AROA:s</AssumedRoleId></AssumedRoleUser>
<Credentials><AccessKeyId>ASIAROLE</AccessKeyId><SecretAccessKey>role-secret</SecretAccessKey>
<SessionToken>role-token</SessionToken><Expiration>{expires}</Expiration></Credentials></{action}Result>
<ResponseMetadata><RequestId>01234567-89ab-cdef-0123-456789abcdef</RequestId></ResponseMetadata></{action}Response>"""
