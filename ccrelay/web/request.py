"""One client request, on twisted.web's Request: dispatched before its body, answered below ``Request.write``.

``Request.write`` builds header objects and counts for every piece; a stream of small events writes to the channel
instead, and twisted.web still finds, dispatches and finishes the request.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from io import BytesIO
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web import server

from ccrelay.core.answers import answer_of
from ccrelay.core.http1 import HttpViolation, RequestHead
from ccrelay.core.model import Answer
from ccrelay.core.request_body import RequestBody
from ccrelay.errors import ClientError, RelayError

if TYPE_CHECKING:
    from ccrelay.web.channel import RelayChannel

_log = Logger(namespace="ccrelay.web")


class ClientGone(RelayError):
    """The client closed its connection."""


class RelayRequest(server.Request):
    """A request whose headers are complete. ``head``: as parsed; ``id``: what ``X-Request-ID`` says in the answer."""

    def __init__(self, channel: RelayChannel, head: RequestHead) -> None:
        super().__init__(channel)
        self.head = head
        self.id = channel.site.request_id_for(head)
        self.body: RequestBody | None = None
        self.bytes_out = 0
        self.relay_channel = channel
        self._on_gone: Callable[[], None] | None = None
        self._on_settled: list[Callable[[], None]] = []
        self.gone = False
        self.answered = False

    def begin(self) -> None:
        """Dispatch. Called by the channel, once."""
        self.content = BytesIO()
        self.requestReceived(self.head.method, self.head.target, b"HTTP/" + self.head.version)

    def process(self) -> None:
        """Find the resource and render it; unlike twisted.web's own this names no server version."""
        site = self.relay_channel.site
        self.site = site
        self.prepath: list[bytes] = []
        self.postpath = [unquote(part.decode("latin-1")).encode("utf-8") for part in self.path[1:].split(b"/")]
        try:
            site.guard(self)
            self.render(site.getResourceFor(self))
        except ClientError as error:
            self.refuse(error)
        except Exception:  # noqa: BLE001  (a bug must not take the connection's other requests along)
            self.processingFailed(Failure())

    def processingFailed(self, reason: Failure) -> None:
        """A bug in a resource: logged in full, told to the client as a plain 500."""
        _log.failure("request {id} failed", failure=reason, id=self.id)
        if not self.answered and not self.gone:
            self.refuse(ClientError(500, "api_error", "Internal error in cc-relay; its log has the details"))
        elif not self.gone:
            self.relay_channel.abort()

    # -- the body

    def open_body(self) -> RequestBody:
        """Ask for the body: from now on it arrives in the RequestBody. Raises BodyTooLarge if it says it will be."""
        limits = self.relay_channel.site.limits
        framing = self.head.framing
        self.body = body = RequestBody(framing.length, limits.max_body_bytes)
        body.watch(self._body_changed)
        if framing.length == 0:
            body.receive_eof()
        else:
            self.relay_channel.body_wanted()
        return body

    def body_received(self, data: bytes) -> None:
        body = self.body
        if body is None or body.error is not None:
            return
        # Counted first: what has come may end the exchange at once, and that gives back what was counted.
        self.relay_channel.site.budget.add(self, len(data))
        with suppress(ClientError):  # told to whoever watches the body
            body.receive_data(data)

    def _body_changed(self) -> None:
        if self.body is not None and self.body.released:
            self.relay_channel.site.budget.release(self)

    def body_complete(self) -> None:
        """The last byte of the body has come."""
        # The budget may have paused it with that byte; a client that is not read from cannot be seen to leave.
        self.relay_channel.resume_reading()
        if self.body is not None and self.body.error is None:
            self.body.receive_eof()

    def body_broken(self, violation: HttpViolation) -> None:
        """The body's framing broke; nothing after it on this connection can be understood."""
        self._fail_body(ClientError(violation.status, "invalid_request_error", str(violation)))

    def body_stalled(self) -> None:
        """The client stopped sending in the middle of its body."""
        self._fail_body(ClientError(408, "invalid_request_error", "The request body stopped arriving"))

    def _fail_body(self, error: ClientError) -> None:
        if self.body is not None:
            self.body.fail(error)
        if not self.answered and not self.gone:
            self.refuse(error)

    def pause(self) -> None:
        """The budget for bodies in memory is used up (see BodyBudget).

        A body that is complete adds nothing more, and only while reading does a client's leaving show.
        """
        if self.relay_channel.receiving:
            self.relay_channel.pause_reading()

    def resume(self) -> None:
        """There is room again."""
        self.relay_channel.resume_reading()

    # -- the answer

    def refuse(self, error: ClientError) -> None:
        """Send an answer of our own that says why not."""
        self.answer(answer_of(error, self.id))

    def answer(self, answer: Answer) -> None:
        """Send a whole answer, once."""
        self.answered = True
        self.bytes_out = len(answer.body)
        self.code = answer.status
        headers = self.relay_channel.site.answer_headers(self.id, answer.headers)
        self.relay_channel.send(Answer(answer.status, headers, answer.body), with_body=self.method != b"HEAD")
        self.end()

    def end(self) -> None:
        """Everything is written: let twisted.web and the channel move on."""
        self._on_gone = None
        self.startedWriting = 1
        self.settle()
        self.finish()

    def when_gone(self, callback: Callable[[], None] | None) -> None:
        """See IResponseSink.when_gone."""
        self._on_gone = callback
        if callback is not None and self.gone:
            self._on_gone = None
            callback()

    def when_settled(self, callback: Callable[[], None]) -> None:
        """Call ``callback()`` once, when the answer is finished or the client has left."""
        self._on_settled.append(callback)

    def settle(self) -> None:
        """The exchange is over, however: give back what it held."""
        callbacks, self._on_settled = self._on_settled, []
        for callback in callbacks:
            callback()
        self.relay_channel.site.budget.release(self)

    def connectionLost(self, reason: Any) -> None:
        """The client has left."""
        self.gone = True
        if self.body is not None and not self.body.complete and self.body.error is None:
            self.body.fail(ClientGone("the client closed its connection"))
        callback, self._on_gone = self._on_gone, None
        if callback is not None:
            callback()
        self.settle()
        super().connectionLost(reason)
