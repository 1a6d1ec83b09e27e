"""The embedded upstream, ``type: simulator``: what it does with one request, as a script to be played on a clock.

It answers like the Messages API, so that a client sees a streamed answer before any account exists, and it
rehearses failures: those of ``simulator.fail``, and those that the prompt itself asks for. The first of these
phrases in the text of the last user message is obeyed (never in a call that asks for JSON by
``output_config.format``, which is how clients make titles from the same prompt):

    simulate error 529             answer with that status, 400 to 599
    simulate error 529 after 4     ... as an ``error`` event, in a stream after its fourth event
    simulate cut [after N]         break the connection, before the head or after N events
    simulate stall 3 [after N]     be silent for that many seconds, then go on
    simulate tokens 5000           a long text, as far as ``max_tokens`` lets it
    simulate tool NAME {json}      call that tool with that input (without JSON: one made from its schema)

Events count as clients see them: 1 is ``message_start``, 2 ``ping``, 3 the first ``content_block_start``. An answer
without a stream has no events to count: for any N it falls silent or breaks in the middle of its body, and a status
comes at once. Pure: the clock and the randomness are arguments.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from hashlib import sha256

from ccrelay.core.model import CallKind, Head, Headers
from ccrelay.core.settings import FailSettings, SimulatorSettings
from ccrelay.core.simulation_content import Reply, Rng, compose, dumps
from ccrelay.core.simulation_events import Event, encode, events, message
from ccrelay.core.simulation_request import Asked, Directive, Json, Refusal, count_input, read_request

_ERROR_TYPES = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    409: "conflict_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}

# A minute's limits as a large account has them: a simulated key must not look tired before a failure is rehearsed.
_REQUESTS, _INPUT, _OUTPUT = 4_000, 10_000_000, 2_000_000

_JSON = (b"content-type", b"application/json")
_SSE = (b"content-type", b"text/event-stream; charset=utf-8")
_REHEARSED = "A failure rehearsed by cc-relay's simulator"

_HOST = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*")


@dataclass(frozen=True, slots=True)
class Request:
    """What arrived. ``target``: path and query below the provider's base URL. ``body``: all of it."""

    method: bytes
    target: bytes
    body: bytes


@dataclass(frozen=True, slots=True)
class Step:
    """Wait ``delay`` seconds, then let these body bytes arrive."""

    delay: float
    data: bytes


@dataclass(frozen=True, slots=True)
class Cut:
    """Wait ``delay`` seconds, then break the connection. Nothing follows."""

    delay: float


@dataclass(frozen=True, slots=True)
class Script:
    """How an answer arrives: silence of ``delay`` seconds, the head, the steps.

    head: None if the connection breaks instead. steps: read once, made while they are read; their end without a
    Cut is the body's end in good order.
    """

    delay: float
    head: Head | None
    steps: Iterator[Step | Cut]


def base_url(provider: str) -> str:
    """The base URL under which the simulator of that provider is reached, for any configured name.

    Names that are lower-case host labels stay readable; others (underscores, capitals, dots) become a digest, as
    URL libraries refuse them or fold them together.
    """
    plain = len(provider) <= 63 and _HOST.fullmatch(provider)
    return f"simulator://{provider if plain else 'x' + sha256(provider.encode()).hexdigest()[:32]}"


def simulate(request: Request, settings: SimulatorSettings, rng: Rng, serial: int, now: float) -> Script:
    """The answer to one request.

    serial: number of the request, part of its id. now: Unix seconds, for the reset headers.
    Never raises: what the API would refuse is answered as the API would.
    """
    request_id = f"req_sim_{serial:06d}{rng.getrandbits(48):012x}"
    path = request.target.partition(b"?")[0].decode("latin-1")
    if path not in {kind.value for kind in CallKind}:
        return _error(404, "Not Found", request_id)
    if request.method != b"POST":
        return _error(405, "Method Not Allowed", request_id, ((b"allow", b"POST"),))
    counting = path == CallKind.COUNT_TOKENS.value
    try:
        asked = read_request(request.body, counting=counting)
        fault = _fault(asked.directive, settings.fail, rng)
        if fault is not None and fault.after == 0 and (fault.cut or fault.status):
            return _failed(fault, request_id, now)
        usage = count_input(asked)[0]
        if counting:
            total = usage.input + usage.cache_write + usage.cache_read
            return _whole({"input_tokens": total}, settings.first_byte, fault, request_id, now, ())
        reply = compose(asked, settings.text, rng)
        return _answer(asked, reply, settings, fault, request_id, now)
    except Refusal as refusal:
        return _error(400, str(refusal), request_id)
    except RecursionError:
        return _error(400, "The request body is not valid JSON: nested too deeply", request_id)


@dataclass(frozen=True, slots=True)
class _Fault:
    """A failure to rehearse: after ``after`` events be silent for ``stall`` seconds, then cut, fail, or go on."""

    status: int
    cut: bool
    stall: float
    after: int


def _fault(directive: Directive, fail: FailSettings | None, rng: Rng) -> _Fault | None:
    if directive.status or directive.cut or directive.stall:
        return _Fault(directive.status, directive.cut, directive.stall, directive.after)
    if fail is not None and rng.random() < fail.rate:
        return _Fault(fail.status, fail.cut, fail.stall, fail.after_events)
    return None


def _answer(
    asked: Asked, reply: Reply, settings: SimulatorSettings, fault: _Fault | None, request_id: str, now: float
) -> Script:
    limits = _limits(reply.usage.input + reply.usage.cache_write, reply.usage.output, now)
    rate = settings.tokens_per_second
    if not asked.stream:
        delay = settings.first_byte + (reply.usage.output / rate if rate else 0)
        return _whole(message(reply), delay, fault, request_id, now, limits)
    head = Head(200, (_SSE, (b"cache-control", b"no-cache"), (b"request-id", request_id.encode()), *limits))
    return Script(settings.first_byte + _early(fault), head, _rehearse(_paced(events(reply), rate), fault))


def _whole(body: Json, delay: float, fault: _Fault | None, request_id: str, now: float, headers: Headers) -> Script:
    """A JSON answer, in two halves so that it can fail between them."""
    if fault is not None and fault.status and not fault.cut:
        return _failed(fault, request_id, now)
    data = dumps(body).encode()
    half = len(data) // 2
    head = Head(200, (_JSON, (b"request-id", request_id.encode()), *headers))
    halves = iter((Step(0, data[:half]), Step(0, data[half:])))
    return Script(delay + _early(fault), head, _rehearse(halves, fault and replace(fault, after=min(fault.after, 1))))


def _failed(fault: _Fault, request_id: str, now: float) -> Script:
    """The failure of a fault that leaves no answer, or one that is nothing but an error."""
    if fault.cut:
        return Script(fault.stall, None, iter(()))
    tired = fault.status in (429, 529)
    headers: Headers = ((b"retry-after", b"1"),) if tired else ()
    if fault.status == 429:
        headers += _limits(_INPUT, _OUTPUT, now)
    return replace(_error(fault.status, _REHEARSED, request_id, headers), delay=fault.stall)


def _early(fault: _Fault | None) -> float:
    """The silence that a fault asks for before the head."""
    return fault.stall if fault is not None and fault.after == 0 else 0


def _paced(stream: Iterator[Event], tokens_per_second: float) -> Iterator[Step]:
    """Each event after the time that its tokens take; without a rate, all at once."""
    for event in stream:
        yield Step(event.tokens / tokens_per_second if tokens_per_second else 0, event.data)


def _rehearse(steps: Iterator[Step], fault: _Fault | None) -> Iterator[Step | Cut]:
    """The steps, with the fault after as many of them as it says."""
    for done, step in enumerate(steps):
        if fault is not None and done == fault.after > 0:
            if fault.cut:
                yield Cut(fault.stall)
                return
            if fault.status:
                yield Step(fault.stall, encode(_envelope(fault.status, _REHEARSED)))
                return
            yield Step(step.delay + fault.stall, step.data)
        else:
            yield step


def _error(status: int, text: str, request_id: str, headers: Headers = ()) -> Script:
    body = dumps({**_envelope(status, text), "request_id": request_id}).encode()
    head = Head(status, (_JSON, (b"request-id", request_id.encode()), *headers))
    return Script(0, head, iter((Step(0, body),)))


def _envelope(status: int, text: str) -> Json:
    kind = _ERROR_TYPES.get(status, "invalid_request_error" if status < 500 else "api_error")
    return {"type": "error", "error": {"type": kind, "message": text}}


def _limits(used_input: int, used_output: int, now: float) -> Headers:
    """The rate-limit headers of an account that had used nothing before; all of it resets within a second."""
    reset = datetime.fromtimestamp(now + 1, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    used = {
        "requests": (_REQUESTS, 1),
        "input-tokens": (_INPUT, used_input),
        "output-tokens": (_OUTPUT, used_output),
        "tokens": (_INPUT + _OUTPUT, used_input + used_output),
    }
    headers: list[tuple[bytes, bytes]] = []
    for name, (limit, taken) in used.items():
        left = max(0, limit - taken)
        for what, value in (("limit", limit), ("remaining", left), ("reset", reset)):
            headers.append((f"anthropic-ratelimit-{name}-{what}".encode(), str(value).encode()))
    return tuple(headers)
