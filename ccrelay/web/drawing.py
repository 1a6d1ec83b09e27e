"""Small SVG pictures for the status page: no script, no colour of their own (the style sheet has it by class)."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from ccrelay.core.burndown import POINTS


def burn_down(history: Sequence[float], title: str) -> str:
    """How the share left of a limit went, the newest at the right; history: shares 0..1, oldest first."""
    if len(history) < 2:
        return ""
    shown = history[-POINTS:]
    width = max(len(shown), POINTS // 5) - 1  # less than three minutes are not drawn as if they were fifteen
    first = width + 1 - len(shown)
    points = [(first + at, round(19 - 18 * share, 1)) for at, share in enumerate(shown)]
    line = " ".join(f"{x},{y}" for x, y in points)
    area = f"{points[0][0]},20 {line} {points[-1][0]},20"
    return (
        f'<svg class="burn" viewBox="0 0 {width} 20" preserveAspectRatio="none" role="img">'
        f'<title>{escape(title)}</title><polygon points="{area}"/><polyline points="{line}"/></svg>'
    )


def bar(share: float, kind: str, title: str) -> str:
    """A filled share 0..1 of a bar; kind: a class of the style sheet."""
    width = round(100 * min(1.0, max(0.0, share)), 1)
    return (
        f'<svg class="bar {kind}" viewBox="0 0 100 6" preserveAspectRatio="none" role="img">'
        f'<title>{escape(title)}</title><rect class="track" width="100" height="6"/>'
        f'<rect class="fill" width="{width}" height="6"/></svg>'
    )


def columns(stacks: Sequence[tuple[str, Sequence[tuple[str, float]]]], title: str) -> str:
    """A column for each of ``stacks``: its title, and its parts from the bottom up as (class, amount)."""
    most = max((sum(amount for _, amount in parts) for _, parts in stacks), default=0.0)
    drawn = []
    for place, (name, parts) in enumerate(stacks):
        bottom = 60.0
        rects = []
        for kind, amount in parts:
            height = round(58 * amount / most, 2) if most else 0.0
            if height > 0:
                bottom -= height
                rects.append(
                    f'<rect class="{kind}" x="{place * 10 + 1}" y="{bottom:.2f}" width="8" height="{height}"/>'
                )
        whole = f'<rect class="hit" x="{place * 10}" width="10" height="60"/>'
        drawn.append(f"<g><title>{escape(name)}</title>{whole}{''.join(rects)}</g>")
    return (
        f'<svg class="columns" viewBox="0 0 {len(stacks) * 10} 61" preserveAspectRatio="none" role="img">'
        f"<title>{escape(title)}</title>{''.join(drawn)}"
        f'<rect class="base" y="60" width="{len(stacks) * 10}" height="0.6"/></svg>'
    )
