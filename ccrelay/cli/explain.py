"""``cc-relay explain``: where a request would go, why, and what exactly would be sent there."""

from __future__ import annotations

import argparse
import json
import os
import sys
from random import SystemRandom
from typing import Any, Final

from ccrelay.cli.configuration import settings_of
from ccrelay.cli.refusal import Refusal
from ccrelay.cli.rehearsal import Candidate, Rehearsal, Sent, rehearse
from ccrelay.cli.text import printable, shortened
from ccrelay.core.attempt_record import AttemptRecord
from ccrelay.core.headers import CREDENTIALS, first
from ccrelay.core.model import Call, CallKind, Edit, Headers
from ccrelay.core.request_body import RequestBody
from ccrelay.core.settings import AuthSettings, Settings
from ccrelay.errors import ClientError, ConfigError
from ccrelay.web.auth import Admission, Doorkeeper
from ccrelay.web.resources import SESSION_LENGTH

_SESSION: Final = b"x-claude-code-session-id"
_EDIT_TEXT: Final = 200
"""Characters shown of each side of an edit: a removed message may be a megabyte."""

_DRAWN: Final = frozenset({"shuffle", "round_robin", "weighted_round_robin", "weighted_failover", "least_loaded"})
"""Strategies with which the next call may well go elsewhere."""


def run(arguments: argparse.Namespace) -> int:
    """Print it. Returns 1 where nobody would be asked. Raises Refusal for a configuration that cannot be used."""
    settings = settings_of(arguments.config)
    try:
        call = _call(arguments, settings, sys.stdin.buffer.read())
        rehearsal = rehearse(settings, call, os.environ, SystemRandom())
    except ConfigError as error:
        raise Refusal(str(error)) from None
    except ClientError as error:
        raise Refusal(f"the relay would refuse this with {error.status} {error.kind}: {error.message}") from None
    if arguments.json:
        print(json.dumps(_as_json(rehearsal, settings), indent=2))
    else:
        print("\n".join(_as_text(rehearsal, call, settings)))
    return 0 if rehearsal.attempts else 1


def _call(arguments: argparse.Namespace, settings: Settings, data: bytes) -> Call:
    """The call that a client with these arguments makes. Raises ClientError where the relay lets nobody in so."""
    headers = tuple(_header(line) for line in arguments.header)
    if arguments.session is not None:
        headers = (*(line for line in headers if line[0] != _SESSION), (_SESSION, arguments.session.encode()))
    target, _, query = arguments.path.partition("?")
    try:
        kind = CallKind(target)
    except ValueError:
        kinds = " and ".join(kind.value for kind in CallKind)
        raise Refusal(f"--path {target}: only {kinds} are relayed") from None
    admission = _admit(headers, settings.server.auth)
    body = RequestBody(len(data), settings.server.max_body_bytes)
    body.receive_data(data)
    body.receive_eof()
    session = first(headers, _SESSION)
    return Call(
        request_id="explain",
        kind=kind,
        principal=admission.principal,
        query=query.encode(),
        headers=tuple(line for line in headers if line[0] not in CREDENTIALS),
        own_credential=admission.own_credential,
        session=session[:SESSION_LENGTH].decode("latin-1") if session else None,
        peer="-",
        body=body,
    )


def _header(line: str) -> tuple[bytes, bytes]:
    name, colon, value = line.partition(":")
    if not colon or not name.strip():
        raise Refusal("--header takes 'NAME: VALUE'")
    if not line.isprintable():
        raise Refusal(f"--header {name.strip()}: a header's value has no control characters")
    return name.strip().lower().encode(), value.strip().encode()


def _admit(headers: Headers, auth: AuthSettings) -> Admission:
    """Who the client is. One that shows nothing is taken for one that has the relay's key."""
    if auth.api_key and not any(first(headers, name) for name in (b"x-api-key", b"authorization")):
        headers = (*headers, (b"x-api-key", auth.api_key.reveal().encode()))
    elif auth.bearer_secret and not any(first(headers, name) for name in (b"x-api-key", b"authorization")):
        headers = (*headers, (b"authorization", f"Bearer {auth.bearer_secret.reveal()}".encode()))
    elif auth.allow_bearer and first(headers, b"authorization") is None:
        headers = (*headers, (b"authorization", b"Bearer managed-by-cc-relay"))
    return Doorkeeper(auth).admit(headers)


# -- as text


def _as_text(rehearsal: Rehearsal, call: Call, settings: Settings) -> list[str]:
    strategy = settings.routing.strategy
    asked = printable(rehearsal.model) if rehearsal.model is not None else "no model"
    lines = [f"{call.kind.value}: {asked}, {call.body.received} bytes; strategy {strategy}", "", "Candidates"]
    width = max(len(c.name) for c in rehearsal.candidates)
    lines += [f"  {c.name:<{width}}  {_described(c)}" for c in rehearsal.candidates]
    if not rehearsal.attempts:
        return [*lines, "", f"Nobody would be asked. The client gets {_answered(rehearsal)}"]
    lines += ["", "Attempts, if each fails before it has begun to answer"]
    lines += [f"  {number}. {_attempted(a)}" for number, a in enumerate(rehearsal.attempts, 1)]
    if strategy in _DRAWN:
        lines.append(f"  (an example: with {strategy} the next call may go elsewhere)")
    if rehearsal.first is None:
        return [*lines, "", f"Nothing could be sent. The client gets {_answered(rehearsal)}"]
    return [*lines, "", "The first request", *_request_lines(rehearsal.first)]


def _described(candidate: Candidate) -> str:
    keys = f", {candidate.keys} keys" if candidate.keys > 1 else ""
    fate = f"{candidate.fate}: {candidate.reason}" if candidate.reason else candidate.fate
    return f"{candidate.type}, priority {candidate.priority}{keys}  {fate}"


def _attempted(attempt: AttemptRecord) -> str:
    key = f", key {attempt.key}" if attempt.key else ""
    less = f", without {', '.join(attempt.changed)}" if attempt.changed else ""
    return f"{attempt.provider}{key}, model {printable(attempt.model)} (by {attempt.chosen_by}){less}"


def _request_lines(sent: Sent) -> list[str]:
    lines = [f"  URL: {sent.url}"]
    lines += [f"  {printable(line)}" for line in sent.head.decode("latin-1").split("\r\n") if line]
    if not sent.edits:
        return [*lines, "", "The body goes as it came, byte for byte."]
    lines += ["", f"Body edits ({len(sent.body)} bytes are sent; positions are of the client's)"]
    for edit, replaced in zip(sent.edits, sent.replaced, strict=True):
        lines.append(f"  [{edit.start}, {edit.end}) {_edit_text(replaced)} -> {_edit_text(edit.replacement)}")
    return lines


def _edit_text(data: bytes) -> str:
    return shortened(printable(data.decode("utf-8", "replace")), _EDIT_TEXT) or "nothing"


def _answered(rehearsal: Rehearsal) -> str:
    return f"{rehearsal.answer.status}: {printable(_message(rehearsal))}"


def _message(rehearsal: Rehearsal) -> str:
    """What our own answer says; it is always an envelope."""
    return str(json.loads(rehearsal.answer.body)["error"]["message"])


# -- as JSON


def _as_json(rehearsal: Rehearsal, settings: Settings) -> dict[str, Any]:
    return {
        "model": rehearsal.model,
        "strategy": settings.routing.strategy,
        "candidates": [
            {"provider": c.name, "type": c.type, "priority": c.priority, "fate": c.fate, "reason": c.reason or None}
            for c in rehearsal.candidates
        ],
        "attempts": [
            {"provider": a.provider, "key": a.key, "model": a.model, "chosen_by": a.chosen_by, "without": [*a.changed]}
            for a in rehearsal.attempts
        ],
        "request": _request_json(rehearsal.first) if rehearsal.first is not None else None,
        "answer": None if rehearsal.attempts else {"status": rehearsal.answer.status, "message": _message(rehearsal)},
    }


def _request_json(sent: Sent) -> dict[str, Any]:
    request_line, *lines = [line for line in sent.head.decode("latin-1").split("\r\n") if line]
    return {
        "method": request_line.partition(" ")[0],
        "url": sent.url,
        "headers": [line.split(": ", 1) for line in lines],
        "edits": [_edit_json(edit) for edit in sent.edits],
        "body_bytes": len(sent.body),
    }


def _edit_json(edit: Edit) -> dict[str, Any]:
    return {"start": edit.start, "end": edit.end, "replacement": edit.replacement.decode("utf-8", "replace")}
