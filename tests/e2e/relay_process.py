"""A real relay: a ``twistd`` child with an environment of its own, on a loopback port, watched from outside."""

from __future__ import annotations

import atexit
import copy
import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

from tests.e2e.raw_client import KEY, ask, get
from tests.e2e.waiting import PATIENCE, wait_for

ROOT = Path(__file__).resolve().parents[2]
UPSTREAM_KEY = "upstream-key-of-{name}"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def twistd() -> list[str]:
    """The twistd that belongs to this Python; Debian's goes by another name, so there it is run as a module."""
    beside = Path(sys.executable).with_name("twistd")
    return [str(beside)] if beside.exists() else [sys.executable, "-c", "from twisted.scripts.twistd import run; run()"]


def environment(home: Path, **more: str) -> dict[str, str]:
    """All that a child gets to see of this machine."""
    return {"HOME": str(home), "PATH": "/usr/local/bin:/usr/bin:/bin", **more}


def provider(name: str, base_url: str, **more: Any) -> dict[str, Any]:
    """A provider entry of type anthropic with one key."""
    return {
        "name": name,
        "type": "anthropic",
        "base_url": base_url,
        "keys": [{"key": UPSTREAM_KEY.format(name=name)}],
        **more,
    }


def config(providers: Sequence[dict[str, Any]], **sections: dict[str, Any]) -> dict[str, Any]:
    """A configuration whose bounds on failures are too wide for one test to run into another's."""
    made: dict[str, Any] = {
        "server": {"auth": {"api_key": KEY}},
        "providers": list(providers),
        "routing": {"failover_timeout": 60000, "retry_budget": 1.0, "affinity": {"enabled": False}},
        "health": {"circuit_breaker": {"failure_threshold": 1000}, "health_check": {"enabled": False}},
        "logging": {"level": "info", "format": "json"},
    }
    for section, values in sections.items():
        made.setdefault(section, {}).update(copy.deepcopy(values))
    return made


class Relay:
    """Starts at once; ``with`` stops it and requires a clean exit. ``descriptors``: the child's RLIMIT_NOFILE."""

    running: ClassVar[list[Relay]] = []

    def __init__(self, configuration: dict[str, Any], descriptors: int | None = None, **environ: str) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="ccrelay-e2e-"))
        atexit.register(shutil.rmtree, self.home, ignore_errors=True)  # not sooner: failures are reported from it
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        configuration = copy.deepcopy(configuration)
        configuration["server"].setdefault("listen", f"127.0.0.1:{self.port}")
        path = self.home / "relay.yaml"
        path.write_text(json.dumps(configuration, indent=1))  # JSON is YAML
        self._stdout, self._stderr = self.home / "stdout", self.home / "stderr"

        def limit() -> None:
            if descriptors is not None:
                resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))

        with self._stdout.open("wb") as out, self._stderr.open("wb") as err:
            self.process = subprocess.Popen(
                [*twistd(), "-n", "--pidfile=", "ccrelay", "--config", str(path)],
                cwd=self.home,
                env=environment(self.home, PYTHONPATH=str(ROOT), **environ),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                preexec_fn=limit,
            )
        try:
            wait_for(self._answers, "the relay answers /health", 30)
        except BaseException as error:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"the relay did not start\n{self.tail()}") from error
        self.running.append(self)

    def _answers(self) -> bool:
        if self.process.poll() is not None:
            raise AssertionError(f"the relay ended with {self.process.returncode}")
        try:
            ask(self.port, get("/health"))
        except (OSError, EOFError):
            return False
        return True

    def output(self) -> str:
        """All it has written so far, standard error after standard output."""
        return self._stdout.read_text(errors="replace") + self._stderr.read_text(errors="replace")

    def tail(self, lines: int = 40) -> str:
        return "\n".join(self.output().splitlines()[-lines:])

    def access_lines(self) -> list[dict[str, Any]]:
        """The access lines written so far, one for each call that has ended."""
        return self._lines_with("attempts")

    def attempt_lines(self) -> list[dict[str, Any]]:
        """The attempt lines written so far, one for each attempt that was committed or failed."""
        return self._lines_with("attempt")

    def _lines_with(self, field: str) -> list[dict[str, Any]]:
        found = []
        for line in self._stdout.read_text(errors="replace").splitlines():
            try:
                value = json.loads(line)
            except ValueError:
                continue
            if isinstance(value, dict) and field in value:
                found.append(value)
        return found

    def access_line(self, request_id: str | None) -> dict[str, Any]:
        """The access line of the call whose answer carried this ``x-request-id``."""
        assert request_id, "the answer carries no x-request-id"

        def written() -> list[dict[str, Any]]:
            return [line for line in self.access_lines() if line.get("request_id") == request_id]

        lines = wait_for(written, f"an access line for {request_id}")
        assert len(lines) == 1, lines
        return lines[0]

    def next_access_line(self, seen: int) -> dict[str, Any]:
        """The first access line after the ``seen`` earlier ones."""
        return wait_for(lambda: self.access_lines()[seen:], "another access line")[0]

    def provider(self, name: str) -> dict[str, Any]:
        """What ``GET /v1/providers`` says of one."""
        entries: list[dict[str, Any]] = ask(self.port, get("/v1/providers")).json["data"]
        return next(entry for entry in entries if entry["name"] == name)

    def circuit(self, name: str) -> str:
        """The state of a provider's circuit breaker."""
        state: str = self.provider(name)["circuit_breaker"]
        return state

    def resident(self) -> int:
        """Bytes of memory in use."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmRSS:"))

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def stop(self) -> int:
        """SIGTERM, then the exit code."""
        if self in self.running:
            self.running.remove(self)
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"the relay did not stop on SIGTERM\n{self.tail()}") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        code = self.stop()
        if error is None:
            assert code == 0, f"exit code {code}\n{self.tail()}"
            bugs = [line.replace("\\n", "\n") for line in self.output().splitlines() if "Traceback" in line]
            assert not bugs, "\n".join(bugs)
