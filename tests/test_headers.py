"""Header rules, in both directions."""

from __future__ import annotations

import unittest

from hypothesis import given
from hypothesis import strategies as st

from ccrelay.core.headers import first, request_headers, response_headers, stream_headers

CLAUDE_CODE = (
    (b"accept", b"application/json"),
    (b"authorization", b"Bearer door-secret"),
    (b"content-type", b"application/json"),
    (b"user-agent", b"claude-cli/2.1.330 (external, sdk-cli)"),
    (b"x-claude-code-session-id", b"7b1c9d1e-58f2-4f0e-9c43-6c0d7c6f0d11"),
    (b"x-stainless-arch", b"x64"),
    (b"x-stainless-lang", b"js"),
    (b"x-stainless-os", b"Linux"),
    (b"x-stainless-package-version", b"0.128.0"),
    (b"x-stainless-retry-count", b"0"),
    (b"x-stainless-runtime", b"node"),
    (b"x-stainless-runtime-version", b"v26.12.1"),
    (b"x-stainless-timeout", b"600"),
    (b"anthropic-beta", b"claude-code-20250219,interleaved-thinking-2025-05-14,context-management-2025-06-27"),
    (b"anthropic-dangerous-direct-browser-access", b"true"),
    (b"anthropic-version", b"2023-06-01"),
    (b"x-api-key", b"door-secret"),
    (b"x-app", b"cli"),
    (b"connection", b"keep-alive"),
    (b"host", b"127.0.0.1:8787"),
    (b"accept-encoding", b"gzip, deflate, br, zstd"),
    (b"content-length", b"48211"),
)

HOP = (
    b"connection",
    b"keep-alive",
    b"proxy-connection",
    b"proxy-authorization",
    b"proxy-authenticate",
    b"te",
    b"trailer",
    b"transfer-encoding",
    b"upgrade",
)
NAMES = st.from_regex(rb"[a-z0-9-]{1,40}", fullmatch=True)
VALUES = st.binary(max_size=30)
LINES = st.lists(st.tuples(NAMES, VALUES), max_size=12).map(tuple)


def names(headers: tuple[tuple[bytes, bytes], ...]) -> list[bytes]:
    return [name for name, _ in headers]


class RequestHeaderTests(unittest.TestCase):
    def test_what_claude_code_says_arrives_unchanged_and_in_order(self) -> None:
        dropped = (b"authorization", b"x-api-key", b"connection", b"host", b"accept-encoding", b"content-length")
        self.assertEqual(
            request_headers(CLAUDE_CODE),
            (*(line for line in CLAUDE_CODE if line[0] not in dropped), (b"accept-encoding", b"identity")),
        )

    def test_a_repeated_header_keeps_all_its_lines(self) -> None:
        lines = ((b"anthropic-beta", b"a"), (b"x-new", b"1"), (b"anthropic-beta", b"b"))
        self.assertEqual(request_headers(lines)[:3], lines)

    def test_no_credential_passes_wherever_it_is_put(self) -> None:
        for name in (b"x-api-key", b"authorization", b"api-key", b"proxy-authorization", b"cookie"):
            with self.subTest(name=name):
                self.assertNotIn(name, names(request_headers(((name, b"secret"),))))

    def test_hop_by_hop_headers_stay_on_their_hop(self) -> None:
        for name in HOP:
            with self.subTest(name=name):
                self.assertNotIn(name, names(request_headers(((name, b"1"), (b"x-app", b"cli")))))

    def test_connection_names_further_headers_to_leave_out(self) -> None:
        lines = ((b"x-hop", b"1"), (b"connection", b"Keep-Alive, X-Hop"), (b"x-end", b"2"), (b"connection", b"x-more"))
        self.assertEqual(names(request_headers((*lines, (b"x-more", b"3")))), [b"x-end", b"accept-encoding"])

    def test_connection_cannot_remove_the_refusal_of_compression(self) -> None:
        lines = ((b"connection", b"accept-encoding"), (b"accept-encoding", b"gzip"))
        self.assertEqual(request_headers(lines), ((b"accept-encoding", b"identity"),))

    def test_the_way_to_the_relay_is_not_told_to_the_upstream(self) -> None:
        for name in (b"forwarded", b"x-forwarded-for", b"x-forwarded-host", b"via", b"x-real-ip", b"x-cc-relay-debug"):
            with self.subTest(name=name):
                self.assertEqual(names(request_headers(((name, b"10.1.2.3"),))), [b"accept-encoding"])

    def test_the_organisations_policy_checksum_goes_to_anthropic_alone(self) -> None:
        lines = ((b"x-claude-code-managed-settings-checksum", b"c0ffee"), (b"x-claude-code-agent-id", b"a1"))
        self.assertEqual(request_headers(lines)[:2], lines)
        self.assertEqual(request_headers(lines, foreign=True)[:1], lines[1:])

    @given(lines=LINES)
    def test_filtering_twice_is_filtering_once(self, lines: tuple[tuple[bytes, bytes], ...]) -> None:
        once = request_headers(lines)
        self.assertEqual(request_headers(once), once)

    @given(lines=LINES, name=NAMES.map(lambda name: b"anthropic-" + name), value=VALUES)
    def test_any_header_of_anthropics_passes(
        self, lines: tuple[tuple[bytes, bytes], ...], name: bytes, value: bytes
    ) -> None:
        lines = tuple(line for line in lines if line[0] != b"connection")
        self.assertIn((name, value), request_headers((*lines, (name, value))))


UPSTREAM = (
    (b"date", b"Sun, 22 Nov 2026 10:00:00 GMT"),
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"transfer-encoding", b"chunked"),
    (b"connection", b"keep-alive"),
    (b"cache-control", b"no-cache"),
    (b"anthropic-ratelimit-input-tokens-remaining", b"49000"),
    (b"anthropic-ratelimit-unified-status", b"allowed"),
    (b"anthropic-ratelimit-unified-reset", b"1795345200"),
    (b"retry-after", b"12"),
    (b"request-id", b"req_011"),
    (b"anthropic-organization-id", b"0f5e0c0e-operator"),
    (b"anthropic-workspace-id", b"wrkspc_1"),
    (b"via", b"1.1 google"),
    (b"strict-transport-security", b"max-age=31536000"),
    (b"set-cookie", b"__cf_bm=secret"),
    (b"access-control-allow-origin", b"*"),
    (b"alt-svc", b'h3=":443"'),
    (b"server", b"cloudflare"),
    (b"cf-ray", b"8f1-FRA"),
    (b"x-should-retry", b"true"),
    (b"x-request-id", b"theirs"),
)


class ResponseHeaderTests(unittest.TestCase):
    def test_with_a_pooled_key_nothing_of_the_operators_account_is_told(self) -> None:
        self.assertEqual(
            names(response_headers(UPSTREAM, own_credential=False)),
            [
                b"content-type",
                b"cache-control",
                b"anthropic-ratelimit-input-tokens-remaining",
                b"retry-after",
                b"request-id",
                b"x-should-retry",
            ],
        )

    def test_with_its_own_credential_a_client_reads_its_own_quota_and_account(self) -> None:
        shown = response_headers(UPSTREAM, own_credential=True)
        for line in UPSTREAM:
            if line[0].startswith(b"anthropic-") or line[0] in (b"cf-ray", b"via", b"request-id", b"retry-after"):
                self.assertIn(line, shown)

    def test_what_the_upstream_says_of_its_own_origin_never_becomes_ours(self) -> None:
        for own in (True, False):
            shown = names(response_headers(UPSTREAM, own_credential=own))
            for name in (b"set-cookie", b"access-control-allow-origin", b"strict-transport-security", b"alt-svc"):
                self.assertNotIn(name, shown)

    def test_framing_and_what_the_relay_sends_itself_is_left_out(self) -> None:
        for name in (*HOP, b"content-length", b"server", b"date", b"x-request-id", b"x-cc-relay-provider"):
            with self.subTest(name=name):
                self.assertEqual(response_headers(((name, b"1"),), own_credential=True), ())

    def test_an_encoding_that_was_not_asked_for_is_still_named(self) -> None:
        lines = ((b"content-encoding", b"gzip"),)
        self.assertEqual(response_headers(lines, own_credential=False), lines)

    def test_connection_names_further_headers_to_leave_out(self) -> None:
        lines = ((b"x-hop", b"1"), (b"connection", b"close, x-hop"), (b"x-end", b"2"))
        self.assertEqual(response_headers(lines, own_credential=True), ((b"x-end", b"2"),))

    @given(lines=LINES)
    def test_a_pooled_key_shows_no_more_than_an_own_credential(self, lines: tuple[tuple[bytes, bytes], ...]) -> None:
        own = response_headers(lines, own_credential=True)
        pooled = response_headers(lines, own_credential=False)
        remaining = iter(own)
        self.assertTrue(all(line in remaining for line in pooled))


class StreamHeaderTests(unittest.TestCase):
    def test_caches_and_buffers_are_told_to_keep_off_once(self) -> None:
        lines = ((b"cache-control", b"public"), (b"content-type", b"text/event-stream"), (b"x-accel-buffering", b"yes"))
        self.assertEqual(
            stream_headers(lines),
            (
                (b"content-type", b"text/event-stream"),
                (b"cache-control", b"no-cache, no-transform"),
                (b"x-accel-buffering", b"no"),
            ),
        )


class FirstTests(unittest.TestCase):
    def test_the_first_of_several_lines_counts(self) -> None:
        lines = ((b"a", b"1"), (b"b", b"2"), (b"b", b"3"))
        self.assertEqual(first(lines, b"b"), b"2")
        self.assertIsNone(first(lines, b"c"))
