"""The calls under way, for whoever wants to see them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ccrelay.core.access import MAX_ID, MAX_TEXT, cut
from ccrelay.core.model import Call
from ccrelay.core.story import Story

SHOWN = 100
"""Calls listed at most, the oldest first, for it is those one asks about; a document of 30 kB."""


@dataclass(frozen=True, slots=True)
class LiveCall:
    """One call under way. age: seconds since it came. ttfb: until its answer began, None: not yet.

    provider, key, model_sent: of the attempt under way; model_asked: what the client wants. bytes_out: of the answer.
    """

    request_id: str
    kind: str
    model_asked: str | None
    model_sent: str | None
    provider: str | None
    key: str | None
    attempts: int
    age: float
    ttfb: float | None
    bytes_out: int
    client: str
    session: str | None


class LiveCalls:
    """Every call between its beginning and its end. One object outlives the reloads, as calls do."""

    __slots__ = ("_calls",)

    def __init__(self) -> None:
        self._calls: dict[int, tuple[Call, Story, Any]] = {}

    def begin(self, call: Call, story: Story, sink: Any) -> None:
        """``call`` is under way; ``story`` is filled in as it goes on, ``sink`` (IResponseSink) counts its bytes."""
        self._calls[id(story)] = (call, story, sink)

    def end(self, story: Story) -> None:
        """It is over."""
        self._calls.pop(id(story), None)

    def __len__(self) -> int:
        return len(self._calls)

    def streams(self) -> dict[str, int]:
        """How many answers have begun and not ended, by provider."""
        found: dict[str, int] = {}
        for _, story, _ in self._calls.values():
            if story.first_byte is not None and story.provider is not None:
                found[story.provider] = found.get(story.provider, 0) + 1
        return found

    def seen(self, now: float) -> tuple[LiveCall, ...]:
        """The SHOWN oldest of them. now: of the clock of ``Story.began``."""
        return tuple(_seen(now, *entry) for entry, _ in zip(self._calls.values(), range(SHOWN), strict=False))


def _seen(now: float, call: Call, story: Story, sink: Any) -> LiveCall:
    return LiveCall(
        request_id=cut(call.request_id, MAX_ID) or "",
        kind=call.kind.name.lower(),
        model_asked=cut(story.model_asked, MAX_TEXT),
        model_sent=cut(story.model_sent, MAX_TEXT),
        provider=story.provider,
        key=story.key,
        attempts=story.attempts,
        age=round(now - story.began, 3),
        ttfb=round(story.first_byte - story.began, 3) if story.first_byte is not None else None,
        bytes_out=sink.bytes_out,
        client=cut(call.peer, MAX_ID) or "",
        session=cut(call.session, MAX_ID),
    )
