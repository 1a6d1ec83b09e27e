"""Calls through the anthropic SDK, as its users write them.

A line ``[BASE_URL, KEY, CASE]`` of JSON in, a line with what came of it out, each with a client of its own, until the
end of the input: importing the SDK takes longer than all the calls.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import anthropic

QUESTION: dict[str, Any] = {
    "model": "claude-opus-5-5",
    "max_tokens": 1000,
    "messages": [{"role": "user", "content": "hello"}],
}
TOOL: Any = {
    "name": "look",
    "description": "Look.",
    "input_schema": {"type": "object", "properties": {"at": {"type": "string"}}},
}


def streaming(client: anthropic.Anthropic) -> Any:
    with client.messages.stream(**QUESTION) as stream:
        text = list(stream.text_stream)
        return {"text": text, "message": stream.get_final_message().to_dict()}


def raw_events(client: anthropic.Anthropic) -> Any:
    return [event.type for event in client.messages.create(**QUESTION, stream=True)]


def whole(client: anthropic.Anthropic) -> Any:
    return client.messages.create(**QUESTION).to_dict()


def tool_use(client: anthropic.Anthropic) -> Any:
    """A tool loop of two turns; the second one sends back what the first one said."""
    with client.messages.stream(**QUESTION, tools=[TOOL]) as stream:
        first = stream.get_final_message()
    results = [
        {"type": "tool_result", "tool_use_id": block.id, "content": f"saw {block.input}"}
        for block in first.content
        if block.type == "tool_use"
    ]
    turns = [{"role": "assistant", "content": first.content}, {"role": "user", "content": results}]
    messages = [*QUESTION["messages"], *turns]
    second = client.messages.create(**{**QUESTION, "messages": messages}, tools=[TOOL])
    return [first.to_dict(), second.to_dict()]


def count_tokens(client: anthropic.Anthropic) -> Any:
    return client.messages.count_tokens(model=QUESTION["model"], messages=QUESTION["messages"]).input_tokens


def models(client: anthropic.Anthropic) -> Any:
    return [model.id for model in client.models.list(limit=2)]


def model(client: anthropic.Anthropic) -> Any:
    return client.models.retrieve("claude-two").to_dict(mode="json")


def betas(client: anthropic.Anthropic) -> Any:
    return client.beta.messages.create(**QUESTION, betas=["context-1m-2025-08-07", "unheard-of-2031-01-01"]).to_dict()


def without_retries(client: anthropic.Anthropic) -> Any:
    return whole(client.with_options(max_retries=0))


def streaming_without_retries(client: anthropic.Anthropic) -> Any:
    return streaming(client.with_options(max_retries=0))


CASES: dict[str, Callable[[anthropic.Anthropic], Any]] = {
    case.__name__: case
    for case in (
        streaming,
        raw_events,
        whole,
        tool_use,
        count_tokens,
        models,
        model,
        betas,
        without_retries,
        streaming_without_retries,
    )
}


def outcome(base_url: str, key: str, case: str) -> dict[str, Any]:
    client = anthropic.Anthropic(base_url=base_url, api_key=key, timeout=20)
    try:
        return {"value": CASES[case](client)}
    except anthropic.APIStatusError as error:
        return {
            "error": type(error).__name__,
            "status": error.status_code,
            "request_id": error.request_id,
            "retry_after": error.response.headers.get("retry-after"),
            "body": error.body,
        }
    except Exception as error:  # noqa: BLE001  # whatever it is, the test wants to know its name
        return {"error": type(error).__name__, "text": str(error)}


if __name__ == "__main__":
    for line in sys.stdin:
        print(json.dumps(outcome(*json.loads(line))), flush=True)
