"""The access line: one line of printable ASCII that says what happened, whatever clients and upstreams wrote."""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ccrelay.core.access import MAX_LINE, REFUSED, AccessRecord, as_json, as_text
from ccrelay.core.model import CallKind, Principal, Usage
from ccrelay.core.outcomes import Outcome

untimed = settings(deadline=None)  # how fast the machine is says nothing about the code

ANSWERED = AccessRecord(
    time=1795000000.125,
    request_id="req_9f2c",
    outcome=Outcome.ANSWERED,
    duration=2.50049,
    attempts=2,
    status=200,
    kind=CallKind.MESSAGES,
    stream=True,
    provider="anthropic-main",
    key="5e884898",
    model_asked="claude-opus-4-6",
    model_sent="arn:aws:bedrock:us-east-1:123:inference-profile/us.claude",
    ttfb=0.8123,
    usage=Usage(input=25, output=15, cache_write=1200, cache_read=18000),
    bytes_in=104857,
    bytes_out=5120,
    upstream_request_id="req_011CSHoEeqs5C35K2UUqR7Fy",
    session="6b1f6c1e-8f4b-4a57-9f0e-3a0a4f6c2d11",
    principal=Principal("api_key", "deadbeef", b"\x00digest", False),
    client="127.0.0.1:50412",
    user_agent="claude-cli/2.1.330 (external, cli)",
)


def test_a_json_line_says_all_about_a_call_in_a_stable_order() -> None:
    assert list(json.loads(as_json(ANSWERED)).items()) == [
        ("time", "2026-11-18T11:06:40.125Z"),
        ("request_id", "req_9f2c"),
        ("outcome", "answered"),
        ("status", 200),
        ("kind", "messages"),
        ("stream", True),
        ("provider", "anthropic-main"),
        ("key", "5e884898"),
        ("model_asked", "claude-opus-4-6"),
        ("model_sent", "arn:aws:bedrock:us-east-1:123:inference-profile/us.claude"),
        ("attempts", 2),
        ("ttfb", 0.812),
        ("duration", 2.5),
        ("input_tokens", 25),
        ("output_tokens", 15),
        ("cache_write_tokens", 1200),
        ("cache_read_tokens", 18000),
        ("bytes_in", 104857),
        ("bytes_out", 5120),
        ("upstream_request_id", "req_011CSHoEeqs5C35K2UUqR7Fy"),
        ("session", "6b1f6c1e-8f4b-4a57-9f0e-3a0a4f6c2d11"),
        ("principal", "api_key:deadbeef"),
        ("client", "127.0.0.1:50412"),
        ("user_agent", "claude-cli/2.1.330 (external, cli)"),
    ]


def test_a_text_line_reads_well_and_says_the_same() -> None:
    assert as_text(ANSWERED) == (
        "time=2026-11-18T11:06:40.125Z request_id=req_9f2c outcome=answered status=200 kind=messages stream=true "
        "provider=anthropic-main key=5e884898 model_asked=claude-opus-4-6 "
        "model_sent=arn:aws:bedrock:us-east-1:123:inference-profile/us.claude attempts=2 ttfb=0.812 duration=2.5 "
        "input_tokens=25 output_tokens=15 cache_write_tokens=1200 cache_read_tokens=18000 bytes_in=104857 "
        "bytes_out=5120 upstream_request_id=req_011CSHoEeqs5C35K2UUqR7Fy "
        "session=6b1f6c1e-8f4b-4a57-9f0e-3a0a4f6c2d11 principal=api_key:deadbeef client=127.0.0.1:50412 "
        'user_agent="claude-cli/2.1.330 (external, cli)"'
    )


def test_what_is_not_known_is_left_out() -> None:
    refused = AccessRecord(time=0.0, request_id="r", outcome=REFUSED, duration=0.0, status=401, reason="no such key")
    assert as_text(refused) == (
        'time=1970-01-01T00:00:00.000Z request_id=r outcome=refused status=401 reason="no such key" stream=false '
        "attempts=0 duration=0.0 input_tokens=0 output_tokens=0 cache_write_tokens=0 cache_read_tokens=0 "
        "bytes_in=0 bytes_out=0"
    )
    assert None not in json.loads(as_json(refused)).values()


def test_an_open_door_has_a_principal_without_fingerprint() -> None:
    record = dataclasses.replace(ANSWERED, principal=Principal("open", "", b"", False))
    assert json.loads(as_json(record))["principal"] == "open"


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf"), -1.0])
def test_a_time_that_is_none_is_left_out(number: float) -> None:
    record = dataclasses.replace(ANSWERED, time=number, ttfb=number, duration=number)
    for names in (json.loads(as_json(record)).keys(), parsed(as_text(record)).keys()):
        assert not names & {"time", "ttfb", "duration"}
        assert "status" in names


@pytest.mark.parametrize(
    "forged",
    [
        "x status=500",
        'x" status=500 y="',
        "x\nstatus=500 outcome=answered",
        "x\r\n{}",
        "\x1b[2K\x1b[1Astatus=500",
        "x\u2028status=500",
        "\x7f\x85\x9b31m",
        '\\" status=500 \\',
        "=",
        "",
    ],
)
@pytest.mark.parametrize("field", ["session", "model_asked", "user_agent", "request_id"])
def test_a_client_cannot_forge_a_field_or_a_line(field: str, forged: str) -> None:
    record = dataclasses.replace(ANSWERED, **{field: forged})
    text = as_text(record)
    assert "status=500" not in text
    assert len(re.findall(r"status=", text)) == 1
    assert parsed(text).keys() == parsed(as_text(ANSWERED)).keys()
    assert parsed(text)[field] == json.loads(as_json(record))[field] == forged
    assert re.fullmatch(r"[ -~]+", text)
    assert re.fullmatch(r"[ -~]+", as_json(record))


def parsed(text: str) -> dict[str, str]:
    """The fields of a text line, as a reader that knows shell quoting finds them, strings decoded."""
    words = dict(word.split("=", 1) for word in re.findall(r'(?:[^ "]|"(?:[^"\\]|\\.)*")+', text))
    assert len(words) == len(shlex.split(text))
    return {name: json.loads(value) if value.startswith('"') else value for name, value in words.items()}


hostile = st.one_of(st.none(), st.text(st.characters(), max_size=300), st.just("🙂" * 5000))
times = st.floats(allow_nan=True)
numbers = st.integers(0, 2**63)
records = st.builds(
    AccessRecord,
    time=times,
    request_id=hostile.filter(lambda text: text is not None),
    outcome=st.one_of(st.sampled_from(Outcome), st.just(REFUSED)),
    duration=times,
    attempts=numbers,
    status=st.one_of(st.none(), st.integers(100, 599)),
    reason=hostile,
    kind=st.one_of(st.none(), st.sampled_from(CallKind)),
    stream=st.booleans(),
    provider=hostile,
    key=hostile,
    model_asked=hostile,
    model_sent=hostile,
    ttfb=st.one_of(st.none(), times),
    usage=st.builds(Usage, numbers, numbers, numbers, numbers),
    bytes_in=numbers,
    bytes_out=numbers,
    upstream_request_id=hostile,
    session=hostile,
    principal=st.one_of(st.none(), st.builds(Principal, st.just("bearer"), st.text(), st.just(b""), st.booleans())),
    client=hostile,
    user_agent=hostile,
)


@untimed
@given(records)
def test_a_line_is_one_bounded_line_of_printable_ascii(record: AccessRecord) -> None:
    for line in (as_json(record), as_text(record)):
        assert re.fullmatch(r"[ -~]+", line)
        assert len(line) < MAX_LINE


@untimed
@given(records)
def test_both_forms_carry_the_same_fields(record: AccessRecord) -> None:
    fields: dict[str, Any] = json.loads(as_json(record))
    words = parsed(as_text(record))
    assert list(words) == list(fields)
    for name, value in fields.items():
        assert words[name] == (value if isinstance(value, str) else json.dumps(value))


@untimed
@given(records)
def test_short_texts_come_through_unchanged_and_long_ones_are_cut(record: AccessRecord) -> None:
    fields = json.loads(as_json(record))
    for name in ("request_id", "model_asked", "session", "user_agent", "reason"):
        text = getattr(record, name)
        if text is None:
            assert name not in fields
        elif len(text) <= 100:
            assert units(fields[name]) == units(text)
        else:
            kept = fields[name]
            assert len(kept) <= 200
            assert units(kept) == units(text) or (kept.endswith("...") and units(text).startswith(units(kept[:-3])))


def units(text: str) -> bytes:
    """JSON's own view of a string: two surrogates in a row are the same as the character they spell."""
    return text.encode("utf-16-le", "surrogatepass")


def test_every_text_at_its_limit_stays_below_the_bound_of_a_line() -> None:
    texts = {
        field.name: "🙂" * 1000
        for field in dataclasses.fields(AccessRecord)
        if field.name != "time" and isinstance(getattr(ANSWERED, field.name), str)
    }
    record = dataclasses.replace(
        ANSWERED, **texts, reason="🙂" * 1000, principal=Principal("🙂" * 1000, "x", b"", False)
    )
    assert MAX_LINE * 0.8 < len(as_text(record)) < MAX_LINE
    assert MAX_LINE * 0.8 < len(as_json(record)) < MAX_LINE
