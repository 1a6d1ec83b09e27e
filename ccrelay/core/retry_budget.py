"""How many upstream requests the calls of a relay may cost when things go wrong (design section 6, lessons 23 and 24).

Two bounds, and one promise. Every call may make one attempt, whatever has happened before: a retry of the client is
never refused for the attempts it has behind it, so an upstream that comes back is found at the next retry. What is
bounded is the *extra* attempt, every one after a call's first:

- ``RetryBudget`` bounds them over all calls, to a share of the calls of the last minute. That alone keeps the upstream
  requests per call at 1 + share whenever an extra one is made (or at ten extra ones, in a minute of few calls).
- ``ClientRetries`` bounds them over one question that a client asks again and again: its repetitions share the
  ``max_attempts`` of a single call. So in a long outage, where nearly all calls are repetitions, nearly all of them
  make exactly one attempt, the amplification falls towards 1.0, and the budget is left to the calls that are new.

A call therefore asks, before each attempt but its first, whether it has made fewer than
``attempts_allowed(max_attempts, retries.attempts_before(...))`` and whether ``budget.allows(now)``; if both hold it
spends and goes on. Circuits that open and keys that cool see to it that single attempts do not all go to the first
provider in the list.
"""

from __future__ import annotations

import hashlib
import re

from ccrelay.core.bounded import BoundedMap
from ccrelay.core.model import Headers
from ccrelay.core.request_body import RequestBody

FLOOR = 10
"""Extra attempts that every minute may have: with a handful of calls a share of them would allow no failover at all."""

WINDOW = 60
"""Seconds over which calls and extra attempts are compared, counted in buckets of one second."""

RETRY_WINDOW = 120.0
"""Seconds after a failed call in which the same question counts as its repetition. The longest pause a client makes is
72 s, for a ``retry-after: 60``; its own back-off ends at 35 s."""

CAPACITY = 16384
"""Questions remembered, about 4 MB. One more drops the oldest, whose next repetition then has a first call's attempts,
within what RetryBudget allows."""

FINGERPRINT_BYTES = 65536
"""Bytes of a body that its fingerprint reads: 0.1 ms at the slowest, and there within the first packets."""

_COUNT = re.compile(rb"[0-9]{1,4}")


class _Recent:
    """Events of the last minute by the second, in one bucket more than it has seconds: the oldest is partly older."""

    __slots__ = ("_buckets", "_second")

    def __init__(self) -> None:
        self._buckets = [0] * (WINDOW + 1)
        self._second = 0

    def add(self, now: float) -> None:
        self._turn(now)
        self._buckets[self._second % len(self._buckets)] += 1

    def at_least(self, now: float) -> int:
        """No event older than a minute is counted, and some that are nearly that old may be missing."""
        self._turn(now)
        return sum(self._buckets) - self._buckets[(self._second + 1) % len(self._buckets)]

    def at_most(self, now: float) -> int:
        """Every event of the last minute is counted, and some that are slightly older may be."""
        self._turn(now)
        return sum(self._buckets)

    def _turn(self, now: float) -> None:
        second = int(now)
        size = len(self._buckets)
        for passed in range(max(self._second + 1, second - size + 1), second + 1):
            self._buckets[passed % size] = 0
        self._second = max(self._second, second)


class RetryBudget:
    """The extra attempts of all calls: in a minute at most ``share`` of its calls, or FLOOR if that is more.

    share: ``routing.retry_budget``, 0 or more. ``now``: seconds of one monotonic clock, from 0 up. At every moment at
    which an extra attempt is made after ``allows``, the minute that ends there holds at most that many, itself
    included. One object outlives the reloads; memory is constant, whatever the traffic.
    """

    __slots__ = ("_calls", "_extra", "share")

    def __init__(self, share: float) -> None:
        self.share = share
        self._calls = _Recent()
        self._extra = _Recent()

    def call(self, now: float) -> None:
        """A call makes its first attempt."""
        self._calls.add(now)

    def allows(self, now: float) -> bool:
        """Whether one more extra attempt may be made now; if it is, say so with ``spend`` in the same turn."""
        return self._extra.at_most(now) + 1 <= max(FLOOR, self.share * self._calls.at_least(now))

    def spend(self, now: float) -> None:
        """A call makes an attempt that is not its first."""
        self._extra.add(now)

    def amplification(self, now: float) -> float:
        """Attempts per call over about the last minute: 1.0 when nothing is repeated, and when nothing happens."""
        return 1.0 + self._extra.at_most(now) / max(1, self._calls.at_most(now))


class ClientRetries:
    """The questions that clients had no answer to in the last two minutes, and the attempts that they have cost.

    A repetition is known by its scope (``affinity.scope_digest``: the session, or the principal where there is none)
    and the fingerprint of its body: Claude Code repeats up to 11 times with the same body and leaves
    ``x-stainless-retry-count`` at 0, the SDKs count there.

    Not seen as a repetition: the request of a Claude Code whose stream was cut behind a finished thinking block, for it
    goes on with another text block and so has a new body; and that of a client that repairs its body after a 400. Both
    have a first call's attempts, within what RetryBudget allows. ``now``: seconds of one monotonic clock.
    """

    __slots__ = ("_attempts",)

    def __init__(self) -> None:
        self._attempts: BoundedMap[bytes, int] = BoundedMap(CAPACITY, RETRY_WINDOW)

    def attempts_before(self, scope: bytes, fingerprint: bytes, stainless: int | None, now: float) -> int:
        """Attempts made for this question in earlier calls; 0 for a new one.

        stainless: from ``retry_count``. A client that counts there has made as many calls before, each with one
        attempt at least; whatever it claims, it can only make its own allowance smaller.
        """
        known = self._attempts.get(_question(scope, fingerprint), now) or 0
        return max(known, stainless or 0)

    def record(self, scope: bytes, fingerprint: bytes, attempts: int, now: float) -> None:
        """A call made ``attempts`` and ended without an answer that its client will keep: it may come again.

        That is any end but an answered call and the caller's fault; a stream that was cut counts, and a client that
        left too. Calls that run side by side are not known to each other until one of them has failed.
        """
        question = _question(scope, fingerprint)
        self._attempts.set(question, (self._attempts.get(question, now) or 0) + attempts, now)

    def answered(self, scope: bytes, fingerprint: bytes) -> None:
        """The question has its answer: if it is asked again, that is a new one and no repetition."""
        self._attempts.discard(_question(scope, fingerprint))

    def __len__(self) -> int:
        """Questions held; some may have expired."""
        return len(self._attempts)


def attempts_allowed(max_attempts: int, before: int) -> int:
    """Attempts that a call may make: what its earlier tries have left of ``max_attempts``, and always one.

    max_attempts: ``routing.max_attempts``. before: from ``ClientRetries.attempts_before``.
    """
    return max(1, max_attempts - before)


def retry_count(headers: Headers) -> int | None:
    """What ``x-stainless-retry-count`` says (the Anthropic SDKs: 0, 1, 2), or None if it says nothing usable."""
    for name, value in headers:
        if name == b"x-stainless-retry-count" and _COUNT.fullmatch(value):
            return int(value)
    return None


def body_fingerprint(body: RequestBody) -> bytes | None:
    """32 bytes by which the same body is known again: of its length and its first FINGERPRINT_BYTES.

    None until so much of it has come (of a chunked body: all), whatever pieces it comes in. A call needs it only after
    its first attempt has failed; if that was sooner than those bytes came, wait for them with ``body.watch``, or leave
    the second attempt to RetryBudget alone. Raises ValueError after ``body.release()``.

    Two bodies that differ only beyond those bytes and have one length have one fingerprint. That takes a failed call
    of the same session less than two minutes before (a conversation grows with each turn, and so does its length),
    and costs no more than extra attempts of this one call.
    """
    length = body.received if body.complete else body.declared_length
    if length is None or body.received < min(length, FINGERPRINT_BYTES):
        return None
    digest = hashlib.sha256(b"cc-relay body\0%d\0" % length)
    offset, end = 0, min(length, FINGERPRINT_BYTES)
    while offset < end:
        piece = body.read(offset, end - offset)
        digest.update(piece)
        offset += len(piece)
    return digest.digest()


def _question(scope: bytes, fingerprint: bytes) -> bytes:
    return hashlib.sha256(b"cc-relay question\0%d:%b%b" % (len(scope), scope, fingerprint)).digest()
