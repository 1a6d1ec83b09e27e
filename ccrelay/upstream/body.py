"""A call's request body on its way to an upstream: replayed from its start, then followed live, edited on the way."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IConsumer, IPushProducer
from twisted.web.iweb import UNKNOWN_LENGTH, IBodyProducer
from zope.interface import implementer

from ccrelay.core.edits import EditedReader, edited_length
from ccrelay.core.model import Edit
from ccrelay.core.request_body import RequestBody

_PIECE = 65536
"""Bytes handed over at a time: one full socket buffer's worth, so that a slow upstream pauses us early."""


@implementer(IBodyProducer, IPushProducer)
class EditedBody:
    """The body with ``edits`` applied, for one attempt (or the fresh connection that replaces a stale one).

    on_progress(): called after each piece handed over, and at the end; for the timer that waits for the upstream.
    ``length`` is known when the client declared it or the body is complete; else the upstream gets chunks.
    The Deferred of ``startProducing`` fires when the last byte has been handed over. It never fails: whoever made
    this watches ``body.error`` and gives the request up.
    """

    def __init__(self, body: RequestBody, edits: Sequence[Edit], on_progress: Callable[[], None]) -> None:
        self._body = body
        self._edits = tuple(edits)
        self._on_progress = on_progress
        whole = body.received if body.complete else body.declared_length
        self.length = UNKNOWN_LENGTH if whole is None else edited_length(whole, self._edits)
        self.finished = False
        self._reader: EditedReader | None = None
        self._consumer: IConsumer | None = None
        self._done: Deferred[None] | None = None
        self._unwatch: Callable[[], None] | None = None
        self._paused = False
        self._copying = False

    def startProducing(self, consumer: IConsumer) -> Deferred[None]:
        self._reader = EditedReader(self._body, self._edits)
        self._consumer = consumer
        self._paused = self.finished = False
        done: Deferred[None] = Deferred()
        self._done = done
        self._unwatch = self._body.watch(self._copy)
        consumer.registerProducer(self, True)
        self._copy()
        return done

    def _copy(self) -> None:
        if self._copying:
            return
        self._copying = True
        try:
            while self._reader is not None and self._consumer is not None and not self._paused:
                piece = self._reader.read(_PIECE)
                if piece:
                    self._consumer.write(piece)
                    self._on_progress()
                elif self._reader.at_end:
                    self._finish()
                else:
                    return
        finally:
            self._copying = False

    def _finish(self) -> None:
        done = self._done
        self._stop()
        self.finished = True
        self._on_progress()
        if done is not None:
            done.callback(None)

    def _stop(self) -> None:
        if self._unwatch is not None:
            self._unwatch()
            self._unwatch = None
        if self._consumer is not None:
            self._consumer.unregisterProducer()
        self._consumer = self._reader = self._done = None

    def pauseProducing(self) -> None:
        self._paused = True

    def resumeProducing(self) -> None:
        self._paused = False
        self._copy()

    def stopProducing(self) -> None:
        self._stop()
