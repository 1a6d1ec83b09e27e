"""What AWS's unsuccessful answers mean, in Anthropic's terms.

The error's name is in ``x-amzn-ErrorType``, as ``Name`` or ``Name:http://...``, else in the body's ``__type``
(``namespace#Name``) or ``code``; what it says in ``message`` or ``Message``. Wordings pass as they are, because clients
mend their requests by them, but for account ids and ARNs, and for what is said about a refused credential: AWS repeats
parts of the signed request there.
Source: bedrock-runtime's service model in botocore; Amazon Bedrock user guide, "Troubleshooting API error codes".
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Final

from ccrelay.core.aws_text import without_accounts
from ccrelay.core.complaints import MAX_TEXT, MAX_WORD, Complaint, read_complaint
from ccrelay.core.failures import Remedy, Verdict
from ccrelay.core.model import CallKind, Head
from ccrelay.core.outcomes import Outcome

_MOMENT: Final = 5.0
"""Seconds a throttled account rests: its quotas are told per minute but refill all the time, so that a twelfth of a
minute's is back by then; AWS's own SDKs start again after one second and wait twenty at most."""

_MINUTE: Final = 60.0
"""Seconds until a used-up service quota is looked at again: it is a minute's, or one that somebody must have raised."""

_DAY: Final = 900.0
"""Seconds between looks at a used-up quota of tokens per day: each look costs one refused call."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One unsuccessful answer of AWS, understood.

    complaint: what is to be told; its ``code`` is AWS's name of the error. status: for the client. verdict: None where
    only the status is known. remedy: of the credential. hint: for the log, what the operator may do.
    """

    complaint: Complaint
    status: int
    verdict: Verdict | None
    remedy: Remedy | None = None
    hint: str | None = None


@dataclass(frozen=True, slots=True)
class _Meaning:
    """status: for the client, None: as AWS sent it. refused: the credential was; the hint then says what to set."""

    verdict: Verdict
    status: int | None = None
    refused: str | None = None


_WRONG = _Meaning(Verdict(Outcome.CALLERS_FAULT, "invalid_request_error"))
_MISSING = _Meaning(Verdict(Outcome.CALLERS_FAULT, "not_found_error"))
_THROTTLED = _Meaning(Verdict(Outcome.KEY_TIRED, "rate_limit_error", _MOMENT), 429)
_DAILY = _Meaning(Verdict(Outcome.KEY_TIRED, "rate_limit_error", _DAY), 429)
_BUSY = _Meaning(Verdict(Outcome.PROVIDER_ILL, "overloaded_error"), 529)
_BROKEN = _Meaning(Verdict(Outcome.PROVIDER_ILL, "api_error"), 500)
_SLOW = _Meaning(Verdict(Outcome.PROVIDER_ILL, "timeout_error"), 504)
_CANNOT_COUNT = _Meaning(Verdict(Outcome.UNFIT, "not_supported"), 501)
_LOCKED = _Meaning(Verdict(Outcome.KEY_DEAD, "permission_error"))
_NOT_THIS_MODEL = _Meaning(Verdict(Outcome.UNFIT, "permission_error"))


def _refused(what_to_set: str) -> _Meaning:
    return _Meaning(Verdict(Outcome.KEY_DEAD, "authentication_error"), refused=what_to_set)


_EXPIRED = _refused("expired; set a fresh aws_session_token, or leave the keys to AWS's default chain")
_UNKNOWN = _refused("not known to AWS here; check aws_access_key_id, aws_session_token and aws_region")
_MISSIGNED = _refused("signature refused; check aws_secret_access_key and this machine's clock")
_SKEWED = _refused("signature out of time; set this machine's clock")
_BAD_TOKEN = _refused("API key refused; check aws_bearer_token and aws_region")

_MEANINGS: Final[Mapping[str, _Meaning]] = MappingProxyType(
    {
        "validationexception": _WRONG,
        "resourcenotfoundexception": _MISSING,
        "servicequotaexceededexception": _Meaning(Verdict(Outcome.KEY_TIRED, "rate_limit_error", _MINUTE), 429),
        "throttlingexception": _THROTTLED,
        "toomanyrequestsexception": _THROTTLED,
        "modelnotreadyexception": _BUSY,
        "modeltimeoutexception": _SLOW,
        "serviceunavailableexception": _BUSY,
        "internalserverexception": _BROKEN,
        "internalfailure": _BROKEN,
        "unknownoperationexception": _CANNOT_COUNT,  # InvokeModel is known in every region
        "optinrequired": _LOCKED,
        "expiredtokenexception": _EXPIRED,
        "expiredtoken": _EXPIRED,
        "unrecognizedclientexception": _UNKNOWN,
        "invalidclienttokenid": _UNKNOWN,
        "missingauthenticationtokenexception": _UNKNOWN,
        "invalidsignatureexception": _MISSIGNED,
        "signaturedoesnotmatch": _MISSIGNED,
        "incompletesignatureexception": _MISSIGNED,
        "requesttimetooskewed": _SKEWED,
        "requestexpired": _SKEWED,
    }
)
_OF_THE_MODEL: Final = frozenset({"modelerrorexception", "modelstreamerrorexception"})
_DENIED: Final = "accessdeniedexception"

_CANNOT_COUNT_WORDS: Final = ("support counting tokens", "bedrock:counttokens", "bedrock-mantle:counttokens")
_UNKNOWN_MODEL_WORDS: Final = ("provided model", "model id", "on-demand throughput isn")
"""Of a count's 400, besides those above: CountTokens knows fewer names of a model than InvokeModel does."""

_EXPIRED_WORDS: Final = ("security token included in the request is expired", "token has expired", "token is expired")
_UNKNOWN_WORDS: Final = ("security token",)
_BAD_TOKEN_WORDS: Final = ("api key", "bearer token", "authentication failed")
_MODEL_WORDS: Final = ("model", "on resource")
_POLICY_WORDS: Final = "is not authorized to perform"
_ON_DEMAND: Final = "on-demand throughput isn"  # the apostrophe that follows is a typographic one


def error_name(head: Head, body: bytes) -> str | None:
    """AWS's name for the error, without its namespace and address; None where the answer has none."""
    document = _document(body)
    header = head.first(b"x-amzn-errortype")
    for said in (header.decode("latin-1") if header else None, document.get("__type"), document.get("code")):
        if isinstance(said, str):
            name = said.partition(":")[0].rpartition("#")[2].strip()
            if name.isascii() and name.isidentifier() and len(name) <= MAX_WORD:
                return name
    return None


def read_fault(name: str | None, head: Head, body: bytes, provider: str, kind: CallKind = CallKind.MESSAGES) -> Fault:
    """Understand an unsuccessful answer. Never raises.

    name: what ``error_name`` found. head, body: the rest of the answer; head is without AWS's own lines, but that
    ``request-id`` has its request's. provider: the configured name. kind: what was asked for; a model that cannot be
    counted, whatever is said of it then, may still be asked for messages.
    """
    complaint = read_complaint(head, body, provider)
    document = _document(body)
    lower = (name or "").lower()
    said = _first_text(document, "originalMessage", "message", "Message") if not complaint.envelope else None
    message = without_accounts(said or complaint.message)
    changed = message != complaint.message
    complaint = replace(
        complaint,
        envelope=complaint.envelope and not changed and name is None,
        spoken=complaint.spoken or said is not None,
        code=name or complaint.code,
        message=message,
    )
    meaning = _of_the_model(document) if lower in _OF_THE_MODEL else _meaning(head.status, lower, said or message)
    if kind is CallKind.COUNT_TOKENS and _is_about_counting(head.status, meaning, message):
        meaning = _CANNOT_COUNT
    if meaning is None:
        return Fault(complaint, head.status, None)
    status = meaning.status or head.status
    if meaning.refused is not None:
        told = f"Provider {provider}: AWS refused the relay's credential" + (f" ({name})" if name else "")
        complaint = replace(complaint, message=told, envelope=False)
        return Fault(complaint, status, meaning.verdict, Remedy(renew=True), meaning.refused)
    return Fault(complaint, status, meaning.verdict, hint=_hint(meaning, message))


def _meaning(status: int, name: str, message: str) -> _Meaning | None:
    """What an error's name and wording mean. name: in lower case, empty where there is none."""
    words = message.lower()
    if any(part in words for part in _CANNOT_COUNT_WORDS):
        return _CANNOT_COUNT
    if name in ("throttlingexception", "servicequotaexceededexception") and "per day" in words:
        return _DAILY
    if not name and status == 429:
        return _THROTTLED  # mantle's
    if name != _DENIED and not (status == 403 and not name):
        return _MEANINGS.get(name)
    if any(part in words for part in _EXPIRED_WORDS):
        return _EXPIRED
    if any(part in words for part in _UNKNOWN_WORDS):
        return _UNKNOWN
    if any(part in words for part in _BAD_TOKEN_WORDS):
        return _BAD_TOKEN
    if name != _DENIED and _POLICY_WORDS not in words:
        return None  # whatever stands before AWS may answer 403
    return _NOT_THIS_MODEL if any(part in words for part in _MODEL_WORDS) else _LOCKED


def _is_about_counting(status: int, meaning: _Meaning | None, message: str) -> bool:
    """Whether a refused count says that this model, or anything, cannot be counted, and not what is wrong with it."""
    if meaning is _WRONG:
        return any(part in message.lower() for part in _UNKNOWN_MODEL_WORDS)
    return meaning in (_MISSING, _NOT_THIS_MODEL) or (meaning is None and status in (404, 405))


def _of_the_model(document: Mapping[str, Any]) -> _Meaning:
    """By the status that the model's own server gave Bedrock; its 401 and 403 are between the two of them."""
    status = document.get("originalStatusCode")
    if status in (429, 503, 529):
        return _BUSY
    if status in (408, 504):
        return _SLOW
    if status == 413:
        return _Meaning(Verdict(Outcome.CALLERS_FAULT, "request_too_large"), 413)
    return replace(_WRONG, status=400) if status in (400, 422) else _BROKEN


def _hint(meaning: _Meaning, message: str) -> str | None:
    if _ON_DEMAND in message.lower():
        return "model_mapping must name an inference profile, such as global.anthropic... or us.anthropic..."
    if meaning is _NOT_THIS_MODEL:
        return "the account or its policy does not allow this model"
    return "this model cannot be counted here" if meaning is _CANNOT_COUNT else None


def _document(body: bytes) -> Mapping[str, Any]:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def _first_text(document: Mapping[str, Any], *names: str) -> str | None:
    texts = (document.get(name) for name in names)
    return next((text[:MAX_TEXT] for text in texts if isinstance(text, str) and text.strip()), None)
