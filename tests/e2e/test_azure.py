"""Azure AI Foundry from end to end: keys and Entra ID's tokens, deployments, and what clients see of Azure's errors."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.e2e import answers
from tests.e2e.answers import Answer
from tests.e2e.azure_upstream import (
    API_KEY,
    CLIENT,
    CLIENT_SECRET,
    IDENTITY_HEADER,
    IDENTITY_PATH,
    LOGIN_PATH,
    PREFIX,
    SUBSCRIPTION,
    TENANT,
    azure_error,
)
from tests.e2e.azure_upstream import AzureUpstream as Standin
from tests.e2e.cloud_process import AzureUpstream, azure_entry, azure_environ, tokens
from tests.e2e.cloud_samples import BLOCKS, CONVERSATION, STREAMS, as_answer, at_once, error_of, leaks, refusal_of_pair
from tests.e2e.raw_client import Client, ask, body_for, post
from tests.e2e.relay_process import Relay, config, provider
from tests.e2e.upstream_process import COUNT_TOKENS, MESSAGES, Upstream

CALLS = PREFIX + MESSAGES
COUNT = PREFIX + COUNT_TOKENS
SECRETS = (API_KEY, CLIENT_SECRET, IDENTITY_HEADER, Standin.prefix)
IDENTIFYING = (*SECRETS, SUBSCRIPTION, TENANT, CLIENT)
WAYS = ("key", "application", "identity")
TOKEN_PATHS = {"application": LOGIN_PATH, "identity": IDENTITY_PATH}


@pytest.fixture(scope="module")
def process() -> Iterator[AzureUpstream]:
    with AzureUpstream() as started:
        yield started


@pytest.fixture
def azure(process: AzureUpstream) -> AzureUpstream:
    process.fresh()
    return process


def relay_by(azure: AzureUpstream, how: str) -> Relay:
    return Relay(config([azure_entry(azure, how)]), None, **azure_environ(azure))


@pytest.fixture(scope="module")
def relays(process: AzureUpstream) -> Iterator[dict[str, Relay]]:
    with ExitStack() as stack:
        yield {how: stack.enter_context(relay_by(process, how)) for how in WAYS}


@pytest.fixture
def relay(relays: dict[str, Relay]) -> Relay:
    """One that has the resource's key."""
    return relays["key"]


# -- answers


@pytest.mark.parametrize("what", STREAMS)
def test_a_stream_arrives_as_the_models_sent_it(relay: Relay, azure: AzureUpstream, what: str) -> None:
    answer = answers.streamed(STREAMS[what])
    azure.queue(answer, path=CALLS)
    reply = ask(relay.port, post(body_for()))
    assert (reply.status, reply.ending, reply.body) == (200, "complete", answer.body)


@pytest.mark.parametrize("how", WAYS)
def test_every_way_in_is_the_only_one_that_is_shown(relays: dict[str, Relay], azure: AzureUpstream, how: str) -> None:
    azure.queue(CONVERSATION, path=CALLS)
    body = body_for(stream=False, odd=[1e2, "\u00e9"])
    reply = ask(relays[how].port, post(body, target=MESSAGES + "?beta=true"))
    assert (reply.status, reply.json) == (200, answers.message(BLOCKS))
    [seen] = azure.calls()
    assert (seen.refusal, seen.target) == (None, CALLS + "?beta=true")
    assert azure.body(seen.index) == body
    assert bool(seen.header("authorization")) == (how != "key")
    assert leaks(relays[how], [reply], IDENTIFYING, SECRETS) == []


@pytest.mark.parametrize("how", WAYS)
def test_tokens_are_counted(relays: dict[str, Relay], azure: AzureUpstream, how: str) -> None:
    azure.queue(answers.as_json({"input_tokens": 815}), path=COUNT)
    body = json.dumps({"model": "claude-opus-5-5", "messages": [{"role": "user", "content": "hi"}]}).encode()
    reply = ask(relays[how].port, post(body, target=COUNT_TOKENS))
    assert (reply.status, reply.json) == (200, {"input_tokens": 815})


def test_a_deployment_takes_every_model_but_the_mapped_ones(azure: AzureUpstream) -> None:
    more = {"azure_deployment_id": "prod-opus", "model_mapping": {"claude-haiku-*": "claude-haiku-5-5"}}
    azure.route(CONVERSATION, path=CALLS)
    with Relay(config([azure_entry(azure, "key", azure_api_version="2031-01-01", **more)])) as relay:
        for model in ("claude-opus-5-5", "claude-haiku-4"):
            assert ask(relay.port, post(body_for(model=model))).status == 200
    assert [azure.body_of(seen)["model"] for seen in azure.calls()] == ["prod-opus", "claude-haiku-5-5"]
    assert {seen.target for seen in azure.calls()} == {CALLS + "?api-version=2031-01-01"}


# -- tokens


@pytest.mark.parametrize("how", TOKEN_PATHS)
def test_a_hundred_calls_whose_token_is_refused_at_once_share_one_new_token(
    relays: dict[str, Relay], azure: AzureUpstream, how: str
) -> None:
    relay = relays[how]
    azure.route(CONVERSATION, path=CALLS)
    assert ask(relay.port, post(body_for())).status == 200
    azure.fresh()
    azure.route(CONVERSATION, path=CALLS)
    azure.route(tokens(3599, ["gate", "token"]), path=TOKEN_PATHS[how])
    azure.revoke()

    def refused() -> None:
        azure.until(complete=101, gates=["token"])
        azure.release("token")

    replies = at_once(relay, [post(body_for()) for _ in range(100)], refused)
    assert [reply.status for reply in replies] == [200] * 100
    assert len(azure.token_requests()) == 1
    assert [seen.refusal is None for seen in azure.calls()] == [False] * 100 + [True] * 100
    assert leaks(relay, replies, IDENTIFYING, SECRETS) == []


def test_calls_wait_for_the_first_token_and_share_it(azure: AzureUpstream) -> None:
    azure.route(tokens(3599, ["gate", "slow"]), path=LOGIN_PATH)
    azure.route(CONVERSATION, path=CALLS)
    with relay_by(azure, "application") as relay:

        def slow() -> None:
            azure.until(gates=["slow"])
            azure.release("slow")

        replies = at_once(relay, [post(body_for()) for _ in range(100)], slow)
    assert [reply.status for reply in replies] == [200] * 100
    assert len(azure.token_requests()) == 1


def test_a_token_that_ends_in_mid_stream_does_not_end_the_stream(
    relays: dict[str, Relay], azure: AzureUpstream
) -> None:
    relay = relays["application"]
    azure.route(CONVERSATION, path=CALLS)
    assert ask(relay.port, post(body_for())).status == 200
    azure.fresh()
    events = STREAMS["text"]
    azure.queue(answers.held(events[:4], "half", events[4:]), CONVERSATION, CONVERSATION, path=CALLS)
    with Client(relay.port) as client:
        client.send(post(body_for()))
        incoming = client.opened()
        begun = incoming.until(b"content_block_delta")
        azure.revoke()
        azure.release("half")
        rest = incoming.reply()
    assert (begun + rest.body, rest.ending) == (b"".join(events), "complete")
    assert ask(relay.port, post(body_for())).status == 200
    assert [seen.refusal is None for seen in azure.calls()] == [True, False, True]
    assert len(azure.token_requests()) == 1


@pytest.mark.parametrize(
    "answer",
    [
        as_answer({"error": "invalid_client", "error_description": f"AADSTS7000222: expired for {CLIENT}"}, 401),
        as_answer({}, 500),
        Answer((["reset"],)),
    ],
    ids=["refusing", "failing", "resetting"],
)
@pytest.mark.parametrize("how", TOKEN_PATHS)
def test_a_token_server_that_gives_none_sends_calls_to_the_next_provider(
    azure: AzureUpstream, second: Upstream, answer: Answer, how: str
) -> None:
    azure.route(answer, path=TOKEN_PATHS[how])
    second.route(CONVERSATION)
    both = config([azure_entry(azure, how), provider("other", second.url)])
    with Relay(both, None, **azure_environ(azure)) as relay:
        reply = ask(relay.port, post(body_for()))
        assert reply.status == 200
        assert leaks(relay, [reply], IDENTIFYING, SECRETS) == []
    assert (azure.calls(), len(second.requests())) == ([], 1)


def test_without_another_provider_the_client_learns_which_setting_is_wrong_and_nothing_else(
    azure: AzureUpstream,
) -> None:
    document = {"error": "invalid_client", "error_description": f"AADSTS7000222: keys for {CLIENT} are expired."}
    azure.route(as_answer(document, 401), path=LOGIN_PATH)
    with relay_by(azure, "application") as relay:
        reply = ask(relay.port, post(body_for()))
        status, kind, message = error_of(reply)
        assert (status, kind) == (502, "api_error")
        assert "(AADSTS7000222): azure_client_secret has expired" in message
        assert leaks(relay, [reply], IDENTIFYING, SECRETS) == []
        assert CLIENT in relay.output()


# -- errors


@pytest.mark.parametrize("how", WAYS)
def test_a_refusal_that_stays_is_told_without_the_account(azure: AzureUpstream, how: str) -> None:
    message = f"Access denied due to invalid key for /subscriptions/{SUBSCRIPTION}/x of tenant {TENANT}"
    azure.route(as_answer(azure_error("401", message), 401), path=CALLS)
    with relay_by(azure, how) as relay:
        reply = ask(relay.port, post(body_for()))
        assert (reply.status, reply.error) == (401, "authentication_error")
        assert leaks(relay, [reply], IDENTIFYING, SECRETS) == []
    # A token is renewed once; a key would be the same.
    assert (len(azure.calls()), len(azure.token_requests())) == ((1, 0) if how == "key" else (2, 2))


@pytest.mark.parametrize(
    ("status", "code", "told"),
    [
        (403, "PermissionDenied", (403, "permission_error")),
        (429, "RateLimitReached", (429, "rate_limit_error")),
        (404, "DeploymentNotFound", (404, "not_found_error")),
        (500, "InternalServerError", (500, "api_error")),
        (503, "ServiceUnavailable", (503, "overloaded_error")),
    ],
)
def test_azures_errors_become_anthropics_without_naming_the_account(
    relay: Relay, azure: AzureUpstream, status: int, code: str, told: tuple[int, str]
) -> None:
    message = f"{code} in /subscriptions/{SUBSCRIPTION}/resourceGroups/r for {CLIENT} at res.services.ai.azure.com"
    azure.route(as_answer(azure_error(code, message), status), path=CALLS)
    with ExitStack() as stack:
        if status in (403, 429):  # after these the relay leaves the key alone for a while
            relay = stack.enter_context(relay_by(azure, "key"))
        reply = ask(relay.port, post(body_for()))
        assert (reply.status, reply.error) == told
        assert leaks(relay, [reply], (*IDENTIFYING, "res.services"), SECRETS) == []
    assert len(azure.calls()) == 1


def test_a_deployment_that_does_not_exist_is_told(relay: Relay, azure: AzureUpstream) -> None:
    reply = ask(relay.port, post(body_for(model="claude-unheard-of")))
    assert (reply.status, reply.error) == (404, "not_found_error")
    assert SUBSCRIPTION not in reply.body.decode()


def test_the_models_own_errors_pass_as_they_are(relay: Relay, azure: AzureUpstream) -> None:
    answer = answers.failure(400, "invalid_request_error", "prompt is too long: 250000 tokens > 200000 maximum")
    azure.queue(answer, path=CALLS)
    reply = ask(relay.port, post(body_for()))
    assert (reply.status, reply.body) == (400, answer.body)


# -- pairs of beta and field

BETAS = [("anthropic-beta", "claude-code-20250219,context-management-2025-06-27")]


@pytest.mark.parametrize(
    "message",
    [
        "context_management: Extra inputs are not permitted",
        "Unexpected value(s) `context-management-2025-06-27` for the `anthropic-beta` header",
    ],
)
def test_a_pair_that_a_400_names_goes_once_as_a_whole_and_stays_away(azure: AzureUpstream, message: str) -> None:
    azure.route(CONVERSATION, path=CALLS)
    azure.queue(refusal_of_pair(message), path=CALLS)
    with relay_by(azure, "key") as relay:
        for _ in range(2):
            assert ask(relay.port, post(body_for(context_management={"edits": []}), BETAS)).status == 200
    seen = azure.calls()
    without = "claude-code-20250219"
    assert [one.header("anthropic-beta") for one in seen] == [BETAS[0][1], without, without]
    assert ["context_management" in azure.body_of(one) for one in seen] == [True, False, False]


def test_what_azure_has_not_refused_goes_as_the_client_sent_it(relay: Relay, azure: AzureUpstream) -> None:
    azure.queue(CONVERSATION, path=CALLS)
    body = body_for(context_management={"edits": []}, unheard_of=1)
    betas = "context-management-2025-06-27,unheard-of-2031-01-01"
    assert ask(relay.port, post(body, [("anthropic-beta", betas)])).status == 200
    [seen] = azure.calls()
    assert (seen.header("anthropic-beta"), azure.body(seen.index)) == (betas, body)
