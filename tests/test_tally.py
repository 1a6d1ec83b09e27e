"""What has happened, against a list of all that happened; and its labels, against whatever clients send."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccrelay.core.access import REFUSED, AccessRecord
from ccrelay.core.attempt_record import AttemptRecord
from ccrelay.core.burndown import POINTS, BurnDown
from ccrelay.core.catalogue import cost_of
from ccrelay.core.histogram import Histogram
from ccrelay.core.key_pool import KeyState, KeyStatus
from ccrelay.core.model import CallKind, Usage
from ccrelay.core.outcomes import Outcome
from ccrelay.core.rate_limits import LimitStatus
from ccrelay.core.tally import MOST_MODELS, MOST_PROVIDERS, NONE, OTHER, RECENT, Tally

from .provider_settings import provider_settings

PRICED = "claude-opus-4-6"
NAMES = ("north", "cloud")
MODELS = {PRICED: PRICED, "us.anthropic.claude-opus-4-6-v1": PRICED, "house-model": "house-model", "made up": OTHER}
small = st.integers(0, 50)
usages = st.builds(Usage, small, small, small, small)
records = st.builds(
    AccessRecord,
    time=st.floats(1.8e9, 1.8e9 + 4000),
    request_id=st.text(max_size=5),
    outcome=st.sampled_from([*Outcome, REFUSED]),
    duration=st.floats(0, 1000),
    attempts=small,
    kind=st.sampled_from(CallKind),
    provider=st.sampled_from(NAMES),
    model_sent=st.sampled_from(sorted(MODELS)),
    ttfb=st.none() | st.floats(0, 100),
    usage=usages,
    bytes_in=small,
    bytes_out=small,
    longest_gap=st.none() | st.floats(0, 300),
)
attempts = st.builds(
    AttemptRecord,
    time=st.just(1.8e9),
    request_id=st.just("r"),
    number=st.just(1),
    provider=st.sampled_from(NAMES),
    key=st.none(),
    model=st.sampled_from(sorted(MODELS)),
    outcome=st.none() | st.sampled_from(Outcome),
    reason=st.none(),
    status=st.none(),
    duration=st.floats(0, 100),
    chosen_by=st.just("failover"),
)


def tally() -> Tally:
    made = Tally(1.8e9)
    made.configure(
        [
            provider_settings("anthropic", name="north", models=("house-model",)),
            provider_settings("anthropic", name="cloud"),
        ]
    )
    return made


@given(st.lists(records), st.lists(attempts))
def test_counts_are_those_of_the_records(calls: list[AccessRecord], tried: list[AttemptRecord]) -> None:
    counted = tally()
    for call in calls:
        counted.call_ended(call)
    for attempt in tried:
        counted.attempt_ended(attempt)

    def label(call: AccessRecord) -> tuple[str, str]:
        return str(call.provider), MODELS[str(call.model_sent)]

    words = [c.outcome.value if isinstance(c.outcome, Outcome) else c.outcome for c in calls]
    kinds = [c.kind.name.lower() if c.kind else "" for c in calls]
    assert counted.calls == Counter(
        (kind, word, *label(call)) for kind, word, call in zip(kinds, words, calls, strict=True)
    )
    assert counted.attempts == Counter(
        (a.provider, MODELS[a.model], a.outcome.value if a.outcome else "committed") for a in tried
    )
    for name in ("input", "output", "cache_write", "cache_read"):
        for where in {label(call) for call in calls}:
            expected = sum(getattr(call.usage, name) for call in calls if label(call) == where)
            assert counted.tokens[(*where, name)] == expected
    costs = [0.0 if c.usage == Usage() else cost_of(str(c.model_sent), c.usage, "anthropic") for c in calls]
    assert sum(counted.cost.values()) == pytest.approx(sum(cost or 0.0 for cost in costs))
    assert sum(counted.unpriced.values()) == costs.count(None)
    assert counted.total.calls == sum(sums.calls for sums in counted.by_provider.values()) == len(calls)
    assert (counted.bytes_in, counted.bytes_out) == (sum(c.bytes_in for c in calls), sum(c.bytes_out for c in calls))
    for histograms, values in (
        (counted.duration, [c.duration for c in calls]),
        (counted.ttfb, [c.ttfb for c in calls if c.ttfb is not None]),
        (counted.gap, [c.longest_gap for c in calls if c.longest_gap is not None]),
        (counted.attempt_duration, [a.duration for a in tried]),
    ):
        assert sum(h.count for h in histograms.values()) == len(values)
        assert sum(h.sum for h in histograms.values()) == pytest.approx(sum(values))
    assert [call.request_id for call in counted.recent] == [call.request_id for call in calls][-RECENT:]


@given(st.lists(st.floats(-1, 20), max_size=30))
def test_a_histogram_counts_what_is_not_above_each_bound(values: list[float]) -> None:
    histogram = Histogram((0.5, 1.0, 10.0))
    for value in values:
        histogram.observe(value)
    assert histogram.cumulative() == tuple(sum(v <= bound for v in values) for bound in (0.5, 1.0, 10.0, 1e9))
    assert histogram.sum == pytest.approx(sum(max(0.0, value) for value in values))


CALL = AccessRecord(
    time=1.8e9, request_id="r", outcome=Outcome.ANSWERED, duration=1.0, kind=CallKind.MESSAGES, provider="north"
)


@given(st.lists(st.text(min_size=1), max_size=30))
def test_no_client_can_make_a_label(names: list[str]) -> None:
    counted = tally()
    for name in names:
        counted.call_ended(replace(CALL, model_asked=name, provider=name))
    assert {(provider, model) for _, _, provider, model in counted.calls} <= {(OTHER, OTHER)}
    assert set(counted.duration) <= {OTHER}


def test_a_call_that_nobody_was_asked_for_has_neither_provider_nor_model() -> None:
    counted = tally()
    counted.call_ended(AccessRecord(time=1.8e9, request_id="r", outcome=REFUSED, duration=0.0))
    assert counted.calls == {(NONE, REFUSED, NONE, NONE): 1}


def test_reloads_cannot_make_labels_without_end() -> None:
    counted = tally()
    for number in range(MOST_PROVIDERS + 50):
        models = tuple(f"m{number}-{at}" for at in range(20))
        counted.configure([provider_settings("anthropic", name=f"p{number}", models=models)])
        for model in models:
            counted.call_ended(replace(CALL, provider=f"p{number}", model_sent=model))
    providers = {provider for _, _, provider, _ in counted.calls}
    assert OTHER in providers and len(providers) <= MOST_PROVIDERS + 1
    assert len({model for _, _, _, model in counted.calls}) <= MOST_MODELS + 1


def test_a_provider_that_a_reload_took_away_goes_on_to_be_counted() -> None:
    counted = tally()
    counted.configure([provider_settings("anthropic", name="new")])
    counted.call_ended(CALL)
    assert counted.by_provider["north"].calls == 1


@pytest.mark.parametrize(
    ("model", "usage", "cost", "unpriced"),
    [(PRICED, Usage(), 0.0, 0), ("house-model", Usage(), 0.0, 0), ("house-model", Usage(1), None, 1)],
)
def test_what_used_nothing_costs_nothing_and_an_unknown_price_is_counted(
    model: str, usage: Usage, cost: float | None, unpriced: int
) -> None:
    counted = tally()
    counted.call_ended(replace(CALL, model_sent=model, usage=usage))
    assert (counted.recent[-1].cost, sum(counted.unpriced.values())) == (cost, unpriced)


def test_a_long_text_is_cut_before_it_is_kept() -> None:
    counted = tally()
    counted.call_ended(replace(CALL, request_id="r" * 10_000, model_sent="m" * 10_000, reason="x" * 10_000))
    kept = counted.recent[-1]
    assert max(len(kept.request_id), len(kept.model or ""), len(kept.reason or "")) <= 200


# -- burn-down


def key(remaining: int | None, limit: int | None = 10) -> KeyStatus:
    return KeyStatus("k", KeyState.USABLE, 0.0, 0, (LimitStatus("requests", limit, remaining, None),), "")


def test_the_burn_down_keeps_shares_oldest_first_and_only_the_last() -> None:
    burn_down = BurnDown()
    for at in range(POINTS + 10):
        burn_down.sample([("north", key(at % 11))])
    assert burn_down.of("north", "k", "requests") == tuple((at % 11) / 10 for at in range(10, POINTS + 10))


def test_a_key_that_is_gone_is_forgotten_and_what_is_not_known_is_not_drawn() -> None:
    burn_down = BurnDown()
    burn_down.sample([("north", key(3)), ("south", key(None)), ("west", key(1, None))])
    assert [burn_down.of(name, "k", "requests") for name in ("north", "south", "west")] == [(0.3,), (), ()]
    burn_down.sample([("south", key(40))])
    assert [burn_down.of(name, "k", "requests") for name in ("north", "south")] == [(), (1.0,)]
