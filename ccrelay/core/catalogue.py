"""The models we know: what each is called where, and how much it can take. Data of the package, never fetched."""

from __future__ import annotations

import functools
import importlib.resources
import json
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CatalogueModel:
    """One model.

    id: its name without a date. created: the day of its release as ``YYYY-MM-DD``, 1970-01-01 where unknown (as the
    Models API does). context_window: input tokens, None where unknown. ids: its name by provider type.
    """

    id: str
    display_name: str
    created: str
    context_window: int | None
    ids: Mapping[str, str]


@functools.cache
def catalogue() -> tuple[CatalogueModel, ...]:
    """Every model, newest first within a family."""
    text = importlib.resources.files("ccrelay.data").joinpath("models.json").read_text("utf-8")
    return tuple(
        CatalogueModel(entry["id"], entry["display_name"], entry["created"], entry["context_window"], entry["ids"])
        for entry in json.loads(text)["models"]
    )


def default_models(provider_type: str) -> tuple[str, ...]:
    """What a provider of that type is taken to offer, by the names it uses; empty for ``ollama``: what is pulled."""
    return tuple(model.ids[provider_type] for model in catalogue() if provider_type in model.ids)
