"""``cc-relay serve``: the daemon in this process, with twistd's own option handling."""

from __future__ import annotations

import argparse
import sys


def run(arguments: argparse.Namespace) -> int:
    """Become ``twistd -n ccrelay``; returns when the relay has been stopped, as twistd does."""
    from twisted.scripts.twistd import run as run_twistd

    # No pid file: whoever starts it in the foreground has the process.
    sys.argv = ["twistd", "--nodaemon", "--pidfile=", "ccrelay"]
    if arguments.config is not None:
        sys.argv += ["--config", arguments.config]
    run_twistd()
    return 0
