"""What the conformance tests have to know of the local driver's medium."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pkgstore.testing.conformance import DriverConformance
from tests import needs
from tests.on_files import OnFiles

if TYPE_CHECKING:
    from collections.abc import Iterator


class LocalConformance(OnFiles, DriverConformance):
    """The conformance tests on a folder."""

    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"file://{tmp_path}/store"

    @pytest.fixture
    def small_url(self, tmp_path: Path) -> Iterator[str]:
        with needs.mounted("tmpfs", tmp_path / "small", "size=8m") as folder:
            yield f"file://{folder}"

    def path_of(self, url: str, key: str) -> Path:
        return blob_path(url, key)


def blob_path(url: str, key: str) -> Path:
    """Return the path of a blob's file."""
    return Path(url.removeprefix("file://"), key)
