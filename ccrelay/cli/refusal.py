"""How a subcommand ends when it cannot do what was asked."""

from __future__ import annotations


class Refusal(Exception):
    """The command ends with status 1 and this message: what is wrong, where, and what to do. It holds no secret."""
