"""What the catalogue knows fits together, and is said in each provider's own words."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccrelay.core.catalogue import MANTLE, CatalogueModel, catalogue, cloud_model, cost_of, known_model
from ccrelay.core.model import Usage

CLAUDES = [model for model in catalogue() if "anthropic" in model.ids]
SHAPES = {
    "bedrock": r"(global|us|us-gov|eu|jp|au|apac)\.anthropic\.claude-[a-z]+-[0-9-]+(-v\d(:\d)?)?",
    MANTLE: r"anthropic\.claude-[a-z]+-\d(-\d)?",
    "vertex": r"claude-[a-z]+-\d(-\d)?(@20\d{6})?",
    "azure": r"claude-[a-z]+-\d(-\d)?",
}
FAMILY_OF = {
    "us-east-1": "us",
    "ca-central-1": "us",
    "eu-west-3": "eu",
    "ap-northeast-1": "jp",
    "ap-southeast-2": "au",
    "sa-east-1": "global",
    "ap-south-1": "global",
}


def name_of(model: CatalogueModel) -> str:
    return model.id


@pytest.mark.parametrize("model", CLAUDES, ids=name_of)
def test_every_form_of_a_name_is_known_as_the_same_model(model: CatalogueModel) -> None:
    bedrock = model.ids["bedrock"]
    base = bedrock.removeprefix("global.")
    forms = {model.id, base, f"eu.{base}", f"us-gov.{base}", f"{model.id}[1m]", *model.ids.values()}
    forms |= {f"arn:aws:bedrock:us-east-1:123456789012:inference-profile/us.{base}"}
    assert [form for form in sorted(forms) if known_model(form) is not model] == []


@pytest.mark.parametrize("model", CLAUDES, ids=name_of)
def test_every_cloud_gets_a_name_of_its_own_shape_whatever_form_was_asked_for(model: CatalogueModel) -> None:
    for kind, shape in SHAPES.items():
        for asked in (model.id, model.ids["anthropic"], f"{model.ids['anthropic']}[1m]"):
            name = cloud_model(kind, asked, "us-east-1")
            assert name is None if kind == MANTLE and model.mantle is None else re.fullmatch(shape, name or "")
            assert name is None or known_model(name) == model


def test_a_date_stays_with_its_model() -> None:
    """The date of the first party's name is the date at the clouds, or there is none."""
    for model in CLAUDES:
        dates = {found for name in model.ids.values() for found in re.findall(r"20\d{6}", name)}
        assert len(dates) <= 1
        for date in dates:
            assert date in model.ids["anthropic"]
            assert date in model.ids["vertex"]
            assert f"{date[:4]}-{date[4:6]}" <= model.created[:7]


@pytest.mark.parametrize(
    "name",
    [
        "claude-sonnet-4-5-20250514",
        "claude-opus-4-5-20250514",
        "claude-haiku-3-5-20241022",
        "anthropic.claude-sonnet-4-5-20250514-v1:0",
        "us.anthropic.claude-haiku-3-5-20241022-v1:0",
        "claude-sonnet-4-5@20250514",
        "claude-haiku-3-5@20241022",
        "my-deployment",
        "",
        "[1m]",
    ],
)
def test_names_that_no_provider_has_are_not_made_into_others(name: str) -> None:
    assert known_model(name) is None
    assert all(cloud_model(kind, name, "us-east-1") is None for kind in SHAPES)


@pytest.mark.parametrize(("region", "family"), FAMILY_OF.items())
def test_bedrock_is_called_by_the_profile_nearest_to_the_region(region: str, family: str) -> None:
    assert cloud_model("bedrock", "claude-opus-5-5", region) == f"{family}.anthropic.claude-opus-5-5"


def test_where_a_model_has_no_profile_of_the_region_the_global_one_is_called() -> None:
    assert (
        cloud_model("bedrock", "claude-opus-4-5", "ap-northeast-1") == "global.anthropic.claude-opus-4-5-20251101-v1:0"
    )
    assert cloud_model("bedrock", "claude-opus-4-6", "ap-northeast-1") == "jp.anthropic.claude-opus-4-6-v1"
    assert cloud_model("bedrock", "claude-opus-4-6", "ap-south-1") == "apac.anthropic.claude-opus-4-6-v1"


def test_partitions_whose_profiles_are_not_known_get_no_name() -> None:
    for region in ("us-gov-west-1", "cn-north-1"):
        assert cloud_model("bedrock", "claude-opus-5-5", region) is None


def test_a_bedrock_name_that_names_its_profile_stays_at_bedrock_and_is_read_elsewhere() -> None:
    for asked in (
        "us.anthropic.claude-opus-5-5",
        "arn:aws:bedrock:eu-west-1:1:inference-profile/eu.anthropic.claude-opus-5",
    ):
        assert cloud_model("bedrock", asked, "eu-west-1") is None
        assert cloud_model("vertex", asked) is not None
    assert cloud_model("bedrock", "anthropic.claude-opus-5-5", "eu-west-1") == "eu.anthropic.claude-opus-5-5"


def test_other_vendors_models_are_not_offered_by_clouds() -> None:
    assert all(cloud_model(kind, "glm-5.2", "us-east-1") is None for kind in SHAPES)


@pytest.mark.parametrize("model", [model for model in catalogue() if model.prices], ids=name_of)
def test_prices_are_in_the_order_that_every_vendor_has_them(model: CatalogueModel) -> None:
    for price in model.prices:
        write_5m, write_1h = price.cache_write_5m or price.input, price.cache_write_1h or price.output
        assert 0 < (price.cache_read or price.input / 2) < price.input <= write_5m < write_1h <= price.output
    bounds = [price.prompt_up_to for price in model.prices]
    assert bounds[-1] is None
    assert all(bound is not None for bound in bounds[:-1])


def test_every_claude_has_a_price() -> None:
    assert [model.id for model in CLAUDES if not model.prices] == []


USAGES = st.builds(Usage, *[st.integers(0, 50_000)] * 4)
PRICED = st.sampled_from([model.id for model in CLAUDES if len(model.prices) == 1])


@given(PRICED, USAGES, USAGES)
def test_costs_of_calls_add_up(model: str, one: Usage, other: Usage) -> None:
    both = Usage(
        one.input + other.input,
        one.output + other.output,
        one.cache_write + other.cache_write,
        one.cache_read + other.cache_read,
    )
    costs = [cost_of(model, usage, "anthropic") for usage in (one, other, both)]
    assert costs[0] is not None
    assert costs[1] is not None
    assert costs[2] == pytest.approx(costs[0] + costs[1])


@given(PRICED, USAGES)
def test_an_hours_cache_costs_more_than_five_minutes(model: str, usage: Usage) -> None:
    short, long = (cost_of(model, usage, "anthropic", hour_writes=n) for n in (0, usage.cache_write))
    assert short is not None
    assert long is not None
    assert long > short or usage.cache_write == 0


def test_a_million_of_each_costs_what_the_price_list_says() -> None:
    million = Usage(1_000_000, 1_000_000, 1_000_000, 1_000_000)
    assert cost_of("claude-sonnet-4-5", million, "anthropic") == pytest.approx(3 + 15 + 3.75 + 0.30)
    assert cost_of("claude-opus-5-5", million, "anthropic", hour_writes=1_000_000) == pytest.approx(4 + 20 + 8 + 0.20)


def test_a_long_prompt_has_its_own_price_and_cached_tokens_make_it_long() -> None:
    short = cost_of("claude-haiku-5-5", Usage(input=100_000), "anthropic")
    long = cost_of("claude-haiku-5-5", Usage(input=100_001), "anthropic")
    assert short is not None
    assert long is not None
    assert long > 4 * short
    one = cost_of("claude-haiku-5-5", Usage(input=1, cache_write=100_000), "anthropic")
    assert one is not None
    assert one > 100_000 * 0.6 / 1e6


def test_regional_endpoints_of_clouds_cost_a_tenth_more() -> None:
    usage = Usage(input=1000, output=100)
    listed = cost_of("claude-opus-5-5", usage, "anthropic")
    assert listed is not None
    for model, kind, region, factor in (
        ("us.anthropic.claude-opus-5-5", "bedrock", "us-east-1", 1.1),
        ("global.anthropic.claude-opus-5-5", "bedrock", "us-east-1", 1.0),
        ("claude-opus-5-5", "vertex", "europe-west1", 1.1),
        ("claude-opus-5-5", "vertex", "eu", 1.1),
        ("claude-opus-5-5", "vertex", "global", 1.0),
        ("claude-opus-5-5", "azure", None, 1.0),
    ):
        assert cost_of(model, usage, kind, region) == pytest.approx(listed * factor)


def test_what_is_not_known_has_no_price() -> None:
    assert cost_of("my-deployment", Usage(1, 1), "azure") is None
    assert cost_of("claude-opus-5-5", Usage(1, 1), "zai") is None
    assert cost_of("glm-4.6", Usage(1, 1, 0, 1), "zai") is None
    assert cost_of("glm-5.2", Usage(1, 1), "zai") is None
    assert cost_of("claude-haiku-5-5", Usage(0, 0, 0, 5), "anthropic") is None
