"""Session affinity: where a session goes back to, for how long, and when it must not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from ccrelay.core import affinity
from ccrelay.core.affinity import Affinity, Home, home_first, scope_digest, stays

PRINCIPALS = st.sampled_from([b"", b"a" * 32, b"b" * 32])
SESSIONS = st.sampled_from(["", "1", "2", "\u00e4\udcff"])
HOMES = st.builds(Home, st.sampled_from(["near", "far"]), st.sampled_from([None, "k1", "k2"]))


class Sessions(RuleBasedStateMachine):
    """The model: a home and the time of the last answer, for each session of each principal."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.ttl = 10.0
        self.real = Affinity(self.ttl)
        self.model: dict[tuple[bytes, str], tuple[Home, float]] = {}

    def forget_the_idle(self) -> None:
        self.model = {key: entry for key, entry in self.model.items() if self.now < entry[1] + self.ttl}

    @rule(seconds=st.integers(0, 12))
    def time_passes(self, seconds: int) -> None:
        self.now += seconds
        self.forget_the_idle()

    @rule(principal=PRINCIPALS, session=SESSIONS, home=HOMES)
    def answered(self, principal: bytes, session: str, home: Home) -> None:
        self.real.settle(principal, session, home.provider, home.key, self.now)
        self.model[principal, session] = (home, self.now)

    @rule(ttl=st.sampled_from([1.0, 10.0, 30.0]))
    def reloaded(self, ttl: float) -> None:
        self.real.change_ttl(ttl, self.now)
        self.ttl = ttl
        self.forget_the_idle()

    @rule(principal=PRINCIPALS, session=SESSIONS)
    def asked(self, principal: bytes, session: str) -> None:
        known = self.model.get((principal, session))
        assert self.real.find(principal, session, self.now) == (known and known[0])

    @invariant()
    def bounded(self) -> None:
        assert len(self.real) <= 12  # three principals with four sessions


TestSessions = Sessions.TestCase


def test_a_session_that_only_asks_goes_idle() -> None:
    homes = Affinity(10.0)
    homes.settle(b"", "s", "near", "k", 0.0)
    for second in range(10):
        assert homes.find(b"", "s", float(second)) == Home("near", "k")
    assert homes.find(b"", "s", 10.0) is None


def test_the_session_that_was_quiet_for_longest_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(affinity, "CAPACITY", 3)
    homes = Affinity(1000.0)
    for number in range(3):
        homes.settle(b"", str(number), "near", "k", float(number))
    homes.settle(b"", "0", "near", "k", 3.0)
    homes.settle(b"", "new", "near", "k", 4.0)
    assert [homes.find(b"", name, 5.0) is not None for name in ("0", "1", "2", "new")] == [True, False, True, True]
    homes.change_ttl(2000.0, 5.0)
    homes.settle(b"", "newer", "near", "k", 6.0)
    assert len(homes) == 3
    assert homes.find(b"", "2", 6.0) is None


def test_however_long_a_session_id_is_its_scope_has_32_bytes() -> None:
    assert len(scope_digest(b"p" * 32, "s" * 100_000)) == 32


@given(
    st.tuples(st.binary(max_size=4), st.none() | st.text(max_size=4)),
    st.tuples(st.binary(max_size=4), st.none() | st.text(max_size=4)),
)
def test_no_client_gets_into_anothers_scope(one: tuple[bytes, str | None], other: tuple[bytes, str | None]) -> None:
    assert (scope_digest(*one) == scope_digest(*other)) == (one == other)


def test_a_session_id_cannot_imitate_a_principal() -> None:
    assert scope_digest(b"", "4:abcd") != scope_digest(b"4:ab", "cd")
    assert scope_digest(b"a", "\1b") != scope_digest(b"a\1", "b")


# -- yielding

PRIORITIES = {"best": 2, "good": 1, "peer": 1, "last": 0}


@pytest.mark.parametrize(
    ("strategy", "order", "expected"),
    [
        ("failover", ("best", "good", "peer"), ("best", "good", "peer")),  # a better one is back: the session moves
        ("failover", ("good", "peer", "last"), ("peer", "good", "last")),  # an equal one is no reason to move
        ("failover", ("peer", "last"), ("peer", "last")),
        ("failover", ("best", "good"), ("best", "good")),  # home is ill: it is not brought back
        ("round_robin", ("best", "good", "peer"), ("peer", "best", "good")),
        ("weighted_failover", ("last", "best", "peer"), ("peer", "last", "best")),
        ("model_based", ("best",), ("best",)),  # the model is not served at home
        ("shuffle", (), ()),
    ],
)
def test_a_session_goes_home_unless_home_is_out_of_use_or_must_yield(
    strategy: str, order: tuple[str, ...], expected: tuple[str, ...]
) -> None:
    assert home_first(Home("peer", "k"), order, PRIORITIES, strategy) == expected


def test_a_session_without_a_home_leaves_the_order_as_it_is() -> None:
    assert home_first(None, ("last", "best"), PRIORITIES, "round_robin") == ("last", "best")


@given(
    home=st.sampled_from(sorted(PRIORITIES)),
    order=st.permutations(sorted(PRIORITIES)).flatmap(lambda names: st.integers(0, 4).map(lambda n: names[:n])),
    strategy=st.sampled_from(["failover", "least_loaded"]),
)
def test_nobody_is_lost_or_added_and_failover_never_prefers_a_lower_priority(
    home: str, order: list[str], strategy: str
) -> None:
    result = home_first(Home(home, None), order, PRIORITIES, strategy)
    assert sorted(result) == sorted(order)
    assert [name for name in result if name != home] == [name for name in order if name != home]
    kept = stays(Home(home, None), order, PRIORITIES, strategy)
    if kept:
        assert result[0] == home
    if strategy == "failover":
        assert kept == (home in order and all(PRIORITIES[home] >= PRIORITIES[name] for name in order))
    else:
        assert kept == (home in order)
