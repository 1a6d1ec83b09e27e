"""Google's Vertex AI: Anthropic's models under a project of Google Cloud.

The model and the kind of answer are in the URL; the body is Anthropic's but for the model. What stands before the
models (quotas, permissions, the front end) answers in Google's ``{"error": {"code", "message", "status"}}``, often as
an array of one where a stream was asked for, and its sentences name projects; the models' own errors are Anthropic's
envelope.
Source: anthropic SDK, lib/vertex; platform.claude.com on Claude on Vertex AI; google.rpc.Code.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any, ClassVar, Final
from urllib.parse import quote

from ccrelay.core.complaints import MAX_WORD, Complaint
from ccrelay.core.edits import merge_edits
from ccrelay.core.failures import Failure, Remedy, Verdict, failure_of
from ccrelay.core.headers import request_headers
from ccrelay.core.model import ApiKey, AttemptPlan, Call, CallKind, Credential, Head, Headers, UpstreamRequest
from ccrelay.core.outcomes import Outcome
from ccrelay.core.settings import GcpSettings, ProviderSettings
from ccrelay.errors import ClientError
from ccrelay.providers.base import AnthropicFormat, wants_stream

_VERSION: Final = b'"vertex-2023-10-16"'
_COUNTER: Final = "count-tokens"
"""What stands in the URL in place of a model where tokens are counted."""

_MOMENT: Final = 10.0
"""Seconds until a used-up quota is worth another look, as none of Google's 429s says when: quotas are a minute's, and
shared capacity comes back in seconds. Six refused looks a minute cost nothing; a minute's rest would idle the provider
for as long again on average."""

_TOO_LARGE: Final = re.compile(r"request size \(\d+ bytes\) exceeds", re.IGNORECASE)
_TOO_LONG: Final = "Input is too long."
"""Clients compact at exactly these words, and not at Google's about the size (protocol of Claude Code)."""

_QUOTA_IN_DISGUISE: Final = re.compile(r"prompt is too long(?!: \d)", re.IGNORECASE)
"""Of a 413: a prompt beyond what the project's quota lets through in a minute; a model's own limit is told in numbers,
with 400. Source: github.com/anthropics/anthropic-sdk-python issue 1028."""

_ACCOUNT: Final = re.compile(
    r"\b(?P<path>projects/|organizations/|folders/|[?&]project=)[^\s/'\"`,;:?&)\]]+"
    r"|(?P<number>\bproject[_ ]?(?:number|id)?[:# ]{1,2}['\"`]?)\d+"
    r"|[\w.+-]{1,64}@(?:[\w-]{1,63}\.){1,5}[a-z]{2,10}\b"
    r"|(?<![\w.])\d{10,14}(?!\w)",
    re.ASCII | re.IGNORECASE,
)
_ID: Final = "[id]"

_STATUSES: Final = MappingProxyType({"UNAVAILABLE": 529, "ABORTED": 529, "CANCELLED": 500})
"""HTTP statuses for clients where Google's would mislead: 499 is nobody's, and 529 says that it is not for long."""

_HINTS: Final = MappingProxyType(
    {
        "UNAUTHENTICATED": "Google refused the credential: check gcp_credentials_file and this machine's clock",
        "PERMISSION_DENIED": "the credential needs aiplatform.endpoints.predict (role aiplatform.user) in the project",
        "FAILED_PRECONDITION": "the model may have to be enabled for the project, in Model Garden",
        "NOT_FOUND": "no such model there: see gcp_region and model_mapping",
    }
)
_NOT_THIS_MODEL: Final = Verdict(Outcome.UNFIT, "permission_error")
_CANNOT_COUNT: Final = Verdict(Outcome.UNFIT, "not_supported")
_WRONG: Final = Verdict(Outcome.CALLERS_FAULT, "invalid_request_error")
_TIRED: Final = Verdict(Outcome.KEY_TIRED, "rate_limit_error", _MOMENT)
_BUSY: Final = Verdict(Outcome.PROVIDER_ILL, "overloaded_error")
_BROKEN: Final = Verdict(Outcome.PROVIDER_ILL, "api_error")


class VertexProvider(AnthropicFormat):
    """``type: vertex``. Configured keys are access tokens."""

    inspects_body = True  # for the URL and the table of pairs
    max_body_bytes = 30_000_000
    table = "vertex"
    refuses = frozenset({"tags"})
    verdicts: ClassVar[Mapping[str, Verdict]] = MappingProxyType(
        {
            "INVALID_ARGUMENT": _WRONG,
            "FAILED_PRECONDITION": _WRONG,
            "OUT_OF_RANGE": _WRONG,
            "NOT_FOUND": Verdict(Outcome.CALLERS_FAULT, "not_found_error"),
            "UNAUTHENTICATED": Verdict(Outcome.KEY_DEAD, "authentication_error"),
            "PERMISSION_DENIED": Verdict(Outcome.KEY_DEAD, "permission_error"),
            "RESOURCE_EXHAUSTED": _TIRED,
            "UNAVAILABLE": _BUSY,
            "ABORTED": _BUSY,
            "INTERNAL": _BROKEN,
            "UNKNOWN": _BROKEN,
            "CANCELLED": _BROKEN,
            "DEADLINE_EXCEEDED": Verdict(Outcome.PROVIDER_ILL, "timeout_error"),
        }
    )

    def __init__(self, settings: ProviderSettings) -> None:
        super().__init__(settings)
        self._project = re.compile(rf"(?<![\w-]){re.escape(self.gcp.project_id)}(?![\w-])", re.ASCII)

    @property
    def gcp(self) -> GcpSettings:
        """The project's settings."""
        assert self.settings.gcp is not None, "the configuration gives them to every provider of this type"
        return self.settings.gcp

    def base_url(self) -> str:
        """The configured endpoint, else the region's; with the API's version."""
        return self._endpoint(self.gcp.region)

    def base_urls(self) -> tuple[str, ...]:
        """Messages may be asked for in one region, and counts in another that has a host of its own."""
        counting = self._endpoint(self.gcp.count_tokens_region or self.gcp.region)
        return tuple(dict.fromkeys((self.base_url(), counting)))

    def prepare(self, call: Call, plan: AttemptPlan) -> UpstreamRequest:
        """See IProvider. Raises ClientError for a model's name that no path can hold."""
        lines = self.headers(call, plan.credential)
        present = {member.name for member in call.body.members.in_order}
        added = {} if "anthropic_version" in present else {"anthropic_version": _VERSION}
        if call.kind is CallKind.COUNT_TOKENS:
            # Its betas are refused one and all, and what they enable with them.
            plan = replace(plan, drop=plan.drop | self.pairs(plan.model).names)
            lines, less, _ = self.without(call, plan, lines, added)
            left_out: tuple[str, ...] = ()  # what goes with messages is nothing to tell of
            edits = merge_edits(plan.edits, self.renamed(plan), less)
            url = self._url(self.gcp.count_tokens_region or self.gcp.region, _COUNTER, "rawPredict")
        else:
            plan = replace(plan, remove=plan.remove | {"model"})
            lines, less, left_out = self.without(call, plan, lines, added)
            edits = merge_edits(plan.edits, less)
            verb = "streamRawPredict" if wants_stream(call.body.members.in_order) else "rawPredict"
            url = self._url(self.gcp.region, self._quoted(plan.model), verb)
        return UpstreamRequest(b"POST", url, lines, edits, left_out)

    def headers(self, call: Call, credential: Credential) -> Headers:
        """As everywhere, less what clients could tell Google: which project pays comes with the credential."""
        passing = request_headers(call.headers, foreign=True)
        return (
            *(line for line in passing if not line[0].startswith(b"x-goog-")),
            *self.credential_lines(credential),
        )

    def key_line(self, key: ApiKey) -> tuple[bytes, bytes]:
        """Google takes tokens as bearers only, whatever the settings say."""
        return (b"authorization", b"Bearer " + key.secret.reveal().encode("utf-8"))

    def answer_head(self, head: Head) -> Head:
        """See IProvider. Google's own lines speak of its infrastructure and of the project's quota."""
        return replace(
            head, headers=tuple(line for line in head.headers if not line[0].startswith((b"x-goog-", b"x-vertex-ai-")))
        )

    def failure(
        self, head: Head, body: bytes, own_credential: bool = False, kind: CallKind = CallKind.MESSAGES
    ) -> Failure:
        """See IProvider."""
        head, body = self._without_secrets(self.answer_head(head), _without_array(body))
        complaint = self.complaint(head, body)
        verdict = self.verdict(head, complaint)
        status = 501 if verdict is _CANNOT_COUNT else _STATUSES.get(complaint.code or "", head.status)
        told = head if complaint.envelope else replace(head, status=status)
        failure = failure_of(told, body, complaint, verdict, own_credential=False)
        hint = _HINTS.get(complaint.code or "") if verdict is not _CANNOT_COUNT else None
        reason = f"{failure.reason}: {hint}" if hint else failure.reason
        return replace(failure, reason=reason, remedy=self.remedy(complaint))

    def complaint(self, head: Head, body: bytes) -> Complaint:
        """What the answer says, in the words that clients know, without what identifies the operator's account."""
        found = super().complaint(head, body)
        message = _TOO_LONG if _TOO_LARGE.search(found.message) else self._without_account(found.message)
        envelope = found.envelope and message == found.message
        return replace(found, message=message, envelope=envelope, code=_status_of(body) or found.code)

    def verdict(self, head: Head, complaint: Complaint) -> Verdict | None:
        """By Google's status, but for what is said about one model or about counting."""
        words = complaint.message.lower()
        if head.status == 413 and _QUOTA_IN_DISGUISE.search(words):
            return replace(_TIRED, kind="request_too_large")  # its wording makes clients compact, which helps as well
        if head.status == 429:
            return _TIRED
        if complaint.code in ("NOT_FOUND", "INVALID_ARGUMENT", "FAILED_PRECONDITION") and _COUNTER in words:
            return _CANNOT_COUNT
        if complaint.code == "PERMISSION_DENIED" and ("publisher model" in words or "allowedmodels" in words):
            return _NOT_THIS_MODEL
        return super().verdict(head, complaint)

    def remedy(self, complaint: Complaint) -> Remedy | None:
        """A token that was refused may have expired; besides what a 400 names."""
        return Remedy(renew=True) if complaint.status == 401 else super().remedy(complaint)

    def _endpoint(self, location: str) -> str:
        configured = self.settings.base_url
        if configured:
            return configured if configured.endswith("/v1") else configured + "/v1"
        if location == "global":
            return "https://aiplatform.googleapis.com/v1"
        if location in ("us", "eu"):
            return f"https://aiplatform.{location}.rep.googleapis.com/v1"
        return f"https://{location}-aiplatform.googleapis.com/v1"

    def _url(self, location: str, model: str, verb: str) -> bytes:
        project = quote(self.gcp.project_id, safe=":")
        path = f"/projects/{project}/locations/{location}/publishers/anthropic/models/{model}:{verb}"
        return (self._endpoint(location) + path).encode("utf-8")

    def _quoted(self, model: str) -> str:
        """The name as one segment of a path; the date's ``@`` stays as it is."""
        if model in ("", ".", "..") or not model.isprintable() or any(mark in model for mark in ";/\\"):
            asked = ascii(model[:100])  # what it is quoted for may not be fit for a log
            message = f"model: {asked} is no model at Vertex AI; model_mapping of provider {self.name} can name one"
            raise ClientError(400, "invalid_request_error", message)
        return quote(model, safe="@")

    def _without_account(self, message: str) -> str:
        return self._project.sub(_ID, _ACCOUNT.sub(_stand_in, message))


def _stand_in(found: re.Match[str]) -> str:
    return (found["path"] or found["number"] or "") + _ID


def _without_array(body: bytes) -> bytes:
    """The error of an array of one; any other body as it is."""
    if not body.lstrip().startswith(b"["):
        return body
    document = _read(body)
    return json.dumps(document[0]).encode("ascii") if isinstance(document, list) and document else body


def _status_of(body: bytes) -> str | None:
    """Google's word for the error, or None where it has none."""
    document = _read(body)
    error = document.get("error") if isinstance(document, dict) else None
    status = error.get("status") if isinstance(error, dict) else None
    known = isinstance(status, str) and len(status) <= MAX_WORD and status.isascii() and status.isidentifier()
    return status if known else None


def _read(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None
