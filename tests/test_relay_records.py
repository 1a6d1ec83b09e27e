"""What a call leaves behind: its record, its headers, its connections."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet import error as net
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.web.http import PotentialDataLoss
from zope.interface import implementer

from ccrelay.core.model import Usage
from ccrelay.upstream.agent import OriginAgent

from .scenarios import (
    JSON,
    USAGE,
    Scene,
    Step,
    error,
    error_event,
    events,
    message,
    played,
    says,
    stream,
    upstream,
    whole,
)
from .scenarios_cases import (
    ANSWERED,
    BODY,
    GONE,
    OVERLOADED,
    fingerprint_of,
    told,
)

# -- what the record says


@pytest.mark.parametrize(
    "answer", [stream("north"), message("north"), message("north", headers=((b"x", b"y"),), end=PotentialDataLoss())]
)
def test_the_record_counts_all_four_classes_of_tokens(answer: Step) -> None:
    with Scene(upstream("north", answer)) as scene:
        client = scene.call(BODY)
    assert client.view == (200, whole(answer), "finished")
    assert client.record.usage == USAGE
    assert client.record.stream is (answer.headers[0][1] != b"application/json")


def test_a_message_streamed_because_it_is_large_is_counted_too() -> None:
    usage = b'"usage":{"input_tokens":5,"output_tokens":6,"cache_read_input_tokens":7}'
    body = b'{"text":"' + b"x" * 200_000 + b'",' + usage + b"}"
    with Scene(upstream("north", Step(200, JSON, ((0.0, body[:100_000]), (1.0, body[100_000:]))))) as scene:
        client = scene.call(BODY)
        scene.advance(0.5)
        assert len(client.body) == 100_000
    assert client.view == (200, body, "finished")
    assert client.record.usage == Usage(input=5, output=6, cache_read=7)


def test_tokens_told_by_a_failed_attempt_are_not_charged_to_the_next_ones_answer() -> None:
    with Scene(
        upstream("north", played([*events("n")[:1], error_event()])), upstream("south", says(200, b'{"id":"m"}'))
    ) as scene:
        client = scene.call(BODY)
    assert client.body == b'{"id":"m"}'
    assert client.record.usage == Usage()


def test_the_times_are_counted_from_the_calls_beginning() -> None:
    slow = error(529, "overloaded_error", after=2.0)
    with Scene(upstream("north", slow), upstream("south", stream("south", 1.0, after=3.0))) as scene:
        scene.advance(50.0)
        client = scene.call(length=len(BODY))
        scene.advance(4.0)
        client.send(BODY)
        client.finish_upload()
    record = client.record
    assert client.committed_at == 50 + 4 + 2 + 3 + 2
    assert record.ttfb == 4 + 2 + 3 + 2
    assert record.duration == 4 + 2 + 3 + 7
    assert record.time == 1_800_000_000 + 50 + 16
    assert [piece for _, piece in client.pieces][1:] == list(events("south"))[2:]


def test_an_error_is_the_first_byte_of_its_answer() -> None:
    with Scene(upstream("north", error(400, "invalid_request_error", after=2.5))) as scene:
        client = scene.call(BODY)
    assert (client.record.ttfb, client.record.duration) == (2.5, 2.5)


@pytest.mark.parametrize(
    ("last", "status"), [(stream("south"), 200), (error(400, "invalid_request_error"), 400), (OVERLOADED, 502)]
)
def test_debugging_headers_tell_how_the_answer_came_about(last: Step, status: int) -> None:
    with Scene(upstream("north", error(503, "api_error")), upstream("south", last), debug=True) as scene:
        client = scene.call(BODY)
    assert client.status == status
    assert client.header(b"x-cc-relay-strategy") == b"failover"
    assert client.header(b"x-cc-relay-provider") == b"south"
    assert client.header(b"x-cc-relay-attempts") == b"2"


def test_without_debugging_no_header_tells() -> None:
    with Scene(upstream("north", stream(headers=((b"x-cc-relay-provider", b"one behind"),)))) as scene:
        client = scene.call(BODY)
    assert [name for name, _ in client.headers if name.startswith(b"x-cc-relay")] == []


@pytest.mark.parametrize("name", [b"request-id", b"x-request-id", b"apim-request-id"])
def test_the_record_holds_the_request_ids_of_both_sides(name: bytes) -> None:
    with Scene(upstream("north", OVERLOADED), upstream("south", stream(headers=((name, b"req_up"),)))) as scene:
        client = scene.call(BODY)
    assert (client.record.request_id, client.record.upstream_request_id) == ("call-1", "req_up")
    assert client.header(b"request-id") == (b"req_up" if name == b"request-id" else None)


def test_calls_at_once_do_not_mix() -> None:
    with Scene(upstream("north", *(stream(f"m{n}", 1.0 + n) for n in range(3)))) as scene:
        clients = [scene.call(BODY) for _ in range(3)]
        scene.advance(2.5)
        clients[1].leave()
    assert [client.view for client in (clients[0], clients[2])] == [
        (200, whole(stream(name)), "finished") for name in ("m0", "m2")
    ]
    assert [client.record.outcome for client in clients] == [ANSWERED, GONE, ANSWERED]


# -- with the real agent on wires in memory


@implementer(IStreamClientEndpoint)
class Wire:
    """An endpoint that always connects. transports: of the connections made, in order; protocols: likewise."""

    def __init__(self) -> None:
        self.transports: list[StringTransport] = []
        self.protocols: list[Any] = []

    def connect(self, factory: Any) -> Deferred[Any]:
        self.protocols.append(factory.buildProtocol(None))
        self.transports.append(StringTransport())
        self.transports[-1].setTcpNoDelay = self.transports[-1].setTcpKeepAlive = lambda _: None
        self.protocols[-1].makeConnection(self.transports[-1])
        return succeed(self.protocols[-1])

    def answer(self, number: int, step: Step) -> None:
        body = whole(step)
        head = b"".join(b"%b: %b\r\n" % line for line in step.headers)
        lines = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n%b\r\n" % (len(body), head)
        self.protocols[number].dataReceived(lines + body)

    def lose(self, number: int) -> None:
        self.protocols[number].connectionLost(Failure(net.ConnectionLost()))


def test_a_request_repeated_because_its_connection_was_stale_is_one_attempt() -> None:
    wire = Wire()
    with Scene(upstream("north", agent=lambda clock: OriginAgent(clock, wire)), max_attempts=1) as scene:
        scene.call(BODY)
        wire.answer(0, stream())
        second = scene.call(BODY)
        wire.lose(0)
        assert len(wire.protocols) == 2
        wire.answer(1, stream("again"))
    assert wire.transports[0].value().count(BODY) == 2
    assert wire.transports[1].value().count(BODY) == 1
    assert second.view == (200, whole(stream("again")), "finished")
    assert told(second) == (ANSWERED, 200, 1, "north", fingerprint_of("k1"))


@pytest.mark.parametrize("coding", [b"gzip", b"br"])
def test_an_answer_compressed_unasked_is_refused_before_anybody_unpacks_it(coding: bytes) -> None:
    wire = Wire()
    north = upstream("north", agent=lambda clock: OriginAgent(clock, wire), priority=1)
    with Scene(north, upstream("south", stream("south"))) as scene:
        client = scene.call(BODY)
        wire.answer(0, stream(headers=((b"content-encoding", coding),)))
        assert wire.transports[0].disconnected
    assert client.view == (200, whole(stream("south")), "finished")
    assert told(client)[:3] == (ANSWERED, 200, 2)


def test_a_request_lost_on_a_fresh_connection_is_not_repeated_there() -> None:
    wire = Wire()
    with Scene(
        upstream("north", agent=lambda clock: OriginAgent(clock, wire), keys=["n1", "n2"]), upstream("south", stream())
    ) as scene:
        client = scene.call(BODY)
        wire.lose(0)
    assert len(wire.protocols) == 1
    assert scene.asked == ["south k1"]
    assert told(client)[:3] == (ANSWERED, 200, 2)
