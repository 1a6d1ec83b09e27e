"""The process that takes over, as the old one sees it, and what passes between the two."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.error import ProcessDone, ProcessExitedAlready, ProcessTerminated
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.scripts._twistd_unix import ServerOptions

from ccrelay import handover
from ccrelay.handover import LISTENERS, PIDFILE, READY, START_SECONDS, Successor
from ccrelay.listeners import Handed, inherit


class Process:
    """The transport of a Successor. ``signals``: what it was sent. ``gone``: it has ended, and takes none."""

    def __init__(self, gone: bool = False) -> None:
        self.signals: list[str] = []
        self.gone = gone

    def signalProcess(self, signal: str) -> None:
        if self.gone:
            raise ProcessExitedAlready
        self.signals.append(signal)


class Scene:
    """A successor just started. ``told``: what the service hears of it."""

    def __init__(self, gone: bool = False) -> None:
        self.clock = Clock()
        self.told: list[Any] = []
        self.process: Any = Process(gone)
        self.successor: Any = Successor(self.clock, self.told.append, self.told.append)
        self.successor.makeConnection(self.process)

    def over(self) -> bool:
        """Nothing is awaited any more."""
        return not self.clock.getDelayedCalls()


def test_one_that_serves_says_its_number_and_may_end_later() -> None:
    scene = Scene()
    scene.successor.childDataReceived(3, b"4242")
    scene.successor.processEnded(Failure(ProcessDone(0)))
    assert (scene.told, scene.over()) == ([4242], True)


@pytest.mark.parametrize("ending", [ProcessDone(0), ProcessTerminated(1), ProcessTerminated(signal=9)])
def test_one_that_ends_before_has_failed_once(ending: Exception) -> None:
    scene = Scene()
    scene.successor.processEnded(Failure(ending))
    [reason] = scene.told
    assert "its log says why" in reason
    assert scene.over()


@pytest.mark.parametrize("gone", [False, True])
def test_one_that_is_silent_is_killed_and_has_failed_once(gone: bool) -> None:
    scene = Scene(gone)
    scene.clock.advance(START_SECONDS - 1)
    assert scene.told == []
    scene.clock.advance(1)
    scene.successor.processEnded(Failure(ProcessTerminated(signal=9)))
    [reason] = scene.told
    assert "did not serve within" in reason
    assert scene.process.signals == ([] if gone else ["KILL"])


def test_one_that_is_abandoned_is_killed_and_nothing_is_told() -> None:
    scene = Scene()
    scene.successor.abandon()
    scene.successor.childDataReceived(3, b"4242")
    scene.successor.processEnded(Failure(ProcessTerminated(signal=9)))
    assert (scene.process.signals, scene.told, scene.over()) == (["KILL"], [], True)


def test_one_that_serves_is_not_killed_any_more() -> None:
    scene = Scene()
    scene.successor.childDataReceived(3, b"4242")
    scene.successor.abandon()
    assert scene.process.signals == []


# -- starting it


class Spawning:
    """A reactor that notes what it was to start."""

    def spawnProcess(self, protocol: Any, executable: str, args: list[str], **more: Any) -> None:
        self.executable, self.args = executable, args
        self.env, self.descriptors = more["env"], more["childFDs"]


def started(argv: list[str], environ: dict[str, str], *handed: Handed) -> Spawning:
    spawning = Spawning()
    handover.start(spawning, Scene().successor, handed, argv=argv, environ=environ)
    return spawning


def test_it_is_started_as_this_process_was_with_the_sockets_and_a_pipe_and_nothing_else() -> None:
    sockets = [Handed("tcp:1", socket.AF_INET, 17), Handed("unix:/s", socket.AF_UNIX, 9)]
    argv = ["python3", "-X", "dev", "/usr/bin/twistd3", "-n", "ccrelay", "--config", "x"]
    spawned = started(argv, {}, *sockets)
    assert spawned.args[1:] == argv[1:]
    child = {each.description: each for each in inherit(spawned.env[LISTENERS]).values()}
    assert {(name, spawned.descriptors.pop(each.descriptor)) for name, each in child.items()} == {
        ("tcp:1", 17),
        ("unix:/s", 9),
    }
    assert spawned.descriptors.pop(int(spawned.env[READY])) == "r"
    assert spawned.descriptors == {0: 0, 1: 1, 2: 2}


def test_the_environment_is_passed_on_but_for_what_names_this_process() -> None:
    kept = {"SECRET": "s", "NOTIFY_SOCKET": "@n", "WATCHDOG_USEC": "9", PIDFILE: "/run/p"}
    spawned = started(["python3"], {**kept, "LISTEN_PID": "1", "LISTEN_FDS": "1", "WATCHDOG_PID": "1"})
    assert {name: value for name, value in spawned.env.items() if name not in (LISTENERS, READY)} == kept


@pytest.mark.parametrize("given", [[], ["--pidfile=p", "--uid=1", "--gid=1", "--rundir=/var", "--chroot=/srv"]])
def test_twistd_does_not_change_again_what_was_inherited(given: list[str]) -> None:
    """However it was started: its own parser has read the options by then."""
    twistd: Any = ServerOptions()
    twistd.parseOptions([*given, "--umask=027", "--nodaemon"])
    handover.as_before(twistd)
    assert [twistd[name] for name in ("pidfile", "uid", "gid", "rundir", "chroot")] == ["", None, None, ".", None]
    assert (twistd["umask"], twistd["nodaemon"]) == (0o27, 1)


# -- telling the old one


def test_the_old_process_is_told_who_serves_and_sees_the_pipe_closed() -> None:
    reading, writing = os.pipe()
    environ = {READY: str(writing)}
    handover.tell_predecessor(environ)
    assert os.read(reading, 100) == b"%d" % os.getpid()
    assert os.read(reading, 100) == b""
    assert environ == {}
    os.close(reading)


def test_an_old_process_that_has_gone_is_no_harm() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    handover.tell_predecessor({READY: str(writing)})
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(writing)


@pytest.mark.parametrize("value", ["", "x", "-1", "²", "9" * 30, "987654"])
def test_garbage_in_the_variable_is_no_harm_and_goes(value: str) -> None:
    environ = {READY: value, "HOME": "/"}
    handover.tell_predecessor(environ)
    assert environ == {"HOME": "/"}


# -- the pid file


def test_the_pid_file_names_this_process_and_goes_with_it(tmp_path: Path) -> None:
    environ = {PIDFILE: str(tmp_path / "pid")}
    (tmp_path / "pid").write_text("4242\n")
    handover.write_pidfile(environ)
    assert (tmp_path / "pid").read_text() == f"{os.getpid()}\n"
    assert os.listdir(tmp_path) == ["pid"]
    handover.remove_pidfile(environ)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("content", ["4242\n", "", "nonsense"])
def test_a_pid_file_that_speaks_of_another_stays(tmp_path: Path, content: str) -> None:
    (tmp_path / "pid").write_text(content)
    handover.remove_pidfile({PIDFILE: str(tmp_path / "pid")})
    assert (tmp_path / "pid").read_text() == content


def test_without_the_variable_there_is_no_pid_file_and_one_that_is_gone_is_no_harm(tmp_path: Path) -> None:
    handover.write_pidfile({})
    handover.remove_pidfile({})
    handover.remove_pidfile({PIDFILE: str(tmp_path / "none")})
    assert os.listdir(tmp_path) == []


def test_a_pid_file_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        handover.write_pidfile({PIDFILE: str(tmp_path / "none" / "pid")})
