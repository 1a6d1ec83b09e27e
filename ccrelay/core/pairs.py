"""Betas and the body fields that they enable, as one unit per provider: both go, or neither does (design section 4).

A field whose beta was left out, or a beta whose field was, is the most frequent 400 behind gateways. So nobody filters
either by itself: ``decide`` does it for a whole request, from the data in ``data/pairs.json``, the operator's overrides
and what an upstream has refused.

The rule, for one request:
- A pair goes if its table takes it for the model and nothing it is made of is to be dropped. Its betas then go in the
  table's spelling, and its fields stay.
- Otherwise its betas stay behind.
- A field stays if a beta that enables it goes. If the request has none of its betas, the client takes it for generally
  available: it stays if every pair that has the field may go. In all other cases it is removed.
- A beta of a known pair in a version that is not known is left out where unknown betas are; where the request has no
  known version of it, the pair's fields go with it, because they may be of the new form.
- A beta that belongs to no pair goes where the table takes unknown ones (Azure), else not. Unknown fields always go:
  the upstream names them, and then they can be dropped by name.

A name to drop is that of a pair, of a beta, or a field's path. One that belongs to a pair stands for the whole pair.
"""

from __future__ import annotations

import functools
import importlib.resources
import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

from ccrelay.core.bounded import BoundedMap
from ccrelay.core.model import Headers

UNFILTERED: Final = "azure"
"""The table of an upstream that speaks Anthropic's own format: everything goes but what it has refused."""

MAX_NAMES: Final = 64
"""Names kept of what upstreams refuse: more than there are pairs, so that only nonsense is cut."""

_DAY: Final = 86400.0
"""Seconds that a refusal is remembered: upstreams learn new betas too, and asking anew costs one refused attempt."""

_PLACES: Final = 1000
"""Provider, region and model together, remembered at once: far above what a relay serves; clients choose the model."""

_SESSIONS: Final = 4096
"""Sessions remembered with what only they were refused, 4 MB at the most; a forgotten one costs a refused attempt."""

_BETAS_REFUSED: Final = re.compile(r"Unexpected value\(s\)(.{0,2000}?) for the `anthropic-beta` header", re.DOTALL)
_BETA: Final = re.compile(r"[a-z][a-z0-9]*(?:-[a-z0-9]+)+", re.ASCII)
_FIELD_REFUSED: Final = re.compile(
    r"(?<![\w.])([a-z]\w{0,63}(?:\.\w{1,64}){0,9}): (Extra inputs are not permitted|Input tag '|Input should be )",
    re.ASCII,
)
_KEY_REFUSED: Final = re.compile(r"#((?:/\w{1,64}){0,9}): extraneous key \[(\w{1,64})\] is not permitted", re.ASCII)
_SHAPES: Final = frozenset({"adaptive", "disabled", "enabled", "ephemeral"})
_KINDS: Final = frozenset(
    {"custom", "document", "image", "redacted_thinking", "search_result", "text", "thinking", "tool_result", "tool_use"}
)
"""What Anthropic's validation puts into a path though the body has no such member: the shape it took an object for,
and, behind an index, the kind of tool or block."""

_ESSENTIAL: Final = frozenset(
    {"anthropic_beta", "anthropic_version", "max_tokens", "messages", "model", "stream", "system", "thinking", "tools"}
)
"""Members that are never dropped for a complaint: the call would become another one, or none."""

_VERSION: Final = re.compile(r"-\d{4}-?\d{2}-?\d{2}\Z", re.ASCII)


@dataclass(frozen=True, slots=True)
class Pair:
    """One unit.

    betas: its values of ``anthropic-beta``. fields: dotted paths in the body, through arrays without saying so.
    by_value: the beta only adds values to its fields. taken: goes. spelling: the only beta that goes, None: as sent.
    """

    name: str
    betas: tuple[str, ...]
    fields: tuple[str, ...]
    by_value: bool
    taken: bool
    spelling: str | None


@dataclass(frozen=True, slots=True)
class PairTable:
    """What one provider takes for one model.

    takes_unknown: betas of no pair go. sent, dropped: betas and names of no pair that the operator decided on.
    """

    pairs: tuple[Pair, ...]
    takes_unknown: bool
    sent: frozenset[str]
    dropped: frozenset[str]

    @property
    def names(self) -> frozenset[str]:
        """Every pair's name: to drop these is to send no known beta, and none of their fields."""
        return frozenset(pair.name for pair in self.pairs)


@dataclass(frozen=True, slots=True)
class PairDecision:
    """What becomes of one request.

    betas: those to send, in the provider's spelling, in the client's order. remove: top-level members to take out.
    nested: paths of deeper fields to take out (``core.pair_edits``); they may or may not be there. dropped: betas and
    members of this request that are left out, for the log.
    """

    betas: tuple[str, ...]
    remove: frozenset[str]
    nested: frozenset[str]
    dropped: tuple[str, ...]


@functools.cache
def pair_data() -> Any:
    """The document of ``data/pairs.json``. Callers do not change it."""
    return json.loads(importlib.resources.files("ccrelay.data").joinpath("pairs.json").read_text("utf-8"))


def pairs_for(table: str, model: str, overrides: Mapping[str, bool]) -> PairTable:
    """What ``table`` takes for ``model``.

    table: ``bedrock``, ``mantle``, ``vertex`` or ``azure``; others have none, and KeyError is raised. model: the
    upstream's name. overrides: names of pairs or betas, True to send and False to drop; where a pair is named by its
    name and by a beta, its name counts.
    """
    return _table(table, _lacking(model), frozenset(overrides.items()))


@functools.lru_cache(maxsize=256)  # per table and set of overrides: a handful of each, whatever models are asked for
def _table(table: str, lacking: frozenset[str], overrides: frozenset[tuple[str, bool]]) -> PairTable:
    document = pair_data()
    rest: bool = document["tables"][table]["rest"]
    decided = dict(overrides)
    pairs = []
    for entry in document["pairs"]:
        takes = entry["takes"].get(table, rest)
        taken = bool(takes) and entry["name"] not in lacking
        for name in (*entry["betas"], entry["name"]):
            taken = decided.get(name, taken)
        spelling = takes if isinstance(takes, str) else None
        fields = tuple(entry.get("fields", ()))
        pairs.append(Pair(entry["name"], tuple(entry["betas"]), fields, "by_value" in entry, taken, spelling))
    own = {name for pair in pairs for name in (pair.name, *pair.betas)}
    return PairTable(
        tuple(pairs),
        rest,
        frozenset(name for name, send in overrides if send and name not in own),
        frozenset(name for name, send in overrides if not send and name not in own),
    )


def _lacking(model: str) -> frozenset[str]:
    return frozenset(
        pair for rule in pair_data()["models"] if re.search(rule["pattern"], model) for pair in rule["lacks"]
    )


def header_betas(headers: Headers) -> tuple[str, ...]:
    """The values of every ``anthropic-beta`` line, in order; what is not printable ASCII is no beta."""
    lines = [value for name, value in headers if name == b"anthropic-beta"]
    values = [value.strip() for line in lines for value in line.decode("latin-1").split(",")]
    return tuple(value for value in values if value and value.isascii() and value.isprintable())


def with_betas(headers: Headers, betas: Sequence[str]) -> Headers:
    """``headers`` with ``betas`` as their only ones, unchanged where these are what they have."""
    if header_betas(headers) == tuple(betas):
        return headers
    kept = tuple(line for line in headers if line[0] != b"anthropic-beta")
    return (*kept, (b"anthropic-beta", ",".join(betas).encode("ascii"))) if betas else kept


def decide(table: PairTable, betas: Sequence[str], members: Collection[str], drop: frozenset[str]) -> PairDecision:
    """What of a request goes; the module's docstring states the rule.

    betas: as the client sent them, in header and body. members: names of the body's top-level members. drop: names to
    leave out beyond what the table says. Never raises.
    """
    drop |= table.dropped
    unpaired = drop - table.names
    going = {pair.name for pair in table.pairs if pair.taken and not _is_dropped(pair, drop)}
    sent = _sent(table, betas, going, drop)
    absent = _removed(table, betas, going, sent)
    fields = absent | {name for name in unpaired if _is_field(name)}
    remove = frozenset(field for field in fields if field in members)
    nested = frozenset(
        field for field in fields if "." in field and (top := field.partition(".")[0]) in members and top not in remove
    )
    left = [beta for beta in dict.fromkeys(betas) if beta not in sent]
    chosen = dict.fromkeys(spelled for beta in betas if (spelled := sent.get(beta)))
    return PairDecision(tuple(chosen), remove, nested, (*left, *sorted(remove)))


def _is_field(name: str) -> bool:
    """Betas have hyphens and versions; fields of the Messages API are words joined by underscores."""
    return "-" not in name


def _is_dropped(pair: Pair, drop: frozenset[str]) -> bool:
    """Whether something the pair is made of is to go, a whole member that one of its fields lies in included."""
    if pair.name in drop or not drop.isdisjoint(pair.betas):
        return True
    return any(field == name or field.startswith(name + ".") for field in pair.fields for name in drop)


def _sent(table: PairTable, betas: Sequence[str], going: set[str], drop: frozenset[str]) -> dict[str, str]:
    """The betas that go, each with its spelling."""
    sent = {}
    for beta in betas:
        owner = next((pair for pair in table.pairs if beta in pair.betas), None)
        if owner is not None:
            if owner.name in going:
                sent[beta] = owner.spelling or beta
        elif beta not in drop and (beta in table.sent or table.takes_unknown):
            stem_of = [pair for pair in table.pairs if _same_stem(pair, beta)]
            if beta in table.sent or not stem_of or any(pair.name in going for pair in stem_of):
                sent[beta] = beta
    return sent


def _removed(table: PairTable, betas: Sequence[str], going: set[str], sent: Mapping[str, str]) -> frozenset[str]:
    """The fields that lose their betas, or that have none and belong to a pair that does not go."""
    enabling: dict[str, list[Pair]] = {}
    unknown = set(betas).difference(*(pair.betas for pair in table.pairs))
    for pair in table.pairs:
        for field in pair.fields:
            enabling.setdefault(field, []).append(pair)
    removed = set()
    for field, owners in enabling.items():
        asked = {beta for beta in betas for pair in owners if beta in pair.betas}
        asked |= {beta for beta in unknown for pair in owners if _same_stem(pair, beta)}
        stays = any(beta in sent for beta in asked) if asked else all(pair.name in going for pair in owners)
        if not stays:
            removed.add(field)
    return frozenset(removed)


def _same_stem(pair: Pair, beta: str) -> bool:
    """Whether ``beta`` is one of the pair's, but for its version."""
    stem = _VERSION.sub("", beta)
    return stem != beta and any(_VERSION.sub("", known) == stem for known in pair.betas)


def complaint_pairs(table: PairTable, message: str) -> frozenset[str]:
    """The names to drop for what a 400 says, empty if it is about something else.

    message: the upstream's own words. A refusal that names no beta (``invalid beta flag``) stands for every pair the
    table takes, as nothing else can be known to help. A field counts only if it is itself refused, not for what it
    holds, with two exceptions: a kind of value in it that is not known, and values that a beta adds. A beta or field of
    no pair is a name by itself. Wordings: Anthropic's validation as seen behind every provider; AWS's own.
    """
    taken = [pair for pair in table.pairs if pair.taken]
    found: set[str] = set()
    refused = _BETAS_REFUSED.search(message)
    if refused is not None or "invalid beta flag" in message.lower():
        betas = _BETA.findall(refused[1] if refused else message)
        known = {pair.name for pair in taken if not set(betas).isdisjoint({*pair.betas, pair.spelling})}
        unknown = set(betas).difference(*(pair.betas for pair in table.pairs)) if refused else set()
        found |= known | unknown or {pair.name for pair in taken}
    for path, complaint in islice(_FIELD_REFUSED.findall(message), MAX_NAMES):
        found |= _refused_field(taken, path.split("."), complaint)
    for pointer, key in islice(_KEY_REFUSED.findall(message), MAX_NAMES):
        found |= _refused_field(taken, [*pointer.split("/")[1:], key], "Extra")
    return frozenset(sorted(found)[:MAX_NAMES])


def _refused_field(taken: Sequence[Pair], path: Sequence[str], complaint: str) -> set[str]:
    parts = [part for part in path if not part.isdecimal()]
    if not parts:
        return set()
    if complaint.startswith("Input tag"):
        return {
            pair.name for pair in taken for field in pair.fields if parts[: field.count(".") + 1] == field.split(".")
        }
    owners = {pair for pair in taken if any(_is_at(field.split("."), parts) for field in pair.fields)}
    if complaint.startswith("Input should"):
        return {pair.name for pair in owners if pair.by_value}
    if owners:
        return {pair.name for pair in owners}
    plain = [
        part
        for at, part in enumerate(path)
        if at in (0, len(path) - 1)
        or not (part.isdecimal() or part in _SHAPES or (part in _KINDS and path[at - 1].isdecimal()))
    ]
    return set() if len(plain) == 1 and plain[0] in _ESSENTIAL else {".".join(plain)}


def _is_at(field: Sequence[str], parts: Sequence[str]) -> bool:
    """Whether a complaint about ``parts`` is about ``field``; between its parts it may name the shapes it tried."""
    if field[0] != parts[0] or field[-1] != parts[-1]:
        return False
    rest = iter(parts)
    return all(part in rest for part in field)


@dataclass(frozen=True, slots=True)
class Learned:
    """What one upstream has refused for one model. names: as ``complaint_pairs`` gives them."""

    provider: str
    region: str
    model: str
    names: frozenset[str]


class PairMemory:
    """What upstreams have refused, for a day after the last refusal. ``now``: seconds of one monotonic clock.

    provider: its configured name; region: where it was asked, empty where there are none; model: the upstream's name.
    scope: the session of ``affinity.scope_digest`` for which alone something is refused (see ``pair_reach``).
    """

    __slots__ = ("_refused", "_refused_in_session")

    def __init__(self) -> None:
        self._refused: BoundedMap[tuple[str, str, str], frozenset[str]] = BoundedMap(_PLACES, _DAY)
        self._refused_in_session: BoundedMap[tuple[str, str, str, bytes], frozenset[str]] = BoundedMap(_SESSIONS, _DAY)

    def learned(self, provider: str, region: str, model: str, now: float, scope: bytes | None = None) -> frozenset[str]:
        """The names to drop; for ``AttemptPlan.drop``."""
        refused = self._refused.get((provider, region, model), now) or frozenset()
        if scope is None:
            return refused
        return refused | (self._refused_in_session.get((provider, region, model, scope), now) or frozenset())

    def learn(
        self, provider: str, region: str, model: str, names: frozenset[str], now: float, scope: bytes | None = None
    ) -> None:
        """Remember a refusal, beside those before it. Only what made the next attempt succeed is worth it."""
        known = self.learned(provider, region, model, now, scope)
        kept = frozenset(sorted(known | names)[:MAX_NAMES])
        if scope is None:
            self._refused.set((provider, region, model), kept, now)
        else:
            self._refused_in_session.set((provider, region, model, scope), kept, now)

    def entries(self, now: float) -> tuple[Learned, ...]:
        """Everything that holds for all, the oldest first."""
        return tuple(Learned(*place, names) for place, names in self._refused.items(now))
