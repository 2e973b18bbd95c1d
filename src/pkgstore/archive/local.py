"""What archives need of this host: files of keys, and temporary files."""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
import tempfile
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol, cast

from pkgstore import keys
from pkgstore.errors import Misconfigured

if TYPE_CHECKING:
    from collections.abc import Iterator

_LARGEST_KEY_FILE = 1 << 14
_SPOOL_IN_MEMORY = 1 << 20
_PLACE = ", in the folder for temporary files, {}: free some space, or set TMPDIR"


def read_small(path: str | os.PathLike[str]) -> bytes:
    """Return what is in a file of a key. Raises `Misconfigured`."""
    try:
        with open(path, "rb") as file:
            data = file.read(_LARGEST_KEY_FILE + 1)
    except OSError as exc:
        raise Misconfigured(
            f"the key file {os.fspath(path)} cannot be read ({exc.strerror}): correct its name"
        ) from exc
    if len(data) > _LARGEST_KEY_FILE:
        raise Misconfigured(f"{os.fspath(path)} is too large for a key file: correct its name")
    return data


def check_target(path: str | os.PathLike[str]) -> None:
    """Refuse a file that would lie in the folder of a store, among its packages. Raises `Misconfigured`."""
    name = os.fspath(path)
    folder = os.path.dirname(os.path.realpath(name))
    while not os.path.exists(os.path.join(folder, keys.CONTROL, "store.json")):
        if folder == (folder := os.path.dirname(folder)):
            return
    raise Misconfigured(f"{name} would lie in the store at {folder}, as one of its packages: choose another folder")


@contextlib.contextmanager
def temporary() -> Iterator[None]:
    """Say of what goes wrong with a temporary file where it is. Raises OSError."""
    try:
        yield
    except OSError as exc:
        raise OSError(exc.errno, f"{exc.strerror}{_PLACE.format(tempfile.gettempdir())}") from exc
    except sqlite3.OperationalError as exc:
        raise OSError(errno.ENOSPC, f"{exc}{_PLACE.format(tempfile.gettempdir())}") from exc


class _Spool(tempfile.SpooledTemporaryFile[bytes]):
    def write(self, data: Any, /) -> int:
        with temporary():
            return super().write(data)

    def seek(self, *where: int) -> int:
        with temporary():
            return super().seek(*where)


def spool() -> BinaryIO:
    """Return a temporary file, which is in memory while it is small, and gone when it is closed."""
    return cast("BinaryIO", _Spool(_SPOOL_IN_MEMORY))


class Readable(Protocol):
    """A binary file, or whatever else has its ``read``."""

    def read(self, size: int, /) -> bytes: ...


class Rewound:
    """A file, of which the ``first`` bytes were read, and are read again."""

    def __init__(self, source: Readable, size: int) -> None:
        self.first = exactly(source, size)
        self._again = self.first
        self._source = source

    def read(self, size: int, /) -> bytes:
        """Return up to ``size`` bytes; empty at the end."""
        if not self._again:
            return self._source.read(size)
        data, self._again = self._again[:size], self._again[size:]
        return data


def exactly(source: Readable, size: int) -> bytes:
    """Return ``size`` bytes, or as many as there are to the end."""
    data = source.read(size)
    while 0 < len(data) < size and (more := source.read(size - len(data))):
        data += more
    return data
