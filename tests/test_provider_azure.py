"""Azure AI Foundry: deployments, Entra ID, and what is left out once it has been refused."""

from __future__ import annotations

import json
import unittest
from dataclasses import replace
from typing import Any

from ccrelay.core.failures import Remedy
from ccrelay.core.model import ApiKey, AttemptPlan, Credential, Head, HeaderCredential, Headers, UpstreamRequest
from ccrelay.core.secret import Secret
from ccrelay.providers import build
from ccrelay.providers.base import AnthropicFormat
from tests.provider_settings import AZURE, provider_settings
from tests.test_providers import body_of, call_with, credential_lines, edited

BETAS = b"context-management-2025-06-27,new-feature-2027-01-01,effort-2025-11-24"
BODY = b'{"model":"d","context_management":{},"output_config":{"effort":"low"},"brand_new":1}'


def azure(**changes: Any) -> AnthropicFormat:
    return build(provider_settings("azure", **changes))


def prepared(provider: AnthropicFormat, credential: Credential = None, **plan: Any) -> UpstreamRequest:
    body = body_of(BODY)
    value = body.members.find("model")
    assert value is not None
    call = replace(call_with(((b"anthropic-beta", BETAS), (b"x-app", b"cli"))), body=body)
    return provider.prepare(call, AttemptPlan("d", value, credential, 1_800_000_000.0, **plan))


def beta_lines(headers: Headers) -> list[bytes]:
    return [value for name, value in headers if name == b"anthropic-beta"]


class BetaTests(unittest.TestCase):
    def test_everything_goes_as_it_came_and_before_the_body_is_there(self) -> None:
        provider = azure()
        self.assertFalse(provider.inspects_body)
        request = prepared(provider)
        self.assertEqual((beta_lines(request.headers), request.edits), ([BETAS], ()))

    def test_what_was_refused_goes_neither_in_the_header_nor_in_the_body(self) -> None:
        request = prepared(azure(), drop=frozenset({"context-management", "brand_new", "new-feature-2027-01-01"}))
        self.assertEqual(beta_lines(request.headers), [b"effort-2025-11-24"])
        self.assertEqual(json.loads(edited(BODY, request)), {"model": "d", "output_config": {"effort": "low"}})

    def test_what_the_operator_leaves_out_is_looked_for_in_every_body(self) -> None:
        provider = azure(beta_overrides={"effort": False})
        self.assertTrue(provider.inspects_body)
        request = prepared(provider)
        self.assertNotIn(b"effort", beta_lines(request.headers)[0])
        self.assertEqual(json.loads(edited(BODY, request))["output_config"], {})

    def test_a_refusal_is_told_apart_from_a_fault(self) -> None:
        said = b'{"type":"error","error":{"type":"invalid_request_error","message":"%s"}}'
        head = Head(400, ())
        refused = azure().failure(head, said % b"brand_new: Extra inputs are not permitted")
        self.assertEqual(refused.remedy, Remedy(drop=frozenset({"brand_new"})))
        self.assertIsNone(azure().failure(head, said % b"messages: Field required").remedy)

    def test_where_clients_mend_their_requests_themselves_nothing_is_dropped(self) -> None:
        said = b'{"type":"error","error":{"type":"invalid_request_error","message":"invalid beta flag"}}'
        for type_ in ("anthropic", "zai", "minimax", "ollama"):
            self.assertIsNone(build(provider_settings(type_)).failure(Head(400, ()), said).remedy)


class CredentialTests(unittest.TestCase):
    def test_a_key_and_a_token_never_go_together(self) -> None:
        token = HeaderCredential(((b"authorization", Secret("Bearer entra")),))
        for credential, line in (
            (token, (b"authorization", b"Bearer entra")),
            (ApiKey(Secret("k")), (b"x-api-key", b"k")),
        ):
            provider = azure(keys=("k",))
            self.assertEqual(credential_lines(prepared(provider, credential).headers), [line])

    def test_a_refused_token_is_worth_a_new_one_and_a_refused_key_is_not(self) -> None:
        said = b'{"error":{"code":"401","message":"Access denied"}}'
        self.assertEqual(azure().failure(Head(401, ()), said).remedy, Remedy(renew=True))
        self.assertIsNone(azure(keys=("k",)).failure(Head(401, ()), said).remedy)


class DeploymentTests(unittest.TestCase):
    def test_a_mapping_goes_before_the_deployment_and_that_before_the_catalogue(self) -> None:
        mapped = {"claude-opus-*": "mine"}
        with_default = azure(model_mapping=mapped, azure=replace(AZURE, deployment_id="default"))
        for provider, asked, model, by in (
            (with_default, "claude-opus-5-5", "mine", "model_mapping"),
            (with_default, "claude-sonnet-4-5-20250929", "default", "azure_deployment_id"),
            (azure(), "claude-sonnet-4-5-20250929", "claude-sonnet-4-5", "catalogue"),
            (azure(), "claude-sonnet-4-5", "claude-sonnet-4-5", None),
        ):
            found = provider.mapping_of(asked)
            self.assertEqual((found.model, found.by), (model, by))


class OtherFormatsTests(unittest.TestCase):
    def test_a_plan_removes_members_and_betas_at_anthropic_too(self) -> None:
        provider = build(provider_settings("anthropic"))
        request = prepared(provider, remove=frozenset({"context_management"}), drop=frozenset({"context-management"}))
        self.assertEqual(beta_lines(request.headers), [b"new-feature-2027-01-01,effort-2025-11-24"])
        expected = {"model": "d", "output_config": {"effort": "low"}, "brand_new": 1}
        self.assertEqual(json.loads(edited(BODY, request)), expected)
