"""A folder of wheels, exported and restored: by pkgstore, and by tar and zstd."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import TYPE_CHECKING

from measure import timed
from sides import Side
from sides_ours import Ours

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_FILE = "backup.tar.zst"


class Archives(Ours):
    """pkgstore; the archive and what is restored lie beside the store."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / "store")
        self._beside = folder

    def do_fill_with(self, sizes: Sequence[int]) -> list[float]:
        """Publish blobs of these sizes, which do not compress."""
        for number, size in enumerate(sizes):
            self.store.publish(f"project-{number % 50}/file-{number}.whl", os.urandom(size))
        return []

    def do_export(self) -> list[float]:
        from pkgstore import archive

        return [timed(lambda: archive.export(self.store, self._beside / _FILE, replace=True))]

    def do_restore(self) -> list[float]:
        import pkgstore
        from pkgstore import archive

        place = self._beside / "restored"

        def restore() -> None:
            with pkgstore.open(place) as store:
                report = archive.restore(self._beside / _FILE, store)
            assert report.new == report.blobs > 0

        seconds = timed(restore)
        shutil.rmtree(place)
        return [seconds]


class TarAndZstd(Side):
    """The same with tar and zstd, flushed to disk at the end; nothing is verified."""

    def do_export(self, store: str) -> list[float]:
        return [self._timed(f"tar c --exclude=.pkgstore -C '{store}' . | zstd -q -f -T2 -o {_FILE} && sync {_FILE}")]

    def do_restore(self) -> list[float]:
        place = self.folder / "restored"
        place.mkdir()
        seconds = self._timed(f"zstd -q -d -c {_FILE} | tar x -C restored && sync -f restored")
        shutil.rmtree(place)
        return [seconds]

    def _timed(self, line: str) -> float:
        return timed(lambda: subprocess.run(["bash", "-o", "pipefail", "-c", line], cwd=self.folder, check=True))
