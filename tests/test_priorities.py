"""The order in which keys and providers stand before anything is known of them."""

from __future__ import annotations

from dataclasses import replace

from ccrelay.core.priorities import key_order, priority_order
from ccrelay.core.settings import PoolingSettings
from tests.provider_settings import key_settings, provider_settings

KEYS = tuple(
    replace(key_settings(text), priority=priority) for text, priority in (("low", 0), ("high", 2), ("late", 2))
)


def told(*, pooled: bool) -> list[str]:
    settings = provider_settings("anthropic")
    pooling = PoolingSettings(enabled=pooled, strategy="least_loaded")
    keys = key_order(replace(settings, keys=KEYS, pooling=pooling))
    return [key.secret.reveal() for key in keys if key.secret is not None]


def test_keys_stand_by_priority_and_among_equals_as_in_the_file() -> None:
    assert told(pooled=True) == ["high", "late", "low"]


def test_without_pooling_only_the_key_that_the_file_names_first_is_there_whatever_its_priority() -> None:
    assert told(pooled=False) == ["low"]


def test_providers_stand_by_priority_and_among_equals_as_in_the_file() -> None:
    named = {"low": 0, "high": 2, "late": 2}
    providers = [provider_settings("anthropic", name=name, priority=priority) for name, priority in named.items()]
    assert [provider.name for provider in priority_order(providers)] == ["high", "late", "low"]
