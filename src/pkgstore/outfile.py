"""Files of the user's own that are written whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import stat
from typing import TYPE_CHECKING, BinaryIO, cast

from pkgstore.drivers import posix
from pkgstore.hashing import OVERLAP_FROM, Worker, worker

if TYPE_CHECKING:
    from collections.abc import Iterator

    from typing_extensions import Buffer

_AHEAD = 8 << 20


@contextlib.contextmanager
def written(path: str | os.PathLike[str], *, replace: bool) -> Iterator[BinaryIO]:
    """Open a file to write to, that has its name only when the block ends well, and then durably.

    With ``replace``, a file that is there is replaced, in one step. Raises OSError; for a write that fails, it may be a
    later one that raises it, or the end of the block.
    """
    path = os.fspath(path)
    _check_free(path, replace=replace)
    folder, name = os.path.split(os.path.abspath(path))
    staged = os.path.join(folder, f".pkgstore-{os.urandom(8).hex()}.part")
    with _Staged(staged) as file:
        try:
            yield cast("BinaryIO", file)
            file.settle()
            if replace:
                os.replace(staged, path)
            else:
                _name_exclusively(staged, folder, name)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(staged)
    posix.sync_folder(folder)


class _Staged(io.RawIOBase):
    """A new file; when it gets large, a thread writes it, beside whoever makes its bytes.

    The medium gets them meanwhile, so that little is left to be flushed in the end.
    """

    def __init__(self, path: str) -> None:
        self._file = open(path, "xb", buffering=0)  # noqa: SIM115
        self._worker: Worker | None = None
        self._given = self._written = self._on_its_way = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Buffer, /) -> int:
        chunk = data if isinstance(data, bytes) else bytes(data)  # whoever owns it may change it before it is written
        if self._worker is None and self._given >= OVERLAP_FROM:
            self._worker = worker(self)
        (self._worker or self).update(chunk)
        self._given += len(chunk)
        return len(chunk)

    def update(self, data: bytes | memoryview, /) -> None:
        """Write it now."""
        write_all(cast("BinaryIO", self._file), data)
        self._written += len(data)
        if self._written - self._on_its_way >= _AHEAD:
            posix.start_writing_back(self._file.fileno(), self._on_its_way, self._written)
            self._on_its_way = self._written

    def settle(self) -> None:
        """Return when all is on the medium."""
        if self._worker is not None:
            self._worker.wait()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        try:
            if self._worker is not None:
                self._worker.close()
        finally:
            self._file.close()
            super().close()


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


def write_all(file: BinaryIO, data: bytes | memoryview) -> None:
    """Write all of ``data``, also to an unbuffered file."""
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]
