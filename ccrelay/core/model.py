"""The values that travel between modules: a call, who makes it, and what is sent upstream for it."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ccrelay.core.secret import Secret

if TYPE_CHECKING:
    from ccrelay.core.members import Member
    from ccrelay.core.request_body import RequestBody

Headers = tuple[tuple[bytes, bytes], ...]
"""Header lines in the order sent; names in lower case, values without surrounding white space."""


class CallKind(enum.Enum):
    """Which endpoint was called. The value is the path below the provider's base URL."""

    MESSAGES = "/v1/messages"
    COUNT_TOKENS = "/v1/messages/count_tokens"


@dataclass(frozen=True, slots=True)
class Principal:
    """Who the client proved to be.

    method: ``api_key``, ``bearer``, ``own_credential`` or ``open``.
    fingerprint: of the credential, for logs. digest: its whole SHA-256 for scoping maps; empty when open.
    own_credential_only: the client opened the door with its own Anthropic credential and may spend nobody else's.
    """

    method: str
    fingerprint: str
    digest: bytes
    own_credential_only: bool


@dataclass(frozen=True, slots=True)
class OwnCredential:
    """A credential of the client's own that may pass through: the header line as it came (value is a Secret)."""

    header: bytes
    value: Secret


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A pooled key: sent in the header the provider's settings name."""

    secret: Secret


@dataclass(frozen=True, slots=True)
class HeaderCredential:
    """A token in the header lines that its issuer's library wrote for it (Google's, Entra's), sent as they are."""

    lines: tuple[tuple[bytes, Secret], ...]


@dataclass(frozen=True, slots=True)
class AwsKeys:
    """What AWS requests are signed with. session_token: None for a user's lasting keys."""

    access_key_id: Secret
    secret_access_key: Secret
    session_token: Secret | None


Credential = ApiKey | OwnCredential | HeaderCredential | AwsKeys | None
"""What an attempt authenticates with; None for an upstream that asks for nothing (Ollama, the simulator)."""


@dataclass(frozen=True, slots=True)
class Call:
    """One client request to the Messages API.

    query: raw query string without ``?``. headers: what the client sent, less its credentials and hop-by-hop
    headers. own_credential: set only where pass-through is allowed. session: ``x-claude-code-session-id``.
    peer: the client's address, for the log. body: arrives while the call is served; see ``RequestBody``.
    """

    request_id: str
    kind: CallKind
    principal: Principal
    query: bytes
    headers: Headers
    own_credential: OwnCredential | None
    session: str | None
    peer: str
    body: RequestBody


@dataclass(frozen=True, slots=True)
class Edit:
    """Replace the body's bytes [start, end) by ``replacement``. Edits of one request are sorted and disjoint."""

    start: int
    end: int
    replacement: bytes


@dataclass(frozen=True, slots=True)
class AttemptPlan:
    """What one attempt for a call is to be made with.

    model: the upstream's name for it. model_value: the top-level ``model``, closed. now: Unix seconds, for signatures.
    drop: names of the pairs of beta and field to leave out (``core.pairs``), learned from this upstream's refusals.
    remove: top-level members to leave out. edits: of the body's inside, sorted and disjoint; neither of ``model_value``
    nor of a member that is removed.
    """

    model: str
    model_value: Member
    credential: Credential
    now: float
    drop: frozenset[str] = frozenset()
    remove: frozenset[str] = frozenset()
    edits: tuple[Edit, ...] = ()


@dataclass(frozen=True, slots=True)
class UpstreamRequest:
    """What a provider wants sent: absolute URL, all end-to-end headers (Content-Length excepted), body edits.

    left_out: betas and fields of the client's that this upstream does not take, for the log.
    """

    method: bytes
    url: bytes
    headers: Headers
    edits: tuple[Edit, ...]
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Head:
    """The head of an upstream answer."""

    status: int
    headers: Headers

    def first(self, name: bytes) -> bytes | None:
        """The first value of the header ``name`` (lower case), or None."""
        for key, value in self.headers:
            if key == name:
                return value
        return None


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole HTTP answer that can be held, compared and sent."""

    status: int
    headers: Headers
    body: bytes


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of the four classes that are billed apart. ``input`` excludes both cache classes."""

    input: int = 0
    output: int = 0
    cache_write: int = 0
    cache_read: int = 0
