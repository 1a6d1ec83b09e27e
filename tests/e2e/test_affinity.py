"""Sessions keep the key that answered them, move once when it tires, and stay where they moved."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.e2e.answers import failure
from tests.e2e.crowd import Crowd, Line
from tests.e2e.raw_client import body_for, post
from tests.e2e.relay_process import Relay, config, provider
from tests.e2e.samples import GOOD
from tests.e2e.upstream_process import Upstream
from tests.e2e.waiting import wait_for

SESSIONS = [f"session-{number}" for number in range(100)]
KEYS = [f"key-number-{number}" for number in range(4)]
HOUR = 3600
LAYOUTS = {"four keys of one provider": 10, "four providers in turn": 3}
"""With the turns that each session has before a key tires, and once more after it: fewer where only the way of choosing
differs, as each costs a hundred calls."""


def configuration(layout: str, url: str) -> dict[str, Any]:
    keys = [{"key": key} for key in KEYS]
    if layout == "four keys of one provider":
        return config([provider("only", url) | {"keys": keys}], routing={"affinity": {"enabled": True}})
    made = [provider(f"number-{number}", url) | {"keys": [key]} for number, key in enumerate(keys)]
    return config(made, routing={"strategy": "round_robin", "affinity": {"enabled": True}})


class Sessions:
    """A crowd in which each client has a session. The upstream tells which keys they were asked with."""

    def __init__(self, relay: Relay, upstream: Upstream, crowd: Crowd) -> None:
        self._port = relay.port
        self._upstream = upstream
        self._crowd = crowd
        self._seen = 0

    def turns(self, count: int, sessions: Iterable[str]) -> dict[str, list[str]]:
        """``count`` turns of each session, the sessions side by side: session to keys asked with, in order."""
        self._crowd.run(self._talk(session, count) for session in sessions)
        requests = self._upstream.requests()
        found = defaultdict(list)
        for request in requests[self._seen :]:
            found[request.header("x-claude-code-session-id") or ""].append(request.header("x-api-key") or "")
        self._seen = len(requests)
        return found

    async def _talk(self, session: str, count: int) -> None:
        line = Line(self._port)
        try:
            for _ in range(count):
                reply = await line.ask(turn_of(session))
                assert (reply.status, reply.ending, reply.body) == (200, "complete", GOOD.body), reply
        finally:
            line.hang_up()


def turn_of(session: str) -> bytes:
    return post(body_for(), [("x-claude-code-session-id", session)])


def tire(upstream: Upstream, key: str, seconds: int) -> None:
    upstream.route(failure(429, "rate_limit_error", headers=[("retry-after", str(seconds))]), key=key)


@pytest.fixture(scope="module", params=LAYOUTS)
def layout(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def relay(layout: str, first_process: Upstream) -> Iterator[Relay]:
    with Relay(configuration(layout, first_process.url)) as started:
        yield started


@pytest.fixture
def sessions(relay: Relay, upstream: Upstream, started: ExitStack) -> Sessions:
    upstream.route(GOOD)
    return Sessions(relay, upstream, started.enter_context(Crowd(relay.port)))


def test_sessions_keep_their_key_and_only_those_of_a_tired_one_move_once(
    layout: str, sessions: Sessions, upstream: Upstream
) -> None:
    turns = LAYOUTS[layout]
    asked = sessions.turns(turns, SESSIONS)
    homes = {session: keys[0] for session, keys in asked.items()}
    assert asked == {session: [homes[session]] * turns for session in SESSIONS}
    share = Counter(homes.values())
    assert sorted(share) == KEYS
    assert min(share.values()) >= len(SESSIONS) / len(KEYS) / 2

    tired = KEYS[1]
    tire(upstream, tired, HOUR)
    finder = next(session for session, home in homes.items() if home == tired)
    [(who, (refused, refuge))] = sessions.turns(1, [finder]).items()
    assert (who, refused, refuge != tired) == (finder, tired, True)

    asked = sessions.turns(turns, SESSIONS)
    stays = {session: keys[0] for session, keys in asked.items()}
    assert asked == {session: [stays[session]] * turns for session in SESSIONS}
    assert stays[finder] == refuge
    moved = {session for session in SESSIONS if stays[session] != homes[session]}
    assert moved == {session for session, home in homes.items() if home == tired}
    assert {stays[session] for session in moved} == set(KEYS) - {tired}


def test_a_session_that_moved_does_not_go_back_when_its_old_key_has_rested(
    sessions: Sessions, upstream: Upstream
) -> None:
    [[home]] = sessions.turns(1, ["a"]).values()
    tire(upstream, home, 1)
    [[refused, refuge]] = sessions.turns(1, ["a"]).values()
    assert (refused, refuge != home) == (home, True)
    upstream.route(GOOD, key=home)
    newcomers = (f"newcomer-{number}" for number in itertools.count())
    wait_for(lambda: [home] in sessions.turns(1, [next(newcomers)]).values(), "somebody new gets the rested key")
    assert sessions.turns(3, ["a"]) == {"a": [refuge] * 3}
