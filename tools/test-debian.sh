#!/bin/sh
# Runs the suite on the distribution's own libraries, which is what its package will run on.
#
#   tools/test-debian.sh SDK_PYTHON [PYTEST ARGUMENTS]
#
# SDK_PYTHON: an interpreter that has the anthropic package. Only client programs run on it, as processes of their own;
# everything under test runs on /usr/bin/python3 and what apt installed.
set -eu
cd "$(dirname "$0")/.."

CCRELAY_SDK_PYTHON=$1
PYTHONPATH=$PWD
PYTHONNOUSERSITE=1
export CCRELAY_SDK_PYTHON PYTHONPATH PYTHONNOUSERSITE
shift

/usr/bin/python3 - <<'CHECK'
import importlib
import platform
import sys
from importlib.metadata import version

MODULES = {"Twisted": "twisted", "treq": "treq", "pyOpenSSL": "OpenSSL", "service-identity": "service_identity",
           "cryptography": "cryptography", "zope.interface": "zope.interface", "PyYAML": "yaml", "jsonschema": "jsonschema"}
# The floor that setup.py promises is what bookworm has: there, another version would prove nothing.
BOOKWORM = {"Twisted": "22.4.0", "treq": "22.2.0", "pyOpenSSL": "23.0.0", "jsonschema": "4.10.3"}

expected = BOOKWORM if platform.freedesktop_os_release().get("VERSION_CODENAME") == "bookworm" else {}
for name, module in MODULES.items():
    try:
        place = importlib.import_module(module).__file__
    except ImportError:
        sys.exit(f"error: /usr/bin/python3 has no {name}. .ci/run names the Debian packages to install")
    if not place.startswith("/usr/lib/python3/dist-packages/"):
        sys.exit(f"error: {name} is not the distribution's: {place}")
    if version(name) != expected.get(name, version(name)):
        sys.exit(f"error: {name} is {version(name)}, not bookworm's {expected[name]}")
    print(name, version(name), end="  ")
print()
CHECK

exec /usr/bin/python3 -m pytest "$@"
