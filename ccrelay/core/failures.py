"""Failed attempts: what each means, and which one the client is told of when nobody could answer (design section 6)."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Final

from ccrelay.core.answers import LONGEST_WAIT, error_answer, kind_of, status_of, with_request_id
from ccrelay.core.complaints import Complaint
from ccrelay.core.headers import first, response_headers
from ccrelay.core.model import Answer, Head, Headers
from ccrelay.core.outcomes import Outcome, outcome_of_status
from ccrelay.core.stream_watch import StreamError

MAX_WAIT: Final = 31 * 86400
"""Seconds a ``Retry-After`` may name before it is taken for garbage: the longest quota of any provider is a month's."""

_NUMBER: Final = re.compile(rb"\d{1,15}(?:\.\d{1,15})?", re.ASCII)

_CANNOT_PAY: Final = ("you have reached your specified api usage limits", "credit balance is too low")
"""Of a 400, in lower case: the account cannot pay, which no other request will change (Anthropic's page on errors)."""

_REWRITTEN: Final = frozenset(
    {
        b"content-type",
        b"content-encoding",
        b"location",  # of a redirect that was not followed; may hold a token
        b"retry-after",
        b"retry-after-ms",
        b"x-should-retry",
    }
)
"""Headers that an answer put into the envelope here gets anew, or not at all."""

_RETRIED: Final = frozenset({401, 408, 409, 429})
"""What Claude Code or the SDKs send again by themselves, besides 5xx."""


@dataclass(frozen=True, slots=True)
class Remedy:
    """What may make the same upstream answer the same call after all; each is tried once.

    renew: a fresh credential. drop: the call without these pairs of beta and field (names of ``core.pairs``).
    """

    renew: bool = False
    drop: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Failure:
    """An attempt that the upstream answered with an error.

    answer: what the client would get. reason: one short phrase for the log, without secrets or texts of others.
    retry_after: seconds until the key or the provider is worth asking again, or None if nobody said.
    unnamed: the answer's envelope was made here and lacks a request id; ``most_useful`` puts the call's in.
    remedy: worth one more attempt at the same place, or None.
    """

    outcome: Outcome
    answer: Answer
    reason: str
    retry_after: float | None
    unnamed: bool = False
    remedy: Remedy | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a provider's own error code means. kind: error type for the envelope. wait: seconds until it has passed."""

    outcome: Outcome
    kind: str | None = None
    wait: float | None = None


def outcome_of_complaint(complaint: Complaint) -> Outcome:
    """The outcome of an unsuccessful answer by its status, refined by what it says and by who seems to say it."""
    status = complaint.status
    outcome = outcome_of_status(status)
    if outcome is Outcome.ANSWERED:
        return Outcome.PROVIDER_ILL
    if not complaint.spoken and status in (403, 404, 405):
        return Outcome.PROVIDER_ILL  # a firewall, or a server that has no such path: neither the key nor the caller
    if complaint.markup and outcome is Outcome.CALLERS_FAULT and status != 413:
        return Outcome.PROVIDER_ILL
    if complaint.kind == "billing_error":
        return Outcome.KEY_DEAD
    if status == 400 and any(words in complaint.message.lower() for words in _CANNOT_PAY):
        return Outcome.KEY_DEAD
    return outcome


def failure_of(
    head: Head, body: bytes, complaint: Complaint, verdict: Verdict | None, *, own_credential: bool
) -> Failure:
    """The Failure that an unsuccessful answer makes.

    head, body: as they came; the body is sent unchanged if it is the envelope. verdict: what the provider's code means,
    or None to judge by status and wording; where a code is known, its meaning is added for clients as ``retry-after``
    or ``x-should-retry`` if the upstream sent neither. own_credential: as in ``headers.response_headers``.
    """
    outcome = outcome_of_complaint(complaint) if verdict is None else verdict.outcome
    wait = retry_after_of(head.headers, server_time(head.headers))
    if wait is None and verdict is not None:
        wait = verdict.wait
    status = head.status if 400 <= head.status < 600 else 502
    unchanged = complaint.envelope and status == head.status
    kind = (complaint.kind if unchanged else verdict and verdict.kind) or kind_of(status)
    reason = f"answered {complaint.status} {kind}" + (f" (code {complaint.code})" if complaint.code else "")
    lines = response_headers(head.headers, own_credential=own_credential)
    if unchanged:
        if verdict is not None:
            lines += _advice(head, outcome, wait)
        return Failure(outcome, Answer(status, lines, body), reason, wait)
    answer = error_answer(
        status,
        kind,
        complaint.message,
        complaint.request_id,
        retry_after=wait,
        should_retry=_should_retry(head, outcome),
        headers=tuple(line for line in lines if line[0] not in _REWRITTEN),
    )
    return Failure(outcome, answer, reason, wait, unnamed=complaint.request_id is None)


def failure_of_event(error: StreamError, request_id: str) -> Failure:
    """The Failure of an answer whose stream began with an error event, though its status was 200.

    The client has seen nothing of it, so it gets the status that the error's type stands for.
    """
    known = status_of(error.type)
    status = known or 500
    reason = f"began with an error event ({error.type if known else 'api_error'})"
    return Failure(outcome_of_status(status), error_answer(status, error.type, error.message, request_id), reason, None)


def most_useful(failures: Sequence[Failure], request_id: str, attempts: int) -> Answer:
    """The answer for a call that nobody could answer.

    failures: the attempts that were answered with an error, in order. attempts: all that were made, those included
    that ended without an answer. One lone attempt's answer is given as it is; among several: the request's own fault,
    the last 429 (with the earliest time at which any key works again), a refused key or model, 404, 501, else 502
    ``api_error``.
    """
    chosen = failures[0] if len(failures) == attempts == 1 else _best(failures)
    if chosen is None:
        tried = f"{attempts} attempts were made" if attempts != 1 else "1 attempt was made"
        return error_answer(502, "api_error", f"No provider could answer: {tried}, all failed", request_id)
    answer = with_request_id(chosen.answer, request_id) if chosen.unnamed else chosen.answer
    if chosen.outcome is Outcome.KEY_TIRED:
        tired = (failure for failure in failures if failure.outcome is Outcome.KEY_TIRED)
        earliest = min((failure.retry_after for failure in tired if failure.retry_after), default=None)
        if earliest is not None and earliest != chosen.retry_after:
            return _earlier(answer, earliest)
    return answer


def retry_after_of(headers: Headers, now_epoch: float | None) -> float | None:
    """The seconds that ``retry-after-ms`` or ``retry-after`` (seconds or a date) ask for, or None.

    now_epoch: Unix seconds to measure a date from; None ignores dates. Nothing, garbage, a time that has passed and
    one beyond MAX_WAIT are all None: to obey them would mean hammering, or never asking again.
    """
    milliseconds = first(headers, b"retry-after-ms")
    if milliseconds is not None and _NUMBER.fullmatch(milliseconds):
        return _sane(float(milliseconds) / 1000)
    value = first(headers, b"retry-after")
    if value is None:
        return None
    if _NUMBER.fullmatch(value):
        return _sane(float(value))
    until = _epoch(value)
    return None if until is None or now_epoch is None else _sane(until - now_epoch)


def server_time(headers: Headers) -> float | None:
    """The upstream's own clock, from ``Date``, in Unix seconds: what it measures its dates by. None without one."""
    value = first(headers, b"date")
    return None if value is None else _epoch(value)


def _best(failures: Sequence[Failure]) -> Failure | None:
    ranks: tuple[Callable[[Failure], bool], ...] = (
        lambda failure: failure.outcome is Outcome.CALLERS_FAULT,
        lambda failure: failure.outcome is Outcome.KEY_TIRED,
        lambda failure: failure.answer.status == 429,
        lambda failure: failure.outcome is Outcome.KEY_DEAD,
        lambda failure: failure.outcome is Outcome.UNFIT and failure.answer.status == 403,
        lambda failure: failure.answer.status == 404,
        lambda failure: failure.answer.status == 501,
    )
    for rank in ranks:
        for failure in reversed(failures):
            if rank(failure):
                return failure
    return None


def _earlier(answer: Answer, wait: float) -> Answer:
    """``answer`` with another wait; the upstream's own was one key's."""
    lines = [line for line in answer.headers if line[0] not in (b"retry-after", b"retry-after-ms", b"x-should-retry")]
    lines.append((b"retry-after", b"%d" % math.ceil(wait)))
    if wait > LONGEST_WAIT:
        lines.append((b"x-should-retry", b"false"))
    return replace(answer, headers=tuple(lines))


def _should_retry(head: Head, outcome: Outcome) -> bool | None:
    """What to tell a client about trying again: the upstream's word, else no where only a person can help."""
    said = first(head.headers, b"x-should-retry")
    if said in (b"true", b"false"):
        return said == b"true"
    hopeless = outcome in (Outcome.KEY_DEAD, Outcome.CALLERS_FAULT, Outcome.UNFIT)
    return False if hopeless and (head.status in _RETRIED or head.status >= 500) else None


def _advice(head: Head, outcome: Outcome, wait: float | None) -> Headers:
    """The header lines that a provider's own error code owes to clients, less those that the upstream sent."""
    present = {name for name, _ in head.headers}
    lines: list[tuple[bytes, bytes]] = []
    should_retry = _should_retry(head, outcome)
    if head.status == 429 and wait is not None and not present & {b"retry-after", b"retry-after-ms"}:
        lines.append((b"retry-after", b"%d" % math.ceil(wait)))
        if wait > LONGEST_WAIT:
            should_retry = False
    if should_retry is False and b"x-should-retry" not in present:
        lines.append((b"x-should-retry", b"false"))
    return tuple(lines)


def _sane(seconds: float) -> float | None:
    return seconds if 0 < seconds <= MAX_WAIT else None


def _epoch(value: bytes) -> float | None:
    try:
        moment = parsedate_to_datetime(value.decode("ascii"))
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
