"""What the status page writes values as. Every text that goes into the page comes through ``text_of``."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import Final

from ccrelay.core.access import utc
from ccrelay.core.periods import Period, Sums
from ccrelay.core.tally import tokens_by_class

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
    if seconds < 10:
        return f"{seconds:.2g} s" if seconds < 1 else f"{seconds:.1f} s"
    for size, unit, smaller, small in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if seconds >= size:
            return f"{int(seconds // size)} {unit} {int(seconds % size // smaller)} {small}"
    return f"{seconds:.0f} s"


def number(value: float | None) -> str:
    """A count: exact below ten thousand, then with three or four digits."""
    if value is None:
        return UNKNOWN
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if value >= size:
            return f"{value / (1e3 if unit == 'k' else size):.1f} {unit}"
    return f"{int(value):,}".replace(",", "\u202f")


def money(cost: float | None) -> str:
    """US dollars; of less than one also what is below a cent."""
    return UNKNOWN if cost is None else f"${cost:.2f}" if cost >= 0.995 or cost == 0 else f"${cost:.4f}"


def all_tokens(sums: Sums) -> int:
    """Of all four classes."""
    return sum(count for _, count in tokens_by_class(sums.usage))


def sum_of(periods: Iterable[Period]) -> Sums:
    """All of them together."""
    total = Sums()
    for period in periods:
        total = total.plus(period.sums)
    return total


def clock(period: Period) -> str:
    """When it began, hours and minutes of UTC."""
    return (utc(period.start) or "")[11:16]
