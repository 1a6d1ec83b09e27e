"""What is told where nobody could be asked."""

from __future__ import annotations

import math
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccrelay.core.exhausted import nobody_to_ask, sooner
from ccrelay.core.model import Answer, Call, CallKind, Principal
from ccrelay.core.request_body import RequestBody
from ccrelay.core.router import Drop, Why
from ccrelay.errors import ClientError

NOW = 1000.0
WIDE = Drop("wide", Why.CONTEXT, "cannot hold it", error=ClientError(400, "invalid_request_error", "wide"), room=200)
NARROW = Drop(
    "narrow", Why.CONTEXT, "cannot hold it", error=ClientError(400, "invalid_request_error", "narrow"), room=100
)
SMALL = Drop("small", Why.SIZE, "takes 9 bytes", error=ClientError(413, "request_too_large", "9"), room=9)
BLIND = Drop("blind", Why.FEATURE, "cannot take images")
DEAF = Drop("deaf", Why.FEATURE, "cannot take documents")
COOLING = Drop("cooling", Why.KEYS, "all keys cooling", NOW + 7.2)
PARKED = Drop("parked", Why.KEYS, "all keys parked", math.inf)
ILL = Drop("ill", Why.CIRCUIT, "is ill (circuit open)", NOW + 20.0)
OTHER_MODEL = Drop("other", Why.MODEL, "does not serve m (routing.model_mapping)")
NO_COUNT = Drop("zai", Why.KIND, "has no count_tokens")
NO_KEY = Drop("closed", Why.NO_KEY, "has no key for this client")


def told(*drops: Drop, kind: CallKind = CallKind.MESSAGES, takes_own: bool = False) -> ClientError:
    call = Call("id", kind, Principal("open", "", b"", False), b"", (), None, None, "192.0.2.7", RequestBody(0, 0))
    return nobody_to_ask(drops, call, takes_own, NOW)


RANKS = [
    # What time changes, then what lies in the call, then what the operator has to change.
    ((COOLING,), 429, "rate_limit_error"),
    ((ILL,), 503, "overloaded_error"),
    ((WIDE,), 400, "invalid_request_error"),
    ((SMALL,), 413, "request_too_large"),
    ((BLIND,), 400, "invalid_request_error"),
    ((PARKED,), 503, "api_error"),
    ((OTHER_MODEL,), 404, "not_found_error"),
    ((NO_KEY,), 503, "api_error"),
]


@pytest.mark.parametrize("rank", range(len(RANKS)))
def test_what_helps_most_is_told_whatever_else_was_in_the_way(rank: int) -> None:
    drops, status, kind = RANKS[rank]
    rest = [drop for lower, _, _ in RANKS[rank + 1 :] for drop in lower]
    alone = told(*drops)
    assert (alone.status, alone.kind) == (status, kind)
    for order in ([*drops, *rest], [*rest, *drops]):
        assert (told(*order).status, told(*order).kind) == (status, kind)


def test_a_wait_is_the_earliest_of_all_and_names_everybody() -> None:
    for order in permutations([COOLING, ILL, PARKED]):
        error = told(*order)
        assert (error.status, error.retry_after, error.should_retry) == (429, 8, None)
        assert "cooling all keys cooling" in error.message
        assert "ill is ill (circuit open)" in error.message


@pytest.mark.parametrize(
    ("wait", "seconds", "should_retry"),
    [(-5.0, 1, None), (0.0, 1, None), (0.2, 1, None), (60.0, 60, None), (60.1, 61, False), (86400.0, 86400, False)],
)
def test_a_wait_is_whole_seconds_and_a_hopeless_one_says_so(
    wait: float, seconds: int, should_retry: bool | None
) -> None:
    error = told(Drop("north", Why.KEYS, "all keys cooling", NOW + wait))
    assert (error.retry_after, error.should_retry) == (seconds, should_retry)


def test_of_several_contexts_the_widest_is_told_and_of_several_sizes_the_largest() -> None:
    larger = Drop("l", Why.SIZE, "takes 90 bytes", error=ClientError(413, "request_too_large", "90"), room=90)
    assert told(NARROW, WIDE).message == told(WIDE, NARROW).message == "wide"
    assert told(SMALL, larger).message == told(larger, SMALL).message == "90"


def test_all_features_that_are_missing_are_named() -> None:
    message = "cc-relay: no provider can take this call: blind cannot take images; deaf cannot take documents"
    assert told(BLIND, DEAF).message == message


def test_only_the_last_reason_of_a_provider_counts() -> None:
    parked = Drop("cooling", Why.KEYS, "all keys parked", math.inf)
    assert told(COOLING, parked).message.startswith("cc-relay: cooling all keys parked")


def test_tokens_that_nobody_counts_are_told_as_not_supported_unless_somebody_will() -> None:
    error = told(NO_COUNT, NO_KEY, kind=CallKind.COUNT_TOKENS)
    assert (error.status, error.kind, error.should_retry) == (501, "not_supported", False)
    assert told(NO_COUNT, COOLING, kind=CallKind.COUNT_TOKENS).status == 429


def test_where_a_login_would_help_the_client_is_told_so() -> None:
    error = told(NO_KEY, takes_own=True)
    assert (error.status, error.kind, error.should_retry) == (401, "authentication_error", False)


def test_without_any_provider_the_operator_is_asked_for() -> None:
    error = told()
    assert (error.status, error.kind, error.should_retry) == (503, "api_error", False)


def limited(*headers: tuple[bytes, bytes], status: int = 429) -> Answer:
    return Answer(status, ((b"request-id", b"r"), *headers), b"{}")


def test_a_429_names_the_key_that_was_passed_over_if_that_is_free_sooner() -> None:
    long = limited((b"retry-after", b"3600"), (b"x-should-retry", b"false"))
    assert sooner(long, [COOLING, PARKED], NOW) == limited((b"retry-after", b"8"))
    assert sooner(limited((b"retry-after-ms", b"9000")), [COOLING], NOW) == limited((b"retry-after", b"8"))
    assert sooner(limited(), [COOLING], NOW) == limited((b"retry-after", b"8"))
    later = Drop("later", Why.KEYS, "all keys cooling", NOW + 300.0)
    hopeless = limited((b"retry-after", b"300"), (b"x-should-retry", b"false"))
    assert sooner(long, [later], NOW) == hopeless


@pytest.mark.parametrize(
    ("answer", "drops"),
    [
        (limited((b"retry-after", b"7")), [COOLING]),
        (limited((b"retry-after", b"3600")), [ILL, PARKED, BLIND]),  # when the ill is well again is not known
        (limited(), []),
        (limited((b"retry-after", b"3600"), status=503), [COOLING]),
    ],
)
def test_any_other_answer_stays_as_it_is(answer: Answer, drops: list[Drop]) -> None:
    assert sooner(answer, drops, NOW) is answer


DROPS = st.sampled_from([WIDE, NARROW, SMALL, BLIND, DEAF, COOLING, PARKED, ILL, OTHER_MODEL, NO_COUNT, NO_KEY])


@given(drops=st.lists(DROPS), kind=st.sampled_from(CallKind), takes_own=st.booleans())
def test_clients_either_know_when_to_come_back_or_are_told_not_to(
    drops: list[Drop], kind: CallKind, takes_own: bool
) -> None:
    error = told(*drops, kind=kind, takes_own=takes_own)
    assert error.status in (400, 413) or error.should_retry is False or error.retry_after
    assert error.retry_after is None or 0 < error.retry_after <= 60 or error.should_retry is False
