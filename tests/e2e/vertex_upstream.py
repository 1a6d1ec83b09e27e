"""Vertex AI's stand-in: a project, its locations and models, and the token endpoint of a service account.

    python -m tests.e2e.vertex_upstream         from the checkout's root; needs cryptography

The first line out carries the service account's private key beside the port. A token is issued for an assertion that
the account has signed for this very endpoint; see `cloud_upstream.py` for everything else.
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
import time
from typing import Any, ClassVar

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from tests.e2e.cloud_upstream import CloudUpstream, Refused, form_of, serve, values

PROJECT = "e2e-project-417"
PROJECT_NUMBER = "481516234299"
REGION = "us-east5"
COUNTING_REGION = "europe-west1"
MODELS = frozenset({"claude-opus-5-5", "claude-haiku-5-5", "claude-sonnet-4-5@20250929"})
ACCOUNT = f"relay@{PROJECT}.iam.gserviceaccount.com"
KEY_ID = "0123456789abcdef0123456789abcdef01234567"
SCOPE = "https://www.googleapis.com/auth/cloud-platform"

TOKEN_PATH = "/token"
LONGEST_ASSERTION = 3600
_GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"
_PATH = re.compile(r"/v1/projects/([^/]+)/locations/([^/]+)/publishers/anthropic/models/([^/:]+):([A-Za-z]+)")
_KINDS = {400: "INVALID_ARGUMENT", 401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 404: "NOT_FOUND"}


def google_error(status: int, message: str, kind: str | None = None, streamed: bool = False) -> Any:
    """Google's document of an error; an array of one on its way to a stream."""
    document = {"error": {"code": status, "message": message, "status": kind or _KINDS[status]}}
    return [document] if streamed else document


def decoded(part: str) -> bytes:
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


class VertexUpstream(CloudUpstream):
    """One project with one service account."""

    token_paths: ClassVar[frozenset[str]] = frozenset({TOKEN_PATH})
    prefix: ClassVar[str] = "ya29.canary-token-"

    def __init__(self) -> None:
        super().__init__()
        self.key = rsa.generate_private_key(public_exponent=65537, key_size=2048)

    def pem(self) -> str:
        return self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ).decode()

    def check_token_request(self, path: str, record: dict[str, Any], body: bytes) -> None:
        form = form_of(body)
        if record["method"] != "POST" or form.get("grant_type") != _GRANT:
            raise _no_token(f"{record['method']} for {form.get('grant_type')}")
        [host] = values(record, "host")
        self.check_assertion(form.get("assertion", ""), f"http://{host}{path}")

    def check_assertion(self, assertion: str, audience: str) -> None:
        """Raises Refused for one that the account has not signed, or not for this endpoint."""
        try:
            head, claims, signature = assertion.split(".")
            signed = f"{head}.{claims}".encode("ascii")
            self.key.public_key().verify(decoded(signature), signed, padding.PKCS1v15(), hashes.SHA256())
            said, asked = json.loads(decoded(head)), json.loads(decoded(claims))
        except (ValueError, InvalidSignature):
            raise _no_token("Invalid JWT Signature.") from None
        if (said.get("alg"), said.get("kid"), said.get("typ")) != ("RS256", KEY_ID, "JWT"):
            raise _no_token(f"Invalid JWT header {said}")
        # google-auth names Google's own endpoint whatever the file says; older versions name the file's.
        audiences = (audience, "https://oauth2.googleapis.com/token")
        if (asked.get("iss"), asked.get("scope")) != (ACCOUNT, SCOPE) or asked.get("aud") not in audiences:
            raise _no_token(f"Invalid JWT claims {asked}")
        if not asked["iat"] - 300 <= time.time() < asked["exp"] <= asked["iat"] + LONGEST_ASSERTION:
            raise _no_token(f"Invalid JWT times {asked}")

    def check_call(self, path: str, record: dict[str, Any], body: bytes) -> None:
        streamed = path.endswith(":streamRawPredict")

        def refused(status: int, message: str, why: str) -> Refused:
            return Refused(status, google_error(status, message, streamed=streamed), why)

        found = _PATH.fullmatch(path)
        if found is None or record["method"] != "POST" or "?" in record["target"]:
            raise refused(404, f"No route for {path}", f"{record['method']} {record['target']}")
        project, location, model, verb = found.groups()
        presented = values(record, "authorization")
        others = [name for name in ("x-api-key", "api-key", "x-goog-api-key") if values(record, name)]
        if len(presented) != 1 or others:
            raise refused(401, "Request had ambiguous credentials.", f"{len(presented)} bearers beside {others}")
        if not (presented[0].startswith("Bearer ") and self.is_good(presented[0].removeprefix("Bearer "))):
            raise refused(401, "Request had invalid authentication credentials.", "not a token of this account's")
        if project != PROJECT:
            raise refused(403, f"Permission 'aiplatform.endpoints.predict' denied on {path}", f"project {project}")
        counts = model == "count-tokens"
        if location != (COUNTING_REGION if counts else REGION) or not (counts or model in MODELS):
            raise refused(404, f"Publisher Model `{path}` was not found.", f"{model} in {location}")
        wrong = self.wrong_in(json.loads(body), counts, verb)
        if wrong is not None:
            raise refused(400, wrong, wrong)

    @staticmethod
    def wrong_in(members: dict[str, Any], counts: bool, verb: str) -> str | None:
        """What is wrong with a body, or None."""
        if counts and members.get("model") not in MODELS:
            return f"model: {members.get('model')}"
        if not counts and "model" in members:
            return "model: Extra inputs are not permitted"
        if not isinstance(members.get("anthropic_version"), str):
            return "anthropic_version: Field required"
        if verb != ("streamRawPredict" if members.get("stream") else "rawPredict"):
            return f"{verb} with stream {members.get('stream')}"
        return None


def _no_token(why: str) -> Refused:
    return Refused(400, {"error": "invalid_grant", "error_description": why}, why)


if __name__ == "__main__":
    vertex = VertexUpstream()
    asyncio.run(serve(vertex, private_key=vertex.pem()))
