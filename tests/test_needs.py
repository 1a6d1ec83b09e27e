"""What is read from bodies, and the range of tokens they are taken for."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccrelay.core.needs import (
    CUTS_IN_SILENCE,
    IMAGE_TOKENS,
    LACKS,
    PDF_PAGE_TOKENS,
    PDF_PAGES,
    SESSION_TTL,
    SESSIONS,
    Feature,
    Needs,
    SessionRatio,
    estimate_from_length,
    needs_of,
    prompt_too_long,
    refusal_of,
)
from ccrelay.errors import MalformedBody

DATA = base64.b64encode(bytes(30_000)).decode()


def read(**members: Any) -> Needs:
    return needs_of(json.dumps({"model": "m", **members}).encode())


def said(*blocks: Any) -> Needs:
    return read(messages=[{"role": "user", "content": list(blocks)}])


def media(kind: str, source: str, **more: Any) -> dict[str, Any]:
    return {"type": kind, "source": {"type": source, **more}}


IMAGE = media("image", "base64", media_type="image/png", data=DATA)
PDF = media("document", "base64", media_type="application/pdf", data=DATA)


@pytest.mark.parametrize(
    ("block", "features"),
    [
        ({"type": "text", "text": '{"type":"image"}'}, set()),
        ({"type": "tool_use", "id": "t", "name": "f", "input": {"type": "image", "content": [IMAGE]}}, set()),
        (IMAGE, {Feature.IMAGE}),
        (media("image", "url", url="https://x"), {Feature.IMAGE, Feature.URL_IMAGE}),
        (media("image", "file", file_id="f"), {Feature.IMAGE, Feature.FILE}),
        (PDF, {Feature.PDF}),
        (media("document", "url", url="https://x"), {Feature.PDF, Feature.URL_IMAGE}),
        (media("document", "text", data="words"), {Feature.PDF}),
        (media("document", "content", content=[IMAGE]), {Feature.PDF, Feature.IMAGE}),
        ({"type": "tool_result", "content": [IMAGE, {"type": "text", "text": "x"}]}, {Feature.IMAGE}),
        ({"type": "tool_result", "content": "image"}, set()),
        ({"type": "image"}, {Feature.IMAGE}),
        ({"type": ["image"]}, set()),
        ("image", set()),
        (None, set()),
    ],
)
def test_features_of_blocks_are_found_wherever_blocks_are(block: Any, features: set[Feature]) -> None:
    assert said({"type": "text", "text": "hi"}, block).features == features


@pytest.mark.parametrize(
    ("kind", "feature"),
    [
        (None, None),
        ("custom", None),
        ("bash_20250124", None),
        ("text_editor_20250728", None),
        ("computer_20251124", None),
        ("memory_20250818", None),
        ("web_search_20250305", Feature.WEB_SEARCH),
        ("tool_search_tool_regex_20251119", Feature.TOOL_SEARCH),
        ("web_fetch_20250910", Feature.SERVER_TOOLS),
        ("code_execution_20250825", Feature.SERVER_TOOLS),
        ("something_new_20270101", Feature.SERVER_TOOLS),
        ("mcp_toolset", Feature.MCP),
    ],
)
def test_tools_that_somebody_else_runs_are_a_need(kind: str | None, feature: Feature | None) -> None:
    tool = {"name": "t", "input_schema": {"type": "object", "properties": {"type": {"type": "web_fetch_1"}}}}
    typed = tool if kind is None else {"type": kind, **tool}

    assert read(tools=[tool, typed]).features == ({feature} if feature else set())


@pytest.mark.parametrize(("choice", "needed"), [("auto", False), ("any", True), ("tool", True), ("none", True)])
def test_only_a_choice_that_is_not_the_default_is_a_need(choice: str, needed: bool) -> None:
    features = read(tool_choice={"type": choice, "disable_parallel_tool_use": True}).features

    assert features == ({Feature.TOOL_CHOICE} if needed else set())


def test_mcp_servers_are_a_need_if_there_are_any() -> None:
    assert read(mcp_servers=[{"type": "url", "url": "https://x", "name": "n"}]).features == {Feature.MCP}
    assert read(mcp_servers=[]).features == set()


@pytest.mark.parametrize(
    ("written", "count"), [(b"4096", 4096), (b'"4096"', 0), (b"-1", 0), (b"1e400", 0), (b"9" * 5000, 0), (b"NaN", 0)]
)
def test_max_tokens_are_read_if_they_are_a_sane_number(written: bytes, count: int) -> None:
    assert needs_of(b'{"model":"m","max_tokens":' + written + b"}").max_tokens == count


@pytest.mark.parametrize(
    "body", [b'{"messages":{},"tools":5,"tool_choice":"any","mcp_servers":null}', b'{"messages":[1],"tools":[null]}']
)
def test_members_of_another_shape_need_nothing(body: bytes) -> None:
    assert needs_of(body).features == set()


def test_a_body_that_is_not_json_is_malformed() -> None:
    with pytest.raises(MalformedBody):
        needs_of(b'{"messages":[')


ENGLISH = "It is a truth universally acknowledged, that a single man in possession of a good fortune must want a wife. "


def test_english_is_within_its_range() -> None:
    needs = said({"type": "text", "text": ENGLISH * 1000})

    # Characters per token as published for Claude 4.6 and 4.7.
    assert needs.tokens_low < len(ENGLISH) * 1000 / 4.33
    assert needs.tokens_high > len(ENGLISH) * 1000 / 3.60


@given(st.text(st.characters(min_codepoint=0x80), min_size=1, max_size=50))
def test_spelling_text_in_escapes_does_not_make_the_lowest_estimate_higher(text: str) -> None:
    message = {"messages": [{"role": "user", "content": text * 10}]}
    escaped = json.dumps(message).encode()
    plain = json.dumps(message, ensure_ascii=False).encode("utf-8", "backslashreplace")

    assert needs_of(escaped).tokens_low <= needs_of(plain).tokens_low


def test_base64_is_not_taken_for_text() -> None:
    def without_media(needs: Needs) -> int:
        return needs.tokens_high - needs.media_tokens

    bare, small = said(media("image", "base64", data="")), said(IMAGE, PDF)

    assert without_media(small) < without_media(bare) + 100  # 80,000 bytes of it
    assert small.tokens_low < bare.tokens_low + 100


def test_images_and_pages_have_their_highest_price() -> None:
    assert said(IMAGE, media("image", "url", url="https://x")).media_tokens == 2 * IMAGE_TOKENS
    assert said(PDF).media_tokens == 3 * PDF_PAGE_TOKENS  # 30,000 bytes
    assert said(media("document", "url", url="https://x")).media_tokens == PDF_PAGE_TOKENS
    assert said(media("document", "text", data="words")).media_tokens == 0


def test_a_document_has_no_more_pages_than_an_api_takes() -> None:
    assert said(media("document", "base64", data="A" * 16_000_000)).media_tokens == PDF_PAGES * PDF_PAGE_TOKENS


@given(st.integers(0, 10**9), st.integers(0, 10**6))
def test_a_longer_body_is_never_taken_for_less(length: int, more: int) -> None:
    low, high = estimate_from_length(length)
    longer_low, longer_high = estimate_from_length(length + more)

    assert low <= high
    assert low <= longer_low and high <= longer_high


# Refusals

FEATURELESS: frozenset[Feature] = frozenset()


def needing(*features: Feature, low: int = 10, high: int = 30) -> Needs:
    return Needs(frozenset(features), low, high, 0)


def test_what_is_lacked_is_named() -> None:
    needs = needing(Feature.IMAGE, Feature.URL_IMAGE)

    assert refusal_of(needs, {Feature.URL_IMAGE}, None) == "cannot take images or documents by URL"
    assert refusal_of(needs, {Feature.MCP}, None) is None


@pytest.mark.parametrize(
    ("window", "cuts", "fits"),
    [(30, True, True), (29, True, False), (29, False, True), (10, False, True), (9, False, False), (None, True, True)],
)
def test_a_context_that_is_cut_in_silence_must_hold_the_highest_estimate_and_others_the_lowest(
    window: int | None, cuts: bool, fits: bool
) -> None:
    refusal = refusal_of(needing(low=10, high=30), FEATURELESS, window, cuts=cuts)

    assert (refusal is None) is fits
    assert refusal is None or f"its context of {window} tokens cannot hold about" in refusal


def test_too_long_a_prompt_is_told_in_the_words_clients_compact_at() -> None:
    error = prompt_too_long(210_000, 200_000)

    assert (error.status, error.kind) == (400, "invalid_request_error")
    assert error.message == "prompt is too long: 210000 tokens > 200000 maximum"


def test_every_type_that_can_be_configured_has_its_line(request: pytest.FixtureRequest) -> None:
    schema = json.loads((request.config.rootpath / "ccrelay/data/config.schema.json").read_text("utf-8"))

    def enums(node: Any) -> Any:
        if isinstance(node, dict):
            if "bedrock" in node.get("enum", ()):
                yield set(node["enum"])
            node = list(node.values())
        for item in node if isinstance(node, list) else ():
            yield from enums(item)

    types = set().union(*enums(schema))
    assert set(LACKS) == types
    assert types >= CUTS_IN_SILENCE


@pytest.mark.parametrize(
    ("kind", "feature", "taken"),
    [
        ("ollama", Feature.TOOL_CHOICE, False),
        ("ollama", Feature.PDF, False),
        ("ollama", Feature.WEB_SEARCH, True),
        ("ollama", Feature.IMAGE, True),
        ("bedrock", Feature.WEB_SEARCH, False),
        ("bedrock", Feature.TOOL_SEARCH, True),
        ("bedrock", Feature.PDF, True),
        ("vertex", Feature.WEB_SEARCH, True),
        ("vertex", Feature.URL_IMAGE, False),
        ("zai", Feature.SERVER_TOOLS, True),
        ("anthropic", Feature.MCP, True),
    ],
)
def test_types_are_refused_what_their_documentation_denies(kind: str, feature: Feature, taken: bool) -> None:
    assert (refusal_of(needing(feature), LACKS[kind], None) is None) is taken


# The session's own ratio

SCOPE = bytes(32)


def test_a_session_is_known_by_its_last_answer_and_only_by_its_own() -> None:
    ratios = SessionRatio()
    ratios.record(SCOPE, needing(low=1000, high=3600), 1800, 0)

    grown = ratios.corrected(SCOPE, needing(low=2000, high=7200), 1)

    assert grown.tokens_low < 3600 < grown.tokens_high
    assert (grown.tokens_low, grown.tokens_high) == (2400, 5400)  # half as much again, either way
    assert ratios.corrected(bytes(31), needing(low=2000, high=7200), 1) == needing(low=2000, high=7200)


def test_a_ratio_is_forgotten_with_its_session() -> None:
    ratios = SessionRatio()
    ratios.record(SCOPE, needing(low=1000, high=3600), 1800, 0)

    assert ratios.corrected(SCOPE, needing(low=1000, high=3600), SESSION_TTL) == needing(low=1000, high=3600)


@pytest.mark.parametrize("tokens", [-5, 0, 999])
def test_fewer_tokens_than_the_text_can_have_been_teach_nothing(tokens: int) -> None:
    ratios = SessionRatio()
    ratios.record(SCOPE, needing(low=1000, high=3600), tokens, 0)

    assert ratios.corrected(SCOPE, needing(low=1000, high=3600), 0) == needing(low=1000, high=3600)


TEXT_BYTES = st.integers(100, 10**7)


@given(TEXT_BYTES, TEXT_BYTES, st.floats(2.3, 7.9), st.lists(st.integers(0, IMAGE_TOKENS), max_size=5), st.data())
def test_a_session_whose_text_stays_as_dense_is_within_its_corrected_range(
    before: int, after: int, bytes_per_token: float, images: list[int], data: st.DataObject
) -> None:
    more_images = data.draw(st.lists(st.integers(0, IMAGE_TOKENS), max_size=5))

    def truth(length: int, prices: list[int]) -> int:
        return round(length / bytes_per_token) + sum(prices)

    def estimated(length: int, prices: list[int]) -> Needs:
        low, high = estimate_from_length(length)
        price = len(prices) * IMAGE_TOKENS
        return Needs(FEATURELESS, low, high + price, 0, price)

    ratios = SessionRatio()
    ratios.record(SCOPE, estimated(before, images), truth(before, images), 0)
    needs = estimated(after, images + more_images)

    corrected = ratios.corrected(SCOPE, needs, 1)

    assert needs.tokens_low <= corrected.tokens_low <= truth(after, images + more_images)
    assert truth(after, images + more_images) <= corrected.tokens_high <= needs.tokens_high


def test_the_ratios_are_bounded() -> None:
    ratios = SessionRatio()
    needs = needing(low=1000, high=3600)

    for number in range(SESSIONS + 1):
        ratios.record(number.to_bytes(32, "big"), needs, 1800, 0)

    assert ratios.corrected((0).to_bytes(32, "big"), needs, 0) == needs
    assert ratios.corrected((1).to_bytes(32, "big"), needs, 0) != needs
