"""Answers of our own, in Anthropic's error envelope, with the headers that stop a client from hammering."""

from __future__ import annotations

import json
import math
from typing import Final

from ccrelay.core.model import Answer, Headers
from ccrelay.errors import ClientError

LONGEST_WAIT: Final = 60
"""Seconds of ``Retry-After`` that Claude Code waits for; from 70 on it gives up at once, and the SDKs sleep it out."""

_USUAL_WAIT: Final = 5
"""Seconds named where nobody knows better: a client's few tries are not spent at once, and a person hardly waits."""

_JSON: Final = (b"content-type", b"application/json")

_KINDS: Final = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    409: "conflict_error",
    413: "request_too_large",
    429: "rate_limit_error",
    501: "not_supported",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}
_STATUSES: Final = {kind: status for status, kind in _KINDS.items()}  # of two statuses the later: 504 and 529


def kind_of(status: int) -> str:
    """Anthropic's error type for an HTTP error status that came without one (its API's page on errors)."""
    return _KINDS.get(status) or ("invalid_request_error" if status < 500 else "api_error")


def status_of(kind: str) -> int | None:
    """The HTTP status that Anthropic's API sends with this error type; None for ``api_error`` and unknown ones."""
    return _STATUSES.get(kind)


def error_answer(
    status: int,
    kind: str,
    message: str,
    request_id: str | None,
    *,
    retry_after: float | None = None,
    should_retry: bool | None = None,
    headers: Headers = (),
) -> Answer:
    """A whole error answer ``{"type": "error", "error": {"type", "message"}, "request_id"}``.

    kind: the error type, usually ``kind_of(status)``. request_id: None leaves it out, for ``with_request_id`` later.
    retry_after: seconds, rounded up. should_retry: for ``x-should-retry``; None lets the status decide. headers: added
    as they are; must hold none of the three that this function writes.

    401 and 501 say ``x-should-retry: false``: clients repeat them for minutes otherwise. 429 and 503 always carry
    ``Retry-After``; a wait that clients would give up on or sleep through is told with ``x-should-retry: false``.
    """
    if should_retry is None and status in (401, 501):
        should_retry = False
    if retry_after is None and status in (429, 503) and should_retry is not False:
        retry_after = _USUAL_WAIT
    lines = [_JSON, *headers]
    if retry_after is not None:
        seconds = max(1, math.ceil(retry_after))
        lines.append((b"retry-after", b"%d" % seconds))
        if should_retry is None and seconds > LONGEST_WAIT:
            should_retry = False
    if should_retry is not None:
        lines.append((b"x-should-retry", b"true" if should_retry else b"false"))
    document: dict[str, object] = {"type": "error", "error": {"type": kind, "message": message}}
    if request_id is not None:
        document["request_id"] = request_id
    return Answer(status, tuple(lines), _encode(document))


def answer_of(error: ClientError, request_id: str) -> Answer:
    """The answer that a ClientError carries."""
    return error_answer(
        error.status,
        error.kind,
        error.message,
        request_id,
        retry_after=error.retry_after,
        should_retry=error.should_retry,
        headers=error.headers,
    )


def with_request_id(answer: Answer, request_id: str) -> Answer:
    """An ``error_answer`` that was made without a request id, with this one."""
    return Answer(answer.status, answer.headers, answer.body[:-1] + b',"request_id":' + _encode(request_id) + b"}")


def _encode(value: object) -> bytes:
    # A text may hold half of a surrogate pair from somebody's JSON, which UTF-8 cannot carry.
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
