"""Passing over a nested JSON value at the speed of the C library, to find where it ends.

A whole window of folded text (see ``folding``) is reduced to its brackets, and pairs that match are cancelled. What is
left, closing brackets and then opening ones, is compared with the stack of open brackets. Only a window that cannot
be skipped like that, because the value ends in it or because it is broken, is walked bracket by bracket.
"""

from __future__ import annotations

import re

from ccrelay.core.folding import FoldedBlock
from ccrelay.errors import MalformedBody

MAX_DEPTH = 10_000
"""Most brackets open at once, not counting those closed again within a window. The most generous parsers in common
use stop here (many at 1,000 and below), so nothing an upstream could read is refused, and the stack stays small."""

_NEAR = 128
"""Folded bytes that are walked at a time; windows are not made smaller than this when an end is looked for."""

_WINDOW = 8192
"""Most folded bytes that are outlined at once: the fixed cost of an outline does not matter any more, and a window
that proves to hold the end of its value is still found out soon."""

_ROUNDS = 16
"""Passes that cancel adjacent pairs. Each takes at least one pair off every peak of nesting, so that at most one peak
in 32 bytes is left; those are matched one by one. Thus the work stays linear however the input is nested."""

_QUOTE, _BACKSLASH, _LIST = b'"\\['
_OPENER_OF = bytes.maketrans(b"}]", b"{[")
_NOT_MARKS = bytes(set(range(256)) - set(b'"[]{}'))
_STRING = re.compile(rb'"[^"]*+"')
_UNMARKED = re.compile(rb'(?:[^"\\\[\]{}]++|"[^"]*+")*')  # not possessive: Python 3.11.2 forgets to step back there
_RUNS = re.compile(rb"([}\]]*+)([{\[]*+)")


class NestedValue:
    """An object or list whose first bracket has been read. ``closed``: so has its last."""

    __slots__ = ("_in_string", "_likely_end", "_stack", "closed")

    def __init__(self, bracket: int) -> None:
        self._stack = bytearray((bracket,))  # open brackets, outermost first
        self._in_string = False
        self._likely_end = b"}]," if bracket == _LIST else b"},"  # cutting windows here often spares a search
        self.closed = False

    def pass_over(self, block: FoldedBlock, pos: int, base: int) -> int:
        """Go on in ``block`` at the place ``pos`` of its folded text; returns the place behind the value, or the end.

        base: offset of the block in the body, for errors.
        Raises MalformedBody where brackets do not match or are nested deeper than MAX_DEPTH.
        """
        text, size = block.text, len(block.text)
        window, near = _WINDOW, _NEAR
        while pos < size:
            if self._in_string:
                quote = text.find(b'"', pos)
                if quote < 0:
                    return size
                self._in_string = False
                pos = quote + 1
            end = min(pos + window, size)
            cut = text.find(self._likely_end, pos + near, end)
            if cut >= 0:
                end = cut + 1
            walked = _NEAR
            if end > pos + _NEAR:
                if self._skip(text, pos, end):
                    pos = end
                    if cut < 0 or self._in_string:
                        continue
                    walked = 1
                    near *= 2  # if it does not end here: guess less often
                else:
                    window = (end - pos) // 2
            pos = self._walk(block, pos, min(pos + walked, size), base)
            if self.closed:
                return pos
        return pos

    def _skip(self, text: bytes, pos: int, end: int) -> bool:
        """Step over text[pos:end] at once. False, and nothing done, if it has to be walked."""
        brackets = text[pos:end].translate(None, _NOT_MARKS).replace(b'""', b"")  # no bracket stands between such two
        open_quote = b""
        if b'"' in brackets:
            brackets, open_quote, _ = _STRING.sub(b"", brackets).partition(b'"')
        for _ in range(_ROUNDS):
            before = len(brackets)
            brackets = brackets.replace(b"{}", b"").replace(b"[]", b"")
            if len(brackets) == before:
                break
        stack = self._stack
        for closing, opening in _RUNS.findall(brackets):
            depth = len(stack) - len(closing)
            if depth <= 0 or depth + len(opening) > MAX_DEPTH:
                return False
            if stack[depth:] != closing[::-1].translate(_OPENER_OF):
                return False
            stack = stack[:depth] + opening
        self._stack = stack
        self._in_string = bool(open_quote)
        return True

    def _walk(self, block: FoldedBlock, pos: int, end: int, base: int) -> int:
        """Go over text[pos:end] bracket by bracket, and further if a string goes on there; returns how far."""
        text, stack = block.text, self._stack
        while pos < end:
            pos = _UNMARKED.match(text, pos, end).end()  # type: ignore[union-attr]
            if pos == end:
                break
            mark = text[pos]
            if mark == _QUOTE:
                quote = text.find(b'"', pos + 1)
                if quote < 0:
                    self._in_string = True
                    return len(text)
                pos = quote
            elif mark in b"{[":
                stack.append(mark)
                if len(stack) > MAX_DEPTH:
                    raise MalformedBody(f"The request body is nested deeper than {MAX_DEPTH} levels")
            elif mark == _BACKSLASH:
                raise not_json("there is a backslash outside a string", base + block.origin(pos))
            elif stack.pop() != _OPENER_OF[mark]:
                raise not_json("brackets do not match", base + block.origin(pos))
            elif not stack:
                self.closed = True
                return pos + 1
            pos += 1
        return pos


def not_json(what: str, position: int | None) -> MalformedBody:
    """The error that says what is wrong with a body's grammar, and at which byte."""
    return MalformedBody(f"The request body is not valid JSON: {what}", position)
