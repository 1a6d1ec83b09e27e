"""The supervisor's side of the socket: what arrives there, and that nobody there is no harm."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock

from ccrelay.notify import Notifier

PID = 4242


class Supervisor:
    """A datagram socket as systemd's: ``address`` is what it puts into NOTIFY_SOCKET."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._socket.bind("\0" + address[1:] if address.startswith("@") else address)

    def heard(self) -> list[str]:
        """All that has arrived since it was last asked."""
        found = []
        while True:
            try:
                found.append(self._socket.recv(4096).decode("ascii"))
            except BlockingIOError:
                return found

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(params=["path", "abstract"])
def supervisor(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Supervisor]:
    made = Supervisor(str(tmp_path / "notify") if request.param == "path" else f"@ccrelay-test-{os.getpid()}")
    yield made
    made.close()


def notifier(supervisor: Supervisor, **environ: str) -> Notifier:
    return Notifier.from_environ({"NOTIFY_SOCKET": supervisor.address, **environ}, PID)


def test_the_life_of_a_daemon_arrives_in_its_order(supervisor: Supervisor) -> None:
    life = notifier(supervisor)

    assert [life.ready(), life.stopping()] == [True, True]
    assert supervisor.heard() == ["READY=1", "STOPPING=1"]


def test_a_reload_carries_the_monotonic_time_in_microseconds(supervisor: Supervisor) -> None:
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    assert notifier(supervisor).reloading()
    after = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000

    [message] = supervisor.heard()
    fields = dict(line.split("=") for line in message.splitlines())
    assert fields.pop("RELOADING") == "1"
    assert before <= int(fields.pop("MONOTONIC_USEC")) <= after
    assert fields == {}


def test_the_watchdog_is_fed_twice_in_its_time_until_it_is_stopped(supervisor: Supervisor) -> None:
    clock = Clock()
    life = notifier(supervisor, WATCHDOG_USEC="20000000", WATCHDOG_PID=str(PID))

    life.start_watchdog(clock)
    assert supervisor.heard() == ["WATCHDOG=1"]
    clock.advance(9.9)
    assert supervisor.heard() == []
    clock.pump([0.1, 10, 10])
    assert supervisor.heard() == ["WATCHDOG=1"] * 3
    life.stop_watchdog()
    assert clock.getDelayedCalls() == []


def test_a_supervisor_that_comes_back_is_told_again(tmp_path: Path) -> None:
    clock = Clock()
    first = Supervisor(str(tmp_path / "notify"))
    life = notifier(first, WATCHDOG_USEC="2000000")
    life.start_watchdog(clock)
    first.close()
    os.unlink(first.address)
    clock.advance(1)
    second = Supervisor(first.address)
    clock.advance(1)

    assert second.heard() == ["WATCHDOG=1"]
    life.stop_watchdog()
    second.close()


@pytest.mark.parametrize("watchdog", [{}, {"WATCHDOG_USEC": "2000000", "WATCHDOG_PID": "1"}])
def test_without_a_watchdog_of_ours_there_is_no_timer(supervisor: Supervisor, watchdog: dict[str, str]) -> None:
    clock = Clock()
    life = notifier(supervisor, **watchdog)
    life.start_watchdog(clock)

    assert clock.getDelayedCalls() == []
    life.stop_watchdog()
    assert supervisor.heard() == []


def test_without_a_supervisor_there_is_nothing_to_do() -> None:
    clock = Clock()
    alone = Notifier.from_environ({"NOTIFY_SOCKET": "", "WATCHDOG_USEC": "2000000"}, PID)
    alone.start_watchdog(clock)

    assert [alone.ready(), alone.reloading(), alone.stopping()] == [False] * 3
    assert clock.getDelayedCalls() == []


def test_a_supervisor_that_does_not_read_holds_nobody_up(supervisor: Supervisor) -> None:
    life = notifier(supervisor)

    # Its queue ends somewhere; a send that waited there would never return.
    assert any(not life.ready() for _ in range(100_000))
    assert set(supervisor.heard()) == {"READY=1"}
    assert life.ready()


@given(
    address=st.text(min_size=90).map(lambda end: f"@{end}") | st.text(),
    watchdog=st.text() | st.integers().map(str) | st.just("9" * 5000),
)
def test_no_environment_makes_it_raise(address: str, watchdog: str) -> None:
    clock = Clock()
    life = Notifier.from_environ({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": watchdog}, PID)
    life.start_watchdog(clock)
    clock.advance(1e-3)

    assert not life.ready()
    life.stop_watchdog()
    assert clock.getDelayedCalls() == []


def test_another_process_is_named_with_a_ping_for_it(supervisor: Supervisor) -> None:
    assert notifier(supervisor).main_process(4343)
    assert supervisor.heard() == ["MAINPID=4343\nREADY=1\nWATCHDOG=1"]
