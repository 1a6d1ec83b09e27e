"""The models we know: what each is called where, how much it can take, what it costs. Data of the package, never
fetched.

Names of one model differ by provider: ``claude-opus-4-6`` at Anthropic is ``us.anthropic.claude-opus-4-6-v1`` at
Bedrock. Every form counts as that model's name here, but nothing is guessed: a name with another date is another model.
"""

from __future__ import annotations

import functools
import importlib.resources
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from ccrelay.core.model import Usage

MANTLE: Final = "mantle"
"""Stands for Bedrock's Messages API where a provider type is asked for: it has names of its own."""

_PROFILE: Final = re.compile(
    r"(?:arn:[^/]{0,200}:(?:inference-profile|foundation-model)/)?(?:([a-z-]{2,10})\.)?(?=anthropic\.)"
)
_LONG_CONTEXT: Final = "[1m]"
"""Claude Code's mark for the longer context of a model; clouds know the model without it."""

_FAMILIES: Final = (
    ("us-gov-", ("us-gov",)),
    ("us-", ("us", "global")),
    ("ca-", ("us", "global")),
    ("eu-", ("eu", "global")),
    ("ap-northeast-1", ("jp", "apac", "global")),
    ("ap-northeast-3", ("jp", "apac", "global")),
    ("ap-southeast-2", ("au", "apac", "global")),
    ("ap-southeast-4", ("au", "apac", "global")),
    ("ap-", ("apac", "global")),
    ("cn-", ()),
    ("", ("global",)),
)
"""Beginnings of AWS regions, and the inference profiles that can be called from them, nearest first: whoever configures
a region of Europe expects that prompts stay there. GovCloud and China are AWSs of their own, without the global one."""


@dataclass(frozen=True, slots=True)
class Price:
    """USD per million tokens; None where it is not known.

    prompt_up_to: holds for prompts of at most so many tokens, cached ones included; None: for all.
    """

    prompt_up_to: int | None
    input: float
    output: float
    cache_write_5m: float | None
    cache_write_1h: float | None
    cache_read: float | None


@dataclass(frozen=True, slots=True)
class CatalogueModel:
    """One model.

    id: its name without a date. created: the day of its release as ``YYYY-MM-DD``, 1970-01-01 where unknown (as the
    Models API does). context_window: input tokens, None where unknown. ids: its name by provider type. profiles:
    Bedrock's inference profiles for it. mantle: its name at Bedrock's Messages API, None where it is not offered there.
    prices: by length of the prompt, shorter first; empty where unknown.
    """

    id: str
    display_name: str
    created: str
    context_window: int | None
    ids: Mapping[str, str]
    profiles: tuple[str, ...] = ()
    mantle: str | None = None
    prices: tuple[Price, ...] = ()


@functools.cache
def catalogue() -> tuple[CatalogueModel, ...]:
    """Every model, newest first within a family."""
    return tuple(
        CatalogueModel(
            entry["id"],
            entry["display_name"],
            entry["created"],
            entry["context_window"],
            entry["ids"],
            tuple(entry.get("profiles", ())),
            entry.get("mantle"),
            tuple(Price(**{"prompt_up_to": None, **price}) for price in entry.get("prices", ())),
        )
        for entry in _document()["models"]
    )


def default_models(provider_type: str) -> tuple[str, ...]:
    """What a provider of that type is taken to offer, by the names it uses; empty for ``ollama``: what is pulled."""
    return tuple(model.ids[provider_type] for model in catalogue() if provider_type in model.ids)


def known_model(name: str) -> CatalogueModel | None:
    """The model that any provider calls by ``name``, in whatever inference profile and length of context; else None."""
    bare = _PROFILE.sub("", name.removesuffix(_LONG_CONTEXT), count=1)
    return _names().get(bare)


def cloud_model(provider_type: str, asked: str, region: str | None = None) -> str | None:
    """What a cloud calls the model that a client asked for in another's words, or None where the catalogue cannot tell.

    provider_type: ``bedrock``, MANTLE, ``vertex`` or ``azure``. region: the configured one; it decides which inference
    profile is called at Bedrock. A name that says more than the model is never replaced at the provider it is made for:
    ``us.anthropic...`` and ARNs at Bedrock.
    """
    model = known_model(asked)
    if model is None:
        return None
    if provider_type == MANTLE:
        return model.mantle
    if provider_type != "bedrock":
        return model.ids.get(provider_type)
    said = _PROFILE.match(asked)
    if "bedrock" not in model.ids or (said and said.end()):
        return None
    callable_here = next(families for beginning, families in _FAMILIES if (region or "").startswith(beginning))
    nearest = next((profile for profile in callable_here if profile in model.profiles), None)
    return nearest and f"{nearest}.{_PROFILE.sub('', model.ids['bedrock'], count=1)}"


def cost_of(
    model: str, usage: Usage, provider_type: str, region: str | None = None, hour_writes: int = 0
) -> float | None:
    """What a call cost at list price, in USD; None where a price that it takes is not known.

    model: the upstream's name. usage: as the upstream told. region: the configured one, of Vertex. hour_writes: tokens
    of ``usage.cache_write`` that were written for an hour; the others count as written for five minutes, which is what
    clients ask for by default, and too little where nobody told that they asked for more.
    """
    known = known_model(model)
    if known is None or ("bedrock" if provider_type == MANTLE else provider_type) not in known.ids:
        return None
    prompt = usage.input + usage.cache_write + usage.cache_read
    price = next((p for p in known.prices if p.prompt_up_to is None or prompt <= p.prompt_up_to), None)
    if price is None:
        return None
    cost = 0.0
    for tokens, each in (
        (usage.input, price.input),
        (usage.output, price.output),
        (usage.cache_write - hour_writes, price.cache_write_5m),
        (hour_writes, price.cache_write_1h),
        (usage.cache_read, price.cache_read),
    ):
        if tokens and each is None:
            return None
        cost += tokens * (each or 0.0)
    surcharge: float = _document()["regional_surcharge"] if _is_regional(model, provider_type, region) else 1.0
    return cost * surcharge / 1_000_000


def _is_regional(model: str, provider_type: str, region: str | None) -> bool:
    """Whether a cloud is called at one of its dearer endpoints: any but the global one."""
    if provider_type == "vertex":
        return region != "global"
    said = _PROFILE.match(model)
    return provider_type in ("bedrock", MANTLE) and (said is None or said[1] != "global")


@functools.cache
def _names() -> Mapping[str, CatalogueModel]:
    names = {}
    for model in catalogue():
        for name in (model.id, model.mantle, *model.ids.values()):
            if name is not None:
                names[_PROFILE.sub("", name, count=1)] = model
    return names


@functools.cache
def _document() -> Any:
    return json.loads(importlib.resources.files("ccrelay.data").joinpath("models.json").read_text("utf-8"))
