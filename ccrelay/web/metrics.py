"""The metrics, in Prometheus's text format; ``docs/metrics.md`` says what each means.

Made from the status and the tally at each scrape, in a registry of its own: nothing is registered anywhere else, and
without the library the relay only lacks this page.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ccrelay.core.breaker import BreakerState
from ccrelay.core.histogram import Histogram
from ccrelay.core.key_pool import KeyState
from ccrelay.core.status import Provider, Status
from ccrelay.core.tally import Tally


class NoPrometheus(Exception):
    """prometheus_client is not installed; the text says how to get it."""


def exposition(status: Status, tally: Tally) -> tuple[str, bytes]:
    """Content type and body of ``/metrics``. Raises NoPrometheus."""
    try:
        import prometheus_client as prometheus
    except ImportError:
        message = "no prometheus_client: install python3-prometheus-client, or this project with its extra metrics"
        raise NoPrometheus(message) from None
    registry = prometheus.CollectorRegistry()
    registry.register(_Families(status, tally))
    prometheus.ProcessCollector(registry=registry)
    return prometheus.CONTENT_TYPE_LATEST, prometheus.generate_latest(registry)


class _Families:
    """A collector of one scrape."""

    def __init__(self, status: Status, tally: Tally) -> None:
        self._status = status
        self._tally = tally

    def describe(self) -> list[Any]:
        """Nothing to check for duplicates: the registry has no other collector of ours."""
        return []

    def collect(self) -> Iterator[Any]:
        yield from self._daemon()
        yield from self._calls()
        for provider_families in (self._providers(), self._keys()):
            yield from provider_families

    def _daemon(self) -> Iterator[Any]:
        daemon, routing = self._status.daemon, self._status.routing
        yield _gauge("build_info", "1, with the version of cc-relay", {(daemon.version,): 1}, "version")
        yield _gauge("start_time_seconds", "When the daemon started, Unix seconds", {(): daemon.started})
        yield _gauge("draining", "1 while the daemon ends its calls before it stops", {(): int(daemon.draining)})
        yield _gauge("client_connections", "Connections of clients", {(): daemon.clients})
        yield _gauge("calls_in_flight", "Calls under way", {(): self._status.in_flight})
        yield _gauge("amplification", "Upstream attempts per call over the last minute", {(): routing.amplification})
        reloads = {("accepted",): daemon.reloads, ("refused",): daemon.reload_failures}
        yield _counter("reloads", "Reloads of the configuration", reloads, "result")
        remembered = {
            ("sessions",): routing.sessions,
            ("questions",): routing.questions,
            ("signatures",): routing.signatures,
            ("refused_pairs",): routing.refused_pairs,
        }
        yield _gauge("remembered", "Entries in the bounded memories of routing", remembered, "what")
        yield _histograms("reactor_lag_seconds", "How late the reactor was, once a second", {None: self._tally.lag})

    def _calls(self) -> Iterator[Any]:
        tally = self._tally
        by_model = ("provider", "model")
        yield _counter("calls", "Calls that ended", tally.calls, "kind", "outcome", *by_model)
        yield _counter("attempts", "Upstream attempts that ended or committed", tally.attempts, *by_model, "outcome")
        yield _counter("tokens", "Tokens of calls that ended, as upstreams told", tally.tokens, *by_model, "class")
        yield _counter("cost_usd", "Cost of calls that ended, at list price", tally.cost, *by_model)
        yield _counter("unpriced_calls", "Calls with tokens whose price is not known", tally.unpriced, *by_model)
        sizes = {("in",): tally.bytes_in, ("out",): tally.bytes_out}
        yield _counter("body_bytes", "Body bytes from and to clients, of calls that ended", sizes, "direction")
        for name, text, known in (
            ("call_ttfb_seconds", "From a call's first byte to the answer's", tally.ttfb),
            ("call_duration_seconds", "From a call's first byte to its end", tally.duration),
            (
                "attempt_duration_seconds",
                "From an attempt's beginning to its commit or failure",
                tally.attempt_duration,
            ),
            ("stream_gap_seconds", "Each stream's longest silence between two pieces", tally.gap),
        ):
            yield _histograms(name, text, known)

    def _providers(self) -> Iterator[Any]:
        providers = self._status.providers

        def by_name(value: Any) -> dict[tuple[str, ...], float]:
            return {(provider.name,): value(provider) for provider in providers}

        yield _gauge(
            "provider_usable", "1 where a call might be answered", by_name(lambda p: int(p.usable)), "provider"
        )
        yield _gauge("attempts_in_flight", "Attempts under way", by_name(lambda p: p.in_flight), "provider")
        yield _gauge("open_streams", "Answers that have begun and not ended", by_name(lambda p: p.streams), "provider")
        states = {
            (p.name, state.value): int(p.circuit.state == state.value) for p in providers for state in BreakerState
        }
        yield _gauge("breaker_state", "1 for the state that a breaker is in", states, "provider", "state")
        connections: dict[tuple[str, ...], float] = {}
        for provider in providers:
            if provider.connections is not None:
                connections[provider.name, "busy"] = provider.connections.busy
                connections[provider.name, "idle"] = provider.connections.idle
        yield _gauge("upstream_connections", "Connections to upstreams", connections, "provider", "state")

    def _keys(self) -> Iterator[Any]:
        states: dict[tuple[str, ...], float] = {}
        limits: dict[tuple[str, ...], float] = {}
        remaining: dict[tuple[str, ...], float] = {}
        waits: dict[tuple[str, ...], float] = {}
        for provider, key in _keys_of(self._status.providers):
            for state in KeyState:
                states[provider, key.id, state.value] = int(key.state == state.value)
            waits[provider, key.id] = key.wait or 0.0
            for limit in key.limits:
                if limit.limit is not None:
                    limits[provider, key.id, limit.name] = limit.limit
                if limit.remaining is not None:
                    remaining[provider, key.id, limit.name] = limit.remaining
        named = ("provider", "key")
        yield _gauge("key_state", "1 for the state that a key is in", states, *named, "state")
        yield _gauge("key_wait_seconds", "Until a key may be used; 0: now", waits, *named)
        yield _gauge("key_limit", "A key's limit per minute", limits, *named, "limit")
        yield _gauge("key_remaining", "What is left of a key's limit", remaining, *named, "limit")


def _keys_of(providers: tuple[Provider, ...]) -> Iterator[tuple[str, Any]]:
    for provider in providers:
        for key in provider.keys:
            yield provider.name, key


def _gauge(name: str, text: str, values: Mapping[Any, float], *labels: str) -> Any:
    from prometheus_client.core import GaugeMetricFamily

    return _filled(GaugeMetricFamily(f"ccrelay_{name}", text, labels=labels), values)


def _counter(name: str, text: str, values: Mapping[Any, float], *labels: str) -> Any:
    from prometheus_client.core import CounterMetricFamily

    return _filled(CounterMetricFamily(f"ccrelay_{name}", text, labels=labels), values)


def _filled(family: Any, values: Mapping[Any, float]) -> Any:
    for names, value in sorted(values.items()):
        family.add_metric(names, value)
    return family


def _histograms(name: str, text: str, known: Mapping[Any, Histogram]) -> Any:
    """known: by provider; None: there is one of it."""
    from prometheus_client.core import HistogramMetricFamily
    from prometheus_client.utils import floatToGoString

    family = HistogramMetricFamily(f"ccrelay_{name}", text, labels=() if None in known else ("provider",))
    for provider, histogram in known.items():
        bounds = [*(floatToGoString(bound) for bound in histogram.bounds), "+Inf"]
        buckets = list(zip(bounds, histogram.cumulative(), strict=True))
        family.add_metric(() if provider is None else (provider,), buckets, histogram.sum)
    return family
