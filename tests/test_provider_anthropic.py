"""Subscription tokens in the pool of ``type: anthropic``."""

from __future__ import annotations

import unittest

from ccrelay.core.model import ApiKey, Headers, OwnCredential
from ccrelay.core.secret import Secret
from ccrelay.providers import build
from tests.provider_settings import provider_settings
from tests.test_providers import call_with, plan_for

TOKEN = "sk-ant-oat01-pooled"


class SubscriptionTokenTests(unittest.TestCase):
    def sent(self, headers: Headers, text: str = TOKEN) -> Headers:
        provider = build(provider_settings("anthropic", keys=(text,)))
        return provider.prepare(call_with(headers), plan_for("m", ApiKey(Secret(text)))).headers

    def test_it_goes_as_a_bearer_whatever_the_settings_say(self) -> None:
        lines = self.sent(())
        self.assertIn((b"authorization", b"Bearer " + TOKEN.encode()), lines)
        self.assertNotIn(b"x-api-key", [name for name, _ in lines])

    def test_the_beta_that_it_needs_joins_those_of_the_client(self) -> None:
        lines = self.sent(((b"anthropic-beta", b"claude-code-20250219"), (b"x-app", b"cli")))
        self.assertEqual(lines[:2], ((b"anthropic-beta", b"claude-code-20250219,oauth-2025-04-20"), (b"x-app", b"cli")))

    def test_the_beta_is_made_where_the_client_sent_none(self) -> None:
        self.assertIn((b"anthropic-beta", b"oauth-2025-04-20"), self.sent(()))

    def test_the_beta_is_not_sent_twice(self) -> None:
        betas = (b"anthropic-beta", b"oauth-2025-04-20,effort-2025-11-24")
        self.assertEqual([line for line in self.sent((betas,)) if line[0] == b"anthropic-beta"], [betas])

    def test_with_any_other_credential_the_betas_stay_as_they_are(self) -> None:
        self.assertNotIn(b"anthropic-beta", [name for name, _ in self.sent((), "sk-ant-api03-pooled")])
        provider = build(provider_settings("anthropic"))
        own = OwnCredential(b"authorization", Secret("Bearer sk-ant-oat01-clients"))
        headers = provider.prepare(call_with(), plan_for("m", own)).headers
        self.assertNotIn(b"anthropic-beta", [name for name, _ in headers])
