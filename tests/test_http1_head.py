"""Request and response heads: every case whole, byte by byte, and with bytes behind it that must survive."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ccrelay.core import http1_head
from ccrelay.core.http1 import (
    CHUNKED,
    NO_BODY,
    UNTIL_CLOSE,
    Framing,
    HttpViolation,
    RequestHead,
    RequestHeadParser,
    ResponseHead,
    ResponseHeadParser,
)
from ccrelay.core.http1_framing import MAX_LENGTH_DIGITS
from ccrelay.core.http1_grammar import MAX_HEAD_BYTES, MAX_HEADERS
from ccrelay.core.http1_head import MAX_BLANK_LINES, MAX_INTERIM, MAX_TARGET_BYTES

untimed = settings(deadline=None)  # how fast the machine is says nothing about the code

HOST = b"Host: relay\r\n"


def get_parser() -> ResponseHeadParser:
    return ResponseHeadParser(b"GET")


def read_three_ways(make_parser: Any, wire: bytes) -> Any:
    """The head of ``wire``, which must be the same head however it arrives, and end with its last byte."""
    whole = make_parser()
    head = whole.receive_data(wire)
    assert head is not None
    assert whole.trailing == b""

    bytewise = make_parser()
    for position in range(len(wire) - 1):
        assert bytewise.receive_data(wire[position : position + 1]) is None
    assert bytewise.receive_data(wire[-1:]) == head
    assert bytewise.trailing == b""

    followed = make_parser()
    assert followed.receive_data(wire + b"\r\n\r\nGET /") == head
    assert followed.trailing == b"\r\n\r\nGET /"
    return head


def feed(parser: Any, pieces: Iterable[bytes]) -> None:
    for piece in pieces:
        assert parser.receive_data(piece) is None


def refusal(make_parser: Any, wire: bytes) -> HttpViolation:
    """Why ``wire`` is refused: with one status whole, byte by byte, and with bytes behind it, and once and for all."""
    violations = []
    for pieces in ([wire], [wire[at : at + 1] for at in range(len(wire))], [wire + b"GET / HTTP/1.1\r\n" + HOST]):
        parser = make_parser()
        with pytest.raises(HttpViolation) as caught:
            feed(parser, pieces)
        with pytest.raises(HttpViolation) as again:
            parser.receive_data(b"GET / HTTP/1.1\r\n" + HOST + b"\r\n")
        with pytest.raises(HttpViolation) as at_eof:
            parser.receive_eof()
        assert str(again.value) == str(at_eof.value) == str(caught.value)
        assert again.value.status == caught.value.status
        violations.append(caught.value)
    assert len({violation.status for violation in violations}) == 1
    return violations[0]


def request(*lines: bytes, start: bytes = b"GET / HTTP/1.1") -> bytes:
    return b"\r\n".join([start, *lines, b"", b""])


def read_request(*lines: bytes, start: bytes = b"GET / HTTP/1.1") -> RequestHead:
    head = read_three_ways(RequestHeadParser, request(*lines, start=start))
    assert isinstance(head, RequestHead)
    return head


def refused_request(*lines: bytes, start: bytes = b"GET / HTTP/1.1") -> HttpViolation:
    return refusal(RequestHeadParser, request(*lines, start=start))


def read_response(*lines: bytes, start: bytes = b"HTTP/1.1 200 OK", method: bytes = b"GET") -> ResponseHead:
    head = read_three_ways(lambda: ResponseHeadParser(method), request(*lines, start=start))
    assert isinstance(head, ResponseHead)
    return head


# -- requests


def test_request_is_read_with_names_lowered_values_stripped_and_order_kept() -> None:
    head = read_request(
        b"Host: relay:8787",
        b"X-Empty:",
        b"X-Api-Key:\t sk-1 with  blanks \t",
        b"anthropic-beta: a",
        b"Anthropic-Beta: b",
        b"X-Latin: \xe9\x80",
        b"Content-Length: 0012",
        start=b"POST /v1/messages?beta=true HTTP/1.1",
    )
    assert head == RequestHead(
        method=b"POST",
        target=b"/v1/messages?beta=true",
        version=b"1.1",
        headers=(
            (b"host", b"relay:8787"),
            (b"x-empty", b""),
            (b"x-api-key", b"sk-1 with  blanks"),
            (b"anthropic-beta", b"a"),
            (b"anthropic-beta", b"b"),
            (b"x-latin", b"\xe9\x80"),
            (b"content-length", b"0012"),
        ),
        framing=Framing(12, False),
        keep_alive=True,
        expects_continue=False,
    )


def test_empty_lines_before_a_request_are_skipped_up_to_a_bound() -> None:
    plain = read_three_ways(RequestHeadParser, request(b"Host: relay"))
    assert read_three_ways(RequestHeadParser, b"\r\n" * MAX_BLANK_LINES + request(b"Host: relay")) == plain
    assert refusal(RequestHeadParser, b"\r\n" * (MAX_BLANK_LINES + 1) + request(b"Host: relay")).status == 400


def test_empty_lines_do_not_count_as_the_beginning_of_a_request() -> None:
    parser = RequestHeadParser()
    assert parser.receive_data(b"\r\n\r\n") is None
    assert not parser.began
    parser.receive_eof()
    assert parser.receive_data(b"G") is None
    assert parser.began


@pytest.mark.parametrize(
    ("version", "connection", "keep_alive"),
    [
        (b"1.1", [], True),
        (b"1.1", [b"keep-alive"], True),
        (b"1.1", [b"close"], False),
        (b"1.1", [b"TE, Close ,x"], False),
        (b"1.1", [b"keep-alive", b"close"], False),
        (b"1.1", [b"not-close"], True),
        (b"1.0", [], False),
        (b"1.0", [b"Keep-Alive"], True),
        (b"1.0", [b"keep-alive, close"], False),
    ],
)
def test_connection_options_decide_whether_a_connection_lives_on(
    version: bytes, connection: list[bytes], keep_alive: bool
) -> None:
    lines = [b"Connection: " + value for value in connection]
    assert read_request(b"Host: a", *lines, start=b"GET / HTTP/" + version).keep_alive is keep_alive
    answer = read_response(b"Content-Length: 3", *lines, start=b"HTTP/" + version + b" 200 OK")
    assert answer.keep_alive is keep_alive


@pytest.mark.parametrize(
    ("lines", "version", "expects"),
    [
        ([b"Expect: 100-Continue", b"Content-Length: 5"], b"1.1", True),
        ([b"Expect: 100-continue", b"Transfer-Encoding: Chunked"], b"1.1", True),
        ([b"Expect: 100-continue"], b"1.1", False),
        ([b"Expect: 100-continue", b"Content-Length: 0"], b"1.1", False),
        ([b"Expect: 100-continue", b"Content-Length: 5"], b"1.0", False),
        ([b"Expect: else", b"Content-Length: 5"], b"1.1", False),
    ],
)
def test_a_client_waits_for_100_only_with_a_body_and_http_1_1(
    lines: list[bytes], version: bytes, expects: bool
) -> None:
    assert read_request(b"Host: a", *lines, start=b"POST / HTTP/" + version).expects_continue is expects


@pytest.mark.parametrize(
    ("start", "host", "target"),
    [
        (b"GET http://other:81/v1/models?limit=1 HTTP/1.1", b"other:81", b"/v1/models?limit=1"),
        (b"GET HTTPS://other HTTP/1.1", b"other", b"/"),
        (b"GET http://[::1]:8787?x=1 HTTP/1.1", b"[::1]:8787", b"/?x=1"),
        (b"OPTIONS * HTTP/1.1", b"relay", b"*"),
        (b"GET //two/slashes HTTP/1.1", b"relay", b"//two/slashes"),
    ],
)
def test_target_is_reduced_to_origin_form_and_its_authority_wins_over_host(
    start: bytes, host: bytes, target: bytes
) -> None:
    head = read_request(b"Host: relay", b"Accept: */*", start=start)
    assert head.target == target
    assert head.headers == ((b"host", host), (b"accept", b"*/*"))


def test_absolute_form_supplies_the_host_that_an_old_client_leaves_out() -> None:
    assert read_request(start=b"GET http://other/x HTTP/1.0").headers == ((b"host", b"other"),)


@pytest.mark.parametrize(
    "start",
    [
        b"GET relative HTTP/1.1",
        b"GET * HTTP/1.1",
        b"CONNECT relay:443 HTTP/1.1",
        b"GET ftp://relay/ HTTP/1.1",
        b"GET http:///path HTTP/1.1",
        b"GET http://user:secret@relay/ HTTP/1.1",
        b"GET http://a,b/ HTTP/1.1",
        b"GET /a#fragment HTTP/1.1",
        b"GET /a b HTTP/1.1",
        b"GET /\xc3\xa9 HTTP/1.1",
        b"GET /\x00 HTTP/1.1",
        b"GET /\x7f HTTP/1.1",
        b"GET  / HTTP/1.1",
        b"GET\t/ HTTP/1.1",
        b"GET / HTTP/1.1 ",
        b"GET / http/1.1",
        b"GET / HTTP/1.1x",
        b"GET / HTTP/11.1",
        b"GET /",
        b"G@T / HTTP/1.1",
        b" GET / HTTP/1.1",
        b"GET /\rX HTTP/1.1",
    ],
)
def test_malformed_request_line_is_refused(start: bytes) -> None:
    assert refused_request(b"Host: relay", start=start).status == 400


@pytest.mark.parametrize("version", [b"0.9", b"1.2", b"2.0", b"9.9"])
def test_another_version_is_named_as_such(version: bytes) -> None:
    assert refused_request(b"Host: relay", start=b"GET / HTTP/" + version).status == 505


def test_an_http2_preface_is_refused_by_its_version() -> None:
    parser = RequestHeadParser()
    with pytest.raises(HttpViolation, match="HTTP/1") as caught:
        parser.receive_data(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
    assert caught.value.status == 505


def test_tls_on_a_plain_port_is_refused_at_its_first_byte() -> None:
    with pytest.raises(HttpViolation, match="not an HTTP request"):
        RequestHeadParser().receive_data(b"\x16")


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([b"X : 1"], "blank before the colon"),
        ([b"X\t: 1"], "blank before the colon"),
        ([b" X: 1"], "folded"),
        ([b"\tfolded"], "folded"),
        ([b": 1"], "invalid name"),
        ([b"X Y: 1"], "invalid name"),
        ([b"X\xe9: 1"], "invalid name"),
        ([b"X\x00: 1"], "invalid name"),
        ([b"X(: 1"], "invalid name"),
        ([b"\x0bTransfer-Encoding: chunked"], "invalid name"),
        ([b"no colon"], "no colon"),
        ([b"X"], "no colon"),
        ([b"X: a\x00b"], "control character"),
        ([b"X: a\rb"], "control character"),
        ([b"X: \x0b"], "control character"),
        ([b"X: a\x7f"], "control character"),
        ([b"X: a\x1b[0m"], "control character"),
        ([b"X: a\nY: b"], "bare line feed"),
    ],
)
def test_malformed_header_line_is_refused_and_located(lines: list[bytes], words: str) -> None:
    violation = refused_request(b"Host: relay", *lines, b"Z: 1")
    assert violation.status == 400
    assert str(violation).startswith("Header line 2 ")
    assert words in str(violation)


@pytest.mark.parametrize(
    "wire",
    [
        b"GET / HTTP/1.1\nHost: relay\n\n",
        b"GET / HTTP/1.1\r\nHost: relay\r\n\n",
        b"GET / HTTP/1.1\r\nHost: relay\n\r\n",
        b"GET / HTTP/1.1\nHost: relay\r\n\r\n",
        b"GET / HTTP/1.1\n\n",
        b"\nGET / HTTP/1.1\r\nHost: relay\r\n\r\n",
    ],
)
def test_bare_line_feeds_in_a_request_are_refused(wire: bytes) -> None:
    assert refusal(RequestHeadParser, wire).status == 400


@pytest.mark.parametrize("value", [b"a b", b"a/b", b"user@relay", b"a,b", b"a\xe9"])
def test_malformed_host_is_refused(value: bytes) -> None:
    assert refused_request(b"Host: " + value).status == 400


def test_host_is_needed_once_and_only_http_1_0_may_leave_it_out() -> None:
    assert refused_request(b"Accept: a").status == 400
    assert refused_request(b"Host: relay", b"HOST: relay").status == 400
    assert refused_request(b"Host: relay", b"HOST: relay", start=b"GET / HTTP/1.0").status == 400
    assert read_request(start=b"GET / HTTP/1.0").headers == ()
    assert read_request(b"Host:").headers == ((b"host", b""),)


def test_messages_and_violations_never_repeat_what_was_sent() -> None:
    for line in (b"Authorization: Bearer canary\x01", b"canary", b"canary : x", b"Content-Length: canary"):
        assert "canary" not in str(refused_request(b"Host: relay", line))


# -- bounds


def test_a_head_as_large_as_the_bound_passes_and_one_byte_more_does_not() -> None:
    frame = len(request(b"Host: relay", b"X: "))
    assert read_request(b"Host: relay", b"X: " + b"x" * (MAX_HEAD_BYTES - frame)).target == b"/"
    assert refused_request(b"Host: relay", b"X: " + b"x" * (MAX_HEAD_BYTES - frame + 1)).status == 431


def test_a_target_as_long_as_the_bound_passes_and_one_byte_more_does_not() -> None:
    longest = b"/" + b"x" * (MAX_TARGET_BYTES - 1)
    assert read_request(b"Host: relay", start=b"GET " + longest + b" HTTP/1.1").target == longest
    assert refused_request(b"Host: relay", start=b"GET " + longest + b"x HTTP/1.1").status == 414


def test_as_many_headers_as_the_bound_pass_and_one_more_does_not() -> None:
    lines = [b"X: 1"] * (MAX_HEADERS - 1)
    assert len(read_request(b"Host: relay", *lines).headers) == MAX_HEADERS
    assert refused_request(b"Host: relay", *lines, b"X: 1").status == 431
    assert refusal(get_parser, request(*lines, b"X: 1", b"X: 1", start=b"HTTP/1.1 200 OK")).status == 431


@pytest.mark.parametrize(
    ("make_parser", "beginning", "status"),
    [
        (RequestHeadParser, b"G", 414),
        (RequestHeadParser, b"GET / HTTP/1.1\r\nX: ", 431),
        (get_parser, b"HTTP/1.1 200 ", 431),
        (get_parser, b"HTTP/1.1 200 OK\r\nX: ", 431),
    ],
)
def test_a_head_without_end_is_refused_at_the_bound_and_let_go(make_parser: Any, beginning: bytes, status: int) -> None:
    parser = make_parser()
    parser.receive_data(beginning)
    fed = [len(beginning)]

    def without_end() -> Iterator[bytes]:
        for _ in range(100):
            fed.append(1000)
            yield b"x" * 1000

    with pytest.raises(HttpViolation) as caught:
        feed(parser, without_end())
    assert caught.value.status == status
    assert MAX_HEAD_BYTES < sum(fed) <= MAX_HEAD_BYTES + 1000
    assert len(parser._held) == 0
    with pytest.raises(HttpViolation):
        make_parser().receive_data(beginning + b"x" * 10 * MAX_HEAD_BYTES)


class CountingSearch:
    """Stands in for the pattern of a head's end and adds up how many bytes it was asked to look at."""

    def __init__(self, pattern: re.Pattern[bytes]) -> None:
        self.pattern = pattern
        self.looked_at = 0

    def search(self, buffer: bytes, position: int) -> re.Match[bytes] | None:
        self.looked_at += len(buffer) - position
        return self.pattern.search(buffer, position)


@pytest.mark.parametrize(
    ("make_parser", "beginning"), [(RequestHeadParser, b"GET / HTTP/1.1\r\nX: "), (get_parser, b"HTTP/1.1 200 ")]
)
def test_a_long_line_that_comes_byte_by_byte_is_searched_once(
    make_parser: Any, beginning: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    counting = CountingSearch(http1_head._HEAD_END)
    monkeypatch.setattr(http1_head, "_HEAD_END", counting)
    parser = make_parser()
    parser.receive_data(beginning)
    for _ in range(20000):
        parser.receive_data(b"x")
    assert counting.looked_at < 4 * 20000


# -- responses


@pytest.mark.parametrize(
    ("method", "start", "lines", "framing", "keep_alive"),
    [
        (b"POST", b"HTTP/1.1 200 OK", [b"Content-Length: 7"], Framing(7, False), True),
        (b"POST", b"HTTP/1.1 200 OK", [b"Transfer-Encoding: Chunked"], CHUNKED, True),
        (b"POST", b"HTTP/1.1 200 OK", [], UNTIL_CLOSE, False),
        (b"POST", b"HTTP/1.0 200 OK", [b"Connection: keep-alive"], UNTIL_CLOSE, False),
        (b"POST", b"HTTP/1.1 200 OK", [b"Content-Length: 7", b"Transfer-Encoding: chunked"], CHUNKED, False),
        (b"POST", b"HTTP/1.0 200 OK", [b"Connection: keep-alive", b"Transfer-Encoding: chunked"], CHUNKED, False),
        (b"POST", b"HTTP/1.1 200 OK", [b"Content-Length: 7", b"Content-Length: 7, 7"], Framing(7, False), True),
        (b"HEAD", b"HTTP/1.1 200 OK", [b"Content-Length: 7"], NO_BODY, True),
        (b"HEAD", b"HTTP/1.1 200 OK", [], NO_BODY, True),
        (b"GET", b"HTTP/1.1 204 No Content", [], NO_BODY, True),
        (b"GET", b"HTTP/1.1 304 Not Modified", [b"Content-Length: 7"], NO_BODY, True),
        (b"GET", b"HTTP/1.1 101 Switching Protocols", [b"Upgrade: x"], NO_BODY, False),
        (b"CONNECT", b"HTTP/1.1 200 OK", [b"Content-Length: 7"], NO_BODY, False),
        (b"CONNECT", b"HTTP/1.1 407 No", [b"Content-Length: 7"], Framing(7, False), True),
    ],
)
def test_response_framing(method: bytes, start: bytes, lines: list[bytes], framing: Framing, keep_alive: bool) -> None:
    head = read_response(*lines, start=start, method=method)
    assert (head.framing, head.keep_alive) == (framing, keep_alive)


@pytest.mark.parametrize(
    ("start", "status", "reason"),
    [
        (b"HTTP/1.1 200 OK", 200, b"OK"),
        (b"HTTP/1.1 529 ", 529, b""),
        (b"HTTP/1.1 529", 529, b""),
        (b"HTTP/1.0 999 Over\tloaded \xe9", 999, b"Over\tloaded \xe9"),
    ],
)
def test_status_line(start: bytes, status: int, reason: bytes) -> None:
    head = read_response(start=start)
    assert (head.status, head.reason, head.version) == (status, reason, start[5:8])


@pytest.mark.parametrize(
    "start",
    [
        b"HTTP/1.1 99 x",
        b"HTTP/1.1 099 x",
        b"HTTP/1.1 2000 x",
        b"HTTP/1.1 20x x",
        b"HTTP/1.1  200 OK",
        b"HTTP/1.1\t200 OK",
        b"HTTP/1.2 200 OK",
        b"HTTP/2 200",
        b"http/1.1 200 OK",
        b"HTTP/1.1 200 O\x00K",
        b"HTTP/1.1 200 O\rK",
        b"HTTP/1.1 200 O\x1bK",
        b"SSH-2.0-OpenSSH",
        b"<html>",
        b"\r\nHTTP/1.1 200 OK",
        b"",
    ],
)
def test_malformed_status_line_is_refused(start: bytes) -> None:
    refusal(get_parser, request(b"Content-Length: 0", start=start))


def test_something_else_than_http_is_refused_without_waiting_for_more() -> None:
    with pytest.raises(HttpViolation, match="not an HTTP"):
        get_parser().receive_data(b"HTTP/2")
    with pytest.raises(HttpViolation, match="not an HTTP"):
        get_parser().receive_data(b"+OK")


@pytest.mark.parametrize(
    "lines",
    [
        [b"Content-Length: 7", b"Content-Length: 8"],
        [b"Content-Length: 7, 8"],
        [b"Content-Length: -1"],
        [b"Content-Length:"],
        [b"Content-Length: 7,"],
        [b"Content-Length: " + b"9" * (MAX_LENGTH_DIGITS + 1)],
        [b"Transfer-Encoding: gzip, chunked"],
        [b"Transfer-Encoding: identity"],
        [b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"],
        [b"X: a\x00b"],
        [b"X: a\rb"],
        [b"X : a"],
        [b" folded: a"],
        [b"no colon"],
    ],
)
@pytest.mark.parametrize("method", [b"POST", b"HEAD"])
def test_malformed_response_headers_are_refused_even_without_a_body(lines: list[bytes], method: bytes) -> None:
    refusal(lambda: ResponseHeadParser(method), request(*lines, start=b"HTTP/1.1 200 OK"))


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
@pytest.mark.parametrize("last", [b"\n", b"\r\n"])
def test_bare_line_feeds_in_a_response_are_taken_for_line_ends(end: bytes, last: bytes) -> None:
    wire = b"HTTP/1.1 200 OK" + end + b"Content-Length: 7" + b"\r\n" + b"X: 1" + end + last
    head = read_three_ways(get_parser, wire)
    assert head.headers == ((b"content-length", b"7"), (b"x", b"1"))


def test_interim_responses_are_skipped_up_to_a_bound() -> None:
    interim = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
    final = b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n"
    head = read_three_ways(get_parser, interim + final)
    assert (head.status, head.headers) == (200, ((b"content-length", b"1"),))
    assert read_three_ways(get_parser, interim * (MAX_INTERIM // 2) + final) == head
    refusal(get_parser, interim * (MAX_INTERIM // 2 + 1) + final)


def test_an_interim_response_that_came_in_pieces_does_not_hide_the_final_one() -> None:
    interim = b"HTTP/1.1 103 Early Hints\r\nLink: " + b"x" * 100 + b"\r\n\r\n"
    parser = get_parser()
    assert parser.receive_data(interim[:-1]) is None
    head = parser.receive_data(interim[-1:] + b"HTTP/1.1 200 OK\r\n\r\nbody")
    assert head is not None
    assert (head.status, parser.trailing) == (200, b"body")


# -- the end of input


def test_eof_is_quiet_before_a_head_and_after_it_but_not_inside() -> None:
    wire = b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n"
    before = get_parser()
    assert not before.began
    before.receive_eof()

    inside = get_parser()
    inside.receive_data(wire[:-1])
    assert inside.began
    for _ in range(2):
        with pytest.raises(HttpViolation, match="closed"):
            inside.receive_eof()
    with pytest.raises(HttpViolation, match="closed"):
        inside.receive_data(wire[-1:])

    after = get_parser()
    after.receive_data(wire)
    after.receive_eof()


def test_eof_after_an_interim_response_is_a_cut_answer() -> None:
    parser = get_parser()
    assert parser.receive_data(b"HTTP/1.1 100 Continue\r\n\r\n") is None
    assert parser.began
    with pytest.raises(HttpViolation, match="closed"):
        parser.receive_eof()


def test_a_parser_that_has_returned_its_head_takes_nothing_more() -> None:
    parser = RequestHeadParser()
    assert parser.receive_data(request(b"Host: relay")) is not None
    with pytest.raises(RuntimeError):
        parser.receive_data(b"")


# -- anything at all

SOUP = st.lists(
    st.sampled_from(
        [
            *(
                b"GET / HTTP/1.1\r\n",
                b"HTTP/1.1 200 OK\r\n",
                b"HTTP/1.1 100 C\r\n\r\n",
                b"Host: a\r\n",
                b"HTTP/1.0 204\n",
            ),
            *(b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b"X:", b":", b" ", b"\t", b"\r", b"\n"),
            *(b"\r\n", b"\r\n\r\n", b"\x00", b"\xff", b"5", b"POST http://a/b HTTP/1.0\r\n", b"Connection: close\r\n"),
        ]
    )
    | st.binary(max_size=3),
    max_size=12,
).map(b"".join)


def outcome(parser: Any, pieces: list[bytes]) -> Any:
    """What feeding ``pieces`` comes to: a head and everything after it, a status, or nothing yet."""
    for number, piece in enumerate(pieces):
        try:
            head = parser.receive_data(piece)
        except HttpViolation as violation:
            return violation.status
        if head is not None:
            return head, parser.trailing + b"".join(pieces[number + 1 :])
    return None


@untimed
@given(SOUP, st.data())
def test_any_bytes_end_the_same_way_however_they_are_cut(wire: bytes, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(wire)), max_size=5)))
    pieces = [wire[start:end] for start, end in zip([0, *cuts], [*cuts, len(wire)], strict=True)]
    for make_parser in (RequestHeadParser, get_parser):
        whole = outcome(make_parser(), [wire])
        assert outcome(make_parser(), pieces) == whole
        assert outcome(make_parser(), [wire[at : at + 1] for at in range(len(wire))]) == whole
