"""What the status page writes values as. Every text that goes into the page comes through ``text_of``."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import Final

from ccrelay.core.access import utc
from ccrelay.core.periods import Period, Sums

UNKNOWN: Final = "-"

KINDS = {
    "ok": "good",
    "closed": "good",
    "usable": "good",
    "answered": "good",
    "half_open": "warn",
    "cooling": "warn",
    "exhausted": "warn",
    "draining": "warn",
    "callers_fault": "warn",
    "refused": "warn",
    "client_gone": "calm",
}
"""The style of a state's word; every other one is bad."""


def text_of(value: object) -> str:
    """Any value as text of the page; what is not known is a dash."""
    return UNKNOWN if value is None or value == "" else escape(str(value))


def mark(word: str) -> str:
    """The word for a state, styled."""
    return f'<span class="mark {KINDS.get(word, "bad")}">{text_of(word.replace("_", " "))}</span>'


def span(seconds: float | None) -> str:
    """A duration as people say it."""
    if seconds is None:
        return UNKNOWN
    if seconds < 1:
        return f"{1000 * seconds:.{1 if seconds < 0.01 else 0}f} ms"
    if seconds < 60:
        return f"{seconds:.{1 if seconds < 10 else 0}f} s"
    units = ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s"))
    size, unit, smaller, small = next(each for each in units if seconds >= each[0])
    return f"{int(seconds // size)} {unit} {int(seconds % size // smaller)} {small}"


def number(value: float | None) -> str:
    """A count: exact below ten thousand, then with three digits or more."""
    if value is None:
        return UNKNOWN
    for size, unit in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if value >= max(size, 10**4):
            return f"{value / size:.{1 if value < 100 * size else 0}f} {unit}".replace(".0 ", " ")
    return f"{int(value):,}".replace(",", "\u202f")


def money(cost: float | None) -> str:
    """US dollars; of less than one also what is below a cent."""
    return UNKNOWN if cost is None else f"${cost:.2f}" if cost >= 0.995 or cost == 0 else f"${cost:.4f}"


def all_tokens(sums: Sums) -> int:
    """Of all four classes."""
    return sum(count for _, count in sums.tokens())


def sum_of(periods: Iterable[Period]) -> Sums:
    """All of them together."""
    total = Sums()
    for period in periods:
        total.add(period.sums)
    return total


def clock(period: Period) -> str:
    """When it began, hours and minutes of UTC."""
    return (utc(period.start) or "")[11:16]
