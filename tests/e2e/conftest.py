"""Fixtures of the end-to-end tests: upstreams, relays and the certificates between them."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.e2e.relay_process import Relay
from tests.e2e.upstream_process import Upstream


@dataclass(frozen=True)
class Certificates:
    """PEM files. ``localhost``, ``elsewhere``: chain and key for that name, signed by ``authority``."""

    authority: Path
    localhost: tuple[Path, Path]
    elsewhere: tuple[Path, Path]


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    folder = tmp_path_factory.mktemp("certificates")

    def openssl(*arguments: str) -> None:
        done = subprocess.run(["openssl", *arguments], cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    new_key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    openssl("req", "-x509", *new_key, "-keyout", "ca.key", "-out", "ca.pem", "-days", "2", "-subj", "/CN=e2e authority")

    def signed(name: str) -> tuple[Path, Path]:
        openssl("req", *new_key, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        (folder / "names").write_text(f"subjectAltName=DNS:{name}\n")
        authority = ["-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", "names"]
        openssl("x509", "-req", "-in", f"{name}.csr", "-out", f"{name}.pem", *authority)
        return folder / f"{name}.pem", folder / f"{name}.key"

    return Certificates(folder / "ca.pem", signed("localhost"), signed("elsewhere.example"))


@pytest.fixture(scope="module")
def first_process() -> Iterator[Upstream]:
    with Upstream() as started:
        yield started


@pytest.fixture(scope="module")
def second_process() -> Iterator[Upstream]:
    with Upstream() as started:
        yield started


@pytest.fixture
def upstream(first_process: Upstream) -> Upstream:
    """The upstream that a module's relays ask first, with nothing scripted and nothing seen."""
    first_process.fresh()
    return first_process


@pytest.fixture
def second(second_process: Upstream) -> Upstream:
    """Another such upstream, for a second provider."""
    second_process.fresh()
    return second_process


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Show what the relays said last beside a failure."""
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]
    if report.failed:
        report.sections += [(f"relay on port {relay.port}", relay.tail()) for relay in Relay.running]
