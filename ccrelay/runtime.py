"""A configuration made to work: the immutable snapshot that calls are served with, and that a reload replaces."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from random import Random
from typing import Any

from treq.client import HTTPClient
from twisted.internet.interfaces import IReactorTime, IStreamClientEndpoint
from twisted.internet.threads import deferToThread
from twisted.logger import Logger
from twisted.web.client import URI

from ccrelay.asking import Tools, Upstream
from ccrelay.core.access import AccessRecord
from ccrelay.core.attempt_record import AttemptRecord
from ccrelay.core.breaker import Breaker, BreakerState
from ccrelay.core.catalogue import catalogue
from ccrelay.core.contenders import Contender
from ccrelay.core.excerpt import excerpts_of
from ccrelay.core.key_pool import KeyPool, PoolKey
from ccrelay.core.listing import union
from ccrelay.core.model import ApiKey
from ccrelay.core.priorities import key_order, priority_order
from ccrelay.core.proxies import proxy_for
from ccrelay.core.router import Router, RoutingMemory
from ccrelay.core.settings import HealthSettings, ProviderSettings, Settings
from ccrelay.core.status import Daemon, Status, key_statuses, status_of
from ccrelay.core.strategies import build_strategy
from ccrelay.core.tally import Tally
from ccrelay.core.told import ToldOnce
from ccrelay.credentials.build import credentials_for
from ccrelay.credentials.refreshing import RefreshingCredentials
from ccrelay.credentials.static import StaticCredentials
from ccrelay.credentials.threads import CredentialThreads
from ccrelay.errors import ConfigError, Problem
from ccrelay.interfaces import ICredentials
from ccrelay.providers import PROVIDERS, build
from ccrelay.relay import Relay
from ccrelay.upstream.agent import OriginAgent, origin_endpoint
from ccrelay.upstream.cookies import no_cookies
from ccrelay.upstream.origins import OriginsAgent, origin_of
from ccrelay.upstream.probe import Prober, ProbeTarget, ollama_version
from ccrelay.upstream.simulator import SimulatorAgent
from ccrelay.web.auth import Doorkeeper
from ccrelay.web.surface import ProviderEntry, Surface

_access_log = Logger(namespace="ccrelay.access")
_attempt_log = Logger(namespace="ccrelay.attempt")
_excerpt_log = Logger(namespace="ccrelay.excerpt")


def cautions(settings: Settings) -> tuple[Problem, ...]:
    """What an operator should know of a valid configuration; each is told once, when it is read."""
    found = []
    if settings.server.workers > 1:
        found.append(Problem("server.workers", None, "this version serves with one process"))
    if settings.logging.log_request_body:
        what = "what users write, their prompts and files, is written to the log"
        message = f"{what}; only what looks like a credential is hidden"
        if settings.logging.level in ("warn", "error"):
            message = f"bodies are written at level info, which logging.level: {settings.logging.level} leaves out"
        found.append(Problem("logging.debug_options.log_request_body", None, message))
    return tuple(found)


class Runtime:
    """Upstreams, relay and HTTP surface of one configuration.

    reactor: the reactor in use. environ: for proxy variables and the clouds' credentials. previous: the runtime that
    this one may replace, by ``take_over``. Raises ConfigError where a setting names something that cannot be used (an
    unreadable ``ca_file``, HTTP/2). Makes no connection.
    """

    def __init__(
        self,
        settings: Settings,
        reactor: Any,
        environ: Mapping[str, str],
        rng: Random,
        previous: Runtime | None = None,
    ) -> None:
        self.settings = settings
        if settings.server.enable_http2:
            message = "HTTP/2 is not served by this version; leave the key out"
            raise ConfigError("configuration", (Problem("server.enable_http2", None, message),))
        self._reactor = reactor
        self._environ = environ
        self._rng = rng
        self._threads = CredentialThreads(reactor)
        self._closers: list[Callable[[], object]] = [self._threads.close]
        self._warmers: list[Callable[[], None]] = []
        self._agents: dict[str, list[OriginAgent]] = {}
        upstreams = {p.name: self._upstream(p) for p in settings.providers}
        able, chosen = who_takes_part(settings, upstreams)
        self.contenders = tuple(contender_of(p, upstreams[p.name], settings.health, rng) for p in chosen)
        self._able = frozenset(p.name for p in able)
        self.memory: RoutingMemory = RoutingMemory.fresh(settings.routing) if previous is None else previous.memory
        self.tally: Tally = Tally(time.time()) if previous is None else previous.tally
        strategy = build_strategy(settings.routing, rng)
        router = Router(self.contenders, strategy, settings.routing, self.memory)
        tools = Tools(
            reactor,
            router,
            upstreams,
            epoch=time.time,
            in_thread=deferToThread,
            observe_attempt=self._attempt_ended,
            told=ToldOnce(),
            excerpts=excerpts_of(settings, time.time, lambda record: _excerpt_log.info("{record}", record=record)),
        )
        self.relay = Relay(tools, settings.server.timeout, observe=self._call_ended, live=self.tally.live)
        self._prober: Prober | None = None
        by_priority = priority_order(chosen)
        self.surface = Surface(
            server=settings.server,
            doorkeeper=Doorkeeper(settings.server.auth),
            handle=self.relay.handle,
            refused=self._call_ended,
            models=union(by_priority, _display_names()),
            providers=self._entries,
            usable=lambda: any(self._usable(contender) for contender in self.contenders),
        )
        if previous is None:
            self.tally.configure(settings.providers)

    # -- building

    def _upstream(self, settings: ProviderSettings) -> Upstream:
        provider = build(settings)
        if settings.simulator is not None:
            agent: Any = SimulatorAgent(self._reactor, {settings.name: settings.simulator}, self._rng)
        else:
            agent = OriginsAgent(
                {origin_of(url.encode("ascii")): self._agent(settings, url) for url in provider.base_urls()}
            )
        client = HTTPClient(agent, cookiejar=no_cookies())
        return Upstream(client, settings.timeouts, self._credentials(settings))

    def _agent(self, settings: ProviderSettings, base_url: str) -> OriginAgent:
        agent = OriginAgent(self._reactor, self._endpoint(settings, base_url))
        self._closers.append(agent.close)
        self._agents.setdefault(settings.name, []).append(agent)
        return agent

    def _endpoint(self, settings: ProviderSettings, base_url: str) -> IStreamClientEndpoint:
        try:
            return origin_endpoint(
                self._reactor,
                URI.fromBytes(base_url.encode("ascii")),
                connect_timeout=settings.timeouts.connect,
                ca_file=settings.ca_file,
                proxy=proxy_for(base_url, settings.proxy, self._environ),
            )
        except ValueError:
            # Neither the proxy nor what is wrong with it is told: one from the environment may hold a password.
            message = "its proxy cannot be used; check proxy, or HTTPS_PROXY in the environment"
            raise ConfigError("configuration", (Problem(f"providers.{settings.name}", None, message),)) from None
        except Exception as error:
            message = f"its TLS trust could not be set up ({error}); check ca_file {settings.ca_file}"
            raise ConfigError("configuration", (Problem(f"providers.{settings.name}", None, message),)) from error

    def _credentials(self, settings: ProviderSettings) -> Mapping[str, ICredentials]:
        found = credentials_of(settings, self._environ, self._threads, self._reactor)
        self._warmers += [c.warm for c in found.values() if isinstance(c, RefreshingCredentials)]
        return found

    def _probe_targets(self) -> list[ProbeTarget]:
        targets = []
        for contender in self.contenders:
            settings = contender.provider.settings
            if settings.simulator is not None:
                continue
            base_url = contender.provider.base_url()
            breaker = contender.breaker
            targets.append(
                ProbeTarget(
                    contender.name,
                    breaker.probe_due,
                    breaker.probe_succeeded,
                    breaker.probe_failed,
                    self._endpoint(settings, base_url),
                    ollama_version(base_url) if settings.type == "ollama" else None,
                )
            )
        return targets

    def take_over(self, previous: Runtime) -> None:
        """Replace ``previous``: what it has learned goes on to count for the providers and keys that stay."""
        self.memory.reconfigure(self.settings.routing, self._reactor.seconds())
        self.tally.configure(self.settings.providers)
        before = {_identity(contender): contender for contender in previous.contenders}
        for contender in self.contenders:
            old = before.get(_identity(contender))
            if old is not None:
                contender.adopt(old, self.settings.health)

    # -- state

    def start(self) -> None:
        """Begin to probe what is ill, and to fetch what the first calls will need."""
        if self.settings.health.check_enabled:
            self._prober = Prober(self._reactor, self._probe_targets(), self.settings.health.check_interval)
            self._prober.start()
        for warm in self._warmers:
            warm()

    def close(self) -> None:
        """Let go of idle upstream connections; what is in use ends with its call."""
        if self._prober is not None:
            self._prober.stop()
        for close in self._closers:
            close()

    def status(self, daemon: Daemon) -> Status:
        """Everything that the admin listener tells. daemon: what the service knows."""
        return status_of(
            daemon,
            self._reactor.seconds(),
            self.contenders,
            self.memory,
            self.settings.routing.strategy,
            self.tally,
            self._usable,
            {name: _together(agent.connections for agent in agents) for name, agents in self._agents.items()},
        )

    def sample(self) -> None:
        """Take a sample for the keys' burn-down; see BurnDown."""
        self.tally.burn_down.sample(key_statuses(self.contenders, self._reactor.seconds()))

    def _call_ended(self, record: AccessRecord) -> None:
        _access_log.info("{record}", record=record)
        self.tally.call_ended(record)

    def _attempt_ended(self, record: AttemptRecord) -> None:
        _attempt_log.info("{record}", record=record)
        self.tally.attempt_ended(record)

    def _entries(self) -> tuple[ProviderEntry, ...]:
        now = self._reactor.seconds()
        return tuple(
            ProviderEntry(
                c.name,
                c.provider.type,
                c.provider.settings.models,
                self._usable(c),
                c.breaker.state(now).value,
            )
            for c in sorted(self.contenders, key=lambda c: -c.provider.settings.priority)
        )

    def _usable(self, contender: Contender) -> bool:
        """Whether a call might be answered there, now or as soon as a key has cooled."""
        if contender.name not in self._able or contender.breaker.state(self._reactor.seconds()) is BreakerState.OPEN:
            return False
        return contender.pool is None or contender.pool.has_live_key()


def contender_of(settings: ProviderSettings, upstream: Upstream, health: HealthSettings, rng: Random) -> Contender:
    """A provider as routing sees it, nothing known of it yet. upstream: with a credential for each of its keys."""
    keys = [
        PoolKey(key.secret.fingerprint, key.priority, key.weight, key.rpm_limit, key.itpm_limit, key.otpm_limit)
        for key in key_order(settings)
        if key.secret is not None
    ]
    if not keys and "" in upstream.credentials:
        keys = [PoolKey("", 0, 1.0, 0, 0, 0)]
    pool = KeyPool(keys, settings.pooling.strategy, rng) if keys else None
    return Contender(build(settings), Breaker(health), pool)


def _identity(contender: Contender) -> tuple[str, str, str]:
    """What a provider must have kept for its state to mean the same after a reload."""
    return (contender.name, contender.provider.type, contender.provider.base_url())


def credentials_of(
    settings: ProviderSettings, environ: Mapping[str, str], threads: CredentialThreads, clock: IReactorTime
) -> Mapping[str, ICredentials]:
    """What a provider can be asked with, by the ids of its pool's keys; ``""`` where no key is configured.

    Fetches nothing. Raises ConfigError as ``credentials_for`` does.
    """
    found: dict[str, ICredentials] = {
        key.secret.fingerprint: StaticCredentials(ApiKey(key.secret))
        for key in key_order(settings)
        if key.secret is not None
    }
    if not found:
        fetched = credentials_for(settings, environ, threads, clock, time.time)
        if fetched is not None:
            found[""] = fetched
        elif not PROVIDERS[settings.type].needs_key:
            found[""] = StaticCredentials(None)
    return found


def who_takes_part(
    settings: Settings, upstreams: Mapping[str, Upstream]
) -> tuple[list[ProviderSettings], list[ProviderSettings]]:
    """The providers that could be asked at all, and those among which calls choose: without a simulator that is only
    there while nobody else could be asked."""
    able = [p for p in settings.providers if _could_be_asked(p, upstreams[p.name], settings)]
    real = any(p.simulator is None for p in able)
    chosen = [p for p in settings.providers if p.simulator is None or not (real and p.simulator.only_without_keys)]
    return able, chosen


def _could_be_asked(provider: ProviderSettings, upstream: Upstream, settings: Settings) -> bool:
    if upstream.credentials:
        return True
    return provider.type == "anthropic" and settings.server.auth.allow_subscription


def _display_names() -> dict[str, tuple[str, str]]:
    return {
        name: (model.display_name, f"{model.created}T00:00:00Z")
        for model in catalogue()
        for name in (model.id, *model.ids.values())
    }


def _together(connections: Iterable[tuple[int, int]]) -> tuple[int, int]:
    open_, idle = zip(*connections, strict=True)
    return sum(open_), sum(idle)
