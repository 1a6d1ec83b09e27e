"""Sessions that change the family of their models: which thinking blocks go along, and what a refusal changes."""

from __future__ import annotations

import pytest

from ccrelay.core.model import CallKind

from .scenarios import Scene, Step, error, event, message, says, stream, upstream
from .scenarios_cases import LIMITED, OVERLOADED, ask

CLAUDES = '{"type":"thinking", "thinking":"so \\u00e9 \u20ac", "signature":"sig-claude"}'
GLMS = '{"signature":"sig-glm","type":"thinking","thinking":"\u60f3"}'
NOBODYS = '{"type":"redacted_thinking","data":"sig-unknown"}'
TEXT = '{"type":"text", "text":"said" }'
REFUSED = error(400, "invalid_request_error", "messages.1.content.0: Invalid `signature` in `thinking` block")


def body(*assistant: str, members: str = "", last: str = '"go on"') -> bytes:
    """A history with one assistant message of these blocks. Its white space is nobody's habit."""
    content = "[" + " , ".join(assistant) + "]"
    messages = (
        f'[ {{"role":"user","content":"hi"}},\n{{"role": "assistant", "content":{content}}} '
        f',{{"role":"user","content":{last}}}]'
    )
    return f'{{"model":"claude-opus-5-5", {members}"messages": {messages}, "stream":true}}'.encode()


def thinks(signature: str) -> Step:
    """A stream with one signed block of thinking."""
    return Step(
        headers=stream().headers,
        pieces=tuple(
            (0.0, data)
            for data in (
                event("message_start", message={"id": "m", "usage": {}}),
                event(
                    "content_block_start", index=0, content_block={"type": "thinking", "thinking": "", "signature": ""}
                ),
                event("content_block_delta", index=0, delta={"type": "thinking_delta", "thinking": "so"}),
                event("content_block_delta", index=0, delta={"type": "signature_delta", "signature": signature}),
                event("content_block_stop", index=0),
                event("message_delta", delta={"stop_reason": "end_turn"}, usage={"output_tokens": 2}),
                event("message_stop"),
            )
        ),
    )


def sent(scene: Scene) -> list[tuple[str, bytes]]:
    return [(exchange.provider, exchange.body) for exchange in scene.requests]


def zai_and_north(zai: list[Step], north: list[Step], **options: object) -> Scene:
    """Z.AI first, Anthropic where it fails."""
    return Scene(
        upstream("zai", *zai, type="zai", priority=1), upstream("north", *north), **options  # type: ignore[arg-type]
    )  # fmt: skip


def test_a_forced_switch_takes_out_exactly_the_blocks_that_the_other_family_issued() -> None:
    with zai_and_north([thinks("sig-glm"), OVERLOADED], [stream()]) as scene:
        ask(scene, body(TEXT), session="one")
        client = ask(scene, body(GLMS, TEXT, NOBODYS), session="one")
    assert sent(scene) == [
        ("zai", body(TEXT)),
        ("zai", body(GLMS, TEXT, NOBODYS)),
        ("north", body(TEXT, NOBODYS)),
    ]
    assert client.status == 200
    assert client.header(b"x-cc-relay-thinking") is None
    assert list(scene.attempts[-1].changed) == ["1 thinking blocks"]


def test_a_switch_back_takes_out_what_was_issued_in_between() -> None:
    with zai_and_north([thinks("sig-glm"), LIMITED, stream()], [thinks("sig-claude")]) as scene:
        ask(scene, body(TEXT), session="one")
        ask(scene, body(GLMS, TEXT), session="one")
        scene.advance(7.0)
        ask(scene, body(GLMS, CLAUDES, TEXT), session="one")
    assert sent(scene)[2:] == [("north", body(TEXT)), ("zai", body(GLMS, TEXT))]


def test_who_stays_in_the_family_keeps_every_byte() -> None:
    history = body(CLAUDES, TEXT)
    with Scene(
        upstream("north", thinks("sig-claude"), LIMITED, stream(), keys=["n1", "n2"], priority=1),
        upstream("azure", type="azure", keys=["a1"]),
        upstream("zai", type="zai"),
    ) as scene:
        ask(scene, body(TEXT), session="one")
        ask(scene, history, session="one")
    assert sent(scene)[1:] == [("north", history), ("north", history)]


def test_a_signature_in_a_json_answer_is_remembered_too() -> None:
    answer = says(200, b'{"content":[{"type":"thinking","thinking":"x","signature":"sig-glm"}]}')
    with zai_and_north([answer, OVERLOADED], [message()]) as scene:
        ask(scene, body(TEXT), session="one")
        ask(scene, body(GLMS, TEXT), session="one")
    assert sent(scene)[-1] == ("north", body(TEXT))


def test_signatures_are_known_whatever_session_brings_them() -> None:
    with zai_and_north([thinks("sig-glm"), OVERLOADED, OVERLOADED], [stream(), stream()]) as scene:
        ask(scene, body(TEXT), session="one")
        ask(scene, body(GLMS, TEXT), session="resumed")
        ask(scene, body(GLMS, TEXT))
    assert [entry for entry in sent(scene) if entry[0] == "north"] == [("north", body(TEXT))] * 2


def test_a_switch_costs_no_reading_and_no_waiting_where_all_are_of_one_family() -> None:
    history = body(CLAUDES, TEXT)
    with Scene(upstream("north", stream(), priority=1), upstream("south")) as scene:
        client = scene.call(length=len(history), session="one")
        client.send(history[:60])
        assert len(scene.requests) == 1, "begun with the first packet"
        client.send(history[60:])
        client.finish_upload()
    assert sent(scene) == [("north", history)]


def test_a_session_of_one_family_is_not_waited_for_either() -> None:
    history = body(CLAUDES, TEXT)
    with Scene(upstream("north", thinks("sig-claude"), stream(), priority=1), upstream("zai", type="zai")) as scene:
        ask(scene, body(TEXT), session="one")
        client = scene.call(length=len(history), session="one")
        client.send(history[:60])
        assert len(scene.requests) == 2
        client.send(history[60:])
        client.finish_upload()
    assert sent(scene)[1] == ("north", history)


def test_a_count_says_nothing_about_who_wrote_a_history() -> None:
    """A client counts parts of a prompt, with which a history of another family does not come."""
    count = says(200, b'{"input_tokens": 7}')
    with zai_and_north([thinks("sig-glm"), OVERLOADED], [count, stream()]) as scene:
        ask(scene, body(TEXT), session="one")
        ask(scene, session="resumed", kind=CallKind.COUNT_TOKENS)
        ask(scene, body(GLMS, TEXT), session="resumed")
    assert sent(scene)[-1] == ("north", body(TEXT))


# -- signatures that nobody knows


def test_unknown_signatures_stay_until_they_are_refused_and_then_go_at_once() -> None:
    with zai_and_north([OVERLOADED, OVERLOADED], [REFUSED, stream(), stream()]) as scene:
        client = ask(scene, body(NOBODYS, TEXT), session="one")
        ask(scene, body(NOBODYS, CLAUDES, TEXT), session="one")
    assert [entry[1] for entry in sent(scene) if entry[0] == "north"] == [
        body(NOBODYS, TEXT),
        body(TEXT),
        body(TEXT),
    ]
    assert client.status == 200
    assert [attempt.outcome is None for attempt in scene.attempts] == [False, False, True, False, True]
    assert client.record.attempts == 3


def test_a_refused_signature_is_nobodys_illness_and_no_keys_fault() -> None:
    with zai_and_north([OVERLOADED], [REFUSED, stream()]) as scene:
        ask(scene, body(NOBODYS, TEXT), session="one")
    north = scene.contenders["north"]
    assert north.breaker.failures == 0
    assert north.pool is not None
    assert north.pool.available(scene.clock.seconds()) == 1


def test_a_refusal_that_stands_without_the_blocks_is_told_as_it_is() -> None:
    with zai_and_north([OVERLOADED], [REFUSED, REFUSED]) as scene:
        client = ask(scene, body(NOBODYS, TEXT), session="one")
    assert len(scene.requests) == 3
    assert (client.status, client.body) == (400, REFUSED.pieces[0][1])


def test_another_keys_blocks_go_too_when_the_key_in_use_refuses_them() -> None:
    """Of one provider with several keys: they may be of several accounts."""
    with Scene(upstream("north", thinks("sig-claude"), LIMITED, REFUSED, stream(), keys=["n1", "n2"])) as scene:
        ask(scene, body(TEXT), session="one")
        client = ask(scene, body(CLAUDES, TEXT), session="one")
    assert scene.asked == ["north n1", "north n1", "north n2", "north n2"]
    assert sent(scene)[-1] == ("north", body(TEXT))
    assert client.status == 200


def test_the_blocks_that_the_refusing_key_issued_stay() -> None:
    with Scene(upstream("north", thinks("sig-claude"), REFUSED, stream(), keys=["n1", "n2"])) as scene:
        ask(scene, body(TEXT), session="one")
        ask(scene, body(CLAUDES, NOBODYS, TEXT), session="one")
    assert sent(scene)[-1] == ("north", body(CLAUDES, TEXT))


def test_where_there_is_only_one_account_the_refusal_passes_unchanged() -> None:
    with Scene(upstream("north", REFUSED)) as scene:
        client = ask(scene, body(NOBODYS, TEXT), session="one")
    assert len(scene.requests) == 1
    assert (client.status, client.body) == (400, REFUSED.pieces[0][1])


def test_another_400_is_not_repeated() -> None:
    fault = error(400, "invalid_request_error", "messages.1.content.0: thinking is not welcome")
    with zai_and_north([OVERLOADED], [fault]) as scene:
        client = ask(scene, body(NOBODYS, TEXT), session="one")
    assert client.status == 400
    assert len(scene.requests) == 2


def test_a_history_of_nothing_but_thinking_is_left_as_it_is() -> None:
    with zai_and_north([OVERLOADED], [REFUSED]) as scene:
        document = b'{"model":"m","messages":[{"role":"assistant","content":[' + NOBODYS.encode() + b"]}]}"
        client = ask(scene, document, session="one")
    assert client.status == 400
    assert len(scene.requests) == 2


# -- thinking off

ENABLED = '"thinking":{"type":"enabled","budget_tokens":1024} , '
CALL = '{"type":"tool_use","id":"t","name":"f","input":{}}'
RESULT = '[{"type":"tool_result","tool_use_id":"t","content":"ok"}]'


@pytest.mark.parametrize("debug", [False, True])
def test_a_turn_that_would_be_illegal_goes_without_thinking_and_the_answer_says_so(debug: bool) -> None:
    """Lesson 10."""
    with zai_and_north([thinks("sig-glm"), OVERLOADED], [stream()], debug=debug) as scene:
        ask(scene, body(TEXT), session="one")
        client = ask(scene, body(GLMS, CALL, members=ENABLED, last=RESULT), session="one")
    assert sent(scene)[-1] == ("north", body(CALL, last=RESULT).replace(b'5-5",', b'5-5" ,'))
    assert client.header(b"x-cc-relay-thinking") == b"off"
    assert list(scene.attempts[-1].changed) == ["1 thinking blocks", "thinking"]


def test_a_turn_that_begins_anew_keeps_its_thinking() -> None:
    with zai_and_north([thinks("sig-glm"), OVERLOADED], [stream()]) as scene:
        ask(scene, body(TEXT), session="one")
        client = ask(scene, body(GLMS, TEXT, members=ENABLED), session="one")
    assert sent(scene)[-1] == ("north", body(TEXT, members=ENABLED))
    assert client.header(b"x-cc-relay-thinking") is None
