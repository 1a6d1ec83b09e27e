"""Every error that crosses a module boundary, typed by what may be done next.

RelayError
  ConfigError            the operator edits the file; carries every problem found
  ClientError            the client is told; carries the whole answer
    MalformedBody        a ClientError found in the request body
    BodyTooLarge         a ClientError: the body passed its limit
  UpstreamError          (core.outcomes) an attempt failed before the commit; its outcome says who may be tried next
  StreamViolation        an upstream stream broke its framing; the stream is over, nothing may be resumed
  CredentialError        no secret could be had for a provider; the message says what to set, its detail only to the log
"""

from __future__ import annotations

from dataclasses import dataclass


class RelayError(Exception):
    """The root: anything else that escapes a documented function is a bug."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One complaint about a configuration.

    path: where in the document, as ``providers[0].keys[1].key``; empty for the file as a whole.
    line: 1-based line in the file, or None where it cannot be known.
    message: what is wrong and what to do, one sentence, never containing a secret's value.
    """

    path: str
    line: int | None
    message: str

    def __str__(self) -> str:
        place = f"line {self.line}: " if self.line is not None else ""
        return f"{place}{self.path + ': ' if self.path else ''}{self.message}"


class ConfigError(RelayError):
    """The configuration cannot be used. ``problems`` lists everything that is wrong with it, in file order."""

    def __init__(self, source: str, problems: tuple[Problem, ...]) -> None:
        self.source = source
        self.problems = problems
        super().__init__("\n".join([f"{source}: {len(problems)} problem(s)"] + [f"  {p}" for p in problems]))


class ClientError(RelayError):
    """The client's request cannot be served; it is told so in Anthropic's envelope.

    status: HTTP status. kind: Anthropic's error type, such as ``invalid_request_error``.
    retry_after: seconds for a ``Retry-After`` header, or None.
    should_retry: value of ``x-should-retry``; None leaves the header out.
    """

    def __init__(
        self,
        status: int,
        kind: str,
        message: str,
        *,
        retry_after: int | None = None,
        should_retry: bool | None = None,
        headers: tuple[tuple[bytes, bytes], ...] = (),
    ) -> None:
        self.status = status
        self.kind = kind
        self.message = message
        self.retry_after = retry_after
        self.should_retry = should_retry
        self.headers = headers
        super().__init__(f"{status} {kind}: {message}")


class MalformedBody(ClientError):
    """The request body is not a JSON object that can be routed. ``position``: byte offset of the fault, or None."""

    def __init__(self, message: str, position: int | None = None) -> None:
        self.position = position
        where = f" (at byte {position})" if position is not None else ""
        super().__init__(400, "invalid_request_error", f"{message}{where}")


class BodyTooLarge(ClientError):
    """The request body is larger than ``server.max_body_bytes``. ``limit``: that bound in bytes."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        super().__init__(
            413, "request_too_large", f"Request exceeds the maximum size of {limit} bytes (server.max_body_bytes)"
        )


class StreamViolation(RelayError):
    """Bytes of an upstream answer broke the framing their content type promises. The parser stays poisoned."""


class CredentialError(RelayError):
    """A provider's secret could not be obtained: try another candidate.

    message: the step that failed and what to set. It may reach the client, so it names no account, role, host or path.
    detail: the same for the operator, with those; for the log alone. None: the message says it all. Neither holds a
    secret.
    """

    def __init__(self, message: str, detail: str | None = None) -> None:
        self.detail = detail if detail is not None else message
        super().__init__(message)
