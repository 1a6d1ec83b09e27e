"""Thinking across providers: who issued a signature, and a history without the blocks that its next reader cannot read.

A thinking block is only good where it was made. Its ``signature`` (of a redacted one: its ``data``) is checked by the
API that issued it: another family's is refused with 400. Within Claude's family the API itself drops what another model
or account made, so such blocks stay until it complains. No signature is ever made up, no block changed.

Signatures are meant by their digests throughout: they hold up to megabytes of encrypted thought.

Sources: Anthropic's documentation of extended thinking and preserved thinking; the wordings are those of its 400s.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from ccrelay.core.bounded import BoundedMap
from ccrelay.core.json_spans import Span, Walker, refuse_crowded, remove, remove_elements, text_of
from ccrelay.core.model import Edit
from ccrelay.core.sse import parse_events

CLAUDE: Final = "claude"
"""The family of every upstream that serves Claude, whoever runs it. Only its API is known to refuse a history for
where its thinking blocks stand."""

SIGNATURE_TTL: Final = 3 * 3600.0
"""Seconds a signature is remembered after it was issued: longer than a session keeps its provider by
default. What is forgotten costs one 400, which is then repeated without the blocks."""

SIGNATURES_REMEMBERED: Final = 50_000
"""About 15 MB when full. A session in full swing ends a block every ten seconds, 1,000 in three hours."""

SIGNATURES_PER_ANSWER: Final = 1000
"""Most taken from one answer: real ones have one for each round of server tools, tens at most."""

_KINDS: Final = {"thinking": "signature", "redacted_thinking": "data"}  # type of block: member that is its signature
_CLEARING_EDIT: Final = "clear_thinking_20251015"  # refused unless thinking is on
# What stands or falls with the member ``thinking``: the pair's name by what the member says.
_CONTEXT_PAIR: Final = "context-management"
_BINDING_PAIR: Final = "thinking-binding-controls"
_DISPLAY_PAIR: Final = "thinking-display-updates"

_COMPLAINTS: Final = re.compile(
    r"invalid signature in thinking block"
    r"|invalid data in redacted_thinking block"
    r"|thinking\.signature: field required"
    r"|bound to (?:a different|another) conversation"
    r"|thinking blocks? [^.]{0,100}cannot be modified"
    r"|capability_rejected: thinking_signature"
)


@dataclass(frozen=True, slots=True)
class Issuer:
    """Who makes and reads thinking blocks. family: as ``IProvider.family``. account: provider and key, opaque."""

    family: str
    account: str


def signature_digest(value: str) -> bytes:
    """What a signature is known by. value: the string of ``signature`` or ``data``, read from a ``text_of`` text."""
    return hashlib.sha256(value.encode("utf-8", "surrogatepass")).digest()


class SignatureMemory:
    """Which issuer a signature came from. Bounded; ``now``: seconds of one monotonic clock."""

    __slots__ = ("_issuers",)

    def __init__(self) -> None:
        self._issuers: BoundedMap[bytes, Issuer] = BoundedMap(SIGNATURES_REMEMBERED, SIGNATURE_TTL)

    def record(self, signature: bytes, issuer: Issuer, now: float) -> None:
        """Remember who issued the signature with this digest."""
        self._issuers.set(signature, issuer, now)

    def issuer(self, signature: bytes, now: float) -> Issuer | None:
        """Who issued it, or None if that is not known. May be called in a thread, so it changes nothing."""
        return self._issuers.peek(signature, now)

    def __len__(self) -> int:
        return len(self._issuers)


class SignatureCollector:
    """The digests of the signatures in one answer, as the client is sent it. Nothing here raises.

    signatures: so far, in order, at most SIGNATURES_PER_ANSWER.
    """

    __slots__ = ("signatures",)

    def __init__(self) -> None:
        self.signatures: list[bytes] = []

    def see(self, block: bytes) -> None:
        """Take note of a block of whole events. One that holds no signature costs two substring searches."""
        # Text cannot hold these quotes unescaped. find() and not "in": the operator takes twice the time.
        if block.find(b'"signature"') < 0 and block.find(b"redacted_thinking") < 0:
            return
        for piece in [block] if b"\r" in block else block.split(b"\n\n"):
            if piece.find(b'"signature"') >= 0 or piece.find(b"redacted_thinking") >= 0:
                for event in parse_events(piece + b"\n\n"):
                    self._take_event(_object(event.data))

    def see_message(self, body: bytes) -> None:
        """Take note of a whole JSON answer."""
        if body.find(b"thinking") >= 0:
            content = _object(body).get("content")
            for block in content if isinstance(content, list) else ():
                self._take(_signature_of(block))

    def _take_event(self, event: dict[str, Any]) -> None:
        delta = event.get("delta")
        if isinstance(delta, dict) and delta.get("type") == "signature_delta":
            self._take(delta.get("signature"))
        self._take(_signature_of(event.get("content_block")))

    def _take(self, value: object) -> None:
        # A block that is only opened has an empty one.
        if isinstance(value, str) and value and len(self.signatures) < SIGNATURES_PER_ANSWER:
            self.signatures.append(signature_digest(value))


@dataclass(frozen=True, slots=True)
class Stripped:
    """What to change in a body so that the target can read its history.

    edits: of the body's inside, sorted and disjoint. removed: thinking blocks taken out.
    thinking_off: without them the history would be illegal, so this call goes without thinking.
    remove: top-level members to leave out, for that. drop: names of the pairs of beta and field whose field is gone
    with them, so that the beta must go as well.
    """

    edits: tuple[Edit, ...] = ()
    removed: int = 0
    thinking_off: bool = False
    remove: frozenset[str] = frozenset()
    drop: frozenset[str] = frozenset()


def thinking_edits(
    body: bytes, target: Issuer, issuer_of: Callable[[bytes], Issuer | None], *, strip_unknown: bool
) -> Stripped:
    """Take out of a history exactly the thinking blocks that ``target`` cannot read.

    body: a complete request body. issuer_of: as ``SignatureMemory.issuer``, without the time.

    Removed are blocks that another family issued. With strip_unknown, for the one repetition after the target's
    complaint, all those go that are not known to be its own: the unknown, and those of the family's other accounts.
    A message that is left without content goes whole. Nothing is removed if no message would be left.

    Claude's API wants the assistant turn that a tool result continues to begin with a thinking block while thinking is
    ``enabled`` (not while it is ``adaptive``), and a history that ends with an assistant message to have none in it
    while thinking is off. If the first rule would be broken, thinking is off, and the second rule is kept.

    Raises MalformedBody if the body is not JSON, nested too deep or crowded; it may still be sent as it is.
    """
    refuse_crowded(body)
    text = text_of(body)
    request = _read(text, lambda block: _unreadable(block, target, issuer_of, strip_unknown))
    messages = request.messages
    off = target.family == CLAUDE and request.thinking.get("type") == "enabled" and _breaks_turn(messages)
    if off:
        messages[-1].unread = messages[-1].thinking
    removed = sum(len(message.unread) for message in messages)
    if not removed or all(message.goes for message in messages):
        return Stripped()
    edits = list(remove([message.span for message in messages], {i for i, m in enumerate(messages) if m.goes}))
    for message in messages:
        if message.unread and not message.goes:
            edits += remove(_content_spans(text, message.span[0]), message.unread)
    gone: set[str] = set()
    drop: set[str] = set()
    if off:
        gone, drop = {"thinking"}, _pairs_of(request.thinking)
        if request.context is not None:
            clearing, empty = _clearing_edits(text, request.context)
            if empty:
                gone.add("context_management")
                drop.add(_CONTEXT_PAIR)
            else:
                edits += clearing
    edits.sort(key=lambda edit: edit.start)
    return Stripped(tuple(edits), removed, off, frozenset(gone), frozenset(drop))


def is_signature_complaint(message: str) -> bool:
    """Whether an API says by this error message that it cannot read a thinking block of the history."""
    return _COMPLAINTS.search(message.lower().replace("`", "").replace("'", "")) is not None


@dataclass(slots=True)
class _Message:
    """One entry of ``messages``. blocks: how many its content has. thinking, unread: indexes of those that are."""

    span: Span
    role: object
    answers_tool: bool
    blocks: int
    thinking: frozenset[int]
    unread: frozenset[int]

    @property
    def goes(self) -> bool:
        return 0 < self.blocks == len(self.unread)

    @property
    def lost_its_head(self) -> bool:
        """It began with thinking and does not any more."""
        first = next((index for index in range(self.blocks) if index not in self.unread), None)
        return 0 in self.thinking and first not in self.thinking


@dataclass(slots=True)
class _Request:
    """What matters of a body. context: where the value of ``context_management`` begins, if it is an object."""

    messages: list[_Message]
    thinking: dict[str, Any]
    context: int | None


def _read(text: str, unreadable: Callable[[Any], bool]) -> _Request:
    request = _Request([], {}, None)
    walker = Walker(text)
    for name, _ in walker.members():  # of a member that is named twice the last one counts
        if name == "messages" and walker.first == "[":
            request.messages = _read_messages(walker, unreadable)
        elif name == "thinking":
            request.thinking = _dict(walker.value())
        elif name == "context_management":
            request.context = walker.position if walker.first == "{" else None
    return request


def _read_messages(walker: Walker, unreadable: Callable[[Any], bool]) -> list[_Message]:
    messages = []
    for _ in walker.elements():
        start = walker.position
        message = _dict(walker.value())
        role, blocks = message.get("role"), _list(message.get("content"))
        mine = role == "assistant"
        thinking = frozenset(i for i, block in enumerate(blocks) if mine and _thinks(block))
        unread = frozenset(i for i in thinking if unreadable(blocks[i]))
        answers_tool = any(_dict(block).get("type") == "tool_result" for block in blocks)
        messages.append(_Message((start, walker.position), role, answers_tool, len(blocks), thinking, unread))
    return messages


def _unreadable(block: Any, target: Issuer, issuer_of: Callable[[bytes], Issuer | None], strip_unknown: bool) -> bool:
    signature = _signature_of(block)
    issuer = issuer_of(signature_digest(signature)) if signature else None
    if strip_unknown:
        return issuer != target
    return issuer is not None and issuer.family != target.family


def _breaks_turn(messages: Sequence[_Message]) -> bool:
    """Whether the turn that this call continues began with thinking, in any of its messages, and does not any more.

    A turn goes back to the last user message that is more than tool results; after a new one it is over, and nothing
    is wanted of it. Messages of role ``system`` may stand anywhere.
    """
    turn = []
    for message in reversed(messages):
        if message.role == "user" and not message.answers_tool:
            break
        if message.role == "assistant":
            turn.append(message)
    return not all(message.goes for message in turn) and any(message.lost_its_head for message in turn)


def _content_spans(text: str, message: int) -> list[Span]:
    """The spans of a message's blocks."""
    spans: list[Span] = []
    walker = Walker(text, message)
    for name, _ in walker.members():
        if name == "content" and walker.first == "[":
            spans = []
            for _ in walker.elements():
                start = walker.position
                walker.value()
                spans.append((start, walker.position))
    return spans


def _clearing_edits(text: str, context: int) -> tuple[tuple[Edit, ...], bool]:
    """What takes the edits out of ``context_management`` that need thinking, and whether no other edit is left."""
    kept = 0

    def unwanted(edit: Any) -> bool:
        nonlocal kept
        clears = _dict(edit).get("type") == _CLEARING_EDIT
        kept += not clears
        return clears

    edits: tuple[Edit, ...] = ()
    walker = Walker(text, context)
    for name, _ in walker.members():
        if name == "edits" and walker.first == "[":
            kept = 0
            edits = remove_elements(text, walker.position, unwanted)
    return edits, bool(edits) and not kept


def _pairs_of(thinking: dict[str, Any]) -> set[str]:
    """The pairs whose field is a part of ``thinking``."""
    pairs = set()
    if "block_binding" in thinking:
        pairs.add(_BINDING_PAIR)
    if thinking.get("display") == "updates":
        pairs.add(_DISPLAY_PAIR)
    return pairs


def _thinks(block: object) -> bool:
    kind = _dict(block).get("type")
    return isinstance(kind, str) and kind in _KINDS


def _signature_of(block: object) -> str | None:
    found = _dict(block)
    value = found.get(_KINDS[found["type"]]) if _thinks(found) else None
    return value if isinstance(value, str) else None


def _object(data: bytes) -> dict[str, Any]:
    """The JSON object in ``data``, read as requests are; an empty one for anything else."""
    try:
        return _dict(json.loads(text_of(data)))
    except (ValueError, RecursionError):
        return {}


def _dict(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []
