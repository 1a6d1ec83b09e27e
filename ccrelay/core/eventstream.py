"""AWS's binary event stream: cutting a byte stream into messages, and nothing about what they mean.

    u32 total | u32 headers | u32 crc32 of these 8 bytes | headers | payload | u32 crc32 of everything before it

``total`` counts the whole message, both checksums included; numbers are big-endian, crc32 is zlib's. One header is

    u8 length of the name | name | u8 type | value

    type   0, 1          2    3     4     5     6                    7                   8                9
    value  true, false   i8   i16   i32   i64   u16 length, bytes    u16 length, UTF-8   i64, Unix ms     16 bytes
           (no bytes)                                                                    (timestamp)      (UUID)

Rules of this file:
- No length is believed before its checksum has been compared and its bounds tested, and nothing is sliced beyond them.
- After the first violation the parser stays poisoned: where the next message begins is not known any more.
- Work is linear in the bytes received, however they are cut.

Source: the AWS event stream encoding (smithy.io, amazon-eventstream); botocore's reader for the bounds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from struct import Struct
from types import MappingProxyType
from typing import Final
from zlib import crc32

from ccrelay.errors import StreamViolation

MAX_HEADERS: Final = 128 * 1024
"""Bytes of one message's headers: the encoding's own limit. Bedrock sends about 90."""

MAX_PAYLOAD: Final = 24 * 1024 * 1024
"""Bytes of one message's payload: what botocore reads, more than the 16 MiB that AWS documents for a whole message, so
that nothing is refused here that AWS's own clients take. It also bounds what one broken upstream makes us hold."""

_PRELUDE: Final = Struct(">III")
_CHECKSUM: Final = Struct(">I")
_LENGTH: Final = Struct(">H")
_OVERHEAD: Final = _PRELUDE.size + _CHECKSUM.size
_INTEGERS: Final = {2: Struct(">b"), 3: Struct(">h"), 4: Struct(">i"), 5: Struct(">q"), 8: Struct(">q")}
_UUID_SIZE: Final = 16

HeaderValue = bool | int | bytes | str
"""A header's value by its type: bool; int (a timestamp is Unix milliseconds); bytes (a UUID is its 16); str."""

Headers = Mapping[str, HeaderValue]


class EventStreamViolation(StreamViolation):
    """The bytes are no event stream. The root of the closed set of errors that leave this parser."""


class BadPrelude(EventStreamViolation):
    """A message's first twelve bytes fail their checksum, or their lengths contradict each other."""


class BadChecksum(EventStreamViolation):
    """A message's bytes were changed on the way."""


class TooLarge(EventStreamViolation):
    """A message announces more than MAX_HEADERS or MAX_PAYLOAD."""


class BadHeader(EventStreamViolation):
    """A header runs out of its block, repeats a name, has an unknown type, or holds text that is not UTF-8."""


class Truncated(EventStreamViolation):
    """The stream ended inside a message."""


@dataclass(frozen=True, slots=True)
class Message:
    """One message, checksums verified. headers: by name; not to be changed, messages may share them."""

    headers: Headers
    payload: bytes


class EventStreamParser:
    """Reads one event stream. Sans-IO; not reusable after a violation or the end."""

    __slots__ = ("_block", "_data", "_headers", "_need", "_pos", "_violation")

    def __init__(self) -> None:
        self._data: bytes | bytearray = b""
        self._pos = 0  # where the next message begins in it
        self._need = _PRELUDE.size  # bytes from there on that the next step takes
        self._violation: EventStreamViolation | None = None
        # A stream's messages repeat the same few header blocks, so the last one is read once.
        self._block = b""
        self._headers: Headers = MappingProxyType({})

    @property
    def held(self) -> int:
        """Bytes received and not yet given out as messages: less than one message once the iterator is used up."""
        return len(self._data) - self._pos

    def receive_data(self, data: bytes) -> Iterator[Message]:
        """Take the next bytes, as cut by the network.

        Returns an iterator over the messages that are whole now; use it up before the next call, or the rest comes
        with the next one. It raises an EventStreamViolation in the place of the first message that is broken, the
        good ones before it having been given; from then on every call raises the same.
        """
        self._refuse_poisoned()
        if not self.held:
            self._data, self._pos = data, 0
        elif isinstance(self._data, bytearray):
            self._data += data
        else:
            self._data, self._pos = bytearray(self._data[self._pos :]), 0
            self._data += data
        return iter(self._next, None)

    def receive_eof(self) -> None:
        """The body ended in good order. Raises Truncated inside a message, or the violation that came before."""
        self._refuse_poisoned()
        if self.held:
            self._fail(Truncated("the event stream ended inside a message"))
            self._refuse_poisoned()

    def _refuse_poisoned(self) -> None:
        if self._violation is not None:
            raise self._violation.with_traceback(None)

    def _fail(self, violation: EventStreamViolation) -> None:
        self._violation = violation
        self._data, self._pos = b"", 0

    def _next(self) -> Message | None:
        if self._violation is not None:
            self._refuse_poisoned()
        try:
            return self._read()
        except EventStreamViolation as violation:
            self._fail(violation)
            raise

    def _read(self) -> Message | None:
        data, start = self._data, self._pos
        size = len(data) - start
        if size < self._need:
            self._wait()
            return None
        total, block, checksum = _PRELUDE.unpack_from(data, start)
        if self._need == _PRELUDE.size:
            _check_prelude(data[start : start + 8], total, block, checksum)
            self._need = total
            if size < total:
                self._wait()
                return None
        # Of a message in a bytearray one copy is made, and everything else is cut from that.
        message = bytes(data[start : start + total])
        if crc32(message[:-4]) != _CHECKSUM.unpack_from(message, total - 4)[0]:
            raise BadChecksum("a message of the event stream fails its checksum")
        end = _PRELUDE.size + block
        headers = message[_PRELUDE.size : end]
        if headers != self._block:
            self._headers = MappingProxyType(_read_headers(headers))
            self._block = headers
        self._pos = start + total
        self._need = _PRELUDE.size
        return Message(self._headers, message[end:-4])

    def _wait(self) -> None:
        """Give back the room of what has been read. Done once per piece of data, so that work stays linear."""
        if self._pos:
            if isinstance(self._data, bytearray):
                del self._data[: self._pos]
            else:
                self._data = self._data[self._pos :]
            self._pos = 0


def _check_prelude(lengths: bytes | bytearray, total: int, block: int, checksum: int) -> None:
    if crc32(lengths) != checksum:
        raise BadPrelude("a message's lengths fail their checksum")
    payload = total - block - _OVERHEAD
    if payload < 0:
        raise BadPrelude(f"a message of {total} bytes cannot have {block} bytes of headers")
    if block > MAX_HEADERS:
        raise TooLarge(f"a message's headers are larger than {MAX_HEADERS} bytes")
    if payload > MAX_PAYLOAD:
        raise TooLarge(f"a message's payload is larger than {MAX_PAYLOAD} bytes")


def _read_headers(block: bytes) -> dict[str, HeaderValue]:
    headers: dict[str, HeaderValue] = {}
    pos = 0
    while pos < len(block):
        end = pos + 1 + block[pos]
        name = _text(_cut(block, pos + 1, end))
        if name in headers:
            raise BadHeader("a header is repeated")
        kind = _cut(block, end, end + 1)[0]
        headers[name], pos = _read_value(block, end + 1, kind)
    return headers


def _read_value(block: bytes, pos: int, kind: int) -> tuple[HeaderValue, int]:
    """The value of type ``kind`` at ``pos``, and where it ends."""
    if kind <= 1:
        return kind == 0, pos
    if kind in _INTEGERS:
        layout = _INTEGERS[kind]
        end = pos + layout.size
        number: int = layout.unpack(_cut(block, pos, end))[0]
        return number, end
    if kind == 9:
        end = pos + _UUID_SIZE
        return _cut(block, pos, end), end
    if kind > 9:
        raise BadHeader(f"a header has the unknown type {kind}")
    start = pos + _LENGTH.size
    end = start + _LENGTH.unpack(_cut(block, pos, start))[0]
    value = _cut(block, start, end)
    return (value if kind == 6 else _text(value)), end


def _cut(block: bytes, start: int, end: int) -> bytes:
    if end > len(block):
        raise BadHeader("a header runs out of its block")
    return block[start:end]


def _text(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise BadHeader("a header holds text that is not UTF-8") from None
