#!/usr/bin/python3
"""Run a command under the restrictions of a systemd service, as far as they can be had without systemd as process 1.

    tools/under_unit.py UNIT [--set NAME=VALUE]... -- COMMAND...

Needs root, Linux namespaces, libseccomp2 and systemd-analyze, whose lists of system calls it uses. What it applies of
the unit it prints, and so it does what it knows nothing of. Of its own environment only INVOCATION_ID is passed on.
"""

from __future__ import annotations

import argparse
import ctypes
import errno
import os
import pwd
import re
import resource
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

LIBC = ctypes.CDLL(None, use_errno=True)
SECCOMP = ctypes.CDLL("libseccomp.so.2", use_errno=True)
SECCOMP.seccomp_init.restype = ctypes.c_void_p

# linux/mount.h, linux/prctl.h, linux/sched.h, linux/mman.h, seccomp.h
MS_RDONLY, MS_NOSUID, MS_NOEXEC, MS_BIND, MS_REMOUNT, MS_REC, MS_PRIVATE = 1, 2, 8, 4096, 32, 16384, 1 << 18
PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS, LAST_CAPABILITY = 24, 38, 40
CLONE_NEWNS, CLONE_NAMESPACES = 0x20000, (0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000)
PROT_WRITE, PROT_EXEC = 2, 4
ALLOW, REFUSE = 0x7FFF0000, 0x00050000
GE, EQ, MASKED_EQ = 5, 4, 7
FAMILIES = 46  # AF_MAX of bookworm's kernel; what is above is refused too
HARMLESS_DEVICES = {"null": 3, "zero": 5, "full": 7, "random": 8, "urandom": 9}  # minor numbers, all of major 1


class Comparison(ctypes.Structure):
    """seccomp.h's scmp_arg_cmp: argument number, operator, and its one or two operands."""

    _fields_ = (("arg", ctypes.c_uint), ("op", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64))


def checked(result: int, what: str) -> None:
    if result:
        number = ctypes.get_errno() or -result
        raise SystemExit(f"under_unit: {what}: {os.strerror(number)}")


def mount(source: str, target: str, kind: str, flags: int, data: str = "") -> None:
    checked(LIBC.mount(source.encode(), target.encode(), kind.encode(), flags, data.encode()), f"mount {target}")


class Filter:
    """A seccomp filter; those that are loaded add up. otherwise: the action for calls without a rule."""

    def __init__(self, otherwise: int) -> None:
        self._context = ctypes.c_void_p(SECCOMP.seccomp_init(ctypes.c_uint32(otherwise)))

    def rule(self, action: int, call: str, *comparisons: tuple[int, int, int, int]) -> None:
        """What is done about ``call``; one that this architecture or library does not know needs no rule."""
        number = SECCOMP.seccomp_syscall_resolve_name(call.encode())
        if number < 0:
            return
        array = (Comparison * len(comparisons))(*(Comparison(*each) for each in comparisons))
        checked(
            SECCOMP.seccomp_rule_add_array(self._context, ctypes.c_uint32(action), number, len(comparisons), array),
            f"seccomp rule for {call}",
        )

    def load(self) -> None:
        checked(SECCOMP.seccomp_load(self._context), "seccomp")


def calls(names: Sequence[str]) -> set[str]:
    """The system calls that names and @groups stand for."""
    found = {name for name in names if not name.startswith("@")}
    groups = [name for name in names if name.startswith("@")]
    if groups:
        shown = subprocess.run(
            ["systemd-analyze", "syscall-filter", *groups], check=True, capture_output=True, text=True
        )
        inner = {line.strip() for line in shown.stdout.splitlines() if re.match(r" +[@a-z_0-9]", line)}
        found |= calls(sorted(inner))
    return found


def settings(unit: Path, more: Sequence[str]) -> dict[str, list[str]]:
    """Every assignment of [Service], by name and in order."""
    section, found = "", dict[str, list[str]]()
    for line in [*unit.read_text("utf-8").replace("\\\n", " ").splitlines(), "[Service]", *more]:
        if line.startswith("["):
            section = line
        elif section == "[Service]" and "=" in line and not line.startswith("#"):
            name, _, value = line.partition("=")
            found.setdefault(name, []).append(value)
    return found


def file_system(unit: dict[str, list[str]]) -> list[str]:
    """ProtectSystem=strict and what goes with it; the names of what was done."""
    on = {name for name, values in unit.items() if values[-1] in ("yes", "strict", "invisible", "pid")}
    checked(LIBC.unshare(CLONE_NEWNS), "unshare")
    mount("none", "/", "", MS_REC | MS_PRIVATE)
    writable = [f"/var/lib/{name}" for name in unit.get("StateDirectory", [])]
    writable += [path.lstrip("-") for path in unit.get("ReadWritePaths", []) if os.path.exists(path.lstrip("-"))]
    done = []
    if "ProtectSystem" in on:
        for path in writable:
            mount(path, path, "", MS_BIND)
        points = {line.split()[1].replace("\\040", " ") for line in Path("/proc/self/mounts").read_text().splitlines()}
        for point in sorted(points - set(writable)):
            if not re.match(r"/(proc|sys|dev)(/|$)", point) and os.path.isdir(point):
                mount("none", point, "", MS_BIND | MS_REMOUNT | MS_RDONLY)
        done += ["ProtectSystem", "StateDirectory", "ReadWritePaths"]
    if "PrivateTmp" in on:
        for path in ("/tmp", "/var/tmp"):
            mount("tmpfs", path, "tmpfs", MS_NOSUID, "mode=1777")
        done.append("PrivateTmp")
    if "ProtectHome" in on:
        for path in ("/home", "/root"):
            mount("tmpfs", path, "tmpfs", MS_NOSUID | MS_RDONLY, "mode=0755")
        done.append("ProtectHome")
    if "PrivateDevices" in on:
        mount("tmpfs", "/dev", "tmpfs", MS_NOSUID | MS_NOEXEC, "mode=0755")
        for name, minor in HARMLESS_DEVICES.items():
            os.mknod(f"/dev/{name}", stat.S_IFCHR, os.makedev(1, minor))
            os.chmod(f"/dev/{name}", 0o666)
        done.append("PrivateDevices")
    if {"ProtectProc", "ProcSubset"} <= on:
        mount("proc", "/proc", "proc", MS_NOSUID | MS_NOEXEC, "hidepid=invisible,subset=pid")
        done += ["ProtectProc", "ProcSubset"]
    return done


def filters(unit: dict[str, list[str]]) -> tuple[list[str], list[Filter]]:
    """The seccomp filters, and the names of the settings they are for; the allow list is last."""
    argued, done = Filter(ALLOW), []
    refuse = REFUSE | errno.EPERM

    def each(name: str, work: Callable[[], None]) -> None:
        if unit.get(name, ["no"])[-1] not in ("no", ""):
            work()
            done.append(name)

    def families() -> None:
        allowed = {int(getattr(socket, name)) for name in unit["RestrictAddressFamilies"][-1].split()}
        unknown = REFUSE | errno.EAFNOSUPPORT
        for family in set(range(FAMILIES)) - allowed:
            argued.rule(unknown, "socket", (0, EQ, family, 0))
        argued.rule(unknown, "socket", (0, GE, FAMILIES, 0))

    def namespaces() -> None:
        for call in ("unshare", "setns"):
            argued.rule(refuse, call)
        for flag in CLONE_NAMESPACES:
            argued.rule(refuse, "clone", (0, MASKED_EQ, flag, flag))
        argued.rule(REFUSE | errno.ENOSYS, "clone3")  # its flags are in memory, where no filter can look

    def writable_code() -> None:
        both = PROT_WRITE | PROT_EXEC
        argued.rule(refuse, "mmap", (2, MASKED_EQ, both, both))
        for call in ("mprotect", "pkey_mprotect"):
            argued.rule(refuse, call, (2, MASKED_EQ, PROT_EXEC, PROT_EXEC))

    def set_id() -> None:
        for call, place in (("chmod", 1), ("fchmod", 1), ("fchmodat", 2), ("mkdir", 1), ("mkdirat", 2)):
            for bit in (0o4000, 0o2000):
                argued.rule(refuse, call, (place, MASKED_EQ, bit, bit))

    each("RestrictAddressFamilies", families)
    each("RestrictNamespaces", namespaces)
    each("MemoryDenyWriteExecute", writable_code)
    each("RestrictSUIDSGID", set_id)
    each("LockPersonality", lambda: argued.rule(refuse, "personality", (0, GE, 1, 0)))
    each("RestrictRealtime", lambda: argued.rule(refuse, "sched_setscheduler", (1, GE, 1, 0)))
    allowed: set[str] = set()
    for value in unit["SystemCallFilter"]:
        allowed = allowed - calls(value[1:].split()) if value.startswith("~") else allowed | calls(value.split())
    listed = Filter(refuse)
    # systemd itself allows the call that starts the program.
    for call in sorted(allowed | {"execve"}):
        listed.rule(ALLOW, call)
    # Calls of another architecture are what libseccomp refuses by itself.
    return [*done, "SystemCallArchitectures", "SystemCallErrorNumber", "SystemCallFilter"], [argued, listed]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("unit", type=Path)
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="as a drop-in would")
    parser.add_argument("command", nargs="+")
    options = parser.parse_args()
    unit = settings(options.unit, options.set)
    user = pwd.getpwnam(unit["User"][-1])
    names, stacked = filters(unit)
    names += file_system(unit)
    limit = min(int(unit["LimitNOFILE"][-1]), resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    for capability in range(LAST_CAPABILITY + 1):
        checked(LIBC.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0), "capability bounding set")
    os.initgroups(user.pw_name, user.pw_gid)
    os.setgid(user.pw_gid)
    os.setuid(user.pw_uid)
    os.umask(int(unit["UMask"][-1], 8))
    checked(LIBC.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no new privileges")
    names += ["CapabilityBoundingSet", "LimitNOFILE", "NoNewPrivileges", "UMask", "User", "Group", "WorkingDirectory"]
    print("applied:", *sorted(names), file=sys.stderr)
    print("not applied:", *sorted(set(unit) - set(names)), file=sys.stderr, flush=True)
    os.chdir(unit["WorkingDirectory"][-1])
    for stack in stacked:
        stack.load()
    environment = {"HOME": user.pw_dir, "PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8"}
    environment |= {name: value for name, value in os.environ.items() if name == "INVOCATION_ID"}
    os.execve(options.command[0], options.command, environment)


main()
