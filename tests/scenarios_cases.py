"""What attempts meet in more than one file of tests, and how a call's end is read."""

from __future__ import annotations

import json
import ssl
from typing import Any

from twisted.internet import error as net
from twisted.python.failure import Failure
from twisted.web.client import ResponseFailed

from ccrelay.core.http1 import HttpViolation
from ccrelay.core.model import Headers
from ccrelay.core.outcomes import Outcome
from ccrelay.core.secret import Secret
from ccrelay.core.sse import PING
from ccrelay.upstream.connection import NoAnswer

from .scenarios import (
    JSON,
    Client,
    Scene,
    Step,
    envelope,
    error,
    error_event,
    events,
    fails,
    message,
    played,
    says,
    stream,
)

BODY = b'{"model": "claude-opus-5-5",\n "messages": [{"role":"user", "content":"na\\u00efve \xc3\xa9"}], "stream":true}'
ANSWERED, GONE, ILL = Outcome.ANSWERED, Outcome.CLIENT_GONE, Outcome.PROVIDER_ILL
CALLERS_FAULT, TIRED, DEAD, TRUNCATED = (
    Outcome.CALLERS_FAULT, Outcome.KEY_TIRED, Outcome.KEY_DEAD, Outcome.TRUNCATED
)  # fmt: skip
CUT = ResponseFailed([Failure(net.ConnectionLost())])
OVERLOADED = error(529, "overloaded_error", "Overloaded")
LIMITED = error(429, "rate_limit_error", "Slow down", headers=((b"retry-after", b"7"),))
HANGS = Step(after=None)


def fingerprint_of(key: str) -> str:
    return Secret(key).fingerprint


def told(client: Client) -> tuple[object, ...]:
    """Of the access record: outcome, status, attempts, provider, key."""
    record = client.record
    return record.outcome, record.status, record.attempts, record.provider, record.key


def complaint(client: Client) -> tuple[str, str]:
    """Type and message of the error a client was told of, in Anthropic's envelope."""
    document = json.loads(client.body)
    assert document["type"] == "error"
    return document["error"]["type"], document["error"]["message"]


SPENT = error(400, "invalid_request_error", "You have reached your specified API usage limits. You regain access on X")
CAPPED = says(
    429,
    b'{"type":"error","error":{"type":"rate_limit_error","message":"Spend limit",'
    b'"details":{"error_code":"enforced_spend_limit_reached"}}}',
)
KEY_TROUBLE = {
    "429": LIMITED,
    "401": error(401, "authentication_error", "invalid x-api-key"),
    "402": error(402, "billing_error", "Pay first"),
    "403": error(403, "permission_error", "Not for you"),
    "a 400 about the spend limit": SPENT,
    "a 429 about the spend limit": CAPPED,
    "a 400 about the balance": error(400, "invalid_request_error", "Your credit balance is too low to access the API"),
    "an event about the rate first": played([events("x")[0], error_event("rate_limit_error", "Slow down")], end=None),
}


def no_answer(reason: Exception) -> NoAnswer:
    return NoAnswer(Failure(reason), False)


TLS = ssl.SSLError(1, "certificate verify failed")
TLS.reason = "CERTIFICATE_VERIFY_FAILED"
HTML = b"<html><body>Welcome</body></html>"
PAGE = ((b"content-type", b"text/html"),)
BROTLI = ((b"content-encoding", b"br"),)
ILLNESS = {
    "500": (error(500, "api_error"), "answered 500 api_error"),
    "503": (error(503, "overloaded_error"), "answered 503 overloaded_error"),
    "504": (error(504, "timeout_error"), "answered 504 timeout_error"),
    "529": (OVERLOADED, "answered 529 overloaded_error"),
    "502 of a gateway": (Step(502, PAGE, ((0.0, HTML),)), "answered 502 api_error"),
    "refused": (fails(net.ConnectionRefusedError()), "connection refused"),
    "unknown host": (fails(net.DNSLookupError()), "host name not found"),
    "connecting takes too long": (fails(net.TimeoutError(), after=10.0), "connecting timed out"),
    "unreachable": (fails(net.NoRouteError()), "no route to host"),
    "TLS": (fails(no_answer(TLS), reads=20), "TLS failed: certificate verify failed"),
    "reset during the upload": (fails(no_answer(net.ConnectionLost()), reads=20), "connection lost"),
    "closed before the head": (fails(no_answer(net.ConnectionDone()), reads=None), "closed the connection"),
    "not HTTP": (
        fails(ResponseFailed([Failure(HttpViolation(502, "nonsense"))]), reads=None), "did not answer in HTTP"
    ),
    "never a head": (HANGS, "no answer within 120 s of the request"),
    "never reads": (Step(after=None, reads=0), "no answer within 120 s of the request"),
    "HTML with 200": (Step(200, PAGE, ((0.0, HTML),)), "answered 200 with text/html"),
    "no type with 200": (Step(200, (), ((0.0, b""),)), "answered 200 with no content-type"),
    "HTML with 403": (Step(403, PAGE, ((0.0, HTML),)), "answered 403 permission_error"),
    "HTML with 404": (Step(404, PAGE, ((0.0, HTML),)), "answered 404 not_found_error"),
    "compressed unasked": (stream(headers=BROTLI), "the answer is compressed, which was not offered"),
    "a redirect": (Step(307, ((b"location", b"https://else.test/?t=1"),)), "answered 307 api_error"),
    "an error event first": (played([error_event()], end=None), "began with an error event (overloaded_error)"),
    "an error event after the opening": (
        played([events("x")[0], PING, error_event("api_error")], 1.0), "began with an error event (api_error)"
    ),
    "an error with 200": (says(200, envelope("api_error", "Oh")), "began with an error event (api_error)"),
    "an empty stream": (played([]), "the stream ended without message_stop"),
    "a stream cut before its content": (played(events("x")[:1], end=CUT), "connection lost"),
    "a stream cut inside its first event": (played([events("x")[0][:9]]), "the event stream ended inside an event"),
    "a message cut": (message(end=CUT), "connection lost"),
    "silence before the content": (played([], end=None), "the answer fell silent"),
}  # fmt: skip


FAULTS = {
    "400": error(400, "invalid_request_error", "messages.0: bad", headers=((b"request-id", b"req_1"),)),
    "404": error(404, "not_found_error", "model: claude-opus-9"),
    "409": error(409, "conflict_error"),
    "413": error(413, "request_too_large", "Request exceeds the maximum size"),
    "422": error(422, "invalid_request_error", headers=((b"x-should-retry", b"false"), (b"x-other", b"1"))),
}


LIMITED_SLOWLY = Step(429, JSON, ((99.0, b"{}"),))


def credentials_of(headers: Headers) -> list[tuple[bytes, bytes]]:
    return [line for line in headers if line[0] in (b"x-api-key", b"authorization", b"api-key")]


def say(text: str, **members: object) -> bytes:
    """The body of a call that is not like one with another text: nobody takes it for a repetition of that."""
    return json.dumps({"model": "claude-opus-5-5", "messages": [{"role": "user", "content": text}], **members}).encode()


def ask(scene: Scene, text: str | bytes = "hi", **options: Any) -> Client:
    """A client calls, and everything happens that takes no time. options: of ``Scene.call``."""
    client = scene.call(say(text) if isinstance(text, str) else text, **options)
    scene.advance(0.0)
    return client


def who_answered(scene: Scene, calls: int, **options: Any) -> list[str]:
    """So many calls, one after the other, each another one: the provider that was asked last for each."""
    found = []
    for number in range(calls):
        ask(scene, f"call {number}", **options)
        found.append(scene.requests[-1].provider)
    return found


def passed_over(scene: Scene, attempt: int = -1) -> list[tuple[str, str]]:
    """Of an attempt's record: who was passed over before it, and why."""
    return [(drop.provider, drop.reason) for drop in scene.attempts[attempt].passed_over]
