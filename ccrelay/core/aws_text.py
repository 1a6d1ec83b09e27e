"""What AWS's messages say about the operator's account, taken out of them before a client reads them.

The sentences around stay word for word: clients mend their requests by them.
"""

from __future__ import annotations

import re
from typing import Final

_ARN: Final = r"arn(?::|%3a)aws[\w-]{0,20}(?::|%3a)(?:[^\s\"'`<>()\[\]{}\\]*[^\s\"'`<>()\[\]{}\\.,;:!?])?"
_UUID: Final = r"(?<![\w-])[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}(?![\w-])"
_ACCOUNT: Final = r"(?<!\d)(?:\d{12}|\d{4}-\d{4}-\d{4})(?!\d)"  # the console writes it with hyphens

# A request's UUID may end in twelve digits; it says nothing about the account and helps to find the request.
_TELLING: Final = re.compile(f"(?P<kept>{_UUID})|(?P<arn>{_ARN})|{_ACCOUNT}", re.IGNORECASE | re.ASCII)


def without_accounts(text: str) -> str:
    """``text`` with every ARN as ``[arn]`` and every account id (twelve digits) as ``[account]``.

    An ARN goes as a whole: it names users, roles and resources besides the account. Never raises; work is linear.
    """
    return _TELLING.sub(_stand_in, text)


def _stand_in(found: re.Match[str]) -> str:
    if found["kept"]:
        return found["kept"]
    return "[arn]" if found["arn"] else "[account]"
