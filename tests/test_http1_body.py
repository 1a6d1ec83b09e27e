"""Bodies: every case whole, byte by byte, and with bytes behind it that must survive."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ccrelay.core import http1_body
from ccrelay.core.http1 import (
    CHUNKED,
    LAST_CHUNK,
    NO_BODY,
    UNTIL_CLOSE,
    ChunkedDecoder,
    Framing,
    HttpViolation,
    LengthDecoder,
    UntilCloseDecoder,
    body_decoder,
    encode_chunk,
)
from ccrelay.core.http1_body import MAX_EXTENSION_BYTES, MAX_SIZE_DIGITS, MAX_TRAILER_BYTES

untimed = settings(deadline=None)  # how fast the machine is says nothing about the code

EVENT = b'event: ping\ndata: {"type": "ping"}\n\n'


def bytes_of(wire: bytes) -> list[bytes]:
    return [wire[at : at + 1] for at in range(len(wire))]


def feed(decoder: ChunkedDecoder, pieces: Iterable[bytes]) -> bytes:
    return b"".join([decoder.receive_data(piece) for piece in pieces])


def read_three_ways(framing: Framing, wire: bytes) -> bytes:
    """The body in ``wire``, which must be the same however it arrives, and end with the last byte of ``wire``."""
    whole = body_decoder(framing)
    body = whole.receive_data(wire)
    assert whole.done
    assert whole.trailing == b""
    whole.receive_eof()

    bytewise = body_decoder(framing)
    got = b""
    for piece in bytes_of(wire):
        assert not bytewise.done
        got += bytewise.receive_data(piece)
    assert bytewise.done
    assert got == body

    followed = body_decoder(framing)
    assert followed.receive_data(wire + b"\r\n0\r\n\r\n") == body
    assert followed.trailing == b"\r\n0\r\n\r\n"
    assert followed.receive_data(b"more") == b""
    assert followed.trailing == b"\r\n0\r\n\r\nmore"
    return body


def refusal(wire: bytes) -> str:
    """Why ``wire`` is no chunked body: the same whole, byte by byte and with bytes behind it, once and for all."""
    messages = set()
    for pieces in ([wire], bytes_of(wire), [wire + b"\r\n\r\n0\r\n\r\n"]):
        decoder = ChunkedDecoder()
        with pytest.raises(HttpViolation) as caught:
            feed(decoder, pieces)
        assert caught.value.status == 400
        messages.add(str(caught.value))
        for later in (LAST_CHUNK, b""):
            with pytest.raises(HttpViolation) as again:
                decoder.receive_data(later)
            messages.add(str(again.value))
        with pytest.raises(HttpViolation) as at_eof:
            decoder.receive_eof()
        messages.add(str(at_eof.value))
        assert not decoder.done
    assert len(messages) == 1
    return messages.pop()


# -- chunked


@pytest.mark.parametrize(
    ("wire", "body"),
    [
        (b"0\r\n\r\n", b""),
        (b"5\r\nhello\r\n0\r\n\r\n", b"hello"),
        (b"5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n", b"hello world"),
        (b"A\r\n0123456789\r\na\r\n0123456789\r\n0\r\n\r\n", b"01234567890123456789"),
        (b"0000000000000005\r\nhello\r\n0000000000000000\r\n\r\n", b"hello"),
        (b"5  \r\nhello\r\n0\t\r\n\r\n", b"hello"),
        (b"5;a=b\r\nhello\r\n0;\r\n\r\n", b"hello"),
        (b'5;a="\xe9 ;x"; b\t=1 \r\nhello\r\n0\r\n\r\n', b"hello"),
        (b"2\r\n\r\n\r\n0\r\n\r\n", b"\r\n"),
        (b"7\r\n1\r\na\r\n\n\r\n0\r\n\r\n", b"1\r\na\r\n\n"),
        (b"5\r\nhello\r\n0\r\nDigest: x\r\nX-Trace:\r\n\r\n", b"hello"),
        (b"0\r\nTransfer-Encoding: chunked\r\nContent-Length: 9\r\n\r\n", b""),
    ],
)
def test_chunked_body(wire: bytes, body: bytes) -> None:
    assert read_three_ways(CHUNKED, wire) == body


@pytest.mark.parametrize(
    "wire",
    [
        b"\r\n",
        b"g\r\n",
        b"5g\r\nhello\r\n",
        b"0x5\r\nhello\r\n",
        b"+5\r\nhello\r\n",
        b"-5\r\nhello\r\n",
        b"5_0\r\nhello\r\n",
        b" 5\r\nhello\r\n",
        b"\t5\r\nhello\r\n",
        b"5 ;a\r\nhello\r\n",
        b"5,5\r\nhello\r\n",
        b"5.\r\nhello\r\n",
        b";a\r\n",
        b"\xd9\xa5\r\nhello\r\n",
        b"5\nhello\r\n",
        b"5\r\r\nhello\r\n",
        b"5;a\nhello\r\n",
        b"5;a\r;b\r\nhello\r\n",
        b"5;a\x00\r\nhello\r\n",
        b"5\x00\r\nhello\r\n",
        b"5;a\x0b\r\nhello\r\n",
        b"1" + b"0" * MAX_SIZE_DIGITS + b"\r\n",
        b"0" * MAX_SIZE_DIGITS + b"5\r\nhello\r\n",
        b"f" * 1000 + b"\r\n",
    ],
)
def test_malformed_chunk_size_is_refused(wire: bytes) -> None:
    assert refusal(wire) == "Malformed chunk size"
    assert refusal(b"3\r\nabc\r\n" + wire) == "Malformed chunk size"


@pytest.mark.parametrize("ending", [b"\n", b"\n\r\n", b"0\r\n", b"\r0\r\n", b"X\r\n", b"\r\rX"])
def test_chunk_data_that_does_not_end_where_its_size_says_is_refused(ending: bytes) -> None:
    assert "CRLF" in refusal(b"5\r\nhello" + ending)
    assert "CRLF" in refusal(b"3\r\nabc\r\n5\r\nhello" + ending)


@pytest.mark.parametrize(
    "trailer",
    [
        b"X : 1\r\n",
        b" X: 1\r\n",
        b"X\r\n",
        b": 1\r\n",
        b"X: a\x00\r\n",
        b"X: a\rb\r\n",
        b"X: 1\n",
        b"\n",
        b"X: 1\r\n\n",
    ],
)
def test_malformed_trailer_is_refused(trailer: bytes) -> None:
    assert "railer line" in refusal(b"5\r\nhello\r\n0\r\n" + trailer)


def test_a_size_of_64_bits_is_a_number_and_not_an_allocation() -> None:
    decoder = ChunkedDecoder()
    assert decoder.receive_data(b"f" * MAX_SIZE_DIGITS + b"\r\nhello") == b"hello"
    assert decoder.receive_data(b"\r\n0\r\n\r\n") == b"\r\n0\r\n\r\n"
    assert not decoder.done


def test_extensions_of_a_body_are_bounded_together() -> None:
    half = b"1;" + b"x" * (MAX_EXTENSION_BYTES // 2 - 1) + b"\r\na\r\n"
    assert read_three_ways(CHUNKED, half + half + LAST_CHUNK) == b"aa"
    assert "xtensions" in refusal(half + half + b"1;\r\na\r\n")
    assert "too long" in refusal(b"1;" + b"x" * 2 * MAX_EXTENSION_BYTES)


def test_blanks_behind_sizes_are_bounded_with_the_extensions() -> None:
    padded = b"1 \r\na\r\n"
    decoder = ChunkedDecoder()
    with pytest.raises(HttpViolation, match="xtensions"):
        decoder.receive_data(padded * (MAX_EXTENSION_BYTES + 1))


def test_trailers_are_bounded() -> None:
    line = b"X: " + b"x" * 95 + b"\r\n"
    fitting = MAX_TRAILER_BYTES // len(line)
    assert read_three_ways(CHUNKED, b"0\r\n" + line * fitting + b"\r\n") == b""
    assert refusal(b"0\r\n" + line * (fitting + 1)) == "A chunk line is too long"


@pytest.mark.parametrize("beginning", [b"", b"5;", b"0\r\nX: ", b"0\r\nX: 1\r\nY"])
def test_a_line_without_end_is_refused_at_a_bound_and_let_go(beginning: bytes) -> None:
    decoder = ChunkedDecoder()
    decoder.receive_data(beginning)
    fed: list[int] = []

    def without_end() -> Iterator[bytes]:
        for _ in range(100):
            fed.append(1000)
            yield b"1" * 1000

    with pytest.raises(HttpViolation):
        feed(decoder, without_end())
    assert sum(fed) <= max(MAX_EXTENSION_BYTES, MAX_TRAILER_BYTES) + MAX_SIZE_DIGITS + 1000
    assert len(decoder._held) == 0


@pytest.mark.parametrize("cut", range(len(b"5;x\r\nhello\r\n0\r\nX: 1\r\n\r\n")))
def test_eof_inside_a_chunked_body_is_a_violation(cut: int) -> None:
    decoder = ChunkedDecoder()
    decoder.receive_data(b"5;x\r\nhello\r\n0\r\nX: 1\r\n\r\n"[:cut])
    for _ in range(2):
        with pytest.raises(HttpViolation, match="cut"):
            decoder.receive_eof()
    with pytest.raises(HttpViolation, match="cut"):
        decoder.receive_data(LAST_CHUNK)


def test_body_bytes_are_given_out_as_they_come() -> None:
    decoder = ChunkedDecoder()
    assert decoder.receive_data(b"fff") == b""
    assert decoder.receive_data(b"f\r\nab") == b"ab"
    piece = b"c" * 1000
    assert decoder.receive_data(piece) is piece
    assert len(decoder._held) == 0


class CountingBytes(bytes):
    """Adds up how many bytes ``find`` was asked to look at."""

    looked_at = 0

    def find(self, sub: Any, start: Any = 0, end: Any = None) -> int:
        CountingBytes.looked_at += max(0, (len(self) if end is None else min(end, len(self))) - start)
        return super().find(sub, start, end)


@pytest.mark.parametrize("beginning", [b"5;", b"0\r\nX: "])
def test_a_long_line_that_comes_byte_by_byte_is_searched_once(
    beginning: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CountingBytes, "looked_at", 0)
    decoder = ChunkedDecoder()
    decoder.receive_data(beginning)
    for _ in range(16000):
        decoder.receive_data(CountingBytes(b"x"))
    assert CountingBytes.looked_at == 16000
    assert bytes(decoder._held[-16000:]) == b"x" * 16000


def test_a_read_is_split_into_a_row_of_chunks_at_most_once(monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[int] = []
    take = http1_body._take_whole_chunks

    def counting(data: bytes, position: int, pieces: list[bytes]) -> int:
        rows.append(position)
        return take(data, position, pieces)

    monkeypatch.setattr(http1_body, "_take_whole_chunks", counting)
    defeating = b"3\r\na\r\n\r\n" + b"01\r\nb\r\n"
    assert ChunkedDecoder().receive_data(defeating * 500) == b"a\r\nb" * 500
    assert len(rows) == 1


# -- the other framings


def test_length_framed_body() -> None:
    assert read_three_ways(Framing(5, False), b"hello") == b"hello"


def test_no_body_is_done_at_once_and_everything_is_trailing() -> None:
    decoder = body_decoder(NO_BODY)
    assert decoder.done
    assert decoder.receive_data(b"next") == b""
    assert decoder.trailing == b"next"
    decoder.receive_eof()


def test_length_framed_pieces_are_not_copied() -> None:
    decoder = LengthDecoder(10)
    first, last = b"a" * 6, b"b" * 4
    assert decoder.receive_data(first) is first
    assert decoder.receive_data(b"") == b""
    assert decoder.receive_data(last) is last
    assert decoder.done


def test_eof_inside_a_length_framed_body_is_a_violation() -> None:
    decoder = LengthDecoder(5)
    decoder.receive_data(b"hell")
    with pytest.raises(HttpViolation, match="cut 1 bytes before its end"):
        decoder.receive_eof()


def test_close_framed_body_ends_with_the_connection_only() -> None:
    decoder = body_decoder(UNTIL_CLOSE)
    assert isinstance(decoder, UntilCloseDecoder)
    piece = b"0\r\n\r\n"
    assert decoder.receive_data(piece) is piece
    assert not decoder.done
    decoder.receive_eof()
    assert decoder.done
    assert decoder.trailing == b""


# -- anything at all

SPELLINGS = st.sampled_from(
    [
        lambda size: b"%x" % size,
        lambda size: b"%X" % size,
        lambda size: b"%08x" % size,
        lambda size: b"%x \t" % size,
        lambda size: b"%x;name=value" % size,
    ]
)
PIECES = st.one_of(
    st.binary(min_size=1, max_size=40),
    st.just(EVENT),
    st.lists(st.sampled_from([b"\r\n", b"\r", b"\n", b"1", b"0\r\n\r\n"]), min_size=1, max_size=5).map(b"".join),
)


def cut(wire: bytes, data: st.DataObject) -> list[bytes]:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(wire)), max_size=6)))
    return [wire[start:end] for start, end in zip([0, *cuts], [*cuts, len(wire)], strict=True)]


@untimed
@given(st.lists(st.tuples(PIECES, SPELLINGS), max_size=8), st.binary(max_size=5), st.data())
def test_a_chunked_body_is_read_back_however_it_is_spelled_and_cut(
    chunks: list[tuple[bytes, Any]], rest: bytes, data: st.DataObject
) -> None:
    wire = b"".join(spell(len(piece)) + b"\r\n" + piece + b"\r\n" for piece, spell in chunks) + LAST_CHUNK + rest
    decoder = ChunkedDecoder()
    assert feed(decoder, cut(wire, data)) == b"".join(p for p, _ in chunks)
    assert decoder.done
    assert decoder.trailing == rest


SOUP = st.lists(
    st.sampled_from(
        [encode_chunk(EVENT), b"5\r\nhello\r\n", b"1\r\na\r\n", b"0\r\n", b"\r\n", b"2;x\r\n", b"A\r\n", b"X: 1\r\n"]
    )
    | st.binary(max_size=3),
    max_size=10,
).map(b"".join)


def outcome(pieces: list[bytes]) -> Any:
    """What feeding ``pieces`` comes to: the violation's text, or all that has been read."""
    decoder = ChunkedDecoder()
    try:
        body = feed(decoder, pieces)
    except HttpViolation as violation:
        return str(violation)
    return body, decoder.done, decoder.trailing


@untimed
@given(SOUP, st.data())
def test_any_bytes_end_the_same_way_however_they_are_cut(wire: bytes, data: st.DataObject) -> None:
    whole = outcome([wire])
    assert outcome(cut(wire, data)) == whole
    assert outcome(bytes_of(wire)) == whole
