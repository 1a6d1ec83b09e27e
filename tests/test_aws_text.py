"""Accounts in AWS's wording: taken out wherever they stand, with the sentence left as it was."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccrelay.core.aws_text import without_accounts

REFUSAL = """User: {} is not authorized to perform: bedrock:InvokeModel on resource: {} because no policy \
allows the bedrock:InvokeModel action"""


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            REFUSAL.format(
                "arn:aws:iam::123456789012:user/jane",
                "arn:aws:bedrock:us-east-1:123456789012:inference-profile/us.x-v1",
            ),
            REFUSAL.format("[arn]", "[arn]"),
        ),
        ("arn:aws-us-gov:sts::123456789012:assumed-role/r/session+a=b,c@d.e", "[arn]"),
        ("arn:aws-cn:bedrock:cn-north-1::foundation-model/x.", "[arn]."),
        ("no access to 'arn:aws:s3:::bucket/key', sorry", "no access to '[arn]', sorry"),
        ("(arn:aws:iam::123456789012:role/r)", "([arn])"),
        ("/model/arn%3Aaws%3Abedrock%3Aus-east-1%3A123456789012%3Ainference-profile%2Fx/invoke", "/model/[arn]"),
        ("ARN:AWS:iam::123456789012:root", "[arn]"),
        ("Account 123456789012 is not authorized.", "Account [account] is not authorized."),
        ("Your account (1234-5678-9012) is being verified", "Your account ([account]) is being verified"),
        ("account=123456789012;", "account=[account];"),
        ("x123456789012y", "x[account]y"),
    ],
)
def test_accounts_are_taken_out(text: str, told: str) -> None:
    assert without_accounts(text) == told


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Input is too long for requested model.",
        "prompt is too long: 210000 tokens > 200000 maximum",
        "The provided model identifier is invalid.",
        "12345678901 and 1234567890123 have not twelve digits; 1795000000123 is a time",
        "request 550e8400-e29b-41d4-a716-446655440000 failed",
        "anthropic.claude-sonnet-4-5-20250929-v1:0",
        "learn: aws has docs; an arn is no arn:gcp:x",
    ],
)
def test_nothing_else_is_touched(text: str) -> None:
    assert without_accounts(text) == text


def test_something_that_only_contains_a_uuid_is_searched_too() -> None:
    assert without_accounts("x550e8400-e29b-41d4-a716-123456789012") == "x550e8400-e29b-41d4-a716-[account]"


words = st.sampled_from(["arn:aws:", "arn", ":", "123456789012", "12", "-", "/", " ", "a", "é", ".", "'", "%3A", "\n"])


@given(st.lists(words, max_size=30).map("".join))
def test_no_account_is_left_and_what_is_clean_stays(text: str) -> None:
    told = without_accounts(text)

    assert re.search(r"(?<![0-9])[0-9]{12}(?![0-9])", told) is None
    assert re.search(r"arn(:|%3A)aws:", told) is None
    assert without_accounts(told) == told
