"""Stand-ins that declare their interface and record what was done to them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IPushProducer
from zope.interface import implementer

from ccrelay.core.model import Answer, Headers
from ccrelay.interfaces import IResponseSink


@implementer(IResponseSink)
class FakeSink:
    """Collects an answer. ``body``: what the client has; ``end``: ``finished``, ``aborted`` or None so far."""

    def __init__(self) -> None:
        self.status: int | None = None
        self.headers: Headers = ()
        self.body = b""
        self.end: str | None = None
        self.gone = False
        self.committed = False
        self.producer: Any = None
        self._on_gone: Callable[[], None] | None = None

    @property
    def bytes_out(self) -> int:
        return len(self.body)

    def when_gone(self, callback: Callable[[], None] | None) -> None:
        self._on_gone = callback
        if self.gone and callback is not None:
            callback()

    def leave(self) -> None:
        """The client goes away."""
        self.gone = True
        callback, self._on_gone = self._on_gone, None
        if callback is not None:
            callback()

    def respond(self, answer: Answer) -> None:
        assert not self.committed
        self.begin(answer.status, answer.headers)
        self.body = answer.body
        self.finish()

    def begin(self, status: int, headers: Headers) -> None:
        assert not self.committed
        self.committed = True
        self.status, self.headers = status, headers

    def write(self, data: bytes) -> None:
        assert self.committed
        assert self.end is None
        assert data
        self.body += data

    def attach(self, producer: Any) -> None:
        self.producer = producer

    def finish(self) -> None:
        assert self.end is None
        self.end = "finished"

    def abort(self) -> None:
        assert self.end is None
        self.end = "aborted"


@implementer(IPushProducer)
class FakeTransport:
    """The upstream's side of a body. ``log``: what was asked of it, in order."""

    def __init__(self) -> None:
        self.log: list[str] = []

    def pauseProducing(self) -> None:
        self.log.append("pause")

    def resumeProducing(self) -> None:
        self.log.append("resume")

    def stopProducing(self) -> None:
        self.log.append("stop")

    def abortConnection(self) -> None:
        self.log.append("abort")
