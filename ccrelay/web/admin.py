"""The admin listener: what the daemon is doing, for people and programs of this machine.

It asks for no credential, which is why the configuration lets it listen on loopback or a unix socket only, and why it
serves nothing that changes anything. The site's guard keeps pages of other origins out (DNS rebinding), and without
CORS headers no page of another origin can read an answer.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from ccrelay.core.burndown import EVERY
from ccrelay.core.model import Answer, Headers
from ccrelay.core.status import Status, as_json
from ccrelay.core.tally import Tally
from ccrelay.errors import ClientError
from ccrelay.web.metrics import NoPrometheus, exposition
from ccrelay.web.page import page, security_headers
from ccrelay.web.request import RelayRequest
from ccrelay.web.site import RelaySite
from ccrelay.web.surface import Surface

_log = Logger(namespace="ccrelay.web")

_PLAIN: Headers = ((b"cache-control", b"no-store"), (b"x-content-type-options", b"nosniff"))

LAG_EVERY = 1.0
"""Seconds between two measurements of the reactor's lateness: often enough to meet a stall of a second, costing
microseconds."""


class Watcher:
    """Measures what nobody else tells: how late the reactor is, and how the keys' limits burn down.

    sample(): take one for the burn-down.
    """

    def __init__(self, clock: IReactorTime, tally: Tally, sample: Callable[[], object]) -> None:
        self._clock = clock
        self._tally = tally
        self._expected = 0.0
        self._loops = [(LoopingCall(self._measure), LAG_EVERY), (LoopingCall(sample), EVERY)]
        for loop, _ in self._loops:
            loop.clock = clock

    def start(self) -> None:
        """From now on, until ``stop``."""
        for loop, interval in self._loops:
            if not loop.running:
                self._expected = self._clock.seconds() + LAG_EVERY
                loop.start(interval, now=False).addErrback(lambda failure: _log.failure("no samples", failure=failure))

    def stop(self) -> None:
        """Not any more."""
        for loop, _ in self._loops:
            if loop.running:
                loop.stop()

    def _measure(self) -> None:
        now = self._clock.seconds()
        self._tally.late(now - self._expected)
        # A LoopingCall skips the turns that it missed, and keeps to the grid of its start.
        while self._expected <= now:
            self._expected += LAG_EVERY


class _Page(Resource):
    """One path. answer(): what to send for it; may raise ClientError."""

    isLeaf = True

    def __init__(self, answer: Callable[[], Answer]) -> None:
        super().__init__()
        self._answer = answer

    def render(self, request: Any) -> Any:
        if request.method not in (b"GET", b"HEAD"):
            headers = ((b"allow", b"GET, HEAD"),)
            raise ClientError(405, "invalid_request_error", "Method not allowed; this path takes GET", headers=headers)
        answered: RelayRequest = request
        answer = self._answer()
        answered.answer(Answer(answer.status, (*answer.headers, *_PLAIN), answer.body))
        return NOT_DONE_YET


class _Root(Resource):
    """Matches whole paths, as the data port's root does."""

    def __init__(self, paths: dict[bytes, Callable[[], Answer]]) -> None:
        super().__init__()
        self._paths = {path: _Page(answer) for path, answer in paths.items()}

    def getChildWithDefault(self, name: Any, request: Any) -> Any:
        """Called by the site with the first segment; the whole path decides."""
        return self._paths.get(request.path) or _Page(_missing)


def admin_site(
    clock: IReactorTime, current: Callable[[], Surface], status: Callable[[], Status], tally: Tally
) -> RelaySite:
    """The site of the admin listener. current(): for the limits of connections. status(): as it is now."""

    def metrics() -> Answer:
        try:
            content_type, body = exposition(status(), tally)
        except NoPrometheus as error:
            raise ClientError(501, "not_supported", f"cc-relay: {error}", should_retry=False) from None
        return Answer(200, ((b"content-type", content_type.encode("ascii")),), body)

    def health() -> Answer:
        now = status()
        waiting = {
            "calls": now.in_flight,
            "connections": now.daemon.clients,
            "seconds_left": round(now.daemon.drain_left or 0.0, 3),
        }
        document = {
            "status": now.health,
            **({"waiting_for": waiting} if now.daemon.draining else {}),
            "providers": [
                {
                    "name": provider.name,
                    "health": "usable" if provider.usable else "unusable",
                    "circuit_breaker": provider.circuit.state,
                    "keys": {key.id or "-": key.state for key in provider.keys},
                }
                for provider in now.providers
            ],
        }
        return Answer(200 if now.health == "ok" else 503, _JSON, json.dumps(document).encode())

    paths: dict[bytes, Callable[[], Answer]] = {
        b"/": lambda: Answer(200, (_HTML, *security_headers()), page(status())),
        b"/status": lambda: Answer(200, _JSON, as_json(status())),
        b"/health": health,
        b"/metrics": metrics,
    }
    return RelaySite(_Root(paths), clock, current)


_JSON: Headers = ((b"content-type", b"application/json"),)
_HTML = (b"content-type", b"text/html; charset=utf-8")


def _missing() -> Answer:
    raise ClientError(404, "not_found_error", "Not found: the admin listener serves /, /status, /health and /metrics")
