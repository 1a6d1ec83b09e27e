"""Listen addresses, with Twisted's own parser as the judge of what they mean."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.endpoints import serverFromString
from twisted.internet.testing import MemoryReactor

from ccrelay.core.config_listen import ListenError, Reach, parse_listener

PORTS = st.integers(0, 65535)


def heard_by_twisted(endpoint: str) -> tuple[int, str]:
    """The port and the interface that Twisted takes from an endpoint string."""
    parsed: Any = serverFromString(MemoryReactor(), endpoint)
    return parsed._port, parsed._interface


@given(PORTS, st.ip_addresses())
def test_an_address_and_port_means_the_same_to_twisted(port: int, address: Any) -> None:
    host = f"[{address}]" if address.version == 6 else str(address)
    listener = parse_listener(f"{host}:{port}")

    assert heard_by_twisted(listener.endpoint) == (port, str(address))
    assert listener.reach is (Reach.LOCAL if address.is_loopback else Reach.BEYOND)


@pytest.mark.parametrize(
    ("text", "endpoint", "reach"),
    [
        ("127.0.0.1:8787", "tcp:8787:interface=127.0.0.1", Reach.LOCAL),
        ("127.9.9.9:1", "tcp:1:interface=127.9.9.9", Reach.LOCAL),
        ("localhost:0", "tcp:0:interface=127.0.0.1", Reach.LOCAL),
        ("[::1]:8787", r"tcp6:8787:interface=\:\:1", Reach.LOCAL),
        (":8787", "tcp:8787", Reach.BEYOND),
        ("0.0.0.0:8787", "tcp:8787:interface=0.0.0.0", Reach.BEYOND),
        ("[::]:8787", r"tcp6:8787:interface=\:\:", Reach.BEYOND),
        ("relay.internal:80", "tcp:80:interface=relay.internal", Reach.BEYOND),
        ("127.0.0.1.evil.example:80", "tcp:80:interface=127.0.0.1.evil.example", Reach.BEYOND),
        ("tcp:8787", "tcp:8787", Reach.BEYOND),
        ("tcp:8787:interface=127.0.0.1", "tcp:8787:interface=127.0.0.1", Reach.LOCAL),
        ("tcp:8787:127.0.0.1", "tcp:8787:127.0.0.1", Reach.LOCAL),
        ("tcp:port=8787:interface=127.0.0.1", "tcp:port=8787:interface=127.0.0.1", Reach.LOCAL),
        ("tcp:8787:interface=localhost", "tcp:8787:interface=localhost", Reach.LOCAL),
        (r"tcp6:8787:interface=\:\:1", r"tcp6:8787:interface=\:\:1", Reach.LOCAL),
        ("tcp6:8787", "tcp6:8787", Reach.BEYOND),
        ("ssl:443:privateKey=/k", "ssl:443:privateKey=/k", Reach.BEYOND),
        ("ssl:443:privateKey=/k:interface=127.0.0.1", "ssl:443:privateKey=/k:interface=127.0.0.1", Reach.LOCAL),
        ("tls:/certs:8443", "tls:/certs:8443", Reach.BEYOND),
        ("tls:/certs", "tls:/certs", Reach.BEYOND),
        (r"tls:/certs:8443:interface=\:\:1", r"tls:/certs:8443:interface=\:\:1", Reach.LOCAL),
        ("unix:/run/relay.sock:mode=660", "unix:/run/relay.sock:mode=660", Reach.LOCAL),
        ("systemd:domain=UNIX:index=0", "systemd:domain=UNIX:index=0", Reach.LOCAL),
        ("systemd:UNIX:index=0", "systemd:UNIX:index=0", Reach.LOCAL),
        ("systemd:domain=INET:name=http", "systemd:domain=INET:name=http", Reach.UNKNOWN),
        ("haproxy:tcp:8787:interface=127.0.0.1", "haproxy:tcp:8787:interface=127.0.0.1", Reach.LOCAL),
        ("haproxy:tcp:8787", "haproxy:tcp:8787", Reach.BEYOND),
        ("quic:port=443", "quic:port=443", Reach.UNKNOWN),
    ],
)
def test_what_an_address_becomes_and_who_can_reach_it(text: str, endpoint: str, reach: Reach) -> None:
    listener = parse_listener(text)

    assert (listener.endpoint, listener.reach) == (endpoint, reach)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "must be host:port"),
        ("8787", "must be host:port"),
        ("127.0.0.1", "must be host:port"),
        ("127.0.0.1:", "must be host:port"),
        ("127.0.0.1:http", "must be host:port"),
        ("local host:80", "must be host:port"),
        ("127.0.0.1:-1", "must be host:port"),
        ("127.0.0.1:65536", "between 0 and 65535"),
        ("127.0.0.1:" + "9" * 5000, "between 0 and 65535"),
        ("tcp:99999:interface=127.0.0.1", "between 0 and 65535"),
        ("tcp:http", "between 0 and 65535"),
        ("::1:8787", "needs brackets"),
        ("[1:2]:80", "not an IPv6 address"),
        ("http://127.0.0.1:8787", "is a URL"),
    ],
)
def test_what_is_no_address_is_refused(text: str, reason: str) -> None:
    with pytest.raises(ListenError, match=reason):
        parse_listener(text)


@given(st.text(alphabet="tcp6:unixsyd=\\[]127.0/", max_size=30))
def test_any_text_is_an_address_or_refused(text: str) -> None:
    with contextlib.suppress(ListenError):
        assert parse_listener(text).endpoint


@given(PORTS, st.sampled_from(["127.0.0.1", "0.0.0.0", "10.0.0.1"]), st.booleans())
def test_what_is_taken_for_loopback_is_loopback_to_twisted(port: int, host: str, positional: bool) -> None:
    text = f"tcp:{port}:{host}" if positional else f"tcp:{port}:interface={host}"

    assert (parse_listener(text).reach is Reach.LOCAL) == heard_by_twisted(text)[1].startswith("127.")
