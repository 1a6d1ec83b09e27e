"""AWS Bedrock: InvokeModel, and the Messages API that Bedrock has under the name of mantle.

Source: bedrock-runtime's service model in botocore; anthropic SDK, lib/bedrock; Amazon Bedrock user guide.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from typing import ClassVar, Final
from urllib.parse import quote

from ccrelay.core.bedrock_stream import BedrockDecoder
from ccrelay.core.failures import Failure, Remedy, failure_of
from ccrelay.core.headers import first
from ccrelay.core.model import (
    ApiKey,
    AttemptPlan,
    AwsKeys,
    Call,
    CallKind,
    Head,
    Headers,
    UpstreamRequest,
)
from ccrelay.core.outcomes import Outcome, UpstreamError
from ccrelay.core.settings import AwsSettings, ProviderSettings
from ccrelay.errors import ClientError
from ccrelay.interfaces import IStreamDecoder
from ccrelay.providers.base import AnthropicFormat, told_names, wants_stream
from ccrelay.providers.bedrock_body import body_edits
from ccrelay.providers.bedrock_errors import Fault, error_name, read_fault
from ccrelay.providers.bedrock_signing import body_hash, require_botocore, signature_lines

_EVENT_STREAM: Final = b"application/vnd.amazon.eventstream"
_JSON: Final = b"application/json"

_PROFILE: Final = re.compile(
    r"\A(?:arn:.*:(?:inference-profile|foundation-model)/)?(?:[a-z]+(?:-[a-z]+)?\.)?(?=anthropic\.)"
)
"""What stands before the foundation model in the name of an inference profile that covers regions."""

_OPTION: Final = b"x-amzn-bedrock-"
_PRINTABLE: Final = re.compile(rb"[!-~](?:[ -~]*[!-~])?")


class BedrockProvider(AnthropicFormat):
    """``type: bedrock`` with ``bedrock_api: invoke``. Configured keys are Bedrock API keys, sent as bearers."""

    inspects_body = True  # for the URL, the table of pairs and the signature
    max_body_bytes = 20_000_000  # platform.claude.com, "Claude on Amazon Bedrock"
    service: ClassVar[str] = "bedrock"
    table: ClassVar[str] = "bedrock"

    def __init__(self, settings: ProviderSettings) -> None:
        super().__init__(settings)
        aws = self.aws
        given = (aws.secret_access_key, aws.session_token, aws.bearer_token)
        self._secrets += [secret.reveal().encode("utf-8") for secret in given if secret is not None]
        if aws.access_key_id is not None or not (aws.bearer_token or settings.keys):
            require_botocore(settings.name)

    @property
    def aws(self) -> AwsSettings:
        """The account's settings."""
        assert self.settings.aws is not None, "the configuration gives them to every provider of this type"
        return self.settings.aws

    def base_url(self) -> str:
        """The configured endpoint, else the region's."""
        region = self.aws.region
        suffix = "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"
        return self.settings.base_url or f"https://bedrock-runtime.{region}.{suffix}"

    def prepare(self, call: Call, plan: AttemptPlan) -> UpstreamRequest:
        """See IProvider. Raises ClientError for a name that is none of a model."""
        if call.kind is CallKind.COUNT_TOKENS:
            model, operation, accept = _foundation_model(plan.model), "count-tokens", _JSON
        elif wants_stream(call.body.members.in_order):
            model, operation, accept = plan.model, "invoke-with-response-stream", _EVENT_STREAM
        else:
            model, operation, accept = plan.model, "invoke", _JSON
        url = self._base + f"/model/{self._quoted(model)}/{operation}".encode("ascii")
        edits, left_out = body_edits(call, plan, self.pairs(plan.model))
        # A closed list, unlike elsewhere: AWS knows none of a client's headers, and its version and betas are in the
        # body, where they are filtered: a beta that stood in the header too would come in behind the filter's back.
        lines = ((b"content-type", _JSON), (b"accept", accept), *_options(call.headers))
        request = UpstreamRequest(
            b"POST", url, (*lines, (b"accept-encoding", b"identity")), edits, told_names(left_out)
        )
        return self._authenticated(call, plan, lines, request)

    def refusal(self, call: Call, model: str) -> str | None:
        """See IProvider. CountTokens knows foundation models only, and a profile of the account's own hides its one."""
        if call.kind is CallKind.COUNT_TOKENS and _foundation_model(model).startswith("arn:"):
            return "cannot count tokens for a profile of the account's own"
        return super().refusal(call, model)

    def decoder(self, head: Head) -> IStreamDecoder | None:
        """See IProvider."""
        return BedrockDecoder() if _is_event_stream(head) else super().decoder(head)

    def answer_head(self, head: Head) -> Head:
        """See IProvider. AWS's own lines tell of the account and of an encoding that is gone; one names the request."""
        lines: list[tuple[bytes, bytes]] = []
        for name, value in head.headers:
            if name == b"x-amzn-requestid" and head.first(b"request-id") is None:
                lines.append((b"request-id", value))
            elif name == b"content-type" and _is_event_stream(head):
                lines.append((name, b"text/event-stream; charset=utf-8"))
            elif not name.startswith((b"x-amzn-", b"x-amz-")):
                lines.append((name, value))
        return Head(head.status, tuple(lines))

    def rewrite(self, call: Call) -> Callable[[bytes], bytes] | None:
        """See IProvider."""
        return _token_count if call.kind is CallKind.COUNT_TOKENS else None

    def failure(
        self, head: Head, body: bytes, own_credential: bool = False, kind: CallKind = CallKind.MESSAGES
    ) -> Failure:
        """See IProvider."""
        head, body = self._without_secrets(head, body)
        answered = self.answer_head(head)
        fault = read_fault(error_name(head, body), answered, body, self.name, kind)
        told = replace(answered, status=fault.status)
        failure = failure_of(told, body, fault.complaint, fault.verdict, own_credential=False)
        reason = f"{failure.reason}: {fault.hint}" if fault.hint else failure.reason
        return replace(failure, reason=reason, remedy=self._remedy(fault))

    def _remedy(self, fault: Fault) -> Remedy | None:
        if fault.status == 401:
            return Remedy(renew=True)
        if fault.remedy is not None or fault.status != 400:
            return fault.remedy
        return self.remedy(replace(fault.complaint, status=fault.status))

    def _quoted(self, model: str) -> str:
        """The name as one segment of a path, as botocore writes it: an ARN has colons and slashes."""
        if model in ("", ".", "..") or ";" in model or not model.isprintable():
            asked = ascii(model[:100])  # what it is quoted for may not be fit for a log
            message = f"model: {asked} is no model at Bedrock; model_mapping of provider {self.name} can name one"
            raise ClientError(400, "invalid_request_error", message)
        return quote(model, safe="")

    def _authenticated(
        self, call: Call, plan: AttemptPlan, signed: Headers, request: UpstreamRequest
    ) -> UpstreamRequest:
        """``request`` with the plan's credential. signed: those of its lines that a signature covers."""
        credential = plan.credential
        if isinstance(credential, AwsKeys):
            content = body_hash(call.body, request.edits)
            text = request.url.decode("ascii")
            lines = signature_lines(text, signed, content, credential, self.aws.region, self.service, plan.now)
        else:
            lines = self.credential_lines(credential)
        return replace(request, headers=request.headers + lines)

    def key_line(self, key: ApiKey) -> tuple[bytes, bytes]:
        """A Bedrock API key is a bearer, whatever the settings say."""
        return (b"authorization", b"Bearer " + key.secret.reveal().encode("utf-8"))


class MantleProvider(BedrockProvider):
    """``type: bedrock`` with ``bedrock_api: mantle``: Anthropic's format under AWS's credentials."""

    service = "bedrock-mantle"
    table = "mantle"
    refuses = frozenset({"tags"})

    def base_url(self) -> str:
        """The configured endpoint, else the region's."""
        return self.settings.base_url or f"https://bedrock-mantle.{self.aws.region}.api.aws/anthropic"

    def prepare(self, call: Call, plan: AttemptPlan) -> UpstreamRequest:
        """See IProvider. Betas and their fields are filtered; the version stays the client's."""
        sent = AnthropicFormat.prepare(self, call, replace(plan, credential=None))
        content_type = (line for line in sent.headers if line[0] == b"content-type" and _PRINTABLE.fullmatch(line[1]))
        return self._authenticated(call, plan, tuple(content_type)[:1], sent)

    def refusal(self, call: Call, model: str) -> str | None:
        """See IProvider. It counts whatever it answers."""
        return AnthropicFormat.refusal(self, call, model)

    def query(self, call: Call) -> bytes:
        """Only what Anthropic's SDKs send: AWS signs a query in a spelling of its own, and knows no other."""
        return b"beta=true" if b"beta=true" in call.query.split(b"&") else b""

    def rewrite(self, call: Call) -> Callable[[bytes], bytes] | None:
        """See IProvider."""
        return None


def _foundation_model(model: str) -> str:
    """The id of the foundation model that ``model`` is a profile of; ``model`` itself where it does not say."""
    return _PROFILE.sub("", model)


def _options(headers: Headers) -> Headers:
    """Bedrock's own options (guardrail, tier, trace), which a client may set; of a repeated one the first."""
    options: dict[bytes, bytes] = {}
    for name, value in headers:
        if name.startswith(_OPTION) and _PRINTABLE.fullmatch(value):
            options.setdefault(name, value)
    return tuple(options.items())


def _is_event_stream(head: Head) -> bool:
    declared = first(head.headers, b"content-type") or b""
    return declared.partition(b";")[0].strip().lower() == _EVENT_STREAM


def _token_count(body: bytes) -> bytes:
    """CountTokens' answer as Anthropic's. Raises UpstreamError for anything else."""
    try:
        tokens = json.loads(body)["inputTokens"]
    except (ValueError, RecursionError, TypeError, KeyError):
        tokens = None
    if not isinstance(tokens, int) or isinstance(tokens, bool):
        raise UpstreamError(Outcome.PROVIDER_ILL, "answered CountTokens without a count", answered=True)
    return b'{"input_tokens":%d}' % tokens
