"""What failed attempts mean, and which of them the client is told of."""

from __future__ import annotations

import json
import os
import time
import unittest
from email.utils import formatdate

from hypothesis import given
from hypothesis import strategies as st

from ccrelay.core.complaints import Complaint, read_complaint
from ccrelay.core.failures import (
    Failure,
    Verdict,
    failure_of,
    failure_of_event,
    most_useful,
    outcome_of_complaint,
    retry_after_of,
    server_time,
)
from ccrelay.core.headers import first
from ccrelay.core.model import Answer, Head, Headers
from ccrelay.core.outcomes import Outcome
from ccrelay.core.stream_watch import StreamError

NOW = 1795341600.0
JSON = ((b"content-type", b"application/json"),)


def envelope(kind: str = "invalid_request_error", message: str = "no", **more: object) -> bytes:
    return json.dumps({"type": "error", "error": {"type": kind, "message": message, **more}}).encode()


def complaint(status: int, body: bytes, headers: Headers = JSON) -> Complaint:
    return read_complaint(Head(status, headers), body, "north")


def failed(status: int, body: bytes, headers: Headers = JSON, verdict: Verdict | None = None) -> Failure:
    head = Head(status, headers)
    return failure_of(head, body, read_complaint(head, body, "north"), verdict, own_credential=False)


def said(answer: Answer) -> tuple[str, str]:
    error = json.loads(answer.body)["error"]
    return error["type"], error["message"]


class OutcomeTests(unittest.TestCase):
    def test_an_account_that_cannot_pay_is_the_keys_trouble_and_not_the_callers(self) -> None:
        for status, body in (
            (400, envelope(message="You have reached your specified API usage limits. You will regain access on ...")),
            (400, envelope(message="Your credit balance is too low to access the Anthropic API.")),
            (402, envelope("billing_error")),
            (429, envelope("billing_error")),
        ):
            self.assertIs(outcome_of_complaint(complaint(status, body)), Outcome.KEY_DEAD)

    def test_what_the_api_itself_refuses_is_the_callers_fault(self) -> None:
        for status in (400, 404, 409, 413, 422):
            self.assertIs(outcome_of_complaint(complaint(status, envelope())), Outcome.CALLERS_FAULT)

    def test_a_page_from_something_before_the_api_blames_neither_caller_nor_key(self) -> None:
        page = b"<!DOCTYPE html><html><title>Attention Required!</title></html>"
        for status in (400, 403, 404, 405):
            found = complaint(status, page, ((b"content-type", b"text/html"),))
            self.assertIs(outcome_of_complaint(found), Outcome.PROVIDER_ILL)

    def test_a_server_without_the_path_is_ill(self) -> None:
        for body in (b"404 page not found\n", b""):
            found = complaint(404, body, ((b"content-type", b"text/plain"),))
            self.assertIs(outcome_of_complaint(found), Outcome.PROVIDER_ILL)

    def test_too_large_and_unauthorized_mean_the_same_from_anybody(self) -> None:
        page = b"<html>nginx</html>"
        self.assertIs(outcome_of_complaint(complaint(413, page)), Outcome.CALLERS_FAULT)
        self.assertIs(outcome_of_complaint(complaint(401, page)), Outcome.KEY_DEAD)
        self.assertIs(outcome_of_complaint(complaint(429, page)), Outcome.KEY_TIRED)

    def test_a_refusal_in_plain_words_is_still_a_refusal(self) -> None:
        found = complaint(400, b"max_tokens: 9 > 8", ((b"content-type", b"text/plain"),))
        self.assertIs(outcome_of_complaint(found), Outcome.CALLERS_FAULT)

    def test_redirects_are_an_illness(self) -> None:
        for status in (301, 302, 304, 307, 308):
            self.assertIs(outcome_of_complaint(complaint(status, b"")), Outcome.PROVIDER_ILL)


class WrappingTests(unittest.TestCase):
    def test_anthropics_envelope_passes_unchanged_with_its_status(self) -> None:
        for status in (400, 401, 404, 429, 500, 529):
            body = envelope("some_new_error", "words", details={"x": [1.0, 1e9]}) + b"\n"
            headers = (*JSON, (b"retry-after", b"3600"), (b"request-id", b"req_1"), (b"x-should-retry", b"true"))
            with self.subTest(status=status):
                self.assertEqual(failed(status, body, headers).answer, Answer(status, headers, body))

    def test_other_shapes_keep_their_words_in_the_envelope(self) -> None:
        for body in (
            b'{"error":{"code":"1302","message":"prompt is too long"}}',
            b'{"error":"prompt is too long"}',
            b'{"message":"prompt is too long"}',
            b'{"code":500,"msg":"prompt is too long","success":false}',
            b'{"detail":"prompt is too long"}',
            b'{"base_resp":{"status_code":1000,"status_msg":"prompt is too long"}}',
            b"prompt is too long\r\n",
        ):
            with self.subTest(body=body):
                failure = failed(400, body)
                self.assertEqual(failure.answer.status, 400)
                self.assertEqual(said(failure.answer), ("invalid_request_error", "prompt is too long"))

    def test_no_page_for_people_reaches_a_client(self) -> None:
        for body in (b"<html>secret-host</html>", b"<?xml version='1.0'?><e>secret-host</e>", b"<!-- secret-host -->"):
            failure = failed(502, body, ((b"content-type", b"text/html; charset=utf-8"),))
            self.assertEqual(failure.answer.status, 502)
            self.assertEqual(said(failure.answer), ("api_error", "Provider north answered 502 with text/html"))
            self.assertEqual(first(failure.answer.headers, b"content-type"), b"application/json")

    def test_a_long_text_is_cut(self) -> None:
        for body in ("ä" * 9000, json.dumps({"message": "ä" * 9000})):
            self.assertEqual(said(failed(500, body.encode()).answer)[1], "ä" * 2048)

    def test_a_redirect_blames_the_base_url_and_tells_nothing_of_its_target(self) -> None:
        headers = ((b"location", b"https://sso.internal/?token=hunter2"),)
        for body in (b"", b"<a href='https://sso.internal/?token=hunter2'>"):
            answer = failed(307, body, headers).answer
            self.assertEqual(answer.status, 502)
            self.assertIn("base_url", said(answer)[1])
            self.assertNotIn(b"hunter2", answer.body)

    def test_wrapped_answers_name_one_wait(self) -> None:
        headers = ((b"retry-after", b"7"), (b"retry-after-ms", b"6500"), (b"content-type", b"text/plain"))
        failure = failed(429, b"slow down", headers)
        self.assertEqual(failure.retry_after, 6.5)
        self.assertEqual(failure.answer.headers, (*JSON, (b"retry-after", b"7")))

    def test_the_upstreams_request_id_is_kept_and_a_missing_one_filled_in(self) -> None:
        theirs = failed(500, b'{"error":{"message":"x"},"request_id":"2026abc"}')
        self.assertEqual(json.loads(most_useful([theirs], "ours", 1).body)["request_id"], "2026abc")
        header = failed(500, b"x", ((b"request-id", b"req_7"),))
        self.assertEqual(json.loads(most_useful([header], "ours", 1).body)["request_id"], "req_7")
        nobodys = failed(500, b"x")
        self.assertEqual(json.loads(most_useful([nobodys], "ours", 1).body)["request_id"], "ours")

    def test_headers_pass_by_the_rules_of_the_credential_used(self) -> None:
        headers = (*JSON, (b"anthropic-ratelimit-unified-status", b"rejected"), (b"set-cookie", b"a=b"))
        head = Head(429, headers)
        for own, expected in ((True, headers[:2]), (False, headers[:1])):
            body = envelope("rate_limit_error")
            failure = failure_of(head, body, read_complaint(head, body, "north"), None, own_credential=own)
            self.assertEqual(failure.answer.headers, expected)

    def test_a_known_code_adds_the_advice_that_the_upstream_left_out(self) -> None:
        tired = failed(429, envelope("rate_limit_error"), JSON, Verdict(Outcome.KEY_TIRED, wait=4.2))
        self.assertEqual(tired.answer.headers, (*JSON, (b"retry-after", b"5")))
        used_up = failed(429, envelope("rate_limit_error"), JSON, Verdict(Outcome.KEY_TIRED, wait=900.0))
        self.assertEqual(used_up.answer.headers, (*JSON, (b"retry-after", b"900"), (b"x-should-retry", b"false")))
        dead = failed(429, envelope("rate_limit_error"), JSON, Verdict(Outcome.KEY_DEAD))
        self.assertEqual(dead.answer.headers, (*JSON, (b"x-should-retry", b"false")))

    def test_a_known_code_never_contradicts_what_the_upstream_advised(self) -> None:
        headers = (*JSON, (b"retry-after", b"30"), (b"x-should-retry", b"true"))
        failure = failed(429, envelope(), headers, Verdict(Outcome.KEY_DEAD, wait=5.0))
        self.assertEqual((failure.answer.headers, failure.retry_after), (headers, 30.0))

    def test_advice_is_not_given_twice(self) -> None:
        headers = (*JSON, (b"x-should-retry", b"false"))
        for body in (envelope(), b'{"message":"no"}'):
            self.assertEqual(failed(429, body, headers, Verdict(Outcome.KEY_DEAD)).answer.headers, headers)

    def test_a_repairable_400_is_not_marked_as_hopeless(self) -> None:
        self.assertIsNone(first(failed(400, b"context_management: Extra inputs").answer.headers, b"x-should-retry"))

    def test_reasons_are_short_and_hold_no_text_of_others(self) -> None:
        failure = failed(400, b'{"error":{"message":"user said: hello","code":"1210"}}')
        self.assertEqual(failure.reason, "answered 400 invalid_request_error (code 1210)")
        forged = failed(400, b'{"error":{"message":"m","code":"x\\nforged line"}}')
        self.assertEqual(forged.reason, "answered 400 invalid_request_error")


class EventTests(unittest.TestCase):
    def test_an_error_event_gets_the_status_that_its_type_stands_for(self) -> None:
        for kind, status, outcome in (
            ("overloaded_error", 529, Outcome.PROVIDER_ILL),
            ("api_error", 500, Outcome.PROVIDER_ILL),
            ("1305", 500, Outcome.PROVIDER_ILL),
            ("rate_limit_error", 429, Outcome.KEY_TIRED),
            ("authentication_error", 401, Outcome.KEY_DEAD),
            ("invalid_request_error", 400, Outcome.CALLERS_FAULT),
        ):
            with self.subTest(kind=kind):
                failure = failure_of_event(StreamError(kind, "words"), "req_1")
                self.assertEqual((failure.outcome, failure.answer.status), (outcome, status))
                self.assertEqual(said(failure.answer), (kind, "words"))


def one(status: int, outcome: Outcome, text: str = "x", retry_after: float | None = None) -> Failure:
    lines = JSON if retry_after is None else (*JSON, (b"retry-after", b"%d" % retry_after))
    return Failure(outcome, Answer(status, lines, envelope(message=text)), "r", retry_after)


FAULT = one(400, Outcome.CALLERS_FAULT, "fault")
TIRED = one(429, Outcome.KEY_TIRED, "tired")
UNPAID = one(429, Outcome.KEY_DEAD, "unpaid")
REFUSED = one(401, Outcome.KEY_DEAD, "refused")
FORBIDDEN = one(403, Outcome.UNFIT, "forbidden")
PATHLESS = one(404, Outcome.PROVIDER_ILL, "pathless")
UNABLE = one(501, Outcome.PROVIDER_ILL, "unable")
ILL = one(529, Outcome.PROVIDER_ILL, "ill")


class MostUsefulTests(unittest.TestCase):
    def test_one_attempts_answer_is_given_as_it_came(self) -> None:
        for failure in (FAULT, TIRED, REFUSED, FORBIDDEN, PATHLESS, UNABLE, ILL):
            self.assertEqual(most_useful([failure], "r", 1), failure.answer)

    @given(st.permutations([FAULT, TIRED, UNPAID, REFUSED, FORBIDDEN, PATHLESS, UNABLE, ILL]), st.integers(2, 8))
    def test_the_order_of_usefulness_does_not_depend_on_the_order_of_attempts(
        self, shuffled: list[Failure], count: int
    ) -> None:
        made = shuffled[:count]
        best = next(f for f in (FAULT, TIRED, UNPAID, REFUSED, FORBIDDEN, PATHLESS, UNABLE, ILL) if f in made)
        answer = most_useful(made, "r", count)
        if best is ILL:
            self.assertEqual(answer.status, 502)
        else:
            self.assertEqual(answer, best.answer)

    def test_of_several_429_the_last_is_given_with_the_earliest_wait(self) -> None:
        made = [one(429, Outcome.KEY_TIRED, text, wait) for text, wait in (("a", 40), ("b", 12), ("c", 50))]
        answer = most_useful(made, "r", 3)
        self.assertEqual(said(answer)[1], "c")
        self.assertEqual([value for name, value in answer.headers if name == b"retry-after"], [b"12"])
        self.assertIsNone(first(answer.headers, b"x-should-retry"))

    def test_a_429_whose_wait_is_long_for_every_key_is_not_slept_through(self) -> None:
        answer = most_useful([one(429, Outcome.KEY_TIRED, "a", 900), one(429, Outcome.KEY_TIRED, "b", 7200)], "r", 2)
        self.assertEqual(first(answer.headers, b"retry-after"), b"900")
        self.assertEqual(first(answer.headers, b"x-should-retry"), b"false")

    def test_the_wait_of_a_dead_key_counts_for_nothing(self) -> None:
        made = [one(429, Outcome.KEY_DEAD, "a", 1), one(429, Outcome.KEY_TIRED, "b", 12)]
        self.assertEqual(first(most_useful(made, "r", 2).headers, b"retry-after"), b"12")

    def test_when_nobody_said_anything_useful_the_number_of_attempts_is_told(self) -> None:
        for made, attempts in (([ILL, ILL], 3), ([ILL], 3), ([], 3)):
            answer = most_useful(made, "req_5", attempts)
            document = json.loads(answer.body)
            self.assertEqual((answer.status, document["error"]["type"]), (502, "api_error"))
            self.assertIn("3 attempts", document["error"]["message"])
            self.assertEqual(document["request_id"], "req_5")


class RetryAfterTests(unittest.TestCase):
    def test_seconds_milliseconds_and_dates_are_understood(self) -> None:
        for headers, expected in (
            (((b"retry-after", b"30"),), 30.0),
            (((b"retry-after", b"0.5"),), 0.5),
            (((b"retry-after-ms", b"1500"), (b"retry-after", b"2")), 1.5),
            (((b"retry-after-ms", b"soon"), (b"retry-after", b"2")), 2.0),
            (((b"retry-after", formatdate(NOW + 90, usegmt=True).encode()),), 90.0),
        ):
            with self.subTest(headers=headers):
                self.assertEqual(retry_after_of(headers, NOW), expected)

    def test_absurd_values_say_nothing(self) -> None:
        for value in (
            b"", b"0", b"-5", b"1e9", b"nan", b"inf", b"99999999", b"1_000", b"\xd9\xa3", b"soon", b"12 s", b"9" * 4000,
            formatdate(NOW - 1, usegmt=True).encode(), formatdate(NOW + 10**8, usegmt=True).encode(),
            b"Mon, 99 Foo 2026 99:99:99 GMT", b"Fri, 31 Dec 9999 23:59:59 -2359",
        ):  # fmt: skip
            with self.subTest(value=value):
                self.assertIsNone(retry_after_of(((b"retry-after", value),), NOW))

    def test_without_a_clock_dates_say_nothing(self) -> None:
        self.assertIsNone(retry_after_of(((b"retry-after", formatdate(NOW + 90, usegmt=True).encode()),), None))

    def test_dates_are_measured_by_the_upstreams_clock(self) -> None:
        skewed = NOW + 86400
        headers = (
            (b"date", formatdate(skewed, usegmt=True).encode()),
            (b"retry-after", formatdate(skewed + 20, usegmt=True).encode()),
        )
        self.assertEqual(retry_after_of(headers, server_time(headers)), 20.0)

    def test_a_date_without_a_zone_does_not_depend_on_where_the_relay_runs(self) -> None:
        before = os.environ.get("TZ")
        try:
            os.environ["TZ"] = "Asia/Tokyo"
            time.tzset()
            self.assertEqual(server_time(((b"date", b"Sun, 22 Nov 2026 10:00:00 -0000"),)), NOW)
        finally:
            os.environ.pop("TZ") if before is None else os.environ.update(TZ=before)
            time.tzset()

    @given(st.binary(max_size=60))
    def test_any_bytes_give_a_sane_wait_or_none(self, value: bytes) -> None:
        for name in (b"retry-after", b"retry-after-ms"):
            found = retry_after_of(((name, value), (b"date", value)), server_time(((b"date", value),)))
            self.assertTrue(found is None or 0 < found <= 31 * 86400)


class ComplaintTests(unittest.TestCase):
    @given(
        st.integers(300, 599),
        st.binary(max_size=300),
        st.sampled_from([b"text/html", b"application/json", b"\xff", b""]),
    )
    def test_any_body_is_read(self, status: int, body: bytes, declared: bytes) -> None:
        found = complaint(status, body, ((b"content-type", declared),))
        self.assertTrue(found.message.strip())
        self.assertLessEqual(len(found.message), 2048)

    @given(
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(
                    st.sampled_from(
                        [
                            "type",
                            "error",
                            "message",
                            "msg",
                            "code",
                            "details",
                            "error_code",
                            "base_resp",
                            "status_code",
                            "request_id",
                            "detail",
                        ]
                    ),
                    inner,
                    max_size=4,
                )
            ),
            max_leaves=12,
        )
    )
    def test_any_json_is_read(self, document: object) -> None:
        failure = failed(400, json.dumps(document).encode())
        self.assertEqual(json.loads(failure.answer.body)["type"], "error")

    def test_nesting_that_no_parser_takes_is_not_an_error_here(self) -> None:
        found = complaint(500, b'{"a":' * 100_000)
        self.assertFalse(found.spoken)

    def test_a_character_cut_at_the_end_of_what_was_read_is_no_reason_to_drop_the_text(self) -> None:
        self.assertEqual(complaint(500, b"x" * 8191 + "ä".encode() * 3).message, "x" * 2048)

    def test_bytes_that_are_no_text_are_not_shown(self) -> None:
        found = complaint(500, b"\x1f\x8b\x08\x00\xff\xfe", ((b"content-type", b"application/gzip"),))
        self.assertEqual(found.message, "Provider north answered 500 with application/gzip")
