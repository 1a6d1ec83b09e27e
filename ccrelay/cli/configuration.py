"""Which configuration a subcommand is about."""

from __future__ import annotations

import os

from ccrelay.cli.refusal import Refusal
from ccrelay.core.config import find_config
from ccrelay.core.settings import Settings
from ccrelay.errors import ConfigError
from ccrelay.tap import read_configuration


def configuration_path(named: str | None) -> str:
    """The absolute path of its file. named: what ``--config`` said, None: it is searched for, as the daemon does.

    Raises Refusal if there is none.
    """
    path = find_config(named, os.getcwd(), os.path.expanduser("~"), os.path.exists)
    if path is None:
        raise Refusal("no configuration found; name one with --config PATH, or make one with `cc-relay init`")
    return os.path.abspath(path)


def settings_of(named: str | None) -> Settings:
    """What the configuration says, as the daemon reads it. Raises Refusal with everything that is wrong with it."""
    path = configuration_path(named)
    try:
        return read_configuration(path).settings
    except (OSError, UnicodeDecodeError) as error:
        raise Refusal(f"{path}: {getattr(error, 'strerror', None) or error}") from None
    except ConfigError as error:
        raise Refusal(str(error)) from None
