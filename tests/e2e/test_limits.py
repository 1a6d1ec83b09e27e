"""Keys and their limits: who gets what, and what a client is told when there is nothing left."""

from __future__ import annotations

import math
import time
from collections import Counter
from contextlib import ExitStack

import pytest

from tests.e2e.answers import Answer, failure
from tests.e2e.crowd import Crowd
from tests.e2e.raw_client import Reply, ask, body_for, post
from tests.e2e.relay_process import UPSTREAM_KEY, Relay, config, provider
from tests.e2e.samples import GOOD
from tests.e2e.upstream_process import Upstream
from tests.e2e.waiting import wait_for

ONLY = UPSTREAM_KEY.format(name="first")
CALLS = 60
LIMIT = 6


def keys_asked_with(upstream: Upstream) -> Counter[str | None]:
    return Counter(request.header("x-api-key") for request in upstream.requests())


def refused_with(seconds: int) -> Answer:
    return failure(429, "rate_limit_error", headers=[("retry-after", str(seconds))])


def test_a_limited_key_gets_what_its_bucket_allows_and_the_others_take_the_rest(
    upstream: Upstream, started: ExitStack
) -> None:
    upstream.route(GOOD)
    keys = [{"key": "limited", "rpm_limit": LIMIT, "priority": 2}, {"key": "other", "priority": 1}]
    relay = started.enter_context(Relay(config([provider("first", upstream.url) | {"keys": keys}])))
    began = time.monotonic()
    replies = started.enter_context(Crowd(relay.port)).ask(post(body_for()) for _ in range(CALLS)).replies()
    refilled = math.floor((time.monotonic() - began) * LIMIT / 60)
    assert {(reply.status, reply.ending) for reply in replies} == {(200, "complete")}
    asked = keys_asked_with(upstream)
    assert asked.total() == CALLS
    assert LIMIT <= asked["limited"] <= LIMIT + refilled
    assert asked["other"] == CALLS - asked["limited"]


def test_when_the_only_keys_bucket_is_empty_the_wait_is_told_and_nobody_asked(
    upstream: Upstream, started: ExitStack
) -> None:
    upstream.route(GOOD)
    one = provider("first", upstream.url) | {"keys": [{"key": ONLY, "rpm_limit": 2}]}
    relay = started.enter_context(Relay(config([one])))
    assert [ask(relay.port, post(body_for())).status for _ in range(2)] == [200, 200]
    reply = ask(relay.port, post(body_for()))
    assert (reply.status, reply.error) == (429, "rate_limit_error")
    assert 1 <= int(reply.header("retry-after") or 0) <= 60 / 2
    assert upstream.stats()["requests"] == 2


@pytest.mark.parametrize(("seconds", "should_retry"), [(20, None), (300, "false")])
def test_a_resting_keys_true_wait_is_told_and_nobody_asked(
    upstream: Upstream, started: ExitStack, seconds: int, should_retry: str | None
) -> None:
    """A client of Claude Code's kind gives up at once above a minute, so it is told not to try."""
    upstream.route(refused_with(seconds))
    relay = started.enter_context(Relay(config([provider("first", upstream.url)])))
    began = time.monotonic()
    first = ask(relay.port, post(body_for()))
    assert (first.status, first.header("retry-after")) == (429, str(seconds))
    assert first.header("request-id") == "req_upstream"
    for _ in range(3):
        reply = ask(relay.port, post(body_for()))
        assert (reply.status, reply.error, reply.header("x-should-retry")) == (429, "rate_limit_error", should_retry)
        assert seconds - (time.monotonic() - began) <= int(reply.header("retry-after") or 0) <= seconds
    assert upstream.stats()["requests"] == 1


def test_a_rested_key_is_asked_again_and_not_before(upstream: Upstream, started: ExitStack) -> None:
    rest = 2
    upstream.queue(refused_with(rest))
    upstream.route(GOOD)
    relay = started.enter_context(Relay(config([provider("first", upstream.url)])))
    began = time.monotonic()
    assert ask(relay.port, post(body_for())).status == 429

    def answered() -> Reply | None:
        reply = ask(relay.port, post(body_for()))
        return reply if reply.status == 200 else None

    wait_for(answered, "the key has rested")
    assert time.monotonic() - began >= rest
    assert upstream.stats()["requests"] == 2


def test_when_every_key_rests_the_earliest_end_of_it_is_told(upstream: Upstream, started: ExitStack) -> None:
    for seconds, key in [(50, "one"), (20, "two"), (40, "three")]:
        upstream.route(refused_with(seconds), key=key)
    keys = [{"key": key} for key in ("one", "two", "three")]
    relay = started.enter_context(Relay(config([provider("first", upstream.url) | {"keys": keys}])))
    began = time.monotonic()
    for _ in range(2):
        reply = ask(relay.port, post(body_for()))
        assert (reply.status, reply.error) == (429, "rate_limit_error")
        assert 20 - (time.monotonic() - began) <= int(reply.header("retry-after") or 0) <= 20
    assert keys_asked_with(upstream) == {"one": 1, "two": 1, "three": 1}


def test_the_wait_told_is_that_of_the_providers_which_serve_the_model(upstream: Upstream, started: ExitStack) -> None:
    for seconds, key in [(20, "one"), (300, "two")]:
        upstream.route(refused_with(seconds), key=key)
    made = [provider(name, upstream.url) | {"keys": [{"key": name}]} for name in ("one", "two")]
    routing = {"strategy": "model_based", "model_mapping": {"one": "one", "two": "two"}}
    relay = started.enter_context(Relay(config(made, routing=routing)))
    for _ in range(2):
        assert ask(relay.port, post(body_for(model="one"))).header("retry-after") in ("19", "20")
        reply = ask(relay.port, post(body_for(model="two")))
        assert int(reply.header("retry-after") or 0) > 200
    assert reply.header("x-should-retry") == "false"
