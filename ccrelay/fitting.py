"""Whether a contender can take a call, and what of the call has to be left out for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from twisted.internet.defer import Deferred

from ccrelay.core.catalogue import known_model
from ccrelay.core.contenders import Contender
from ccrelay.core.json_spans import refuse_crowded, whole
from ccrelay.core.model import Call, CallKind
from ccrelay.core.needs import (
    CUTS_IN_SILENCE,
    LACKS,
    Feature,
    Needs,
    estimate_from_length,
    needs_of,
    prompt_too_long,
    refusal_of,
)
from ccrelay.core.request_body import RequestBody
from ccrelay.core.router import Drop, Route, Router, Why
from ccrelay.core.thinking import Issuer, Stripped, thinking_edits
from ccrelay.errors import MalformedBody
from ccrelay.upstream.attempt import LONG_BODY

_AS_IT_IS = Stripped()


@dataclass(frozen=True, slots=True)
class Fit:
    """A contender can take the call: by this name of the model, with these thinking blocks left out."""

    model: str
    stripped: Stripped


class Fitter:
    """Judges contenders for one call. Reads the body only where that can make a difference, then waits for its end.

    in_thread(function, *arguments): a Deferred of its result. seconds(): the monotonic clock.
    """

    def __init__(
        self,
        router: Router,
        route: Route,
        call: Call,
        asked: str,
        *,
        in_thread: Callable[..., Deferred[Any]],
        seconds: Callable[[], float],
    ) -> None:
        self._router = router
        self._route = route
        self._call = call
        self._asked = asked
        self._in_thread = in_thread
        self._seconds = seconds
        self.needs: Needs | None = None

    async def fit(self, contender: Contender) -> Fit | Drop:
        """How ``contender`` gets the call, or why it cannot have it. Raises what is wrong with the body."""
        provider = contender.provider
        model: str = provider.model_for(self._asked)
        known = known_model(model)
        window = provider.settings.context_window or (known.context_window if known is not None else None)
        strips = self._may_hold_foreign_thinking(contender)
        gated = self._call.kind is CallKind.MESSAGES and self._may_be_refused(contender, window)
        gated = gated and contender.name not in self._route.trusted
        if provider.inspects_body or strips or gated:
            await whole_body(self._call.body)
        if provider.inspects_body:  # and so reads members of any size
            await self._read(refuse_crowded)
        if gated:
            drop = await self._refusal(contender, window)
            if drop is not None:
                return drop
        if not strips:
            return Fit(model, _AS_IT_IS)
        return Fit(model, await self.stripped(contender, self._route.home_key(contender), strip_unknown=False))

    def cuts(self, contender: Contender) -> bool:
        """Whether it shortens long prompts in silence, so that its usage tells nothing of what was sent."""
        return contender.provider.type in CUTS_IN_SILENCE

    async def stripped(self, contender: Contender, key: str | None, *, strip_unknown: bool) -> Stripped:
        """What to leave out so that ``contender`` can read the history with ``key``; see ``thinking_edits``."""
        await whole_body(self._call.body)
        memory, now = self._router.memory, self._seconds()
        target = issuer_of(contender, key)
        strip_unknown = strip_unknown or memory.histories.of(self._route.scope, now).distrusted
        try:
            return await self._read(  # type: ignore[no-any-return]
                lambda body: thinking_edits(
                    body, target, lambda digest: memory.signatures.issuer(digest, now), strip_unknown=strip_unknown
                )
            )
        except MalformedBody:  # the upstream is the authority on what stands inside
            return _AS_IT_IS

    def _may_hold_foreign_thinking(self, contender: Contender) -> bool:
        if not self._router.mixes_families:
            return False
        if self._call.session is None:
            return True
        histories = self._router.memory.histories
        return not histories.written_by(self._route.scope, contender.provider.family, self._seconds())

    def _may_be_refused(self, contender: Contender, window: int | None) -> bool:
        if LACKS.get(contender.provider.type):
            return True
        body = self._call.body
        length = body.received if body.complete else body.declared_length
        return window is not None and length is not None and estimate_from_length(length)[0] > window

    async def _refusal(self, contender: Contender, window: int | None) -> Drop | None:
        if self.needs is None:
            try:
                self.needs = await self._read(needs_of)
            except MalformedBody:
                return None
        assert self.needs is not None
        needs = self._router.memory.ratios.corrected(self._route.scope, self.needs, self._seconds())
        lacks: frozenset[Feature] = LACKS.get(contender.provider.type, frozenset())
        cuts = self.cuts(contender)
        reason = refusal_of(needs, lacks, window, cuts=cuts)
        if reason is None:
            return None
        if not lacks.isdisjoint(needs.features) or window is None:
            return Drop(contender.name, Why.FEATURE, reason)
        tokens = needs.tokens_high if cuts else needs.tokens_low
        error = prompt_too_long(tokens, window)
        advisory = not cuts and contender.provider.settings.context_window is None
        return Drop(contender.name, Why.CONTEXT, reason, error=error, room=window, advisory=advisory)

    async def _read(self, reader: Callable[[bytes], Any]) -> Any:
        body = self._call.body
        if body.received > LONG_BODY:
            return await self._in_thread(lambda: reader(whole(body)))
        return reader(whole(body))


def issuer_of(contender: Contender, key: str | None) -> Issuer:
    """Who issues the thinking blocks of answers from there."""
    return Issuer(contender.provider.family, f"{contender.name} {key or ''}")


async def whole_body(body: RequestBody) -> None:
    """Wait until the body is complete. Raises what is wrong with it."""
    while not body.complete:
        if body.error is not None:
            raise body.error
        await change_of(body)


async def change_of(body: RequestBody) -> None:
    """Wait until something has happened to the body."""
    changed: Deferred[None] = Deferred()

    def fire() -> None:
        if not changed.called:
            changed.callback(None)

    unwatch = body.watch(fire)
    try:
        await changed
    finally:
        unwatch()
