"""Rules for the whole suite."""

from __future__ import annotations

import inspect

import pytest
from hypothesis import settings


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Refuse coroutine tests: in a trial TestCase on Debian's Twisted they pass without running."""
    for item in items:
        function = inspect.unwrap(getattr(item, "function", None) or (lambda: None))
        if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
            raise pytest.UsageError(
                f"{item.nodeid}: a coroutine test may pass unrun; return a Deferred from a plain one"
            )


# No test measures time: on a busy machine a deadline fails what is right.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")
