"""The event stream's parser: against an encoder that shares nothing with it, and botocore's reader."""

from __future__ import annotations

import struct
import uuid
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ccrelay.core.eventstream import (
    MAX_HEADERS,
    MAX_PAYLOAD,
    BadChecksum,
    BadHeader,
    BadPrelude,
    EventStreamParser,
    EventStreamViolation,
    Message,
    TooLarge,
    Truncated,
)
from ccrelay.errors import StreamViolation
from tests.event_frames import TypedHeader, chunk, encode_block, encode_header, encode_message, encode_prelude

untimed = settings(deadline=None)  # how fast the machine is says nothing about the code
CLOSED_SET = {BadPrelude, BadChecksum, TooLarge, BadHeader, Truncated}

_values: dict[int, st.SearchStrategy[Any]] = {
    0: st.just(True),
    1: st.just(False),
    2: st.integers(-(2**7), 2**7 - 1),
    3: st.integers(-(2**15), 2**15 - 1),
    4: st.integers(-(2**31), 2**31 - 1),
    5: st.integers(-(2**63), 2**63 - 1),
    6: st.binary(max_size=40),
    7: st.text(max_size=20),
    8: st.integers(-(2**63), 2**63 - 1),
    9: st.uuids(),
}
_names = st.text(min_size=1, max_size=12)


@st.composite
def header_lists(draw: st.DrawFn) -> list[TypedHeader]:
    names = draw(st.lists(_names, max_size=6, unique=True))
    kinds = [draw(st.integers(0, 9)) for _ in names]
    return [(name, kind, draw(_values[kind])) for name, kind in zip(names, kinds, strict=True)]


contents = st.lists(st.tuples(header_lists(), st.binary(max_size=60)), max_size=6)


def as_read(headers: list[TypedHeader]) -> dict[str, object]:
    return {name: value.bytes if isinstance(value, uuid.UUID) else value for name, _, value in headers}


def read(*pieces: bytes) -> tuple[list[Message], StreamViolation | None]:
    """What a fresh parser makes of a stream that ends, cut like this: the messages, then what is wrong."""
    parser = EventStreamParser()
    messages: list[Message] = []
    try:
        for piece in pieces:
            messages.extend(parser.receive_data(piece))
        parser.receive_eof()
    except StreamViolation as violation:
        return messages, violation
    return messages, None


def cut(data: bytes, places: list[int]) -> list[bytes]:
    return [data[a:b] for a, b in pairwise([0, *sorted(min(place, len(data)) for place in places), len(data)])]


def bytewise(data: bytes) -> list[bytes]:
    return [data[index : index + 1] for index in range(len(data))]


def fault(*pieces: bytes) -> tuple[list[Message], str | None]:
    messages, violation = read(*pieces)
    return messages, None if violation is None else f"{type(violation).__name__}: {violation}"


@untimed
@given(contents, st.lists(st.integers(0, 1500), max_size=10))
def test_every_message_comes_back_as_it_was_however_the_stream_is_cut(
    sent: list[tuple[list[TypedHeader], bytes]], places: list[int]
) -> None:
    stream = b"".join(encode_message(headers, payload) for headers, payload in sent)

    for pieces in ([stream], cut(stream, places), bytewise(stream)):
        messages, violation = read(*pieces)

        assert violation is None
        assert [(dict(m.headers), m.payload) for m in messages] == [(as_read(h), p) for h, p in sent]
        # True == 1 and False == 0 to the comparison above.
        assert all(
            type(message.headers[name]) is type(value)
            for message, (headers, _) in zip(messages, sent, strict=True)
            for name, value in as_read(headers).items()
        )


@pytest.fixture(scope="module")
def botocore_reader() -> Any:
    return pytest.importorskip("botocore.eventstream").EventStreamBuffer


@untimed
@given(sent=contents)
def test_valid_streams_read_as_botocore_reads_them(
    botocore_reader: Any, sent: list[tuple[list[TypedHeader], bytes]]
) -> None:
    stream = b"".join(encode_message(headers, payload) for headers, payload in sent)
    theirs = botocore_reader()
    theirs.add_data(stream)

    assert [(dict(m.headers), m.payload) for m in read(stream)[0]] == [(m.headers, m.payload) for m in theirs]


def test_a_message_is_given_with_its_last_byte_and_not_before() -> None:
    frame = chunk(b'{"type":"ping"}')
    parser = EventStreamParser()

    given_out = [len(list(parser.receive_data(byte))) for byte in bytewise(frame + frame)]

    assert given_out == ([0] * (len(frame) - 1) + [1]) * 2
    assert parser.held == 0


@untimed
@given(contents, st.binary(max_size=80), st.lists(st.integers(0, 1500), max_size=10))
def test_what_follows_the_good_messages_never_changes_them_nor_what_is_wrong_however_it_is_cut(
    sent: list[tuple[list[TypedHeader], bytes]], rest: bytes, places: list[int]
) -> None:
    stream = b"".join(encode_message(headers, payload) for headers, payload in sent) + rest
    whole = fault(stream)

    assert [m.payload for m in whole[0][: len(sent)]] == [payload for _, payload in sent]
    assert (whole[1] is None) == (rest == b"")
    assert rest == b"" or type(read(stream)[1]) in CLOSED_SET
    assert fault(*cut(stream, places)) == fault(*bytewise(stream)) == whole


@untimed
@given(st.binary(max_size=300), st.binary(max_size=60), st.lists(st.integers(0, 400), max_size=6))
def test_any_header_block_is_read_or_refused_by_the_closed_set(block: bytes, payload: bytes, places: list[int]) -> None:
    stream = encode_block(block, payload)

    messages, violation = read(*cut(stream, places))

    if violation is None:
        assert messages[0].payload == payload
    else:
        assert type(violation) is BadHeader
        assert messages == []


def test_every_flipped_bit_of_a_message_is_noticed() -> None:
    good = encode_message([(":message-type", 7, "event"), ("n", 4, 7), ("t", 0, True)], b'{"bytes":""}')

    for bit in range(8 * len(good)):
        flipped = bytearray(good)
        flipped[bit // 8] ^= 1 << bit % 8
        messages, violation = read(bytes(flipped))
        assert messages == []
        assert type(violation) is (BadPrelude if bit < 8 * 12 else BadChecksum)


def test_every_truncation_is_noticed_at_the_end_and_only_there() -> None:
    good = chunk(b'{"type":"ping"}')

    for length in range(1, len(good)):
        parser = EventStreamParser()
        assert len(list(parser.receive_data(good + good[:length]))) == 1
        assert parser.held == length
        with pytest.raises(Truncated):
            parser.receive_eof()


def test_an_end_between_messages_is_a_good_end() -> None:
    assert read() == ([], None)
    assert read(chunk(b"{}"))[1] is None


@pytest.mark.parametrize(
    ("stream", "kind"),
    [
        (b"HTTP/1.1 200 OK\r\n", BadPrelude),
        (b"\0" * 16, BadPrelude),
        (encode_prelude(0, 0), BadPrelude),
        (encode_prelude(15, 0), BadPrelude),
        (encode_prelude(20, 5), BadPrelude),
        (encode_prelude(0xFFFFFFFF, 0), TooLarge),
        (encode_prelude(16 + MAX_HEADERS + 1, MAX_HEADERS + 1), TooLarge),
        (encode_prelude(16 + MAX_PAYLOAD + 1, 0), TooLarge),
    ],
)
def test_a_message_is_refused_by_its_first_twelve_bytes(stream: bytes, kind: type[EventStreamViolation]) -> None:
    parser = EventStreamParser()

    for byte in bytewise(stream[:11]):
        assert list(parser.receive_data(byte)) == []
    with pytest.raises(kind):
        list(parser.receive_data(stream[11:]))
    assert parser.held == 0


NAME = encode_header("a", 0, True)


@pytest.mark.parametrize(
    ("block", "kind"),
    [
        (b"\x05abc", BadHeader),  # the name runs out
        (b"\x01a", BadHeader),  # no type
        (b"\x01a\x0a", BadHeader),  # unknown type
        (b"\x01a\xff", BadHeader),
        (b"\x01a\x02", BadHeader),  # each number, cut
        (b"\x01a\x03\0", BadHeader),
        (b"\x01a\x04\0\0\0", BadHeader),
        (b"\x01a\x05" + bytes(7), BadHeader),
        (b"\x01a\x08" + bytes(7), BadHeader),
        (b"\x01a\x09" + bytes(15), BadHeader),
        (b"\x01a\x06\0", BadHeader),  # the length, then the value, cut
        (b"\x01a\x06\0\x02x", BadHeader),
        (b"\x01a\x07\0\x02x", BadHeader),
        (b"\x01a\x07\0\x01\xff", BadHeader),  # not UTF-8
        (b"\x01\xff\x00", BadHeader),
        (NAME + NAME, BadHeader),
        (NAME + encode_header("a", 7, "x"), BadHeader),
    ],
)
def test_headers_that_are_none_are_refused(block: bytes, kind: type[EventStreamViolation]) -> None:
    # The payload would complete every value that is cut: nothing may be read beyond the block.
    messages, violation = read(encode_block(block, b"\x01" * 32))

    assert (messages, type(violation)) == ([], kind)


def test_the_largest_headers_and_payload_pass() -> None:
    block = encode_header("1", 6, bytes(65535)) + encode_header("2", 6, bytes(MAX_HEADERS - 65535 - 10))
    assert len(block) == MAX_HEADERS
    stream = encode_block(block, b"\x01" * MAX_PAYLOAD)
    parser = EventStreamParser()
    peak = 0
    messages: list[Message] = []

    for start in range(0, len(stream), 65536):
        messages += parser.receive_data(stream[start : start + 65536])
        peak = max(peak, parser.held)

    assert [len(message.payload) for message in messages] == [MAX_PAYLOAD]
    assert peak < len(stream)
    assert parser.held == 0


@untimed
@given(st.lists(st.integers(0, 3000), min_size=1, max_size=8), st.integers(1, 700))
def test_less_than_one_message_is_held_at_any_time(sizes: list[int], step: int) -> None:
    frames = [encode_message([], bytes(size)) for size in sizes]
    stream = b"".join(frames)
    parser = EventStreamParser()

    for start in range(0, len(stream), step):
        for _ in parser.receive_data(stream[start : start + step]):
            pass
        assert parser.held < max(map(len, frames))


def test_messages_left_in_the_iterator_come_with_the_next_data() -> None:
    parser = EventStreamParser()

    first = next(parser.receive_data(encode_message([], b"1") + encode_message([], b"2") + b"\0"))
    rest = [message.payload for message in parser.receive_data(encode_message([], b"3")[1:])]

    assert (first.payload, rest) == (b"1", [b"2", b"3"])


@pytest.mark.parametrize(
    "broken",
    [b"x" * 12, encode_prelude(1 << 30, 0), encode_block(b"\x01a\x0a", b""), chunk(b"{}")[:-1] + b"\0"],
)
def test_the_good_messages_before_a_violation_are_given_and_nothing_after_it(broken: bytes) -> None:
    parser = EventStreamParser()
    messages = parser.receive_data(chunk(b"1") + broken + chunk(b"2"))

    assert next(messages).payload == next(EventStreamParser().receive_data(chunk(b"1"))).payload
    with pytest.raises(EventStreamViolation) as first:
        next(messages)
    for call in (
        lambda: next(messages),
        lambda: parser.receive_data(chunk(b"2")),
        lambda: parser.receive_data(b""),
        parser.receive_eof,
    ):
        with pytest.raises(EventStreamViolation) as again:
            call()
        assert again.value is first.value
    assert parser.held == 0


def test_nothing_is_taken_after_a_truncated_end() -> None:
    frame = chunk(b"{}")
    parser = EventStreamParser()
    list(parser.receive_data(frame[:20]))

    with pytest.raises(Truncated):
        parser.receive_eof()
    with pytest.raises(Truncated):
        parser.receive_data(frame[20:])


class Counted(bytes):
    """Bytes that count how many of them were sliced off."""

    sliced = 0

    def __getitem__(self, key: Any) -> Any:
        found = super().__getitem__(key)
        if isinstance(key, slice):
            self.sliced += len(found)
        return found


def test_a_buffer_of_many_messages_is_copied_once_and_not_once_per_message() -> None:
    frame = encode_message([("n", 4, 7)], b"x" * 100)
    stream = Counted(frame * 3000 + frame[:-1])

    assert sum(1 for _ in EventStreamParser().receive_data(stream)) == 3000
    assert stream.sliced < 2 * len(stream)


def test_headers_of_messages_cannot_be_changed_by_who_gets_them() -> None:
    message = read(chunk(b"{}"))[0][0]

    with pytest.raises(TypeError):
        message.headers[":event-type"] = "other"  # type: ignore[index]


def test_a_header_block_that_differs_in_one_value_is_read_anew() -> None:
    frames = [encode_message([("n", 4, number)], b"") for number in (1, 1, 2, 1)]

    assert [message.headers["n"] for message in read(b"".join(frames))[0]] == [1, 1, 2, 1]


def test_lengths_are_checked_before_their_meaning() -> None:
    """A length that is huge because a bit was flipped is a broken prelude, not a large message."""
    stream = struct.pack(">III", 0x7FFFFFFF, 0, 0)

    assert type(read(stream)[1]) is BadPrelude
