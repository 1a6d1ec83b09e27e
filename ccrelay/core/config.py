"""The configuration: where its file is, and how its text becomes Settings.

    text -> Document (config_yaml, config_toml) -> expanded (config_expand) -> valid (config_validate, the schema)
         -> with defaults (config_schema) -> consistent (config_check) -> Settings (config_build)

Every step goes on after a mistake, so that the operator sees all of them at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ccrelay.core.config_build import build_settings
from ccrelay.core.config_check import check_given, check_rules
from ccrelay.core.config_document import MAX_TEXT, Path, Report, in_file_order
from ccrelay.core.config_expand import expand, has_reference
from ccrelay.core.config_schema import Node, coerced, nodes, put, with_defaults, without_empty_sections
from ccrelay.core.config_toml import parse_toml
from ccrelay.core.config_validate import validate
from ccrelay.core.config_yaml import parse_yaml
from ccrelay.core.settings import Settings
from ccrelay.errors import ConfigError, Problem

Syntax = Literal["yaml", "toml"]
Environ = Mapping[str, str]
ReadFile = Callable[[str], str]


@dataclass(frozen=True, slots=True)
class Loaded:
    """A configuration that can be used. ``warnings``: what the operator should know all the same, in file order."""

    settings: Settings
    warnings: tuple[Problem, ...]


def find_config(cli_path: str | None, cwd: str, home: str, exists: Callable[[str], bool]) -> str | None:
    """The path of the configuration file to use.

    cli_path: what ``--config`` said; taken as it is. cwd, home: absolute directories; an empty home is passed over.
    exists: whether a path is a file. Returns None if there is no file anywhere.
    """
    if cli_path is not None:
        return cli_path
    places = [cwd, f"{home}/.config/cc-relay"] if home else [cwd]
    candidates = [f"{place.rstrip('/')}/config.{ending}" for place in places for ending in ("yaml", "toml")]
    return next((path for path in [*candidates, "/etc/cc-relay.yaml"] if exists(path)), None)


def load(text: str, *, source: str, syntax: Syntax, environ: Environ, read_file: ReadFile) -> Loaded:
    """Read a configuration.

    text: the file's contents. source: its name, for messages. environ: for ``${NAME}``. read_file: for
    ``${file:PATH}``; gives a file's text, raises OSError, or ValueError for what is not text.
    Raises ConfigError with every problem found; nothing of the file may be used then.
    """
    text = text.removeprefix("\ufeff")
    if len(text) > MAX_TEXT:
        raise ConfigError(source, (Problem("", None, f"larger than {MAX_TEXT} characters"),))
    document = parse_yaml(text) if syntax == "yaml" else parse_toml(text)
    if document.tree is None:
        raise ConfigError(source, in_file_order(document.problems))
    report = Report(document)
    tree = without_empty_sections(document.tree)
    opaque = _expand_tree(tree, environ, read_file, report)
    validate(tree, report, opaque)
    check_given(tree, report)
    tree = with_defaults(tree)
    check_rules(tree, report)
    if report.errors:
        raise ConfigError(source, report.errors)
    return Loaded(build_settings(tree), report.warnings)


def _expand_tree(tree: dict[str, Any], environ: Environ, read_file: ReadFile, report: Report) -> frozenset[Path]:
    """Expand the tree's texts in place. Returns the paths of those whose value stays unknown.

    Whether a provider is enabled is found out first: the texts of a disabled one are only looked at for their form.
    """
    texts = [node for node in nodes(tree) if isinstance(node.value, str) and "$" in node.value]
    switches = [node for node in texts if len(node.path) == 3 and node.path[::2] == ("providers", "enabled")]
    opaque: set[Path] = set()

    def expand_node(node: Node) -> None:
        value, complaints = expand(node.value, environ, read_file)
        for complaint in complaints:
            report.error(node.path, complaint)
        if complaints:
            opaque.add(node.path)
        else:
            put(tree, node.path, coerced(value, node.schema) if has_reference(node.value) else value)

    for node in switches:
        expand_node(node)
    disabled = {("providers", i) for i, provider in enumerate(_listed(tree)) if _is_disabled(provider)}
    for node in texts:
        if node in switches:
            continue
        if node.path[:2] not in disabled or not has_reference(node.value):
            expand_node(node)
        else:
            opaque.add(node.path)
    return frozenset(opaque)


def _listed(tree: dict[str, Any]) -> list[Any]:
    providers = tree.get("providers")
    return providers if isinstance(providers, list) else []


def _is_disabled(provider: Any) -> bool:
    return isinstance(provider, dict) and provider.get("enabled") is False
