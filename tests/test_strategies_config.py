"""What a configuration can say about strategies and weights, and what it cannot."""

from __future__ import annotations

from random import Random

import pytest

from ccrelay.core.config_schema import config_schema
from ccrelay.core.strategies import STRATEGIES, Standing, build_strategy
from tests.config_loading import load_text, problems_of, settings_of

ZERO = "every provider has weight 0: give at least one a `weight` above 0, or use `failover`"
ZERO_KEYS = "every key has weight 0: give at least one a `weight` above 0, or use `least_loaded`"
WEIGHTED = ["weighted_round_robin", "weighted_failover"]


def routed(routing: str, *entries: str) -> str:
    return "providers:\n" + "".join(f"  - {entry}\n" for entry in entries) + f"routing: {{{routing}}}\n"


def test_every_strategy_a_file_can_name_can_be_built() -> None:
    assert list(STRATEGIES) == config_schema()["properties"]["routing"]["properties"]["strategy"]["enum"]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_strategy_is_built_from_the_file(strategy: str) -> None:
    routing = f"strategy: {strategy}, model_mapping: {{claude: b}}, default_provider: a"
    settings = settings_of(routed(routing, "{name: a, type: simulator}", "{name: b, type: ollama, priority: 2}"))
    built = build_strategy(settings.routing, Random(1))
    candidates = [Standing(p.name, p.priority, p.weight, 0) for p in settings.providers]

    assert set(built.order("claude-opus-4", candidates, 0.0)) == ({"b"} if strategy == "model_based" else {"a", "b"})


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("round-robin", "round_robin"),
        ("weighted-round-robin", "weighted_round_robin"),
        ("weighted_roundrobin", "weighted_round_robin"),
        ("leastloaded", "least_loaded"),
        ("Shuffle", "shuffle"),
        ("weightedfailover", "weighted_failover"),
        ("model-based", "model_based"),
    ],
)
def test_a_misspelt_strategy_is_refused_with_the_one_that_was_meant(written: str, meant: str) -> None:
    [problem] = problems_of(routed(f"strategy: {written}", "{name: a, type: simulator}"))

    assert problem == f"line 3: routing.strategy: must be one of {', '.join(STRATEGIES)}; did you mean `{meant}`?"


def test_a_mapping_to_a_misspelt_provider_is_refused_by_every_strategy() -> None:
    for strategy in STRATEGIES:
        routing = f"strategy: {strategy}, model_mapping: {{claude: anthropc}}, default_provider: mian"
        entries = "{name: main, type: simulator}", "{name: anthropic, type: ollama}"

        assert problems_of(routed(routing, *entries)) == [
            "line 4: routing.default_provider: no provider has this name; did you mean `main`?",
            "line 4: routing.model_mapping.claude: no provider has this name; did you mean `anthropic`?",
        ]


# Weights


@pytest.mark.parametrize("strategy", WEIGHTED)
@pytest.mark.parametrize(
    "entries",
    [
        ("{name: a, type: simulator, weight: 0}", "{name: b, type: ollama, weight: 0.0}"),
        (
            "{name: a, type: zai, keys: [{key: x, weight: 0}, {key: y, weight: 5}]}",
            "{name: b, type: ollama, weight: 0}",
        ),
        ("{name: a, type: zai, weight: 0, keys: [{key: x, weight: 5}]}", "{name: b, type: ollama, weight: 0}"),
    ],
)
def test_weights_that_are_all_zero_leave_nothing_to_choose_by(strategy: str, entries: tuple[str, str]) -> None:
    assert problems_of(routed(f"strategy: {strategy}", *entries)) == [f"line 4: routing.strategy: {ZERO}"]


def test_the_weights_of_disabled_providers_do_not_help() -> None:
    entries = [f"{{name: {name}, type: simulator, weight: 0}}" for name in "ab"]
    text = routed("strategy: weighted_failover", *entries, "{name: c, type: simulator, weight: 9, enabled: false}")

    assert problems_of(text) == [f"line 5: routing.strategy: {ZERO}"]


@pytest.mark.parametrize("strategy", WEIGHTED)
@pytest.mark.parametrize("other", ["weight: 3", "priority: 2"])
def test_a_single_weight_of_zero_means_one(strategy: str, other: str) -> None:
    text = routed(
        f"strategy: {strategy}", "{name: a, type: simulator, weight: 0}", f"{{name: b, type: ollama, {other}}}"
    )

    assert settings_of(text).providers[0].weight == 1.0


@pytest.mark.parametrize("strategy", WEIGHTED)
def test_who_is_alone_needs_no_weight(strategy: str) -> None:
    [provider] = settings_of(routed(f"strategy: {strategy}", "{name: a, type: simulator, weight: 0}")).providers

    assert provider.weight == 1.0


@pytest.mark.parametrize("strategy", [name for name in STRATEGIES if name not in WEIGHTED])
def test_weights_of_zero_do_not_matter_where_nobody_looks_at_them(strategy: str) -> None:
    routing = f"strategy: {strategy}, default_provider: a"
    entries = [f"{{name: {name}, type: simulator, weight: 0}}" for name in "ab"]

    assert len(settings_of(routed(routing, *entries)).providers) == 2


@pytest.mark.parametrize(
    "other",
    [
        "{name: b, type: simulater, weight: 3}",
        "{name: b, type: simulator, weight: much}",
        "{name: b, type: zai, keys: [{key: x, weight: -1}]}",
        "{name: b, type: simulator, weight: 3, enabled: '${E}'}",
    ],
)
def test_nothing_is_said_of_weights_where_one_cannot_be_read(other: str) -> None:
    problems = problems_of(routed("strategy: weighted_failover", "{name: a, type: simulator, weight: 0}", other))

    assert [problem for problem in problems if ZERO in problem] == []


def test_weights_are_checked_beside_other_mistakes() -> None:
    entries = "{name: a, type: simulator, weight: 0, priorty: 1}", "{name: b, type: ollama, weight: 0}"
    problems = problems_of(routed("strategy: weighted_failover", *entries))

    assert [problem.split(": ")[1] for problem in problems] == ["providers[0].priorty", "routing.strategy"]


def keys(*weights: float, pooling: str = "strategy: weighted") -> str:
    listed = ", ".join(f"{{key: k{i}, weight: {weight}}}" for i, weight in enumerate(weights))
    return f"providers:\n  - {{name: a, type: zai, keys: [{listed}], pooling: {{{pooling}}}}}\n"


def test_weights_of_keys_that_are_all_zero_leave_nothing_to_choose_by() -> None:
    assert problems_of(keys(0, 0)) == [f"line 2: providers[0].pooling.strategy: {ZERO_KEYS}"]


@pytest.mark.parametrize(
    "text",
    [
        keys(0, 0.5),
        keys(0),
        keys(0, 0, pooling="strategy: random"),
        keys(0, 0, pooling="strategy: weighted, enabled: false"),
    ],
)
def test_weights_of_keys_may_be_zero_where_that_decides_nothing(text: str) -> None:
    assert {key.weight for key in settings_of(text).providers[0].keys} <= {1.0, 0.5}


def test_the_keys_of_a_disabled_provider_may_weigh_nothing() -> None:
    disabled = keys(0, 0).replace("{name: a,", "{name: a, enabled: false,")

    assert len(load_text(disabled + "  - {name: b, type: simulator}\n").settings.providers) == 1
