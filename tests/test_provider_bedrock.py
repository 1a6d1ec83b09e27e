"""InvokeModel and CountTokens: what is sent for a call, and how an answer is read."""

from __future__ import annotations

import base64
import json
import sys
import unittest
from dataclasses import replace
from typing import Any
from unittest.mock import patch
from urllib.parse import unquote, urlsplit

from hypothesis import example, given
from hypothesis import strategies as st

from ccrelay.core.model import (
    ApiKey,
    AttemptPlan,
    CallKind,
    Credential,
    Edit,
    Head,
    HeaderCredential,
    Headers,
    UpstreamRequest,
)
from ccrelay.core.outcomes import Outcome, UpstreamError
from ccrelay.core.pairs import pair_data, pairs_for
from ccrelay.core.secret import Secret
from ccrelay.errors import ClientError, ConfigError
from ccrelay.providers import AnthropicFormat, build
from tests.event_frames import event
from tests.provider_settings import AWS, provider_settings
from tests.test_edits import spliced
from tests.test_providers import body_of, call_with

HAIKU = "us.anthropic.claude-haiku-4-5-20251001-v1:0"
OWN_PROFILE = "arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/ab12"
KNOWN_BETAS = sorted({beta for pair in pair_data()["pairs"] for beta in pair["betas"]})


def bedrock(region: str = "us-east-1", **changes: Any) -> AnthropicFormat:
    return build(provider_settings("bedrock", aws=replace(AWS, region=region), **changes))


def prepared(
    body: bytes,
    *,
    provider: AnthropicFormat | None = None,
    model: str = HAIKU,
    headers: Headers = (),
    kind: CallKind = CallKind.MESSAGES,
    credential: Credential = None,
    query: bytes = b"",
    **plan: Any,
) -> UpstreamRequest:
    whole = body_of(body)
    value = whole.members.find("model")
    assert value is not None, whole.error
    call = replace(call_with(headers, query, kind), body=whole)
    return (provider or bedrock()).prepare(call, AttemptPlan(model, value, credential, 1_800_000_000.0, **plan))


def sent(body: bytes, **changes: Any) -> bytes:
    """The body that goes upstream."""
    return spliced(body, list(prepared(body, **changes).edits))


def counted(body: bytes, **changes: Any) -> Any:
    """What CountTokens is asked to count."""
    wrapped = json.loads(sent(body, kind=CallKind.COUNT_TOKENS, **changes))
    return json.loads(base64.b64decode(wrapped["input"]["invokeModel"]["body"], validate=True))


class AddressTests(unittest.TestCase):
    def test_the_endpoint_is_the_regions_unless_one_is_configured(self) -> None:
        for region, host in (
            ("eu-central-1", "https://bedrock-runtime.eu-central-1.amazonaws.com"),
            ("us-gov-west-1", "https://bedrock-runtime.us-gov-west-1.amazonaws.com"),
            ("cn-north-1", "https://bedrock-runtime.cn-north-1.amazonaws.com.cn"),
        ):
            self.assertEqual(bedrock(region).base_url(), host)
        self.assertEqual(bedrock(base_url="https://vpce.example/x").base_url(), "https://vpce.example/x")

    def test_the_operation_follows_the_last_stream_member(self) -> None:
        for members, operation in (
            (b"", "invoke"),
            (b',"stream":false', "invoke"),
            (b',"stream":null', "invoke"),
            (b',"stream":true', "invoke-with-response-stream"),
            (b',"stream":true,"stream":false', "invoke"),
            (b',"stream":[{"stream":true}]', "invoke"),
            (b',"metadata":{"stream":true}', "invoke"),
        ):
            request = prepared(b'{"model":"m"' + members + b"}")
            self.assertTrue(request.url.decode().endswith(f"/{operation}"), members)
            accept = b"application/vnd.amazon.eventstream" if "stream" in operation else b"application/json"
            self.assertIn((b"accept", accept), request.headers)

    @given(st.text(min_size=1, max_size=12).filter(str.isprintable))
    @example("us.anthropic.claude-haiku-4-5-20251001-v1:0")
    @example(OWN_PROFILE)
    @example("a/../../b?c#d%2F..")
    @example("m\u00e9ga \u6a21")
    def test_any_name_is_one_segment_that_reads_back_as_the_name(self, model: str) -> None:
        from botocore.utils import percent_encode

        if model in (".", "..") or ";" in model:
            return
        path = urlsplit(prepared(b'{"model":"m"}', model=model, query=b"beta=true").url.decode()).path
        _, first, segment, operation = path.split("/")
        self.assertEqual((first, unquote(segment), operation), ("model", model, "invoke"))
        self.assertEqual(segment, percent_encode(model))

    def test_no_query_is_sent(self) -> None:
        self.assertNotIn(b"?", prepared(b'{"model":"m"}', query=b"beta=true").url)

    def test_names_that_would_change_the_path_are_refused_with_what_to_set(self) -> None:
        for model in ("", ".", "..", "a;b=c", "a\nb", "a\x00", "a\x7f", "\ud800", "a\u2028b"):
            for kind in CallKind:
                with self.assertRaises(ClientError) as caught:
                    prepared(b'{"model":"m"}', model=model, kind=kind)
                self.assertEqual(caught.exception.status, 400)
                self.assertIn("model_mapping of provider north", caught.exception.message)
                self.assertTrue(caught.exception.message.isprintable())


class BodyTests(unittest.TestCase):
    OTHERS = st.lists(
        st.tuples(
            st.sampled_from(["stream", "tags", "anthropic_version", "messages", "max_tokens", "x", "\u00e9"]),
            st.sampled_from(["true", '"bedrock-2023-05-31"', '"2026-10-21"', '[{"model": 1}]', "1.0e2", '"\\u00e9"']),
        ),
        max_size=8,
    )

    @given(OTHERS, st.sampled_from([0, 1, 9]), st.sampled_from(["", " ", "\n  "]))
    def test_only_what_bedrock_refuses_or_wants_differs(
        self, others: list[tuple[str, str]], at: int, white: str
    ) -> None:
        members = [*others[:at], ("model", '"m"'), *others[at:]]
        texts = [f"{json.dumps(name)}{white}:{white}{value}" for name, value in members]
        body = f"{{{white}{(white + ',' + white).join(texts)}{white}}}".encode()
        result = sent(body)
        read = json.loads(result, object_pairs_hook=list, parse_float=str)
        gone = {"model", "stream", "tags", "anthropic_version"}
        kept = [(name, value) for name, value in members if name not in gone]
        version = ("anthropic_version", "bedrock-2023-05-31")
        expected = [(name, json.loads(value, object_pairs_hook=list, parse_float=str)) for name, value in kept]
        self.assertEqual([tuple(pair) for pair in read], [*expected, version])
        for name, value in kept:
            self.assertIn(f"{json.dumps(name)}{white}:{white}{value}".encode(), result)

    def test_betas_of_header_and_body_are_one_list_in_order_without_repeats(self) -> None:
        headers = (
            (b"anthropic-beta", b"effort-2025-11-24, interleaved-thinking-2025-05-14"),
            (b"anthropic-beta", b"compact-2026-01-12"),
        )
        body = (
            b'{"model":"m","anthropic_beta":["thinking-token-count-2026-05-13","effort-2025-11-24"],'
            b'"anthropic_beta":["tool-search-tool-2025-10-19"]}'
        )
        self.assertEqual(
            json.loads(sent(body, headers=headers, model="us.anthropic.claude-opus-5-5"))["anthropic_beta"],
            [
                "effort-2025-11-24",
                "interleaved-thinking-2025-05-14",
                "compact-2026-01-12",
                "thinking-token-count-2026-05-13",
                "tool-search-tool-2025-10-19",
            ],
        )

    @given(st.lists(st.sampled_from([*KNOWN_BETAS, "new-thing-2027-01-01"]), max_size=8), st.booleans())
    def test_no_beta_goes_that_the_table_does_not_take(self, betas: list[str], in_body: bool) -> None:
        body = (
            b'{"model":"m","context_management":{},"anthropic_beta":%b}' % json.dumps(betas if in_body else []).encode()
        )
        headers = () if in_body else ((b"anthropic-beta", ",".join(betas).encode()),)
        request = prepared(body, headers=headers)
        self.assertNotIn(b"anthropic-beta", dict(request.headers))
        document = json.loads(spliced(body, list(request.edits)))
        going = document.get("anthropic_beta", ["absent"])
        taken = pairs_for("bedrock", HAIKU, {})
        allowed = {beta for pair in taken.pairs if pair.taken for beta in (*pair.betas, pair.spelling)}
        self.assertLessEqual(set(going), allowed | {"absent"})
        self.assertTrue(going)
        enabled = "compact-2026-01-12" in going
        self.assertEqual("context_management" in document, enabled)

    def test_a_body_whose_betas_are_no_list_of_strings_is_the_callers_fault(self) -> None:
        for value in (b'"compact-2026-01-12"', b"[1]", b"{}", b"null", b"[1,,2]", b"[" * 5000 + b"]" * 5000):
            with self.assertRaises(ClientError) as caught:
                prepared(b'{"model":"m","anthropic_beta":%b}' % value)
            self.assertEqual(caught.exception.status, 400)
            self.assertIn("anthropic_beta", caught.exception.message)

    def test_fields_inside_the_body_go_with_their_betas(self) -> None:
        body = (
            b'{"model":"m","tools":[{"name":"a","defer_loading":true},{"defer_loading":false,"name":"b"}],'
            b'"messages":[{"role":"user","output_config":{"effort":"low"},"content":"hi"}]}'
        )
        dropped = json.loads(sent(body, drop=frozenset({"advanced-tool-use"})))
        self.assertEqual(dropped["tools"], [{"name": "a"}, {"name": "b"}])
        self.assertEqual(dropped["messages"], [{"role": "user", "content": "hi"}])
        self.assertEqual(
            json.loads(sent(body, headers=((b"anthropic-beta", b"advanced-tool-use-2025-11-20"),)))["tools"],
            json.loads(body)["tools"],
        )

    def test_the_plans_edits_apply_and_vanish_inside_what_is_removed(self) -> None:
        body = b'{"model":"m","messages":[1,2,3],"thinking":{"type":"adaptive"},"tags":[1,2]}'
        plan_edits = (Edit(body.index(b"1,"), body.index(b"1,") + 2, b""), Edit(len(body) - 6, len(body) - 4, b""))
        result = json.loads(sent(body, edits=plan_edits, remove=frozenset({"thinking"})))
        self.assertEqual(result, {"messages": [2, 3], "anthropic_version": "bedrock-2023-05-31"})

    def test_the_operator_may_send_a_beta_that_the_table_leaves_out(self) -> None:
        provider = bedrock(beta_overrides={"brand-new-2027-01-01": True})
        headers = ((b"anthropic-beta", b"brand-new-2027-01-01"),)
        going = json.loads(sent(b'{"model":"m"}', headers=headers, provider=provider))["anthropic_beta"]
        self.assertEqual(going, ["brand-new-2027-01-01"])

    def test_a_users_profile_moves_into_the_body_unless_it_names_one(self) -> None:
        headers = ((b"anthropic-user-profile-id", b'up_"1'),)
        self.assertEqual(json.loads(sent(b'{"model":"m"}', headers=headers))["user_profile_id"], 'up_"1')
        body = b'{"model":"m","user_profile_id":"mine"}'
        self.assertEqual(json.loads(sent(body, headers=headers))["user_profile_id"], "mine")
        self.assertNotIn("user_profile_id", json.loads(sent(b'{"model":"m"}')))


class CountTests(unittest.TestCase):
    def test_the_foundation_model_is_asked_whatever_the_profile(self) -> None:
        foundation = "anthropic.claude-haiku-4-5-20251001-v1:0"
        for model in (
            foundation,
            *(f"{prefix}.{foundation}" for prefix in ("us", "eu", "apac", "jp", "au", "global", "us-gov")),
            f"arn:aws:bedrock:us-east-1:123456789012:inference-profile/us.{foundation}",
            f"arn:aws-us-gov:bedrock:us-gov-west-1::foundation-model/{foundation}",
        ):
            request = prepared(b'{"model":"m"}', model=model, kind=CallKind.COUNT_TOKENS)
            path = unquote(urlsplit(request.url.decode()).path)
            self.assertEqual(path, f"/model/{foundation}/count-tokens")

    def test_what_has_no_foundation_model_is_for_others_to_count(self) -> None:
        counting = call_with(kind=CallKind.COUNT_TOKENS)
        for provider, call, model, refused in (
            (bedrock(), counting, OWN_PROFILE, True),
            (bedrock(), call_with(), OWN_PROFILE, False),
            (bedrock(), counting, "us.anthropic.claude-opus-5-5", False),
            (build(provider_settings("bedrock", aws=replace(AWS, api="mantle"))), counting, OWN_PROFILE, False),
        ):
            reason = provider.refusal(call, model)
            self.assertEqual(reason is not None, refused, model)
            self.assertNotIn("123456789012", str(reason))

    def test_the_counted_body_is_one_that_could_be_invoked(self) -> None:
        version = {"anthropic_version": "bedrock-2023-05-31"}
        for body, expected in (
            (b'{"model":"m"}', {"max_tokens": 1}),
            (b'{"model":"m","max_tokens":5,"thinking":{"budget_tokens":4000}}', {"max_tokens": 5}),
            (b'{"model":"m","thinking":{"type":"enabled","budget_tokens":4000}}', {"max_tokens": 4001}),
            (b'{"model":"m","thinking":{"type":"adaptive"}}', {"max_tokens": 1}),
            (b'{"model":"m","thinking":{"budget_tokens":"many"}}', {"max_tokens": 1}),
            (b'{"model":"m","tools":[ \n ]}', {"max_tokens": 1}),
            (b'{"model":"m","tools":[{"name":"a"}]}', {"max_tokens": 1, "tools": [{"name": "a"}]}),
        ):
            with self.subTest(body=body):
                result = counted(body)
                result.pop("thinking", None)
                self.assertEqual(result, expected | version)

    def test_a_long_body_is_wrapped_whole(self) -> None:
        text = "\u00e9\u6a21x" * 700_001
        body = json.dumps({"model": "m", "system": text, "max_tokens": 1}, ensure_ascii=False).encode()
        self.assertEqual(counted(body)["system"], text)

    def test_a_count_is_told_as_anthropic_tells_it(self) -> None:
        rewrite = bedrock().rewrite(call_with(kind=CallKind.COUNT_TOKENS))
        assert rewrite is not None
        self.assertEqual(json.loads(rewrite(b'{"inputTokens": 2095}')), {"input_tokens": 2095})
        for garbage in (b"", b"[]", b"{}", b'{"inputTokens":"1"}', b'{"inputTokens":true}', b"[" * 99_999):
            with self.assertRaises(UpstreamError) as caught:
                rewrite(garbage)
            self.assertEqual((caught.exception.outcome, caught.exception.answered), (Outcome.PROVIDER_ILL, True))
        self.assertIsNone(bedrock().rewrite(call_with()))


class HeaderTests(unittest.TestCase):
    def test_nothing_of_the_client_goes_but_bedrocks_own_options(self) -> None:
        headers = (
            (b"anthropic-version", b"2023-06-01"),
            (b"anthropic-beta", b"effort-2025-11-24"),
            (b"user-agent", b"claude-cli/2.1.330"),
            (b"x-api-key", b"door"),
            (b"x-claude-code-session-id", b"s"),
            (b"x-amzn-bedrock-trace", b"ENABLED"),
            (b"x-amzn-bedrock-trace", b"DISABLED"),
            (b"x-amzn-bedrock-service-tier", b"fl\xe9x"),
            (b"x-amzn-trace-id", b"Root=1"),
            (b"x-amz-security-token", b"clients"),
        )
        self.assertEqual(
            prepared(b'{"model":"m"}', headers=headers).headers,
            (
                (b"content-type", b"application/json"),
                (b"accept", b"application/json"),
                (b"x-amzn-bedrock-trace", b"ENABLED"),
                (b"accept-encoding", b"identity"),
            ),
        )

    def test_api_keys_and_tokens_are_bearers_whatever_the_settings_say(self) -> None:
        bearer = (b"authorization", b"Bearer k1")
        for header in ("x-api-key", "bearer"):
            provider = bedrock(keys=("k1",), auth_header=header)
            lines = prepared(b'{"model":"m"}', provider=provider, credential=ApiKey(Secret("k1"))).headers
            self.assertEqual(lines[-1], bearer)
        token = HeaderCredential(((b"authorization", Secret("Bearer k1")),))
        self.assertEqual(prepared(b'{"model":"m"}', credential=token).headers[-1], bearer)

    def test_without_botocore_only_api_keys_can_be_used(self) -> None:
        with patch.dict(sys.modules, {"botocore.auth": None}):
            bedrock(keys=("k",))
            build(provider_settings("bedrock", aws=replace(AWS, bearer_token=Secret("b"))))
            for aws in (AWS, replace(AWS, access_key_id=Secret("a"), secret_access_key=Secret("s"))):
                with self.assertRaises(ConfigError) as caught:
                    build(provider_settings("bedrock", aws=aws))
                self.assertIn("python3-botocore", str(caught.exception))


class AnswerTests(unittest.TestCase):
    def test_event_streams_become_sse_and_json_stays(self) -> None:
        declared = ((b"content-type", b"application/vnd.amazon.eventstream"),)
        decoder: Any = bedrock().decoder(Head(200, declared))
        payload = json.dumps({"bytes": base64.b64encode(b'{"type":"ping"}').decode()}).encode()
        self.assertEqual(decoder.receive_data(event("chunk", payload)), b'event: ping\ndata: {"type":"ping"}\n\n')
        self.assertIsNone(bedrock().decoder(Head(200, ((b"content-type", b"application/json"),))))
        with self.assertRaises(UpstreamError):
            bedrock().decoder(Head(200, ((b"content-type", b"text/html"),)))

    def test_the_head_says_what_the_client_gets_and_nothing_of_aws(self) -> None:
        head = Head(
            200,
            (
                (b"content-type", b"application/vnd.amazon.eventstream"),
                (b"x-amzn-requestid", b"5f1d"),
                (b"x-amzn-bedrock-content-type", b"application/json"),
                (b"x-amz-cf-id", b"edge"),
                (b"x-new", b"1"),
            ),
        )
        self.assertEqual(
            bedrock().answer_head(head),
            Head(
                200,
                (
                    (b"content-type", b"text/event-stream; charset=utf-8"),
                    (b"request-id", b"5f1d"),
                    (b"x-new", b"1"),
                ),
            ),
        )
