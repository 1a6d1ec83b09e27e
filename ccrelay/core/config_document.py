"""A configuration file once parsed: its tree, the line of every value, and the complaints gathered about it.

Rule of this file and of all ``config_*`` modules: a value of the file never goes into a message, a key only if it looks
like one. What an operator typed in the wrong place may be a secret.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ccrelay.errors import Problem

Path = tuple[str | int, ...]
"""Where a value is: keys and list indices from the root, such as ``("providers", 0, "name")``."""

MAX_TEXT = 256 * 1024
"""Characters of a file. A thousand providers fit; YAML of this size takes seconds to read, and a reload waits."""

MAX_VALUES = 20_000
"""Values of a document, aliases counted each time they are used: far above any real file, far below a YAML bomb."""

MAX_DEPTH = 24
"""Levels of nesting; the deepest key there is has six."""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,39}")
_LABEL = re.compile(r"[ -~]{1,80}")


class TooLargeError(Exception):
    """A document passes MAX_DEPTH or MAX_VALUES. ``line``: 1-based, or None."""

    def __init__(self, line: int | None) -> None:
        self.line = line
        super().__init__(line)


@dataclass(frozen=True, slots=True)
class Document:
    """What a parser made of a file.

    tree: the top-level mapping of plain values; None if nothing can be said beyond ``problems``.
    lines: the 1-based line of each value whose line is known. problems: what the parser itself found.
    """

    tree: dict[str, Any] | None
    lines: Mapping[Path, int]
    problems: tuple[Problem, ...]

    def line(self, path: Path) -> int | None:
        """The line of the value at ``path``, or of the nearest one around it, or None."""
        return next((self.lines[path[:n]] for n in range(len(path), 0, -1) if path[:n] in self.lines), None)


@dataclass(slots=True)
class Report:
    """The complaints about one document, gathered by path."""

    document: Document
    _errors: dict[tuple[Path, str], Problem] = field(default_factory=dict)
    _warnings: dict[tuple[Path, str], Problem] = field(default_factory=dict)

    def error(self, path: Path, message: str) -> None:
        """The file cannot be used because of this. Saying the same twice counts once."""
        self._errors[path, message] = self._problem(path, message)

    def warn(self, path: Path, message: str) -> None:
        """The operator should know this, but the file can be used."""
        self._warnings[path, message] = self._problem(path, message)

    def clean(self, *paths: Path) -> bool:
        """Whether nothing is wrong at any of the paths, above or below: only then may a rule look at the values."""
        return not any(found[: len(path)] == path[: len(found)] for found, _ in self._errors for path in paths)

    @property
    def errors(self) -> tuple[Problem, ...]:
        """All errors in file order, those the parser found included."""
        return in_file_order((*self.document.problems, *self._errors.values()))

    @property
    def warnings(self) -> tuple[Problem, ...]:
        return in_file_order(tuple(self._warnings.values()))

    def _problem(self, path: Path, message: str) -> Problem:
        return Problem(format_path(path), self.document.line(path), message)


def unreadable(line: int | None, message: str) -> Document:
    """The Document of a file of which nothing more than this can be said."""
    return Document(None, {}, (Problem("", line, message),))


def too_large(error: TooLargeError) -> Document:
    """The Document of a file that passes a bound."""
    return unreadable(error.line, "nested too deeply, or too much of it: no configuration looks like this")


def in_file_order(problems: tuple[Problem, ...]) -> tuple[Problem, ...]:
    """Sorted by line; those without a line first, as they concern the file as a whole."""
    return tuple(sorted(problems, key=lambda problem: (problem.line or 0, problem.path)))


def format_path(path: Path) -> str:
    """The path as an operator would write it: ``providers[0].model_mapping["claude-haiku-4-5"]``."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        elif _NAME.fullmatch(part) and is_showable(part):
            text += f".{part}" if text else part
        else:
            text += f"[{json.dumps(part) if is_showable(part) else '...'}]"
    return text


def is_showable(key: str) -> bool:
    """Whether a key of the file may stand in a message: it is short, printable, and not the beginning of an API key."""
    return _LABEL.fullmatch(key) is not None and not key.startswith("sk-")


def is_name(key: str) -> bool:
    """Whether a key of the file looks like a key of a configuration rather than like anything else."""
    return _NAME.fullmatch(key) is not None and is_showable(key)
