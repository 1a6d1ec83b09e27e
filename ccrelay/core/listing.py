"""The list of models for ``GET /v1/models``, in the shape of Anthropic's API, page by page.

What is listed is what a client may ask for: the ``models`` of every provider and the names that its ``model_mapping``
translates. The latter make a GLM or Ollama model visible to Claude Code's model picker, which shows only ids with
``claude`` or ``anthropic`` in them. Patterns (``claude-*``) are no names and are left out.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from ccrelay.core.settings import ProviderSettings
from ccrelay.errors import ClientError

UNKNOWN_DATE: Final = "1970-01-01T00:00:00Z"
"""The epoch stands for a release date that is not known, as in Anthropic's API."""

DEFAULT_LIMIT: Final = 20
"""Models on a page unless asked otherwise. This and the next are Anthropic's numbers."""

MAX_LIMIT: Final = 1000


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """One model. created_at: RFC 3339, UTC. owned_by: type of the provider that lists it; provider: its name."""

    id: str
    display_name: str
    created_at: str
    owned_by: str
    provider: str


def union(providers: Iterable[ProviderSettings], catalogue: Mapping[str, tuple[str, str]]) -> tuple[ModelEntry, ...]:
    """Every model of ``providers`` once, newest first, in the order of configuration where dates are equal.

    catalogue: id to (display name, RFC 3339 release date in UTC). An id that several providers have belongs to the
    first. A name that is mapped shows what it is mapped to: ``Claude Sonnet 5 (glm-5.2)``.
    """
    entries: dict[str, ModelEntry] = {}
    for settings in providers:
        for model in _names(settings):
            if model in entries:
                continue
            display_name, created_at = catalogue.get(model, (model, UNKNOWN_DATE))
            target = settings.model_mapping.get(model, model)
            if target != model:
                display_name = f"{display_name} ({target})"
            entries[model] = ModelEntry(model, display_name, created_at, settings.type, settings.name)
    return tuple(sorted(entries.values(), key=lambda entry: entry.created_at, reverse=True))


def model_page(entries: Sequence[ModelEntry], limit: str | None, after_id: str | None, before_id: str | None) -> bytes:
    """One page of ``entries`` as JSON: ``data``, ``first_id``, ``last_id``, ``has_more``.

    The arguments are the query's, as sent. With ``after_id`` the page begins behind that model, with ``before_id`` it
    ends before it; ``has_more`` says whether the list goes on in the direction asked. Raises ClientError 400 for a
    limit that is not a number of 1 to 1000 and for an id that is not in the list: an empty page would pass for its end.
    """
    size = _limit(limit)
    ids = [entry.id for entry in entries]
    begin = 0 if after_id is None else _position(ids, "after_id", after_id) + 1
    end = len(ids) if before_id is None else _position(ids, "before_id", before_id)
    window = entries[begin:end]
    page = window[-size:] if after_id is None and before_id is not None else window[:size]
    document = {
        "data": [_object(entry) for entry in page],
        "first_id": page[0].id if page else None,
        "last_id": page[-1].id if page else None,
        "has_more": len(page) < len(window),
    }
    return json.dumps(document).encode()


def find_model(entries: Iterable[ModelEntry], model: str) -> bytes:
    """One model as JSON. Raises ClientError 404 if no entry has this id."""
    for entry in entries:
        if entry.id == model:
            return json.dumps(_object(entry)).encode()
    raise ClientError(404, "not_found_error", f"model: {model}")


def _names(settings: ProviderSettings) -> Iterator[str]:
    yield from settings.models
    yield from (name for name in settings.model_mapping if not name.endswith("*"))


def _object(entry: ModelEntry) -> dict[str, str]:
    return {
        "id": entry.id,
        "type": "model",
        "display_name": entry.display_name,
        "created_at": entry.created_at,
        "owned_by": entry.owned_by,
        "provider": entry.provider,
    }


def _limit(value: str | None) -> int:
    if value is None:
        return DEFAULT_LIMIT
    digits = value.removeprefix("-")
    if not (digits.isascii() and digits.isdecimal() and len(digits) <= 18):  # 18: what fits an API's 64-bit integer
        raise _bad("limit", "Input should be a valid integer, unable to parse string as an integer")
    limit = int(value)
    if limit < 1:
        raise _bad("limit", "Input should be greater than or equal to 1")
    if limit > MAX_LIMIT:
        raise _bad("limit", f"Input should be less than or equal to {MAX_LIMIT}")
    return limit


def _position(ids: list[str], name: str, wanted: str) -> int:
    try:
        return ids.index(wanted)
    except ValueError:
        raise _bad(name, "no such model in the list") from None


def _bad(name: str, complaint: str) -> ClientError:
    return ClientError(400, "invalid_request_error", f"{name}: {complaint}")
