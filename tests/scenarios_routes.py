"""Contenders, calls and routers as values, for tests of what is decided without a wire."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from ccrelay.core.breaker import Breaker
from ccrelay.core.contenders import Contender
from ccrelay.core.key_pool import KeyPool, PoolKey
from ccrelay.core.model import Call, CallKind, OwnCredential, Principal
from ccrelay.core.request_body import RequestBody
from ccrelay.core.router import Router, RoutingMemory
from ccrelay.core.secret import Secret
from ccrelay.core.settings import AffinitySettings, HealthSettings, RoutingSettings
from ccrelay.core.strategies import build_strategy
from ccrelay.providers import build

from .provider_settings import provider_settings

BODY = b'{"model":"claude-opus-5-5","messages":[]}'
HEALTH = HealthSettings(5, 30.0, 3, True, 10.0)
ROUTING = RoutingSettings("failover", {}, None, 5.0, 4, 0.2, AffinitySettings(True, 3600.0), False)
OWN = OwnCredential(b"authorization", Secret("Bearer sk-ant-oat01-own"))


def contender(name: str, keys: int = 1, type_: str = "anthropic", priority: int = 0) -> Contender:
    pooled = [PoolKey(f"{name}{number}", 0, 1.0, 0, 0, 0) for number in range(keys)]
    pool = KeyPool(pooled, "round_robin", Random(1)) if pooled else None
    return Contender(build(provider_settings(type_, name=name, priority=priority)), Breaker(HEALTH), pool)


def router_of(contenders: Sequence[Contender], routing: RoutingSettings = ROUTING) -> Router:
    return Router(contenders, build_strategy(routing, Random(3)), routing, RoutingMemory.fresh(routing))


def call_of(
    *, session: str | None = None, own: bool = False, only_own: bool = False, kind: CallKind = CallKind.MESSAGES
) -> Call:
    body = RequestBody(len(BODY), 0)
    body.receive_data(BODY)
    body.receive_eof()
    principal = Principal("api_key", "f", b"d" * 32, only_own)
    return Call("id", kind, principal, b"", (), OWN if own or only_own else None, session, "192.0.2.7", body)
