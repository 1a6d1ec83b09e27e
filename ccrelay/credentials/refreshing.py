"""Credentials that expire: fetched in a thread, once for all who ask, anew before they end.

One fetch at a time; whoever needs what it brings waits for it. Nothing is fetched before the first use, nor while
nobody asks: an idle relay makes no noise at its token server. A credential is used until it dies, whatever becomes of
its successor. A fetch that fails is not repeated for a few seconds, so that calls do not hammer a server that is down.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from twisted.internet.defer import Deferred, fail, maybeDeferred, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from ccrelay.core.model import Credential
from ccrelay.errors import CredentialError
from ccrelay.interfaces import ICredentials

_log = Logger(namespace="ccrelay.credentials")

_MARGIN: Final = 300.0
"""Seconds before the end from which a successor is asked for: the metadata servers of AWS, Google and Azure hand out
the old one until about then."""

_LAST_SECONDS: Final = 10.0
"""Seconds before the end in which a credential counts as dead: it must still be good when the request arrives."""

_PAUSE: Final = 5.0
"""Seconds after a failed fetch, or one that brought nothing longer-lived, in which none is begun."""

_PATIENCE: Final = 30.0
"""Seconds that callers wait for a fetch. Claude Code waits for minutes, but another provider may be faster."""

_MOST_AT_ONCE: Final = 2
"""Fetches that may run at once: the second one only while the first hangs, as a dead connection would."""

Note = Callable[[str], None]
"""Takes the name of the step that a fetch is about to begin, for whoever has to say where it hangs."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """A credential and when it dies, in Unix seconds; None: it does not, as far as is known."""

    credential: Credential
    expires: float | None


Fetch = Callable[[Note], Fetched]
"""Gets a credential, in a thread, however long that takes. Raises CredentialError; anything else is a bug."""


@dataclass(frozen=True, slots=True)
class _Held:
    """What is served now. In Unix seconds: when it ends, until when it is served, when a successor is wanted."""

    credential: Credential
    expires: float
    dead_at: float
    renew_at: float


class _Run:
    """One fetch in its thread."""

    def __init__(self, step: str) -> None:
        self.step = step
        self.timer: IDelayedCall | None = None


@implementer(ICredentials)
class RefreshingCredentials:
    """What ``fetch`` brings, kept fresh.

    name: whose these are, for the log, such as ``bedrock-eu``. run: how to call a function in a thread:
    ``CredentialThreads.run``. clock: for the patience of those who wait. epoch(): the wall clock in Unix seconds.
    """

    def __init__(
        self,
        name: str,
        fetch: Fetch,
        run: Callable[[Callable[[], Fetched]], Deferred[Fetched]],
        clock: IReactorTime,
        epoch: Callable[[], float],
    ) -> None:
        self._name = name
        self._fetch = fetch
        self._in_thread = run
        self._clock = clock
        self._epoch = epoch
        self._held: _Held | None = None
        self._current_run: _Run | None = None
        self._runs = 0
        self._waiters: list[Deferred[Credential]] = []
        self._error = CredentialError("no credentials have been asked for yet")
        self._not_before = 0.0

    def warm(self) -> None:
        """Fetch now what the first call will need. What goes wrong is logged, and told to whoever asks."""
        self._refresh_unless_pausing()

    def current(self) -> Deferred[Credential]:
        """See ``ICredentials``. Fires at once while there is a live one. A caller may cancel: the others are served."""
        held = self._held
        now = self._epoch()
        if held is None or now >= held.dead_at:
            return self._wait()
        if now >= held.renew_at:
            self._refresh_unless_pausing()
        return succeed(held.credential)

    def renew(self, refused: Credential) -> Deferred[Credential]:
        """See ``ICredentials``. Fails too where the source gives the refused one again."""
        if self._held is not None and self._held.credential != refused:
            return self.current()
        return self._wait().addCallback(self._check_other, refused)

    def _wait(self) -> Deferred[Credential]:
        """The next credential that is fetched."""
        waiter: Deferred[Credential] = Deferred(self._waiters.remove)
        self._waiters.append(waiter)
        self._refresh_unless_pausing()
        if self._current_run is None and waiter in self._waiters:
            self._waiters.remove(waiter)
            return fail(_another(self._error))
        return waiter

    def _check_other(self, credential: Credential, refused: Credential) -> Credential:
        if credential != refused:
            return credential
        message = "the credentials were refused, and their source gives the same ones again: replace them there"
        self._error = CredentialError(message)
        self._not_before = self._clock.seconds() + _PAUSE
        raise _another(self._error)

    def _refresh_unless_pausing(self) -> None:
        if self._current_run is not None or self._clock.seconds() < self._not_before:
            return
        if self._runs >= _MOST_AT_ONCE:
            return  # the error of the first one that hung is still the truth
        run = self._current_run = _Run("the first step")
        run.timer = self._clock.callLater(_PATIENCE, self._hangs, run)
        self._runs += 1

        def note(step: str) -> None:
            run.step = step  # from the thread: one assignment, read for a message only

        maybeDeferred(self._in_thread, lambda: self._fetch(note)).addCallbacks(
            self._fetched, self._failed, callbackArgs=(run,), errbackArgs=(run,)
        ).addErrback(lambda failure: _log.failure("credentials of {name}", failure=failure, name=self._name))

    def _fetched(self, fetched: Fetched, run: _Run) -> None:
        now = self._epoch()
        self._runs -= 1
        expires = math.inf if fetched.expires is None else fetched.expires
        late = self._current_run is not run
        if late and (expires <= now or (self._held is not None and self._held.expires >= expires)):
            return  # overdue, and no better than what is held
        if not late:
            self._end(run)
        if expires <= now:
            self._give_up(CredentialError(f"{run.step} gave what has expired already: check this machine's clock"))
            return
        # Of what lives for minutes a quarter is margin enough. A source that still gives the old one is asked again,
        # but not by each call.
        margin = (expires - now) / 4
        renew_at = max(expires - min(_MARGIN, margin), now + _PAUSE)
        self._held = _Held(fetched.credential, expires, expires - min(_LAST_SECONDS, margin), renew_at)
        self._serve(lambda waiter: waiter.callback(fetched.credential))

    def _failed(self, failure: Failure, run: _Run) -> None:
        self._runs -= 1
        if self._current_run is not run:
            return  # it was told when it became overdue
        if isinstance(failure.value, CredentialError):
            error = failure.value
        else:
            _log.failure("fetching credentials of {name} failed", failure=failure, name=self._name)
            kind = type(failure.value).__name__
            error = CredentialError(f"{run.step} failed unexpectedly ({kind}); the relay's log has the details")
        self._end(run)
        self._give_up(error)

    def _hangs(self, run: _Run) -> None:
        self._current_run = None
        self._give_up(CredentialError(f"{run.step} did not answer within {_PATIENCE:g} s"))

    def _end(self, run: _Run) -> None:
        self._current_run = None
        timer: Any = run.timer
        timer.cancel()

    def _give_up(self, error: CredentialError) -> None:
        """Tell everybody, and leave the source alone for a while."""
        self._error = error
        self._not_before = self._clock.seconds() + _PAUSE
        _log.warn("no new credentials for {name}: {detail}", name=self._name, detail=error.detail)
        self._serve(lambda waiter: waiter.errback(_another(error)))

    def _serve(self, tell: Callable[[Deferred[Credential]], None]) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            tell(waiter)


def _another(error: CredentialError) -> CredentialError:
    """One to raise: tracebacks grow with each raise and hold the frames, so the one that is kept is never raised."""
    return CredentialError(str(error), error.detail)
