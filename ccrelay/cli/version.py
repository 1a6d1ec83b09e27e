"""``cc-relay version``: what a report of a fault should begin with."""

from __future__ import annotations

import argparse
import platform
from importlib import metadata

from ccrelay import __version__

_LIBRARIES = ("Twisted", "treq", "PyYAML", "jsonschema", "pyOpenSSL")
_OPTIONAL = {"botocore": "bedrock", "google-auth": "vertex", "prometheus-client": "metrics"}
"""Distributions that not everybody needs, and the extra of ours that brings each."""


def run(_: argparse.Namespace) -> int:
    """Print a line for each."""
    print(f"cc-relay {__version__}")
    print(f"Python {platform.python_version()}")
    for name in _LIBRARIES:
        print(f"{name} {_version_of(name) or 'is missing'}")
    for name, extra in _OPTIONAL.items():
        print(f"{name} {_version_of(name) or f'not installed (the extra {extra})'}")
    return 0


def _version_of(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
