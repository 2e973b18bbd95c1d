"""What a test needs of the machine it runs on.

A test that lacks it is skipped with a reason; where PKGSTORE_REQUIRE_ALL is set, as in CI, it fails instead.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from typing import TYPE_CHECKING, NoReturn

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def missing(reason: str) -> NoReturn:
    """Skip the running test, or fail it where nothing may be missing."""
    if os.environ.get("PKGSTORE_REQUIRE_ALL"):
        pytest.fail(f"PKGSTORE_REQUIRE_ALL is set, and {reason}")
    pytest.skip(reason)


def root() -> None:
    """Go on only as root, who may mount file systems and become other users."""
    if os.geteuid() != 0:
        missing("this needs root")


def program(name: str) -> str:
    """Return the path of a program that must be installed."""
    found = shutil.which(name)
    return found or missing(f"{name} is not installed")


@contextlib.contextmanager
def mounted(kind: str, folder: Path, options: str = "defaults") -> Iterator[Path]:
    """Mount a new file system of the kernel's own (tmpfs, ramfs) at ``folder``."""
    root()
    folder.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", kind, "-o", options, kind, str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
