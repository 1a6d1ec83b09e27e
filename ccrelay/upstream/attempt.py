"""One upstream request for a call, from ``prepare`` to the commit or to a typed failure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from hyperlink import EncodedURL
from treq.client import HTTPClient
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.threads import deferToThread
from twisted.python.failure import Failure
from twisted.web.http_headers import Headers as WebHeaders
from twisted.web.iweb import IResponse

from ccrelay.core.failures import Failure as AttemptFailure
from ccrelay.core.failures import failure_of_event
from ccrelay.core.headers import response_headers, stream_headers
from ccrelay.core.model import AttemptPlan, Call, Head, OwnCredential, UpstreamRequest, Usage
from ccrelay.core.model import Headers as WireHeaders
from ccrelay.core.outcomes import Outcome, UpstreamError
from ccrelay.core.settings import TimeoutSettings
from ccrelay.core.thinking import SignatureCollector
from ccrelay.interfaces import IProvider, IResponseSink
from ccrelay.timers import SilenceTimer
from ccrelay.upstream.body import EditedBody
from ccrelay.upstream.cookies import no_cookies
from ccrelay.upstream.failures import upstream_error
from ccrelay.upstream.pump import Pump, StreamRefused

ERROR_BYTES = 262144
"""Of an unsuccessful answer's body read at most: Anthropic's are below 2 KB, an HTML error page below 100 KB."""

LONG_BODY = 262144
"""Bytes of a body that a provider must read whole from which on that is done in a thread: below, it takes less than
the 2 ms that nobody notices."""

ERROR_SECONDS = 10.0
"""Time for an unsuccessful answer's body: its status is known already and the client is waiting."""


_NO_COOKIES = no_cookies()  # treq makes a jar for each request that brings none


class _AsWritten(EncodedURL):
    """A URL that treq sends as it is: hyperlink takes no IPv6 address for a host and respells parts of a query."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self._text = text

    def to_uri(self) -> _AsWritten:
        return self

    def to_text(self, with_password: bool = False) -> str:
        return self._text


@dataclass(frozen=True, slots=True)
class Committed:
    """An attempt whose answer is on its way to the client. ``head``: as the upstream sent it. ``pump``: settles it."""

    head: Head
    pump: Pump


class Attempt:
    """Tries one provider with one credential. Use once.

    client: a treq client over this provider's agent. on_commit(): just before the first byte goes to the client.
    in_thread(function, *arguments): a Deferred of its result; where the hash of a large body does not stop the reactor.
    collector: sees the answer as the client is sent it.
    ``head``: of the last answer, as it came; None until one has begun. ``left_out``: see UpstreamRequest.
    """

    def __init__(
        self,
        clock: IReactorTime,
        client: HTTPClient,
        provider: IProvider,
        timeouts: TimeoutSettings,
        *,
        on_commit: Callable[[], None],
        in_thread: Callable[..., Deferred[Any]] = deferToThread,
        collector: SignatureCollector | None = None,
    ) -> None:
        self._clock = clock
        self._in_thread = in_thread
        self._collector = collector
        self._client = client
        self._provider: Any = provider
        self._timeouts = timeouts
        self._on_commit = on_commit
        self._body: EditedBody | None = None
        self._pump: Pump | None = None
        self.head: Head | None = None
        self.left_out: tuple[str, ...] = ()

    @property
    def usage(self) -> Usage:
        """The tokens that the answer has told of so far, committed or not."""
        return self._pump.usage if self._pump is not None else Usage()

    async def run(
        self,
        call: Call,
        plan: AttemptPlan,
        sink: IResponseSink,
        extra_headers: WireHeaders,
    ) -> Committed | AttemptFailure:
        """Send the call and read its answer until it is committed or has failed.

        extra_headers: added to the head of a committed answer.
        Returns Committed, or what the upstream's own unsuccessful answer means. Raises UpstreamError where there
        was no usable answer. Cancelled, it closes the upstream in the same turn and raises CancelledError.
        """
        own_credential = isinstance(plan.credential, OwnCredential)
        response, head = await self._send(call, plan)
        self.head = head
        if not 200 <= head.status < 300:
            body = await _read_error(self._clock, response)
            return self._provider.failure(head, body, own_credential, call.kind)  # type: ignore[no-any-return]
        answered: Head = self._provider.answer_head(head)
        lines = response_headers(answered.headers, own_credential=own_credential)
        try:
            return await self._receive(call, response, head, (*lines, *extra_headers), sink)
        except StreamRefused as refusal:
            return self._refused(refusal, call, own_credential)

    async def _prepare(self, call: Call, plan: AttemptPlan) -> UpstreamRequest:
        if self._provider.inspects_body and call.body.received > LONG_BODY:
            request = await self._in_thread(self._provider.prepare, call, plan)
        else:
            request = self._provider.prepare(call, plan)
        return request  # type: ignore[no-any-return]

    async def _send(self, call: Call, plan: AttemptPlan) -> tuple[IResponse, Head]:
        request = await self._prepare(call, plan)
        self.left_out = request.left_out
        timed_out = cancelled = False

        def give_up() -> None:
            nonlocal timed_out
            timed_out = True
            waiting.cancel()

        def cancel(_: object) -> None:
            nonlocal cancelled
            cancelled = True
            sending.cancel()

        silence = SilenceTimer(self._clock, self._timeouts.connect + self._timeouts.first_byte, give_up)
        self._body = body = EditedBody(call.body, request.edits, lambda: silence.touch(self._clock.seconds()))
        headers = WebHeaders()
        for name, value in request.headers:
            headers.addRawHeader(name, value)
        sending: Deferred[Any] = self._client.request(
            request.method.decode("ascii"),
            _AsWritten(request.url.decode("ascii")),
            headers=headers,
            data=body,
            cookies=_NO_COOKIES,
            unbuffered=True,
            allow_redirects=False,
        )
        waiting: Deferred[Any] = Deferred(cancel)
        sending.addCallbacks(waiting.callback, waiting.errback)
        silence.start()
        try:
            response: Any = await waiting
        except BaseException as error:
            if timed_out:
                reason = f"no answer within {self._timeouts.first_byte:g} s of the request"
                raise UpstreamError(Outcome.PROVIDER_ILL, reason) from None
            if cancelled:  # an endpoint then fails with what it was at, such as a name that was not found
                raise CancelledError from None
            if isinstance(error, GeneratorExit):
                raise
            raise upstream_error(Failure()) from None
        finally:
            silence.stop()
        # treq leaves an empty Content-Encoding where it found none.
        lines = tuple(
            (name, value)
            for canonical, values in response.headers.getAllRawHeaders()
            for name in (canonical.lower(),)
            for value in values
            if value or name != b"content-encoding"
        )
        return response, Head(response.code, lines)

    async def _receive(
        self, call: Call, response: IResponse, head: Head, lines: WireHeaders, sink: IResponseSink
    ) -> Committed:
        try:
            decoder = self._provider.decoder(head)
            if (head.first(b"content-encoding") or b"identity").lower() != b"identity":
                raise UpstreamError(Outcome.PROVIDER_ILL, "the answer is compressed, which was not offered")
        except BaseException:
            response.deliverBody(_Unwanted())
            raise
        self._pump = pump = Pump(
            self._clock,
            sink,
            Head(head.status, lines if decoder is None else stream_headers(lines)),
            decoder,
            idle_timeout=self._timeouts.idle,
            on_commit=lambda: self._committing(call),
            rewrite=self._provider.rewrite(call) if decoder is None else None,
            collector=self._collector,
        )
        response.deliverBody(pump)
        await pump.opened
        return Committed(head, pump)

    def _refused(self, refusal: StreamRefused, call: Call, own_credential: bool) -> AttemptFailure:
        """An error inside a 200, as the provider judges it in an answer of its own: it may repeat a key there too."""
        told = failure_of_event(refusal.error, call.request_id)
        head = Head(told.answer.status, told.answer.headers)
        judged: AttemptFailure = self._provider.failure(head, told.answer.body, own_credential, call.kind)
        return replace(judged, reason=told.reason)

    def _committing(self, call: Call) -> None:
        """Nobody else will be asked: a body that has been sent whole need not be kept while the answer streams."""
        self._on_commit()
        if self._body is not None and self._body.finished:
            call.body.release()


async def _read_error(clock: IReactorTime, response: IResponse) -> bytes:
    collector = _Collector()
    response.deliverBody(collector)
    deadline = clock.callLater(ERROR_SECONDS, collector.stop)
    try:
        return await collector.done
    finally:
        if deadline.active():
            deadline.cancel()


class _Unwanted(Protocol):
    """Closes the connection of a body that nobody is going to read."""

    def connectionMade(self) -> None:
        self.transport.abortConnection()  # type: ignore[union-attr]


class _Collector(Protocol):
    """The beginning of a body, up to ERROR_BYTES; a body that breaks gives what came before."""

    def __init__(self) -> None:
        self._body = bytearray()
        self.done: Deferred[bytes] = Deferred(lambda _: self._close())

    def dataReceived(self, data: bytes) -> None:
        self._body += data
        if len(self._body) >= ERROR_BYTES:
            self.stop()

    def stop(self) -> None:
        """Enough: answer with what is there."""
        self._close()
        self._fire()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._fire()

    def _close(self) -> None:
        self.transport.abortConnection()  # type: ignore[union-attr]

    def _fire(self) -> None:
        if not self.done.called:
            self.done.callback(bytes(self._body[:ERROR_BYTES]))
