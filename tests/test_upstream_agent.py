"""The agent of one origin: what it sends, which connection it takes, what it repeats, and what its pool keeps."""

from __future__ import annotations

from collections.abc import Iterator
from http.cookiejar import CookieJar
from typing import Any

import h11
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from treq.client import HTTPClient
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectError, ConnectionDone, ConnectionLost
from twisted.internet.task import Clock
from twisted.web.client import ResponseFailed
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent
from zope.interface.verify import verifyObject

from ccrelay.core.model import Edit
from ccrelay.core.outcomes import Outcome, UpstreamError
from ccrelay.core.request_body import RequestBody
from ccrelay.upstream.agent import OriginAgent
from ccrelay.upstream.body import EditedBody
from ccrelay.upstream.connection import NoAnswer
from ccrelay.upstream.pool import IDLE_TIMEOUT, MOST_IDLE

from .upstream_rig import (
    CHUNKED,
    HELLO,
    OK,
    FakeEndpoint,
    OriginSide,
    Receiver,
    Upload,
    failure_of,
    fired,
    nothing_logged,
)

URL = b"https://api.example.com/v1/messages?beta=true"
TEXT = b'{"model":"asked","stream":true}'
EDITED = b'{"model":"m","stream":true}'


@pytest.fixture(autouse=True)
def _silent() -> Iterator[None]:
    with nothing_logged():
        yield


def heard(origin: OriginSide) -> list[tuple[bytes, bytes, dict[bytes, list[bytes]], bytes]]:
    """The requests that reached an origin as h11 reads them: method, target, headers by lower-case name, body."""
    reader = h11.Connection(h11.SERVER)
    reader.receive_data(origin.received)
    found: list[tuple[bytes, bytes, dict[bytes, list[bytes]], bytes]] = []
    while True:
        event = reader.next_event()
        if isinstance(event, h11.Request):
            headers: dict[bytes, list[bytes]] = {}
            for name, value in event.headers:
                headers.setdefault(name, []).append(value)
            found.append((event.method, event.target, headers, b""))
        elif isinstance(event, h11.Data):
            found[-1] = (*found[-1][:3], found[-1][3] + bytes(event.data))
        elif isinstance(event, h11.EndOfMessage):
            reader.send(h11.Response(status_code=200, headers=[("content-length", "0")]))
            reader.send(h11.EndOfMessage())
            if reader.our_state is h11.MUST_CLOSE:
                return found
            reader.start_next_cycle()
        else:
            assert event is h11.NEED_DATA, event
            return found


class Rig:
    """An agent over connections in memory."""

    def __init__(self, *, ready: bool = True) -> None:
        self.clock = Clock()
        self.endpoint = FakeEndpoint(self.clock, ready=ready)
        self.agent = OriginAgent(self.clock, self.endpoint)

    def ask(self, upload: Any = None, *, url: bytes = URL, headers: Headers | None = None) -> Deferred[Any]:
        return self.agent.request(b"POST", url, headers, upload)

    def serve(self, answer: bytes = HELLO, *, origin: int = -1, answers: list[Any]) -> Receiver:
        """That connection's origin answers; the body is received."""
        self.endpoint.made[origin].send(answer)
        receiver = Receiver()
        [response] = answers
        response.deliverBody(receiver)
        self.clock.advance(0)
        return receiver

    def exchange(self) -> OriginSide:
        """A whole exchange; gives the connection that it took."""
        before = [len(origin.received) for origin in self.endpoint.made]
        answers = fired(self.ask())
        [used] = [
            index
            for index, origin in enumerate(self.endpoint.made)
            if index >= len(before) or len(origin.received) > before[index]
        ]
        assert self.serve(origin=used, answers=answers).ending == "whole"
        return self.endpoint.made[used]

    @property
    def open(self) -> int:
        """Connections that are not closed."""
        self.clock.advance(0)
        return sum(origin.end is None for origin in self.endpoint.made)

    def rest(self) -> None:
        """Nothing may be left once the agent is closed and the reactor has turned."""
        self.agent.close()
        assert self.open == 0
        assert self.clock.getDelayedCalls() == []


def arriving(*, declared: bool = True) -> tuple[RequestBody, EditedBody]:
    body = RequestBody(len(TEXT) if declared else None, 0)
    return body, EditedBody(body, [Edit(9, 16, b'"m"')], lambda: None)


def arrive(body: RequestBody) -> None:
    body.receive_data(TEXT[body.received :])
    body.receive_eof()


def test_it_is_an_agent() -> None:
    verifyObject(IAgent, Rig().agent)


# -- what is sent


@pytest.mark.parametrize(
    ("url", "host"),
    [
        (b"https://api.example.com/x", b"api.example.com"),
        (b"https://api.example.com:443/x", b"api.example.com"),
        (b"https://api.example.com:8443/x", b"api.example.com:8443"),
        (b"https://api.example.com:80/x", b"api.example.com:80"),
        (b"http://localhost/x", b"localhost"),
        (b"http://localhost:80/x", b"localhost"),
        (b"http://localhost:11434/x", b"localhost:11434"),
        (b"http://localhost:443/x", b"localhost:443"),
        (b"http://[::1]/x", b"[::1]"),
        (b"http://[::1]:11434/x", b"[::1]:11434"),
        (b"https://[2001:db8::1]:443/x", b"[2001:db8::1]"),
        (b"http://127.0.0.1:8080/x", b"127.0.0.1:8080"),
    ],
)
def test_the_host_is_the_origins_with_its_port_where_it_is_not_the_usual(url: bytes, host: bytes) -> None:
    rig = Rig()
    rig.ask(url=url)
    [(method, target, headers, _)] = heard(rig.endpoint.made[0])
    assert (method, target, headers[b"host"]) == (b"POST", b"/x", [host])


def test_path_and_query_go_out_as_they_came() -> None:
    rig = Rig()
    rig.ask(url=b"https://api.example.com/a//b/../c;p=1?x=%2f&&y=[]{}|^`\"<>\\'&z")
    [(_, target, _, _)] = heard(rig.endpoint.made[0])
    assert target == b"/a//b/../c;p=1?x=%2f&&y=[]{}|^`\"<>\\'&z"


def test_headers_pass_and_framing_is_ours() -> None:
    rig = Rig()
    given_headers = Headers(
        {
            b"X-Api-Key": [b"k"],
            b"anthropic-beta": [b"one", b"two,three"],
            b"x-obs": [b"caf\xe9\t!"],
            b"Host": [b"evil.example"],
            b"Content-Length": [b"3"],
            b"Transfer-Encoding": [b"chunked"],
            b"Accept-Encoding": [b"gzip, br"],
            b"Connection": [b"close"],
        }
    )
    upload = Upload(b"12345")
    rig.ask(upload, headers=given_headers)
    upload.send()
    [(_, _, headers, body)] = heard(rig.endpoint.made[0])
    assert headers == {
        b"host": [b"api.example.com"],
        b"x-api-key": [b"k"],
        b"anthropic-beta": [b"one", b"two,three"],
        b"x-obs": [b"caf\xe9\t!"],
        b"accept-encoding": [b"identity"],
        b"content-length": [b"5"],
    }
    assert body == b"12345"


def test_a_body_of_unknown_length_is_chunked_and_has_no_content_length() -> None:
    rig = Rig()
    upload = Upload(b"", length=CHUNKED)
    rig.ask(upload)
    upload.send(b"123", b"45")
    upload.finish()
    [(_, _, headers, body)] = heard(rig.endpoint.made[0])
    assert headers[b"transfer-encoding"] == [b"chunked"]
    assert b"content-length" not in headers
    assert body == b"12345"


def test_treq_cannot_ask_for_compression() -> None:
    rig = Rig()
    asking = HTTPClient(rig.agent).request("POST", URL.decode(), headers={b"X-A": [b"1"]}, unbuffered=True)
    [(_, _, headers, _)] = heard(rig.endpoint.made[0])
    assert headers[b"accept-encoding"] == [b"identity"]
    failures = fired(asking)
    asking.cancel()
    failure_of(failures, CancelledError)


class RawHeaders(Headers):
    """Headers that hold what Twisted's own would clean or refuse."""

    def __init__(self, line: tuple[bytes, bytes]) -> None:
        super().__init__()
        self._line = line

    def getAllRawHeaders(self) -> Any:
        return iter([(self._line[0], [self._line[1]])])


@given(st.binary(max_size=8), st.binary(max_size=8))
@example(b"X", b"a\r\nY: b")
@example(b"X", b"a\nY: b")
@example(b"X", b"a\r\n\r\nPOST / HTTP/1.1\r\n\r\n")
@example(b"X: a\r\nY", b"b")
@example(b"X\r", b"")
@example(b"", b"x")
def test_no_header_can_smuggle_a_line_into_the_request(name: bytes, value: bytes) -> None:
    rig = Rig()
    answers = fired(rig.ask(headers=RawHeaders((name, value))))
    if answers:
        failure_of(answers, ValueError)
        assert rig.endpoint.made == []
    else:
        [origin] = rig.endpoint.made
        lines = 4 if name.lower() == b"host" else 5  # ours replaces it
        assert origin.received.count(b"\r") == origin.received.count(b"\n") == lines
        assert origin.received.endswith(b"\r\n\r\n")


@pytest.mark.parametrize("target", [b"/a b", b"/a\r\nX: y", b"/a\x00", b"/caf\xe9"])
def test_no_url_can_smuggle_a_line_into_the_request(target: bytes) -> None:
    rig = Rig()
    answers = fired(rig.ask(url=b"https://api.example.com" + target))
    failure_of(answers, ValueError)
    assert rig.endpoint.made == []


# -- which connection


def test_exchanges_one_after_another_share_a_connection() -> None:
    rig = Rig()
    used = [rig.exchange() for _ in range(5)]
    assert rig.endpoint.made == [used[0]]
    assert len(heard(used[0])) == 5
    rig.rest()


def test_exchanges_at_once_have_a_connection_each() -> None:
    rig = Rig()
    asked = [fired(rig.ask()) for _ in range(3)]
    assert [len(heard(origin)) for origin in rig.endpoint.made] == [1, 1, 1]
    for index, answers in enumerate(asked):
        rig.serve(HELLO, origin=index, answers=answers)
    assert len(rig.endpoint.made) == rig.open == 3
    rig.rest()


def test_a_connection_is_not_shared_before_its_body_has_ended() -> None:
    rig = Rig()
    rig.ask()
    rig.endpoint.made[0].send(OK + b"Content-Length: 5\r\n\r\nhel")
    rig.ask()
    assert len(rig.endpoint.made) == 2


def test_what_connecting_fails_with_is_told() -> None:
    rig = Rig(ready=False)
    answers = fired(rig.ask())
    rig.endpoint.fail(ConnectError())
    failure_of(answers, ConnectError)
    rig.rest()


# -- repeating


def stale(rig: Rig, upload: Any) -> list[Any]:
    """Ask on a connection that turns out to be gone."""
    origin = rig.exchange()
    answers = fired(rig.ask(upload))
    origin.lose(ConnectionDone())
    return answers


@pytest.mark.parametrize("declared", [True, False])
@pytest.mark.parametrize("early", [0, 10, len(TEXT)])
def test_a_stale_connection_is_replaced_once_and_the_same_body_sent_again(declared: bool, early: int) -> None:
    """``early``: bytes of the body that have arrived, and gone out, when the stale connection is noticed."""
    rig = Rig()
    body, upload = arriving(declared=declared)
    body.receive_data(TEXT[:early])
    answers = stale(rig, upload)
    assert answers == []
    assert len(rig.endpoint.made) == 2
    arrive(body)
    [_, (_, _, _, first)] = [request for origin in rig.endpoint.made for request in heard(origin)][-2:]
    assert first == EDITED
    assert rig.serve(answers=answers).data == b"hello"
    rig.rest()


def test_a_fresh_connection_that_is_lost_is_not_replaced() -> None:
    rig = Rig()
    answers = fired(rig.ask(Upload(TEXT)))
    rig.endpoint.made[0].lose(ConnectionLost())
    assert not failure_of(answers, NoAnswer).reused
    assert len(rig.endpoint.made) == 1
    rig.rest()


def test_the_connection_that_replaces_a_stale_one_is_not_replaced() -> None:
    rig = Rig()
    rig.exchange()
    other = fired(rig.ask(Upload(TEXT)))
    extra = fired(rig.ask())
    rig.serve(origin=1, answers=extra)
    rig.endpoint.made[0].lose()
    assert len(rig.endpoint.made) == 3, "the other idle connection may be as stale: a fresh one is taken"
    rig.endpoint.made[2].lose()
    failure_of(other, NoAnswer)
    assert len(rig.endpoint.made) == 3
    rig.rest()


def test_a_reused_connection_that_gave_one_byte_is_not_replaced() -> None:
    rig = Rig()
    origin = rig.exchange()
    answers = fired(rig.ask(Upload(TEXT)))
    origin.send(b"H")
    origin.lose(ConnectionDone())
    failure_of(answers, ResponseFailed)
    assert len(rig.endpoint.made) == 1


def test_a_reused_connection_whose_body_cannot_be_produced_is_not_replaced() -> None:
    rig = Rig()
    rig.exchange()
    upload = Upload(TEXT)
    answers = fired(rig.ask(upload))
    upload.done.errback(OSError("no more"))
    rig.clock.advance(0)
    failure_of(answers, ResponseFailed)
    assert len(rig.endpoint.made) == 1


def test_a_repeat_that_cannot_connect_fails_with_that() -> None:
    rig = Rig()
    origin = rig.exchange()
    answers = fired(rig.ask())
    rig.endpoint.ready = False
    origin.lose()
    rig.endpoint.fail(ConnectError())
    failure_of(answers, ConnectError)


# -- giving up


def test_cancelled_while_connecting_it_stops_that() -> None:
    rig = Rig(ready=False)
    asking = rig.ask(Upload(TEXT))
    answers = fired(asking)
    asking.cancel()
    assert len(answers) == 1
    assert rig.endpoint.cancelled == 1
    rig.rest()


def test_cancelled_while_waiting_it_closes_in_the_same_turn() -> None:
    rig = Rig()
    upload = Upload(TEXT)
    asking = rig.ask(upload)
    answers = fired(asking)
    asking.cancel()
    failure_of(answers, CancelledError)
    assert rig.endpoint.made[0].closing
    assert "stop" in upload.log
    assert rig.open == 0
    rig.rest()


@pytest.mark.parametrize("connected", [True, False])
def test_cancelled_during_the_repeat_it_leaves_nothing(connected: bool) -> None:
    rig = Rig()
    origin = rig.exchange()
    asking = rig.ask(Upload(TEXT))
    answers = fired(asking)
    rig.endpoint.ready = connected
    origin.lose()
    asking.cancel()
    assert len(answers) == 1
    assert rig.open == 0
    assert rig.endpoint.pending == []
    rig.rest()


# -- the pool


def test_idle_connections_are_closed_in_time() -> None:
    rig = Rig()
    rig.exchange()
    rig.clock.advance(IDLE_TIMEOUT - 1)
    assert rig.open == 1
    rig.clock.advance(1)
    assert rig.open == 0
    assert rig.clock.getDelayedCalls() == []


def test_a_connection_in_use_does_not_time_out_and_counts_anew_afterwards() -> None:
    rig = Rig()
    rig.exchange()
    rig.clock.advance(IDLE_TIMEOUT - 1)
    answers = fired(rig.ask())
    rig.clock.advance(IDLE_TIMEOUT * 3)
    assert rig.serve(answers=answers).ending == "whole"
    rig.clock.advance(IDLE_TIMEOUT - 1)
    assert rig.open == 1
    rig.rest()


def test_a_timed_out_connection_is_not_taken_in_the_turn_of_its_end() -> None:
    rig = Rig()
    rig.exchange()
    rig.endpoint.made[0].clock.callLater(IDLE_TIMEOUT, rig.ask)
    rig.clock.advance(IDLE_TIMEOUT)
    assert len(rig.endpoint.made) == 2
    assert len(heard(rig.endpoint.made[1])) == 1


def test_the_newest_idle_connection_goes_first_so_that_the_others_time_out() -> None:
    rig = Rig()
    asked = [fired(rig.ask()) for _ in range(3)]
    for index in (2, 0, 1):
        rig.serve(origin=index, answers=asked[index])
        rig.clock.advance(1)
    for _ in range(int(IDLE_TIMEOUT)):
        assert rig.exchange() is rig.endpoint.made[1]
        rig.clock.advance(1)
    assert [origin.end is None for origin in rig.endpoint.made] == [False, True, False]
    rig.rest()


def test_idle_connections_are_bounded() -> None:
    rig = Rig()
    asked = [fired(rig.ask()) for _ in range(MOST_IDLE + 3)]
    for index, answers in enumerate(asked):
        assert rig.serve(origin=index, answers=answers).ending == "whole"
    assert rig.open == MOST_IDLE
    assert len(rig.clock.getDelayedCalls()) == MOST_IDLE
    rig.rest()


def test_an_idle_connection_that_its_origin_closes_is_forgotten() -> None:
    rig = Rig()
    rig.exchange().lose()
    assert rig.clock.getDelayedCalls() == []
    rig.exchange()
    assert len(rig.endpoint.made) == 2
    rig.rest()


def test_an_idle_connection_with_unasked_bytes_is_not_taken_any_more() -> None:
    rig = Rig()
    rig.exchange().send(b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n")
    rig.ask()
    assert len(rig.endpoint.made) == 2
    assert rig.open == 1


def test_closed_it_finishes_what_is_under_way_and_keeps_nothing() -> None:
    rig = Rig()
    rig.exchange()
    busy = fired(rig.ask())
    asked = fired(rig.ask())
    rig.serve(origin=1, answers=asked)
    assert fired(rig.agent.close()) == [None]
    assert rig.open == 1
    assert rig.serve(origin=0, answers=busy).ending == "whole"
    assert rig.open == 0
    assert rig.clock.getDelayedCalls() == []


def test_a_call_that_outlives_a_reload_can_still_ask() -> None:
    rig = Rig()
    rig.agent.close()
    rig.exchange()
    assert rig.open == 0


def test_the_pool_says_how_many_connections_it_has() -> None:
    rig = Rig()
    rig.exchange()
    busy = fired(rig.ask())
    lost = fired(rig.ask())
    rig.serve(origin=0, answers=busy)
    assert repr(rig.agent._pool) == "<IdlePool open=2 idle=1>"
    rig.endpoint.made[1].lose()
    assert repr(rig.agent._pool) == "<IdlePool open=1 idle=1>"
    failure_of(lost, NoAnswer)


# -- what treq must not get to work on


@pytest.mark.parametrize("encoding", [b"gzip", b"gzip, gzip", b"br", b"GZIP", b"x-anything"])
def test_a_compressed_answer_is_refused_before_anybody_could_unpack_it(encoding: bytes) -> None:
    rig = Rig()
    client = HTTPClient(rig.agent)
    failures = fired(
        client.request("POST", URL.decode(), unbuffered=True, allow_redirects=False).addErrback(lambda f: f)
    )
    rig.endpoint.made[0].send(b"HTTP/1.1 200 OK\r\ncontent-encoding: %b\r\ncontent-length: 3\r\n\r\nabc" % encoding)
    [failure] = failures
    assert failure.check(UpstreamError)
    assert (failure.value.outcome, failure.value.answered) == (Outcome.PROVIDER_ILL, True)
    assert rig.open == 0
    rig.rest()


@pytest.mark.parametrize("encoding", [b"", b"identity", b"Identity"])
def test_an_answer_that_says_it_is_not_compressed_is_taken(encoding: bytes) -> None:
    rig = Rig()
    answers = fired(rig.ask())
    rig.serve(b"HTTP/1.1 200 OK\r\ncontent-encoding: %b\r\ncontent-length: 3\r\n\r\nabc" % encoding, answers=answers)
    rig.rest()


def test_cookies_of_an_upstream_reach_no_cookie_jar() -> None:
    rig = Rig()
    jar = CookieJar()
    client = HTTPClient(rig.agent, cookiejar=jar)
    answers = fired(client.request("POST", URL.decode(), unbuffered=True, allow_redirects=False))
    rig.serve(
        b"HTTP/1.1 200 OK\r\nset-cookie: a=b\r\nset-cookie2: c=d\r\nrequest-id: r\r\ncontent-length: 0\r\n\r\n",
        answers=answers,
    )
    [response] = answers
    assert list(jar) == []
    assert response.headers.getRawHeaders(b"request-id") == [b"r"]
    rig.rest()
