"""``python -m ccrelay.cli``: the command where its script is not installed, as in a checkout."""

from __future__ import annotations

import sys

from ccrelay.cli.command import main

if __name__ == "__main__":
    sys.exit(main())
