"""Which of the upstream's model names stands for the one that a client asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class MappedModel:
    """The upstream's name for a model.

    by: who gave it: the configuration's key (``model_mapping``, ``azure_deployment_id``) or ``catalogue``; None: it is
    what the client asked for.
    """

    model: str
    by: str | None


def mapped_model(asked: str, mapping: Mapping[str, str]) -> str | None:
    """What ``mapping`` says about ``asked``, or None if it says nothing.

    An exact name wins, then the longest key with a trailing ``*`` whose beginning fits; ``*`` alone fits everything.
    """
    exact = mapping.get(asked)
    if exact is not None:
        return exact
    fitting = [key for key in mapping if key.endswith("*") and asked.startswith(key[:-1])]
    return mapping[max(fitting, key=len)] if fitting else None


def map_model(asked: str, mapping: Mapping[str, str], catalogued: str | None = None) -> MappedModel:
    """The upstream's name for ``asked``: as ``mapped_model`` says, else ``catalogued``, else itself."""
    found = mapped_model(asked, mapping)
    if found is not None:
        return MappedModel(found, "model_mapping")
    if catalogued is not None and catalogued != asked:
        return MappedModel(catalogued, "catalogue")
    return MappedModel(asked, None)
