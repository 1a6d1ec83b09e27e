"""What an AWS profile's ``credential_process`` runs: keys when the test lets it, and a count of who asked.

    python credential_process.py FOLDER

Each run appends a line to FOLDER/runs, waits until FOLDER/gate is there, then prints FOLDER/answer as it is; without
such a file it fails, with an account's number in what it says.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

BETWEEN_LOOKS = 0.02


def main(folder: Path) -> int:
    with (folder / "runs").open("a") as runs:
        runs.write("run\n")
    while not (folder / "gate").exists():
        time.sleep(BETWEEN_LOOKS)
    answer = folder / "answer"
    if not answer.exists():
        print("no keys for arn:aws:iam::123456789012:role/relay", file=sys.stderr)
        return 1
    print(answer.read_text())
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
