"""Messages of AWS's event stream as bytes, written from the encoding's description and nothing of the product's."""

from __future__ import annotations

import base64
import json
import struct
import uuid
import zlib
from collections.abc import Iterable

TypedHeader = tuple[str, int, object]
"""Name, type number 0 to 9, value: bool, int, bytes, str or UUID."""


def encode_header(name: str, kind: int, value: object) -> bytes:
    text = name.encode()
    opening = bytes([len(text)]) + text + bytes([kind])
    if kind in (0, 1):
        return opening
    if kind in (2, 3, 4, 5, 8):
        return opening + struct.pack({2: ">b", 3: ">h", 4: ">i", 5: ">q", 8: ">q"}[kind], value)
    if kind == 9:
        assert isinstance(value, uuid.UUID)
        return opening + value.bytes
    data = value.encode() if isinstance(value, str) else value
    assert isinstance(data, bytes)
    return opening + struct.pack(">H", len(data)) + data


def encode_message(headers: Iterable[TypedHeader], payload: bytes) -> bytes:
    """A whole message."""
    return encode_block(b"".join(encode_header(*header) for header in headers), payload)


def encode_block(block: bytes, payload: bytes) -> bytes:
    """A message whose header block is given as bytes, right or wrong; both checksums are right."""
    opening = encode_prelude(16 + len(block) + len(payload), len(block)) + block + payload
    return opening + struct.pack(">I", zlib.crc32(opening))


def encode_prelude(total: int, block: int) -> bytes:
    """The twelve bytes that announce a message, checksum right."""
    lengths = struct.pack(">II", total, block)
    return lengths + struct.pack(">I", zlib.crc32(lengths))


def event(event_type: str, payload: bytes) -> bytes:
    return encode_message(
        [(":event-type", 7, event_type), (":content-type", 7, "application/json"), (":message-type", 7, "event")],
        payload,
    )


def chunk(document: bytes, padding: str = "abcdefghijklmnop") -> bytes:
    """A frame around one event's JSON, spelled as Bedrock spells it."""
    payload = {"bytes": base64.b64encode(document).decode(), "p": padding}
    return event("chunk", json.dumps(payload, separators=(",", ":")).encode())


def exception(name: str, payload: bytes) -> bytes:
    return encode_message(
        [(":exception-type", 7, name), (":content-type", 7, "application/json"), (":message-type", 7, "exception")],
        payload,
    )


def error(code: str, message: str) -> bytes:
    return encode_message(
        [(":error-code", 7, code), (":error-message", 7, message), (":message-type", 7, "error")], b""
    )
