"""Bodies that are made to cost more than they are: many tiny values, deep nesting where fields are looked for."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccrelay.core import json_spans
from ccrelay.core.json_spans import MOST_PARTS, refuse_crowded
from ccrelay.core.needs import needs_of
from ccrelay.core.pair_edits import nested_edits
from ccrelay.core.thinking import Issuer, thinking_edits
from ccrelay.errors import MalformedBody

CROWDED = [
    b'{"model":"m","messages":[{"content":[%b0]}]}' % (unit * MOST_PARTS) for unit in (b"[],", b"{},", b"1,", b'"",')
]


@pytest.mark.parametrize("body", CROWDED, ids=["lists", "objects", "numbers", "strings"])
def test_a_body_of_nothing_but_tiny_values_is_not_built(body: bytes) -> None:
    with pytest.raises(MalformedBody, match="more than"):
        needs_of(body)
    with pytest.raises(MalformedBody, match="more than"):
        thinking_edits(body, Issuer("claude", "a"), lambda _: None, strip_unknown=False)
    with pytest.raises(MalformedBody, match="more than"):
        nested_edits(body[:-1] + b',"tools":[{"defer_loading":true}]}', ["tools.defer_loading"])


@pytest.mark.parametrize("text", ["1, [2], {3} " * MOST_PARTS, '\\", [' * MOST_PARTS, "\\\\\\" * MOST_PARTS])
def test_what_stands_in_strings_makes_no_body_crowded(text: str) -> None:
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": text}]}).encode()
    refuse_crowded(body)
    assert needs_of(body).tokens_high > 0


VALUES: Any = st.recursive(
    st.none() | st.floats(allow_nan=False) | st.text(st.sampled_from('a\\",[{é')),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(st.sampled_from('a\\",[{')), inner, max_size=4),
    max_leaves=20,
)


@given(VALUES, st.integers(1, 9))
def test_parts_are_counted_as_they_are_wherever_a_block_ends(value: Any, block: int) -> None:
    """The oracle: commas and opening brackets of the same value with its strings emptied."""

    def emptied(part: Any) -> Any:
        if isinstance(part, list):
            return [emptied(each) for each in part]
        if isinstance(part, dict):
            return [[emptied(each)] for each in part.values()]
        return "" if isinstance(part, str) else part

    def brackets(part: Any) -> int:
        """What the stand-in for an object's members has more than its object."""
        if isinstance(part, dict):
            return len(part) + sum(map(brackets, part.values()))
        return sum(map(brackets, part)) if isinstance(part, list) else 0

    bare = json.dumps(emptied(value))
    parts = bare.count(",") + bare.count("[") - brackets(value)
    body = json.dumps(value, ensure_ascii=False).encode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_spans, "_PARTS_BLOCK", block)
        patch.setattr(json_spans, "MOST_PARTS", parts)
        refuse_crowded(body)
        patch.setattr(json_spans, "MOST_PARTS", parts - 1)
        with pytest.raises(MalformedBody):
            refuse_crowded(body)


def test_a_field_is_not_looked_for_at_the_end_of_a_deep_hole() -> None:
    body = b'{"model":"m","tools":' + b"[" * 5000 + b'{"defer_loading":true}' + b"]" * 5000 + b"}"
    with pytest.raises(MalformedBody, match="nested too deep"):
        nested_edits(body, ["tools.defer_loading"])
