"""Which key a call gets, and what becomes of the key afterwards."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from random import Random

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from ccrelay.core.key_pool import PARK_LOOK, KeyLease, KeyPool, KeyState, KeyWait, PoolKey
from ccrelay.core.model import Usage
from ccrelay.core.outcomes import Outcome
from ccrelay.core.rate_headers import LearnedLimits, LearnedWindow, UnifiedWindow, Window
from ccrelay.core.rate_limits import Demand

SMALL = Demand(10, 10)


def key(name: str, priority: int = 0, weight: float = 1.0, rpm: int = 0, itpm: int = 0, otpm: int = 0) -> PoolKey:
    return PoolKey(name, priority, weight, rpm, itpm, otpm)


def pool(*keys: PoolKey, strategy: str = "round_robin") -> KeyPool:
    return KeyPool(keys, strategy, Random(7))


def lease(
    keys: KeyPool, now: float, excluded: tuple[str, ...] = (), preferred: str | None = None, demand: Demand = SMALL
) -> KeyLease:
    given = keys.choose(now, demand, excluded=excluded, preferred=preferred)
    assert isinstance(given, KeyLease)
    return given


def wait(keys: KeyPool, now: float, excluded: tuple[str, ...] = (), demand: Demand = SMALL) -> KeyWait:
    given = keys.choose(now, demand, excluded=excluded)
    assert isinstance(given, KeyWait)
    return given


def end(
    taken: KeyLease,
    now: float,
    outcome: Outcome,
    retry_after: float | None = None,
    learned: LearnedLimits | None = None,
    reason: str = "",
) -> None:
    taken.settle(now, outcome, None, retry_after, learned, reason)


def used_up(window: Window, reset: float | None) -> LearnedLimits:
    return LearnedLimits((LearnedWindow(window, None, 0, reset),))


# Choosing


def test_round_robin_takes_turns_past_those_that_are_not_usable() -> None:
    keys = pool(key("a"), key("b"), key("c"))
    assert [lease(keys, 0.0).key for _ in range(4)] == ["a", "b", "c", "a"]
    end(lease(keys, 0.0), 0.0, Outcome.KEY_TIRED)
    assert [lease(keys, 0.0).key for _ in range(3)] == ["c", "a", "c"]


def test_least_loaded_takes_the_key_with_the_most_room_in_its_tightest_window() -> None:
    keys = pool(
        key("few requests", rpm=10),
        key("few tokens", rpm=1000, itpm=100),
        key("roomy", rpm=100),
        strategy="least_loaded",
    )
    assert lease(keys, 0.0, demand=Demand(50, 0)).key == "roomy"
    for _ in range(20):
        lease(keys, 0.0, preferred="roomy", demand=Demand(50, 0))
    assert lease(keys, 0.0, demand=Demand(50, 0)).key == "few requests"
    assert lease(keys, 0.0, demand=Demand(5, 0)).key == "few tokens"


def test_least_loaded_takes_the_fewest_in_flight_among_equals_and_then_turns() -> None:
    keys = pool(key("a"), key("b"), key("c"), strategy="least_loaded")
    taken = [lease(keys, 0.0) for _ in range(3)]
    assert [one.key for one in taken] == ["a", "b", "c"]
    taken[1].settle(1.0, Outcome.ANSWERED, Usage(), None, None)
    assert lease(keys, 1.0).key == "b"
    for name in ("a", "b", "c"):
        lease(keys, 1.0, preferred=name)
    assert [lease(keys, 1.0).key for _ in range(3)] == ["c", "a", "b"]


def test_weighted_gives_by_weight_and_random_evenly() -> None:
    weighted = pool(key("a", weight=9.0), key("b", weight=1.0), strategy="weighted")
    counts = Counter(lease(weighted, 0.0).key for _ in range(1000))
    assert 840 < counts["a"] < 960
    even = pool(key("a", weight=9.0), key("b", weight=1.0), strategy="random")
    counts = Counter(lease(even, 0.0).key for _ in range(1000))
    assert 430 < counts["a"] < 570


def test_an_unknown_strategy_is_refused() -> None:
    with pytest.raises(KeyError):
        pool(key("a"), strategy="best")


@pytest.mark.parametrize("strategy", ["least_loaded", "round_robin", "random", "weighted"])
def test_a_lower_priority_is_used_only_while_no_higher_one_is_usable(strategy: str) -> None:
    keys = pool(key("spare", 0), key("first", 2), key("second", 1), strategy=strategy)
    assert lease(keys, 0.0).key == "first"
    end(lease(keys, 0.0), 0.0, Outcome.KEY_TIRED, 10.0)
    assert lease(keys, 0.0).key == "second"
    assert lease(keys, 0.0, excluded=("second",)).key == "spare"
    assert lease(keys, 10.0).key == "first"


def test_the_preferred_key_wins_over_strategy_and_priority_while_it_is_usable() -> None:
    keys = pool(key("a", 1), key("b", 1), key("c", 0))
    assert [lease(keys, 0.0, preferred="c").key for _ in range(3)] == ["c"] * 3
    assert lease(keys, 0.0, preferred="c", excluded=("c",)).key == "a"
    assert lease(keys, 0.0, preferred="gone").key == "b"
    end(lease(keys, 0.0, preferred="c"), 0.0, Outcome.KEY_TIRED)
    assert lease(keys, 0.0, preferred="c").key == "a"


def test_affinity_does_not_disturb_the_turns_of_the_others() -> None:
    keys = pool(key("a"), key("b"), key("c"))
    assert lease(keys, 0.0).key == "a"
    lease(keys, 0.0, preferred="c")
    assert lease(keys, 0.0).key == "b"


def test_of_two_keys_with_one_id_the_first_counts() -> None:
    keys = pool(key("a", rpm=1), key("a", rpm=5))
    assert [status.limits[0].limit for status in keys.status(0.0)] == [1]


def test_without_keys_there_is_nothing_to_wait_for() -> None:
    assert wait(pool(), 0.0) == KeyWait(math.inf, "no keys")
    assert wait(pool(key("a")), 0.0, excluded=("a",)) == KeyWait(math.inf, "every key was tried")


# Cooling


@pytest.mark.parametrize(
    ("retry_after", "learned", "until"),
    [
        (7.0, None, 107.0),
        (7.0, used_up(Window.INPUT, 30.0), 107.0),
        (None, used_up(Window.INPUT, 30.0), 130.0),
        (None, used_up(Window.INPUT, None), 160.0),
        (None, LearnedLimits(unified=(UnifiedWindow("", "rejected", None, 3000.0),)), 3100.0),
        (None, None, 160.0),
        (-5.0, None, 160.0),
        (math.nan, None, 160.0),
        (math.inf, None, 160.0),
    ],
)
def test_a_tired_key_rests_as_long_as_the_upstream_says(
    retry_after: float | None, learned: LearnedLimits | None, until: float
) -> None:
    keys = pool(key("a"))
    end(lease(keys, 100.0), 100.0, Outcome.KEY_TIRED, retry_after, learned)
    assert wait(keys, 100.0) == KeyWait(until, "all keys cooling")
    assert wait(keys, until - 0.01).until == until
    assert lease(keys, until).key == "a"


def test_of_many_refusals_at_once_the_latest_time_counts_and_they_do_not_add_up() -> None:
    keys = pool(key("a"))
    taken = [lease(keys, 0.0) for _ in range(10)]
    for number, one in enumerate(taken):
        end(one, 1.0, Outcome.KEY_TIRED, 30.0 if number == 4 else 5.0)
    assert wait(keys, 1.0).until == 31.0


def test_success_of_an_attempt_does_not_lift_a_cooldown() -> None:
    keys = pool(key("a"))
    old = lease(keys, 0.0)
    end(lease(keys, 0.0), 1.0, Outcome.KEY_TIRED, 30.0)
    old.settle(2.0, Outcome.ANSWERED, Usage(1, 1), None, LearnedLimits((LearnedWindow(Window.REQUESTS, 50, 49, 1.0),)))
    assert wait(keys, 2.0).until == 31.0


@pytest.mark.parametrize(
    "learned",
    [used_up(Window.REQUESTS, 20.0), LearnedLimits(unified=(UnifiedWindow("5h", "rejected", 1.0, 20.0),))],
)
def test_a_key_whose_good_answer_says_that_nothing_is_left_rests_before_it_is_refused(learned: LearnedLimits) -> None:
    keys = pool(key("a"), key("b"))
    taken = lease(keys, 0.0)
    taken.learn(5.0, learned)
    assert [lease(keys, 5.0).key for _ in range(2)] == ["b", "b"]
    assert [status.state for status in keys.status(5.0)] == [KeyState.COOLING, KeyState.USABLE]
    taken.settle(300.0, Outcome.ANSWERED, Usage(1, 1), None, None)
    assert lease(keys, 300.0).key == "a"


def test_limits_are_learned_from_good_answers() -> None:
    keys = pool(key("a"))
    lease(keys, 0.0).settle(
        0.0, Outcome.ANSWERED, Usage(), None, LearnedLimits((LearnedWindow(Window.REQUESTS, 50, 1, None),))
    )
    end(lease(keys, 0.0), 0.0, Outcome.PROVIDER_ILL)
    waiting = wait(keys, 0.0)
    assert waiting.until == pytest.approx(1.2)
    assert waiting.reason == "all keys out of quota"


def test_what_fits_no_key_now_waits_for_the_first_that_has_room() -> None:
    keys = pool(key("a", itpm=600), key("b", itpm=1200))
    lease(keys, 0.0, preferred="a", demand=Demand(600, 0))
    lease(keys, 0.0, preferred="b", demand=Demand(1200, 0))
    assert wait(keys, 0.0, demand=Demand(300, 0)).until == pytest.approx(15.0)
    assert wait(keys, 0.0, demand=Demand(300, 0), excluded=("b",)).until == pytest.approx(30.0)


@pytest.mark.parametrize(
    ("outcome", "left"),
    [(Outcome.CALLERS_FAULT, 1000), (Outcome.CLIENT_GONE, 400), (Outcome.TRUNCATED, 400), (Outcome.PROVIDER_ILL, 400)],
)
def test_unknown_usage_stays_counted_unless_the_upstream_refused(outcome: Outcome, left: int) -> None:
    keys = pool(key("a", otpm=1000))
    end(lease(keys, 0.0, demand=Demand(0, 600)), 0.0, outcome)
    (status,) = keys.status(0.0)
    assert [limit.remaining for limit in status.limits] == [left]


def test_a_lease_settles_once() -> None:
    keys = pool(key("a", otpm=1000))
    taken = lease(keys, 0.0, demand=Demand(0, 600))
    taken.settle(0.0, Outcome.ANSWERED, Usage(output=100), None, None)
    before = keys.status(0.0)
    end(taken, 0.0, Outcome.KEY_TIRED)
    end(taken, 0.0, Outcome.KEY_DEAD)
    taken.learn(0.0, used_up(Window.REQUESTS, 30.0))
    assert keys.status(0.0) == before
    assert (before[0].in_flight, before[0].limits[0].remaining) == (0, 900)


# Parking


def test_a_refused_key_is_parked_with_its_reason_and_gets_one_call_per_look() -> None:
    keys = pool(key("a"))
    end(lease(keys, 0.0), 0.0, Outcome.KEY_DEAD, reason="answered 401 authentication_error")
    assert wait(keys, 0.0) == KeyWait(math.inf, "all keys parked")
    assert keys.available(0.0) == 0
    (status,) = keys.status(1.0)
    assert (status.state, status.reason) == (KeyState.PARKED, "answered 401 authentication_error")
    assert status.wait == PARK_LOOK - 1.0

    assert keys.available(PARK_LOOK) == 1
    look = lease(keys, PARK_LOOK)
    assert wait(keys, PARK_LOOK + 1).reason == "all keys parked"
    end(look, PARK_LOOK + 2, Outcome.KEY_DEAD)
    assert wait(keys, 2 * PARK_LOOK).reason == "all keys parked"
    assert lease(keys, 2 * PARK_LOOK + 2).key == "a"


@pytest.mark.parametrize("outcome", [Outcome.ANSWERED, Outcome.TRUNCATED, Outcome.STALLED])
def test_a_parked_key_that_answers_is_good_again(outcome: Outcome) -> None:
    keys = pool(key("a"))
    end(lease(keys, 0.0), 0.0, Outcome.KEY_DEAD)
    end(lease(keys, PARK_LOOK), PARK_LOOK, outcome)
    assert [status.state for status in keys.status(PARK_LOOK)] == [KeyState.USABLE]
    assert lease(keys, PARK_LOOK).key == "a"


@pytest.mark.parametrize("outcome", [Outcome.PROVIDER_ILL, Outcome.CLIENT_GONE, Outcome.CALLERS_FAULT])
def test_a_look_that_proves_nothing_leaves_the_key_parked(outcome: Outcome) -> None:
    keys = pool(key("a"))
    end(lease(keys, 0.0), 0.0, Outcome.KEY_DEAD)
    end(lease(keys, PARK_LOOK), PARK_LOOK, outcome)
    assert wait(keys, 2 * PARK_LOOK - 1).reason == "all keys parked"


def test_what_began_before_a_parking_tells_nothing_about_the_time_after() -> None:
    keys = pool(key("a"))
    answered, refused, first = (lease(keys, 0.0) for _ in range(3))
    end(first, 1.0, Outcome.KEY_DEAD)
    end(answered, 2.0, Outcome.ANSWERED)
    assert wait(keys, 2.0).reason == "all keys parked"
    repaired = pool(key("a"))
    repaired.adopt(keys)
    end(refused, 3.0, Outcome.KEY_DEAD)
    assert lease(repaired, 3.0).key == "a"


def test_the_wait_names_what_the_keys_wait_for() -> None:
    keys = pool(key("a"), key("b"), key("c"), key("d", rpm=1))
    end(lease(keys, 0.0), 0.0, Outcome.KEY_TIRED)
    end(lease(keys, 0.0), 0.0, Outcome.KEY_TIRED)
    end(lease(keys, 0.0), 0.0, Outcome.KEY_DEAD)
    lease(keys, 0.0)
    assert wait(keys, 0.0).reason == "2 keys cooling, 1 key out of quota, 1 key parked"
    assert [status.state.value for status in keys.status(0.0)] == ["cooling", "cooling", "parked", "exhausted"]
    assert keys.available(0.0) == 0


# Reloads


def test_a_reload_keeps_cooldowns_usage_and_leases_and_takes_the_new_limits() -> None:
    old = pool(key("a", rpm=10), key("b"), key("gone"))
    running = lease(old, 0.0)
    end(lease(old, 0.0), 0.0, Outcome.KEY_TIRED, 30.0)
    new = pool(key("new"), key("b"), key("a", rpm=5))
    new.adopt(old)
    statuses = {status.id: status for status in new.status(0.0)}
    assert list(statuses) == ["new", "b", "a"]
    assert statuses["b"].state is KeyState.COOLING
    assert statuses["a"].in_flight == 1
    assert (statuses["a"].limits[0].limit, statuses["a"].limits[0].remaining) == (5, 5)
    end(running, 1.0, Outcome.KEY_TIRED, 100.0)
    after = {status.id: status for status in new.status(1.0)}
    assert (after["a"].in_flight, after["a"].state, after["a"].wait) == (0, KeyState.COOLING, 100.0)
    assert lease(new, 1.0).key == "new"


def test_a_reload_gives_parked_keys_another_chance() -> None:
    old = pool(key("a"))
    end(lease(old, 0.0), 0.0, Outcome.KEY_DEAD)
    new = pool(key("a"))
    new.adopt(old)
    assert lease(new, 0.0).key == "a"


# Everything together, against a simple model.

KEYS = (
    key("plain", 1),
    key("other", 1),
    key("limited", 1, rpm=3, otpm=1000),
    key("spare", 0, weight=2.0),
)
NAMES = st.sampled_from([one.id for one in KEYS] + ["stranger"])
OUTPUT = st.integers(0, 1500)


@dataclass
class Running:
    lease: KeyLease
    parkings: int


@dataclass
class Use:
    at: float
    output: int


class Pools(RuleBasedStateMachine):
    """The model: when each key may be used again, who is parked, what is under way, and a log of all that was used."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.pool = KeyPool(KEYS, "least_loaded", Random(3))
        self.not_before = {one.id: 0.0 for one in KEYS}
        self.look_at: dict[str, float] = {}
        self.parkings = Counter({one.id: 0 for one in KEYS})
        self.running: list[Running] = []
        self.settled: list[KeyLease] = []
        self.uses: list[Use] = []  # of the limited key
        self.use_of: dict[KeyLease, Use] = {}

    def may(self, name: str) -> bool:
        """Whether the key may be used, its own limits aside."""
        return self.not_before[name] <= self.now and self.look_at.get(name, 0.0) <= self.now

    @rule(strategy=st.sampled_from(["least_loaded", "round_robin", "random", "weighted"]))
    def reload(self, strategy: str) -> None:
        new = KeyPool(KEYS, strategy, Random(5))
        new.adopt(self.pool)
        self.pool = new
        self.look_at.clear()

    @rule(seconds=st.one_of(st.floats(0, 5), st.floats(0, 100), st.just(PARK_LOOK)))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(output=OUTPUT, excluded=st.sets(NAMES, max_size=3), preferred=st.one_of(st.none(), NAMES))
    def choose(self, output: int, excluded: set[str], preferred: str | None) -> None:
        given = self.pool.choose(self.now, Demand(0, output), excluded=excluded, preferred=preferred)
        usable = {one.id for one in KEYS if one.id not in excluded and self.may(one.id)}
        certain = usable - {"limited"}
        if isinstance(given, KeyWait):
            assert not certain
            assert given.until > self.now
            self.check_wait(given, output, excluded)
            return
        assert given.key in usable
        if preferred in certain:
            assert given.key == preferred
        elif given.key == "spare" and preferred != "spare":
            assert certain == {"spare"}
        self.dispatched(given, output)

    def dispatched(self, given: KeyLease, output: int) -> None:
        if given.key in self.look_at:
            self.look_at[given.key] = self.now + PARK_LOOK
        if given.key == "limited":
            self.uses.append(Use(self.now, min(output, 1000)))
            self.use_of[given] = self.uses[-1]
        self.running.append(Running(given, self.parkings[given.key]))

    def check_wait(self, given: KeyWait, output: int, excluded: set[str]) -> None:
        left = [one.id for one in KEYS if one.id not in excluded]
        assert (given.reason == "all keys parked") == (len(left) == len(KEYS) and self.look_at.keys() >= set(left))
        if given.until == math.inf:
            assert all(name in self.look_at for name in left)
            return
        waiting = [self.not_before[name] for name in left if name not in self.look_at and name != "limited"]
        if "limited" in left and "limited" not in self.look_at:
            # Its own limits are full again after a minute, and debts cannot arise here.
            assert given.until <= max(self.now + 60.01, self.not_before["limited"])
        elif waiting:
            assert given.until == min(waiting)
        self.now = given.until
        after = self.pool.choose(self.now, Demand(0, output), excluded=excluded)
        assert isinstance(after, KeyLease)
        self.dispatched(after, output)

    @precondition(lambda self: self.running)
    @rule(
        data=st.data(),
        outcome=st.sampled_from(Outcome),
        share=st.one_of(st.none(), st.floats(0, 1)),
        retry_after=st.one_of(st.none(), st.floats(0.1, 200)),
        reset=st.one_of(st.none(), st.floats(0.1, 200)),
    )
    def settle(
        self, data: st.DataObject, outcome: Outcome, share: float | None, retry_after: float | None, reset: float | None
    ) -> None:
        ended = self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))
        name = ended.lease.key
        usage = None
        use = self.use_of.get(ended.lease)
        if share is not None:
            output = int((use.output if use else 100) * share)
            usage = Usage(output=output)
            if use:
                use.output = output
        elif use and outcome in (Outcome.CALLERS_FAULT, Outcome.UNFIT, Outcome.KEY_TIRED, Outcome.KEY_DEAD):
            use.output = 0
        learned = None if reset is None else used_up(Window.INPUT, reset)
        ended.lease.settle(self.now, outcome, usage, retry_after, learned)
        self.settled.append(ended.lease)

        rest = reset
        if outcome is Outcome.KEY_TIRED:
            rest = retry_after or reset or 60.0
        if rest is not None:
            self.not_before[name] = max(self.not_before[name], self.now + rest)
        if ended.parkings == self.parkings[name]:
            if outcome is Outcome.KEY_DEAD:
                self.look_at[name] = self.now + PARK_LOOK
                self.parkings[name] += 1
            elif outcome in (Outcome.ANSWERED, Outcome.TRUNCATED, Outcome.STALLED):
                self.look_at.pop(name, None)

    @precondition(lambda self: self.settled)
    @rule(data=st.data(), outcome=st.sampled_from(Outcome))
    def settle_again(self, data: st.DataObject, outcome: Outcome) -> None:
        ended = data.draw(st.sampled_from(self.settled))
        before = self.pool.status(self.now)
        ended.settle(self.now, outcome, Usage(output=9), 50.0, used_up(Window.OUTPUT, 70.0))
        assert self.pool.status(self.now) == before

    @invariant()
    def the_status_tells_what_is_under_way_and_who_rests(self) -> None:
        flying = Counter(running.lease.key for running in self.running)
        for status in self.pool.status(self.now):
            assert status.in_flight == flying[status.id]
            assert (status.state is KeyState.PARKED) == (status.id in self.look_at)
            cooling = self.not_before[status.id] > self.now and status.id not in self.look_at
            assert (status.state is KeyState.COOLING) == cooling
            assert (status.reason == "") == (status.state is KeyState.USABLE)

    @invariant()
    def what_is_available_can_be_had(self) -> None:
        certain = sum(self.may(one.id) for one in KEYS if one.id != "limited")
        assert certain <= self.pool.available(self.now) <= certain + self.may("limited")

    @invariant()
    def no_span_of_time_sees_more_than_the_limit_and_its_refill(self) -> None:
        for first, start in enumerate(self.uses):
            tokens = 0
            for requests, use in enumerate(self.uses[first:], 1):
                tokens += use.output
                refill = 1 + (use.at - start.at) / 60
                assert requests <= 3 * refill + 1e-3
                assert tokens <= 1000 * refill + 1


TestPools = Pools.TestCase
