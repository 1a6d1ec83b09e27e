"""For whom a refusal holds: for every request, for those of one session, or for that one request only.

A client chooses the values and the names in its body, and what an upstream says repeats them. So what one client can
make an upstream say must not take anything away from another: only words that can mean nothing but that the upstream
does not know a beta or a field reach everybody.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from typing import Final

from ccrelay.core.pairs import pair_data

# The whole message, for a complaint that a client has put into a name of its own would stand beside another.
_PREFIX: Final = r"(?:\w{1,64}: )?"
_FIELD: Final = re.compile(_PREFIX + r"([a-z][\w.]{0,500}): Extra inputs are not permitted\.?", re.ASCII)
_KEY: Final = re.compile(
    _PREFIX + r"(?:Malformed input request: )?#((?:/\w{1,64}){0,9}): extraneous key \[(\w{1,64})\] is not permitted"
    r"(?:, please[\w ,.]{0,200})?",
    re.ASCII,
)
_BETAS: Final = re.compile(
    _PREFIX
    + r"Unexpected value\(s\) `[a-z][a-z0-9]*(?:-[a-z0-9]+)+`(?:, `[a-z][a-z0-9]*(?:-[a-z0-9]+)+`){0,63}"
    + r" for the `anthropic-beta` header(?:\. [\w ,.:/()-]{0,500})?",
    re.ASCII,
)

_ALIKE: Final = frozenset({"adaptive", "custom", "enabled", "ephemeral", "text"})
"""What stands in a path for the usual form of an object: a field refused there is refused in any. The others, such as
``disabled`` thinking, lack fields that the usual form has."""


@dataclass(frozen=True, slots=True)
class Reach:
    """What of the names in a refusal is to be left out of whose requests from now on."""

    everybody: frozenset[str]
    session: frozenset[str]


def reach_of(message: str, names: frozenset[str]) -> Reach:
    """For whom ``names`` are refused. message: the upstream's own words. names: as ``complaint_pairs`` found them.

    A value that is refused, a beta that is not named, or a field that is only wrong where it stands, is one session's
    matter. Fields inside messages that belong to no pair are not remembered at all: their names have a good meaning
    elsewhere (the ``source`` of a text block is wrong, that of an image is not).
    """
    if _BETAS.fullmatch(message) or _is_unknown_field(_path(message)):
        return Reach(names, frozenset())
    return Reach(frozenset(), frozenset(name for name in names if not name.startswith("messages.")) | names & _fields())


def _path(message: str) -> list[str]:
    """The parts of the one field that the message is about; none where it is about anything else."""
    field, key = _FIELD.fullmatch(message), _KEY.fullmatch(message)
    if field is not None:
        return field[1].split(".")
    return [*key[1].split("/")[1:], key[2]] if key is not None else []


def _is_unknown_field(path: list[str]) -> bool:
    plain = [part for part in path if not part.isdecimal() and part not in _ALIKE]
    return len(path) == 1 or ".".join(plain) in _fields()


@functools.cache
def _fields() -> frozenset[str]:
    """Every field of a pair."""
    return frozenset(field for pair in pair_data()["pairs"] for field in pair.get("fields", ()))
