"""Loading configurations in tests: no environment and no files but those given."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping

import pytest

from ccrelay.core.config import Loaded, Syntax, load
from ccrelay.core.settings import ProviderSettings, Settings
from ccrelay.errors import ConfigError

SIMULATOR = "providers: [{name: demo, type: simulator}]\n"
"""The smallest complete configuration."""


def load_text(
    text: str,
    environ: Mapping[str, str] | None = None,
    files: Mapping[str, str] | None = None,
    syntax: Syntax = "yaml",
) -> Loaded:
    def read_file(path: str) -> str:
        if files is None or path not in files:
            raise FileNotFoundError(2, "No such file or directory", path)
        return files[path]

    return load(textwrap.dedent(text), source="relay.yaml", syntax=syntax, environ=environ or {}, read_file=read_file)


def settings_of(text: str, environ: Mapping[str, str] | None = None, **more: object) -> Settings:
    """The settings of a configuration that is right in every way: a warning fails the test."""
    loaded = load_text(text, environ, **more)  # type: ignore[arg-type]
    assert [str(warning) for warning in loaded.warnings] == []
    return loaded.settings


def provider_of(entry: str, environ: Mapping[str, str] | None = None) -> ProviderSettings:
    """The settings of a single provider, written as a YAML flow mapping."""
    [provider] = settings_of(f"providers:\n  - {entry}\n", environ).providers
    return provider


def problems_of(text: str, environ: Mapping[str, str] | None = None, **more: object) -> list[str]:
    """The complaints about a configuration that is refused."""
    with pytest.raises(ConfigError) as refused:
        load_text(text, environ, **more)  # type: ignore[arg-type]
    return [str(problem) for problem in refused.value.problems]


def warnings_of(text: str, environ: Mapping[str, str] | None = None) -> list[str]:
    """The warnings about a configuration that is taken."""
    return [str(warning) for warning in load_text(text, environ).warnings]
