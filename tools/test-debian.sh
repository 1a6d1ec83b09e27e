#!/bin/sh
# Runs the suite on the distribution's own libraries, which is what its package will run on.
#
#   tools/test-debian.sh SDK_PYTHON [PYTEST ARGUMENTS]
#
# SDK_PYTHON: an interpreter of the same version that has the anthropic package. Client programs run on it, as processes
# of their own. Its packages are also put behind the distribution's, where a test finds the SDK and nothing else does:
# everything under test runs on /usr/bin/python3 and what apt installed.
set -eu
cd "$(dirname "$0")/.."

CCRELAY_SDK_PYTHON=$1
PYTHONPATH=$PWD
PYTHONNOUSERSITE=1
PYTEST_DISABLE_PLUGIN_AUTOLOAD=1 # or pytest would load the newer plugins that lie beside the SDK
export CCRELAY_SDK_PYTHON PYTHONPATH PYTHONNOUSERSITE PYTEST_DISABLE_PLUGIN_AUTOLOAD
sdk=$("$CCRELAY_SDK_PYTHON" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
shift

/usr/bin/python3 - <<'CHECK'
import importlib
import platform
import sys
from importlib.metadata import version

MODULES = {"Twisted": "twisted", "treq": "treq", "pyOpenSSL": "OpenSSL", "service-identity": "service_identity",
           "cryptography": "cryptography", "zope.interface": "zope.interface", "PyYAML": "yaml", "jsonschema": "jsonschema",
           "botocore": "botocore", "google-auth": "google.auth", "requests": "requests", "prometheus_client": "prometheus_client"}
# The floor that setup.py promises is what bookworm has: there, another version would prove nothing.
BOOKWORM = {"Twisted": "22.4.0", "treq": "22.2.0", "pyOpenSSL": "23.0.0", "jsonschema": "4.10.3", "botocore": "1.29.27",
            "google-auth": "1.5.1"}

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

exec /usr/bin/python3 -c 'import sys, pytest; sys.path.append(sys.argv[1]); sys.exit(pytest.main(sys.argv[2:]))' \
    "$sdk" -p _hypothesis_pytestplugin "$@"
