"""A medium for tests of the cache: files of this machine that pass for another's, and tell what was asked of them."""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

import pkgstore
from pkgstore import Blob, Store
from pkgstore.cache.absent import Absent
from pkgstore.cache.folder import Cache
from pkgstore.calls import Calls
from pkgstore.drivers.local import LocalDriver

if TYPE_CHECKING:
    from pathlib import Path


class FarDriver(LocalDriver):
    """The local driver without paths to show, which notes each stat and open of a blob in a file."""

    local_path = None  # type: ignore[assignment]

    def __init__(self, root: str, notes: Path) -> None:
        super().__init__(root)
        self._notes = os.open(notes, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC)

    def open(
        self, key: str, start: int = 0, stop: int | None = None, *, tag: str | None = None
    ) -> tuple[Blob, BinaryIO]:
        os.write(self._notes, f"open {key}\n".encode())
        return super().open(key, start, stop, tag=tag)

    def stat(self, key: str) -> Blob:
        os.write(self._notes, f"stat {key}\n".encode())
        return super().stat(key)

    def close(self) -> None:
        super().close()
        os.close(self._notes)


@dataclass(frozen=True)
class Far:
    """A store on such a medium, and the folder of its cache."""

    root: Path
    folder: Path
    size: int

    def __post_init__(self) -> None:
        pkgstore.open(self.root).close()

    def open(self, **options: Any) -> Store:
        """Open the store with its cache; other ``size`` or ``folder``, and ``negative`` seconds, as told."""
        driver = FarDriver(str(self.root), self._notes)
        cache = Cache(str(options.get("folder", self.folder)), options.get("size", self.size))
        absent = Absent(options.get("negative", 0))
        calls = Calls(driver, f"far://{self.root}", options.get("timeout", 60))
        return Store(calls, identity="far", cache=cache, absent=absent)

    def asked(self) -> list[str]:
        """Return what was asked of the medium since the last call, as `stat key` and `open key`."""
        asked = self._notes.read_text().splitlines() if self._notes.exists() else []
        os.truncate(self._notes, 0)
        return asked

    def entries(self) -> list[Path]:
        """Return the entries."""
        return sorted(path for path in (self.folder / "sha256").rglob("*") if path.is_file())

    def fills(self) -> list[Path]:
        """Return what is being filled, or was when its process died."""
        return sorted((self.folder / "tmp").iterdir())

    def held(self) -> int:
        """Return how many bytes entries and fills have. Nobody takes more meanwhile."""
        with (self.folder / "state").open("a") as state:
            fcntl.flock(state, fcntl.LOCK_EX)
            found = {}
            for folder in ("tmp", "sha256"):  # in this order, for a fill may become an entry
                for path in (self.folder / folder).rglob("*"):
                    with contextlib.suppress(FileNotFoundError):
                        status = path.lstat()
                        if stat.S_ISREG(status.st_mode):
                            found[status.st_ino] = status.st_size
            return sum(found.values())

    def counted(self) -> int:
        """Return how many bytes the cache takes to be held."""
        return int((self.folder / "state").read_text().split()[1])

    @property
    def _notes(self) -> Path:
        return self.root.with_suffix(".notes")
