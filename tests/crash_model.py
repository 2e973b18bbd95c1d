"""What a power cut could leave of a folder: a model of the little that POSIX promises.

The data and attributes of a file survive as they were at its last fsync, and the names in a folder as they were at the
folder's; a name given or taken since then may have survived or not, each on its own. The model watches `os.fsync` in
this process, and calls back at every change of a name, so that a crash can be tried at each of them.
"""

from __future__ import annotations

import os
import stat
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pkgstore.drivers import posix

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import pytest

NAMING = ["link", "mkdir", "rename", "rmdir", "setxattr", "unlink"]


@dataclass(frozen=True)
class File:
    """What the medium holds of a file."""

    data: bytes
    attributes: tuple[tuple[str, bytes], ...]
    mtime_ns: int


# Names and inode numbers of what is in a folder.
Entries = dict[str, int]


class Medium:
    """What has reached the medium of all that is below ``root``, which is there from the start, and empty."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._held: list[int] = []  # so that no inode's number is given to another
        self._files: dict[int, File] = {}
        self._folders: dict[int, Entries] = {os.stat(root).st_ino: {}}
        self._is_folder: set[int] = set()

    @contextmanager
    def watched(self, monkeypatch: pytest.MonkeyPatch, changed: Callable[[str], None]) -> Iterator[None]:
        """Keep account of every fsync, and call ``changed`` with a function's name after each that matters."""
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", self._spied(os.fsync, "fsync", changed, self._flush))
            for name in NAMING:
                patch.setattr(os, name, self._spied(getattr(os, name), name, changed))
            patch.setattr(posix, "rename_exclusive", self._spied(posix.rename_exclusive, "renameat2", changed))
            yield

    def close(self) -> None:
        while self._held:
            os.close(self._held.pop())

    def survivors(self, target: Path, chance: random.Random | None, *, recent: bool = False) -> None:
        """Make what is left after a crash, as the folder ``target``.

        Of the names that changed since their folder's last fsync, survive those that ``chance`` picks; without it,
        all if ``recent``, else none.
        """
        keep: Callable[[], bool] = (lambda: chance.random() < 0.5) if chance else lambda: recent
        made: dict[int, Path] = {}
        self._make(self.root, os.stat(self.root).st_ino, target, keep, made)
        for path in target.glob("store/.pkgstore/digests/*/*"):
            _follow_inode(path, made)

    # -- how ----------------------------------------------------------------------------------------------------------

    def _spied(
        self, function: Any, name: str, changed: Callable[[str], None], effect: Callable[[int], None] | None = None
    ) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            result = function(*args, **kwargs)
            if effect:
                effect(*args)
            changed(name)
            return result

        return call

    def _flush(self, fd: int) -> None:
        status = os.fstat(fd)
        self._held.append(os.dup(fd))
        if stat.S_ISDIR(status.st_mode):
            self._folders[status.st_ino] = self._entries(fd)
        else:
            attributes = tuple((name, os.getxattr(fd, name)) for name in os.listxattr(fd))
            self._files[status.st_ino] = File(_content(fd), attributes, status.st_mtime_ns)

    def _entries(self, folder: int | Path) -> Entries:
        with os.scandir(folder) as entries:
            found = list(entries)
        self._is_folder |= {entry.inode() for entry in found if entry.is_dir(follow_symlinks=False)}
        return {entry.name: entry.inode() for entry in found}

    def _make(
        self, now: Path | None, inode: int, target: Path, keep: Callable[[], bool], made: dict[int, Path]
    ) -> None:
        """Make a folder's survivors; ``now`` is where it is at present, if it is."""
        target.mkdir()
        durable = self._folders.get(inode, {})
        current = self._entries(now) if now is not None else {}
        for name in sorted(durable | current):
            before, after = durable.get(name), current.get(name)
            survivor = before if before == after or not keep() else after
            if survivor is None:
                continue
            if survivor in self._is_folder:
                below = now / name if now is not None and survivor == after else None
                self._make(below, survivor, target / name, keep, made)
            else:
                _write(target / name, self._files.get(survivor, File(b"", (), 0)))
                made[survivor] = target / name


def _write(path: Path, file: File) -> None:
    path.write_bytes(file.data)
    for name, value in file.attributes:
        os.setxattr(path, name, value)
    os.utime(path, ns=(file.mtime_ns, file.mtime_ns))


def _content(fd: int) -> bytes:
    data, at = b"", 0
    while chunk := os.pread(fd, 1 << 20, at):
        data, at = data + chunk, at + len(chunk)
    return data


def _follow_inode(record: Path, made: dict[int, Path]) -> None:
    """Rename what lies beside a file for the inode number that the file has in its copy."""
    stem, identity = record.name.split(".", 1)
    inode, rest = identity.split("-", 1)
    copy = made.get(int(inode, 16))
    number = copy.stat().st_ino if copy else 0
    record.rename(record.with_name(f"{stem}.{number:x}-{rest}"))
