"""In which order the file's keys and providers stand, before anything is known of them."""

from __future__ import annotations

from collections.abc import Iterable

from ccrelay.core.settings import KeySettings, ProviderSettings


def key_order(settings: ProviderSettings) -> tuple[KeySettings, ...]:
    """The keys to try, higher priority first, file order among equals; only the first one with pooling off."""
    if not settings.pooling.enabled:
        return settings.keys[:1]
    return tuple(sorted(settings.keys, key=lambda key: -key.priority))


def priority_order(providers: Iterable[ProviderSettings]) -> tuple[ProviderSettings, ...]:
    """Providers as the ``failover`` strategy tries them: higher priority first, file order among equals."""
    return tuple(sorted(providers, key=lambda provider: -provider.priority))
