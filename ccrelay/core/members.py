"""Finding the top-level members of a JSON object while its bytes arrive, without building the tree.

Routing needs ``model`` as soon as it is there, and nothing of what the bulk of a body is made of. So the text is first
freed of escapes (``folding``), nested values are passed over (``nesting``), and only what stands at the top level is
read here.

Not checked, because the upstream is the authority and reads every byte anyway: what stands between the strings and
brackets of *nested* values (``[1,,2]`` and stray backslashes may pass), what nested strings contain (raw control
characters, unknown escapes, bytes that are not UTF-8), and likewise the inside of top-level strings longer than
MAX_TOKEN. For a body that is JSON the members found are always the right ones.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass

from ccrelay.core.folding import FoldedBlock
from ccrelay.core.nesting import NestedValue, not_json
from ccrelay.errors import MalformedBody

ROUTING_MEMBER = "model"
"""The member that must be there exactly once, as a string that is not empty: it decides where the call goes, and a
second one would let the upstream read another model than the relay did."""

MAX_TOKEN = 4096
"""Bytes of the longest top-level name, number or ``model`` accepted, and of the longest scalar that is kept. Real
ones have tens of bytes; the only long scalars are strings, and nobody routes by those."""

MAX_MEMBERS = 1000
"""Most top-level members: the Messages API knows about 30. Each costs a Member and a slow look around it."""

_BLOCK = 1 << 18
"""Input is folded in blocks of at most this size, so that the folded copy stays small next to a large body."""

_QUOTE, _COLON, _COMMA, _OPEN, _CLOSE = b'":,{}'
_USUAL_MEMBER = re.compile(  # name and value in ASCII without escapes, or with a nested value of one level or begun
    rb'[ \t\n\r]*+"([ !#-\[\]-~]{0,100}+)"[ \t\n\r]*+:[ \t\n\r]*+'
    rb'(?:("[ !#-\[\]-~]*+"|[-+.0-9A-Za-z]++(?=[^-+.0-9A-Za-z]))'
    rb'|(\{(?:[^"\\\[\]{}]++|"[^"]*+"){0,50}\}|\[(?:[^"\\\[\]{}]++|"[^"]*+"){0,50}\])|[\[{])'
)


def _may_hold_escapes(usual: re.Match[bytes]) -> bool:
    """Whether a name or scalar shows what folding puts in an escape's place: such a one is read from the body."""
    return b"__" in usual[1] or b"__" in (usual[2] or b"")


_WHITE = re.compile(rb"[ \t\n\r]*+")
_SCALAR = re.compile(rb"[-+.0-9A-Za-z]*+")
_VALID_SCALAR = re.compile(rb"-?(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?(?:[eE][-+]?[0-9]++)?|true|false|null")


@dataclass(frozen=True, slots=True)
class Member:
    """A top-level member whose value is closed.

    name: unescaped. start, end: the span of the value's bytes in the body, quotes included. raw: those bytes, valid
    JSON by themselves, if the value is a string, number or literal of at most MAX_TOKEN bytes; else None.
    name_start: the offset of the name's opening quote.
    """

    name: str
    start: int
    end: int
    raw: bytes | None
    name_start: int


class MemberScanner:
    """Reads one request body as it comes. The module's docstring says what is checked and what is not.

    complete: the body has ended in good order, so a member that is not found is not there.
    """

    __slots__ = (
        "_base", "_error", "_escaped", "_in_order", "_members", "_name", "_name_start", "_named", "_nested", "_seen",
        "_start", "_state", "_token", "_token_from", "complete",
    )  # fmt: skip

    def __init__(self) -> None:
        self.complete = False
        self._error: MalformedBody | None = None
        self._members: dict[str, Member] = {}
        self._in_order: list[Member] = []
        self._seen = False  # ROUTING_MEMBER has been named
        self._named = 0  # members begun
        self._name = ""  # of the member that is being read
        self._name_start = 0
        self._state: _State = MemberScanner._before_object
        self._base = 0  # offset in the body of the block that is being read
        self._escaped = False  # the block before ended behind a backslash that escapes the next byte
        self._nested: NestedValue | None = None  # the value that is being read, if it is one
        self._start = 0  # of the value or token that is being read
        self._token: bytearray | None = None  # top-level name or scalar as far as it has come, MAX_TOKEN + 1 at most
        self._token_from = 0  # where in the block the token goes on

    def receive_data(self, data: bytes) -> None:
        """Take the next bytes of the body, cut anywhere.

        Raises MalformedBody as soon as the bytes cannot become a body that can be routed; every later call raises
        the same. Members found until then stay found.
        """
        self._refuse_poisoned()
        try:
            for start in range(0, len(data), _BLOCK):
                self._scan(data[start : start + _BLOCK])
        except MalformedBody as error:
            self._error = error
            raise

    def receive_eof(self) -> None:
        """The body is over. Raises MalformedBody if it is cut short or has no ``model``; later calls raise the same."""
        self._refuse_poisoned()
        if self._state is MemberScanner._before_object:
            self._error = not_json("it is empty", None)
        elif self._state is not MemberScanner._after_object:
            self._error = not_json("it ends too early", self._base)
        elif not self._seen:
            self._error = MalformedBody(f"{ROUTING_MEMBER}: Field required")
        self._refuse_poisoned()
        self.complete = True

    def find(self, name: str) -> Member | None:
        """The first member called ``name`` whose value is closed, or None if none has been seen yet."""
        return self._members.get(name)

    @property
    def in_order(self) -> tuple[Member, ...]:
        """Every member whose value is closed, as they come in the body, repeated names too; MAX_MEMBERS at most."""
        return tuple(self._in_order)

    def _refuse_poisoned(self) -> None:
        if self._error is not None:
            raise self._error.with_traceback(None)

    def _scan(self, data: bytes) -> None:
        block = FoldedBlock(data, self._escaped)
        self._escaped = block.escaped
        pos, size = 0, len(block.text)
        while pos < size:
            pos = self._state(self, block, pos)
        if self._token is not None:
            self._collect(block, len(data))
            self._token_from = 0
        self._base += len(data)

    # The states. Each takes the block and a position in its folded text and returns where the next one goes on.

    def _before_object(self, block: FoldedBlock, pos: int) -> int:
        pos = _skip_white(block.text, pos)
        if pos < len(block.text):
            self._expect(_OPEN, "expected an object", block, pos)
            self._state = MemberScanner._first_name
        return pos + 1

    def _first_name(self, block: FoldedBlock, pos: int) -> int:
        pos = _skip_white(block.text, pos)
        if pos < len(block.text) and block.text[pos] == _CLOSE:
            self._state = MemberScanner._after_object
            return pos + 1
        return self._next_name(block, pos)

    def _next_name(self, block: FoldedBlock, pos: int) -> int:
        usual = _USUAL_MEMBER.match(block.text, pos)
        if usual is not None and not _may_hold_escapes(usual):
            return self._take_usual(block, usual)
        pos = _skip_white(block.text, pos)
        if pos < len(block.text):
            self._expect(_QUOTE, "expected a member's name in double quotes", block, pos)
            self._open_token(block, pos)
            self._state = MemberScanner._in_name
        return pos + 1

    def _in_name(self, block: FoldedBlock, pos: int) -> int:
        quote = block.text.find(b'"', pos)
        if quote < 0:
            return len(block.text)
        _, raw = self._close_token(block, quote + 1)
        if raw is None:
            raise not_json(f"a member's name is longer than {MAX_TOKEN} bytes", self._start)
        self._name_start = self._start
        self._take_name(self._unescape(raw))
        self._state = MemberScanner._colon
        return quote + 1

    def _colon(self, block: FoldedBlock, pos: int) -> int:
        pos = _skip_white(block.text, pos)
        if pos < len(block.text):
            self._expect(_COLON, "expected ':'", block, pos)
            self._state = MemberScanner._value
        return pos + 1

    def _value(self, block: FoldedBlock, pos: int) -> int:
        pos = _skip_white(block.text, pos)
        if pos == len(block.text):
            return pos
        self._open_token(block, pos)
        first = block.text[pos]
        if first == _QUOTE:
            self._state = MemberScanner._in_string_value
            return pos + 1
        self._refuse_as_model()
        if first in b"{[":
            self._token = None
            self._nested = NestedValue(first)
            self._state = MemberScanner._in_nested
            return pos + 1
        self._state = MemberScanner._in_scalar
        return pos

    def _in_string_value(self, block: FoldedBlock, pos: int) -> int:
        quote = block.text.find(b'"', pos)
        if quote < 0:
            return len(block.text)
        end, raw = self._close_token(block, quote + 1)
        if raw is not None:
            self._unescape(raw)
        self._take_string(end, raw)
        return quote + 1

    def _in_scalar(self, block: FoldedBlock, pos: int) -> int:
        after = _end(_SCALAR, block.text, pos)
        if after < len(block.text):
            end, raw = self._close_token(block, after)
            self._take_scalar(end, raw)
        return after

    def _after_value(self, block: FoldedBlock, pos: int) -> int:
        if block.text[pos] == _COMMA:
            self._state = MemberScanner._next_name
            return pos + 1
        pos = _skip_white(block.text, pos)
        if pos < len(block.text):
            if block.text[pos] == _CLOSE:
                self._state = MemberScanner._after_object
            else:
                self._expect(_COMMA, "expected ',' or '}'", block, pos)
                self._state = MemberScanner._next_name
        return pos + 1

    def _after_object(self, block: FoldedBlock, pos: int) -> int:
        pos = _skip_white(block.text, pos)
        if pos < len(block.text):
            raise not_json("something follows the object", self._base + block.origin(pos))
        return pos

    def _in_nested(self, block: FoldedBlock, pos: int) -> int:
        assert self._nested is not None
        pos = self._nested.pass_over(block, pos, self._base)
        if self._nested.closed:
            self._close_value(self._base + block.origin(pos), None)
        return pos

    # What names and values must be.

    def _take_usual(self, block: FoldedBlock, usual: re.Match[bytes]) -> int:
        """Take a member that _USUAL_MEMBER matched, up to the end of a scalar or behind an opening bracket."""
        scalar: bytes | None = usual[2]
        end = usual.end()
        self._name_start = self._base + block.origin(usual.start(1)) - 1
        self._start = self._base + block.origin(end - (len(scalar) if scalar else 1))
        self._take_name(usual[1].decode("ascii"))
        if scalar is not None and scalar[0] == _QUOTE:
            self._take_string(self._start + len(scalar), scalar)
            return end
        self._refuse_as_model()
        if scalar is not None:
            self._take_scalar(self._start + len(scalar), scalar)
        elif usual[3] is not None:
            self._start = self._base + block.origin(usual.start(3))
            self._close_value(self._base + block.origin(end), None)
        else:
            self._nested = NestedValue(block.text[end - 1])
            self._state = MemberScanner._in_nested
        return end

    def _take_name(self, name: str) -> None:
        self._named += 1
        if self._named > MAX_MEMBERS:
            raise MalformedBody(f"The request body has more than {MAX_MEMBERS} top-level members")
        if name == ROUTING_MEMBER:
            if self._seen:
                raise MalformedBody(f"{ROUTING_MEMBER}: Field must not be repeated")
            self._seen = True
        self._name = name

    def _refuse_as_model(self) -> None:
        if self._name == ROUTING_MEMBER:
            raise MalformedBody(f"{ROUTING_MEMBER}: Input should be a valid string")

    def _take_string(self, end: int, raw: bytes | None) -> None:
        if raw is not None and len(raw) > MAX_TOKEN:
            raw = None
        if self._name == ROUTING_MEMBER:
            if raw is None:
                raise MalformedBody(f"{ROUTING_MEMBER}: String should have at most {MAX_TOKEN} bytes")
            if raw == b'""':
                raise MalformedBody(f"{ROUTING_MEMBER}: String should have at least 1 character")
        self._close_value(end, raw)

    def _take_scalar(self, end: int, raw: bytes | None) -> None:
        if raw is None or len(raw) > MAX_TOKEN or not _VALID_SCALAR.fullmatch(raw):
            raise not_json("expected a value", self._start)
        self._close_value(end, raw)

    def _close_value(self, end: int, raw: bytes | None) -> None:
        member = Member(self._name, self._start, end, raw, self._name_start)
        self._in_order.append(member)
        self._members.setdefault(self._name, member)
        self._state = MemberScanner._after_value

    def _unescape(self, raw: bytes) -> str:
        try:
            text = json.loads(raw.decode("utf-8"))
        except ValueError:
            raise not_json("a string is not valid", self._start) from None
        assert isinstance(text, str)
        return text

    def _expect(self, byte: int, complaint: str, block: FoldedBlock, pos: int) -> None:
        if block.text[pos] != byte:
            raise not_json(complaint, self._base + block.origin(pos))

    # Names and scalars of the top level that may be cut by the end of a block.

    def _open_token(self, block: FoldedBlock, pos: int) -> None:
        self._token = bytearray()
        self._token_from = block.origin(pos)
        self._start = self._base + self._token_from

    def _collect(self, block: FoldedBlock, upto: int) -> None:
        if self._token is not None and len(self._token) <= MAX_TOKEN:
            self._token += block.data[self._token_from : min(upto, self._token_from + MAX_TOKEN + 1)]

    def _close_token(self, block: FoldedBlock, pos: int) -> tuple[int, bytes | None]:
        """The offset in the body where the token ends, and its bytes unless there are more than MAX_TOKEN."""
        end = block.origin(pos)
        self._collect(block, end)
        token, self._token = self._token, None
        return self._base + end, bytes(token) if token is not None and len(token) <= MAX_TOKEN else None


_State = Callable[[MemberScanner, FoldedBlock, int], int]


def _skip_white(text: bytes, pos: int) -> int:
    return _end(_WHITE, text, pos)


def _end(pattern: re.Pattern[bytes], text: bytes, pos: int) -> int:
    """Where the match of a pattern that always matches ends."""
    return pattern.match(text, pos).end()  # type: ignore[union-attr]
