"""The command as a shell sees it: exit status, what goes where, and the subcommands that have no file of their own."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from ccrelay import __version__
from ccrelay.cli.completion import bash, levels
from ccrelay.cli.parser import build_parser
from ccrelay.cli.templates import TEMPLATES, configuration_for

from .config_loading import load_text
from .e2e.waiting import wait_for

ROOT = Path(__file__).resolve().parent.parent
GOOD = "providers: [{name: demo, type: simulator}]\n"


def environment(home: Path, **more: str) -> dict[str, str]:
    return {"PATH": os.defpath, "HOME": str(home), "PYTHONPATH": str(ROOT), **more}


def cc_relay(home: Path, *arguments: str, text: str = "", **environ: str) -> subprocess.CompletedProcess[str]:
    """Run it in ``home``, with nothing else of this machine."""
    return subprocess.run(
        [sys.executable, "-m", "ccrelay.cli", *arguments],
        cwd=home,
        env=environment(home, **environ),
        input=text,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("arguments", [[], ["nonsense"], ["init", "--provider", "nobody"], ["check", "--nonsense"]])
def test_wrong_arguments_end_with_2(tmp_path: Path, arguments: list[str]) -> None:
    done = cc_relay(tmp_path, *arguments)

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("usage: cc-relay")


def test_version_names_the_relay_and_what_it_runs_on(tmp_path: Path) -> None:
    done = cc_relay(tmp_path, "version")

    assert done.returncode == 0
    assert done.stdout.startswith(f"cc-relay {__version__}\nPython {sys.version.split()[0]}\nTwisted ")


def test_a_reader_that_has_enough_gets_no_traceback(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)

    done = subprocess.run(
        [sys.executable, "-m", "ccrelay.cli", "version"],
        env=environment(tmp_path),
        stdout=writing,
        stderr=subprocess.PIPE,
        timeout=60,
        check=False,
    )
    os.close(writing)

    assert (done.returncode, done.stderr) == (1, b"")


# -- check and explain


def test_check_says_that_a_good_file_can_be_used(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(GOOD)

    done = cc_relay(tmp_path, "check")

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{tmp_path}/config.yaml: the configuration can be used\n"


@pytest.mark.parametrize("command", ["check", "explain"])
def test_every_mistake_is_listed_with_its_line(tmp_path: Path, command: str) -> None:
    (tmp_path / "bad.yaml").write_text("providers:\n  - {name: a, type: zaii}\nrouting: {strategie: x}\n")

    done = cc_relay(tmp_path, command, "--config", "bad.yaml", text="{}")

    assert (done.returncode, done.stdout) == (1, "")
    assert "line 2" in done.stderr
    assert "line 3" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", ["check", "explain"])
def test_a_file_that_is_not_there_is_told_in_one_line(tmp_path: Path, command: str) -> None:
    done = cc_relay(tmp_path, command, "--config", "none.yaml", text="{}")

    assert done.returncode == 1
    assert done.stderr == f"cc-relay: {tmp_path}/none.yaml: No such file or directory\n"


# -- init


@pytest.mark.parametrize("chosen", [[], *[[name] for name in TEMPLATES], list(TEMPLATES)])
def test_what_init_writes_passes_check(tmp_path: Path, chosen: list[str]) -> None:
    arguments = [part for name in chosen for part in ("--provider", name)]

    done = cc_relay(tmp_path, "init", "-o", "new.yaml", *arguments)

    path = tmp_path / "new.yaml"
    assert (done.returncode, done.stderr) == (0, "")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    needed = re.findall(r"\$\{(\w+)\}", "\n".join(x for x in path.read_text().splitlines() if x[:1] != "#"))
    for name in needed:
        assert name in done.stdout
    loaded = load_text(path.read_text(), dict.fromkeys(needed, "set"))
    assert loaded.warnings == ()
    assert [p.type for p in loaded.settings.providers] == (chosen or ["anthropic", "simulator"])


@pytest.mark.parametrize("name", TEMPLATES)
def test_every_line_that_is_switched_off_can_be_switched_on(name: str) -> None:
    text = re.sub(r"^#(?=  +)", "", configuration_for([name]), flags=re.MULTILINE)

    loaded = load_text(text, dict.fromkeys(re.findall(r"\$\{(\w+)\}", text), "set"))

    assert loaded.settings.server.auth.api_key is not None


def test_the_provider_given_first_is_asked_first() -> None:
    text = configuration_for(["ollama", "simulator", "bedrock", "vertex"])
    providers = load_text(text, {"GOOGLE_CLOUD_PROJECT": "p"}).settings.providers

    assert [p.priority for p in providers] == [2, 1, 0, 0]


def test_init_replaces_nothing_unless_told_to(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("mine")

    refused = cc_relay(tmp_path, "init")
    assert (refused.returncode, path.read_text()) == (1, "mine")
    assert "--force" in refused.stderr

    assert cc_relay(tmp_path, "init", "--force").returncode == 0
    assert path.read_text() != "mine"


def test_init_says_why_it_cannot_write(tmp_path: Path) -> None:
    done = cc_relay(tmp_path, "init", "-o", "missing/folder.yaml")

    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "missing/folder.yaml cannot be written" in done.stderr


# -- serve


def test_serve_is_the_relay_in_this_very_process(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (tmp_path / "config.yaml").write_text(f"server: {{listen: '127.0.0.1:{port}'}}\n{GOOD}")
    serving = subprocess.Popen(
        [sys.executable, "-m", "ccrelay.cli", "serve"],
        cwd=tmp_path,
        env=environment(tmp_path),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )

    def answers() -> bool:
        assert serving.poll() is None, serving.stderr.read() if serving.stderr else ""
        try:
            with socket.create_connection(("127.0.0.1", port), 5) as connection:
                connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
                return connection.recv(12) == b"HTTP/1.1 200"
        except ConnectionRefusedError:
            return False

    try:
        wait_for(answers, "the relay answers", 30)
    finally:
        serving.send_signal(signal.SIGTERM)
        serving.communicate(timeout=30)
    assert serving.returncode == 0
    assert not list(tmp_path.glob("*.pid"))


def test_serve_ends_with_1_where_the_configuration_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("providers: []\n")

    done = cc_relay(tmp_path, "serve")

    assert done.returncode == 1
    assert "cc-relay: " in done.stderr
    assert "Traceback" not in done.stderr


# -- completion


def bash_completes(words: Sequence[str], folder: Path) -> list[str]:
    script = folder / "completion.bash"
    script.write_text(bash(list(levels(build_parser()))))
    run = 'source "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($#-1)); _cc_relay; printf "%s\\n" "${COMPREPLY[@]}"'
    done = subprocess.run(
        ["bash", "-c", run, "bash", str(script), *words],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["cl"], ["claude"]),
        (["claude", "s"], ["setup"]),
        (["claude", "setup", "--k"], ["--keep-login"]),
        (["init", "--provider", "z"], ["zai"]),
        (["completion", "f"], ["fish"]),
        (["check", "--config", "rel"], ["relay.yaml"]),
        (["explain", "--config", "relay.yaml", "--j"], ["--json"]),
    ],
)
def test_bash_completes(words: list[str], offered: list[str], tmp_path: Path) -> None:
    (tmp_path / "relay.yaml").touch()

    assert bash_completes(["cc-relay", *words], tmp_path) == offered


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_is_one_that_its_shell_can_read(shell: str, tmp_path: Path) -> None:
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"{shell} is not installed")
    script = cc_relay(tmp_path, "completion", shell).stdout
    for word in ("explain", "setup", "keep-login"):
        assert word in script

    done = subprocess.run([program, "-n"], input=script, capture_output=True, text=True, timeout=30, check=False)

    assert (done.returncode, done.stderr) == (0, "")
