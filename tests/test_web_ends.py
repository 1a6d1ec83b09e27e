"""How a client's connection ends: deadlines, clients that leave, stall or do not read, cuts, draining."""

from __future__ import annotations

import pytest
from twisted.internet.interfaces import IPushProducer
from zope.interface.verify import verifyObject

from ccrelay.errors import ClientError
from ccrelay.web.channel import DISCARD_SECONDS, KEEP_ALIVE_SECONDS, RelayChannel

from .fakes import FakeTransport
from .web_rig import BODY, BODY_STALL, HEADER, HEALTH, OK, WRITE_STALL, Client, Served, Web, head, post, respond

# -- deadlines


def test_a_head_that_trickles_is_answered_408_at_its_absolute_deadline() -> None:
    web = Web()
    client = web.connect()
    web.clock.advance(3)
    for byte in head(b"POST", b"/v1/messages", b"X-Slow: " + b"x" * 100)[: int(HEADER)]:
        assert client.received == b""
        client.send(bytes([byte]))
        web.clock.advance(1)
    reply = client.reply
    assert (reply.status, reply.header(b"connection")) == (408, b"close")
    assert reply.error == "invalid_request_error"
    web.clock.advance(DISCARD_SECONDS)
    web.clock.advance(0)
    assert client.end == "closed"
    assert web.ended(client)


def test_a_connection_on_which_nothing_comes_is_closed_without_a_word() -> None:
    web = Web()
    client = web.connect()
    web.clock.advance(HEADER)
    web.clock.advance(0)
    assert (client.end, client.received) == ("closed", b"")
    assert web.ended(client)


def test_a_request_that_came_in_time_is_served_though_the_reactor_was_busy_beyond_the_deadline() -> None:
    web = Web()
    client = web.connect()
    web.clock.callLater(HEADER, client.send, HEALTH)
    web.clock.advance(HEADER)
    assert client.reply.status == 200
    web.clock.callLater(KEEP_ALIVE_SECONDS, client.send, HEALTH)
    web.clock.advance(KEEP_ALIVE_SECONDS)
    assert client.end is None


def test_empty_lines_before_a_request_do_not_hold_a_connection_for_ever() -> None:
    web = Web()
    client = web.connect()
    for _ in range(20):
        client.send(b"\r\n")
        web.clock.advance(HEADER - 1)
    assert client.end is not None


def test_an_idle_connection_is_kept_between_requests_and_closed_in_the_end() -> None:
    web = Web()
    client = web.connect()
    client.send(HEALTH)
    web.clock.advance(KEEP_ALIVE_SECONDS - 1)
    client.send(HEALTH)
    web.clock.advance(KEEP_ALIVE_SECONDS - 1)
    assert client.end is None
    web.clock.advance(1)
    web.clock.advance(0)
    assert client.end == "closed"
    assert len(client.replies(b"GET", b"GET")) == 2
    assert web.ended(client)


# -- bodies that stop


def stalled(client: Client) -> bool:
    return client.received.startswith(b"HTTP/1.1 408 ")


def test_a_body_that_stops_is_answered_408_and_the_relay_told() -> None:
    web = Web()
    client = web.connect()
    client.send(post()[:-1])
    [served] = web.calls
    web.clock.advance(BODY_STALL - 0.1)
    assert served.call.body.error is None
    web.clock.advance(0.1)
    assert isinstance(served.call.body.error, ClientError)
    assert served.call.body.error.status == 408
    assert (client.reply.status, client.reply.header(b"connection")) == (408, b"close")
    assert web.settled


def test_a_kibibyte_in_each_window_is_progress_and_less_is_none() -> None:
    web = Web()
    steady, trickling = web.connect(), web.connect()
    for client in (steady, trickling):
        client.send(head(b"POST", b"/v1/messages", b"Content-Length: 1000000") + b'{"a":"' + b"x" * 2000)
    for _ in range(10):
        web.clock.advance(BODY_STALL - 1)
        steady.send(b"x" * 1024)
        if not stalled(trickling):
            trickling.send(b"x" * 100)
    assert stalled(trickling)
    assert not stalled(steady)


def test_many_small_pieces_add_up_to_progress() -> None:
    web = Web()
    client = web.connect()
    client.send(head(b"POST", b"/v1/messages", b"Content-Length: 1000000") + b'{"a":"')
    for _ in range(300):
        web.clock.advance(1)
        client.send(b"x" * 64)
    assert not stalled(client)


def test_a_body_that_has_come_is_no_longer_timed() -> None:
    web = Web()
    client = web.connect()
    client.send(post())
    web.clock.advance(BODY_STALL * 10)
    assert client.received == b""
    web.calls[0].sink.respond(OK)
    assert client.reply.status == 200


def test_a_body_that_stops_under_a_streamed_answer_cuts_it() -> None:
    web = Web()
    client = web.connect()
    client.send(post()[:-1])
    sink = web.calls[0].sink
    web.calls[0].call.body.watch(sink.abort)
    sink.begin(200, ())
    sink.write(b"event")
    web.clock.advance(BODY_STALL)
    web.clock.advance(0)
    assert (client.end, client.reply.body, client.reply.ending) == ("closed", b"event", "broken")
    assert web.ended(client)


# -- clients that leave


def test_a_client_that_leaves_in_mid_head_leaves_nothing() -> None:
    web = Web()
    client = web.connect()
    client.send(b"POST /v1/mess")
    client.leave()
    assert web.ended(client)


@pytest.mark.parametrize("sent", [-len(BODY), -1, len(post())])
@pytest.mark.parametrize("begun", [False, True])
def test_a_client_that_leaves_is_told_in_the_same_turn_and_everything_given_back(sent: int, begun: bool) -> None:
    web = Web()
    client = web.connect()
    client.send(post(BODY)[:sent])
    [served] = web.calls
    if begun:
        served.sink.begin(200, ())
        served.sink.write(b"event")
    assert web.load == 1
    assert served.gone == []
    client.leave()
    assert len(served.gone) == 1
    assert served.sink.gone
    assert bool(served.call.body.error) is not served.call.body.complete
    assert web.ended(client)


def test_a_client_that_left_after_its_answer_is_not_told() -> None:
    web = Web(respond)
    client = web.connect()
    client.send(post())
    assert web.settled
    client.leave()
    assert web.calls[0].gone == []
    assert web.ended(client)


def test_a_client_that_leaves_with_requests_waiting_leaves_them_unserved() -> None:
    web = Web()
    client = web.connect()
    client.send(post() + post())
    client.leave()
    assert len(web.calls) == 1
    assert web.ended(client)


# -- back-pressure


def test_the_channel_is_a_push_producer() -> None:
    web = Web()
    channel = web.connect().protocol
    assert isinstance(channel, RelayChannel)
    verifyObject(IPushProducer, channel)


def streaming(web: Web) -> tuple[Client, Served, FakeTransport]:
    """A client that does not read, the call it made, and the producer behind it."""
    client = web.connect()
    client.send(post())
    served = web.calls[-1]
    upstream = FakeTransport()
    served.sink.begin(200, ())
    served.sink.attach(upstream)
    client.slow = True
    return client, served, upstream


def test_a_client_that_reads_slowly_pauses_the_producer_until_it_has_caught_up() -> None:
    web = Web()
    client, served, upstream = streaming(web)
    served.sink.write(b"x" * client.buffer_size)
    assert upstream.log == ["pause"]
    client.read()
    assert upstream.log == ["pause", "resume"]
    web.clock.advance(WRITE_STALL)
    assert client.end is None


def test_a_producer_attached_to_a_client_that_is_behind_is_paused_at_once() -> None:
    web = Web()
    client, served, _ = streaming(web)
    served.sink.write(b"x" * client.buffer_size)
    late = FakeTransport()
    served.sink.attach(late)
    assert late.log == ["pause"]


def test_a_finished_answer_lets_go_of_its_producer() -> None:
    web = Web()
    client, served, upstream = streaming(web)
    served.sink.write(b"x" * client.buffer_size)
    served.sink.finish()
    client.read()
    assert upstream.log == ["pause"]
    assert client.reply.ending == "whole"


def test_a_client_that_does_not_read_for_too_long_is_dropped() -> None:
    web = Web()
    client, served, upstream = streaming(web)
    served.sink.write(b"x" * client.buffer_size)
    web.clock.advance(WRITE_STALL - 0.1)
    assert client.end is None
    web.clock.advance(0.1)
    web.clock.advance(0)
    assert client.end == "aborted"
    assert len(served.gone) == 1
    assert upstream.log == ["pause"]
    assert web.ended(client)


def test_a_client_that_leaves_while_it_is_behind_leaves_nothing() -> None:
    web = Web()
    client, served, _ = streaming(web)
    served.sink.write(b"x" * client.buffer_size)
    client.leave()
    assert len(served.gone) == 1
    assert web.ended(client)


def test_a_client_that_is_behind_gets_all_of_a_cut_answer_before_the_close() -> None:
    web = Web()
    client, served, _ = streaming(web)
    served.sink.write(b"x" * client.buffer_size)
    served.sink.abort()
    client.read()
    client.turn()
    assert (client.end, len(client.reply.body)) == ("closed", client.buffer_size)
    assert web.ended(client)


def test_a_client_that_does_not_read_the_end_of_its_answer_is_dropped_too() -> None:
    web = Web()
    client, served, _ = streaming(web)
    served.sink.write(b"x")
    served.sink.abort()
    web.clock.advance(WRITE_STALL - 0.1)
    assert client.end is None
    web.clock.advance(0.1)
    web.clock.advance(0)
    assert client.end == "aborted"
    assert web.ended(client)


# -- cut and abort


def test_a_cut_flushes_what_was_written_and_closes_without_the_last_chunk() -> None:
    web = Web()
    client, served, _ = streaming(web)
    served.sink.write(b"event: one\n\n")
    served.sink.abort()
    client.turn()
    assert client.end is None
    client.read()
    client.turn()
    assert client.end == "closed"
    assert (client.reply.body, client.reply.ending) == (b"event: one\n\n", "broken")
    assert served.gone == []
    assert web.ended(client)


def test_a_cut_stream_takes_no_further_request() -> None:
    web = Web()
    client, served, _ = streaming(web)
    client.send(post())
    served.sink.abort()
    client.read()
    client.turn()
    assert len(web.calls) == 1
    assert web.ended(client)


def test_abort_resets_and_what_has_not_left_is_lost() -> None:
    web = Web()
    client, served, _ = streaming(web)
    served.sink.write(b"event: one\n\n")
    client.protocol.abort()
    client.turn()
    assert client.end == "aborted"
    assert (client.reply.body, len(served.gone)) == (b"", 1)
    assert web.ended(client)


# -- draining


def test_draining_closes_idle_connections_at_once_and_others_after_their_answer() -> None:
    web = Web()
    fresh, idle, busy, half = (web.connect() for _ in range(4))
    idle.send(HEALTH)
    busy.send(post())
    half.send(HEALTH[:10])
    web.site.drain()
    web.clock.advance(0)
    assert [client.end for client in (fresh, idle, busy, half)] == ["closed", "closed", None, None]
    web.calls[0].sink.respond(OK)
    half.send(HEALTH[10:])
    web.clock.advance(0)
    assert (busy.end, half.end) == ("closed", "closed")
    assert busy.reply.header(b"connection") == b"close"
    assert half.replies(b"GET")[0].json == {"status": "draining"}
    assert all(web.ended(client) for client in (fresh, idle, busy, half))


def test_close_idle_leaves_a_request_under_way_alone() -> None:
    web = Web()
    client = web.connect()
    client.send(post())
    client.protocol.close_idle()
    web.calls[0].sink.respond(OK)
    client.turn()
    assert (client.reply.ending, client.end) == ("whole", None)


def test_abort_all_resets_every_connection() -> None:
    web = Web()
    clients = [web.connect() for _ in range(3)]
    clients[0].send(post())
    web.site.abort_all()
    web.clock.advance(0)
    assert [client.end for client in clients] == ["aborted"] * 3
    assert len(web.calls[0].gone) == 1
