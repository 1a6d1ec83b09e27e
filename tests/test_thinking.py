"""Whose signature it is, and histories without what their next reader cannot read: against the same on the tree."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccrelay.core.sse import encode_event
from ccrelay.core.thinking import (
    SIGNATURE_TTL,
    SIGNATURES_PER_ANSWER,
    SIGNATURES_REMEMBERED,
    Issuer,
    SignatureCollector,
    SignatureMemory,
    Stripped,
    is_signature_complaint,
    signature_digest,
    thinking_edits,
)

CLAUDE = Issuer("claude", "main#1")
OTHER_CLAUDE = Issuer("claude", "second#9")
GLM = Issuer("glm", "zai#1")
ISSUERS = {"c": CLAUDE, "o": OTHER_CLAUDE, "g": GLM}  # a signature's first letter tells who made it; "u": nobody knows
KNOWN = {signature_digest(f"{letter}{number}"): issuer for letter, issuer in ISSUERS.items() for number in range(30)}


def thinking(signature: str) -> dict[str, Any]:
    return {"type": "thinking", "thinking": "hm \u20ac", "signature": signature}


def redacted(signature: str) -> dict[str, Any]:
    return {"type": "redacted_thinking", "data": signature}


TEXT = {"type": "text", "text": 'he said "thinking", {signature}'}
CALL = {"type": "tool_use", "id": "t", "name": "f", "input": {"type": "thinking", "signature": "g1"}}
RESULT = {"type": "tool_result", "tool_use_id": "t", "content": [{"type": "thinking", "signature": "g2"}]}


def user(*blocks: dict[str, Any]) -> dict[str, Any]:
    return {"role": "user", "content": list(blocks) or "hi"}


def assistant(*blocks: dict[str, Any]) -> dict[str, Any]:
    return {"role": "assistant", "content": list(blocks)}


def request(*messages: dict[str, Any], **members: Any) -> dict[str, Any]:
    return {"model": "m", "messages": list(messages), **members}


def stripped(document: Any, target: Issuer = CLAUDE, *, unknown: bool = False) -> tuple[Any, Stripped]:
    """The document as the target would get it, and what was said about it."""
    body = json.dumps(document, ensure_ascii=False, indent=1).encode()
    result = thinking_edits(body, target, KNOWN.get, strip_unknown=unknown)
    left, at = b"", 0
    for edit in result.edits:
        assert at <= edit.start <= edit.end
        left += body[at : edit.start] + edit.replacement
        at = edit.end
    tree = json.loads(left + body[at:])
    return {name: value for name, value in tree.items() if name not in result.remove}, result


@pytest.mark.parametrize("block", [thinking, redacted])
@pytest.mark.parametrize(
    ("signature", "target", "unknown", "stays"),
    [
        ("g1", CLAUDE, False, False),
        ("c1", GLM, False, False),
        ("c1", CLAUDE, False, True),
        ("o1", CLAUDE, False, True),
        ("u1", CLAUDE, False, True),
        ("", CLAUDE, False, True),
        ("g1", CLAUDE, True, False),
        ("c1", CLAUDE, True, True),
        ("o1", CLAUDE, True, False),
        ("u1", CLAUDE, True, False),
        ("", CLAUDE, True, False),
    ],
)
def test_a_block_stays_where_it_can_be_read(
    block: Any, signature: str, target: Issuer, unknown: bool, stays: bool
) -> None:
    before = request(user(), assistant(block(signature), TEXT), user())

    after, result = stripped(before, target, unknown=unknown)

    assert after == (before if stays else request(user(), assistant(TEXT), user()))
    assert result.removed == (not stays)


BLOCKS = st.one_of(
    st.builds(lambda make, letter, n: make(f"{letter}{n}"), st.sampled_from([thinking, redacted]),
              st.sampled_from("cogu"), st.integers(0, 29)),
    st.sampled_from([TEXT, CALL, RESULT, {"type": "thinking"}, {"type": ["thinking"]}, "thinking", None]),
)  # fmt: skip
MESSAGES = st.fixed_dictionaries(
    {
        "role": st.sampled_from(["user", "assistant", "assistant", "system"]),
        "content": st.one_of(st.just("text"), st.lists(BLOCKS, max_size=5)),
    }
)


def is_foreign(block: Any) -> bool:
    if not isinstance(block, dict) or block.get("type") not in ("thinking", "redacted_thinking"):
        return False
    return str(block.get("signature") or block.get("data")).startswith("g")


@given(st.lists(MESSAGES, max_size=6), st.sampled_from([None, {"type": "adaptive"}, {"type": "disabled"}]))
def test_exactly_the_foreign_blocks_go_and_messages_without_content(messages: list[Any], mode: Any) -> None:
    before = request(*messages, thinking=mode)
    expected = []
    gone = 0
    for message in messages:
        content = message["content"]
        if message["role"] == "assistant" and isinstance(content, list):
            kept = [block for block in content if not is_foreign(block)]
            gone += len(content) - len(kept)
            if kept or not content:
                expected.append({**message, "content": kept})
        else:
            expected.append(message)

    after, result = stripped(before)

    if expected:
        assert after == {**before, "messages": expected}
        assert result.removed == gone
    else:
        assert after == before
    assert not result.thinking_off and not result.remove and not result.drop


def test_nothing_is_done_to_a_body_whose_only_messages_would_vanish() -> None:
    before = request(assistant(thinking("g1")), assistant(redacted("g2")))

    assert stripped(before) == (before, Stripped())


def test_of_members_that_are_named_twice_the_last_counts() -> None:
    body = b'{"messages":[],"messages":[{"content":[],"role":"assistant","content":%b},{"role":"user"}]}' % (
        json.dumps([thinking("g1"), TEXT]).encode()
    )

    (edit,) = thinking_edits(body, CLAUDE, KNOWN.get, strip_unknown=False).edits

    left = json.loads(body[: edit.start] + body[edit.end :])
    assert left["messages"][0]["content"] == [TEXT]


ENABLED = {"type": "enabled", "budget_tokens": 1024}
LOOP = (user(), assistant(thinking("g1"), CALL), user(RESULT))


@pytest.mark.parametrize(
    ("messages", "off"),
    [
        (LOOP, True),
        ((*LOOP, {"role": "system", "content": "note"}), True),
        ((*LOOP, assistant(CALL), user(RESULT)), True),  # one turn: it was its beginning that went
        ((*LOOP, assistant(thinking("c1"), CALL), user(RESULT)), True),
        ((user(), assistant(thinking("g1"), TEXT)), True),  # to be continued
        ((user(), assistant(thinking("g1"), CALL), user(RESULT, TEXT)), True),
        ((*LOOP, assistant(TEXT), user()), False),  # the turn is over
        ((user(), assistant(thinking("g1"), thinking("c1"), CALL), user(RESULT)), False),
        ((user(), assistant(TEXT, thinking("g1"), CALL), user(RESULT)), False),  # it did not begin so before
        ((user(), assistant(thinking("g1"))), False),  # nothing of the turn is left
        ((user(), assistant(thinking("c1"), CALL), user(RESULT)), False),
    ],
)
def test_thinking_is_off_where_the_turn_in_progress_no_longer_begins_with_it(
    messages: tuple[Any, ...], off: bool
) -> None:
    after, result = stripped(request(*messages, thinking=ENABLED))

    assert result.thinking_off is off
    assert ("thinking" in after) is not off


@pytest.mark.parametrize(("target", "mode"), [(CLAUDE, {"type": "adaptive"}), (CLAUDE, None), (GLM, ENABLED)])
def test_thinking_stays_on_where_nobody_minds(target: Issuer, mode: Any) -> None:
    loop = (user(), assistant(thinking("g1"), thinking("c1"), CALL), user(RESULT))

    after, result = stripped(request(*loop, thinking=mode), target)

    assert result.removed == 1 and not result.thinking_off
    assert after["thinking"] == mode


def test_without_thinking_a_last_assistant_message_has_none_in_it() -> None:
    before = request(user(), assistant(thinking("g1"), TEXT, thinking("c1")), thinking=ENABLED)

    after, result = stripped(before)

    assert after == request(user(), assistant(TEXT))
    assert result.removed == 2


CLEAR = {"type": "clear_thinking_20251015", "keep": "all"}
CLEAR_TOOLS = {"type": "clear_tool_uses_20250919"}


def test_with_thinking_goes_the_context_edit_that_needs_it_and_its_pair() -> None:
    context = {"edits": [CLEAR]}

    after, result = stripped(request(*LOOP, thinking=ENABLED, context_management=context))

    assert after == request(user(), assistant(CALL), user(RESULT))
    assert result.remove == {"thinking", "context_management"}
    assert result.drop == {"context-management"}


@pytest.mark.parametrize("edits", [[CLEAR, CLEAR_TOOLS], [CLEAR_TOOLS, CLEAR], [CLEAR_TOOLS]])
def test_another_context_edit_stays_and_keeps_the_pair(edits: list[Any]) -> None:
    after, result = stripped(request(*LOOP, thinking=ENABLED, context_management={"edits": edits}))

    assert after["context_management"] == {"edits": [CLEAR_TOOLS]}
    assert result.remove == {"thinking"} and not result.drop


@pytest.mark.parametrize("context", [{"edits": []}, {}, None, {"edits": "x"}])
def test_context_management_without_the_edit_is_left_alone(context: Any) -> None:
    after, result = stripped(request(*LOOP, thinking=ENABLED, context_management=context))

    assert after["context_management"] == context
    assert result.remove == {"thinking"}


def test_the_pairs_of_fields_inside_thinking_go_with_it() -> None:
    mode = {**ENABLED, "display": "updates", "block_binding": {}}

    _, result = stripped(request(*LOOP, thinking=mode))

    assert result.drop == {"thinking-binding-controls", "thinking-display-updates"}


@pytest.mark.parametrize("body", [b"{}", b'{"messages":null,"thinking":[]}', b'{"messages":[1,null,"x",{}]}'])
def test_a_body_of_another_shape_is_left_alone(body: bytes) -> None:
    assert thinking_edits(body, CLAUDE, KNOWN.get, strip_unknown=True) == Stripped()


# Collecting


def delta(signature: str) -> bytes:
    data = {"type": "content_block_delta", "index": 0, "delta": {"type": "signature_delta", "signature": signature}}
    return encode_event("content_block_delta", json.dumps(data).encode())


def start(block: dict[str, Any]) -> bytes:
    data = {"type": "content_block_start", "index": 0, "content_block": block}
    return encode_event("content_block_start", json.dumps(data).encode())


def text_delta(text: str) -> bytes:
    data = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}}
    return encode_event("content_block_delta", json.dumps(data).encode())


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"])
def test_signatures_of_a_stream_are_those_its_client_sends_back(line_end: bytes) -> None:
    block = b"".join(
        [start(thinking("")), delta("abc/+="), text_delta('"signature":"no"'), start(redacted("xyz")), b": ping\n\n"]
    ).replace(b"\n", line_end)
    collector = SignatureCollector()
    collector.see(block)
    issued = dict.fromkeys(collector.signatures, GLM)
    body = json.dumps(request(user(), assistant(thinking("abc/+="), redacted("xyz"), TEXT))).encode()

    result = thinking_edits(body, CLAUDE, issued.get, strip_unknown=False)

    assert collector.signatures == [signature_digest("abc/+="), signature_digest("xyz")]
    assert result.removed == 2


def test_signatures_of_a_whole_message_are_found() -> None:
    collector = SignatureCollector()

    collector.see_message(json.dumps(assistant(thinking("a"), TEXT, redacted("b"), thinking(""))).encode())

    assert collector.signatures == [signature_digest("a"), signature_digest("b")]


@given(st.binary(max_size=40))
def test_nothing_that_is_no_signature_raises_or_is_taken(noise: bytes) -> None:
    collector = SignatureCollector()

    collector.see(b'data: {"signature": ' + noise + b"\n\n")
    collector.see_message(b'{"thinking": ' + noise + b"}")
    collector.see_message(b'{"content": [{"type": "thinking", "signature": 5}, {"type": {}}, "redacted_thinking"]}')

    assert collector.signatures == []


def test_an_answer_cannot_make_the_list_of_its_signatures_endless() -> None:
    collector = SignatureCollector()

    for number in range(SIGNATURES_PER_ANSWER + 5):
        collector.see(delta(str(number)))

    assert len(collector.signatures) == SIGNATURES_PER_ANSWER


# Remembering


def test_an_issuer_is_remembered_and_forgotten_in_time() -> None:
    memory = SignatureMemory()
    digest = signature_digest("a")
    memory.record(digest, GLM, 0)

    assert memory.issuer(digest, SIGNATURE_TTL - 1) == GLM
    assert memory.issuer(digest, SIGNATURE_TTL) is None
    assert memory.issuer(signature_digest("b"), 0) is None


def test_the_memory_is_bounded() -> None:
    memory = SignatureMemory()

    for number in range(SIGNATURES_REMEMBERED + 1):
        memory.record(number.to_bytes(32, "big"), GLM, 0)

    assert len(memory) == SIGNATURES_REMEMBERED
    assert memory.issuer(bytes(32), 0) is None


# Complaints


@pytest.mark.parametrize(
    "message",
    [
        "messages.1.content.0: Invalid `signature` in `thinking` block",
        "messages.1.content.0: Invalid signature in thinking block",
        "messages.3.content.1: Invalid `data` in `redacted_thinking` block",
        "messages.1.content.0: Invalid `signature` in `thinking` block. The block is bound to a different conv...",
        "The block is bound to a different conversation. Remove the block",
        "messages.5: `thinking` or `redacted_thinking` blocks in the latest assistant message cannot be modified.",
        "messages.1.content.0.thinking.signature: Field required",
        "capability_rejected: thinking_signature",
    ],
)
def test_a_complaint_about_a_signature_is_recognised(message: str) -> None:
    assert is_signature_complaint(message)


@pytest.mark.parametrize(
    "message",
    [
        "",
        "prompt is too long: 210000 tokens > 200000 maximum",
        "messages.1.content.0.type: Expected `thinking` or `redacted_thinking`, but found `text`.",
        "When `thinking` is enabled, a final `assistant` message must start with a thinking block",
        "adaptive thinking is not supported on this model",
        "capability_rejected: thinking_type:adaptive",
        "Invalid signature: the request could not be authenticated",
        "thinking: Extra inputs are not permitted. Blocks of text. Settings cannot be modified",
    ],
)
def test_another_complaint_is_not(message: str) -> None:
    assert not is_signature_complaint(message)
