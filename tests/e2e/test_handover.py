"""A new process takes the listeners over while the old one ends its calls: nobody is refused, nobody is cut."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import ssl
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import pytest

from tests.e2e import answers
from tests.e2e.answers import Text
from tests.e2e.certificates import Certificates
from tests.e2e.crowd import Crowd
from tests.e2e.raw_client import Client, Reply, ask, body_for, get, post
from tests.e2e.relay_process import Relay, config, free_port, provider
from tests.e2e.upstream_process import Upstream
from tests.e2e.waiting import PATIENCE, wait_for

STREAMS = 50
START_SECONDS = 60
"""A process has to import everything first, on a machine that is busy with the streams of the old one."""

HELD = answers.events([Text(["first", "second"])])
QUICK = answers.conversation([Text(["here"])])
_SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER of prctl(2)


@pytest.fixture(autouse=True, scope="module")
def subreaper() -> Iterator[None]:
    """Successors, whose parents end, become children of this process, which can then wait for them."""
    prctl = ctypes.CDLL(None).prctl
    assert prctl(_SUBREAPER, 1) == 0
    yield
    prctl(_SUBREAPER, 0)


class Chain:
    """A relay and those that take over from it. ``pid``: of the one in charge. ``with`` ends what still runs."""

    def __init__(self, configuration: dict[str, Any], folder: Path) -> None:
        self.pidfile = folder / "pid"
        self.relay = Relay(configuration, CC_RELAY_PIDFILE=str(self.pidfile))
        self.port = self.relay.port
        self.config = self.relay.home / "relay.yaml"
        self.pid = self.relay.process.pid
        self._successors: list[int] = []
        wait_for(lambda: self._named() == self.pid, "the pid file names the first process")

    def _named(self) -> int:
        return int(self.pidfile.read_text())

    def hand_over(self) -> None:
        before = self.pid
        os.kill(before, signal.SIGUSR2)
        wait_for(lambda: self._named() != before, "the pid file names another process", START_SECONDS)
        self.pid = self._named()
        self._successors.append(self.pid)
        self.said(f"process {self.pid} serves")

    def said(self, text: str, times: int = 1, seconds: float = START_SECONDS) -> None:
        wait_for(lambda: self.relay.output().count(text) >= times, f"the log says {text!r}", seconds)

    def ended(self, pid: int) -> int:
        """Wait for one of them; its exit code."""
        if pid == self.relay.process.pid:
            return self.relay.process.wait(PATIENCE)
        self._successors.remove(pid)
        return exit_code(pid)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        for pid in list(self._successors):
            os.kill(pid, signal.SIGTERM if error is None else signal.SIGKILL)
            code = self.ended(pid)
            assert error is not None or code == 0, self.relay.tail()
        self.relay.__exit__(kind, error, trace)


def exit_code(pid: int) -> int:
    found: list[int] = []

    def over() -> bool:
        ended, status = os.waitpid(pid, os.WNOHANG)
        found.append(os.waitstatus_to_exitcode(status) if ended else 0)
        return bool(ended)

    wait_for(over, f"process {pid} has ended")
    return found[-1]


def children(pid: int) -> list[int]:
    return [int(number) for number in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


class Visitor(threading.Thread):
    """Connects, asks one thing, hangs up, and again. ``told``: what it was told, or what went wrong instead."""

    def __init__(self, port: int) -> None:
        super().__init__()
        self.port = port
        self.told: list[str] = []
        self.enough = threading.Event()

    def run(self) -> None:
        while not self.enough.is_set():
            try:
                with Client(self.port) as client:
                    client.send(post(body_for(model="quick")))
                    reply = client.reply()
                self.told.append(f"{reply.status} {reply.ending}")
            except (OSError, EOFError, AssertionError) as error:
                self.told.append(repr(error))

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.enough.set()
        self.join()


def whole(reply: Reply) -> bool:
    return (reply.status, reply.ending, reply.body) == (200, "complete", b"".join(HELD))


def route(upstream: Upstream, gate: str = "rest") -> None:
    upstream.route(answers.held(HELD[:3], gate, HELD[3:]))
    upstream.route(QUICK, model="quick")


def test_two_hand_overs_in_a_row_refuse_nobody_and_cut_nobody(upstream: Upstream, tmp_path: Path) -> None:
    route(upstream)
    with Chain(config([provider("first", upstream.url)]), tmp_path) as chain, Crowd(chain.port) as crowd:
        first = chain.pid
        with Visitor(chain.port) as visitor:
            early = crowd.ask(post(body_for()) for _ in range(STREAMS))
            wait_for(lambda: early.began == STREAMS, "every stream has begun")
            chain.hand_over()
            second = chain.pid
            assert len(os.listdir(f"/proc/{second}/fd")) < STREAMS  # none of the old one's connections

            visits = len(visitor.told)
            late = crowd.ask(post(body_for()) for _ in range(STREAMS))
            wait_for(lambda: late.began == STREAMS, "every later stream has begun")
            chain.hand_over()
            wait_for(lambda: len(visitor.told) > visits + 20, "the visitor is served on", START_SECONDS)
            chain.said("stopping", times=2)  # both old ones by now close what is idle
            assert chain.relay.process.poll() is None
            upstream.release("rest")
            assert [reply for reply in early.replies() + late.replies() if not whole(reply)] == []
            assert (chain.ended(first), chain.ended(second)) == (0, 0)
        assert set(visitor.told) == {"200 complete"}
        assert int(chain.pidfile.read_text()) == chain.pid
    assert not chain.pidfile.exists()


def test_a_process_that_does_not_come_up_leaves_the_old_one_in_charge(upstream: Upstream, tmp_path: Path) -> None:
    route(upstream)
    with Chain(config([provider("first", upstream.url)]), tmp_path) as chain, Client(chain.port) as client:
        client.send(post(body_for()))
        incoming = client.opened()
        seen = incoming.until(b'"first"}}\n\n')
        good = chain.config.read_text()
        chain.config.write_text("server: {listen: [")
        os.kill(chain.pid, signal.SIGUSR2)
        chain.said("this process serves on")
        with Client(chain.port) as other:
            other.send(get("/health"))
            assert other.reply("GET").status == 200
        assert int(chain.pidfile.read_text()) == chain.pid

        chain.config.write_text(good)
        first = chain.pid
        os.kill(first, signal.SIGUSR2)
        os.kill(first, signal.SIGHUP)
        chain.hand_over()
        upstream.release("rest")
        rest = incoming.reply()
        assert (seen + rest.body, rest.ending) == (b"".join(HELD), "complete")
        assert chain.ended(first) == 0
        assert chain.relay.output().count("starting the process that takes over") == 2


def test_the_admin_listener_belongs_to_the_new_process_at_once(upstream: Upstream, tmp_path: Path) -> None:
    route(upstream)
    admin = free_port()
    configuration = config([provider("first", upstream.url)], admin={"listen": f"127.0.0.1:{admin}"})
    with Chain(configuration, tmp_path) as chain, Client(chain.port) as client:
        client.send(post(body_for()))
        incoming = client.opened()
        first = chain.pid
        chain.hand_over()
        chain.said("stopping")  # the old one, which would say that it drains
        told = [ask(admin, get("/status"), "GET").json for _ in range(5)]
        assert [(each["health"], each["in_flight"]) for each in told] == [("ok", 0)] * 5
        upstream.release("rest")
        assert incoming.reply().ending == "complete"
        assert chain.ended(first) == 0
        assert ask(admin, get("/health"), "GET").status == 200


def test_a_stop_meanwhile_ends_both(upstream: Upstream, tmp_path: Path) -> None:
    with Chain(config([provider("first", upstream.url)]), tmp_path) as chain:
        os.kill(chain.pid, signal.SIGUSR2)
        [successor] = wait_for(lambda: children(chain.pid), "the new process runs")
        os.kill(chain.pid, signal.SIGTERM)
        assert chain.ended(chain.pid) == 0
        try:
            assert exit_code(successor) == -signal.SIGKILL
        except ChildProcessError:  # its parent has lived long enough to collect it
            assert not Path(f"/proc/{successor}").exists()
        with pytest.raises(ConnectionRefusedError):
            Client(chain.port)
        assert not chain.pidfile.exists()


class Secure(Client):
    """A client over TLS."""

    def __init__(self, port: int, authority: Path) -> None:
        super().__init__(port)
        context = ssl.create_default_context(cafile=str(authority))
        self.socket = context.wrap_socket(self.socket, server_hostname="localhost")


class Local(Client):
    """A client of a unix socket."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(PATIENCE)
        self.socket.connect(str(path))
        self.buffer = b""
        self.over = False


def test_tls_and_unix_listeners_are_added_by_a_reload_and_handed_over(
    upstream: Upstream, tmp_path: Path, certificates: Certificates
) -> None:
    route(upstream)
    secure, path = free_port(), tmp_path / "s"
    made = config([provider("first", upstream.url)])
    with Chain(made, tmp_path) as chain:
        chain_file, key = certificates.localhost
        made["server"]["listen"] = [
            f"127.0.0.1:{chain.port}",
            f"ssl:{secure}:privateKey={key}:certKey={chain_file}:interface=127.0.0.1",
            f"unix:{path}:mode=600",
        ]
        chain.config.write_text(json.dumps(made))
        os.kill(chain.pid, signal.SIGHUP)
        chain.said("the configuration is reloaded")

        def clients() -> list[Client]:
            return [Client(chain.port), Secure(secure, certificates.authority), Local(path)]

        streams = clients()
        for client in streams:
            client.send(post(body_for(), host="localhost"))
        bodies = [client.opened() for client in streams]
        starts = [body.until(b'"first"}}\n\n') for body in bodies]
        first, inode = chain.pid, os.stat(path).st_ino

        chain.hand_over()
        assert os.stat(path).st_ino == inode
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
        wait_for(lambda: os.readlink(f"{path}.lock") == str(chain.pid), "the lock names the new process")
        for client in clients():
            client.send(post(body_for(model="quick"), host="localhost"))
            assert client.reply().status == 200
            client.leave()
        upstream.release("rest")
        rests = [body.reply() for body in bodies]
        assert [start + rest.body for start, rest in zip(starts, rests, strict=True)] == [b"".join(HELD)] * 3
        for client in streams:
            client.leave()
        assert chain.ended(first) == 0
        assert path.exists()
    assert not path.exists()
    assert not os.path.lexists(f"{path}.lock")
