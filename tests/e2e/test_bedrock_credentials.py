"""AWS credentials in a running relay: slow, failing, expiring, revoked; fetched once for all, and nobody stalls."""

from __future__ import annotations

import contextlib
import json
import socket
import sys
import threading
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
    return Relay(config([chained("aws", bedrock.url), *others], **sections), **source.environ)


def sessions(bedrock: BedrockUpstream) -> list[str | None]:
    """With which session each request was signed."""
    return [seen.header("x-amz-security-token") for seen in bedrock.requests()]


def test_a_hundred_calls_at_once_wait_for_one_slow_fetch(bedrock: BedrockUpstream, source: Source) -> None:
    with started(bedrock, source) as relay, ThreadPoolExecutor(100) as pool:
        calls = [pool.submit(ask, relay.port, post(body_for())) for _ in range(100)]
        wait_for(lambda: relay_holds(relay, 100), "all calls are in the relay")
        assert bedrock.requests() == []
        source.open()
        bodies = {call.result().body for call in calls}

    assert (bodies, source.runs()) == ({SSE}, 1)
    assert sessions(bedrock) == [SESSION_TOKEN] * 100


def relay_holds(relay: Relay, clients: int) -> bool:
    """Whether so many connections of clients are open."""
    port = f":{relay.port:04X}"
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    return sum(1 for line in lines if line.split()[1].endswith(port) and line.split()[3] == "01") >= clients


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


class Arrivals:
    """How often something of a running answer arrived, counted beside the test."""

    def __init__(self, client: Client) -> None:
        client.opened()
        self.number = 0
        threading.Thread(target=self._count, args=(client.socket,), daemon=True).start()

    def _count(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while connection.recv(65536):
                self.number += 1


def unread(relay: Relay, client: Client) -> int:
    """Bytes that ``client`` has sent and the relay has not taken."""
    ends = {f":{relay.port:04X}", f":{client.socket.getsockname()[1]:04X}"}
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    queues = [row[4] for row in rows if {row[1][8:], row[2][8:]} == ends]
    return sum(int(size, 16) for queue in queues for size in queue.split(":"))


def test_nobody_else_notices_that_a_large_body_is_hashed(bedrock: BedrockUpstream, upstream: Upstream) -> None:
    """While 19 MB are made ready to be signed, another call's events come one by one, not in one lump behind it."""
    pieces = answers.events([Text(["x"] * 30_000)])
    upstream.queue(answers.streamed(pieces, interval=0.001))
    bedrock.route(GOOD, path=target(model="a-model-of-any-length"))
    routing = {"strategy": "model_based", "model_mapping": {"a-model": "aws", "other": "else"}}
    made = config([keyed("aws", bedrock.url), provider("else", upstream.url)], routing=routing)
    with Relay(made) as relay, Client(relay.port) as listening:
        listening.send(post(body_for(model="other")))
        arrivals = Arrivals(listening)

        def meanwhile() -> int:
            """Arrivals between the relay's having a large body's last byte and Bedrock's being asked."""
            request = post(body_for(model="a-model-of-any-length", padding="x" * 19_000_000))
            seen = bedrock.stats()["requests"]
            with Client(relay.port) as client:
                client.send(request[:-1])
                wait_for(lambda: not unread(relay, client), "the relay has taken all but the last byte")
                before = arrivals.number
                client.send(request[-1:])
                bedrock.until(requests=seen + 1)
                came = arrivals.number - before
                assert client.reply().status == 200
            return came

        assert any(meanwhile() >= 5 for _ in range(10)), "what came while the reactor stood still would come at once"


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
