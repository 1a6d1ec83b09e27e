"""A call on its way through the real relay, with nobody at the other end of the wire.

The relay, its router, the fitting, the providers and the strategies are the daemon's own; only the agent under treq is
another: it notes what it is given and then fails, as an upstream that cannot be reached, so that the next candidate has
its turn. Where a secret would stand, its placeholder does, and no credential is fetched.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final

from treq.client import HTTPClient
from twisted.internet.defer import Deferred, fail, maybeDeferred
from twisted.internet.error import ConnectError
from twisted.internet.interfaces import IConsumer
from twisted.internet.task import Clock
from twisted.web.http_headers import Headers as WebHeaders
from twisted.web.iweb import IAgent, IBodyProducer, IResponse
from zope.interface import implementer

from ccrelay.asking import Tools, Upstream
from ccrelay.core.attempt_record import AttemptRecord
from ccrelay.core.contenders import Contender
from ccrelay.core.json_spans import whole
from ccrelay.core.model import (
    Answer,
    ApiKey,
    AttemptPlan,
    AwsKeys,
    Call,
    Credential,
    Edit,
    HeaderCredential,
    OwnCredential,
    UpstreamRequest,
)
from ccrelay.core.router import Route, Router, RoutingMemory
from ccrelay.core.secret import Secret
from ccrelay.core.settings import ProviderSettings, Settings
from ccrelay.core.strategies import build_strategy
from ccrelay.core.told import ToldOnce
from ccrelay.credentials.static import StaticCredentials
from ccrelay.credentials.threads import CredentialThreads
from ccrelay.interfaces import ICredentials
from ccrelay.relay import Relay
from ccrelay.runtime import contender_of, credentials_of, who_takes_part
from ccrelay.upstream.agent import request_head
from ccrelay.upstream.cookies import no_cookies

_SIGNATURE: Final = re.compile(rb"(?<=Signature=)[0-9a-f]{64}")
"""Of AWS: made with placeholders it is nobody's, and would only look like one."""


@dataclass(frozen=True, slots=True)
class Sent:
    """One upstream request. head: as on the wire. replaced: what stood where each edit is. body: after the edits."""

    url: str
    head: bytes
    edits: tuple[Edit, ...]
    replaced: tuple[bytes, ...]
    body: bytes


@dataclass(frozen=True, slots=True)
class Candidate:
    """A configured provider. fate: ``asked``, ``dropped`` or ``not reached``. reason: of the last two."""

    name: str
    type: str
    priority: int
    keys: int
    fate: str
    reason: str


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """What the relay would do with a call whose every attempt fails before an answer begins.

    attempts: in order. first: what the first one sends, None if nobody is asked. answer: what the client would get
    then. model: asked for; None where the body does not say.
    """

    model: str | None
    candidates: tuple[Candidate, ...]
    attempts: tuple[AttemptRecord, ...]
    first: Sent | None
    answer: Answer


@dataclass(slots=True)
class _Notes:
    """What was seen on the way. prepared: the latest request that a provider has made, of ``client_body``."""

    client_body: bytes
    prepared: UpstreamRequest | None = None
    sent: list[Sent] = field(default_factory=list)
    attempts: list[AttemptRecord] = field(default_factory=list)
    route: Route | None = None
    model: str | None = None
    answer: Answer | None = None


def rehearse(settings: Settings, call: Call, environ: Mapping[str, str], rng: Random) -> Rehearsal:
    """Send ``call``, whose body has ended, along its way.

    environ: as the daemon's. rng: for strategies that draw. Raises ConfigError for credentials that could not be used.
    """
    notes = _Notes(whole(call.body) if call.body.complete else b"")
    clock: Any = Clock()
    threads = CredentialThreads(clock)
    upstreams = {p.name: _upstream(p, environ, threads, notes) for p in settings.providers}
    _, chosen = who_takes_part(settings, upstreams)
    contenders = [_noting(contender_of(p, upstreams[p.name], settings.health, rng), notes) for p in chosen]
    memory = RoutingMemory.fresh(settings.routing)
    router = _NotingRouter(contenders, build_strategy(settings.routing, rng), settings.routing, memory)
    router.notes = notes
    tools = Tools(
        clock,
        router,
        upstreams,
        epoch=time.time,
        in_thread=maybeDeferred,
        observe_attempt=notes.attempts.append,
        told=ToldOnce(),
    )
    relay = Relay(tools, settings.server.timeout, observe=lambda _: None)
    listener: Any = _Listener(notes)
    relay.handle(_with_placeholder(call), listener)
    assert notes.answer is not None, "nothing here waits for anything"
    return Rehearsal(
        notes.model,
        tuple(_candidate(p, chosen, contenders, notes) for p in settings.providers),
        tuple(notes.attempts),
        notes.sent[0] if notes.sent else None,
        notes.answer,
    )


def _candidate(
    settings: ProviderSettings, chosen: list[ProviderSettings], contenders: list[Contender], notes: _Notes
) -> Candidate:
    keys = next((c.keys for c in contenders if c.name == settings.name), 0) if settings.keys else 0
    drops = [drop.reason for drop in notes.route.drops if drop.provider == settings.name] if notes.route else []
    if settings not in chosen:
        fate, reason = "dropped", "only answers while no other provider could be asked"
    elif any(attempt.provider == settings.name for attempt in notes.attempts):
        fate, reason = "asked", ""
    elif drops:
        fate, reason = "dropped", drops[-1]
    else:
        stopped = notes.route.stopped if notes.route is not None else None
        fate, reason = "not reached", stopped or "the call does not get so far"
    return Candidate(settings.name, settings.type, settings.priority, keys, fate, reason)


# -- placeholders


def _upstream(
    settings: ProviderSettings, environ: Mapping[str, str], threads: CredentialThreads, notes: _Notes
) -> Upstream:
    clock: Any = Clock()
    credentials = {
        key: StaticCredentials(_placeholder(source, settings))
        for key, source in credentials_of(settings, environ, threads, clock).items()
    }
    return Upstream(HTTPClient(_NotingAgent(notes), cookiejar=no_cookies()), settings.timeouts, credentials)


def _placeholder(source: ICredentials, settings: ProviderSettings) -> Credential:
    if not isinstance(source, StaticCredentials):  # it would have to be fetched
        if settings.aws is not None:
            return AwsKeys(Secret("<access key id>"), Secret("<secret access key>"), None)
        return HeaderCredential(((b"authorization", Secret("Bearer <access token>")),))
    known: list[Credential] = []
    waiting: Any = source.current()
    waiting.addCallback(known.append)
    return _masked(known[0])


def _masked(credential: Credential) -> Credential:
    if isinstance(credential, ApiKey):
        return ApiKey(_stand_in("key", credential.secret))
    if isinstance(credential, AwsKeys):
        session = credential.session_token
        return AwsKeys(
            _stand_in("access key id", credential.access_key_id),
            _stand_in("secret access key", credential.secret_access_key),
            _stand_in("session token", session) if session is not None else None,
        )
    if isinstance(credential, HeaderCredential):
        return HeaderCredential(tuple((name, _in_scheme("token", value)) for name, value in credential.lines))
    if isinstance(credential, OwnCredential):
        return OwnCredential(credential.header, _in_scheme("the client's own", credential.value))
    return None


def _stand_in(what: str, secret: Secret) -> Secret:
    return Secret(f"<{what} {secret.fingerprint}>")


def _in_scheme(what: str, value: Secret) -> Secret:
    """A placeholder for a header's value, with its ``Bearer`` if it has one."""
    scheme, _, token = value.reveal().partition(" ")
    return Secret(f"{scheme} <{what} {Secret(token).fingerprint}>") if token else _stand_in(what, value)


def _with_placeholder(call: Call) -> Call:
    own = _masked(call.own_credential)
    assert own is None or isinstance(own, OwnCredential)
    return Call(
        call.request_id, call.kind, call.principal, call.query, call.headers, own, call.session, call.peer, call.body
    )


# -- what notes


class _NotingRouter(Router):
    """A router whose one route can be looked at."""

    notes: _Notes

    def route(self, call: Call, model: str, now: float) -> Route:
        self.notes.model = model
        self.notes.route = route = super().route(call, model, now)
        return route


class _NotingProvider:
    """An IProvider whose requests can be looked at, edits and all."""

    def __init__(self, provider: Any, notes: _Notes) -> None:
        self._provider = provider
        self._notes = notes

    def __getattr__(self, name: str) -> Any:
        return getattr(self._provider, name)

    def prepare(self, call: Call, plan: AttemptPlan) -> UpstreamRequest:
        self._notes.prepared = request = self._provider.prepare(call, plan)
        return request  # type: ignore[no-any-return]


def _noting(contender: Contender, notes: _Notes) -> Contender:
    contender.provider = _NotingProvider(contender.provider, notes)
    return contender


@implementer(IAgent)
class _NotingAgent:
    """Takes a request as the upstream's agent would, and has no connection for it."""

    def __init__(self, notes: _Notes) -> None:
        self._notes = notes

    def request(
        self, method: bytes, uri: bytes, headers: WebHeaders | None = None, bodyProducer: IBodyProducer | None = None
    ) -> Deferred[IResponse]:
        """See IAgent. Always fails with ConnectError."""
        prepared = self._notes.prepared
        assert headers is not None
        assert bodyProducer is not None
        assert prepared is not None, "a request was sent that no provider had prepared"
        head = _SIGNATURE.sub(b"<signature>", request_head(method, uri, headers, bodyProducer))
        body = _Collected()
        producer: Any = bodyProducer
        producer.startProducing(body)
        replaced = tuple(self._notes.client_body[edit.start : edit.end] for edit in prepared.edits)
        self._notes.sent.append(Sent(uri.decode("ascii"), head, prepared.edits, replaced, b"".join(body.pieces)))
        return fail(ConnectError(string="a rehearsal connects to nobody"))


@implementer(IConsumer)
class _Collected:
    """A body that is taken at once."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []

    def registerProducer(self, producer: object, streaming: bool) -> None:
        """See IConsumer."""

    def unregisterProducer(self) -> None:
        """See IConsumer."""

    def write(self, data: bytes) -> None:
        """See IConsumer."""
        self.pieces.append(data)


class _Listener:
    """The IResponseSink of a client that stays to the end; nothing is ever committed to it."""

    gone = committed = False
    bytes_out = 0

    def __init__(self, notes: _Notes) -> None:
        self._notes = notes

    def when_gone(self, callback: object) -> None:
        """See IResponseSink."""

    def respond(self, answer: Answer) -> None:
        """See IResponseSink."""
        self._notes.answer = answer
