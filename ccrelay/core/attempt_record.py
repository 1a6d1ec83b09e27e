"""The attempt record: one upstream request, as the one log line it leaves behind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ccrelay.core.access import MAX_ID, MAX_TEXT, cut, seconds, utc
from ccrelay.core.outcomes import Outcome
from ccrelay.core.router import Drop


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptRecord:
    """Everything one attempt line says; with ``access.as_json`` and ``as_text`` it becomes that line.

    time: epoch seconds. request_id: of the call. number: 1 for a call's first attempt. outcome: None once it has
    committed, else how it failed. status: of the upstream's answer, None without one. duration: seconds from its
    beginning to the commit or to its failure. chosen_by: the strategy, or ``affinity``. passed_over: why others were
    not asked before it. changed: what the call was sent without.
    """

    time: float
    request_id: str
    number: int
    provider: str
    key: str | None
    model: str
    outcome: Outcome | None
    reason: str | None
    status: int | None
    duration: float
    chosen_by: str
    passed_over: Sequence[Drop] = ()
    changed: Sequence[str] = ()

    def fields(self) -> dict[str, str | float]:
        """The line's fields in order; what is not known is left out."""
        found: dict[str, str | float | None] = {
            "time": utc(self.time),
            "request_id": cut(self.request_id, MAX_ID),
            "attempt": self.number,
            "provider": cut(self.provider, MAX_ID),
            "key": cut(self.key, MAX_ID),
            "model_sent": cut(self.model, MAX_TEXT),
            "outcome": self.outcome.value if self.outcome is not None else "committed",
            "reason": cut(self.reason, MAX_TEXT),
            "status": self.status,
            "duration": seconds(self.duration),
            "chosen_by": cut(self.chosen_by, MAX_ID),
            "passed_over": reasons_of(self.passed_over),
            "left_out": cut(", ".join(self.changed) or None, MAX_LIST),
        }
        return {name: value for name, value in found.items() if value is not None}


def reasons_of(drops: Sequence[Drop]) -> str | None:
    """Why providers were passed over, as one text of bounded length; None if none was."""
    return cut("; ".join(f"{drop.provider} {drop.reason}" for drop in drops) or None, MAX_LIST)


MAX_LIST = 1000
"""Characters kept of a list of reasons: ten providers', and the line stays far below what a log takes."""
