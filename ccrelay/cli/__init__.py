"""The ``cc-relay`` command: what an operator types. One file per subcommand; ``parser`` has all their options."""

from __future__ import annotations

from ccrelay.cli.command import main

__all__ = ["main"]
