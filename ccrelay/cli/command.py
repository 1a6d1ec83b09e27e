"""The entry point: reads the arguments, runs one subcommand, and turns how it ended into an exit status.

0: done, and all is well. 1: it could not be done, or what was examined is not well. 2: the arguments are wrong.
130: interrupted. A subcommand's module is imported only when it is asked for: most need no Twisted.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module

from ccrelay.cli.parser import build_parser
from ccrelay.cli.refusal import Refusal


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. arguments: without the program's name; None: the process's own. Returns the exit status.

    Raises SystemExit where argparse or the daemon ends the process.
    """
    parsed = build_parser().parse_args(arguments)
    module = import_module(f"ccrelay.cli.{parsed.module}")
    try:
        status: int = module.run(parsed)
        sys.stdout.flush()
    except Refusal as refusal:
        print(f"cc-relay: {refusal}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        # Whoever read us has enough. Python would complain again when it flushes at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 130
    return status
