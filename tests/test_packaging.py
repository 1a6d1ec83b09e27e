"""What an installation holds: the package, its data, the twistd command, and nothing that hides Twisted's own."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import ccrelay

ROOT = Path(__file__).resolve().parent.parent

DOCUMENTS = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").glob("*.md"))

# What a build leaves or a developer makes; the rest of the checkout is what a builder has.
NOT_SOURCE = shutil.ignore_patterns(
    ".git", ".venv*", "__pycache__", ".*_cache", ".hypothesis", "build", "dist", "*.egg-info", "node_modules", ".cache"
)


def python(code: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=cwd,
        env={"PATH": os.defpath, "HOME": str(cwd), **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def build(source: Path, kind: str) -> Path:
    """The wheel or sdist that a PEP 517 front end would get, without its isolation, so without a network."""
    done = python(f"from setuptools import build_meta; build_meta.build_{kind}('dist')", source)
    assert done.returncode == 0, done.stderr
    (built,) = (source / "dist").iterdir()
    return built


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from the source archive, so that what MANIFEST.in forgets is missing here too."""
    checkout = tmp_path_factory.mktemp("checkout") / "cc-relay"
    shutil.copytree(ROOT, checkout, ignore=NOT_SOURCE)
    (checkout / "twisted/plugins/dropin.cache").write_bytes(b"what a run in the checkout leaves behind")
    unpacked = tmp_path_factory.mktemp("unpacked")
    shutil.unpack_archive(build(checkout, "sdist"), unpacked)
    (source,) = unpacked.iterdir()
    return build(source, "wheel")


@pytest.fixture
def installed(wheel: Path, tmp_path: Path) -> Path:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    return tmp_path


def test_wheel_holds_every_module_and_data_file_and_one_plugin(wheel: Path) -> None:
    ours = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "ccrelay").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }

    names = set(zipfile.ZipFile(wheel).namelist())

    content = {name for name in names if ".dist-info/" not in name}
    assert content == ours | {"twisted/plugins/ccrelay_plugin.py"}
    assert any(name.endswith("/LICENSE") for name in names)


def test_twistd_finds_the_command_outside_the_checkout(installed: Path) -> None:
    done = python(
        "import sys; sys.argv = ['twistd', '--help']; from twisted.scripts.twistd import run; run()",
        installed,
        PYTHONPATH=str(installed),
    )

    assert re.search(r"^ +ccrelay +A streaming relay", done.stdout, re.MULTILINE), done.stderr
    assert re.search(r"^ +web +", done.stdout, re.MULTILINE), "Twisted's own plugins are hidden"


def test_installed_metadata_names_version_and_licence(installed: Path) -> None:
    (metadata,) = installed.glob("cc_relay-*.dist-info/METADATA")
    lines = metadata.read_text(encoding="utf-8").splitlines()

    assert f"Version: {ccrelay.__version__}" in lines
    assert "Requires-Python: >=3.11" in lines
    assert any(line.startswith("License") and line.endswith(" MIT") for line in lines)


@pytest.mark.parametrize("lock", ["run", "test", "dev"])
def test_lock_pins_every_requirement_by_hash_and_names_no_registry(lock: str) -> None:
    text = (ROOT / f"requirements/{lock}.txt").read_text(encoding="utf-8")
    requirements = [
        line for line in text.replace("\\\n", " ").splitlines() if line and not line.lstrip().startswith("#")
    ]

    loose = [line for line in requirements if not re.match(r"[a-z0-9-]+==\S+ .*--hash=sha256:[0-9a-f]{64}", line)]
    assert loose == []
    assert len(requirements) > 10
    assert "://" not in text


def test_each_lock_extends_the_one_before_in_the_same_versions() -> None:
    def pins(lock: str) -> set[str]:
        return set(
            re.findall(r"^[a-z0-9-]+==\S+", (ROOT / f"requirements/{lock}.txt").read_text("utf-8"), re.MULTILINE)
        )

    assert pins("run") < pins("test") < pins("dev")


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "NEWS.md", "SECURITY.md", *DOCUMENTS])
def test_pages_link_to_files_that_exist(page: str) -> None:
    folder = (ROOT / page).parent
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", (ROOT / page).read_text(encoding="utf-8"))

    assert [link for link in links if "://" not in link and not (folder / link).exists()] == []
