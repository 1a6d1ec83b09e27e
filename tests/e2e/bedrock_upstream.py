"""`upstream.py` behind AWS's door: every request must be signed, or bear the API key, as Bedrock demands it.

    python -m tests.e2e.bedrock_upstream        from the checkout's root; needs botocore

Orders and answers are those of `upstream.py`. A request that Bedrock would turn away gets the 403 that AWS sends,
whatever is scripted (a queued answer is used up by it), and its record says why: ``refusal``, null where it was let in.

What is asked for below ``/model/`` is Bedrock's runtime; all else is mantle, which signatures must be made for.

The signature is computed anew by botocore's own signer from the bytes that came: the path as sent, exactly the headers
that the request says it signed, the whole body.
"""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.compat import HTTPHeaders
from botocore.credentials import Credentials

from tests.e2e.upstream import Body, Connection, Upstream, orders

ACCESS_KEY = "AKIDEXAMPLE"
SECRET_KEY = "secret-of-nobody"
SESSION_TOKEN = "session-of-nobody"
API_KEY = "bedrock-api-key-of-nobody"
REGION = "us-east-1"
SERVICE = "bedrock"
MANTLE = "bedrock-mantle"

SKEW = timedelta(minutes=5)  # what AWS tolerates
_AUTHORIZATION = re.compile(
    r"AWS4-HMAC-SHA256 Credential=([^/ ]+)/(\d{8})/([^/ ]+)/([^/ ]+)/aws4_request, ?"
    r"SignedHeaders=([a-z0-9;-]+), ?Signature=([0-9a-f]{64})"
)
_MUST_BE_SIGNED = re.compile(r"x-amz-.*")


class Refused(Exception):
    """A request that AWS turns away. ``name``: the exception's."""

    def __init__(self, name: str, why: str) -> None:
        self.name = name
        self.why = why
        super().__init__(f"{name}: {why}")


class ExactSigner(SigV4Auth):  # type: ignore[misc]
    """Signs the headers that the request has and no others: which those are is the sender's choice.

    The body is given by its hash, made while it arrived: large ones are not kept.
    """

    def headers_to_sign(self, request: AWSRequest) -> HTTPHeaders:
        return request.headers

    def payload(self, request: AWSRequest) -> str:
        digest: str = request.context["sha256"]
        return digest


def check(method: str, target: str, lines: list[str], sha256: str, now: datetime) -> None:
    """Raises Refused for a request that Bedrock would not let in. lines: the header lines. sha256: of the body."""
    headers = [(name.strip().lower(), value.strip()) for name, _, value in (line.partition(":") for line in lines)]
    presented = [value for name, value in headers if name == "authorization"]
    if len(presented) != 1:
        raise Refused("MissingAuthenticationTokenException", f"{len(presented)} Authorization headers")
    if presented[0].startswith("Bearer "):
        if presented[0] != f"Bearer {API_KEY}":
            raise Refused("AccessDeniedException", "another API key")
        return
    read = _AUTHORIZATION.fullmatch(presented[0])
    if read is None:
        raise Refused("IncompleteSignatureException", "the Authorization header cannot be read")
    key, day, region, service, names, signature = read.groups()
    signed = names.split(";")
    if key != ACCESS_KEY:
        raise Refused("UnrecognizedClientException", "another access key")
    expected = SERVICE if target.startswith("/model/") else MANTLE
    if (region, service) != (REGION, expected):
        raise Refused("InvalidSignatureException", f"signed for {service} in {region}")
    present = {name for name, _ in headers}
    unsigned = {"host", "x-amz-date", *filter(_MUST_BE_SIGNED.fullmatch, present)} - set(signed)
    if unsigned or set(signed) - present:
        raise Refused("InvalidSignatureException", f"not signed: {unsigned}; not sent: {set(signed) - present}")
    if signed != sorted(set(signed)):
        raise Refused("InvalidSignatureException", "signed headers out of order")
    stamps = [value for name, value in headers if name == "x-amz-date"]
    check_time(stamps, day, now)
    tokens = [value for name, value in headers if name == "x-amz-security-token"]
    if tokens not in ([], [SESSION_TOKEN]):
        raise Refused("UnrecognizedClientException", "another session")
    hashes = [value for name, value in headers if name == "x-amz-content-sha256"]
    if hashes not in ([], [sha256]):
        raise Refused("InvalidSignatureException", "the body is not the one whose hash was sent")
    kept = [(name, value) for name, value in headers if name in signed]
    if not hmac.compare_digest(signature_of(service, method, target, kept, sha256, stamps[0]), signature):
        raise Refused("InvalidSignatureException", "the signature does not match")


def check_time(stamps: list[str], day: str, now: datetime) -> None:
    try:
        (stamp,) = stamps
        signed_at = datetime.strptime(stamp, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    except ValueError:
        raise Refused("IncompleteSignatureException", f"dates {stamps}") from None
    if stamp[:8] != day:
        raise Refused("InvalidSignatureException", "the scope is of another day")
    if abs(now - signed_at) > SKEW:
        raise Refused("InvalidSignatureException", "signed too long ago, or not yet")


def signature_of(
    service: str, method: str, target: str, headers: list[tuple[str, str]], sha256: str, stamp: str
) -> str:
    """What botocore's signer makes of exactly this request."""
    host = next(value for name, value in headers if name == "host")
    request = AWSRequest(method, f"http://{host}{target}")
    for name, value in headers:
        request.headers.add_header(name, value)
    request.context.update(timestamp=stamp, sha256=sha256)
    signer = ExactSigner(Credentials(ACCESS_KEY, SECRET_KEY), service, REGION)
    text = signer.string_to_sign(request, signer.canonical_request(request))
    made: str = signer.signature(text, request)
    return made


def refusal_steps(refused: Refused) -> list[list[Any]]:
    """The 403 as AWS sends it: the name in a header, in front of a URL."""
    body = json.dumps({"message": f"{refused.name} for account 123456789012: {refused.why}"}).encode()
    head = (
        f"HTTP/1.1 403 Forbidden\r\nx-amzn-RequestId: 550e8400-e29b-41d4-a716-446655440000\r\n"
        f"x-amzn-ErrorType: {refused.name}:http://internal.amazon.com/coral/com.amazon.coral.service/\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return [["send", base64.b64encode(head.encode() + body).decode()], ["end"]]


class BedrockUpstream(Upstream):
    """Scripted like any other upstream, behind the check."""

    async def perform(self, connection: Connection, body: Body, steps: list[list[Any]]) -> bool:
        record = next(record for record, its_body in self.records if its_body is body)
        record["refusal"] = None
        if body.complete:  # an answer that comes before its request's body is one from before the check
            try:
                check(record["method"], record["target"], record["headers"], body.hash.hexdigest(), datetime.now(UTC))
            except Refused as refused:
                record["refusal"] = refused.why
                steps = refusal_steps(refused)
        return await super().perform(connection, body, steps)


async def main() -> None:
    upstream = BedrockUpstream()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(upstream), "127.0.0.1", 0, backlog=2048)
    print(json.dumps({"port": server.sockets[0].getsockname()[1]}), flush=True)
    await orders(upstream.command)


if __name__ == "__main__":
    asyncio.run(main())
