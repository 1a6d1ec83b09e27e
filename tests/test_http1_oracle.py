"""h11 as the independent reader: what both read is the same, and what we accept h11 accepts.

Where we mean to differ:
- we refuse what h11 forgives: obs-fold, control characters in values, bare LF in requests, both lengths at once, a
  repeated length in a request, a fragment in the target, blanks before a chunk extension's semicolon;
- we skip empty lines before a request, reduce absolute targets, keep HTTP/1.0 connections alive when asked to, ignore
  Expect without a body, and take 101 for a final answer; h11 does not. The tests below step around these.
"""

from __future__ import annotations

from dataclasses import dataclass

import h11
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from ccrelay.core.http1 import (
    Framing,
    HttpViolation,
    RequestHead,
    RequestHeadParser,
    ResponseHead,
    ResponseHeadParser,
    body_decoder,
    encode_chunk,
)

untimed = settings(deadline=None)  # how fast the machine is says nothing about the code
thorough = settings(deadline=None, max_examples=300)  # most mutations are refused and prove nothing

Pairs = list[tuple[bytes, bytes]]


@dataclass(frozen=True)
class Message:
    """What a reader made of some bytes.

    rest: what follows the message, None if that could not be known yet. waiting: for 100 Continue.
    """

    start: tuple[object, ...]
    headers: Pairs
    body: bytes
    complete: bool
    rest: bytes | None
    keep_alive: bool
    waiting: bool = False


def read_by_us(parser: RequestHeadParser | ResponseHeadParser, wire: bytes) -> Message | None:
    """None: refused, or the head is not complete."""
    try:
        head = parser.receive_data(wire)
        if head is None:
            return None
        decoder = body_decoder(head.framing)
        body = decoder.receive_data(parser.trailing)
        if head.framing == Framing(None, False):
            decoder.receive_eof()
    except HttpViolation:
        return None
    start: tuple[object, ...]
    if isinstance(head, RequestHead):
        start = (head.method, head.target, head.version)
    else:
        assert isinstance(head, ResponseHead)
        start = (head.status, head.reason, head.version)
    rest = decoder.trailing if decoder.done else None
    waiting = isinstance(head, RequestHead) and head.expects_continue
    return Message(start, list(head.headers), body, decoder.done, rest, head.keep_alive, waiting)


def read_by_h11(connection: h11.Connection, wire: bytes, *, eof: bool) -> Message:
    """Raises h11.RemoteProtocolError where h11 refuses."""
    connection.receive_data(wire)
    head = connection.next_event()
    while isinstance(head, h11.InformationalResponse):
        head = connection.next_event()
    start: tuple[object, ...]
    if isinstance(head, h11.Request):
        start = (head.method, head.target, head.http_version)
    else:
        assert isinstance(head, h11.Response)
        start = (head.status_code, head.reason, head.http_version)
    body = b""
    waiting = connection.they_are_waiting_for_100_continue
    event = connection.next_event()
    while isinstance(event, h11.Data):
        body += bytes(event.data)
        event = connection.next_event()
    if eof and event is h11.NEED_DATA:
        connection.receive_data(b"")
        event = connection.next_event()
        while isinstance(event, h11.Data):
            body += bytes(event.data)
            event = connection.next_event()
    complete = isinstance(event, h11.EndOfMessage)
    rest = connection.trailing_data[0] if complete else None
    keep_alive = connection.their_state is not h11.MUST_CLOSE
    return Message(start, list(head.headers), body, complete, rest, keep_alive, waiting)


def h11_client(method: bytes) -> h11.Connection:
    connection = h11.Connection(h11.CLIENT)
    connection.send(h11.Request(method=method, target="/", headers=[("Host", "a")]))
    connection.send(h11.EndOfMessage())
    return connection


def as_h11_shows(headers: Pairs) -> Pairs:
    """h11 lowers the coding, and shows one Content-Length where several agree."""
    shown: Pairs = []
    for name, value in headers:
        if name == b"transfer-encoding":
            value = value.lower()
        elif name == b"content-length":
            value = value.split(b",")[0].strip(b" \t")
            if (name, value) in shown:
                continue
        shown.append((name, value))
    return shown


def assert_h11_reads_the_same(ours: Message, connection: h11.Connection, wire: bytes, *, eof: bool) -> None:
    theirs = read_by_h11(connection, wire, eof=eof)
    assert ours.start == theirs.start
    assert as_h11_shows(ours.headers) == theirs.headers
    assert (ours.body, ours.complete, ours.rest) == (theirs.body, theirs.complete, theirs.rest)
    if ours.body:
        assert ours.waiting is theirs.waiting
    if ours.complete and ours.keep_alive and ours.start[2] == b"1.1":
        assert theirs.keep_alive


# -- messages in good order

TOKENS = st.from_regex(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,12}", fullmatch=True)
TEXTS = st.from_regex(rb"(?:[!-~\x80-\xff](?:[ \t!-~\x80-\xff]{0,12}[!-~\x80-\xff])?)?", fullmatch=True)
BLANKS = st.sampled_from([b"", b" ", b"\t", b"  \t"])
STEERING = {b"host", b"content-length", b"transfer-encoding", b"connection", b"expect", b"upgrade"}
FIELDS = st.lists(
    st.tuples(TOKENS.filter(lambda name: name.lower() not in STEERING), BLANKS, TEXTS, BLANKS), max_size=6
)
BODIES = st.lists(st.binary(min_size=1, max_size=30), max_size=4)


@st.composite
def framed(draw: st.DrawFn, start: bytes, more: Pairs) -> tuple[bytes, Pairs, bytes]:
    """The bytes of a message, its headers as they must be read, and its body."""
    pieces = draw(BODIES)
    body = b"".join(pieces)
    fields = draw(FIELDS)
    framing = draw(st.sampled_from([b"Content-Length", b"transfer-ENCODING"]))
    value = b"%d" % len(body) if framing == b"Content-Length" else draw(st.sampled_from([b"chunked", b"Chunked"]))
    fields += [(framing, b" ", value, b""), *[(name, b" ", text, b"") for name, text in more]]
    fields = draw(st.permutations(fields))
    head = start + b"\r\n" + b"".join(b"".join([n, b":", left, v, right, b"\r\n"]) for n, left, v, right in fields)
    wire = body if framing == b"Content-Length" else b"".join(map(encode_chunk, pieces)) + b"0\r\n\r\n"
    return head + b"\r\n" + wire, [(name.lower(), text) for name, _, text, _ in fields], body


@untimed
@given(st.data(), TOKENS, st.from_regex(rb"/[!\"$-~]{0,20}", fullmatch=True), st.sampled_from([b"", b"next"]))
def test_requests_in_good_order_read_as_meant_and_as_h11_reads_them(
    data: st.DataObject, method: bytes, target: bytes, rest: bytes
) -> None:
    assume(method != b"CONNECT")  # h11 waits for a tunnel
    close = data.draw(st.sampled_from([[], [(b"Connection", b"Close")], [(b"Expect", b"100-continue")]]))
    start = method + b" " + target + b" HTTP/1.1"
    wire, headers, body = data.draw(framed(start, [(b"Host", b"relay:1"), *close]))
    wire += rest
    ours = read_by_us(RequestHeadParser(), wire)
    assert ours is not None
    assert (ours.start[:3], ours.headers, ours.body) == ((method, target, b"1.1"), headers, body)
    assert (ours.complete, ours.rest, ours.keep_alive) == (True, rest, (b"connection", b"Close") not in headers)
    theirs = read_by_h11(h11.Connection(h11.SERVER), wire, eof=False)
    assert (theirs.headers, theirs.body, theirs.rest) == (as_h11_shows(headers), body, rest)
    assert theirs.keep_alive is ours.keep_alive


@untimed
@given(st.data(), st.integers(200, 999).filter(lambda status: status not in (204, 304)), TEXTS)
def test_responses_in_good_order_read_as_meant_and_as_h11_reads_them(
    data: st.DataObject, status: int, reason: bytes
) -> None:
    wire, headers, body = data.draw(framed(b"HTTP/1.1 %d %b" % (status, reason), []))
    ours = read_by_us(ResponseHeadParser(b"POST"), wire)
    assert ours == Message((status, reason, b"1.1"), headers, body, True, b"", True)
    assert_h11_reads_the_same(ours, h11_client(b"POST"), wire, eof=False)


# -- mutations of them

REQUESTS = [
    b"POST /v1/messages?beta=true HTTP/1.1\r\nHost: a\r\nX-Api-Key: k\r\nContent-Length: 5\r\n\r\nhello",
    b"PUT / HTTP/1.1\r\nhost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n4;x=y\r\n0123\r\n0\r\nT: v\r\n\r\n",
    b"GET /x HTTP/1.0\r\nConnection: close\r\n\r\nGET /y HTTP/1.1\r\nHost: b\r\n\r\n",
    b"PUT /x HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\nConnection: close\r\n\r\n",
]
RESPONSES = [
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX: y\r\n\r\nhello",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nA \r\n0123456789\r\n0\r\nT: v\r\n\r\n",
    b"HTTP/1.1 103 Hints\r\nLink: l\r\n\r\nHTTP/1.1 529 \r\nContent-Length: 2\r\nContent-Length: 2, 2\r\n\r\n{}",
    b"HTTP/1.0 200 OK\nX: y\n\nuntil the end",
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n",
]
FRAGMENTS = [
    *(
        b"\r\n",
        b"\n",
        b"\r",
        b" ",
        b"\t",
        b":",
        b";",
        b",",
        b"\x00",
        b"\x0b",
        b"\xff",
        b"0",
        b"5",
        b"a",
        b"F",
        b"-",
        b"_",
    ),
    *(
        b"Content-Length: 5\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Host: a\r\n",
        b"Connection: close\r\n",
        b"X: y\r\n",
    ),
    *(
        b"chunked",
        b"identity",
        b"HTTP/1.1",
        b"HTTP/1.0",
        b"0\r\n\r\n",
        b"1\r\nx\r\n",
        b"*",
        b"/",
        b"Expect: 100-continue\r\n",
    ),
]


@st.composite
def mutated(draw: st.DrawFn, originals: list[bytes]) -> bytes:
    wire = draw(st.sampled_from(originals))
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(wire)))
        removed = draw(st.integers(0, 3))
        wire = wire[:start] + draw(st.sampled_from(FRAGMENTS) | st.just(b"")) + wire[start + removed :]
    return wire


@thorough
@given(mutated(REQUESTS))
def test_whatever_request_we_accept_h11_reads_the_same(wire: bytes) -> None:
    assume(not wire.startswith(b"\r\n"))
    ours = read_by_us(RequestHeadParser(), wire)
    if ours is not None and ours.start[0] != b"CONNECT":
        assert_h11_reads_the_same(ours, h11.Connection(h11.SERVER), wire, eof=False)


@thorough
@given(mutated(RESPONSES), st.sampled_from([b"GET", b"HEAD"]))
@example(RESPONSES[2], b"GET")
@example(RESPONSES[3], b"GET")
@example(RESPONSES[4], b"GET")
def test_whatever_response_we_accept_h11_reads_the_same(wire: bytes, method: bytes) -> None:
    ours = read_by_us(ResponseHeadParser(method), wire)
    if ours is not None and ours.start[0] != 101:
        until_close = ours.rest == b"" and ours.complete and not ours.keep_alive
        assert_h11_reads_the_same(ours, h11_client(method), wire, eof=until_close)
