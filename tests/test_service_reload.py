"""A service that reloads or hands over: what changes for the next call, and what nobody under way notices."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from random import Random
from typing import Any

import pytest
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.error import ProcessTerminated
from twisted.python.failure import Failure

from ccrelay.core.settings import Settings
from ccrelay.handover import READY, START_SECONDS
from ccrelay.listeners import Listeners
from ccrelay.logs import LineObserver
from ccrelay.reloading import WATCH_SECONDS, Source, look
from ccrelay.runtime import Runtime
from ccrelay.service import SETTLE_SECONDS, RelayService
from ccrelay.tap import read_configuration

from .test_service import CALL, EVENTS, STOP, Life, chunk, handlers, logged
from .upstream_rig import fired
from .web_rig import post

__all__ = ["handlers"]  # a fixture that is always on

ONE = "{name: north, type: anthropic, base_url: 'http://north.test', keys: [{key: k}]}"
TWO = "{name: south, type: anthropic, base_url: 'http://proxy.test', keys: [{key: k}]}"
TIRED = b"HTTP/1.1 429 Too Many\r\nContent-Type: application/json\r\nRetry-After: 30\r\nContent-Length: 2\r\n\r\n{}"
ILL = b"HTTP/1.1 500 Oops\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"


class Spawned:
    """A process that was started, seen from its transport. ``signals``: what it was sent."""

    pid = 4242

    def __init__(self, protocol: Any, env: Mapping[str, str]) -> None:
        self.protocol, self.env = protocol, env
        self.signals: list[str] = []
        protocol.makeConnection(self)

    def signalProcess(self, name: str) -> None:
        self.signals.append(name)

    def serves(self) -> None:
        self.protocol.childDataReceived(int(self.env[READY]), b"%d" % self.pid)

    def dies(self) -> None:
        self.protocol.processEnded(Failure(ProcessTerminated(1)))


class Kept(Life):
    """A service whose configuration is a file, and whose threads are this one unless ``in_thread`` says other."""

    def __init__(
        self, folder: Path, text: str = f"providers: [{ONE}]\n", in_thread: Callable[..., Deferred[Any]] = maybeDeferred
    ) -> None:
        super().__init__()
        self.path = folder / "relay.yaml"
        self.write(text)
        self.log = folder / "first.log"
        self.observer = LineObserver.configured(self.read().logging)
        self.runtime = self.make(self.read(), None)
        self.spawned: list[Spawned] = []
        self.reactor.spawnProcess = self._spawn  # type: ignore[attr-defined]
        source = Source(str(self.path), lambda: read_configuration(str(self.path)), self.make, look(str(self.path)))
        self.service = RelayService(
            self.reactor,
            self.runtime,
            self.observer,
            source,
            listeners=Listeners(self.reactor),
            in_thread=in_thread,
        )

    def write(self, text: str) -> None:
        if "listen:" not in text:
            text += "server: {listen: '127.0.0.1:8787'}\n"
        self.path.write_text(text)

    def read(self) -> Settings:
        return read_configuration(str(self.path)).settings

    def make(self, settings: Settings, previous: Runtime | None) -> Runtime:
        return Runtime(settings, self.reactor, {}, Random(7), previous)

    def _spawn(self, protocol: Any, *_: object, env: Mapping[str, str], **__: object) -> None:
        self.spawned.append(Spawned(protocol, env))

    def reload(self, text: str) -> list[str]:
        """What is logged while the service reads ``text``."""
        self.write(text)
        done: list[Any] = []
        said = logged(lambda: done.extend(fired(self.service.reload())))
        assert done == [None]
        return said

    def states(self) -> dict[str, str]:
        """The state of each provider's breaker."""
        return {entry.name: entry.circuit for entry in self.entries()}

    def entries(self) -> Any:
        return self.service._runtime.surface.providers()

    def answer(self, answer: bytes) -> int:
        """The status that a call is told whose upstream answers so."""
        client = self.connect()
        client.send(post(CALL))
        self.reactor.resolve()
        self.reactor.advance(0)
        self.reactor.accept().send(answer)
        self.reactor.advance(0)
        return client.reply.status


# -- reloading


def test_a_good_file_serves_the_next_call_while_the_one_under_way_ends_as_it_began(tmp_path: Path) -> None:
    life = Kept(tmp_path).start()
    client, origin = life.call()
    assert "the configuration is reloaded" in life.reload(f"providers: [{TWO}]\n")
    other = life.connect()
    other.send(post(CALL))
    [(_, name, _)] = life.reactor.lookups[-1:]
    assert name == "proxy.test"
    origin.send(chunk(STOP) + b"0\r\n\r\n")
    assert (client.reply.body, client.reply.ending) == (EVENTS + STOP, "whole")
    assert (life.service.reloads.count, life.service.reloads.failures) == (1, 0)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("providers: [\n", ["relay.yaml"]),
        (f"providers: [{ONE}]\nno_such: 1\nrouting: {{strategy: luck}}\n", ["no_such", "routing.strategy"]),
        (
            f"providers: [{ONE}]\nserver: {{listen: ['127.0.0.1:8787', 'nosuch:x=1'], auth: {{api_key: k}}}}\n",
            ["nosuch:"],
        ),
        (
            f"providers: [{ONE}]\nserver: {{listen: '[::1]:1', tls: {{certificate: /no/c, private_key: /no/k}}}}\n",
            ["/no/c: No such file"],
        ),
        (f"providers: [{ONE}]\nlogging: {{output: /no/such/log}}\n", ["/no/such/log"]),
    ],
)
def test_a_bad_file_is_told_line_by_line_and_all_stays(tmp_path: Path, text: str, words: list[str]) -> None:
    life = Kept(tmp_path).start()
    before = life.service._runtime
    said = life.reload(text)
    assert all(line.startswith("not reloaded, the old configuration stays: ") for line in said)
    assert [word for word in words if not any(word in line for line in said)] == []
    reloads = life.service.reloads
    assert (reloads.count, reloads.failures, life.service._runtime) == (0, 1, before)
    assert all(word in (reloads.last_error or "") for word in words)
    assert [port.open for port in life.reactor.ports] == [True]
    assert life.answer(ILL) == 500
    assert life.reload(f"providers: [{ONE}]\n") == ["the configuration is reloaded"]
    assert reloads.last_error is None


def test_a_taken_port_closes_what_was_opened_with_it(tmp_path: Path) -> None:
    life = Kept(tmp_path).start()
    life.reactor.taken = (9999,)
    said = life.reload(f"providers: [{ONE}]\nserver: {{listen: ['127.0.0.1:1111', '127.0.0.1:9999']}}\n")
    assert any("9999" in line for line in said)
    assert [(port.address.port, port.open) for port in life.reactor.ports] == [(8787, True), (1111, False)]


def test_listeners_follow_the_file(tmp_path: Path) -> None:
    life = Kept(tmp_path).start()
    life.reload(f"providers: [{ONE}]\nserver: {{listen: ['127.0.0.1:1111']}}\n")
    assert [(port.address.port, port.open) for port in life.reactor.ports] == [(8787, False), (1111, True)]


def test_a_file_that_is_gone_is_told(tmp_path: Path) -> None:
    life = Kept(tmp_path).start()
    life.path.unlink()
    [line] = logged(lambda: life.service.reload())
    assert "No such file" in line


def test_a_bug_is_told_and_the_old_configuration_serves(tmp_path: Path) -> None:
    life = Kept(tmp_path).start()

    def broken(*_: object) -> Runtime:
        raise ZeroDivisionError("secret-canary")

    life.service._source = Source(str(life.path), lambda: read_configuration(str(life.path)), broken, None)
    assert life.reload(f"providers: [{ONE}]\n") == ["not reloaded, the old configuration stays"]
    assert life.service.reloads.last_error == "internal error; the log has the details"
    assert life.answer(ILL) == 500


def test_warnings_of_the_new_file_are_told(tmp_path: Path) -> None:
    life = Kept(tmp_path).start()
    said = life.reload(f"providers: [{ONE}]\ngrpc: {{}}\n")
    assert [line for line in said if "grpc" in line] != []


def test_the_log_goes_where_the_new_file_says_and_not_where_a_bad_one_does(tmp_path: Path) -> None:
    life = Kept(tmp_path, f"providers: [{ONE}]\nlogging: {{output: {tmp_path}/a, format: text}}\n").start()
    life.reactor.taken = (9999,)
    life.reload(
        f"providers: [{ONE}]\nlogging: {{output: {tmp_path}/b, format: text}}\nserver: {{listen: '127.0.0.1:9999'}}\n"
    )
    life.observer({"log_time": 0.0, "log_format": "after the bad one"})
    life.reload(f"providers: [{ONE}]\nlogging: {{output: {tmp_path}/c, format: text}}\n")
    life.observer({"log_time": 0.0, "log_format": "after the good one"})
    assert "after the bad one" in (tmp_path / "a").read_text()
    assert (tmp_path / "b").read_text() == ""
    assert "after the good one" in (tmp_path / "c").read_text()
    life.observer.close()


# -- what is known of providers


def test_what_a_provider_has_shown_counts_on_unless_it_is_another_one(tmp_path: Path) -> None:
    health = "health: {circuit_breaker: {failure_threshold: 1}, health_check: {enabled: false}}\n"
    life = Kept(tmp_path, f"providers: [{ONE}]\n{health}").start()
    assert life.answer(ILL) == 500
    assert life.states() == {"north": "open"}
    life.reload(f"providers: [{ONE}, {TWO}]\n{health}")
    assert life.states() == {"north": "open", "south": "closed"}
    life.reload(f"providers: [{ONE.replace('north.test', 'proxy.test')}]\n{health}")
    assert life.states() == {"north": "closed"}


def test_a_key_that_rests_is_left_alone_after_a_reload(tmp_path: Path) -> None:
    life = Kept(tmp_path).start()
    assert life.answer(TIRED) == 429
    asked = len(life.reactor.tcpClients)
    life.reload(f"providers: [{ONE}]\nrouting: {{debug: true}}\n")
    client = life.connect()
    client.send(post(CALL))
    life.reactor.advance(0)
    assert (client.reply.status, len(life.reactor.tcpClients)) == (429, asked)


# -- when


class Threads:
    """Threads that end when the test says so."""

    def __init__(self) -> None:
        self.waiting: list[Callable[[], object]] = []

    def __call__(self, work: Callable[..., Any], *arguments: Any) -> Deferred[Any]:
        done: Deferred[Any] = Deferred()
        self.waiting.append(lambda: maybeDeferred(work, *arguments).chainDeferred(done))
        return done

    def finish(self, count: int = 1000) -> None:
        while self.waiting and count:
            self.waiting.pop(0)()
            count -= 1


def test_of_reloads_asked_for_meanwhile_one_follows(tmp_path: Path) -> None:
    threads = Threads()
    life = Kept(tmp_path, in_thread=threads).start()
    for _ in range(100):
        life.service.reload()
    threads.finish()
    assert life.service.reloads.count == 2


def test_nothing_is_opened_again_by_a_reload_that_a_stop_overtakes(tmp_path: Path) -> None:
    threads = Threads()
    life = Kept(tmp_path, in_thread=threads).start()
    life.service.reload()
    life.service.reload()
    threads.finish(1)
    life.stop()
    threads.finish()
    assert [port.open for port in life.reactor.ports] == [False]
    assert life.service.reloads.count == 0


def test_an_edit_is_noticed_by_itself_and_one_read_on_a_signal_only_once(
    tmp_path: Path, handlers: Mapping[int, Callable[..., object]]
) -> None:
    life = Kept(tmp_path).start()
    life.write(f"providers: [{TWO}]\n")
    for _ in range(3):
        life.reactor.advance(WATCH_SECONDS)
    assert list(life.states()) == ["south"]
    life.write(f"providers: [{ONE}, {TWO}]\n")
    handlers[signal.SIGHUP](signal.SIGHUP, None)
    life.reactor.turn()
    for _ in range(3):
        life.reactor.advance(WATCH_SECONDS)
    assert life.service.reloads.count == 2


def test_without_a_file_there_is_nothing_to_reload() -> None:
    assert fired(Life().start().service.reload()) == [None]


def test_a_signal_opens_the_log_anew(tmp_path: Path, handlers: Mapping[int, Callable[..., object]]) -> None:
    life = Kept(tmp_path, f"providers: [{ONE}]\nlogging: {{output: {tmp_path}/log, format: text}}\n").start()
    (tmp_path / "log").rename(tmp_path / "log.1")
    handlers[signal.SIGUSR1](signal.SIGUSR1, None)
    life.reactor.turn()
    life.observer({"log_time": 0.0, "log_format": "in the new one"})
    assert "in the new one" in (tmp_path / "log").read_text()
    life.observer.close()


# -- handing over


def test_the_old_process_stops_listening_settles_and_drains_once_the_new_one_serves(tmp_path: Path) -> None:
    life = Kept(tmp_path).start()
    client, origin = life.call()
    fresh = life.connect()
    life.service.hand_over()
    life.service.hand_over()
    [process] = life.spawned
    assert [port.open for port in life.reactor.ports] == [True]
    assert any("process 4242 serves" in line for line in logged(process.serves))
    assert [port.open for port in life.reactor.ports] == [False]
    life.reactor.advance(SETTLE_SECONDS / 2)
    fresh.send(post(CALL))  # accepted before, and only now with its request
    assert life.reactor.stops == 0
    life.reactor.advance(SETTLE_SECONDS / 2)
    assert life.reactor.stops == 1
    stopped = life.stop()
    assert (client.end, fresh.end, stopped) == (None, None, [])
    origin.send(chunk(STOP) + b"0\r\n\r\n")
    assert client.reply.ending == "whole"


def test_a_new_process_that_fails_leaves_all_as_it_was_and_may_be_asked_for_again(tmp_path: Path) -> None:
    life = Kept(tmp_path).start()
    life.service.hand_over()
    assert any("serves on" in line for line in logged(life.spawned[0].dies))
    assert [port.open for port in life.reactor.ports] == [True]
    life.service.hand_over()
    assert len(life.spawned) == 2


def test_a_process_that_cannot_be_started_is_told(tmp_path: Path) -> None:
    life = Kept(tmp_path).start()

    def full(*_: object, **__: object) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    life.reactor.spawnProcess = full  # type: ignore[attr-defined]
    assert any("temporarily unavailable" in line for line in logged(life.service.hand_over))
    assert [port.open for port in life.reactor.ports] == [True]


def test_the_first_process_of_a_container_does_not_hand_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    life = Kept(tmp_path).start()
    monkeypatch.setattr(os, "getpid", lambda: 1)
    assert any("container" in line for line in logged(life.service.hand_over))
    assert life.spawned == []


def test_a_stop_meanwhile_kills_the_new_process(tmp_path: Path) -> None:
    life = Kept(tmp_path).start()
    life.service.hand_over()
    life.stop()
    assert life.spawned[0].signals == ["KILL"]
    life.reactor.advance(START_SECONDS)
    assert life.reactor.getDelayedCalls() == []


def test_a_reload_meanwhile_waits_and_only_a_failure_lets_it_happen(tmp_path: Path) -> None:
    life = Kept(tmp_path).start()
    life.service.hand_over()
    life.reload(f"providers: [{TWO}]\n")
    assert list(life.states()) == ["north"]
    life.spawned[0].dies()
    assert list(life.states()) == ["south"]
    life.service.hand_over()
    life.spawned[1].serves()
    life.reload(f"providers: [{ONE}]\n")
    assert list(life.states()) == ["south"]


def test_a_hand_over_waits_for_the_reload_under_way(tmp_path: Path) -> None:
    threads = Threads()
    life = Kept(tmp_path, in_thread=threads).start()
    life.service.reload()
    life.service.hand_over()
    assert life.spawned == []
    threads.finish()
    assert (len(life.spawned), life.service.reloads.count) == (1, 1)


def test_after_a_hand_over_it_takes_two_signals_to_cut(
    tmp_path: Path, handlers: Mapping[int, Callable[..., object]]
) -> None:
    """The first, as an init system sends it to all processes, asks for what is under way already."""
    life = Kept(tmp_path).start()
    client, _ = life.call()
    life.service.hand_over()
    life.spawned[0].serves()
    life.reactor.advance(SETTLE_SECONDS)
    life.stop()
    for ending in (None, "aborted"):
        handlers[signal.SIGTERM](signal.SIGTERM, None)
        life.reactor.turn()
        life.reactor.turn()
        assert client.end == ending


def test_the_new_process_is_this_program_again(tmp_path: Path) -> None:
    life = Kept(tmp_path).start()
    commands: list[Any] = []
    life.reactor.spawnProcess = lambda _, program, args, **__: commands.append((program, args))  # type: ignore[attr-defined]
    life.service.hand_over()
    assert commands == [(sys.executable, [sys.executable, *sys.orig_argv[1:]])]
