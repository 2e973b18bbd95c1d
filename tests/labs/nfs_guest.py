"""What runs inside the machine: `VERSION ARGUMENT...` sets up NFS and runs pytest on the tests for it."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from tests.labs import nfs_network


def main(version: str, *arguments: str) -> None:
    """Print all that pytest does, and ``ENDED`` and its exit status as the last line."""
    began = time.monotonic()
    nfs_network.set_up(version)
    print(f"NFS {version}: set up in {time.monotonic() - began:.1f} s", flush=True)
    os.environ.update(TMPDIR="/mnt/tmp", HOME="/mnt/tmp", PKGSTORE_NFS=version)
    project = Path(__file__).parents[2]
    os.chdir("/mnt/tmp")
    plain = [
        "-c",
        f"{project}/pyproject.toml",
        "--rootdir",
        str(project),
        "-p",
        "no:cacheprovider",
        "-o",
        "timeout=900",
    ]
    suite = [
        f"{project}/tests/labs/nfs_{part}.py" for part in ("bundle", "sight", "trouble", "suite", "doctors", "quota")
    ]
    shown = ["-v", "-s", "--durations=12", "--color=no", "--basetemp=/mnt/tmp/pytest", "-p", "tests.labs.nfs_fixtures"]
    status = pytest.main([*plain, *shown, *suite, *arguments])
    print(f"ENDED {int(status)}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
