"""One pick asked for a call: an attempt, and one more for each thing that its refusal says can be mended."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from treq.client import HTTPClient
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from ccrelay.core.answers import error_answer
from ccrelay.core.attempt_record import AttemptRecord
from ccrelay.core.contenders import Pick
from ccrelay.core.excerpt import Excerpts
from ccrelay.core.failures import Failure
from ccrelay.core.members import Member
from ccrelay.core.model import AttemptPlan, Call, CallKind, Credential, Headers, Usage
from ccrelay.core.outcomes import Outcome, UpstreamError
from ccrelay.core.pair_reach import Reach, reach_of
from ccrelay.core.rate_headers import LearnedLimits, limits_of
from ccrelay.core.router import Drop, Route, Router
from ccrelay.core.settings import TimeoutSettings
from ccrelay.core.story import Story
from ccrelay.core.thinking import SignatureCollector, Stripped, is_signature_complaint
from ccrelay.core.told import ToldOnce
from ccrelay.errors import CredentialError
from ccrelay.fitting import Fit, Fitter, whole_body
from ccrelay.interfaces import ICredentials, IResponseSink
from ccrelay.upstream.attempt import Attempt, Committed

_log = Logger(namespace="ccrelay.relay")


@dataclass(frozen=True, slots=True)
class Upstream:
    """What a contender is reached with. credentials: by the pool's key ids; ``""`` where no key is configured."""

    client: HTTPClient
    timeouts: TimeoutSettings
    credentials: Mapping[str, ICredentials]


@dataclass(frozen=True, slots=True)
class Tools:
    """What every call of one runtime is served with.

    upstreams: by the contender's name. epoch(): the wall clock. in_thread: as in ``upstream.attempt.Attempt``.
    observe_attempt(record): called once per attempt, when it has committed or failed. told: what the log has had.
    excerpts: of bodies and headers, for the log; None: nobody asked for any.
    """

    clock: IReactorTime
    router: Router
    upstreams: Mapping[str, Upstream]
    epoch: Callable[[], float]
    in_thread: Callable[..., Deferred[Any]]
    observe_attempt: Callable[[AttemptRecord], None]
    told: ToldOnce
    excerpts: Excerpts | None = None


@dataclass(frozen=True, slots=True)
class Changes:
    """What a repeated attempt leaves out besides what the fit says. reach: for whom ``drop`` holds, if it helps.
    renewed: the credential is a fresh one."""

    drop: frozenset[str] = frozenset()
    reach: Reach | None = None
    stripped: Stripped | None = None
    renewed: bool = False


class Asking:
    """Asks for one call. Use once per call.

    reasons(): header lines that are added to an answer. unwanted(): how and why an attempt ends that nobody waits for
    any more, None while somebody does.
    """

    def __init__(
        self,
        tools: Tools,
        call: Call,
        model_value: Member,
        sink: IResponseSink,
        story: Story,
        route: Route,
        fitter: Fitter,
        reasons: Callable[[], Headers],
        unwanted: Callable[[], tuple[Outcome, str] | None],
    ) -> None:
        self._tools = tools
        self._memory = tools.router.memory
        self._call = call
        self._model_value = model_value
        self._sink = sink
        self._story = story
        self._route = route
        self._fitter = fitter
        self._reasons = reasons
        self._unwanted = unwanted
        self._told_drops = 0
        self._left_out: tuple[str, ...] = ()
        self._status: int | None = None

    def untold(self) -> Sequence[Drop]:
        """Who was passed over since the last attempt."""
        return self._route.drops[self._told_drops :]

    async def ask(self, pick: Pick, fit: Fit) -> Committed | Failure:
        """Send the call to ``pick`` until its answer is committed, or nothing that can be mended is left.

        A failure has settled the pick; an answer is settled by whoever sees its end.
        """
        changes = Changes()
        credential: Credential | None = None
        while True:
            began = self._tools.clock.seconds()
            stripped = changes.stripped or fit.stripped
            self._story.attempting(pick.contender.name, fit.model, pick.key or None)
            self._status = None
            try:
                if credential is None:
                    credential = await self._credential(pick)
                result = await self._attempt(pick, fit, stripped, changes, credential)
            except (CancelledError, CredentialError) as error:
                unwanted = self._unwanted()
                if unwanted is not None:  # whatever a fetch that was given up fails with
                    self._record(pick, fit, stripped, changes, self._without_answer(*unwanted, pick), began)
                    raise CancelledError from None
                if isinstance(error, CancelledError):
                    raise
                # Not the key's fault: whoever issues it could not be asked, or refused to.
                result = self._without_answer(Outcome.PROVIDER_ILL, str(error), pick)
            self._record(pick, fit, stripped, changes, result, began)
            if isinstance(result, Committed):
                self._learn(pick, fit, changes)
                return result
            mended = await self._mended(pick, fit, stripped, changes, result)
            renews = mended is not None and mended.renewed and not changes.renewed
            if renews:
                credential = await self._renewed(pick, credential)
                mended = mended if credential is not None else None
            if mended is None or not self._route.repeat(self._tools.clock.seconds()):
                # One that is there now, and was not tried, may be as good as any; and a source that brings none will be
                # asked again, by itself, in some seconds: neither is a key that nobody but its owner can mend.
                self._settle(pick, result, blameless=renews and (credential is not None or not pick.key))
                return result
            changes = mended

    async def _credential(self, pick: Pick) -> Credential:
        if pick.key is None:
            return self._call.own_credential
        waiting: Any = self._source(pick).current()
        return await waiting  # type: ignore[no-any-return]

    async def _renewed(self, pick: Pick, refused: Credential) -> Credential:
        """Another credential than the refused one; None if there is none to be had."""
        waiting: Any = self._source(pick).renew(refused)
        try:
            return await waiting  # type: ignore[no-any-return]
        except CredentialError as error:
            if self._unwanted() is not None:
                raise CancelledError from None
            name = pick.contender.name
            _log.warn("{provider} refused its credential: {detail}", provider=name, detail=error.detail)
            return None

    def _source(self, pick: Pick) -> ICredentials:
        assert pick.key is not None, "a client's own credential has no source"
        return self._tools.upstreams[pick.contender.name].credentials[pick.key]

    async def _attempt(
        self, pick: Pick, fit: Fit, stripped: Stripped, changes: Changes, credential: Credential
    ) -> Committed | Failure:
        tools, provider = self._tools, pick.contender.provider
        upstream = tools.upstreams[provider.name]
        story = self._story
        drop = self._learned(pick, fit) | changes.drop | stripped.drop
        asked = story.model_asked or ""
        if provider.mapping_of(asked).by == "catalogue" and tools.told.is_news(f"{provider.name} {asked} {fit.model}"):
            _log.info("{provider} calls {asked} {model}", provider=provider.name, asked=asked, model=fit.model)
        if drop or stripped.remove:  # what is taken out has to be there first
            await whole_body(self._call.body)
        plan = AttemptPlan(
            fit.model,
            self._model_value,
            credential,
            tools.epoch(),
            drop=drop,
            remove=stripped.remove,
            edits=stripped.edits,
        )

        def committing() -> None:
            now = story.first_byte = tools.clock.seconds()
            self._route.committed(pick, now)
            if attempt.head is not None and self._call.kind is CallKind.MESSAGES:  # counting has limits of its own
                pick.learn(now, limits_of(attempt.head.headers, tools.epoch()))

        self._story.signatures = SignatureCollector() if tools.router.has_several_issuers else None
        attempt = Attempt(
            tools.clock,
            upstream.client,
            provider,
            upstream.timeouts,
            on_commit=committing,
            in_thread=tools.in_thread,
            collector=self._story.signatures,
        )
        extra = (*self._reasons(), *((_THINKING_OFF,) if stripped.thinking_off else ()))
        try:
            result = await attempt.run(self._call, plan, self._sink, extra)
        except UpstreamError as error:
            result = self._without_answer(error.outcome, error.reason, pick)
        finally:
            story.usage = attempt.usage
            head = attempt.head
            self._status = head.status if head is not None else None
            known = head is not None and self._call.kind is CallKind.MESSAGES
            story.limits = limits_of(head.headers, tools.epoch()) if known and head is not None else None
            self._left_out = attempt.left_out
            if head is not None and tools.excerpts is not None:
                tools.excerpts.answered(self._call, story.attempts, provider.name, head, credential)
            self._tell_once(provider.name, story.limits, attempt.left_out)
        return result

    def _learned(self, pick: Pick, fit: Fit) -> frozenset[str]:
        provider = pick.contender.provider
        now = self._tools.clock.seconds()
        return self._memory.pairs.learned(provider.name, provider.region, fit.model, now, self._route.scope)

    # -- mending

    async def _mended(
        self, pick: Pick, fit: Fit, stripped: Stripped, changes: Changes, failure: Failure
    ) -> Changes | None:
        """How the same attempt may succeed after all; None: no way that has not been tried."""
        remedy = failure.remedy
        if remedy is not None:
            if remedy.renew and not changes.renewed and pick.key is not None:
                return replace(changes, renewed=True)
            fresh = remedy.drop - self._learned(pick, fit)
            if fresh and not changes.drop:
                return replace(changes, drop=fresh, reach=reach_of(_message(failure), fresh))
        if (
            failure.outcome is Outcome.CALLERS_FAULT
            and changes.stripped is None
            and self._tools.router.has_several_issuers
            and is_signature_complaint(_message(failure))
        ):
            again = await self._fitter.stripped(pick.contender, pick.key, strip_unknown=True)
            if again.removed > stripped.removed:
                return replace(changes, stripped=again)
        return None

    def _learn(self, pick: Pick, fit: Fit, changes: Changes) -> None:
        """The answer has begun: what was changed for it was right."""
        now, provider = self._tools.clock.seconds(), pick.contender.provider
        if changes.reach is not None:
            for names, scope, whose in (
                (changes.reach.everybody, None, "all calls"),
                (changes.reach.session, self._route.scope, "this session's calls"),
            ):
                if names:
                    self._memory.pairs.learn(provider.name, provider.region, fit.model, names, now, scope)
                    _log.warn(
                        "{provider} takes {model} without {names}; they are left out for a day, of {whose}",
                        provider=provider.name,
                        model=fit.model,
                        names=", ".join(sorted(names)),
                        whose=whose,
                    )
        counts = self._call.kind is CallKind.COUNT_TOKENS  # of what may be a part of a history, and writes none
        if self._tools.router.mixes_families and self._call.session is not None and not counts:
            removed = (changes.stripped or fit.stripped).removed
            self._memory.histories.answered(
                self._route.scope,
                provider.family,
                now,
                others=removed > 0,
                distrusted=changes.stripped is not None,
            )

    # -- telling

    def _settle(self, pick: Pick, failure: Failure, *, blameless: bool) -> None:
        now = self._tools.clock.seconds()
        if self._call.kind is CallKind.COUNT_TOKENS and failure.outcome is Outcome.KEY_TIRED:
            blameless = True  # counting has limits of its own: messages may still be answered
        if blameless:
            pick.release(now, Usage())
            return
        pick.settle(now, failure.outcome, None, failure.retry_after, self._story.limits, failure.reason)
        if failure.outcome is Outcome.KEY_DEAD and pick.key is not None:
            _log.error(
                "{key} of {provider} is parked: {reason}; it is tried again in 15 minutes, or after a reload",
                key=f"key {pick.key}" if pick.key else "the credential",
                provider=pick.contender.name,
                reason=failure.reason,
            )

    def _record(
        self,
        pick: Pick,
        fit: Fit,
        stripped: Stripped,
        changes: Changes,
        result: Committed | Failure,
        began: float,
    ) -> None:
        failure = None if isinstance(result, Committed) else result
        drops = self.untold()
        self._told_drops = len(self._route.drops)
        home = self._route.home
        at_home = home is not None and home.provider == pick.contender.name and home.key in (pick.key, None)
        self._tools.observe_attempt(
            AttemptRecord(
                time=self._tools.epoch(),
                request_id=self._call.request_id,
                number=self._story.attempts,
                provider=pick.contender.name,
                key=pick.key or None,
                model=fit.model,
                outcome=failure.outcome if failure is not None else None,
                reason=failure.reason if failure is not None else None,
                status=self._status,
                duration=self._tools.clock.seconds() - began,
                chosen_by="affinity" if at_home else self._tools.router.routing.strategy,
                passed_over=drops,
                changed=(*_changed(stripped, changes), *self._left_out),
            )
        )

    def _tell_once(self, provider: str, limits: LearnedLimits | None, left_out: Sequence[str]) -> None:
        """What an operator should know, and not hear at every call."""
        for name in limits.ignored if limits is not None else ():
            if self._tools.told.is_news(f"{provider} {name}"):
                _log.warn("{provider} sent an absurd {name}; it is ignored", provider=provider, name=name)
        for name in left_out:
            if self._tools.told.is_news(f"{provider} {name}"):
                _log.warn("{provider} does not take {name}; calls go there without", provider=provider, name=name)

    def _without_answer(self, outcome: Outcome, reason: str, pick: Pick) -> Failure:
        message = f"cc-relay: {pick.contender.name}: {reason}"
        return Failure(outcome, error_answer(502, "api_error", message, self._call.request_id), reason, None)


_THINKING_OFF = (b"x-cc-relay-thinking", b"off")


def _changed(stripped: Stripped, changes: Changes) -> Sequence[str]:
    told = sorted(changes.drop | stripped.drop)
    if stripped.removed:
        told.append(f"{stripped.removed} thinking blocks")
    if stripped.thinking_off:
        told.append("thinking")
    if changes.renewed:
        told.append("the refused credential")
    return told


def _message(failure: Failure) -> str:
    """What the upstream's error says."""
    try:
        return str(json.loads(failure.answer.body)["error"]["message"])
    except (ValueError, TypeError, KeyError):
        return ""
