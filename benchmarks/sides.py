"""What a side of a comparison can be asked for, and the smallest programs that do the same work."""

from __future__ import annotations

import hashlib
import os
import time
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

MIB = 1 << 20


@cache
def data(size: int) -> bytes:
    """Return ``size`` bytes that do not compress, the same all through a run."""
    piece = os.urandom(min(size, MIB))
    return (piece * (size // len(piece) + 1))[:size]


class Side:
    """What is measured. A subclass publishes under a new name, and reads what it published."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._count = 0

    def publish(self, name: str, body: bytes) -> None:
        raise NotImplementedError

    def read(self, name: str) -> bytes:
        raise NotImplementedError

    def file(self, name: str) -> Path:
        """Return where a blob lies."""
        return self.folder / name

    def drop(self, name: str) -> None:
        """Remove what was published, to make room."""
        self.file(name).unlink()

    # -- what can be asked for ----------------------------------------------------------------------------------------

    def do_publish(self, size: int, count: int, *, drop: bool = False) -> list[float]:
        body = data(size)
        times = []
        for _ in range(count):
            name = self._new_name()
            began = time.perf_counter()
            self.publish(name, body)
            times.append(time.perf_counter() - began)
            if drop:
                self.drop(name)
        return times

    def do_read(self, size: int, count: int) -> list[float]:
        name = self._there(size)
        times = []
        for _ in range(count):
            began = time.perf_counter()
            read = self.read(name)
            times.append(time.perf_counter() - began)
            assert len(read) == size, f"{len(read)} bytes read, not {size}"
        return times

    def do_put(self, name: str, size: int) -> list[float]:
        """Publish under a given name."""
        self.publish(name, data(size))
        return []

    def _new_name(self) -> str:
        self._count += 1
        return f"project/{os.getpid()}-{self._count}.whl"

    def _there(self, size: int) -> str:
        name = f"read/{size}.whl"
        if not self.file(name).exists():
            self.publish(name, data(size))
        return name


class Floor(Side):
    """The smallest programs that do the same work: nothing is checked, found out or cleaned up."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        for name in ("tmp", "project", "read"):
            (folder / name).mkdir(parents=True, exist_ok=True)

    def publish(self, name: str, body: bytes) -> None:
        target = f"{self.folder}/{name}"
        staged = f"{self.folder}/tmp/{name.rpartition('/')[2]}"
        fd = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        hashlib.sha256(body).hexdigest()
        os.write(fd, body)
        os.fsync(fd)
        os.close(fd)
        os.link(staged, target)
        os.unlink(staged)
        folder = os.open(f"{self.folder}/{name.rpartition('/')[0]}", os.O_RDONLY | os.O_DIRECTORY)
        os.fsync(folder)
        os.close(folder)

    def read(self, name: str) -> bytes:
        with open(f"{self.folder}/{name}", "rb", buffering=0) as file:
            read = file.read()
        hashlib.sha256(read).hexdigest()
        return read

    def do_stream(self, size: int, count: int) -> list[float]:
        path = self.file(self._there(size))
        times = []
        for _ in range(count):
            began = time.perf_counter()
            with open(path, "rb", buffering=0) as file:
                hashlib.file_digest(file, "sha256").hexdigest()
            times.append(time.perf_counter() - began)
        return times

    def do_list(self, folder: str) -> list[float]:
        """List the files below a folder in order, with their sizes and what pkgstore records of them."""
        began = time.perf_counter()
        for path, folders, files in os.walk(folder):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            for name in sorted(files):
                file = f"{path}/{name}"
                os.stat(file)
                os.getxattr(file, "user.pkgstore")
        return [time.perf_counter() - began]

    def do_path(self, size: int, count: int) -> list[float]:
        path = str(self.file(self._there(size)))
        times = []
        for _ in range(count):
            began = time.perf_counter()
            with open(path, "rb", buffering=0) as file:
                file.read()
            times.append(time.perf_counter() - began)
        return times

    def do_sha256(self, size: int, count: int) -> list[float]:
        view = memoryview(data(size))
        times = []
        for _ in range(count):
            began = time.perf_counter()
            hasher = hashlib.sha256()
            for start in range(0, size, MIB):
                hasher.update(view[start : start + MIB])
            hasher.hexdigest()
            times.append(time.perf_counter() - began)
        return times

    def do_write(self, size: int, count: int) -> list[float]:
        view = memoryview(data(size))
        times = []
        for _ in range(count):
            path = self.file(self._new_name())
            began = time.perf_counter()
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
            for start in range(0, size, MIB):
                os.write(fd, view[start : start + MIB])
            os.fsync(fd)
            os.close(fd)
            times.append(time.perf_counter() - began)
            path.unlink()
        return times
