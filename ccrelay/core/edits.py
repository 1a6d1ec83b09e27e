"""Changing a body by spans: everything outside an edit goes on as the bytes it came as (design section 4)."""

from __future__ import annotations

from collections.abc import Sequence
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


def edited_length(original: int, edits: Sequence[Edit]) -> int:
    """The length that ``original`` bytes have after ``edits``."""
    return original + sum(len(edit.replacement) - (edit.end - edit.start) for edit in edits)


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
