"""The bounds on upstream requests, against lists of every event, and whole outages played with a scripted clock."""

from __future__ import annotations

import heapq
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from ccrelay.core import retry_budget
from ccrelay.core.model import Headers
from ccrelay.core.request_body import RequestBody
from ccrelay.core.retry_budget import (
    FINGERPRINT_BYTES,
    ClientRetries,
    RetryBudget,
    attempts_allowed,
    body_fingerprint,
    retry_count,
)


def within(events: list[float], now: float, seconds: float) -> int:
    """How many of the events are younger than ``seconds``."""
    return sum(now - seconds < event <= now for event in events)


class Budget(RuleBasedStateMachine):
    """The model: the time of every event there has been."""

    @initialize(share=st.sampled_from([0.0, 0.1, 0.2, 1.0]), start=st.floats(0, 1e6))
    def begin(self, share: float, start: float) -> None:
        self.now, self.share = start, share
        self.real = RetryBudget(share)
        self.calls: list[float] = []
        self.extra: list[float] = []

    @rule(seconds=st.floats(0, 3) | st.floats(55, 65) | st.integers(0, 200))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(number=st.integers(1, 80))
    def called(self, number: int) -> None:
        for _ in range(number):
            self.real.call(self.now)
        self.calls += [self.now] * number

    @rule(number=st.integers(1, 30))
    def failed_over(self, number: int) -> None:
        for _ in range(number):
            if not self.real.allows(self.now):
                # Not stricter than a second's coarseness makes it.
                most = max(10, self.share * within(self.calls, self.now, 59))
                assert within(self.extra, self.now, 61) + 1 > most
                return
            self.real.spend(self.now)
            self.extra.append(self.now)
            most = max(10, self.share * within(self.calls, self.now, 60))
            assert within(self.extra, self.now, 60) <= most

    @rule()
    def measured(self) -> None:
        value = self.real.amplification(self.now)
        least = within(self.extra, self.now, 60) / max(1, within(self.calls, self.now, 61))
        most = within(self.extra, self.now, 61) / max(1, within(self.calls, self.now, 60))
        assert 1 + least <= value <= 1 + most


TestBudget = Budget.TestCase


def test_a_quiet_relay_may_fail_over_ten_times_a_minute() -> None:
    budget = RetryBudget(0.2)
    made = 0
    while budget.allows(1000.0):
        budget.spend(1000.0)
        made += 1
    assert made == 10
    assert not budget.allows(1059.9)
    assert budget.allows(1061.0)


def test_a_reload_can_change_the_share() -> None:
    budget = RetryBudget(0.2)
    for _ in range(100):
        budget.call(0.0)
    for _ in range(20):
        budget.spend(0.0)
    assert not budget.allows(0.0)
    budget.share = 0.3
    assert budget.allows(0.0)


def test_the_amplification_is_attempts_per_call() -> None:
    budget = RetryBudget(0.2)
    assert budget.amplification(5.0) == 1.0
    for _ in range(4):
        budget.call(5.0)
    budget.spend(5.5)
    assert budget.amplification(30.0) == 1.25
    assert budget.amplification(200.0) == 1.0


# -- the client's own retries

QUESTIONS = st.tuples(st.sampled_from([b"one", b"other"]), st.sampled_from([b"x" * 32, b"y" * 32]))


class Retries(RuleBasedStateMachine):
    """The model: attempts and the time of the last failure, for each question."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.real = ClientRetries()
        self.model: dict[tuple[bytes, bytes], tuple[int, float]] = {}

    def known(self, question: tuple[bytes, bytes]) -> int:
        attempts, last = self.model.get(question, (0, 0.0))
        return attempts if self.now < last + 120 else 0

    @rule(seconds=st.integers(0, 130))
    def time_passes(self, seconds: int) -> None:
        self.now += seconds

    @rule(question=QUESTIONS, attempts=st.integers(1, 4))
    def failed(self, question: tuple[bytes, bytes], attempts: int) -> None:
        self.real.record(*question, attempts, self.now)
        self.model[question] = (self.known(question) + attempts, self.now)

    @rule(question=QUESTIONS)
    def answered(self, question: tuple[bytes, bytes]) -> None:
        self.real.answered(*question)
        self.model.pop(question, None)

    @rule(question=QUESTIONS, stainless=st.none() | st.integers(0, 9))
    def asked(self, question: tuple[bytes, bytes], stainless: int | None) -> None:
        expected = max(self.known(question), stainless or 0)
        assert self.real.attempts_before(*question, stainless, self.now) == expected


TestRetries = Retries.TestCase


def test_many_failing_questions_are_not_all_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry_budget, "CAPACITY", 5)
    retries = ClientRetries()
    for number in range(20):
        retries.record(b"s" * 1000, b"%d" % number, 1, 0.0)
    assert len(retries) == 5
    assert retries.attempts_before(b"s" * 1000, b"19", None, 1.0) == 1
    assert retries.attempts_before(b"s" * 1000, b"0", None, 1.0) == 0


def test_scope_and_fingerprint_do_not_run_into_one_another() -> None:
    retries = ClientRetries()
    retries.record(b"ab", b"c", 3, 0.0)
    assert retries.attempts_before(b"a", b"bc", None, 0.0) == 0


@given(most=st.integers(1, 10), wanted=st.lists(st.integers(1, 12), min_size=1, max_size=12))
def test_a_questions_repetitions_share_the_attempts_of_one_call_but_each_has_one(most: int, wanted: list[int]) -> None:
    made: list[int] = []
    for attempts in wanted:
        made.append(min(attempts, attempts_allowed(most, sum(made))))
    assert min(made) >= 1
    assert sum(made) - len(made) < most
    assert made[0] == min(wanted[0], most)


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ((), None),
        (((b"x-stainless-retry-count", b"0"),), 0),
        (((b"accept", b"1"), (b"x-stainless-retry-count", b"2")), 2),
        (((b"x-stainless-retry-count", b""),), None),
        (((b"x-stainless-retry-count", b"-1"),), None),
        (((b"x-stainless-retry-count", b"1.0"),), None),
        (((b"x-stainless-retry-count", b"\xb2"),), None),
        (((b"x-stainless-retry-count", b"9" * 5000),), None),
    ],
)
def test_the_sdks_count_is_read_and_nonsense_is_not(headers: Headers, expected: int | None) -> None:
    assert retry_count(headers) == expected


# -- fingerprints


def body_of(data: bytes, cuts: list[int] | None = None, *, chunked: bool = False, whole: bool = True) -> RequestBody:
    """A body that came in pieces cut at ``cuts``."""
    body = RequestBody(None if chunked else len(data), 0)
    begin = 0
    for cut in [*sorted(cuts or []), len(data)]:
        body.receive_data(data[begin:cut])
        begin = cut
    if whole:
        body.receive_eof()
        assert body.complete, body.error
    return body


def message(text: bytes) -> bytes:
    return b'{"model":"m","messages":"%b"}' % text


LONG = message(b"a" * 100_000)


@given(st.data())
@settings(max_examples=50)
def test_a_body_is_known_again_whatever_pieces_it_comes_in(data: st.DataObject) -> None:
    text = data.draw(st.sampled_from([message(b"hi"), LONG]))
    cuts = st.lists(st.integers(1, len(text) - 1), max_size=8, unique=True)
    whole = body_fingerprint(body_of(text))
    assert whole is not None
    assert body_fingerprint(body_of(text, data.draw(cuts))) == whole
    assert body_fingerprint(body_of(text, data.draw(cuts), chunked=True)) == whole


@given(cut=st.integers(1, len(LONG)))
def test_the_fingerprint_is_there_with_the_first_64_kib_and_then_stays(cut: int) -> None:
    body = RequestBody(len(LONG), 0)
    body.receive_data(LONG[:cut])
    expected = body_fingerprint(body_of(LONG)) if cut >= FINGERPRINT_BYTES else None
    assert body_fingerprint(body) == expected


def test_a_short_or_chunked_body_must_be_there_whole() -> None:
    text = message(b"hi")
    short = RequestBody(len(text), 0)
    short.receive_data(text[:-1])
    assert body_fingerprint(short) is None
    assert body_fingerprint(body_of(LONG, chunked=True, whole=False)) is None


@pytest.mark.parametrize("other", [message(b"ho"), message(b"hi!"), message(b"a" * 100_001), message(b"b" * 100_000)])
def test_another_beginning_or_length_is_another_fingerprint(other: bytes) -> None:
    assert body_fingerprint(body_of(other)) not in {body_fingerprint(body_of(text)) for text in (message(b"hi"), LONG)}


def test_a_released_body_cannot_be_known_again() -> None:
    body = body_of(message(b"hi"))
    body.release()
    with pytest.raises(ValueError, match="released"):
        body_fingerprint(body)


# -- outages

BACK_OFF = (0.5, 1.0, 2.0, 4.0, 8.0, 17.0, 35.0, 35.0, 35.0, 35.0, 35.0)
"""The pauses between Claude Code's tries; clients.md gives those up to 35 s."""


class Outage:
    """Clients that ask once and repeat ``retries`` times, while every attempt at every provider fails.

    bounded: whether calls ask what they may. ``asked``, ``sent``: the times of client and of upstream requests.
    """

    def __init__(self, seed: int, *, clients: int, providers: int, bounded: bool, retries: int = 11) -> None:
        self.rng = Random(seed)
        self.providers = providers
        self.bounded = bounded
        self.retries_of_clients = retries
        self.budget = RetryBudget(0.2)
        self.retries = ClientRetries()
        self.asked: list[float] = []
        self.sent: list[float] = []
        self.worst = 0.0
        # When, client, its earlier tries, attempts made in this one: they take time, in which others are served.
        self.queue = [(1000 + self.rng.uniform(0, 2), client, 0, 0) for client in range(clients)]
        heapq.heapify(self.queue)
        while self.queue:
            self.step(*heapq.heappop(self.queue))

    def step(self, now: float, client: int, tries: int, made: int) -> None:
        if not made:
            self.asked.append(now)
            self.budget.call(now)
        elif made < self.providers and self.may_go_on(client, made, now):
            self.budget.spend(now)
        else:
            self.retries.record(b"%d" % client, b"body", made, now)
            if tries < self.retries_of_clients:
                pause = BACK_OFF[tries] * self.rng.uniform(0.9, 1.1)
                heapq.heappush(self.queue, (now + pause, client, tries + 1, 0))
            return
        self.sent.append(now)
        if within(self.asked, now, 60) >= 50:
            self.worst = max(self.worst, within(self.sent, now, 60) / within(self.asked, now, 60))
        heapq.heappush(self.queue, (now + self.rng.choice([0.001, 0.05, 0.4]), client, tries, made + 1))

    def may_go_on(self, client: int, made: int, now: float) -> bool:
        before = self.retries.attempts_before(b"%d" % client, b"body", 0, now)
        return not self.bounded or (made < attempts_allowed(4, before) and self.budget.allows(now))

    @property
    def amplification(self) -> float:
        return len(self.sent) / len(self.asked)


@given(st.integers(0, 10_000))
@settings(max_examples=10, deadline=None)
def test_a_total_outage_with_fifty_clients_costs_1_2_upstream_requests_for_each_of_theirs(seed: int) -> None:
    outage = Outage(seed, clients=50, providers=3, bounded=True)
    assert len(outage.asked) == 50 * 12
    assert outage.amplification <= 1.2
    assert outage.worst <= 1.2


def test_in_a_total_outage_the_amplification_falls_to_one() -> None:
    outage = Outage(1, clients=50, providers=3, bounded=True)
    began = min(outage.asked)
    later = [time for time in outage.sent if time > began + 10]
    assert len(later) == len([time for time in outage.asked if time > began + 10])
    assert outage.amplification < 1.1


def test_without_the_bounds_the_same_outage_would_multiply_by_the_providers() -> None:
    outage = Outage(1, clients=50, providers=3, bounded=False)
    assert outage.amplification == 3.0


def test_one_client_alone_still_fails_over_to_every_provider_at_once() -> None:
    outage = Outage(1, clients=1, providers=3, bounded=True, retries=0)
    assert len(outage.sent) == 3


def test_each_retry_of_a_client_is_tried_upstream_once() -> None:
    outage = Outage(1, clients=1, providers=3, bounded=True)
    assert len(outage.asked) == 1 + 11
    assert len(outage.sent) == 3 + 11
