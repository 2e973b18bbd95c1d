"""The user's own files: what `put` reads and what `get` writes. `-` stands for standard input and output."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import sys
from typing import TYPE_CHECKING, BinaryIO, TextIO, cast

import click

from pkgstore import outfile
from pkgstore.cli.failures import local

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
            with outfile.written(path, replace=force) as file:
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
