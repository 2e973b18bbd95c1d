"""The user's own files: what `put` reads and what `get` writes. `-` stands for standard input and output."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import sys
from typing import TYPE_CHECKING, BinaryIO, TextIO, cast

import click

from pkgstore.cli.failures import local
from pkgstore.drivers import posix

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pkgstore.cli.progress import Meter

STANDARD = "-"


class MeteredSource:
    """A binary file to publish, that shows on a meter how far it was read."""

    def __init__(self, file: BinaryIO, meter: Meter) -> None:
        self._file = file
        self._meter = meter

    def read(self, size: int = -1, /) -> bytes:
        data = self._file.read(size)
        self._meter.advance(len(data))
        return data

    def seekable(self) -> bool:
        return self._file.seekable()

    def tell(self) -> int:
        return self._file.tell()

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        position = self._file.seek(offset, whence)
        self._meter.restart()
        return position


def named(path: str, standard: TextIO | None) -> str:
    """Return the FILE of a command line, where an empty one stands for a standard stream that is not a terminal."""
    if not path and standard is not None and standard.isatty():
        raise click.UsageError("no FILE is given, and this is a terminal: name a FILE, or - to use the terminal")
    return path or STANDARD


@contextlib.contextmanager
def source(path: str) -> Iterator[BinaryIO]:
    """Open what is to be published. Raises `LocalError`, also for what goes wrong while it is read."""
    with local("read", "standard input" if path == STANDARD else path):
        if path != STANDARD:
            with open(path, "rb", buffering=0) as file:
                yield cast("BinaryIO", file)
        elif sys.stdin is None:
            raise OSError(errno.EBADF, "it is closed")
        else:
            yield sys.stdin.buffer


@contextlib.contextmanager
def target(path: str, *, force: bool) -> Iterator[BinaryIO]:
    """Open what a blob is to be written to. A file has its name only when the block ends well, and then durably.

    Raises `LocalError`. With ``force``, a file that is there is replaced, in one step.
    """
    with local("write", "standard output" if path == STANDARD else path):
        if path != STANDARD:
            with _staged(path, force=force) as file:
                yield file
        elif sys.stdout is None:
            raise OSError(errno.EBADF, "it is closed")
        else:
            yield sys.stdout.buffer
            sys.stdout.buffer.flush()


def length(file: BinaryIO) -> int | None:
    """Return how many bytes are left in an open file, where it can tell."""
    status = os.fstat(file.fileno())
    return max(0, status.st_size - file.tell()) if stat.S_ISREG(status.st_mode) else None


def write_all(file: BinaryIO, data: bytes) -> None:
    """Write all of ``data``, also to an unbuffered file."""
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]


@contextlib.contextmanager
def _staged(path: str, *, force: bool) -> Iterator[BinaryIO]:
    _check_free(path, force=force)
    folder, name = os.path.split(os.path.abspath(path))
    staged = os.path.join(folder, f".pkgstore-{os.urandom(8).hex()}.part")
    with open(staged, "xb", buffering=0) as file:
        try:
            yield cast("BinaryIO", file)
            os.fsync(file.fileno())
            if force:
                os.replace(staged, path)
            else:
                _name_exclusively(staged, folder, name)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(staged)
    posix.sync_folder(folder)


def _check_free(path: str, *, force: bool) -> None:
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        if path.endswith(os.sep):
            raise FileNotFoundError(errno.ENOENT, "there is no such folder") from None
        return
    if not stat.S_ISREG(status.st_mode):
        raise FileExistsError(errno.EEXIST, "it is there already, and is no regular file; choose another name")
    if not force:
        raise _taken()


def _name_exclusively(staged: str, folder: str, name: str) -> None:
    try:
        try:
            os.link(staged, os.path.join(folder, name))
        except OSError as exc:
            if exc.errno not in posix.NO_HARD_LINKS:
                raise
            parent = os.open(folder, posix.DIRECTORY)
            try:
                posix.rename_exclusive(staged, parent, name)
            finally:
                os.close(parent)
    except FileExistsError:
        raise _taken() from None


def _taken() -> FileExistsError:
    return FileExistsError(errno.EEXIST, "it is there already; choose another name, or replace it with --force")
