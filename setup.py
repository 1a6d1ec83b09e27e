"""Packaging of cc-relay: the ``ccrelay`` package and one Twisted plugin file.

``twisted.plugins`` is listed as a package although it has no ``__init__.py``: that directory is a plugin drop-in, and
an ``__init__.py`` of ours would hide Twisted's own. Twisted caches the plugins it found in ``dropin.cache`` beside them
and rewrites that file when it is stale; where the daemon may not write there, run ``twistd --help`` once after
installing, as the directory's owner.
"""

from __future__ import annotations

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).resolve().parent


def version() -> str:
    """The version in ``ccrelay/__init__.py``, read as text: building must not import what it builds."""
    text = (HERE / "ccrelay" / "__init__.py").read_text(encoding="utf-8")
    found = re.search(r'^__version__ = "([^"]+)"$', text, re.MULTILINE)
    if found is None:
        raise RuntimeError("ccrelay/__init__.py has no __version__ line")
    return found[1]


TEST = [
    "pytest>=7.2",
    "pytest-xdist>=3.1",
    "hypothesis>=6.67",
    "h11>=0.14",  # the independent HTTP implementation that the fakes under test speak through
    "anthropic>=0.125",  # the real client
    "boto3>=1.26",  # the official Bedrock client signs with it
    "botocore>=1.29",  # the extras, so that what needs them is tested
    "google-auth>=1.5.1",
    "requests>=2.28",
    "prometheus-client>=0.16",
    "setuptools>=66",  # the packaging test builds a wheel without a network
    "wheel>=0.38",
]

setup(
    name="cc-relay",
    version=version(),
    description="A streaming relay between Anthropic Messages clients and the providers that can answer them",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author="The cc-relay authors",
    license="MIT",
    license_files=["LICENSE"],
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Environment :: No Input/Output (Daemon)",
        "Framework :: Twisted",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3 :: Only",
        "Programming Language :: Python :: 3.11",
        "Topic :: Internet :: WWW/HTTP",
    ],
    packages=[*find_packages(include=["ccrelay", "ccrelay.*"]), "twisted.plugins"],
    package_data={"ccrelay": ["data/*", "py.typed"]},
    entry_points={"console_scripts": ["cc-relay = ccrelay.cli:main"]},
    zip_safe=False,  # Twisted looks for plugin files in directories
    python_requires=">=3.11",  # possessive regular expressions, tomllib
    # The floors are Debian bookworm's versions, and the suite runs on them. Releases of Twisted before 26.10 let a bare
    # CR or LF inside a header value through; ccrelay/web refuses such a request itself, so the floor is safe.
    install_requires=[
        "Twisted[tls]>=22.4",  # the reactor, the HTTP server and client; tls: providers are reached by https
        "treq>=22.2",  # the client side of every call
        "zope.interface>=5.5",  # the contracts in ccrelay/interfaces.py
        "PyYAML>=6.0",  # the configuration file
        "jsonschema>=4.10",  # validates it against ccrelay/data, every error at once
    ],
    extras_require={
        "bedrock": ["botocore>=1.29"],  # AWS request signatures and its credential chain
        "vertex": [
            "google-auth>=1.5.1",
            "requests>=2.28",
        ],  # Google access tokens, and what google-auth fetches them by
        "metrics": ["prometheus-client>=0.16"],
        "test": TEST,
        "dev": [*TEST, "ruff", "mypy", "mypy-zope", "types-PyYAML", "types-jsonschema"],
    },
)
