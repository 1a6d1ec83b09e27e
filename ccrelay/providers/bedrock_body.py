"""What InvokeModel and CountTokens take in place of a Messages body: the same object with a few members changed.

Out: ``model`` and ``stream``, which are in the URL; ``tags``, which Bedrock refuses; what the table of pairs says.
In: ``anthropic_version``, and ``anthropic_beta`` from the body's own and the header's. Every other byte stays.
Source: anthropic SDK, lib/bedrock; Amazon Bedrock user guide, "Anthropic Claude Messages API" and API_CountTokens.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Sequence
from typing import Final

from ccrelay.core.edits import EditedReader, Source, add_members, merge_edits, remove_members
from ccrelay.core.headers import first
from ccrelay.core.json_spans import whole
from ccrelay.core.members import Member
from ccrelay.core.model import AttemptPlan, Call, CallKind, Edit
from ccrelay.core.pair_edits import nested_edits
from ccrelay.core.pairs import PairTable, decide, header_betas
from ccrelay.errors import ClientError

VERSION: Final = b'"bedrock-2023-05-31"'
"""The only ``anthropic_version`` that InvokeModel takes, as JSON; newer SDKs send another."""

_PIECE: Final = 262144
"""Bytes put into base64 at a time: the interpreter's lock is held for each, below a millisecond."""

_EMPTY: Final = re.compile(rb"\[[ \t\n\r]*\]")
_LONGEST_EMPTY: Final = 64
"""Bytes up to which an array may be empty: nobody writes more white space into one."""


def body_edits(call: Call, plan: AttemptPlan, table: PairTable) -> tuple[tuple[Edit, ...], tuple[str, ...]]:
    """The edits that make the complete body of ``call`` what Bedrock takes, those of ``plan`` included; and the names
    of the betas and fields that it is not to get.

    table: what Bedrock takes for the plan's model. For CountTokens they are one edit of the whole body, which holds it
    in base64. Raises ClientError where ``anthropic_beta`` is no list of strings, or what must be edited is not JSON.
    """
    members = call.body.members.in_order
    names = frozenset(member.name for member in members)
    decision = decide(table, (*header_betas(call.headers), *_body_betas(call.body, members)), names, plan.drop)
    inner = nested_edits(whole(call.body), decision.nested) if decision.nested else ()
    removed = {"model", "stream", "tags", "anthropic_version", "anthropic_beta", *decision.remove, *plan.remove}
    added = {"anthropic_version": VERSION}
    if decision.betas:
        added["anthropic_beta"] = json.dumps(decision.betas).encode("ascii")
    profile = first(call.headers, b"anthropic-user-profile-id")
    if profile is not None and "user_profile_id" not in names:
        added["user_profile_id"] = json.dumps(profile.decode("latin-1")).encode("ascii")
    if call.kind is CallKind.COUNT_TOKENS:
        _fit_for_counting(call.body, members, names, removed, added)
    edits = merge_edits(plan.edits, inner, remove_members(members, removed), add_members(members, added, removed))
    if call.kind is CallKind.COUNT_TOKENS:
        edits = (_wrapped(call.body, edits),)
    return edits, decision.dropped


def _body_betas(body: Source, members: Iterable[Member]) -> tuple[str, ...]:
    """The betas that the client put into the body. Raises ClientError for anything but a list of strings."""
    found: list[str] = []
    for member in members:
        if member.name == "anthropic_beta":
            try:
                betas = json.loads(_read(body, member.start, member.end))
            except (ValueError, RecursionError):
                betas = None
            if not isinstance(betas, list) or not all(isinstance(beta, str) for beta in betas):
                raise ClientError(400, "invalid_request_error", "anthropic_beta: Input should be a list of strings")
            found += betas
    return tuple(found)


def _fit_for_counting(
    body: Source, members: Iterable[Member], names: frozenset[str], removed: set[str], added: dict[str, bytes]
) -> None:
    """What InvokeModel insists on though Anthropic's count_tokens does not: ``max_tokens``, and no empty ``tools``."""
    for member in members:
        if member.name == "tools" and member.end - member.start <= _LONGEST_EMPTY:
            if _EMPTY.fullmatch(_read(body, member.start, member.end)):
                removed.add("tools")
        elif member.name == "thinking" and "max_tokens" not in names:
            added["max_tokens"] = b"%d" % (_thinking_budget(_read(body, member.start, member.end)) + 1)
    if "max_tokens" not in names:
        added.setdefault("max_tokens", b"1")


def _thinking_budget(thinking: bytes) -> int:
    """``budget_tokens``, which must be below ``max_tokens``; 0 where there is none."""
    try:
        budget = json.loads(thinking)["budget_tokens"]
    except (ValueError, RecursionError, TypeError, KeyError):
        return 0
    return budget if isinstance(budget, int) and budget > 0 else 0


def _wrapped(body: Source, edits: Sequence[Edit]) -> Edit:
    """The whole body, edited, as CountTokens takes it."""
    reader = EditedReader(body, edits)
    pieces, rest = [], b""
    while not reader.at_end:
        rest += reader.read(_PIECE)
        whole_groups = len(rest) // 3 * 3  # base64 takes three bytes at a time
        pieces.append(base64.b64encode(rest[:whole_groups]))
        rest = rest[whole_groups:]
    inner = b"".join([*pieces, base64.b64encode(rest)])
    return Edit(0, body.received, b'{"input":{"invokeModel":{"body":"' + inner + b'"}}}')


def _read(body: Source, start: int, end: int) -> bytes:
    """The bytes of one span."""
    pieces = []
    while start < end:
        piece = body.read(start, end - start)
        pieces.append(piece)
        start += len(piece)
    return b"".join(pieces)
