"""What a call needs of whoever answers it, read from its complete body, and who is known to lack it.

Rules of this file:
- Only what is known to be lacking refuses a call: where a provider's abilities are not known it is asked, and answers
  for itself. LACKS is the only table.
- A token count is always a range. The low end may refuse a call in the name of an API that would refuse it itself; the
  high end must refuse it for one that cuts a prompt in silence.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Final

from ccrelay.core.bounded import BoundedMap
from ccrelay.core.json_spans import Walker, refuse_crowded, text_of
from ccrelay.errors import ClientError

BYTES_PER_TOKEN_LOW: Final = 2.2
"""Fewest bytes of JSON that make a token, over a whole prompt. English was measured at 3.6 with count_tokens on Claude
4.7, whose tokenizer makes the most; the rest is margin for code and tables. Only runs of digits are denser."""

BYTES_PER_TOKEN_HIGH: Final = 8.0
"""Most bytes that make a token: twice as thin as English on any tokenizer, reached by deep indentation."""

_ESCAPE_BYTES: Final = 4
"""Of the six bytes of a ``\\uXXXX`` these do not count for the low estimate: some SDKs spell whole Chinese texts like
that, and two such characters are often one token."""

IMAGE_TOKENS: Final = 4784
"""Most tokens an image costs on any model: 3.75 megapixels in patches of 28 by 28, to which larger ones are scaled
down. Source: Anthropic, "Vision" (high resolution, from Opus 4.7 on; 1,600 before)."""

PDF_PAGE_TOKENS: Final = 4600
"""A page is read as text, at most about 3,000 tokens, and as an image, at most 1,600. Source: Anthropic, "PDF
support"; pages of dense text were measured at 2,500 altogether."""

PDF_PAGE_BYTES: Final = 10_000
"""A page of nothing but text is seldom smaller in a file; one with pictures is ten to fifty times as large."""

PDF_PAGES: Final = 600
"""Most pages an API takes in one request. Source: Anthropic, "PDF support"."""

SESSION_MARGIN: Final = 1.5
"""How far a session's next prompt may be from its last in tokens per byte. Another model's tokenizer makes up to 1.47
times as many tokens of the same text (measured with count_tokens, Claude 4.6 and 4.7)."""

SESSIONS: Final = 20_000
"""Sessions whose ratio is kept, about 5 MB: one relay's users in an hour, and a forgotten one costs only precision."""

SESSION_TTL: Final = 3600.0
"""Seconds; as long as a session keeps its provider by default (``routing.affinity.ttl``)."""

_MAX_COUNT: Final = 10**9  # a larger max_tokens is a mistake of the client's, and nothing to reckon with


class Feature(enum.Enum):
    """What a call may need beyond text and tools of its own. The value completes "cannot take ..."."""

    IMAGE = "images"
    URL_IMAGE = "images or documents by URL"
    FILE = "uploaded files"
    PDF = "documents"
    TOOL_CHOICE = "tool_choice"
    WEB_SEARCH = "the web search tool"
    TOOL_SEARCH = "the tool search tool"
    SERVER_TOOLS = "server tools"
    MCP = "MCP servers"


LACKS: Final[Mapping[str, frozenset[Feature]]] = MappingProxyType(
    {
        "anthropic": frozenset(),
        "azure": frozenset(),
        "simulator": frozenset(),
        # Neither says what it does with these.
        "zai": frozenset(),
        "minimax": frozenset(),
        # docs/api/anthropic-compatibility.mdx and anthropic/anthropic.go of github.com/ollama/ollama. Web search is not
        # listed: it is emulated for models of Ollama's cloud, also those asked for through a local daemon.
        "ollama": frozenset(
            {
                Feature.URL_IMAGE,
                Feature.FILE,
                Feature.PDF,
                Feature.TOOL_CHOICE,
                Feature.TOOL_SEARCH,
                Feature.SERVER_TOOLS,
                Feature.MCP,
            }
        ),
        # Anthropic, "Claude in Amazon Bedrock". Tool search has a beta of its own there.
        "bedrock": frozenset({Feature.URL_IMAGE, Feature.FILE, Feature.WEB_SEARCH, Feature.SERVER_TOOLS, Feature.MCP}),
        # Anthropic, "Claude on Vertex AI".
        "vertex": frozenset({Feature.URL_IMAGE, Feature.FILE, Feature.SERVER_TOOLS, Feature.MCP}),
    }
)
"""By provider type: what a call is known to fail for there, or to be answered wrongly without a word."""

CUTS_IN_SILENCE: Final = frozenset({"ollama"})
"""Provider types that shorten a prompt beyond their context instead of refusing it (issue 18107 of Ollama's)."""

# Types of ``tools`` that the client runs itself.
_CLIENT_TOOLS: Final = ("custom", "bash_", "text_editor_", "computer_", "memory_")
_SEARCH_TOOLS: Final = {"web_search_": Feature.WEB_SEARCH, "tool_search_tool_": Feature.TOOL_SEARCH}
_CHOICES: Final = frozenset({"any", "tool", "none"})  # "auto" is what happens without
_SOURCES: Final = {"url": Feature.URL_IMAGE, "file": Feature.FILE}


@dataclass(frozen=True, slots=True)
class Needs:
    """What one call needs.

    tokens_low, tokens_high: of input, as estimated. max_tokens: of output, 0 if not said. media_tokens: the part of
    tokens_high that images and documents are taken for; tokens_low has none for them.
    """

    features: frozenset[Feature]
    tokens_low: int
    tokens_high: int
    max_tokens: int
    media_tokens: int = 0


def needs_of(body: bytes) -> Needs:
    """Read a complete request body. Takes about 8 ms for a megabyte of text, nothing for base64.

    Raises MalformedBody if it is not JSON, nested too deep or crowded; it may still be sent as it is.
    """
    refuse_crowded(body)
    text = text_of(body)
    reader = _Reader()
    max_tokens = 0
    walker = Walker(text)
    for name, _ in walker.members():
        if name == "messages" and walker.first == "[":
            for _ in walker.elements():
                reader.take_blocks(_dict(walker.value()).get("content"))
        elif name == "tools" and walker.first == "[":
            for _ in walker.elements():
                reader.take_tool(_dict(walker.value()))
        elif name == "tool_choice":
            if _text(_dict(walker.value()).get("type")) in _CHOICES:
                reader.features.add(Feature.TOOL_CHOICE)
        elif name == "mcp_servers":
            if walker.value():
                reader.features.add(Feature.MCP)
        elif name == "max_tokens":
            max_tokens = _count(walker.value())
    length = len(body) - reader.encoded
    low, _ = estimate_from_length(length - _ESCAPE_BYTES * body.count(b"\\u"))
    _, high = estimate_from_length(length)
    return Needs(frozenset(reader.features), low, high + reader.media_tokens, max_tokens, reader.media_tokens)


def estimate_from_length(length: int) -> tuple[int, int]:
    """The fewest and the most tokens of input that ``length`` bytes of body may be, without base64 and escapes."""
    return int(length / BYTES_PER_TOKEN_HIGH), math.ceil(length / BYTES_PER_TOKEN_LOW)


class SessionRatio:
    """How many tokens a session's text really was, against its high estimate. Bounded.

    What media cost is not known by itself: the text is then between all tokens and those that media cannot have been.
    """

    __slots__ = ("_ratios",)

    def __init__(self) -> None:
        self._ratios: BoundedMap[bytes, tuple[float, float]] = BoundedMap(SESSIONS, SESSION_TTL)

    def record(self, scope: bytes, needs: Needs, tokens: int, now: float) -> None:
        """A call of the session was answered.

        scope: the session's affinity digest. needs: that call's, not corrected. tokens: its whole input by its usage,
        cache reads and writes included; not from a type in CUTS_IN_SILENCE, which may count what it has left.
        now: seconds of one monotonic clock. Nothing is learned from fewer tokens than the text can have been.
        """
        text = needs.tokens_high - needs.media_tokens
        if text > 0 and tokens >= needs.tokens_low:
            self._ratios.set(scope, ((tokens - needs.media_tokens) / text, tokens / text), now)

    def corrected(self, scope: bytes, needs: Needs, now: float) -> Needs:
        """The same needs with a closer range, if a call of this session has been answered; never a wider one."""
        ratios = self._ratios.get(scope, now)
        if ratios is None:
            return needs
        text = needs.tokens_high - needs.media_tokens
        high = min(needs.tokens_high, needs.media_tokens + math.ceil(text * ratios[1] * SESSION_MARGIN))
        low = max(needs.tokens_low, int(text * ratios[0] / SESSION_MARGIN))
        return replace(needs, tokens_low=min(low, high), tokens_high=high)


def refusal_of(
    needs: Needs, lacks: Collection[Feature], context_window: int | None, *, cuts: bool = True
) -> str | None:
    """Why a provider cannot take the call, as one short phrase; None if it can.

    lacks: its entry of LACKS. context_window: tokens, None where it is not known. cuts: it is in CUTS_IN_SILENCE, so
    that a call that perhaps does not fit is refused; any other is believed to say so itself, in the words clients mend
    their requests by, and only spared what cannot fit.
    """
    missing = [feature for feature in Feature if feature in needs.features and feature in lacks]
    if missing:
        return f"cannot take {missing[0].value}"
    tokens = needs.tokens_high if cuts else needs.tokens_low
    if context_window is not None and tokens > context_window:
        return f"its context of {context_window} tokens cannot hold about {tokens}"
    return None


def prompt_too_long(tokens: int, window: int) -> ClientError:
    """The answer when no context can hold a call. Clients compact when they read these words of Anthropic's."""
    return ClientError(400, "invalid_request_error", f"prompt is too long: {tokens} tokens > {window} maximum")


class _Reader:
    """Gathers features, and the bytes and tokens of media. encoded: bytes of base64, which are no text."""

    __slots__ = ("encoded", "features", "media_tokens")

    def __init__(self) -> None:
        self.features: set[Feature] = set()
        self.encoded = 0
        self.media_tokens = 0

    def take_blocks(self, content: Any) -> None:
        """The content of a message, a tool result or a document; blocks inside one another as they come."""
        waiting = [content]
        while waiting:
            blocks = waiting.pop()
            for block in map(_dict, blocks if isinstance(blocks, list) else ()):
                kind = block.get("type")
                if kind in ("image", "document"):
                    source = _dict(block.get("source"))
                    self._take_source(kind == "image", source)
                    waiting.append(source.get("content"))
                else:
                    waiting.append(block.get("content"))

    def _take_source(self, image: bool, source: dict[str, Any]) -> None:
        self.features.add(Feature.IMAGE if image else Feature.PDF)
        kind = source.get("type")
        size = 0
        if kind == "base64":
            size = len(_text(source.get("data")))
            self.encoded += size
        elif isinstance(kind, str) and kind in _SOURCES:
            self.features.add(_SOURCES[kind])
        else:
            return  # a document of text or blocks is in the body as such
        if image:
            self.media_tokens += IMAGE_TOKENS
        else:  # of one that is elsewhere nothing is known but that it has a page
            self.media_tokens += PDF_PAGE_TOKENS * min(PDF_PAGES, math.ceil(size * 3 / 4 / PDF_PAGE_BYTES) or 1)

    def take_tool(self, tool: dict[str, Any]) -> None:
        kind = _text(tool.get("type"))
        if not kind or kind.startswith(_CLIENT_TOOLS):
            return
        if kind == "mcp_toolset":
            self.features.add(Feature.MCP)
            return
        searches = (feature for prefix, feature in _SEARCH_TOOLS.items() if kind.startswith(prefix))
        self.features.add(next(searches, Feature.SERVER_TOOLS))


def _dict(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _count(value: object) -> int:
    return int(value) if isinstance(value, float) and 0 <= value <= _MAX_COUNT else 0
