"""The rings of the package hold, and the checker that says so can fail."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import import_rules as rules

ROOT = Path(__file__).resolve().parent.parent

# Longer than this and a file does two things; 300 is the aim.
MAX_LINES = 400


def test_imports_only_go_down_the_rings() -> None:
    assert rules.ring_breaches(ROOT) == []


def test_core_and_providers_take_no_clock_randomness_file_socket_or_thread() -> None:
    assert rules.purity_breaches(ROOT) == []


def test_only_make_service_imports_the_reactor_and_only_once() -> None:
    assert rules.reactor_imports(ROOT) == ["tap.makeService"]


def test_every_public_function_and_class_has_a_docstring() -> None:
    assert rules.undocumented(ROOT) == []


def test_no_file_outgrows_its_reader() -> None:
    assert rules.overlong(ROOT, MAX_LINES) == []


# Run in a child so that nothing is imported already. What libraries do on import is theirs: they come first.
IMPORT_EVERYTHING = """
import importlib, os, sys, threading
import attr, jsonschema, treq, yaml, zope.interface
import twisted.application.internet, twisted.internet.endpoints, twisted.internet.ssl, twisted.internet.threads
import twisted.logger, twisted.python.usage, twisted.web.client, twisted.web.server
assert "twisted.internet.reactor" not in sys.modules

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
REFUSED = ("socket.", "subprocess.", "os.fork", "os.exec", "os.posix_spawn", "os.system", "os.mkdir", "os.remove",
           "os.rename", "os.rmdir", "os.link", "os.symlink", "os.chmod", "os.chown", "os.putenv", "os.unsetenv",
           "os.truncate", "tempfile.", "shutil.", "_thread.start_new_thread", "signal.", "urllib.", "fcntl.")

def refuse(event, arguments):
    if event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITING or event.startswith(REFUSED):
        raise RuntimeError(f"side effect of an import: {event} {arguments[:2]}")

def refuse_thread(thread):  # not every Python 3.11 tells an audit hook about threads
    raise RuntimeError("side effect of an import: a thread")

threading.Thread.start = refuse_thread
environment, path = dict(os.environ), list(sys.path)
sys.addaudithook(refuse)
for name in sys.argv[1:]:
    importlib.import_module(name)
assert dict(os.environ) == environment, "an import changed the environment"
assert sys.path == path, "an import changed sys.path"
assert "twisted.internet.reactor" not in sys.modules, "an import installed the reactor"
"""


def import_in_a_child(root: Path, names: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-B", "-c", IMPORT_EVERYTHING, *names],
        cwd=root,  # `-c` puts the working directory first on the path
        env={"PYTHONPATH": str(root), "PATH": os.defpath},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_importing_any_module_does_nothing_but_define() -> None:
    names = [rules.module_name(ROOT, path) for path in rules.sources(ROOT)]

    done = import_in_a_child(ROOT, names)

    assert (done.returncode, done.stderr) == (0, "")


# The checker itself, on trees small enough to see what must be found.


def tree(root: Path, **files: str) -> Path:
    """A package with these files; ``core__sse`` is ``core/sse.py``."""
    for name, text in {"__init__": "", **files}.items():
        path = root / rules.PACKAGE / (name if name.startswith("__") else name.replace("__", "/", 1))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_suffix(".py").write_text(text, encoding="utf-8")
    return root


@pytest.mark.parametrize(
    ("files", "found"),
    [
        ({"core__sse": "from ccrelay.web import sink"}, "lies above core"),
        ({"core__sse": "def f():\n    import ccrelay.tap"}, "lies above core"),
        (
            {"core__sse": "class A:\n    async def f(self):\n        from ccrelay import relay", "relay": ""},
            "lies above core",
        ),
        ({"core__sse": "from ..providers import base"}, "lies above core"),
        ({"core__sse": "try:\n    import ccrelay.web\nexcept ImportError:\n    pass"}, "lies above core"),
        ({"core__sse": "if TYPE_CHECKING:\n    from ccrelay.web import sink"}, "lies above core"),
        ({"web__sink": "from ccrelay.upstream.pump import Pump"}, "a sibling of web"),
        ({"web__sink": "if TYPE_CHECKING:\n    pass\nelse:\n    import ccrelay.upstream"}, "a sibling of web"),
        ({"logs": "import ccrelay.handover"}, "a sibling of logs"),
        ({"errors": "import ccrelay.interfaces"}, "lies above errors"),
        ({"__init__": "from ccrelay.core import sse"}, "the package root imports nothing"),
        ({"helpers": ""}, "belongs to no ring"),
        ({"tap": "from ccrelay.helpers import x"}, "belongs to no ring"),
    ],
)
def test_checker_finds_an_import_against_the_rings(tmp_path: Path, files: dict[str, str], found: str) -> None:
    breaches = rules.ring_breaches(tree(tmp_path, **files))

    assert len(breaches) == 1
    assert found in breaches[0]


def test_checker_lets_imports_go_down_and_inside_a_ring(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        tap="def makeService():\n    from ccrelay.service import Service",
        web__sink="from ccrelay.core import sse\nfrom ccrelay.web.channel import Channel\nimport ccrelay",
        upstream__pump="if TYPE_CHECKING:\n    from ccrelay.web.sink import Sink",
        core__sse="from . import outcomes\nimport json",
        core__outcomes="from ccrelay.errors import RelayError",
    )

    assert rules.ring_breaches(root) == []


@pytest.mark.parametrize(
    "text",
    [
        "import time",
        "from os import environ",
        "import os.path",
        "def f():\n    import random",
        "from twisted.python.failure import Failure",
        "if TYPE_CHECKING:\n    from twisted.internet.defer import Deferred",
        "from datetime import datetime\nx = datetime.now()",
        "import datetime\nx = datetime.datetime.now()",
        "def f(p):\n    with open(p) as file:\n        return file",
    ],
)
def test_checker_finds_what_a_pure_module_may_not_take(tmp_path: Path, text: str) -> None:
    assert len(rules.purity_breaches(tree(tmp_path, core__sse=text))) == 1
    assert len(rules.purity_breaches(tree(tmp_path / "providers", providers__zai=text))) == 1


def test_checker_lets_a_pure_module_name_types_and_others_do_their_work(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        core__sse="import json\nimport zope.interface\nif TYPE_CHECKING:\n    from random import Random",
        core__times="def f(now):\n    return self.open(now), datetime.fromtimestamp(now)",
        web__sink="import time\nfrom twisted.web import http",
    )

    assert rules.purity_breaches(root) == []


def test_checker_finds_every_import_of_the_reactor(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        relay="from twisted.internet import defer, reactor",
        service="import twisted.internet.reactor as r",
        tap="def makeService(o):\n    from twisted.internet import reactor\n",
        web__site="from twisted.internet import defer",
    )

    assert rules.reactor_imports(root) == ["relay", "service", "tap.makeService"]


def test_checker_finds_missing_docstrings_and_long_files(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        relay='def told():\n    """Why."""\n\n\ndef silent():\n    pass\n\n\ndef _private():\n    pass\n',
        service="class Service:\n    pass\n",
    )

    assert [line.split()[1] for line in rules.undocumented(root)] == ["silent", "Service"]
    assert rules.overlong(root, 5) == ["ccrelay/relay.py has 10 lines"]


@pytest.mark.parametrize(
    "text",
    [
        "open('x', 'w')",
        "import socket\nsocket.socket()",
        "import threading\nthreading.Thread(target=print).start()",
        "import os\nos.environ['A'] = '1'",
        "import sys\nsys.path.insert(0, '/')",
        "from twisted.internet import reactor",
        "import subprocess\nsubprocess.run(['true'])",
    ],
)
def test_side_effects_of_an_import_are_caught(tmp_path: Path, text: str) -> None:
    done = import_in_a_child(tree(tmp_path, relay=text), ["ccrelay.relay"])

    assert done.returncode != 0
    assert "side effect of an import" in done.stderr or "an import " in done.stderr
    assert not list(tmp_path.rglob("x"))
