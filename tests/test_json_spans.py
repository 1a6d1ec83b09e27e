"""Walking and cutting by spans, against json: the same edit of the tree is the oracle."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccrelay.core.json_spans import Walker, remove_elements, remove_members, text_of, whole
from ccrelay.core.model import Edit
from ccrelay.core.request_body import RequestBody
from ccrelay.errors import MalformedBody

NAMES = st.sampled_from(["type", "content", "a", "", 'q"uote', "back\\slash", "systè", "€", "[]{},:"])
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text('ab "\\/\n\t{}[],:\u20ac\U0001f600', max_size=10),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(NAMES, inner, max_size=4)),
    max_leaves=10,
)
WHITE = st.text(" \t\n\r", max_size=2)


@st.composite
def spelled(draw: Any, value: Any) -> str:
    """``value`` as JSON text, with any white space and either spelling of what is not ASCII."""
    around = lambda text: draw(WHITE) + text + draw(WHITE)  # noqa: E731
    if isinstance(value, dict):
        members = (around(draw(spelled(name))) + ":" + around(draw(spelled(item))) for name, item in value.items())
        return "{" + (",".join(members) or draw(WHITE)) + "}"
    if isinstance(value, list):
        return "[" + (",".join(around(draw(spelled(item))) for item in value) or draw(WHITE)) + "]"
    return json.dumps(value, ensure_ascii=draw(st.booleans()))


def applied(body: bytes, edits: tuple[Edit, ...]) -> bytes:
    """``body`` with ``edits``, which must be sorted, disjoint and not touch."""
    out, at = b"", 0
    for edit in edits:
        assert (at == 0 or at < edit.start) and edit.start <= edit.end <= len(body)
        out += body[at : edit.start] + edit.replacement
        at = edit.end
    return out + body[at:]


@given(st.data(), st.lists(VALUES, max_size=7))
def test_elements_removed_by_span_are_elements_removed_from_the_tree(data: st.DataObject, values: list[Any]) -> None:
    doomed = data.draw(st.lists(st.booleans(), min_size=len(values), max_size=len(values)))
    before, after = data.draw(WHITE) + "7", data.draw(WHITE)
    body = (before + data.draw(spelled(values)) + after).encode()
    verdicts = iter(doomed)

    edits = remove_elements(text_of(body), len(before), lambda _: next(verdicts))

    left = applied(body, edits)
    assert left.startswith(before.encode() + b"[") and left.endswith(b"]" + after.encode())
    assert json.loads(left[len(before) :]) == [value for value, gone in zip(values, doomed, strict=True) if not gone]


@given(st.data(), st.dictionaries(NAMES, VALUES, max_size=6), st.sets(st.sampled_from(["type", "content", "a", ""])))
def test_members_removed_by_span_are_members_removed_from_the_tree(
    data: st.DataObject, document: dict[str, Any], names: set[str]
) -> None:
    body = data.draw(spelled(document)).encode()

    left = applied(body, remove_members(text_of(body), 0, names))

    assert json.loads(left) == {name: value for name, value in document.items() if name not in names}


@given(st.data(), st.lists(VALUES, min_size=1, max_size=5))
def test_values_that_stay_keep_their_bytes(data: st.DataObject, values: list[Any]) -> None:
    texts = [data.draw(spelled(value)) for value in values]
    keep = data.draw(st.sets(st.sampled_from(range(len(texts)))))
    turn = iter(range(len(texts)))
    body = ("[" + ",".join(texts) + "]").encode()

    left = applied(body, remove_elements(text_of(body), 0, lambda _: next(turn) not in keep)).decode()

    for index, text in enumerate(texts):
        if index in keep:
            before, found, left = left.partition(text.strip())
            assert found and before.strip("[, \t\n\r") == ""
    assert left.strip("[ \t\n\r") == "]"


def test_a_name_that_is_given_twice_is_removed_twice() -> None:
    body = b'{"a":1, "b":2, "a":3}'

    assert applied(body, remove_members(text_of(body), 0, {"a"})) == b'{"b":2}'


def test_neighbours_are_removed_by_one_edit() -> None:
    body = b"[0, 1, 2, 3]"

    assert remove_elements(text_of(body), 0, lambda value: value in (1, 2)) == (Edit(4, 10, b""),)


def walked(text: str, walker: Walker) -> Any:
    """The tree of the value ahead, put together from the spans of its scalars."""
    if walker.first == "[":
        return [walked(text, walker) for _ in walker.elements()]
    if walker.first == "{":
        return {name: walked(text, walker) for name, _ in walker.members()}
    start = walker.position
    walker.value()
    return json.loads(text[start : walker.position], strict=False, parse_int=float)


@given(st.data(), VALUES)
def test_spans_hold_the_values_that_json_reads(data: st.DataObject, value: Any) -> None:
    text = text_of((data.draw(WHITE) + data.draw(spelled(value))).encode())
    walker = Walker(text)

    found = walked(text, walker)

    assert json.dumps(found) == json.dumps(json.loads(text, parse_int=float))
    assert walker.position == len(text)


@given(st.binary(max_size=30) | st.text('{}[]",:\\ab1 ', max_size=30).map(str.encode))
def test_what_is_walked_without_complaint_is_what_json_takes(body: bytes) -> None:
    text = text_of(body)
    walker = Walker(text)
    try:
        value, end = json.JSONDecoder(strict=False, parse_int=float).raw_decode(text, walker.position)
    except json.JSONDecodeError:
        with pytest.raises(MalformedBody):
            walked(text, walker)
    else:
        assert json.dumps(walked(text, walker)) == json.dumps(value)
        assert walker.position == end


def test_a_value_left_alone_is_passed_over_and_one_walked_into_is_not_read_twice() -> None:
    text = text_of(b'{"skipped": [1, {"x": "]"}], "entered": [1, 2], "taken": {"y": 3}}')
    walker = Walker(text)
    seen: list[Any] = []

    for name, _ in walker.members():
        if name == "entered":
            seen.append([walker.value() for _ in walker.elements()])
        elif name == "taken":
            seen.append(walker.value())

    assert seen == [[1, 2], {"y": 3}]
    assert walker.position == len(text)


def test_a_member_starts_at_the_quote_of_its_name() -> None:
    text = text_of('{"é":1, "b":2}'.encode())
    walker = Walker(text)

    assert [text[start : start + 4] for _, start in walker.members()] == ['"Ã©"', '"b":']


@pytest.mark.parametrize(
    "body",
    [
        b"", b"[", b"[1", b"[1,", b"[1,]", b"[,]", b"[1 2]", b"[1}", b'["a]', b'["\\x"]', b"[tru]", b"[01]", b"[\x80]",
    ],
)  # fmt: skip
def test_a_broken_array_is_malformed(body: bytes) -> None:
    with pytest.raises(MalformedBody) as caught:
        list(Walker(text_of(body)).elements())

    assert caught.value.status == 400


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b'{"a"', b'{"a"}', b'{"a":', b'{"a":}', b'{"a":1', b'{"a":1,', b'{"a":1,}', b"{a:1}", b"{1:1}",
        b'{"a":1 "b":2}', b'{"a":1]', b'{"a',
    ],
)  # fmt: skip
def test_a_broken_object_is_malformed(body: bytes) -> None:
    with pytest.raises(MalformedBody):
        list(Walker(text_of(body)).members())


def test_nesting_beyond_the_scanner_is_malformed_and_does_not_keep_the_text() -> None:
    text = text_of(b"[" * 200_000)

    with pytest.raises(MalformedBody) as caught:
        list(Walker(text).elements())

    assert caught.value.__context__ is None


@pytest.mark.parametrize("digits", [b"9" * 5000, b"1e999999", b"-0"])
def test_numbers_of_any_size_are_passed_over(digits: bytes) -> None:
    body = b"[" + digits + b",true]"

    assert applied(body, remove_elements(text_of(body), 0, lambda value: value is not True)) == b"[true]"


@pytest.mark.parametrize("cut", [1, 7, 16384, 40000])
def test_a_body_is_read_whole_however_it_came(cut: int) -> None:
    sent = b'{"model":"m","x":"' + bytes(range(97, 123)) * 4000 + b'"}'
    body = RequestBody(len(sent), 0)
    for start in range(0, len(sent), cut):
        body.receive_data(sent[start : start + cut])
    body.receive_eof()

    assert whole(body) == sent


def test_a_body_that_is_still_arriving_is_not_whole() -> None:
    body = RequestBody(None, 0)
    body.receive_data(b'{"model":"m"')

    with pytest.raises(ValueError, match="not all arrived"):
        whole(body)
