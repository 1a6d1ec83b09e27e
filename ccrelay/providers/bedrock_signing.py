"""AWS Signature Version 4 for one request, computed by botocore over exactly what is sent.

botocore's own ``add_auth`` reads the clock and wants the whole body; its steps are therefore called one by one, with
the time and the body's hash given. The hash goes along as ``x-amz-content-sha256``, as AWS's own SDKs send it.
Source: docs.aws.amazon.com/IAM/latest/UserGuide, "Create a signed AWS API request"; botocore's auth.py.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from ccrelay.core.edits import EditedReader, Source
from ccrelay.core.model import AwsKeys, Edit, Headers
from ccrelay.errors import ConfigError, Problem

_PIECE: Final = 262144
"""Bytes hashed at a time: the interpreter's lock is let go for each, and a few are held besides the body."""


@dataclass(frozen=True, slots=True, repr=False)
class _Keys:
    """What botocore reads of its credentials. Lives as long as one signature; has no text form."""

    access_key: str
    secret_key: str
    token: str | None


def require_botocore(provider: str) -> None:
    """Import what signing needs, so that no call waits for it. Raises ConfigError if it is not installed."""
    try:
        import botocore.auth
        import botocore.awsrequest  # noqa: F401
    except ImportError:
        message = "needs botocore (Debian: python3-botocore) to sign requests, or else aws_bearer_token"
        raise ConfigError("configuration", (Problem(f"providers.{provider}", None, message),)) from None


def body_hash(body: Source, edits: Sequence[Edit]) -> str:
    """The SHA-256, in hexadecimal, of a complete body after ``edits``; no copy of it is made."""
    digest = hashlib.sha256()
    reader = EditedReader(body, edits)
    while not reader.at_end:
        digest.update(reader.read(_PIECE))
    return digest.hexdigest()


def signature_lines(
    url: str, headers: Headers, content_sha256: str, keys: AwsKeys, region: str, service: str, now: float
) -> Headers:
    """The header lines to add to a POST so that AWS takes it as that of ``keys``.

    url: as it is sent, percent-encoding included. headers: the lines to sign, each of printable ASCII; besides them
    only ``host`` is signed. region, service: of the credential scope. now: Unix seconds; AWS allows five minutes'
    difference. Raises ImportError without botocore.
    """
    from botocore.auth import SigV4Auth
    from botocore.awsrequest import AWSRequest

    token = keys.session_token.reveal() if keys.session_token is not None else None
    signer = SigV4Auth(_Keys(keys.access_key_id.reveal(), keys.secret_access_key.reveal(), token), service, region)
    timestamp = datetime.fromtimestamp(now, UTC).strftime("%Y%m%dT%H%M%SZ")
    added = {"x-amz-content-sha256": content_sha256, "x-amz-date": timestamp}
    if token is not None:
        added["x-amz-security-token"] = token
    given = {name.decode("ascii"): value.decode("ascii") for name, value in headers}
    request = AWSRequest("POST", url, {**given, **added})
    request.context["timestamp"] = timestamp
    signature = signer.signature(signer.string_to_sign(request, signer.canonical_request(request)), request)
    signed = signer.signed_headers(signer.headers_to_sign(request))
    added["authorization"] = (
        f"AWS4-HMAC-SHA256 Credential={signer.scope(request)}, SignedHeaders={signed}, Signature={signature}"
    )
    return tuple((name.encode("ascii"), value.encode("ascii")) for name, value in added.items())
