"""A request body in memory: it arrives once, and is read from its start as often as an attempt needs it."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable

from ccrelay.core.members import MemberScanner
from ccrelay.errors import BodyTooLarge, ClientError, MalformedBody, RelayError

_PIECE = 16384
"""Bytes below which an arriving piece is joined to the one before: a client that sends single bytes must not cost a
hundred times what it sends, and joining 16 KiB costs nothing beside reading them from a socket."""


class RequestBody:
    """One call's body.

    declared_length: bytes that ``Content-Length`` promised, None for a chunked body. limit: bytes, 0 for none.
    received: bytes that have arrived. complete: all have, and they are an object that can be routed.
    error: what is wrong with it, once something is; no more is taken then. members: its top-level members so far.
    Memory held is what has arrived, below ``limit``, and one object for 16 KiB of it; ``release()`` gives it back.

    Making one raises BodyTooLarge if more than the limit is declared.
    """

    __slots__ = (
        "_ends",
        "_limit",
        "_pieces",
        "_tail",
        "_watchers",
        "complete",
        "declared_length",
        "error",
        "members",
        "received",
        "released",
    )

    def __init__(self, declared_length: int | None, limit: int) -> None:
        if limit and declared_length is not None and declared_length > limit:
            raise BodyTooLarge(limit)
        self.declared_length = declared_length
        self._limit = limit
        self.received = 0
        self.complete = False
        self.released = False
        self.error: RelayError | None = None
        self.members = MemberScanner()
        self._pieces: list[bytes] = []
        self._ends: list[int] = []
        self._tail = bytearray()
        self._watchers: dict[object, Callable[[], None]] = {}

    # -- arriving

    def receive_data(self, data: bytes) -> None:
        """Take the next bytes. Ignored after an error; counted only after ``release()``.

        Raises BodyTooLarge as soon as the limit is passed. A body that is not what routing needs, or that is longer
        than it was declared, is told by ``error``.
        """
        if self.error is not None or not data:
            return
        received = self.received + len(data)
        if self._limit and received > self._limit:
            self.fail(BodyTooLarge(self._limit))
            raise BodyTooLarge(self._limit)
        if self.declared_length is not None and received > self.declared_length:
            self.fail(ClientError(400, "invalid_request_error", "The request body is longer than its Content-Length"))
            return
        if not self.released:
            self._store(data, received)
        self.received = received
        if not self.released:
            try:
                self.members.receive_data(data)
            except MalformedBody as error:
                self.error = error.with_traceback(None)  # which would keep the data, and us, in a cycle
        self._changed()

    def receive_eof(self) -> None:
        """The body has ended. Ignored after an error."""
        if self.error is not None:
            return
        if self.declared_length is not None and self.received != self.declared_length:
            self.fail(ClientError(400, "invalid_request_error", "The request body is shorter than its Content-Length"))
            return
        if not self.released:
            try:
                self.members.receive_eof()
            except MalformedBody as error:
                self.error = error.with_traceback(None)
        self.complete = self.error is None
        self._changed()

    def fail(self, error: RelayError) -> None:
        """The body will not come: its client left, stalled, or broke its framing. The first error stays."""
        if self.error is None and not self.complete:
            self.error = error
            self._changed()

    def _store(self, data: bytes, end: int) -> None:
        if not self._tail and len(data) >= _PIECE:
            self._pieces.append(data)
            self._ends.append(end)
            return
        self._tail += data
        if len(self._tail) >= _PIECE:
            self._pieces.append(bytes(self._tail))
            self._ends.append(end)
            self._tail.clear()

    # -- reading

    def read(self, offset: int, most: int) -> bytes:
        """Between one and ``most`` bytes from ``offset``, which must have arrived; a whole piece is not copied.

        Raises ValueError after ``release()``.
        """
        if self.released:
            raise ValueError("the body has been released")
        index = bisect_right(self._ends, offset)
        begin = self._ends[index - 1] if index else 0
        if index == len(self._pieces):
            return bytes(self._tail[offset - begin : offset - begin + most])
        piece = self._pieces[index]
        if offset == begin and len(piece) <= most:
            return piece
        return piece[offset - begin : offset - begin + most]

    def watch(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call ``callback()`` after each change, until the function that is returned is called."""
        token = object()
        self._watchers[token] = callback

        def cancel() -> None:
            self._watchers.pop(token, None)

        return cancel

    def _changed(self) -> None:
        for token in list(self._watchers):
            callback = self._watchers.get(token)
            if callback is not None:
                callback()

    def release(self) -> None:
        """Nobody will read again: drop the bytes; more may still arrive and are counted."""
        if not self.released:
            self.released = True
            self._pieces.clear()
            self._ends.clear()
            self._tail.clear()
            self._changed()
