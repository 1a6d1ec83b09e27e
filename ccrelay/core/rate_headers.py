"""What an upstream's answer tells about the limits of the key it was asked with.

Sources: Anthropic's page on rate limits (``anthropic-ratelimit-*`` per class, ``anthropic-priority-*`` of the priority
tier, resets in RFC 3339) and what subscriptions get (``anthropic-ratelimit-unified-*``, resets in Unix seconds).
Bedrock, Vertex, Azure and Z.AI send none of them.

Rules of this file:
- Every header stands for itself: an absurd one is left out and named, the others count. Nothing raises.
- Times are made into seconds from now, measured by the upstream's own clock: theirs and ours may be minutes apart.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final, TypeVar

from ccrelay.core.failures import MAX_WAIT, server_time
from ccrelay.core.model import Headers

T = TypeVar("T")


class Window(enum.Enum):
    """A class of what is limited per minute. The value is its name in headers and on the status page."""

    REQUESTS = "requests"
    INPUT = "input-tokens"
    OUTPUT = "output-tokens"
    COMBINED = "tokens"
    PRIORITY_INPUT = "priority-input-tokens"
    PRIORITY_OUTPUT = "priority-output-tokens"


INFORMATIVE: Final = frozenset({Window.PRIORITY_INPUT, Window.PRIORITY_OUTPUT})
"""Windows that refuse nobody: beyond the priority tier's share a request is served in the standard tier."""


@dataclass(frozen=True, slots=True)
class LearnedWindow:
    """What was told of one class; None: not told, or absurd.

    limit: requests or tokens per minute. remaining: of these, now. reset: seconds until all of them are back.
    """

    window: Window
    limit: int | None
    remaining: int | None
    reset: float | None


@dataclass(frozen=True, slots=True)
class UnifiedWindow:
    """What was told of a subscription's quota; None: not told, or absurd.

    span: ``5h``, ``7d``, or "" for the verdict over both. status: ``allowed``, ``allowed_warning``, ``rejected``, or a
    newer word. utilization: the share used, 1.0 is all. reset: seconds until the span begins anew.
    """

    span: str
    status: str | None
    utilization: float | None
    reset: float | None


@dataclass(frozen=True, slots=True)
class LearnedLimits:
    """All that one answer told. ``ignored``: names of the headers left out as absurd, each once, for the log."""

    windows: tuple[LearnedWindow, ...] = ()
    unified: tuple[UnifiedWindow, ...] = ()
    ignored: tuple[str, ...] = ()

    def rest(self) -> tuple[float, str] | None:
        """For how many seconds the key is useless by these headers and because of what, or None if it is not.

        The reset that comes last counts: of every class with nothing remaining, and of a rejected quota. Without the
        verdict over all spans each span is believed for itself; with it a used up span may be paid as overage.
        """
        found = [
            (known.reset, f"no {known.window.value} left")
            for known in self.windows
            if known.remaining == 0 and known.reset is not None and known.window not in INFORMATIVE
        ]
        verdict = next((quota.status for quota in self.unified if not quota.span), None)
        if verdict in (None, "rejected"):
            for quota in self.unified:
                if quota.status == "rejected" and quota.reset is not None:
                    found.append((quota.reset, f"{quota.span or 'unified'} quota rejected"))
        return max(found, default=None)


def limits_of(headers: Headers, now_epoch: float) -> LearnedLimits:
    """What the headers of an answer tell about its key's limits.

    headers: the upstream's lines, unfiltered; of a repeated one the first counts. now_epoch: Unix seconds, used where
    the upstream sent no ``Date``. Takes time linear in the headers and never raises.
    """
    found: dict[bytes, bytes] = {}
    for name, value in headers:
        if name in _KNOWN:
            found.setdefault(name, value)
    if not found:
        return LearnedLimits()
    clock = server_time(headers)
    return _Reading(found, now_epoch if clock is None else clock).limits()


_PREFIXES: Final = tuple(
    (window, b"anthropic-" + (b"" if window in INFORMATIVE else b"ratelimit-") + window.value.encode())
    for window in Window
)
_SPANS: Final = tuple(
    (span, b"anthropic-ratelimit-unified" + (b"-" + span.encode() if span else b"")) for span in ("", "5h", "7d")
)
_KNOWN: Final = frozenset(
    [prefix + part for _, prefix in _PREFIXES for part in (b"-limit", b"-remaining", b"-reset")]
    + [prefix + part for _, prefix in _SPANS for part in (b"-status", b"-utilization", b"-reset")]
)

_COUNT: Final = re.compile(rb"[0-9]{1,11}")
"""Beyond 10**11 a minute nothing limits any more: a thousand times the largest limit on Anthropic's page."""

_SHARE: Final = re.compile(rb"[0-9]{1,2}(?:\.[0-9]{1,20})?")
"""A share may pass 1 with overage; a hundred times the quota is another unit or garbage."""

_STATUS: Final = re.compile(rb"[a-z_]{1,32}")
_UNIX: Final = re.compile(rb"[0-9]{1,12}(?:\.[0-9]{1,9})?")
_RFC3339: Final = re.compile(
    rb"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,9})?(?:[Zz]|[+-][0-9]{2}:[0-9]{2})"
)

_SKEW: Final = 60.0
"""Seconds by which a reset may lie in the past without being absurd: of a window that is full it is "now" at the time
of sending, and without ``Date`` it is measured by our clock. It then tells nothing."""


class _Reading:
    """The headers of one answer, while they are taken apart."""

    def __init__(self, found: Mapping[bytes, bytes], now_epoch: float) -> None:
        self._found = found
        self._now = now_epoch
        self._ignored: list[str] = []

    def limits(self) -> LearnedLimits:
        windows = [
            LearnedWindow(
                window,
                self._read(prefix + b"-limit", _limit),
                self._read(prefix + b"-remaining", _count),
                self._wait(prefix + b"-reset", _rfc3339),
            )
            for window, prefix in _PREFIXES
        ]
        quotas = [
            UnifiedWindow(
                span,
                self._read(prefix + b"-status", _status),
                self._read(prefix + b"-utilization", _share),
                self._wait(prefix + b"-reset", _unix),
            )
            for span, prefix in _SPANS
        ]
        return LearnedLimits(
            tuple(w for w in windows if (w.limit, w.remaining, w.reset) != (None, None, None)),
            tuple(q for q in quotas if (q.status, q.utilization, q.reset) != (None, None, None)),
            tuple(self._ignored),
        )

    def _read(self, name: bytes, parse: Callable[[bytes], T | None]) -> T | None:
        value = self._found.get(name)
        if value is None:
            return None
        parsed = parse(value)
        if parsed is None:
            self._ignored.append(name.decode("ascii"))
        return parsed

    def _wait(self, name: bytes, parse: Callable[[bytes], float | None]) -> float | None:
        moment = self._read(name, parse)
        if moment is None:
            return None
        wait = moment - self._now
        if 0 < wait <= MAX_WAIT:
            return wait
        if not -_SKEW <= wait <= 0:
            self._ignored.append(name.decode("ascii"))
        return None


def _count(value: bytes) -> int | None:
    return int(value) if _COUNT.fullmatch(value) else None


def _limit(value: bytes) -> int | None:
    # A limit of 0 is none to count with: the key would never be used again, so nothing could correct it.
    return _count(value) or None


def _share(value: bytes) -> float | None:
    return float(value) if _SHARE.fullmatch(value) else None


def _status(value: bytes) -> str | None:
    return value.decode("ascii") if _STATUS.fullmatch(value) else None


def _unix(value: bytes) -> float | None:
    return float(value) if _UNIX.fullmatch(value) else None


def _rfc3339(value: bytes) -> float | None:
    if not _RFC3339.fullmatch(value):
        return None
    try:
        return datetime.fromisoformat(value.decode("ascii").upper()).timestamp()
    except (ValueError, OverflowError):  # the thirteenth month, or a time that no time zone can bring into year 1
        return None
