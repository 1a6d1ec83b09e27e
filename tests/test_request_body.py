"""A body arrives once, is kept for as many readers as come, and says at once what is wrong with it."""

from __future__ import annotations

import gc
import hashlib
import json
import tracemalloc
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccrelay.core.edits import EditedReader, edited_length, replace_value
from ccrelay.core.model import Edit
from ccrelay.core.request_body import RequestBody
from ccrelay.errors import BodyTooLarge, ClientError, MalformedBody, RelayError

SMALL = b'{"model":"m"}'


def body_of(size: int, place: str) -> bytes:
    """About ``size`` bytes of JSON with the model at its start, in its middle or at its end."""
    line = 'print("\\u00e9\\n")\t' * 50
    count = size // (len(json.dumps(line)) + 2)
    before = {"start": 0, "middle": count // 2, "end": count}[place]
    document = {"before": [line] * before, "model": "claude-opus-5-5", "after": [line] * (count - before)}
    return json.dumps(document).encode()


def read_all(body: RequestBody) -> bytes:
    """What is stored, read in one go."""
    pieces = []
    offset = 0
    while offset < body.received:
        piece = body.read(offset, 1 << 20)
        assert piece
        pieces.append(piece)
        offset += len(piece)
    return b"".join(pieces)


@pytest.mark.parametrize("place", ["start", "middle", "end"])
@pytest.mark.parametrize(
    ("size", "piece"), [(1, 1), (3_000, 1), (100_000, 1_448), (100_000, 65_536), (1_000_000, 20_000)]
)
def test_a_live_and_a_late_reader_both_get_the_edited_bytes(size: int, piece: int, place: str) -> None:
    assert_live_and_late_readers_agree(body_of(size, place), piece)


@pytest.mark.parametrize("place", ["start", "middle", "end"])
def test_thirty_two_megabytes_come_back_as_they_were(place: str) -> None:
    data = body_of(32 << 20, place)
    assert 31 << 20 < len(data) < 33 << 20
    assert_live_and_late_readers_agree(data, 65_536)


def assert_live_and_late_readers_agree(data: bytes, piece: int) -> None:
    body = RequestBody(len(data), 0)
    live: EditedReader | None = None
    edits: list[Edit] = []
    digest = hashlib.sha256()
    for start in range(0, len(data), piece):
        body.receive_data(data[start : start + piece])
        model = body.members.find("model")
        if live is None and model is not None:
            edits = [replace_value(model, b'"another model"')]
            live = EditedReader(body, edits)
        while live is not None and (read := live.read(65_536)):
            digest.update(read)
    body.receive_eof()
    assert body.complete
    assert body.received == len(data)
    assert live is not None
    assert live.at_end

    expected = data.replace(b'"claude-opus-5-5"', b'"another model"')
    assert digest.digest() == hashlib.sha256(expected).digest()
    assert edited_length(len(data), edits) == len(expected)
    late = EditedReader(body, edits)
    digest = hashlib.sha256()
    while not late.at_end:
        digest.update(late.read(10_000))
    assert digest.digest() == hashlib.sha256(expected).digest()


@given(st.lists(st.integers(1, 40_000), max_size=8), st.lists(st.tuples(st.integers(0, 2**20), st.integers(1, 70_000))))
def test_any_stored_range_reads_back_however_it_came(sizes: list[int], reads: list[tuple[int, int]]) -> None:
    head = b'{"model":"m","a":"'
    data = head + bytes(48 + i % 10 for i in range(sum(sizes)))
    body = RequestBody(None, 0)
    body.receive_data(head)
    for size in sizes:
        body.receive_data(data[body.received : body.received + size])
        for place, most in reads:
            offset = place % body.received
            piece = body.read(offset, most)
            assert 1 <= len(piece) <= most
            assert piece == data[offset : offset + len(piece)]
    assert read_all(body) == data


def test_a_large_piece_is_stored_and_read_without_a_copy() -> None:
    first = SMALL[:-1] + b" " * 30_000
    second = b" " * 20_000
    body = RequestBody(None, 0)
    body.receive_data(first)
    body.receive_data(second)
    assert body.read(0, 65_536) is first
    assert body.read(len(first), len(second)) is second


def test_single_bytes_cost_about_what_they_are() -> None:
    data = SMALL[:-1] + b" " * 40_000
    pieces = [data[i : i + 1] for i in range(len(data))]
    body = RequestBody(None, 0)
    tracemalloc.start()
    try:
        for piece in pieces:
            body.receive_data(piece)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 1.5 * len(data) + 20_000
    assert read_all(body) == data


# What is wrong with a body.


@pytest.mark.parametrize("piece", [1, 7, 100])
def test_a_body_is_refused_once_it_passes_the_limit_and_not_before(piece: int) -> None:
    data = SMALL[:-1] + b" " * 50
    body = RequestBody(None, len(data) - 1)
    last = (len(data) - 1) // piece * piece
    for start in range(0, last, piece):
        body.receive_data(data[start : start + piece])
    assert body.error is None
    with pytest.raises(BodyTooLarge) as raised:
        body.receive_data(data[last : last + piece])
    assert isinstance(body.error, BodyTooLarge)
    assert raised.value.status == 413
    assert body.received == last
    body.receive_eof()
    assert not body.complete


def test_a_body_of_exactly_the_limit_is_taken() -> None:
    body = RequestBody(len(SMALL), len(SMALL))
    body.receive_data(SMALL)
    body.receive_eof()
    assert body.complete
    assert body.error is None


def test_a_declared_length_beyond_the_limit_is_refused_before_a_byte_has_come() -> None:
    with pytest.raises(BodyTooLarge):
        RequestBody(101, 100)
    assert RequestBody(101, 0).error is None


@pytest.mark.parametrize(("declared", "word"), [(len(SMALL) + 1, "shorter"), (len(SMALL) - 1, "longer")])
def test_a_body_that_is_not_as_long_as_declared_never_becomes_complete(declared: int, word: str) -> None:
    body = RequestBody(declared, 0)
    body.receive_data(SMALL[:5])
    body.receive_data(SMALL[5:])
    body.receive_eof()
    assert not body.complete
    assert isinstance(body.error, ClientError)
    assert body.error.status == 400
    assert word in body.error.message
    assert body.received <= declared


def test_malformed_json_is_told_by_error_and_not_raised() -> None:
    body = RequestBody(None, 0)
    body.receive_data(b'{"model":"m",')
    assert body.error is None
    body.receive_data(b"]")
    assert isinstance(body.error, MalformedBody)
    body.receive_eof()
    assert not body.complete
    ended = RequestBody(None, 0)
    ended.receive_data(b'{"stream":true}')
    ended.receive_eof()
    assert isinstance(ended.error, MalformedBody)
    assert ended.error.message == "model: Field required"
    assert not ended.complete


def test_the_first_error_stays() -> None:
    body = RequestBody(None, 0)
    first = RelayError("the client left")
    body.fail(first)
    body.fail(RelayError("again"))
    body.receive_data(SMALL)
    body.receive_eof()
    assert body.error is first
    assert (body.received, body.complete) == (0, False)


def test_a_complete_body_cannot_fail_any_more() -> None:
    body = RequestBody(None, 0)
    body.receive_data(SMALL)
    body.receive_eof()
    body.fail(RelayError("the client left"))
    assert body.error is None


# Who is told, and for how long the bytes are kept.


def test_watchers_hear_of_each_change_until_they_cancel() -> None:
    body = RequestBody(None, 0)
    heard: list[tuple[int, bool]] = []
    cancel = body.watch(lambda: heard.append((body.received, body.complete)))
    body.receive_data(SMALL[:5])
    body.receive_data(SMALL[5:])
    body.receive_eof()
    cancel()
    cancel()
    body.release()
    assert heard == [(5, False), (13, False), (13, True)]


def test_a_failure_is_heard() -> None:
    body = RequestBody(None, 3)
    heard: list[RelayError | None] = []
    body.watch(lambda: heard.append(body.error))
    with pytest.raises(BodyTooLarge):
        body.receive_data(b"{   ")
    assert heard == [body.error]
    assert isinstance(body.error, BodyTooLarge)


def test_watchers_may_cancel_themselves_and_others_and_watch_anew_while_they_are_called() -> None:
    body = RequestBody(None, 0)
    heard: list[str] = []
    cancels: dict[str, Callable[[], None]] = {}

    def first() -> None:
        heard.append("first")
        cancels["first"]()
        cancels["second"]()
        cancels["new"] = body.watch(lambda: heard.append("new"))

    cancels["first"] = body.watch(first)
    cancels["second"] = body.watch(lambda: heard.append("second"))
    cancels["third"] = body.watch(lambda: heard.append("third"))
    body.receive_data(SMALL[:5])
    assert heard == ["first", "third"]
    body.receive_data(SMALL[5:])
    assert heard == ["first", "third", "third", "new"]


def test_the_same_callback_may_watch_twice() -> None:
    body = RequestBody(None, 0)
    heard: list[int] = []

    def listen() -> None:
        heard.append(body.received)

    cancel = body.watch(listen)
    body.watch(listen)
    body.receive_data(SMALL[:5])
    cancel()
    body.receive_data(SMALL[5:])
    assert heard == [5, 5, 13]


class Piece(bytes):
    """Bytes that tell when they are freed."""

    freed = 0

    def __del__(self) -> None:
        Piece.freed += 1


def test_released_bytes_are_freed_and_cannot_be_read_and_later_ones_are_not_kept() -> None:
    before = Piece.freed
    body = RequestBody(None, 0)
    body.receive_data(Piece(SMALL[:-1] + b" " * 20_000))
    assert Piece.freed == before
    heard: list[bool] = []
    body.watch(lambda: heard.append(body.released))
    body.release()
    body.release()
    assert heard == [True]
    assert Piece.freed == before + 1
    with pytest.raises(ValueError, match="released"):
        body.read(0, 10)
    body.receive_data(Piece(b" " * 20_000))
    assert Piece.freed == before + 2
    assert body.received == len(SMALL) - 1 + 40_000


def test_a_body_given_back_early_still_ends_in_good_order() -> None:
    body = RequestBody(len(SMALL), 0)
    body.receive_data(SMALL[:5])
    body.release()
    body.receive_data(SMALL[5:])
    body.receive_eof()
    assert body.complete
    assert body.error is None


def test_a_malformed_body_is_freed_without_the_collector() -> None:
    gc.disable()
    try:
        before = Piece.freed
        body = RequestBody(None, 0)
        body.receive_data(Piece(b"[" + b" " * 20_000))
        assert body.error is not None
        del body
        assert Piece.freed == before + 1
    finally:
        gc.enable()
