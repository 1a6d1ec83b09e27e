"""What ``cc-relay doctor`` holds an answer against: the part of the clients' contract that middle boxes break.

Claude Code follows no redirect, looks for models for 3 seconds, takes a 501 for an endpoint that is not offered, gives
up a stream after 300 s without a byte, and cannot read a page of HTML in place of an error.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from ccrelay.cli.doctor_http import Arrival, Reply
from ccrelay.cli.text import printable, shortened
from ccrelay.core.model import Head

OK: Final = "ok"
WARN: Final = "warn"
FAIL: Final = "fail"
SKIP: Final = "skip"

MODELS_SECONDS: Final = 3.0
"""For which Claude Code waits for the list of models."""

SUSPICIOUS_BODY: Final = json.dumps(
    {
        "max_tokens": 1,
        "messages": [
            {
                "role": "user",
                "content": "<script>alert(document.cookie)</script> ' OR 1=1; DROP TABLE users; -- "
                "../../../../etc/passwd $(rm -rf /) <?php system($_GET['c']); ?> UNION SELECT password FROM users\n"
                * 600,
            }
        ],
    }
).encode()
"""100 KB of what assistants send and firewalls dislike; without ``model``, so that nobody answers it at a cost."""

_BUFFERED_SHARE: Final = 0.9
"""Of a stream's time before its first byte, from which on somebody held it back."""

_BUFFERED_SECONDS: Final = 1.0
"""A stream that is shorter than this tells nothing about buffering."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One line. where: a provider's name or the address. verdict: ok, warn, fail or skip."""

    where: str
    check: str
    verdict: str
    text: str


def redirected(where: str, check: str, reply: Reply) -> Finding | None:
    """What there is to say of a redirect; None for any other answer."""
    if not 300 <= reply.status < 400:
        return None
    target = (reply.head.first(b"location") or b"nowhere").decode("latin-1")
    text = f"redirects to {_short(target)}; clients do not follow: use that address, or stop the redirect"
    return Finding(where, check, FAIL, text)


def judge_hello(where: str, reply: Reply) -> Finding:
    """``HEAD /api/hello``, Claude Code's first request."""
    if reply.status == 200:
        return Finding(where, "hello", OK, f"answers in {reply.seconds:.2f} s")
    text = f"HEAD /api/hello gives {reply.status}: clients go on without, but is it the relay that answers there?"
    return Finding(where, "hello", WARN, text)


def judge_models(where: str, reply: Reply) -> Finding:
    """``GET /v1/models``."""
    if reply.status in (401, 403):
        return Finding(where, "models", FAIL, f"{reply.status}: the credential is not taken ({_message(reply)})")
    found = reply.json
    if reply.status != 200 or not isinstance(found, dict) or not isinstance(found.get("data"), list):
        return Finding(where, "models", WARN, f"{reply.status}, {_kind(reply)}: Claude Code shows its built-in list")
    if reply.seconds > MODELS_SECONDS:
        text = f"took {reply.seconds:.1f} s; Claude Code waits {MODELS_SECONDS:g} s and shows its built-in list"
        return Finding(where, "models", WARN, text)
    return Finding(where, "models", OK, f"{len(found['data'])} models in {reply.seconds:.2f} s")


def judge_count(where: str, reply: Reply) -> Finding:
    """``POST /v1/messages/count_tokens``, which costs nothing."""
    found = reply.json
    if reply.status == 200 and isinstance(found, dict) and isinstance(found.get("input_tokens"), int):
        return Finding(where, "count_tokens", OK, f"counted {found['input_tokens']} tokens")
    if reply.status == 501:
        return Finding(where, "count_tokens", OK, "not offered, and said so with 501")
    if reply.status in (401, 403):
        return Finding(where, "count_tokens", FAIL, f"{reply.status}: the credential is not taken ({_message(reply)})")
    text = f"{reply.status}, {_kind(reply)} ({_message(reply)}); clients then estimate and compact late"
    return Finding(where, "count_tokens", WARN, text)


def judge_body(where: str, reply: Reply) -> Finding:
    """What became of SUSPICIOUS_BODY: 400 in JSON from whoever read it, else something stands in between."""
    if isinstance(reply.json, dict) and reply.status != 413:
        return Finding(where, "large body", OK, f"100 KB of code arrive ({reply.status} for a body without a model)")
    if reply.status == 413:
        text = "413: something in front limits bodies; allow 32 MB there (nginx: client_max_body_size 32m)"
        return Finding(where, "large body", FAIL, text)
    text = f"{reply.status}, {_kind(reply)} in place of JSON: a firewall inspects bodies; exempt /v1/messages there"
    return Finding(where, "large body", FAIL, text)


def judge_stream(where: str, head: Head, arrivals: Sequence[Arrival], events: bytes) -> list[Finding]:
    """A whole streamed answer. arrivals: as it came. events: the same as Anthropic's events."""
    kind = (head.first(b"content-type") or b"none").decode("latin-1")
    if head.status != 200:
        return [Finding(where, "stream", FAIL, f"the call is answered with {head.status}, {_short(kind)}")]
    if b"event: message_stop" not in events:
        text = "the stream ends without message_stop; is a proxy in between that cuts long answers?"
        return [Finding(where, "stream", FAIL, text)]
    encoding = head.first(b"content-encoding") or b"identity"
    if encoding != b"identity":
        text = f"the stream is compressed ({_short(encoding.decode('latin-1'))}); switch that off for /v1/messages"
        return [Finding(where, "stream", FAIL, text)]
    first, last = arrivals[0].at, arrivals[-1].at
    pings = events.count(b"event: ping")
    text = f"{len(arrivals)} pieces from {first:.2f} s to {last:.2f} s"
    if last < _BUFFERED_SECONDS:
        told = Finding(where, "buffering", SKIP, f"{text}: too short to tell")
    elif first > last * _BUFFERED_SHARE:
        remedy = (
            "all at the end: a proxy holds the stream back; switch buffering off there (nginx: proxy_buffering off)"
        )
        told = Finding(where, "buffering", FAIL, f"{text}, {remedy}")
    else:
        told = Finding(where, "buffering", OK, text)
    return [Finding(where, "stream", OK, f"complete, {pings} pings"), told]


def _kind(reply: Reply) -> str:
    return _short(reply.kind)


def _message(reply: Reply) -> str:
    """What an error in Anthropic's envelope says."""
    try:
        return _short(str(reply.json["error"]["message"]))
    except (TypeError, KeyError):
        return "no reason given"


def _short(text: str) -> str:
    return shortened(printable(text), 100)
