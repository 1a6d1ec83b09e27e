"""Writing a file so that nobody ever finds half of it."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress


def write_atomically(path: str, data: bytes, *, mode: int) -> None:
    """Give the file at ``path`` these contents and permission bits, all at once; its folder must exist.

    A symbolic link stays one: what it leads to is replaced. The owner stays where we may say so. Raises OSError, and
    then the file is what it was.
    """
    path = os.path.realpath(path)
    folder = os.path.dirname(path)
    # mkstemp makes it readable by its owner alone, so that no secret is open for a moment.
    descriptor, temporary = tempfile.mkstemp(prefix=f".{os.path.basename(path)}.", dir=folder)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            with suppress(FileNotFoundError, PermissionError):
                before = os.stat(path)
                os.fchown(file.fileno(), before.st_uid, before.st_gid)
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    _sync_folder(folder)


def _sync_folder(folder: str) -> None:
    """Make the new name last. A file system that cannot has done its best."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
