"""``twistd ccrelay``: options, and the composition root, the only place that knows everybody."""

from __future__ import annotations

import contextlib
import gc
import os
import resource
import sys
from collections.abc import Sequence
from random import SystemRandom
from typing import Any

from twisted.application.service import IService
from twisted.internet.protocol import Factory
from twisted.python import usage

from ccrelay import __version__
from ccrelay.core.config import find_config, load
from ccrelay.core.settings import Settings, TlsSettings
from ccrelay.errors import ConfigError, Problem
from ccrelay.handover import LISTENERS, as_before
from ccrelay.lean import poll_leanly
from ccrelay.listeners import Listeners, inherit
from ccrelay.logs import LineObserver
from ccrelay.notify import Notifier
from ccrelay.reloading import Changed, Source, look
from ccrelay.runtime import Runtime, cautions
from ccrelay.service import RelayService
from ccrelay.web.tls import UnusableTlsFile, tls_factory

SWITCH_SECONDS = 0.0005
"""After which a thread that reads a large body lets the reactor go on. Python's own 5 ms are waited at every system
call, so that a turn of ten took 50 ms; measured, this costs the thread nothing to speak of."""

CONFIG_BYTES = 1 << 20
"""Of a file read, the configuration's or a secret's: more than ``load`` takes, so that it says what is too large."""


class Options(usage.Options):
    """What ``twistd ccrelay`` takes."""

    synopsis = "Usage: twistd [options] ccrelay [--config PATH] [--check]"
    optParameters = [["config", "c", None, "The configuration file, YAML or TOML."]]  # noqa: RUF012
    optFlags = [["check", None, "Validate the configuration and exit: 0 if it can be used, 1 if not."]]  # noqa: RUF012
    longdesc = "Relays Anthropic Messages calls to the configured providers."

    def parseOptions(self, options: Sequence[str] | None = None) -> None:
        """As usage.Options, but a wrong option ends the process with 1; on Twisted 22.4 twistd itself exits 0."""
        if self.parent is not None and LISTENERS in os.environ:
            as_before(self.parent)
        try:
            super().parseOptions(options)
        except usage.UsageError as error:
            raise SystemExit(f"cc-relay: {error}\n{self.synopsis}") from None

    def opt_version(self) -> None:
        """Print the version and exit."""
        sys.stdout.write(f"cc-relay {__version__}\n")
        raise SystemExit(0)


def makeService(options: Options) -> IService:
    """The daemon, ready to be started by twistd.

    Raises SystemExit: with 0 after a successful ``--check``; with one readable message, hence status 1, if the
    configuration cannot be found or used.
    """
    from twisted.internet import reactor

    path = find_config(options["config"], os.getcwd(), os.path.expanduser("~"), os.path.exists)
    if path is None:
        raise SystemExit("cc-relay: no configuration found; name one with --config PATH")
    path = os.path.abspath(path)

    def make(settings: Settings, previous: Runtime | None) -> Runtime:
        return Runtime(settings, reactor, os.environ, SystemRandom(), previous)

    seen = look(path)
    try:
        changed = read_configuration(path)
        runtime = make(changed.settings, None)
    except (OSError, UnicodeDecodeError) as error:
        raise SystemExit(f"cc-relay: {path}: {getattr(error, 'strerror', None) or error}") from None
    except ConfigError as error:
        raise SystemExit(f"cc-relay: {error}") from None
    _tell(path, changed.warnings)
    if options["check"]:
        _check_tls(changed.settings.server.tls)
        sys.stdout.write(f"{path}: the configuration can be used\n")
        raise SystemExit(0)
    try:
        observer = LineObserver.configured(changed.settings.logging)
    except OSError as error:
        raise SystemExit(f"cc-relay: logging.output: {error}") from None
    poll_leanly(reactor)
    _take_all_descriptors()
    sys.setswitchinterval(SWITCH_SECONDS)
    reactor.callWhenRunning(_set_apart)
    try:
        listeners = Listeners(reactor, inherit(os.environ.pop(LISTENERS, None)))
    except ValueError as error:
        raise SystemExit(f"cc-relay: {LISTENERS}: {error}") from None
    notifier = Notifier.from_environ(os.environ, os.getpid())
    source = Source(path, lambda: read_configuration(path), make, seen)
    service: Any = RelayService(reactor, runtime, observer, source, listeners=listeners, notifier=notifier)
    return service  # type: ignore[no-any-return]


def _take_all_descriptors() -> None:
    """Raise the soft limit of open files to the hard one: each stream holds two, and shells start us with 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(ValueError, OSError):  # some systems have a hard limit that they do not grant
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def read_configuration(path: str) -> Changed:
    """The configuration in the file at ``path``, as the daemon reads it. Blocks.

    Raises ConfigError with every problem found, OSError, or UnicodeDecodeError.
    """
    loaded = load(
        _read(path),
        source=path,
        syntax="toml" if path.endswith(".toml") else "yaml",
        environ=os.environ,
        read_file=_read,
    )
    return Changed(loaded.settings, (*loaded.warnings, *cautions(loaded.settings)))


def _read(path: str) -> str:
    with open(path, encoding="utf-8") as file:
        text = file.read(CONFIG_BYTES + 1)
    if len(text) > CONFIG_BYTES:
        raise ConfigError(path, (Problem("", None, "the file is larger than 1 MiB"),))
    return text


def _set_apart() -> None:
    """Have the garbage collector pass over what was imported, which stays for good: a round after a reload is short."""
    gc.collect()
    gc.freeze()


def _check_tls(tls: TlsSettings | None) -> None:
    """Find out now what the listener would only at the start."""
    try:
        if tls is not None:
            tls_factory(tls, Factory())
    except UnusableTlsFile as error:
        raise SystemExit(f"cc-relay: server.tls: {error}") from None


def _tell(path: str, warnings: Sequence[Problem]) -> None:
    for warning in warnings:
        sys.stderr.write(f"cc-relay: {path}: warning: {warning}\n")
