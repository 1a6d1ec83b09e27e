"""The table of foreign exceptions: each in the relay's words, and no bug dressed up as an illness."""

from __future__ import annotations

import ssl
from typing import Any

import pytest
from twisted.internet import error as net
from twisted.internet.defer import CancelledError
from twisted.python.failure import Failure
from twisted.web.client import ResponseFailed
from twisted.web.http import PotentialDataLoss

from ccrelay.core.http1 import HttpViolation
from ccrelay.core.outcomes import Outcome, UpstreamError
from ccrelay.errors import ClientError, CredentialError, RelayError
from ccrelay.upstream.connect_proxy import ProxyRefused
from ccrelay.upstream.connection import NoAnswer
from ccrelay.upstream.failures import _REASONS, upstream_error


def untrusted(words: str, code: int = 20) -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError(1, "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed")
    error.verify_message, error.verify_code = words, code
    return error


def broken(reason: str | None) -> ssl.SSLError:
    error = ssl.SSLError(1, "[SSL] in the library's own spelling")
    error.reason = reason  # type: ignore[assignment]
    return error


UNTRUSTED = untrusted("unable to get local issuer certificate")

SAMPLES: dict[str, tuple[BaseException, str]] = {
    "name": (net.DNSLookupError(), "host name not found"),
    "refused": (net.ConnectionRefusedError(), "connection refused"),
    "connect time": (net.TimeoutError(), "connecting timed out"),
    "tcp time": (net.TCPTimedOutError(), "connecting timed out"),
    "route": (net.NoRouteError(), "no route to host"),
    "other connect": (net.ConnectBindError(), "could not connect"),
    "unknown host": (net.UnknownHostError(), "could not connect"),
    "untrusted": (UNTRUSTED, "TLS failed: unable to get local issuer certificate"),
    "tls without words": (broken(None), "TLS failed"),
    "tls in words": (broken("WRONG_VERSION_NUMBER"), "TLS failed: wrong version number"),
    "other name": (untrusted("Hostname mismatch for x.test", 62), "TLS failed: the certificate is not for this host"),
    "not HTTP": (HttpViolation(400, "x"), "did not answer in HTTP"),
    "closed": (net.ConnectionDone(), "closed the connection"),
    "lost": (net.ConnectionLost(), "connection lost"),
    "aborted": (net.ConnectionAborted(), "connection aborted"),
    "unframed": (PotentialDataLoss(), "the answer was cut short"),
    "given up": (CancelledError(), "given up"),
    "proxy": (ProxyRefused("the proxy answered 407 to CONNECT"), "the proxy answered 407 to CONNECT"),
    "no words": (OSError(), "network error: OSError"),
}


@pytest.mark.parametrize("name", SAMPLES)
def test_every_known_failure_makes_the_provider_ill_in_our_words(name: str) -> None:
    cause, words = SAMPLES[name]
    error = upstream_error(Failure(cause))
    assert (error.outcome, error.reason, error.answered) == (Outcome.PROVIDER_ILL, words, False)


def test_every_row_of_the_table_decides_something() -> None:
    """A row behind one for its base class would never be reached."""
    kinds = [kind for kind, _ in _REASONS]
    for kind in kinds:
        first: Any = next(other for other in kinds if issubclass(kind, other))
        assert first is kind
        assert any(isinstance(cause, kind) for cause, _ in SAMPLES.values())


@pytest.mark.parametrize("name", SAMPLES)
def test_the_cause_is_found_below_what_wraps_it(name: str) -> None:
    cause, words = SAMPLES[name]
    silent = upstream_error(Failure(NoAnswer(Failure(cause), True)))
    assert (silent.reason, silent.answered) == (words, False)
    for wrapped in (
        ResponseFailed([Failure(cause)]),
        ResponseFailed([Failure(ResponseFailed([Failure(cause)]))]),
        ResponseFailed([Failure(cause), Failure(ZeroDivisionError())]),
    ):
        assert upstream_error(Failure(wrapped)).reason == words


@pytest.mark.parametrize("cause", [net.ConnectionLost(), HttpViolation(400, "x"), UNTRUSTED])
def test_an_answer_that_began_and_broke_is_told_from_one_that_never_came(cause: Exception) -> None:
    assert upstream_error(Failure(ResponseFailed([Failure(cause)]))).answered


def test_an_error_in_our_words_stays_as_it_is() -> None:
    ours = UpstreamError(Outcome.KEY_DEAD, "why", answered=True)
    assert upstream_error(Failure(ours)) is ours
    assert upstream_error(Failure(ResponseFailed([Failure(ours)]))) is ours


@pytest.mark.parametrize(
    "bug",
    [
        ZeroDivisionError(),
        ValueError("a control character in the value of 'x'"),
        RelayError(),
        ClientError(400, "invalid_request_error", "x"),
        CredentialError("x"),
        KeyboardInterrupt(),
        GeneratorExit(),
    ],
)
def test_what_the_table_does_not_know_is_raised_as_it_is(bug: BaseException) -> None:
    for failure in (Failure(bug), Failure(NoAnswer(Failure(bug), False))):
        with pytest.raises(BaseException) as caught:  # noqa: PT011  (which one is asserted below)
            upstream_error(failure)
        assert caught.value in (bug, failure.value)


def test_a_response_that_failed_for_no_reason_is_a_bug() -> None:
    with pytest.raises(ResponseFailed):
        upstream_error(Failure(ResponseFailed([])))


def test_openssls_words_are_bounded() -> None:
    assert len(upstream_error(Failure(untrusted("x" * 10_000))).reason) < 300
    assert len(upstream_error(Failure(broken("X" * 10_000))).reason) < 300


@pytest.mark.parametrize(
    "cause", [net.ConnectBindError(24, "Too many open files"), OSError(23, "Too many in the system")]
)
def test_a_relay_without_descriptors_blames_no_provider(cause: Exception) -> None:
    with pytest.raises(ClientError) as raised:
        upstream_error(Failure(cause))
    assert (raised.value.status, raised.value.retry_after) == (503, 1)
