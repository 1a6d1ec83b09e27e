"""The schema: sound in itself, and all that the pages and messages need."""

from __future__ import annotations

import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

from ccrelay.core import config_validate
from ccrelay.core.config_schema import coerced, config_schema, resolved, with_defaults

ROOT = Path(__file__).resolve().parent.parent
STRUCTURE = {"properties", "items", "$defs", "$ref", "allOf", "if", "then", "const", "type"}
NOTES = {"$schema", "title", "description", "default", "examples"}


def schemas(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every schema of a value, with the path of the value."""
    schema = resolved(schema)
    yield path, schema
    for key, place in schema.get("properties", {}).items():
        yield from schemas(place, f"{path}.{key}")
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            yield from schemas(schema[key], f"{path}[]")


def test_the_schema_is_one() -> None:
    Draft202012Validator.check_schema(config_schema())


def test_every_keyword_can_be_put_into_words() -> None:
    used = {keyword for _, schema in schemas(config_schema()) for keyword in schema if not keyword.startswith("x-")}

    assert used - STRUCTURE - NOTES <= {*config_validate._SAY}


def test_every_key_is_described() -> None:
    missing = [
        f"{path}.{key}"
        for path, schema in schemas(config_schema())
        for key, place in schema.get("properties", {}).items()
        if not place.get("description", "").endswith(".")
    ]

    assert missing == []


def test_every_object_says_which_keys_it_takes() -> None:
    assert [
        path
        for path, schema in schemas(config_schema())
        if schema.get("type") == "object" and "additionalProperties" not in schema
    ] == []


def test_the_defaults_fit_their_own_schema() -> None:
    for kind in config_schema()["$defs"]["provider"]["properties"]["type"]["enum"]:
        needed = {"bedrock": {"aws_region": "us-east-1"}, "vertex": {"gcp_project_id": "p", "gcp_region": "eu"}}
        tree = with_defaults(
            {"providers": [{"name": "a", "type": kind, "keys": [{"key": "k"}]} | needed.get(kind, {})]}
        )

        assert [error.message for error in Draft202012Validator(config_schema()).iter_errors(tree)] == []


def test_defaults_are_not_shared_between_trees() -> None:
    first = with_defaults({"providers": [{"type": "simulator"}]})
    first["providers"][0]["model_mapping"]["x"] = "y"
    first["server"]["auth"]["api_key"] = "z"

    assert with_defaults({"providers": [{"type": "simulator"}]})["providers"][0]["model_mapping"] == {}
    assert "api_key" not in with_defaults({})["server"]["auth"]


def test_a_text_is_taken_for_a_number_only_where_one_is_wanted() -> None:
    assert coerced("7", {"type": "integer"}) == 7
    assert coerced("7", {"type": "string"}) == "7"
    assert coerced("7.5", {"type": "number"}) == 7.5
    assert coerced("7.5", {"type": "integer"}) == "7.5"
    assert coerced("true", {"type": "boolean"}) is True
    assert coerced("1", {"type": "boolean"}) == "1"
    assert coerced("7", {"enum": ["7"]}) == "7"


def test_the_page_about_the_configuration_is_up_to_date() -> None:
    make = runpy.run_path(str(ROOT / "tools" / "make_configuration_docs.py"))

    assert make["render"](config_schema()) == (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
