"""The metrics: what is exposed is documented, and dashboard and alerts ask for nothing else."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from ccrelay.core.access import AccessRecord
from ccrelay.core.attempt_record import AttemptRecord
from ccrelay.core.model import CallKind, Usage
from ccrelay.core.outcomes import Outcome
from ccrelay.core.status import as_json
from ccrelay.web.metrics import exposition

from .test_admin import Admin

parser = pytest.importorskip("prometheus_client.parser")

DOCS = Path(__file__).resolve().parent.parent / "docs"
NAME = re.compile(r"\bccrelay_[a-z_]+\b")
_PARTS = re.compile(r"_(bucket|count|sum)$")


def busy() -> Admin:
    """A relay of which every metric has a value."""
    admin = Admin()
    for model in ("claude-opus-4-6", "unheard of"):
        admin.tally.call_ended(
            AccessRecord(
                time=1.8e9,
                request_id="r",
                outcome=Outcome.ANSWERED,
                duration=1.0,
                kind=CallKind.MESSAGES,
                provider="north",
                model_sent=model,
                ttfb=0.5,
                usage=Usage(1, 2, 3, 4),
                longest_gap=0.1,
            )
        )
    admin.tally.attempt_ended(
        AttemptRecord(
            time=1.8e9,
            request_id="r",
            number=1,
            provider="north",
            key=None,
            model="x",
            outcome=None,
            reason=None,
            status=200,
            duration=0.5,
            chosen_by="failover",
        )
    )
    admin.tally.late(0.001)
    return admin


def exposed() -> dict[str, set[str]]:
    """The label names of every sample of ours, by the sample's name without a histogram's endings."""
    admin = busy()
    content_type, body = exposition(admin.status(), admin.tally)
    assert content_type.startswith("text/plain")
    found: dict[str, set[str]] = {}
    for family in parser.text_string_to_metric_families(body.decode()):
        for sample in family.samples:
            if sample.name.startswith("ccrelay_"):
                found.setdefault(_PARTS.sub("", sample.name), set()).update(set(sample.labels) - {"le"})
    return found


def test_every_metric_and_its_labels_are_documented_and_no_other() -> None:
    documented = {}
    for line in (DOCS / "metrics.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        if len(cells) == 4 and cells[1] in ("counter", "gauge", "histogram"):
            for name in NAME.findall(cells[0]):
                documented[name] = set(re.findall(r"`(\w+)`", cells[2]))
    assert documented == exposed()


def test_a_histogram_ends_with_all_of_its_values() -> None:
    admin = busy()
    text = exposition(admin.status(), admin.tally)[1].decode()
    samples = [s for f in parser.text_string_to_metric_families(text) for s in f.samples]
    counts = {s.name: s.value for s in samples if s.name == "ccrelay_call_ttfb_seconds_count"}
    buckets = {s.labels["le"]: s.value for s in samples if s.name == "ccrelay_call_ttfb_seconds_bucket"}
    assert (counts["ccrelay_call_ttfb_seconds_count"], buckets["+Inf"], buckets["0.5"], buckets["0.25"]) == (2, 2, 2, 0)


def test_the_dashboard_asks_only_for_what_there_is() -> None:
    text = (DOCS / "grafana-dashboard.json").read_text()
    dashboard = json.loads(text)
    asked = {_PARTS.sub("", name) for name in NAME.findall(text)}
    assert asked and asked <= set(exposed())
    places = [panel["gridPos"] for panel in dashboard["panels"]]
    cells = [(x, y) for p in places for x in range(p["x"], p["x"] + p["w"]) for y in range(p["y"], p["y"] + p["h"])]
    assert len(cells) == len(set(cells)), "panels overlap"
    assert all(target["expr"] for panel in dashboard["panels"] for target in panel["targets"])


def test_the_alerts_ask_only_for_what_there_is() -> None:
    rules = [rule for group in yaml.safe_load((DOCS / "alerts.yaml").read_text())["groups"] for rule in group["rules"]]
    known = exposed()
    for rule in rules:
        assert {_PARTS.sub("", name) for name in NAME.findall(rule["expr"])} <= set(known), rule["alert"]
        used = set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"]))
        labels = set().union(*(known[_PARTS.sub("", name)] for name in NAME.findall(rule["expr"])))
        assert used <= labels, rule["alert"]
    assert len({rule["alert"] for rule in rules}) == len(rules) > 5


def test_every_field_of_the_status_is_documented() -> None:
    words = set(re.findall(r"`([a-z_]+)(?:\[\])?`|`[a-z]+\[\]\.([a-z_]+)\[\]`", (DOCS / "status.md").read_text()))
    known = {word for pair in words for word in pair if word}

    def fields(value: object) -> set[str]:
        if isinstance(value, dict):
            return set(value).union(*(fields(each) for each in value.values()))
        return set().union(*(fields(each) for each in value)) if isinstance(value, list) else set()

    assert fields(json.loads(as_json(busy().status()))) - known == set()
