"""Which bytes of a text are credentials, so that the rest of it can be written down.

Rules of this file:
- A credential is found by its value, where it is known; by its look, where its issuer gave it one; and by the name that
  stands before it (``"api_key": "..."``, ``PASSWORD=...``), in JSON and in what people paste into prompts.
- Rather too much than too little: a word that is hidden in vain costs a reader nothing.
- JSON may spell a character in several ways, so a text is searched as it stands and once more with its escapes undone.
- Time grows with the text's length, whatever stands in it: each pattern looks a bounded way ahead, or consumes what it
  has looked at.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, Final

from ccrelay.core.secret import Secret

REDACTED: Final = b"<redacted>"

MARGIN: Final = 4096
"""Bytes behind a cut that are looked at as well: what begins before the cut is known as a credential by its first
bytes, but one that is known by value or needs its end to be seen; the longest, tokens of clouds, take 2 to 4 KiB."""

_LOOKS: Final = re.compile(
    rb"""
      sk-ant-[\w-]*                                       # Anthropic
    | (?:(?<![A-Za-z0-9])|(?<=\\[nrt])) sk-[\w-]{8,}      # gateways, and others that follow OpenAI
    | (?:AKIA|ASIA|ABIA|ACCA)[A-Z0-9]{12,}                # AWS: ids of access keys
    | (?:ABSK|bedrock-api-key-)[A-Za-z0-9+/=_-]{8,}       # AWS: keys of Bedrock
    | (?:gh[opsur]|github_pat|glpat)[_-][\w-]{8,}
    | xox[a-z]-[\w-]{8,}
    | AIza[\w-]{20,}                                      # Google: API keys
    | ya29\.[\w.-]+                                       # Google: access tokens
    | (?:(?<![\w-])|(?<=\\[nrt])) eyJ[\w-]{8,}+\.[\w.-]+ # JSON Web Tokens, as Entra's
    | (?:(?<![\w-])|(?<=\\[nrt]))--[\w-]{0,40}(?i:key|token|password|secret)\s{1,8}[^\s"'\\]+
    | (?i:bearer)\s{1,8}[^\s"'\\,;]+
    | (?<=://)[^\s/@:"'\\]{0,200}:[^\s/@"'\\]{1,200}(?=@) # user and password in a URL
    | -----BEGIN\ [A-Z ]{0,40}PRIVATE\ KEY-----.*?(?:-----END|\Z)
    """,
    re.VERBOSE | re.DOTALL | re.ASCII,
)

_NAMED: Final = re.compile(
    rb"""
    (?P<name> key | token | passw(?:or)?d | passphrase | pwd | secret | authorization | credential | cookie )
    [\w.-]{0,40}+ \\{0,7}+["'`]?+ \s{0,8}+ (?: => | [:=] ) \s{0,8}+
    """,
    re.VERBOSE | re.IGNORECASE | re.ASCII,
)
_QUOTE: Final = re.compile(rb"""(?<!\\)(\\*+)(["'`])""")
_LIST: Final = re.compile(rb"\[\s*")
_COMMA: Final = re.compile(rb"\s*,\s*")
_WORD: Final = re.compile(rb"""(?:[^\s"'`\\]|\\(?![nrt"'`]))+""")
_LINE: Final = re.compile(rb"""[^\r\n"\\]+""")
_NO_SECRET: Final = re.compile(rb"(?:-?[0-9][0-9.eE+-]{0,30}|true|false|null|None|undefined)(?:[\s,;}\])\\\"'`]|\Z)|\{")
_WHOLE_LINE: Final = frozenset({b"authorization", b"cookie"})
_COUNTABLE: Final = frozenset({b"key", b"token"})
"""Names before a number that is none: ``max_tokens``."""

_ESCAPE: Final = re.compile(rb'\\(?:u00([2-7][0-9A-Fa-f])|(["\\/bfnrt]))')
_SHORT: Final = {b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t"}

_LEFT_OUT: Final = re.compile(
    rb"(?:^|-)(?:set-cookie2?|cookies?|key|token|secret|password|credentials?|authorization|authenticate|signature)$"
)
_SCHEME: Final = re.compile(rb"\A(?:Bearer|Basic) +")

_Spans = list[tuple[int, int]]


def redacted(text: bytes, secrets: Sequence[Secret], keep: int) -> bytes:
    """The first ``keep`` bytes of ``text``, with REDACTED in the place of each credential.

    text: with at least ``reach(secrets)`` bytes more than ``keep``, where there are so many: what follows decides
    whether the last of the kept bytes belong to a credential. secrets: those that are known by value.
    """
    found = _spans(text, secrets)
    plain, positions = _unescaped(text)
    if plain is not None:
        found += [(positions.of(begin), positions.of(end)) for begin, end in _spans(plain, secrets)]
    return _hidden(text, (span for span in found if span[0] < keep), keep)


def reach(secrets: Sequence[Secret]) -> int:
    """How many bytes behind a cut ``redacted`` must see: the longest secret's with each byte written ``\\u00..``."""
    return max([MARGIN, *(6 * len(secret.reveal()) for secret in secrets)])


def redacted_header(name: bytes, value: bytes, secrets: Sequence[Secret]) -> bytes:
    """A header's value without credentials; nothing of it where the name says that it is one, or a cookie.

    name: in lower case. The name decides by its end: ``x-auth-token``, but not ``anthropic-ratelimit-tokens-limit``.
    """
    if _LEFT_OUT.search(name):
        return REDACTED
    return _hidden(value, [*_by_value(value, secrets), *_by_look(value)], len(value))


def secrets_in(value: Any) -> Iterator[Secret]:
    """Every Secret that is not empty within ``value``: a dataclass, a tuple or a mapping of such, however deep."""
    if isinstance(value, Secret):
        if value:
            yield value
    elif isinstance(value, tuple):
        for each in value:
            yield from secrets_in(each)
    elif isinstance(value, Mapping):
        yield from secrets_in(tuple(value.values()))
    elif is_dataclass(value):
        for field in fields(value):
            yield from secrets_in(getattr(value, field.name))


def _hidden(text: bytes, spans: Iterable[tuple[int, int]], keep: int) -> bytes:
    pieces: list[bytes] = []
    at = 0
    for begin, end in sorted(span for span in spans if span[0] < span[1]):
        if begin >= at:
            pieces += [text[at:begin], REDACTED]
        at = max(at, end)
    return b"".join([*pieces, text[at:keep]])


def _spans(text: bytes, secrets: Sequence[Secret]) -> _Spans:
    return [*_by_value(text, secrets), *_by_look(text), *_by_name(text)]


def _by_value(text: bytes, secrets: Sequence[Secret]) -> Iterator[tuple[int, int]]:
    for secret in secrets:
        value = secret.reveal().encode("utf-8", "surrogateescape")
        for each in {value, _SCHEME.sub(b"", value, count=1)} - {b""}:  # a whole header's value: "Bearer ..."
            at = text.find(each)
            while at >= 0:
                yield at, at + len(each)
                at = text.find(each, at + len(each))


def _by_look(text: bytes) -> Iterator[tuple[int, int]]:
    return (match.span() for match in _LOOKS.finditer(text))


def _by_name(text: bytes) -> Iterator[tuple[int, int]]:
    at = 0
    while (match := _NAMED.search(text, at)) is not None:
        at = match.end()
        for begin, end in _values(text, at, match["name"].lower()):
            yield begin, end
            at = end


def _values(text: bytes, at: int, name: bytes) -> Iterator[tuple[int, int]]:
    """What is assigned at ``at``: a quoted text, a list of such, or a word."""
    if (opening := _QUOTE.match(text, at)) is not None:
        yield opening.end(), _end_of_text(text, opening)
    elif (listing := _LIST.match(text, at)) is not None:
        at = listing.end()
        while (opening := _QUOTE.match(text, at)) is not None:
            end = _end_of_text(text, opening)
            yield opening.end(), end
            comma = _COMMA.match(text, min(end + len(opening.group()), len(text)))
            if comma is None:
                break
            at = comma.end()
    elif not ((_NO_SECRET if name in _COUNTABLE else _OBJECT).match(text, at)):
        word = (_LINE if name in _WHOLE_LINE else _WORD).match(text, at)
        if word is not None:
            yield at, at + max(1, len(word.group().rstrip(b",;}])")))


_OBJECT: Final = re.compile(rb"\{|(?:true|false|null)\b")


def _end_of_text(text: bytes, opening: re.Match[bytes]) -> int:
    """Where a quoted text ends. In JSON within JSON its quotes have backslashes before them, and those inside more."""
    depth, quote = len(opening[1]), opening[2]
    for match in _QUOTE.finditer(text, opening.end()):
        if match[2] == quote and len(match[1]) <= depth:
            return match.start()
    return len(text)


class _Positions:
    """Where the bytes of a text without escapes stand in the one with them."""

    def __init__(self) -> None:
        self._plain = [0]
        self._escaped = [0]

    def add(self, plain: int, escaped: int) -> None:
        """From here on both go on alike, up to the next escape."""
        self._plain.append(plain)
        self._escaped.append(escaped)

    def of(self, plain: int) -> int:
        """The position in the text with escapes."""
        at = bisect_right(self._plain, plain) - 1
        return self._escaped[at] + plain - self._plain[at]


def _unescaped(text: bytes) -> tuple[bytes | None, _Positions]:
    """``text`` with the escapes of printable ASCII undone, as JSON writes them; None if it has none."""
    positions = _Positions()
    pieces: list[bytes] = []
    at = length = 0
    for match in _ESCAPE.finditer(text):
        byte = bytes([int(match[1], 16)]) if match[1] else _SHORT.get(match[2], match[2])
        pieces += [text[at : match.start()], byte]
        length += match.start() - at + 1
        at = match.end()
        positions.add(length, at)
    return (b"".join([*pieces, text[at:]]) if pieces else None), positions
