"""A request body on its way: edited, replayed, followed while it arrives, and slowed by whoever takes it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.interfaces import IPushProducer
from twisted.web.iweb import UNKNOWN_LENGTH, IBodyProducer
from zope.interface.verify import verifyObject

from ccrelay.core.model import Edit
from ccrelay.core.request_body import RequestBody
from ccrelay.upstream.body import EditedBody

from .upstream_rig import fired, nothing_logged

TEXT = b'{"model":"asked","messages":[{"role":"user","content":"hello"}]}'
EDITS = [Edit(9, 16, b'"upstream\'s"')]
EDITED = b'{"model":"upstream\'s","messages":[{"role":"user","content":"hello"}]}'


@pytest.fixture(autouse=True)
def _silent() -> Iterator[None]:
    with nothing_logged():
        yield


class Consumer:
    """Takes a body. ``slow``: asks for a pause after each piece."""

    def __init__(self, *, slow: bool = False) -> None:
        self.pieces: list[bytes] = []
        self.slow = slow
        self.producer: Any = None

    @property
    def data(self) -> bytes:
        return b"".join(self.pieces)

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        assert self.producer is None
        assert streaming
        self.producer = producer

    def unregisterProducer(self) -> None:
        assert self.producer is not None
        self.producer = None

    def write(self, data: bytes) -> None:
        assert self.producer is not None
        assert data
        self.pieces.append(data)
        if self.slow:
            self.producer.pauseProducing()


def arrived(text: bytes = TEXT, *, declared: bool = True) -> RequestBody:
    body = RequestBody(len(text) if declared else None, 0)
    body.receive_data(text)
    body.receive_eof()
    return body


def quiet() -> None:
    """Nobody watches the progress."""


def test_it_declares_its_interfaces() -> None:
    body = EditedBody(arrived(), EDITS, quiet)
    verifyObject(IBodyProducer, body)
    verifyObject(IPushProducer, body)


def test_a_body_that_is_there_goes_out_edited_and_is_then_finished() -> None:
    producer, consumer = EditedBody(arrived(), EDITS, quiet), Consumer()
    done = fired(producer.startProducing(consumer))
    assert consumer.data == EDITED
    assert done == [None]
    assert producer.finished
    assert consumer.producer is None


@pytest.mark.parametrize("edits", [[], EDITS])
def test_the_length_is_known_where_the_client_declared_it_or_all_is_there(edits: list[Edit]) -> None:
    expected = len(EDITED if edits else TEXT)
    declared = RequestBody(len(TEXT), 0)
    declared.receive_data(TEXT[:20])
    assert EditedBody(declared, edits, quiet).length == expected
    assert EditedBody(arrived(declared=False), edits, quiet).length == expected


def test_the_length_is_unknown_while_a_chunked_body_arrives() -> None:
    body = RequestBody(None, 0)
    body.receive_data(TEXT[:20])
    assert EditedBody(body, EDITS, quiet).length is UNKNOWN_LENGTH


@given(st.lists(st.integers(1, 40), max_size=12), st.integers(0, len(TEXT)), st.booleans())
def test_a_body_is_followed_as_it_arrives(sizes: list[int], before: int, declared: bool) -> None:
    """``before`` bytes are there when the attempt starts; the rest comes in pieces of these sizes."""
    body = RequestBody(len(TEXT) if declared else None, 0)
    body.receive_data(TEXT[:before])
    producer, consumer = EditedBody(body, EDITS, quiet), Consumer()
    done = fired(producer.startProducing(consumer))
    at = before
    for size in [*sizes, len(TEXT)]:
        assert EDITED.startswith(consumer.data)
        assert body.received < 16 or len(consumer.data) == body.received + len(EDITED) - len(TEXT)
        assert done == []
        body.receive_data(TEXT[at : at + size])
        at += size
    assert not producer.finished
    body.receive_eof()
    assert consumer.data == EDITED
    assert done == [None]
    assert producer.length in (len(EDITED), UNKNOWN_LENGTH)


def test_a_slow_consumer_gets_one_piece_at_a_time() -> None:
    text = b'{"model":"m","x":"' + b"y" * 300_000 + b'"}'
    producer, consumer = EditedBody(arrived(text), [], quiet), Consumer(slow=True)
    done = fired(producer.startProducing(consumer))
    turns = 0
    while not done:
        assert len(consumer.pieces) == turns + 1
        assert len(consumer.pieces[-1]) <= 65536
        producer.resumeProducing()
        turns += 1
    assert consumer.data == text
    assert turns >= len(text) // 65536


def test_what_arrives_while_paused_waits_and_the_end_too() -> None:
    body = RequestBody(None, 0)
    producer, consumer = EditedBody(body, [], quiet), Consumer()
    done = fired(producer.startProducing(consumer))
    body.receive_data(TEXT[:20])
    producer.pauseProducing()
    body.receive_data(TEXT[20:])
    body.receive_eof()
    assert consumer.data == TEXT[:20]
    assert done == []
    producer.resumeProducing()
    assert consumer.data == TEXT
    assert done == [None]


def test_a_consumer_that_resumes_from_within_its_pause_gets_all_in_order() -> None:
    class Fickle(Consumer):
        def write(self, data: bytes) -> None:
            super().write(data)
            self.producer.pauseProducing()
            self.producer.resumeProducing()

    text = b'{"model":"m","x":"' + bytes(range(0x30, 0x40)) * 20_000 + b'"}'
    producer, consumer = EditedBody(arrived(text), [], quiet), Fickle()
    assert fired(producer.startProducing(consumer)) == [None]
    assert consumer.data == text


def test_two_attempts_read_one_body_at_their_own_pace_and_edits() -> None:
    body = RequestBody(len(TEXT), 0)
    body.receive_data(TEXT[:30])
    first, slow = EditedBody(body, [], quiet), Consumer(slow=True)
    first.startProducing(slow)
    second, quick = EditedBody(body, EDITS, quiet), Consumer()
    done = fired(second.startProducing(quick))
    body.receive_data(TEXT[30:])
    body.receive_eof()
    assert (quick.data, done) == (EDITED, [None])
    assert slow.data == TEXT[:30]
    first.resumeProducing()
    assert slow.data == TEXT


def test_stopped_it_lets_go_of_consumer_and_body_and_never_fires() -> None:
    body = RequestBody(len(TEXT), 0)
    producer, consumer = EditedBody(body, EDITS, quiet), Consumer()
    done = fired(producer.startProducing(consumer))
    body.receive_data(TEXT[:30])
    producer.stopProducing()
    producer.stopProducing()
    assert consumer.producer is None
    got = consumer.data
    body.receive_data(TEXT[30:])
    body.receive_eof()
    producer.resumeProducing()
    assert consumer.data == got
    assert done == []
    assert not producer.finished


def test_a_consumer_that_stops_it_at_once_gets_nothing() -> None:
    """What a transport does that was lost already."""

    class Lost(Consumer):
        def registerProducer(self, producer: Any, streaming: bool) -> None:
            super().registerProducer(producer, streaming)
            producer.stopProducing()

    producer, consumer = EditedBody(arrived(), [], quiet), Lost()
    assert fired(producer.startProducing(consumer)) == []
    assert consumer.data == b""
    assert not producer.finished


def test_a_consumer_may_stop_it_from_within_a_write() -> None:
    class Fed(Consumer):
        def write(self, data: bytes) -> None:
            super().write(data)
            self.producer.stopProducing()

    text = b'{"model":"m","x":"' + b"y" * 300_000 + b'"}'
    producer, consumer = EditedBody(arrived(text), [], quiet), Fed()
    assert fired(producer.startProducing(consumer)) == []
    assert len(consumer.pieces) == 1


def test_it_starts_over_for_the_connection_that_replaces_a_stale_one() -> None:
    producer, stale, fresh = EditedBody(arrived(), EDITS, quiet), Consumer(), Consumer(slow=True)
    producer.startProducing(stale)
    assert producer.finished
    done = fired(producer.startProducing(fresh))
    assert not producer.finished, "the body must not be let go of while it goes out again"
    producer.resumeProducing()
    while not done:
        producer.resumeProducing()
    assert fresh.data == EDITED
    assert producer.finished


def test_progress_is_told_with_every_piece_and_at_the_end() -> None:
    told: list[tuple[int, bool]] = []
    body = RequestBody(len(TEXT), 0)
    consumer = Consumer()
    producer = EditedBody(body, [], lambda: told.append((len(consumer.data), producer.finished)))
    producer.startProducing(consumer)
    body.receive_data(TEXT[:30])
    body.receive_data(TEXT[30:])
    assert told == [(30, False), (len(TEXT), False)]
    body.receive_eof()
    assert told[-1] == (len(TEXT), True)


def test_a_body_that_has_been_sent_may_be_released_while_its_client_is_answered() -> None:
    body = arrived()
    producer, consumer = EditedBody(body, EDITS, quiet), Consumer()
    producer.startProducing(consumer)
    body.release()
    assert consumer.data == EDITED


def test_a_body_that_breaks_is_not_ended_for_the_upstream() -> None:
    """An upstream must not take the beginning of a request for a whole one."""
    body = RequestBody(None, 0)
    producer, consumer = EditedBody(body, [], quiet), Consumer()
    done = fired(producer.startProducing(consumer))
    body.receive_data(b'{"model":"m"}')
    body.receive_data(b"x")
    body.receive_eof()
    assert body.error is not None
    assert done == []
    assert not producer.finished
