"""Expansion of ``${NAME}``, ``${NAME:-default}``, ``${file:PATH}`` and ``$$`` inside one string.

Rules:
- What an expansion yields is text and is not looked at again: a ``$`` in a secret stays a ``$``.
- A default and a path may hold expansions themselves: ``${file:${CREDENTIALS_DIRECTORY}/key}``. A default is expanded
  only if it is used, and it is used when the variable is unset or empty, as in a shell.
- ``$`` before a letter or an underscore is refused, as it looks like a forgotten brace; elsewhere it stands for itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

_MAX_NESTING = 8  # more than anybody writes; bounds the recursion
_MAX_FILE = 64 * 1024  # characters: the files named here hold one credential each
_TOKEN = re.compile(r"\$\$|\$\{|\}|\$(?=[A-Za-z_])")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_LINE_END = re.compile(r"\r?\n\Z")
_PRINTABLE = re.compile(r"[ -~]{1,200}")
_FORMS = "use ${NAME}, ${NAME:-default} or ${file:PATH}"
_UNCLOSED = f"a `${{` without `}}`: {_FORMS}, or $$ for the character `$`"


@dataclass(frozen=True, slots=True)
class _Variable:
    name: str
    default: tuple[_Part, ...] | None


@dataclass(frozen=True, slots=True)
class _File:
    """``written``: the path as it stands in the configuration, unexpanded, for messages."""

    path: tuple[_Part, ...]
    written: str


_Part = str | _Variable | _File


class _MalformedError(Exception):
    """The text is not well-formed; the argument says how, without quoting it."""


def has_reference(text: str) -> bool:
    """Whether the value of ``text`` depends on the environment or on a file. False for a malformed text."""
    try:
        return any(not isinstance(part, str) for part in _parse(text))
    except _MalformedError:
        return False


def expand(text: str, environ: Mapping[str, str], read_file: Callable[[str], str]) -> tuple[str, tuple[str, ...]]:
    """Expand ``text``.

    read_file: gives a file's text; raises OSError, or ValueError for what is not text.
    Returns the expanded text and everything that went wrong; the text means nothing if anything did. The complaints
    name variables and paths as written in ``text``, never a value.
    """
    try:
        parts = _parse(text)
    except _MalformedError as error:
        return "", (str(error),)
    evaluation = _Evaluation(environ, read_file, [])
    return evaluation.text(parts), tuple(evaluation.complaints)


def _parse(text: str) -> tuple[_Part, ...]:
    parts, at = _parse_until(text, 0, 0)
    assert at == len(text)
    return parts


def _parse_until(text: str, at: int, depth: int) -> tuple[tuple[_Part, ...], int]:
    """The parts from ``at`` up to the brace that closes this level (to the end at level 0), and where that is."""
    parts: list[_Part] = []
    while token := _TOKEN.search(text, at):
        parts.append(text[at : token.start()])
        at = token.end()
        if token[0] == "$$":
            parts.append("$")
        elif token[0] == "${":
            part, at = _parse_reference(text, at, depth + 1)
            parts.append(part)
        elif token[0] == "$":
            raise _MalformedError("a `$` before a letter: write ${NAME} for a variable, or $$ for the character `$`")
        elif depth:
            return tuple(parts), token.start()
        else:
            parts.append("}")
    if depth:
        raise _MalformedError(_UNCLOSED)
    parts.append(text[at:])
    return tuple(parts), len(text)


def _parse_reference(text: str, at: int, depth: int) -> tuple[_Part, int]:
    """What stands between ``${`` and its ``}``, and the position after that brace."""
    if depth > _MAX_NESTING:
        raise _MalformedError("too many `${` inside one another")
    if text.startswith("file:", at):
        path, end = _parse_until(text, at + 5, depth)
        written = text[at + 5 : end]
        return _File(path, written if _PRINTABLE.fullmatch(written) else "named here"), end + 1
    name = _NAME.match(text, at)
    if name is None:
        raise _MalformedError(f"what follows `${{` is not the name of a variable: {_FORMS}")
    at = name.end()
    if text.startswith("}", at):
        return _Variable(name[0], None), at + 1
    if at == len(text):
        raise _MalformedError(_UNCLOSED)
    if not text.startswith(":-", at):
        raise _MalformedError(f"this form of `${{` is not known: {_FORMS}")
    default, end = _parse_until(text, at + 2, depth)
    return _Variable(name[0], default), end + 1


@dataclass(frozen=True, slots=True)
class _Evaluation:
    environ: Mapping[str, str]
    read_file: Callable[[str], str]
    complaints: list[str]

    def text(self, parts: tuple[_Part, ...]) -> str:
        return "".join(part if isinstance(part, str) else self._value(part) for part in parts)

    def _value(self, part: _Variable | _File) -> str:
        if isinstance(part, _File):
            return self._contents(part)
        value = self.environ.get(part.name)
        if part.default is not None:
            return value or self.text(part.default)
        if value is None:
            self.complaints.append(
                f"the environment variable {part.name} is not set: set it, or write ${{{part.name}:-default}}"
            )
        return value or ""

    def _contents(self, part: _File) -> str:
        before = len(self.complaints)
        path = self.text(part.path)
        if len(self.complaints) > before:
            return ""
        try:
            contents = self.read_file(path)
        except OSError as error:
            self.complaints.append(f"cannot read the file {part.written}: {error.strerror or 'unknown reason'}")
            return ""
        except ValueError:
            self.complaints.append(f"the file {part.written} is not text in UTF-8")
            return ""
        if len(contents) > _MAX_FILE:
            self.complaints.append(f"the file {part.written} is larger than {_MAX_FILE} characters: no credential is")
        return _LINE_END.sub("", contents)
