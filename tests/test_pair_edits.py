"""Fields are taken out of the inside of a body, and nothing else."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccrelay.core.model import Edit
from ccrelay.core.pair_edits import nested_edits
from ccrelay.errors import MalformedBody

NAMES = ["tools", "messages", "content", "defer", "é"]
VALUES = st.recursive(
    st.none() | st.integers() | st.text(max_size=4) | st.just("tools"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=4),
    max_leaves=20,
)
BODIES = st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=5)
PATHS = st.sets(st.lists(st.sampled_from(NAMES[:4]), min_size=2, max_size=4).map(".".join), max_size=4)


def applied(body: bytes, edits: tuple[Edit, ...]) -> bytes:
    for edit in reversed(edits):
        body = body[: edit.start] + edit.replacement + body[edit.end :]
    return body


def without(value: Any, path: list[str]) -> Any:
    if isinstance(value, list):
        return [without(item, path) for item in value]
    if not isinstance(value, dict):
        return value
    if len(path) == 1:
        return {name: item for name, item in value.items() if name != path[0]}
    return {name: without(item, path[1:]) if name == path[0] else item for name, item in value.items()}


@given(BODIES, PATHS, st.sampled_from([None, 1]), st.booleans())
def test_only_the_named_members_go(document: Any, paths: set[str], indent: int | None, ascii_only: bool) -> None:
    body = json.dumps(document, indent=indent, ensure_ascii=ascii_only).encode("utf-8")
    edits = nested_edits(body, paths)
    for path in sorted(paths, key=len):
        document = without(document, path.split("."))
    assert json.loads(applied(body, edits)) == document
    assert all(a.end <= b.start for a, b in pairwise(edits))


def test_everything_else_keeps_its_bytes() -> None:
    body = b'{"tools": [ {"a" : 1.0,  "defer":true , "b":"\\u00e9"} ],"x":{"defer":1}}'
    expected = b'{"tools": [ {"a" : 1.0,  "b":"\\u00e9"} ],"x":{"defer":1}}'
    assert applied(body, nested_edits(body, {"tools.defer"})) == expected


def test_a_body_without_the_name_is_not_even_read() -> None:
    assert nested_edits(b'{"tools":[broken', {"tools.defer"}) == ()


def test_a_body_that_is_no_json_is_refused() -> None:
    with pytest.raises(MalformedBody):
        nested_edits(b'{"tools":[{"defer":1}', {"tools.defer"})
