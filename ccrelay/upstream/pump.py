"""From an upstream's body to the client's sink: hold, commit, pass on, keep alive, settle.

    holding    the stream's opening is kept; a failure now is still a failed attempt, and nobody has seen a byte
    passing    committed: every whole event goes on at once; a failure now can only cut the client's connection
    ended      the outcome is known; nothing further happens

Plain callbacks throughout: one call per piece of data, no coroutine step, no JSON. The sink pauses and resumes the
pump; that alone carries back-pressure to the upstream.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IPushProducer, IReactorTime
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone
from twisted.web.http import PotentialDataLoss
from zope.interface import implementer

from ccrelay.core.model import Answer, Head, Usage
from ccrelay.core.outcomes import Outcome, UpstreamError
from ccrelay.core.sse import PING
from ccrelay.core.stream_watch import MessageFacts, StreamError, StreamWatch, usage_of_message
from ccrelay.core.thinking import SignatureCollector
from ccrelay.errors import StreamViolation
from ccrelay.interfaces import IResponseSink, IStreamDecoder
from ccrelay.timers import GapTimer, SilenceTimer
from ccrelay.upstream.failures import upstream_error

HOLD_BYTES = 65536
"""A stream's opening held at most: far above any message_start, far below what would cost memory or be noticed."""

HOLD_SECONDS = 10.0
"""Time an opening is held at most: a user sees signs of life well before Claude Code's 20 s notice."""

PING_SECONDS = 15.0
"""Silence towards the client before a ping: below the 20 s notice and the 60 s of common middleboxes."""

MESSAGE_BYTES = 1 << 20
"""Of a JSON answer kept for its usage: a larger one passes all the same, its tokens uncounted."""


class StreamRefused(Exception):
    """The stream's first event of substance was an error. ``error`` is that event's."""

    def __init__(self, error: StreamError) -> None:
        self.error = error
        super().__init__(error.type)


@dataclass(frozen=True, slots=True)
class Ending:
    """How a committed answer ended. ``reason``: one short phrase where it was not ``answered``."""

    outcome: Outcome
    reason: str | None


@implementer(IPushProducer)
class Pump(Protocol):
    """Receives one successful answer's body.

    head: its status and headers, as the client gets them. decoder: None for a body that passes as it is.
    rewrite: what a whole JSON answer is made into, see IProvider; such an answer is held until its end, however long.
    collector: sees what the client is sent.
    idle_timeout: seconds without a byte from the upstream after which the answer counts as dead.
    on_commit(): called just before the first byte goes to the client.

    ``opened`` fires at the commit; it fails with UpstreamError or StreamRefused where nothing was committed.
    ``ended`` fires with an Ending after a commit, never fails; cancelling it, as ``abort()`` does, closes the upstream.
    """

    def __init__(
        self,
        clock: IReactorTime,
        sink: IResponseSink,
        head: Head,
        decoder: IStreamDecoder | None,
        *,
        idle_timeout: float,
        on_commit: Callable[[], None],
        rewrite: Callable[[bytes], bytes] | None = None,
        collector: SignatureCollector | None = None,
    ) -> None:
        self._clock = clock
        self._sink: Any = sink
        self._head = head
        self._decoder: Any = decoder
        self._on_commit = on_commit
        self._rewrite = rewrite
        self._collector = collector
        self.watch = StreamWatch()
        self.facts: MessageFacts | None = None
        self._message: bytearray | None = bytearray()
        self._held: list[bytes] = []
        self._held_bytes = 0
        self._hold_call: IDelayedCall | None = None
        self._holding = True
        self._over = False
        self._idle = GapTimer(clock, idle_timeout, self._silent)
        self._ping = SilenceTimer(clock, PING_SECONDS, self._send_ping)
        self.opened: Deferred[None] = Deferred(lambda _: self.abort())
        self.ended: Deferred[Ending] = Deferred(lambda _: self.abort())

    @property
    def is_stream(self) -> bool:
        return self._decoder is not None

    @property
    def usage(self) -> Usage:
        """The tokens counted so far."""
        return self.watch.usage if self.facts is None else self.facts.usage

    @property
    def longest_gap(self) -> float | None:
        """Seconds of the upstream's longest silence within a stream, the one it ended with included."""
        return self._idle.longest(self._clock.seconds()) if self.is_stream else None

    # -- from the upstream

    def connectionMade(self) -> None:
        self._idle.start()

    def dataReceived(self, data: bytes) -> None:
        if self._over:
            return
        now = self._clock.seconds()
        self._idle.touch(now)
        decoder = self._decoder
        if decoder is None:
            self._keep_message(data)
        else:
            try:
                data = decoder.receive_data(data)
            except StreamViolation as violation:
                self._broken(str(violation))
                return
            if not data:
                return
            self._see(data)
        if self._holding:
            self._hold(data)
        else:
            self._ping.touch(now)
            self._sink.write(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._over:
            return
        ended_well = reason.check(ResponseDone, PotentialDataLoss) is not None
        fault = self._message_fault(reason) if self._decoder is None else self._stream_fault(reason, ended_well)
        if fault is None:
            self._finish()
        else:
            self._broken(fault)

    def _stream_fault(self, reason: Failure, ended_well: bool) -> str | None:
        """What is wrong with a stream that ended like this; None if it is whole, or ended by its own error event."""
        if ended_well:
            try:
                self._pass_on(self._decoder.receive_eof())
            except StreamViolation as violation:
                return str(violation)
        if self.watch.stopped:
            return None
        if not ended_well:
            return upstream_error(reason).reason
        return None if self.watch.error is not None else "the stream ended without message_stop"

    def _message_fault(self, reason: Failure) -> str | None:
        """As _stream_fault for a JSON answer: one that ends with its connection has no other end than its text's."""
        if reason.check(ResponseDone) or (reason.check(PotentialDataLoss) and self._message_closed()):
            return None
        return upstream_error(reason).reason

    def _message_closed(self) -> bool:
        if self._message is None:
            return False
        try:
            json.loads(self._message)
        except (ValueError, RecursionError):
            return False
        return True

    def _pass_on(self, data: bytes) -> None:
        if data:
            self._see(data)
            if self._holding:
                self._hold(data)
            else:
                self._sink.write(data)

    def _see(self, data: bytes) -> None:
        self.watch.see(data)
        if self._collector is not None:
            self._collector.see(data)

    # -- holding

    def _keep_message(self, data: bytes) -> None:
        if self._message is None:
            return
        self._message += data
        if len(self._message) > MESSAGE_BYTES:
            self._message = None

    def _hold(self, data: bytes) -> None:
        self._held.append(data)
        self._held_bytes += len(data)
        watch = self.watch
        if self._rewrite is not None:
            if self._message is None:
                self._broken("the answer is too large to be put into Anthropic's form")
            return
        if watch.error is not None and not watch.content_started:
            self._refuse(StreamRefused(watch.error))
        elif watch.content_started or self._held_bytes > HOLD_BYTES:
            self._commit()
        elif self._hold_call is None:
            self._hold_call = self._clock.callLater(HOLD_SECONDS, self._commit)

    def _commit(self) -> None:
        self._stop_hold_timer()
        self._holding = False
        self._on_commit()
        self._sink.begin(self._head.status, self._head.headers)
        self._sink.attach(self)
        held, self._held = b"".join(self._held), []
        if held:
            self._sink.write(held)
        if self._decoder is not None and self._idle.running:
            self._ping.start()
        self.opened.callback(None)

    def _refuse(self, error: Exception) -> None:
        self._close()
        self.opened.errback(Failure(error))

    # -- passing

    def _send_ping(self) -> None:
        if self._idle.running:
            self._sink.write(PING)
            self._ping.start()

    def pauseProducing(self) -> None:
        """The client reads slowly: the upstream's silence is now ours, so its timers stand still."""
        if not self._over:
            self._idle.stop()
            self._ping.stop()
            self.transport.pauseProducing()  # type: ignore[union-attr]

    def resumeProducing(self) -> None:
        if not self._over:
            self._idle.start()
            if self._decoder is not None and not self._holding:
                self._ping.start()
            self.transport.resumeProducing()  # type: ignore[union-attr]

    def stopProducing(self) -> None:
        self.abort()

    # -- endings

    def _silent(self) -> None:
        if self._holding:
            self._refuse(UpstreamError(Outcome.PROVIDER_ILL, "the answer fell silent", answered=True))
            return
        self._close()
        self._sink.abort()
        self.ended.callback(Ending(Outcome.STALLED, "the answer fell silent"))

    def _broken(self, reason: str) -> None:
        if self._over:
            return
        if self._holding:
            self._refuse(UpstreamError(Outcome.PROVIDER_ILL, reason, answered=True))
            return
        self._close()
        self._sink.abort()
        self.ended.callback(Ending(Outcome.TRUNCATED, reason))

    def _finish(self) -> None:
        if self._over:
            return
        if self._decoder is None and self._message is not None:
            self.facts = usage_of_message(bytes(self._message))
            if self._collector is not None:
                self._collector.see_message(bytes(self._message))
        if self._holding and self._decoder is None:
            self._answer_whole()
            return
        if self._holding:
            self._commit()
        self._stop_timers()
        self._over = True
        self._sink.finish()
        self.ended.callback(self._ending())

    def _answer_whole(self) -> None:
        """A JSON answer that was still held when it ended: it goes out in one piece, with its length."""
        if self.facts is not None and self.facts.error is not None:
            self._refuse(StreamRefused(self.facts.error))
            return
        body = b"".join(self._held)
        if self._rewrite is not None:
            try:
                body = self._rewrite(body)
            except UpstreamError as error:
                self._refuse(error)
                return
        self._stop_timers()
        self._over = True
        self._holding = False
        self._on_commit()
        self._sink.respond(Answer(self._head.status, self._head.headers, body))
        self.opened.callback(None)
        self.ended.callback(self._ending())

    def _ending(self) -> Ending:
        error = self.watch.error
        if error is not None and not self.watch.stopped:
            return Ending(Outcome.TRUNCATED, f"error event: {error.type}")
        return Ending(Outcome.ANSWERED, None)

    def abort(self) -> None:
        """Nobody wants the answer any more: close the upstream now. Fires nothing by itself."""
        if not self._over:
            self._close()

    def _close(self) -> None:
        self._over = True
        self._stop_timers()
        self.transport.abortConnection()  # type: ignore[union-attr]

    def _stop_timers(self) -> None:
        self._idle.stop()
        self._ping.stop()
        self._stop_hold_timer()

    def _stop_hold_timer(self) -> None:
        if self._hold_call is not None and self._hold_call.active():
            self._hold_call.cancel()
        self._hold_call = None
