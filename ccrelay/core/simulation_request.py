"""What a client asks the simulator: the body read, checked and counted. Pure."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from ccrelay.core.model import Usage

Json = dict[str, Any]

_MAX_OUTPUT = 1_000_000  # tokens: more than any answer of a simulator, so that no client's number is too large
_MAX_FILLER = 128_000  # tokens of `simulate tokens N`: the largest max_tokens of a real model
_CACHE_MINIMUM = 1024  # tokens: the API caches no prefix below this
_FRAME_TOKENS = 8  # what the API counts around the shortest prompt
_BINARY_TOKENS = 1600  # an image or a document, whatever its base64 weighs: about what a full-size image costs

_DIRECTIVE = re.compile(
    r"\bsimulate (?:error (?P<status>[45]\d\d)|(?P<cut>cut)|stall (?P<stall>\d{1,4}(?:\.\d{1,3})?)"
    r"|tokens (?P<tokens>\d{1,6})|tool (?P<tool>[A-Za-z0-9_-]{1,128}))\b(?: after (?P<after>\d{1,6})\b)?"
)


class Refusal(Exception):
    """The request would be refused by the API: answer 400 ``invalid_request_error`` with this text."""


@dataclass(frozen=True, slots=True)
class Directive:
    """One ``simulate ...`` phrase found in the prompt (see ``simulation``). Zero, False or None: not asked for."""

    status: int = 0
    cut: bool = False
    stall: float = 0.0
    after: int = 0
    tokens: int = 0
    tool: str | None = None
    tool_input: Json | None = None


@dataclass(frozen=True, slots=True)
class Asked:
    """A checked request.

    body: the whole of it as parsed JSON. text: of the last user message, without the reminders a client adds.
    tool_output: of the tool result in that message, None without one. schema: what a JSON answer must satisfy.
    """

    body: Json
    model: str
    max_tokens: int
    stream: bool
    text: str
    tool_output: str | None
    schema: object
    directive: Directive


def read_request(body: bytes, *, counting: bool) -> Asked:
    """Check a request body as the API does, as far as clients depend on it.

    counting: for count_tokens, where ``max_tokens`` is not asked for.
    Raises Refusal in the API's wording. Unknown fields, roles and block types pass.
    """
    try:
        parsed = json.loads(body.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise Refusal(f"The request body is not valid JSON: {error}") from None
    if not isinstance(parsed, dict):
        raise Refusal("Input should be a valid dictionary")
    for field in ("model", "messages") if counting else ("model", "messages", "max_tokens"):
        if field not in parsed:
            raise Refusal(f"{field}: Field required")
    model, stream = parsed["model"], parsed.get("stream", False)
    if not isinstance(model, str):
        raise Refusal("model: Input should be a valid string")
    messages = _checked_messages(parsed["messages"])
    max_tokens = parsed.get("max_tokens", 1)
    if isinstance(max_tokens, bool) or not isinstance(max_tokens, int):
        raise Refusal("max_tokens: Input should be a valid integer")
    if max_tokens < 1:
        raise Refusal("max_tokens: must be greater than or equal to 1")
    if not isinstance(stream, bool):
        raise Refusal("stream: Input should be a valid boolean")
    choice = parsed.get("tool_choice")
    if isinstance(choice, dict) and choice.get("type") == "tool":
        if not any(isinstance(t, dict) and t.get("name") == choice.get("name") for t in as_list(parsed.get("tools"))):
            raise Refusal(f"Tool '{choice.get('name')}' not found in provided tools")
    text, tool_output = _last_user(messages)
    schema = _answer_schema(parsed)
    # A client's side calls (titles) quote the prompt and ask for JSON: what is rehearsed there is not theirs.
    directive = Directive() if schema is not None else _directive(text)
    return Asked(parsed, model, min(max_tokens, _MAX_OUTPUT), stream, text, tool_output, schema, directive)


def count_input(asked: Asked) -> tuple[Usage, bool]:
    """The input tokens of a request, in the classes that are billed apart, and whether the cache is the one-hour one.

    An estimate, four bytes a token; its sum is what count_tokens answers. As if every prefix but the newest turn
    had been cached by the turn before: marks on a first turn write, later ones read up to the last assistant turn.
    """
    body = asked.body
    system = body.get("system")
    total, marked, before = _FRAME_TOKENS, 0, 0
    hour = False
    items = [*as_list(body.get("tools")), *(as_list(system) or [system])]
    for message in body["messages"]:
        content = message["content"]
        items += as_list(content) or [content]
        if message["role"] == "assistant":
            items.append(_TURN)
    for item in items:
        if item is _TURN:
            before = total
            continue
        total += _weigh(item)
        control = item.get("cache_control") if isinstance(item, dict) else None
        if isinstance(control, dict):
            marked, hour = total, hour or control.get("ttl") == "1h"
    if isinstance(body.get("cache_control"), dict):
        marked = total
    if marked < _CACHE_MINIMUM:
        return Usage(input=total), False
    read = min(before, marked) if before >= _CACHE_MINIMUM else 0
    return Usage(input=total - marked, cache_write=marked - read, cache_read=read), hour


_TURN: Json = {}  # marks the end of an assistant message among the counted items


def _checked_messages(messages: object) -> list[Json]:
    if not isinstance(messages, list):
        raise Refusal("messages: Input should be a valid list")
    if not messages:
        raise Refusal("messages: at least one message is required")
    for index, message in enumerate(messages):
        if not isinstance(message, dict):
            raise Refusal(f"messages.{index}: Input should be a valid dictionary")
        for field in ("role", "content"):
            if field not in message:
                raise Refusal(f"messages.{index}.{field}: Field required")
    return messages


def as_list(value: object) -> list[Any]:
    """The value if it is a list, else none: what a client sends in an odd shape is left out, not refused."""
    return value if isinstance(value, list) else []


def _weigh(value: object) -> int:
    """Tokens of one item of a prompt. Walks without recursion: the client chooses the depth."""
    weight, tokens, waiting = 0, 0, [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, str):
            weight += len(item) if item.isascii() else len(item.encode("utf-8", "replace"))
        elif isinstance(item, dict):
            if item.get("type") == "base64" and "data" in item:
                tokens += _BINARY_TOKENS
                continue
            weight += sum(map(len, item))
            waiting.extend(item.values())
        elif isinstance(item, list):
            waiting.extend(item)
        elif item is not None:
            weight += 4
    return tokens + -(-weight // 4)


def _texts(content: object) -> list[str]:
    """The texts of a message's or a tool result's content."""
    if isinstance(content, str):
        return [content]
    blocks = (block for block in as_list(content) if isinstance(block, dict) and block.get("type") == "text")
    return [block["text"] for block in blocks if isinstance(block.get("text"), str)]


def _last_user(messages: list[Json]) -> tuple[str, str | None]:
    """The newest user message's own text, and the output of the tool result in it."""
    content = next((m["content"] for m in reversed(messages) if m["role"] == "user"), "")
    results = [b for b in as_list(content) if isinstance(b, dict) and b.get("type") == "tool_result"]
    # Claude Code puts reminders into blocks of their own, before and after what the user typed.
    own = [text for text in _texts(content) if not text.lstrip().startswith("<system-reminder>")]
    output = " ".join(_texts(results[-1].get("content"))) if results else None
    return (own[-1] if own else ""), output


def _directive(text: str) -> Directive:
    match = _DIRECTIVE.search(text)
    if match is None:
        return Directive()
    tool_input = None
    if match["tool"] is not None:
        rest = text[match.end() :].lstrip()
        with suppress(ValueError, RecursionError):  # no JSON follows the name: the tool's schema makes the input
            tool_input = json.JSONDecoder().raw_decode(rest)[0]
    return Directive(
        status=int(match["status"] or 0),
        cut=match["cut"] is not None,
        stall=float(match["stall"] or 0),
        after=int(match["after"] or 0),
        tokens=min(int(match["tokens"] or 0), _MAX_FILLER),
        tool=match["tool"],
        tool_input=tool_input if isinstance(tool_input, dict) else None,
    )


def _answer_schema(body: Json) -> object:
    """What ``output_config.format`` asks the answer to satisfy; None if it asks for no JSON."""
    config = body.get("output_config")
    wanted = config.get("format") if isinstance(config, dict) else None
    if not isinstance(wanted, dict) or wanted.get("type") != "json_schema":
        return None
    return wanted.get("schema", True)
