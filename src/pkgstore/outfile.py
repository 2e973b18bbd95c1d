"""Files of the user's own that are written whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from typing import TYPE_CHECKING, BinaryIO, cast

from pkgstore.drivers import posix

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextlib.contextmanager
def written(path: str | os.PathLike[str], *, replace: bool) -> Iterator[BinaryIO]:
    """Open a file to write to, that has its name only when the block ends well, and then durably.

    With ``replace``, a file that is there is replaced, in one step. Raises OSError.
    """
    path = os.fspath(path)
    _check_free(path, replace=replace)
    folder, name = os.path.split(os.path.abspath(path))
    staged = os.path.join(folder, f".pkgstore-{os.urandom(8).hex()}.part")
    with open(staged, "xb", buffering=0) as file:
        try:
            yield cast("BinaryIO", file)
            os.fsync(file.fileno())
            if replace:
                os.replace(staged, path)
            else:
                _name_exclusively(staged, folder, name)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(staged)
    posix.sync_folder(folder)


def _check_free(path: str, *, replace: bool) -> None:
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        if path.endswith(os.sep):
            raise FileNotFoundError(errno.ENOENT, "there is no such folder") from None
        return
    if not stat.S_ISREG(status.st_mode):
        raise FileExistsError(errno.EEXIST, "it is there already, and is no regular file; choose another name")
    if not replace:
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
    return FileExistsError(errno.EEXIST, "it is there already; choose another name, or ask to replace it (--force)")


def write_all(file: BinaryIO, data: bytes) -> None:
    """Write all of ``data``, also to an unbuffered file."""
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]
