"""Bedrock's Messages API: Anthropic's format, AWS's credentials, a table of betas of its own."""

from __future__ import annotations

import json
import unittest
from dataclasses import replace
from typing import Any

from zope.interface.verify import verifyObject

from ccrelay.core.failures import Remedy
from ccrelay.core.model import ApiKey, CallKind, Head
from ccrelay.core.outcomes import Outcome
from ccrelay.core.secret import Secret
from ccrelay.interfaces import IProvider
from ccrelay.providers import AnthropicFormat, build
from tests.provider_settings import AWS, provider_settings
from tests.test_edits import spliced
from tests.test_provider_bedrock import prepared
from tests.test_providers import call_with

OPUS = "anthropic.claude-opus-5-5"
JSON = (b"content-type", b"application/json")


def mantle(region: str = "us-east-1", **changes: Any) -> AnthropicFormat:
    return build(provider_settings("bedrock", aws=replace(AWS, region=region, api="mantle"), **changes))


class MantleTests(unittest.TestCase):
    def test_it_is_a_provider_of_the_same_type(self) -> None:
        self.assertTrue(verifyObject(IProvider, mantle()))
        self.assertEqual(mantle().type, "bedrock")

    def test_both_endpoints_are_anthropics_below_the_regions_address(self) -> None:
        for kind, path in ((CallKind.MESSAGES, b"messages"), (CallKind.COUNT_TOKENS, b"messages/count_tokens")):
            for query, sent in (
                (b"", b""),
                (b"beta=true", b"?beta=true"),
                (b"x=1&beta=true", b"?beta=true"),
                (b"a b", b""),
            ):
                url = prepared(b'{"model":"m"}', provider=mantle("eu-west-1"), kind=kind, query=query).url
                self.assertEqual(url, b"https://bedrock-mantle.eu-west-1.api.aws/anthropic/v1/" + path + sent)
        private = mantle(base_url="http://127.0.0.1:9")
        self.assertEqual(prepared(b'{"model":"m"}', provider=private).url, b"http://127.0.0.1:9/v1/messages")
        self.assertIsNone(mantle().rewrite(call_with(kind=CallKind.COUNT_TOKENS)))

    def test_the_body_stays_but_for_the_model_and_what_betas_decide(self) -> None:
        body = (
            b'{ "model":"claude-opus-5-5", "tags" : 1, "context_management": {"edits": []}, "new_field":[],'
            b'"messages":[{"role":"user","content":"hi","clear_at":1}],"stream":true}'
        )
        headers = (
            (b"anthropic-beta", b"context-management-2025-06-27,per-turn-control-2026-07-01"),
            (b"anthropic-version", b"2023-06-01"),
            (b"anthropic-beta", b"advanced-tool-use-2025-11-20,brand-new-2027-01-01"),
            (b"x-new", b"1"),
        )
        request = prepared(body, provider=mantle(), model=OPUS, headers=headers, remove=frozenset({"tags"}))
        expected = body.replace(b'"claude-opus-5-5"', b'"' + OPUS.encode() + b'"').replace(b', "tags" : 1', b"")
        expected = expected.replace(b',"clear_at":1', b"")
        self.assertEqual(spliced(body, list(request.edits)), expected)
        self.assertEqual(
            request.headers,
            (
                (b"anthropic-version", b"2023-06-01"),
                (b"x-new", b"1"),
                (b"accept-encoding", b"identity"),
                (b"anthropic-beta", b"context-management-2025-06-27,tool-search-tool-2025-10-19"),
            ),
        )

    def test_the_api_key_is_a_bearer(self) -> None:
        request = prepared(b'{"model":"m"}', provider=mantle(keys=("k",)), credential=ApiKey(Secret("k")))
        self.assertEqual(request.headers[-1], (b"authorization", b"Bearer k"))

    def test_its_envelope_passes_unless_it_tells_of_the_account(self) -> None:
        for message, told in (
            ("prompt is too long: 5 tokens > 4 maximum", "prompt is too long: 5 tokens > 4 maximum"),
            ("no access for arn:aws:iam::123456789012:user/x.", "no access for [arn]."),
        ):
            envelope = {"type": "error", "error": {"type": "invalid_request_error", "message": message}}
            body = json.dumps(envelope).encode()
            failure = mantle().failure(Head(400, (JSON,)), body)
            self.assertIs(failure.outcome, Outcome.CALLERS_FAULT)
            self.assertEqual(json.loads(failure.answer.body)["error"], envelope["error"] | {"message": told})
            self.assertEqual(failure.answer.body == body, message == told)

    def test_what_it_refuses_in_the_envelope_is_judged_as_elsewhere_at_aws(self) -> None:
        policy = "User: x is not authorized to perform: bedrock-mantle:CreateInference on resource: y"
        for status, kind, message, outcome, wait, remedy in (
            (429, "rate_limit_error", "Too many tokens", Outcome.KEY_TIRED, 5.0, None),
            (401, "authentication_error", "invalid API key", Outcome.KEY_DEAD, None, Remedy(renew=True)),
            (403, "permission_error", policy, Outcome.UNFIT, None, None),
            (403, "permission_error", "The security token is invalid", Outcome.KEY_DEAD, None, Remedy(renew=True)),
            (529, "overloaded_error", "Overloaded", Outcome.PROVIDER_ILL, None, None),
        ):
            body = json.dumps({"type": "error", "error": {"type": kind, "message": message}}).encode()
            failure = mantle().failure(Head(status, (JSON,)), body)
            found = (failure.outcome, failure.retry_after, failure.remedy, failure.answer.status)
            self.assertEqual(found, (outcome, wait, remedy, status), message)
