"""Limits of keys, configured and learned: who is asked while they have room, and when they have room again."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ccrelay.core.model import CallKind, Headers
from ccrelay.core.settings import KeySettings, PoolingSettings

from .provider_settings import key_settings
from .scenarios import Scene, error, message, says, stream, upstream
from .scenarios_cases import ask, complaint, passed_over, say

COUNT = CallKind.COUNT_TOKENS
COUNTED = says(200, b'{"input_tokens": 7}')
IN_TURN = PoolingSettings(enabled=True, strategy="round_robin")


def key(text: str, **limits: int) -> KeySettings:
    return replace(key_settings(text), **limits)


def window(name: bytes, limit: int, remaining: int, reset: int) -> Headers:
    """What an answer says of one class of limits. reset: seconds after the scene's beginning, below 60."""
    prefix = b"anthropic-ratelimit-" + name
    return (
        (prefix + b"-limit", b"%d" % limit),
        (prefix + b"-remaining", b"%d" % remaining),
        (prefix + b"-reset", b"2027-01-15T08:00:%02dZ" % reset),
    )


@pytest.mark.parametrize("name", [b"requests", b"input-tokens", b"output-tokens", b"tokens"])
def test_an_answer_that_used_up_a_limit_is_a_keys_last_until_the_reset(name: bytes) -> None:
    used_up = stream(headers=window(name, 50, 0, 40))
    with Scene(upstream("north", used_up, stream())) as scene:
        assert ask(scene, "first").status == 200
        scene.advance(39.5)
        refused = ask(scene, "second")
        scene.advance(0.5)
        assert ask(scene, "third").status == 200
    assert (refused.status, refused.header(b"retry-after")) == (429, b"1")
    assert len(scene.requests) == 2


def test_a_limit_is_known_from_the_answers_head_on_and_not_only_from_its_end() -> None:
    used_up = stream(delay=5.0, headers=window(b"requests", 50, 0, 50))
    with Scene(upstream("north", used_up), upstream("south", stream())) as scene:
        ask(scene, "first")
        scene.advance(12.0)
        ask(scene, "second")
        assert scene.open == scene.requests[:1], "the first answer is still under way"
    assert scene.asked == ["north k1", "south k1"]


def test_what_is_left_by_the_upstreams_word_is_used_and_no_more() -> None:
    two_left = message(headers=window(b"requests", 50, 2, 50))
    scripted = upstream("north", two_left, message(), message(), keys=["k1"])
    with Scene(scripted) as scene:
        assert [ask(scene, f"call {number}").status for number in range(4)] == [200, 200, 200, 429]
    assert len(scene.requests) == 3


def test_keys_of_which_the_limits_are_known_share_the_calls_by_what_they_have_left() -> None:
    tight, wide = message(headers=window(b"requests", 50, 10, 50)), message(headers=window(b"requests", 50, 40, 50))
    with Scene(upstream("north", tight, wide, *[message()] * 3, keys=["k1", "k2"])) as scene:
        for number in range(5):
            ask(scene, f"call {number}")
    assert scene.asked == ["north k1", "north k2", "north k2", "north k2", "north k2"]


def test_requests_per_minute_are_counted_for_a_key_that_is_told_its_limit() -> None:
    with Scene(upstream("north", *[message()] * 3, keys=[key("k1", rpm_limit=2)])) as scene:
        assert [ask(scene, f"call {number}").status for number in range(2)] == [200, 200]
        refused = ask(scene, "call 3")
        scene.advance(29.9)
        assert ask(scene, "call 4").status == 429
        scene.advance(0.2)
        assert ask(scene, "call 5").status == 200
    assert (refused.status, refused.header(b"retry-after"), refused.header(b"x-should-retry")) == (429, b"30", None)
    assert complaint(refused)[1] == "cc-relay: no key can be used for 30 s: north all keys out of quota"


def test_a_key_that_is_out_of_quota_is_followed_by_the_next_without_a_word_to_the_client() -> None:
    keys = [key("k1", rpm_limit=1), key("k2", rpm_limit=1)]
    with Scene(
        upstream("north", message(), message(), keys=keys, pooling=IN_TURN), upstream("south", message())
    ) as scene:
        assert [ask(scene, f"call {number}").status for number in range(3)] == [200] * 3
    assert scene.asked == ["north k1", "north k2", "south k1"]
    assert passed_over(scene) == [("north", "all keys out of quota")]


def test_input_tokens_are_counted_by_true_usage_without_what_a_cache_served() -> None:
    """Each answer used 11 and wrote 33 into the cache; the 44 that were read from it count nowhere."""
    with Scene(upstream("north", *[message()] * 3, keys=[key("k1", itpm_limit=60)])) as scene:
        assert [ask(scene, f"call {number}").status for number in range(2)] == [200, 200]
        refused = ask(scene, "call 3")
        expected = len(say("call 3")) // 8 + 88 - 60  # one comes back per second
        assert (refused.status, refused.header(b"retry-after")) == (429, b"%d" % expected)
        scene.advance(expected)
        assert ask(scene, "call 4").status == 200


def test_output_tokens_are_reserved_while_an_answer_is_under_way_and_given_back_at_its_end() -> None:
    north = upstream("north", stream(delay=1.0), message(), keys=[key("k1", otpm_limit=600)])
    with Scene(north) as scene:
        ask(scene, "first")
        assert ask(scene, "second").status == 429, "500 of 600 are reserved"
        scene.advance(7.0)
        assert ask(scene, "third").status == 200, "22 were used"


def test_a_call_larger_than_a_minutes_limit_goes_once_that_is_whole() -> None:
    north = upstream("north", message(), message(), keys=[key("k1", itpm_limit=10)])
    with Scene(north) as scene:
        assert ask(scene, "x" * 1000).status == 200
        assert ask(scene, "y" * 1000).status == 429
        scene.advance(120.0)
        assert ask(scene, "z" * 1000).status == 200


def test_a_refused_call_costs_its_key_no_tokens() -> None:
    fault = error(400, "invalid_request_error", "messages: bad")
    north = upstream("north", fault, fault, fault, keys=[key("k1", otpm_limit=500)])
    with Scene(north) as scene:
        assert [ask(scene, f"call {number}").status for number in range(3)] == [400] * 3


# -- counting tokens has limits of its own


def test_counting_tokens_uses_none_of_a_keys_tokens() -> None:
    keys = [key("k1", itpm_limit=20, otpm_limit=500)]
    with Scene(upstream("north", *[COUNTED] * 3, message(), keys=keys)) as scene:
        assert [ask(scene, "x" * 100, kind=COUNT).status for _ in range(3)] == [200] * 3
        assert ask(scene, "hi").status == 200


def test_limits_of_counting_are_not_taken_for_those_of_messages() -> None:
    used_up = says(200, b'{"input_tokens": 7}', headers=window(b"requests", 100, 0, 50))
    with Scene(upstream("north", used_up, message())) as scene:
        ask(scene, kind=COUNT)
        assert ask(scene).status == 200


def test_a_key_that_may_count_no_more_may_still_answer() -> None:
    tired = error(429, "rate_limit_error", "Counting too fast", headers=((b"retry-after", b"20"),))
    with Scene(upstream("north", tired, message(), keys=["k1"])) as scene:
        refused = ask(scene, kind=COUNT)
        assert ask(scene).status == 200
    assert (refused.status, refused.header(b"retry-after")) == (429, b"20")
    assert scene.contenders["north"].breaker.failures == 0
