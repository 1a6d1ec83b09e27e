"""The benchmark: cc-relay beside nginx and a plain twisted.web and treq proxy, in one run on one machine.

    run.py [--quick] [--write] [--proxy NAME ...] [--work NAME ...]

The proxy has one CPU core to itself; the load generator and the upstream share another. What is compared is the CPU
time of the proxy's whole process tree per unit of work, and how long events take; every byte of both directions is
verified. The repetitions go round the proxies in turn, so that a drift of the machine meets all of them. Loopback only,
bounded in time; only processes started here are ended.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import certificate
import proxies
import report
from processes import Child, raise_file_limit
from works import BY_NAME, WORKS, Work

HERE = Path(__file__).resolve().parent
# Before anything counts: connections made, code paths run, caches filled.
WARM_UP = (("small", 200), ("burst", 16))


class Bench:
    """One run: an upstream, and the proxies in front of its two ports."""

    def __init__(self, folder: Path, quick: bool) -> None:
        self.folder = folder
        self.quick = quick
        cores = sorted(os.sched_getaffinity(0))
        if len(cores) < 2:
            raise SystemExit("error: the benchmark needs two CPU cores")
        self.tools_core, self.proxy_core = cores[0], cores[-1]
        self.children: list[Child] = []
        self.targets: dict[tuple[str, bool], tuple[Child, int]] = {}

    def start(self, names: list[str]) -> None:
        """Start the upstream and every named proxy, once for each kind of upstream, and warm them up."""
        server_pem, self.ca_file = certificate.make(self.folder)
        upstream = Child(
            [sys.executable, str(HERE / "upstream.py"), str(server_pem)],
            self.tools_core,
            self.folder / "upstream.log",
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self.children.append(upstream)
        assert upstream.process.stdout
        self.ports = json.loads(upstream.process.stdout.readline() or "{}")
        for tls in (False, True):
            for name in names:
                self.targets[name, tls] = self._start(name, tls)

    def _start(self, name: str, tls: bool) -> tuple[Child, int]:
        folder = self.folder / f"{name.replace(' ', '-')}-{'tls' if tls else 'plain'}"
        port = self.ports["tls" if tls else "plain"]
        child, own_port = proxies.start(name, proxies.Place(folder, port, tls, self.ca_file, self.proxy_core))
        self.children.append(child)
        for work, calls in WARM_UP:
            self._load(BY_NAME[work], own_port, calls)
        return child, own_port

    def measure(self, work: Work, name: str, tls: bool) -> dict[str, Any]:
        """Run one work through one proxy. Adds to the load's result the CPU seconds per unit, and memory."""
        child, port = self.targets[name, tls]
        calls = work.quick if self.quick else work.calls
        cpu, memory = child.cpu(), child.memory()
        peak = memory

        def look() -> None:
            nonlocal peak
            peak = max(peak, child.memory())

        result = self._load(work, port, calls, look)
        used = child.cpu() - cpu
        units = result["calls"] * (work.events if work.per == "event" else 1)
        per_stream = (peak - memory) / min(work.at_once, calls)
        return {**result, "cpu": used / max(1, units), "memory": child.memory(), "per_stream": per_stream}

    def direct(self, work: Work) -> dict[str, Any]:
        """The same work without a proxy: what of the delays is the tools' own."""
        return self._load(work, self.ports["plain"], work.quick if self.quick else work.calls)

    def _load(self, work: Work, port: int, calls: int, look: Callable[[], None] = lambda: None) -> dict[str, Any]:
        """Run the load generator to its end; ``look()`` is called four times a second meanwhile."""
        command = ["taskset", "--cpu-list", str(self.tools_core), sys.executable, str(HERE / "load.py")]
        with subprocess.Popen([*command, work.name, str(port), str(calls)], stdout=subprocess.PIPE) as load:
            while True:
                try:
                    output, _ = load.communicate(timeout=0.25)
                    break
                except subprocess.TimeoutExpired:
                    look()
        if load.returncode:
            raise RuntimeError(f"the load generator ended with {load.returncode}")
        result: dict[str, Any] = json.loads(output)
        return result

    def stop(self) -> None:
        for child in reversed(self.children):
            child.stop()


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    arguments.add_argument("--quick", action="store_true", help="one repetition of fewer calls: about two minutes")
    arguments.add_argument("--write", action="store_true", help="put the tables into docs/performance.md")
    arguments.add_argument("--proxy", action="append", choices=list(proxies.PROXIES), help="only this one (repeatable)")
    arguments.add_argument("--work", action="append", choices=list(BY_NAME), help="only this one (repeatable)")
    chosen = arguments.parse_args()
    names = chosen.proxy or list(proxies.PROXIES)
    if "nginx" in names and not proxies.nginx_program():
        print("nginx is not installed (Debian: nginx-light): no ratios", file=sys.stderr)
        names.remove("nginx")
    works = [BY_NAME[name] for name in chosen.work] if chosen.work else list(WORKS)

    raise_file_limit()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))  # through the finally below
    results = report.Results()
    with tempfile.TemporaryDirectory(prefix="ccrelay-bench-") as folder:
        bench = Bench(Path(folder), chosen.quick)
        try:
            bench.start(names)
            for work in works:
                results.add("direct", work, False, bench.direct(work))
            for repetition in range(1 if chosen.quick else 3):
                for work in works:
                    for tls in (False, True):
                        for name in names:
                            print(f"{repetition + 1}: {work.name}, {name}, tls={tls}", file=sys.stderr, flush=True)
                            results.add(name, work, tls, bench.measure(work, name, tls))
        finally:
            bench.stop()
    text = report.tables(results, names, works, proxies.versions())
    print(text)
    if chosen.write:
        report.write(text)
    for failure in results.failures():
        print(failure, file=sys.stderr)
    return 1 if results.failures() else 0


if __name__ == "__main__":
    sys.exit(main())
