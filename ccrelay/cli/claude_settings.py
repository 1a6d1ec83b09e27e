"""``cc-relay claude setup`` and ``remove``: the relay's address in Claude Code's ``settings.json``, and out again.

Rules of this file:
- Two members are ours, ``env.ANTHROPIC_BASE_URL`` and ``env.ANTHROPIC_AUTH_TOKEN``; every other byte stays.
- What they were before is remembered beside the file and put back; what somebody changed since is left alone.
- A file that is not the JSON object it should be is not touched.

Claude Code reads environment variables from ``env`` there; it sends ANTHROPIC_AUTH_TOKEN as a bearer.
"""

from __future__ import annotations

import argparse
import json
import os
import stat
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, NoReturn
from urllib.parse import urlsplit

from ccrelay.cli.files import write_atomically
from ccrelay.cli.json_text import remove_member, set_member
from ccrelay.cli.refusal import Refusal

URL: Final = "ANTHROPIC_BASE_URL"
TOKEN: Final = "ANTHROPIC_AUTH_TOKEN"  # noqa: S105  (a variable's name)
PLACEHOLDER: Final = "managed-by-cc-relay"
"""Stands for a credential where the relay has the real ones; the relay never passes it on."""

_OURS: Final = (URL, TOKEN)
_OWNER_ONLY: Final = 0o600
_MEMORY: Final = ".cc-relay"
_BACKUP: Final = ".before-cc-relay"
_OTHERS: Final = ("CLAUDE_CODE_USE_BEDROCK", "CLAUDE_CODE_USE_VERTEX", "CLAUDE_CODE_USE_FOUNDRY")
"""Variables with which Claude Code does not ask ANTHROPIC_BASE_URL at all."""


@dataclass(frozen=True, slots=True)
class _File:
    """The settings as they are. data: None where there is no file. env: its ``env``, None where there is none."""

    path: str
    data: bytes | None
    mode: int
    tree: Mapping[str, Any]
    env: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class _Memory:
    """What was before the first setup. before: the value of each of our members that was there. written: by us."""

    file_existed: bool
    env_existed: bool
    before: Mapping[str, Any]
    written: Mapping[str, str]


def run(arguments: argparse.Namespace) -> int:
    """Do ``arguments.action``. Raises Refusal, and then nothing has been changed."""
    file = _read(os.path.realpath(arguments.settings or _default_path()))
    try:
        if arguments.action == "setup":
            _setup(file, _wanted(arguments))
        else:
            _remove(file)
    except OSError as error:
        raise Refusal(
            f"{error.filename or file.path} cannot be written: {error.strerror}; nothing was changed"
        ) from None
    return 0


def _default_path() -> str:
    folder = os.environ.get("CLAUDE_CONFIG_DIR") or os.path.join(os.path.expanduser("~"), ".claude")
    return os.path.join(folder, "settings.json")


def _wanted(arguments: argparse.Namespace) -> dict[str, str]:
    url: str = arguments.base_url.rstrip("/")
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
        raise Refusal("--base-url must be an http or https URL without a user name, such as http://127.0.0.1:8787")
    if parts.path.endswith("/v1"):
        raise Refusal("--base-url must not end in /v1: Claude Code adds that itself")
    if arguments.keep_login:
        if arguments.token is not None:
            raise Refusal("--keep-login and --token exclude each other: a token takes the place of the login")
        return {URL: url}
    token = sys.stdin.readline().strip() if arguments.token == "-" else arguments.token  # noqa: S105
    if token is not None and (not token or not token.isascii() or not token.isprintable()):
        raise Refusal("the token must be printable ASCII and not empty")
    return {URL: url, TOKEN: token or PLACEHOLDER}


def _read(path: str) -> _File:
    try:
        with open(path, "rb") as file:
            data = file.read()
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
    except FileNotFoundError:
        return _File(path, None, _OWNER_ONLY, {}, None)
    except OSError as error:
        raise Refusal(f"{path} cannot be read: {error.strerror}") from None
    tree = _parsed(path, data)
    env = tree.get("env")
    if env is not None and not isinstance(env, dict):
        raise Refusal(f"{path}: env is not an object; correct that first, nothing was changed")
    return _File(path, data, mode, tree, env if "env" in tree and env is not None else None)


def _parsed(path: str, data: bytes) -> Mapping[str, Any]:
    def no_number(name: str) -> NoReturn:
        raise ValueError(f"{name} is no JSON")

    try:
        tree = json.loads(data.decode("utf-8"), parse_constant=no_number)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}: {error.msg}"
        raise Refusal(f"{path} is not JSON ({where}); correct it first, nothing was changed") from None
    except (ValueError, RecursionError):
        raise Refusal(f"{path} is not JSON in UTF-8; correct it first, nothing was changed") from None
    if not isinstance(tree, dict):
        raise Refusal(f"{path} does not hold a JSON object; correct it first, nothing was changed")
    return tree


def _setup(file: _File, wanted: Mapping[str, str]) -> None:
    env, known = file.env or {}, _recall(file.path)
    if known is None:
        known = _Memory(file.data is not None, file.env is not None, {}, {})
    # What stands there now was there before us, unless it is what we wrote ourselves.
    before = {
        name: known.before[name] if known.written.get(name) == env.get(name) else env[name]
        for name in _OURS
        if name in env and (known.written.get(name) != env[name] or name in known.before)
    }
    memory = _Memory(known.file_existed, known.env_existed, before, wanted)
    data = file.data if file.data is not None else b"{}\n"
    if file.env is None:
        data = remove_member(data, ("env",))  # it may be null
    for name in set(known.written) - set(wanted):
        data = _put_back(data, env, name, known)
    for name, value in wanted.items():
        data = set_member(data, ("env", name), value)
    os.makedirs(os.path.dirname(file.path), exist_ok=True)
    if file.data is not None and not known.written:
        write_atomically(file.path + _BACKUP, file.data, mode=file.mode & _OWNER_ONLY)
    _remember(file.path, memory)
    write_atomically(file.path, data, mode=file.mode)
    print(f"{file.path}: Claude Code now asks {wanted[URL]}. `cc-relay claude remove` puts back what was there.")
    _warn(file, env, wanted)


def _warn(file: _File, env: Mapping[str, Any], wanted: Mapping[str, str]) -> None:
    if TOKEN in wanted and ("ANTHROPIC_API_KEY" in env or "apiKeyHelper" in file.tree):
        print("Note: the settings have another key too; Claude Code sends both, and the relay passes neither on.")
    for name in _OTHERS:
        if env.get(name):
            print(f"Note: env.{name} is set, with which Claude Code asks another place; remove it to use the relay.")


def _remove(file: _File) -> None:
    memory = _recall(file.path)
    if memory is None:
        print(f"{file.path}: nothing of cc-relay's is remembered there; nothing was changed.")
        return
    if file.data is not None:
        _restore(file, memory, file.data)
    os.unlink(file.path + _MEMORY)
    print(f"{file.path}: what was there before is back.")


def _restore(file: _File, memory: _Memory, data: bytes) -> None:
    env = file.env or {}
    for name in memory.written:
        if name in env and env[name] != memory.written[name]:
            print(f"{file.path}: env.{name} was changed since; it stays as it is.")
        data = _put_back(data, env, name, memory)
    tree = _parsed(file.path, data)
    if not memory.env_existed and tree.get("env") == {}:
        data = remove_member(data, ("env",))
        tree = _parsed(file.path, data)
    if not memory.file_existed and not tree:
        os.unlink(file.path)
        return
    write_atomically(file.path, data, mode=file.mode)
    with suppress(FileNotFoundError), open(file.path + _BACKUP, "rb") as backup:
        if backup.read() == data:
            os.unlink(file.path + _BACKUP)


def _put_back(data: bytes, env: Mapping[str, Any], name: str, memory: _Memory) -> bytes:
    if env.get(name) != memory.written.get(name):
        return data
    if name in memory.before:
        return set_member(data, ("env", name), memory.before[name])
    return remove_member(data, ("env", name))


def _recall(path: str) -> _Memory | None:
    try:
        with open(path + _MEMORY, "rb") as file:
            told = json.loads(file.read())
        return _Memory(told["file_existed"], told["env_existed"], dict(told["before"]), dict(told["written"]))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError):
        raise Refusal(f"{path}{_MEMORY} cannot be read; look at it, and delete it to begin anew") from None


def _remember(path: str, memory: _Memory) -> None:
    told = {
        "file_existed": memory.file_existed,
        "env_existed": memory.env_existed,
        "before": memory.before,
        "written": memory.written,
    }
    write_atomically(path + _MEMORY, json.dumps(told, indent=2).encode() + b"\n", mode=_OWNER_ONLY)
