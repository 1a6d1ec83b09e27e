"""A configuration made to work: the immutable snapshot that calls are served with, and that a reload replaces."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from http.cookiejar import CookieJar, DefaultCookiePolicy
from random import Random
from typing import Any

from treq.client import HTTPClient
from twisted.logger import Logger
from twisted.web.client import URI
from twisted.web.iweb import IAgent

from ccrelay.core.access import AccessRecord
from ccrelay.core.attempts import key_order, priority_order
from ccrelay.core.catalogue import catalogue
from ccrelay.core.listing import union
from ccrelay.core.model import ApiKey
from ccrelay.core.proxies import proxy_for
from ccrelay.core.settings import ProviderSettings, Settings
from ccrelay.credentials.static import StaticCredentials
from ccrelay.errors import ConfigError, Problem
from ccrelay.providers import PROVIDERS, build
from ccrelay.relay import Lease, Relay, Upstream
from ccrelay.upstream.agent import OriginAgent, origin_endpoint
from ccrelay.upstream.simulator import SimulatorAgent
from ccrelay.web.auth import Doorkeeper
from ccrelay.web.surface import ProviderEntry, Surface

_access_log = Logger(namespace="ccrelay.access")


def not_served(settings: Settings) -> tuple[Problem, ...]:
    """What a valid configuration asks for that this version does without; each is told once, at the start."""
    found = [
        Problem(f"providers.{p.name}", None, f"type {p.type} is not served by this version; the provider is left out")
        for p in settings.providers
        if p.type not in PROVIDERS
    ]
    if settings.server.workers > 1:
        found.append(Problem("server.workers", None, "this version serves with one process"))
    if settings.admin_listen:
        found.append(Problem("admin.listen", None, "this version has no admin listener"))
    if settings.routing.strategy != "failover":
        message = f"this version tries providers in order of priority, not by {settings.routing.strategy}"
        found.append(Problem("routing.strategy", None, message))
    if settings.logging.log_request_body or settings.logging.log_response_headers:
        found.append(Problem("logging.debug_options", None, "this version logs neither bodies nor headers"))
    return tuple(found)


class Runtime:
    """Upstreams, relay and HTTP surface of one configuration.

    reactor: the reactor in use. environ: for proxy variables. Raises ConfigError where a setting names something that
    cannot be used (an unreadable ``ca_file``, HTTP/2). Makes no connection.
    """

    def __init__(self, settings: Settings, reactor: Any, environ: Mapping[str, str], rng: Random) -> None:
        self.settings = settings
        if settings.server.enable_http2:
            message = "HTTP/2 is not served by this version; leave the key out"
            raise ConfigError("configuration", (Problem("server.enable_http2", None, message),))
        served = [p for p in priority_order(settings.providers) if p.type in PROVIDERS]
        real = [p for p in served if p.simulator is None and _could_be_asked(p, settings)]
        self._chosen = [p for p in served if p.simulator is None or not (real and p.simulator.only_without_keys)]
        self._closers: list[Callable[[], object]] = []
        upstreams = [self._upstream(p, reactor, environ, rng) for p in self._chosen]
        self.relay = Relay(
            reactor, upstreams, settings.routing, settings.server.timeout, epoch=time.time, observe=_observe
        )
        self.surface = Surface(
            server=settings.server,
            doorkeeper=Doorkeeper(settings.server.auth),
            handle=self.relay.handle,
            refused=_observe,
            models=union(self._chosen, _display_names()),
            providers=self._entries,
            usable=lambda: any(_could_be_asked(p, settings) for p in self._chosen),
        )

    def _upstream(self, settings: ProviderSettings, reactor: Any, environ: Mapping[str, str], rng: Random) -> Upstream:
        provider = build(settings)
        agent: IAgent
        if settings.simulator is not None:
            agent = SimulatorAgent(reactor, {settings.name: settings.simulator}, rng)
        else:
            agent = self._origin_agent(settings, provider.base_url(), reactor, environ)
        leases = tuple(
            Lease(key.secret.fingerprint, StaticCredentials(ApiKey(key.secret)))
            for key in key_order(settings)
            if key.secret is not None
        )
        cookies: Any = CookieJar(policy=DefaultCookiePolicy(allowed_domains=[]))
        return Upstream(provider, HTTPClient(agent, cookiejar=cookies), settings.timeouts, leases)

    def _origin_agent(
        self, settings: ProviderSettings, base_url: str, reactor: Any, environ: Mapping[str, str]
    ) -> OriginAgent:
        try:
            endpoint = origin_endpoint(
                reactor,
                URI.fromBytes(base_url.encode("ascii")),
                connect_timeout=settings.timeouts.connect,
                ca_file=settings.ca_file,
                proxy=proxy_for(base_url, settings.proxy, environ),
            )
        except ValueError:
            # Neither the proxy nor what is wrong with it is told: one from the environment may hold a password.
            message = "its proxy cannot be used; check proxy, or HTTPS_PROXY in the environment"
            raise ConfigError("configuration", (Problem(f"providers.{settings.name}", None, message),)) from None
        except Exception as error:
            message = f"its TLS trust could not be set up ({error}); check ca_file {settings.ca_file}"
            raise ConfigError("configuration", (Problem(f"providers.{settings.name}", None, message),)) from error
        agent = OriginAgent(reactor, endpoint)
        self._closers.append(agent.close)
        return agent

    def _entries(self) -> tuple[ProviderEntry, ...]:
        return tuple(ProviderEntry(p.name, p.type, p.models, _could_be_asked(p, self.settings)) for p in self._chosen)

    def close(self) -> None:
        """Let go of idle upstream connections; what is in use ends with its call."""
        for close in self._closers:
            close()


def _could_be_asked(provider: ProviderSettings, settings: Settings) -> bool:
    if any(key.secret is not None for key in key_order(provider)):
        return True
    if provider.type == "anthropic":
        return settings.server.auth.allow_subscription
    return not PROVIDERS[provider.type].needs_key


def _display_names() -> dict[str, tuple[str, str]]:
    return {
        name: (model.display_name, f"{model.created}T00:00:00Z")
        for model in catalogue()
        for name in (model.id, *model.ids.values())
    }


def _observe(record: AccessRecord) -> None:
    _access_log.info("{access}", access=record)
