"""One upstream connection: every cut of an answer, every end of a body, and who may use the socket afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IConsumer, IPushProducer
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.web.client import ResponseFailed
from twisted.web.iweb import UNKNOWN_LENGTH, IBodyProducer, IResponse
from zope.interface.verify import verifyObject

from ccrelay.core.http1 import HttpViolation, ResponseHeadParser
from ccrelay.core.http1_head import MAX_HEAD_BYTES
from ccrelay.upstream.connection import BodyTransport, NoAnswer, UpstreamConnection, UpstreamResponse, _BodyWriter

from .upstream_rig import CHUNKED, HELLO, OK, OriginSide, Receiver, Upload, failure_of, fired, nothing_logged

REQUEST = b"POST / HTTP/1.1\r\n\r\n"
CHUNKS = OK + b"Transfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\nX-Sum: 1\r\n\r\n"
OPEN_ENDED = OK + b"\r\nhello"


@pytest.fixture(autouse=True)
def _silent() -> Iterator[None]:
    with nothing_logged():
        yield


class Rig:
    """A connection, its origin's side, and what the pool was told. ``upload``: None for a request without a body."""

    def __init__(self, upload: Upload | None = None, *, send: bool = True) -> None:
        self.clock = Clock()
        self.told: list[str] = []
        self.connection = UpstreamConnection(
            lambda _: self.told.append("open"), lambda _: self.told.append("idle"), lambda _: self.told.append("closed")
        )
        self.origin = OriginSide(self.clock, self.connection)
        self.receiver = Receiver()
        self.answers: list[Any] = []
        if send:
            self.send(upload)

    def send(self, upload: Upload | None = None) -> None:
        self.asking = self.connection.exchange(b"POST", REQUEST, upload)
        self.answers = fired(self.asking)

    @property
    def response(self) -> UpstreamResponse:
        [response] = self.answers
        assert isinstance(response, UpstreamResponse), response
        return response

    def listen(self, receiver: Receiver | None = None) -> Receiver:
        """Have the body delivered."""
        self.receiver = receiver or self.receiver
        self.response.deliverBody(self.receiver)
        self.clock.advance(0)
        return self.receiver

    def answer(self, *pieces: bytes, receiver: Receiver | None = None) -> Receiver:
        """The origin sends these; the body is asked for as soon as the head is there."""
        listening = False
        for piece in pieces:
            self.origin.send(piece)
            self.clock.advance(0)
            if self.answers and not listening:
                listening = True
                self.listen(receiver)
        assert listening
        return self.receiver

    def turn(self) -> None:
        self.clock.advance(0)

    @property
    def closed(self) -> bool:
        self.turn()
        return self.origin.end is not None


def cuts(data: bytes) -> list[list[bytes]]:
    """Whole, byte by byte, and in two at every place."""
    halves = [[data[:i], data[i:]] for i in range(1, len(data))]
    return [[data], [data[i : i + 1] for i in range(len(data))], *halves]


def test_the_parts_declare_their_interfaces() -> None:
    rig = Rig()
    rig.answer(HELLO)
    verifyObject(IResponse, rig.response)
    verifyObject(IPushProducer, BodyTransport(rig.connection))
    verifyObject(IConsumer, _BodyWriter(rig.origin, False))
    verifyObject(IBodyProducer, Upload(b""))


def test_small_pieces_leave_at_once_and_dead_peers_are_noticed() -> None:
    assert set(Rig().origin.options) == {"nodelay=True", "keepalive=True"}


# -- answers, however they are cut


@pytest.mark.parametrize(("answer", "ending"), [(HELLO, "whole"), (CHUNKS, "whole")])
def test_a_framed_answer_is_the_same_in_every_cut_and_frees_the_connection(answer: bytes, ending: str) -> None:
    for pieces in cuts(answer):
        rig = Rig()
        receiver = rig.answer(*pieces)
        assert (rig.response.code, rig.response.phrase, rig.response.version) == (200, b"OK", (b"HTTP", 1, 1))
        assert rig.response.headers.getRawHeaders(b"content-type") == [b"application/json"]
        assert (receiver.data, receiver.ending) == (b"hello", ending)
        assert rig.told == ["open", "idle"]
        assert not rig.closed


def test_an_answer_that_ends_with_its_connection_says_that_it_may_be_cut() -> None:
    for pieces in cuts(OPEN_ENDED):
        rig = Rig()
        receiver = rig.answer(*pieces)
        assert receiver.ending is None
        rig.origin.lose(ConnectionDone())
        assert (receiver.data, receiver.ending) == (b"hello", "unframed")
        assert rig.told == ["open", "closed"]


@pytest.mark.parametrize("answer", [HELLO, CHUNKS])
def test_an_answer_that_is_cut_anywhere_is_never_taken_for_whole(answer: bytes) -> None:
    body = answer.index(b"\r\n\r\n") + 4
    for length in range(1, len(answer)):
        rig = Rig()
        rig.origin.send(answer[:length])
        if length >= body:
            rig.listen()
        rig.origin.lose(ConnectionDone())
        if length < body:
            assert failure_of(rig.answers, ResponseFailed).reasons[0].check(ConnectionDone)
        else:
            assert rig.receiver.ending == "cut"
            assert b"hello".startswith(rig.receiver.data)
        assert rig.told == ["open", "closed"]


def test_an_open_ended_answer_that_is_reset_is_cut() -> None:
    rig = Rig()
    receiver = rig.answer(OPEN_ENDED)
    rig.origin.lose(ConnectionLost())
    assert receiver.ending == "cut"


@pytest.mark.parametrize("status", [b"204 No Content", b"304 Not Modified"])
def test_an_answer_without_a_body_ends_when_it_is_delivered(status: bytes) -> None:
    rig = Rig()
    receiver = rig.answer(b"HTTP/1.1 " + status + b"\r\n\r\n")
    assert (receiver.data, receiver.ending) == (b"", "whole")
    assert rig.told == ["open", "idle"]


@pytest.mark.parametrize(("head", "length"), [(HELLO, 5), (CHUNKS, UNKNOWN_LENGTH), (OPEN_ENDED, UNKNOWN_LENGTH)])
def test_the_length_is_told_where_the_head_tells_it(head: bytes, length: object) -> None:
    rig = Rig()
    rig.answer(head)
    assert rig.response.length == length


def test_interim_answers_are_passed_over() -> None:
    rig = Rig()
    receiver = rig.answer(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + HELLO)
    assert rig.response.code == 200
    assert receiver.data == b"hello"


@given(
    st.lists(
        st.tuples(
            st.text("!#$%&'*+-.^_`|~09azAZ", min_size=1, max_size=12).map(str.encode),
            st.binary(max_size=12).map(lambda text: bytes(b for b in text if b >= 0x20 and b != 0x7F)),
        ),
        max_size=6,
    )
)
def test_every_head_that_the_parser_takes_becomes_a_response(lines: list[tuple[bytes, bytes]]) -> None:
    """Twisted's Headers judge names and values too, each version by its own rules."""
    head = b"HTTP/1.1 200 OK\r\n" + b"".join(b"%b: %b\r\n" % line for line in lines) + b"\r\n"
    try:
        expected = ResponseHeadParser(b"POST").receive_data(head)
    except HttpViolation:
        return
    assert expected is not None
    rig = Rig()
    rig.origin.send(head)
    found = [(name.lower(), value) for name, values in rig.response.headers.getAllRawHeaders() for value in values]
    assert sorted(found) == sorted(expected.headers)


# -- answers that are none


@pytest.mark.parametrize(
    "garbage",
    [b"SSH-2.0-x\r\n", b"\x15\x03\x01\x00\x02\x02\x46", b"HTTP/2 200 OK\r\n\r\n", OK + b"A B: c\r\n\r\n"],
)
def test_garbage_is_refused_at_once(garbage: bytes) -> None:
    rig = Rig()
    rig.origin.send(garbage)
    rig.turn()
    assert failure_of(rig.answers, ResponseFailed).reasons[0].check(HttpViolation)
    assert rig.origin.end == "aborted"


def test_a_head_that_never_ends_is_refused() -> None:
    rig = Rig()
    rig.origin.send(OK)
    sent = 0
    while rig.origin.end is None:
        assert sent <= MAX_HEAD_BYTES
        rig.origin.send(b"X-Padding: " + b"x" * 4000 + b"\r\n")
        sent += 4000
        rig.turn()
    assert failure_of(rig.answers, ResponseFailed).reasons[0].check(HttpViolation)


@pytest.mark.parametrize("early", [True, False])
def test_broken_framing_cuts_the_body(early: bool) -> None:
    rig = Rig()
    head, rest = OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n", b"zz\r\n"
    receiver = rig.answer(head + rest) if early else rig.answer(head, rest)
    rig.turn()
    assert receiver.ending == "cut"
    assert receiver.lost[0].value.reasons[0].check(HttpViolation)
    assert rig.origin.end == "aborted"


def test_a_connection_that_ends_without_a_byte_gave_no_answer() -> None:
    rig = Rig()
    rig.origin.lose(ConnectionLost())
    failure = failure_of(rig.answers, NoAnswer)
    assert failure.reason.check(ConnectionLost)
    assert not failure.reused


def test_one_byte_of_an_answer_is_an_answer_that_broke() -> None:
    rig = Rig()
    rig.origin.send(b"H")
    rig.origin.lose(ConnectionDone())
    assert failure_of(rig.answers, ResponseFailed).reasons[0].check(ConnectionDone)


# -- using the connection again


def test_a_connection_serves_one_exchange_after_another() -> None:
    rig = Rig()
    for body in (b"first", b"other", b"third"):
        rig.origin.take()
        receiver = Receiver()
        rig.answer(HELLO.replace(b"hello", body), receiver=receiver)
        assert (receiver.data, receiver.ending) == (body, "whole")
        rig.send()
        assert rig.origin.take() == REQUEST
    assert rig.told == ["open", "idle", "idle", "idle"]


@pytest.mark.parametrize(
    "answer",
    [
        HELLO.replace(b"OK\r\n", b"OK\r\nConnection: close\r\n"),
        HELLO.replace(b"HTTP/1.1", b"HTTP/1.0"),
        CHUNKS.replace(b"OK\r\n", b"OK\r\nContent-Length: 5\r\n"),
    ],
)
def test_a_connection_that_may_not_be_used_again_is_closed_after_its_answer(answer: bytes) -> None:
    for pieces in cuts(answer):
        rig = Rig()
        receiver = rig.answer(*pieces)
        assert (receiver.data, receiver.ending) == (b"hello", "whole")
        assert rig.closed
        assert rig.told == ["open", "closed"]


@pytest.mark.parametrize("answer", [HELLO, CHUNKS])
@pytest.mark.parametrize("more", [b"x", b"HTTP/1.1 200 OK\r\n"])
def test_bytes_after_an_answer_close_the_connection(answer: bytes, more: bytes) -> None:
    for pieces in cuts(answer + more):
        rig = Rig()
        receiver = rig.answer(*pieces)
        assert (receiver.data, receiver.ending) == (b"hello", "whole")
        assert rig.closed
        assert rig.told[-1] == "closed"
    rig = Rig()
    rig.answer(answer + more)
    assert "idle" not in rig.told


def test_data_on_an_idle_connection_closes_it() -> None:
    rig = Rig()
    rig.answer(HELLO)
    rig.origin.send(b"HTTP/1.1 408 Request Timeout\r\n\r\n")
    assert rig.told == ["open", "idle", "closed"], "the pool must know in the same turn"
    assert rig.closed


def test_losing_an_idle_connection_is_told_to_the_pool_only() -> None:
    rig = Rig()
    receiver = rig.answer(HELLO)
    rig.origin.lose(ConnectionDone())
    assert rig.told == ["open", "idle", "closed"]
    assert len(receiver.lost) == 1


def test_a_stale_connection_is_known_by_having_been_reused() -> None:
    rig = Rig()
    rig.answer(HELLO)
    rig.send()
    rig.origin.lose(ConnectionDone())
    assert failure_of(rig.answers, NoAnswer).reused


def test_a_connection_paused_as_its_answer_ends_reads_again() -> None:
    """The client's back-pressure may come with the last byte, and nobody is left to lift it."""
    for answer in (HELLO, CHUNKS):
        rig = Rig()
        receiver = rig.answer(answer, receiver=Receiver(lambda self: self.transport.pauseProducing()))
        assert receiver.ending == "whole"
        rig.send()
        rig.answer(HELLO, receiver=Receiver())
        assert rig.receiver.data == b"hello"


def test_the_next_request_may_be_sent_from_within_the_end_of_an_answer() -> None:
    rig = Rig()
    receiver = Receiver()
    receiver.connectionLost = lambda reason=None: rig.send()  # type: ignore[assignment,method-assign]
    rig.answer(HELLO, receiver=receiver)
    rig.answer(HELLO, receiver=Receiver())
    assert rig.receiver.data == b"hello"


# -- uploads


def test_a_body_of_known_length_goes_out_as_it_is() -> None:
    upload = Upload(b"one two")
    rig = Rig(upload)
    upload.send()
    assert rig.origin.take() == REQUEST + b"one two"
    assert rig.origin.producer is None
    rig.answer(HELLO)
    assert rig.told == ["open", "idle"]


def test_a_body_of_unknown_length_goes_out_in_chunks() -> None:
    upload = Upload(b"", length=CHUNKED)
    rig = Rig(upload)
    upload.send(b"one", b" two")
    upload.finish()
    assert rig.origin.take() == REQUEST + b"3\r\none\r\n4\r\n two\r\n0\r\n\r\n"


def test_an_empty_body_is_not_asked_for() -> None:
    upload = Upload(b"")
    rig = Rig(upload)
    assert upload.log == []
    assert rig.origin.take() == REQUEST


def test_a_slow_upstream_slows_the_upload() -> None:
    upload = Upload(b"x" * 200_000)
    rig = Rig(upload)
    rig.origin.slow = True
    upload.send(upload.body)
    assert upload.log == ["start", "pause"]
    rig.origin.read()
    assert upload.log == ["start", "pause", "resume"]


@pytest.mark.parametrize("answer", [HELLO, CHUNKS])
def test_an_answer_before_the_upload_is_finished_ends_the_upload_and_the_connection(answer: bytes) -> None:
    upload = Upload(b"one two")
    rig = Rig(upload)
    upload.send(b"one")
    receiver = rig.answer(answer)
    assert (receiver.data, receiver.ending) == (b"hello", "whole")
    assert upload.log[-1] == "stop"
    assert "idle" not in rig.told
    assert rig.closed


def test_an_upload_may_end_between_the_head_and_the_end_of_its_answer() -> None:
    upload = Upload(b"one two")
    rig = Rig(upload)
    rig.answer(OK + b"Content-Length: 5\r\n\r\nhel")
    upload.send()
    rig.origin.send(b"lo")
    assert rig.receiver.ending == "whole"
    assert upload.log == ["start"]
    assert rig.told == ["open", "idle"]


def test_losing_the_connection_stops_the_upload() -> None:
    upload = Upload(b"one two")
    rig = Rig(upload)
    rig.origin.lose(ConnectionDone())
    assert "stop" in upload.log
    failure_of(rig.answers, NoAnswer)


def test_a_body_that_cannot_be_produced_fails_the_request_with_its_reason() -> None:
    upload = Upload(b"one two")
    rig = Rig(upload)
    upload.done.errback(Failure(OSError("no more")))
    rig.turn()
    assert failure_of(rig.answers, ResponseFailed).reasons[0].check(OSError)
    assert rig.origin.end == "aborted"


# -- giving up


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 2"])
@pytest.mark.parametrize("then", [b"", HELLO])
def test_cancelling_before_the_head_closes_in_the_same_turn(answer: bytes, then: bytes) -> None:
    upload = Upload(b"one two")
    rig = Rig(upload)
    rig.origin.send(answer)
    rig.asking.cancel()
    failure_of(rig.answers, CancelledError)
    assert rig.origin.closing
    assert "stop" in upload.log
    rig.origin.send(then)
    assert rig.closed
    assert len(rig.answers) == 1


def test_a_receiver_that_aborts_closes_in_the_same_turn_and_stops_the_upload() -> None:
    upload = Upload(b"one two")
    rig = Rig(upload)
    receiver = rig.answer(OK + b"Content-Length: 5\r\n\r\nhel")
    transport: Any = receiver.transport
    transport.abortConnection()
    transport.stopProducing()
    transport.loseConnection()
    assert rig.origin.closing
    assert upload.log[-1] == "stop"
    rig.turn()
    assert receiver.ending == "cut"
    assert receiver.lost[0].value.reasons[0].check(ConnectionAborted)


def test_a_receiver_that_refuses_the_body_gets_none_of_it_and_the_connection_is_not_kept() -> None:
    for answer in (HELLO, CHUNKS, OPEN_ENDED):
        rig = Rig()
        receiver = rig.answer(answer, receiver=Receiver(on_start=lambda self: self.transport.abortConnection()))
        rig.turn()
        assert (receiver.data, receiver.ending) == (b"", "cut")
        assert rig.told == ["open", "closed"]


def test_a_receiver_that_aborts_with_the_last_byte_leaves_no_connection_behind() -> None:
    for answer in (HELLO, CHUNKS):
        rig = Rig()
        rig.answer(answer, receiver=Receiver(lambda self: self.transport.abortConnection()))
        assert "idle" not in rig.told
        assert rig.closed


@pytest.mark.parametrize("late", ["pauseProducing", "resumeProducing", "stopProducing", "abortConnection"])
def test_a_receiver_cannot_touch_the_next_exchange(late: str) -> None:
    rig = Rig()
    receiver = rig.answer(HELLO)
    rig.send()
    getattr(receiver.transport, late)()
    assert rig.origin.reading
    rig.answer(HELLO, receiver=Receiver())
    assert rig.receiver.data == b"hello"


# -- reading only while somebody listens


def test_nothing_is_read_between_the_head_and_its_receiver() -> None:
    rig = Rig()
    rig.origin.send(OK + b"Content-Length: 5\r\n\r\nhe")
    assert not rig.origin.reading
    rig.origin.send(b"llo")
    receiver = rig.listen()
    assert rig.origin.reading
    assert (receiver.pieces, receiver.ending) == ([b"he", b"llo"], "whole")


def test_what_a_transport_delivers_though_paused_is_kept_in_order() -> None:
    """TLS hands over what it had decrypted already."""
    rig = Rig()
    rig.origin.send(OK + b"Content-Length: 5\r\n\r\nhe")
    rig.connection.dataReceived(b"l")
    rig.connection.dataReceived(b"lo")
    receiver = rig.listen()
    assert (receiver.data, receiver.ending) == (b"hello", "whole")


@pytest.mark.parametrize(
    ("answer", "body", "ending"),
    [(HELLO, b"hello", "whole"), (OPEN_ENDED, b"hello", "unframed"), (HELLO[:-2], b"hel", "cut")],
)
def test_a_body_asked_for_after_its_connection_was_lost_still_ends(answer: bytes, body: bytes, ending: str) -> None:
    upload = Upload(b"one two")
    rig = Rig(upload)
    rig.origin.send(answer)
    rig.origin.lose(ConnectionDone())
    assert upload.log[-1] == "stop"
    receiver = rig.listen()
    assert (receiver.data, receiver.ending) == (body, ending)
    assert "idle" not in rig.told


@pytest.mark.parametrize("answer", [HELLO, HELLO[:-2]])
def test_a_body_has_one_receiver(answer: bytes) -> None:
    """A second one would hang, or get the next exchange's bytes."""
    rig = Rig()
    rig.answer(answer)
    with pytest.raises(RuntimeError):
        rig.response.deliverBody(Receiver())
    rig.origin.send(HELLO[-2:] if answer != HELLO else b"")
    assert rig.receiver.ending == "whole"


def test_a_receiver_pauses_and_resumes_the_origin() -> None:
    rig = Rig()
    receiver = rig.answer(OK + b"Content-Length: 9\r\n\r\n", b"one")
    transport: Any = receiver.transport
    transport.pauseProducing()
    rig.origin.send(b"two")
    assert receiver.data == b"one"
    transport.resumeProducing()
    rig.turn()
    assert receiver.data == b"onetwo"


def test_giving_up_in_the_callback_of_the_head_is_heard() -> None:
    rig = Rig(send=False)
    refusing = Receiver(on_start=lambda self: self.transport.abortConnection())
    asking = rig.connection.exchange(b"POST", REQUEST, None)
    asking.addCallback(lambda response: response.deliverBody(refusing))
    rig.origin.send(HELLO)
    assert rig.closed
    assert rig.told == ["open", "closed"]
