"""Connections that ask nothing, and upstreams that answer with what cannot be read."""

from __future__ import annotations

import resource

import pytest
from twisted.python.failure import Failure
from twisted.web.http import PotentialDataLoss

from ccrelay.core.outcomes import Outcome

from .test_pump import Rig
from .web_rig import BODY, HEALTH, Web, post, respond


def test_connections_that_ask_nothing_make_room_the_oldest_first_and_calls_never_do() -> None:
    web = Web()
    web.site.most_channels = 4
    calling, kept, silent, slow = (web.connect() for _ in range(4))
    calling.send(post(BODY))
    kept.send(HEALTH)
    slow.send(b"POST /v1/messages HT")
    newer = [web.connect() for _ in range(3)]
    web.clock.advance(0)
    assert [client.end is not None for client in (calling, kept, silent, slow)] == [False, True, True, True]
    assert kept.replies()[0].status == 200, "what was answered has left before"
    respond(web.calls[0])
    assert calling.replies()[0].status == 200
    newer[-1].send(HEALTH)
    assert newer[-1].replies()[0].status == 200


def test_where_all_connections_are_in_use_one_more_is_served() -> None:
    web = Web()
    web.site.most_channels = 1
    first, second = web.connect(), web.connect()
    first.send(post(BODY))
    second.send(post(BODY))
    third = web.connect()
    third.send(post(BODY))
    for served in web.calls:
        respond(served)
    assert [len(client.replies()) for client in (second, third)] == [1, 1]


def test_a_process_without_a_limit_of_descriptors_has_none_of_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    web = Web()
    kept = web.connect()
    web.connect()
    web.clock.advance(0)
    assert kept.end is None


def test_an_answer_of_nothing_but_brackets_is_a_broken_one_and_no_bug() -> None:
    rig = Rig(stream=False)
    rig.feed(b"[" * 50_000)
    rig.lose(Failure(PotentialDataLoss()))
    assert rig.refusal.outcome is Outcome.PROVIDER_ILL
