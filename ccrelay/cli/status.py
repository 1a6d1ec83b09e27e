"""``cc-relay status`` and ``top``: the status document of a running relay (``core.status``), for people."""

from __future__ import annotations

import argparse
import http.client
import json
import re
import socket
import sys
import time
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from ccrelay.cli.refusal import Refusal
from ccrelay.cli.text import printable, shortened

_PATIENCE: Final = 5.0
"""Seconds for a relay on this machine to answer."""

_MOST: Final = 1 << 24
"""Bytes of a document: a thousand providers with their keys stay below."""

_CLEAR: Final = "\x1b[H\x1b[2J"


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=_PATIENCE)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(_PATIENCE)
        self.sock.connect(self._path)


def run(arguments: argparse.Namespace) -> int:
    """Print the status once, or again and again. Returns 1 if the relay says that it is not well."""
    address = arguments.url or _configured(arguments.config)
    if not arguments.repeat:
        document = fetch(address)
        print(json.dumps(document, indent=2) if arguments.json else "\n".join(as_text(document)))
        return 0 if document["health"] == "ok" else 1
    while True:
        text = "\n".join(as_text(fetch(address)))
        print(f"{_CLEAR}{text}" if sys.stdout.isatty() else f"{text}\n", flush=True)
        time.sleep(arguments.interval)


def fetch(address: str) -> Mapping[str, Any]:
    """The status document. address: the admin listener's, as an http URL or ``unix:PATH``.

    Raises Refusal where there is none to be had.
    """
    try:
        connection = _connection(address)
        try:
            connection.request("GET", "/status")
            response = connection.getresponse()
            document = json.loads(response.read(_MOST))
        finally:
            connection.close()
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise Refusal(f"{address}: no status ({reason}); is the relay running, with admin.listen?") from None
    except ValueError:
        raise Refusal(f"{address}: what answers is no status; is it the admin listener?") from None
    if response.status != 200 or not isinstance(document, dict) or "health" not in document:
        raise Refusal(f"{address}: what answers is no status ({response.status}); is it the admin listener?")
    return document


def _connection(address: str) -> http.client.HTTPConnection:
    if address.startswith("unix:"):
        return _UnixConnection(address.removeprefix("unix:"))
    parts = urlsplit(address)
    if parts.scheme != "http" or not parts.hostname:
        raise Refusal(f"{address}: must be an http URL or unix:PATH")
    return http.client.HTTPConnection(parts.hostname, parts.port or 80, timeout=_PATIENCE)


def _configured(named: str | None) -> str:
    from ccrelay.cli.configuration import configuration_path, settings_of

    listening = settings_of(named).admin_listen
    if not listening:
        path = configuration_path(named)
        raise Refusal(f"{path}: has no admin.listen; set it, such as 127.0.0.1:8788, or give --url")
    return address_of(listening[0])


def address_of(endpoint: str) -> str:
    """Where clients of a Twisted endpoint string connect. Raises Refusal for one that does not say."""
    kind, *parts = [part.replace("\\", "") for part in re.split(r"(?<!\\):", endpoint)]
    named = dict(part.split("=", 1) for part in parts if "=" in part)
    plain = [part for part in parts if "=" not in part]
    if kind == "unix":
        return f"unix:{named.get('address') or plain[0]}"
    if kind in ("tcp", "tcp6"):
        host = named.get("interface") or "127.0.0.1"
        return f"http://{f'[{host}]' if ':' in host else host}:{named.get('port') or plain[0]}"
    raise Refusal(f"admin.listen {endpoint} does not say where to connect; give --url")


def as_text(document: Mapping[str, Any]) -> list[str]:
    """The document in lines: the relay, its providers with their keys, what is under way, and what ended last."""
    daemon, total = document["daemon"], document["total"]
    calls = f"{total['calls']} calls, {total['answered']} answered, {total['failed']} failed, ${total['cost']:.2f}"
    up = f"up {_span(daemon['uptime'])}, {document['in_flight']} calls under way"
    lines = [f"cc-relay {daemon['version']}: {document['health']}, {up}; since the start {calls}"]
    if daemon["reload_error"]:
        lines.append(f"the last reload was refused: {_cut(daemon['reload_error'])}")
    for provider in document["providers"]:
        usable = "usable" if provider["usable"] else "unusable"
        lines.append(
            f"  {_cut(provider['name'])} ({provider['type']}): {usable}, circuit {provider['circuit']['state']}, "
            f"{provider['in_flight']} in flight, {provider['sums']['calls']} calls"
        )
        lines += [f"    {_key(key)}" for key in provider["keys"] if key["id"]]
    lines += [
        f"  now {_span(call['age'])} {_cut(call['model_asked'])} at {_cut(call['provider'])}"
        for call in document["live"]
    ]
    for call in document["recent"][:10]:
        why = f" ({_cut(call['reason'])})" if call["reason"] else ""
        lines.append(
            f"  {call['time']} {call['outcome']} {_cut(call['model'])} at {_cut(call['provider'])} "
            f"in {call['duration']:.1f} s{why}"
        )
    return lines


def _key(key: Mapping[str, Any]) -> str:
    wait = f" for {_span(key['wait'])}" if key["wait"] else ""
    why = f" ({_cut(key['reason'])})" if key["reason"] else ""
    limits = [
        f"{each['name']} {each['remaining']}/{each['limit']}" for each in key["limits"] if each["limit"] is not None
    ]
    return f"key {key['id']}: {key['state']}{wait}{why}{', ' if limits else ''}{', '.join(limits)}"


def _cut(text: str | None) -> str:
    """What clients and upstreams may have written."""
    return shortened(printable(text), 100) if text else "-"


def _span(seconds: float) -> str:
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    return f"{whole // 60} min" if whole < 7200 else f"{whole // 3600} h"
