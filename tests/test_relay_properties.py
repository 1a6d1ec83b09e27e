"""Whatever clients and upstreams do, a call stays within its bounds."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st
from twisted.web.client import ResponseDone
from twisted.web.http import PotentialDataLoss

from ccrelay.core.sse import PING

from .scenarios import (
    JSON,
    Scene,
    Scripted,
    Step,
    error,
    error_event,
    events,
    stream,
    upstream,
    whole,
)
from .scenarios_cases import (
    ANSWERED,
    BODY,
    CUT,
    FAULTS,
    GONE,
    HANGS,
    ILLNESS,
    KEY_TROUBLE,
    LIMITED_SLOWLY,
    complaint,
)

# -- whatever happens


ENDS = st.sampled_from([ResponseDone(), PotentialDataLoss(), CUT, None])
SHORT = st.sampled_from([0.0, 0.0, 0.3, 4.0])
DELAYS = SHORT | st.sampled_from([17.0, 250.0])


@st.composite
def cut_up(draw: st.DrawFn, body: bytes, delays: st.SearchStrategy[float] = DELAYS) -> tuple[tuple[float, bytes], ...]:
    """``body`` in pieces cut anywhere, each after some time."""
    cuts = sorted({0, len(body), *draw(st.lists(st.integers(0, len(body)), max_size=5))})
    return tuple((draw(delays), body[a:b]) for a, b in pairwise(cuts))


@st.composite
def any_stream(draw: st.DrawFn) -> Step:
    """A stream that may carry an error event anywhere, and may break off anywhere."""
    parts = list(events(draw(st.sampled_from(["north \u00e9", "south"]))))
    if draw(st.booleans()):
        parts.insert(draw(st.integers(0, len(parts))), error_event())
    body = b"".join(parts)
    if draw(st.booleans()):
        body = body[: draw(st.integers(0, len(body)))]
    return Step(200, stream().headers, draw(cut_up(body)), draw(ENDS), after=draw(DELAYS))


@st.composite
def any_message(draw: st.DrawFn) -> Step:
    body = b'{"text":"' + b"x" * draw(st.sampled_from([3, 70_000])) + b'"}'
    if draw(st.booleans()):
        body = body[: draw(st.integers(0, len(body)))]
    return Step(200, JSON, draw(cut_up(body)), draw(ENDS))


FAILING = st.sampled_from([
    *KEY_TROUBLE.values(),
    *(step for step, _ in ILLNESS.values()),
    *FAULTS.values(),
    HANGS,
    LIMITED_SLOWLY,
    error(503, "overloaded_error", reads=20),
    error(400, "invalid_request_error", reads=20, after=1.0),
])  # fmt: skip
STEPS = st.one_of(any_stream(), any_message(), FAILING, FAILING)


@st.composite
def scripts(draw: st.DrawFn) -> tuple[list[Scripted], list[str]]:
    """Upstreams with four candidates at most, and all of these in the order in which they may be asked."""
    left, scripted, order = 4, [], []
    for name in ("first", "second", "third"):
        keys = [f"{name}-{n}" for n in range(draw(st.integers(0, left) if name != "first" else st.integers(1, 3)))]
        left -= len(keys)
        scripted.append(upstream(name, *(draw(STEPS) for _ in keys), keys=keys))
        order += [f"{name} {key}" for key in keys]
    return scripted, order


def may_be_seen(step: Step, body: bytes) -> bool:
    """Whether a client may have got ``body`` of this answer: any beginning of a message, but only whole events."""
    if step.headers == JSON:
        return whole(step).startswith(body)
    parts = whole(step).split(b"\n\n")
    return any(b"".join(part + b"\n\n" for part in parts[:count]) == body for count in range(len(parts)))


@given(
    script=scripts(),
    upload=cut_up(BODY, SHORT),
    fault=st.sampled_from([b"", b"", b"", b"", b"]", b',"model":"x"}']),
    chunked=st.booleans(),
    leaves=st.one_of(st.none(), st.none(), st.none(), st.floats(0.0, 30.0), st.floats(0.0, 300.0)),
    stops_reading=st.none() | st.tuples(st.floats(0.0, 20.0), st.floats(0.0, 300.0)),
    most=st.sampled_from([4, 3, 2, 1]),
    window=st.sampled_from([200.0, 5.0, 0.0]),
    timeout=st.sampled_from([3600.0, 600.0, 60.0, 1.0]),
)
def test_whatever_happens_a_call_stays_within_its_bounds(
    script: tuple[list[Scripted], list[str]],
    upload: tuple[tuple[float, bytes], ...],
    fault: bytes,
    chunked: bool,
    leaves: float | None,
    stops_reading: tuple[float, float] | None,
    most: int,
    window: float,
    timeout: float,
) -> None:
    """Beyond what a scene checks by itself: see Scene.settle and Scene.sending."""
    scripted, order = script
    sent = (BODY[:-1] if fault else BODY) + fault
    with Scene(*scripted, max_attempts=most, window=window, timeout=timeout) as scene:
        client = scene.call(length=len(sent), chunked=chunked)
        if leaves is not None:
            scene.later(leaves, lambda: client.end is None and client.leave())
        if stops_reading is not None:
            scene.later(stops_reading[0], client.stop_reading)
            scene.later(sum(stops_reading), client.read_again)
        for delay, piece in upload:
            scene.advance(delay)
            client.send(sent[client.upload.received :][: len(piece)])
        client.send(sent[client.upload.received :])
        client.finish_upload()
    assert scene.asked == [candidate for candidate in order if candidate in scene.asked]
    for exchange in scene.requests:
        assert sent.startswith(exchange.body)
        assert exchange.complete <= (exchange.body == BODY)
    seen = client.body.replace(PING, b"")
    answer = scene.requests[-1].step if scene.requests else None
    if client.status == 200:
        assert answer is not None
        assert may_be_seen(answer, seen)
        if client.end == "finished":
            assert seen == whole(answer)
            assert answer.headers == JSON or b"message_stop" in seen or b"event: error" in seen
    elif client.status is not None:
        assert client.end == "finished"
        assert complaint(client)
    assert (client.record.outcome is ANSWERED) <= (client.status == 200 and client.end == "finished")
    assert (client.record.outcome is GONE) == client.gone
