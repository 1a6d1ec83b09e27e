"""Listen addresses: what the operator writes, as Twisted endpoint strings, and who can reach them."""

from __future__ import annotations

import enum
import ipaddress
import re
from dataclasses import dataclass

_HOST_PORT = re.compile(r"(?P<host>\[[0-9A-Fa-f:.%]+\]|[A-Za-z0-9._-]*):(?P<port>[0-9]+)")
_PREFIX = re.compile(r"(?P<kind>[a-z][a-z0-9]*):.+", re.DOTALL)
_PIECE = re.compile(r"(?:\\.|[^\\:])*", re.DOTALL)

# Where an endpoint string can name its interface without ``interface=``, counted after the kind. Source: the server
# parsers in twisted/internet/endpoints.py, 22.4 to 26.10.
_INTERFACE_AT = {"tcp": 1, "tcp6": 2, "ssl": 4, "tls": 3}
_PORT_AT = {"tcp": 0, "tcp6": 0, "ssl": 0, "tls": 1}
_KINDS = frozenset({*_PORT_AT, "unix", "systemd", "haproxy", "stdio", "onion", "fd"})


class Reach(enum.Enum):
    """Who can connect."""

    LOCAL = "this machine"
    BEYOND = "other machines"
    UNKNOWN = "not to be seen from the address"


@dataclass(frozen=True, slots=True)
class Listener:
    """One listen address. ``endpoint``: for twisted.internet.endpoints.serverFromString."""

    endpoint: str
    reach: Reach


class ListenError(ValueError):
    """The address cannot be used; the argument says why, without quoting it."""


def parse_listener(text: str) -> Listener:
    """Read ``host:port`` or a Twisted endpoint string. Raises ListenError.

    Whether an endpoint string makes sense beyond its interface and port is for Twisted and its plugins to say.
    """
    prefix = _PREFIX.fullmatch(text)
    if prefix and prefix["kind"] in _KINDS:
        return _endpoint(text)
    address = _HOST_PORT.fullmatch(text)
    if address:
        return _tcp(address["host"], _port(address["port"]))
    if prefix and "=" in text:
        return Listener(text, Reach.UNKNOWN)  # an endpoint of some plugin
    if "://" in text:
        raise ListenError("is a URL: write host:port alone, such as 127.0.0.1:8787")
    if text.count(":") > 1:
        raise ListenError("an IPv6 address needs brackets, such as [::1]:8787")
    raise ListenError(
        "must be host:port, such as 127.0.0.1:8787, or a Twisted endpoint string, such as unix:/run/x.sock"
    )


def _tcp(host: str, port: int) -> Listener:
    """``localhost`` is written as an address: what it resolves to decides nothing about safety then."""
    if not host:
        return Listener(f"tcp:{port}", Reach.BEYOND)
    host = "127.0.0.1" if host.lower() == "localhost" else host.strip("[]")
    kind = "tcp6" if ":" in host else "tcp"
    if kind == "tcp6" and _address(host) is None:
        raise ListenError("what stands between the brackets is not an IPv6 address")
    escaped = host.replace(":", "\\:")
    return Listener(f"{kind}:{port}:interface={escaped}", _reach(host))


def _endpoint(text: str) -> Listener:
    kind, *rest = _pieces(text)
    named = dict(piece.split("=", 1) for piece in rest if "=" in piece)
    plain = [piece for piece in rest if "=" not in piece]
    if kind == "haproxy":
        return Listener(text, parse_listener(text.partition(":")[2]).reach)
    if kind == "unix" or (kind == "systemd" and "UNIX" in (*plain[:1], named.get("domain"))):
        return Listener(text, Reach.LOCAL)
    if kind not in _PORT_AT:
        return Listener(text, Reach.UNKNOWN)
    ports = plain[_PORT_AT[kind] :][:1]
    _port(named.get("port", ports[0] if ports else "443" if kind == "tls" else ""))
    interfaces = plain[_INTERFACE_AT[kind] :][:1]
    return Listener(text, _reach(named.get("interface", interfaces[0] if interfaces else "")))


def _pieces(text: str) -> list[str]:
    """The parts of an endpoint string between unescaped colons, unescaped."""
    pieces, at = [], 0
    while at <= len(text):
        piece = _PIECE.match(text, at)
        assert piece is not None
        pieces.append(re.sub(r"\\(.)", r"\1", piece[0], flags=re.DOTALL))
        at = piece.end() + 1
    return pieces


def _port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 5 or int(text) > 65535:
        raise ListenError("the port must be a number between 0 and 65535")
    return int(text)


def _reach(interface: str) -> Reach:
    address = _address(interface)
    local = interface.lower() == "localhost" or (address is not None and address.is_loopback)
    return Reach.LOCAL if local else Reach.BEYOND


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None
