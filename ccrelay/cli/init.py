"""``cc-relay init``: a configuration to begin with."""

from __future__ import annotations

import argparse
import os
import re

from ccrelay.cli.files import write_atomically
from ccrelay.cli.refusal import Refusal
from ccrelay.cli.templates import configuration_for

_OWNER_ONLY = 0o600
"""It may come to hold keys, whatever its comments say."""


def run(arguments: argparse.Namespace) -> int:
    """Write the file and say what is still to be done. Raises Refusal where a file would be lost."""
    types = list(dict.fromkeys(arguments.provider or ["anthropic", "simulator"]))
    path = os.path.abspath(arguments.output)
    if os.path.lexists(path) and not arguments.force:
        raise Refusal(f"{path} exists; choose another --output, or replace it with --force")
    text = configuration_for(types)
    try:
        write_atomically(path, text.encode(), mode=_OWNER_ONLY)
    except OSError as error:
        raise Refusal(f"{path} cannot be written: {error.strerror}") from None
    print(f"{path} is written.")
    unset = [name for name in re.findall(r"^[^#\n]*\$\{(\w+)\}", text, re.MULTILINE) if not os.environ.get(name)]
    if unset:
        print(f"Not set in this environment yet: {', '.join(unset)}")
    print(f"Then: cc-relay check --config {path} && cc-relay serve --config {path}")
    return 0
