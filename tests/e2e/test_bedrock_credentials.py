"""AWS credentials in a running relay: slow, failing, expiring, revoked; fetched once for all, and nobody stalls."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("botocore.auth")

from tests.e2e import answers, bedrock_answers
from tests.e2e.answers import Text
from tests.e2e.bedrock_process import LEFT_ALONE, BedrockUpstream, chained, keyed, target
from tests.e2e.bedrock_upstream import ACCESS_KEY, SECRET_KEY, SESSION_TOKEN
from tests.e2e.raw_client import Client, ask, body_for, post
from tests.e2e.relay_process import Relay, config, provider
from tests.e2e.upstream_process import Upstream
from tests.e2e.waiting import wait_for

SCRIPT = Path(__file__).with_name("clients") / "credential_process.py"
TEXT = [Text(["one ", "two"])]
GOOD = bedrock_answers.conversation(TEXT)
SSE = b"".join(answers.events(TEXT))
LONG_LIVED = timedelta(hours=1)
SHORT = timedelta(seconds=6)
REVOKED = bedrock_answers.failure(403, "ExpiredTokenException", "The token of account 123456789012 is expired")


class Source:
    """A credential_process under the test's control, and the environment of a relay that is to use it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        profile = folder / "config"
        profile.write_text(f"[default]\ncredential_process = {sys.executable} {SCRIPT} {folder}\n")
        self.environ = {**LEFT_ALONE, "AWS_CONFIG_FILE": str(profile)}

    def gives(self, life: timedelta | None = LONG_LIVED, session: str | None = SESSION_TOKEN) -> None:
        """What the next runs print. life: None: lasting keys, without an end."""
        keys: dict[str, Any] = {"Version": 1, "AccessKeyId": ACCESS_KEY, "SecretAccessKey": SECRET_KEY}
        if session is not None:
            keys["SessionToken"] = session
        if life is not None:
            keys["Expiration"] = (datetime.now(UTC) + life).isoformat()
        new = self.folder / "new"
        new.write_text(json.dumps(keys))
        new.rename(self.folder / "answer")

    def fails(self) -> None:
        (self.folder / "answer").unlink(missing_ok=True)

    def shut(self) -> None:
        (self.folder / "gate").unlink(missing_ok=True)

    def open(self) -> None:
        (self.folder / "gate").touch()

    def runs(self) -> int:
        record = self.folder / "runs"
        return len(record.read_text().splitlines()) if record.exists() else 0


@pytest.fixture
def source(tmp_path: Path) -> Source:
    made = Source(tmp_path)
    made.gives()
    return made


@pytest.fixture(scope="module")
def process() -> Iterator[BedrockUpstream]:
    with BedrockUpstream() as started:
        yield started


@pytest.fixture
def bedrock(process: BedrockUpstream) -> BedrockUpstream:
    process.fresh()
    process.route(GOOD, path=target())
    return process


def started(bedrock: BedrockUpstream, source: Source, *others: dict[str, Any], **sections: Any) -> Relay:
    """A relay whose first provider has its keys from ``source``."""
    return Relay(config([chained("aws", bedrock.url), *others], **sections), None, **source.environ)


def connections() -> list[tuple[str, str, str]]:
    """Of each TCP connection on this machine: the ports of this end and that end, and what is on its way."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return [(row[1][9:], row[2][9:], row[4]) for row in rows]


def sessions(bedrock: BedrockUpstream) -> list[str | None]:
    """With which session each request was signed."""
    return [seen.header("x-amz-security-token") for seen in bedrock.requests()]


def test_a_hundred_calls_at_once_wait_for_one_slow_fetch(bedrock: BedrockUpstream, source: Source) -> None:
    with started(bedrock, source) as relay, ThreadPoolExecutor(100) as pool:
        calls = [pool.submit(ask, relay.port, post(body_for())) for _ in range(100)]
        port = f"{relay.port:04X}"
        wait_for(lambda: sum(here == port for here, _, _ in connections()) > 100, "all calls are in the relay")
        assert bedrock.requests() == []
        source.open()
        bodies = {call.result().body for call in calls}

    assert (bodies, source.runs()) == ({SSE}, 1)
    assert sessions(bedrock) == [SESSION_TOKEN] * 100


def test_nobody_else_notices_a_slow_fetch(bedrock: BedrockUpstream, source: Source, upstream: Upstream) -> None:
    pieces = answers.events([Text([f"{number} " for number in range(50)])])
    upstream.queue(answers.streamed(pieces, interval=0.005))
    routing = {"strategy": "model_based", "model_mapping": {"claude-opus-5-5": "aws", "other": "else"}}
    other = provider("else", upstream.url)
    with started(bedrock, source, other, routing=routing) as relay, Client(relay.port) as waiting:
        waiting.send(post(body_for()))
        wait_for(source.runs, "the credentials are being fetched")

        reply = ask(relay.port, post(body_for(model="other")))

        assert reply.body == b"".join(pieces), "all of it came while the other call waits"
        assert (waiting.quiet(0), bedrock.requests()) == (True, [])
        source.open()
        assert waiting.reply().body == SSE


def test_large_bodies_are_signed_while_another_stream_is_open(bedrock: BedrockUpstream, upstream: Upstream) -> None:
    pieces = answers.events([Text([f"{number} " for number in range(2000)])])
    upstream.queue(answers.held(pieces[:1000], "signed", pieces[1000:]))
    bedrock.route(GOOD, path=target(model="a-model-of-any-length"))
    routing = {"strategy": "model_based", "model_mapping": {"a-model": "aws", "other": "else"}}
    made = config([keyed("aws", bedrock.url), provider("else", upstream.url)], routing=routing)
    with Relay(made) as relay, Client(relay.port) as listening:
        listening.send(post(body_for(model="other")))
        incoming = listening.opened()
        begun = incoming.until(b'"text":"900 "')

        large = post(body_for(model="a-model-of-any-length", padding="x" * 19_000_000))
        assert [ask(relay.port, large).body for _ in range(3)] == [SSE] * 3
        upstream.release("signed")

        assert begun + incoming.reply().body == b"".join(pieces)
    assert [seen.length > 19_000_000 for seen in bedrock.requests()] == [True] * 3
    assert bedrock.refusals() == [None] * 3


def test_a_source_that_fails_is_told_without_the_account_and_the_next_provider_asked(
    bedrock: BedrockUpstream, source: Source, upstream: Upstream
) -> None:
    source.fails()
    source.open()
    upstream.route(answers.conversation(TEXT))
    with started(bedrock, source) as relay:
        reply = ask(relay.port, post(body_for()))
        assert "no keys for arn:aws:iam::123456789012:role/relay" in relay.output()
    with started(bedrock, source, provider("else", upstream.url)) as relay:
        assert ask(relay.port, post(body_for())).body == SSE

    assert (reply.status, reply.error, bedrock.requests()) == (502, "api_error", [])
    assert "credential_process" in reply.json["error"]["message"]
    assert b"123456789012" not in reply.body and b"arn:" not in reply.body


def test_credentials_that_end_in_mid_stream_end_no_stream_and_the_next_call_has_new_ones(
    bedrock: BedrockUpstream, source: Source
) -> None:
    frames = bedrock_answers.frames(TEXT)
    bedrock.queue(bedrock_answers.held(frames[:4], "later", frames[4:]), path=target())
    with started(bedrock, source) as relay, Client(relay.port) as client:
        client.send(post(body_for()))
        wait_for(source.runs, "the credentials are being fetched")
        source.gives(SHORT)
        source.open()
        incoming = client.opened()
        seen = incoming.until(b'"text":"one ')
        source.gives(session=None)
        signed_anew = lambda: ask(relay.port, post(body_for())).body == SSE and sessions(bedrock)[-1] is None  # noqa: E731
        wait_for(signed_anew, "a call is signed with the new keys")
        bedrock.release("later")

        assert seen + incoming.reply().body == SSE
        assert sessions(bedrock)[0] == SESSION_TOKEN


def test_revoked_credentials_are_fetched_anew_once_and_the_call_is_sent_again(
    bedrock: BedrockUpstream, source: Source
) -> None:
    source.open()
    with started(bedrock, source) as relay:
        assert ask(relay.port, post(body_for())).status == 200
        source.gives(session=None)
        bedrock.queue(REVOKED, path=target())
        bodies = [ask(relay.port, post(body_for())).body for _ in range(2)]

    assert (bodies, source.runs()) == ([SSE, SSE], 2)
    assert sessions(bedrock) == [SESSION_TOKEN, SESSION_TOKEN, None, None]


def test_calls_that_are_refused_together_share_one_new_fetch(bedrock: BedrockUpstream, source: Source) -> None:
    source.open()
    with started(bedrock, source) as relay, ThreadPoolExecutor(20) as pool:
        assert ask(relay.port, post(body_for())).status == 200
        source.shut()
        source.gives(session=None)
        bedrock.queue(*[REVOKED] * 20, path=target())
        calls = [pool.submit(ask, relay.port, post(body_for())) for _ in range(20)]
        bedrock.until(requests=21)
        source.open()
        bodies = {call.result().body for call in calls}

    assert (bodies, source.runs()) == ({SSE}, 2)
    assert sessions(bedrock) == [SESSION_TOKEN] * 21 + [None] * 20


@pytest.mark.parametrize("again", ["the same", "others"])
def test_what_is_refused_a_second_time_is_told_without_a_word_of_the_account(
    bedrock: BedrockUpstream, source: Source, again: str
) -> None:
    source.open()
    with started(bedrock, source) as relay:
        assert ask(relay.port, post(body_for())).status == 200
        if again == "others":
            source.gives(session=None)
        bedrock.queue(REVOKED, REVOKED, path=target())
        reply = ask(relay.port, post(body_for()))

    assert (reply.status, reply.error, reply.header("x-should-retry")) == (403, "authentication_error", None)
    assert b"123456789012" not in reply.body
    assert sessions(bedrock)[1:] == ([SESSION_TOKEN, None] if again == "others" else [SESSION_TOKEN])
