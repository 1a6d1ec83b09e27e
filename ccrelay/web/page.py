"""The status page for people: whole without JavaScript, fresh with it, and nothing from outside.

Rules of this file:
- Every text goes through ``text_of`` on its way into the page: model names, ids and reasons are what a client or an
  upstream made them.
- A state is told by a word, never by colour alone.
- What the script may replace has an id and ``data-live``; what scrolls is around it, so that it stays where it was.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import importlib.resources
from collections.abc import Sequence

from ccrelay.core.access import utc
from ccrelay.core.model import Headers
from ccrelay.core.status import Key, Limit, Provider, Status
from ccrelay.web.drawing import bar, burn_down
from ccrelay.web.history import figures, live_table, recent_table
from ccrelay.web.wording import KINDS, all_tokens, mark, money, number, span, sum_of, text_of

_COOL_DOWN = 60.0
"""Seconds that fill the bar of a cool-down: that of a 429 which names no time. A longer one starts full."""


def page(status: Status) -> bytes:
    """The document, UTF-8."""
    parts = (
        ("tiles", "", _tiles(status)),
        ("providers", "Providers and keys", _providers(status.providers)),
        ("figures", "Last hour, last day", figures(status)),
    )
    sections = "".join(
        f"{f'<h2>{title}</h2>' if title else ''}<section id={name} data-live>{content}</section>"
        for name, title, content in parts
    )
    text = (
        "<!DOCTYPE html><html lang=en><head><meta charset=utf-8><title>cc-relay</title>"
        '<meta name=viewport content="width=device-width, initial-scale=1">'
        "<noscript><meta http-equiv=refresh content=10></noscript>"
        f"<style>{_asset('page.css')}</style></head><body>"
        f"<header><h1>cc-relay</h1><div id=state data-live role=status>{_state(status)}</div></header><main>{sections}"
        f"<h2>Calls under way</h2>{live_table(status)}<h2>Last calls</h2>{recent_table(status)}"
        "<p class=small><a href=/status>status as JSON</a> · <a href=/metrics>metrics</a></p></main>"
        f"<script>{_asset('page.js')}</script></body></html>"
    )
    return text.encode()


def security_headers() -> Headers:
    """What goes with the page: nothing but its own style and script may run, and nobody may frame it."""
    policy = (
        f"default-src 'none'; style-src '{_digest('page.css')}'; script-src '{_digest('page.js')}'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return ((b"content-security-policy", policy.encode("ascii")), (b"referrer-policy", b"no-referrer"))


@functools.cache
def _asset(name: str) -> str:
    return importlib.resources.files("ccrelay.data").joinpath(name).read_text("utf-8")


def _digest(name: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(_asset(name).encode()).digest()).decode("ascii")


# -- the head


def _state(status: Status) -> str:
    daemon = status.daemon
    told = [
        mark(status.health),
        f"version {text_of(daemon.version)}",
        f"up {span(daemon.time - daemon.started)}",
        f"reactor {1000 * daemon.lag:.1f} ms late",
        text_of(utc(daemon.time)),
    ]
    if daemon.reload_error is not None:
        told.append(f'<span class="mark bad">not reloaded: {text_of(daemon.reload_error)}</span>')
    return " · ".join(told)


def _tiles(status: Status) -> str:
    hour = sum_of(status.minutes)
    begun = sum(provider.streams for provider in status.providers)
    share = f"{100 * hour.answered / hour.calls:.1f} % answered" if hour.calls else "no call yet"
    priced = f"without a price: {number(hour.unpriced)} calls" if hour.unpriced else "at list price"
    tiles = (
        ("Calls under way", number(status.in_flight), f"{begun} answers have begun"),
        ("Calls, last hour", number(hour.calls), share),
        ("Failed, last hour", number(hour.failed), f"clients that left: {number(hour.gone)}"),
        ("Tokens, last hour", number(all_tokens(hour)), f"{number(hour.output_tokens)} output"),
        ("Cost, last hour", money(hour.cost), priced),
        (
            "Attempts per call",
            f"{status.routing.amplification:.2f}",
            f"last minute, {text_of(status.routing.strategy)}",
        ),
    )
    drawn = "".join(
        f"<div class=tile><span class=soft>{name}</span><b>{value}</b><span class='small soft'>{more}</span></div>"
        for name, value, more in tiles
    )
    return f"<div class=tiles>{drawn}</div>"


# -- providers


def _providers(providers: Sequence[Provider]) -> str:
    return f"<div class=cards>{''.join(_provider(provider) for provider in providers)}</div>"


def _provider(provider: Provider) -> str:
    circuit, sums = provider.circuit, provider.sums
    told = [f"{provider.in_flight} under way", f"{provider.streams} streams"]
    if provider.connections is not None:
        told.append(f"connections: {provider.connections.busy} busy, {provider.connections.idle} idle")
    told += [f"{number(sums.calls)} calls", f"{number(all_tokens(sums))} tokens", money(sums.cost)]
    if sums.unpriced:
        told.append(f"without a price: {number(sums.unpriced)} calls")
    wait = f" for {span(circuit.until)}" if circuit.until is not None else ""
    failures = f", {circuit.failures} failures in a row" if circuit.failures else ""
    usable = "" if provider.usable else '<span class="mark bad">not usable</span>'
    return (
        f"<article class=card><div><h3>{text_of(provider.name)}</h3><span class=soft>{text_of(provider.type)}, "
        f"priority {provider.priority}</span>{usable}</div>"
        f"<div><span class='small soft'>circuit</span>{mark(circuit.state)}"
        f"<span class='small soft'>{wait}{failures}</span></div>"
        f"<p class='small soft'>{' · '.join(told)}</p>"
        f"{''.join(_key(key) for key in provider.keys)}</article>"
    )


def _key(key: Key) -> str:
    wait = key.wait or 0.0
    waiting = ""
    if wait > 0:
        text = f"{span(wait)} to go: {key.reason}" if key.reason else f"{span(wait)} to go"
        drawn = bar(wait / _COOL_DOWN, KINDS.get(key.state, "bad"), text)
        waiting = f"<span class='small soft'>{text_of(text)}</span>{drawn}"
    name = f"<span class=mono>{text_of(key.id)}</span>" if key.id else "<span>no key needed</span>"
    busy = f"<span class='small soft'>{key.in_flight} under way</span>"
    return f"<div class=key>{name}{mark(key.state)}{busy}{waiting}{''.join(_limit(each) for each in key.limits)}</div>"


def _limit(limit: Limit) -> str:
    share = limit.remaining / limit.limit if limit.limit and limit.remaining is not None else 0.0
    left = f"{number(limit.remaining)} / {number(limit.limit)}"
    kind = "good" if share > 0.25 else "warn" if share > 0.05 else "bad"
    title = f"{left} left of {limit.name}, full in {span(limit.reset)}"
    history = burn_down(limit.history, f"what was left of {limit.name} over the last quarter of an hour")
    name = text_of(limit.name.replace("_", " "))
    return (
        f"<div class=limit><span class='small soft'>{name}</span>{bar(share, kind, title)}"
        f"<span class=small>{left}</span>{history}</div>"
    )
