"""The reference runner: a relay between scripted clients and scripted upstreams, in memory, on a scripted clock.

Real are the relay, the providers, the body, the doorkeeper and treq; scripted are the agent below treq, the client and
the clock. A Scene is used as a context manager: on leaving it time passes until every call is settled, and then it
checks what must hold whatever the script was (``Scene.settle``).

The upstream's side behaves as ``ccrelay.upstream.agent`` does: a request's body is read only when there is a
connection, a response's body flows only to whoever asked for it, an abort is noticed one turn later.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any, Self

from treq.client import HTTPClient
from twisted.internet.defer import maybeDeferred
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.task import Clock
from twisted.logger import formatEvent, globalLogPublisher
from twisted.web.iweb import IAgent

from ccrelay.asking import Tools, Upstream
from ccrelay.core.access import AccessRecord
from ccrelay.core.attempt_record import AttemptRecord
from ccrelay.core.headers import first
from ccrelay.core.model import ApiKey, Call, CallKind, Headers
from ccrelay.core.priorities import key_order
from ccrelay.core.router import Router, RoutingMemory
from ccrelay.core.secret import Secret
from ccrelay.core.settings import (
    AffinitySettings,
    AuthSettings,
    HealthSettings,
    KeySettings,
    ProviderSettings,
    RoutingSettings,
)
from ccrelay.core.strategies import build_strategy
from ccrelay.core.told import ToldOnce
from ccrelay.credentials.static import StaticCredentials
from ccrelay.interfaces import ICredentials
from ccrelay.providers import PROVIDERS
from ccrelay.relay import Relay
from ccrelay.runtime import contender_of
from ccrelay.upstream.cookies import no_cookies
from ccrelay.web.auth import Doorkeeper

from .provider_settings import key_settings, provider_settings
from .scenarios_clients import Client
from .scenarios_steps import (
    JSON,
    SSE,
    STARTED,
    USAGE,
    Step,
    envelope,
    error,
    error_event,
    event,
    events,
    fails,
    message,
    played,
    says,
    stream,
    whole,
)
from .scenarios_upstreams import Exchange, ScriptedAgent

__all__ = [
    "DOOR",
    "DOOR_KEY",
    "EPOCH",
    "HEALTH",
    "JSON",
    "SSE",
    "STARTED",
    "USAGE",
    "Client",
    "Exchange",
    "Scene",
    "Scripted",
    "Step",
    "door",
    "envelope",
    "error",
    "error_event",
    "event",
    "events",
    "fails",
    "message",
    "played",
    "says",
    "stream",
    "upstream",
    "whole",
]

DOOR_KEY = "the-relays-own-key"
DOOR = ((b"x-api-key", DOOR_KEY.encode()),)
EPOCH = 1_800_000_000.0
HEALTH = HealthSettings(5, 30.0, 3, True, 10.0)
_CALL_ID = b"x-test-call"  # an unknown header, so it passes: tells whose upstream request one is
_LONGEST = 4 * 3600.0  # nothing a relay waits for takes longer


@dataclass(frozen=True, slots=True)
class Scripted:
    """An upstream and what its requests meet, in order.

    credentials: where a key's comes from. agent: made with the clock, used in place of the script.
    """

    settings: ProviderSettings
    steps: tuple[Step, ...]
    credentials: Callable[[ApiKey], ICredentials]
    agent: Callable[[Clock], IAgent] | None


def upstream(
    name: str,
    *steps: Step,
    type: str = "anthropic",  # noqa: A002
    keys: Sequence[str | tuple[str, int] | KeySettings] = ("k1",),
    credentials: Callable[[ApiKey], ICredentials] = StaticCredentials,
    agent: Callable[[Clock], IAgent] | None = None,
    **changes: Any,
) -> Scripted:
    """A configured provider at ``https://NAME.test``. keys: secrets, secrets with their priority, or whole settings."""
    settings = provider_settings(type, name=name, base_url=f"https://{name}.test", **changes)
    return Scripted(replace(settings, keys=tuple(map(_key, keys))), steps, credentials, agent)


def _key(key: str | tuple[str, int] | KeySettings) -> KeySettings:
    if isinstance(key, str):
        return key_settings(key)
    return replace(key_settings(key[0]), priority=key[1]) if isinstance(key, tuple) else key


def door(**changes: Any) -> AuthSettings:
    """Client auth that takes the relay's own key only."""
    return replace(AuthSettings(Secret(DOOR_KEY), True, Secret(DOOR_KEY), False, False), **changes)


class Scene:
    """See the module. requests: what upstreams were sent, in order. records: what was observed. logged: as text."""

    def __init__(
        self,
        *upstreams: Scripted,
        timeout: float = 600.0,
        max_attempts: int = 4,
        window: float = 5.0,
        debug: bool = False,
        auth: AuthSettings | None = None,
        body_limit: int = 0,
        strategy: str = "failover",
        affinity: bool = True,
        affinity_ttl: float = 3600.0,
        retry_budget: float = 0.2,
        health: HealthSettings = HEALTH,
        **routing: Any,
    ) -> None:
        self.clock = Clock()
        self.requests: list[Exchange] = []
        self.records: list[AccessRecord] = []
        self.attempts: list[AttemptRecord] = []
        self.clients: dict[str, Client] = {}
        self._callers: list[Client] = []
        self.violations: list[str] = []
        self.logged: list[str] = []
        self._max_attempts = max_attempts
        self._planned: list[IDelayedCall] = []
        self._scripted = all(s.agent is None and s.credentials is StaticCredentials for s in upstreams)
        self._body_limit = body_limit
        self._door = Doorkeeper(auth or door())
        settings = RoutingSettings(
            strategy,
            routing.get("model_mapping", {}),
            routing.get("default_provider"),
            window,
            max_attempts,
            retry_budget,
            AffinitySettings(affinity, affinity_ttl),
            debug,
        )
        rng = Random(7)
        reached = {scripted.settings.name: self._upstream(scripted) for scripted in upstreams}
        contenders = [contender_of(s.settings, reached[s.settings.name], health, rng) for s in upstreams]
        self.contenders = {contender.name: contender for contender in contenders}
        self.memory = RoutingMemory.fresh(settings)
        tools = Tools(
            self.clock,
            Router(contenders, build_strategy(settings, rng), settings, self.memory),
            reached,
            epoch=lambda: EPOCH + self.clock.seconds(),
            in_thread=maybeDeferred,
            observe_attempt=self.attempts.append,
            told=ToldOnce(),
        )
        self._relay = Relay(tools, timeout, observe=self.records.append)

    def _upstream(self, scripted: Scripted) -> Upstream:
        settings = scripted.settings
        agent = scripted.agent(self.clock) if scripted.agent is not None else ScriptedAgent(self, scripted)
        credentials = {
            key.secret.fingerprint: scripted.credentials(ApiKey(key.secret))
            for key in key_order(settings)
            if key.secret is not None
        }
        if not credentials and scripted.credentials is not StaticCredentials:
            credentials[""] = scripted.credentials(ApiKey(Secret("")))
        elif not credentials and not PROVIDERS[settings.type].needs_key:
            credentials[""] = StaticCredentials(None)
        return Upstream(HTTPClient(agent, cookiejar=no_cookies()), settings.timeouts, credentials)

    def call(
        self,
        body: bytes = b"",
        *,
        headers: Headers = DOOR,
        kind: CallKind = CallKind.MESSAGES,
        query: bytes = b"beta=true",
        length: int | None = None,
        chunked: bool = False,
        arrived: bytes = b"",
        left: bool = False,
        session: str | None = None,
    ) -> Client:
        """A client calls, and uploads ``body`` if there is one; otherwise ``send`` and ``finish_upload`` do.

        length: declared for a body that is sent piecemeal. Before the relay hears of the call: arrived: came of the
        body; left: the client has gone.
        """
        declared = None if chunked else len(body) if body else length
        client = Client(self, f"call-{len(self.clients) + 1}", declared, self._body_limit)
        self.clients[client.id] = client
        admission = self._door.admit(headers)
        client.gone = left
        call = Call(
            request_id=client.id,
            kind=kind,
            principal=admission.principal,
            query=query,
            headers=(*headers, (_CALL_ID, client.id.encode())),
            own_credential=admission.own_credential,
            session=session,
            peer="192.0.2.7",
            body=client.upload,
        )
        client.send(arrived)
        self._relay.handle(call, client).addCallback(lambda _: setattr(client, "settled", True))
        if body:
            client.send(body)
            client.finish_upload()
        return client

    def sending(self, exchange: Exchange) -> None:
        """An upstream request begins."""
        client = self._caller(exchange)
        self.check(not client.committed, "an attempt after the commit")
        self.check(not client.gone, "an attempt for a client that has left")
        self.requests.append(exchange)
        self._callers.append(client)

    def _caller(self, exchange: Exchange) -> Client:
        """Whose call it is made for; a cloud gets no header of the client's, so there one may call at a time."""
        call_id = first(exchange.headers, _CALL_ID)
        if call_id is not None:
            return self.clients[call_id.decode()]
        (client,) = (client for client in self.clients.values() if not client.settled)
        return client

    def check(self, condition: object, complaint: str) -> None:
        """Note a violation: raising would only reach the code under test."""
        if not condition:
            self.violations.append(complaint)

    @property
    def asked(self) -> list[str]:
        """Who was asked with which credential, in order, as ``name key``."""
        return [f"{exchange.provider} {exchange.key}" for exchange in self.requests]

    @property
    def open(self) -> list[Exchange]:
        """Upstream requests that have not ended."""
        return [exchange for exchange in self.requests if not exchange.over]

    # -- time

    def advance(self, seconds: float) -> None:
        """Let time pass, stopping at every moment at which something is due."""
        until = self.clock.seconds() + seconds
        while due := [c.getTime() for c in self.clock.getDelayedCalls() if c.getTime() <= until]:
            self.clock.advance(max(0.0, min(due) - self.clock.seconds()))
        self.clock.advance(max(0.0, until - self.clock.seconds()))

    def later(self, seconds: float, action: Callable[[], object]) -> None:
        """Do something in so many seconds, if the scene lasts so long."""
        self._planned.append(self.clock.callLater(seconds, action))

    def settle(self) -> None:
        """Let time pass until every call is settled, then check what always holds.

        By then each call has one record, one end and its body given back; each of its attempts was recorded and has
        ended; nothing is in flight, no key is leased, no timer is left and no failure was logged.
        """
        while not all(client.settled for client in self.clients.values()) and self.clock.seconds() < _LONGEST:
            due = [call.getTime() for call in self.clock.getDelayedCalls()]
            assert due, "a call waits for nothing"
            self.advance(max(0.0, min(due) - self.clock.seconds()))
        self.advance(0.0)
        timers = [call for call in self.clock.getDelayedCalls() if call not in self._planned]
        assert not self.violations, self.violations
        assert not self._scripted or not timers, timers
        assert not self.open, self.open
        for name, contender in self.contenders.items():
            assert contender.load.attempts == 0, name
            leased = contender.pool.status(self.clock.seconds()) if contender.pool is not None else ()
            assert [key for key in leased if key.in_flight] == [], name
        assert sorted(record.request_id for record in self.records) == sorted(self.clients)
        for client in self.clients.values():
            self._check_client(client)

    def _check_client(self, client: Client) -> None:
        record = client.record
        assert client.settled, "the call's Deferred has not fired"
        assert client.upload.released, "the body is still held"
        assert client.ends <= 1, "more than one end"
        assert client.end is not None or client.gone, "no end"
        assert record.status == client.status, record
        assert record.bytes_out == len(client.body), record
        assert record.attempts <= self._max_attempts, record
        if self._scripted:
            assert record.attempts == self._callers.count(client), record

    def __enter__(self) -> Self:
        globalLogPublisher.addObserver(self._log)
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            if kind is None:
                self.settle()
        finally:
            globalLogPublisher.removeObserver(self._log)

    def _log(self, event: Any) -> None:
        self.logged.append(formatEvent(event))
        failure = event.get("log_failure")
        if failure is not None:
            self.violations.append(f"logged a failure: {failure.getTraceback()}")
