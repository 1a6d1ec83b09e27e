"""What ``twistd ccrelay`` takes, and the one message that it ends with when it cannot begin."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import twisted.internet
from twisted.application.service import IService
from twisted.logger import ILogObserver
from twisted.python.components import Componentized
from zope.interface.verify import verifyObject

from ccrelay import __version__
from ccrelay.logs import LineObserver
from ccrelay.tap import CONFIG_BYTES, Options, makeService

from .upstream_rig import NamedReactor

GOOD = "providers: [{name: demo, type: simulator}]\n"
Ended = tuple[Any, str, str]


@pytest.fixture(autouse=True)
def reactor(monkeypatch: pytest.MonkeyPatch) -> NamedReactor:
    """The reactor that makeService finds; the real one is not installed."""
    made = NamedReactor()
    monkeypatch.setattr(twisted.internet, "reactor", made, raising=False)
    return made


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory and a home with nothing in them."""
    home, work = tmp_path / "home", tmp_path / "work"
    home.mkdir()
    work.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setenv("HOME", str(home))
    return work


def options(*arguments: str) -> Options:
    made = Options()
    made.parseOptions(arguments)
    return made


@pytest.fixture
def end(capsys: pytest.CaptureFixture[str]) -> Callable[..., Ended]:
    """Run it until it ends by itself: what it exits with, what it printed, and what it complained."""

    def run(*arguments: str) -> Ended:
        with pytest.raises(SystemExit) as ended:
            makeService(options(*arguments))
        printed = capsys.readouterr()
        return ended.value.code, printed.out, printed.err

    return run


def refused(ended: Ended) -> str:
    """The message of a refusal: a text, which Python prints and exits with 1."""
    code, out, err = ended
    assert isinstance(code, str)
    assert code.startswith("cc-relay: ")
    assert (out, err) == ("", "")
    return code


# -- options


def test_without_options_the_configuration_is_looked_for_and_used() -> None:
    assert (options()["config"], options()["check"]) == (None, 0)


@pytest.mark.parametrize("spelling", [["--config", "x.yaml"], ["--config=x.yaml"], ["-c", "x.yaml"]])
def test_the_configuration_can_be_named(spelling: list[str]) -> None:
    assert options(*spelling)["config"] == "x.yaml"


@pytest.mark.parametrize("wrong", [["--no-such-option"], ["--config"], ["stray"], ["--check=5"]])
def test_a_wrong_option_ends_with_a_message_that_shows_the_right_ones(wrong: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        options(*wrong)
    assert isinstance(ended.value.code, str)
    assert ended.value.code.startswith("cc-relay: ")
    assert "Usage: twistd" in ended.value.code


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        options("--version")
    assert (ended.value.code, capsys.readouterr().out) == (0, f"cc-relay {__version__}\n")


# -- a good configuration


def written(path: Path, text: str | bytes = GOOD) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


def test_a_service_is_made_and_nothing_else_happens(nowhere: Path, reactor: NamedReactor) -> None:
    service: Any = makeService(options("--config", written(nowhere / "relay.yaml")))
    verifyObject(IService, service)
    assert (reactor.tcpServers, reactor.getDelayedCalls()) == ([], [])


def test_its_log_goes_where_the_configuration_says(nowhere: Path) -> None:
    place = nowhere / "relay.log"
    text = GOOD + f"logging: {{output: {place}, format: text}}\n"
    service: Any = makeService(options("--config", written(nowhere / "relay.yaml", text)))
    parent = Componentized()
    parent.addService = lambda _: None  # type: ignore[attr-defined]
    service.setServiceParent(IService(parent, parent))
    observer = parent.getComponent(ILogObserver)
    assert isinstance(observer, LineObserver)
    observer({"log_time": 0.0, "log_format": "hello"})
    assert place.read_text().endswith(" hello\n")
    observer.close()


def test_check_prints_that_it_can_be_used_and_touches_nothing(
    nowhere: Path, end: Callable[..., Ended], reactor: NamedReactor
) -> None:
    place = nowhere / "relay.log"
    path = written(nowhere / "relay.yaml", GOOD + f"logging: {{output: {place}}}\n")
    assert end("--config", path, "--check") == (0, f"{path}: the configuration can be used\n", "")
    assert not place.exists()
    assert reactor.tcpServers == []


@pytest.mark.parametrize("name", ["relay.yaml", "relay.yml", "relay.conf"])
def test_yaml_is_what_has_no_other_ending(nowhere: Path, end: Callable[..., Ended], name: str) -> None:
    assert end("--config", written(nowhere / name), "--check")[0] == 0


def test_toml_is_told_by_its_ending(nowhere: Path, end: Callable[..., Ended]) -> None:
    path = written(nowhere / "relay.toml", '[[providers]]\nname = "demo"\ntype = "simulator"\n')
    assert end("--config", path, "--check")[0] == 0


@pytest.mark.parametrize("place", ["work/config.yaml", "work/config.toml", "home/.config/cc-relay/config.yaml"])
def test_the_configuration_is_found_in_its_usual_places(tmp_path: Path, end: Callable[..., Ended], place: str) -> None:
    text = GOOD if place.endswith("yaml") else '[[providers]]\nname = "demo"\ntype = "simulator"\n'
    path = written(tmp_path / place, text)
    assert end("--check") == (0, f"{path}: the configuration can be used\n", "")


def test_a_relative_path_is_shown_whole(nowhere: Path, end: Callable[..., Ended]) -> None:
    path = written(nowhere / "relay.yaml")
    assert end("--config", "relay.yaml", "--check")[1].startswith(path)


def test_warnings_go_to_stderr_each_on_its_line(nowhere: Path, end: Callable[..., Ended]) -> None:
    path = written(nowhere / "relay.yaml", GOOD + "grpc: {}\nserver:\n  listen: ':1'\n"
                   "  workers: 2\n  auth: {api_key: k}\n")  # fmt: skip
    code, out, err = end("--config", path, "--check")
    assert (code, out) == (0, f"{path}: the configuration can be used\n")
    lines = err.splitlines()
    assert all(line.startswith(f"cc-relay: {path}: warning: ") for line in lines)
    assert [word for word in ("grpc", "workers") if sum(word in line for line in lines) != 1] == []


# -- a configuration that cannot be used


def test_no_configuration_anywhere_is_told(end: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os.path, "exists", lambda _: False)
    assert "--config PATH" in refused(end())


def missing(folder: Path) -> str:
    return str(folder / "none.yaml")


def folder(folder: Path) -> str:
    return str(folder)


def loop(folder: Path) -> str:
    (folder / "loop.yaml").symlink_to("loop.yaml")
    return str(folder / "loop.yaml")


def not_utf8(folder: Path) -> str:
    return written(folder / "latin.yaml", GOOD.encode() + b"# caf\xe9\n")


def large(folder: Path) -> str:
    return written(folder / "large.yaml", GOOD + "#" + "x" * CONFIG_BYTES)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (missing, "No such file or directory"),
        (folder, "Is a directory"),
        (loop, "symbolic links"),
        (not_utf8, "utf-8"),
        (large, "larger than 1 MiB"),
    ],
)
@pytest.mark.parametrize("check", [[], ["--check"]])
def test_a_file_that_cannot_be_read_is_named_with_the_reason(
    nowhere: Path, end: Callable[..., Ended], make: Callable[[Path], str], reason: str, check: list[str]
) -> None:
    path = make(nowhere)
    message = refused(end("--config", path, *check))
    assert path in message
    assert reason in message


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_that_may_not_be_read_is_named(nowhere: Path, end: Callable[..., Ended]) -> None:
    path = written(nowhere / "relay.yaml")
    os.chmod(path, 0)
    assert f"{path}: Permission denied" in refused(end("--config", path))


def test_every_mistake_is_listed_and_no_secret_shown(nowhere: Path, end: Callable[..., Ended]) -> None:
    text = (
        "providers:\n  - {name: a, type: zai, prioritty: 1, keys: [{key: sk-canary, weight: heavy}]}\n  - {name: a}\n"
    )
    message = refused(end("--config", written(nowhere / "relay.yaml", text)))
    assert "prioritty" in message
    assert "weight" in message
    assert "providers[1]" in message
    assert "canary" not in message


@pytest.mark.parametrize("content", [None, b"\xff", b"x" * (CONFIG_BYTES + 1)])
def test_a_secrets_file_that_cannot_be_read_is_a_mistake_like_others(
    nowhere: Path, end: Callable[..., Ended], content: bytes | None
) -> None:
    secret = nowhere / "secret"
    if content is not None:
        secret.write_bytes(content)
    text = f"providers: [{{name: a, type: zai, keys: [{{key: '${{file:{secret}}}'}}]}}]\n"
    assert str(secret) in refused(end("--config", written(nowhere / "relay.yaml", text)))


def test_what_only_the_runtime_finds_is_told_too(nowhere: Path, end: Callable[..., Ended]) -> None:
    text = GOOD + "server: {listen: '127.0.0.1:1', enable_http2: true, tls: {certificate: /c, private_key: /k}}\n"
    assert "server.enable_http2" in refused(end("--config", written(nowhere / "relay.yaml", text)))


def test_check_looks_at_the_tls_files(nowhere: Path, end: Callable[..., Ended]) -> None:
    text = GOOD + f"server: {{listen: '127.0.0.1:1', tls: {{certificate: {nowhere}/c.pem, private_key: /k}}}}\n"
    path = written(nowhere / "relay.yaml", text)
    assert refused(end("--config", path, "--check")) == (
        f"cc-relay: server.tls: {nowhere}/c.pem: No such file or directory"
    )


def test_a_log_that_cannot_be_opened_is_named(nowhere: Path, end: Callable[..., Ended]) -> None:
    text = GOOD + f"logging: {{output: {nowhere}/none/relay.log}}\n"
    message = refused(end("--config", written(nowhere / "relay.yaml", text)))
    assert message.startswith("cc-relay: logging.output: ")
    assert f"{nowhere}/none/relay.log" in message


# -- what a process before hands over


@pytest.mark.parametrize("text", ["nonsense", "[1]", '[["tcp:1", 2, 0]]', ""])
def test_garbage_for_listeners_is_refused_in_one_line(
    nowhere: Path, end: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv("CC_RELAY_LISTENERS", text)
    message = refused(end("--config", written(nowhere / "relay.yaml")))
    assert message.startswith("cc-relay: CC_RELAY_LISTENERS: ")
    assert "\n" not in message


def test_what_was_handed_over_is_in_nobodys_environment_any_more(
    nowhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CC_RELAY_LISTENERS", "[]")
    makeService(options("--config", written(nowhere / "relay.yaml")))
    assert "CC_RELAY_LISTENERS" not in os.environ


@pytest.mark.parametrize(("listeners", "pidfile"), [(None, "/run/x.pid"), ("[]", "")])
def test_only_a_process_that_takes_over_ignores_the_pid_file(
    monkeypatch: pytest.MonkeyPatch, listeners: str | None, pidfile: str
) -> None:
    if listeners is not None:
        monkeypatch.setenv("CC_RELAY_LISTENERS", listeners)
    made = Options()
    twistd: Any = {"pidfile": "/run/x.pid"}
    made.parent = twistd
    made.parseOptions([])
    assert twistd["pidfile"] == pidfile
