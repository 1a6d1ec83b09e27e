"""What is read from rate-limit headers, and what is left out."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccrelay.core.rate_headers import LearnedLimits, LearnedWindow, UnifiedWindow, Window, limits_of

NOW = datetime(2026, 11, 3, 10, 0, 0, tzinfo=UTC)
EPOCH = NOW.timestamp()
REQUESTS = b"anthropic-ratelimit-requests-"


def in_seconds(seconds: float, zone: timezone = UTC) -> bytes:
    text = (NOW + timedelta(seconds=seconds)).astimezone(zone).isoformat()
    return text.replace("+00:00", "Z").encode()


def only_window(learned: LearnedLimits) -> LearnedWindow:
    (window,) = learned.windows
    return window


def test_an_answer_without_such_headers_tells_nothing() -> None:
    headers = ((b"content-type", b"text/event-stream"), (b"anthropic-organization-id", b"x"))
    assert limits_of(headers, EPOCH) == LearnedLimits()


@pytest.mark.parametrize(
    ("prefix", "window"),
    [
        (b"anthropic-ratelimit-requests", Window.REQUESTS),
        (b"anthropic-ratelimit-input-tokens", Window.INPUT),
        (b"anthropic-ratelimit-output-tokens", Window.OUTPUT),
        (b"anthropic-ratelimit-tokens", Window.COMBINED),
        (b"anthropic-priority-input-tokens", Window.PRIORITY_INPUT),
        (b"anthropic-priority-output-tokens", Window.PRIORITY_OUTPUT),
    ],
)
def test_every_class_is_read_from_its_own_headers(prefix: bytes, window: Window) -> None:
    headers = ((prefix + b"-limit", b"4000"), (prefix + b"-remaining", b"3999"), (prefix + b"-reset", in_seconds(21)))
    assert limits_of(headers, EPOCH) == LearnedLimits(windows=(LearnedWindow(window, 4000, 3999, 21.0),))


def test_a_subscriptions_quota_is_read_per_span_and_over_all() -> None:
    headers = (
        (b"anthropic-ratelimit-unified-status", b"allowed_warning"),
        (b"anthropic-ratelimit-unified-reset", b"%d" % (EPOCH + 100)),
        (b"anthropic-ratelimit-unified-5h-status", b"allowed"),
        (b"anthropic-ratelimit-unified-5h-utilization", b"0.25"),
        (b"anthropic-ratelimit-unified-5h-reset", b"%d" % (EPOCH + 100)),
        (b"anthropic-ratelimit-unified-7d-utilization", b"1.02"),
    )
    assert limits_of(headers, EPOCH).unified == (
        UnifiedWindow("", "allowed_warning", None, 100.0),
        UnifiedWindow("5h", "allowed", 0.25, 100.0),
        UnifiedWindow("7d", None, 1.02, None),
    )


def test_times_are_measured_by_the_upstreams_own_clock() -> None:
    upstream_is_ahead = NOW + timedelta(hours=2)
    headers = (
        (b"date", format_datetime(upstream_is_ahead, usegmt=True).encode()),
        (REQUESTS + b"reset", in_seconds(2 * 3600 + 30)),
    )
    assert only_window(limits_of(headers, EPOCH)).reset == 30.0


@pytest.mark.parametrize("zone", [UTC, timezone(timedelta(hours=5, minutes=30)), timezone(timedelta(hours=-8))])
def test_a_reset_may_be_given_in_any_zone_and_with_a_fraction(zone: timezone) -> None:
    assert only_window(limits_of(((REQUESTS + b"reset", in_seconds(1.5, zone)),), EPOCH)).reset == 1.5


@pytest.mark.parametrize(
    ("part", "value"),
    [
        (b"limit", b"0"),
        (b"limit", b"-1"),
        (b"limit", b"1e9"),
        (b"limit", b"50.5"),
        (b"limit", b"NaN"),
        (b"limit", b""),
        (b"limit", b"9" * 5000),
        (b"limit", "٣٤".encode()),
        (b"remaining", b"-3"),
        (b"remaining", b"infinity"),
        (b"remaining", b" 5"),
        (b"remaining", b"1_000"),
        (b"reset", b"soon"),
        (b"reset", b"1793700000"),
        (b"reset", b"2026-11-03"),
        (b"reset", b"2026-W45-2T10:00:00Z"),
        (b"reset", b"2026-11-03T10:01:00"),
        (b"reset", b"2026-13-03T10:01:00Z"),
        (b"reset", b"0001-01-01T00:00:00+23:59"),
        (b"reset", b"9999-12-31T23:59:59-23:59"),
        (b"reset", b"2026-11-03T10:01:00+99:00"),
        (b"reset", in_seconds(-3600)),
        (b"reset", in_seconds(32 * 86400)),
        (b"reset", "٢٠٢٦-11-03T10:01:00Z".encode()),
    ],
)
def test_an_absurd_value_is_left_out_and_named_and_the_others_count(part: bytes, value: bytes) -> None:
    good = {b"limit": b"50", b"remaining": b"7", b"reset": in_seconds(9)}
    learned = limits_of(tuple((REQUESTS + name, text) for name, text in (good | {part: value}).items()), EPOCH)
    expected = {b"limit": 50, b"remaining": 7, b"reset": 9.0} | {part: None}
    window = only_window(learned)
    assert (window.limit, window.remaining, window.reset) == tuple(expected.values())
    assert learned.ignored == ((REQUESTS + part).decode(),)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("5h-utilization", b"nan"),
        ("5h-utilization", b"-0.1"),
        ("7d-utilization", b"5000"),
        ("status", b"re jected"),
        ("status", b"x" * 100),
        ("reset", b"2026-11-03T10:01:00Z"),
        ("reset", b"99999999999"),
        ("5h-reset", b"12"),
    ],
)
def test_an_absurd_quota_is_left_out_and_named(name: str, value: bytes) -> None:
    full = f"anthropic-ratelimit-unified-{name}"
    assert limits_of(((full.encode(), value),), EPOCH) == LearnedLimits(ignored=(full,))


def test_a_reset_that_passed_on_the_way_is_neither_a_time_nor_absurd() -> None:
    learned = limits_of(((REQUESTS + b"limit", b"50"), (REQUESTS + b"reset", in_seconds(-2))), EPOCH)
    assert only_window(learned).reset is None
    assert learned.ignored == ()


def test_of_a_repeated_header_the_first_counts() -> None:
    headers = ((REQUESTS + b"limit", b"50"), (REQUESTS + b"limit", b"9"))
    assert only_window(limits_of(headers, EPOCH)).limit == 50


def used_up(window: Window, reset: float | None, remaining: int = 0) -> LearnedWindow:
    return LearnedWindow(window, 100, remaining, reset)


@pytest.mark.parametrize(
    ("learned", "seconds"),
    [
        (LearnedLimits(), None),
        (LearnedLimits((used_up(Window.INPUT, 30.0, remaining=1),)), None),
        (LearnedLimits((used_up(Window.INPUT, None),)), None),
        (LearnedLimits((used_up(Window.INPUT, 30.0),)), 30.0),
        (LearnedLimits((used_up(Window.INPUT, 30.0), used_up(Window.REQUESTS, 40.0))), 40.0),
        (LearnedLimits((used_up(Window.PRIORITY_INPUT, 30.0),)), None),
        (LearnedLimits(unified=(UnifiedWindow("", "rejected", None, 9.0),)), 9.0),
        (LearnedLimits(unified=(UnifiedWindow("", "rejected", None, None),)), None),
        (LearnedLimits(unified=(UnifiedWindow("5h", "rejected", 1.0, 9.0),)), 9.0),
        # Overage is being paid: the span is used up, the verdict lets requests through.
        (
            LearnedLimits(
                unified=(UnifiedWindow("", "allowed", None, 50.0), UnifiedWindow("5h", "rejected", 1.0, 9.0))
            ),
            None,
        ),
        (
            LearnedLimits(
                (used_up(Window.REQUESTS, 40.0),),
                (UnifiedWindow("", "rejected", None, None), UnifiedWindow("7d", "rejected", 1.0, 90.0)),
            ),
            90.0,
        ),
    ],
)
def test_a_key_is_useless_until_the_last_reset_of_what_is_used_up(
    learned: LearnedLimits, seconds: float | None
) -> None:
    rest = learned.rest()
    assert (rest[0] if rest else None) == seconds


NAMES = st.sampled_from(
    [f"anthropic-ratelimit-{window.value}-{part}" for window in Window for part in ("limit", "remaining", "reset")]
    + [f"anthropic-priority-input-tokens-{part}" for part in ("limit", "remaining", "reset")]
    + [
        f"anthropic-ratelimit-unified{span}-{part}"
        for span in ("", "-5h", "-7d")
        for part in ("status", "utilization", "reset")
    ]
    + ["date", "x-other"]
).map(str.encode)
VALUES = st.one_of(
    st.binary(max_size=40),
    st.integers(-(10**20), 10**20).map(lambda number: b"%d" % number),
    st.floats().map(lambda number: str(number).encode()),
    st.datetimes().map(lambda moment: moment.isoformat().encode() + b"Z"),
    st.datetimes().map(lambda moment: format_datetime(moment).encode()),
    st.sampled_from([b"allowed", b"rejected"]),
)


@given(st.lists(st.tuples(NAMES, VALUES), max_size=30))
def test_whatever_is_sent_only_sane_values_come_out_and_the_rest_is_named(headers: list[tuple[bytes, bytes]]) -> None:
    learned = limits_of(tuple(headers), EPOCH)
    for window in learned.windows:
        assert window.limit is None or 0 < window.limit < 10**11
        assert window.remaining is None or 0 <= window.remaining < 10**11
    for reset in [window.reset for window in learned.windows] + [quota.reset for quota in learned.unified]:
        assert reset is None or 0 < reset <= 31 * 86400
    for quota in learned.unified:
        assert quota.utilization is None or 0 <= quota.utilization < 100
    assert len(set(learned.ignored)) == len(learned.ignored)
    assert set(learned.ignored) <= {name.decode() for name, _ in headers}


@given(seconds=st.integers(1, 31 * 86400), limit=st.integers(1, 10**10), remaining=st.integers(0, 10**10))
def test_sane_values_come_through_exactly(seconds: int, limit: int, remaining: int) -> None:
    headers = (
        (REQUESTS + b"limit", b"%d" % limit),
        (REQUESTS + b"remaining", b"%d" % remaining),
        (REQUESTS + b"reset", in_seconds(seconds)),
    )
    assert only_window(limits_of(headers, EPOCH)) == LearnedWindow(Window.REQUESTS, limit, remaining, float(seconds))
