"""What is logged of bodies and headers where ``logging.debug_options`` asks for it: excerpts, without credentials."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from ccrelay.core.access import MAX_ID, cut, utc
from ccrelay.core.model import Call, Credential, Head
from ccrelay.core.redaction import reach, redacted, redacted_header, secrets_in
from ccrelay.core.settings import Settings

MOST_HEADERS: Final = 8192
"""Characters kept of an answer's headers: real ones are below 4 KB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BodyRecord:
    """The beginning of a call's body. time: epoch seconds. size: bytes that had arrived then, maybe not yet all."""

    time: float
    request_id: str
    size: int
    body: str

    def fields(self) -> dict[str, str | float]:
        """The line's fields in order."""
        return {
            "time": utc(self.time) or "",
            "request_id": cut(self.request_id, MAX_ID) or "",
            "received": self.size,
            "request_body": self.body,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadersRecord:
    """The head of an upstream's answer. time: epoch seconds. number: of the attempt. headers: a line for each."""

    time: float
    request_id: str
    number: int
    provider: str
    status: int
    headers: str

    def fields(self) -> dict[str, str | float]:
        """The line's fields in order."""
        return {
            "time": utc(self.time) or "",
            "request_id": cut(self.request_id, MAX_ID) or "",
            "answer_to": self.number,
            "provider": cut(self.provider, MAX_ID) or "",
            "status": self.status,
            "response_headers": cut(self.headers, MOST_HEADERS) or "",
        }


ExcerptRecord = BodyRecord | HeadersRecord


class Excerpts:
    """Writes down what one configuration asks for.

    epoch(): the wall clock. write(record): takes each line's record.
    """

    def __init__(
        self, settings: Settings, epoch: Callable[[], float], write: Callable[[ExcerptRecord], object]
    ) -> None:
        self._settings = settings.logging
        self._secrets = tuple(dict.fromkeys(secrets_in(settings)))
        self._epoch = epoch
        self._write = write

    def follow(self, call: Call) -> Callable[[], None]:
        """Write the beginning of the call's body down as soon as it has come.

        Returns what to call when the call ends, before its body is released: what has come by then is all there is.
        """
        if not self._settings.log_request_body:
            return lambda: None
        body = call.body
        secrets = (*self._secrets, *secrets_in(call.own_credential))
        most = self._settings.max_body_log_size
        wanted = most + reach(secrets)
        told = False

        def tell() -> None:
            nonlocal told
            if told:
                return
            told = True
            unwatch()
            begun = bytearray()
            while not body.released and len(begun) < min(body.received, wanted):
                begun += body.read(len(begun), wanted - len(begun))
            text = redacted(bytes(begun), secrets, most).decode("utf-8", "backslashreplace")
            self._write(BodyRecord(time=self._epoch(), request_id=call.request_id, size=body.received, body=text))

        def changed() -> None:
            if body.received >= wanted or body.complete or body.error is not None:
                tell()

        unwatch = body.watch(changed)
        changed()
        return tell

    def answered(self, call: Call, number: int, provider: str, head: Head, credential: Credential) -> None:
        """Write the head of an upstream's answer down. credential: what the attempt was made with."""
        if not self._settings.log_response_headers:
            return
        secrets = (*self._secrets, *secrets_in(credential))
        lines = b"\n".join(name + b": " + redacted_header(name, value, secrets) for name, value in head.headers)
        self._write(
            HeadersRecord(
                time=self._epoch(),
                request_id=call.request_id,
                number=number,
                provider=provider,
                status=head.status,
                headers=lines.decode("utf-8", "backslashreplace"),
            )
        )


def excerpts_of(
    settings: Settings, epoch: Callable[[], float], write: Callable[[ExcerptRecord], object]
) -> Excerpts | None:
    """Excerpts, or None where the configuration asks for none: nothing is spent on them then."""
    asked = settings.logging.log_request_body or settings.logging.log_response_headers
    return Excerpts(settings, epoch, write) if asked else None
