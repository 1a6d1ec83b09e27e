"""The access record: what one call was, as the one log line it leaves behind.

Rules of this file:
- A line is ASCII and one line, whatever a client or an upstream put into a model name, a session id, a user agent.
- Every text is cut at its limit, so that a line stays below MAX_LINE.
- What is not known is left out; the token counts are always there. The order of the fields never changes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final, Literal, Protocol

from ccrelay.core.model import CallKind, Principal, Usage
from ccrelay.core.outcomes import Outcome

REFUSED: Final = "refused"
"""The outcome of a call that we answered ourselves without asking any provider (401, 404, 413, no candidate ...)."""

MAX_ID = 100
"""Characters kept of an id, a provider's name, a fingerprint, an address. Real ones are below 70."""

MAX_TEXT = 200
"""Characters kept of a model name, a user agent, a reason. The longest model ids (ARNs) stay below."""

MAX_LINE = 20 * 1024
"""Bytes no line reaches: every text at its limit, in characters that take 12 bytes escaped, makes 18 KiB. Less than
half of what journald takes before it splits a line. Only an excerpt may be longer, as long as it was asked for."""

_LAST_SECOND = 253402300799  # of the year 9999, where datetime ends
_BARE = re.compile(r"[A-Za-z0-9_.:/@+-]+", re.ASCII)

# Escapes all that is not printable ASCII, DEL among it.
_ENCODE = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode


class Record(Protocol):
    """What becomes one line."""

    def fields(self) -> Mapping[str, str | float]:
        """Its fields in the order of the line, texts cut to bounds that keep the line below MAX_LINE."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessRecord:
    """Everything one access line says about a call.

    time: epoch seconds at its end. duration: seconds from its first byte. ttfb: seconds from there to the first byte of
    the answer; None if none was written. request_id: ours. upstream_request_id: of the attempt whose answer was sent.
    outcome: of the last attempt, or REFUSED. status: sent to the client; None if it left before. reason: one short
    phrase, such as why it failed. stream: the answer was a stream of events. provider, key: of the last attempt; key
    is a fingerprint. model_asked, model_sent: before and after mapping. attempts: upstream requests made.
    bytes_in, bytes_out: body bytes from and to the client. client: its address. longest_gap: seconds of the longest
    silence within a stream, for the metrics; not in the line.
    """

    time: float
    request_id: str
    outcome: Outcome | Literal["refused"]
    duration: float
    attempts: int = 0
    status: int | None = None
    reason: str | None = None
    kind: CallKind | None = None
    stream: bool = False
    provider: str | None = None
    key: str | None = None
    model_asked: str | None = None
    model_sent: str | None = None
    ttfb: float | None = None
    usage: Usage = field(default_factory=Usage)
    bytes_in: int = 0
    bytes_out: int = 0
    upstream_request_id: str | None = None
    session: str | None = None
    principal: Principal | None = None
    client: str | None = None
    user_agent: str | None = None
    longest_gap: float | None = None

    def fields(self) -> dict[str, str | float]:
        """The line's fields in order; what is not known is left out."""
        usage = self.usage
        found: dict[str, str | float | None] = {
            "time": utc(self.time),
            "request_id": cut(self.request_id, MAX_ID),
            "outcome": self.outcome.value if isinstance(self.outcome, Outcome) else self.outcome,
            "status": self.status,
            "reason": cut(self.reason, MAX_TEXT),
            "kind": self.kind.name.lower() if self.kind is not None else None,
            "stream": self.stream,
            "provider": cut(self.provider, MAX_ID),
            "key": cut(self.key, MAX_ID),
            "model_asked": cut(self.model_asked, MAX_TEXT),
            "model_sent": cut(self.model_sent, MAX_TEXT),
            "attempts": self.attempts,
            "ttfb": seconds(self.ttfb),
            "duration": seconds(self.duration),
            "input_tokens": usage.input,
            "output_tokens": usage.output,
            "cache_write_tokens": usage.cache_write,
            "cache_read_tokens": usage.cache_read,
            "bytes_in": self.bytes_in,
            "bytes_out": self.bytes_out,
            "upstream_request_id": cut(self.upstream_request_id, MAX_ID),
            "session": cut(self.session, MAX_ID),
            "principal": cut(_who(self.principal), MAX_ID),
            "client": cut(self.client, MAX_ID),
            "user_agent": cut(self.user_agent, MAX_TEXT),
        }
        return {name: value for name, value in found.items() if value is not None}


def as_json(record: Record) -> str:
    """The record as one JSON object on one line, without a line end; printable ASCII, shorter than MAX_LINE."""
    return _ENCODE(record.fields())


def as_text(record: Record) -> str:
    """The record as ``name=value`` pairs with a space between, without a line end; printable ASCII, below MAX_LINE.

    A text that is not plain is a JSON string, in which ``=`` is escaped too: searching a log for ``status=500`` finds
    what the relay wrote and never what a client chose.
    """
    return " ".join(f"{name}={_as_word(value)}" for name, value in record.fields().items())


def _as_word(value: str | float) -> str:
    if not isinstance(value, str):
        return str(value).lower()  # true and false as in JSON
    if _BARE.fullmatch(value):
        return value
    return _ENCODE(value).replace("=", "\\u003d")


def cut(text: str | None, limit: int) -> str | None:
    """``text`` with at most ``limit`` characters."""
    return text if text is None or len(text) <= limit else text[: limit - 3] + "..."


def _who(principal: Principal | None) -> str | None:
    if principal is None:
        return None
    return f"{principal.method}:{principal.fingerprint}" if principal.fingerprint else principal.method


def seconds(value: float | None) -> float | None:
    """Milliseconds are what a reader can use; NaN and infinity are not JSON and are left out."""
    return round(value, 3) if value is not None and 0 <= value <= _LAST_SECOND else None


def utc(time: float) -> str | None:
    """``2026-11-22T09:30:00.125Z``; None for a time no calendar has."""
    if not 0 <= time <= _LAST_SECOND:
        return None
    return datetime.fromtimestamp(time, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
