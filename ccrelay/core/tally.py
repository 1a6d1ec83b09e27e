"""What has happened since the start, in bounded memory: what the metrics, the status and the page are made from.

Rules of this file:
- A label's values come from the configuration and the catalogue, never from a client or an upstream: a model that
  neither knows is OTHER, what does not apply is NONE. Names of providers that a reload took away stay, as counters must
  not go back; past MOST_PROVIDERS new ones are OTHER.
- Nobody's identity is counted: no principal, no session, no address.
- Everything is counted once, when it has ended: a call from its access record, an attempt from its attempt record.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from ccrelay.core.access import MAX_ID, MAX_TEXT, AccessRecord, cut
from ccrelay.core.attempt_record import AttemptRecord
from ccrelay.core.burndown import BurnDown
from ccrelay.core.catalogue import cost_of, known_model
from ccrelay.core.histogram import Histogram
from ccrelay.core.live import LiveCalls
from ccrelay.core.model import Usage
from ccrelay.core.outcomes import Outcome
from ccrelay.core.periods import Periods, Sums, sums_of_call
from ccrelay.core.settings import ProviderSettings

OTHER: Final = "other"
NONE: Final = "none"

MOST_PROVIDERS: Final = 256
"""Names of providers told apart since the start: ten times what anybody configures, a few thousand series at most."""

MOST_MODELS: Final = 1024
"""Names of configured models told apart since the start, besides the catalogue's; for the same reason."""

RECENT: Final = 100
"""Calls kept for the page: what one reads when something has just gone wrong."""

SECONDS: Final = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0)
"""Bounds for calls and their parts: from a refusal of our own to ``server.timeout_ms``; Claude Code shows a notice at
20 s."""

GAPS: Final = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0, 30.0, 60.0, 120.0, 240.0)
"""Bounds for silence in streams: 15 s is when we send a ping, 240 s when an upstream counts as dead."""

LAGS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
"""Bounds for the reactor's lateness: a healthy one is below 5 ms; above 100 ms every stream stutters visibly."""


@dataclass(frozen=True, slots=True)
class RecentCall:
    """A call that has ended, for the page. time: epoch seconds of its end. cost: USD, None where not known."""

    time: float
    request_id: str
    kind: str | None
    outcome: str
    status: int | None
    reason: str | None
    provider: str | None
    key: str | None
    model: str | None
    attempts: int
    ttfb: float | None
    duration: float
    usage: Usage
    cost: float | None


@dataclass(frozen=True, slots=True)
class _Facts:
    type: str
    region: str | None


class Tally:
    """Counts. One object outlives the reloads. started: epoch seconds.

    calls: by kind, outcome, provider, model. attempts: by provider, model, outcome (``committed``, or how it failed).
    tokens: of finished calls by provider, model and class. cost: USD at list price, by provider and model.
    unpriced: calls with tokens whose price is not known. ttfb, duration, attempt_duration, gap: histograms of seconds
    by provider; gap is each stream's longest silence between two pieces. lag: how late the reactor was. last_lag: the
    last time it was measured, seconds.
    """

    def __init__(self, started: float) -> None:
        self.started = started
        self.calls: Counter[tuple[str, str, str, str]] = Counter()
        self.attempts: Counter[tuple[str, str, str]] = Counter()
        self.tokens: Counter[tuple[str, str, str]] = Counter()
        self.cost: dict[tuple[str, str], float] = {}
        self.unpriced: Counter[tuple[str, str]] = Counter()
        self.bytes_in = self.bytes_out = 0
        self.ttfb: dict[str, Histogram] = {}
        self.duration: dict[str, Histogram] = {}
        self.attempt_duration: dict[str, Histogram] = {}
        self.gap: dict[str, Histogram] = {}
        self.lag = Histogram(LAGS)
        self.last_lag = 0.0
        self.total = Sums()
        self.by_provider: dict[str, Sums] = {}
        self.minutes = Periods(60.0, 60)
        self.hours = Periods(3600.0, 24)
        self.recent: deque[RecentCall] = deque(maxlen=RECENT)
        self.live = LiveCalls()
        self.burn_down = BurnDown()
        self._facts: dict[str, _Facts] = {}
        self._models: set[str] = set()

    def configure(self, providers: Sequence[ProviderSettings]) -> None:
        """These are the providers from now on; calls of earlier ones may still end."""
        for settings in providers:
            if settings.name in self._facts or len(self._facts) < MOST_PROVIDERS:
                region = settings.aws.region if settings.aws else settings.gcp.region if settings.gcp else None
                self._facts[settings.name] = _Facts(settings.type, region)
            names = {*settings.models, *settings.model_mapping.values()} - self._models
            self._models.update(sorted(names)[: MOST_MODELS - len(self._models)])

    def late(self, seconds: float) -> None:
        """The reactor did something that much later than it was asked to."""
        self.last_lag = max(0.0, seconds)
        self.lag.observe(seconds)

    def call_ended(self, record: AccessRecord) -> None:
        """A call has ended."""
        provider, model = self._provider(record.provider), self._model(record.model_sent or record.model_asked)
        outcome = record.outcome.value if isinstance(record.outcome, Outcome) else record.outcome
        usage, cost = record.usage, self._cost(record)
        sums = sums_of_call(record.outcome, record.attempts, usage, cost)
        self.calls[record.kind.name.lower() if record.kind else NONE, outcome, provider, model] += 1
        for name, count in sums.tokens():
            if count:
                self.tokens[provider, model, name] += count
        if cost:
            self.cost[provider, model] = self.cost.get((provider, model), 0.0) + cost
        if sums.unpriced:
            self.unpriced[provider, model] += 1
        self.bytes_in += record.bytes_in
        self.bytes_out += record.bytes_out
        _observe(self.duration, provider, SECONDS, record.duration)
        _observe(self.ttfb, provider, SECONDS, record.ttfb)
        _observe(self.gap, provider, GAPS, record.longest_gap)
        self.total.add(sums)
        known = self.by_provider.get(provider)
        if known is None:
            known = self.by_provider[provider] = Sums()
        known.add(sums)
        self.minutes.add(record.time, sums)
        self.hours.add(record.time, sums)
        self.recent.append(_recent(record, outcome, cost))

    def attempt_ended(self, record: AttemptRecord) -> None:
        """An attempt has committed, failed or been given up."""
        provider = self._provider(record.provider)
        outcome = record.outcome.value if record.outcome is not None else "committed"
        self.attempts[provider, self._model(record.model), outcome] += 1
        _observe(self.attempt_duration, provider, SECONDS, record.duration)

    def _provider(self, name: str | None) -> str:
        if name is None:
            return NONE
        return name if name in self._facts else OTHER

    def _model(self, name: str | None) -> str:
        """The catalogue's name for it, so that one model at two providers is one."""
        if name is None:
            return NONE
        known = known_model(name)
        if known is not None:
            return known.id
        return name if name in self._models else OTHER

    def _cost(self, record: AccessRecord) -> float | None:
        if record.usage == Usage():
            return 0.0
        facts = self._facts.get(record.provider or "")
        if facts is None or record.model_sent is None:
            return None
        return cost_of(record.model_sent, record.usage, facts.type, facts.region)


def _observe(known: dict[str, Histogram], name: str, bounds: Sequence[float], value: float | None) -> None:
    if value is not None:
        histogram = known.get(name)
        if histogram is None:
            histogram = known[name] = Histogram(bounds)
        histogram.observe(value)


def _recent(record: AccessRecord, outcome: str, cost: float | None) -> RecentCall:
    return RecentCall(
        time=record.time,
        request_id=cut(record.request_id, MAX_ID) or "",
        kind=record.kind.name.lower() if record.kind else None,
        outcome=outcome,
        status=record.status,
        reason=cut(record.reason, MAX_TEXT),
        provider=record.provider,
        key=record.key,
        model=cut(record.model_sent or record.model_asked, MAX_TEXT),
        attempts=record.attempts,
        ttfb=record.ttfb,
        duration=record.duration,
        usage=record.usage,
        cost=cost,
    )
