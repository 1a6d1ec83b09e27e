"""Which of the upstream's model names stands for the one that a client asked for."""

from __future__ import annotations

from collections.abc import Mapping


def mapped_model(asked: str, mapping: Mapping[str, str]) -> str | None:
    """What ``mapping`` says about ``asked``, or None if it says nothing.

    An exact name wins, then the longest key with a trailing ``*`` whose beginning fits; ``*`` alone fits everything.
    """
    exact = mapping.get(asked)
    if exact is not None:
        return exact
    fitting = [key for key in mapping if key.endswith("*") and asked.startswith(key[:-1])]
    return mapping[max(fitting, key=len)] if fitting else None


def map_model(asked: str, mapping: Mapping[str, str]) -> str:
    """The upstream's name for ``asked``: as ``mapped_model`` says, else itself."""
    found = mapped_model(asked, mapping)
    return asked if found is None else found
