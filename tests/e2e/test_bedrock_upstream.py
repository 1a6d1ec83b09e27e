"""Bedrock's stand-in itself: lets in what botocore signs, nothing that was changed since, and answers in frames."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("botocore.auth")

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.eventstream import EventStreamBuffer

from ccrelay.core.bedrock_stream import BedrockDecoder
from tests.e2e import answers, bedrock_answers
from tests.e2e.answers import Answer, Block, Text, ToolUse
from tests.e2e.bedrock_process import BedrockUpstream
from tests.e2e.bedrock_upstream import ACCESS_KEY, API_KEY, REGION, SECRET_KEY, SERVICE, SESSION_TOKEN
from tests.e2e.raw_client import Reply, ask, request_head
from tests.e2e.upstream import KEPT_BODY

MODEL = "/model/us.anthropic.claude-sonnet-4-5-20250929-v1%3A0"
STREAM = f"{MODEL}/invoke-with-response-stream"
ARN = "/model/arn%3Aaws%3Abedrock%3Aus-east-1%3A123456789012%3Ainference-profile%2Fx/invoke"
BODY = b'{"anthropic_version":"bedrock-2023-05-31","max_tokens":64,"messages":[]}'
BLOCKS: list[Block] = [Text(["Gr\u00fc\u00dfe", " \U0001f600"]), ToolUse("toolu_1", "look", {"at": "that"})]

Lines = list[tuple[str, str]]


@pytest.fixture(scope="module")
def process() -> Iterator[BedrockUpstream]:
    with BedrockUpstream() as started:
        yield started


@pytest.fixture
def bedrock(process: BedrockUpstream) -> BedrockUpstream:
    process.fresh()
    return process


def signed(
    bedrock: BedrockUpstream,
    target: str = STREAM,
    *,
    secret: str = SECRET_KEY,
    access: str = ACCESS_KEY,
    token: str | None = None,
    region: str = REGION,
    service: str = SERVICE,
    body: bytes = BODY,
) -> Lines:
    """The header lines that botocore sends for ``body``."""
    request = AWSRequest("POST", bedrock.url + target, {"Content-Type": "application/json"}, body)
    SigV4Auth(Credentials(access, secret, token), service, region).add_auth(request)
    return [("Host", f"127.0.0.1:{bedrock.port}"), ("Content-Length", str(len(body))), *request.headers.items()]


def sent(bedrock: BedrockUpstream, lines: Lines, body: bytes = BODY, target: str = STREAM) -> Reply:
    return ask(bedrock.port, request_head("POST", target, lines) + body)


def without(lines: Lines, name: str) -> Lines:
    return [line for line in lines if line[0].lower() != name]


def events(stream: bytes) -> list[Any]:
    reader = EventStreamBuffer()
    reader.add_data(stream)
    return [(event.headers, event.payload) for event in reader]


@pytest.mark.parametrize("target", [STREAM, ARN, "/model/a%3Ab/invoke?x=1&a=%2F", "/model/a:b/invoke"])
@pytest.mark.parametrize("token", [None, SESSION_TOKEN])
def test_what_botocore_signs_is_let_in(bedrock: BedrockUpstream, target: str, token: str | None) -> None:
    bedrock.queue(bedrock_answers.whole(BLOCKS), path=target.partition("?")[0])

    reply = sent(bedrock, signed(bedrock, target, token=token), target=target)

    assert (reply.status, bedrock.refusals()) == (200, [None])
    assert bedrock.last().target == target
    assert bedrock.body(0) == BODY


def test_a_body_too_large_to_be_kept_is_checked_like_any_other(bedrock: BedrockUpstream) -> None:
    body = b"x" * (KEPT_BODY + 1)
    bedrock.route(bedrock_answers.whole(BLOCKS), path=STREAM)

    assert sent(bedrock, signed(bedrock, body=body), body).status == 200
    assert sent(bedrock, signed(bedrock, body=body), body[:-1] + b"y").status == 403


def test_the_api_key_is_let_in_and_no_other(bedrock: BedrockUpstream) -> None:
    bedrock.route(bedrock_answers.counted(7), path=f"{MODEL}/count-tokens")
    for key, status in ((API_KEY, 200), (API_KEY + "x", 403)):
        lines = [("Host", "x"), ("Content-Length", str(len(BODY))), ("Authorization", f"Bearer {key}")]
        reply = sent(bedrock, lines, target=f"{MODEL}/count-tokens")

        assert reply.status == status
        assert ("inputTokens" in reply.json) == (status == 200)


def changed_path(lines: Lines) -> tuple[Lines, bytes, str]:
    return lines, BODY, STREAM + "x"


def respelled_path(lines: Lines) -> tuple[Lines, bytes, str]:
    return lines, BODY, STREAM.replace("%3A", "%3a")


def changed_body(lines: Lines) -> tuple[Lines, bytes, str]:
    return lines, BODY.replace(b"64", b"65"), STREAM


def changed_header(lines: Lines) -> tuple[Lines, bytes, str]:
    return [(name, value + "; x=y" if name == "Content-Type" else value) for name, value in lines], BODY, STREAM


def other_host(lines: Lines) -> tuple[Lines, bytes, str]:
    return [("Host", "elsewhere"), *without(lines, "host")], BODY, STREAM


def no_host(lines: Lines) -> tuple[Lines, bytes, str]:
    return without(lines, "host"), BODY, STREAM


def no_authorization(lines: Lines) -> tuple[Lines, bytes, str]:
    return without(lines, "authorization"), BODY, STREAM


def two_authorizations(lines: Lines) -> tuple[Lines, bytes, str]:
    return [*lines, ("Authorization", f"Bearer {API_KEY}")], BODY, STREAM


def unsigned_header(lines: Lines) -> tuple[Lines, bytes, str]:
    return [*lines, ("X-Amzn-Bedrock-Trace", "ENABLED"), ("X-Amz-Security-Token", SESSION_TOKEN)], BODY, STREAM


def old_date(lines: Lines) -> tuple[Lines, bytes, str]:
    return [(name, "20150830T123600Z" if name == "X-Amz-Date" else value) for name, value in lines], BODY, STREAM


def no_date(lines: Lines) -> tuple[Lines, bytes, str]:
    return without(lines, "x-amz-date"), BODY, STREAM


def another_bodys_hash(lines: Lines) -> tuple[Lines, bytes, str]:
    hashed = ("X-Amz-Content-SHA256", "UNSIGNED-PAYLOAD")
    return (
        [
            *[(n, v.replace("SignedHeaders=", "SignedHeaders=x-amz-content-sha256;")) for n, v in lines],
            hashed,
        ],
        BODY,
        STREAM,
    )


@pytest.mark.parametrize(
    "tamper",
    [
        changed_path,
        respelled_path,
        changed_body,
        changed_header,
        other_host,
        no_host,
        no_authorization,
        two_authorizations,
        unsigned_header,
        old_date,
        no_date,
        another_bodys_hash,
    ],
)
def test_what_was_changed_after_signing_is_refused(bedrock: BedrockUpstream, tamper: Any) -> None:
    lines, body, target = tamper(signed(bedrock))
    bedrock.route(bedrock_answers.whole(BLOCKS), path=target)

    reply = sent(bedrock, lines, body, target)

    assert reply.status == 403
    assert (reply.header("x-amzn-errortype") or "").partition(":")[0].endswith("Exception")
    assert list(reply.json) == ["message"]
    assert [bool(why) for why in bedrock.refusals()] == [True]


@pytest.mark.parametrize(
    "wrong",
    [
        {"secret": "another"},
        {"access": "AKIDOTHER"},
        {"token": "another"},
        {"region": "eu-west-1"},
        {"service": "bedrock-runtime"},
    ],
)
def test_another_signer_is_refused(bedrock: BedrockUpstream, wrong: dict[str, Any]) -> None:
    bedrock.route(bedrock_answers.whole(BLOCKS), path=STREAM)

    assert sent(bedrock, signed(bedrock, **wrong)).status == 403
    assert sent(bedrock, signed(bedrock)).status == 200


def test_headers_added_on_the_way_that_nobody_signed_do_no_harm(bedrock: BedrockUpstream) -> None:
    bedrock.queue(bedrock_answers.conversation(BLOCKS), path=STREAM)

    assert sent(bedrock, [*signed(bedrock), ("Accept-Encoding", "identity"), ("Connection", "close")]).status == 200


@pytest.mark.parametrize("seed", range(5))
def test_frames_are_what_botocore_reads_however_they_are_cut(bedrock: BedrockUpstream, seed: int) -> None:
    bedrock.queue(bedrock_answers.conversation(BLOCKS, seed), path=STREAM)

    reply = sent(bedrock, signed(bedrock))

    assert reply.ending == "complete"
    assert reply.header("content-type") == "application/vnd.amazon.eventstream"
    found = events(reply.body)
    assert len(found) == len(bedrock_answers.documents(BLOCKS))
    assert {headers[":event-type"] for headers, _ in found} == {"chunk"}


def test_frames_are_the_message_that_other_upstreams_stream_as_events(bedrock: BedrockUpstream) -> None:
    bedrock.queue(bedrock_answers.conversation(BLOCKS), path=STREAM)
    decoder = BedrockDecoder()

    decoded = decoder.receive_data(sent(bedrock, signed(bedrock)).body) + decoder.receive_eof()

    assert decoded == b"".join(answers.events(BLOCKS))


@pytest.mark.parametrize("name", bedrock_answers.EXCEPTIONS)
@pytest.mark.parametrize("place", [0, 1, 4])
def test_a_stream_can_be_broken_by_any_exception_at_any_place(bedrock: BedrockUpstream, name: str, place: int) -> None:
    bedrock.queue(bedrock_answers.broken_by(name, BLOCKS, place), path=STREAM)

    found = events(sent(bedrock, signed(bedrock)).body)

    assert [headers[":message-type"] for headers, _ in found] == ["event"] * place + ["exception"]
    assert found[-1][0][":exception-type"] == name


@pytest.mark.parametrize("ending", ["close", "reset"])
def test_a_stream_can_be_cut_inside_a_frame(bedrock: BedrockUpstream, ending: str) -> None:
    first, second = bedrock_answers.frames(BLOCKS)[:2]
    bedrock.queue(bedrock_answers.streamed([first, second[:50]], ending=ending), path=STREAM)

    assert sent(bedrock, signed(bedrock)).ending == "broken"


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (bedrock_answers.failure(429, "ThrottlingException"), 429),
        (bedrock_answers.failure(400, "ValidationException", "Input is too long for requested model."), 400),
    ],
)
def test_http_errors_are_named_in_a_header(bedrock: BedrockUpstream, answer: Answer, status: int) -> None:
    bedrock.queue(answer, path=STREAM)

    reply = sent(bedrock, signed(bedrock))

    assert (reply.status, bedrock.refusals()) == (status, [None])
    assert (reply.header("x-amzn-errortype") or "").endswith("/")
