"""What a client's connection carries: heads and bodies however cut, refusals, early answers, pipelines, versions."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.address import UNIXAddress
from twisted.internet.testing import EventLoggingObserver
from twisted.logger import globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase
from twisted.web import http

from ccrelay.core.model import Answer
from ccrelay.core.secret import Secret
from ccrelay.core.settings import AuthSettings
from ccrelay.web.channel import DISCARD_BYTES, DISCARD_SECONDS, PIPELINED_BYTES

from .web_rig import BODY, HEALTH, OK, Client, Served, Web, chunked, get, head, post, respond_when_complete

# -- heads


@pytest.mark.parametrize("size", [1, 7, 4096])
def test_a_request_is_understood_however_it_is_cut(size: int) -> None:
    web = Web(respond_when_complete)
    client = web.connect()
    wire = post() + HEALTH
    for at in range(0, len(wire), size):
        client.send(wire[at : at + size])
    first, second = client.replies(b"POST", b"GET")
    assert first.body == b"%d bytes" % len(BODY)
    assert second.json == {"status": "ok"}


def test_a_call_is_dispatched_with_its_head_and_its_body_follows() -> None:
    web = Web()
    client = web.connect()
    client.send(post()[: -len(BODY)])
    [served] = web.calls
    assert served.call.body.received == 0
    client.send(BODY[:10])
    assert served.call.body.received == 10
    client.send(BODY[10:])
    assert served.call.body.complete


INVALID = "invalid_request_error"
TOO_LARGE = "request_too_large"


@pytest.mark.parametrize(
    ("wire", "status", "kind"),
    [
        (b"NONSENSE\r\n\r\n", 400, INVALID),
        (b"\x16\x03\x01\x02\x00\x01", 400, INVALID),
        (head(b"GET", b"/health", b"X: a\x00b"), 400, INVALID),
        (head(b"GET", b"/health", b"X: a\rb"), 400, INVALID),
        (
            head(b"POST", b"/v1/messages", b"Content-Length: 3", b"Transfer-Encoding: chunked"),
            400,
            INVALID,
        ),
        (head(b"POST", b"/v1/messages", b"Content-Length: 3", b"Content-Length: 3"), 400, INVALID),
        (head(b"POST", b"/v1/messages", b"Transfer-Encoding: gzip, chunked"), 501, INVALID),
        (head(b"POST", b"/v1/messages", b"Content-Length: " + b"9" * 30), 413, TOO_LARGE),
        (get(b"/" + b"x" * 70_000), 414, TOO_LARGE),
        (get(b"/", b"X: " + b"x" * 70_000), 431, TOO_LARGE),
        (b"GET /health HTTP/2.0\r\nHost: localhost\r\n\r\n", 505, INVALID),
        (b"GET /health HTTP/1.1\r\n\r\n", 400, INVALID),
        (b"GET /health HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400, INVALID),
    ],
    ids=lambda value: value[:40].decode("latin-1") if isinstance(value, bytes) else None,
)
def test_what_is_no_request_is_answered_in_the_envelope_and_the_connection_closed(
    wire: bytes, status: int, kind: str
) -> None:
    web = Web()
    client = web.connect()
    client.send(wire)
    reply = client.reply
    assert (reply.status, reply.error, reply.header(b"connection")) == (status, kind, b"close")
    assert reply.header(b"date") is not None
    client.send(HEALTH)
    web.clock.advance(DISCARD_SECONDS)
    web.clock.advance(0)
    assert client.end == "closed"
    assert len(client.replies(b"POST", b"GET")) == 1
    assert web.calls == []
    assert web.ended(client)


# -- Expect, sizes, early answers


def test_100_continue_comes_when_the_call_is_accepted_and_before_its_answer() -> None:
    web = Web()
    client = web.connect()
    client.send(head(b"POST", b"/v1/messages", b"Content-Length: %d" % len(BODY), b"Expect: 100-continue"))
    assert client.received == b"HTTP/1.1 100 Continue\r\n\r\n"
    client.send(BODY)
    web.calls[0].sink.respond(OK)
    reply = client.reply
    assert (reply.interim, reply.status, reply.ending) == ([100], 200, "whole")


LOCKED = AuthSettings(Secret("door"), False, None, False, False)


@pytest.mark.parametrize(
    ("method", "target", "status"),
    [(b"POST", b"/v1/messages", 401), (b"POST", b"/v1/complete", 404), (b"PUT", b"/v1/messages", 405)],
)
def test_a_refusal_comes_instead_of_100_continue(method: bytes, target: bytes, status: int) -> None:
    web = Web(auth=LOCKED)
    client = web.connect()
    client.send(head(method, target, b"Content-Length: 10", b"Expect: 100-continue"))
    [reply] = client.replies(method)
    assert (reply.status, reply.interim, reply.header(b"connection")) == (status, [], b"close")


def test_a_declared_length_above_the_limit_is_413_instead_of_100_continue() -> None:
    web = Web(max_body_bytes=100)
    client = web.connect()
    client.send(head(b"POST", b"/v1/messages", b"Content-Length: 101", b"Expect: 100-continue"))
    assert (client.reply.status, client.reply.interim, client.reply.error) == (413, [], "request_too_large")
    assert web.calls == []


@pytest.mark.parametrize(("limit", "size", "taken"), [(100, 100, True), (100, 101, False), (0, 101, True)])
def test_the_limit_of_a_body_is_its_last_allowed_byte_and_0_is_none(limit: int, size: int, taken: bool) -> None:
    web = Web(max_body_bytes=limit)
    web.connect().send(head(b"POST", b"/v1/messages", b"Content-Length: %d" % size))
    assert bool(web.calls) is taken


def test_a_chunked_body_is_413_with_the_byte_that_passes_the_limit() -> None:
    web = Web(respond_when_complete, max_body_bytes=100)
    client = web.connect()
    client.send(chunked(b'{"a":"' + b"x" * 94))
    assert client.received == b""
    client.send(b"1\r\nx\r\n")
    reply = client.reply
    assert (reply.status, reply.error, reply.header(b"connection")) == (413, "request_too_large", b"close")
    assert web.settled


def test_broken_chunks_are_400_and_what_follows_is_not_a_request() -> None:
    web = Web(respond_when_complete)
    client = web.connect()
    client.send(chunked(b'{"a":') + b"nonsense\r\n" + HEALTH)
    client.send(HEALTH)
    [reply] = client.replies(b"POST", b"GET")
    assert (reply.status, reply.header(b"connection")) == (400, b"close")
    assert web.settled


def test_a_broken_body_of_a_call_that_nobody_answers_is_answered_here() -> None:
    web = Web()
    client = web.connect()
    client.send(chunked(b'{"a":') + b"nonsense\r\n")
    assert (client.reply.status, client.reply.error) == (400, "invalid_request_error")


def unfinished(web: Web) -> Client:
    """A client whose call is answered while it uploads."""
    client = web.connect()
    client.send(head(b"POST", b"/v1/messages", b"Content-Length: %d" % (2 * DISCARD_BYTES)) + b'{"model":')
    web.calls[-1].sink.respond(OK)
    return client


def test_an_early_answer_says_close_and_the_rest_of_the_upload_is_read_for_a_while() -> None:
    web = Web(max_body_bytes=0)
    client = unfinished(web)
    assert (client.reply.header(b"connection"), client.reply.body) == (b"close", OK.body)
    assert web.settled
    for _ in range(100):
        client.send(b"x" * 1000)
    assert web.calls[0].call.body.received == len(b'{"model":')
    assert web.site.budget.held == 0
    web.clock.advance(DISCARD_SECONDS - 0.1)
    assert client.end is None
    web.clock.advance(0.1)
    web.clock.advance(0)
    assert client.end == "closed"
    assert web.ended(client)


def test_an_unwanted_upload_is_not_read_without_bound() -> None:
    web = Web(max_body_bytes=0)
    client = unfinished(web)
    piece = b"x" * (1 << 20)
    for _ in range(DISCARD_BYTES // len(piece)):
        client.send(piece)
    assert not client.closing
    client.send(b"x")
    client.turn()
    assert client.end == "aborted"
    assert web.ended(client)


def test_an_upload_that_ends_during_an_early_answer_lets_the_connection_live() -> None:
    web = Web()
    client = web.connect()
    client.send(post()[:-5])
    sink = web.calls[0].sink
    sink.begin(200, ())
    sink.write(b"event")
    client.send(BODY[-5:])
    sink.finish()
    client.send(HEALTH)
    assert [reply.ending for reply in client.replies(b"POST", b"GET")] == ["whole", "whole"]


# -- order


def test_pipelined_requests_are_answered_in_order() -> None:
    web = Web()
    client = web.connect()
    client.send(post(b'{"n":1}') + post(b'{"n":2}', b"X-Request-ID: second") + HEALTH)
    assert [served.call.body.received for served in web.calls] == [7]
    assert client.received == b""
    web.calls[0].sink.respond(Answer(200, (), b"one"))
    assert len(web.calls) == 2
    web.calls[1].sink.begin(200, ())
    web.calls[1].sink.write(b"two")
    web.calls[1].sink.finish()
    replies = client.replies(b"POST", b"POST", b"GET")
    assert [reply.body for reply in replies] == [b"one", b"two", b'{"status":"ok"}']
    assert replies[1].header(b"x-request-id") == b"second"


def test_a_thousand_requests_in_one_packet_are_all_answered() -> None:
    web = Web(respond_when_complete)
    client = web.connect()
    client.send((HEALTH + post(b"[]") + post()) * 333)
    replies = client.replies(*[b"GET", b"POST", b"POST"] * 333)
    assert [reply.status for reply in replies] == [200, 400, 200] * 333
    assert web.settled


def test_requests_that_wait_for_an_answer_are_answered_in_one_go_after_it() -> None:
    web = Web()
    client = web.connect()
    client.send(post() + HEALTH * 500)
    web.calls[0].sink.respond(OK)
    assert len(client.replies(b"POST", *[b"GET"] * 500)) == 501


def test_what_is_read_ahead_is_bounded_and_read_on_after_the_answer() -> None:
    web = Web()
    client = web.connect()
    client.send(post())
    sent = 0
    while client.reading:
        client.send(HEALTH * 100)
        sent += 100
    assert len(HEALTH) * sent <= PIPELINED_BYTES + len(HEALTH) * 100
    client.send(HEALTH * 100)
    web.calls[0].sink.respond(OK)
    client.turn()
    assert client.reading
    assert len(client.replies(b"POST", *[b"GET"] * (sent + 100))) == 1 + sent + 100


def test_answers_that_the_client_does_not_read_do_not_pile_up() -> None:
    web = Web()
    client = web.connect()
    client.slow = True
    requests = 0
    while client.reading:
        client.send(HEALTH * 50)
        requests += 50
        assert requests < 10_000
    waiting = len(client.unsent)
    client.send(HEALTH * 1000)
    assert len(client.unsent) == waiting < client.buffer_size * 2
    client.read()
    client.turn()
    assert len(client.replies(*[b"GET"] * (requests + 1000))) == requests + 1000


# -- versions and methods


def test_http_1_0_gets_whole_answers_with_a_length_and_is_closed() -> None:
    web = Web()
    client = web.connect()
    client.send(b"GET /health HTTP/1.0\r\n\r\n")
    client.turn()
    assert (client.reply.header(b"content-length"), client.reply.header(b"connection")) == (b"15", b"close")
    assert client.end == "closed"


def test_http_1_0_keep_alive_is_kept() -> None:
    web = Web()
    client = web.connect()
    for _ in range(2):
        client.send(b"GET /health HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
    assert len(client.replies(b"GET", b"GET")) == 2


def test_http_1_0_streams_end_with_the_connection_and_have_no_chunks() -> None:
    web = Web()
    client = web.connect()
    client.send(b"POST /v1/messages HTTP/1.0\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\n{}")
    sink = web.calls[0].sink
    sink.begin(200, ())
    sink.write(b"one ")
    sink.write(b"two")
    sink.finish()
    client.turn()
    assert client.end == "closed"
    assert (client.reply.body, client.reply.header(b"transfer-encoding")) == (b"one two", None)
    assert client.reply.header(b"connection") == b"close"


def test_a_cut_http_1_0_stream_is_reset_as_a_close_would_end_it() -> None:
    web = Web()
    client = web.connect()
    client.send(b"POST /v1/messages HTTP/1.0\r\nContent-Length: 2\r\n\r\n{}")
    sink = web.calls[0].sink
    sink.begin(200, ())
    sink.write(b"half")
    sink.abort()
    client.turn()
    assert client.end == "aborted"
    assert web.ended(client)


def test_head_gets_the_head_that_get_would_get() -> None:
    web = Web()
    client = web.connect()
    client.send(get(b"/health", method=b"HEAD") + HEALTH)
    without, with_body = client.replies(b"HEAD", b"GET")
    assert (without.header(b"content-length"), without.body) == (b"15", b"")
    assert with_body.json == {"status": "ok"}


def test_a_refused_head_has_no_body_either() -> None:
    web = Web()
    client = web.connect()
    client.send(get(b"/nothing", method=b"HEAD") + HEALTH)
    assert [reply.status for reply in client.replies(b"HEAD", b"GET")] == [404, 200]


def test_connection_close_is_obeyed_and_said() -> None:
    web = Web()
    client = web.connect()
    client.send(get(b"/health", b"Connection: close") + HEALTH)
    client.turn()
    assert client.end == "closed"
    [reply] = client.replies(b"GET", b"GET")
    assert reply.header(b"connection") == b"close"
    assert web.ended(client)


def test_alpn_offers_only_what_is_spoken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "H2_ENABLED", True)
    assert Web().site.acceptableProtocols() == [b"http/1.1"]


# -- sockets


def test_tcp_options_are_set_on_tcp_and_not_asked_of_a_unix_socket() -> None:
    web = Web()
    assert web.connect().options == ["nodelay=True", "keepalive=True"]
    client = web.connect(host=UNIXAddress("/run/relay.sock"), peer=UNIXAddress(None))
    assert client.options == []
    client.send(post())
    assert web.calls[0].call.peer == "unix"


# -- bugs


def boom(_: Any) -> None:
    raise RuntimeError("a bug")


class BugsTests(SynchronousTestCase):
    """In trial's TestCase: a logged failure that nobody flushes fails the test."""

    def test_a_bug_before_the_answer_is_a_logged_500(self) -> None:
        web = Web(boom)
        client = web.connect()
        client.send(post(b"") + HEALTH)
        broken, fine = client.replies(b"POST", b"GET")
        self.assertEqual((broken.status, broken.error, fine.status), (500, "api_error", 200))
        self.assertNotIn(b"bug", broken.body)
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)
        self.assertTrue(web.settled)

    def test_a_bug_after_the_answer_began_resets_the_connection(self) -> None:
        def begin_and_fail(served: Served) -> None:
            served.sink.begin(200, ())
            served.sink.write(b"event")
            raise RuntimeError("a bug")

        web = Web(begin_and_fail)
        client = web.connect()
        client.send(post())
        client.turn()
        self.assertEqual((client.end, client.reply.ending), ("aborted", "broken"))
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)
        self.assertTrue(web.ended(client))

    def test_the_log_names_the_request(self) -> None:
        seen = EventLoggingObserver.createWithCleanup(self, globalLogPublisher)
        Web(boom).connect().send(post(BODY, b"X-Request-ID: mine"))
        self.flushLoggedErrors(RuntimeError)
        self.assertEqual([event["id"] for event in seen if "log_failure" in event], ["mine"])
