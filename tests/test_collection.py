"""The suite's own rule: a coroutine test is refused, wherever it hides."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CONFTEST = Path(__file__).with_name("conftest.py")
PLAIN = "def test_it():\n    pass\n"
HIDDEN = {
    "a function": "async def test_it():\n    pass\n",
    "a generator": "async def test_it():\n    yield\n",
    "a trial TestCase": (
        "from twisted.trial.unittest import TestCase\n"
        "class ItTests(TestCase):\n"
        "    async def test_it(self):\n"
        "        assert False\n"
    ),
    "a decorated method": (
        "import functools\n"
        "from unittest import TestCase\n"
        "def wrapped(function):\n"
        "    @functools.wraps(function)\n"
        "    def call(*arguments):\n"
        "        function(*arguments)\n"
        "    return call\n"
        "class ItTests(TestCase):\n"
        "    @wrapped\n"
        "    async def test_it(self):\n"
        "        assert False\n"
    ),
}


def run(folder: Path, text: str) -> subprocess.CompletedProcess[str]:
    shutil.copy(CONFTEST, folder)
    (folder / "test_it.py").write_text(text)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "--rootdir=."]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


@pytest.mark.parametrize("where", HIDDEN)
def test_a_coroutine_test_stops_the_run(tmp_path: Path, where: str) -> None:
    done = run(tmp_path, PLAIN.replace("test_it", "test_other") + HIDDEN[where])
    assert done.returncode not in (0, 1), done.stdout
    assert "return a Deferred" in done.stdout + done.stderr
    assert "passed" not in done.stdout


def test_plain_tests_run(tmp_path: Path) -> None:
    assert run(tmp_path, PLAIN).returncode == 0
