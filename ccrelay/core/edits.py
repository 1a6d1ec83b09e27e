"""Changing a body by spans: everything outside an edit goes on as the bytes it came as (design section 4)."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import chain, pairwise
from typing import Protocol

from ccrelay.core.members import Member
from ccrelay.core.model import Edit


class Source(Protocol):
    """A body that arrives: ``RequestBody``, as a reader sees it."""

    @property
    def received(self) -> int:
        """Bytes that have arrived."""

    @property
    def complete(self) -> bool:
        """No more will come."""

    def read(self, offset: int, most: int) -> bytes:
        """At least one and at most ``most`` bytes from ``offset``, which has arrived."""


def replace_value(member: Member, new_json: bytes) -> Edit:
    """The edit that gives ``member`` another value; ``new_json``: its JSON text."""
    return Edit(member.start, member.end, new_json)


def remove_members(members: Sequence[Member], names: Collection[str]) -> tuple[Edit, ...]:
    """The edits that take every member called one of ``names`` out of an object, with the commas that joined them.

    members: all of the object, at least one, in order (``MemberScanner.in_order`` of a complete body). The object
    stays valid JSON, and every other byte stays but the white space around what goes. Name all that is to go in one
    call: the edits of two could claim the same comma.
    """
    kept = [index for index, member in enumerate(members) if member.name not in names]
    if not kept:
        return (Edit(members[0].name_start, members[-1].end, b""),)
    edits = [Edit(members[0].name_start, members[kept[0]].name_start, b"")] if kept[0] else []
    for index, following in pairwise([*kept, len(members)]):
        if following > index + 1:
            edits.append(Edit(members[index].end, members[following - 1].end, b""))
    return tuple(edits)


def add_members(
    members: Sequence[Member], added: Mapping[str, bytes], removed: Collection[str] = ()
) -> tuple[Edit, ...]:
    """The edit that puts ``added`` at the end of an object: each name's value as JSON text, in order; none for none.

    members: as for ``remove_members``. removed: the names given to it for the same request, so that the comma is right
    for an object that has become empty. A name that stays in the object would then be there twice: remove it first.
    """
    text = b",".join(json.dumps(name).encode("ascii") + b":" + value for name, value in added.items())
    if text and any(member.name not in removed for member in members):
        text = b"," + text
    return (Edit(members[-1].end, members[-1].end, text),) if text else ()


def merge_edits(*groups: Iterable[Edit]) -> tuple[Edit, ...]:
    """All edits of one request, sorted and disjoint, from groups made independently of each other.

    What lies inside a span that another edit removes vanishes; so does an equal removal. An insertion at either edge of
    it stays. Raises ValueError for edits that overlap in any other way: nobody could say what they mean together.
    """
    merged: list[Edit] = []
    reach = 0  # where the last edit ends
    for edit in sorted(chain(*groups), key=_widest_removal_first):
        if edit.start >= reach:
            merged.append(edit)
            reach = edit.end
        elif merged[-1].replacement or edit.end > reach:
            raise ValueError("two edits of one body overlap")
    return tuple(merged)


def edited_length(original: int, edits: Sequence[Edit]) -> int:
    """The length that ``original`` bytes have after ``edits``."""
    return original + sum(len(edit.replacement) - (edit.end - edit.start) for edit in edits)


def _widest_removal_first(edit: Edit) -> tuple[int, bool, int, bool]:
    """The order of a body's edits; of those that begin together, insertions stand before everything."""
    return edit.start, edit.start < edit.end, -edit.end, edit.replacement != b""


class EditedReader:
    """Reads a body from its start with ``edits`` (sorted, disjoint) applied; any number may read one body.

    An edit may lie in bytes that have not arrived yet.
    """

    __slots__ = ("_body", "_edits", "_next", "_offset", "_pending")

    def __init__(self, body: Source, edits: Sequence[Edit]) -> None:
        self._body = body
        self._edits = tuple(edits)
        self._next = 0
        self._offset = 0
        self._pending = b""

    @property
    def at_end(self) -> bool:
        """Everything has been read, and the body is complete."""
        self._enter_edit()
        return not self._pending and self._body.complete and self._offset >= self._body.received

    def read(self, most: int) -> bytes:
        """The next bytes, at most ``most``; empty where nothing more has arrived yet, or at the end."""
        self._enter_edit()
        if self._pending:
            piece, self._pending = self._pending[:most], self._pending[most:]
            return piece
        stop = self._edits[self._next].start if self._next < len(self._edits) else self._offset + most
        count = min(most, stop - self._offset, self._body.received - self._offset)
        if count <= 0:
            return b""
        piece = self._body.read(self._offset, count)
        self._offset += len(piece)
        return piece

    def _enter_edit(self) -> None:
        """At an edit: put its replacement next, and step over what it replaces."""
        while not self._pending and self._next < len(self._edits) and self._offset == self._edits[self._next].start:
            edit = self._edits[self._next]
            self._next += 1
            self._offset = edit.end
            self._pending = edit.replacement
