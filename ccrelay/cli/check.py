"""``cc-relay check``: what ``twistd ccrelay --check`` says, without twistd."""

from __future__ import annotations

import argparse
from typing import Any

from ccrelay.tap import Options, makeService


def run(arguments: argparse.Namespace) -> int:
    """Print every warning, and every error or that there is none. Ends the process as the daemon's own check does."""
    options: Any = Options()  # type: ignore[no-untyped-call]
    options.parseOptions(["--check", *(["--config", arguments.config] if arguments.config is not None else [])])
    makeService(options)
    raise AssertionError("the check ends the process")
