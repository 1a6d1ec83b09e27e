"""A large body is made ready to be signed where it stops nobody, a small one at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.defer import Deferred

pytest.importorskip("botocore.auth")

from ccrelay.core.model import AttemptPlan, AwsKeys, Credential
from ccrelay.core.secret import Secret
from ccrelay.upstream.attempt import LONG_BODY, Attempt

from .test_upstream_attempt import KEY, TIMEOUTS, Rig

SIGNED: Credential = AwsKeys(Secret("AKIDEXAMPLE"), Secret("secret"), None)


def text_of(size: int) -> bytes:
    opening, ending = b'{"model":"claude","messages":[],"padding":"', b'"}'
    return opening + b"x" * (size - len(opening) - len(ending)) + ending


class Thread:
    """Where work waits until it is let run."""

    def __init__(self) -> None:
        self.waiting: list[tuple[Deferred[Any], Callable[[], Any]]] = []

    def __call__(self, function: Callable[..., Any], *arguments: Any) -> Deferred[Any]:
        done: Deferred[Any] = Deferred()
        self.waiting.append((done, lambda: function(*arguments)))
        return done

    def run(self) -> None:
        done, work = self.waiting.pop()
        done.callback(work())


def begun(thread: Thread, size: int, type_: str, credential: Credential) -> tuple[Rig, Deferred[Any]]:
    rig = Rig(text=text_of(size), type_=type_, credential=credential, base_url="https://api.example.com")
    model = rig.body.members.find("model")
    assert model is not None
    attempt = Attempt(rig.clock, rig.client, rig.provider, TIMEOUTS, on_commit=lambda: None, in_thread=thread)
    running = attempt.run(rig.call, AttemptPlan("claude", model, credential, 0.0), rig.sink, ())
    return rig, Deferred.fromCoroutine(running)


@pytest.mark.parametrize(
    ("size", "type_", "credential", "apart"),
    [
        (LONG_BODY + 1, "bedrock", SIGNED, True),
        (LONG_BODY, "bedrock", SIGNED, False),
        (LONG_BODY + 1, "anthropic", KEY, False),
    ],
)
def test_only_a_large_body_that_must_be_read_is_read_in_a_thread(
    size: int, type_: str, credential: Credential, apart: bool
) -> None:
    thread = Thread()

    rig, running = begun(thread, size, type_, credential)

    assert (len(thread.waiting), len(rig.fake.made)) == ((1, 0) if apart else (0, 1))
    if apart:
        thread.run()
    assert len(rig.fake.made) == 1
    running.addErrback(lambda _: None)
    running.cancel()


def test_a_call_given_up_while_its_body_is_read_is_never_sent() -> None:
    thread = Thread()
    rig, running = begun(thread, LONG_BODY + 1, "bedrock", SIGNED)

    running.addErrback(lambda _: None)
    running.cancel()
    thread.waiting[0][0].addErrback(lambda _: None)

    assert rig.fake.made == []
