"""One client makes an upstream refuse something: what the relay learns from it must not be felt by another."""

from __future__ import annotations

import json

import pytest

from ccrelay.core.headers import first
from ccrelay.core.pair_reach import reach_of
from ccrelay.core.pairs import complaint_pairs, pairs_for

from .scenarios import DOOR, Scene, Step, error, stream, upstream
from .scenarios_cases import ask, say

EXTRA = "Extra inputs are not permitted"
BETAS = b"interleaved-thinking-2025-05-14,context-management-2025-06-27"
WITH_BETAS = (*DOOR, (b"anthropic-beta", BETAS))
FIELDS = {"context_management": {"edits": []}, "thinking": {"type": "adaptive", "display": "updates"}}


def azure(*steps: Step) -> Scene:
    return Scene(upstream("azure", *steps, type="azure", keys=["a1"]))


def refusal(said: str) -> Step:
    return error(400, "invalid_request_error", said.replace('"', '\\"'))


def is_whole(scene: Scene, number: int) -> bool:
    """Whether the request went as its client sent it."""
    request = scene.requests[number]
    return (
        first(request.headers, b"anthropic-beta") == BETAS
        and b"context_management" in request.body
        and b"display" in request.body
        and b'"source"' in request.body
    )


HOSTILE = [
    "invalid beta flag",
    "context_management.edits.0: Input tag 'invalid beta flag' found using 'type' does not match any of the expected",
    "context_management.edits.0: Input tag 'bogus' found using 'type' does not match any of the expected tags",
    f"context_management.context_management: {EXTRA}",
    f"context_management.a: {EXTRA}, context_management: {EXTRA}",
    f"brand_new.a: {EXTRA}\nthinking.display: {EXTRA}",
    f"thinking.disabled.display: {EXTRA}",
    "thinking.display: Input should be 'summarized' or 'omitted'",
    f"messages.0.content.0.text.source: {EXTRA}",
]


@pytest.mark.parametrize("said", HOSTILE)
def test_what_one_request_alone_may_be_refused_for_is_left_out_of_nobody_elses(said: str) -> None:
    body = say("one", **FIELDS, tools=[{"source": 1}])
    with azure(refusal(said), *[stream()] * 2) as scene:
        ask(scene, body, headers=WITH_BETAS, session="attacker")
        ask(scene, body.replace(b"one", b"two"), headers=WITH_BETAS, session="victim")
    assert len(scene.requests) == 3, "it was mended for the one who was refused"
    assert is_whole(scene, 2)


def test_a_session_is_not_refused_the_same_at_every_call() -> None:
    with azure(refusal(HOSTILE[2]), *[stream()] * 2) as scene:
        for text in ("one", "two"):
            ask(scene, say(text, **FIELDS), headers=WITH_BETAS, session="mine")
    assert len(scene.requests) == 3
    assert b"context_management" not in scene.requests[2].body


def test_a_field_inside_messages_is_left_out_of_the_refused_request_only() -> None:
    """An image has a ``source`` by right; the text block that had one too was the fault."""
    text = {"type": "text", "text": "hi", "source": {}}
    image = {"type": "image", "source": {"type": "url", "url": "https://example.test/a.png"}}
    with azure(refusal(f"messages.0.content.0.text.source: {EXTRA}"), *[stream()] * 2) as scene:
        for block in (text, image):
            call = {"model": "claude-opus-5-5", "messages": [{"role": "user", "content": [block]}]}
            ask(scene, json.dumps(call).encode(), session="mine")
    assert [b'"source"' in request.body for request in scene.requests] == [True, False, True]


@pytest.mark.parametrize(
    "said",
    [
        f"context_management: {EXTRA}",
        f"ValidationException: tools.11.custom.defer_loading: {EXTRA}",
        f"thinking.adaptive.display: {EXTRA}",
        f"brand_new: {EXTRA}",
        "Malformed input request: #: extraneous key [safeguards] is not permitted, please reformat your input.",
        "#/tools/0: extraneous key [defer_loading] is not permitted",
        "Unexpected value(s) `effort-2025-11-24`, `new-2027-01-01` for the `anthropic-beta` header. Please consult it.",
    ],
)
def test_what_an_upstream_does_not_know_is_left_out_for_everybody(said: str) -> None:
    names = complaint_pairs(pairs_for("azure", "m", {}), said)
    assert names
    assert reach_of(said, names).everybody == names
