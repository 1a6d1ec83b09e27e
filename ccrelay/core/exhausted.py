"""What a client is told when there was nobody to ask for its call, or nobody more."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from ccrelay.core.answers import LONGEST_WAIT
from ccrelay.core.failures import retry_after_of
from ccrelay.core.model import Answer, Call, CallKind
from ccrelay.core.router import Drop, Why
from ccrelay.errors import ClientError

_TIME = frozenset({Why.KEYS, Why.CIRCUIT})
_CALLS_OWN = (Why.CONTEXT, Why.SIZE, Why.FEATURE)
"""What lies in the call: in this order, as a client can compact a prompt, and a person can leave an image out."""

_ABOUT_WAITING = frozenset({b"retry-after", b"retry-after-ms", b"x-should-retry"})


def nobody_to_ask(drops: Sequence[Drop], call: Call, takes_own: bool, now: float) -> ClientError:
    """The error for a call that no attempt was made for.

    drops: why each provider was passed over; of several for one provider the last counts. takes_own: some provider
    would have taken a client's own credential. now: as in ``Drop.until``.

    What a wait may change is told with the time of it: 429 where keys are tired, 503 where providers are ill. Else it
    is the call's own fault, in the words that clients mend their requests by, or the operator's.
    """
    last = {drop.provider: drop for drop in drops}.values()
    waits = [drop for drop in last if drop.why in _TIME and drop.until is not None and math.isfinite(drop.until)]
    if waits:
        return _later(waits, now)
    for why in _CALLS_OWN:
        found = [drop for drop in last if drop.why is why]
        if found:
            return max(found, key=lambda drop: drop.room).error or _unfit(found)
    kinds = [drop for drop in last if drop.why is Why.KIND]
    if kinds and call.kind is CallKind.COUNT_TOKENS:
        return ClientError(501, "not_supported", f"cc-relay: {_told(kinds)}", should_retry=False)
    parked = [drop for drop in last if drop.why is Why.KEYS]
    if parked:
        message = f"cc-relay: {_told(parked)}; the operator finds the reasons in the relay's log and status"
        return ClientError(503, "api_error", message, should_retry=False)
    models = [drop for drop in last if drop.why is Why.MODEL]
    if models:
        return ClientError(404, "not_found_error", f"cc-relay: {_told(models)}", should_retry=False)
    if takes_own:
        message = "cc-relay: no provider has a key for this call; log in, or ask the operator to configure one"
        return ClientError(401, "authentication_error", message, should_retry=False)
    message = "cc-relay: no configured provider could be asked"
    return ClientError(503, "api_error", message, should_retry=False)


def sooner(answer: Answer, drops: Sequence[Drop], now: float) -> Answer:
    """A 429 of an upstream, with the time of a key that was passed over where that comes before what it names."""
    waits = [drop.until - now for drop in drops if drop.why is Why.KEYS and drop.until is not None]
    earliest = min(waits, default=math.inf)
    named = retry_after_of(answer.headers, None)
    if answer.status != 429 or math.isinf(earliest) or (named is not None and named <= earliest):
        return answer
    wait = max(1, math.ceil(earliest))
    lines = [line for line in answer.headers if line[0] not in _ABOUT_WAITING]
    lines.append((b"retry-after", b"%d" % wait))
    if wait > LONGEST_WAIT:
        lines.append((b"x-should-retry", b"false"))
    return replace(answer, headers=tuple(lines))


def _later(waits: Sequence[Drop], now: float) -> ClientError:
    until = min(drop.until for drop in waits if drop.until is not None)
    wait = max(1, math.ceil(until - now))
    should_retry = False if wait > LONGEST_WAIT else None
    if any(drop.why is Why.KEYS for drop in waits):
        message = f"cc-relay: no key can be used for {wait} s: {_told(waits)}"
        return ClientError(429, "rate_limit_error", message, retry_after=wait, should_retry=should_retry)
    message = f"cc-relay: no provider can be asked for {wait} s: {_told(waits)}"
    return ClientError(503, "overloaded_error", message, retry_after=wait, should_retry=should_retry)


def _unfit(drops: Sequence[Drop]) -> ClientError:
    return ClientError(400, "invalid_request_error", f"cc-relay: no provider can take this call: {_told(drops)}")


def _told(drops: Sequence[Drop]) -> str:
    return "; ".join(f"{drop.provider} {drop.reason}" for drop in drops)
