"""A secret that cannot leak by being formatted, logged, compared slowly or pickled."""

from __future__ import annotations

import hashlib
import hmac
from typing import NoReturn


class Secret:
    """A credential's text. Only ``reveal()`` gives it out; every way of printing shows the fingerprint instead.

    fingerprint: the first 8 hex digits of the text's SHA-256, safe to log, for telling keys apart. Never used
    as a map key or for comparison: those use the whole digest.
    """

    __slots__ = ("_digest", "_text")

    def __init__(self, text: str) -> None:
        self._text = text
        self._digest = hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()

    @property
    def fingerprint(self) -> str:
        return self._digest.hex()[:8]

    @property
    def digest(self) -> bytes:
        """The whole SHA-256, for maps keyed by credential."""
        return self._digest

    def reveal(self) -> str:
        """The text itself. Call it only where the bytes are put on the wire."""
        return self._text

    def matches(self, presented: bytes) -> bool:
        """Whether ``presented`` (raw header bytes) is this secret; takes the same time wherever they differ."""
        return hmac.compare_digest(hashlib.sha256(presented).digest(), self._digest)

    def __bool__(self) -> bool:
        return bool(self._text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and hmac.compare_digest(self._digest, other._digest)

    def __hash__(self) -> int:
        return hash(self._digest)

    def __repr__(self) -> str:
        return f"<secret {self.fingerprint}>" if self._text else "<empty secret>"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return format(repr(self), spec)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Secret cannot be pickled or copied")
