"""The command line, run as its users run it: in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from os import PathLike

# Buffered, as output is where nobody asked for anything else.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}

PKGSTORE = [sys.executable, "-m", "pkgstore"]


def run(*arguments: str | PathLike[str], **how: Any) -> subprocess.CompletedProcess[Any]:
    """Run ``pkgstore`` to its end; ``how`` goes to `subprocess.run`, which gives it no standard input by default."""
    if "input" not in how:
        how.setdefault("stdin", subprocess.DEVNULL)
    how.setdefault("stdout", subprocess.PIPE)
    how.setdefault("env", ENVIRONMENT)
    return subprocess.run(
        [*PKGSTORE, *arguments], stderr=subprocess.PIPE, text=how.pop("text", True), timeout=120, check=False, **how
    )


def complaint(result: subprocess.CompletedProcess[Any], code: int) -> str:
    """Return the one line that a failed command said on stderr, without its prefix."""
    assert (result.returncode, result.stderr.count("\n")) == (code, 1), result.stderr
    assert result.stderr.startswith("pkgstore: ")
    line: str = result.stderr.removeprefix("pkgstore: ").rstrip("\n")
    return line
