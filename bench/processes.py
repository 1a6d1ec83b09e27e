"""Child processes: started on one core, measured through /proc and their CPU clocks, ended by pid."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import time
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")


def raise_file_limit() -> None:
    """Two sockets for each of 1,000 streams are more than the usual 1,024 files; children inherit the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 16384 if hard == resource.RLIM_INFINITY else min(16384, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))


class Child:
    """One process tree of ours. ``core``: the CPU that it and its children stay on."""

    def __init__(self, command: list[str], core: int, log: Path, **options: object) -> None:
        self.log = log
        with log.open("ab") as output:
            options = {"stdout": output, "stderr": output, **options}
            # Both from util-linux, which every Debian has. Whatever becomes of us, the child is told to end.
            pin = ["setpriv", "--pdeathsig", "TERM", "taskset", "--cpu-list", str(core)]
            self.process = subprocess.Popen([*pin, *command], start_new_session=True, **options)  # type: ignore[call-overload]

    def stop(self) -> None:
        """End it: politely, then not."""
        if self.process.stdin:
            self.process.stdin.close()
        elif self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            for pid in self._tree():
                os.kill(pid, signal.SIGKILL)
            self.process.wait()

    def must_run(self) -> None:
        """Raise with the end of its log if it has ended by itself."""
        if self.process.poll() is not None:
            raise RuntimeError(f"{self.process.args} ended: {self.log.read_text(errors='replace')[-2000:]}")

    def cpu(self) -> float:
        """Seconds of CPU, user and system, that the tree has used, ended threads and children included."""
        return sum(_own_cpu(pid) + _childrens_cpu(pid) for pid in self._tree())

    def memory(self) -> int:
        """Resident bytes of the tree; pages that its processes share count once for each."""
        return sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE for pid in self._tree())

    def _tree(self) -> list[int]:
        found = [self.process.pid]
        for pid in found:
            for task in Path(f"/proc/{pid}/task").iterdir():
                found += map(int, (task / "children").read_text().split())
        return found


def _own_cpu(pid: int) -> float:
    # The process's CPU clock, by the number that clock_getcpuclockid() gives: nanoseconds, where /proc/PID/stat has
    # ticks of 10 ms. It is the same utime + stime.
    return time.clock_gettime((~pid << 3) | 2)


def _childrens_cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[13]) + int(fields[14])) / TICKS  # cutime and cstime, fields 16 and 17 of proc(5)
