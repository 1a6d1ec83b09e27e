"""The pump: hold, commit, pass on, ping, back-pressure, and every way a body can end."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.error import ConnectionLost
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone, ResponseFailed
from twisted.web.http import PotentialDataLoss
from zope.interface.verify import verifyObject

from ccrelay.core.model import Head, Usage
from ccrelay.core.outcomes import Outcome, UpstreamError
from ccrelay.core.sse import PING, EventAligner
from ccrelay.interfaces import IResponseSink
from ccrelay.upstream.pump import HOLD_BYTES, HOLD_SECONDS, MESSAGE_BYTES, PING_SECONDS, Ending, Pump, StreamRefused

from .fakes import FakeSink, FakeTransport

IDLE = 240.0
START = (
    b'event: message_start\ndata: {"type":"message_start","message":{"id":"msg_1","model":"m",'
    b'"usage":{"input_tokens":7,"cache_read_input_tokens":3,"output_tokens":1}}}\n\n'
)
BLOCK = b'event: content_block_start\ndata: {"type":"content_block_start","index":0}\n\n'
DELTA = b'event: content_block_delta\ndata: {"type":"content_block_delta","delta":{"text":"x"}}\n\n'
LAST = (
    b'event: message_delta\ndata: {"type":"message_delta","delta":{"stop_reason":"end_turn"},'
    b'"usage":{"output_tokens":42}}\n\nevent: message_stop\ndata: {"type":"message_stop"}\n\n'
)
ERROR = b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}\n\n'

DONE = Failure(ResponseDone())
CLOSED = Failure(PotentialDataLoss())
CUT = Failure(ResponseFailed([Failure(ConnectionLost())]))


class Rig:
    """A pump between a recording transport and a recording sink, on a clock."""

    def __init__(self, *, stream: bool = True, rewrite: Callable[[bytes], bytes] | None = None) -> None:
        self.clock = Clock()
        self.sink = FakeSink()
        self.transport = FakeTransport()
        self.commits: list[float] = []
        self.pump = Pump(
            self.clock,
            self.sink,
            Head(200, ((b"content-type", b"text/event-stream" if stream else b"application/json"),)),
            EventAligner() if stream else None,
            idle_timeout=IDLE,
            on_commit=lambda: self.commits.append(self.clock.seconds()),
            rewrite=rewrite,
        )
        self.opened: list[Any] = []
        self.ended: list[Any] = []
        self.pump.opened.addBoth(self.opened.append)
        self.pump.ended.addBoth(self.ended.append)
        self.pump.makeConnection(self.transport)

    def feed(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.pump.dataReceived(piece)

    def lose(self, reason: Failure) -> None:
        self.pump.connectionLost(reason)

    @property
    def refusal(self) -> Any:
        assert isinstance(self.opened[0], Failure)
        return self.opened[0].value


def test_the_fake_sink_is_a_sink() -> None:
    verifyObject(IResponseSink, FakeSink())


# -- holding


def test_the_opening_is_held_until_the_first_content_and_then_passes_unchanged() -> None:
    rig = Rig()
    rig.feed(START, PING)
    assert not rig.sink.committed
    rig.feed(BLOCK)
    assert rig.sink.body == START + PING + BLOCK
    assert rig.opened == [None]
    assert rig.commits == [0.0]


def test_an_error_event_that_comes_first_is_a_failed_attempt_nobody_saw() -> None:
    rig = Rig()
    rig.feed(START, PING, ERROR)
    assert isinstance(rig.refusal, StreamRefused)
    assert rig.refusal.error.type == "overloaded_error"
    assert not rig.sink.committed
    assert rig.transport.log == ["abort"]
    assert rig.clock.getDelayedCalls() == []


def test_an_opening_larger_than_the_bound_is_committed() -> None:
    rig = Rig()
    comment = b": " + b"x" * 8000 + b"\n\n"
    held = 0
    while held <= HOLD_BYTES:
        assert not rig.sink.committed
        rig.feed(comment)
        held += len(comment)
    assert len(rig.sink.body) == held


def test_an_opening_held_too_long_is_committed() -> None:
    rig = Rig()
    rig.clock.advance(30)
    rig.feed(START)
    rig.clock.advance(HOLD_SECONDS - 0.1)
    assert not rig.sink.committed
    rig.clock.advance(0.1)
    assert rig.sink.body == START


def test_nothing_received_is_nothing_to_commit() -> None:
    rig = Rig()
    rig.clock.advance(HOLD_SECONDS * 3)
    assert not rig.sink.committed


@pytest.mark.parametrize("reason", [DONE, CLOSED, CUT])
def test_a_stream_that_ends_before_its_content_is_a_failed_attempt(reason: Failure) -> None:
    rig = Rig()
    rig.feed(START)
    rig.lose(reason)
    assert isinstance(rig.refusal, UpstreamError)
    assert rig.refusal.outcome is Outcome.PROVIDER_ILL
    assert rig.refusal.answered
    assert not rig.sink.committed


def test_silence_before_the_content_is_a_failed_attempt() -> None:
    rig = Rig()
    rig.clock.advance(IDLE)
    assert isinstance(rig.refusal, UpstreamError)
    assert rig.refusal.outcome is Outcome.PROVIDER_ILL
    assert rig.transport.log == ["abort"]


# -- rewriting


def test_an_answer_to_be_rewritten_is_held_to_its_end() -> None:
    rig = Rig(stream=False, rewrite=lambda body: body.replace(b"inputTokens", b"input_tokens"))
    rig.feed(b'{"inputTokens":', b" " * (HOLD_BYTES + 1))
    rig.clock.advance(HOLD_SECONDS * 2)
    assert not rig.sink.committed
    rig.feed(b"7}")
    rig.lose(DONE)
    assert json.loads(rig.sink.body) == {"input_tokens": 7}
    assert rig.ended == [Ending(Outcome.ANSWERED, None)]


def test_an_answer_that_cannot_be_rewritten_is_a_failed_attempt() -> None:
    def refuse(body: bytes) -> bytes:
        raise UpstreamError(Outcome.PROVIDER_ILL, "answered nonsense", answered=True)

    rig = Rig(stream=False, rewrite=refuse)
    rig.feed(b"{}")
    rig.lose(DONE)
    assert rig.refusal.reason == "answered nonsense"
    assert not rig.sink.committed


def test_an_answer_too_large_to_be_rewritten_is_a_failed_attempt() -> None:
    rig = Rig(stream=False, rewrite=lambda body: body)
    rig.feed(b" " * MESSAGE_BYTES, b"  ")
    assert rig.refusal.outcome is Outcome.PROVIDER_ILL
    assert rig.transport.log == ["abort"]


# -- passing


def test_every_byte_passes_in_order_however_it_is_cut() -> None:
    whole = START + BLOCK + DELTA * 3 + LAST
    for size in (1, 7, 100, len(whole)):
        rig = Rig()
        rig.feed(*(whole[i : i + size] for i in range(0, len(whole), size)))
        rig.lose(DONE)
        assert rig.sink.body == whole
        assert rig.sink.end == "finished"
        assert rig.ended == [Ending(Outcome.ANSWERED, None)]
        assert rig.pump.usage == Usage(input=7, output=42, cache_write=0, cache_read=3)


def test_a_piece_of_an_event_waits_for_its_end() -> None:
    rig = Rig()
    rig.feed(START + BLOCK + DELTA[:20])
    assert rig.sink.body == START + BLOCK
    rig.feed(DELTA[20:])
    assert rig.sink.body == START + BLOCK + DELTA


@pytest.mark.parametrize("reason", [DONE, CLOSED, CUT])
def test_a_complete_message_counts_as_answered_however_the_connection_ends(reason: Failure) -> None:
    rig = Rig()
    rig.feed(START + BLOCK + LAST)
    rig.lose(reason)
    assert (rig.sink.end, rig.ended) == ("finished", [Ending(Outcome.ANSWERED, None)])


@pytest.mark.parametrize("reason", [DONE, CLOSED, CUT])
@pytest.mark.parametrize("rest", [b"", DELTA, DELTA[:9]])
def test_a_committed_stream_without_message_stop_is_cut_at_an_event(reason: Failure, rest: bytes) -> None:
    rig = Rig()
    rig.feed(START + BLOCK + rest)
    rig.lose(reason)
    assert rig.sink.end == "aborted"
    assert rig.sink.body == START + BLOCK + (DELTA if rest == DELTA else b"")
    assert rig.ended[0].outcome is Outcome.TRUNCATED


def test_an_error_event_after_content_passes_and_ends_as_the_upstream_ended_it() -> None:
    rig = Rig()
    rig.feed(START + BLOCK, ERROR)
    rig.lose(DONE)
    assert rig.sink.body == START + BLOCK + ERROR
    assert rig.sink.end == "finished"
    assert rig.ended == [Ending(Outcome.TRUNCATED, "error event: overloaded_error")]


def test_a_stream_cut_after_an_error_event_is_cut() -> None:
    rig = Rig()
    rig.feed(START + BLOCK, ERROR)
    rig.lose(CUT)
    assert rig.sink.end == "aborted"


def test_nothing_happens_after_the_end() -> None:
    rig = Rig()
    rig.feed(START + BLOCK)
    rig.clock.advance(IDLE)
    rig.feed(DELTA)
    rig.lose(CUT)
    assert rig.sink.body.count(DELTA) == 0
    assert len(rig.ended) == 1


# -- pings and silence


def test_a_silent_committed_stream_gets_pings_until_the_upstream_counts_as_dead() -> None:
    rig = Rig()
    rig.feed(START + BLOCK)
    for _ in range(int(IDLE)):
        rig.clock.advance(1)
    pings = rig.sink.body[len(START + BLOCK) :]
    assert pings == PING * (len(pings) // len(PING))
    assert len(pings) // len(PING) == IDLE // PING_SECONDS - 1
    assert rig.ended == [Ending(Outcome.STALLED, "the answer fell silent")]
    assert rig.sink.end == "aborted"
    assert rig.transport.log == ["abort"]
    assert rig.clock.getDelayedCalls() == []


def test_a_stream_with_events_gets_no_pings_and_never_times_out() -> None:
    rig = Rig()
    rig.feed(START + BLOCK)
    for _ in range(100):
        rig.clock.advance(PING_SECONDS - 1)
        rig.feed(DELTA)
    assert PING not in rig.sink.body
    assert rig.sink.end is None


def test_bytes_of_an_unfinished_event_keep_the_upstream_alive_and_the_client_gets_pings() -> None:
    rig = Rig()
    rig.feed(START + BLOCK)
    for i in range(30):
        rig.clock.advance(10)
        rig.feed(DELTA[i : i + 1])
    assert rig.sink.end is None
    assert rig.sink.body.replace(PING, b"") == START + BLOCK
    assert PING in rig.sink.body


def test_no_ping_before_the_commit() -> None:
    rig = Rig()
    rig.clock.advance(PING_SECONDS * 2)
    assert rig.sink.body == b""


# -- back-pressure and leaving


def test_a_slow_client_pauses_the_upstream_and_stops_its_clocks() -> None:
    rig = Rig()
    rig.feed(START + BLOCK)
    rig.sink.producer.pauseProducing()
    rig.clock.advance(IDLE * 3)
    assert rig.sink.body == START + BLOCK
    rig.sink.producer.resumeProducing()
    assert rig.transport.log == ["pause", "resume"]
    rig.clock.advance(PING_SECONDS)
    assert rig.sink.body == START + BLOCK + PING


def test_cancelling_closes_the_upstream_and_leaves_no_timer() -> None:
    rig = Rig()
    rig.feed(START + BLOCK)
    rig.pump.ended.cancel()
    assert rig.transport.log == ["abort"]
    assert rig.clock.getDelayedCalls() == []


def test_cancelling_while_held_closes_the_upstream() -> None:
    rig = Rig()
    rig.feed(START)
    rig.pump.opened.cancel()
    assert rig.transport.log == ["abort"]
    assert rig.clock.getDelayedCalls() == []


# -- JSON answers


MESSAGE = b'{"id":"msg_1","type":"message","usage":{"input_tokens":5,"output_tokens":6}}'


def test_a_small_json_answer_goes_out_whole_when_it_is_complete() -> None:
    rig = Rig(stream=False)
    rig.feed(MESSAGE[:30], MESSAGE[30:])
    assert not rig.sink.committed
    rig.lose(DONE)
    assert (rig.sink.body, rig.sink.end) == (MESSAGE, "finished")
    assert rig.ended == [Ending(Outcome.ANSWERED, None)]
    assert rig.pump.usage == Usage(input=5, output=6)


def test_a_json_answer_cut_while_held_is_a_failed_attempt() -> None:
    rig = Rig(stream=False)
    rig.feed(MESSAGE[:30])
    rig.lose(CUT)
    assert rig.refusal.outcome is Outcome.PROVIDER_ILL
    assert not rig.sink.committed


@pytest.mark.parametrize(("body", "whole"), [(MESSAGE, True), (MESSAGE + b"\n", True), (MESSAGE[:-1], False)])
def test_a_json_answer_that_ends_with_its_connection_must_be_whole_json(body: bytes, whole: bool) -> None:
    rig = Rig(stream=False)
    rig.feed(body)
    rig.lose(CLOSED)
    assert rig.sink.committed is whole


def test_a_json_error_with_a_good_status_is_a_failed_attempt() -> None:
    rig = Rig(stream=False)
    rig.feed(b'{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}')
    rig.lose(DONE)
    assert isinstance(rig.refusal, StreamRefused)
    assert not rig.sink.committed


def test_a_large_json_answer_streams_and_is_cut_if_it_breaks() -> None:
    rig = Rig(stream=False)
    piece = b"x" * 50_000
    rig.feed(piece, piece)
    assert rig.sink.body == piece * 2
    rig.lose(CUT)
    assert rig.sink.end == "aborted"
    assert rig.ended[0].outcome is Outcome.TRUNCATED


def test_no_pings_go_into_a_json_answer() -> None:
    rig = Rig(stream=False)
    rig.feed(b"x" * (HOLD_BYTES + 1))
    rig.clock.advance(PING_SECONDS * 3)
    assert PING not in rig.sink.body
