"""Vertex AI from end to end: a service account's tokens, Google's paths and errors, and what clients see of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.e2e import answers
from tests.e2e.answers import Answer
from tests.e2e.cloud_process import VertexUpstream, predict, tokens, vertex_entry
from tests.e2e.cloud_samples import BLOCKS, CONVERSATION, STREAMS, as_answer, at_once, error_of, leaks, refusal_of_pair
from tests.e2e.raw_client import Client, ask, body_for, post
from tests.e2e.relay_process import Relay, config, provider
from tests.e2e.upstream_process import COUNT_TOKENS, Upstream
from tests.e2e.vertex_upstream import (
    ACCOUNT,
    COUNTING_REGION,
    PROJECT,
    PROJECT_NUMBER,
    REGION,
    TOKEN_PATH,
    google_error,
)
from tests.e2e.vertex_upstream import (
    VertexUpstream as Standin,
)

MODEL = "claude-opus-5-5"
STREAM = predict(MODEL)
WHOLE = predict(MODEL, "rawPredict")
COUNT = predict("count-tokens", "rawPredict", COUNTING_REGION)
IDENTIFYING = (PROJECT, PROJECT_NUMBER, ACCOUNT, Standin.prefix)


@pytest.fixture(scope="module")
def process() -> Iterator[VertexUpstream]:
    with VertexUpstream() as started:
        yield started


@pytest.fixture
def vertex(process: VertexUpstream) -> VertexUpstream:
    process.fresh()
    return process


@pytest.fixture(scope="module")
def account(process: VertexUpstream, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return process.account_file(tmp_path_factory.mktemp("account"))


@pytest.fixture(scope="module")
def relay(process: VertexUpstream, account: Path) -> Iterator[Relay]:
    with Relay(config([vertex_entry(process, account)])) as started:
        yield started


def secrets(vertex: VertexUpstream) -> list[str]:
    """What the relay must not write down."""
    return [Standin.prefix, vertex.told["private_key"].splitlines()[1]]


# -- answers


@pytest.mark.parametrize("what", STREAMS)
def test_a_stream_arrives_as_the_models_sent_it(relay: Relay, vertex: VertexUpstream, what: str) -> None:
    answer = answers.streamed(STREAMS[what])
    vertex.queue(answer, path=STREAM)
    reply = ask(relay.port, post(body_for()))
    assert (reply.status, reply.ending) == (200, "complete")
    assert reply.body == answer.body
    [seen] = vertex.calls()
    assert seen.refusal is None


def test_the_body_loses_its_model_gets_a_version_and_keeps_every_other_byte(
    relay: Relay, vertex: VertexUpstream
) -> None:
    vertex.queue(CONVERSATION, path=WHOLE)
    rest = b'"messages" : [{"role":"user","content":"\\u00e9\\/ \xc3\xa9"}], "max_tokens":64, "odd": 1e2}'
    reply = ask(relay.port, post(b'{"model": "claude-opus-5-5", ' + rest))
    assert reply.status == 200
    assert reply.json == answers.message(BLOCKS)
    [seen] = vertex.calls()
    sent = vertex.body(seen.index)
    assert rest[:-1] in sent
    assert json.loads(sent) == {**json.loads(b"{" + rest), "anthropic_version": "vertex-2023-10-16"}


@pytest.mark.parametrize(
    ("asked", "named"),
    [
        ("claude-sonnet-4-5-20250929", "claude-sonnet-4-5@20250929"),
        ("claude-sonnet-4-5@20250929", "claude-sonnet-4-5@20250929"),
        ("claude-haiku-5-5", "claude-haiku-5-5"),
    ],
)
def test_models_have_their_names_at_google(relay: Relay, vertex: VertexUpstream, asked: str, named: str) -> None:
    vertex.queue(CONVERSATION, path=predict(named))
    assert ask(relay.port, post(body_for(model=asked))).status == 200
    assert vertex.calls()[0].target == predict(named)


def test_tokens_are_counted_in_the_region_for_that_with_the_model_in_the_body(
    relay: Relay, vertex: VertexUpstream
) -> None:
    vertex.queue(answers.as_json({"input_tokens": 815}), path=COUNT)
    body = json.dumps({"model": "claude-sonnet-4-5-20250929", "messages": [{"role": "user", "content": "hi"}]}).encode()
    reply = ask(relay.port, post(body, [("anthropic-beta", "token-counting-2024-11-01")], target=COUNT_TOKENS))
    assert (reply.status, reply.json) == (200, {"input_tokens": 815})
    [seen] = vertex.calls()
    assert seen.refusal is None
    assert vertex.body_of(seen)["model"] == "claude-sonnet-4-5@20250929"


def test_nothing_of_the_clients_credential_or_project_reaches_google(relay: Relay, vertex: VertexUpstream) -> None:
    vertex.queue(CONVERSATION, path=STREAM)
    own = [("x-goog-user-project", "mine"), ("x-goog-api-key", "canary-mine"), ("cookie", "a=canary-mine")]
    assert ask(relay.port, post(body_for(), own)).status == 200
    [seen] = vertex.calls()
    assert seen.refusal is None
    assert not [line for line in seen.headers if "mine" in line or "client-of-the-relay" in line]


# -- tokens


def test_a_hundred_calls_whose_token_is_refused_at_once_share_one_new_token(
    relay: Relay, vertex: VertexUpstream
) -> None:
    vertex.route(CONVERSATION, path=STREAM)
    assert ask(relay.port, post(body_for())).status == 200
    vertex.fresh()
    vertex.route(CONVERSATION, path=STREAM)
    vertex.route(tokens(3599, ["gate", "token"]), path=TOKEN_PATH)
    vertex.revoke()

    def refused() -> None:
        vertex.until(complete=101, gates=["token"])
        vertex.release("token")

    replies = at_once(relay, [post(body_for()) for _ in range(100)], refused)
    assert [reply.status for reply in replies] == [200] * 100
    assert len(vertex.token_requests()) == 1
    refusals = [seen.refusal is None for seen in vertex.calls()]
    assert refusals == [False] * 100 + [True] * 100
    assert leaks(relay, replies, IDENTIFYING, secrets(vertex)) == []


def test_calls_wait_for_the_first_token_and_share_it(vertex: VertexUpstream, account: Path) -> None:
    vertex.route(tokens(3599, ["gate", "slow"]), path=TOKEN_PATH)
    vertex.route(CONVERSATION, path=STREAM)
    with Relay(config([vertex_entry(vertex, account)])) as relay:

        def slow() -> None:
            vertex.until(gates=["slow"])
            vertex.release("slow")

        replies = at_once(relay, [post(body_for()) for _ in range(100)], slow)
    assert [reply.status for reply in replies] == [200] * 100
    assert len(vertex.token_requests()) == 1


def test_a_token_that_ends_in_mid_stream_does_not_end_the_stream(relay: Relay, vertex: VertexUpstream) -> None:
    events = STREAMS["text"]
    vertex.queue(answers.held(events[:4], "half", events[4:]), CONVERSATION, CONVERSATION, path=STREAM)
    with Client(relay.port) as client:
        client.send(post(body_for()))
        incoming = client.opened()
        begun = incoming.until(b"content_block_delta")
        vertex.revoke()
        vertex.release("half")
        rest = incoming.reply()
    assert (begun + rest.body, rest.ending) == (b"".join(events), "complete")
    assert ask(relay.port, post(body_for())).status == 200
    assert [seen.refusal is None for seen in vertex.calls()] == [True, False, True]
    assert len(vertex.token_requests()) == 1


def test_a_new_token_that_is_refused_too_is_the_end_of_it(vertex: VertexUpstream, account: Path) -> None:
    document = google_error(401, f"Request had invalid authentication credentials for {ACCOUNT}.", streamed=True)
    vertex.route(as_answer(document, 401), path=STREAM)
    with Relay(config([vertex_entry(vertex, account)])) as relay:
        reply = ask(relay.port, post(body_for()))
        assert (reply.status, reply.error) == (401, "authentication_error")
        assert leaks(relay, [reply], IDENTIFYING, secrets(vertex)) == []
    assert (len(vertex.calls()), len(vertex.token_requests())) == (2, 2)


@pytest.mark.parametrize(
    "answer",
    [
        as_answer({"error": "invalid_grant", "error_description": f"account {ACCOUNT} disabled"}, 400),
        as_answer({"error": "internal_failure"}, 500),
        Answer((["reset"],)),
    ],
    ids=["refusing", "failing", "resetting"],
)
def test_a_token_server_that_gives_none_sends_calls_to_the_next_provider(
    vertex: VertexUpstream, account: Path, second: Upstream, answer: Answer
) -> None:
    vertex.route(answer, path=TOKEN_PATH)
    second.route(CONVERSATION)
    with Relay(config([vertex_entry(vertex, account), provider("other", second.url)])) as relay:
        reply = ask(relay.port, post(body_for()))
        assert reply.status == 200
        assert leaks(relay, [reply], IDENTIFYING, secrets(vertex)) == []
    assert vertex.calls() == []
    assert len(second.requests()) == 1


def test_without_another_provider_the_client_learns_which_step_failed_and_nothing_else(
    vertex: VertexUpstream, account: Path
) -> None:
    refusal = as_answer({"error": "invalid_grant", "error_description": f"account {ACCOUNT} disabled"}, 400)
    vertex.route(refusal, path=TOKEN_PATH)
    with Relay(config([vertex_entry(vertex, account)])) as relay:
        reply = ask(relay.port, post(body_for()))
        status, kind, message = error_of(reply)
        assert (status, kind) == (502, "api_error")
        assert "the token request for gcp_credentials_file (service_account) was refused (invalid_grant)" in message
        assert leaks(relay, [reply], (*IDENTIFYING, str(account)), secrets(vertex)) == []
        assert ACCOUNT in relay.output()


# -- errors

QUOTA = (
    "Quota exceeded for aiplatform.googleapis.com/online_prediction_requests_per_base_model with base model: "
    f"anthropic-claude-opus. project_number:{PROJECT_NUMBER} projects/{PROJECT}/locations/{REGION}"
)


@pytest.mark.parametrize("streamed", [True, False], ids=["array", "object"])
@pytest.mark.parametrize(
    ("status", "kind", "message", "told"),
    [
        (429, "RESOURCE_EXHAUSTED", QUOTA, (429, "rate_limit_error")),
        (403, "PERMISSION_DENIED", f"Permission denied on projects/{PROJECT}", (403, "permission_error")),
        (404, "NOT_FOUND", f"`projects/{PROJECT}/x` was not found by {ACCOUNT}.", (404, "not_found_error")),
        (400, "FAILED_PRECONDITION", f"Project {PROJECT_NUMBER} is not allowed", (400, "invalid_request_error")),
        (503, "UNAVAILABLE", "The service is currently unavailable.", (529, "overloaded_error")),
        (500, "INTERNAL", f"Internal error encountered for {PROJECT}.", (500, "api_error")),
        (504, "DEADLINE_EXCEEDED", "Deadline exceeded.", (504, "timeout_error")),
        (
            400,
            "INVALID_ARGUMENT",
            "The request size (31457281 bytes) exceeds 30.000MB limit.",
            (400, "invalid_request_error"),
        ),
    ],
)
def test_googles_errors_become_anthropics_without_naming_the_project(
    relay: Relay,
    vertex: VertexUpstream,
    account: Path,
    status: int,
    kind: str,
    message: str,
    told: tuple[int, str],
    streamed: bool,
) -> None:
    vertex.route(as_answer(google_error(status, message, kind, streamed), status), path=STREAM if streamed else WHOLE)
    with ExitStack() as stack:
        if status in (403, 429):  # after these the relay leaves the account alone for a while
            relay = stack.enter_context(Relay(config([vertex_entry(vertex, account)])))
        reply = ask(relay.port, post(body_for(stream=streamed)))
        assert (reply.status, reply.error) == told
        assert leaks(relay, [reply], IDENTIFYING, secrets(vertex)) == []
    if status == 429:
        assert int(reply.header("retry-after") or 0) in range(1, 61)
    if "30.000MB" in message:
        assert reply.json["error"]["message"] == "Input is too long."
    assert len(vertex.calls()) == 1


def test_a_quota_in_the_guise_of_a_413_is_a_key_that_is_tired(
    vertex: VertexUpstream, account: Path, second: Upstream
) -> None:
    vertex.route(as_answer(google_error(413, "Prompt is too long", "FAILED_PRECONDITION"), 413), path=STREAM)
    second.route(CONVERSATION)
    with Relay(config([vertex_entry(vertex, account), provider("other", second.url)])) as relay:
        assert [ask(relay.port, post(body_for())).status for _ in range(2)] == [200, 200]
    assert (len(vertex.calls()), len(second.requests())) == (1, 2)


def test_the_models_own_errors_pass_as_they_are(relay: Relay, vertex: VertexUpstream) -> None:
    answer = answers.failure(400, "invalid_request_error", "prompt is too long: 250000 tokens > 200000 maximum")
    vertex.queue(answer, path=STREAM)
    reply = ask(relay.port, post(body_for()))
    assert (reply.status, reply.body) == (400, answer.body)


def test_an_error_that_begins_a_stream_is_an_error(relay: Relay, vertex: VertexUpstream) -> None:
    vertex.queue(answers.streamed([answers.error_event("overloaded_error", "Overloaded")]), path=STREAM)
    reply = ask(relay.port, post(body_for()))
    assert error_of(reply) == (529, "overloaded_error", "Overloaded")


# -- pairs of beta and field


EFFORT = [("anthropic-beta", "claude-code-20250219,effort-2025-11-24")]


def test_a_pair_that_a_400_names_goes_once_as_a_whole_and_stays_away(vertex: VertexUpstream, account: Path) -> None:
    vertex.route(CONVERSATION, path=STREAM)
    vertex.queue(refusal_of_pair("output_config.effort: Extra inputs are not permitted"), path=STREAM)
    with Relay(config([vertex_entry(vertex, account)])) as relay:
        for _ in range(2):
            assert ask(relay.port, post(body_for(output_config={"effort": "low"}), EFFORT)).status == 200
    seen = vertex.calls()
    assert [one.header("anthropic-beta") for one in seen] == [
        EFFORT[0][1],
        "claude-code-20250219",
        "claude-code-20250219",
    ]
    assert ["effort" in vertex.body_of(one).get("output_config", {}) for one in seen] == [True, False, False]


def test_a_400_that_names_nothing_is_given_to_the_client_at_once(relay: Relay, vertex: VertexUpstream) -> None:
    vertex.queue(refusal_of_pair("messages.0: nothing of that sort"), path=STREAM)
    assert ask(relay.port, post(body_for(output_config={"effort": "low"}), EFFORT)).status == 400
    assert len(vertex.calls()) == 1


def test_what_google_is_known_to_refuse_goes_neither_as_beta_nor_as_field(relay: Relay, vertex: VertexUpstream) -> None:
    vertex.queue(CONVERSATION, path=STREAM)
    betas = "context-management-2025-06-27,advanced-tool-use-2025-11-20,unheard-of-2031-01-01"
    tools = [{"name": "look", "input_schema": {"type": "object"}, "defer_loading": True}]
    body = body_for(context_management={"edits": []}, tools=tools, tags={"a": "b"})
    assert ask(relay.port, post(body, [("anthropic-beta", betas)])).status == 200
    [seen] = vertex.calls()
    assert seen.header("anthropic-beta") == "tool-search-tool-2025-10-19"
    sent = vertex.body_of(seen)
    assert not {"context_management", "tags", "model"} & set(sent)
    assert sent["tools"] == tools
