"""Clients that leave, dawdle or stop reading, and the bounds they meet."""

from __future__ import annotations

import hashlib
import socket
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.e2e import answers
from tests.e2e.answers import Answer, Text, send
from tests.e2e.raw_client import Client, ask, body_for, post, request_head
from tests.e2e.relay_process import Relay, config, provider
from tests.e2e.samples import CHUNKS, EVENTS, GOOD, SSE_HEAD, raw
from tests.e2e.upstream_process import MESSAGES, Upstream
from tests.e2e.waiting import settled, wait_for


@pytest.fixture(scope="module")
def patient(first_process: Upstream, second_process: Upstream) -> Iterator[Relay]:
    """Two providers and no short timeout, so that only a leaving client can end what hangs."""
    made = [provider("second", second_process.url), provider("first", first_process.url, priority=2)]
    with Relay(config(made)) as started:
        yield started


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
    client.send(post(body_for(model="of-unknown-context", padding="x" * 20_000_000)))
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
