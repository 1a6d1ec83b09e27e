"""Calls that not everybody can take: who is passed over for them and why, and what is told where nobody can."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from ccrelay.core.model import CallKind
from ccrelay.core.needs import BYTES_PER_TOKEN_HIGH, BYTES_PER_TOKEN_LOW

from .scenarios import Scene, Step, error, message, stream, upstream
from .scenarios_cases import LIMITED, OVERLOADED, ask, complaint, passed_over, say

IMAGE = {"type": "image", "source": {"type": "url", "url": "https://pictures.test/1.png"}}
PDF = {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "QUJD"}}
FILE = {"type": "document", "source": {"type": "file", "file_id": "file_1"}}


def request(*blocks: dict[str, object], **members: object) -> bytes:
    content = [*blocks, {"type": "text", "text": "what is this?"}]
    return json.dumps({"model": "m", "messages": [{"role": "user", "content": content}], **members}).encode()


UNFIT = {
    "an image by URL": (request(IMAGE), "cannot take images or documents by URL"),
    "a PDF": (request(PDF), "cannot take documents"),
    "a file": (request(FILE), "cannot take uploaded files"),
    "tool_choice": (request(tools=[], tool_choice={"type": "any"}), "cannot take tool_choice"),
    "a server tool": (request(tools=[{"type": "code_execution_20250825", "name": "c"}]), "cannot take server tools"),
    "tool search": (
        request(tools=[{"type": "tool_search_tool_regex_20251119", "name": "t"}]),
        "cannot take the tool search tool",
    ),
    "an MCP server": (request(mcp_servers=[{"type": "url", "url": "https://m.test"}]), "cannot take MCP servers"),
}


@pytest.mark.parametrize(("body", "reason"), UNFIT.values(), ids=UNFIT)
def test_ollama_is_passed_over_for_what_it_would_ignore_or_refuse(body: bytes, reason: str) -> None:
    with Scene(upstream("ollama", type="ollama", keys=[], priority=1), upstream("north", stream())) as scene:
        ask(scene, body)
    assert scene.asked == ["north k1"]
    assert scene.requests[0].body == body
    assert passed_over(scene) == [("ollama", reason)]


@pytest.mark.parametrize(("body", "reason"), UNFIT.values(), ids=UNFIT)
def test_alone_it_is_not_asked_either_and_the_client_hears_which_feature_nobody_has(body: bytes, reason: str) -> None:
    with Scene(upstream("ollama", type="ollama", keys=[])) as scene:
        client = ask(scene, body)
    assert scene.requests == []
    assert client.status == 400
    expected = f"cc-relay: no provider can take this call: ollama {reason}"
    assert complaint(client) == ("invalid_request_error", expected)


FITTING = {
    "text": request(),
    "an image in the body": request({"type": "image", "source": {"type": "base64", "data": "QUJD"}}),
    "tools of the client's": request(tools=[{"name": "f", "input_schema": {}}, {"type": "bash_20250124", "name": "b"}]),
    "tool_choice as it is anyway": request(tool_choice={"type": "auto"}),
    "a word about documents": request({"type": "text", "text": '"type": "document"'}),
}


@pytest.mark.parametrize("body", FITTING.values(), ids=FITTING)
def test_ollama_gets_what_it_can_take_unchanged(body: bytes) -> None:
    with Scene(upstream("ollama", stream(), type="ollama", keys=[], priority=1), upstream("north")) as scene:
        ask(scene, body)
    assert scene.asked == ["ollama -"]
    assert scene.requests[0].body == body


def test_whoever_is_unfit_for_a_call_is_no_way_out_when_the_others_fail() -> None:
    with Scene(upstream("north", OVERLOADED, priority=1), upstream("ollama", type="ollama", keys=[])) as scene:
        client = ask(scene, request(PDF))
    assert scene.asked == ["north k1"]
    assert client.status == 529


def test_a_call_that_somebody_may_take_later_is_told_to_wait() -> None:
    with Scene(upstream("north", LIMITED, priority=1), upstream("ollama", type="ollama", keys=[])) as scene:
        ask(scene, request(PDF))
        client = ask(scene, request(PDF, IMAGE))
    assert (client.status, client.header(b"retry-after")) == (429, b"7")


def test_features_of_different_providers_are_all_named() -> None:
    with Scene(upstream("local", type="ollama", keys=[]), upstream("bedrock", type="bedrock", keys=["b1"])) as scene:
        client = ask(scene, request(IMAGE, tool_choice={"type": "any"}))
    found = complaint(client)[1]
    assert "local cannot take images or documents by URL" in found
    assert "bedrock cannot take images or documents by URL" in found


# -- length


def long(tokens: int, bytes_per_token: float) -> str:
    return "x" * int(tokens * bytes_per_token)


def test_one_that_cuts_prompts_in_silence_is_passed_over_for_what_it_perhaps_cannot_hold() -> None:
    local = upstream("ollama", stream(), type="ollama", keys=[], context_window=32_000, priority=1)
    with Scene(local, upstream("north", stream())) as scene:
        ask(scene, long(31_000, BYTES_PER_TOKEN_LOW))
        ask(scene, long(33_000, BYTES_PER_TOKEN_LOW))
    assert scene.asked == ["ollama -", "north k1"]
    ((name, reason),) = passed_over(scene)
    assert name == "ollama"
    assert reason.startswith("its context of 32000 tokens cannot hold about 330")


def test_one_that_refuses_what_is_too_long_is_asked_as_long_as_it_may_fit() -> None:
    with Scene(upstream("north", stream(), context_window=32_000, priority=1), upstream("south", stream())) as scene:
        ask(scene, long(31_000, BYTES_PER_TOKEN_HIGH))
        ask(scene, long(33_000, BYTES_PER_TOKEN_HIGH))
    assert scene.asked == ["north k1", "south k1"]


def test_what_nobody_can_hold_is_told_in_the_words_that_clients_compact_by() -> None:
    """Of the widest context, as that is what the client has to get below."""
    with Scene(
        upstream("ollama", type="ollama", keys=[], context_window=32_000),
        upstream("north", context_window=64_000),
        upstream("zai", type="zai", context_window=48_000),
    ) as scene:
        client = ask(scene, long(70_000, BYTES_PER_TOKEN_HIGH))
    assert scene.requests == []
    assert client.status == 400
    kind, text = complaint(client)
    assert kind == "invalid_request_error"
    words = text.split()
    assert words[:4] == ["prompt", "is", "too", "long:"]
    assert words[5:] == ["tokens", ">", "64000", "maximum"]
    assert int(words[4]) > 64_000
    assert client.header(b"retry-after") is None


def test_the_length_counts_before_a_feature_that_is_missing() -> None:
    with Scene(
        upstream("ollama", type="ollama", keys=[], context_window=8_000), upstream("north", context_window=8_000)
    ) as scene:
        client = ask(scene, request(PDF, {"type": "text", "text": long(9_000, BYTES_PER_TOKEN_HIGH)}))
    assert complaint(client)[1].startswith("prompt is too long: ")


def says_it_was(tokens: int) -> Step:
    answer = message()
    usage = answer.pieces[0][1].replace(b'"input_tokens": 11', b'"input_tokens": %d' % tokens)
    return replace(answer, pieces=((0.0, usage),))


@pytest.mark.parametrize(("tokens", "status"), [(25_000, 200), (60_000, 429)])
def test_a_sessions_true_usage_says_whether_its_next_prompt_fits_another_provider(tokens: int, status: int) -> None:
    """By its length alone it might be too long for Ollama."""
    tired = error(429, "rate_limit_error", headers=((b"retry-after", b"30"),))
    cloud = upstream("bedrock", says_it_was(tokens), tired, type="bedrock", keys=["b1"], priority=1)
    local = upstream("ollama", *[message()] * (status == 200), type="ollama", keys=[], context_window=50_000)
    with Scene(cloud, local) as scene:
        ask(scene, say("x" * 120_000), session="one")
        client = ask(scene, say("y" * 120_000), session="one")
    assert client.status == status


def test_what_one_client_sends_without_a_session_says_nothing_of_what_it_sends_next() -> None:
    """The first text makes a token of each two bytes; the second would be far too long if it did so too."""
    cloud = upstream("bedrock", says_it_was(29_000), message(), type="bedrock", keys=["b1"], context_window=50_000)
    with Scene(cloud) as scene:
        assert ask(scene, say("1" * 64_000)).status == 200
        assert ask(scene, say("words " * 30_000)).status == 200


def test_what_a_session_sends_is_as_dense_as_what_it_sent() -> None:
    cloud = upstream("bedrock", says_it_was(29_000), message(), type="bedrock", keys=["b1"], context_window=50_000)
    with Scene(cloud) as scene:
        assert ask(scene, say("1" * 64_000), session="one").status == 200
        client = ask(scene, say("2" * 180_000), session="one")
    assert len(scene.requests) == 1
    assert complaint(client)[1].startswith("prompt is too long: ")


def test_an_unknown_context_is_left_to_the_upstream() -> None:
    refusal = error(400, "invalid_request_error", "prompt is too long: 300000 tokens > 200000 maximum")
    with Scene(upstream("north", refusal), upstream("south")) as scene:
        client = ask(scene, json.dumps({"model": "nobodys", "messages": "x" * 3_000_000}).encode())
    assert scene.asked == ["north k1"]
    assert client.body == refusal.pieces[0][1], "lesson 27: the first authoritative 4xx wins"


# -- size


def test_a_request_larger_than_a_cloud_takes_goes_elsewhere() -> None:
    with Scene(
        upstream("bedrock", type="bedrock", keys=["b1"], priority=1), upstream("north", replace(stream(), reads=20))
    ) as scene:
        client = scene.call(length=30_000_000)
        client.send(b'{"model": "nobodys", "messages": [')
        assert scene.asked == ["north k1"]
        scene.advance(0.0)
    ((name, reason),) = passed_over(scene)
    assert name == "bedrock"
    assert reason.startswith("takes requests of at most ")


def test_a_request_too_large_for_everybody_is_413_with_the_largest_size_that_would_go() -> None:
    with Scene(upstream("bedrock", type="bedrock", keys=["b1"])) as scene:
        client = scene.call(length=30_000_000)
        client.send(say("hi")[:-1])
        scene.advance(0.0)
    assert scene.requests == []
    most = scene.contenders["bedrock"].provider.max_body_bytes
    assert client.status == 413
    assert complaint(client) == ("request_too_large", f"Request exceeds the maximum size of {most} bytes")


def test_tokens_are_counted_whatever_the_call_needs() -> None:
    count = message("north")
    with Scene(upstream("ollama", type="ollama", keys=[], priority=1), upstream("north", count)) as scene:
        ask(scene, request(PDF), kind=CallKind.COUNT_TOKENS)
    assert passed_over(scene) == [("ollama", "has no count_tokens")]


HUGE = json.dumps({"model": "claude-opus-5-5", "messages": [], "padding": "x" * 9_000_000}).encode()
"""More than a million tokens at the fewest: beyond what the catalogue says of that model."""


def test_what_only_our_catalogue_takes_for_too_long_is_for_the_provider_to_refuse() -> None:
    """Windows grow, and a table that was shipped must not fail a call that would have been answered."""
    with Scene(upstream("north", message())) as scene:
        client = scene.call(HUGE)
    assert (client.status, len(scene.requests[0].body)) == (200, len(HUGE))


def test_whoever_can_take_it_for_certain_is_asked_before_one_that_we_doubt() -> None:
    south = upstream("south", message(), model_mapping={"claude-*": "of-a-larger-window"})
    with Scene(upstream("north", priority=1), south) as scene:
        client = scene.call(HUGE)
    assert (scene.asked, client.status) == (["south k1"], 200)


def test_a_doubtful_provider_does_not_stand_in_for_one_that_is_back_in_a_moment() -> None:
    """It would refuse the prompt, and the client would compact what the other can take."""
    south = upstream("south", LIMITED, model_mapping={"claude-*": "of-a-larger-window"})
    with Scene(upstream("north", priority=1), south) as scene:
        scene.call(HUGE)
        scene.advance(0)
        client = scene.call(HUGE.replace(b"xx", b"yy"))
    assert (scene.asked, client.status) == (["south k1"], 429)
