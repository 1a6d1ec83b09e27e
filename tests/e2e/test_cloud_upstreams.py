"""The clouds' stand-ins themselves: they let in what is signed, and nothing that is forged, stale or double."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlencode

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from tests.e2e import answers
from tests.e2e.azure_upstream import API_KEY, CLIENT, CLIENT_SECRET, IDENTITY_HEADER, IDENTITY_PATH, LOGIN_PATH, PREFIX
from tests.e2e.cloud_process import AzureUpstream, CloudUpstream, VertexUpstream, predict, tokens
from tests.e2e.cloud_samples import CONVERSATION
from tests.e2e.raw_client import Reply, ask, request_head
from tests.e2e.upstream_process import MESSAGES
from tests.e2e.vertex_upstream import ACCOUNT, COUNTING_REGION, KEY_ID, PROJECT, SCOPE, TOKEN_PATH

MODEL = "claude-opus-5-5"
STREAM = predict(MODEL)
GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"
BODY = b'{"anthropic_version":"vertex-2023-10-16","stream":true,"messages":[]}'

Lines = list[tuple[str, str]]


@pytest.fixture(scope="module")
def vertex_process() -> Iterator[VertexUpstream]:
    with VertexUpstream() as started:
        yield started


@pytest.fixture
def vertex(vertex_process: VertexUpstream) -> VertexUpstream:
    vertex_process.fresh()
    return vertex_process


@pytest.fixture(scope="module")
def azure_process() -> Iterator[AzureUpstream]:
    with AzureUpstream() as started:
        yield started


@pytest.fixture
def azure(azure_process: AzureUpstream) -> AzureUpstream:
    azure_process.fresh()
    return azure_process


def sent(upstream: CloudUpstream, target: str, lines: Lines, body: bytes = b"", method: str = "POST") -> Reply:
    head = [("Host", f"127.0.0.1:{upstream.port}"), ("Content-Length", str(len(body))), *lines]
    return ask(upstream.port, request_head(method, target, head) + body)


def part(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def assertion(vertex: VertexUpstream, key: Any = None, said: Mapping[str, Any] | None = None, **claims: Any) -> str:
    """A signed assertion, right but for what is given."""
    now = int(time.time())
    head = {"alg": "RS256", "typ": "JWT", "kid": KEY_ID, **(said or {})}
    right = {"iss": ACCOUNT, "aud": vertex.url + TOKEN_PATH, "scope": SCOPE, "iat": now, "exp": now + 3600}
    signed = f"{part(json.dumps(head).encode())}.{part(json.dumps({**right, **claims}).encode())}"
    signer: Any = key or serialization.load_pem_private_key(vertex.told["private_key"].encode(), None)
    return f"{signed}.{part(signer.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256()))}"


def asked_token(vertex: VertexUpstream, text: str, grant: str = GRANT) -> Reply:
    return sent(vertex, TOKEN_PATH, [], urlencode({"grant_type": grant, "assertion": text}).encode())


def test_each_assertion_of_the_account_gets_a_token_of_its_own(vertex: VertexUpstream) -> None:
    found = [asked_token(vertex, assertion(vertex)).json["access_token"] for _ in range(2)]
    assert len(set(found)) == 2


@pytest.mark.parametrize(
    "claims",
    [
        {"iss": "somebody@else.iam.gserviceaccount.com"},
        {"aud": "https://elsewhere.example/token"},
        {"scope": "https://www.googleapis.com/auth/devstorage.read_only"},
        {"exp": 1},
        {"iat": 4_000_000_000, "exp": 4_000_003_600},
        {"exp": 4_000_000_000},
    ],
    ids=lambda claims: "-".join(claims),
)
def test_an_assertion_for_something_else_gets_none(vertex: VertexUpstream, claims: dict[str, Any]) -> None:
    reply = asked_token(vertex, assertion(vertex, **claims))
    assert (reply.status, reply.json["error"]) == (400, "invalid_grant")


def test_a_forged_assertion_gets_none(vertex: VertexUpstream) -> None:
    other = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    good = assertion(vertex)
    changed = good.split(".")
    changed[1] = part(base64.urlsafe_b64decode(changed[1] + "==").replace(b"relay@", b"other@"))
    for text in (assertion(vertex, other), ".".join(changed), good + "x", "", assertion(vertex, said={"kid": "0"})):
        assert asked_token(vertex, text).status == 400, text
    assert asked_token(vertex, good, grant="client_credentials").status == 400


def token(vertex: VertexUpstream) -> Lines:
    return [("Authorization", f"Bearer {asked_token(vertex, assertion(vertex)).json['access_token']}")]


def test_a_token_is_good_until_it_ends_or_is_revoked(vertex: VertexUpstream) -> None:
    vertex.route(CONVERSATION, path=STREAM)
    good = token(vertex)
    assert sent(vertex, STREAM, good, BODY).status == 200
    vertex.route(tokens(-1), path=TOKEN_PATH)
    assert sent(vertex, STREAM, token(vertex), BODY).status == 401
    vertex.revoke()
    assert sent(vertex, STREAM, good, BODY).json[0]["error"]["status"] == "UNAUTHENTICATED"


@pytest.mark.parametrize(
    ("target", "body", "status"),
    [
        (STREAM.replace(PROJECT, "another"), BODY, 403),
        (STREAM.replace(MODEL, "claude-unheard-of"), BODY, 404),
        (predict(MODEL, region=COUNTING_REGION), BODY, 404),
        (predict("count-tokens", "rawPredict"), BODY, 404),
        (STREAM + "?beta=true", BODY, 404),
        (STREAM.replace(":", "%3A"), BODY, 404),
        (STREAM, BODY.replace(b"true", b"false"), 400),
        (predict(MODEL, "rawPredict"), BODY, 400),
        (STREAM, BODY.replace(b"anthropic_version", b"version"), 400),
        (STREAM, BODY.replace(b'"messages"', b'"model":"claude-opus-5-5","messages"'), 400),
        (predict("count-tokens", "rawPredict", COUNTING_REGION), BODY.replace(b"true", b"false"), 400),
    ],
)
def test_vertex_lets_in_what_is_asked_rightly_only(
    vertex: VertexUpstream, target: str, body: bytes, status: int
) -> None:
    vertex.route(CONVERSATION, path=target)
    assert sent(vertex, target, token(vertex), body).status == status
    assert vertex.calls()[0].refusal is not None


@pytest.mark.parametrize("more", [("x-api-key", "k"), ("x-goog-api-key", "k"), ("Authorization", "Bearer k")])
def test_vertex_takes_one_credential(vertex: VertexUpstream, more: tuple[str, str]) -> None:
    vertex.route(CONVERSATION, path=STREAM)
    assert sent(vertex, STREAM, [*token(vertex), more], BODY).status == 401


# -- Azure

RIGHT = {
    "grant_type": "client_credentials",
    "client_id": CLIENT,
    "client_secret": CLIENT_SECRET,
    "scope": "https://ai.azure.com/.default",
}
IDENTITY = "?api-version=2019-08-01&resource=https%3A%2F%2Fai.azure.com"


def test_azure_issues_tokens_to_the_application_and_to_the_machine(azure: AzureUpstream) -> None:
    replies = [
        sent(azure, LOGIN_PATH, [], urlencode(RIGHT).encode()),
        sent(azure, IDENTITY_PATH + IDENTITY, [("X-IDENTITY-HEADER", IDENTITY_HEADER)], method="GET"),
    ]
    azure.route(CONVERSATION, path=PREFIX + MESSAGES)
    for reply in replies:
        lines = [("Authorization", f"Bearer {reply.json['access_token']}"), ("anthropic-version", "2023-06-01")]
        assert sent(azure, PREFIX + MESSAGES, lines, b'{"model":"prod-opus"}').status == 200


@pytest.mark.parametrize("wrong", RIGHT)
def test_azure_refuses_an_application_that_says_something_else(azure: AzureUpstream, wrong: str) -> None:
    assert sent(azure, LOGIN_PATH, [], urlencode({**RIGHT, wrong: "x"}).encode()).status in (400, 401)


@pytest.mark.parametrize(
    ("query", "header"),
    [(IDENTITY, "x"), (IDENTITY.replace("2019", "2018"), IDENTITY_HEADER), (IDENTITY + "x", IDENTITY_HEADER)],
)
def test_azure_refuses_a_machine_that_asks_otherwise(azure: AzureUpstream, query: str, header: str) -> None:
    reply = sent(azure, IDENTITY_PATH + query, [("X-IDENTITY-HEADER", header)], method="GET")
    assert reply.status in (400, 401)


KEY_LINE = ("x-api-key", API_KEY)
VERSION = ("anthropic-version", "2023-06-01")


@pytest.mark.parametrize(
    ("lines", "model", "status"),
    [
        ([KEY_LINE, VERSION], MODEL, 200),
        ([KEY_LINE, ("api-key", API_KEY), VERSION], MODEL, 200),
        ([VERSION], MODEL, 401),
        ([KEY_LINE, ("Authorization", "Bearer x"), VERSION], MODEL, 401),
        ([KEY_LINE, ("api-key", "another"), VERSION], MODEL, 401),
        ([("x-api-key", "another"), VERSION], MODEL, 401),
        ([("Authorization", f"Bearer {API_KEY}"), VERSION], MODEL, 401),
        ([KEY_LINE], MODEL, 400),
        ([KEY_LINE, VERSION], "claude-unheard-of", 404),
    ],
)
def test_azure_lets_in_one_credential_and_its_own_deployments(
    azure: AzureUpstream, lines: Lines, model: str, status: int
) -> None:
    azure.route(answers.as_json({}), path=PREFIX + MESSAGES)
    assert sent(azure, PREFIX + MESSAGES, lines, json.dumps({"model": model}).encode()).status == status
