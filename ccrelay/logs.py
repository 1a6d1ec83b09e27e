"""Where log events go: one line each, as JSON, text or console, to a stream or a file."""

from __future__ import annotations

import contextlib
import json
import re
import sys
from datetime import UTC, datetime
from typing import IO, Any

from twisted.logger import ILogObserver, LogEvent, LogLevel, formatEvent
from zope.interface import implementer

from ccrelay.core.access import AccessRecord, as_json, as_text
from ccrelay.core.attempt_record import AttemptRecord
from ccrelay.core.excerpt import BodyRecord, HeadersRecord
from ccrelay.core.settings import LoggingSettings

_LEVELS = {"debug": LogLevel.debug, "info": LogLevel.info, "warn": LogLevel.warn, "error": LogLevel.error}

_RECORDS = (AccessRecord, AttemptRecord, BodyRecord, HeadersRecord)

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")

MESSAGE_LENGTH = 8192
"""Characters of a message or a traceback kept: a deep traceback is a quarter of that."""


@implementer(ILogObserver)
class LineObserver:
    """Writes each event of ``level`` or above as one line; an event's ``record`` as its line.

    stream: text, line by line flushed. layout: ``json``, ``text`` or ``console`` (text without the date).
    """

    def __init__(self, stream: IO[str], layout: str, level: str) -> None:
        self._stream = stream
        self._layout = layout
        self._level = _LEVELS[level]
        self._output: str | None = None

    @classmethod
    def configured(cls, settings: LoggingSettings) -> LineObserver:
        """The observer that ``logging`` describes. Raises OSError if its file cannot be opened."""
        stream = _open(settings.output)
        observer = cls(stream, _layout(settings, stream), settings.level)
        observer._output = settings.output
        return observer

    def reconfigure(self, settings: LoggingSettings) -> None:
        """Write as ``settings`` say from the next line on. Raises OSError, and changes nothing, if the file cannot be
        opened."""
        stream = self._stream if settings.output == self._output else _open(settings.output)
        self._replace(stream)
        self._output, self._layout, self._level = settings.output, _layout(settings, stream), _LEVELS[settings.level]

    def reopen(self) -> None:
        """Go on in a new file of the same name: the old one was moved away. Raises OSError as ``reconfigure``."""
        if self._output is not None:
            self._replace(_open(self._output))

    def close(self) -> None:
        """Write nothing more to a file."""
        self._replace(sys.stderr)

    def _replace(self, stream: IO[str]) -> None:
        old, self._stream = self._stream, stream
        if old is not stream and old not in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError):  # on a full disk its last line may still wait
                old.close()

    def __call__(self, event: LogEvent) -> None:
        level = event.get("log_level", LogLevel.info)
        if level < self._level:
            return
        record = event.get("record")
        if isinstance(record, _RECORDS):
            line = as_json(record) if self._layout == "json" else as_text(record)
        else:
            line = self._line(event, level)
        try:
            try:
                self._stream.write(line + "\n")
            except UnicodeEncodeError:  # a terminal's encoding need not have every character
                self._stream.write(line.encode("ascii", "backslashreplace").decode("ascii") + "\n")
            self._stream.flush()
        except (OSError, ValueError):
            # A full disk or a closed pipe must not end the service, and there is no other place to complain.
            return

    def _line(self, event: LogEvent, level: Any) -> str:
        message = _one_line(formatEvent(event))
        namespace = str(event.get("log_namespace", "-"))
        when = datetime.fromtimestamp(event["log_time"], UTC).isoformat(timespec="milliseconds")
        failure = event.get("log_failure")
        trace = failure.getTraceback() if failure is not None else None
        if self._layout == "json":
            fields = {"time": when, "level": level.name, "logger": namespace, "message": message}
            if trace is not None:
                fields["traceback"] = trace[-MESSAGE_LENGTH:]
            return json.dumps(fields)
        shown = message if trace is None else f"{message}: {_one_line(trace[-MESSAGE_LENGTH:])}"
        clock = when[11:19] if self._layout == "console" else when
        return f"{clock} {level.name} [{namespace}] {shown}"


def _one_line(text: str) -> str:
    """No control character of a client or an upstream reaches a terminal, or begins a line of its own."""
    return _CONTROL.sub(lambda match: match.group().encode("unicode_escape").decode("ascii"), text[:MESSAGE_LENGTH])


def _open(output: str) -> IO[str]:
    if output == "stdout":
        return sys.stdout
    if output == "stderr":
        return sys.stderr
    return open(output, "a", encoding="utf-8", errors="backslashreplace")


def _layout(settings: LoggingSettings, stream: IO[str]) -> str:
    return settings.format or ("console" if stream.isatty() else "json")
