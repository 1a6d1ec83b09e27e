"""Calls through the anthropic SDK's clients for the clouds, and through its plain one, with the very same arguments.

A line ``[KIND, OPTIONS, CASE]`` of JSON in, a line with what came of it out, each with a client of its own, until the
end of the input. KIND: ``anthropic``, ``vertex`` or ``foundry``. OPTIONS: the client's arguments; for Vertex with the
service account's key file as ``account``.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import anthropic

MODEL = "claude-opus-5-5"
TOOL: Any = {
    "name": "look",
    "description": "Look.",
    "input_schema": {"type": "object", "properties": {"at": {"type": "string"}}},
    "cache_control": {"type": "ephemeral"},
}
RICH: dict[str, Any] = {
    "max_tokens": 4000,
    "system": [{"type": "text", "text": "Be brief. \u00bb\U0001f600\u00ab", "cache_control": {"type": "ephemeral"}}],
    "messages": [{"role": "user", "content": [{"type": "text", "text": "hello"}]}],
    "tools": [TOOL],
    "thinking": {"type": "enabled", "budget_tokens": 2000},
    "metadata": {"user_id": "somebody"},
    "stop_sequences": ["\n\nEnd"],
}
QUESTION: dict[str, Any] = {"max_tokens": 1000, "messages": [{"role": "user", "content": "hello"}]}


def streaming(client: Any, model: str) -> Any:
    with client.messages.stream(model=model, **RICH) as stream:
        return {"text": list(stream.text_stream), "message": stream.get_final_message().to_dict()}


def whole(client: Any, model: str) -> Any:
    return client.messages.create(model=model, **QUESTION).to_dict()


def tool_use(client: Any, model: str) -> Any:
    """A tool loop of two turns; the second one sends back what the first one said."""
    with client.messages.stream(model=model, **QUESTION, tools=[TOOL]) as stream:
        first = stream.get_final_message()
    results = [
        {"type": "tool_result", "tool_use_id": block.id, "content": f"saw {block.input}"}
        for block in first.content
        if block.type == "tool_use"
    ]
    turns = [{"role": "assistant", "content": first.content}, {"role": "user", "content": results}]
    messages = [*QUESTION["messages"], *turns]
    second = client.messages.create(model=model, **{**QUESTION, "messages": messages}, tools=[TOOL])
    return [first.to_dict(), second.to_dict()]


def count_tokens(client: Any, model: str) -> Any:
    return client.messages.count_tokens(model=model, messages=QUESTION["messages"], tools=[TOOL]).input_tokens


def betas(client: Any, model: str) -> Any:
    named = ["interleaved-thinking-2025-05-14", "context-1m-2025-08-07"]
    return client.beta.messages.create(model=model, **QUESTION, betas=named).to_dict()


CASES: dict[str, Callable[[Any, str], Any]] = {
    case.__name__: case for case in (streaming, whole, tool_use, count_tokens, betas)
}


def client_of(kind: str, options: dict[str, Any]) -> Any:
    if kind == "anthropic":
        return anthropic.Anthropic(**options, max_retries=0, timeout=20)
    if kind == "foundry":
        from anthropic import AnthropicFoundry

        return AnthropicFoundry(**options, max_retries=0, timeout=20)
    from anthropic import AnthropicVertex
    from google.oauth2.service_account import Credentials

    scopes = ["https://www.googleapis.com/auth/cloud-platform"]
    credentials = Credentials.from_service_account_file(options.pop("account"), scopes=scopes)
    return AnthropicVertex(**options, credentials=credentials, max_retries=0, timeout=20)


def outcome(kind: str, options: dict[str, Any], case: str) -> dict[str, Any]:
    model = options.pop("model", MODEL)
    try:
        return {"value": CASES[case](client_of(kind, options), model)}
    except anthropic.APIStatusError as error:
        return {"error": type(error).__name__, "status": error.status_code, "body": error.body}
    except Exception as error:  # noqa: BLE001  # whatever it is, the test wants to know its name
        return {"error": type(error).__name__, "text": str(error)}


if __name__ == "__main__":
    for line in sys.stdin:
        print(json.dumps(outcome(*json.loads(line))), flush=True)
