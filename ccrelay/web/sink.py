"""The client's side of a call as the relay sees it (IResponseSink)."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import IPushProducer
from zope.interface import implementer

from ccrelay.core.model import Answer, Headers
from ccrelay.interfaces import IResponseSink
from ccrelay.web.request import RelayRequest


@implementer(IResponseSink)
class ClientSink:
    """Writes an answer to the client of ``request``."""

    def __init__(self, request: RelayRequest) -> None:
        self._request = request
        self._channel = request.relay_channel
        self.committed = False

    @property
    def gone(self) -> bool:
        return self._request.gone

    @property
    def bytes_out(self) -> int:
        """Body bytes written so far."""
        return self._request.bytes_out

    def when_gone(self, callback: Callable[[], None] | None) -> None:
        self._request.when_gone(callback)

    def respond(self, answer: Answer) -> None:
        self.committed = True
        if not self._request.gone:
            self._request.answer(answer)

    def begin(self, status: int, headers: Headers) -> None:
        self.committed = True
        request = self._request
        if request.gone:
            return
        request.answered = True
        request.code = status
        request.startedWriting = 1
        lines = self._channel.site.answer_headers(request.id, headers)
        self._channel.begin(status, lines, chunked=request.head.version == b"1.1")

    def write(self, data: bytes) -> None:
        request = self._request
        if not request.gone:
            request.bytes_out += len(data)
            self._channel.write_body(data)

    def attach(self, producer: IPushProducer) -> None:
        if not self._request.gone:
            self._channel.attach(producer)

    def finish(self) -> None:
        if not self._request.gone:
            self._channel.attach(None)
            self._channel.end_body()
            self._request.end()

    def abort(self) -> None:
        if not self._request.gone:
            self._channel.attach(None)
            self._request.when_gone(None)
            self._channel.cut()
