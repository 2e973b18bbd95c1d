"""Damage to blobs that are files on this machine, as the conformance kit asks for it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, ClassVar

from pkgstore.testing.suite.harness import Harness

if TYPE_CHECKING:
    from pathlib import Path


class OnFiles(Harness):
    """A medium whose blobs lie, as files, where `path_of` says."""

    staging: ClassVar[tuple[str, ...]] = ("tmp",)
    """The folders in `.pkgstore` where files lie that are on their way."""

    def path_of(self, url: str, key: str) -> Path:
        """Return the path of a blob's file, or of a folder of the store."""
        raise NotImplementedError

    def tamper(self, url: str, key: str) -> None:
        path = self.path_of(url, key)
        status = path.stat()
        with path.open("r+b") as file:
            first = file.read(1)
            file.seek(0)
            file.write(bytes([first[0] ^ 1]))
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))

    def truncate(self, url: str, key: str) -> None:
        path = self.path_of(url, key)
        os.truncate(path, path.stat().st_size - 1)

    def leftovers(self, url: str) -> list[str]:
        folders = [self.path_of(url, f".pkgstore/{name}") for name in self.staging]
        return sorted(path.name for folder in folders if folder.exists() for path in folder.iterdir())
