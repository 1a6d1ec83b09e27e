"""What every provider in the registry keeps to, and the samples of each in golden/providers."""

from __future__ import annotations

import json
import unittest
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from hypothesis import given
from hypothesis import strategies as st
from zope.interface.verify import verifyObject

from ccrelay.core.headers import HOP_BY_HOP
from ccrelay.core.members import Member
from ccrelay.core.model import (
    ApiKey,
    AttemptPlan,
    Call,
    CallKind,
    Credential,
    Head,
    Headers,
    OwnCredential,
    Principal,
    UpstreamRequest,
)
from ccrelay.core.outcomes import Outcome, UpstreamError
from ccrelay.core.request_body import RequestBody
from ccrelay.core.secret import Secret
from ccrelay.errors import ConfigError
from ccrelay.interfaces import IProvider, IStreamDecoder
from ccrelay.providers import PROVIDERS, AnthropicFormat, build
from tests.provider_settings import AWS, AZURE, GCP, provider_settings

GOLDEN = Path(__file__).parent / "golden" / "providers"
POOLED = "sk-pooled-4b1d"
CLIENTS = b"sk-clients-77aa"
CREDENTIAL_NAMES = ("x-api-key", "authorization", "api-key", "proxy-authorization", "cookie")
QUERIES = st.from_regex(rb"[a-z0-9=&%+-]{0,30}", fullmatch=True)
REGISTERED = st.sampled_from(sorted(PROVIDERS))
CLOUDS = frozenset({"bedrock", "vertex"})  # their URLs, bodies and headers are of their own making
MESSAGES_FORMAT = sorted(PROVIDERS.keys() - CLOUDS)
PASSING_ON = st.sampled_from(MESSAGES_FORMAT)

HEADER_LINES = st.lists(
    st.tuples(st.from_regex(rb"(anthropic-|x-)?[a-z]{1,8}", fullmatch=True), st.binary(max_size=8))
    | st.tuples(st.sampled_from(sorted(HOP_BY_HOP)), st.sampled_from([b"close", b"keep-alive, x-a", b"trailers"]))
    | st.sampled_from([(name.encode(), b"Bearer " + CLIENTS) for name in CREDENTIAL_NAMES]),
    max_size=12,
).map(tuple)


def call_with(headers: Headers = (), query: bytes = b"", kind: CallKind = CallKind.MESSAGES) -> Call:
    principal = Principal("open", "-", b"", own_credential_only=False)
    return Call(
        request_id="req_1",
        kind=kind,
        principal=principal,
        query=query,
        headers=headers,
        own_credential=None,
        session=None,
        body=cast("Any", None),  # whoever looks at it is given one
        peer="127.0.0.1",
    )


def member(value: bytes, start: int = 9) -> Member:
    return Member("model", start, start + len(value), value, start - 8)


def pooled(type_: str, **changes: Any) -> AnthropicFormat:
    return build(provider_settings(type_, keys=(POOLED,), **changes))


def plan_for(model: str, credential: Credential, value: Member | None = None) -> AttemptPlan:
    asked = member(json.dumps(model).encode()) if value is None else value
    return AttemptPlan(model, asked, credential, 1_800_000_000.0)


def body_of(text: bytes) -> RequestBody:
    """A complete body; one that cannot be routed says so in its ``error``."""
    body = RequestBody(None, 0)
    body.receive_data(text)
    body.receive_eof()
    return body


def prepared(
    provider: AnthropicFormat, call: Call, asked: str, credential: Credential, body: bytes | None = None
) -> UpstreamRequest:
    """body: the client's, with ``model`` first; None: nothing but the model."""
    text = json.dumps({"model": asked}, separators=(",", ":")).encode() if body is None else body
    plan = plan_for(provider.model_for(asked), credential, member(json.dumps(asked).encode()))
    return provider.prepare(replace(call, body=body_of(text)), plan)


def edited(body: bytes, request: UpstreamRequest) -> bytes:
    """The body that is sent."""
    for edit in reversed(request.edits):
        body = body[: edit.start] + edit.replacement + body[edit.end :]
    return body


def credential_lines(headers: Headers) -> list[tuple[bytes, bytes]]:
    return [line for line in headers if line[0].decode() in CREDENTIAL_NAMES]


class RegistryTests(unittest.TestCase):
    def test_every_type_provides_the_interface_under_its_configured_name(self) -> None:
        for type_ in PROVIDERS:
            provider = pooled(type_, name="south")
            with self.subTest(type=type_):
                self.assertTrue(verifyObject(IProvider, provider))
                self.assertEqual((provider.name, provider.type), ("south", type_))

    def test_every_type_has_samples(self) -> None:
        self.assertEqual({path.stem for path in GOLDEN.glob("*.json")}, set(PROVIDERS))

    def test_a_type_of_another_version_is_an_error_of_the_configuration(self) -> None:
        with self.assertRaises(ConfigError) as caught:
            build(provider_settings("carrier-pigeon"))
        self.assertIn("carrier-pigeon", str(caught.exception))


class PrepareContract(unittest.TestCase):
    @given(type_=REGISTERED, headers=HEADER_LINES)
    def test_a_pooled_key_is_the_only_credential_and_no_client_secret_leaks(self, type_: str, headers: Headers) -> None:
        provider = pooled(type_)
        request = prepared(provider, call_with(headers), "claude-sonnet-5", ApiKey(Secret(POOLED)))
        lines = credential_lines(request.headers)
        self.assertEqual(len(lines), 1)
        self.assertTrue(lines[0][1].endswith(POOLED.encode()))
        self.assertFalse([value for _, value in request.headers if CLIENTS in value])
        self.assertNotIn(POOLED.encode(), request.url)

    @given(type_=REGISTERED, headers=HEADER_LINES)
    def test_nothing_of_the_clients_hop_goes_on(self, type_: str, headers: Headers) -> None:
        request = prepared(pooled(type_), call_with(headers), "m", None)
        names = [name for name, _ in request.headers]
        self.assertFalse(HOP_BY_HOP & set(names))
        self.assertFalse([name for name in names if name.startswith(b"proxy-")])
        self.assertNotIn(b"content-length", names)
        self.assertEqual(names.count(b"accept-encoding"), 1)
        self.assertEqual(credential_lines(request.headers), [])

    @given(
        type_=REGISTERED,
        headers=HEADER_LINES,
        line=st.sampled_from([(b"authorization", b"Bearer " + CLIENTS), (b"x-api-key", CLIENTS)]),
    )
    def test_a_clients_own_credential_goes_unchanged_and_alone_or_not_at_all(
        self, type_: str, headers: Headers, line: tuple[bytes, bytes]
    ) -> None:
        provider = pooled(type_)
        own = OwnCredential(line[0], Secret(line[1].decode("latin-1")))
        request = prepared(provider, call_with(headers), "m", own)
        expected = [line] if provider.accepts_own_credential else []
        self.assertEqual(credential_lines(request.headers), expected)

    def test_only_anthropic_takes_a_clients_own_credential(self) -> None:
        self.assertEqual([type_ for type_ in PROVIDERS if pooled(type_).accepts_own_credential], ["anthropic"])

    @given(type_=PASSING_ON, asked=st.text(max_size=20))
    def test_a_model_that_is_not_mapped_leaves_the_body_untouched(self, type_: str, asked: str) -> None:
        self.assertEqual(prepared(pooled(type_), call_with(), asked, None).edits, ())

    @given(type_=PASSING_ON, asked=st.text(max_size=20), sent=st.text(max_size=20), rest=st.text(max_size=10))
    def test_a_mapped_model_changes_its_own_bytes_and_no_others(
        self, type_: str, asked: str, sent: str, rest: str
    ) -> None:
        provider = pooled(type_, model_mapping={asked: sent})
        value = json.dumps(asked).encode()
        before, after = b'{"model":', b',"x":' + json.dumps(rest).encode() + b"}"
        body = before + value + after
        plan = plan_for(provider.model_for(asked), None, member(value, len(before)))
        request = provider.prepare(call_with(), plan)
        self.assertEqual(len(request.edits), 0 if asked == sent else 1)
        body = edited(body, request)
        self.assertTrue(body.startswith(before))
        self.assertTrue(body.endswith(after))
        self.assertEqual(json.loads(body)["model"], sent)

    @given(type_=PASSING_ON, query=QUERIES, kind=st.sampled_from(CallKind))
    def test_the_url_is_the_base_the_path_and_the_clients_query(self, type_: str, query: bytes, kind: CallKind) -> None:
        provider = pooled(type_)
        url = prepared(provider, call_with((), query, kind), "m", None).url
        self.assertEqual(url, (provider.base_url() + kind.value).encode() + (b"?" + query if query else b""))

    def test_a_configured_address_is_used_wherever_there_is_a_network(self) -> None:
        for type_ in sorted(PROVIDERS.keys() - {"simulator"}):
            provider = pooled(type_, base_url="http://127.0.0.1:9/prefix")
            url = prepared(provider, call_with(), "m", None).url
            self.assertTrue(url.startswith(b"http://127.0.0.1:9/prefix/"))
            if type_ in MESSAGES_FORMAT:
                self.assertEqual(url, b"http://127.0.0.1:9/prefix/v1/messages")

    def test_the_configured_header_carries_the_key(self) -> None:
        for type_ in MESSAGES_FORMAT:
            for header, line in (
                ("x-api-key", (b"x-api-key", POOLED.encode())),
                ("bearer", (b"authorization", b"Bearer " + POOLED.encode())),
            ):
                request = prepared(pooled(type_, auth_header=header), call_with(), "m", ApiKey(Secret(POOLED)))
                self.assertEqual(credential_lines(request.headers), [line])

    def test_tokens_are_counted_only_where_a_true_count_is_known_to_be_had(self) -> None:
        counting = call_with(kind=CallKind.COUNT_TOKENS)
        able = {type_ for type_ in PROVIDERS if pooled(type_).refusal(counting, "m") is None}
        self.assertEqual(able, {"anthropic", "azure", "bedrock", "simulator", "vertex"})
        self.assertTrue(all(pooled(type_).refusal(call_with(), "m") is None for type_ in PROVIDERS))


class DecoderContract(unittest.TestCase):
    def test_event_streams_are_passed_in_whole_events(self) -> None:
        for type_ in PROVIDERS:
            for declared in (b"text/event-stream", b"Text/Event-Stream ; charset=utf-8"):
                decoder = pooled(type_).decoder(Head(200, ((b"content-type", declared),)))
                self.assertTrue(IStreamDecoder.providedBy(decoder))
                self.assertEqual(decoder.receive_data(b"event: a\ndata: {}\n\nevent: b"), b"event: a\ndata: {}\n\n")

    def test_json_passes_as_it_is(self) -> None:
        for type_ in PROVIDERS:
            for declared in (b"application/json", b"application/json;charset=UTF-8", b"application/problem+json"):
                self.assertIsNone(pooled(type_).decoder(Head(200, ((b"content-type", declared),))))

    def test_anything_else_is_an_illness_that_the_log_can_name(self) -> None:
        for type_ in PROVIDERS:
            for headers, words in (
                (((b"content-type", b"text/html; charset=utf-8"),), "answered 200 with text/html"),
                (((b"content-type", b"text/\nforged\xff"),), "answered 200 with text/\\nforged\\xff"),
                ((), "answered 200 with no content-type"),
            ):
                with self.assertRaises(UpstreamError) as caught:
                    pooled(type_).decoder(Head(200, headers))
                self.assertEqual((caught.exception.outcome, caught.exception.reason), (Outcome.PROVIDER_ILL, words))


ENVELOPES = st.builds(
    lambda kind, text, more: json.dumps({"type": "error", "error": {"type": kind, "message": text, **more}}).encode(),
    st.text(max_size=10),
    st.text(max_size=30),
    st.dictionaries(st.sampled_from(["code", "details"]), st.none() | st.sampled_from(["1302", "1113"]), max_size=2),
)
SHAPES = st.builds(
    lambda code, text: json.dumps({"error": {"code": code, "message": text}}).encode(),
    st.sampled_from(["1113", "1302", "1308", "DeploymentNotFound", 401]),
    st.text(max_size=40),
)
BODIES = st.binary(max_size=200) | ENVELOPES | SHAPES
ERROR_HEADERS = st.lists(
    st.tuples(
        st.sampled_from([b"content-type", b"retry-after", b"date", b"request-id", b"x-should-retry", b"x-new"]),
        st.sampled_from([b"", b"5", b"true", b"application/json", b"text/html", b"Fri, 11 Sep 2026 16:19:03 GMT"]),
    ),
    max_size=5,
).map(tuple)


def is_envelope(body: bytes) -> bool:
    document = json.loads(body)
    error = document["error"]
    return document["type"] == "error" and isinstance(error["type"], str) and isinstance(error["message"], str)


class FailureContract(unittest.TestCase):
    @given(type_=REGISTERED, status=st.integers(100, 999), headers=ERROR_HEADERS, body=BODIES, own=st.booleans())
    def test_any_answer_becomes_a_client_error_in_the_envelope(
        self, type_: str, status: int, headers: Headers, body: bytes, own: bool
    ) -> None:
        failure = pooled(type_).failure(Head(status, headers), body, own)
        self.assertTrue(400 <= failure.answer.status < 600)
        self.assertTrue(is_envelope(failure.answer.body))
        self.assertIsNot(failure.outcome, Outcome.ANSWERED)
        self.assertTrue(failure.reason.isprintable())

    @given(type_=REGISTERED, status=st.integers(400, 599), body=ENVELOPES)
    def test_anthropics_envelope_keeps_its_bytes(self, type_: str, status: int, body: bytes) -> None:
        answer = pooled(type_).failure(Head(status, ()), body).answer
        self.assertEqual((answer.status, answer.body), (status, body))

    @given(type_=REGISTERED, status=st.integers(300, 599), before=BODIES, after=BODIES)
    def test_a_key_that_an_upstream_repeats_goes_no_further(
        self, type_: str, status: int, before: bytes, after: bytes
    ) -> None:
        secret = POOLED.encode()
        for body in (before + secret + after, json.dumps({"error": {"message": f"bad key {POOLED}!"}}).encode()):
            failure = pooled(type_).failure(Head(status, ((b"www-authenticate", b"key=" + secret),)), body)
            self.assertNotIn(secret, failure.answer.body)
            self.assertFalse([value for _, value in failure.answer.headers if secret in value])
            self.assertNotIn(POOLED, failure.reason)


def samples(part: str) -> list[tuple[str, dict[str, Any], dict[str, Any]]]:
    found = []
    for path in sorted(GOLDEN.glob("*.json")):
        document = json.loads(path.read_text("utf-8"))
        found += [(path.stem, document["settings"], sample) for sample in document[part]]
    return found


def built(type_: str, settings: dict[str, Any]) -> AnthropicFormat:
    changes = {"keys": tuple(settings["keys"]), "model_mapping": settings["model_mapping"]}
    if "azure" in settings:
        changes["azure"] = replace(AZURE, **settings["azure"])
    if "aws" in settings:
        changes["aws"] = replace(AWS, **settings["aws"])
    if "gcp" in settings:
        changes["gcp"] = replace(GCP, **settings["gcp"])
    return build(provider_settings(type_, **changes))


def raw(lines: list[list[str]]) -> Headers:
    return tuple((name.encode("latin-1"), value.encode("latin-1")) for name, value in lines)


class GoldenTests(unittest.TestCase):
    def test_requests_are_what_each_provider_expects(self) -> None:
        given_headers = raw(CLAUDE_CODE)
        for type_, settings, sample in samples("requests"):
            provider = built(type_, settings)
            credential: Credential = None
            if isinstance(sample["credential"], list):
                header, value = sample["credential"]
                credential = OwnCredential(header.encode(), Secret(value))
            elif sample["credential"] is not None:
                text = settings["keys"][0] if sample["credential"] == "pooled" else sample["credential"]
                credential = ApiKey(Secret(text))
            call = call_with(given_headers, sample["query"].encode(), CallKind[sample["kind"].upper()])
            with self.subTest(type=type_, sample=sample["name"]):
                body = sample["body"].encode() if "body" in sample else None
                request = prepared(provider, call, sample["model"], credential, body)
                self.assertEqual(request.method, b"POST")
                self.assertEqual(request.url.decode(), sample["url"])
                self.assertEqual(request.headers, raw(sample["headers"]))
                if body is not None:
                    self.assertEqual(edited(body, request).decode(), sample["body_sent"])
                    continue
                replaced = [json.loads(edit.replacement) for edit in request.edits]
                self.assertEqual(replaced, [] if sample["model_sent"] == "unchanged" else [sample["model_sent"]])

    def test_failures_are_understood_and_told(self) -> None:
        for type_, settings, sample in samples("failures"):
            body = sample["body"].encode()
            failure = built(type_, settings).failure(Head(sample["status"], raw(sample["headers"])), body)
            expected = sample["answer"]
            with self.subTest(type=type_, sample=sample["name"]):
                self.assertEqual(failure.outcome.value, sample["outcome"])
                self.assertEqual(failure.retry_after, sample["retry_after"])
                self.assertEqual(failure.answer.status, expected["status"])
                self.assertEqual(failure.answer.headers, raw(expected["headers"]))
                if expected["body"] == "unchanged":
                    self.assertEqual(failure.answer.body, body)
                else:
                    told = json.loads(failure.answer.body)
                    if failure.unnamed:
                        told["request_id"] = "the call's"
                    self.assertEqual(told, expected["body"])


CLAUDE_CODE = [
    ["accept", "application/json"],
    ["authorization", "Bearer door-secret"],
    ["content-type", "application/json"],
    ["user-agent", "claude-cli/2.1.330 (external, sdk-cli)"],
    ["x-claude-code-session-id", "7b1c9d1e-58f2-4f0e-9c43-6c0d7c6f0d11"],
    ["x-stainless-retry-count", "0"],
    ["anthropic-beta", "claude-code-20250219,interleaved-thinking-2025-05-14"],
    ["anthropic-dangerous-direct-browser-access", "true"],
    ["anthropic-version", "2023-06-01"],
    ["x-api-key", "door-secret"],
    ["x-app", "cli"],
    ["connection", "keep-alive"],
    ["host", "127.0.0.1:8787"],
    ["accept-encoding", "gzip, deflate, br, zstd"],
    ["content-length", "48211"],
]
