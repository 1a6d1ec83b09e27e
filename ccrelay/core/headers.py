"""Which header lines cross the relay, both ways. This file is the one table of header rules.

Rules of this file:
- Both lists are open: a header that no rule names passes, in its place and with its bytes. A client's next feature
  arrives as a header that nobody here has heard of.
- What speaks of one hop stays on it (RFC 9110 section 7.6.1), and so does every credential: the credential of the next
  hop is put on by the provider, never taken from the client's lines.
- What speaks of the upstream's own origin (cookies, HSTS, CORS ...) is no statement about ours.
- What speaks of the operator's account goes to nobody else; to a client that used its own account it is its own.

Names are in lower case everywhere, as core.model.Headers promises.
"""

from __future__ import annotations

from typing import Final

from ccrelay.core.model import Headers

HOP_BY_HOP: Final = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
"""Meant for the next hop only, besides ``proxy-*`` and whatever ``Connection`` names."""

CREDENTIALS: Final = frozenset({b"x-api-key", b"authorization", b"api-key", b"cookie"})
"""Where clients put their secrets (``api-key``: Azure's SDKs); ``proxy-*`` covers ``proxy-authorization``."""

_STOPS_HERE: Final = (
    HOP_BY_HOP
    | CREDENTIALS
    | {
        b"accept-encoding",  # replaced: a compressed event stream could be neither followed nor cut at its events
        b"content-length",  # the body may be edited, and its sender frames it
        b"expect",  # answered by us
        b"forwarded",  # this and the next two tell the operator's network to a stranger
        b"via",
        b"x-real-ip",
        b"host",
    }
)
_STOPS_HERE_PREFIXES: Final = (b"proxy-", b"x-forwarded-", b"x-cc-relay-")

_FOR_ANTHROPIC_ONLY: Final = frozenset({b"x-claude-code-managed-settings-checksum"})
"""Says which policy the client's organisation enforces on it; the client marks it sensitive."""

_IDENTITY: Final = (b"accept-encoding", b"identity")

_STAYS_BEHIND: Final = HOP_BY_HOP | {
    b"content-length",  # the sender of the answer frames it
    b"date",  # ours is sent
    b"server",  # ours is sent
    b"x-request-id",  # ours is sent
    b"set-cookie",  # cookies do not heed ports: on loopback it would reach every local server
    b"alt-svc",
    b"strict-transport-security",
    b"nel",
    b"report-to",
}
_STAYS_BEHIND_PREFIXES: Final = (
    b"proxy-",
    b"access-control-",  # would let web pages read what a loopback relay answers
    b"x-cc-relay-",  # of a relay behind this one
)

_OPERATORS: Final = frozenset({b"anthropic-organization-id", b"anthropic-workspace-id", b"cf-ray", b"via"})
_OPERATORS_PREFIXES: Final = (b"anthropic-ratelimit-unified-",)  # a subscription's quota, by which clients retry

_STREAM: Final = (
    (b"cache-control", b"no-cache, no-transform"),
    (b"x-accel-buffering", b"no"),  # nginx between us and the client must not collect the stream
)
_STREAM_NAMES: Final = frozenset(name for name, _ in _STREAM)

_LASTING: Final = frozenset({b"keep-alive", b"close"})


def first(headers: Headers, name: bytes) -> bytes | None:
    """The first value of the header ``name`` (lower case), or None."""
    for key, value in headers:
        if key == name:
            return value
    return None


def request_headers(headers: Headers, *, foreign: bool = False) -> Headers:
    """What of a client's header lines goes upstream, in the client's order, with ``accept-encoding: identity`` last.

    foreign: the upstream is not Anthropic's own API. No credential is among the result, whatever came in.
    """
    kept = []
    named: frozenset[bytes] = frozenset()
    for line in headers:
        name = line[0]
        if name in _STOPS_HERE or name.startswith(_STOPS_HERE_PREFIXES):
            if name == b"connection":
                named |= _tokens(line[1])
        else:
            kept.append(line)
    if foreign:
        named |= _FOR_ANTHROPIC_ONLY
    if named:
        kept = [line for line in kept if line[0] not in named]
    kept.append(_IDENTITY)
    return tuple(kept)


def response_headers(headers: Headers, *, own_credential: bool) -> Headers:
    """What of an upstream's header lines goes to the client, in the upstream's order.

    own_credential: the client's own account was used; its quota and organisation are then told to it.
    """
    kept = []
    named: frozenset[bytes] = frozenset()
    for line in headers:
        name = line[0]
        if name in _STAYS_BEHIND or name.startswith(_STAYS_BEHIND_PREFIXES):
            if name == b"connection":
                named |= _tokens(line[1])
        elif own_credential or not (name in _OPERATORS or name.startswith(_OPERATORS_PREFIXES)):
            kept.append(line)
    if named:
        kept = [line for line in kept if line[0] not in named]
    return tuple(kept)


def stream_headers(headers: Headers) -> Headers:
    """``headers`` of an SSE answer with the lines that keep caches and buffers from holding or changing the stream."""
    return (*(line for line in headers if line[0] not in _STREAM_NAMES), *_STREAM)


def _tokens(value: bytes) -> frozenset[bytes]:
    """The header names that a ``Connection`` value adds to the hop-by-hop ones."""
    value = value.lower()
    if value in _LASTING:  # nearly every request
        return frozenset()
    return frozenset(token.strip() for token in value.split(b",")) - _LASTING
