"""How the daemon starts, refuses to start, and stops: exit codes and what a person reads."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.e2e import answers
from tests.e2e.answers import Text
from tests.e2e.raw_client import Client, ask, body_for, get, post
from tests.e2e.relay_process import ROOT, Relay, config, environment, free_port, provider, twistd
from tests.e2e.upstream_process import Upstream
from tests.e2e.waiting import wait_for


def write(folder: Path, configuration: Any, name: str = "relay.yaml") -> Path:
    path = folder / name
    path.write_text(configuration if isinstance(configuration, str) else json.dumps(configuration))
    return path


def listening_on(port: int) -> dict[str, Any]:
    return config([provider("first", "http://127.0.0.1:9")], server={"listen": f"127.0.0.1:{port}"})


def ccrelay(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the daemon with these options until it ends by itself."""
    return subprocess.run(
        [*twistd(), "-n", "--pidfile=", "ccrelay", *arguments],
        cwd=folder,
        env=environment(folder, PYTHONPATH=str(ROOT)),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=30,
    )


def refused(done: subprocess.CompletedProcess[str], *words: str) -> None:
    """It exited 1 and said why, readably and once."""
    said = done.stdout + done.stderr
    assert done.returncode == 1, said
    assert "Traceback" not in said
    for word in words:
        assert said.count(word) == 1, said


def test_a_broken_configuration_lists_every_fault_once(tmp_path: Path) -> None:
    broken = listening_on(free_port())
    broken["providers"] = [{"name": "first", "type": "anthropix", "keys": [{"key": "k"}], "prioritty": 1}]
    broken["server"]["timeout_ms"] = "soon"
    path = write(tmp_path, broken)
    refused(ccrelay(tmp_path, "--config", str(path)), "providers[0].type", "prioritty", "timeout_ms")


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("server: [", "relay.yaml"),
        ("", "relay.yaml"),
        ("- 1\n- 2\n", "relay.yaml"),
        ("server: {listen: '${NO_SUCH_NAME}'}\n", "NO_SUCH_NAME"),
    ],
    ids=["not YAML", "empty", "a list", "unset variable"],
)
def test_a_file_that_is_no_configuration_is_refused(tmp_path: Path, text: str, word: str) -> None:
    done = ccrelay(tmp_path, "--config", str(write(tmp_path, text)))
    refused(done)
    assert word in done.stdout + done.stderr


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    refused(ccrelay(tmp_path, "--config", str(tmp_path / "none.yaml")), "none.yaml")


def test_a_secret_is_not_shown_with_a_fault(tmp_path: Path) -> None:
    broken = listening_on(free_port())
    broken["providers"][0] = {**broken["providers"][0], "keys": [{"key": "sk-very-secret", "weight": "heavy"}]}
    done = ccrelay(tmp_path, "--config", str(write(tmp_path, broken)))
    refused(done)
    assert "sk-very-secret" not in done.stdout + done.stderr


def test_a_taken_port_is_refused(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = ccrelay(tmp_path, "--config", str(write(tmp_path, listening_on(port))))
    refused(done)
    assert str(port) in done.stdout + done.stderr


def test_listening_beyond_loopback_without_auth_is_refused(tmp_path: Path) -> None:
    open_door = listening_on(free_port())
    open_door["server"] = {"listen": f"0.0.0.0:{free_port()}"}
    done = ccrelay(tmp_path, "--config", str(write(tmp_path, open_door)))
    refused(done)
    assert "allow_unauthenticated" in done.stdout + done.stderr


def test_check_of_a_good_file_exits_0_and_does_not_listen(tmp_path: Path) -> None:
    with socket.socket() as taken:  # listening there would fail
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        path = write(tmp_path, listening_on(taken.getsockname()[1]))
        done = ccrelay(tmp_path, "--config", str(path), "--check")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_check_of_a_broken_file_exits_1(tmp_path: Path) -> None:
    broken = {**listening_on(free_port()), "provides": []}
    refused(ccrelay(tmp_path, "--config", str(write(tmp_path, broken)), "--check"), "provides")


def test_the_shipped_configuration_passes_the_check(tmp_path: Path) -> None:
    done = ccrelay(tmp_path, "--config", str(ROOT / "etc" / "cc-relay.yaml"), "--check")
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_simulator_answers_without_any_upstream_or_key() -> None:
    made = config([{"name": "demo", "type": "simulator", "simulator": {"text": "It works."}}])
    with Relay(made) as relay:
        streamed = ask(relay.port, post(body_for()))
        assert (streamed.status, streamed.ending) == (200, "complete")
        assert streamed.body.startswith(b"event: message_start\n") and b"event: message_stop\n" in streamed.body
        whole = ask(relay.port, post(body_for(stream=False))).json
        assert "It works." in whole["content"][0]["text"]
        assert relay.access_line(streamed.header("x-request-id"))["outcome"] == "answered"


def test_an_unknown_option_is_refused_without_a_traceback(tmp_path: Path) -> None:
    done = ccrelay(tmp_path, "--no-such-option")
    said = done.stdout + done.stderr
    assert done.returncode == 1, said
    assert "no-such-option" in said and "Traceback" not in said


@pytest.mark.parametrize("relative", [True, False])
def test_the_path_of_the_configuration_may_be_relative(tmp_path: Path, relative: bool) -> None:
    folder = tmp_path / "etc"
    folder.mkdir()
    path = write(folder, listening_on(free_port()))
    given = os.path.relpath(path, tmp_path) if relative else str(path)
    assert ccrelay(tmp_path, "--config", given, "--check").returncode == 0


def test_sigterm_ends_it_with_0(upstream: Upstream) -> None:
    relay = Relay(config([provider("first", upstream.url)]))
    assert ask(relay.port, get("/health")).status == 200
    assert relay.stop() == 0, relay.tail()
    assert "Traceback" not in relay.output()
    with pytest.raises(ConnectionRefusedError):
        Client(relay.port)


def test_a_stream_under_way_may_finish_after_sigterm(upstream: Upstream) -> None:
    made = answers.events([Text(["first", "second"])])
    upstream.queue(answers.held(made[:3], "rest", made[3:]))
    with Relay(config([provider("first", upstream.url)])) as relay, Client(relay.port) as client:
        client.send(post(body_for()))
        incoming = client.opened()
        seen = incoming.until(b'"first"}}\n\n')
        relay.process.send_signal(signal.SIGTERM)

        def closed() -> bool:
            try:
                Client(relay.port).leave()
            except OSError:
                return True
            return False

        wait_for(closed, "the listener is closed")
        upstream.release("rest")
        rest = incoming.reply()
        assert (seen + rest.body, rest.ending) == (b"".join(made), "complete")


def test_a_stream_that_outlives_the_drain_is_cut(upstream: Upstream) -> None:
    made = answers.events([Text(["first", "second"])])
    upstream.queue(answers.held(made[:3], "never", made[3:]))
    drain = {"drain_timeout_ms": 300}
    with Relay(config([provider("first", upstream.url)], server=drain)) as relay, Client(relay.port) as client:
        client.send(post(body_for()))
        incoming = client.opened()
        incoming.until(b'"first"}}\n\n')
        assert relay.stop() == 0, relay.tail()
        assert incoming.reply().ending == "broken"
