"""Anthropic's own API, and any server that is the same to its clients."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar, Final

from ccrelay.core.failures import Verdict
from ccrelay.core.model import ApiKey, Call, Credential, Headers
from ccrelay.core.outcomes import Outcome
from ccrelay.core.secret import Secret
from ccrelay.providers.base import AnthropicFormat

_OAUTH_BETA: Final = b"oauth-2025-04-20"
"""Without this beta the API refuses a subscription's token with 401."""


class AnthropicProvider(AnthropicFormat):
    """``type: anthropic``: the only place where a client's own Anthropic credential may go."""

    accepts_own_credential = True
    # error.details.error_code, from Anthropic's page on errors. The first two stay until the month ends, a hold until
    # somebody lifts it; the last is about the client's program, whichever key it came with.
    verdicts: ClassVar[Mapping[str, Verdict]] = MappingProxyType(
        {
            "enforced_spend_limit_reached": Verdict(Outcome.KEY_DEAD),
            "contract_spend_limit_reached": Verdict(Outcome.KEY_DEAD),
            "organization_on_hold": Verdict(Outcome.KEY_DEAD),
            "claude_code_version_too_old": Verdict(Outcome.CALLERS_FAULT),
        }
    )

    def headers(self, call: Call, credential: Credential) -> Headers:
        """A pooled subscription token brings the beta it needs: a client that holds only the relay's key sends none."""
        lines = super().headers(call, credential)
        if isinstance(credential, ApiKey) and _is_oauth(credential.secret):
            return _with_beta(lines)
        return lines

    def key_line(self, key: ApiKey) -> tuple[bytes, bytes]:
        """A subscription's token is refused in ``x-api-key``, whatever the settings say."""
        if _is_oauth(key.secret):
            return (b"authorization", b"Bearer " + key.secret.reveal().encode("utf-8"))
        return super().key_line(key)


def _is_oauth(secret: Secret) -> bool:
    return secret.reveal().startswith("sk-ant-oat")


def _with_beta(lines: Headers) -> Headers:
    for position, (name, value) in enumerate(lines):
        if name == b"anthropic-beta":
            if _OAUTH_BETA in value:
                return lines
            return (*lines[:position], (name, value + b"," + _OAUTH_BETA), *lines[position + 1 :])
    return (*lines, (b"anthropic-beta", _OAUTH_BETA))
