"""How much is measured."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30


@dataclass(frozen=True)
class Settings:
    """One run. ``folder`` is where it works; it is removed at the end."""

    folder: Path
    peers: Path | None
    """The Python of the peers' environment; None to leave the peers out."""
    rounds: int = 30
    big_rounds: int = 9
    big: int = 256 * MIB
    huge: int = 5 * GIB
    huge_in_bucket: int = GIB
    growth: tuple[int, ...] = (1_000, 10_000, 100_000)
    """Numbers of blobs, each a multiple of ``files_per_project``."""
    files_per_project: int = 100
    seconds_per_server: float = 6.0
    listed: int = 100_000
    """Objects in the bucket that is listed."""
    indexed_in_bucket: int = 10_000
    """Files of the index on S3, a multiple of ``files_per_project``."""

    fewer: int = 1
    """By how much the number of wheels that are exported is divided."""

    @property
    def python(self) -> str:
        """The Python that has pkgstore."""
        return sys.executable


QUICK = {
    "rounds": 4,
    "big_rounds": 2,
    "big": 64 * MIB,
    "huge": 256 * MIB,
    "huge_in_bucket": 256 * MIB,
    "listed": 20_000,
    "fewer": 6,
    "indexed_in_bucket": 100,
    "growth": (500, 1_000, 2_000),
    "seconds_per_server": 1.0,
}
FULL = {"growth": (1_000, 10_000, 100_000, 1_000_000), "huge_in_bucket": 5 * GIB}
