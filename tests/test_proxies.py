"""Which proxy an upstream is reached through."""

from __future__ import annotations

import pytest

from ccrelay.core.proxies import proxy_for

API = "https://api.example.com"
PROXY = {"HTTPS_PROXY": "http://proxy:3128"}


def test_a_providers_own_proxy_wins_over_the_environment() -> None:
    assert proxy_for(API, "http://own:1", {**PROXY, "NO_PROXY": "*"}) == "http://own:1"


def test_the_environment_applies_to_https_only() -> None:
    assert proxy_for(API, None, PROXY) == "http://proxy:3128"
    assert proxy_for(API, None, {"https_proxy": "http://lower:1"}) == "http://lower:1"
    assert proxy_for("http://localhost:11434", None, PROXY) is None
    assert proxy_for(API, None, {}) is None


@pytest.mark.parametrize(
    ("no_proxy", "direct"),
    [
        ("*", True),
        ("example.com", True),
        (".example.com", True),
        ("*.example.com", True),
        ("api.example.com", True),
        ("API.EXAMPLE.COM", True),
        ("other.com, example.com", True),
        ("api.example.com:443", True),
        ("api.example.com:8443", False),
        ("ample.com", False),
        ("other.com", False),
        ("", False),
        (",,", False),
    ],
)
def test_no_proxy_names_hosts_and_domains(no_proxy: str, direct: bool) -> None:
    assert (proxy_for(API, None, {**PROXY, "NO_PROXY": no_proxy}) is None) is direct
