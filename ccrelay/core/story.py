"""What is known of a call while it is served; at its end it becomes the access record."""

from __future__ import annotations

from dataclasses import dataclass, field

from ccrelay.core.access import REFUSED, AccessRecord
from ccrelay.core.contenders import Pick
from ccrelay.core.failures import Failure
from ccrelay.core.headers import first
from ccrelay.core.model import Answer, Call, Headers, Usage
from ccrelay.core.outcomes import Outcome
from ccrelay.core.rate_headers import LearnedLimits
from ccrelay.core.router import Route
from ccrelay.core.thinking import SignatureCollector

_REQUEST_IDS = (b"request-id", b"x-request-id", b"apim-request-id")
"""Where upstreams put their request id: Anthropic; Z.AI and others; Azure's gateway."""


@dataclass(slots=True)
class Story:
    """Filled in as the call goes on. Times are seconds of one monotonic clock.

    outcome stays None while no attempt has ended: a call that ends so was refused by ourselves. upstream_request_id:
    of the answer that the client got, whichever attempt it came from. pick, limits, signatures: of the last attempt.
    """

    began: float
    model_asked: str | None = None
    model_sent: str | None = None
    provider: str | None = None
    key: str | None = None
    attempts: int = 0
    status: int | None = None
    outcome: Outcome | None = None
    reason: str | None = None
    first_byte: float | None = None
    stream: bool = False
    usage: Usage = field(default_factory=Usage)
    longest_gap: float | None = None
    upstream_request_id: str | None = None
    route: Route | None = None
    pick: Pick | None = None
    limits: LearnedLimits | None = None
    signatures: SignatureCollector | None = None

    def attempting(self, provider: str, model: str, key: str | None) -> None:
        """An attempt begins."""
        self.attempts += 1
        self.provider, self.model_sent, self.key = provider, model, key

    def failed(self, failure: Failure) -> None:
        """An attempt ended before anything was written to the client, whom what it told of cost nothing."""
        self.outcome, self.reason = failure.outcome, failure.reason
        self.usage = Usage()

    def told(self, answer: Answer, now: float) -> None:
        """The client gets ``answer``, an error, at ``now``: an upstream's or our own."""
        self.status, self.first_byte = answer.status, now
        self.upstream_request_id = _request_id(answer.headers)

    def committed(self, status: int, headers: Headers) -> None:
        """An upstream's answer, with these headers, is on its way to the client."""
        self.status = status
        self.outcome = self.reason = None
        self.upstream_request_id = _request_id(headers)

    def ended(self, outcome: Outcome, reason: str | None) -> None:
        """The call is over."""
        self.outcome, self.reason = outcome, reason

    def refused(self, reason: str, blame: Outcome | None) -> None:
        """We end the call ourselves. blame: how that ends an attempt that was under way; None: not at all."""
        self.outcome, self.reason = blame if self.attempts else None, reason

    def record(self, call: Call, bytes_out: int, now: float, epoch: float) -> AccessRecord:
        """The record of the call, ended at ``now``; ``epoch``: the wall clock then."""
        agent = first(call.headers, b"user-agent")
        return AccessRecord(
            time=epoch,
            request_id=call.request_id,
            outcome=self.outcome if self.outcome is not None else REFUSED,
            duration=now - self.began,
            attempts=self.attempts,
            status=self.status,
            reason=self.reason,
            kind=call.kind,
            stream=self.stream,
            provider=self.provider,
            key=self.key,
            model_asked=self.model_asked,
            model_sent=self.model_sent,
            ttfb=self.first_byte - self.began if self.first_byte is not None else None,
            usage=self.usage,
            longest_gap=self.longest_gap,
            bytes_in=call.body.received,
            bytes_out=bytes_out,
            upstream_request_id=self.upstream_request_id,
            session=call.session,
            principal=call.principal,
            client=call.peer,
            user_agent=agent.decode("latin-1") if agent else None,
        )


def _request_id(headers: Headers) -> str | None:
    for name in _REQUEST_IDS:
        value = first(headers, name)
        if value:
            return value.decode("latin-1")
    return None
