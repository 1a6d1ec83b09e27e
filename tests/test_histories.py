"""What is known of who wrote to a session's history."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ccrelay.core.histories import Histories
from ccrelay.core.thinking import SIGNATURE_TTL

ONE, TWO = b"1" * 32, b"2" * 32
ANSWERS = st.lists(st.tuples(st.sampled_from(["claude", "glm", "ollama"]), st.booleans(), st.booleans()))


def answered(histories: Histories, *families: str, scope: bytes = ONE, now: float = 0.0) -> None:
    for family in families:
        histories.answered(scope, family, now, others=False, distrusted=False)


def test_a_session_that_was_not_seen_may_hold_anything() -> None:
    assert not Histories().written_by(ONE, "claude", 0.0)


def test_a_session_that_one_family_answered_is_that_familys_alone() -> None:
    histories = Histories()
    answered(histories, "claude", "claude")
    assert histories.written_by(ONE, "claude", 1.0)
    assert not histories.written_by(ONE, "glm", 1.0)
    assert not histories.written_by(TWO, "claude", 1.0)


def test_who_came_back_to_a_family_still_holds_the_others_blocks() -> None:
    histories = Histories()
    answered(histories, "claude", "glm", "claude")
    assert not histories.written_by(ONE, "claude", 1.0)


def test_blocks_that_were_taken_out_come_again_with_the_next_call() -> None:
    histories = Histories()
    histories.answered(ONE, "claude", 0.0, others=True, distrusted=False)
    assert not histories.written_by(ONE, "claude", 1.0)


def test_what_was_refused_once_is_not_trusted_again() -> None:
    histories = Histories()
    histories.answered(ONE, "claude", 0.0, others=False, distrusted=True)
    answered(histories, "claude")
    assert histories.of(ONE, 1.0).distrusted
    assert not histories.written_by(ONE, "claude", 1.0)


def test_a_session_is_forgotten_with_the_signatures_of_its_answers() -> None:
    histories = Histories()
    answered(histories, "claude", now=10.0)
    assert histories.written_by(ONE, "claude", 10.0 + SIGNATURE_TTL - 1)
    assert not histories.written_by(ONE, "claude", 10.0 + SIGNATURE_TTL)


@given(answers=ANSWERS)
def test_a_history_is_one_familys_only_if_nothing_ever_said_otherwise(answers: list[tuple[str, bool, bool]]) -> None:
    histories = Histories()
    for family, others, distrusted in answers:
        histories.answered(ONE, family, 0.0, others=others, distrusted=distrusted)
    pure = {family for family, _, _ in answers} == {"claude"} and not any(o or d for _, o, d in answers)
    assert histories.written_by(ONE, "claude", 0.0) == pure
