"""How an attempt ended, as a closed set, and what each end allows next (design section 6).

This table is the single place that says what is retryable.
"""

from __future__ import annotations

import enum

from ccrelay.errors import RelayError


class Outcome(enum.Enum):
    """How one attempt ended. The value is the word used in logs and metrics.

    UNFIT: the upstream is well, but does not do this for anybody (count tokens), or not with this model for us.
    """

    ANSWERED = "answered"
    CALLERS_FAULT = "callers_fault"
    UNFIT = "unfit"
    KEY_TIRED = "key_tired"
    KEY_DEAD = "key_dead"
    PROVIDER_ILL = "provider_ill"
    TRUNCATED = "truncated"
    STALLED = "stalled"
    CLIENT_GONE = "client_gone"


class Next(enum.Enum):
    """Who may be tried after an outcome."""

    NOBODY = "nobody"
    ANOTHER_KEY = "another key, then another provider"
    ANOTHER_PROVIDER = "another provider"


NEXT: dict[Outcome, Next] = {
    Outcome.ANSWERED: Next.NOBODY,
    Outcome.CALLERS_FAULT: Next.NOBODY,
    Outcome.UNFIT: Next.ANOTHER_PROVIDER,
    Outcome.KEY_TIRED: Next.ANOTHER_KEY,
    Outcome.KEY_DEAD: Next.ANOTHER_KEY,
    Outcome.PROVIDER_ILL: Next.ANOTHER_PROVIDER,
    Outcome.TRUNCATED: Next.NOBODY,
    Outcome.STALLED: Next.NOBODY,
    Outcome.CLIENT_GONE: Next.NOBODY,
}


def outcome_of_status(status: int) -> Outcome:
    """The outcome that an HTTP status of an authoritative Anthropic-format upstream means by itself.

    2xx is ANSWERED only once the body is complete; callers must still see the end of it.
    """
    if 200 <= status < 300:
        return Outcome.ANSWERED
    if status == 429:
        return Outcome.KEY_TIRED
    if status in (401, 402, 403):
        return Outcome.KEY_DEAD
    if 400 <= status < 500 and status != 408:
        return Outcome.CALLERS_FAULT
    return Outcome.PROVIDER_ILL


class UpstreamError(RelayError):
    """An attempt ended before anything was written to the client.

    outcome: who is to blame, hence what may be tried next (``NEXT``).
    reason: one short phrase for the log, such as ``connection refused``; no secret, no client text.
    answered: True if at least one byte of an answer had come; then the same provider must not be asked again.
    """

    def __init__(self, outcome: Outcome, reason: str, *, answered: bool = False) -> None:
        self.outcome = outcome
        self.reason = reason
        self.answered = answered
        super().__init__(f"{outcome.value}: {reason}")
