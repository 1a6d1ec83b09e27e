"""Waiting for something to become true, with a deadline and a reason in the failure."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

PATIENCE = 15.0
"""Seconds until a condition that should hold at once is given up: far above what a busy two-core machine needs."""

_BETWEEN_LOOKS = 0.01


def wait_for(look: Callable[[], T], what: str, seconds: float = PATIENCE) -> T:
    """The first true value of ``look()``. Fails the test, naming ``what``, when there is none in time."""
    deadline = time.monotonic() + seconds
    while not (seen := look()):
        if time.monotonic() > deadline:
            raise AssertionError(f"after {seconds:g} s still not: {what}")
        time.sleep(_BETWEEN_LOOKS)
    return seen


def settled(look: Callable[[], T], quiet: float, what: str, seconds: float = PATIENCE) -> T:
    """The value of ``look()`` once it has not changed for ``quiet`` seconds."""
    last, since = look(), time.monotonic()

    def unchanged() -> bool:
        nonlocal last, since
        if (now := look()) != last:
            last, since = now, time.monotonic()
        return time.monotonic() - since >= quiet

    wait_for(unchanged, what, seconds)
    return last
