"""Faults on either side, each with what the client must see of it and what the access line must call it."""

from __future__ import annotations

import hashlib
import socket
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.e2e import answers
from tests.e2e.answers import Answer, Text, send
from tests.e2e.conftest import Certificates
from tests.e2e.raw_client import KEY, Client, Reply, ask, body_for, post, request_head
from tests.e2e.relay_process import Relay, config, free_port, provider
from tests.e2e.upstream_process import MESSAGES, Upstream
from tests.e2e.waiting import settled, wait_for

TIMEOUTS = {"connect_ms": 500, "first_byte_ms": 1000, "idle_ms": 1000}
EVENTS = answers.events([Text(["one", "two"])])
GOOD = answers.streamed(EVENTS)
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


@pytest.fixture(scope="module")
def patient(first_process: Upstream, second_process: Upstream) -> Iterator[Relay]:
    """Two providers and no short timeout, so that only a leaving client can end what hangs."""
    made = [provider("second", second_process.url), provider("first", first_process.url, priority=2)]
    with Relay(config(made)) as started:
        yield started


# ---------------------------------------------------------------- before the commit


@dataclass(frozen=True)
class Early:
    """An answer that fails before its first content event, and what a client of a lone provider gets instead."""

    answer: Answer
    status: int = 502
    error: str = "api_error"
    outcome: str = "provider_ill"
    headers: dict[str, str] = field(default_factory=dict)
    unchanged: bool = False


def raw(*steps: Any) -> Answer:
    return Answer(tuple(send(step) if isinstance(step, bytes) else [step] for step in steps))


def html(status: int) -> Answer:
    text = b"<html><body><h1>Just a moment...</h1></body></html>"
    return answers.plain(text, status, "Whatever", [("Content-Type", "text/html")])


SSE_HEAD = answers.stream_head("chunked")
CHUNKS = [answers.chunk(piece) for piece in EVENTS]

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


# ---------------------------------------------------------------- no connection at all

UNREACHABLE = ["refused", "unknown name", "untrusted certificate", "certificate for another name", "no TLS spoken"]


@pytest.fixture(scope="module")
def tls_process(certificates: Certificates) -> Iterator[Upstream]:
    with Upstream(certificates.localhost) as started:
        yield started


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


# ---------------------------------------------------------------- after the commit


def cut(relay: Relay, reply: Reply, expected: bytes, outcome: str = "truncated") -> None:
    """Check that a client got these bytes, then a broken connection, and that the line says why."""
    assert (reply.status, reply.ending) == (200, "broken"), reply
    assert reply.body == expected
    line = relay.access_line(dict(reply.headers)["x-request-id"])
    assert (line["outcome"], line["attempts"]) == (outcome, 1), line


def interrupted(relay: Relay, upstream: Upstream, sent: list[bytes], how: str, framing: str = "chunked") -> Reply:
    """Read an answer that stops after ``sent``, the mishap happening once the client has all whole events of it."""
    answer = answers.ended(sent, how, framing)
    gate = f"{how} {len(sent)} {len(answer.body)} {framing}"
    steps = (*answer.steps[:2], ["gate", gate], *answer.steps[2:])
    upstream.queue(Answer(steps))
    whole = b"".join(piece for piece in sent if piece.endswith(b"\n\n"))
    with Client(relay.port) as client:
        client.send(post(body_for()))
        incoming = client.opened()
        got = b""
        while len(got) < len(whole):
            got += (piece := next(iter(incoming), b""))
            assert piece, f"the answer ended ({incoming.ending}) after {got!r}"
        upstream.release(gate)
        rest = incoming.reply()
    return Reply(rest.status, rest.headers, got + rest.body, rest.ending)


@pytest.mark.parametrize(
    ("how", "framing"),
    [
        ("reset", "chunked"),
        ("close", "chunked"),
        ("clean", "chunked"),
        ("close", "length"),
        ("close", "close"),
        ("reset", "close"),
    ],
)
def test_a_stream_that_dies_at_an_event_boundary_is_cut_there(
    pair: Relay, upstream: Upstream, second: Upstream, how: str, framing: str
) -> None:
    second.route(HEALTHY)
    for count in range(2, len(EVENTS)):
        reply = interrupted(pair, upstream, EVENTS[:count], how, framing)
        cut(pair, reply, b"".join(EVENTS[:count]))
    assert second.stats()["connections"] == 0


@pytest.mark.parametrize("how", ["reset", "close", "clean"])
def test_a_stream_that_dies_inside_an_event_is_cut_before_it(
    pair: Relay, upstream: Upstream, second: Upstream, how: str
) -> None:
    second.route(HEALTHY)
    for count in range(2, len(EVENTS)):
        part = EVENTS[count]
        for size in (1, len(part) // 2, len(part) - 1):
            reply = interrupted(pair, upstream, [*EVENTS[:count], part[:size]], how)
            cut(pair, reply, b"".join(EVENTS[:count]))
    assert second.stats()["connections"] == 0


@pytest.mark.parametrize("how", ["reset", "close"])
def test_a_stream_that_dies_after_message_stop_has_been_answered(pair: Relay, upstream: Upstream, how: str) -> None:
    reply = interrupted(pair, upstream, EVENTS, how)
    assert reply.body == b"".join(EVENTS)
    line = pair.access_line(dict(reply.headers)["x-request-id"])
    assert line["outcome"] == "answered", line


def test_an_error_event_in_mid_stream_is_passed_on(pair: Relay, upstream: Upstream, second: Upstream) -> None:
    second.route(HEALTHY)
    sent = [*EVENTS[:3], answers.error_event()]
    reply = interrupted(pair, upstream, sent, "clean")
    assert reply.body == b"".join(sent)
    line = pair.access_line(dict(reply.headers)["x-request-id"])
    assert line["outcome"] in ("truncated", "provider_ill"), line
    assert second.stats()["connections"] == 0


@pytest.mark.parametrize("part", [b"", EVENTS[3][:20]], ids=["between events", "inside an event"])
def test_a_stream_that_falls_silent_is_cut_at_the_last_boundary(
    pair: Relay, upstream: Upstream, second: Upstream, part: bytes
) -> None:
    second.route(HEALTHY)
    reply = interrupted(pair, upstream, [*EVENTS[:3], part] if part else EVENTS[:3], "hang")
    cut(pair, reply, b"".join(EVENTS[:3]), "stalled")
    upstream.until(open=0)
    assert second.stats()["connections"] == 0


def test_a_slow_but_living_stream_is_not_cut(relay: Relay, upstream: Upstream) -> None:
    """It takes longer than any of the timeouts, and never falls silent for as long as one."""
    answer = answers.streamed(EVENTS, interval=TIMEOUTS["idle_ms"] / 1000 / 4)
    upstream.queue(answer)
    reply = ask(relay.port, post(body_for()))
    assert (reply.body, reply.ending) == (answer.body, "complete")


@pytest.mark.parametrize("how", ["reset", "close", "hang"])
def test_a_json_answer_that_stops_midway_is_not_taken_for_whole(pair: Relay, upstream: Upstream, how: str) -> None:
    whole = answers.as_json(answers.message([Text(["x" * 100_000])]))
    head = answers.head(200, "OK", [("Content-Type", "application/json"), ("Content-Length", str(len(whole.body)))])
    upstream.queue(raw(head + whole.body[:70_000], how))
    reply = ask(pair.port, post(body_for(stream=False)))
    assert reply.ending == "broken" and whole.body.startswith(reply.body), reply.ending
    line = pair.access_line(dict(reply.headers)["x-request-id"])
    assert line["outcome"] == ("stalled" if how == "hang" else "truncated"), line


@pytest.fixture(scope="module")
def over_tls(tls_process: Upstream, certificates: Certificates) -> Iterator[Relay]:
    one = provider("first", tls_process.url, ca_file=str(certificates.authority))
    with Relay(config([one])) as started:
        yield started


@pytest.mark.parametrize(
    ("how", "framing"), [("reset", "chunked"), ("close", "chunked"), ("clean", "chunked"), ("close", "close")]
)
def test_a_stream_over_tls_that_dies_is_cut_there(
    over_tls: Relay, tls_process: Upstream, how: str, framing: str
) -> None:
    tls_process.fresh()
    reply = interrupted(over_tls, tls_process, [*EVENTS[:4], EVENTS[4][:9]], how, framing)
    cut(over_tls, reply, b"".join(EVENTS[:4]))


def test_a_client_gone_in_mid_stream_takes_a_tls_upstream_along(over_tls: Relay, tls_process: Upstream) -> None:
    tls_process.fresh()
    tls_process.queue(raw(SSE_HEAD, *CHUNKS[:3], "hang"))
    with Client(over_tls.port) as client:
        client.send(post(body_for()))
        client.opened().until(b'"one"')
    tls_process.until(open=0, lost=1)


# ---------------------------------------------------------------- clients that leave


def leave(client: Client, how: str) -> None:
    if how == "reset":
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.leave()


def abandoned(relay: Relay, seen: int) -> None:
    line = relay.next_access_line(seen)
    assert line["outcome"] == "client_gone", line


LEAVING = pytest.mark.parametrize("how", ["close", "reset"])


@LEAVING
def test_a_client_gone_before_its_upload_costs_nothing(patient: Relay, upstream: Upstream, how: str) -> None:
    calls = len(patient.access_lines())
    client = Client(patient.port)
    request = post(body_for(), [("Expect", "100-continue")])
    client.send(request[: request.index(b"\r\n\r\n") + 4])
    assert client.reply().status == 100
    leave(client, how)
    abandoned(patient, calls)
    assert upstream.stats()["connections"] == 0


@LEAVING
def test_a_client_gone_during_its_upload_takes_the_upstream_along(patient: Relay, upstream: Upstream, how: str) -> None:
    calls = len(patient.access_lines())
    client = Client(patient.port)
    client.send(post(body_for(padding="x" * 400_000))[:200_000])
    upstream.until(requests=1)
    leave(client, how)
    upstream.until(open=0, lost=1)
    abandoned(patient, calls)


@LEAVING
@pytest.mark.parametrize(
    "steps",
    [("hang",), (SSE_HEAD, "hang"), (SSE_HEAD, CHUNKS[0], "hang")],
    ids=["before the head", "after the head", "while its opening is held"],
)
def test_a_client_gone_while_it_waits_takes_the_upstream_along_and_nobody_else_is_asked(
    patient: Relay, upstream: Upstream, second: Upstream, how: str, steps: tuple[Any, ...]
) -> None:
    calls = len(patient.access_lines())
    upstream.queue(raw(*steps))
    client = Client(patient.port)
    client.send(post(body_for()))
    upstream.until(complete=1)
    leave(client, how)
    upstream.until(open=0, lost=1)
    abandoned(patient, calls)
    assert second.stats()["connections"] == 0


@LEAVING
@pytest.mark.parametrize("stream", [True, False])
def test_a_client_gone_in_mid_answer_takes_the_upstream_along(
    patient: Relay, upstream: Upstream, how: str, stream: bool
) -> None:
    calls = len(patient.access_lines())
    whole = answers.as_json(answers.message([Text(["x" * 300_000])]))
    head = answers.head(200, "OK", [("Content-Type", "application/json"), ("Content-Length", str(len(whole.body)))])
    upstream.queue(raw(SSE_HEAD, *CHUNKS[:3], "hang") if stream else raw(head + whole.body[:200_000], "hang"))
    client = Client(patient.port)
    client.send(post(body_for(stream)))
    client.opened().until(b'"one"' if stream else b"xxx")
    leave(client, how)
    upstream.until(open=0, lost=1)
    abandoned(patient, calls)


@LEAVING
def test_a_client_gone_while_the_upstream_does_not_read_takes_it_along(
    patient: Relay, upstream: Upstream, second: Upstream, how: str
) -> None:
    calls, idle = len(patient.access_lines()), settled(patient.descriptors, 0.2, "earlier connections are gone")
    upstream.queue(Answer((["gate", "never"],), before_body=True))
    client = Client(patient.port)
    client.send(post(body_for(padding="x" * 20_000_000)))
    upstream.until(gates=["never"])
    leave(client, how)
    abandoned(patient, calls)
    wait_for(lambda: patient.descriptors() <= idle, f"the relay holds no more than {idle} descriptors")
    assert second.stats()["connections"] == 0


def test_clients_that_leave_leave_nothing_behind(patient: Relay, upstream: Upstream) -> None:
    settled(patient.descriptors, 0.3, "earlier connections are gone")
    before = patient.descriptors()
    for _ in range(30):
        upstream.queue(raw(SSE_HEAD, *CHUNKS[:3], "hang"))
        client = Client(patient.port)
        client.send(post(body_for()))
        client.opened().until(b'"one"')
        leave(client, "reset")
    upstream.until(open=0, requests=30)
    wait_for(lambda: patient.descriptors() <= before, f"no more than the {before} descriptors of before")


# ---------------------------------------------------------------- slow clients

MEGABYTE = 1024 * 1024


def test_a_slow_reader_costs_no_memory(patient: Relay, upstream: Upstream) -> None:
    """The upstream has 200 MB to say, the client stops listening, then takes it all."""
    delta = answers.event("content_block_delta", index=0, delta={"type": "text_delta", "text": "x" * 65_000})
    count = 200 * MEGABYTE // len(delta)
    opening, closing = EVENTS[:2], EVENTS[-3:]
    framed = [b"".join(map(answers.chunk, opening)), b"".join(map(answers.chunk, closing)) + answers.LAST_CHUNK]
    repeat = ["repeat", send(answers.chunk(delta))[1], count]
    upstream.queue(Answer((send(SSE_HEAD + framed[0]), repeat, send(framed[1]), ["end"])))
    expected = hashlib.sha256(b"".join(opening))
    for _ in range(count):
        expected.update(delta)
    expected.update(b"".join(closing))

    with Client(patient.port, receive_buffer=65536) as client:
        before = patient.resident()
        client.send(post(body_for()))
        incoming = client.opened()
        first = incoming.until(b"xxx")
        sent = settled(lambda: upstream.stats()["sent"], 0.5, "the upstream is held back")
        assert sent < 40 * MEGABYTE
        most = patient.resident()
        got = hashlib.sha256(first)
        for number, piece in enumerate(incoming):
            got.update(piece)
            if number % 500 == 0:
                most = max(most, patient.resident())
    assert (incoming.ending, got.hexdigest()) == ("complete", expected.hexdigest())
    assert most - before < 24 * MEGABYTE, f"{(most - before) / MEGABYTE:.1f} MB more"


@pytest.fixture(scope="module")
def strict(first_process: Upstream) -> Iterator[Relay]:
    """Short deadlines towards clients."""
    deadlines = {"header_timeout_ms": 700, "body_stall_timeout_ms": 700, "write_stall_timeout_ms": 700}
    made = config([provider("first", first_process.url)], server=deadlines)
    with Relay(made) as started:
        yield started


def dropped(client: Client, data: bytes, every: float) -> bytes:
    """Send one byte at a time until the other side answers or closes. Returns what it said."""
    for at in range(len(data)):
        if not client.quiet(every):
            try:
                return client.socket.recv(65536)
            except ConnectionError:
                return b""
        client.send_what_is_taken(data[at : at + 1])
    raise AssertionError(f"all {len(data)} bytes were taken")


def test_headers_that_trickle_are_dropped(strict: Relay) -> None:
    with Client(strict.port) as client:
        heard = dropped(client, request_head("POST", MESSAGES, [("Host", "127.0.0.1"), ("x-slow", "x" * 50)]), 0.1)
    assert heard == b"" or heard.startswith(b"HTTP/1.1 408 "), heard


def test_a_connection_that_never_says_anything_is_dropped(strict: Relay) -> None:
    with Client(strict.port) as client:
        assert client.closed() or client.reply().status == 408


def test_a_body_that_stops_is_dropped_and_the_upstream_with_it(strict: Relay, upstream: Upstream) -> None:
    with Client(strict.port) as client:
        client.send(post(body_for(padding="x" * 300_000))[:100_000])
        upstream.until(requests=1)
        try:
            reply = client.reply()
        except EOFError:
            pass
        else:
            assert reply.status == 408 and reply.error, reply
            assert reply.header("connection") == "close"
    upstream.until(open=0)


def test_a_body_that_trickles_is_dropped(strict: Relay, upstream: Upstream) -> None:
    upstream.route(GOOD)
    request = post(body_for(padding="x" * 100))
    with Client(strict.port) as client:
        client.send(request[:-50])
        heard = dropped(client, request[-50:], 0.1)
    assert heard == b"" or heard.startswith(b"HTTP/1.1 408 "), heard
    assert not any(seen.complete for seen in upstream.requests())
    upstream.until(open=0)


def test_a_reader_that_stops_is_dropped_and_the_upstream_with_it(strict: Relay, upstream: Upstream) -> None:
    repeat = ["repeat", send(answers.chunk(EVENTS[2] * 500))[1], 2000]
    upstream.queue(Answer((send(SSE_HEAD + CHUNKS[0] + CHUNKS[1]), repeat, ["hang"])))
    calls = len(strict.access_lines())
    with Client(strict.port, receive_buffer=65536) as client:
        client.send(post(body_for()))
        client.opened().until(b'"one"')
        upstream.until(open=0, lost=1)
    assert strict.next_access_line(calls)["outcome"] == "client_gone"


def test_a_slow_upload_that_makes_progress_is_served(strict: Relay, upstream: Upstream) -> None:
    """Longer than the deadline in all, but never without a good piece for as long as it."""
    upstream.queue(GOOD)
    request = post(body_for(padding="x" * 2_000_000))
    with Client(strict.port) as client:
        for at in range(0, len(request), 200_000):
            assert client.quiet(0.15)
            client.send(request[at : at + 200_000])
        assert client.reply().body == GOOD.body


# ---------------------------------------------------------------- bounds

HELD = answers.held(EVENTS[:3], "rest", EVENTS[3:])


def test_a_call_above_the_limit_of_calls_is_asked_to_come_back(upstream: Upstream) -> None:
    upstream.queue(HELD, GOOD)
    with Relay(config([provider("first", upstream.url)], server={"max_concurrent": 1})) as relay:
        with Client(relay.port) as client:
            client.send(post(body_for()))
            incoming = client.opened()
            refused = ask(relay.port, post(body_for()))
            assert (refused.status, refused.error) == (503, "overloaded_error")
            assert refused.header("retry-after") == "1"
            upstream.release("rest")
            assert incoming.reply().ending == "complete"
        assert ask(relay.port, post(body_for())).body == GOOD.body


def test_bodies_above_the_memory_budget_wait_for_their_turn(upstream: Upstream) -> None:
    """Six uploads of 600 kB at once under a budget of 1 MB: all are served, none is refused."""
    upstream.route(GOOD)
    bodies = [body_for(padding="x" * 600_000) for _ in range(6)]
    budget = {"max_body_bytes": 800_000, "max_inflight_body_bytes": 1_000_000}
    with Relay(config([provider("first", upstream.url)], server=budget)) as relay:
        with ThreadPoolExecutor(len(bodies)) as threads:
            replies = list(threads.map(lambda body: ask(relay.port, post(body)), bodies))
        assert [reply.body for reply in replies] == [GOOD.body] * len(bodies)
    assert {seen.sha256 for seen in upstream.requests()} == {hashlib.sha256(body).hexdigest() for body in bodies}


def test_an_answer_that_does_not_begin_in_time_is_given_up(upstream: Upstream, second: Upstream) -> None:
    upstream.queue(raw("hang"))
    providers = [provider("first", upstream.url, priority=2), provider("second", second.url)]
    with Relay(config(providers, server={"timeout_ms": 700})) as relay:
        reply = ask(relay.port, post(body_for()))
        assert (reply.status, reply.error) == (504, "timeout_error"), reply
        upstream.until(open=0, lost=1)
        upstream.queue(answers.streamed(EVENTS, interval=0.15))
        reply = ask(relay.port, post(body_for()))
        assert (reply.body, reply.ending) == (GOOD.body, "complete"), "it had begun in time, and may last"
    assert second.stats()["connections"] == 0


# ---------------------------------------------------------------- connections that went stale


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
