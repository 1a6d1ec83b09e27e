"""Putting what others wrote on an operator's terminal."""

from __future__ import annotations


def printable(text: str) -> str:
    """``text`` with everything escaped that a terminal could take for a command, line breaks among it."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def shortened(text: str, most: int) -> str:
    """``text``, or its beginning and how much was left out."""
    return text if len(text) <= most else f"{text[:most]}... ({len(text) - most} more characters)"
