"""The one place that tells what happens to a call: candidates, attempts, the commit, the end, the access record."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from treq.client import HTTPClient
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure as TwistedFailure

from ccrelay.core.access import REFUSED, AccessRecord
from ccrelay.core.answers import answer_of, error_answer
from ccrelay.core.attempts import AttemptLoop, Candidate
from ccrelay.core.failures import Failure, most_useful
from ccrelay.core.headers import first
from ccrelay.core.members import Member
from ccrelay.core.model import Answer, Call, CallKind, Head, Headers
from ccrelay.core.outcomes import Outcome, UpstreamError
from ccrelay.core.request_body import RequestBody
from ccrelay.core.settings import RoutingSettings, TimeoutSettings
from ccrelay.credentials.static import StaticCredentials
from ccrelay.errors import ClientError, CredentialError, MalformedBody
from ccrelay.interfaces import ICredentials, IProvider, IResponseSink
from ccrelay.upstream.attempt import Attempt, Committed

_log = Logger(namespace="ccrelay.relay")


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to use one key. ``key``: its fingerprint; None for the client's own, or where none is needed."""

    key: str | None
    credentials: ICredentials


@dataclass(frozen=True, slots=True)
class Upstream:
    """A provider ready to be asked. ``leases``: of its keys, best first; empty: none needed or none configured."""

    provider: IProvider
    client: HTTPClient
    timeouts: TimeoutSettings
    leases: tuple[Lease, ...]


@dataclass(frozen=True, slots=True)
class _Target:
    upstream: Upstream
    lease: Lease | None


class Relay:
    """Serves calls with the upstreams of one runtime.

    upstreams: in the order to be tried. timeout: seconds until the answer must have begun. epoch(): wall clock, for
    the record. observe(record): called once per call, when it has ended.
    """

    def __init__(
        self,
        clock: IReactorTime,
        upstreams: Sequence[Upstream],
        routing: RoutingSettings,
        timeout: float,
        *,
        epoch: Callable[[], float],
        observe: Callable[[AccessRecord], None],
    ) -> None:
        self._clock = clock
        self._upstreams = tuple(upstreams)
        self._routing = routing
        self._timeout = timeout
        self._epoch = epoch
        self._observe = observe

    def handle(self, call: Call, sink: IResponseSink) -> Deferred[None]:
        """Serve ``call`` to ``sink``. The Deferred fires when the call has ended, however; it never fails."""
        return _Serving(self, call, sink).start()

    # -- the story

    async def serve(self, call: Call, sink: IResponseSink, story: Story) -> None:
        """Find the model, try the candidates in order, pass on the first answer that begins, settle at its end.

        Raises ClientError where the call cannot be served; cancelled, it closes what it had open in the same turn.
        """
        model_value = await _model_value(call.body)
        story.model_asked = asked = _model_name(model_value)
        candidates = self._candidates(call)
        loop = AttemptLoop(candidates, self._routing.max_attempts, self._routing.failover_timeout)
        failures: list[Failure] = []
        while (candidate := loop.next(self._clock.seconds())) is not None:
            result = await self._attempt(candidate.target, asked, call, model_value, sink, story)
            if isinstance(result, Committed):
                story.committed(result)
                ending = await result.pump.ended
                story.ended(ending.outcome, ending.reason)
                return
            story.failed(result)
            failures.append(result)
            loop.failed(result.outcome, self._clock.seconds())
        answer = most_useful(failures, call.request_id, loop.begun)
        sink.respond(self._with_reasons(answer, story))
        story.status = answer.status

    def _candidates(self, call: Call) -> list[Candidate[_Target]]:
        """Who could take the call, best first. Raises ClientError saying why where nobody can."""
        found: list[Candidate[_Target]] = []
        refusals: list[str] = []
        for upstream in self._upstreams:
            provider: Any = upstream.provider
            refusal = provider.refusal(call)
            if refusal is not None:
                refusals.append(f"{provider.name} {refusal}")
                continue
            leases: tuple[Lease | None, ...] = upstream.leases
            if call.own_credential is not None and provider.accepts_own_credential:
                leases = (Lease(None, StaticCredentials(call.own_credential)),)
            elif call.principal.own_credential_only:
                leases = ()
            elif not leases and not provider.needs_key:
                leases = (None,)
            found += [Candidate(provider.name, _Target(upstream, lease)) for lease in leases]
        if not found:
            raise self._nobody(call, refusals)
        return found

    def _nobody(self, call: Call, refusals: list[str]) -> ClientError:
        if refusals and call.kind is CallKind.COUNT_TOKENS:
            return ClientError(501, "not_supported", f"cc-relay: {'; '.join(refusals)}", should_retry=False)
        if any(upstream.provider.accepts_own_credential for upstream in self._upstreams):
            message = "cc-relay: no provider has a key for this call; log in, or ask the operator to configure one"
            return ClientError(401, "authentication_error", message, should_retry=False)
        return ClientError(503, "api_error", "cc-relay: no provider is configured that could be asked",
                           should_retry=False)

    async def _attempt(
        self, target: _Target, asked: str, call: Call, model_value: Member, sink: IResponseSink, story: Story
    ) -> Committed | Failure:
        provider: Any = target.upstream.provider
        model = provider.model_for(asked)
        story.attempting(provider.name, model, target.lease)
        attempt = Attempt(
            self._clock,
            target.upstream.client,
            provider,
            target.upstream.timeouts,
            on_commit=story.first_byte,
            extra_headers=self._reasons(story),
        )
        try:
            credentials: Any = target.lease.credentials if target.lease is not None else None
            credential = await credentials.current() if credentials is not None else None
            return await attempt.run(call, model, model_value, credential, sink)
        except UpstreamError as error:
            return _failure(error.outcome, error.reason, provider.name, call)
        except CredentialError as error:
            return _failure(Outcome.KEY_DEAD, str(error), provider.name, call)

    # -- routing.debug

    def _reasons(self, story: Story) -> Headers:
        if not self._routing.debug:
            return ()
        return (
            (b"x-cc-relay-strategy", self._routing.strategy.encode("ascii")),
            (b"x-cc-relay-provider", (story.provider or "-").encode("ascii", "replace")),
            (b"x-cc-relay-attempts", b"%d" % story.attempts),
        )

    def _with_reasons(self, answer: Answer, story: Story) -> Answer:
        return Answer(answer.status, (*answer.headers, *self._reasons(story)), answer.body)

    def settled(self, record: AccessRecord) -> None:
        """A call has ended."""
        self._observe(record)

    @property
    def timeout(self) -> float:
        """Seconds until a call's answer must have begun."""
        return self._timeout

    def now(self) -> float:
        """The monotonic clock, in seconds."""
        return self._clock.seconds()

    @property
    def clock(self) -> IReactorTime:
        return self._clock

    def epoch(self) -> float:
        """The wall clock, in seconds."""
        return self._epoch()


class Story:
    """What is known of a call so far; becomes its access record."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self.began = now()
        self.model_asked: str | None = None
        self.model_sent: str | None = None
        self.provider: str | None = None
        self.key: str | None = None
        self.attempts = 0
        self.status: int | None = None
        self.outcome: Outcome | None = None
        self.reason: str | None = None
        self.ttfb: float | None = None
        self.answer: Committed | None = None
        self.upstream_request_id: bytes | None = None

    def attempting(self, provider: str, model: str, lease: Lease | None) -> None:
        """An attempt begins."""
        self.attempts += 1
        self.provider, self.model_sent = provider, model
        self.key = lease.key if lease is not None else None

    def failed(self, failure: Failure) -> None:
        """An attempt ended before the commit."""
        self.outcome, self.reason = failure.outcome, failure.reason
        self.upstream_request_id = first(failure.answer.headers, b"request-id")
        _log.warn(
            "attempt failed: {provider} {model}: {outcome}: {reason}",
            provider=self.provider, model=self.model_sent, outcome=failure.outcome.value, reason=failure.reason,
        )

    def first_byte(self) -> None:
        """The answer begins."""
        self.ttfb = self._now() - self.began

    def committed(self, answer: Committed) -> None:
        """An attempt's answer is on its way to the client."""
        self.answer = answer
        self.status = answer.head.status
        self.outcome = self.reason = None
        self.upstream_request_id = _request_id(answer.head)

    def ended(self, outcome: Outcome, reason: str | None) -> None:
        """The answer ended."""
        self.outcome, self.reason = outcome, reason

    def record(self, call: Call, bytes_out: int, epoch: float) -> AccessRecord:
        """The access record of the call, ended now."""
        stream = self.answer is not None and self.answer.pump.is_stream
        usage = self.answer.pump.usage if self.answer is not None else None
        upstream_id = self.upstream_request_id
        agent = first(call.headers, b"user-agent")
        return AccessRecord(
            time=epoch,
            request_id=call.request_id,
            outcome=self.outcome if self.outcome is not None else REFUSED,
            duration=self._now() - self.began,
            attempts=self.attempts,
            status=self.status,
            reason=self.reason,
            kind=call.kind,
            stream=stream,
            provider=self.provider,
            key=self.key,
            model_asked=self.model_asked,
            model_sent=self.model_sent,
            ttfb=self.ttfb,
            **({} if usage is None else {"usage": usage}),
            bytes_in=call.body.received,
            bytes_out=bytes_out,
            upstream_request_id=upstream_id.decode("latin-1") if upstream_id else None,
            session=call.session,
            principal=call.principal,
            client=call.peer,
            user_agent=agent.decode("latin-1") if agent else None,
        )


class _Serving:
    """One call being served: what can end it from outside, and the tidying up at its end."""

    def __init__(self, relay: Relay, call: Call, sink: IResponseSink) -> None:
        self._relay = relay
        self._call = call
        self._sink: Any = sink
        self._story = Story(relay.now)
        self._verdict: ClientError | None = None

    def start(self) -> Deferred[None]:
        relay, body = self._relay, self._call.body
        self._serving = serving = Deferred.fromCoroutine(relay.serve(self._call, self._sink, self._story))
        too_late = relay.clock.callLater(relay.timeout, self._too_late)
        unwatch = body.watch(self._body_changed)
        self._sink.when_gone(serving.cancel)
        serving.addErrback(self._stopped)

        def end(_: object) -> None:
            unwatch()
            if too_late.active():
                too_late.cancel()
            body.release()
            relay.settled(self._story.record(self._call, self._sink.bytes_out, relay.epoch()))

        serving.addBoth(end)
        serving.addErrback(lambda failure: _log.failure("call could not be settled", failure=failure))
        return serving

    def _body_changed(self) -> None:
        if isinstance(self._call.body.error, ClientError):
            self._stop(self._call.body.error)

    def _too_late(self) -> None:
        if not self._sink.committed:
            message = f"cc-relay: no answer began within {self._relay.timeout:g} s (server.timeout_ms)"
            self._stop(ClientError(504, "timeout_error", message))

    def _stop(self, verdict: ClientError) -> None:
        self._verdict = verdict
        self._serving.cancel()

    def _stopped(self, failure: TwistedFailure) -> None:
        story, sink = self._story, self._sink
        error = failure.value
        if isinstance(error, CancelledError) and self._verdict is not None:
            error = self._verdict
        if sink.gone:
            story.outcome, story.reason = Outcome.CLIENT_GONE, None
        elif isinstance(error, ClientError):
            self._refuse(error)
        else:
            _log.failure("call {id} failed", failure=failure, id=self._call.request_id)
            self._refuse(ClientError(500, "api_error", "Internal error in cc-relay; its log has the details"))

    def _refuse(self, error: ClientError) -> None:
        self._story.outcome, self._story.reason = None, error.message
        if self._sink.committed:
            self._sink.abort()
        else:
            self._story.status = error.status
            self._sink.respond(answer_of(error, self._call.request_id))


async def _model_value(body: RequestBody) -> Member:
    """The span of the top-level ``model``, as soon as it has come. Raises what is wrong with the body."""
    while True:
        if body.error is not None:
            raise body.error
        member = body.members.find("model")
        if member is not None:
            return member
        changed: Deferred[None] = Deferred()
        unwatch = body.watch(lambda waiting=changed: waiting.called or waiting.callback(None))
        try:
            await changed
        finally:
            unwatch()


def _model_name(member: Member) -> str:
    if member.raw is None:
        raise MalformedBody("model: String is too long", member.start)
    name = json.loads(member.raw)
    if not isinstance(name, str):
        raise MalformedBody("model: Input should be a valid string", member.start)
    return name


def _failure(outcome: Outcome, reason: str, provider: str, call: Call) -> Failure:
    answer = error_answer(502, "api_error", f"cc-relay: {provider}: {reason}", call.request_id)
    return Failure(outcome, answer, reason, None)


def _request_id(head: Head) -> bytes | None:
    for name in (b"request-id", b"x-request-id", b"apim-request-id"):
        value = head.first(name)
        if value:
            return value
    return None
