"""The list of models, as the SDKs page through it and as Claude Code's picker reads it."""

from __future__ import annotations

import json
import unittest
from collections.abc import Mapping
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from ccrelay.core.listing import ModelEntry, find_model, model_page, union
from ccrelay.errors import ClientError
from tests.provider_settings import provider_settings

CATALOGUE = {
    "claude-opus-5-5": ("Claude Opus 5.5", "2026-09-15T00:00:00Z"),
    "claude-sonnet-5": ("Claude Sonnet 5", "2026-03-10T00:00:00Z"),
    "claude-haiku-4-5": ("Claude Haiku 4.5", "2025-10-01T00:00:00Z"),
}


def entry(number: int) -> ModelEntry:
    return ModelEntry(f"m{number}", f"Model {number}", "2026-01-01T00:00:00Z", "anthropic", "north")


def page(
    entries: list[ModelEntry], limit: str | None = None, after: str | None = None, before: str | None = None
) -> Any:
    return json.loads(model_page(entries, limit, after, before))


class UnionTests(unittest.TestCase):
    def listed(self, *providers: tuple[str, str, tuple[str, ...], Mapping[str, str]]) -> list[tuple[str, str, str]]:
        settings = [
            provider_settings(type_, name=name, models=models, model_mapping=mapping)
            for name, type_, models, mapping in providers
        ]
        return [(e.id, e.display_name, e.provider) for e in union(settings, CATALOGUE)]

    def test_newest_first_and_unknown_dates_last_in_configured_order(self) -> None:
        self.assertEqual(
            [e[0] for e in self.listed(("a", "anthropic", ("claude-haiku-4-5", "zz", "aa", "claude-opus-5-5"), {}))],
            ["claude-opus-5-5", "claude-haiku-4-5", "zz", "aa"],
        )

    def test_a_model_of_several_providers_is_listed_once_for_the_first(self) -> None:
        self.assertEqual(
            self.listed(("a", "anthropic", ("claude-sonnet-5",), {}), ("b", "azure", ("claude-sonnet-5",), {})),
            [("claude-sonnet-5", "Claude Sonnet 5", "a")],
        )

    def test_mapped_names_are_listed_and_show_what_they_stand_for(self) -> None:
        mapping = {"claude-sonnet-5": "glm-5.2", "claude-glm": "glm-5.3", "claude-*": "glm-4.7"}
        self.assertEqual(
            self.listed(("z", "zai", ("glm-5.2",), mapping)),
            [
                ("claude-sonnet-5", "Claude Sonnet 5 (glm-5.2)", "z"),
                ("glm-5.2", "glm-5.2", "z"),
                ("claude-glm", "claude-glm (glm-5.3)", "z"),
            ],
        )

    def test_each_entry_names_the_kind_of_its_provider(self) -> None:
        entries = union([provider_settings("zai", name="cheap", models=("glm-5.2",))], CATALOGUE)
        self.assertEqual([(e.owned_by, e.provider) for e in entries], [("zai", "cheap")])


class PageTests(unittest.TestCase):
    def test_a_page_has_anthropics_shape(self) -> None:
        self.assertEqual(
            page([entry(1), entry(2)], "1"),
            {
                "data": [
                    {
                        "id": "m1",
                        "type": "model",
                        "display_name": "Model 1",
                        "created_at": "2026-01-01T00:00:00Z",
                        "owned_by": "anthropic",
                        "provider": "north",
                    }
                ],
                "first_id": "m1",
                "last_id": "m1",
                "has_more": True,
            },
        )

    def test_an_empty_list_is_a_page(self) -> None:
        self.assertEqual(page([]), {"data": [], "first_id": None, "last_id": None, "has_more": False})

    def test_twenty_models_unless_asked_otherwise(self) -> None:
        self.assertEqual(len(page([entry(n) for n in range(30)])["data"]), 20)
        self.assertEqual(len(page([entry(n) for n in range(30)], "1000")["data"]), 30)

    @given(total=st.integers(0, 30), limit=st.integers(1, 12), backwards=st.booleans())
    def test_paging_visits_every_model_once_in_order(self, total: int, limit: int, backwards: bool) -> None:
        entries = [entry(number) for number in range(total)]
        visited: list[str] = []
        cursor, more = (f"m{total - 1}" if backwards and total else None), True
        if cursor:
            visited = [cursor]
        while more:
            got = page(entries, str(limit), *((None, cursor) if backwards else (cursor, None)))
            ids = [model["id"] for model in got["data"]]
            visited = ids + visited if backwards else visited + ids
            cursor, more = got["first_id"] if backwards else got["last_id"], got["has_more"]
        self.assertEqual(visited, [e.id for e in entries])

    def test_both_cursors_cut_from_both_sides(self) -> None:
        got = page([entry(number) for number in range(6)], None, "m1", "m4")
        self.assertEqual([model["id"] for model in got["data"]], ["m2", "m3"])

    def test_limits_outside_the_api_are_refused_in_its_words(self) -> None:
        for limit, words in (
            ("0", "greater than or equal to 1"),
            ("-3", "greater than or equal to 1"),
            ("1001", "less than or equal to 1000"),
            ("ten", "valid integer"),
            ("", "valid integer"),
            ("1.5", "valid integer"),
            ("٣", "valid integer"),
            ("9" * 5000, "valid integer"),
        ):
            with self.subTest(limit=limit[:10]), self.assertRaises(ClientError) as caught:
                model_page([entry(1)], limit, None, None)
            self.assertEqual((caught.exception.status, caught.exception.kind), (400, "invalid_request_error"))
            self.assertRegex(caught.exception.message, f"^limit: .*{words}")

    def test_a_cursor_that_is_not_in_the_list_is_refused_and_named(self) -> None:
        for cursors, name in ((("gone", None), "after_id"), ((None, "gone"), "before_id")):
            with self.assertRaises(ClientError) as caught:
                model_page([entry(1)], None, *cursors)
            self.assertEqual(caught.exception.status, 400)
            self.assertIn(name, caught.exception.message)


class FindTests(unittest.TestCase):
    def test_one_model_is_what_the_list_says_of_it(self) -> None:
        entries = [entry(1), entry(2)]
        self.assertEqual(json.loads(find_model(entries, "m2")), page(entries)["data"][1])

    def test_a_model_that_is_not_listed_is_not_found(self) -> None:
        with self.assertRaises(ClientError) as caught:
            find_model([entry(1)], "m9")
        self.assertEqual((caught.exception.status, caught.exception.kind), (404, "not_found_error"))
