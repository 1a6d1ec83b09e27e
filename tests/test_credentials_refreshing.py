"""When credentials are fetched anew, who shares a fetch, and what becomes of those who wait."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from zope.interface.verify import verifyObject

from ccrelay.core.model import ApiKey, Credential
from ccrelay.core.secret import Secret
from ccrelay.credentials.refreshing import Fetched, Note, RefreshingCredentials
from ccrelay.errors import CredentialError
from ccrelay.interfaces import ICredentials

START = 1_700_000_000.0


def key(text: str) -> ApiKey:
    return ApiKey(Secret(text))


class Rig:
    """A ``RefreshingCredentials`` whose fetches run when the test says so. ``threads``: those that have begun."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.threads: list[Deferred[Fetched]] = []
        self.notes: list[Note] = []
        self.credentials = RefreshingCredentials(
            "north", self._fetch, self._run, self.clock, lambda: START + self.clock.seconds()
        )

    def _fetch(self, note: Note) -> Fetched:
        self.notes.append(note)
        return Fetched(None, None)

    def _run(self, function: Callable[[], Fetched]) -> Deferred[Fetched]:
        function()  # as far as the first step
        self.threads.append(Deferred())
        return self.threads[-1]

    def bring(self, text: str, life: float | None = 3600.0, thread: int = -1) -> None:
        now = START + self.clock.seconds()
        self.threads[thread].callback(Fetched(key(text), None if life is None else now + life))

    def break_down(self, message: str, thread: int = -1) -> None:
        self.threads[thread].errback(CredentialError(message))

    def hang(self) -> None:
        """Let the fetch become overdue, and the pause after it pass."""
        self.clock.advance(30)
        self.clock.advance(6)


def outcome(waiting: Deferred[Credential]) -> object:
    """The credential's text, the error's, or None while there is neither."""
    seen: list[object] = []
    waiting.addBoth(seen.append)
    if not seen:
        return None
    [result] = seen
    if isinstance(result, Failure):
        return f"{result.type.__name__}: {result.value}"
    assert isinstance(result, ApiKey)
    return result.secret.reveal()


def held(text: str = "old", life: float | None = 3600.0) -> Rig:
    rig = Rig()
    rig.credentials.warm()
    rig.bring(text, life)
    return rig


def test_the_contract_is_kept() -> None:
    assert verifyObject(ICredentials, Rig().credentials)


def test_nothing_is_fetched_before_the_first_use() -> None:
    rig = Rig()
    rig.clock.advance(10_000)

    assert rig.threads == []
    assert rig.clock.getDelayedCalls() == []


def test_a_hundred_callers_share_one_fetch() -> None:
    rig = Rig()
    waiting = [rig.credentials.current() for _ in range(100)]

    assert len(rig.threads) == 1
    rig.bring("new")

    assert {outcome(one) for one in waiting} == {"new"}
    assert outcome(rig.credentials.current()) == "new"
    assert len(rig.threads) == 1
    assert rig.clock.getDelayedCalls() == []


def test_a_caller_that_leaves_does_not_take_the_fetch_from_the_others() -> None:
    rig = Rig()
    leaving, staying = rig.credentials.current(), rig.credentials.current()

    leaving.cancel()
    rig.bring("new")

    leaving.addErrback(lambda failure: failure.trap(CancelledError) and None)
    assert outcome(staying) == "new"


def test_what_was_fetched_for_callers_that_left_is_kept() -> None:
    rig = Rig()
    leaving = rig.credentials.current()
    leaving.addErrback(lambda failure: failure.trap(CancelledError) and None)
    leaving.cancel()

    rig.bring("new")

    assert outcome(rig.credentials.current()) == "new"
    assert len(rig.threads) == 1


def test_the_old_one_is_served_while_its_successor_is_fetched() -> None:
    rig = held(life=3600)

    rig.clock.advance(3299)
    assert outcome(rig.credentials.current()) == "old"
    assert len(rig.threads) == 1
    rig.clock.advance(2)
    assert outcome(rig.credentials.current()) == "old"
    assert outcome(rig.credentials.current()) == "old"
    assert len(rig.threads) == 2

    rig.bring("new")
    assert outcome(rig.credentials.current()) == "new"


def test_the_old_one_is_served_until_it_dies_whatever_becomes_of_its_successor() -> None:
    rig = held(life=3600)
    served = []
    for _ in range(40):
        rig.clock.advance(100)
        served.append(outcome(rig.credentials.current()))
        if len(rig.threads) > 1 and not rig.threads[-1].called:
            rig.break_down("the server is down")

    assert served[:35] == ["old"] * 35
    assert "old" not in served[35:]
    assert outcome(rig.credentials.current()) == "CredentialError: the server is down"


def test_one_that_is_dead_is_not_served_while_its_successor_comes() -> None:
    rig = held(life=3600)
    rig.clock.advance(3595)

    waiting = rig.credentials.current()
    assert outcome(waiting) is None


def test_one_that_lives_for_minutes_is_not_fetched_by_every_call() -> None:
    rig = held(life=120)

    rig.clock.advance(60)
    rig.credentials.current()
    assert len(rig.threads) == 1
    rig.clock.advance(31)
    rig.credentials.current()
    assert len(rig.threads) == 2


def test_a_source_that_still_gives_the_old_one_is_not_asked_by_every_call() -> None:
    rig = held(life=6)
    for _ in range(20):
        rig.credentials.current()

    assert len(rig.threads) == 1


@pytest.mark.parametrize("life", [0.0, -100.0])
def test_a_source_that_gives_what_is_dead_is_told_and_not_hammered(life: float) -> None:
    rig = Rig()
    waiting = rig.credentials.current()
    rig.notes[0]("the token request")
    rig.bring("dead", life)

    message = "CredentialError: the token request gave what has expired already: check this machine's clock"
    assert outcome(waiting) == outcome(rig.credentials.current()) == message
    assert len(rig.threads) == 1


def test_one_without_an_end_is_never_fetched_again() -> None:
    rig = held(life=None)
    rig.clock.advance(10_000_000)

    assert outcome(rig.credentials.current()) == "old"
    assert len(rig.threads) == 1


def test_a_failure_is_told_to_all_and_not_repeated_at_once() -> None:
    rig = Rig()
    waiting = [rig.credentials.current() for _ in range(3)]
    rig.break_down("set this")

    assert {outcome(one) for one in waiting} == {"CredentialError: set this"}
    assert outcome(rig.credentials.current()) == "CredentialError: set this"
    assert len(rig.threads) == 1

    rig.clock.advance(6)
    later = rig.credentials.current()
    assert len(rig.threads) == 2
    rig.bring("new")
    assert outcome(later) == "new"


def test_an_error_is_a_new_one_for_each_caller_so_that_none_holds_anothers_frames() -> None:
    rig = Rig()
    errors: list[BaseException] = []
    for waiting in (rig.credentials.current(), rig.credentials.current()):
        waiting.addErrback(lambda failure: errors.append(failure.value))
    rig.break_down("set this")
    rig.credentials.current().addErrback(lambda failure: errors.append(failure.value))

    assert len({id(error) for error in errors}) == 3


def test_a_fetch_that_hangs_fails_those_who_wait_by_the_name_of_its_step() -> None:
    rig = Rig()
    waiting = rig.credentials.current()
    rig.notes[0]("the SSO login")

    rig.clock.advance(29)
    still = rig.credentials.current()
    assert len(rig.threads) == 1
    rig.clock.advance(1)

    assert outcome(waiting) == outcome(still) == "CredentialError: the SSO login did not answer within 30 s"


def test_fetches_that_hang_do_not_pile_up() -> None:
    rig = Rig()
    for _ in range(20):
        rig.credentials.current().addErrback(lambda failure: failure.trap(CredentialError) and None)
        rig.hang()

    assert len(rig.threads) == 2
    assert outcome(rig.credentials.current()) == "CredentialError: the first step did not answer within 30 s"


def test_what_an_overdue_fetch_brings_at_last_is_used() -> None:
    rig = Rig()
    waiting = rig.credentials.current()
    waiting.addErrback(lambda failure: failure.trap(CredentialError) and None)
    rig.hang()
    second = rig.credentials.current()

    rig.bring("late", thread=0)

    assert outcome(second) == "late"
    assert outcome(rig.credentials.current()) == "late"


@pytest.mark.parametrize("life", [-1.0, 100.0])
def test_what_an_overdue_fetch_brings_does_not_replace_what_lives_longer(life: float) -> None:
    rig = Rig()
    rig.credentials.current().addErrback(lambda failure: failure.trap(CredentialError) and None)
    rig.hang()
    rig.credentials.warm()
    rig.bring("new", thread=1)

    rig.bring("late", life, thread=0)

    assert outcome(rig.credentials.current()) == "new"


def test_after_two_that_hung_one_that_ends_makes_room() -> None:
    rig = Rig()
    for _ in range(3):
        rig.credentials.warm()
        rig.hang()
    rig.break_down("reset", thread=0)

    waiting = rig.credentials.current()

    assert len(rig.threads) == 3
    rig.bring("new")
    assert outcome(waiting) == "new"


def test_those_who_were_refused_the_same_one_share_a_fetch() -> None:
    rig = held()
    waiting = [rig.credentials.renew(key("old")) for _ in range(10)]

    assert len(rig.threads) == 2
    rig.bring("new")

    assert {outcome(one) for one in waiting} == {"new"}


def test_who_was_refused_one_that_has_been_replaced_gets_what_is_there() -> None:
    rig = held()
    rig.credentials.renew(key("old"))
    rig.bring("new")

    assert outcome(rig.credentials.renew(key("old"))) == "new"
    assert len(rig.threads) == 2


def test_others_are_served_the_refused_one_while_it_is_renewed() -> None:
    rig = held()
    rig.credentials.renew(key("old"))

    assert outcome(rig.credentials.current()) == "old"


def test_a_source_that_gives_the_refused_one_again_is_not_hammered() -> None:
    rig = held()
    first = rig.credentials.renew(key("old"))
    rig.bring("old")

    answers = {outcome(first), *(outcome(rig.credentials.renew(key("old"))) for _ in range(10))}

    assert answers == {
        "CredentialError: the credentials were refused, and their source gives the same ones again: replace them there"
    }
    assert len(rig.threads) == 2
    rig.clock.advance(6)
    again = rig.credentials.renew(key("old"))
    rig.bring("new")
    assert outcome(again) == "new"


def test_a_renewal_that_fails_leaves_what_is_held() -> None:
    rig = held()
    renewed = rig.credentials.renew(key("old"))
    rig.break_down("the server is down")

    assert outcome(renewed) == "CredentialError: the server is down"
    assert outcome(rig.credentials.current()) == "old"
