"""What the simulator answers: a request body read and checked, and the reply that it gets. Pure.

How the reply travels, and how it fails, is in ``simulation``; how it looks on the wire, in ``simulation_events``.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

from ccrelay.core.model import Usage
from ccrelay.core.simulation_request import Asked, Json, Refusal, as_list, count_input
from ccrelay.core.simulation_schema import example

BUILT_IN_TEXT = """\
This is cc-relay's built-in simulator, not a language model: your request came through the relay, and this answer \
was made inside its own process.

{about}

To get real answers, configure a provider in the relay's configuration file and reload it, for example:

    providers:
      - name: anthropic
        type: anthropic
        keys:
          - key: ${{ANTHROPIC_API_KEY}}
"""

_ECHO = 200  # characters of the prompt that are repeated: enough to recognise it, short enough to read

# Output tokens: a run of white space with up to five characters after it. Joined again they are the text.
_TOKEN = re.compile(r"\s{0,16}\S{1,5}|\s{1,16}")


class Rng(Protocol):
    """The part of ``random.Random`` that the simulator draws from."""

    def random(self) -> float: ...

    def getrandbits(self, k: int, /) -> int: ...

    def randbytes(self, n: int) -> bytes: ...


@dataclass(frozen=True, slots=True)
class TextBlock:
    """Plain text. Not empty: the API sends no block without a text."""

    text: str


@dataclass(frozen=True, slots=True)
class ThinkingBlock:
    """Thinking. ``shown`` False: ``display: omitted``, the text is counted but never sent."""

    text: str
    signature: str
    shown: bool


@dataclass(frozen=True, slots=True)
class ToolBlock:
    """A call of one of the client's tools. ``input_json``: the input object as JSON text."""

    id: str
    name: str
    input_json: str


Block = TextBlock | ThinkingBlock | ToolBlock


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole answer. ``thinking_tokens`` is part of ``usage.output``. ``cache_hour``: for an hour, not 5 minutes."""

    id: str
    model: str
    blocks: tuple[Block, ...]
    stop_reason: str
    stop_sequence: str | None
    usage: Usage
    thinking_tokens: int
    cache_hour: bool


def dumps(value: object) -> str:
    """Compact JSON text; what UTF-8 cannot carry (half a surrogate pair from a client) becomes a question mark.

    Raises Refusal for what JSON has no word for: a client's 1e999 is read as infinity.
    """
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except ValueError:
        raise Refusal("The request body is not valid JSON: number out of range") from None
    return text.encode("utf-8", "replace").decode("utf-8")


def pieces(text: str) -> Iterator[str]:
    """The text in output tokens; joined, they are the text again."""
    return (match.group() for match in _TOKEN.finditer(text))


def count(text: str) -> int:
    """How many tokens ``pieces`` makes of the text."""
    return sum(1 for _ in pieces(text))


def compose(asked: Asked, configured: str, rng: Rng) -> Reply:
    """The answer to a request.

    configured: ``simulator.text``; empty for the built-in text, which says what this is, repeats the prompt's
    beginning and shows how to configure a provider.
    Draws from ``rng``: message id, tool id, signature.
    """
    message_id = f"msg_sim_{rng.getrandbits(96):024x}"
    choice = _choice(asked)
    tool = _tool_wanted(asked, choice)
    forced = tool is not None and choice.get("type") in ("any", "tool")
    blocks: list[Block] = []
    left = asked.max_tokens
    thinking = None if forced else _thinking(asked, rng)
    thinking_tokens = 0
    if thinking is not None and count(thinking.text) < left:
        blocks.append(thinking)
        thinking_tokens = count(thinking.text)
        left -= thinking_tokens
    text, stop_reason, stop_sequence = "", "end_turn", None
    if not forced:
        text, stop_sequence = _stopped(asked, _text(asked, tool, configured))
        taken = list(islice(pieces(text), left + 1))
        if stop_sequence is not None:
            stop_reason = "stop_sequence"
        if len(taken) > left:
            taken.pop()
            stop_reason, stop_sequence = "max_tokens", None
        text = "".join(taken)
        left -= len(taken)
        if text:
            blocks.append(TextBlock(text))
    if tool is not None and stop_reason == "end_turn":
        block = ToolBlock(f"toolu_sim_{rng.getrandbits(96):024x}", tool["name"], dumps(_tool_input(asked, tool)))
        cost = count(block.input_json)
        stop_reason = "tool_use"
        if cost > left:
            # Half an input would have to be the same half in a stream and in a whole message: send none of it.
            block, cost, stop_reason = ToolBlock(block.id, block.name, "{}"), left, "max_tokens"
        left -= cost
        blocks.append(block)
    usage, hour = count_input(asked)
    usage = Usage(usage.input, max(1, asked.max_tokens - left), usage.cache_write, usage.cache_read)
    return Reply(message_id, asked.model, tuple(blocks), stop_reason, stop_sequence, usage, thinking_tokens, hour)


def _choice(asked: Asked) -> Json:
    choice = asked.body.get("tool_choice")
    return choice if isinstance(choice, dict) else {}


def _tool(asked: Asked, name: str | None) -> Json | None:
    """The request's tool of that name, or its first one for None. Only tools that the client runs itself."""
    for tool in as_list(asked.body.get("tools")):
        if isinstance(tool, dict) and "input_schema" in tool and isinstance(tool.get("name"), str):
            if name is None or tool["name"] == name:
                return tool
    return None


def _tool_wanted(asked: Asked, choice: Json) -> Json | None:
    # A tool that has just run is never asked for again, or a client that forces one would go on for ever.
    if asked.tool_output is not None or choice.get("type") == "none":
        return None
    if choice.get("type") == "tool":
        return _tool(asked, choice.get("name"))
    named = _tool(asked, asked.directive.tool) if asked.directive.tool is not None else None
    return _tool(asked, None) if named is None and choice.get("type") == "any" else named


def _tool_input(asked: Asked, tool: Json) -> Json:
    if asked.directive.tool == tool["name"] and asked.directive.tool_input is not None:
        return asked.directive.tool_input
    made = example(tool["input_schema"])
    return made if isinstance(made, dict) else {}


def _thinking(asked: Asked, rng: Rng) -> ThinkingBlock | None:
    config = asked.body.get("thinking")
    if not isinstance(config, dict) or config.get("type") not in ("enabled", "adaptive"):
        return None
    text = f"The user wrote {len(asked.text)} characters. A simulator does not think; it answers what it is told to."
    return ThinkingBlock(text, base64.b64encode(rng.randbytes(192)).decode(), config.get("display") != "omitted")


def _text(asked: Asked, tool: Json | None, configured: str) -> str:
    if asked.schema is not None:
        return dumps(example(asked.schema))
    if tool is not None:
        return f"Using the tool {tool['name']}, as asked."
    if asked.directive.tokens:
        return " sim" * asked.directive.tokens
    if configured:
        return configured
    source, label = (asked.text, "You asked") if asked.tool_output is None else (asked.tool_output, "The tool answered")
    words = " ".join(source[: 10 * _ECHO].split())
    return BUILT_IN_TEXT.format(about=f"{label}: {words[:_ECHO]}{'…' if len(words) > _ECHO else ''}")


def _stopped(asked: Asked, text: str) -> tuple[str, str | None]:
    """The text up to the first of the request's stop sequences, and which one that was."""
    sequences = [s for s in as_list(asked.body.get("stop_sequences")) if isinstance(s, str) and s]
    found = min(((text.find(s), i) for i, s in enumerate(sequences) if s in text), default=None)
    return (text, None) if found is None else (text[: found[0]], sequences[found[1]])
