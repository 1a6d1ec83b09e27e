"""Refusals that the relay mends itself: a credential that has run out, and fields that an upstream does not take."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from twisted.internet.defer import Deferred, fail, succeed
from zope.interface import implementer

from ccrelay.core.headers import first
from ccrelay.core.model import ApiKey, Credential
from ccrelay.core.outcomes import Outcome
from ccrelay.core.secret import Secret
from ccrelay.core.settings import HealthSettings
from ccrelay.errors import CredentialError
from ccrelay.interfaces import ICredentials

from .scenarios import DOOR, Scene, Step, door, error, message, stream, upstream
from .scenarios_cases import DEAD, GONE, ILL, LIMITED, OVERLOADED, ask, complaint, say

UNAUTHORIZED = error(401, "authentication_error", "the security token is expired")
OUTAGE = HealthSettings(1000, 30.0, 3, True, 10.0)


@implementer(ICredentials)
class Tokens:
    """Gives the first, and another one each time one is refused; a CredentialError in their place is raised."""

    def __init__(self, tokens: Sequence[str | CredentialError | None]) -> None:
        self._tokens = [*tokens]
        self.refused: list[str] = []
        self.given_up = 0

    def __call__(self, key: ApiKey) -> Tokens:
        return self

    def current(self) -> Deferred[Credential]:
        token = self._tokens[0]
        if token is None:
            return Deferred(self._give_up)
        return fail(token) if isinstance(token, CredentialError) else succeed(ApiKey(Secret(token)))

    def renew(self, refused: Credential) -> Deferred[Credential]:
        assert isinstance(refused, ApiKey)
        self.refused.append(refused.secret.reveal())
        del self._tokens[0]
        return self.current()

    def _give_up(self, waiting: Deferred[Credential]) -> None:
        self.given_up += 1
        waiting.errback(CredentialError("the token endpoint did not answer"))


def cloud(tokens: Tokens, *steps: Step, **options: object) -> Scene:
    """Bedrock, whose keys stand for tokens that somebody issues, before Anthropic's own API."""
    bedrock = upstream("bedrock", *steps, type="bedrock", keys=["id"], credentials=tokens, priority=1)
    return Scene(bedrock, upstream("north", *[stream()] * 9), **options)  # type: ignore[arg-type]


def outcomes(scene: Scene) -> list[Outcome | None]:
    return [attempt.outcome for attempt in scene.attempts]


def available(scene: Scene, name: str = "bedrock") -> int:
    pool = scene.contenders[name].pool
    assert pool is not None
    return pool.available(scene.clock.seconds())


def test_a_credential_that_is_refused_is_renewed_once_and_the_same_provider_asked_again() -> None:
    tokens = Tokens(["old", "new"])
    with cloud(tokens, UNAUTHORIZED, message(), message()) as scene:
        client = ask(scene)
        ask(scene, "again")
    assert scene.asked == ["bedrock old", "bedrock new", "bedrock new"]
    assert tokens.refused == ["old"]
    assert client.status == 200
    assert outcomes(scene) == [DEAD, None, None]
    assert list(scene.attempts[1].changed) == ["the refused credential"]
    assert available(scene) == 1


def test_a_renewed_credential_that_is_refused_too_parks_it() -> None:
    with cloud(Tokens(["old", "new"]), UNAUTHORIZED, UNAUTHORIZED) as scene:
        client = ask(scene)
    assert scene.asked == ["bedrock old", "bedrock new", "north k1"]
    assert client.status == 200
    assert available(scene) == 0


def test_where_no_other_credential_is_to_be_had_the_refusal_stands() -> None:
    nothing = CredentialError("the credentials were refused", "role arn:secret was refused")
    with cloud(Tokens(["old", nothing]), UNAUTHORIZED) as scene:
        ask(scene)
    assert scene.asked == ["bedrock old", "north k1"]
    assert available(scene) == 0
    assert any("role arn:secret was refused" in line for line in scene.logged), "the operator is told"


def test_a_source_that_brings_no_other_credential_now_is_asked_again_by_the_next_call() -> None:
    """Only a key in the configuration waits for a person; who issues tokens may be back in a minute."""
    unreachable = CredentialError("the token endpoint did not answer")
    tokens = Tokens(["old", unreachable])
    bedrock = upstream("bedrock", UNAUTHORIZED, type="bedrock", keys=[], credentials=tokens, priority=1)
    with Scene(bedrock, upstream("north", stream())) as scene:
        ask(scene)
        assert available(scene) == 1
    assert scene.asked == ["bedrock old", "north k1"]
    assert scene.contenders["bedrock"].breaker.failures == 0


def test_a_credential_that_was_renewed_too_late_to_be_tried_is_not_parked() -> None:
    """Its fresh successor may be as good as any: only the call has no attempt left."""
    with cloud(Tokens(["old", "new"]), UNAUTHORIZED, message(), max_attempts=1) as scene:
        refused = ask(scene)
        assert available(scene) == 1
        assert ask(scene, "next").status == 200
    assert refused.status == 401
    assert scene.asked == ["bedrock old", "bedrock new"]


@pytest.mark.parametrize("refused", [False, True], ids=["first", "renewed"])
def test_a_client_that_leaves_during_a_fetch_leaves_nobody_to_blame(refused: bool) -> None:
    tokens = Tokens(["old", None] if refused else [None])
    with cloud(tokens, *[UNAUTHORIZED] * refused) as scene:
        client = ask(scene)
        client.leave()
        assert client.settled
    assert tokens.given_up == 1
    assert outcomes(scene) == ([DEAD] if refused else [GONE])
    assert available(scene) == 1
    assert scene.contenders["bedrock"].breaker.failures == 0
    assert len(scene.requests) == refused


def test_a_fetch_that_takes_too_long_for_its_call_counts_against_the_provider() -> None:
    with cloud(Tokens([None]), timeout=5.0) as scene:
        client = ask(scene)
        scene.advance(5.0)
    assert client.status == 504
    assert scene.contenders["bedrock"].breaker.failures == 1
    assert available(scene) == 1


def test_a_clients_own_credential_is_renewed_by_nobody_but_the_client() -> None:
    own = ((b"authorization", b"Bearer sk-ant-oat01-own"),)
    with Scene(upstream("north", UNAUTHORIZED), auth=door(allow_subscription=True)) as scene:
        client = ask(scene, headers=own)
    assert len(scene.requests) == 1
    assert (client.status, client.body) == (401, UNAUTHORIZED.pieces[0][1])


# -- fields and betas

BETA = b"context-management-2025-06-27"
WITH_BETA = (*DOOR, (b"anthropic-beta", b"interleaved-thinking-2025-05-14," + BETA))
REFUSES = error(
    400, "invalid_request_error", "Unexpected value(s) `context-management-2025-06-27` for the `anthropic-beta` header"
)
FIELD = error(400, "invalid_request_error", "context_management: Extra inputs are not permitted")


def managed(text: str) -> bytes:
    return say(text, context_management={"edits": []})


def azure(*steps: Step, **options: object) -> Scene:
    return Scene(upstream("azure", *steps, type="azure", keys=["a1"]), **options)  # type: ignore[arg-type]


def sent(scene: Scene) -> list[tuple[bool, bool]]:
    """Of each request: whether the beta was in it, and whether its field was."""
    return [
        (BETA in (first(exchange.headers, b"anthropic-beta") or b""), b"context_management" in exchange.body)
        for exchange in scene.requests
    ]


@pytest.mark.parametrize("refusal", [REFUSES, FIELD], ids=["the beta", "the field"])
def test_what_an_upstream_refuses_is_left_out_with_its_pair_and_not_sent_again_for_a_day(refusal: Step) -> None:
    """Lesson 8."""
    with azure(refusal, *[stream()] * 2, refusal, stream()) as scene:
        client = ask(scene, managed("one"), headers=WITH_BETA)
        scene.advance(86_399.0)
        ask(scene, managed("two"), headers=WITH_BETA)
        scene.advance(1.0)
        ask(scene, managed("three"), headers=WITH_BETA)
    whole, less = (True, True), (False, False)
    assert sent(scene) == [whole, less, less, whole, less]
    assert client.status == 200
    assert b"interleaved-thinking-2025-05-14" in (first(scene.requests[1].headers, b"anthropic-beta") or b"")
    assert "context-management" in scene.attempts[1].changed
    assert len([line for line in scene.logged if "left out for a day" in line]) == 2


def test_what_did_not_help_is_not_remembered() -> None:
    with azure(REFUSES, OVERLOADED, stream()) as scene:
        ask(scene, managed("one"), headers=WITH_BETA)
        ask(scene, managed("two"), headers=WITH_BETA)
    assert sent(scene) == [(True, True), (False, False), (True, True)]


def test_a_refusal_of_what_was_left_out_already_is_told_and_not_asked_again() -> None:
    with azure(REFUSES, stream(), REFUSES) as scene:
        ask(scene, managed("one"), headers=WITH_BETA)
        client = ask(scene, managed("two"), headers=WITH_BETA)
    assert len(scene.requests) == 3
    assert (client.status, client.body) == (400, REFUSES.pieces[0][1])


def test_a_second_refusal_is_told_as_it_is() -> None:
    other = error(
        400, "invalid_request_error", "Unexpected value(s) `effort-2025-11-24` for the `anthropic-beta` header"
    )
    with azure(REFUSES, other) as scene:
        client = ask(scene, managed("one"), headers=WITH_BETA)
    assert (client.status, client.body) == (400, other.pieces[0][1])


def test_a_mended_call_is_as_good_as_any_for_whoever_is_tried_after_it() -> None:
    with Scene(
        upstream("azure", REFUSES, OVERLOADED, type="azure", keys=["a1"], priority=1), upstream("north", stream())
    ) as scene:
        ask(scene, managed("one"), headers=WITH_BETA)
    assert sent(scene) == [(True, True), (False, False), (True, True)]


def test_a_lone_providers_last_word_is_told_after_a_mended_attempt() -> None:
    with azure(REFUSES, OVERLOADED) as scene:
        client = ask(scene, managed("one"), headers=WITH_BETA)
    assert (client.status, client.body) == (529, OVERLOADED.pieces[0][1])


def test_mending_stays_within_what_a_call_may_attempt() -> None:
    with Scene(
        upstream("north", OVERLOADED, priority=2),
        upstream("azure", REFUSES, type="azure", keys=["a1"], priority=1),
        max_attempts=2,
    ) as scene:
        client = ask(scene, managed("one"), headers=WITH_BETA)
    assert len(scene.requests) == 2
    assert client.status == 400


def test_mending_is_an_extra_attempt_in_the_budget_of_all_calls() -> None:
    """Lesson 23: an upstream that refuses everything costs ten more requests a minute, not one for each call."""
    other = error(400, "invalid_request_error", "context_management.edits: Extra inputs are not permitted")
    steps = [step for _ in range(10) for step in (REFUSES, other)]
    with azure(*steps, *[REFUSES] * 5) as scene:
        for number in range(15):
            assert ask(scene, managed(str(number)), headers=WITH_BETA).status == 400
    assert len(scene.requests) == 25


def test_a_clients_own_repetition_may_be_mended_too() -> None:
    body = managed("one")
    with azure(OVERLOADED, OVERLOADED, OVERLOADED, OVERLOADED, REFUSES, stream(), health=OUTAGE) as scene:
        for _ in range(4):
            ask(scene, body, headers=WITH_BETA)
        client = ask(scene, body, headers=WITH_BETA)
    assert client.status == 200
    assert len(scene.requests) == 6


def test_at_anthropic_a_400_about_a_beta_is_the_clients_to_mend() -> None:
    with Scene(upstream("north", REFUSES)) as scene:
        client = ask(scene, managed("one"), headers=WITH_BETA)
    assert len(scene.requests) == 1
    assert (client.status, client.body) == (400, REFUSES.pieces[0][1])


def test_without_any_way_to_mend_it_a_tired_key_is_followed_by_the_next_provider() -> None:
    with cloud(Tokens(["old"]), LIMITED) as scene:
        client = ask(scene)
    assert scene.asked == ["bedrock old", "north k1"]
    assert client.status == 200


def test_a_secret_that_cannot_be_had_says_why_where_nobody_else_can_answer() -> None:
    broken = CredentialError("the metadata server did not answer; check the role", "http://169.254.169.254 timed out")
    tokens = Tokens([broken])
    bedrock = upstream("bedrock", type="bedrock", keys=["id"], credentials=tokens)
    with Scene(bedrock) as scene:
        client = ask(scene)
    assert client.status == 502
    assert complaint(client) == (
        "api_error",
        "cc-relay: bedrock: the metadata server did not answer; check the role",
    )
    assert outcomes(scene) == [ILL]
    assert scene.attempts[0].status is None
