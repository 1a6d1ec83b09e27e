"""What happens to a call, told in one function: ``Relay._serve``."""

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

from ccrelay.core.access import AccessRecord
from ccrelay.core.answers import answer_of, error_answer
from ccrelay.core.attempts import AttemptLoop, Candidate
from ccrelay.core.failures import Failure, most_useful
from ccrelay.core.members import Member
from ccrelay.core.model import Answer, AttemptPlan, Call, CallKind, Credential, Headers
from ccrelay.core.outcomes import Outcome, UpstreamError
from ccrelay.core.request_body import RequestBody
from ccrelay.core.settings import RoutingSettings, TimeoutSettings
from ccrelay.core.story import Story
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
    lease: Lease


class Relay:
    """Serves calls with the upstreams of one runtime.

    upstreams: in the order to be tried. timeout: seconds until the answer must have begun. epoch(): the wall clock,
    for the record. observe(record): called once per call, when it has ended.
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
        """Serve ``call`` to ``sink``. The Deferred fires when the call has ended, however; it never fails.

        From outside a call ends early in three ways, each closing its upstream in the same turn: the client leaves,
        the body turns out to be unfit, the answer has not begun in time.
        """
        client: Any = sink
        story = Story(self._clock.seconds())
        verdicts: list[tuple[ClientError, Outcome]] = []

        def stop(verdict: ClientError, blame: Outcome) -> None:
            verdicts.append((verdict, blame))
            serving.cancel()

        def check_wanted() -> None:
            # What a cancelled attempt fails with is up to the library that was interrupted; this is not.
            if verdicts or client.gone:
                raise CancelledError

        def body_changed() -> None:
            if isinstance(call.body.error, ClientError) and not verdicts:
                stop(call.body.error, Outcome.CALLERS_FAULT)

        def too_late() -> None:
            if not client.committed:
                message = f"cc-relay: no answer began within {self._timeout:g} s (server.timeout_ms)"
                stop(ClientError(504, "timeout_error", message), Outcome.PROVIDER_ILL)

        def stopped(failure: TwistedFailure) -> None:
            if client.gone:
                story.ended(Outcome.CLIENT_GONE, None)
            elif verdicts:
                self._refuse(*verdicts[0], call, client, story)
            elif isinstance(failure.value, ClientError):
                self._refuse(failure.value, None, call, client, story)
            else:
                _log.failure("call {id} failed", failure=failure, id=call.request_id)
                message = "Internal error in cc-relay; its log has the details"
                self._refuse(ClientError(500, "api_error", message), None, call, client, story)

        def settle(_: object) -> None:
            unwatch()
            if deadline.active():
                deadline.cancel()
            call.body.release()
            self._observe(story.record(call, client.bytes_out, self._clock.seconds(), self._epoch()))

        deadline = self._clock.callLater(self._timeout, too_late)
        unwatch = call.body.watch(body_changed)  # before any attempt's reader: what is wrong must not go upstream
        serving = Deferred.fromCoroutine(self._serve(call, sink, story, check_wanted))
        client.when_gone(serving.cancel)
        serving.addErrback(stopped)
        serving.addBoth(settle)
        return serving.addErrback(lambda failure: _log.failure("call was not settled", failure=failure))

    async def _serve(self, call: Call, sink: IResponseSink, story: Story, check_wanted: Callable[[], None]) -> None:
        """Find the model, try the candidates in order, pass on the first answer that begins, settle at its end.

        check_wanted(): raises CancelledError once nobody waits for an answer any more.
        Raises ClientError where the call cannot be served.
        """
        model_value = await _model_value(call.body)
        story.model_asked = _model_name(model_value)
        loop = AttemptLoop(self._candidates(call), self._routing.max_attempts, self._routing.failover_timeout)
        failures: list[Failure] = []
        check_wanted()
        while (candidate := loop.next(self._clock.seconds())) is not None:
            result = await self._attempt(candidate.target, call, model_value, sink, story)
            if isinstance(result, Committed):
                story.committed(result.head.status, result.head.headers)
                try:
                    ending = await result.pump.ended
                finally:
                    story.stream, story.usage = result.pump.is_stream, result.pump.usage
                story.ended(ending.outcome, ending.reason)
                return
            check_wanted()
            story.failed(result)
            failures.append(result)
            loop.failed(result.outcome, self._clock.seconds())
        answer = most_useful(failures, call.request_id, loop.begun)
        story.told(answer, self._clock.seconds())
        sink.respond(Answer(answer.status, (*answer.headers, *self._reasons(story)), answer.body))

    def _candidates(self, call: Call) -> list[Candidate[_Target]]:
        """Who could take the call, best first. Raises ClientError saying why where nobody can."""
        found: list[Candidate[_Target]] = []
        refusals: list[str] = []
        for upstream in self._upstreams:
            provider: Any = upstream.provider
            refusal = provider.refusal(call)
            if refusal is not None:
                refusals.append(f"{provider.name} {refusal}")
            else:
                found += [Candidate(provider.name, _Target(upstream, lease)) for lease in _leases(upstream, call)]
        if not found:
            raise self._nobody(call, refusals)
        return found

    def _nobody(self, call: Call, refusals: list[str]) -> ClientError:
        """Why nobody could take the call, in the terms of whoever can change it."""
        if refusals and call.kind is CallKind.COUNT_TOKENS:
            return ClientError(501, "not_supported", f"cc-relay: {'; '.join(refusals)}", should_retry=False)
        if any(upstream.provider.accepts_own_credential for upstream in self._upstreams):
            message = "cc-relay: no provider has a key for this call; log in, or ask the operator to configure one"
            return ClientError(401, "authentication_error", message, should_retry=False)
        message = "cc-relay: no configured provider could be asked"
        return ClientError(503, "api_error", message, should_retry=False)

    async def _attempt(
        self, target: _Target, call: Call, model_value: Member, sink: IResponseSink, story: Story
    ) -> Committed | Failure:
        upstream = target.upstream
        provider: Any = upstream.provider
        model = provider.model_for(story.model_asked)
        story.attempting(provider.name, model, target.lease.key)

        def first_byte() -> None:
            story.first_byte = self._clock.seconds()

        attempt = Attempt(self._clock, upstream.client, provider, upstream.timeouts, on_commit=first_byte)
        try:
            credential: Credential = await target.lease.credentials.current()  # type: ignore[misc]
            plan = AttemptPlan(model, model_value, credential, self._epoch())
            result = await attempt.run(call, plan, sink, self._reasons(story))
        except UpstreamError as error:
            result = _without_answer(error.outcome, error.reason, provider.name, call)
        except CredentialError as error:
            result = _without_answer(Outcome.KEY_DEAD, str(error), provider.name, call)
        finally:
            story.usage = attempt.usage
        if isinstance(result, Failure):
            _log.warn(
                "attempt {attempt} of call {id} failed: {provider} {model}: {outcome}: {reason}",
                attempt=story.attempts,
                id=call.request_id,
                provider=provider.name,
                model=model,
                outcome=result.outcome.value,
                reason=result.reason,
            )
        return result

    def _refuse(self, error: ClientError, blame: Outcome | None, call: Call, sink: Any, story: Story) -> None:
        story.refused(error.message, blame)
        if sink.committed:
            sink.abort()
        else:
            answer = answer_of(error, call.request_id)
            story.told(answer, self._clock.seconds())
            sink.respond(answer)

    def _reasons(self, story: Story) -> Headers:
        """What ``routing.debug`` adds to an answer's head."""
        if not self._routing.debug:
            return ()
        return (
            (b"x-cc-relay-strategy", self._routing.strategy.encode("ascii")),
            (b"x-cc-relay-provider", (story.provider or "-").encode("ascii", "replace")),
            (b"x-cc-relay-attempts", b"%d" % story.attempts),
        )


_NO_KEY = Lease(None, StaticCredentials(None))


def _leases(upstream: Upstream, call: Call) -> tuple[Lease, ...]:
    """What ``call`` may be sent to ``upstream`` with: its client's own credential, alone, before any pooled key."""
    provider: Any = upstream.provider
    if call.own_credential is not None and provider.accepts_own_credential:
        return (Lease(None, StaticCredentials(call.own_credential)),)
    if call.principal.own_credential_only:
        return ()
    if not upstream.leases and not provider.needs_key:
        return (_NO_KEY,)
    return upstream.leases


async def _model_value(body: RequestBody) -> Member:
    """The span of the top-level ``model``, as soon as it has come. Raises what is wrong with the body."""
    while True:
        if body.error is not None:
            raise body.error
        member: Member | None = body.members.find("model")
        if member is not None:
            return member
        await _change_of(body)


async def _change_of(body: RequestBody) -> None:
    changed: Deferred[None] = Deferred()

    def fire() -> None:
        if not changed.called:
            changed.callback(None)

    unwatch = body.watch(fire)
    try:
        await changed
    finally:
        unwatch()


def _model_name(member: Member) -> str:
    name = json.loads(member.raw) if member.raw is not None else None
    if not isinstance(name, str):
        raise MalformedBody("model: Input should be a valid string", member.start)
    return name


def _without_answer(outcome: Outcome, reason: str, provider: str, call: Call) -> Failure:
    answer = error_answer(502, "api_error", f"cc-relay: {provider}: {reason}", call.request_id)
    return Failure(outcome, answer, reason, None)
