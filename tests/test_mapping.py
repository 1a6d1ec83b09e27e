"""Model names: exact, then the longest pattern, else as asked."""

from __future__ import annotations

import fnmatch
import unittest

from hypothesis import given
from hypothesis import strategies as st

from ccrelay.core.mapping import MappedModel, map_model, mapped_model

MAPPING = {
    "claude-opus-5": "big",
    "claude-*": "any",
    "claude-opus-*": "opus",
    "claude-opus-5-5*": "new",
    "glm": "glm-5.2",
}
NAMES = st.text("ab-", max_size=5)


class MappingTests(unittest.TestCase):
    def test_exact_beats_patterns_and_longer_patterns_beat_shorter(self) -> None:
        for asked, expected in (
            ("claude-opus-5", "big"),
            ("claude-opus-5-5", "new"),
            ("claude-opus-5-5-20261101", "new"),
            ("claude-opus-4-8", "opus"),
            ("claude-haiku-5-5", "any"),
            ("glm", "glm-5.2"),
            ("glm-4.7", "glm-4.7"),
            ("Claude-opus-5", "Claude-opus-5"),
        ):
            with self.subTest(asked=asked):
                self.assertEqual(map_model(asked, MAPPING).model, expected)

    def test_a_lone_star_catches_the_rest(self) -> None:
        self.assertEqual(map_model("", {"*": "all"}), MappedModel("all", "model_mapping"))

    def test_a_name_mapped_to_itself_is_a_hit(self) -> None:
        self.assertEqual(mapped_model("a", {"a": "a"}), "a")
        self.assertIsNone(mapped_model("b", {"a": "a"}))

    @given(asked=NAMES, mapping=st.dictionaries(st.builds(str.__add__, NAMES, st.sampled_from(["", "*"])), NAMES))
    def test_agrees_with_shell_patterns(self, asked: str, mapping: dict[str, str]) -> None:
        hits = [key for key in mapping if fnmatch.fnmatchcase(asked, key)]
        hits.sort(key=lambda key: (key != asked, -len(key)))
        self.assertEqual(mapped_model(asked, mapping), mapping[hits[0]] if hits else None)

    def test_the_configuration_goes_before_the_catalogue_and_the_catalogue_before_the_name_itself(self) -> None:
        self.assertEqual(map_model("a", {"a": "a"}, "b"), MappedModel("a", "model_mapping"))
        self.assertEqual(map_model("c", {"a": "a"}, "b"), MappedModel("b", "catalogue"))
        self.assertEqual(map_model("c", {"a": "a"}), MappedModel("c", None))

    def test_a_name_that_the_catalogue_leaves_as_it_is_has_been_given_by_nobody(self) -> None:
        self.assertEqual(map_model("c", {}, "c"), MappedModel("c", None))
