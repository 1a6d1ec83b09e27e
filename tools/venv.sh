#!/bin/sh
# Makes a virtual environment from a lock with hashes. Nothing is installed outside of it.
#
#   tools/venv.sh PYTHON DIRECTORY LOCK
#
# A directory that exists is made anew: a half-built one must not look like a whole one.
set -eu

python=$1 directory=$2 lock=$3

if ! command -v "$python" >/dev/null 2>&1; then
    echo "error: $python was not found. On Debian: apt-get install python3 python3-venv" >&2
    exit 1
fi
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    echo "error: $("$python" --version) is too old: cc-relay needs Python 3.11. Try: make PYTHON=python3.11" >&2
    exit 1
fi
if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    echo "error: $python cannot make virtual environments. On Debian: apt-get install python3-venv" >&2
    exit 1
fi

echo "Installing $lock into $directory"
"$python" -m venv --clear "$directory"
# Wheels only: building a source archive would fetch build tools that no hash covers.
"$directory/bin/python" -m pip install --quiet --disable-pip-version-check --no-input \
    --require-hashes --only-binary :all: -r "$lock"
