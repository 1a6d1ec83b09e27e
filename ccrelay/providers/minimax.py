"""MiniMax by its Anthropic endpoint. Its errors are Anthropic's envelope, with its own code in brackets at the end."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar, Final

from ccrelay.core.complaints import Complaint
from ccrelay.core.failures import Verdict
from ccrelay.core.model import Head
from ccrelay.core.outcomes import Outcome
from ccrelay.providers.base import AnthropicFormat

_CODE: Final = re.compile(r"\((\d{4})\)\s*\Z", re.ASCII)


class MiniMaxProvider(AnthropicFormat):
    """``type: minimax``."""

    family = "minimax"
    counts_tokens = False
    # The first comes as 500 api_error and would pass for an illness. The second is the end of a five-hour window: a
    # look every quarter of an hour, each for one refused call. Source: github.com/MiniMax-AI/MiniMax-M2/issues/62
    # and MiniMax-M2.7/issues/36.
    verdicts: ClassVar[Mapping[str, Verdict]] = MappingProxyType(
        {
            "1008": Verdict(Outcome.KEY_DEAD, "billing_error"),
            "2056": Verdict(Outcome.KEY_TIRED, "rate_limit_error", 900.0),
        }
    )

    def verdict(self, head: Head, complaint: Complaint) -> Verdict | None:
        """By the code that ends the message."""
        found = _CODE.search(complaint.message)
        return self.verdicts.get(found.group(1)) if found else None
