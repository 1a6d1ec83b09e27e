"""The HTTP surface: one resource for each row of the table in the configuration's documentation."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from ccrelay.core.access import REFUSED, AccessRecord
from ccrelay.core.headers import CREDENTIALS, first
from ccrelay.core.listing import find_model, model_page
from ccrelay.core.model import Answer, Call, CallKind
from ccrelay.errors import BodyTooLarge, ClientError
from ccrelay.web.auth import Admission
from ccrelay.web.request import RelayRequest
from ccrelay.web.sink import ClientSink
from ccrelay.web.surface import Surface

_JSON = ((b"content-type", b"application/json"),)

SESSION_LENGTH = 128
"""Of a session id kept: Claude Code sends a UUID; a longer one could only bloat logs and maps."""


class ApiResource(Resource):
    """A resource whose refusals are Anthropic's envelope. ``methods``: what it takes."""

    isLeaf = True
    methods: tuple[bytes, ...] = (b"GET",)

    def __init__(self, current: Callable[[], Surface]) -> None:
        super().__init__()
        self._current = current

    def render(self, request: Any) -> Any:
        """Dispatch by method. ClientError raised below becomes the answer (see RelayRequest.process)."""
        if request.method not in self.methods:
            allowed = b", ".join(self.methods)
            raise ClientError(
                405,
                "invalid_request_error",
                f"Method not allowed; this path takes {allowed.decode('ascii')}",
                headers=((b"allow", allowed),),
            )
        self.serve(request)
        return NOT_DONE_YET

    def serve(self, request: RelayRequest) -> None:
        """Answer ``request``, now or later. May raise ClientError."""
        raise NotImplementedError

    def admit(self, request: RelayRequest) -> Admission:
        """The client, authenticated; raises ClientError 401."""
        return self._current().doorkeeper.admit(request.head.headers)


class Missing(ApiResource):
    """Any path that is not served."""

    def render(self, request: Any) -> Any:
        raise ClientError(404, "not_found_error", f"Not found: cc-relay does not serve {_printable(request.path)}")


class Hello(ApiResource):
    """``HEAD /`` and ``HEAD /api/hello``: Claude Code's start-up probe; open, empty."""

    methods = (b"HEAD",)

    def serve(self, request: RelayRequest) -> None:
        request.answer(Answer(200, (), b""))


class Health(ApiResource):
    """``GET /health``: open; 503 while draining or when no provider could be asked."""

    methods = (b"GET", b"HEAD")

    def serve(self, request: RelayRequest) -> None:
        if request.relay_channel.site.draining:
            request.answer(Answer(503, _JSON, b'{"status":"draining"}'))
        elif not self._current().usable():
            request.answer(Answer(503, _JSON, b'{"status":"no usable provider"}'))
        else:
            request.answer(Answer(200, _JSON, b'{"status":"ok"}'))


class Models(ApiResource):
    """``GET /v1/models`` with ``limit``, ``after_id``, ``before_id``, and ``GET /v1/models/{id}``."""

    def serve(self, request: RelayRequest) -> None:
        self.admit(request)
        entries = self._current().models
        if request.postpath and request.postpath != [b""]:
            wanted = b"/".join(request.postpath).decode("utf-8", "replace")
            request.answer(Answer(200, _JSON, find_model(entries, wanted)))
            return
        page = model_page(
            entries, _argument(request, b"limit"), _argument(request, b"after_id"), _argument(request, b"before_id")
        )
        request.answer(Answer(200, _JSON, page))


class Providers(ApiResource):
    """``GET /v1/providers``: what is configured and whether it could be asked."""

    def serve(self, request: RelayRequest) -> None:
        self.admit(request)
        data = [
            {
                "name": entry.name,
                "type": entry.type,
                "models": entry.models,
                "health": "usable" if entry.usable else "unusable",
                "circuit_breaker": entry.circuit,
            }
            for entry in self._current().providers()
        ]
        request.answer(Answer(200, _JSON, json.dumps({"data": data}).encode()))


class Messages(ApiResource):
    """``POST /v1/messages`` and ``/v1/messages/count_tokens``: the relay."""

    methods = (b"POST",)

    def __init__(self, current: Callable[[], Surface], kind: CallKind, load: Load) -> None:
        super().__init__(current)
        self._kind = kind
        self._load = load

    def render(self, request: Any) -> Any:
        """As any resource; a call refused here leaves its access line, as one that was served does."""
        try:
            return super().render(request)
        except ClientError as error:
            self._current().refused(self._refusal(request, error))
            raise

    def _refusal(self, request: RelayRequest, error: ClientError) -> AccessRecord:
        agent = first(request.head.headers, b"user-agent")
        return AccessRecord(
            time=time.time(),
            request_id=request.id,
            outcome=REFUSED,
            duration=0.0,
            status=error.status,
            reason=error.message,
            kind=self._kind,
            client=peer_of(request),
            user_agent=agent.decode("latin-1") if agent else None,
        )

    def serve(self, request: RelayRequest) -> None:
        surface = self._current()
        admission = self.admit(request)
        headers = request.head.headers
        limit = surface.server.max_body_bytes
        if limit and (request.head.framing.length or 0) > limit:
            raise BodyTooLarge(limit)
        encoding = first(headers, b"content-encoding")
        if encoding and encoding.lower() != b"identity":
            raise ClientError(
                415, "invalid_request_error", "cc-relay reads request bodies and takes them uncompressed only"
            )
        self._load.enter(request, surface.server.max_concurrent)
        session = first(headers, b"x-claude-code-session-id")
        call = Call(
            request_id=request.id,
            kind=self._kind,
            principal=admission.principal,
            query=request.head.target.partition(b"?")[2],
            headers=tuple(line for line in headers if line[0] not in CREDENTIALS),
            own_credential=admission.own_credential,
            session=session[:SESSION_LENGTH].decode("latin-1") if session else None,
            peer=peer_of(request),
            body=request.open_body(),
        )
        surface.handle(call, ClientSink(request))


class Load:
    """Calls in flight, shared by the resources that make them."""

    def __init__(self) -> None:
        self.calls = 0

    def enter(self, request: RelayRequest, most: int) -> None:
        """Count ``request`` until it is settled; raises ClientError 503 if ``most`` (0: no limit) are in flight."""
        if most and self.calls >= most:
            raise ClientError(
                503, "overloaded_error", f"cc-relay serves {most} calls at once (server.max_concurrent)", retry_after=1
            )
        self.calls += 1
        request.when_settled(self._leave)

    def _leave(self) -> None:
        self.calls -= 1


class Root(Resource):
    """The tree. Matches whole paths: no prefix of a served path is served."""

    def __init__(self, current: Callable[[], Surface]) -> None:
        super().__init__()
        self.load = load = Load()
        hello, models = Hello(current), Models(current)
        self._missing = Missing(current)
        self._paths: dict[bytes, ApiResource] = {
            b"/": hello,
            b"/api/hello": hello,
            b"/health": Health(current),
            b"/v1/messages": Messages(current, CallKind.MESSAGES, load),
            b"/v1/messages/count_tokens": Messages(current, CallKind.COUNT_TOKENS, load),
            b"/v1/models": models,
            b"/v1/providers": Providers(current),
        }
        self._models = models

    def getChildWithDefault(self, name: Any, request: Any) -> Any:
        """Called by the site with the first segment; the whole path decides."""
        found = self._paths.get(request.path)
        if found is not None:
            request.postpath = []
            return found
        if request.path.startswith(b"/v1/models/"):
            request.postpath = request.postpath[1:]
            return self._models
        return self._missing


def peer_of(request: RelayRequest) -> str:
    """The client's address for the log; a unix socket's client has none."""
    return getattr(request.getClientAddress(), "host", None) or "unix"


def _argument(request: RelayRequest, name: bytes) -> str | None:
    values = (request.args or {}).get(name)
    return values[0].decode("utf-8", "replace") if values else None


def _printable(path: bytes) -> str:
    return path[:100].decode("latin-1").encode("unicode_escape").decode("ascii")
