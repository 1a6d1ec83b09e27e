"""An authority and server certificates of our own, made with the openssl program."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Certificates:
    """PEM files. ``localhost``, ``elsewhere``: chain and key for that name, signed by ``authority``."""

    authority: Path
    localhost: tuple[Path, Path]
    elsewhere: tuple[Path, Path]


def make_certificates(folder: Path) -> Certificates:
    """Valid for two days, in ``folder``."""

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
