"""Setting and removing members of a JSON object in a file that people write: every other byte stays as it is."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass

from ccrelay.core.json_spans import Walker, remove_members, text_of
from ccrelay.core.model import Edit

_LINE_INDENT = re.compile(rb"(?:^|\n)([ \t]*)[^\n]*$")


@dataclass(frozen=True, slots=True)
class _Object:
    """An object's place: ``start`` is its brace, ``values`` where each value begins, ``end`` of its last member."""

    start: int
    values: dict[str, int]
    last_name: int | None
    last_end: int


def set_member(data: bytes, path: tuple[str, ...], value: object) -> bytes:
    """``data`` with the member at ``path`` having this value; objects on the way are made where they are missing.

    data: a JSON object, in UTF-8. Raises MalformedBody where something on the way is no object.
    """
    here = _object_at(data, 0)
    for depth, name in enumerate(path):
        position = here.values.get(name)
        last = depth == len(path) - 1
        if position is None:
            return _inserted(data, here, path[depth:], value)
        if not last:
            here = _object_at(data, position)
    walker = Walker(text_of(data), position or 0)
    start = walker.position
    walker.value()
    return _applied(data, [Edit(start, walker.position, json.dumps(value).encode())])


def remove_member(data: bytes, path: tuple[str, ...]) -> bytes:
    """``data`` without the member at ``path``; the same where there is none."""
    here = _object_at(data, 0)
    for name in path[:-1]:
        position = here.values.get(name)
        if position is None:
            return data
        here = _object_at(data, position)
    if path[-1] not in here.values:
        return data
    return _applied(data, remove_members(text_of(data), here.start, {path[-1]}))


def _object_at(data: bytes, position: int) -> _Object:
    walker = Walker(text_of(data), position)
    start = walker.position
    values: dict[str, int] = {}
    last_name, last_end = None, 0
    for name, name_start in walker.members():
        values[name] = walker.position
        walker.value()
        last_name, last_end = name_start, walker.position
    return _Object(start, values, last_name, last_end)


def _inserted(data: bytes, here: _Object, path: tuple[str, ...], value: object) -> bytes:
    """A new last member, set like the one before it; in an empty object, on a line of its own."""
    found = _LINE_INDENT.search(data[: here.start])
    outer = found[1] if found is not None else b""
    if here.last_name is None:
        gap = b"\n" + outer + b"  "
        end = data.index(b"}", here.start) + 1
        text = b"{" + gap + _member(path, value, gap) + b"\n" + outer + b"}"
        return _applied(data, [Edit(here.start, end, text)])
    before = data[: here.last_name]
    gap = before[len(before.rstrip(b" \t\r\n")) :]
    return _applied(data, [Edit(here.last_end, here.last_end, b"," + (gap or b" ") + _member(path, value, gap))])


def _member(path: tuple[str, ...], value: object, gap: bytes) -> bytes:
    """The member's text, with the objects that it is in; ``gap``: the white space before a member at its level."""
    name = json.dumps(path[0]).encode() + b": "
    if len(path) == 1:
        return name + json.dumps(value).encode()
    if b"\n" not in gap:
        return name + b"{" + _member(path[1:], value, gap) + b"}"
    deeper = gap + b"  "
    return name + b"{" + deeper + _member(path[1:], value, deeper) + gap + b"}"


def _applied(data: bytes, edits: Iterable[Edit]) -> bytes:
    for edit in sorted(edits, key=lambda edit: -edit.start):
        data = data[: edit.start] + edit.replacement + data[edit.end :]
    return data
