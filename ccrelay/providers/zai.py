"""Z.AI (GLM models) by its Anthropic endpoint.

It answers 429 for almost everything and sends no ``retry-after``: only the code inside the error tells a busy second
from an unpaid bill. Two shapes of error body are in use, ``{"error": {"code", "message"}, "request_id"}`` and
Anthropic's envelope with a ``code`` in its error. Source: docs.z.ai/api-reference/api-code, and bodies users reported.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from types import MappingProxyType
from typing import ClassVar, Final

from ccrelay.core.complaints import Complaint
from ccrelay.core.failures import MAX_WAIT, Verdict, server_time
from ccrelay.core.model import Head
from ccrelay.core.outcomes import Outcome
from ccrelay.providers.base import AnthropicFormat

_MOMENT: Final = 5.0
"""Seconds that a key rests when too many calls ran at once: the ones before it need about that long to end."""

_WINDOW: Final = 900.0
"""Seconds between looks at a used-up window whose end was not told: the shortest is five hours, and each look costs
one refused call."""

_STAMP: Final = re.compile(r"\d{4}-\d{2}-\d{2} \d{2}:\d{2}:\d{2}", re.ASCII)
_BEIJING: Final = timezone(timedelta(hours=8))
"""The clock of the reset times in messages, which name no zone."""

_REFUSED = Verdict(Outcome.KEY_DEAD, "authentication_error")
_LOCKED = Verdict(Outcome.KEY_DEAD, "permission_error")
_UNPAID = Verdict(Outcome.KEY_DEAD, "billing_error")
_WRONG = Verdict(Outcome.CALLERS_FAULT, "invalid_request_error")
_USED_UP = Verdict(Outcome.KEY_TIRED, "rate_limit_error", _WINDOW)
_TOO_FAST = Verdict(Outcome.KEY_TIRED, "rate_limit_error", _MOMENT)
_BUSY = Verdict(Outcome.PROVIDER_ILL, "overloaded_error", _MOMENT)


class ZaiProvider(AnthropicFormat):
    """``type: zai``. Whether its endpoint counts tokens is not known, so it is never asked to."""

    family = "glm"
    counts_tokens = False
    verdicts: ClassVar[Mapping[str, Verdict]] = MappingProxyType(
        {
            "1000": _REFUSED,
            "1001": _REFUSED,
            "1002": _REFUSED,
            "1003": _REFUSED,
            "1004": _REFUSED,
            "1100": _REFUSED,
            "1110": _LOCKED,  # account inactive
            "1111": _LOCKED,  # no such account
            "1112": _LOCKED,
            "1113": _UNPAID,  # in arrears, or a key of the other billing plan
            "1121": _LOCKED,
            "1210": _WRONG,
            "1211": Verdict(Outcome.CALLERS_FAULT, "not_found_error"),  # no such model
            "1212": _WRONG,
            "1213": _WRONG,
            "1214": _WRONG,
            "1215": _WRONG,
            "1220": _LOCKED,  # no permission for this API
            "1230": _BUSY,
            "1231": _WRONG,  # request id used before
            "1234": _BUSY,  # network trouble on their side
            "1301": _WRONG,  # content policy
            "1302": _TOO_FAST,  # too many at once
            "1303": _TOO_FAST,  # too often
            "1304": _USED_UP,  # a day's
            "1305": _BUSY,
            "1308": _USED_UP,  # five hours'
            "1309": _UNPAID,  # plan expired
            "1310": _USED_UP,  # a week's or a month's
            "1311": Verdict(
                Outcome.CALLERS_FAULT, "permission_error"
            ),  # plan lacks this model; the key works for others
            "1313": _LOCKED,  # banned for unfair use
        }
    )

    def verdict(self, head: Head, complaint: Complaint) -> Verdict | None:
        """By code; the end of a used-up window is read from the message where it names one."""
        found = super().verdict(head, complaint)
        if found is _USED_UP:
            return replace(found, wait=_time_left(head, complaint.message) or found.wait)
        return found


def _time_left(head: Head, message: str) -> float | None:
    """Seconds until the time that ``message`` names, by the upstream's own clock, or None if it cannot be told."""
    now = server_time(head.headers)
    stamp = _STAMP.search(message)
    if now is None or stamp is None:
        return None
    try:
        reset = datetime.strptime(stamp.group(), "%Y-%m-%d %H:%M:%S").replace(tzinfo=_BEIJING).timestamp()
    except ValueError:
        return None
    return reset - now if 0 < reset - now <= MAX_WAIT else None
