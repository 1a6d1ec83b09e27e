"""The budget for bodies in memory, wired to sockets: who waits, who does not, and that all is given back."""

from __future__ import annotations

from .web_rig import BODY_STALL, OK, Client, Web, chunked, get, head, post, respond_when_complete

LIMIT = 1000
START = b'{"model":"m","a":"'


def upload(web: Web, first: bytes, length: int = 5000) -> Client:
    """A client that has sent the beginning of a body."""
    client = web.connect()
    client.send(head(b"POST", b"/v1/messages", b"Content-Length: %d" % length) + first)
    return client


def test_above_the_budget_the_later_upload_waits_until_the_earlier_call_is_over() -> None:
    web = Web(max_inflight_body_bytes=LIMIT)
    first = upload(web, START + b"x" * 800)
    second = upload(web, START + b"x" * 800)
    assert (first.reading, second.reading) == (True, False)
    second.send(b"y" * 100)
    web.clock.advance(0)
    assert web.calls[1].call.body.received == 818
    first.send(b"x" * (5000 - 818 - 2) + b'"}')
    assert web.calls[0].call.body.complete
    assert not second.reading
    web.calls[0].sink.respond(OK)
    assert second.reading
    web.clock.advance(0)
    assert web.calls[1].call.body.received == 918
    assert web.site.budget.held == 918
    second.leave()
    assert web.settled


def test_who_waits_for_room_is_not_taken_for_stalled() -> None:
    web = Web(max_inflight_body_bytes=LIMIT)
    first = upload(web, START + b"x" * 800)
    second = upload(web, START + b"x" * 800)
    for _ in range(4):
        web.clock.advance(BODY_STALL - 1)
        first.send(b"x" * 1024)
    assert second.received == b""
    web.calls[0].sink.respond(OK)
    web.clock.advance(BODY_STALL - 1)
    assert second.received == b""
    web.clock.advance(1)
    assert second.reply.status == 408


def test_a_client_paused_with_its_last_bytes_is_read_on_so_that_it_can_be_seen_to_leave() -> None:
    web = Web(max_inflight_body_bytes=LIMIT)
    first = upload(web, START + b"x" * 800)
    second = web.connect()
    second.send(post(START + b"x" * 800 + b'"}'))
    assert web.calls[1].call.body.complete
    assert second.reading
    first.leave()
    second.leave()
    assert web.settled


def test_bytes_that_are_released_during_the_answer_make_room() -> None:
    web = Web(max_inflight_body_bytes=LIMIT)
    first = web.connect()
    first.send(post(START + b"x" * 800 + b'"}'))
    second = upload(web, START + b"x" * 800)
    assert not second.reading
    web.calls[0].sink.begin(200, ())
    web.calls[0].call.body.release()
    assert second.reading
    assert web.site.budget.held == 818


def test_what_arrives_of_a_released_body_is_not_counted() -> None:
    web = Web(max_inflight_body_bytes=LIMIT)
    client = upload(web, b'{"a":"')
    web.calls[0].call.body.release()
    client.send(b"x" * 800)
    assert web.site.budget.held == 0
    client.leave()
    assert web.settled


def test_a_client_that_leaves_makes_room() -> None:
    web = Web(max_inflight_body_bytes=LIMIT)
    first = upload(web, START + b"x" * 800)
    second = upload(web, START + b"x" * 800)
    first.leave()
    assert second.reading
    assert web.site.budget.held == 818


def test_a_body_that_is_complete_keeps_its_client_in_sight() -> None:
    """Reading is what shows that a client has left, and a complete body adds nothing."""
    web = Web(max_inflight_body_bytes=LIMIT)
    upload(web, START + b"x" * 800)
    second = web.connect()
    second.send(post(START + b"x" * 800 + b'"}'))
    assert web.calls[1].call.body.complete
    assert second.reading
    second.leave()
    assert len(web.calls[1].gone) == 1


def test_a_budget_of_0_holds_nobody_up() -> None:
    web = Web(max_inflight_body_bytes=0)
    clients = [upload(web, b'{"a":"' + b"x" * 100_000, 200_000) for _ in range(5)]
    assert all(client.reading for client in clients)


def test_unfit_bodies_take_nothing_of_the_budget_with_them() -> None:
    """What makes a body unfit may be in the very bytes that are being counted."""
    web = Web(respond_when_complete, max_inflight_body_bytes=LIMIT, max_body_bytes=500)
    unfit = [
        post(b"[" + b"1," * 200),
        post(b'{"model":1,"model":2}'),
        post(b'{"model":"m"} trailing'),
        post(b""),
        chunked(b'{"a":"' + b"x" * 600),
        chunked(b'{"a":') + b"nonsense\r\n",
        chunked(b"\xff\xfe") + b"0\r\n\r\n",
    ]
    for wire in unfit:
        for size in (1, len(wire)):
            client = web.connect()
            for at in range(0, len(wire), size):
                client.send(wire[at : at + size])
            assert client.reply.status in (400, 413)
            assert web.settled
    held = web.connect()
    held.send(post(START + b"x" * 400 + b'"}'))
    assert held.reply.status == 200


def test_room_goes_to_the_next_request_on_the_same_connection() -> None:
    web = Web(respond_when_complete, max_inflight_body_bytes=LIMIT)
    client = web.connect()
    client.send(post(START + b"x" * 2000 + b'"}') * 3 + get(b"/health"))
    assert [reply.status for reply in client.replies(b"POST", b"POST", b"POST", b"GET")] == [200] * 4
    assert web.settled
