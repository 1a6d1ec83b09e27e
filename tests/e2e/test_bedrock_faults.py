"""What goes wrong at Bedrock and what its clients are told: exceptions inside streams, errors by name, cut frames."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

pytest.importorskip("botocore.auth")

from tests.e2e import answers, bedrock_answers
from tests.e2e.answers import Answer, Text
from tests.e2e.bedrock_answers import EXCEPTIONS, broken_by, failure
from tests.e2e.bedrock_process import BedrockUpstream, chained, keyed, target
from tests.e2e.bedrock_upstream import API_KEY
from tests.e2e.raw_client import Client, Reply, ask, body_for, post
from tests.e2e.relay_process import Relay, config, provider
from tests.e2e.upstream_process import COUNT_TOKENS, Upstream

ACCOUNT = "123456789012"
TEXT = [Text(["one ", "two"])]
FRAMES = len(bedrock_answers.frames(TEXT))
GOOD = bedrock_answers.conversation(TEXT)
ELSEWHERE = answers.conversation([Text(["from elsewhere"])])
LANES = 64
"""Providers of one relay, each for one test, as most faults have effects on the provider that last."""


@dataclass(frozen=True)
class Lane:
    """A provider of its own, with the model that is asked for to get there."""

    relay: Relay
    bedrock: BedrockUpstream
    model: str

    def path(self, operation: str = "invoke-with-response-stream") -> str:
        return target(operation, self.model)

    def ask(self, *scripted: Answer, stream: bool = True, **members: Any) -> Reply:
        operation = "invoke-with-response-stream" if stream else "invoke"
        self.bedrock.queue(*scripted, path=self.path(operation))
        return told_nothing(ask(self.relay.port, post(body_for(stream, self.model, **members))))


def told_nothing(reply: Reply) -> Reply:
    """``reply``, which must not speak of the account."""
    everything = reply.body + repr(reply.headers).encode()
    assert ACCOUNT.encode() not in everything and b"arn:aws" not in everything, reply
    return reply


@pytest.fixture(scope="module")
def process() -> Iterator[BedrockUpstream]:
    with BedrockUpstream() as started:
        yield started


@pytest.fixture(scope="module")
def lanes(process: BedrockUpstream) -> Iterator[Iterator[Lane]]:
    names = [f"lane-{number:02d}" for number in range(LANES)]
    routing = {"strategy": "model_based", "model_mapping": {f"{name}-model": name for name in names}}
    with Relay(config([keyed(name, process.url) for name in names], routing=routing)) as relay:
        yield iter([Lane(relay, process, f"{name}-model") for name in names])


@pytest.fixture
def lane(lanes: Iterator[Lane], process: BedrockUpstream) -> Lane:
    process.fresh()
    return next(lanes)


@pytest.fixture
def pair(process: BedrockUpstream, upstream: Upstream) -> Iterator[tuple[Relay, BedrockUpstream, Upstream]]:
    """Bedrock first, then somebody else, who has an answer."""
    process.fresh()
    upstream.route(ELSEWHERE)
    upstream.route(answers.as_json({"input_tokens": 9}), path=COUNT_TOKENS)
    with Relay(config([keyed("aws", process.url), provider("else", upstream.url)])) as relay:
        yield relay, process, upstream


# ---------------------------------------------------------------- exceptions inside a 200

BEFORE = {
    "throttlingException": (429, "rate_limit_error"),
    "serviceUnavailableException": (529, "overloaded_error"),
    "internalServerException": (500, "api_error"),
    "modelStreamErrorException": (500, "api_error"),
    "modelTimeoutException": (504, "timeout_error"),
    "validationException": (400, "invalid_request_error"),
}
"""Status and type for the client where nobody else can answer."""

AFTER = {**{name: kind for name, (_, kind) in BEFORE.items()}, "throttlingException": "overloaded_error"}


@pytest.mark.parametrize("name", EXCEPTIONS)
@pytest.mark.parametrize("place", [0, 1])
def test_an_exception_before_any_content_is_an_error_answer(lane: Lane, name: str, place: int) -> None:
    reply = lane.ask(broken_by(name, TEXT, place))

    assert (reply.status, reply.error) == BEFORE[name]
    assert reply.json["error"]["message"] == "scripted, for account [account]"
    assert (reply.header("retry-after") is not None) == (name == "throttlingException")
    assert len(lane.bedrock.requests()) == 1
    blamed = {"throttlingException": "key_tired", "validationException": "callers_fault"}.get(name, "provider_ill")
    assert lane.relay.access_line(reply.header("x-request-id"))["outcome"] == blamed


@pytest.mark.parametrize("name", EXCEPTIONS)
def test_an_exception_before_any_content_gives_the_next_one_its_chance(
    pair: tuple[Relay, BedrockUpstream, Upstream], name: str
) -> None:
    relay, bedrock, upstream = pair
    bedrock.queue(broken_by(name, TEXT, 1), path=target())

    reply = told_nothing(ask(relay.port, post(body_for())))

    if name == "validationException":  # it would be as wrong elsewhere
        assert (reply.status, upstream.requests()) == (400, [])
    else:
        assert reply.body == ELSEWHERE.body
        assert relay.access_line(reply.header("x-request-id"))["attempts"] == 2


@pytest.mark.parametrize("name", EXCEPTIONS)
@pytest.mark.parametrize("place", [3, FRAMES - 1])
def test_an_exception_after_content_is_an_error_event_and_no_success(lane: Lane, name: str, place: int) -> None:
    reply = lane.ask(broken_by(name, TEXT, place))

    *whole, last = reply.body.removesuffix(b"\n\n").split(b"\n\n")
    assert [event + b"\n\n" for event in whole] == answers.events(TEXT)[:place]
    assert last.startswith(b"event: error\ndata: ")
    error = json.loads(last.partition(b"data: ")[2])["error"]
    assert error == {"type": AFTER[name], "message": "scripted, for account [account]"}
    line = lane.relay.access_line(reply.header("x-request-id"))
    assert (line["outcome"], line["attempts"]) == ("truncated", 1)


def test_an_exception_behind_the_whole_message_changes_nothing(lane: Lane) -> None:
    reply = lane.ask(broken_by("internalServerException", TEXT, FRAMES))

    assert (reply.body, reply.ending) == (b"".join(answers.events(TEXT)), "complete")
    assert lane.relay.access_line(reply.header("x-request-id"))["outcome"] == "answered"


@pytest.mark.parametrize(
    ("details", "status", "kind"),
    [
        ({"originalStatusCode": 529, "originalMessage": "Overloaded"}, 529, "overloaded_error"),
        ({"originalStatusCode": 400, "originalMessage": "prompt is too long"}, 400, "invalid_request_error"),
    ],
)
def test_a_model_stream_error_says_what_the_model_said(
    lane: Lane, details: dict[str, Any], status: int, kind: str
) -> None:
    reply = lane.ask(broken_by("modelStreamErrorException", TEXT, 1, **details))

    assert (reply.status, reply.error) == (status, kind)
    assert reply.json["error"]["message"] == details["originalMessage"]


def test_throttling_before_any_content_lets_another_key_be_asked(process: BedrockUpstream) -> None:
    process.fresh()
    process.route(broken_by("throttlingException", TEXT, 1), path=target())
    keys = [{"key": API_KEY}, {"key": "a-key-that-is-refused"}]
    with Relay(config([chained("aws", process.url, keys=keys)])) as relay:
        reply = ask(relay.port, post(body_for()))

    assert (reply.status, sorted(map(str, process.refusals()))) == (429, ["None", "another API key"])


# ---------------------------------------------------------------- broken streams


@pytest.mark.parametrize("ending", ["clean", "close", "reset"])
@pytest.mark.parametrize("cut", [0, 50])
def test_a_stream_that_ends_early_is_cut_for_the_client_too(lane: Lane, ending: str, cut: int) -> None:
    frames = bedrock_answers.frames(TEXT)

    reply = lane.ask(bedrock_answers.streamed([*frames[:4], frames[4][:cut]], ending=ending))

    assert (reply.status, reply.ending) == (200, "broken")
    assert b"".join(answers.events(TEXT)[:4]).startswith(reply.body)
    assert lane.relay.access_line(reply.header("x-request-id"))["outcome"] == "truncated"


def test_a_frame_whose_checksum_is_wrong_ends_the_stream_there(lane: Lane) -> None:
    frames = bedrock_answers.frames(TEXT)
    wrong = frames[4][:-1] + bytes([frames[4][-1] ^ 1])
    lane.bedrock.queue(bedrock_answers.held(frames[:4], "checked", [wrong, *frames[5:]]), path=lane.path())

    with Client(lane.relay.port) as client:
        client.send(post(body_for(model=lane.model)))
        incoming = client.opened()
        seen = incoming.until(b'"text":"one ')
        lane.bedrock.release("checked")
        rest = incoming.reply()

    assert (seen + rest.body, rest.ending) == (b"".join(answers.events(TEXT)[:4]), "broken")
    assert "checksum" in lane.relay.access_line(rest.header("x-request-id"))["reason"]


# ---------------------------------------------------------------- errors by name

POLICY = f"User: arn:aws:iam::{ACCOUNT}:user/relay is not authorized to perform: bedrock:InvokeModel on resource: x"
ERRORS = [
    (400, "ValidationException", "Input is too long for requested model.", 400, "invalid_request_error"),
    (400, "ServiceQuotaExceededException", f"Quota of {ACCOUNT}", 429, "rate_limit_error"),
    (403, "AccessDeniedException", POLICY, 403, "permission_error"),
    (403, "ExpiredTokenException", f"The security token of {ACCOUNT} is expired", 403, "authentication_error"),
    (403, "InvalidSignatureException", f"String-to-Sign {ACCOUNT}", 403, "authentication_error"),
    (404, "ResourceNotFoundException", f"No arn:aws:bedrock:x:{ACCOUNT}:y", 404, "not_found_error"),
    (408, "ModelTimeoutException", "Model has timed out", 504, "timeout_error"),
    (424, "ModelErrorException", "The model failed", 500, "api_error"),
    (429, "ThrottlingException", "Too many tokens, please wait", 429, "rate_limit_error"),
    (429, "ModelNotReadyException", "Not ready", 529, "overloaded_error"),
    (500, "InternalServerException", "oops", 500, "api_error"),
    (503, "ServiceUnavailableException", "later", 529, "overloaded_error"),
]


@pytest.mark.parametrize(("status", "name", "text", "told", "kind"), ERRORS, ids=[error[1] for error in ERRORS])
def test_errors_mean_what_they_are_named(lane: Lane, status: int, name: str, text: str, told: int, kind: str) -> None:
    reply = lane.ask(failure(status, name, text), stream=False)

    assert (reply.status, reply.error) == (told, kind)
    assert reply.json["request_id"]


# ---------------------------------------------------------------- repairs


def test_an_invalid_beta_is_left_out_once_refused_and_for_the_calls_after(lane: Lane) -> None:
    thinking = [("anthropic-beta", "interleaved-thinking-2025-05-14")]
    refused = failure(400, "ValidationException", "invalid beta flag")
    lane.bedrock.queue(refused, GOOD, GOOD, path=lane.path())

    for _ in range(2):
        assert ask(lane.relay.port, post(body_for(model=lane.model), thinking)).status == 200

    bodies = [json.loads(lane.bedrock.body(seen.index)) for seen in lane.bedrock.requests()]
    assert [body.get("anthropic_beta") for body in bodies] == [["interleaved-thinking-2025-05-14"], None, None]


def test_a_refused_field_is_left_out_and_what_is_refused_again_is_told(lane: Lane) -> None:
    words = "brand_new: Extra inputs are not permitted"
    reply = lane.ask(*[failure(400, "ValidationException", words)] * 2, brand_new={"x": 1})

    first, second = (json.loads(lane.bedrock.body(seen.index)) for seen in lane.bedrock.requests())
    assert ("brand_new" in first, "brand_new" in second) == (True, False)
    assert (reply.status, reply.json["error"]["message"]) == (400, words)


# ---------------------------------------------------------------- what cannot be counted, or not be had

COUNTED = b'{"model":"%s","messages":[]}'


@pytest.mark.parametrize(
    ("status", "name", "words"),
    [
        (400, "ValidationException", "The provided model doesn\u2019t support counting tokens."),
        (404, "ResourceNotFoundException", "no such model"),
        (403, "AccessDeniedException", POLICY.replace("InvokeModel", "CountTokens")),
    ],
)
def test_a_model_that_cannot_be_counted_is_not_supported(lane: Lane, status: int, name: str, words: str) -> None:
    lane.bedrock.queue(failure(status, name, words), path=lane.path("count-tokens"))

    reply = told_nothing(ask(lane.relay.port, post(COUNTED % lane.model.encode(), target=COUNT_TOKENS)))

    assert (reply.status, reply.error, reply.header("x-should-retry")) == (501, "not_supported", "false")


def test_somebody_else_counts_what_bedrock_cannot(pair: tuple[Relay, BedrockUpstream, Upstream]) -> None:
    relay, bedrock, _ = pair
    words = "The provided model doesn\u2019t support counting tokens."
    bedrock.queue(failure(400, "ValidationException", words), path=target("count-tokens", "anthropic.claude-opus-5-5"))

    for model in (b"claude-opus-5-5", b"arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/x"):
        reply = told_nothing(ask(relay.port, post(COUNTED % model, target=COUNT_TOKENS)))
        assert reply.json == {"input_tokens": 9}

    assert len(bedrock.requests()) == 1, "a profile of the account's own is never asked about"


def test_an_account_without_the_model_leaves_the_call_to_the_next(
    pair: tuple[Relay, BedrockUpstream, Upstream],
) -> None:
    relay, bedrock, _ = pair
    bedrock.queue(failure(403, "AccessDeniedException", POLICY), GOOD, path=target())

    bodies = [told_nothing(ask(relay.port, post(body_for()))).body for _ in range(2)]

    assert bodies == [ELSEWHERE.body, b"".join(answers.events(TEXT))], "Bedrock is asked again for the next call"
