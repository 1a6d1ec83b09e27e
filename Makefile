# make run          the relay, in the foreground, with etc/cc-relay.yaml (CONFIG=... for another file)
# make test         the test suite (PYTEST_ARGS="-k sse -x" and the like)
# make test-debian  the same suite on the distribution's own Python and libraries
# make lint         ruff and mypy
# make format       let ruff rewrite what it can of what `make lint` complains about
# make bench        the benchmark beside nginx (QUICK=1: short; BENCH_ARGS=--write: into docs/performance.md)
# make docs         the generated pages under docs/
# make lock         resolve the dependencies anew into requirements/
# make clean        remove everything the above have made
#
# Each needs python3 (3.11 or later) with its venv module, and nothing that was installed by hand: every environment lives
# in a directory of this checkout, made from a lock with hashes, and is only made again when its lock changes.

PYTHON ?= python3
CONFIG ?= etc/cc-relay.yaml
PYTEST_ARGS ?=
BENCH_ARGS ?=

# Twisted finds our plugin, and Python our package, through this; nothing is installed from the checkout.
export PYTHONPATH := $(CURDIR)

.PHONY: run test test-debian lint format bench docs lock clean

run: .venv/ready
	.venv/bin/twistd -n --pidfile= ccrelay --config $(CONFIG)

test: .venv-test/ready
	.venv-test/bin/python -m pytest $(PYTEST_ARGS)

test-debian: .venv-test/ready
	tools/test-debian.sh $(CURDIR)/.venv-test/bin/python $(PYTEST_ARGS)

lint: .venv-dev/ready
	.venv-dev/bin/ruff check .
	.venv-dev/bin/ruff format --check .
	.venv-dev/bin/mypy

format: .venv-dev/ready
	.venv-dev/bin/ruff check --fix .
	.venv-dev/bin/ruff format .

bench: .venv/ready
	.venv/bin/python bench/run.py $(if $(QUICK),--quick) $(BENCH_ARGS)

docs: .venv/ready
	.venv/bin/python tools/make_configuration_docs.py

lock:
	tools/lock.sh $(PYTHON) .venv-lock

clean:
	rm -rf .venv .venv-test .venv-dev .venv-lock build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	rm -f twisted/plugins/dropin.cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/ready: requirements/run.txt tools/venv.sh
.venv-test/ready: requirements/test.txt tools/venv.sh
.venv-dev/ready: requirements/dev.txt tools/venv.sh
.venv/ready .venv-test/ready .venv-dev/ready:
	tools/venv.sh $(PYTHON) $(@D) $<
	touch $@
