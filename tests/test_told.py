"""What is said once."""

from __future__ import annotations

from ccrelay.core.told import MOST, ToldOnce


def test_a_thing_is_news_once_and_others_stay_news() -> None:
    told = ToldOnce()
    assert [told.is_news(thing) for thing in ("a", "b", "a", "b", "c")] == [True, True, False, False, True]


def test_whoever_makes_up_things_without_end_falls_silent() -> None:
    told = ToldOnce()
    news = [told.is_news(str(number)) for number in range(MOST + 50)]
    assert news == [True] * MOST + [False] * 50
