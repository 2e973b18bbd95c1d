"""An environment of their own for what we are compared with, from the package registry."""

from __future__ import annotations

import json
import subprocess
import sys
import venv
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

PACKAGES = [
    "obstore",
    "opendal",
    "s3fs>=2026",
    "fsspec",
    "zarr",
    "minimalkv",
    "pypiserver[cache]>=2.4.2,<2.5",
    "gunicorn>=23",
]
_BOTO3 = "boto3"
"""Of the version of the botocore that s3fs wants: with the newest, pip would try one s3fs after another."""

OLD_WATCHDOG = "watchdog<2.3"
"""From 2.3 on, watchdog reports a file that is only opened, which empties the cache of pypiserver's cached-dir."""


def environment(folder: Path) -> Path:
    """Return the Python of the peers' environment below ``folder``; make it where it is missing or another.

    Raises CalledProcessError when the peers cannot be installed.
    """
    place = folder / "peers"
    python = place / "bin" / "python"
    stamp = place / "made-of.json"
    made_of = json.dumps([sys.version, PACKAGES, _BOTO3, OLD_WATCHDOG])
    if not stamp.exists() or stamp.read_text() != made_of:
        print(f"installing the peers in {place}", flush=True)
        venv.create(place, clear=True, with_pip=True)
        install = [str(python), "-m", "pip", "install", "--quiet"]
        subprocess.run([*install, *PACKAGES], check=True)
        subprocess.run([*install, f"{_BOTO3}<={_versions(python, ['botocore'])['botocore']}"], check=True)
        subprocess.run([*install, "--target", str(old_watchdog(python)), OLD_WATCHDOG], check=True)
        stamp.write_text(made_of)
    return python


def old_watchdog(python: Path) -> Path:
    """Return the folder with the older watchdog, to be put ahead on the path of the peers' Python."""
    return python.parents[1] / "old-watchdog"


def versions(python: Path) -> dict[str, str]:
    """Return the versions of the peers that are installed, by name."""
    return _versions(python, [*(package.partition("[")[0].partition(">")[0] for package in PACKAGES), _BOTO3])


def _versions(python: Path, names: list[str]) -> dict[str, str]:
    code = "import sys, json, importlib.metadata as m; print(json.dumps({n: m.version(n) for n in sys.argv[1:]}))"
    output = subprocess.run([python, "-c", code, *names], check=True, capture_output=True, text=True).stdout
    return json.loads(output)  # type: ignore[no-any-return]
