"""The parts of the status page that tell what has happened: figures and tables."""

from __future__ import annotations

from collections.abc import Sequence

from ccrelay.core.access import utc
from ccrelay.core.periods import Period, Sums
from ccrelay.core.status import Status
from ccrelay.web.drawing import columns
from ccrelay.web.wording import all_tokens, clock, mark, money, number, span, sum_of, text_of

_TOKENS = (("input", "f-one"), ("output", "f-two"), ("cache_write", "f-three"), ("cache_read", "f-four"))
_CALLS = (("answered", "f-good"), ("refused or left", "f-soft"), ("failed", "f-bad"))


ROWS = 50
"""Of the last calls shown: two screens; /status has them all."""


def figures(status: Status) -> str:
    """Calls by the minute, tokens and cost by the hour."""
    calls = [_column(p, _ends(p.sums), _CALLS) for p in status.minutes]
    tokens = [_column(p, p.sums.tokens(), _TOKENS) for p in status.hours]
    cost = [(f"{clock(p)}: {money(p.sums.cost)}", [("f-one", p.sums.cost)]) for p in status.hours]
    day = sum_of(status.hours)
    figures = (
        (f"Calls by the minute: {number(sum_of(status.minutes).calls)}", _CALLS, calls, status.minutes, number),
        (f"Tokens by the hour: {number(all_tokens(day))}", _TOKENS, tokens, status.hours, number),
        (f"Cost by the hour: {money(day.cost)}", (), cost, status.hours, money),
    )
    drawn = []
    for title, legend, stacks, periods, say in figures:
        keys = "".join(
            f"<span><span class=dot><svg viewBox='0 0 1 1'><rect class={kind} width=1 height=1 /></svg></span>"
            f"{name.replace('_', ' ')}</span>"
            for name, kind in legend
        )
        most = say(max(sum(amount for _, amount in parts) for _, parts in stacks))
        axis = (
            f"<div class='axis small soft'><span>{clock(periods[0])}</span><span>highest: {most}</span>"
            f"<span>{clock(periods[-1])} UTC</span></div>"
        )
        drawn.append(f"<figure><figcaption><b>{title}</b>{keys}</figcaption>{columns(stacks, title)}{axis}</figure>")
    return f"<div class=figures>{''.join(drawn)}</div>"


_LIVE_HEADS = ("", "provider", "model", "key", "#attempts", "#begun after", "#age", "#bytes", "client", "request")
_RECENT_HEADS = (
    "time",
    "outcome",
    "#status",
    "provider",
    "model",
    "#attempts",
    "#first byte",
    "#duration",
    "#input",
    "#output",
    "#written",
    "#cached",
    "#cost",
    "reason",
    "request",
)


def _ends(sums: Sums) -> tuple[tuple[str, int], ...]:
    left = sums.refused + sums.gone
    return (("answered", sums.answered), ("refused or left", left), ("failed", sums.failed))


def _column(
    period: Period, parts: Sequence[tuple[str, int]], legend: Sequence[tuple[str, str]]
) -> tuple[str, list[tuple[str, float]]]:
    title = ", ".join(f"{number(amount)} {name.replace('_', ' ')}" for name, amount in parts)
    styled = [(kind, float(amount)) for (_, kind), (_, amount) in zip(legend, parts, strict=True)]
    return f"{clock(period)}: {title}", styled


def live_table(status: Status) -> str:
    """The calls under way."""
    return _table("live", _LIVE_HEADS, _live_rows(status), "No call is under way.")


def recent_table(status: Status) -> str:
    """The calls that ended last."""
    return _table("recent", _RECENT_HEADS, _recent_rows(status), "No call has ended yet.")


def _live_rows(status: Status) -> list[Sequence[str]]:
    return [
        (
            "streaming" if call.ttfb is not None else "waiting",
            text_of(call.provider),
            text_of(call.model_sent or call.model_asked),
            f"<span class=mono>{text_of(call.key)}</span>",
            str(call.attempts),
            span(call.ttfb),
            span(call.age),
            number(call.bytes_out),
            text_of(call.client),
            text_of(call.request_id),
        )
        for call in status.live
    ]


def _recent_rows(status: Status) -> list[Sequence[str]]:
    return [
        (
            (utc(call.time) or "")[11:19],
            mark(call.outcome),
            text_of(call.status),
            text_of(call.provider),
            text_of(call.model),
            str(call.attempts),
            span(call.ttfb),
            span(call.duration),
            number(call.usage.input),
            number(call.usage.output),
            number(call.usage.cache_write),
            number(call.usage.cache_read),
            money(call.cost),
            text_of(call.reason),
            text_of(call.request_id),
        )
        for call in status.recent[:ROWS]
    ]


def _table(name: str, heads: Sequence[str], rows: Sequence[Sequence[str]], nothing: str) -> str:
    """heads: one with ``#`` in front stands over numbers. rows: cells as HTML."""
    styles = [" class=n" if head.startswith("#") else " class=long" if head == "reason" else "" for head in heads]
    top = "".join(
        f"<th{style if style == ' class=n' else ''}>{head.lstrip('#')}</th>"
        for head, style in zip(heads, styles, strict=True)
    )
    body = "".join(
        f"<tr>{''.join(f'<td{style}>{cell}</td>' for style, cell in zip(styles, row, strict=True))}</tr>"
        for row in rows
    )
    empty = f"<tr><td class=soft colspan={len(heads)}>{nothing}</td></tr>"
    return (
        f"<div class=scroll><table><thead><tr>{top}</tr></thead>"
        f"<tbody id={name} data-live>{body or empty}</tbody></table></div>"
    )
