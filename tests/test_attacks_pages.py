"""Pages in the browser of whoever runs the relay: they reach its loopback listener without knowing any secret."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.address import IPv4Address

from .web_rig import Web, head

LOOPBACK = IPv4Address("TCP", "127.0.0.1", 8787)
ELSEWHERE = IPv4Address("TCP", "192.168.1.5", 8787)


def status(origin: str, local: Any = LOOPBACK, **server: Any) -> int:
    request = head(b"GET", b"/health", b"Origin: " + origin.encode(), host=b"127.0.0.1:8787")
    return Web(**server).ask(request, host=local).status


@pytest.mark.parametrize(
    "origin",
    ["https://evil.example", "http://evil.example:8787", "HTTPS://EVIL.example", "null", "http://", "https://[::2]"],
)
def test_a_page_of_the_web_cannot_make_a_loopback_relay_do_anything(origin: str) -> None:
    assert status(origin) == 403


@pytest.mark.parametrize(
    "origin", ["http://localhost:3000", "http://127.0.0.1", "https://[::1]:8443", "vscode-file://app"]
)
def test_programs_on_this_machine_may_ask_from_their_pages(origin: str) -> None:
    assert status(origin) == 200


def test_pages_can_be_allowed_and_other_listeners_have_their_own_authentication() -> None:
    assert status("https://chat.example", allowed_hosts=("chat.example",)) == 200
    assert status("https://evil.example", ELSEWHERE) == 200
