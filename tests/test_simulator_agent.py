"""The simulator's agent as treq and a body protocol see it, on a clock that the tests turn."""

from __future__ import annotations

import json
from collections.abc import Callable
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from treq.client import HTTPClient
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionAborted, ConnectionLost, DNSLookupError
from twisted.internet.interfaces import IConsumer, IPushProducer
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.client import ResponseDone, ResponseFailed
from twisted.web.error import SchemeNotSupported
from twisted.web.iweb import IAgent, IBodyProducer, IClientRequest, IResponse
from zope.interface import implementer
from zope.interface.verify import verifyObject

from ccrelay.core.settings import FailSettings, SimulatorSettings
from ccrelay.core.simulation import base_url
from ccrelay.upstream.simulator import SimulatorAgent

HELLO = {"model": "m", "max_tokens": 200_000, "stream": True, "messages": [{"role": "user", "content": "hi"}]}


class CountingClock(Clock):
    """Counts the delayed calls that are made, not only those that are left."""

    calls_made = 0

    def callLater(self, *args: Any, **kwargs: Any) -> Any:
        self.calls_made += 1
        return super().callLater(*args, **kwargs)


@implementer(IBodyProducer)
class Upload:
    """A request body that arrives piece by piece, when the test says so."""

    def __init__(self, *pieces: bytes) -> None:
        self.pieces = pieces
        self.length = sum(map(len, pieces))
        self.stopped = False
        self.consumer: Any = None
        self.done: Deferred[None] = Deferred()

    def startProducing(self, consumer: Any) -> Deferred[None]:
        self.consumer = consumer
        consumer.registerProducer(self, True)
        return self.done

    def send(self) -> None:
        for piece in self.pieces:
            self.consumer.write(piece)
        self.consumer.unregisterProducer()
        self.done.callback(None)

    def stopProducing(self) -> None:
        self.stopped = True

    def pauseProducing(self) -> None:
        raise AssertionError("a simulator is never slow to read")

    def resumeProducing(self) -> None: ...


class Receiver(Protocol):
    """Keeps what it gets; ``on_data`` runs at each piece."""

    def __init__(self, on_data: Callable[[Receiver], object] = lambda _: None) -> None:
        self.pieces: list[bytes] = []
        self.on_data = on_data
        self.lost: list[Failure] = []

    @property
    def data(self) -> bytes:
        return b"".join(self.pieces)

    def dataReceived(self, data: bytes) -> None:
        assert not self.lost
        self.pieces.append(data)
        self.on_data(self)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost.append(reason)


def settings(
    *, text: str = " word" * 50, rate: float = 10.0, first_byte: float = 0.0, **fail: Any
) -> SimulatorSettings:
    """A simulator whose answer is 50 tokens long unless said otherwise; ``fail`` as FailSettings."""
    failure = {"status": 0, "rate": 1.0, "after_events": 0, "stall": 0.0, "cut": False, **fail}
    return SimulatorSettings(text, rate, first_byte, False, FailSettings(**failure) if fail else None)


def request(
    clock: Clock, chosen: SimulatorSettings, body: Any = HELLO, *, upload: Upload | None = None, name: str = "sim"
) -> Deferred[Any]:
    """What treq makes of a request to the simulator ``name``."""
    agent = SimulatorAgent(clock, {name: chosen}, Random(7))
    sent = Upload(json.dumps(body).encode()) if upload is None else upload
    answer = HTTPClient(agent).request(
        "POST",
        f"{base_url(name)}/v1/messages?beta=true",
        headers={b"content-type": [b"application/json"]},
        data=sent,
        unbuffered=True,
        allow_redirects=False,
    )
    if upload is None:
        sent.send()
    return answer


def result(deferred: Deferred[Any]) -> Any:
    """What the Deferred has fired with, now."""
    fired: list[Any] = []
    deferred.addBoth(fired.append)
    assert fired, "still waiting"
    return fired[0]


def listen(clock: Clock, chosen: SimulatorSettings, receiver: Receiver | None = None, body: Any = HELLO) -> Receiver:
    """Send a request, wait for its head, and have its body delivered."""
    answer = request(clock, chosen, body)
    clock.advance(chosen.first_byte)
    receiver = receiver or Receiver()
    result(answer).deliverBody(receiver)
    return receiver


def run(clock: Clock, seconds: float = 1000.0) -> None:
    """Let that time pass in small steps, as a reactor would."""
    end = clock.seconds() + seconds
    while clock.getDelayedCalls() and clock.seconds() < end:
        nearest = min(call.getTime() for call in clock.getDelayedCalls())
        clock.advance(max(0.0, min(nearest, end) - clock.seconds()))


def deltas(receiver: Receiver) -> int:
    return receiver.data.count(b"event: content_block_delta")


def test_the_parts_keep_their_interfaces() -> None:
    clock = Clock()
    agent = SimulatorAgent(clock, {"sim": settings()}, Random(7))
    verifyObject(IAgent, agent)
    upload = Upload(json.dumps(HELLO).encode())
    answer = agent.request(b"POST", b"simulator://sim/v1/messages", None, upload)
    verifyObject(IConsumer, upload.consumer)
    upload.send()
    clock.advance(0)
    response = result(answer)
    verifyObject(IResponse, response)
    verifyObject(IClientRequest, response.request)
    assert (response.request.method, response.request.absoluteURI) == (b"POST", b"simulator://sim/v1/messages")
    receiver = Receiver()
    response.deliverBody(receiver)
    verifyObject(IPushProducer, receiver.transport)


def test_treq_gets_a_whole_stream_through_the_agent() -> None:
    clock = Clock()
    answer = request(clock, settings())
    clock.advance(0)
    response = result(answer)
    assert (response.code, response.phrase) == (200, b"OK")
    assert response.headers.getRawHeaders(b"content-type") == [b"text/event-stream; charset=utf-8"]
    body = response.content()
    run(clock)
    assert result(body).endswith(b'data: {"type":"message_stop"}\n\n')


def test_an_upload_in_pieces_is_read_to_its_end_before_the_answer() -> None:
    clock = Clock()
    encoded = json.dumps({**HELLO, "stream": False}).encode()
    upload = Upload(encoded[:20], encoded[20:])
    answer = request(clock, settings(), upload=upload)
    assert clock.getDelayedCalls() == []
    upload.send()
    run(clock)
    body = result(answer).json()
    run(clock)
    assert result(body)["content"][0]["text"] == " word" * 50


@given(name=st.text(min_size=1, max_size=80))
def test_any_provider_name_is_reached_through_treq(name: str) -> None:
    clock = Clock()
    answer = request(clock, settings(), name=name)
    clock.advance(0)
    assert result(answer).code == 200


def test_a_failure_status_comes_as_a_response() -> None:
    clock = Clock()
    answer = request(clock, settings(status=529))
    clock.advance(0)
    response = result(answer)
    assert response.code == 529
    assert response.headers.getRawHeaders(b"retry-after") == [b"1"]


def test_unknown_simulators_and_other_schemes_are_refused() -> None:
    agent = SimulatorAgent(Clock(), {"sim": settings()}, Random(7))
    assert result(agent.request(b"POST", b"simulator://other/v1/messages")).check(DNSLookupError)
    assert result(agent.request(b"POST", b"http://sim/v1/messages")).check(SchemeNotSupported)


def test_a_request_without_a_body_is_answered_as_the_api_does() -> None:
    clock = Clock()
    agent = SimulatorAgent(clock, {"sim": settings()}, Random(7))
    answer = agent.request(b"GET", b"simulator://sim/v1/messages")
    clock.advance(0)
    assert result(answer).code == 405


# -- time


def test_the_head_comes_after_the_first_byte_time() -> None:
    clock = Clock()
    answer = request(clock, settings(first_byte=2.0))
    clock.advance(1.99)
    assert not answer.called
    clock.advance(0.01)
    assert answer.called


def test_text_arrives_at_the_configured_rate() -> None:
    clock = Clock()
    receiver = listen(clock, settings(rate=8.0))
    for second in (1, 2, 3):
        run(clock, 1.0)
        assert deltas(receiver) == 8 * second


def test_a_late_reactor_does_not_slow_a_stream_down() -> None:
    clock = Clock()
    receiver = listen(clock, settings(rate=10.0))
    clock.advance(2.95)
    clock.advance(0.01)
    assert deltas(receiver) == 29


def test_a_fast_stream_uses_at_most_200_timers_a_second() -> None:
    clock = CountingClock()
    receiver = listen(clock, settings(text=" word" * 5000, rate=10_000.0))
    before = clock.calls_made
    run(clock, 0.4)
    assert deltas(receiver) == pytest.approx(4000, abs=60)
    assert clock.calls_made - before <= 0.4 * 200 + 2


def test_a_stream_without_pacing_is_delivered_in_turns_of_bounded_size() -> None:
    clock = Clock()
    receiver = listen(clock, settings(text=" word" * 5000, rate=0.0))
    run(clock)
    assert deltas(receiver) == 5000
    assert len(receiver.pieces) > 5
    assert max(map(len, receiver.pieces)) < 65536 + 1000


# -- back-pressure


def test_a_paused_stream_stands_still_and_loses_nothing() -> None:
    clock, undisturbed = Clock(), Clock()
    receiver, whole = listen(clock, settings()), listen(undisturbed, settings())
    run(undisturbed)
    run(clock, 1.05)
    before = deltas(receiver)
    receiver.transport.pauseProducing()
    assert clock.getDelayedCalls() == []
    clock.advance(500)
    assert deltas(receiver) == before
    receiver.transport.resumeProducing()
    clock.advance(0)
    assert deltas(receiver) == before
    run(clock, 0.06)
    assert deltas(receiver) == before + 1
    run(clock)
    assert receiver.data == whole.data


def test_a_receiver_that_pauses_while_it_is_given_data_gets_no_more() -> None:
    clock = Clock()
    receiver = listen(clock, settings(), Receiver(lambda r: r.transport.pauseProducing()))
    run(clock)
    assert len(receiver.pieces) == 1
    assert receiver.lost == []


def test_a_receiver_may_pause_and_resume_while_it_is_given_data() -> None:
    def once(receiver: Receiver) -> None:
        receiver.transport.pauseProducing()
        if len(receiver.pieces) % 2:
            receiver.transport.resumeProducing()

    clock = Clock()
    receiver = listen(clock, settings(rate=100.0), Receiver(once))
    for _ in range(200):
        run(clock)
        receiver.transport.resumeProducing()
    assert deltas(receiver) == 50
    assert [reason.type for reason in receiver.lost] == [ResponseDone]


def test_a_body_that_nobody_asks_for_costs_no_timer() -> None:
    clock = Clock()
    answer = request(clock, settings())
    clock.advance(0)
    assert result(answer).code == 200
    assert clock.getDelayedCalls() == []


def test_a_body_is_delivered_once() -> None:
    clock = Clock()
    answer = request(clock, settings())
    clock.advance(0)
    response = result(answer)
    response.deliverBody(Receiver())
    with pytest.raises(RuntimeError):
        response.deliverBody(Receiver())


# -- ends


def test_a_good_end_is_response_done_once() -> None:
    clock = Clock()
    receiver = listen(clock, settings())
    run(clock)
    assert [reason.type for reason in receiver.lost] == [ResponseDone]
    assert clock.getDelayedCalls() == []


def test_a_cut_loses_the_connection_after_whole_events() -> None:
    clock = Clock()
    receiver = listen(clock, settings(cut=True, after_events=6))
    run(clock)
    (reason,) = receiver.lost
    assert reason.check(ResponseFailed)
    assert reason.value.reasons[0].check(ConnectionLost)
    assert receiver.data.count(b"event: ") == 6
    assert receiver.data.endswith(b"\n\n")


def test_a_cut_before_the_head_fails_the_request() -> None:
    clock = Clock()
    answer = request(clock, settings(cut=True, stall=3.0))
    clock.advance(2.9)
    assert not answer.called
    clock.advance(0.2)
    assert result(answer).check(ConnectionLost)
    assert clock.getDelayedCalls() == []


def test_a_stall_is_silence() -> None:
    clock = Clock()
    receiver = listen(clock, settings(stall=100.0, after_events=5))
    run(clock, 99.0)
    assert receiver.data.count(b"event: ") == 5
    run(clock)
    assert [reason.type for reason in receiver.lost] == [ResponseDone]


@pytest.mark.parametrize("how", ["stopProducing", "loseConnection", "abortConnection"])
@pytest.mark.parametrize("paused", [False, True])
def test_stopping_ends_everything_in_one_turn(how: str, paused: bool) -> None:
    clock = Clock()
    receiver = listen(clock, settings())
    run(clock, 1.0)
    before = receiver.data
    if paused:
        receiver.transport.pauseProducing()
    getattr(receiver.transport, how)()
    assert receiver.lost == []  # as with a socket: never inside the call
    clock.advance(0)
    assert clock.getDelayedCalls() == []
    (reason,) = receiver.lost
    assert reason.check(ResponseFailed)
    assert reason.value.reasons[0].check(ConnectionAborted)
    for late in ("resumeProducing", "pauseProducing", "stopProducing"):
        getattr(receiver.transport, late)()
    assert clock.getDelayedCalls() == []
    assert receiver.data == before


def test_a_receiver_may_stop_while_it_is_given_data() -> None:
    clock = Clock()
    receiver = listen(clock, settings(), Receiver(lambda r: r.transport.abortConnection()))
    run(clock)
    assert len(receiver.pieces) == 1
    assert len(receiver.lost) == 1


def test_cancelling_during_the_upload_stops_it() -> None:
    clock, upload = Clock(), Upload(b"{}")
    answer = request(clock, settings(), upload=upload)
    answer.cancel()
    assert result(answer).check(CancelledError)
    assert upload.stopped
    assert clock.getDelayedCalls() == []


def test_cancelling_before_the_head_leaves_no_timer() -> None:
    clock, upload = Clock(), Upload(json.dumps(HELLO).encode())
    answer = request(clock, settings(first_byte=5.0), upload=upload)
    upload.send()
    assert len(clock.getDelayedCalls()) == 1
    answer.cancel()
    assert result(answer).check(CancelledError)
    assert not upload.stopped
    assert clock.getDelayedCalls() == []


class FailingParts(SynchronousTestCase):
    """Faults of what the agent is given, which it must hand on."""

    def test_a_body_producer_that_fails_fails_the_request(self) -> None:
        upload = Upload(b"{}")
        answer = request(Clock(), settings(), upload=upload)
        upload.done.errback(Failure(ZeroDivisionError()))
        self.failureResultOf(answer, ZeroDivisionError)

    def test_a_body_producer_that_raises_fails_the_request(self) -> None:
        upload = Upload(b"{}")
        upload.startProducing = lambda consumer: 1 // 0  # type: ignore[method-assign,assignment]
        self.failureResultOf(request(Clock(), settings(), upload=upload, body=None), ZeroDivisionError)

    def test_a_receiver_that_raises_is_logged_and_loses_its_connection(self) -> None:
        clock = Clock()
        receiver = listen(clock, settings(), Receiver(lambda _: 1 // 0))
        run(clock)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertEqual([reason.type for reason in receiver.lost], [ResponseFailed])
        self.assertEqual(len(receiver.pieces), 1)
        self.assertEqual(clock.getDelayedCalls(), [])
