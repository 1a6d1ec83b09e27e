"""What happens to a call, told in one function: ``Relay._serve``."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure as TwistedFailure

from ccrelay.asking import Asking, Tools
from ccrelay.core.access import AccessRecord
from ccrelay.core.answers import answer_of
from ccrelay.core.attempt_record import reasons_of
from ccrelay.core.contenders import Pick
from ccrelay.core.exhausted import nobody_to_ask, sooner
from ccrelay.core.failures import Failure, most_useful
from ccrelay.core.live import LiveCalls
from ccrelay.core.members import Member
from ccrelay.core.model import Answer, Call, Headers, Usage
from ccrelay.core.outcomes import Outcome
from ccrelay.core.request_body import RequestBody
from ccrelay.core.router import Drop, Route
from ccrelay.core.story import Story
from ccrelay.errors import ClientError, MalformedBody
from ccrelay.fitting import Fitter, change_of, issuer_of
from ccrelay.interfaces import IResponseSink
from ccrelay.upstream.attempt import Committed

_log = Logger(namespace="ccrelay.relay")


class Relay:
    """Serves calls with the upstreams of one runtime.

    timeout: seconds until the answer must have begun. observe(record): called once per call, when it has ended. live:
    where calls under way are listed.
    """

    def __init__(
        self,
        tools: Tools,
        timeout: float,
        *,
        observe: Callable[[AccessRecord], None],
        live: LiveCalls | None = None,
    ) -> None:
        self._tools = tools
        self._clock = tools.clock
        self._router = tools.router
        self._timeout = timeout
        self._observe = observe
        self._live = LiveCalls() if live is None else live

    def handle(self, call: Call, sink: IResponseSink) -> Deferred[None]:
        """Serve ``call`` to ``sink``. The Deferred fires when the call has ended, however; it never fails.

        From outside a call ends early in three ways, each closing its upstream in the same turn: the client leaves,
        the body turns out to be unfit, the answer has not begun in time.
        """
        client: Any = sink
        story = Story(self._clock.seconds())
        self._live.begin(call, story, client)
        verdicts: list[tuple[ClientError, Outcome]] = []

        def stop(verdict: ClientError, blame: Outcome) -> None:
            verdicts.append((verdict, blame))
            serving.cancel()

        def unwanted() -> tuple[Outcome, str] | None:
            # What a cancelled attempt fails with is up to the library that was interrupted; this is not.
            if client.gone:
                return Outcome.CLIENT_GONE, "the client left"
            return (verdicts[0][1], verdicts[0][0].message) if verdicts else None

        def body_changed() -> None:
            if isinstance(call.body.error, ClientError) and not verdicts:
                stop(call.body.error, Outcome.CALLERS_FAULT)

        def too_late() -> None:
            if not client.committed:
                message = f"cc-relay: no answer began within {self._timeout:g} s (server.timeout_ms)"
                # While the request still arrives, its client is who everybody waits for.
                blame = Outcome.PROVIDER_ILL if call.body.complete else Outcome.CALLERS_FAULT
                stop(ClientError(504, "timeout_error", message), blame)

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
            self._live.end(story)
            self._settle(story)
            if excerpt is not None:
                excerpt()
            call.body.release()
            self._observe(story.record(call, client.bytes_out, self._clock.seconds(), self._tools.epoch()))

        excerpts = self._tools.excerpts
        excerpt = excerpts.follow(call) if excerpts is not None else None
        deadline = self._clock.callLater(self._timeout, too_late)
        unwatch = call.body.watch(body_changed)  # before any attempt's reader: what is wrong must not go upstream
        serving = Deferred.fromCoroutine(self._serve(call, sink, story, unwanted))
        client.when_gone(serving.cancel)
        serving.addErrback(stopped)
        serving.addBoth(settle)
        return serving.addErrback(lambda failure: _log.failure("call was not settled", failure=failure))

    async def _serve(
        self, call: Call, sink: IResponseSink, story: Story, unwanted: Callable[[], tuple[Outcome, str] | None]
    ) -> None:
        """Find the model, ask the candidates in order, pass on the first answer that begins, settle at its end.

        unwanted(): as in ``Asking``.
        Raises ClientError where the call cannot be served.
        """
        model_value = await _model_value(call.body)
        asked = story.model_asked = _model_name(model_value)
        now = self._clock.seconds
        route = story.route = self._router.route(call, asked, now())
        fitter = Fitter(self._router, route, call, asked, in_thread=self._tools.in_thread, seconds=now)
        reasons = partial(self._reasons, story, route)
        asking = Asking(self._tools, call, model_value, sink, story, route, fitter, reasons, unwanted)

        def check_wanted() -> None:
            if unwanted() is not None:
                raise CancelledError

        failures: list[Failure] = []
        check_wanted()
        while (contender := route.next(now())) is not None:
            fit = await fitter.fit(contender)
            check_wanted()
            if isinstance(fit, Drop):
                route.drop(fit)
                continue
            pick = story.pick = route.take(contender, now())
            if pick is None:
                continue
            result = await asking.ask(pick, fit)
            if isinstance(result, Committed):
                story.committed(result.head.status, result.head.headers)
                try:
                    ending = await result.pump.ended
                finally:
                    story.stream, story.usage = result.pump.is_stream, result.pump.usage
                    story.longest_gap = result.pump.longest_gap
                story.ended(ending.outcome, ending.reason)
                self._learn(pick, story, route, fitter, in_session=call.session is not None)
                return
            check_wanted()
            story.failed(result)
            failures.append(result)
            route.failed(pick, result.outcome, now())
        if not failures:
            raise self._nobody(route, call)
        answer = most_useful(failures, call.request_id, route.begun if len(failures) > 1 else 1)
        answer = sooner(answer, route.drops, now())
        story.told(answer, now())
        nobody_else = route.stopped or reasons_of(asking.untold())
        if nobody_else:
            story.reason = f"{story.reason}; {nobody_else}"
        sink.respond(Answer(answer.status, (*answer.headers, *self._reasons(story, route)), answer.body))

    def _nobody(self, route: Route, call: Call) -> ClientError:
        takes_own = any(contender.provider.accepts_own_credential for contender in self._router.contenders)
        return nobody_to_ask(route.drops, call, takes_own, self._clock.seconds())

    def _learn(self, pick: Pick, story: Story, route: Route, fitter: Fitter, *, in_session: bool) -> None:
        """An answer has come to its end: remember whose thinking it holds, and what the prompt really was."""
        memory, now = self._router.memory, self._clock.seconds()
        if story.signatures is not None:
            issuer = issuer_of(pick.contender, pick.key)
            for digest in story.signatures.signatures:
                memory.signatures.record(digest, issuer, now)
        if in_session and fitter.needs is not None and not fitter.cuts(pick.contender):
            usage = story.usage
            memory.ratios.record(route.scope, fitter.needs, usage.input + usage.cache_write + usage.cache_read, now)

    def _settle(self, story: Story) -> None:
        """Whatever way the call ended, its last attempt is settled now, if it was not before."""
        now = self._clock.seconds()
        if story.pick is not None:
            usage = story.usage if story.usage != Usage() else None
            story.pick.settle(now, story.outcome or Outcome.CLIENT_GONE, usage, reason=story.reason or "")
        if story.route is not None:
            story.route.finished(story.outcome, now)

    def _refuse(self, error: ClientError, blame: Outcome | None, call: Call, sink: Any, story: Story) -> None:
        story.refused(error.message, blame)
        if blame is Outcome.CALLERS_FAULT and story.pick is not None:
            # Our own verdict: whoever was being asked has said nothing to the request, and never had all of it.
            story.pick.release(self._clock.seconds(), story.usage)
        if sink.committed:
            sink.abort()
        else:
            answer = answer_of(error, call.request_id)
            story.told(answer, self._clock.seconds())
            sink.respond(answer)

    def _reasons(self, story: Story, route: Route) -> Headers:
        """What ``routing.debug`` adds to an answer's head."""
        if not self._router.routing.debug:
            return ()
        values = {
            "strategy": self._router.routing.strategy,
            "provider": story.provider or "-",
            "attempts": str(story.attempts),
            **(route.reasons(story.pick, self._clock.seconds()) if story.pick is not None else {}),
        }
        return tuple(
            (f"x-cc-relay-{name}".encode("ascii"), value.encode("ascii", "replace")) for name, value in values.items()
        )


async def _model_value(body: RequestBody) -> Member:
    """The span of the top-level ``model``, as soon as it has come. Raises what is wrong with the body."""
    while True:
        if body.error is not None:
            raise body.error
        member: Member | None = body.members.find("model")
        if member is not None:
            return member
        await change_of(body)


def _model_name(member: Member) -> str:
    name = json.loads(member.raw) if member.raw is not None else None
    if not isinstance(name, str):
        raise MalformedBody("model: Input should be a valid string", member.start)
    return name
