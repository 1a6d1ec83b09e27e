"""The response sink: its contract, what it puts on the wire, and that nothing raises once the client has left."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from zope.interface.verify import verifyObject

from ccrelay.core.model import Answer
from ccrelay.interfaces import IResponseSink

from .fakes import FakeTransport
from .web_rig import BODY, OK, Client, Served, Web, post

TYPE = (b"content-type", b"text/event-stream")


def called(*lines: bytes) -> tuple[Web, Client, Served]:
    """A client whose call is waiting for its answer."""
    web = Web()
    client = web.connect()
    client.send(post(BODY, *lines))
    return web, client, web.calls[0]


def test_it_is_a_response_sink() -> None:
    _, _, served = called()
    verifyObject(IResponseSink, served.sink)


def test_a_whole_answer_has_its_length_and_its_headers_in_order() -> None:
    _, client, served = called()
    served.sink.respond(Answer(529, ((b"content-type", b"application/json"), (b"Retry-After", b"3")), b"{}"))
    reply = client.reply
    assert (reply.status, reply.body, reply.ending) == (529, b"{}", "whole")
    names = [name for name, _ in reply.headers]
    assert names == [b"content-type", b"retry-after", b"x-request-id", b"date", b"content-length"]
    assert served.sink.committed


def test_a_streamed_answer_goes_out_piece_by_piece() -> None:
    _, client, served = called()
    sink = served.sink
    assert not sink.committed
    sink.begin(200, (TYPE,))
    assert sink.committed
    assert client.reply.all(b"content-type") == [b"text/event-stream"]
    for piece in (b"one\r\n", b"x" * 100_000, b"\0"):
        before = client.reply.body
        sink.write(piece)
        assert client.reply.body == before + piece
    assert client.reply.ending == "unfinished"
    sink.finish()
    assert client.reply.ending == "whole"


def test_writing_nothing_does_not_end_the_answer() -> None:
    _, client, served = called()
    served.sink.begin(200, ())
    served.sink.write(b"")
    served.sink.write(b"more")
    assert (client.reply.body, client.reply.ending) == (b"more", "unfinished")


def test_it_counts_body_bytes_and_no_framing() -> None:
    _, _, served = called()
    served.sink.begin(200, ())
    served.sink.write(b"12345")
    served.sink.write(b"678")
    assert served.sink.bytes_out == 8


def test_the_bytes_of_a_whole_answer_count_too() -> None:
    _, _, served = called()
    served.sink.respond(OK)
    assert served.sink.bytes_out == len(OK.body)


@pytest.mark.parametrize("line", [(b"x", b"a\r\nb: c"), (b"x", b"a\0"), (b"x y", b"a"), (b"", b"a")])
@pytest.mark.parametrize(
    "answer",
    [lambda sink, line: sink.respond(Answer(200, (line,), b"")), lambda sink, line: sink.begin(200, (line,))],
    ids=["whole", "streamed"],
)
def test_a_header_that_could_split_the_answer_is_refused_before_a_byte_is_written(
    line: tuple[bytes, bytes], answer: Callable[[Any, tuple[bytes, bytes]], None]
) -> None:
    web, client, served = called()
    with pytest.raises(ValueError, match=r"header|value"):
        answer(served.sink, line)
    assert client.received == b""
    served.sink.abort()
    client.turn()
    assert client.end is not None
    assert client.received == b""
    assert web.ended(client)


# -- leaving


def test_nothing_raises_and_nothing_is_written_once_the_client_has_left() -> None:
    upstream = FakeTransport()
    steps = [
        lambda sink: sink.respond(OK),
        lambda sink: sink.begin(200, ()),
        lambda sink: sink.write(b"x"),
        lambda sink: sink.attach(upstream),
        lambda sink: sink.finish(),
        lambda sink: sink.abort(),
    ]
    for begun in (False, True):
        for step in steps:
            web, client, served = called()
            if begun:
                served.sink.begin(200, ())
            before = client.received
            client.leave()
            step(served.sink)
            client.turn()
            assert client.received == before
            assert web.ended(client)
    assert upstream.log == []


def test_an_answer_to_nobody_still_counts_as_committed() -> None:
    _, client, served = called()
    client.leave()
    served.sink.begin(200, ())
    assert served.sink.committed
    assert served.sink.bytes_out == 0


def test_only_the_last_registration_is_told_and_only_once() -> None:
    _, client, served = called()
    told: list[str] = []
    served.sink.when_gone(lambda: told.append("first"))
    served.sink.when_gone(lambda: told.append("second"))
    client.leave()
    assert told == ["second"]
    assert served.gone == []


def test_a_registration_can_be_removed() -> None:
    _, client, served = called()
    served.sink.when_gone(None)
    client.leave()
    assert served.gone == []


def test_who_registers_after_the_client_left_is_told_at_once() -> None:
    _, client, served = called()
    client.leave()
    told: list[bool] = []
    served.sink.when_gone(lambda: told.append(served.sink.gone))
    assert told == [True]


def test_who_is_told_may_use_the_sink() -> None:
    web, client, served = called()
    served.sink.when_gone(lambda: served.sink.respond(OK))
    client.leave()
    assert client.received == b""
    assert web.ended(client)


@pytest.mark.parametrize("how", ["respond", "finish", "abort"])
def test_nobody_is_told_after_the_answers_end(how: str) -> None:
    _, client, served = called()
    if how == "respond":
        served.sink.respond(OK)
    else:
        served.sink.begin(200, ())
        getattr(served.sink, how)()
    client.leave()
    assert served.gone == []
