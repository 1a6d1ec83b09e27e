"""An attempt as a line of the log."""

from __future__ import annotations

import json
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from ccrelay.core.access import MAX_LINE, MAX_TEXT, as_json, as_text
from ccrelay.core.attempt_record import MAX_LIST, AttemptRecord
from ccrelay.core.outcomes import Outcome
from ccrelay.core.router import Drop, Why

COMMITTED = AttemptRecord(
    time=1_800_000_000.25,
    request_id="req-1",
    number=2,
    provider="north",
    key="6ab9f1eb",
    model="claude-opus-5-5",
    outcome=None,
    reason=None,
    status=200,
    duration=1.25,
    chosen_by="failover",
)
FAILED = replace(
    COMMITTED,
    key=None,
    outcome=Outcome.PROVIDER_ILL,
    reason="connection refused",
    status=None,
    passed_over=[Drop("south", Why.KEYS, "all keys cooling"), Drop("west", Why.CIRCUIT, "is ill (circuit open)")],
    changed=["context-management", "2 thinking blocks"],
)


def test_a_committed_attempt_says_nothing_that_is_not_known() -> None:
    assert json.loads(as_json(COMMITTED)) == {
        "time": "2027-01-15T08:00:00.250Z",
        "request_id": "req-1",
        "attempt": 2,
        "provider": "north",
        "key": "6ab9f1eb",
        "model_sent": "claude-opus-5-5",
        "outcome": "committed",
        "status": 200,
        "duration": 1.25,
        "chosen_by": "failover",
    }


def test_a_failed_attempt_says_why_and_who_was_passed_over_and_what_was_left_out() -> None:
    found = json.loads(as_json(FAILED))
    assert "key" not in found
    assert "status" not in found
    assert (found["outcome"], found["reason"]) == ("provider_ill", "connection refused")
    assert found["passed_over"] == "south all keys cooling; west is ill (circuit open)"
    assert found["left_out"] == "context-management, 2 thinking blocks"


@given(text=st.text(max_size=3000), many=st.integers(0, 400))
def test_whatever_a_client_calls_a_model_a_line_stays_one_short_line(text: str, many: int) -> None:
    drop = Drop("north", Why.MODEL, f"does not serve {text}")
    record = replace(FAILED, model=text, request_id=text, passed_over=[drop] * many, changed=[text] * many)
    for line in (as_json(record), as_text(record)):
        assert len(line.splitlines()) == 1
        assert len(line.encode()) < MAX_LINE
    found = record.fields()
    assert len(str(found.get("model_sent", ""))) <= MAX_TEXT
    assert len(str(found.get("passed_over", ""))) <= MAX_LIST
