"""One attempt over treq and the real agent in memory: what is sent, how long is waited, how it is given up."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from treq.client import HTTPClient
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.error import ConnectError, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.task import Clock
from twisted.web.http_headers import Headers as WebHeaders
from twisted.web.iweb import IAgent, IBodyProducer, IResponse
from zope.interface import implementer
from zope.interface.verify import verifyObject

from ccrelay.core.failures import Failure as AttemptFailure
from ccrelay.core.model import ApiKey, AttemptPlan, Call, CallKind, Credential, OwnCredential, Principal
from ccrelay.core.outcomes import Outcome, UpstreamError
from ccrelay.core.request_body import RequestBody
from ccrelay.core.secret import Secret
from ccrelay.core.settings import TimeoutSettings
from ccrelay.providers import build
from ccrelay.upstream.agent import OriginAgent
from ccrelay.upstream.attempt import ERROR_BYTES, ERROR_SECONDS, Attempt, Committed
from ccrelay.upstream.cookies import no_cookies
from ccrelay.upstream.pump import Ending

from .fakes import FakeSink
from .provider_settings import provider_settings
from .upstream_rig import OK, FakeEndpoint, NamedReactor, OriginSide, Receiver, failure_of, fired, nothing_logged

TEXT = b'{"model":"claude","messages":[]}'
KEY = ApiKey(Secret("pooled-key"))
OWN = OwnCredential(b"authorization", Secret("Bearer its-own"))
TIMEOUTS = TimeoutSettings(connect=10.0, first_byte=120.0, idle=240.0)
PATIENCE = TIMEOUTS.connect + TIMEOUTS.first_byte

SSE = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
START = b'event: message_start\ndata: {"type":"message_start","message":{"usage":{"input_tokens":1}}}\n\n'
BLOCK = b'event: content_block_start\ndata: {"type":"content_block_start","index":0}\n\n'
ERROR = b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}\n\n'
MESSAGE = OK + b"Content-Length: 18\r\n\r\n" + b'{"type":"message"}'
REFUSED = b'{"type":"error","error":{"type":"rate_limit_error","message":"Slow down"}}'
LIMITED = b"HTTP/1.1 429 Too Many Requests\r\nContent-Type: application/json\r\n"


@pytest.fixture(autouse=True)
def _silent() -> Iterator[None]:
    with nothing_logged():
        yield


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


@implementer(IAgent)
class CheckedAgent:
    """Passes on what treq asks, if it is what an agent may be asked; and holds the answers to their interface."""

    def __init__(self, agent: OriginAgent) -> None:
        self._agent = agent

    def request(self, method: Any, uri: Any, headers: Any = None, bodyProducer: Any = None) -> Deferred[Any]:
        assert isinstance(method, bytes)
        assert isinstance(uri, bytes)
        assert isinstance(headers, WebHeaders)
        verifyObject(IBodyProducer, bodyProducer)
        return self._agent.request(method, uri, headers, bodyProducer).addCallback(self._checked)

    def _checked(self, response: Any) -> Any:
        verifyObject(IResponse, response)
        return response


class Rig:
    """An attempt of a call whose body arrives as told. ``arrived``: bytes there at the start; None: all."""

    def __init__(
        self,
        *,
        text: bytes = TEXT,
        arrived: int | None = None,
        type_: str = "anthropic",
        base_url: str = "https://api.example.com",
        query: bytes = b"beta=true",
        credential: Credential = KEY,
        extra: tuple[tuple[bytes, bytes], ...] = (),
        clock: Clock | None = None,
        endpoint: IStreamClientEndpoint | None = None,
        ready: bool = True,
        **settings: Any,
    ) -> None:
        self.clock = clock or Clock()
        self.fake = FakeEndpoint(self.clock, ready=ready)
        self.agent = OriginAgent(self.clock, endpoint or self.fake)
        self.provider: Any = build(provider_settings(type_, base_url=base_url, timeouts=TIMEOUTS, **settings))
        self.client = HTTPClient(CheckedAgent(self.agent), cookiejar=no_cookies())
        self.text = text
        self.body = RequestBody(len(text), 0)
        self.call = Call(
            request_id="req_1",
            kind=CallKind.MESSAGES,
            principal=Principal("open", "-", b"", own_credential_only=False),
            query=query,
            headers=((b"content-type", b"application/json"), (b"x-later", b"1"), (b"x-later", b"2")),
            own_credential=None,
            session=None,
            peer="127.0.0.1",
            body=self.body,
        )
        self.sink = FakeSink()
        self.commits: list[bytes] = []
        self.credential = credential
        self.extra = extra
        self.arrive(len(text) if arrived is None else arrived)
        if arrived is None:
            self.body.receive_eof()

    def arrive(self, count: int) -> None:
        self.body.receive_data(self.text[self.body.received : self.body.received + count])

    def start(self) -> Rig:
        attempt = Attempt(
            self.clock,
            self.client,
            self.provider,
            TIMEOUTS,
            on_commit=lambda: self.commits.append(self.sink.body),
        )
        model = self.body.members.find("model")
        assert model is not None
        self.running = Deferred.fromCoroutine(
            attempt.run(self.call, AttemptPlan("claude", model, self.credential, 0.0), self.sink, self.extra)
        )
        self.results = fired(self.running)
        return self

    @property
    def origin(self) -> OriginSide:
        return self.fake.made[-1]

    def answer(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.origin.send(piece)
            self.clock.advance(0)

    def warm(self) -> None:
        """Leave an idle connection in the pool."""
        answers = fired(self.agent.request(b"POST", b"https://api.example.com/"))
        self.origin.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        answers[0].deliverBody(Receiver())
        self.origin.take()

    @property
    def committed(self) -> Committed:
        [result] = self.results
        assert isinstance(result, Committed), result
        return result

    @property
    def failed(self) -> AttemptFailure:
        [result] = self.results
        assert isinstance(result, AttemptFailure), result
        return result

    def ill(self, *, closed: bool = True) -> UpstreamError:
        """It ended without a usable answer, and left nothing."""
        error = failure_of(self.results, UpstreamError)
        assert isinstance(error, UpstreamError)
        assert error.outcome is Outcome.PROVIDER_ILL
        assert not self.sink.committed
        if closed:
            self.rest()
        return error

    def rest(self) -> None:
        """Every connection is closing, and no timer is left."""
        assert all(origin.closing or origin.end for origin in self.fake.made)
        self.clock.advance(0)
        assert self.clock.getDelayedCalls() == []


# -- what is sent


def test_the_providers_request_is_what_goes_out() -> None:
    rig = Rig(model_mapping={}).start()
    head, _, body = rig.origin.take().partition(b"\r\n\r\n")
    request_line, *lines = head.split(b"\r\n")
    assert request_line == b"POST /v1/messages?beta=true HTTP/1.1"
    headers = sorted(line.lower() for line in lines)
    assert headers == [
        b"accept-encoding: identity",
        b"content-length: %d" % len(TEXT),
        b"content-type: application/json",
        b"host: api.example.com",
        b"x-api-key: pooled-key",
        b"x-later: 1",
        b"x-later: 2",
    ]
    assert body == TEXT


@pytest.mark.parametrize(
    "query", [b"a=%7e&&b=[]{}|^`\"<>\\'&c", b"=", b"a=%zz&b=%FF", b"x=1;y=2&x=1", b"a=b+c%20d", b"?"]
)
def test_the_clients_query_goes_out_as_it_came(query: bytes) -> None:
    rig = Rig(query=query).start()
    assert rig.origin.take().startswith(b"POST /v1/messages?" + query + b" HTTP/1.1\r\n")


@pytest.mark.parametrize(
    ("base_url", "host"),
    [("http://[::1]:11434", b"[::1]:11434"), ("http://[2001:db8::1]", b"[2001:db8::1]"), ("http://h:80", b"h")],
)
def test_an_upstream_may_be_an_address(base_url: str, host: bytes) -> None:
    rig = Rig(type_="ollama", base_url=base_url, query=b"", credential=None).start()
    assert b"\r\nHost: " + host + b"\r\n" in rig.origin.take()
    rig.answer(MESSAGE)
    assert rig.committed.head.status == 200


def test_a_mapped_model_changes_the_body_and_its_length() -> None:
    rig = Rig()
    attempt = Attempt(rig.clock, rig.client, rig.provider, TIMEOUTS, on_commit=lambda: None)
    model = rig.body.members.find("model")
    assert model is not None
    running = Deferred.fromCoroutine(attempt.run(rig.call, AttemptPlan("claude-longer", model, KEY, 0.0), rig.sink, ()))
    head, _, body = rig.origin.take().partition(b"\r\n\r\n")
    assert body == TEXT.replace(b"claude", b"claude-longer")
    assert b"Content-Length: %d" % len(body) in head
    fired(running)
    running.cancel()


# -- committed answers


def test_a_stream_is_committed_at_its_first_content_and_ends_with_its_pump() -> None:
    rig = Rig(extra=((b"x-cc-relay-provider", b"north"),)).start()
    rig.answer(SSE, chunk(START))
    assert rig.results == []
    assert not rig.sink.committed
    rig.answer(chunk(BLOCK))
    assert rig.committed.head.status == 200
    assert rig.sink.body == START + BLOCK
    assert rig.commits == [b""], "once, before the first byte"
    assert (rig.sink.status, rig.sink.headers[-3]) == (200, (b"x-cc-relay-provider", b"north"))
    ended = fired(rig.committed.pump.ended)
    rig.answer(b"0\r\n\r\n")
    assert ended == [Ending(Outcome.TRUNCATED, "the stream ended without message_stop")]


def test_a_message_is_committed_whole() -> None:
    rig = Rig(extra=((b"x-cc-relay-attempts", b"1"),)).start()
    rig.answer(MESSAGE)
    assert fired(rig.committed.pump.ended) == [Ending(Outcome.ANSWERED, None)]
    assert (rig.sink.body, rig.sink.end) == (b'{"type":"message"}', "finished")
    assert rig.sink.headers == ((b"content-type", b"application/json"), (b"x-cc-relay-attempts", b"1"))
    assert rig.clock.getDelayedCalls()[0].getTime() > 0, "only the idle connection's"
    rig.agent.close()
    rig.rest()


@pytest.mark.parametrize(
    ("credential", "told"),
    [(KEY, {b"request-id"}), (OWN, {b"request-id", b"anthropic-organization-id", b"anthropic-ratelimit-unified-5h"})],
)
def test_headers_about_the_account_go_to_its_owner_only(credential: Credential, told: set[bytes]) -> None:
    account = b"anthropic-organization-id: o\r\nanthropic-ratelimit-unified-5h: 1\r\nrequest-id: r\r\n"
    for head, body in ((OK, b'{"type":"message"}'), (LIMITED, REFUSED)):
        rig = Rig(credential=credential).start()
        rig.answer(head + account + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        lines = rig.failed.answer.headers if head is LIMITED else rig.sink.headers
        assert {name for name, _ in lines} & {line[: line.index(b":")] for line in account.split(b"\r\n")[:-1]} == told


def test_the_head_is_kept_as_the_upstream_sent_it() -> None:
    rig = Rig().start()
    rig.answer(OK + b"X-Two: 1\r\nx-two: 2\r\nanthropic-organization-id: o\r\n" + MESSAGE.removeprefix(OK))
    assert sorted(rig.committed.head.headers) == [
        (b"anthropic-organization-id", b"o"),
        (b"content-length", b"18"),
        (b"content-type", b"application/json"),
        (b"x-two", b"1"),
        (b"x-two", b"2"),
    ]


# -- unsuccessful answers


def test_an_error_is_judged_with_its_body_and_its_connection_kept() -> None:
    rig = Rig().start()
    rig.answer(LIMITED + b"Retry-After: 7\r\nContent-Length: %d\r\n\r\n" % len(REFUSED), REFUSED[:9], REFUSED[9:])
    assert (rig.failed.outcome, rig.failed.retry_after, rig.failed.answer.body) == (Outcome.KEY_TIRED, 7.0, REFUSED)
    assert not rig.sink.committed
    assert rig.origin.end is None
    rig.agent.close()
    rig.rest()


def test_an_endless_error_body_is_read_up_to_a_bound() -> None:
    rig = Rig().start()
    rig.answer(b"HTTP/1.1 500 Oops\r\nContent-Type: text/html\r\n\r\n")
    sent = 0
    while not rig.results:
        assert sent <= ERROR_BYTES
        rig.answer(b"x" * 10_000)
        sent += 10_000
    assert rig.failed.outcome is Outcome.PROVIDER_ILL
    rig.rest()


def test_an_error_body_that_does_not_end_is_waited_for_a_moment_only() -> None:
    rig = Rig().start()
    rig.answer(LIMITED + b"Content-Length: 999\r\n\r\n" + REFUSED)
    rig.clock.advance(ERROR_SECONDS - 1)
    rig.answer(b" ")
    assert rig.results == []
    rig.clock.advance(1)
    assert (rig.failed.outcome, json.loads(rig.failed.answer.body)) == (Outcome.KEY_TIRED, json.loads(REFUSED))
    rig.rest()


@pytest.mark.parametrize("reason", [ConnectionDone(), ConnectionLost()])
def test_an_error_body_that_breaks_is_judged_by_what_came(reason: Exception) -> None:
    rig = Rig().start()
    rig.answer(LIMITED + b"Content-Length: 999\r\n\r\n" + REFUSED[:20])
    rig.origin.lose(reason)
    assert rig.failed.outcome is Outcome.KEY_TIRED
    rig.rest()


def test_an_error_that_comes_before_the_upload_ends_stops_the_upload() -> None:
    rig = Rig(arrived=len(TEXT) - 5).start()
    rig.answer(LIMITED + b"Content-Length: %d\r\n\r\n" % len(REFUSED) + REFUSED)
    assert rig.failed.outcome is Outcome.KEY_TIRED
    sent = rig.origin.take()
    rig.arrive(5)
    assert rig.origin.take() == b""
    assert sent.endswith(TEXT[:-5])
    rig.rest()


def test_a_stream_that_begins_with_an_error_is_a_failed_attempt() -> None:
    rig = Rig().start()
    rig.answer(SSE, chunk(START), chunk(ERROR))
    assert (rig.failed.outcome, rig.failed.answer.status) == (Outcome.PROVIDER_ILL, 529)
    assert not rig.sink.committed
    rig.rest()


@pytest.mark.parametrize("kind", [b"Content-Type: text/html\r\n", b"", b"Content-Type: application/x-ndjson\r\n"])
@pytest.mark.parametrize("rest", [b"Content-Length: 5\r\n\r\nhello", b"Content-Length: 5\r\n\r\n", b"\r\nhello"])
def test_an_answer_of_another_kind_closes_the_connection_and_commits_nothing(kind: bytes, rest: bytes) -> None:
    rig = Rig().start()
    rig.answer(b"HTTP/1.1 200 OK\r\n" + kind + rest)
    assert rig.ill().answered


def test_a_provider_that_trips_over_an_answer_leaves_no_connection_open() -> None:
    def trip(_: object) -> None:
        raise ZeroDivisionError

    rig = Rig()
    rig.provider.decoder = trip
    rig.start()
    rig.answer(MESSAGE)
    failure_of(rig.results, ZeroDivisionError)
    rig.rest()


def test_a_connection_lost_before_the_head_is_an_illness_in_our_words() -> None:
    rig = Rig().start()
    rig.origin.lose(ConnectionLost())
    error = rig.ill()
    assert (error.reason, error.answered) == ("connection lost", False)


def test_what_nobody_foresaw_is_not_dressed_up_as_an_illness() -> None:
    rig = Rig(ready=False).start()
    rig.fake.fail(ZeroDivisionError())  # type: ignore[arg-type]
    failure_of(rig.results, ZeroDivisionError)
    rig.rest()


# -- time


def test_an_upstream_that_never_answers_is_given_up_and_closed() -> None:
    rig = Rig().start()
    rig.clock.advance(PATIENCE - 1)
    assert rig.results == []
    rig.clock.advance(1)
    assert "120 s" in rig.ill().reason


def test_an_upstream_that_is_never_reached_is_given_up() -> None:
    rig = Rig(ready=False).start()
    rig.clock.advance(PATIENCE)
    assert "120 s" in rig.ill().reason
    assert rig.fake.cancelled == 1


@pytest.mark.parametrize("beginning", [b"HTTP/1.1 2", b"HTTP/1.1 100 Continue\r\n\r\n"])
def test_the_beginning_of_a_head_is_no_answer_yet(beginning: bytes) -> None:
    rig = Rig().start()
    rig.clock.advance(PATIENCE - 1)
    rig.answer(beginning)
    rig.clock.advance(1)
    assert "120 s" in rig.ill().reason


def test_the_time_counts_from_the_last_byte_of_the_upload() -> None:
    rig = Rig(arrived=20).start()
    for _ in range(6):
        rig.clock.advance(PATIENCE - 1)
        assert rig.results == []
        rig.arrive(1)
    rig.arrive(len(TEXT))
    rig.clock.advance(PATIENCE - 1)
    rig.body.receive_eof()
    rig.clock.advance(PATIENCE - 1)
    assert rig.results == []
    rig.clock.advance(1)
    rig.ill()


def test_the_time_for_the_head_does_not_bound_the_body() -> None:
    rig = Rig().start()
    rig.clock.advance(PATIENCE - 1)
    rig.answer(SSE, chunk(START + BLOCK))
    for _ in range(10):
        rig.clock.advance(TIMEOUTS.idle - 1)
        rig.answer(chunk(BLOCK))
    assert rig.sink.end is None
    assert rig.committed.head.status == 200


def test_an_answer_that_falls_silent_before_its_content_is_an_illness() -> None:
    rig = Rig().start()
    rig.answer(SSE)
    rig.clock.advance(TIMEOUTS.idle)
    assert rig.ill().answered


# -- giving up


@pytest.mark.parametrize(
    "before",
    [
        (),
        (b"HTTP/1.1 2",),
        (LIMITED + b"Content-Length: 999\r\n\r\n" + REFUSED,),
        (SSE,),
        (SSE, chunk(START)),
        (MESSAGE[:-3],),
    ],
    ids=["sent", "head", "error body", "no event", "held", "message"],
)
@pytest.mark.parametrize("arrived", [None, 25])
def test_cancelled_it_closes_the_upstream_in_the_same_turn(before: tuple[bytes, ...], arrived: int | None) -> None:
    rig = Rig(arrived=arrived).start()
    rig.answer(*before)
    assert rig.results == []
    rig.running.cancel()
    assert rig.origin.closing
    failure_of(rig.results, CancelledError)
    sent = len(rig.origin.received)
    rig.arrive(len(TEXT))
    assert len(rig.origin.received) == sent
    assert not rig.sink.committed
    rig.rest()


def test_cancelled_while_connecting_it_stops_that() -> None:
    rig = Rig(ready=False).start()
    rig.running.cancel()
    failure_of(rig.results, CancelledError)
    assert rig.fake.cancelled == 1
    rig.rest()


@pytest.mark.parametrize("resolved", [False, True])
def test_cancelled_in_twisteds_own_endpoint_it_is_cancelled_and_not_unreachable(resolved: bool) -> None:
    """Endpoints fail with what they were at: a name that was not found, or ConnectingCancelledError."""
    reactor = NamedReactor({"api.example.com": "192.0.2.1"})
    rig = Rig(clock=reactor, endpoint=HostnameEndpoint(reactor, "api.example.com", 443)).start()
    if resolved:
        reactor.resolve()
    rig.running.cancel()
    failure_of(rig.results, CancelledError)
    if resolved:
        assert reactor.connectors[0].stoppedConnecting
    rig.rest()


@pytest.mark.parametrize("resolved", [False, True])
def test_timed_out_in_twisteds_own_endpoint_it_is_out_of_time(resolved: bool) -> None:
    reactor = NamedReactor({"api.example.com": "192.0.2.1"})
    rig = Rig(clock=reactor, endpoint=HostnameEndpoint(reactor, "api.example.com", 443, timeout=9999)).start()
    if resolved:
        reactor.resolve()
    reactor.advance(PATIENCE)
    assert "120 s" in rig.ill().reason


def test_an_endpoint_that_cannot_find_the_name_is_an_illness() -> None:
    reactor = NamedReactor({"api.example.com": "nowhere"})
    rig = Rig(clock=reactor, endpoint=HostnameEndpoint(reactor, "api.example.com", 443)).start()
    reactor.resolve()
    assert rig.ill().reason == "host name not found"


def test_a_committed_answer_is_given_up_through_its_pump() -> None:
    rig = Rig().start()
    rig.answer(SSE, chunk(START + BLOCK))
    ended = rig.committed.pump.ended
    fired(ended)
    ended.cancel()
    assert rig.origin.closing
    rig.rest()


# -- the body's memory


def test_a_body_sent_whole_is_let_go_of_at_the_commit_not_before() -> None:
    rig = Rig().start()
    rig.answer(SSE, chunk(START))
    assert not rig.body.released
    rig.answer(chunk(BLOCK))
    assert rig.body.released


def test_a_body_is_kept_after_an_error_for_the_next_attempt() -> None:
    rig = Rig().start()
    rig.answer(LIMITED + b"Content-Length: 0\r\n\r\n")
    assert rig.failed.outcome is Outcome.KEY_TIRED
    assert not rig.body.released


def test_a_body_that_is_still_going_out_is_kept_while_its_answer_streams() -> None:
    rig = Rig(arrived=25).start()
    rig.answer(SSE, chunk(START + BLOCK))
    assert rig.sink.committed
    assert not rig.body.released
    rig.arrive(len(TEXT))
    rig.body.receive_eof()
    assert rig.origin.take().endswith(TEXT)


def test_a_body_going_out_again_for_a_stale_connection_is_kept_until_it_has_gone() -> None:
    rig = Rig()
    rig.warm()
    rig.fake.ready = False
    rig.start()
    assert rig.origin.take().endswith(TEXT)
    rig.origin.lose(ConnectionDone())
    rig.fake.succeed()
    rig.answer(SSE, chunk(START + BLOCK))
    assert rig.sink.committed
    assert rig.origin.take().endswith(TEXT)
    assert rig.body.released


def test_a_slow_fresh_connection_gets_the_whole_body_though_its_answer_streams_already() -> None:
    text = b'{"model":"claude","x":"' + b"y" * 300_000 + b'"}'
    rig = Rig(text=text)
    rig.warm()
    stale = rig.origin
    rig.start()
    assert stale.take().endswith(text), "all of it had gone to the stale one"
    rig.fake.slow = True
    stale.lose(ConnectionDone())
    rig.answer(SSE, chunk(START + BLOCK))
    assert rig.sink.committed
    assert not rig.body.released
    for _ in range(10):
        rig.origin.read()
    assert rig.origin.take().endswith(text)


def test_the_words_for_a_refused_connection_reach_the_log() -> None:
    rig = Rig(ready=False).start()
    rig.fake.fail(ConnectError())
    assert rig.ill().reason == "could not connect"
