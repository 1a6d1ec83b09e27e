"""What an upstream says in an unsuccessful answer, whatever shape it says it in.

Rules of this file:
- Nothing here raises: bodies come from servers that are in trouble, and from whatever stands in front of them.
- Wording is kept where there is any: clients mend their requests by reading it. Markup never counts as wording.
"""

from __future__ import annotations

import codecs
import json
import re
from dataclasses import dataclass
from typing import Any, Final

from ccrelay.core.headers import first
from ccrelay.core.model import Head

MAX_TEXT: Final = 2048
"""Characters kept of what an upstream says: every wording that clients key on is a sentence or two."""

MAX_WORD: Final = 64
"""Characters kept of a code, an error type, a request id: real ones are below 45."""

_MARKUP: Final = re.compile(r"<[!/?a-zA-Z]")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
_WORD: Final = re.compile(r"[\w.:/-]+", re.ASCII)
_MEDIA_TYPE: Final = re.compile(rb"[\w!#$&^.+-]{1,60}/[\w!#$&^.+-]{1,60}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Complaint:
    """One unsuccessful answer, read.

    status: as sent. envelope: the body is Anthropic's error envelope already. spoken: the body is JSON that says what
    is wrong, so the API itself has answered and not something before it. markup: the body is a page for people.
    kind, code: the error's type and the provider's own code, where there are any; one short word each.
    message: what is wrong: the upstream's words, or a sentence of ours where it had none. request_id: the upstream's.
    """

    status: int
    envelope: bool
    spoken: bool
    markup: bool
    kind: str | None
    code: str | None
    message: str
    request_id: str | None


def read_complaint(head: Head, body: bytes, provider: str) -> Complaint:
    """Read an unsuccessful answer. body: all of it or its beginning. provider: the configured name, for our wording."""
    document = _document(body)
    error = document.get("error")
    details = error if isinstance(error, dict) else document
    said = _text(details.get("message")) or _first_text(error, document)
    markup = said is None and _is_markup(head, body)
    message = said or (None if markup else _plain(body)) or _description(head, body, provider)
    return Complaint(
        status=head.status,
        envelope=document.get("type") == "error"
        and isinstance(error, dict)
        and isinstance(error.get("type"), str)
        and isinstance(error.get("message"), str),
        spoken=said is not None,
        markup=markup,
        kind=_word(details.get("type")),
        code=_code(details, document),
        message=message,
        request_id=_word(document.get("request_id")) or _word(_latin(first(head.headers, b"request-id"))),
    )


def _document(body: bytes) -> dict[str, Any]:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def _first_text(error: object, document: dict[str, Any]) -> str | None:
    """The text of the shapes that have no ``error.message``: gateways' and frameworks' own."""
    base = document.get("base_resp")
    candidates = (
        error,
        document.get("message"),
        document.get("msg"),
        document.get("detail"),
        base.get("status_msg") if isinstance(base, dict) else None,
    )
    return next((text for text in map(_text, candidates) if text), None)


def _code(details: dict[str, Any], document: dict[str, Any]) -> str | None:
    inner = details.get("details")
    base = document.get("base_resp")
    candidates = (
        inner.get("error_code") if isinstance(inner, dict) else None,  # Anthropic
        details.get("code"),
        document.get("code"),
        base.get("status_code") if isinstance(base, dict) else None,
    )
    return next((code for code in map(_word, candidates) if code), None)


def _text(value: object) -> str | None:
    return value[:MAX_TEXT] if isinstance(value, str) and value.strip() else None


def _word(value: object) -> str | None:
    """A code or an id as one bounded word that can stand in a log line, or None."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 10**9:
        value = str(value)
    if isinstance(value, str) and len(value) <= MAX_WORD and _WORD.fullmatch(value):
        return value
    return None


def _latin(value: bytes | None) -> str | None:
    return None if value is None else value.decode("latin-1")


def _is_markup(head: Head, body: bytes) -> bool:
    declared = (first(head.headers, b"content-type") or b"").lower()
    return b"html" in declared or b"xml" in declared or bool(_MARKUP.search(_beginning(body) or ""))


def _plain(body: bytes) -> str | None:
    """The body as one line of text, or None if it is none."""
    return _CONTROL.sub(" ", _beginning(body) or "").strip()[:MAX_TEXT] or None


def _beginning(body: bytes) -> str | None:
    part = body[: 4 * MAX_TEXT]  # a character takes at most four bytes
    try:
        return codecs.getincrementaldecoder("utf-8")().decode(part, final=len(part) == len(body))
    except UnicodeDecodeError:
        return None


def _description(head: Head, body: bytes, provider: str) -> str:
    """One sentence about an answer that has no words of its own."""
    if 300 <= head.status < 400:
        return (
            f"Provider {provider} answered {head.status}, a redirect. Redirects are not followed: "
            "its base_url is probably not the API's own address"
        )
    declared = _MEDIA_TYPE.match(first(head.headers, b"content-type") or b"")
    what = "an empty body" if not body else declared.group().decode("ascii") if declared else "an unreadable body"
    hint = ", as if its base_url were not the API's own address" if head.status in (404, 405) else ""
    return f"Provider {provider} answered {head.status} with {what}{hint}"
