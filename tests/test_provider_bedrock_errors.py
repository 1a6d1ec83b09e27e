"""AWS's errors beyond the samples: names in any place, what is learned from them, what must never be told."""

from __future__ import annotations

import json
import unittest
from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from ccrelay.core.failures import Failure, Remedy
from ccrelay.core.model import CallKind, Head
from ccrelay.core.outcomes import Outcome
from ccrelay.core.secret import Secret
from ccrelay.providers import build
from ccrelay.providers.bedrock_errors import error_name
from tests.provider_settings import AWS, provider_settings
from tests.test_provider_bedrock import bedrock

ACCOUNT = "123456789012"
NAMES = [
    "ValidationException", "AccessDeniedException", "ThrottlingException", "ServiceQuotaExceededException",
    "ExpiredTokenException", "ResourceNotFoundException", "ModelErrorException", "ModelTimeoutException", "New",
]  # fmt: skip


def failed(
    status: int, name: str | None, document: Any, provider: Any = None, kind: CallKind = CallKind.MESSAGES
) -> Failure:
    """What the provider makes of it."""
    lines = () if name is None else ((b"x-amzn-errortype", name.encode()),)
    return (provider or bedrock()).failure(Head(status, lines), json.dumps(document).encode(), False, kind)  # type: ignore[no-any-return]


class NameTests(unittest.TestCase):
    def test_the_name_is_found_wherever_aws_puts_it(self) -> None:
        for header, document, name in (
            (b"ThrottlingException", {}, "ThrottlingException"),
            (b"ThrottlingException:http://internal.amazon.com/coral/com.amazon.bedrock/", {}, "ThrottlingException"),
            (b"com.amazon#ThrottlingException:http://x", {"__type": "Other"}, "ThrottlingException"),
            (None, {"__type": "com.amazon.coral.service#ExpiredTokenException"}, "ExpiredTokenException"),
            (None, {"code": "ThrottlingException"}, "ThrottlingException"),
            (b"no name!", {"__type": "Named"}, "Named"),
            (None, {"__type": 5, "code": None}, None),
            (None, {"__type": "X" * 65}, None),
            (None, ["__type"], None),
        ):
            lines = () if header is None else ((b"x-amzn-errortype", header),)
            self.assertEqual(error_name(Head(400, lines), json.dumps(document).encode()), name)
        self.assertIsNone(error_name(Head(500, ()), b"<html>"))


class RemedyTests(unittest.TestCase):
    def test_a_refused_credential_is_worth_a_fresh_one_and_says_what_to_set(self) -> None:
        for status, name, message, word in (
            (403, "ExpiredTokenException", "expired", "aws_session_token"),
            (400, "ExpiredTokenException", "expired", "aws_session_token"),
            (
                403,
                "UnrecognizedClientException",
                "The security token included in the request is invalid.",
                "aws_access_key_id",
            ),
            (403, "InvalidSignatureException", "Signature expired: 2026", "clock"),
            (403, "RequestTimeTooSkewed", "late", "clock"),
            (
                403,
                "AccessDeniedException",
                "The security token included in the request is invalid",
                "aws_session_token",
            ),
            (403, None, "The security token included in the request is expired", "aws_session_token"),
            (403, None, "Bearer Token has expired", "aws_session_token"),
            (
                403,
                "AccessDeniedException",
                "Authentication failed: Please make sure your API Key is valid.",
                "aws_bearer_token",
            ),
        ):
            failure = failed(status, name, {"message": message})
            self.assertEqual((failure.outcome, failure.remedy), (Outcome.KEY_DEAD, Remedy(renew=True)), message)
            self.assertIn(word, failure.reason)

    def test_a_refused_pair_is_worth_a_call_without_it(self) -> None:
        for message, dropped in (
            ("tools.0.defer_loading: Extra inputs are not permitted", {"advanced-tool-use"}),
            ("brand_new: Extra inputs are not permitted", {"brand_new"}),
        ):
            failure = failed(400, "ValidationException", {"message": message})
            self.assertEqual(failure.remedy, Remedy(drop=frozenset(dropped)))
            self.assertIs(failure.outcome, Outcome.CALLERS_FAULT)
        self.assertIn(
            "interleaved-thinking", failed(400, "ValidationException", {"message": "invalid beta flag"}).remedy.drop
        )  # type: ignore[union-attr]
        for status, name, message in (
            (400, "ValidationException", "Input is too long."),
            (429, "ThrottlingException", "invalid beta flag"),
        ):
            self.assertIsNone(failed(status, name, {"message": message}).remedy)

    def test_the_log_says_what_to_map(self) -> None:
        text = "Invocation of model ID x with on-demand throughput isn\u2019t supported."
        self.assertIn("model_mapping", failed(400, "ValidationException", {"message": text}).reason)


class CountingTests(unittest.TestCase):
    def test_what_cannot_be_counted_is_for_others_to_count(self) -> None:
        for status, name, message in (
            (400, "ValidationException", "The provided model identifier is invalid."),
            (400, "ValidationException", "The provided model doesn\u2019t support counting tokens."),
            (400, "ValidationException", "Invocation of model ID x with on-demand throughput isn\u2019t supported."),
            (404, "ResourceNotFoundException", "Model not found."),
            (404, "UnknownOperationException", None),
            (404, None, None),
            (405, None, None),
            (403, "AccessDeniedException", "You don't have access to the model with the specified model ID."),
            (403, "AccessDeniedException", "User x is not authorized to perform: bedrock:CountTokens on resource y"),
        ):
            failure = failed(status, name, {"message": message}, kind=CallKind.COUNT_TOKENS)
            self.assertEqual((failure.outcome, failure.answer.status), (Outcome.UNFIT, 501), message)
            self.assertEqual(json.loads(failure.answer.body)["error"]["type"], "not_supported")
            self.assertIn((b"x-should-retry", b"false"), failure.answer.headers)

    def test_what_is_wrong_with_the_call_or_the_account_is_told_as_it_is(self) -> None:
        for status, name, message, outcome in (
            (400, "ValidationException", "messages: Field required", Outcome.CALLERS_FAULT),
            (400, "ValidationException", "Input is too long for requested model.", Outcome.CALLERS_FAULT),
            (403, "UnrecognizedClientException", "The security token included is invalid", Outcome.KEY_DEAD),
            (429, "ThrottlingException", "Too many requests", Outcome.KEY_TIRED),
            (500, "InternalServerException", "oops", Outcome.PROVIDER_ILL),
        ):
            failure = failed(status, name, {"message": message}, kind=CallKind.COUNT_TOKENS)
            self.assertIs(failure.outcome, outcome, message)
            self.assertNotEqual(failure.answer.status, 501)


class WordingTests(unittest.TestCase):
    def test_what_clients_key_on_passes_word_for_word(self) -> None:
        for message in (
            "Input is too long.",
            "Input is too long for requested model.",
            "prompt is too long: 210000 tokens > 200000 maximum",
            "input length and max_tokens exceed context limit: 1 + 2 > 2",
            "messages.1.content.0: Invalid `signature` in `thinking` block",
            "thinking or redacted_thinking blocks in the latest assistant message cannot be modified",
        ):
            answer = failed(400, "ValidationException", {"message": message}).answer
            error = {"type": "invalid_request_error", "message": message}
            self.assertEqual((answer.status, json.loads(answer.body)["error"]), (400, error))

    def test_a_page_from_before_aws_is_no_refused_credential(self) -> None:
        failure = bedrock().failure(Head(403, ((b"content-type", b"text/html"),)), b"<html>Forbidden</html>")
        self.assertEqual((failure.outcome, failure.remedy), (Outcome.PROVIDER_ILL, None))

    @given(
        status=st.sampled_from([400, 403, 404, 408, 424, 429, 500, 503]),
        name=st.none() | st.sampled_from(NAMES),
        key=st.sampled_from(["message", "Message", "originalMessage"]),
        words=st.sampled_from(
            ["arn:aws:iam::{0}:user/relay", "account {0}", "arn:aws:bedrock:x:{0}:inference-profile/y!"]
        ),
    )
    def test_no_account_is_ever_told(self, status: int, name: str | None, key: str, words: str) -> None:
        failure = failed(status, name, {key: f"model {words.format(ACCOUNT)} is not allowed"})
        self.assertNotIn(ACCOUNT.encode(), failure.answer.body)
        self.assertNotIn(ACCOUNT, failure.reason)
        self.assertNotIn(b"arn:", failure.answer.body)

    @given(status=st.sampled_from([400, 403, 500]), name=st.none() | st.sampled_from(NAMES))
    def test_configured_secrets_are_never_told(self, status: int, name: str | None) -> None:
        secrets = ("s3cr3t-access", "t0ken-session", "b3arer-token")
        access, session, bearer = map(Secret, secrets)
        aws = replace(
            AWS, access_key_id=Secret("AKIA"), secret_access_key=access, session_token=session, bearer_token=bearer
        )
        provider = build(provider_settings("bedrock", aws=aws))
        failure = failed(status, name, {"message": f"refused: {' '.join(secrets)}"}, provider)
        for secret in secrets:
            self.assertNotIn(secret.encode(), failure.answer.body)
            self.assertNotIn(secret, failure.reason)
