"""What the HTTP surface needs of the rest of the daemon: one value, swapped whole on a reload."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ccrelay.core.access import AccessRecord
from ccrelay.core.listing import ModelEntry
from ccrelay.core.model import Call
from ccrelay.core.settings import ServerSettings
from ccrelay.web.auth import Doorkeeper
from ccrelay.web.sink import ClientSink


@dataclass(frozen=True, slots=True)
class ProviderEntry:
    """One line of ``GET /v1/providers``. usable: a call might be answered there. circuit: its breaker's state."""

    name: str
    type: str
    models: tuple[str, ...]
    usable: bool
    circuit: str


@dataclass(frozen=True, slots=True)
class Surface:
    """server: listener limits. handle(call, sink): serve a call; answers through the sink, never raises.

    refused(record): a call was turned away before it could be served.

    providers(): in order of priority. usable(): whether any provider could be asked.
    """

    server: ServerSettings
    doorkeeper: Doorkeeper
    handle: Callable[[Call, ClientSink], object]
    refused: Callable[[AccessRecord], None]
    models: tuple[ModelEntry, ...]
    providers: Callable[[], tuple[ProviderEntry, ...]]
    usable: Callable[[], bool]
