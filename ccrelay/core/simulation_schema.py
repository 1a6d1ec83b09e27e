"""The simplest value that satisfies a JSON Schema: what the simulator puts into tool inputs and JSON answers. Pure."""

from __future__ import annotations

import math
from typing import Any

# A schema may refer to itself, or fan out at every level: both would never end. Real tool schemas stay far below.
_MAX_DEPTH = 16
_MAX_VALUES = 1000
_MAX_REPEAT = 1000  # minItems and minLength are the client's numbers; nobody reads more than this

_FORMATS = {
    "date": "2026-01-01",
    "date-time": "2026-01-01T00:00:00Z",
    "time": "00:00:00Z",
    "email": "nobody@example.com",
    "hostname": "example.com",
    "ipv4": "192.0.2.1",
    "uri": "https://example.com/",
    "uuid": "00000000-0000-4000-8000-000000000000",
}


def example(schema: object, name: str = "value") -> Any:
    """The simplest JSON value that ``schema`` allows.

    schema: a JSON Schema as parsed JSON; ``true`` and anything that is not an object allow everything.
    name: what the value is called, used as the text of plain strings.
    Understood: type, const, enum, properties, required, items, prefixItems, anyOf, oneOf, allOf, local ``$ref``,
    string formats, and the bounds of numbers, strings and arrays. Other keywords (``pattern``, ``not``, ...) are
    ignored, so a value may then miss them. Never raises; past the bounds above, null stands for what is missing.
    """
    return _Filler(schema).value(schema, name, 0)


class _Filler:
    """One walk through one schema. ``root``: what local references point into."""

    def __init__(self, root: object) -> None:
        self._root = root
        self._left = _MAX_VALUES

    def value(self, schema: object, name: str, depth: int) -> Any:
        self._left -= 1
        if depth > _MAX_DEPTH or self._left < 0:
            return None
        if not isinstance(schema, dict):
            return f"simulated {name}"
        if "const" in schema:
            return schema["const"]
        if isinstance(schema.get("enum"), list) and schema["enum"]:
            return schema["enum"][0]
        if "$ref" in schema:
            return self.value(self._resolve(schema["$ref"]), name, depth + 1)
        if isinstance(schema.get("allOf"), list):
            return self.value(_merged(schema), name, depth + 1)
        for keyword in ("anyOf", "oneOf"):
            options = schema.get(keyword)
            if isinstance(options, list) and options and "type" not in schema:
                return self.value(options[0], name, depth + 1)
        kind = _type_of(schema)
        if kind == "object":
            return self._object(schema, depth)
        if kind == "array":
            return self._array(schema, name, depth)
        if kind in ("integer", "number"):
            return _number(schema, whole=kind == "integer")
        if kind == "boolean":
            return False
        return None if kind == "null" else _string(schema, name)

    def _object(self, schema: dict[str, Any], depth: int) -> dict[str, Any]:
        properties = schema.get("properties")
        if not isinstance(properties, dict):
            properties = {}
        required = schema.get("required")
        names = [n for n in required if isinstance(n, str)] if isinstance(required, list) else []
        return {n: self.value(properties.get(n, True), n, depth + 1) for n in names[:_MAX_REPEAT]}

    def _array(self, schema: dict[str, Any], name: str, depth: int) -> list[Any]:
        first = schema.get("prefixItems")
        kinds = first if isinstance(first, list) else []
        least = int(min(max(_bound(schema, "minItems") or 0, 0), _MAX_REPEAT))
        rest = schema.get("items", True)
        return [self.value(kinds[i] if i < len(kinds) else rest, name, depth + 1) for i in range(least)]

    def _resolve(self, pointer: object) -> object:
        """What a local reference (``#/$defs/Name``) points to; True where it points nowhere."""
        if not isinstance(pointer, str) or not pointer.startswith("#"):
            return True
        found = self._root
        for part in pointer[1:].split("/")[1:]:
            part = part.replace("~1", "/").replace("~0", "~")
            if not isinstance(found, dict) or part not in found:
                return True
            found = found[part]
        return found


def _merged(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema with its ``allOf`` folded in: properties and required names are joined, other keywords overwrite."""
    merged = {key: value for key, value in schema.items() if key != "allOf"}
    for part in schema["allOf"]:
        if not isinstance(part, dict):
            continue
        for key, value in part.items():
            old = merged.get(key)
            if key == "properties" and isinstance(old, dict) and isinstance(value, dict):
                merged[key] = {**old, **value}
            elif key == "required" and isinstance(old, list) and isinstance(value, list):
                merged[key] = [*old, *value]
            else:
                merged[key] = value
    return merged


def _type_of(schema: dict[str, Any]) -> str:
    kind = schema.get("type")
    if isinstance(kind, list):
        return next((k for k in kind if isinstance(k, str) and k != "null"), "null")
    if isinstance(kind, str):
        return kind
    if "properties" in schema or "required" in schema:
        return "object"
    return "array" if "items" in schema else "string"


def _bound(schema: dict[str, Any], keyword: str) -> float | None:
    """The number under ``keyword``; None if absent, or beyond 10**15, where floats no longer tell integers apart."""
    value = schema.get(keyword)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not -1e15 <= value <= 1e15:
        return None
    return value


def _number(schema: dict[str, Any], *, whole: bool) -> int | float:
    low, above = _bound(schema, "minimum"), _bound(schema, "exclusiveMinimum")
    high, below = _bound(schema, "maximum"), _bound(schema, "exclusiveMaximum")
    if whole:
        most = min(1 if high is None else math.floor(high), 1 if below is None else math.ceil(below) - 1, 1)
        return max(most if low is None else math.ceil(low), most if above is None else math.floor(above) + 1, most)
    floor = max((x for x in (low, above) if x is not None), default=None)
    ceiling = min((x for x in (high, below) if x is not None), default=None)
    if floor is not None and ceiling is not None:
        return (floor + ceiling) / 2
    if ceiling is not None:
        return min(1, ceiling - 1)
    return 1 if floor is None else max(1, floor + 1)


def _string(schema: dict[str, Any], name: str) -> str:
    text = _FORMATS.get(str(schema.get("format")), f"simulated {name}")
    least, most = _bound(schema, "minLength") or 0, _bound(schema, "maxLength")
    text = text.ljust(int(min(least, _MAX_REPEAT)), ".")
    return text if most is None else text[: int(max(most, 0))]
