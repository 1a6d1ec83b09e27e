"""What went wrong on the way to an upstream, in the relay's words: the one table of foreign exceptions."""

from __future__ import annotations

import errno
import ssl

from twisted.internet import error
from twisted.internet.defer import CancelledError
from twisted.python.failure import Failure
from twisted.web.client import ResponseFailed
from twisted.web.http import PotentialDataLoss

from ccrelay.core.http1 import HttpViolation
from ccrelay.core.outcomes import Outcome, UpstreamError
from ccrelay.errors import ClientError, RelayError
from ccrelay.upstream.connect_proxy import ProxyRefused
from ccrelay.upstream.connection import NoAnswer

_REASONS: tuple[tuple[type[BaseException], str], ...] = (
    (error.DNSLookupError, "host name not found"),
    (error.ConnectionRefusedError, "connection refused"),
    (error.TimeoutError, "connecting timed out"),
    (error.TCPTimedOutError, "connecting timed out"),
    (error.NoRouteError, "no route to host"),
    (error.ConnectError, "could not connect"),
    (ssl.SSLError, "TLS failed"),
    (HttpViolation, "did not answer in HTTP"),
    (error.ConnectionDone, "closed the connection"),
    (error.ConnectionAborted, "connection aborted"),
    (error.ConnectionLost, "connection lost"),
    (PotentialDataLoss, "the answer was cut short"),
    (CancelledError, "given up"),
)

_OTHER_NAME = (62, 64)  # X509_V_ERR_HOSTNAME_MISMATCH and _IP_ADDRESS_MISMATCH of OpenSSL

_OUR_OWN = (errno.EMFILE, errno.ENFILE)


def upstream_error(failure: Failure) -> UpstreamError:
    """The UpstreamError that a failed request or body means; what it cannot name is re-raised, for it is a bug.

    Raises ClientError where it is this process that cannot connect to anybody: no provider is to blame for that.
    """
    cause, answered = _cause(failure)
    if isinstance(cause, UpstreamError):
        return cause
    if getattr(cause, "osError", getattr(cause, "errno", None)) in _OUR_OWN:
        message = "cc-relay has no file descriptor left for another connection"
        raise ClientError(503, "overloaded_error", message, retry_after=1)
    if isinstance(cause, ProxyRefused):
        return UpstreamError(Outcome.PROVIDER_ILL, str(cause))
    for kind, reason in _REASONS:
        if isinstance(cause, kind):
            detail = _tls_detail(cause) if isinstance(cause, ssl.SSLError) else ""
            return UpstreamError(Outcome.PROVIDER_ILL, reason + detail, answered=answered)
    if isinstance(cause, OSError):
        return UpstreamError(Outcome.PROVIDER_ILL, f"network error: {cause.strerror or type(cause).__name__}")
    if isinstance(cause, RelayError) or not isinstance(cause, Exception):
        raise cause
    failure.raiseException()
    raise AssertionError("unreachable")


def _cause(failure: Failure) -> tuple[BaseException, bool]:
    value: BaseException | None = failure.value
    answered = False
    while True:
        if isinstance(value, NoAnswer):
            value = value.reason.value
        elif isinstance(value, ResponseFailed) and value.reasons:
            answered = True
            value = value.reasons[0].value
        else:
            assert value is not None
            return value, answered


def _tls_detail(cause: ssl.SSLError) -> str:
    """OpenSSL's own words, such as ``certificate has expired``; they name no secret, and no host."""
    if isinstance(cause, ssl.SSLCertVerificationError):
        if cause.verify_code in _OTHER_NAME:
            return ": the certificate is not for this host"
        return f": {cause.verify_message[:200]}"
    return f": {cause.reason.replace('_', ' ').lower()[:200]}" if cause.reason else ""
