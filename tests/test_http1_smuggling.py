"""Requests on whose length two servers could disagree: not one of them gets through."""

from __future__ import annotations

import pytest

from ccrelay.core.http1 import HttpViolation, RequestHeadParser, body_decoder

CL = b"Content-Length: "
TE = b"Transfer-Encoding: "

REFUSED = [
    ("both lengths, length first", [CL + b"6", TE + b"chunked"], 400),
    ("both lengths, coding first", [TE + b"chunked", CL + b"6"], 400),
    ("both, with a zero length", [CL + b"0", TE + b"chunked"], 400),
    ("both, with an unknown coding", [CL + b"6", TE + b"identity"], 400),
    ("both, names in odd case", [b"cONTENT-lENGTH: 6", b"tRANSFER-eNCODING: chunked"], 400),
    ("lengths that differ", [CL + b"6", CL + b"5"], 400),
    ("lengths that agree", [CL + b"6", CL + b"6"], 400),
    ("a list of lengths", [CL + b"6, 6"], 400),
    ("a plus sign", [CL + b"+6"], 400),
    ("a minus sign", [CL + b"-6"], 400),
    ("a hex prefix", [CL + b"0x6"], 400),
    ("hex digits", [CL + b"a"], 400),
    ("an underscore", [CL + b"1_0"], 400),
    ("a blank inside", [CL + b"1 0"], 400),
    ("a fraction", [CL + b"6.0"], 400),
    ("an exponent", [CL + b"6e1"], 400),
    ("no digits", [CL], 400),
    ("Arabic-Indic digits", [CL + "\u0666".encode()], 400),
    ("a superscript digit", [CL + b"\xb2"], 400),
    ("a vertical tab before the digits", [CL + b"\x0b6"], 400),
    ("a length beyond every integer", [CL + b"9" * 5000], 413),
    ("a length beyond 64 bits", [CL + b"18446744073709551622"], 413),
    ("chunked, identity", [TE + b"chunked, identity"], 501),
    ("identity, chunked", [TE + b"identity, chunked"], 501),
    ("gzip, chunked", [TE + b"gzip, chunked"], 501),
    ("chunked twice in a list", [TE + b"chunked, chunked"], 501),
    ("chunked twice in two lines", [TE + b"chunked", TE + b"chunked"], 501),
    ("chunked and something else in two lines", [TE + b"chunked", TE + b"x"], 501),
    ("identity alone", [TE + b"identity"], 501),
    ("an empty coding", [TE], 501),
    ("a coding with a parameter", [TE + b"chunked;q=1"], 501),
    ("a coding with a trailing comma", [TE + b"chunked,"], 501),
    ("a quoted coding", [TE + b'"chunked"'], 501),
    ("xchunked", [TE + b"xchunked"], 501),
    ("a long s, which some lower-case to s", [TE + "chunked\u017f".encode()], 501),
    ("a vertical tab before chunked", [TE + b"\x0bchunked"], 400),
    ("a form feed before chunked", [TE + b"\x0cchunked"], 400),
    ("a NUL behind chunked", [TE + b"chunked\x00"], 400),
    ("a carriage return behind chunked", [TE + b"chunked\r"], 400),
    ("a blank before the colon", [b"Transfer-Encoding : chunked"], 400),
    ("a blank before the name", [b" Transfer-Encoding: chunked"], 400),
    ("a vertical tab before the name", [b"\x0bTransfer-Encoding: chunked"], 400),
    ("a folded coding", [b"Transfer-Encoding:", b" chunked"], 400),
    ("a coding folded behind another header", [b"X: 1", b"\tTransfer-Encoding: chunked"], 400),
    ("a line feed that hides a header", [b"X: 1\nTransfer-Encoding: chunked"], 400),
    ("a carriage return that hides a header", [b"X: 1\rTransfer-Encoding: chunked"], 400),
    ("a NUL inside the name", [b"Transfer\x00-Encoding: chunked"], 400),
    ("a name without colon", [b"Transfer-Encoding chunked"], 400),
]


def feed(parser: RequestHeadParser, pieces: list[bytes]) -> None:
    for piece in pieces:
        assert parser.receive_data(piece) is None


@pytest.mark.parametrize(("lines", "status"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED])
def test_ambiguous_length_is_refused(lines: list[bytes], status: int) -> None:
    head = b"\r\n".join([b"POST / HTTP/1.1", b"Host: a", *lines, b"", b""])
    for pieces in ([head + b"0\r\n\r\nG"], [head[at : at + 1] for at in range(len(head))]):
        parser = RequestHeadParser()
        with pytest.raises(HttpViolation) as caught:
            feed(parser, pieces)
        assert caught.value.status == status


def test_http_1_0_cannot_be_chunked() -> None:
    with pytest.raises(HttpViolation) as caught:
        RequestHeadParser().receive_data(b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
    assert caught.value.status == 400


@pytest.mark.parametrize(
    ("head", "body", "rest"),
    [
        (b"", b"", b"SMUGGLED"),
        (b"Content-Length: 4\r\n", b"body", b"SMUGGLED"),
        (b"Content-Length: 004\r\n", b"body", b"SMUGGLED"),
        (b"Content_Length: 9\r\nContent-Length: 4\r\n", b"body", b"SMUGGLED"),
        (b"Transfer-Encoding: CHUNKED\r\n", b"4\r\nbody\r\n0\r\n\r\n", b"SMUGGLED"),
        (b"Transfer-Encoding:\tchunked\t \r\n", b"4\r\nbody\r\n0\r\n\r\n", b"SMUGGLED"),
    ],
)
def test_what_follows_a_body_is_the_next_message(head: bytes, body: bytes, rest: bytes) -> None:
    parser = RequestHeadParser()
    read = parser.receive_data(b"POST / HTTP/1.1\r\nHost: a\r\n" + head + b"\r\n" + body + rest)
    assert read is not None
    decoder = body_decoder(read.framing)
    assert decoder.receive_data(parser.trailing) == (b"body" if body else b"")
    assert decoder.done
    assert decoder.trailing == rest
