"""The proxies under measurement: how each is configured and started in front of one upstream.

All write an access line per call to a file, keep connections to both sides open, verify the upstream's certificate, and
buffer no answer.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from messages import API_KEY
from processes import Child

ROOT = Path(__file__).resolve().parent.parent
START_LIMIT = 20.0  # seconds; the slowest takes two on a busy machine

NGINX = """
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
worker_rlimit_nofile 16384;
events {{ worker_connections 8192; }}
http {{
    access_log {folder}/access.log;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    client_max_body_size 64m;
    tcp_nodelay on;
    keepalive_requests 1000000;
    upstream bench {{ server 127.0.0.1:{upstream}; keepalive 2000; keepalive_requests 1000000; }}
    server {{
        listen 127.0.0.1:{port} backlog=2048;
        location / {{
            proxy_pass {scheme}://bench;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_buffering off;
            proxy_request_buffering off;
            proxy_ssl_verify on;
            proxy_ssl_name localhost;
            proxy_ssl_server_name on;
            proxy_ssl_trusted_certificate {ca_file};
        }}
    }}
}}
"""

RELAY = """
server:
  listen: 127.0.0.1:{port}
  auth: {{api_key: {api_key}}}
providers:
  - name: bench
    type: anthropic
    base_url: {scheme}://localhost:{upstream}
    ca_file: {ca_file}
    keys: [{{key: bench-upstream-key}}]
logging: {{level: info, format: json, output: {folder}/access.log}}
"""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a proxy runs. ``upstream``: port on loopback; ``folder``: its own, for whatever it writes."""

    folder: Path
    upstream: int
    tls: bool
    ca_file: Path
    core: int


def _nginx(place: Place, port: int, scheme: str) -> list[str]:
    config = place.folder / "nginx.conf"
    values = {
        "folder": place.folder,
        "port": port,
        "upstream": place.upstream,
        "scheme": scheme,
        "ca_file": place.ca_file,
    }
    config.write_text(NGINX.format(**values))
    return [nginx_program(), "-e", f"{place.folder}/error.log", "-p", str(place.folder), "-c", str(config)]


def _relay(place: Place, port: int, scheme: str) -> list[str]:
    config = place.folder / "cc-relay.yaml"
    values = {
        "folder": place.folder,
        "port": port,
        "upstream": place.upstream,
        "scheme": scheme,
        "ca_file": place.ca_file,
    }
    config.write_text(RELAY.format(api_key=API_KEY, **values))
    program = "import sys; sys.argv[0] = 'twistd'; from twisted.scripts.twistd import run; run()"
    return [sys.executable, "-c", program, "-n", "--pidfile=", "ccrelay", "--config", str(config)]


def _baseline(place: Place, port: int, scheme: str) -> list[str]:
    script = str(ROOT / "bench" / "baseline_treq.py")
    return [sys.executable, script, str(port), f"{scheme}://localhost:{place.upstream}", str(place.ca_file)]


PROXIES: dict[str, Callable[[Place, int, str], list[str]]] = {
    "nginx": _nginx,
    "cc-relay": _relay,
    "twisted.web + treq": _baseline,
}


def start(name: str, place: Place) -> tuple[Child, int]:
    """Start the named proxy and wait until it listens. Returns it and its port; raises RuntimeError if it does not."""
    place.folder.mkdir(parents=True)
    port = _free_port()
    command = PROXIES[name](place, port, "https" if place.tls else "http")
    child = Child(command, place.core, place.folder / "output.log", cwd=place.folder, env={"PYTHONPATH": str(ROOT)})
    deadline = time.monotonic() + START_LIMIT
    while time.monotonic() < deadline:
        child.must_run()
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return child, port
    child.stop()
    raise RuntimeError(f"{name} does not listen: {child.log.read_text(errors='replace')[-2000:]}")


def nginx_program() -> str:
    """Path of nginx, or "" where it is not installed; it stands where a plain user's PATH may not look."""
    return shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin") or ""


def versions() -> dict[str, str]:
    """What ran, by name, for the table's caption."""
    found = {"Python": sys.version.split()[0], **{name: version(name) for name in ("Twisted", "treq", "pyOpenSSL")}}
    if nginx_program():
        said = subprocess.run([nginx_program(), "-v"], capture_output=True, text=True, check=True).stderr
        found["nginx"] = said.strip().rpartition("/")[2]
    return found


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])
