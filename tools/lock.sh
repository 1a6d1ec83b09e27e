#!/bin/sh
# Writes requirements/{run,test,dev}.txt from setup.py: exact versions, the hash of every wheel, no registry address.
#
#   tools/lock.sh PYTHON DIRECTORY       DIRECTORY: where the resolver's own virtual environment may live
set -eu

python=$1 directory=$2
cd "$(dirname "$0")/.."

"$python" -m venv --clear "$directory"
"$directory/bin/python" -m pip install --quiet --disable-pip-version-check uv

compile() {
    output=$1
    shift
    UV_CUSTOM_COMPILE_COMMAND="make lock" "$directory/bin/uv" pip compile --quiet --upgrade --universal \
        --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links \
        --output-file "requirements/$output.txt" "$@" setup.py
}

# Each lock is a superset of the one before, in the same versions.
compile run
compile test --extra test --constraint requirements/run.txt
compile dev --extra dev --constraint requirements/test.txt
rm -rf cc_relay.egg-info  # left by reading setup.py
