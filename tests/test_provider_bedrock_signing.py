"""Signatures against botocore's own ``add_auth`` at the same moment, over the request as it would leave."""

from __future__ import annotations

import hashlib
import json
import unittest
from datetime import UTC, datetime
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccrelay.core.model import AwsKeys, CallKind, Edit, Headers, UpstreamRequest
from ccrelay.core.secret import Secret
from ccrelay.providers.bedrock_signing import body_hash
from tests.test_edits import ArrivingBody, edited_bodies, spliced
from tests.test_provider_bedrock import bedrock, prepared
from tests.test_provider_bedrock_mantle import mantle

auth = pytest.importorskip("botocore.auth")

NOW = 1_800_000_000.0
LASTING = AwsKeys(Secret("AKIAEXAMPLE"), Secret("wJalr/+secret"), None)
PASSING = AwsKeys(Secret("ASIAEXAMPLE"), Secret("other+secret"), Secret("FwoGZXIvYXdzEB//token=="))
UNSIGNED = {b"accept-encoding", b"authorization"}


def botocores(url: str, headers: Headers, body: bytes, keys: AwsKeys, region: str, service: str) -> dict[str, str]:
    """The header lines of the same request, signed by botocore alone."""
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials

    token = keys.session_token.reveal() if keys.session_token else None
    credentials = Credentials(keys.access_key_id.reveal(), keys.secret_access_key.reveal(), token)
    request = AWSRequest("POST", url, {name.decode(): value.decode() for name, value in headers}, data=body)
    moment = datetime.fromtimestamp(NOW, UTC)

    class Stopped:
        def __getattr__(self, name: str) -> Any:
            return getattr(datetime, name)

        @staticmethod
        def utcnow() -> datetime:
            return moment

    class Clock:
        def __getattr__(self, name: str) -> Any:
            return Stopped() if name == "datetime" else getattr(datetime, name)

    name, stand_in = (
        ("get_current_datetime", lambda: moment) if hasattr(auth, "get_current_datetime") else ("datetime", Clock())
    )
    with patch.object(auth, name, stand_in):
        auth.SigV4Auth(credentials, service, region).add_auth(request)
    return {key.lower(): value for key, value in request.headers.items()}


def assert_as_botocore(request: UpstreamRequest, body: bytes, signed: set[bytes], keys: AwsKeys, service: str) -> None:
    content = hashlib.sha256(spliced(body, list(request.edits))).hexdigest()
    ours = dict(request.headers)
    assert ours[b"x-amz-content-sha256"].decode() == content
    given = tuple((name, value) for name, value in request.headers if name in signed)
    expected = botocores(
        request.url.decode(),
        (*given, (b"x-amz-content-sha256", content.encode())),
        spliced(body, list(request.edits)),
        keys,
        "eu-west-1",
        service,
    )
    assert ours[b"authorization"].decode() == expected["authorization"]
    assert ours[b"x-amz-date"].decode() == expected["x-amz-date"] == "20270115T080000Z"
    assert ours.get(b"x-amz-security-token", b"").decode() == expected.get("x-amz-security-token", "")
    assert len([name for name, _ in request.headers if name == b"authorization"]) == 1


MODELS = (
    st.text(min_size=1, max_size=12)
    .filter(str.isprintable)
    .filter(lambda model: model not in (".", "..") and ";" not in model and not model.startswith("arn:"))
)
BODIES = st.dictionaries(
    st.sampled_from(["stream", "tags", "messages", "anthropic_version", "max_tokens"]),
    st.sampled_from([True, "h\u00e9", [{"role": "user"}], 5]),
).map(lambda members: json.dumps({"model": "m", **members}, ensure_ascii=False).encode())
OPTIONS = st.sampled_from(
    [(), ((b"x-amzn-bedrock-trace", b"ENABLED"),), ((b"x-amzn-bedrock-guardrailidentifier", b"a  b"), (b"x-new", b"1"))]
)


class SignatureTests(unittest.TestCase):
    @given(MODELS, BODIES, st.sampled_from([LASTING, PASSING]), OPTIONS, st.sampled_from(CallKind))
    def test_it_is_botocores(self, model: str, body: bytes, keys: AwsKeys, options: Headers, kind: CallKind) -> None:
        request = prepared(
            body, provider=bedrock("eu-west-1"), model=model, credential=keys, headers=options, kind=kind
        )
        assert_as_botocore(request, body, {name for name, _ in request.headers} - UNSIGNED, keys, "bedrock")

    @given(BODIES, st.sampled_from([LASTING, PASSING]), st.sampled_from([b"", b"beta=true", b"a=%20&beta=true"]))
    def test_it_is_botocores_for_mantle_too(self, body: bytes, keys: AwsKeys, query: bytes) -> None:
        headers = ((b"content-type", b"application/json"), (b"user-agent", b"claude-cli"), (b"x-n", b"h\xe9"))
        request = prepared(
            body,
            provider=mantle("eu-west-1"),
            model="anthropic.claude-opus-5-5",
            credential=keys,
            headers=headers,
            query=query,
        )
        assert_as_botocore(
            request, body, {b"content-type", b"x-amz-date", b"x-amz-security-token"}, keys, "bedrock-mantle"
        )

    def test_a_private_endpoint_with_a_port_is_signed_by_its_name(self) -> None:
        provider = bedrock("eu-west-1", base_url="http://127.0.0.1:8099/prefix")
        request = prepared(b'{"model":"m"}', provider=provider, credential=PASSING)
        assert_as_botocore(
            request, b'{"model":"m"}', {name for name, _ in request.headers} - UNSIGNED, PASSING, "bedrock"
        )

    def test_each_attempt_is_signed_anew(self) -> None:
        provider = bedrock("eu-west-1")
        one = prepared(b'{"model":"m"}', provider=provider, credential=LASTING)
        other = prepared(b'{"model":"m"}', provider=provider, credential=PASSING)
        self.assertNotEqual(dict(one.headers)[b"authorization"], dict(other.headers)[b"authorization"])
        self.assertNotIn(b"x-amz-security-token", dict(one.headers))

    def test_no_secret_is_sent(self) -> None:
        request = prepared(b'{"model":"m"}', credential=PASSING)
        self.assertNotIn(b"other+secret", b" ".join(value for _, value in request.headers))

    @given(edited_bodies(), st.lists(st.integers(0, 60)))
    def test_the_hash_is_of_the_body_that_is_sent(self, edited: tuple[bytes, list[Edit]], cuts: list[int]) -> None:
        data, edits = edited
        body = ArrivingBody(data, cuts)
        body.received, body.complete = len(data), True
        self.assertEqual(body_hash(body, edits), hashlib.sha256(spliced(data, edits)).hexdigest())
