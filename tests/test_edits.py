"""The reader against the naive splice, for any arrival, any edits and any read sizes."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from ccrelay.core.edits import EditedReader, edited_length, replace_value
from ccrelay.core.members import Member
from ccrelay.core.model import Edit


class ArrivingBody:
    """A body of which ``received`` bytes are there; reads stop where a stored piece does."""

    def __init__(self, data: bytes, cuts: list[int]) -> None:
        self.data = data
        self._cuts = cuts
        self.received = 0
        self.complete = False

    def read(self, offset: int, most: int) -> bytes:
        assert 0 <= offset < self.received
        assert most > 0
        piece_end = min([cut for cut in self._cuts if cut > offset] + [self.received])
        return self.data[offset : min(offset + most, piece_end, self.received)]


@st.composite
def edited_bodies(draw: Any) -> tuple[bytes, list[Edit]]:
    """Bytes and sorted, disjoint edits of them: replacements, removals and insertions."""
    data = draw(st.binary(max_size=60))
    ends = sorted(draw(st.lists(st.integers(0, len(data)), max_size=8)))
    edits = [
        Edit(start, end, draw(st.binary(max_size=10)))
        for number, (start, end) in enumerate(pairwise(ends))
        if number % 2 == 0
    ]
    return data, edits


def spliced(data: bytes, edits: list[Edit]) -> bytes:
    for edit in reversed(edits):
        data = data[: edit.start] + edit.replacement + data[edit.end :]
    return data


STEPS = st.lists(st.tuples(st.integers(0, 1), st.integers(1, 40)), max_size=30)


@given(edited_bodies(), st.lists(st.integers(0, 60)), STEPS)
@example((b"abc", [Edit(3, 3, b"x")]), [], [(0, 9), (0, 9)])
@example((b"abc", [Edit(0, 0, b"x"), Edit(0, 3, b""), Edit(3, 3, b"y")]), [1], [])
def test_readers_see_the_splice_however_the_body_arrives_and_is_read(
    edited: tuple[bytes, list[Edit]], cuts: list[int], steps: list[tuple[int, int]]
) -> None:
    data, edits = edited
    expected = spliced(data, edits)
    body = ArrivingBody(data, cuts)
    readers = [EditedReader(body, edits), EditedReader(body, edits)]
    outputs = [bytearray(), bytearray()]
    for which, most in steps:
        piece = readers[which].read(most)
        assert len(piece) <= most
        outputs[which] += piece
        assert expected.startswith(bytes(outputs[which]))
        assert not readers[which].at_end
        body.received = min(body.received + most // 2, len(data))
    body.received = len(data)
    body.complete = True
    for reader, output in zip(readers, outputs, strict=True):
        while not reader.at_end:
            piece = reader.read(7)
            assert piece
            output += piece
        assert output == expected
        assert reader.read(7) == b""
    assert edited_length(len(data), edits) == len(expected)


@given(edited_bodies())
def test_what_has_arrived_can_be_read_at_once_up_to_an_edit_that_has_not(edited: tuple[bytes, list[Edit]]) -> None:
    data, edits = edited
    body = ArrivingBody(data, [])
    body.received = len(data) // 2
    reader = EditedReader(body, edits)
    output = bytearray()
    while piece := reader.read(1000):
        output += piece
    reach, done = body.received, list[Edit]()
    for edit in edits:
        if edit.start <= reach:
            done.append(edit)
            reach = max(reach, edit.end)
    assert output == spliced(data[:reach], done)


def test_a_piece_without_edits_is_not_copied() -> None:
    whole = b"x" * 50_000

    class Stored(ArrivingBody):
        def read(self, offset: int, most: int) -> bytes:
            return whole if offset == 0 and most >= len(whole) else super().read(offset, most)

    body = Stored(whole + b"y", [len(whole)])
    body.received = len(whole)
    assert EditedReader(body, [Edit(len(whole), len(whole) + 1, b"z")]).read(65_536) is whole


def test_replacing_a_value_covers_exactly_its_span() -> None:
    body = b'{"model":"claude-x","a":1}'
    edit = replace_value(Member("model", 9, 19, b'"claude-x"'), b'"glm-4.7"')
    assert spliced(body, [edit]) == b'{"model":"glm-4.7","a":1}'
