"""Walking through a complete JSON text by spans, and taking parts out of it without touching the rest.

Rules of this file:
- The bytes are read as Latin-1: one character per byte, so every position is a byte offset. JSON's own marks are ASCII,
  and inside strings any byte from 0x80 on passes. Names and strings are thus exact where they are ASCII, and must only
  be compared with ASCII.
- Values are stepped over by the C scanner of ``json``. It builds them, so a value costs nothing more when it is asked
  for; it is let go before the next one, so memory peaks at the largest value that nobody walked into.
- The upstream is the authority on what is valid: raw control characters in strings and NaN pass.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

from ccrelay.core.edits import Source
from ccrelay.core.folding import FoldedBlock
from ccrelay.core.model import Edit
from ccrelay.errors import MalformedBody

Span = tuple[int, int]
"""A part's bytes, [start, end)."""

_WHITE = re.compile(r"[ \t\n\r]*+")
_DECODER = json.JSONDecoder(strict=False, parse_int=float)  # an int of thousands of digits is an error
_READ_AT_ONCE = 1 << 30  # a body gives a piece at a time anyway

MOST_PARTS = 250_000
"""Elements and members of a body that is read. Built all at once they take 0.2 s, in which no other thread runs, and
22 MB; 32 MiB of ``[],`` would take ten seconds and a gigabyte. A million tokens of chat and tools make a fifth."""

_PARTS_BLOCK = 1 << 18  # counted at a time: below a millisecond
_STRING = re.compile(rb'"[^"]*+"')


def whole(body: Source) -> bytes:
    """All bytes of a complete body. Raises ValueError if it has been released, or has not all arrived."""
    if not body.complete:
        raise ValueError("the body has not all arrived")
    pieces = []
    offset = 0
    while offset < body.received:
        piece = body.read(offset, _READ_AT_ONCE)
        pieces.append(piece)
        offset += len(piece)
    return b"".join(pieces)


class Walker:
    """Goes through a JSON text from one value, in order.

    text: the body, as ``text_of`` gives it. position: of that value; white space before it is skipped.

    ``members()`` and ``elements()`` stop in front of each value, where ``position`` is its first byte. There the caller
    may take it by ``value()``, walk into it, or leave it; it is passed over when the next one is asked for. After any
    of them ``position`` is the value's end. An iteration that is given up half way leaves the walker where it was.

    Everything raises MalformedBody where the text is not JSON or is nested deeper than the scanner's stack: then
    nothing can be said about it, and only whether it may go on as it is can be decided.
    """

    __slots__ = ("_text", "position")

    def __init__(self, text: str, position: int = 0) -> None:
        self._text = text
        self.position = self._skip_white(position)

    @property
    def first(self) -> str:
        """The first character of the value ahead; empty at the end of the text."""
        return self._text[self.position : self.position + 1]

    def value(self) -> Any:
        """Read the value ahead: dict, list, str, bool, None; float for every number.

        A member that is named twice counts as its last, as ``json`` has it.
        """
        position = self.position
        try:
            value, self.position = _DECODER.raw_decode(self._text, position)
        except json.JSONDecodeError as error:
            fault = _broken(error.msg, error.pos)
        except RecursionError:
            fault = MalformedBody("The request body is nested too deep to be read")
        else:
            return value
        raise fault  # not from inside the handler: the decoder's error would keep the whole text with it

    def elements(self) -> Iterator[int]:
        """Walk into the array ahead: yields each element's index. Raises MalformedBody if it is no array."""
        index = 0
        self._enter("[")
        if self.first == "]":
            self.position += 1
            return
        while True:
            yield from self._stop_at(index)
            index += 1
            if self._comma_or("]"):
                return

    def members(self) -> Iterator[tuple[str, int]]:
        """Walk into the object ahead: yields each member's name and the position of the name's quote.

        Raises MalformedBody if it is no object.
        """
        self._enter("{")
        if self.first == "}":
            self.position += 1
            return
        while True:
            start = self.position
            if self.first != '"':
                raise _broken("expected a member's name in double quotes", start)
            name = self.value()
            self.position = self._skip_white(self.position)
            self._enter(":")
            yield from self._stop_at((name, start))
            if self._comma_or("}"):
                return

    def _stop_at(self, here: Any) -> Iterator[Any]:
        """Let the caller have the value ahead, and pass over it if it did not take it."""
        start = self.position
        yield here
        if self.position == start:
            self.value()

    def _comma_or(self, closing: str) -> bool:
        """Step behind the mark that follows a value. True: it was the closing one; False: a comma."""
        self.position = self._skip_white(self.position)
        if self.first == closing:
            self.position += 1
            return True
        self._enter(",")
        return False

    def _enter(self, mark: str) -> None:
        if self.first != mark:
            raise _broken(f"expected {mark!r}", self.position)
        self.position = self._skip_white(self.position + 1)

    def _skip_white(self, position: int) -> int:
        return _WHITE.match(self._text, position).end()  # type: ignore[union-attr]


def text_of(body: bytes) -> str:
    """The body as a text whose positions are the body's."""
    return body.decode("latin-1")


def refuse_crowded(body: bytes) -> None:
    """Raises MalformedBody if a body has more than MOST_PARTS: it must not be read, though its upstream may take it."""
    blocks = range(0, len(body), _PARTS_BLOCK)
    most = 0
    for start in blocks:
        most += _marks(body[start : start + _PARTS_BLOCK])
        if most > MOST_PARTS:
            break
    else:
        return  # nearly always, those within strings counted
    parts = 0
    escaped = in_string = False
    for start in blocks:
        block = FoldedBlock(body[start : start + _PARTS_BLOCK], escaped)
        escaped, text = block.escaped, block.text
        if in_string:
            _, quote, text = text.partition(b'"')
            in_string = not quote
        if not in_string:
            text, quote, _ = _STRING.sub(b"", text).partition(b'"')
            in_string = bool(quote)
            parts += _marks(text)
        if parts > MOST_PARTS:
            raise MalformedBody(f"The request body has more than {MOST_PARTS} values")


def _marks(text: bytes) -> int:
    """Of what a part begins with or follows."""
    return text.count(b",") + text.count(b"[") + text.count(b"{")


def remove_members(text: str, position: int, names: Collection[str]) -> tuple[Edit, ...]:
    """The edits that take members out of the object at ``position``, however often they are named. See ``remove``.

    Raises MalformedBody if there is no object, or it is broken.
    """
    walker = Walker(text, position)
    parts: list[Span] = []
    which = set()
    for name, start in walker.members():
        walker.value()
        if name in names:
            which.add(len(parts))
        parts.append((start, walker.position))
    return remove(parts, which)


def remove_elements(text: str, position: int, unwanted: Callable[[Any], bool]) -> tuple[Edit, ...]:
    """The edits that take those elements out of the array at ``position`` whose value is unwanted. See ``remove``.

    Raises MalformedBody if there is no array, or it is broken.
    """
    walker = Walker(text, position)
    parts: list[Span] = []
    which = set()
    for index in walker.elements():
        start = walker.position
        if unwanted(walker.value()):
            which.add(index)
        parts.append((start, walker.position))
    return remove(parts, which)


def remove(parts: Sequence[Span], which: Collection[int]) -> tuple[Edit, ...]:
    """The edits that take some parts out of one array or object, each with exactly one comma.

    parts: the spans of all its elements, or of all its members from the name's quote to the value's end, in order.
    which: the indexes of those to remove; fastest as a set. Runs of neighbours become one edit, so the edits are sorted
    and apart. What is left is valid JSON whatever is removed, but only together: the edits of two calls for the same
    array or object may meet at a comma and break it.
    """
    edits = []
    index = 0
    while index < len(parts):
        first = index
        while index < len(parts) and index in which:
            index += 1
        if index == first:
            index += 1
        elif index < len(parts):
            edits.append(Edit(parts[first][0], parts[index][0], b""))
        else:
            edits.append(Edit(parts[first - 1][1] if first else parts[0][0], parts[-1][1], b""))
    return tuple(edits)


def _broken(what: str, position: int) -> MalformedBody:
    return MalformedBody(f"The request body is not valid JSON: {what}", position)
