"""The catalogue of models."""

from __future__ import annotations

from datetime import date

import pytest

from ccrelay.core.catalogue import catalogue, default_models
from ccrelay.core.config_schema import config_schema

TYPES = config_schema()["$defs"]["provider"]["properties"]["type"]["enum"]


def test_every_entry_is_complete_and_none_is_there_twice() -> None:
    models = catalogue()

    assert len({model.id for model in models}) == len(models)
    for model in models:
        assert date.fromisoformat(model.created) <= date(2100, 1, 1)
        assert model.context_window is None or model.context_window >= 100_000
        assert model.ids
        assert set(model.ids) <= set(TYPES)


@pytest.mark.parametrize("kind", [kind for kind in TYPES if kind != "ollama"])
def test_every_type_has_models_of_its_own(kind: str) -> None:
    assert len(default_models(kind)) == len(set(default_models(kind))) > 0


def test_what_an_ollama_has_cannot_be_known() -> None:
    assert default_models("ollama") == ()
