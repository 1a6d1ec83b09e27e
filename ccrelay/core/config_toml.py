"""TOML text to a Document, with lines for what stands on a line of its own."""

from __future__ import annotations

import math
import re
import tomllib
from datetime import date, time
from typing import Any

from ccrelay.core.config_document import MAX_DEPTH, Document, Path, TooLargeError, format_path, too_large, unreadable
from ccrelay.errors import Problem

_PLACE = re.compile(r"\(at line (\d+), column \d+\)")
_HEADER = re.compile(r"\s*(\[\[?)([^\[\]]+)\]")
_KEY = re.compile(r"\s*([A-Za-z0-9_\-.\"' ]+?)\s*=")

# What tomllib says, by a part of it. Its own words are not passed on: some quote the file.
_SYNTAX = (
    ("Cannot overwrite", "given twice"),
    ("Duplicate", "given twice"),
    ("Cannot declare", "this table is already defined"),
    ("Cannot mutate", "this table is already defined"),
    ("Expected '=' after a key", "a key without `=`"),
    ('Expected "\'"', "a quote is not closed"),
    ("at end of document", "the file ends in the middle of something: is a `[`, a `{` or a quote not closed?"),
    ("Invalid value", "this value cannot be read: a text needs quotes"),
    ("Unclosed", "a `[` or `{` is not closed properly"),
    ("Illegal character", "a character that cannot stand here: is a quote not closed?"),
    ("Expected newline", "nothing can follow here on the line: does a text need quotes?"),
    ("Unescaped", "`\\` in double quotes begins an escape sequence: use single quotes"),
)


def parse_toml(text: str) -> Document:
    """Parse a TOML configuration. Never raises; what is wrong is in the Document."""
    try:
        tree = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        return _syntax_error(text, str(error))
    except (ValueError, RecursionError):  # numbers and nesting beyond what Python itself reads
        return unreadable(None, "the file cannot be read: a number is too long, or it is nested too deeply")
    if not tree:
        return unreadable(None, "the file is empty; it needs at least one `[[providers]]`")
    lines = {path: line for path, line in _lines(text).items() if _exists(tree, path)}
    problems: list[Problem] = []
    try:
        return Document(_plain(tree, (), lines, problems), lines, tuple(problems))
    except TooLargeError as error:
        return too_large(error)


def _syntax_error(text: str, said: str) -> Document:
    place = _PLACE.search(said)
    line = int(place[1]) if place else len(text.splitlines())
    return unreadable(line, next((meaning for part, meaning in _SYNTAX if part in said), "this is not TOML"))


def _plain(value: Any, path: Path, lines: dict[Path, int], problems: list[Problem]) -> Any:
    """The value with dates as text. Raises TooLargeError: dotted keys nest without tomllib's own recursion."""
    if len(path) > MAX_DEPTH:
        raise TooLargeError(None)
    if isinstance(value, dict):
        return {key: _plain(item, (*path, key), lines, problems) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item, (*path, i), lines, problems) for i, item in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        problems.append(Problem(format_path(path), lines.get(path), "the number must be finite"))
        return None
    return value.isoformat() if isinstance(value, (date, time)) else value


def _lines(text: str) -> dict[Path, int]:
    """Where tables and keys begin that stand on a line of their own. Approximate: inside inline tables, arrays and
    texts of several lines it knows nothing, or something about a path that does not exist.
    """
    lines: dict[Path, int] = {}
    counts: dict[Path, int] = {}
    table: Path = ()
    for number, line in enumerate(text.splitlines(), 1):
        if header := _HEADER.match(line):
            table = _resolved(_key_parts(header[2]), counts)
            if header[1] == "[[" and table:
                counts[table] = counts.get(table, -1) + 1
                lines.setdefault(table, number)
                table = (*table, counts[table])
            lines.setdefault(table, number)
        elif key := _KEY.match(line):
            lines.setdefault(table + _key_parts(key[1]), number)
    return lines


def _key_parts(key: str) -> tuple[str, ...]:
    """The parts of a dotted key; none if it is not one."""
    try:
        value: Any = tomllib.loads(f"{key} = 0")
    except tomllib.TOMLDecodeError:
        return ()
    parts: list[str] = []
    while isinstance(value, dict):
        [(part, value)] = value.items()
        parts.append(part)
    return tuple(parts)


def _resolved(parts: tuple[str, ...], counts: dict[Path, int]) -> Path:
    """The path of a table, with the index of the newest element wherever an outer part is an array of tables."""
    path: Path = ()
    for i, part in enumerate(parts):
        path = (*path, part)
        if path in counts and i < len(parts) - 1:
            path = (*path, counts[path])
    return path


def _exists(tree: Any, path: Path) -> bool:
    for part in path:
        if isinstance(part, int):
            if not isinstance(tree, list) or part >= len(tree):
                return False
        elif not isinstance(tree, dict) or part not in tree:
            return False
        tree = tree[part]
    return True
