"""What the conformance tests have to know of the local driver's medium."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pkgstore.testing.conformance import DriverConformance
from tests import needs

if TYPE_CHECKING:
    from collections.abc import Iterator


class LocalConformance(DriverConformance):
    """The conformance tests on a folder."""

    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"file://{tmp_path}/store"

    @pytest.fixture
    def small_url(self, tmp_path: Path) -> Iterator[str]:
        with needs.mounted("tmpfs", tmp_path / "small", "size=8m") as folder:
            yield f"file://{folder}"

    def tamper(self, url: str, key: str) -> None:
        path = blob_path(url, key)
        status = path.stat()
        with path.open("r+b") as file:
            first = file.read(1)
            file.seek(0)
            file.write(bytes([first[0] ^ 1]))
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))

    def truncate(self, url: str, key: str) -> None:
        path = blob_path(url, key)
        os.truncate(path, path.stat().st_size - 1)

    def leftovers(self, url: str) -> list[str]:
        folder = blob_path(url, ".pkgstore/tmp")
        return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def blob_path(url: str, key: str) -> Path:
    """Return the path of a blob's file."""
    return Path(url.removeprefix("file://"), key)
