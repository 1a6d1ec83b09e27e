"""Taking the escapes out of JSON text, so that what reads it next need not know about them.

In each block of input, every string that holds an escape is cut from its first backslash to its closing quote, and
that backslash stays in the place of what was cut. What remains has no escapes: its strings end at the next quote.
Most of a real request body is long strings with escapes, so most of it is gone after this step. Where such strings
are short and many, backslashes and quotes that are escaped are overwritten instead.

The first backslash after a string lies in another string if the text is JSON. If it does not, a backslash is left
outside the strings of the folded text, and everything before it has been folded correctly.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from itertools import accumulate

_BACKSLASH = 0x5C
_MAYBE_CLOSING = re.compile(rb'"(?<![^\\]\\")(?<![^\\]\\\\\\")')  # passes over quotes after one or three backslashes


_FEW_CUTS = 16
_BYTES_PER_CUT = 128
"""A block in which more strings than these have to be cut is treated otherwise: a cut costs as much as reading 200
bytes twice, and bodies of nothing but short strings with escapes must not be slow."""


class FoldedBlock:
    """A block of JSON text and what is left of it.

    data: the block. text: folded. escaped: the data ends in a string, behind a backslash that escapes the next byte;
    what follows must be folded with ``escaped`` as well.
    """

    __slots__ = ("_origins", "_parts", "_starts", "data", "escaped", "text")

    def __init__(self, data: bytes, escaped: bool) -> None:
        find, search = data.find, _MAYBE_CLOSING.search
        most = _FEW_CUTS + len(data) // _BYTES_PER_CUT
        parts: list[bytes] = []
        origins: list[int] = []  # where in data each part begins
        begin = 0
        cut = 0 if escaped else find(b"\\")
        fresh = 1 if escaped else cut  # a place in the string that is to be cut, not escaped itself
        self.data = data
        self.escaped = False
        while cut >= 0:
            if len(parts) == most:
                self._blot(escaped)
                return
            parts.append(data[begin : cut + 1])
            origins.append(begin)
            found = search(data, fresh)
            begin = found.start() if found is not None else -1
            if begin > fresh and data[begin - 1] == _BACKSLASH:
                begin = _closing_quote(data, fresh, begin)
            if begin < 0:
                begin = len(data)
                self.escaped = (begin - max(fresh, len(data.rstrip(b"\\")))) % 2 == 1
                break
            cut = fresh = find(b"\\", begin)
        parts.append(data[begin:])
        origins.append(begin)
        if escaped:
            parts[0] = b"\\"
        self.text = b"".join(parts)
        self._parts = parts
        self._origins = origins
        self._starts: list[int] | None = None  # where in text each part begins

    def _blot(self, escaped: bool) -> None:
        """Put a letter over each escape that a reader could stumble over, which keeps every place."""
        text = b"_" + self.data[1:] if escaped else self.data
        self.text = text.replace(b"\\\\", b"__").replace(b'\\"', b"__")
        self.escaped = self.text.endswith(b"\\")
        self._parts = [self.text]

    def origin(self, pos: int) -> int:
        """The place in ``data`` of the byte at ``pos`` in ``text``; the end of one is at the end of the other."""
        if len(self._parts) == 1:
            return pos
        if self._starts is None:
            self._starts = list(accumulate(map(len, self._parts), initial=0))
            self._starts.pop()
        part = bisect_right(self._starts, pos) - 1
        return self._origins[part] + pos - self._starts[part]


def _closing_quote(data: bytes, fresh: int, quote: int) -> int:
    """The end of the string in which data[fresh] is a place that is not escaped; -1: it is not in ``data``.

    quote: the first quote from there that _MAYBE_CLOSING finds. Each byte is looked at once more at most.
    """
    while data[quote - 1] == _BACKSLASH:
        backslashes = quote - fresh - len(data[fresh:quote].rstrip(b"\\"))
        if backslashes % 2 == 0:
            break
        fresh = quote + 1
        found = _MAYBE_CLOSING.search(data, fresh)
        if found is None:
            return -1
        quote = found.start()
    return quote
