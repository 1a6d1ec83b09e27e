"""A cookie jar that stores nothing: what one upstream wants remembered is no statement about the next call."""

from __future__ import annotations

from http.cookiejar import CookieJar
from typing import Any


class NoCookies(CookieJar):
    """Takes no cookie and has none; treq asks it about every request, so it also does nothing slowly."""

    def add_cookie_header(self, request: Any) -> None:
        """There is none."""

    def extract_cookies(self, response: Any, request: Any) -> None:
        """They are not looked at."""

    def set_cookie(self, cookie: Any) -> None:
        """It is forgotten at once."""


def no_cookies() -> Any:
    """A jar for treq, which asks for a type of its own that only its jars have by name."""
    return NoCookies()
