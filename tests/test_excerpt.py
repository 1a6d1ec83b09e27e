"""Excerpts are written when they have come, once, as long as they were asked to be, and only where they were."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from ccrelay.core.access import as_json, as_text
from ccrelay.core.excerpt import MOST_HEADERS, BodyRecord, ExcerptRecord, Excerpts, HeadersRecord, excerpts_of
from ccrelay.core.model import ApiKey, Call, CallKind, Head, HeaderCredential, OwnCredential, Principal
from ccrelay.core.redaction import MARGIN
from ccrelay.core.request_body import RequestBody
from ccrelay.core.secret import Secret
from ccrelay.errors import ClientError

from .config_loading import settings_of

KEY = "c4nary-5ecret"
NOW = 784_111_777.25


class Rig:
    """A call whose body arrives as the test says."""

    def __init__(self, options: str, length: int | None = None, own: str | None = None) -> None:
        settings = settings_of(
            f"providers: [{{name: a, type: anthropic, keys: [{{key: {KEY}}}]}}]\n"
            f"logging: {{debug_options: {{{options}}}}}\n"
        )
        self.records: list[ExcerptRecord] = []
        self.excerpts = Excerpts(settings, lambda: NOW, self.records.append)
        credential = OwnCredential(b"x-api-key", Secret(own)) if own is not None else None
        self.body = RequestBody(length, 0)
        principal = Principal("open", "", b"", False)
        self.call = Call("req_1", CallKind.MESSAGES, principal, b"", (), credential, None, "192.0.2.7", self.body)

    def follow(self) -> Callable[[], None]:
        return self.excerpts.follow(self.call)

    @property
    def body_record(self) -> BodyRecord:
        [record] = self.records
        assert isinstance(record, BodyRecord)
        return record

    @property
    def headers_record(self) -> HeadersRecord:
        [record] = self.records
        assert isinstance(record, HeadersRecord)
        return record


BODIES = "log_request_body: true"
HEADERS = "log_response_headers: true"


def test_nothing_is_made_where_nothing_was_asked_for() -> None:
    settings = settings_of("providers: [{name: a, type: simulator}]\n")
    assert excerpts_of(settings, lambda: NOW, print) is None


@pytest.mark.parametrize(("options", "lines"), [(BODIES, 1), (HEADERS, 1), (f"{BODIES}, {HEADERS}", 2)])
def test_only_what_was_asked_for_is_written(options: str, lines: int) -> None:
    rig = Rig(options)
    told = rig.follow()
    rig.body.receive_data(b'{"model":"x"}')
    rig.body.receive_eof()
    rig.excerpts.answered(rig.call, 1, "a", Head(200, ()), None)
    told()
    assert len(rig.records) == lines


def test_a_body_is_written_when_it_is_complete_and_only_once() -> None:
    rig = Rig(BODIES)
    told = rig.follow()
    rig.body.receive_data(b'{"model":')
    assert rig.records == []
    rig.body.receive_data(b'"x"}')
    rig.body.receive_eof()
    assert (rig.body_record.body, rig.body_record.size) == ('{"model":"x"}', 13)
    told()
    assert len(rig.records) == 1


def test_a_body_that_was_there_before_is_written_at_once() -> None:
    rig = Rig(BODIES)
    rig.body.receive_data(b'{"model":"x"}')
    rig.body.receive_eof()
    rig.follow()
    assert rig.body_record.body == '{"model":"x"}'


def test_of_a_long_body_the_beginning_is_written_as_soon_as_it_can_be_judged() -> None:
    rig = Rig(f"{BODIES}, max_body_log_size: 20")
    rig.follow()
    rig.body.receive_data(b'{"model":"x","a":"' + b"b" * MARGIN)
    assert rig.records == []
    rig.body.receive_data(b"b" * 20)
    assert rig.body_record.body == '{"model":"x","a":"bb'
    assert rig.body_record.size == MARGIN + 38


@pytest.mark.parametrize("way", ["gone", "broken", "refused"])
def test_of_a_body_that_never_comes_whole_is_written_what_came(way: str) -> None:
    rig = Rig(BODIES)
    told = rig.follow()
    rig.body.receive_data(b'{"model":')
    if way == "broken":
        rig.body.receive_data(b"nonsense")
    elif way == "refused":
        rig.body.fail(ClientError(400, "invalid_request_error", "stalled"))
    told()
    assert rig.body_record.body.startswith('{"model":')


def test_secrets_of_the_configuration_and_of_the_client_are_hidden_in_a_body() -> None:
    rig = Rig(BODIES, own="door-0wn")
    rig.follow()
    rig.body.receive_data(json.dumps({"model": "x", "text": f"say {KEY} and door-0wn"}).encode())
    rig.body.receive_eof()
    assert rig.body_record.body == '{"model": "x", "text": "say <redacted> and <redacted>"}'


def test_a_size_of_0_tells_only_how_much_came() -> None:
    rig = Rig(f"{BODIES}, max_body_log_size: 0")
    rig.follow()
    rig.body.receive_data(b'{"model":"x"}')
    rig.body.receive_eof()
    assert (rig.body_record.body, rig.body_record.size) == ("", 13)


def test_the_head_of_an_answer_is_written_without_credentials_and_cookies() -> None:
    rig = Rig(HEADERS)
    head = Head(
        429,
        (
            (b"retry-after", b"7"),
            (b"set-cookie", b"session=c4nary"),
            (b"x-echo", f"{KEY} and t0ken".encode()),
            (b"x-strange", b"\xff\x1b"),
        ),
    )
    credential = HeaderCredential(((b"authorization", Secret("Bearer t0ken")),))
    rig.excerpts.answered(rig.call, 2, "a", head, credential)
    record = rig.headers_record
    assert (record.number, record.provider, record.status) == (2, "a", 429)
    assert record.headers.split("\n") == [
        "retry-after: 7",
        "set-cookie: <redacted>",
        "x-echo: <redacted> and <redacted>",
        "x-strange: \\xff\x1b",
    ]


def test_the_line_of_an_answer_is_bounded() -> None:
    rig = Rig(HEADERS)
    rig.excerpts.answered(rig.call, 1, "a", Head(200, ((b"x-long", b"y" * 100_000),)), ApiKey(Secret(KEY)))
    assert len(as_json(rig.headers_record)) < MOST_HEADERS + 200


def test_each_is_one_line_that_no_text_breaks_out_of() -> None:
    rig = Rig(BODIES)
    rig.follow()
    rig.body.receive_data(b'{"model":"x","a":"\x1b[2J\r\nstatus=500 \xe2\x98\x83 \xff"}')
    rig.body.receive_eof()
    told = json.loads(as_json(rig.body_record))
    assert told["request_id"] == "req_1"
    assert told["request_body"] == '{"model":"x","a":"\x1b[2J\r\nstatus=500 \u2603 \\xff"}'
    for line in (as_json(rig.body_record), as_text(rig.body_record)):
        assert line.isascii() and line.isprintable()
    assert "status=500" not in as_text(rig.body_record)
