"""Vertex AI: addresses, bodies, and what Google's answers mean."""

from __future__ import annotations

import json
import unittest
from dataclasses import replace
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from ccrelay.core.failures import Failure, Remedy
from ccrelay.core.model import AttemptPlan, CallKind, Credential, Head, HeaderCredential, Headers, UpstreamRequest
from ccrelay.core.outcomes import Outcome
from ccrelay.core.pairs import pair_data
from ccrelay.core.secret import Secret
from ccrelay.errors import ClientError
from ccrelay.providers import build
from ccrelay.providers.base import AnthropicFormat
from tests.provider_settings import GCP, provider_settings
from tests.test_providers import body_of, call_with, credential_lines, edited

MODELS = "/publishers/anthropic/models/"
BETAS = sorted({beta for pair in pair_data()["pairs"] for beta in pair["betas"]})
MEMBERS = ["messages", "stream", "tags", "anthropic_version", "context_management", "é", "max_tokens"]
BODIES = st.lists(
    st.tuples(st.sampled_from(MEMBERS), st.sampled_from(["[]", "true", '"text"', '{"a": [1]}', "0"])), max_size=6
)


def vertex(region: str = "us-east5", **changes: Any) -> AnthropicFormat:
    gcp = replace(GCP, region=region, **changes.pop("gcp", {}))
    return build(provider_settings("vertex", gcp=gcp, **changes))


def prepared(
    body: bytes,
    *,
    provider: AnthropicFormat | None = None,
    model: str = "claude-opus-5-5",
    headers: Headers = (),
    kind: CallKind = CallKind.MESSAGES,
    credential: Credential = None,
    **plan: Any,
) -> UpstreamRequest:
    whole = body_of(body)
    value = whole.members.find("model")
    assert value is not None, whole.error
    call = replace(call_with(headers, b"beta=true", kind), body=whole)
    return (provider or vertex()).prepare(call, AttemptPlan(model, value, credential, 1_800_000_000.0, **plan))


def sent(body: bytes, **changes: Any) -> Any:
    """The body that goes upstream, read."""
    return json.loads(edited(body, prepared(body, **changes)))


def betas_of(request: UpstreamRequest) -> list[str]:
    return [beta for name, value in request.headers if name == b"anthropic-beta" for beta in value.decode().split(",")]


def failed(status: int, body: bytes, headers: Headers = ()) -> Failure:
    return vertex().failure(Head(status, headers), body)


def google(code: int, status: str, message: str) -> bytes:
    return json.dumps({"error": {"code": code, "message": message, "status": status}}).encode()


class AddressTests(unittest.TestCase):
    def test_each_location_has_its_host(self) -> None:
        for region, host in (
            ("global", "aiplatform.googleapis.com"),
            ("us", "aiplatform.us.rep.googleapis.com"),
            ("eu", "aiplatform.eu.rep.googleapis.com"),
            ("europe-west4", "europe-west4-aiplatform.googleapis.com"),
        ):
            url = prepared(b'{"model":"m"}', provider=vertex(region)).url.decode()
            path = f"/v1/projects/my-project/locations/{region}{MODELS}claude-opus-5-5:rawPredict"
            self.assertEqual(url, f"https://{host}{path}")

    def test_a_configured_address_may_have_the_version_or_not(self) -> None:
        for address in ("http://127.0.0.1:9/p", "http://127.0.0.1:9/p/v1"):
            url = prepared(b'{"model":"m"}', provider=vertex(base_url=address)).url.decode()
            self.assertTrue(url.startswith("http://127.0.0.1:9/p/v1/projects/my-project/locations/us-east5/"))

    def test_the_last_stream_member_decides_how_the_model_is_asked(self) -> None:
        for text, verb in (
            ('"stream":true', "streamRawPredict"),
            ('"stream":false', "rawPredict"),
            ('"stream":"true"', "rawPredict"),
            ('"stream":true,"stream":false', "rawPredict"),
            ('"x":{"stream":true}', "rawPredict"),
        ):
            url = prepared(b'{"model":"m",%s}' % text.encode()).url.decode()
            self.assertTrue(url.endswith(f"claude-opus-5-5:{verb}"), text)

    def test_tokens_are_counted_where_the_configuration_says(self) -> None:
        provider = vertex("global", gcp={"count_tokens_region": "us-east5"})
        url = prepared(b'{"model":"m"}', provider=provider, kind=CallKind.COUNT_TOKENS).url.decode()
        self.assertTrue(
            url.startswith("https://us-east5-aiplatform.googleapis.com/v1/projects/my-project/locations/us")
        )
        url = prepared(b'{"model":"m"}', provider=vertex("global"), kind=CallKind.COUNT_TOKENS).url.decode()
        self.assertTrue(url.endswith(f"/locations/global{MODELS}count-tokens:rawPredict"))

    def test_the_at_of_a_date_stays_as_it_is(self) -> None:
        url = prepared(b'{"model":"m"}', model="claude-sonnet-4-5@20250929").url
        self.assertIn(b"/models/claude-sonnet-4-5@20250929:rawPredict", url)

    def test_names_that_could_lead_elsewhere_are_refused_with_the_remedy(self) -> None:
        for model in ("", ".", "..", "m;v=1", "a/b", "a\\b", "a\nb", "a\x00", "\ud800"):
            with self.assertRaises(ClientError) as caught:
                prepared(b'{"model":"m"}', model=model)
            self.assertEqual(caught.exception.status, 400)
            self.assertIn("model_mapping", caught.exception.message)
            self.assertTrue(caught.exception.message.isprintable())

    @given(st.text(min_size=1, max_size=20))
    @example("m:rawPredict?x=1#y")
    def test_any_other_name_stays_one_segment_of_the_path(self, model: str) -> None:
        try:
            url = prepared(b'{"model":"m"}', model=model).url
        except ClientError:
            return
        segment = url.rpartition(b"/")[2]
        self.assertEqual(segment.count(b":"), 1)
        self.assertRegex(segment, rb"\A[A-Za-z0-9%@._~-]+:rawPredict\Z")
        self.assertTrue(url[: -len(segment)].endswith(MODELS.encode()))

    def test_the_clients_query_stays_behind(self) -> None:
        self.assertNotIn(b"?", prepared(b'{"model":"m"}').url)


class NameTests(unittest.TestCase):
    def test_names_of_the_first_party_become_googles_and_it_is_told_why(self) -> None:
        provider = vertex(model_mapping={"fast": "claude-haiku-5-5"})
        for asked, model, by in (
            ("claude-sonnet-4-5", "claude-sonnet-4-5@20250929", "catalogue"),
            ("claude-sonnet-4-5-20250929", "claude-sonnet-4-5@20250929", "catalogue"),
            ("claude-opus-5-5", "claude-opus-5-5", None),
            ("fast", "claude-haiku-5-5", "model_mapping"),
            ("something-new", "something-new", None),
        ):
            found = provider.mapping_of(asked)
            self.assertEqual((found.model, found.by), (model, by))
            self.assertEqual(provider.model_for(asked), model)


class BodyTests(unittest.TestCase):
    @given(BODIES, BODIES)
    def test_a_body_loses_what_google_does_not_take_and_gains_a_version(
        self, before: list[tuple[str, str]], after: list[tuple[str, str]]
    ) -> None:
        members = [*before, ("model", '"m"'), *after]
        body = ("{" + ", ".join(f"{json.dumps(name)}: {value}" for name, value in members) + "}").encode()
        expected = {
            name: value
            for name, value in json.loads(body).items()
            if name not in ("model", "tags", "context_management")
        }
        self.assertEqual(sent(body), {"anthropic_version": "vertex-2023-10-16", **expected})

    def test_the_model_stays_where_tokens_are_counted_by_its_name_at_google(self) -> None:
        body = b'{"model":"claude-sonnet-4-5","messages":[],"tags":{}}'
        counted = sent(body, model="claude-sonnet-4-5@20250929", kind=CallKind.COUNT_TOKENS)
        self.assertEqual(
            counted,
            {"model": "claude-sonnet-4-5@20250929", "messages": [], "anthropic_version": "vertex-2023-10-16"},
        )

    @given(st.lists(st.sampled_from(BETAS), min_size=1))
    def test_counting_takes_no_betas_and_nothing_that_they_enable(self, betas: list[str]) -> None:
        body = b'{"model":"m","context_management":{},"tools":[{"name":"t","defer_loading":true}],"output_config":{}}'
        headers = ((b"anthropic-beta", ",".join(betas).encode()),)
        request = prepared(body, headers=headers, kind=CallKind.COUNT_TOKENS)
        self.assertEqual(betas_of(request), [])
        self.assertEqual(json.loads(edited(body, request))["tools"], [{"name": "t"}])
        self.assertNotIn("context_management", json.loads(edited(body, request)))

    def test_betas_go_in_the_header_in_googles_spelling(self) -> None:
        headers = (
            (b"anthropic-beta", b"claude-code-20250219,new-feature-2027-01-01"),
            (b"anthropic-beta", b"context-management-2025-06-27, advanced-tool-use-2025-11-20"),
            (b"anthropic-version", b"2023-06-01"),
        )
        request = prepared(b'{"model":"m"}', headers=headers)
        self.assertEqual(betas_of(request), ["claude-code-20250219", "tool-search-tool-2025-10-19"])
        self.assertIn((b"anthropic-version", b"2023-06-01"), request.headers)

    def test_the_operators_overrides_hold(self) -> None:
        provider = vertex(beta_overrides={"context-management": True, "effort": False})
        headers = ((b"anthropic-beta", b"context-management-2025-06-27,effort-2025-11-24"),)
        body = b'{"model":"m","context_management":{},"output_config":{"effort":"low"}}'
        request = prepared(body, provider=provider, headers=headers)
        self.assertEqual(betas_of(request), ["context-management-2025-06-27"])
        self.assertEqual(json.loads(edited(body, request))["output_config"], {})

    def test_what_was_learned_and_what_the_plan_removes_is_left_out(self) -> None:
        body = b'{"model":"m","thinking":{"type":"adaptive"},"brand_new":1,"output_config":{"effort":"low"}}'
        drop = frozenset({"effort", "brand_new"})
        request = prepared(
            body,
            headers=((b"anthropic-beta", b"effort-2025-11-24"),),
            drop=drop,
            remove=frozenset({"thinking"}),
        )
        self.assertEqual(betas_of(request), [])
        expected = {"output_config": {}, "anthropic_version": "vertex-2023-10-16"}
        self.assertEqual(json.loads(edited(body, request)), expected)


class CredentialTests(unittest.TestCase):
    def test_which_project_pays_is_never_the_clients_to_say(self) -> None:
        google_wrote = HeaderCredential(
            ((b"authorization", Secret("Bearer ya29.token")), (b"x-goog-user-project", Secret("paying")))
        )
        headers = ((b"x-goog-user-project", b"other"), (b"x-goog-api-key", b"k"), (b"x-app", b"cli"))
        lines = prepared(b'{"model":"m"}', headers=headers, credential=google_wrote).headers
        self.assertEqual(credential_lines(lines), [(b"authorization", b"Bearer ya29.token")])
        self.assertEqual(
            [line for line in lines if line[0].startswith(b"x-goog-")], [(b"x-goog-user-project", b"paying")]
        )
        self.assertIn((b"x-app", b"cli"), lines)


class FailureTests(unittest.TestCase):
    def test_what_may_help_is_told(self) -> None:
        self.assertEqual(failed(401, google(401, "UNAUTHENTICATED", "no")).remedy, Remedy(renew=True))
        refused = google(400, "INVALID_ARGUMENT", "safeguards: Extra inputs are not permitted")
        self.assertEqual(failed(400, refused).remedy, Remedy(drop=frozenset({"dangerous-tool-use"})))
        for status, body in ((400, google(400, "INVALID_ARGUMENT", "bad")), (404, refused), (429, b"")):
            self.assertIsNone(failed(status, body).remedy)

    @given(
        st.sampled_from(["RESOURCE_EXHAUSTED", "UNAVAILABLE", "INTERNAL", "PERMISSION_DENIED", "SOMETHING_NEW"]),
        st.sampled_from([400, 403, 429, 500, 503]),
    )
    def test_an_array_of_one_means_the_same_as_its_error(self, status: str, code: int) -> None:
        body = google(code, status, "words")
        alone, wrapped = failed(code, body), failed(code, b"[" + body + b"\n]\n")
        self.assertEqual(alone, wrapped)

    @given(st.text(max_size=30), st.sampled_from(["", "projects/", "?project=", "for consumer 'project_number:"]))
    def test_the_project_is_told_to_nobody(self, text: str, before: str) -> None:
        for name in ("my-project", "123456789012", "robot@my-project.iam.gserviceaccount.com"):
            message = f"{before}{name} {text}"
            for body in (
                google(403, "PERMISSION_DENIED", message),
                json.dumps({"type": "error", "error": {"type": "api_error", "message": message}}).encode(),
            ):
                failure = failed(403, body)
                self.assertNotIn(name, failure.answer.body.decode())
                self.assertNotIn(name, failure.reason)

    def test_words_that_only_look_like_the_project_stay(self) -> None:
        said = "your project may use claude-sonnet-4-5@20250929 or not-my-project-at-all; 1200001 tokens > 1000000"
        told = json.loads(failed(400, google(400, "INVALID_ARGUMENT", said)).answer.body)
        self.assertEqual(told["error"]["message"], said)

    def test_a_refused_model_leaves_the_credential_in_use(self) -> None:
        said = "Organization Policy constraint constraints/vertexai.allowedModels violated for this model"
        self.assertIs(failed(403, google(403, "PERMISSION_DENIED", said)).outcome, Outcome.UNFIT)

    def test_a_quota_that_looks_like_a_long_prompt_gives_others_their_chance(self) -> None:
        for said, outcome in (
            ("Prompt is too long", Outcome.KEY_TIRED),
            ("prompt is too long: 1200001 tokens > 1000000 maximum", Outcome.CALLERS_FAULT),
        ):
            body = json.dumps({"type": "error", "error": {"type": "request_too_large", "message": said}}).encode()
            self.assertIs(failed(413, body).outcome, outcome)

    def test_the_operator_reads_what_to_set(self) -> None:
        for code, status, words in (
            (401, "UNAUTHENTICATED", "gcp_credentials_file"),
            (403, "PERMISSION_DENIED", "aiplatform.user"),
            (404, "NOT_FOUND", "gcp_region"),
        ):
            failure = failed(code, google(code, status, "no"))
            self.assertIn(words, failure.reason)
            self.assertNotIn(words.encode(), failure.answer.body)

    @given(
        st.binary(max_size=40)
        | st.sampled_from([b"[", b"[]", b"[[", b"[1]", b'[{"error":1}]', b'{"error":{"status":1}}'])
    )
    def test_any_body_is_read(self, body: bytes) -> None:
        for status in (400, 401, 413, 429, 500):
            document = json.loads(failed(status, body).answer.body)
            self.assertEqual(document["type"], "error")

    def test_lines_about_googles_own_affairs_stay_behind(self) -> None:
        head = Head(200, ((b"x-vertex-ai-llm-request-type", b"shared"), (b"x-goog-a", b"b"), (b"request-id", b"r")))
        self.assertEqual(vertex().answer_head(head).headers, ((b"request-id", b"r"),))
