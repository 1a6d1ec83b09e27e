"""The simulator inside the daemon: a Messages API without a network, under an address that only the daemon resolves."""

from __future__ import annotations

from ccrelay.core.simulation import base_url
from ccrelay.providers.base import AnthropicFormat


class SimulatorProvider(AnthropicFormat):
    """``type: simulator``."""

    family = "simulator"
    needs_key = False

    def base_url(self) -> str:
        """The address under which the daemon finds this provider's simulator; the settings have no say in it."""
        return base_url(self.settings.name)
