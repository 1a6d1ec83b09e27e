"""Fixtures of the end-to-end tests: upstreams, a relay, the certificates between them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.e2e.certificates import Certificates, make_certificates
from tests.e2e.relay_process import Relay, config, provider
from tests.e2e.samples import MAPPING, MODELS
from tests.e2e.upstream_process import Upstream


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def started() -> Iterator[ExitStack]:
    """Ends, after the test, what has been entered into it."""
    with ExitStack() as stack:
        yield stack


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


@pytest.fixture(scope="module")
def relay(first_process: Upstream) -> Iterator[Relay]:
    """A relay in front of the first upstream."""
    one = provider("first", first_process.url, models=MODELS, model_mapping=MAPPING)
    with Relay(config([one])) as started:
        yield started


@pytest.fixture(scope="module")
def tls_process(certificates: Certificates) -> Iterator[Upstream]:
    with Upstream(certificates.localhost) as started:
        yield started


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Show what the relays said last beside a failure."""
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]
    if report.failed:
        report.sections += [(f"relay on port {relay.port}", relay.tail()) for relay in Relay.running]
