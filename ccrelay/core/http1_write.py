"""Writing HTTP/1.1 heads and chunks. Nothing that could split a message gets through, whoever passes it in.

Names go out exactly as given: some upstreams, and signatures over headers, care about their case. Framing headers are
the caller's.
"""

from __future__ import annotations

import re

from ccrelay.core.http1_grammar import TEXT_BYTES, TOKEN_BYTES, is_text, is_token
from ccrelay.core.model import Headers

LAST_CHUNK = b"0\r\n\r\n"
"""Ends a chunked body that has no trailers."""

_TARGET = re.compile(rb"[!-~]+")


def encode_response_head(status: int, reason: bytes, headers: Headers) -> bytes:
    """An HTTP/1.1 response head with its empty line. ``reason`` may be empty.

    Raises ValueError for a status out of 100 to 999, a name that is no token, or a control character in a value or
    the reason; the text names the header, never its value.
    """
    if not 100 <= status <= 999:
        raise ValueError(f"not an HTTP status: {status}")
    if not is_text(reason):
        raise ValueError("a control character in the reason phrase")
    return b"HTTP/1.1 %d %b\r\n" % (status, reason) + _encode_fields(headers)


def encode_request_head(method: bytes, target: bytes, headers: Headers) -> bytes:
    """An HTTP/1.1 request head with its empty line. target: any form, no blanks.

    Raises ValueError for a method or name that is no token, a target with anything but visible ASCII, or a control
    character in a value; the text names the header, never its value.
    """
    if not is_token(method):
        raise ValueError("not an HTTP method")
    if not _TARGET.fullmatch(target):
        raise ValueError("a request target must be visible ASCII")
    return b"%b %b HTTP/1.1\r\n" % (method, target) + _encode_fields(headers)


def encode_chunk(data: bytes) -> bytes:
    """One chunk of a chunked body. Empty data gives nothing: a chunk of size 0 would end the body."""
    return b"%x\r\n%b\r\n" % (len(data), data) if data else b""


def _encode_fields(headers: Headers) -> bytes:
    names = [name for name, _ in headers]
    values = [value for _, value in headers]
    if b"" in names or b"".join(names).translate(None, TOKEN_BYTES) or b"".join(values).translate(None, TEXT_BYTES):
        raise _first_fault(headers)
    return b"".join([b"%b: %b\r\n" % header for header in headers]) + b"\r\n"


def _first_fault(headers: Headers) -> ValueError:
    for name, value in headers:
        if not is_token(name):
            return ValueError(f"not a header name: {name!r}")
        if not is_text(value):
            return ValueError(f"a control character in the value of {name!r}")
    raise AssertionError("refused headers hold a faulty one")
