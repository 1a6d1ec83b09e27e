"""Faults before the commit, each with what the client must see of it and what the access line must call it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.e2e import answers
from tests.e2e.answers import Answer, Text
from tests.e2e.certificates import Certificates
from tests.e2e.raw_client import KEY, Client, ask, body_for, post
from tests.e2e.relay_process import Relay, config, free_port, provider
from tests.e2e.samples import CHUNKS, EVENTS, GOOD, SSE_HEAD, TIMEOUTS, raw
from tests.e2e.upstream_process import Upstream

HEALTHY = answers.streamed(answers.events([Text(["from the second provider"])]))


@pytest.fixture(scope="module")
def relay(first_process: Upstream) -> Iterator[Relay]:
    """One provider, quick to lose patience."""
    with Relay(config([provider("first", first_process.url, timeouts=TIMEOUTS)])) as started:
        yield started


@pytest.fixture(scope="module")
def pair(first_process: Upstream, second_process: Upstream) -> Iterator[Relay]:
    """Two providers, the first one preferred."""
    made = [provider("second", second_process.url), provider("first", first_process.url, priority=2, timeouts=TIMEOUTS)]
    with Relay(config(made)) as started:
        yield started


@dataclass(frozen=True)
class Early:
    """An answer that fails before its first content event, and what a client of a lone provider gets instead."""

    answer: Answer
    status: int = 502
    error: str = "api_error"
    outcome: str = "provider_ill"
    headers: dict[str, str] = field(default_factory=dict)
    unchanged: bool = False


def html(status: int) -> Answer:
    text = b"<html><body><h1>Just a moment...</h1></body></html>"
    return answers.plain(text, status, "Whatever", [("Content-Type", "text/html")])


EARLY = {
    "reset before the head": Early(raw("reset")),
    "closed before the head": Early(raw("close")),
    "reset inside the head": Early(raw(SSE_HEAD[:40], "reset")),
    "closed inside the head": Early(raw(SSE_HEAD[:40], "close")),
    "silence before the head": Early(raw("hang")),
    "silence inside the head": Early(raw(SSE_HEAD[:40], "hang")),
    "reset after the head": Early(raw(SSE_HEAD, "reset")),
    "closed after the head": Early(raw(SSE_HEAD, "close")),
    "silence after the head": Early(raw(SSE_HEAD, "hang")),
    "ended after the head": Early(raw(SSE_HEAD, answers.LAST_CHUNK, "end")),
    "reset after message_start": Early(raw(SSE_HEAD, CHUNKS[0], "reset")),
    "closed after message_start": Early(raw(SSE_HEAD, CHUNKS[0], "close")),
    "ended after message_start": Early(raw(SSE_HEAD, CHUNKS[0], answers.LAST_CHUNK, "end")),
    "silence after message_start": Early(raw(SSE_HEAD, CHUNKS[0], "hang")),
    "cut inside message_start": Early(raw(SSE_HEAD, answers.chunk(EVENTS[0][:50]), "close")),
    "not HTTP": Early(raw(b"220 mail.example ESMTP ready\r\n", "close")),
    "a framing that lies": Early(raw(SSE_HEAD, b"zz\r\nnot a chunk\r\n", "close")),
    "HTML with 200": Early(html(200)),
    "empty with 200": Early(answers.plain(b"")),
    "200 without a type": Early(answers.plain(b"hello")),
    "HTML with 502": Early(html(502)),
    "a redirect": Early(answers.plain(b"", 302, "Found", [("Location", "http://127.0.0.1:1/")])),
    "an error event first": Early(answers.streamed([answers.error_event()]), 529, "overloaded_error", "provider_ill"),
    "an error event after message_start": Early(
        answers.streamed([EVENTS[0], answers.PING, answers.error_event("api_error", "Internal")]), 500, "api_error"
    ),
    "500": Early(answers.failure(500, "api_error"), 500, "api_error", unchanged=True),
    "529": Early(answers.failure(529, "overloaded_error"), 529, "overloaded_error", unchanged=True),
}
KEY_TROUBLE = {
    "429": Early(
        answers.failure(429, "rate_limit_error", headers=[("retry-after", "7"), *answers.LIMITS]),
        429,
        "rate_limit_error",
        "key_tired",
        {"retry-after": "7", **dict(answers.LIMITS)},
        unchanged=True,
    ),
    "401": Early(answers.failure(401, "authentication_error"), 401, "authentication_error", "key_dead", unchanged=True),
    "403": Early(answers.failure(403, "permission_error"), 403, "permission_error", "key_dead", unchanged=True),
}


def told(relay: Relay, upstream: Upstream, fault: Early) -> None:
    """Ask, with the upstream failing so, and check what the client is told."""
    upstream.queue(fault.answer)
    reply = ask(relay.port, post(body_for()))
    assert (reply.status, reply.error, reply.ending) == (fault.status, fault.error, "complete"), reply
    if fault.unchanged:
        assert reply.body == fault.answer.body
        assert reply.header("request-id") == "req_upstream"
    else:
        assert reply.json["request_id"], reply
    assert fault.headers == {name: reply.header(name) for name in fault.headers}
    line = relay.access_line(reply.header("x-request-id"))
    assert (line["outcome"], line["status"], line["attempts"]) == (fault.outcome, fault.status, 1), line
    assert upstream.stats()["requests"] == 1


@pytest.mark.parametrize("name", EARLY)
def test_an_early_fault_of_the_only_provider_is_told(relay: Relay, upstream: Upstream, name: str) -> None:
    told(relay, upstream, EARLY[name])


@pytest.mark.parametrize("name", KEY_TROUBLE)
def test_trouble_with_the_only_key_passes_unchanged(upstream: Upstream, name: str) -> None:
    with Relay(config([provider("first", upstream.url)])) as relay:
        told(relay, upstream, KEY_TROUBLE[name])


def saved(relay: Relay, upstream: Upstream, second: Upstream, answer: Answer) -> None:
    """Ask, with the first upstream failing so, and check that the second one's answer is all the client sees."""
    upstream.queue(answer)
    second.queue(HEALTHY)
    body = body_for()
    reply = ask(relay.port, post(body))
    assert (reply.status, reply.body, reply.ending) == (200, HEALTHY.body, "complete"), reply
    assert second.last().sha256 == hashlib.sha256(body).hexdigest()
    line = relay.access_line(reply.header("x-request-id"))
    assert (line["outcome"], line["provider"], line["attempts"]) == ("answered", "second", 2), line


@pytest.mark.parametrize("name", EARLY)
def test_an_early_fault_is_covered_by_the_next_provider(
    pair: Relay, upstream: Upstream, second: Upstream, name: str
) -> None:
    saved(pair, upstream, second, EARLY[name].answer)


@pytest.mark.parametrize("name", KEY_TROUBLE)
def test_trouble_with_a_key_is_covered_by_the_next_provider(upstream: Upstream, second: Upstream, name: str) -> None:
    made = [provider("first", upstream.url, priority=2), provider("second", second.url)]
    with Relay(config(made)) as relay:
        saved(relay, upstream, second, KEY_TROUBLE[name].answer)


@pytest.mark.parametrize("status", [400, 404, 413, 422])
def test_what_the_caller_did_wrong_is_told_as_it_is_and_nobody_else_is_asked(
    pair: Relay, upstream: Upstream, second: Upstream, status: int
) -> None:
    text = "prompt is too long: 210000 tokens > 200000 maximum"
    fault = answers.failure(status, "invalid_request_error", text)
    upstream.queue(fault)
    reply = ask(pair.port, post(body_for()))
    assert (reply.status, reply.body) == (status, fault.body)
    line = pair.access_line(reply.header("x-request-id"))
    assert (line["outcome"], line["attempts"]) == ("callers_fault", 1), line
    assert second.stats()["connections"] == 0


def test_a_large_body_is_replayed_whole_to_the_next_provider(pair: Relay, upstream: Upstream, second: Upstream) -> None:
    upstream.queue(answers.failure(529, "overloaded_error"))
    second.queue(HEALTHY)
    body = body_for(padding="x" * 5_000_000)
    assert ask(pair.port, post(body)).body == HEALTHY.body
    assert second.last().sha256 == hashlib.sha256(body).hexdigest()


def test_an_upstream_that_answers_before_it_has_the_body_is_heard(relay: Relay, upstream: Upstream) -> None:
    fault = answers.failure(413, "request_too_large")
    upstream.queue(answers.early(fault, ["close"]))
    body = body_for(padding="x" * 5_000_000)
    with Client(relay.port) as client:
        request = post(body)
        client.send(request[:100_000])
        upstream.until(requests=1)
        client.send_what_is_taken(request[100_000:])
        reply = client.reply()
    assert (reply.status, reply.body) == (413, fault.body)


UNREACHABLE = ["refused", "unknown name", "untrusted certificate", "certificate for another name", "no TLS spoken"]


@pytest.fixture(scope="module")
def misnamed(certificates: Certificates) -> Iterator[Upstream]:
    with Upstream(certificates.elsewhere) as started:
        yield started


@pytest.fixture
def unreachable(
    tls_process: Upstream, misnamed: Upstream, first_process: Upstream, certificates: Certificates
) -> dict[str, dict[str, Any]]:
    made = {
        "refused": {"base_url": f"http://127.0.0.1:{free_port()}"},
        "unknown name": {"base_url": "http://no-such-host.invalid:8000"},
        "untrusted certificate": {"base_url": tls_process.url},
        "certificate for another name": {"base_url": misnamed.url, "ca_file": str(certificates.authority)},
        "no TLS spoken": {"base_url": f"https://localhost:{first_process.port}"},
    }
    assert list(made) == UNREACHABLE
    return {name: provider("first", priority=2, timeouts=TIMEOUTS, **one) for name, one in made.items()}


@pytest.mark.parametrize("name", UNREACHABLE)
def test_an_unreachable_provider(
    unreachable: dict[str, dict[str, Any]],
    upstream: Upstream,
    second: Upstream,
    tls_process: Upstream,
    misnamed: Upstream,
    name: str,
) -> None:
    """Alone it is told as 502; with another one behind it, nobody notices."""
    with Relay(config([unreachable[name]])) as lone:
        reply = ask(lone.port, post(body_for()))
        assert (reply.status, reply.error) == (502, "api_error"), reply
        line = lone.access_line(reply.header("x-request-id"))
        assert (line["outcome"], line["status"]) == ("provider_ill", 502), line
    with Relay(config([unreachable[name], provider("second", second.url)])) as pair:
        second.queue(HEALTHY)
        assert ask(pair.port, post(body_for())).body == HEALTHY.body
    assert upstream.stats()["requests"] == tls_process.stats()["requests"] == misnamed.stats()["requests"] == 0


def test_a_provider_with_a_certificate_of_the_configured_authority_is_used(
    tls_process: Upstream, certificates: Certificates
) -> None:
    tls_process.fresh()
    tls_process.queue(GOOD)
    one = provider("first", tls_process.url, ca_file=str(certificates.authority))
    with Relay(config([one])) as relay:
        reply = ask(relay.port, post(body_for()))
    assert (reply.status, reply.body) == (200, GOOD.body)
    assert tls_process.last().header("host") == f"localhost:{tls_process.port}"


def test_a_connection_closed_while_idle_is_not_held_against_the_next_call(relay: Relay, upstream: Upstream) -> None:
    upstream.queue(GOOD)
    assert ask(relay.port, post(body_for())).status == 200
    upstream.fresh()
    upstream.queue(GOOD)
    assert ask(relay.port, post(body_for())).body == GOOD.body


def test_a_call_lost_on_a_stale_connection_is_sent_again_on_a_new_one(relay: Relay, upstream: Upstream) -> None:
    upstream.queue(GOOD, raw("reset"), GOOD)
    assert ask(relay.port, post(body_for())).status == 200
    reply = ask(relay.port, post(body_for()))
    assert (reply.status, reply.body) == (200, GOOD.body)
    assert upstream.stats()["requests"] == 3


def test_a_call_lost_on_a_new_connection_is_not_sent_again(relay: Relay, upstream: Upstream) -> None:
    upstream.queue(raw("reset"), GOOD)
    assert ask(relay.port, post(body_for(), [("Authorization", f"Bearer {KEY}")])).status == 502
    assert upstream.stats()["requests"] == 1
