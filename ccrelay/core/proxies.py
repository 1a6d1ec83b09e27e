"""Which forward proxy a provider is reached through: its own setting, else what the environment says."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit


def proxy_for(base_url: str, configured: str | None, environ: Mapping[str, str]) -> str | None:
    """The ``http://host:port`` of the CONNECT proxy for ``base_url``, or None to connect directly.

    From the environment it may also hold ``name:password@``, which belongs to the proxy alone: never log it.

    configured: the provider's ``proxy``; it wins. Otherwise ``HTTPS_PROXY`` (or in lower case) applies to https
    URLs, unless ``NO_PROXY`` names the host: by itself, by a domain suffix with or without a leading dot, with an
    optional ``:port``, or everything by ``*``.
    """
    if configured:
        return configured
    url = urlsplit(base_url)
    proxy = environ.get("HTTPS_PROXY") or environ.get("https_proxy")
    if url.scheme != "https" or not proxy:
        return None
    host, port = (url.hostname or "").lower(), url.port or 443
    for entry in (environ.get("NO_PROXY") or environ.get("no_proxy") or "").lower().split(","):
        name, _, entry_port = entry.strip().partition(":")
        name = name.removeprefix("*").removeprefix(".")
        if entry.strip() == "*":
            return None
        if name and (host == name or host.endswith("." + name)) and entry_port in ("", str(port)):
            return None
    return proxy if "://" in proxy else f"http://{proxy}"
