"""Validation of a tree against the schema, in words of our own.

jsonschema finds what is wrong; its messages quote the value, so none of them is used.
"""

from __future__ import annotations

import difflib
import functools
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from jsonschema import Draft202012Validator

from ccrelay.core.config_document import Path, Report, is_name
from ccrelay.core.config_schema import Schema, config_schema, resolved, types_of

_WANTED = {
    "object": "a mapping (`key: value`)",
    "array": "a list",
    "string": "text",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
}


@dataclass(frozen=True, slots=True)
class _Fault:
    """What jsonschema found. schema: the one that ``value`` breaks; keyword: what stands under the broken keyword."""

    path: Path
    value: Any
    schema: Any
    keyword: Any


def validate(tree: dict[str, Any], report: Report, opaque: Collection[Path]) -> None:
    """Report everything in which the tree differs from the schema; keys of older files as warnings.

    opaque: texts whose value is not known, because a variable is unset or the provider is disabled. Nothing is said
    about their contents.
    """
    for error in _validator().iter_errors(tree):
        fault = _Fault(tuple(error.absolute_path), error.instance, error.schema, error.validator_value)
        if fault.path not in opaque:
            _SAY[str(error.validator)](fault, report)


def suggestion(given: object, known: Iterable[str]) -> str:
    """``; did you mean `x`?`` for the known name most like the given one, or nothing. Never shows what was given."""
    names = {name.lower(): name for name in known}
    close = difflib.get_close_matches(given.lower(), names, 1, 0.65) if isinstance(given, str) else []
    return f"; did you mean `{names[close[0]]}`?" if close else ""


@functools.cache
def _validator() -> Draft202012Validator:
    return Draft202012Validator(config_schema())


def _say_type(fault: _Fault, report: Report) -> None:
    wanted = types_of(fault.schema)
    message = f"must be {' or '.join(_WANTED[kind] for kind in wanted)}"
    if fault.value is None:
        message += ", but nothing stands here"
    elif isinstance(fault.value, str) and {"integer", "number", "boolean"} & set(wanted):
        message += ", not text: leave out the quotes; what `${...}` gives must be exactly that"
    elif "string" in wanted and not isinstance(fault.value, (dict, list)):
        message += ": put it in quotes"
    report.error(fault.path, message)


def _say_enum(fault: _Fault, report: Report) -> None:
    report.error(fault.path, f"must be one of {', '.join(fault.keyword)}{suggestion(fault.value, fault.keyword)}")


def _say_required(fault: _Fault, report: Report) -> None:
    for name in fault.keyword:
        if name not in fault.value:
            report.error((*fault.path, name), f"is required{_for_example(fault.path, name)}")


def _say_dependent(fault: _Fault, report: Report) -> None:
    for name, needed in fault.keyword.items():
        for other in needed:
            if name in fault.value and other not in fault.value:
                report.error((*fault.path, other), f"is required beside `{name}`")


def _say_unknown(fault: _Fault, report: Report) -> None:
    known, legacy = fault.schema["properties"], fault.schema.get("x-legacy", {})
    kind, kinds = fault.value.get("type"), known.get("type", {}).get("enum", ())
    fitting = [name for name in known if kind not in kinds or kind in known[name].get("x-types", kinds)]
    for key, value in fault.value.items():
        if key in known:
            continue
        if key in legacy:
            report.warn((*fault.path, key), f"has no effect any more: {legacy[key]}")
            continue
        hint = suggestion(key, fitting) or _elsewhere(key)
        # A key without a value is more likely a text that lost its key (``{sk-...}``) than a key: not shown.
        if is_name(key) and value is not None:
            report.error((*fault.path, key), f"unknown key{hint}")
        else:
            report.error(fault.path, f"holds an unknown key{hint}")


def _say_bounds(fault: _Fault, report: Report) -> None:
    low, high = fault.schema["minimum"], fault.schema.get("maximum")
    report.error(fault.path, f"must be at least {low}" if high is None else f"must be between {low} and {high}")


def _say_empty(fault: _Fault, report: Report) -> None:
    report.error(fault.path, f"must not be empty{_example(fault.schema)}")


def _say_pattern(fault: _Fault, report: Report) -> None:
    report.error(fault.path, f"is not of the right form{_example(fault.schema)}")


_SAY: Final[dict[str, Callable[[_Fault, Report], None]]] = {
    "type": _say_type,
    "enum": _say_enum,
    "required": _say_required,
    "dependentRequired": _say_dependent,
    "additionalProperties": _say_unknown,
    "minimum": _say_bounds,
    "maximum": _say_bounds,
    "minLength": _say_empty,
    "minItems": _say_empty,
    "pattern": _say_pattern,
}
"""How each keyword of the schema is put into words; a keyword that is not here cannot be used in the schema."""


def _for_example(path: Path, name: str) -> str:
    place: Schema = config_schema()
    for part in (*path, name):
        place = resolved(place["items"] if isinstance(part, int) else place["properties"][part])
    if "enum" in place:
        return f": one of {', '.join(place['enum'])}"
    return f", such as `{name}: {place['examples'][0]}`" if "examples" in place else ""


def _example(schema: Schema) -> str:
    return f"; an example: {schema['examples'][0]}" if "examples" in schema else ""


def _elsewhere(key: str) -> str:
    """Where a key belongs that is known, but not where it stands; nothing for those that exist all over."""
    places = sorted(_sections().get(key, ()))
    return f"; it belongs under {' or '.join(f'`{place}`' for place in places)}" if 1 <= len(places) <= 2 else ""


@functools.cache
def _sections() -> dict[str, set[str]]:
    """The sections in which each key of the schema exists, those of the top level aside."""
    found: dict[str, set[str]] = {}
    for section, key in _keys(config_schema(), ""):
        if section:
            found.setdefault(key, set()).add(section)
    return found


def _keys(schema: Schema, section: str) -> Iterator[tuple[str, str]]:
    schema = resolved(schema)
    for key, place in schema.get("properties", {}).items():
        yield section, key
        yield from _keys(place, f"{section}.{key}".lstrip("."))
    if "items" in schema:
        yield from _keys(schema["items"], f"{section}[]")
