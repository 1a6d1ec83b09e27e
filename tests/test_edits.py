"""The reader against the naive splice, for any arrival, any edits and any read sizes."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ccrelay.core.edits import EditedReader, add_members, edited_length, merge_edits, remove_members, replace_value
from ccrelay.core.members import Member
from ccrelay.core.model import Edit
from tests.test_members import bodies, scan, top_level


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
    edit = replace_value(Member("model", 9, 19, b'"claude-x"', 1), b'"glm-4.7"')
    assert spliced(body, [edit]) == b'{"model":"glm-4.7","a":1}'


NAMES = ("model", "stream", "tags", "metadata", "m\u00e9ta")


@st.composite
def objects(draw: Any) -> bytes:
    """An object whose members' names repeat, with white space anywhere between its tokens."""
    others = st.tuples(st.sampled_from(NAMES[1:]), st.sampled_from(['"x"', "[1,{}]", "{}", "0", '"\\",\\""']))
    pairs = draw(st.lists(others, max_size=8))
    pairs.insert(draw(st.integers(0, len(pairs))), ("model", '"m"'))
    pieces = ["{"]
    for name, value in pairs:
        pieces += [json.dumps(name, ensure_ascii=draw(st.booleans())), ":", value, ","]
    pieces[-1] = "}"
    return "".join(piece + draw(st.text(" \n", max_size=2)) for piece in ["", *pieces]).encode()


REMOVED = st.sets(st.sampled_from(NAMES))
ADDED = st.dictionaries(
    st.sampled_from(["anthropic_version", "b\u00e9ta", 'q"']), st.sampled_from([b"1", b'["x"]', b"{}"])
)


@given(st.one_of(objects(), bodies()), REMOVED, ADDED)
@example(b'{"model":"m"}', {"model"}, {})
@example(b'{"model":"m"}', {"model"}, {"b\u00e9ta": b"1"})
@example(b'{"tags":0,"tags":1,"model":"m","tags":2,"tags":3}', {"tags"}, {"b\u00e9ta": b"1"})
def test_members_go_and_come_and_the_others_stay_as_they_are_spelled(
    body: bytes, removed: set[str], added: dict[str, bytes]
) -> None:
    members = scan(body, []).in_order
    removal = remove_members(members, removed)
    edited = spliced(body, list(merge_edits(add_members(members, added, removed), removal)))
    wanted = [(name, value) for name, value in top_level(body) if name not in removed]
    wanted += [(name, json.loads(text)) for name, text in added.items()]
    assert top_level(edited) == wanted
    for member in members:
        if member.name not in removed:
            assert body[member.name_start : member.end] in edited
    assert len(edited) >= len(body) - sum(edit.end - edit.start for edit in removal)


@given(objects(), REMOVED.map(lambda names: names - {"model"}))
def test_the_object_around_members_that_go_keeps_its_white_space(body: bytes, removed: set[str]) -> None:
    members = scan(body, []).in_order
    edited = spliced(body, list(remove_members(members, removed)))
    assert edited.startswith(body[: members[0].name_start])
    assert edited.endswith(body[members[-1].end :])


@given(edited_bodies(), st.integers(0, 60), st.integers(0, 60))
def test_edits_inside_a_removed_span_vanish_and_the_others_stay(
    edited: tuple[bytes, list[Edit]], one: int, other: int
) -> None:
    data, edits = edited
    start, end = sorted((min(one, len(data)), min(other, len(data))))
    crossing = [edit for edit in edits if edit.start < start < edit.end or edit.start < end < edit.end]
    removal = Edit(start, end, b"")
    if crossing or start == end:
        return
    inside = [edit for edit in edits if start <= edit.start and edit.end <= end and edit.start < edit.end]
    inside += [edit for edit in edits if start < edit.start == edit.end < end]
    outside = [edit for edit in edits if edit not in inside]
    merged = merge_edits(edits, [removal])
    assert sorted(merged, key=lambda edit: edit.start) == list(merged)
    assert all(first.end <= second.start for first, second in pairwise(merged))
    assert sorted(map(repr, merged)) == sorted(map(repr, [*outside, removal]))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Edit(1, 4, b"x"), Edit(2, 3, b"")),
        (Edit(1, 4, b"x"), Edit(1, 4, b"y")),
        (Edit(1, 4, b""), Edit(2, 5, b"")),
        (Edit(1, 4, b""), Edit(3, 6, b"x")),
        (Edit(1, 4, b"x"), Edit(2, 2, b"y")),
    ],
)
def test_edits_that_contradict_each_other_are_refused(one: Edit, other: Edit) -> None:
    for groups in ([[one], [other]], [[other], [one]]):
        with pytest.raises(ValueError, match="overlap"):
            merge_edits(*groups)


def test_a_removal_wins_over_a_replacement_of_the_same_span_in_any_order() -> None:
    removal, replacement = Edit(1, 4, b""), Edit(1, 4, b"x")
    assert merge_edits([removal], [replacement]) == merge_edits([replacement], [removal]) == (removal,)
    assert merge_edits([removal], [removal]) == (removal,)
