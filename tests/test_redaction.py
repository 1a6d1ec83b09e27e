"""What is written down of a text holds no credential, however it is spelt and wherever it is cut."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccrelay.core.redaction import REDACTED, reach, redacted, redacted_header, secrets_in
from ccrelay.core.secret import Secret

from .config_loading import settings_of

VALUE = "c4nary&/<\"\\'+=secret"
"""With every character that some writer of JSON escapes."""

PROSE = st.text(st.sampled_from("ab \n\"\\'{}[]:,=<>&/\u00e4\u2603"), max_size=60)


def shown(text: bytes, *secrets: Secret, keep: int | None = None) -> bytes:
    return redacted(text, secrets, len(text) if keep is None else keep)


@given(st.binary(max_size=300), st.integers(0, 300))
def test_any_bytes_give_some_text(text: bytes, keep: int) -> None:
    result = shown(text, Secret("x" * 20), keep=keep)
    assert result == text[:keep] or REDACTED in result


@pytest.mark.parametrize(
    "text",
    [
        b'{"model":"claude-x","max_tokens":1024,"stream":true,"messages":[{"role":"user","content":"Say hello."}]}',
        b'{"budget_tokens": 2000, "keywords": {"type": "string"}, "properties": {"api_key": {"type": "string"}}}',
        b'{"usage":{"input_tokens":1,"cache_read_input_tokens":-2.5e3},"token":null,"secret":false}',
        b'the task-management-of-a-disk-arrangement; a monkey; \\n "quoted" and back\\\\slashes',
        b"",
    ],
)
def test_a_text_without_credentials_stays_as_it_is(text: bytes) -> None:
    assert shown(text, Secret(VALUE)) == text


@given(PROSE, PROSE, st.sampled_from(["plain", "json", "unicode", "slashes", "go"]), st.data())
def test_a_known_secret_is_found_by_value_in_every_spelling_and_at_every_cut(
    before: str, after: str, spelling: str, data: st.DataObject
) -> None:
    def spelt(text: str) -> str:
        inner = json.dumps(text)[1:-1]
        return {
            "plain": text,
            "json": inner,
            "unicode": "".join(f"\\u{ord(each):04x}" for each in text),
            "slashes": inner.replace("/", "\\/"),
            "go": "".join(f"\\u{ord(each):04X}" if each in "<>&" else each for each in inner),
        }[spelling]

    text = (json.dumps(before)[1:-1] + spelt(VALUE) + json.dumps(after)[1:-1]).encode()
    keep = data.draw(st.integers(0, len(text)))
    result = shown(text, Secret(VALUE), keep=keep)
    secret = spelt(VALUE).encode()
    assert not [at for at in range(len(secret) - 11) if secret[at : at + 12] in result]
    if keep > len(text) - len(json.dumps(after)) + 3:
        assert REDACTED in result


@pytest.mark.parametrize(
    "credential",
    [
        "sk-ant-api03-c4nary_5ecret-AA",
        "sk-proj-c4nary5ecret",
        "AKIAC4NARY5ECRET9999",
        "ASIAC4NARY5ECRET9999",
        "ABSKc4nary5ecret+/=",
        "ghp_c4nary5ecret99",
        "github_pat_c4nary5ecret99",
        "xoxb-c4nary-5ecret",
        "AIzaSyc4nary5ecret-99999999",
        "ya29.c4nary-5ecret",
        "eyJhbGciOiJ.c4nary5ecret.c4nary5ecret",
        "Bearer c4nary5ecret",
        "Authorization: Basic c4nary5ecret",
        "Cookie: a=c4nary; b=5ecret",
        "https://user:c4nary5ecret@host/",
        "--password c4nary5ecret",
        "AWS_SECRET_ACCESS_KEY=c4nary5ecret/+",
        "db_password: 'c4nary 5ecret'",
        "PASSWORD=c4nary,5ecret\\x5ecret",
        "pin_secret = 990099",
        '"tokens": ["c4nary", "5ecret"]',
        "-----BEGIN RSA PRIVATE KEY-----\nc4nary\n5ecret\n-----END RSA PRIVATE KEY-----",
        "-----BEGIN PRIVATE KEY-----\nc4nary\n5ecret",
    ],
)
@pytest.mark.parametrize("depth", [0, 1, 2])
def test_what_looks_like_a_credential_is_hidden_also_in_a_text_within_json_within_json(
    credential: str, depth: int
) -> None:
    text = f"before\n{credential}"
    for _ in range(depth):
        text = json.dumps({"text": text, "rest": "after"})
    result = shown(text.encode())
    assert b"before" in result and REDACTED in result
    assert b"anary" not in result and b"5ecret" not in result and b"9900" not in result
    assert b"NARY" not in result


@given(
    st.sampled_from(["api_key", "token", "access-token", "clientSecret", "password", "Authorization", "x-api-key"]),
    PROSE,
    PROSE,
    st.integers(1, 3),
)
def test_a_member_that_is_named_like_a_credential_is_hidden_to_its_end(
    name: str, before: str, after: str, depth: int
) -> None:
    text = json.dumps({"a": 1, name: f"{before}c4nary{after}5ecret", "b": 2})
    for _ in range(depth - 1):
        text = json.dumps({"content": text})
    result = shown(text.encode())
    assert b"c4nary" not in result and b"5ecret" not in result
    assert name.encode() in result


def test_what_stands_behind_a_hidden_member_is_seen_again() -> None:
    text = b'{"api_key":"c4nary","model":"claude-x","max_tokens":5}'
    assert shown(text) == b'{"api_key":"<redacted>","model":"claude-x","max_tokens":5}'


@pytest.mark.parametrize("cut", [20, 30, 40])
def test_one_that_begins_before_the_cut_is_hidden_and_nothing_behind_it_is_told(cut: int) -> None:
    text = b'{"model":"x","key":"' + b"s" * 100 + b'","other":"behind"}'
    assert shown(text, keep=cut) == text[: min(cut, 20)] + (REDACTED if cut > 20 else b"")


def test_the_longest_secret_can_be_seen_whole_behind_the_cut() -> None:
    secret = Secret("\x21" * 3000)
    spelt = b"\\u0021" * 3000
    assert reach([secret]) >= len(spelt)
    assert shown(spelt, secret, keep=1) == REDACTED


# -- headers


@pytest.mark.parametrize(
    "name",
    [b"set-cookie", b"cookie", b"x-api-key", b"authorization", b"x-amz-security-token", b"www-authenticate", b"key"],
)
def test_headers_that_are_credentials_or_cookies_have_no_value(name: bytes) -> None:
    assert redacted_header(name, b"c4nary", []) == REDACTED


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (b"anthropic-ratelimit-tokens-reset", b"2026-11-22T09:30:00Z"),
        (b"anthropic-ratelimit-tokens-remaining", b"79000"),
        (b"x-request-id", b"req_011CS"),
        (b"retry-after", b"7"),
    ],
)
def test_headers_that_tell_of_limits_are_shown(name: bytes, value: bytes) -> None:
    assert redacted_header(name, value, [Secret(VALUE)]) == value


def test_an_echoed_secret_is_hidden_in_any_header_with_its_scheme_or_without() -> None:
    secrets = [Secret("Bearer c4nary/1"), Secret("c4nary-2")]
    assert redacted_header(b"x-echo", b"got c4nary/1 and c4nary-2, sk-ant-x", secrets) == (
        b"got <redacted> and <redacted>, <redacted>"
    )


# -- which are known


def test_every_secret_of_a_configuration_is_known() -> None:
    settings = settings_of(
        """
server: {auth: {api_key: s1, allow_bearer: true, bearer_secret: s2}, listen: "127.0.0.1:1"}
providers:
  - {name: a, type: anthropic, keys: [{key: s3}, {key: s4}]}
  - {name: b, type: bedrock, aws_region: us-east-1, aws_access_key_id: s5, aws_secret_access_key: s6,
     aws_session_token: s7}
  - {name: c, type: azure, azure_resource_name: r, azure_tenant_id: t, azure_client_id: c, azure_client_secret: s8}
  - {name: d, type: bedrock, aws_region: us-east-1, aws_bearer_token: s9}
"""
    )
    assert sorted(secret.reveal() for secret in secrets_in(settings)) == [f"s{number}" for number in range(1, 10)]
