"""Whose credential goes where, and what each dialect makes of a refusal."""

from __future__ import annotations

import json

import pytest
from twisted.internet.defer import Deferred, fail, succeed
from zope.interface import implementer

from ccrelay.core.access import REFUSED
from ccrelay.core.model import ApiKey, CallKind, Credential, Headers, Usage
from ccrelay.core.outcomes import Outcome
from ccrelay.errors import CredentialError
from ccrelay.interfaces import ICredentials

from .scenarios import (
    DOOR,
    DOOR_KEY,
    Scene,
    Step,
    door,
    error,
    says,
    stream,
    upstream,
    whole,
)
from .scenarios_cases import (
    ANSWERED,
    BODY,
    CALLERS_FAULT,
    DEAD,
    ILL,
    LIMITED,
    OVERLOADED,
    TIRED,
    complaint,
    credentials_of,
    fingerprint_of,
    told,
)

# -- credentials

OPEN_TO_OWN = door(allow_subscription=True)
OWN = b"Bearer sk-ant-oat01-clients-own"
BETAS = b"claude-code-20250219,oauth-2025-04-20"
OWN_BESIDE_THE_DOORS = (*DOOR, (b"authorization", OWN), (b"anthropic-beta", BETAS))
OWN_ALONE = ((b"authorization", OWN), (b"anthropic-beta", BETAS))


@pytest.mark.parametrize("line", [(b"x-api-key", DOOR_KEY), (b"authorization", "Bearer " + DOOR_KEY)])
@pytest.mark.parametrize("setting", ["x-api-key", "bearer"])
def test_the_relays_own_key_stays_here_and_the_pooled_one_goes_in_its_configured_header(
    line: tuple[bytes, str], setting: str
) -> None:
    with Scene(upstream("north", stream(), auth_header=setting)) as scene:
        client = scene.call(BODY, headers=((line[0], line[1].encode()), (b"anthropic-beta", b"a,b")))
    expected = (b"x-api-key", b"k1") if setting == "x-api-key" else (b"authorization", b"Bearer k1")
    assert credentials_of(scene.requests[0].headers) == [expected]
    assert (b"anthropic-beta", b"a,b") in scene.requests[0].headers
    assert told(client)[0] is ANSWERED


def test_a_clients_own_credential_goes_to_anthropic_alone_and_unchanged_and_nowhere_else() -> None:
    with Scene(
        upstream("north", LIMITED, keys=["n1", "n2"], priority=2),
        upstream("zai", OVERLOADED, type="zai", keys=["z1"], priority=1),
        upstream("ollama", OVERLOADED, type="ollama", keys=[], priority=1),
        upstream("azure", stream(), type="azure", keys=["a1"]),
        auth=OPEN_TO_OWN,
    ) as scene:
        client = scene.call(BODY, headers=OWN_BESIDE_THE_DOORS)
    assert scene.asked == ["north sk-ant-oat01-clients-own", "zai z1", "ollama -", "azure a1"]
    assert credentials_of(scene.requests[0].headers) == [(b"authorization", OWN)]
    for exchange in scene.requests:
        assert (b"anthropic-beta", BETAS) in exchange.headers
        assert DOOR_KEY.encode() not in b"".join(value for _, value in exchange.headers)
    for exchange in scene.requests[1:]:
        assert OWN not in [value for _, value in exchange.headers]
    assert told(client) == (ANSWERED, 200, 4, "azure", fingerprint_of("a1"))


QUOTA = ((b"anthropic-ratelimit-unified-status", b"rejected"), (b"anthropic-organization-id", b"org"))


@pytest.mark.parametrize(("headers", "told_quota"), [(OWN_BESIDE_THE_DOORS, QUOTA), (DOOR, ())])
@pytest.mark.parametrize("answer", [stream(headers=QUOTA), error(429, "rate_limit_error", headers=QUOTA)])
def test_an_accounts_quota_is_told_to_whoever_owns_the_account(
    answer: Step, headers: Headers, told_quota: Headers
) -> None:
    with Scene(upstream("north", answer), auth=OPEN_TO_OWN) as scene:
        client = scene.call(BODY, headers=headers)
    assert tuple(line for line in client.headers if line in QUOTA) == told_quota


def test_a_client_that_has_only_its_own_credential_never_spends_a_pooled_key() -> None:
    with Scene(
        upstream("north", LIMITED, keys=["n1"], priority=1),
        upstream("zai", type="zai", keys=["z1"]),
        upstream("ollama", type="ollama", keys=[]),
        auth=OPEN_TO_OWN,
    ) as scene:
        client = scene.call(BODY, headers=OWN_ALONE)
    assert scene.asked == ["north sk-ant-oat01-clients-own"]
    assert client.view == (429, whole(LIMITED), "finished")
    assert told(client) == (TIRED, 429, 1, "north", None)
    assert client.record.principal is not None
    assert client.record.principal.own_credential_only


def test_a_client_that_has_only_its_own_credential_is_refused_where_nobody_takes_it() -> None:
    with Scene(upstream("zai", type="zai", keys=["z1"]), auth=OPEN_TO_OWN) as scene:
        client = scene.call(BODY, headers=OWN_ALONE)
    assert scene.requests == []
    assert (client.status, client.header(b"x-should-retry")) == (503, b"false")


@pytest.mark.parametrize("header", [b"x-api-key", b"authorization"])
def test_the_placeholder_is_never_forwarded(header: bytes) -> None:
    value = b"managed-by-cc-relay" if header == b"x-api-key" else b"Bearer managed-by-cc-relay"
    auth = door(api_key=None, allow_bearer=False, bearer_secret=None, allow_subscription=True)
    with Scene(upstream("north", stream(), keys=["n1"]), auth=auth) as scene:
        scene.call(BODY, headers=((header, value),))
    assert scene.asked == ["north n1"]
    assert credentials_of(scene.requests[0].headers) == [(b"x-api-key", b"n1")]


@pytest.mark.parametrize(
    ("type_", "status", "kind"), [("anthropic", 401, "authentication_error"), ("zai", 503, "api_error")]
)
def test_without_any_key_the_client_is_told_not_to_try_again(type_: str, status: int, kind: str) -> None:
    with Scene(upstream("north", type=type_, keys=[])) as scene:
        client = scene.call(BODY)
    assert scene.requests == []
    assert (client.status, complaint(client)[0]) == (status, kind)
    assert client.header(b"x-should-retry") == b"false"
    assert told(client) == (REFUSED, status, 0, None, None)
    assert client.record.model_asked == "claude-opus-5-5"


def test_a_provider_that_needs_no_key_is_asked_without_one() -> None:
    with Scene(upstream("ollama", stream(), type="ollama", keys=[])) as scene:
        client = scene.call(BODY)
    assert scene.asked == ["ollama -"]
    assert told(client) == (ANSWERED, 200, 1, "ollama", None)


@implementer(ICredentials)
class NoCredentials:
    def __init__(self, key: ApiKey) -> None:
        self._key = key

    def current(self) -> Deferred[Credential]:
        if self._key.secret.reveal() == "bad":
            return fail(CredentialError("the token endpoint refused the key; set a new one"))
        return succeed(self._key)

    def renew(self, refused: Credential) -> Deferred[Credential]:
        return self.current()


def test_a_provider_whose_secret_cannot_be_had_is_followed_by_the_next_and_its_key_is_not_to_blame() -> None:
    north = upstream("north", stream(), keys=["bad"], credentials=NoCredentials, priority=1)
    with Scene(north, upstream("south", stream(), stream(), keys=["s1"])) as scene:
        client = scene.call(BODY)
        assert scene.contenders["north"].pool is not None
        assert scene.contenders["north"].pool.available(scene.clock.seconds()) == 1
    assert scene.asked == ["south s1"]
    assert scene.attempts[0].reason == "the token endpoint refused the key; set a new one"
    assert told(client) == (ANSWERED, 200, 2, "south", fingerprint_of("s1"))


# -- count_tokens

COUNT = CallKind.COUNT_TOKENS


def test_tokens_are_counted_by_one_that_can() -> None:
    with Scene(
        upstream("zai", type="zai", priority=2),
        upstream("ollama", type="ollama", keys=[], priority=1),
        upstream("north", says(200, b'{"input_tokens": 2095}')),
    ) as scene:
        client = scene.call(BODY, kind=COUNT)
    assert scene.asked == ["north k1"]
    assert scene.requests[0].url == "https://north.test/v1/messages/count_tokens?beta=true"
    assert scene.requests[0].body == BODY
    assert client.view == (200, b'{"input_tokens": 2095}', "finished")
    assert told(client) == (ANSWERED, 200, 1, "north", fingerprint_of("k1"))
    assert client.record.kind is COUNT
    assert client.record.usage == Usage(), "nothing was spent"


def test_where_nobody_counts_tokens_the_client_is_told_so_for_good() -> None:
    with Scene(upstream("zai", type="zai"), upstream("ollama", type="ollama", keys=[])) as scene:
        client = scene.call(BODY, kind=COUNT)
    assert scene.requests == []
    assert (client.status, client.header(b"x-should-retry")) == (501, b"false")
    assert complaint(client) == ("not_supported", "cc-relay: zai has no count_tokens; ollama has no count_tokens")
    assert told(client) == (REFUSED, 501, 0, None, None)


def test_where_nobody_has_a_key_to_count_with_that_is_what_the_client_is_told() -> None:
    with Scene(upstream("north", keys=[])) as scene:
        client = scene.call(BODY, kind=COUNT)
    assert (client.status, client.header(b"x-should-retry")) == (401, b"false")


def test_a_count_that_fails_at_one_is_made_by_the_next() -> None:
    with Scene(
        upstream("north", OVERLOADED), upstream("azure", says(200, b'{"input_tokens": 7}'), type="azure", keys=["a1"])
    ) as scene:
        client = scene.call(BODY, kind=COUNT)
    assert scene.asked == ["north k1", "azure a1"]
    assert client.body == b'{"input_tokens": 7}'


# -- what the dialects say


def zai_error(code: str, status: int = 429) -> Step:
    error = {"code": code, "message": f"[{code}] Said so"}
    return says(status, json.dumps({"error": error, "request_id": "2026"}).encode())


@pytest.mark.parametrize(
    ("code", "asked", "outcome"),
    [
        ("1302", ["zai z1", "zai z2", "south s1"], TIRED),
        ("1308", ["zai z1", "zai z2", "south s1"], TIRED),
        ("1113", ["zai z1", "zai z2", "south s1"], DEAD),
        ("1313", ["zai z1", "zai z2", "south s1"], DEAD),
        ("1305", ["zai z1", "south s1"], ILL),
        ("1211", ["zai z1"], CALLERS_FAULT),
        ("1301", ["zai z1"], CALLERS_FAULT),
    ],
)
def test_a_429_of_zai_means_what_its_code_says(code: str, asked: list[str], outcome: Outcome) -> None:
    south = upstream("south", OVERLOADED, keys=["s1"])
    with Scene(upstream("zai", zai_error(code), zai_error(code), type="zai", keys=["z1", "z2"]), south) as scene:
        client = scene.call(BODY)
    assert scene.asked == asked
    assert credentials_of(scene.requests[0].headers) == [(b"authorization", b"Bearer z1")]
    if len(asked) == 1:
        assert complaint(client)[1] == f"[{code}] Said so"
        assert told(client)[0] is outcome
    else:
        assert scene.attempts[0].outcome is outcome
        assert code in str(scene.attempts[0].reason)


def test_an_unpaid_zai_account_is_no_429_that_a_client_waits_for() -> None:
    with Scene(upstream("zai", zai_error("1113"), type="zai", keys=["z1"])) as scene:
        client = scene.call(BODY)
    assert (client.status, client.header(b"x-should-retry")) == (429, b"false")
    assert complaint(client) == ("billing_error", "[1113] Said so")


def test_a_model_that_ollama_does_not_have_is_the_callers_fault_and_a_path_it_does_not_have_is_not() -> None:
    pulled = error(404, "not_found_error", 'model "claude-opus-5-5" not found')
    with Scene(upstream("ollama", pulled, type="ollama", keys=[]), upstream("south")) as scene:
        client = scene.call(BODY)
    assert scene.asked == ["ollama -"]
    assert client.view == (404, whole(pulled), "finished")
    old = Step(404, ((b"content-type", b"text/plain"),), ((0.0, b"404 page not found"),))
    with Scene(upstream("ollama", old, type="ollama", keys=[]), upstream("south", stream())) as scene:
        client = scene.call(BODY)
    assert scene.asked == ["ollama -", "south k1"]
    assert told(client)[0] is ANSWERED


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed_and_its_target_not_told(status: int) -> None:
    headers = ((b"location", b"https://elsewhere.test/?token=s3cret"), (b"content-type", b"text/html"))
    with Scene(upstream("north", Step(status, headers))) as scene:
        client = scene.call(BODY)
    assert scene.asked == ["north k1"]
    assert client.status == 502
    assert "a redirect" in complaint(client)[1]
    assert b"s3cret" not in client.body + repr(client.headers).encode()
    assert "s3cret" not in repr(client.record)
