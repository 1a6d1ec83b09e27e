"""Our own error answers."""

from __future__ import annotations

import json
import unittest

from hypothesis import given
from hypothesis import strategies as st

from ccrelay.core.answers import answer_of, error_answer, kind_of, status_of, with_request_id
from ccrelay.core.headers import first
from ccrelay.core.model import Answer
from ccrelay.errors import BodyTooLarge, ClientError, MalformedBody


def lines(answer: Answer) -> dict[bytes, bytes]:
    found = dict(answer.headers)
    assert len(found) == len(answer.headers), "a header was written twice"
    return found


class EnvelopeTests(unittest.TestCase):
    def test_the_body_is_anthropics_envelope(self) -> None:
        answer = error_answer(404, "not_found_error", "no «such» path", "req_1")
        self.assertEqual(answer.status, 404)
        self.assertEqual(
            json.loads(answer.body),
            {"type": "error", "error": {"type": "not_found_error", "message": "no «such» path"}, "request_id": "req_1"},
        )
        self.assertEqual(lines(answer), {b"content-type": b"application/json"})

    @given(message=st.text(st.characters()), request_id=st.text())
    def test_any_text_survives_but_half_characters(self, message: str, request_id: str) -> None:
        error = json.loads(error_answer(400, "invalid_request_error", message, request_id).body)
        self.assertEqual(error["error"]["message"], message.encode("utf-8", "replace").decode())

    @given(request_id=st.text())
    def test_a_request_id_can_be_added_later(self, request_id: str) -> None:
        whole = error_answer(429, "rate_limit_error", "wait", request_id, retry_after=3)
        unnamed = error_answer(429, "rate_limit_error", "wait", None, retry_after=3)
        self.assertEqual(with_request_id(unnamed, request_id), whole)


class RetryAdviceTests(unittest.TestCase):
    def test_clients_are_told_not_to_repeat_what_401_and_501_refuse(self) -> None:
        for status in (401, 501):
            self.assertEqual(lines(error_answer(status, "x", "m", "r"))[b"x-should-retry"], b"false")

    def test_a_short_wait_is_named_in_whole_seconds(self) -> None:
        for asked, named in ((0.2, b"1"), (1, b"1"), (12.1, b"13"), (60, b"60")):
            found = lines(error_answer(429, "rate_limit_error", "m", "r", retry_after=asked))
            self.assertEqual(found[b"retry-after"], named)
            self.assertNotIn(b"x-should-retry", found)

    def test_a_long_wait_is_named_truly_and_clients_are_told_not_to_sit_it_out(self) -> None:
        found = lines(error_answer(503, "overloaded_error", "m", "r", retry_after=7200))
        self.assertEqual((found[b"retry-after"], found[b"x-should-retry"]), (b"7200", b"false"))

    def test_429_and_503_never_leave_the_pace_to_the_client(self) -> None:
        for status in (429, 503):
            seconds = int(lines(error_answer(status, "x", "m", "r"))[b"retry-after"])
            self.assertTrue(1 <= seconds <= 60)

    def test_a_429_that_no_waiting_mends_names_no_wait(self) -> None:
        found = lines(error_answer(429, "billing_error", "m", "r", should_retry=False))
        self.assertEqual(found, {b"content-type": b"application/json", b"x-should-retry": b"false"})


class ClientErrorTests(unittest.TestCase):
    def test_everything_a_client_error_carries_is_sent(self) -> None:
        error = ClientError(405, "invalid_request_error", "no", should_retry=False, headers=((b"allow", b"POST"),))
        answer = answer_of(error, "req_9")
        self.assertEqual(answer.status, 405)
        self.assertEqual(json.loads(answer.body)["request_id"], "req_9")
        self.assertEqual(first(answer.headers, b"allow"), b"POST")
        self.assertEqual(first(answer.headers, b"x-should-retry"), b"false")

    def test_errors_of_the_body_become_their_own_status(self) -> None:
        for error, status, kind in (
            (MalformedBody("not JSON", 7), 400, "invalid_request_error"),
            (BodyTooLarge(1000), 413, "request_too_large"),
        ):
            answer = answer_of(error, "r")
            self.assertEqual((answer.status, json.loads(answer.body)["error"]["type"]), (status, kind))


class KindTests(unittest.TestCase):
    def test_every_error_status_has_a_kind_that_clients_know(self) -> None:
        for status, kind in (
            (400, "invalid_request_error"),
            (422, "invalid_request_error"),
            (500, "api_error"),
            (502, "api_error"),
            (529, "overloaded_error"),
            (504, "timeout_error"),
        ):
            self.assertEqual(kind_of(status), kind)

    def test_a_kind_stands_for_the_status_that_anthropic_sends_with_it(self) -> None:
        for kind, status in (("overloaded_error", 529), ("timeout_error", 504), ("rate_limit_error", 429)):
            self.assertEqual(status_of(kind), status)
        self.assertIsNone(status_of("api_error"))
        self.assertIsNone(status_of("1302"))
