"""Betas and their fields go together, whatever a provider takes and has refused."""

from __future__ import annotations

import re
import unittest
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from ccrelay.core.pairs import (
    MAX_NAMES,
    Learned,
    Pair,
    PairMemory,
    PairTable,
    complaint_pairs,
    decide,
    header_betas,
    pair_data,
    pairs_for,
)
from tests.config_loading import provider_of, warnings_of

CLOUDS = ("bedrock", "mantle", "vertex")
TABLES = (*CLOUDS, "azure")
PAIRS: list[dict[str, Any]] = pair_data()["pairs"]
BETAS = [beta for pair in PAIRS for beta in pair["betas"]]
FIELDS = sorted({field for pair in PAIRS for field in pair.get("fields", ())})
NAMES = [pair["name"] for pair in PAIRS]
ODD_BETAS = ["new-feature-2027-01-01", "context-management-2027-01-01", "compact-2027-01-01", "dateless"]
ODD_FIELDS = ["brand_new", "output_config", "tools.brand_new"]
MODELS = ["claude-opus-5-5", "global.anthropic.claude-haiku-4-5-20251001-v1:0", "claude-sonnet-4-5@20250929", ""]
NONE: frozenset[str] = frozenset()
FIRST_PARTY = (
    "claude-code-20250219,interleaved-thinking-2025-05-14,context-management-2025-06-27,per-turn-control-2026-07-01,"
    "mid-conversation-tool-changes-2026-07-01,thinking-token-count-2026-05-13,advanced-tool-use-2025-11-20,"
    "effort-2025-11-24"
).split(",")
MEMBERS = "model messages system tools metadata max_tokens thinking context_management output_config stream".split()


def top(field: str) -> str:
    return field.partition(".")[0]


def version_of(beta: str, pair: Pair) -> bool:
    """Whether it is one of the pair's, in whatever version."""
    bare = [re.sub(r"-\d{4}-?\d\d-?\d\d$", "", name) for name in (beta, *pair.betas)]
    return beta in pair.betas or (beta not in BETAS and bare[0] != beta and bare[0] in bare[1:])


class TogetherTests(unittest.TestCase):
    @given(
        st.sampled_from(TABLES),
        st.sampled_from(MODELS),
        st.dictionaries(st.sampled_from([*BETAS, *NAMES, *ODD_BETAS, *ODD_FIELDS]), st.booleans(), max_size=3),
        st.lists(st.sampled_from(BETAS + ODD_BETAS), max_size=8),
        st.sets(st.sampled_from(FIELDS + ODD_FIELDS), max_size=8),
        st.sets(st.sampled_from(BETAS + ODD_BETAS + FIELDS + ODD_FIELDS + NAMES), max_size=3),
    )
    def test_a_field_never_goes_without_its_beta_nor_a_beta_without_its_field(
        self, name: str, model: str, overrides: dict[str, bool], betas: list[str], fields: set[str], drop: set[str]
    ) -> None:
        table = pairs_for(name, model, overrides)
        decision = decide(table, betas, {top(field) for field in fields}, frozenset(drop))
        gone = {f for f in fields if f in decision.remove | decision.nested or top(f) in decision.remove}
        for pair in table.pairs:
            asked = [beta for beta in betas if version_of(beta, pair)]
            sent = [beta for beta in decision.betas if version_of(beta, pair)]
            for field in fields.intersection(pair.fields):
                if field in gone:
                    self.assertEqual(sent, [], f"{pair.name} without {field}")
                elif asked and not sent:
                    others = [other for other in table.pairs if field in other.fields and other != pair]
                    self.assertTrue(
                        any(version_of(beta, other) for other in others for beta in decision.betas),
                        f"{field} without {pair.name}",
                    )

    @given(st.sampled_from(TABLES), st.lists(st.sampled_from(BETAS + ODD_BETAS)), st.sets(st.sampled_from(NAMES)))
    def test_betas_keep_their_order_and_come_once(self, name: str, betas: list[str], drop: set[str]) -> None:
        sent = decide(pairs_for(name, "m", {}), betas, (), frozenset(drop)).betas
        self.assertEqual(len(set(sent)), len(sent))
        renamed = {"advanced-tool-use-2025-11-20": "tool-search-tool-2025-10-19"} if name in CLOUDS else {}
        spelled = iter([renamed.get(beta, beta) for beta in betas])
        self.assertTrue(all(beta in spelled for beta in sent))

    @given(st.sampled_from(TABLES), st.sets(st.sampled_from(FIELDS)))
    def test_a_field_without_any_beta_stays_exactly_where_every_pair_that_has_it_is_taken(
        self, name: str, fields: set[str]
    ) -> None:
        decision = decide(pairs_for(name, "m", {}), (), {top(field) for field in fields}, NONE)
        for pair in PAIRS:
            taken = name == "azure" or name in pair["takes"]
            for field in fields.intersection(pair.get("fields", ())) if not taken else ():
                self.assertIn(field, decision.remove | decision.nested)
        for field in decision.remove | decision.nested:
            owners = [pair for pair in PAIRS if field in pair.get("fields", ())]
            self.assertFalse(all(name == "azure" or name in pair["takes"] for pair in owners))

    def test_what_is_left_out_is_told(self) -> None:
        decision = decide(pairs_for("vertex", "m", {}), ["new-feature-2027-01-01", *FIRST_PARTY], MEMBERS, NONE)
        for left in ("new-feature-2027-01-01", "per-turn-control-2026-07-01", "context_management"):
            self.assertIn(left, decision.dropped)
        self.assertFalse(set(decision.dropped) & set(decision.betas))


class ClaudeCodeTests(unittest.TestCase):
    """What it sends to Anthropic comes out as what it sends to that provider itself (protocol of 2.1.330)."""

    def test_bedrock(self) -> None:
        decision = decide(pairs_for("bedrock", "us.anthropic.claude-opus-5-5", {}), FIRST_PARTY, MEMBERS, NONE)
        own = {"interleaved-thinking-2025-05-14", "tool-search-tool-2025-10-19", "thinking-token-count-2026-05-13"}
        self.assertEqual(set(decision.betas), own | {"effort-2025-11-24"})
        self.assertEqual(decision.remove, {"context_management"})
        self.assertIn("messages.output_config", decision.nested)
        self.assertFalse({"output_config.effort", "thinking.display", "tools.defer_loading"} & decision.nested)

    def test_vertex(self) -> None:
        decision = decide(pairs_for("vertex", "claude-opus-5-5", {}), FIRST_PARTY, MEMBERS, NONE)
        own = (
            "claude-code-20250219,interleaved-thinking-2025-05-14,thinking-token-count-2026-05-13,"
            "tool-search-tool-2025-10-19,effort-2025-11-24"
        )
        self.assertEqual(decision.betas, tuple(own.split(",")))
        self.assertEqual(decision.remove, {"context_management"})

    def test_mantle(self) -> None:
        decision = decide(pairs_for("mantle", "anthropic.claude-opus-5-5", {}), FIRST_PARTY, MEMBERS, NONE)
        self.assertIn("context-management-2025-06-27", decision.betas)
        self.assertIn("tool-search-tool-2025-10-19", decision.betas)
        self.assertEqual(decision.remove, NONE)

    def test_azure_gets_everything_as_it_is_and_unknown_betas_too(self) -> None:
        decision = decide(pairs_for("azure", "d", {}), ["new-feature-2027-01-01", *FIRST_PARTY], MEMBERS, NONE)
        self.assertEqual(decision.betas, ("new-feature-2027-01-01", *FIRST_PARTY))
        self.assertEqual((decision.remove, decision.nested, decision.dropped), (NONE, NONE, ()))

    def test_a_model_that_lacks_effort_gets_neither_half_of_it(self) -> None:
        for model in (
            "global.anthropic.claude-haiku-4-5-20251001-v1:0",
            "claude-sonnet-4@20250514",
            "claude-3-5-haiku",
        ):
            decision = decide(pairs_for("bedrock", model, {}), FIRST_PARTY, MEMBERS, NONE)
            self.assertNotIn("effort-2025-11-24", decision.betas)
            self.assertIn("output_config.effort", decision.nested)
        for model in ("anthropic.claude-opus-4-5-20251101-v1:0", "claude-haiku-5-5", "claude-opus-4-10"):
            self.assertIn("effort-2025-11-24", decide(pairs_for("bedrock", model, {}), FIRST_PARTY, (), NONE).betas)


class OverrideTests(unittest.TestCase):
    def test_the_operator_decides_by_pair_or_by_beta(self) -> None:
        for name in ("context-management", "context-management-2025-06-27"):
            decision = decide(pairs_for("bedrock", "m", {name: True}), FIRST_PARTY, MEMBERS, NONE)
            self.assertIn("context-management-2025-06-27", decision.betas)
            self.assertNotIn("context_management", decision.remove)
            decision = decide(pairs_for("azure", "m", {name: False}), FIRST_PARTY, MEMBERS, NONE)
            self.assertNotIn("context-management-2025-06-27", decision.betas)
            self.assertIn("context_management", decision.remove)

    def test_an_unknown_beta_goes_to_a_cloud_or_stays_from_azure_as_told(self) -> None:
        new = "new-feature-2027-01-01"
        self.assertEqual(decide(pairs_for("vertex", "m", {new: True}), [new], (), NONE).betas, (new,))
        self.assertEqual(decide(pairs_for("azure", "m", {new: False}), [new], (), NONE).betas, ())

    def test_a_new_version_may_be_let_through_with_the_field_of_the_old(self) -> None:
        new = "context-management-2027-01-01"
        decision = decide(pairs_for("vertex", "m", {new: True}), [new], ["context_management"], NONE)
        self.assertEqual((decision.betas, decision.remove), ((new,), NONE))
        decision = decide(pairs_for("mantle", "m", {}), [new], ["context_management"], NONE)
        self.assertEqual((decision.betas, decision.remove), ((), {"context_management"}))

    def test_the_configuration_says_so_for_clouds_and_is_warned_elsewhere(self) -> None:
        entry = (
            "{{name: a, type: {}, keys: [{{key: k}}], beta_overrides: {{effort: false, context-management: true}}{}}}"
        )
        for type_, more in (
            ("bedrock", ", aws_region: us-east-1"),
            ("vertex", ", gcp_project_id: p, gcp_region: us"),
            ("azure", ", azure_resource_name: r"),
        ):
            overrides = provider_of(entry.format(type_, more)).beta_overrides
            self.assertEqual(dict(overrides), {"effort": False, "context-management": True})
        [warning] = warnings_of("providers:\n  - " + entry.format("anthropic", ""))
        self.assertIn("beta_overrides: has no effect", warning)

    def test_a_provider_that_is_no_cloud_has_no_table(self) -> None:
        with self.assertRaises(KeyError):
            pairs_for("anthropic", "m", {})


class ComplaintTests(unittest.TestCase):
    def named(self, message: str, name: str = "mantle") -> frozenset[str]:
        return complaint_pairs(pairs_for(name, "m", {}), message)

    def test_betas_that_are_named(self) -> None:
        said = "Unexpected value(s) {} for the `anthropic-beta` header. Please consult our documentation."
        self.assertEqual(
            self.named(said.format("`context-management-2025-06-27`, `tool-search-tool-2025-10-19`")),
            {"context-management", "advanced-tool-use"},
        )
        self.assertEqual(self.named(said.format("`new-feature-2027-01-01`"), "azure"), {"new-feature-2027-01-01"})

    def test_a_refusal_without_a_name_stands_for_all_that_may_have_been_sent(self) -> None:
        for said in ("invalid beta flag", "ValidationException: Invalid beta flag (request id: 20260120-1)"):
            for name in TABLES:
                table = pairs_for(name, "m", {})
                dropped = complaint_pairs(table, said)
                self.assertEqual(decide(table, BETAS, (), dropped).betas, ())
                self.assertTrue(dropped)

    def test_fields_that_are_named(self) -> None:
        extra = "Extra inputs are not permitted"
        for said, names in (
            (f"context_management: {extra}", {"context-management", "compact"}),
            (f"ValidationException: tools.11.custom.defer_loading: {extra}", {"advanced-tool-use"}),
            (f"tools.0.defer_loading: {extra}", {"advanced-tool-use"}),
            (f"thinking.adaptive.display: {extra}", {"thinking-display-updates"}),
            ("thinking.display: Input should be 'summarized' or 'omitted'", {"thinking-display-updates"}),
            ("Malformed input request: #: extraneous key [safeguards] is not permitted", {"dangerous-tool-use"}),
            ("#/tools/0: extraneous key [defer_loading] is not permitted, please reformat", {"advanced-tool-use"}),
            (f"brand_new: {extra}", {"brand_new"}),
            (f"tools.3.custom.brand_new: {extra}", {"tools.brand_new"}),
            (f"system.2.cache_control.ephemeral.scope: {extra}", {"system.cache_control.scope"}),
            (
                f"output_config: {extra}\ncontext_management: {extra}",
                {"output_config", "context-management", "compact"},
            ),
            (
                "context_management.edits.0: Input tag 'clear_thinking_20251015' found using 'type' does not match any",
                {"context-management", "compact"},
            ),
        ):
            with self.subTest(said=said):
                self.assertEqual(self.named(said), names)

    def test_faults_of_the_request_name_nothing(self) -> None:
        for said in (
            "prompt is too long: 250000 tokens > 200000 maximum",
            "output_config.effort: Input should be 'low', 'medium' or 'high'",
            "messages.0.content: Field required",
            "messages: Extra inputs are not permitted",
            "max_tokens: Extra inputs are not permitted",
            "messages.1.content.0.thinking.signature: Invalid signature in thinking block",
            "#: extraneous key [0] is not permitted",
            "I was told that context_management is a beta",
            "",
        ):
            with self.subTest(said=said):
                self.assertEqual(self.named(said), NONE)

    @given(st.text(max_size=300) | st.lists(st.sampled_from(["a.", "1.", "tools", ": Extra inputs are not permitted"])))
    def test_any_text_is_read_and_gives_few_names(self, said: str | list[str]) -> None:
        self.assertLessEqual(len(self.named("".join(said))), MAX_NAMES)

    def test_a_flood_of_names_is_cut(self) -> None:
        said = " ".join(f"field_{n}: Extra inputs are not permitted" for n in range(1000))
        self.assertEqual(len(self.named(said)), MAX_NAMES)

    @given(st.sampled_from(TABLES), st.sampled_from(FIELDS))
    def test_what_a_complaint_names_is_gone_at_the_next_attempt(self, name: str, field: str) -> None:
        table = pairs_for(name, "m", {})
        names = complaint_pairs(table, f"{field.replace('.', '.0.', 1)}: Extra inputs are not permitted")
        decision = decide(table, BETAS, [top(field)], names)
        self.assertIn(field, decision.remove | decision.nested)


class MemoryTests(unittest.TestCase):
    def test_a_refusal_is_kept_for_its_place_and_a_day(self) -> None:
        memory = PairMemory()
        memory.learn("north", "us-east-1", "m", frozenset({"effort"}), 0.0)
        memory.learn("north", "us-east-1", "m", frozenset({"new_field"}), 10.0)
        self.assertEqual(memory.learned("north", "us-east-1", "m", 86409.0), {"effort", "new_field"})
        self.assertEqual(memory.learned("north", "us-east-1", "m", 86410.0), NONE)
        for place in (("south", "us-east-1", "m"), ("north", "eu-west-1", "m"), ("north", "us-east-1", "n")):
            self.assertEqual(memory.learned(*place, 20.0), NONE)

    def test_the_status_shows_what_is_remembered(self) -> None:
        memory = PairMemory()
        memory.learn("north", "", "m", frozenset({"effort"}), 0.0)
        self.assertEqual(memory.entries(1.0), (Learned("north", "", "m", frozenset({"effort"})),))
        self.assertEqual(memory.entries(86400.0), ())

    def test_what_is_learned_stays_bounded(self) -> None:
        memory = PairMemory()
        for n in range(3000):
            memory.learn("north", "", f"m{n % 2000}", frozenset(f"f{n}_{i}" for i in range(40)), 0.0)
        entries = memory.entries(0.0)
        self.assertLess(len(entries), 2000)
        self.assertLessEqual(max(len(entry.names) for entry in entries), MAX_NAMES)


class DataTests(unittest.TestCase):
    def test_every_pair_is_told_apart_by_name_and_betas(self) -> None:
        self.assertEqual(len(set(NAMES)), len(NAMES))
        self.assertEqual(len(set(BETAS)), len(BETAS))
        self.assertFalse(set(NAMES) & set(BETAS))

    def test_only_known_tables_and_pairs_are_named_and_spellings_are_betas_of_their_pair(self) -> None:
        for pair in PAIRS:
            self.assertLessEqual(set(pair["takes"]), set(pair_data()["tables"]))
            for takes in pair["takes"].values():
                self.assertTrue(takes is True or takes in pair["betas"])
        for rule in pair_data()["models"]:
            self.assertLessEqual(set(rule["lacks"]), set(NAMES))

    def test_betas_and_fields_cannot_be_taken_for_each_other(self) -> None:
        self.assertTrue(all("-" in beta for beta in BETAS))
        self.assertTrue(all(re.fullmatch(r"[a-z_]+(\.[a-z_]+)*", field) for field in FIELDS))


class HeaderTests(unittest.TestCase):
    def test_betas_are_read_from_every_line(self) -> None:
        lines = ((b"anthropic-beta", b"a-1, b-2,,"), (b"x", b"c"), (b"anthropic-beta", b"d-3,\xff,e\tf"))
        self.assertEqual(header_betas(lines), ("a-1", "b-2", "d-3"))

    @given(st.binary(max_size=60))
    def test_what_comes_out_can_stand_in_a_header(self, value: bytes) -> None:
        self.assertTrue(all(b.isprintable() and b.isascii() for b in header_betas(((b"anthropic-beta", value),))))


def test_the_tables_names_drop_everything() -> None:
    table: PairTable = pairs_for("vertex", "m", {})
    assert decide(table, BETAS, {top(field) for field in FIELDS}, table.names).betas == ()
