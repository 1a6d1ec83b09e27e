"""Where the body of an HTTP/1.1 message ends and whether its connection lives on: RFC 9112 section 6 and 9.3.

All of request smuggling is two readers who decide this differently, so every rule about it is in this file.
"""

from __future__ import annotations

from dataclasses import dataclass

from ccrelay.core.http1_grammar import BLANKS, HttpViolation
from ccrelay.core.model import Headers

MAX_LENGTH_DIGITS = 18
"""Digits of a Content-Length: below 2**63, and int() stays cheap. No body of that size will ever end."""

_CONTROL_NAMES = frozenset({b"connection", b"content-length", b"expect", b"host", b"transfer-encoding"})


@dataclass(frozen=True, slots=True)
class Framing:
    """Where a body ends: after ``length`` bytes (0: there is none), with the last chunk, or (neither) with the
    connection, which only a response can do.
    """

    length: int | None
    chunked: bool


NO_BODY = Framing(0, False)
CHUNKED = Framing(None, True)
UNTIL_CLOSE = Framing(None, False)


def control_values(headers: Headers) -> dict[bytes, list[bytes]]:
    """The values of the headers that steer HTTP itself, by name; a name that was not sent is absent."""
    values: dict[bytes, list[bytes]] = {}
    for name, value in headers:
        if name in _CONTROL_NAMES:
            values.setdefault(name, []).append(value)
    return values


def persists(version: bytes, control: dict[bytes, list[bytes]]) -> bool:
    """Whether the sender would go on with this connection: HTTP/1.1 unless it says close, 1.0 if it says keep-alive."""
    options = [option.strip(BLANKS) for option in b",".join(control.get(b"connection", [])).lower().split(b",")]
    return b"close" not in options and (version == b"1.1" or b"keep-alive" in options)


def request_framing(version: bytes, control: dict[bytes, list[bytes]]) -> Framing:
    """The framing of a request, by the strict choice wherever RFC 9112 6.1 to 6.3 leave one.

    Raises HttpViolation: 400, 413 for an absurd length, 501 for a transfer coding other than a single ``chunked``.
    A repeated Content-Length is refused even if all agree: no client sends one, and a hop that reads the first
    and a hop that reads the last should never get the chance to differ.
    """
    lengths = control.get(b"content-length", [])
    codings = control.get(b"transfer-encoding", [])
    if codings:
        if lengths:
            raise HttpViolation(400, "Both Content-Length and Transfer-Encoding")
        if version != b"1.1":
            raise HttpViolation(400, "Transfer-Encoding needs HTTP/1.1")
        if [coding.lower() for coding in codings] != [b"chunked"]:
            raise HttpViolation(501, "The only transfer coding is chunked")
        return CHUNKED
    if len(lengths) > 1:
        raise HttpViolation(400, "More than one Content-Length")
    return Framing(_length(lengths[0]), False) if lengths else NO_BODY


def response_framing(version: bytes, control: dict[bytes, list[bytes]]) -> tuple[Framing, bool]:
    """The framing of a response that has a body, and whether its connection may carry another one after it.

    Transfer-Encoding wins over Content-Length, but such a connection is not used again, nor is one on which HTTP/1.0
    was chunked (RFC 9112 6.1). Raises HttpViolation for lengths that differ and for any coding but ``chunked``.
    """
    lengths = {value.strip(BLANKS) for values in control.get(b"content-length", []) for value in values.split(b",")}
    if len(lengths) > 1:
        raise HttpViolation(400, "Content-Length headers that differ")
    length = _length(lengths.pop()) if lengths else None
    codings = control.get(b"transfer-encoding", [])
    if not codings:
        return Framing(length, False), True
    if [coding.lower() for coding in codings] != [b"chunked"]:
        raise HttpViolation(400, "A transfer coding other than chunked")
    return CHUNKED, length is None and version == b"1.1"


def _length(value: bytes) -> int:
    # bytes.isdigit() knows ASCII only; int() alone would take signs, underscores and blanks
    if not value.isdigit():
        raise HttpViolation(400, "Malformed Content-Length")
    if len(value) > MAX_LENGTH_DIGITS:
        raise HttpViolation(413, "Content-Length is too large")
    return int(value)
