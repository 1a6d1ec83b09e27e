"""What requests and responses share: the violation, the alphabets, and the rules for header lines.

Strategy: a header block is judged as a whole, by deleting every allowed byte from it and looking at what is left; that
costs a few C calls however many lines there are. Only a block that fails is read again line by line, to say where.

Messages never repeat what the peer sent: a header line may hold a credential.
"""

from __future__ import annotations

from ccrelay.core.model import Headers
from ccrelay.errors import RelayError

MAX_HEAD_BYTES = 65536
"""Start line and header lines together. Claude Code sends 1.1 kB; the rest is room for custom headers, beta lists and
bearer tokens, which some identity providers make 16 kB long. As much can be held for a peer that has proved nothing."""

MAX_HEADERS = 200
"""Claude Code sends 25 lines, a busy answer with rate limits and a CDN's marks 50; each line costs us a tuple."""

TOKEN_BYTES = b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
"""RFC 9110 5.6.2 ``tchar``."""

TEXT_BYTES = b"\t" + bytes(range(0x20, 0x7F)) + bytes(range(0x80, 0x100))
"""RFC 9110 5.5: what a field value or a reason phrase may hold, obs-text included; no other control character."""

BLANKS = b" \t"
"""RFC 9110 5.6.3 ``OWS``. Never strip() without it: that also eats vertical tabs."""


class HttpViolation(RelayError):
    """The peer broke HTTP/1.1 or passed one of our bounds. The connection cannot be used for another message.

    status: what a server may answer with (400, 413, 414, 431, 501 or 505); means nothing for a response.
    message: one sentence for the client; holds nothing the peer sent.
    """

    def __init__(self, status: int, message: str) -> None:
        self.status = status
        self.message = message
        super().__init__(message)


def is_token(name: bytes) -> bool:
    """Whether ``name`` can be a field name or a method."""
    return bool(name) and not name.translate(None, TOKEN_BYTES)


def is_text(value: bytes) -> bool:
    """Whether ``value`` can be a field value or a reason phrase."""
    return not value.translate(None, TEXT_BYTES)


def parse_fields(lines: list[bytes]) -> Headers:
    """The header lines of one message, without their line ends.

    Returns names in lower case with values stripped of blanks, in order. Raises HttpViolation (400, or 431 for too
    many) for a line without a colon, a name that is no token (so also a folded line and a blank before the colon,
    RFC 9112 5.1 and 5.2) and a control character in a value, CR, LF and NUL among them.
    """
    if len(lines) > MAX_HEADERS:
        raise HttpViolation(431, f"More than {MAX_HEADERS} header lines")
    parts = [line.partition(b":") for line in lines]
    names = [name for name, colon, _ in parts if colon]
    if (
        len(names) != len(lines)
        or b"" in names
        or b"".join(names).translate(None, TOKEN_BYTES)
        or b"".join(lines).translate(None, TEXT_BYTES)
    ):
        raise _first_fault(lines)
    return tuple([(name.lower(), value.strip(BLANKS)) for name, _, value in parts])


def _first_fault(lines: list[bytes]) -> HttpViolation:
    for number, line in enumerate(lines, 1):
        name, colon, value = line.partition(b":")
        if b"\n" in line:
            fault = "ends with a bare line feed"
        elif line[:1] in (b" ", b"\t"):
            fault = "is folded"
        elif not colon:
            fault = "has no colon"
        elif name and name != name.rstrip(BLANKS):
            fault = "has a blank before the colon"
        elif not is_token(name):
            fault = "has an invalid name"
        elif not is_text(value):
            fault = "has a control character in its value"
        else:
            continue
        return HttpViolation(400, f"Header line {number} {fault}")
    raise AssertionError("a refused header block has a faulty line")
