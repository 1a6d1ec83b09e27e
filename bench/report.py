"""The measurements of a run, and the tables made of them."""

from __future__ import annotations

import datetime as dt
import os
import statistics
from pathlib import Path
from typing import Any

from works import Work

PAGE = Path(__file__).resolve().parent.parent / "docs" / "performance.md"
BEGIN, END = "<!-- figures: written by bench/run.py -->\n", "<!-- end of figures -->\n"


class Results:
    """Everything measured, by proxy, work and kind of upstream; one dict of figures per repetition."""

    def __init__(self) -> None:
        self._all: dict[tuple[str, str, bool], list[dict[str, Any]]] = {}

    def add(self, name: str, work: Work, tls: bool, result: dict[str, Any]) -> None:
        self._all.setdefault((name, work.name, tls), []).append(result)

    def median(self, name: str, work: Work, tls: bool, figure: str) -> float | None:
        """Over the repetitions; None where nothing was measured."""
        found = [each[figure] for each in self._all.get((name, work.name, tls), []) if each[figure] is not None]
        return statistics.median(found) if found else None

    def largest(self, name: str, work: Work, tls: bool, figure: str) -> float:
        return max(each[figure] for each in self._all[name, work.name, tls])

    def last(self, name: str, tls: bool, figure: str) -> float:
        """As it was after everything: works and repetitions are kept in the order in which they ran."""
        figures = [runs[-1][figure] for (who, _, how), runs in self._all.items() if (who, how) == (name, tls)]
        return float(figures[-1])

    def failures(self) -> list[str]:
        """One line per run that lost or damaged something, with its first complaint."""
        return [
            f"{name}, {work}, {'TLS' if tls else 'plain'}: {len(run['failures'])} failed: {run['failures'][0]}"
            for (name, work, tls), runs in self._all.items()
            for run in runs
            if run["failures"]
        ]


def tables(results: Results, names: list[str], works: list[Work], versions: dict[str, str]) -> str:
    """The whole report in Markdown."""
    kinds = [(work, tls) for work in works for tls in (False, True)]
    ran = ", ".join(f"{name} {number}" for name, number in versions.items())
    streamed = [(work, tls) for work, tls in kinds if work.events]
    parts = [
        f"{dt.datetime.now(dt.UTC):%Y-%m-%d}, {os.cpu_count()} cores, Linux. {ran}.\n",
        "CPU time of the proxy per unit of work (medians), and its ratio to nginx with the same upstream:\n",
        _table(
            ["work", "upstream", *(head for name in names for head in _with_ratio(name))],
            [[work.title, _kind(tls), *_cpu(results, names, work, tls)] for work, tls in kinds],
        ),
    ]
    if streamed:
        parts += [
            "From the upstream's write of an event to the client's read of it, p50 / p99 in ms; *direct*: no proxy:\n",
            _delays(results, names, streamed, "delay"),
            "From the last byte of the request to the first byte of the answer, p50 / p99 in ms:\n",
            _delays(results, names, streamed, "first_byte"),
        ]
    resident = [
        [f"MB resident after all work, {_kind(tls)}"]
        + [f"{results.last(name, tls, 'memory') / 1e6:.0f}" for name in names]
        for tls in (False, True)
    ]
    per_stream = [
        [f"kB more per open stream with {work.at_once} open, {_kind(tls)}"]
        + [f"{results.largest(name, work, tls, 'per_stream') / 1e3:.0f}" for name in names]
        for work, tls in kinds
        if work.at_once >= 500
    ]
    parts += ["Memory:\n", _table(["", *names], resident + per_stream)]
    return "\n".join(parts)


def write(text: str) -> None:
    """Put the report between its marks in docs/performance.md."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    PAGE.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", encoding="utf-8")


def _with_ratio(name: str) -> list[str]:
    return [name] if name == "nginx" else [name, "x nginx"]


def _cpu(results: Results, names: list[str], work: Work, tls: bool) -> list[str]:
    nginx = results.median("nginx", work, tls, "cpu")
    cells = []
    for name in names:
        seconds = results.median(name, work, tls, "cpu") or 0.0
        cells.append(f"{seconds * 1e3:.2f} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.0f} us")
        if name != "nginx":
            cells.append(f"**{seconds / nginx:.2f}**" if nginx else "-")
    return cells


def _delays(results: Results, names: list[str], kinds: list[tuple[Work, bool]], figure: str) -> str:
    rows = [
        [work.title, _kind(tls), _pair(results, "direct", work, False, figure)]
        + [_pair(results, name, work, tls, figure) for name in names]
        for work, tls in kinds
    ]
    return _table(["work", "upstream", "direct", *names], rows)


def _pair(results: Results, name: str, work: Work, tls: bool, figure: str) -> str:
    both = (results.median(name, work, tls, f"{figure}_{share}") for share in ("p50", "p99"))
    return " / ".join("-" if value is None else f"{value / 1e6:.2f}" for value in both)


def _kind(tls: bool) -> str:
    return "TLS" if tls else "plain"


def _table(heads: list[str], rows: list[list[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
