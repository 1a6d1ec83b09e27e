"""Faults after the commit: the client must see whole events, then a broken connection; nobody else is asked."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e import answers
from tests.e2e.answers import Answer, Text
from tests.e2e.certificates import Certificates
from tests.e2e.raw_client import Client, Reply, ask, body_for, post
from tests.e2e.relay_process import Relay, config, provider
from tests.e2e.samples import CHUNKS, EVENTS, SSE_HEAD, TIMEOUTS, raw
from tests.e2e.upstream_process import Upstream

HEALTHY = answers.streamed(answers.events([Text(["from the second provider"])]))


@pytest.fixture(scope="module")
def pair(first_process: Upstream, second_process: Upstream) -> Iterator[Relay]:
    """Two providers, the first one preferred."""
    made = [provider("second", second_process.url), provider("first", first_process.url, priority=2, timeouts=TIMEOUTS)]
    with Relay(config(made)) as started:
        yield started


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
