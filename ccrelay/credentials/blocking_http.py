"""One small request to a token server, made in a thread: the standard library's client with its dangers taken out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from http.client import HTTPException
from typing import IO, Any, Final
from urllib.error import HTTPError
from urllib.request import HTTPRedirectHandler, OpenerDirector, ProxyHandler, Request, build_opener

_LARGEST: Final = 64 * 1024
"""Bytes of an answer that are read. A token is 1 to 4 kB."""

_SOCKET_TIMEOUT: Final = 10.0
"""Seconds for the connection and between bytes; the caller's patience bounds the whole."""


class _NoRedirects(HTTPRedirectHandler):
    """A token server does not redirect, and a secret must not follow to another host."""

    def redirect_request(self, *_: Any) -> None:
        return None


def fetch_json(
    url: str,
    headers: Mapping[str, str],
    *,
    form: bytes | None = None,
    proxy: str | None = None,
    timeout: float = _SOCKET_TIMEOUT,
) -> tuple[int, dict[str, Any]]:
    """GET ``url``, or POST ``form`` to it. Blocks.

    proxy: ``http://host:port`` to go through; None: directly, whatever the environment says. timeout: seconds for the
    connection and for each read. Returns the status and the answer's JSON object, empty where it is none. Raises
    OSError where no answer could be had; its text may name the host.
    """
    proxies = {} if proxy is None else {"http": proxy, "https": proxy}
    opener: OpenerDirector = build_opener(ProxyHandler(proxies), _NoRedirects())
    request = Request(url, data=form, headers=dict(headers))  # noqa: S310 - the callers' constants
    try:
        with opener.open(request, timeout=timeout) as response:
            return response.status, _json_object(response)
    except HTTPError as error:
        with error:
            return error.code, _json_object(error)
    except HTTPException as error:
        raise OSError(f"not an HTTP answer ({type(error).__name__})") from error


def _json_object(body: IO[bytes]) -> dict[str, Any]:
    try:
        document = json.loads(body.read(_LARGEST))
    except (ValueError, HTTPException):
        return {}
    return document if isinstance(document, dict) else {}
