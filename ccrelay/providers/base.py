"""The one pipeline for upstreams that speak Anthropic's Messages API; a dialect states only where it differs."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import ClassVar, Final

from zope.interface import implementer

from ccrelay.core.catalogue import cloud_model
from ccrelay.core.complaints import Complaint, read_complaint
from ccrelay.core.edits import add_members, merge_edits, remove_members, replace_value
from ccrelay.core.failures import Failure, Remedy, Verdict, failure_of
from ccrelay.core.headers import first, request_headers
from ccrelay.core.json_spans import whole
from ccrelay.core.mapping import MappedModel, map_model
from ccrelay.core.members import Member
from ccrelay.core.model import (
    ApiKey,
    AttemptPlan,
    Call,
    CallKind,
    Credential,
    Edit,
    Head,
    HeaderCredential,
    Headers,
    OwnCredential,
    UpstreamRequest,
)
from ccrelay.core.outcomes import Outcome, UpstreamError
from ccrelay.core.pair_edits import nested_edits
from ccrelay.core.pairs import (
    MAX_NAMES,
    UNFILTERED,
    PairTable,
    complaint_pairs,
    decide,
    header_betas,
    pairs_for,
    with_betas,
)
from ccrelay.core.settings import ProviderSettings
from ccrelay.core.sse import EventAligner
from ccrelay.interfaces import IProvider, IStreamDecoder

_REDACTED: Final = b"[redacted]"

_LONGEST_TOLD: Final = 100
"""Characters of a name in the log: the longest beta has half as many."""


@implementer(IProvider)
class AnthropicFormat:
    """An upstream that takes the Messages API as it is. Subclasses override attributes, and verbs only if they must.

    counts_tokens: it has ``/v1/messages/count_tokens``. family, inspects_body, max_body_bytes: see IProvider.
    refuses: top-level body members that are never sent to it; only where ``inspects_body``.
    table: its name in ``core.pairs`` and ``core.catalogue``, None where Anthropic's names and betas are its own.
    verdicts: what its own error codes mean, where that is not what the status says.
    """

    accepts_own_credential: ClassVar[bool] = False
    needs_key: ClassVar[bool] = True
    counts_tokens: ClassVar[bool] = True
    family: ClassVar[str] = "claude"
    inspects_body: bool = False
    max_body_bytes: ClassVar[int | None] = None
    refuses: ClassVar[frozenset[str]] = frozenset()
    table: ClassVar[str | None] = None
    verdicts: ClassVar[Mapping[str, Verdict]] = MappingProxyType({})

    def __init__(self, settings: ProviderSettings) -> None:
        self.settings = settings
        self.name = settings.name
        self.type = settings.type
        self.region = settings.aws.region if settings.aws else settings.gcp.region if settings.gcp else ""
        self._base = self.base_url().encode("utf-8")
        self._secrets = [key.secret.reveal().encode("utf-8") for key in settings.keys if key.secret]

    def base_url(self) -> str:
        """Where the API begins, without a trailing slash."""
        assert self.settings.base_url, "the configuration's schema has a default for every type that has an address"
        return self.settings.base_url

    def base_urls(self) -> tuple[str, ...]:
        """Every address that requests may go to, without repetitions; ``base_url()`` first."""
        return (self.base_url(),)

    def model_for(self, asked: str) -> str:
        """See IProvider."""
        return self.mapping_of(asked).model

    def mapping_of(self, asked: str) -> MappedModel:
        """The upstream's name for the model that the client asked for, and who gave it: worth a line in the log."""
        catalogued = cloud_model(self.table, asked, self.region) if self.table else None
        return map_model(asked, self.settings.model_mapping, catalogued)

    def refusal(self, call: Call, model: str) -> str | None:
        """See IProvider."""
        if call.kind is CallKind.COUNT_TOKENS and not self.counts_tokens:
            return "has no count_tokens"
        return None

    def prepare(self, call: Call, plan: AttemptPlan) -> UpstreamRequest:
        """See IProvider. The body is not touched unless the model's name changes, or the plan asks for it.

        Where the plan leaves pairs or members out, the body must be complete, whatever ``inspects_body`` says.
        """
        lines, edits = self.headers(call, plan.credential), merge_edits(plan.edits, self.renamed(plan))
        left_out: tuple[str, ...] = ()
        if plan.drop or plan.remove or self.inspects_body:
            lines, less, left_out = self.without(call, plan, lines)
            edits = merge_edits(edits, less)
        query = self.query(call)
        url = self._base + call.kind.value.encode("ascii") + (b"?" + query if query else b"")
        return UpstreamRequest(b"POST", url, lines, edits, left_out)

    def renamed(self, plan: AttemptPlan) -> tuple[Edit, ...]:
        """The edit that gives the body's ``model`` the upstream's name; none where it has it."""
        if json.loads(plan.model_value.raw or b"null") == plan.model:
            return ()
        return (replace_value(plan.model_value, json.dumps(plan.model).encode("ascii")),)

    def without(
        self, call: Call, plan: AttemptPlan, lines: Headers, added: Mapping[str, bytes] = MappingProxyType({})
    ) -> tuple[Headers, tuple[Edit, ...], tuple[str, ...]]:
        """``lines`` and the body's edits without the betas, fields and members that are not to be sent; their names.

        added: members to put in, none of which stays in the body. Only betas that are left out disappear from
        ``lines``; whoever has no table of pairs is sent all others.
        """
        members = call.body.members.in_order
        table = self.pairs(plan.model)
        decision = decide(table, header_betas(lines), {member.name for member in members}, plan.drop)
        inner = nested_edits(whole(call.body), decision.nested) if decision.nested else ()
        removed = decision.remove | plan.remove | self.refuses
        edits = (*inner, *remove_members(members, removed), *add_members(members, added, removed))
        return with_betas(lines, decision.betas), edits, told_names(decision.dropped)

    def pairs(self, model: str) -> PairTable:
        """Which betas and fields go there for ``model``, the upstream's name."""
        return pairs_for(self.table or UNFILTERED, model, self.settings.beta_overrides)

    def query(self, call: Call) -> bytes:
        """The query string to send; the client's own."""
        return call.query

    def headers(self, call: Call, credential: Credential) -> Headers:
        """The header lines to send: what passes of the client's, and at most one credential."""
        return (
            *request_headers(call.headers, foreign=not self.accepts_own_credential),
            *self.credential_lines(credential),
        )

    def credential_lines(self, credential: Credential) -> Headers:
        """The header lines that carry ``credential``; none for one that this upstream cannot be given."""
        if isinstance(credential, OwnCredential):
            # Anywhere but at Anthropic a client's own credential would be a leak; without any, the upstream refuses.
            own = (credential.header, credential.value.reveal().encode("latin-1"))
            return (own,) if self.accepts_own_credential else ()
        if isinstance(credential, HeaderCredential):
            return tuple((name, value.reveal().encode("latin-1")) for name, value in credential.lines)
        return (self.key_line(credential),) if isinstance(credential, ApiKey) else ()

    def key_line(self, key: ApiKey) -> tuple[bytes, bytes]:
        """The header line that carries a pooled key."""
        value = key.secret.reveal().encode("utf-8")
        if self.settings.auth_header == "bearer":
            return (b"authorization", b"Bearer " + value)
        return (b"x-api-key", value)

    def decoder(self, head: Head) -> IStreamDecoder | None:
        """See IProvider. Judges by Content-Type alone, so an answer without one is refused like a page of HTML."""
        declared = (first(head.headers, b"content-type") or b"").partition(b";")[0].strip().lower()
        if declared == b"text/event-stream":
            return EventAligner()
        if declared == b"application/json" or declared.endswith(b"+json"):
            return None
        what = ascii(declared[:80].decode("latin-1"))[1:-1] or "no content-type"
        raise UpstreamError(Outcome.PROVIDER_ILL, f"answered {head.status} with {what}", answered=True)

    def answer_head(self, head: Head) -> Head:
        """See IProvider. It is Anthropic's already."""
        return head

    def rewrite(self, call: Call) -> Callable[[bytes], bytes] | None:
        """See IProvider."""
        return None

    def failure(
        self, head: Head, body: bytes, own_credential: bool = False, kind: CallKind = CallKind.MESSAGES
    ) -> Failure:
        """See IProvider."""
        if not own_credential:
            head, body = self._without_secrets(head, body)
        complaint = self.complaint(head, body)
        failure = failure_of(head, body, complaint, self.verdict(head, complaint), own_credential=own_credential)
        return replace(failure, remedy=self.remedy(complaint))

    def complaint(self, head: Head, body: bytes) -> Complaint:
        """What the answer says is wrong."""
        return read_complaint(head, body, self.name)

    def verdict(self, head: Head, complaint: Complaint) -> Verdict | None:
        """What the provider's own error code says, or None where there is none or it adds nothing to the status."""
        return self.verdicts.get(complaint.code) if complaint.code else None

    def remedy(self, complaint: Complaint) -> Remedy | None:
        """What may make the same attempt succeed: where there is a table, to leave out what a 400 names.

        At Anthropic's own format clients do that themselves, and know better what they lose by it.
        """
        if self.table is None or complaint.status != 400:
            return None
        refused = complaint_pairs(self.pairs(""), complaint.message)  # of the pairs that any model takes
        return Remedy(drop=refused) if refused else None

    def _without_secrets(self, head: Head, body: bytes) -> tuple[Head, bytes]:
        """The answer without the keys it was sent: some servers repeat a key that they refuse."""
        for secret in self._secrets:
            if secret in body:
                body = body.replace(secret, _REDACTED)
            if any(secret in value for _, value in head.headers):
                head = Head(head.status, tuple(line for line in head.headers if secret not in line[1]))
        return head, body


def wants_stream(members: Sequence[Member]) -> bool:
    """Whether a body asks for a stream. Of several ``stream`` the last counts, as JSON parsers have it."""
    said = [member.raw for member in members if member.name == "stream"]
    return bool(said) and said[-1] == b"true"


def told_names(left_out: Sequence[str]) -> tuple[str, ...]:
    """Names of betas and members for the log; clients make them up, so that neither number nor length is theirs."""
    return tuple(name[:_LONGEST_TOLD] for name in left_out[:MAX_NAMES])
