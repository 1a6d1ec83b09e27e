"""Calls through the anthropic SDK: with its plain client, and with its client for Bedrock, with the same arguments.

A line ``[KIND, OPTIONS, CASE]`` of JSON in, a line with what came of it out, each with a client of its own, until the
end of the input. KIND: ``Anthropic`` or ``AnthropicBedrock``. OPTIONS: the client's arguments.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import anthropic

MODEL = "us.anthropic.claude-sonnet-4-5-20250929-v1:0"
TOOL: Any = {
    "name": "look",
    "description": "Look.",
    "input_schema": {"type": "object", "properties": {"at": {"type": "string"}}},
}
RICH: dict[str, Any] = {
    "model": MODEL,
    "max_tokens": 4000,
    "system": [{"type": "text", "text": "Be brief. \u00bb\U0001f600\u00ab", "cache_control": {"type": "ephemeral"}}],
    "messages": [{"role": "user", "content": [{"type": "text", "text": "hello"}]}],
    "tools": [TOOL],
    "thinking": {"type": "enabled", "budget_tokens": 2000},
    "metadata": {"user_id": "somebody"},
    "stop_sequences": ["\n\nEnd"],
}


def streaming(client: Any) -> Any:
    with client.messages.stream(**RICH) as stream:
        return {"text": list(stream.text_stream), "message": stream.get_final_message().to_dict()}


def whole(client: Any) -> Any:
    return client.messages.create(**RICH).to_dict()


def with_betas(client: Any) -> Any:
    betas = ["interleaved-thinking-2025-05-14", "context-1m-2025-08-07"]
    return client.beta.messages.create(**RICH, betas=betas).to_dict()


def tool_use(client: Any) -> Any:
    """A tool loop of two turns; the second one sends back what the first one said."""
    with client.messages.stream(**RICH) as stream:
        first = stream.get_final_message()
    results = [
        {"type": "tool_result", "tool_use_id": block.id, "content": f"saw {block.input}"}
        for block in first.content
        if block.type == "tool_use"
    ]
    turns = [{"role": "assistant", "content": first.content}, {"role": "user", "content": results}]
    second = client.messages.create(**{**RICH, "messages": [*RICH["messages"], *turns]})
    return [first.to_dict(), second.to_dict()]


def count_tokens(client: Any) -> Any:
    return client.messages.count_tokens(model=MODEL, messages=RICH["messages"], tools=[TOOL]).input_tokens


CASES: dict[str, Callable[[Any], Any]] = {
    case.__name__: case for case in (streaming, whole, with_betas, tool_use, count_tokens)
}


def outcome(kind: str, options: dict[str, Any], case: str) -> dict[str, Any]:
    try:
        return {"value": CASES[case](getattr(anthropic, kind)(**options, max_retries=0, timeout=20))}
    except anthropic.APIStatusError as error:
        return {"error": type(error).__name__, "status": error.status_code, "body": error.body}
    except Exception as error:  # noqa: BLE001  # whatever it is, the test wants to know its name
        return {"error": type(error).__name__, "text": str(error)}


if __name__ == "__main__":
    for line in sys.stdin:
        print(json.dumps(outcome(*json.loads(line))), flush=True)
