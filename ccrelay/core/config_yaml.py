"""YAML text to a Document: the safe subset, duplicate keys refused, a line for every value, no YAML bombs.

Departures from PyYAML's safe loader, each because a configuration needs it: dates stay text (``2024-06-01`` is an API
version here), keys must be text, tags beyond YAML's own scalars are refused, numbers must be finite.
"""

from __future__ import annotations

import math
from typing import Any

import yaml
from yaml.constructor import ConstructorError, SafeConstructor
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from ccrelay.core.config_document import (
    MAX_DEPTH,
    MAX_VALUES,
    Document,
    Path,
    TooLargeError,
    format_path,
    too_large,
    unreadable,
)
from ccrelay.errors import Problem

_TAG = "tag:yaml.org,2002:"
_TEXT = frozenset({_TAG + "str", _TAG + "timestamp", _TAG + "value", _TAG + "merge", "!"})

# What PyYAML says, by a part of it, and what it means to somebody who edits a configuration. Its own words are not
# passed on: they can quote the file.
_SYNTAX = (
    ("'\\t'", "a tab cannot be used here: indent with spaces"),
    ("mapping values are not", "this `:` cannot stand here: is the indentation right, or does a text need quotes?"),
    ("could not find expected ':'", "a key without `:`: is a `: ` or a closing quote missing near here?"),
    ("scanning a quoted scalar", "a quote is opened here and never closed"),
    ("unknown escape", "`\\` in double quotes begins an escape sequence: use single quotes"),
    ("cannot start any token", "a text that begins with `@`, `` ` `` or `%` must be in quotes"),
    ("undefined alias", "`*` begins an alias, which is not defined: put a text that begins with `*` in quotes"),
    ("duplicate anchor", "the same anchor (`&name`) is defined twice"),
    ("single document", "a second document begins here (`---`): a configuration is one document"),
    ("parsing a flow", "a `[` or `{` is opened here and not closed properly"),
    ("expected <block end>", "the indentation does not fit the lines above"),
)


class _Composer(yaml.SafeLoader):
    """Builds nodes, not values; stops at MAX_DEPTH, long before the interpreter's own recursion limit."""

    _depth = 0

    def compose_node(self, parent: Node | None, index: int) -> Node | None:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise TooLargeError(self.line + 1)
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node


def parse_yaml(text: str) -> Document:
    """Parse a YAML configuration. Never raises; what is wrong is in the Document."""
    try:
        root = yaml.compose(text, Loader=_Composer)
        reader = _Reader()
        tree = None if root is None else reader.value(root, (), 1)
    except TooLargeError as error:
        return too_large(error)
    except yaml.MarkedYAMLError as error:
        return unreadable(_line(error), _explained(error))
    except yaml.reader.ReaderError as error:
        return unreadable(text.count("\n", 0, error.position) + 1, "a character that YAML does not allow")
    if tree is None and not reader.problems:
        return unreadable(None, "the file is empty; it needs at least `providers:`")
    if not isinstance(tree, dict):
        return unreadable(1, "the file must be a mapping at the top (`providers:` and so on)")
    return Document(tree, reader.lines, tuple(reader.problems))


def _line(error: yaml.MarkedYAMLError) -> int | None:
    """For something never closed, where it was opened: its end is the end of the file."""
    opened = error.context_mark is not None and error.context in (
        "while scanning a quoted scalar",
        "while parsing a flow sequence",
        "while parsing a flow mapping",
    )
    mark = error.context_mark if opened else error.problem_mark
    return None if mark is None else mark.line + 1


def _explained(error: yaml.MarkedYAMLError) -> str:
    said = f"{error.context} {error.problem}"
    return next((meaning for part, meaning in _SYNTAX if part in said), "this is not YAML")


class _Reader:
    """Turns nodes into plain values and notes their lines. ``problems``: what is wrong but does not stop it."""

    def __init__(self) -> None:
        self.lines: dict[Path, int] = {}
        self.problems: list[Problem] = []
        self._left = MAX_VALUES
        self._scalars = SafeConstructor()

    def value(self, node: Node, path: Path, depth: int) -> Any:
        """The plain value of a node. Raises TooLargeError; aliases make depth possible that the text has not."""
        self._left -= 1
        if depth > MAX_DEPTH or self._left < 0:
            raise TooLargeError(node.start_mark.line + 1)
        if path:
            self.lines.setdefault(path, node.start_mark.line + 1)
        if isinstance(node, MappingNode):
            return self._mapping(node, path, depth)
        if isinstance(node, SequenceNode) and node.tag == _TAG + "seq":
            return [self.value(item, (*path, i), depth + 1) for i, item in enumerate(node.value)]
        return self._scalar(node, path)

    def _mapping(self, node: MappingNode, path: Path, depth: int) -> dict[str, Any]:
        inherited: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if key_node.tag == _TAG + "merge":
                inherited |= self._merged(value_node, path, depth)
        own: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if key_node.tag == _TAG + "merge":
                continue
            if not isinstance(key_node, ScalarNode) or key_node.tag not in _TEXT:
                self._complain(path, line, "a key must be text: put it in quotes")
            elif key_node.value in own:
                first = self.lines[(*path, key_node.value)]
                self._complain((*path, key_node.value), line, f"given twice; it is already on line {first}")
            else:
                self.lines[(*path, key_node.value)] = line
                own[key_node.value] = self.value(value_node, (*path, key_node.value), depth + 1)
        return inherited | own

    def _merged(self, node: Node, path: Path, depth: int) -> dict[str, Any]:
        """What ``<<`` brings in: one mapping, or a list of them of which the first wins."""
        sources = node.value if isinstance(node, SequenceNode) else [node]
        merged: dict[str, Any] = {}
        for source in reversed(sources):
            if isinstance(source, MappingNode):
                merged |= self.value(source, path, depth + 1)
            else:
                self._complain(path, source.start_mark.line + 1, "`<<` must name a mapping")
        return merged

    def _scalar(self, node: Node, path: Path) -> Any:
        line = node.start_mark.line + 1
        if node.tag in _TEXT and isinstance(node, ScalarNode):
            return node.value
        kind = node.tag.removeprefix(_TAG)
        if not isinstance(node, ScalarNode) or kind not in ("null", "bool", "int", "float"):
            self._complain(path, line, "tags (`!...`) are not supported: put a text that begins with `!` in quotes")
            return None
        try:
            value = getattr(self._scalars, f"construct_yaml_{kind}")(node)
        except (ValueError, LookupError, ConstructorError):  # such as `!!int x`, or more digits than Python reads
            self._complain(path, line, "this number or truth value cannot be read")
            return None
        if isinstance(value, float) and not math.isfinite(value):
            self._complain(path, line, "the number must be finite")
            return None
        return value

    def _complain(self, path: Path, line: int, message: str) -> None:
        self.problems.append(Problem(format_path(path), line, message))
