"""Credentials are fetched beside the reactor, which goes on turning, and nothing that hangs holds the process."""

from __future__ import annotations

import threading
from typing import Any

from twisted.internet.defer import Deferred, gatherResults
from twisted.trial.unittest import TestCase

from ccrelay.core.model import ApiKey, Credential
from ccrelay.core.secret import Secret
from ccrelay.credentials.refreshing import Fetched, Note, RefreshingCredentials
from ccrelay.credentials.threads import CredentialThreads
from ccrelay.errors import CredentialError


class FetchingInThreads(TestCase):
    def setUp(self) -> None:
        from twisted.internet import reactor

        self.reactor: Any = reactor
        self.threads = CredentialThreads(self.reactor)
        self.addCleanup(self.threads.close)
        self.may_end = threading.Event()
        self.addCleanup(self.may_end.set)
        self.ran_in: list[threading.Thread] = []

    def credentials(self, fetch: Any) -> RefreshingCredentials:
        return RefreshingCredentials("north", fetch, self.threads.run, self.reactor, self.reactor.seconds)

    def slow(self, note: Note) -> Fetched:
        self.ran_in.append(threading.current_thread())
        if not self.may_end.wait(20):
            raise CredentialError("the reactor did not turn")
        return Fetched(ApiKey(Secret("s")), None)

    def test_the_reactor_turns_while_a_fetch_blocks(self) -> Deferred[None]:
        turns: list[int] = []

        def turn() -> None:
            turns.append(len(turns))
            if len(turns) == 100:
                self.may_end.set()
            elif len(turns) < 100:
                self.reactor.callLater(0, turn)

        def check(found: list[Credential]) -> None:
            self.assertEqual(found, [ApiKey(Secret("s"))] * 100)
            self.assertEqual(len(turns), 100)
            self.assertEqual(len(self.ran_in), 1)
            self.assertIsNot(self.ran_in[0], threading.current_thread())
            self.assertTrue(self.ran_in[0].daemon)

        credentials = self.credentials(self.slow)
        waiting = gatherResults([credentials.current() for _ in range(100)])
        turn()
        return waiting.addCallback(check)

    def test_the_reactors_own_threads_are_left_alone(self) -> Deferred[None]:
        def check(_: object) -> None:
            self.assertNotIn(self.ran_in[0], self.reactor.getThreadPool().threads)

        self.may_end.set()
        return self.credentials(self.slow).current().addCallback(check)

    def test_a_typed_failure_comes_out_of_the_thread_as_it_is(self) -> Deferred[None]:
        def fetch(note: Note) -> Fetched:
            raise CredentialError("set this", "for the log")

        def check(error: CredentialError) -> None:
            self.assertEqual((str(error), error.detail), ("set this", "for the log"))

        return self.assertFailure(self.credentials(fetch).current(), CredentialError).addCallback(check)

    def test_a_bug_is_told_without_its_text_and_logged_with_it(self) -> Deferred[None]:
        def fetch(note: Note) -> Fetched:
            note("reading the file")
            raise ZeroDivisionError("something about /etc/secret")

        def check(error: CredentialError) -> None:
            self.assertEqual(
                str(error),
                "reading the file failed unexpectedly (ZeroDivisionError); the relay's log has the details",
            )
            self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

        return self.assertFailure(self.credentials(fetch).current(), CredentialError).addCallback(check)

    def test_closing_waits_for_nothing_and_lets_the_threads_go_when_they_have_ended(self) -> Deferred[None]:
        waiting = self.credentials(self.slow).current()
        self.threads.close()
        self.may_end.set()

        def check(found: Credential) -> None:
            self.assertEqual(found, ApiKey(Secret("s")))
            self.assertFalse(self.ran_in[0].is_alive())

        return waiting.addCallback(check)

    def test_a_call_of_an_old_configuration_may_still_fetch_after_the_close(self) -> Deferred[None]:
        self.may_end.set()
        self.threads.close()

        def check(found: Credential) -> None:
            self.assertEqual(found, ApiKey(Secret("s")))

        return self.credentials(self.slow).current().addCallback(check)
