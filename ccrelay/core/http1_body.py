"""Reading the body of an HTTP/1.1 message, sans-IO, as the network cuts it.

    chunked-body = *( chunk-size [ chunk-ext ] CRLF chunk-data CRLF ) "0" [ chunk-ext ] CRLF *( field-line CRLF ) CRLF

Rules:
- Body bytes are given out as they come, never kept; only a cut chunk-size or trailer line is.
- Bytes that are body as a whole are returned as the object they came in.
- One server-sent event usually arrives as one whole chunk: that costs a few C calls and no loop. A row of whole
  chunks is read by one split, once per call. Everything else goes through the state machine.
- Framing is strict on both sides of the relay: chunk lines end with CRLF, sizes are bare hex digits. The one tolerance
  is blanks after the size, with which some servers pad it.
- Extensions and trailers are checked, bounded and dropped.
- After a violation a decoder stays poisoned: every later call raises the same again.
"""

from __future__ import annotations

import re
from typing import NoReturn

from ccrelay.core.http1_framing import Framing
from ccrelay.core.http1_grammar import HttpViolation, parse_fields

MAX_SIZE_DIGITS = 16
"""Hex digits of a chunk size: below 2**64. No chunk of that size will ever end."""

MAX_EXTENSION_BYTES = 16384
"""Chunk extensions of one body together. Nobody sends any; without a bound a peer that puts them on one-byte chunks
makes us read without end while the body limit stands still."""

MAX_TRAILER_BYTES = 16384
"""Trailer lines of one body. A checksum or a trace id is 100 bytes; we drop them anyway."""

_CRLF = b"\r\n"
_SIZE_LINE = re.compile(rb"([0-9A-Fa-f]{1,%d})([ \t]+|;[\t\x20-\x7e\x80-\xff]*)?\r\n" % MAX_SIZE_DIGITS)

# states of a chunked body; BETWEEN is false, so that the common case costs one test
_BETWEEN = 0  # a chunk-size line begins with the next byte
_SIZE = 1  # a cut chunk-size line is held
_DATA = 2  # _left bytes of chunk data are to come
_DATA_END = 3  # _left bytes of the CRLF after chunk data are to come
_TRAILER = 4
_DONE = 5
_POISONED = 6


class LengthDecoder:
    """A body of ``length`` bytes. ``done`` at once if that is 0.

    done: the body is complete. trailing: what came after it, untouched; grows if the caller goes on feeding.
    """

    __slots__ = ("_left", "done", "trailing")

    def __init__(self, length: int) -> None:
        self._left = length
        self.done = length == 0
        self.trailing = b""

    def receive_data(self, data: bytes) -> bytes:
        """Take the next bytes. Returns those that belong to the body."""
        left = self._left - len(data)
        if left > 0:
            self._left = left
            return data
        body = data[: self._left]
        self.trailing += data[self._left :]
        self._left = 0
        self.done = True
        return body

    def receive_eof(self) -> None:
        """The connection closed. Raises HttpViolation if the body is not complete."""
        if not self.done:
            raise HttpViolation(400, f"The body was cut {self._left} bytes before its end")


class UntilCloseDecoder:
    """A response body that ends with the connection; whether it is whole only its content can tell."""

    __slots__ = ("done", "trailing")

    def __init__(self) -> None:
        self.done = False
        self.trailing = b""

    def receive_data(self, data: bytes) -> bytes:
        """Take the next bytes: all of them are body."""
        return data

    def receive_eof(self) -> None:
        """The connection closed: the body is done."""
        self.done = True


class ChunkedDecoder:
    """A chunked body.

    done: the last chunk and the trailer section have been read. trailing: what came after, untouched; grows if the
    caller goes on feeding.
    """

    __slots__ = ("_extension_room", "_fault", "_held", "_left", "_state", "_trailer_room", "done", "trailing")

    def __init__(self) -> None:
        self.done = False
        self.trailing = b""
        self._state = _BETWEEN
        self._left = 0
        self._held = bytearray()
        self._extension_room = MAX_EXTENSION_BYTES
        self._trailer_room = MAX_TRAILER_BYTES
        self._fault = ""

    def receive_data(self, data: bytes) -> bytes:
        """Take the next bytes. Returns the body bytes they hold, joined.

        Raises HttpViolation for broken framing or a passed bound; body bytes of the same call are then lost.
        """
        if not self._state:
            size, _, rest = data.partition(_CRLF)
            length = len(rest) - 2
            # hex digits in either case: Rust's HTTP servers write capitals
            if length > 0 and rest[length:] == _CRLF and size.lower() == b"%x" % length:
                return rest[:length]
        return self._walk(data)

    def receive_eof(self) -> None:
        """The connection closed. Raises HttpViolation if the body is not complete."""
        if not self.done:
            self._fail(self._fault or "The chunked body was cut before its last chunk")

    def _walk(self, data: bytes) -> bytes:
        if self._state == _POISONED:
            self._fail(self._fault)
        pieces: list[bytes] = []
        position = 0
        end = len(data)
        row_read = False
        while position < end:
            state = self._state
            if not state and not row_read:
                row_read = True
                position = _take_whole_chunks(data, position, pieces)
            elif state <= _SIZE:
                position = self._read_size(data, position)
            elif state == _DATA:
                piece = data[position : position + self._left]
                pieces.append(piece)
                position += len(piece)
                self._left -= len(piece)
                if not self._left:
                    self._state = _DATA_END
                    self._left = 2
            elif state == _DATA_END:
                ending = data[position : position + self._left]
                if not _CRLF.startswith(ending, 2 - self._left):
                    self._fail("Chunk data must end with CRLF")
                position += len(ending)
                self._left -= len(ending)
                if not self._left:
                    self._state = _BETWEEN
            elif state == _TRAILER:
                position = self._read_trailer(data, position)
            else:
                self.trailing += data[position:]
                break
        return b"".join(pieces) if len(pieces) != 1 else pieces[0]

    def _read_size(self, data: bytes, position: int) -> int:
        room = MAX_SIZE_DIGITS + self._extension_room + len(_CRLF)
        line = self._take_line(data, position, room)
        if line is None:
            self._state = _SIZE
            return len(data)
        match = _SIZE_LINE.fullmatch(line)
        if match is None:
            self._fail("Malformed chunk size")
        size, extension = match.groups()
        if extension:
            self._extension_room -= len(extension)
            if self._extension_room < 0:
                self._fail(f"Chunk extensions of more than {MAX_EXTENSION_BYTES} bytes")
        position += len(line) - len(self._held)
        self._held.clear()
        self._left = int(size, 16)
        self._state = _DATA if self._left else _TRAILER
        return position

    def _read_trailer(self, data: bytes, position: int) -> int:
        line = self._take_line(data, position, self._trailer_room)
        if line is None:
            return len(data)
        if not line.endswith(_CRLF):
            self._fail("Trailer lines must end with CRLF")
        if line == _CRLF:
            self._state = _DONE
            self.done = True
        else:
            self._trailer_room -= len(line)
            try:
                parse_fields([line[:-2]])
            except HttpViolation:
                self._fail("Malformed trailer line")
        position += len(line) - len(self._held)
        self._held.clear()
        return position

    def _take_line(self, data: bytes, position: int, room: int) -> bytes | None:
        """The line that begins in ``_held`` and goes on at ``position``, with its line feed.

        Returns None, and holds what there is, if its end has not come. Fails if it is longer than ``room``. Each byte
        is looked at once: ``_held`` is known to hold no line feed.
        """
        stop = data.find(b"\n", position, position + room - len(self._held)) + 1
        if stop:
            return bytes(self._held) + data[position:stop]
        if len(self._held) + len(data) - position >= room:
            self._fail("A chunk line is too long")
        self._held += data[position:]
        return None

    def _fail(self, message: str) -> NoReturn:
        self._state = _POISONED
        self._fault = message
        self._held.clear()
        raise HttpViolation(400, message)


def _take_whole_chunks(data: bytes, position: int, pieces: list[bytes]) -> int:
    """Append the data of the whole chunks in a row from ``position`` on. Returns where the row ends.

    Only chunks of the usual spelling: no leading zero, nothing after the size, data without a CRLF. They then lie at
    the odd places between CRLFs, each with its exact size before it, and the walk would read the same.
    """
    parts = data[position:].split(_CRLF)
    parts.pop()
    for size, piece in zip(parts[::2], parts[1::2], strict=False):
        if not piece or size.lower() != b"%x" % len(piece):
            break
        pieces.append(piece)
        position += len(size) + len(piece) + 4
    return position


BodyDecoder = LengthDecoder | ChunkedDecoder | UntilCloseDecoder


def body_decoder(framing: Framing) -> BodyDecoder:
    """A fresh decoder for a body framed so; it is ``done`` at once where there is none."""
    if framing.chunked:
        return ChunkedDecoder()
    if framing.length is None:
        return UntilCloseDecoder()
    return LengthDecoder(framing.length)
