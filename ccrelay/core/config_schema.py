"""The schema of the configuration, and what it says about the values of a tree: their types, their defaults."""

from __future__ import annotations

import copy
import functools
import importlib.resources
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ccrelay.core.config_document import Path

Schema = dict[str, Any]

AZURE_RESOURCE = "{azure_resource_name}"
"""What stands for that key's value in azure's default ``base_url``."""

_INTEGER = re.compile(r"-?[0-9]{1,18}")
_NUMBER = re.compile(r"-?[0-9]{1,18}(\.[0-9]{1,18})?")


@functools.cache
def config_schema() -> Schema:
    """The JSON Schema (draft 2020-12) of a configuration, from the package's data. Callers do not change it."""
    text = importlib.resources.files("ccrelay.data").joinpath("config.schema.json").read_text("utf-8")
    schema: Schema = json.loads(text)
    return schema


def resolved(schema: Schema) -> Schema:
    """The schema with its ``$ref``, if it has one, folded in; what stands beside the reference wins."""
    if "$ref" not in schema:
        return schema
    name = schema["$ref"].removeprefix("#/$defs/")
    definition: Schema = config_schema()["$defs"][name]
    return definition | schema


def types_of(schema: Schema) -> tuple[str, ...]:
    """The JSON types the schema allows; an ``enum`` here is always one of texts."""
    kind = schema.get("type", "string")
    return (kind,) if isinstance(kind, str) else tuple(kind)


@dataclass(frozen=True, slots=True)
class Node:
    """A value of a tree for which the schema has a place."""

    path: Path
    value: Any
    schema: Schema


def nodes(value: Any, schema: Schema | None = None, path: Path = ()) -> Iterator[Node]:
    """Every value of the tree that the schema knows, outer ones first; unknown keys are passed over."""
    schema = resolved(config_schema() if schema is None else schema)
    yield Node(path, value, schema)
    if isinstance(value, dict):
        others = schema.get("additionalProperties")
        for key, item in list(value.items()):
            place = schema.get("properties", {}).get(key, others)
            if isinstance(place, dict):
                yield from nodes(item, place, (*path, key))
    elif isinstance(value, list) and "items" in schema:
        for i, item in enumerate(value):
            yield from nodes(item, schema["items"], (*path, i))


def put(tree: Any, path: Path, value: Any) -> None:
    """Replace the value at ``path``, which exists and is not the root."""
    for part in path[:-1]:
        tree = tree[part]
    tree[path[-1]] = value


def coerced(text: str, schema: Schema) -> Any:
    """What an expanded text stands for where the schema wants something else: a number or a truth value.

    ``"60"`` becomes 60 where an integer is wanted, ``"true"`` becomes True where a boolean is; any other text stays a
    text, so that validation refuses it.
    """
    wanted = types_of(schema)
    if "integer" in wanted and _INTEGER.fullmatch(text):
        return int(text)
    if "number" in wanted and _NUMBER.fullmatch(text):
        return float(text)
    if "boolean" in wanted and text in ("true", "false"):
        return text == "true"
    return text


def without_empty_sections(tree: Any, schema: Schema | None = None) -> Any:
    """The tree without mappings and lists that are null: ``routing:`` with every line below it commented out."""
    schema = resolved(config_schema() if schema is None else schema)
    if isinstance(tree, list) and "items" in schema:
        return [without_empty_sections(item, schema["items"]) for item in tree]
    if not isinstance(tree, dict):
        return tree
    result = {}
    for key, value in tree.items():
        place = resolved(schema.get("properties", {}).get(key, {}))
        is_section = bool({"object", "array"} & {*types_of(place)}) and "string" not in types_of(place)
        if value is not None or not is_section:
            result[key] = without_empty_sections(value, place)
    return result


def with_defaults(value: Any, schema: Schema | None = None, kind: str | None = None) -> Any:
    """The tree with the schema's defaults where keys are missing.

    kind: the type of the provider around the value, for defaults that depend on it. What does not fit the schema is
    left as it is.
    """
    schema = resolved(config_schema() if schema is None else schema)
    if isinstance(value, list) and "items" in schema:
        return [with_defaults(item, schema["items"], kind) for item in value]
    if not isinstance(value, dict) or "properties" not in schema:
        return value
    if "type" in schema["properties"]:
        kind = value["type"] if isinstance(value.get("type"), str) else None
    result = dict(value)
    for key, place in schema["properties"].items():
        by_type = place.get("x-default-by-type", {})
        if key not in result and kind in by_type:
            result[key] = copy.deepcopy(by_type[kind])
        elif key not in result and "default" in place:
            result[key] = copy.deepcopy(place["default"])
        if key in result:
            result[key] = with_defaults(result[key], place, kind)
    return result
