"""Files on their way into a store: written and flushed in `.pkgstore/tmp`, then given their name in one step.

A staged file is locked (flock) by the process that writes it, from before its first byte until it has its name or is
gone. A file there that nobody holds is therefore abandoned, however young, and one that is held is not, however old.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
from typing import TYPE_CHECKING, Self

from pkgstore.drivers import posix

if TYPE_CHECKING:
    from collections.abc import Callable

    from pkgstore.drivers.tree import Tree

_log = logging.getLogger("pkgstore")

_AHEAD = 8 << 20


class Staging:
    """The staging folder of one store."""

    def __init__(self, folder: str, tree: Tree) -> None:
        self.folder = folder
        self.tree = tree
        self._give_name: Callable[[str, int, str], None] = _link
        self._reaped_by: int | None = None

    def stage(self) -> Staged:
        """Make a locked, empty file; it is removed at the end, unless it was renamed into place."""
        self.tree.check()  # what lies below a volume that is not mounted any more is not ours
        if self._reaped_by != os.getpid():
            self.reap()
            self._reaped_by = os.getpid()
        return self._create()

    def can_publish(self) -> bool:
        """Say whether this medium can give a file its name without ever replacing another; find out how."""
        with self.stage() as staged:
            twin = f"{staged.path}-name"
            folder = os.open(self.folder, posix.DIRECTORY)
            try:
                for give_name in (_link, posix.rename_exclusive):
                    try:
                        give_name(staged.path, folder, os.path.basename(twin))
                    except OSError as exc:
                        if exc.errno not in posix.NO_HARD_LINKS:
                            raise
                    else:
                        os.unlink(twin)
                        self._give_name = give_name
                        return True
            finally:
                os.close(folder)
        return False

    def publish(self, staged: Staged, folder: int, name: str) -> None:
        """Give a staged file its name in an open folder. Raises FileExistsError when the name is taken."""
        self._give_name(staged.path, folder, name)

    def reap(self) -> int:
        """Remove what nobody is writing any more; return how many files that was."""
        removed = 0
        for path in self._files():
            with contextlib.suppress(OSError):  # in use, gone already, or another user's: not ours to remove
                fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    os.unlink(path)
                    removed += 1
                finally:
                    os.close(fd)
        return removed

    def _files(self) -> list[str]:
        try:
            return [os.path.join(self.folder, name) for name in os.listdir(self.folder)]
        except FileNotFoundError:
            return []

    def _create(self) -> Staged:
        while True:
            path = f"{self.folder}/{os.urandom(16).hex()}"
            try:
                fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
            except FileNotFoundError:
                self._make_folder()
                continue
            except FileExistsError:
                continue  # ours, from a request that was sent again as its reply was lost: nobody else chose that name
            staged = Staged(fd, path, self)
            try:
                if staged.lock():
                    posix.share(fd, self.tree.mode, folder=False)
                    return staged
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)  # reaped between its creation and the lock

    def _make_folder(self) -> None:
        # A missing root stays an error: it is made when a store is opened, never by a write. Nor are folders made in an
        # empty mount point.
        self.tree.check()
        for folder in (os.path.dirname(self.folder), self.folder):
            # A root that goes at this very moment is found to be gone when the file is tried again.
            with contextlib.suppress(FileExistsError, FileNotFoundError):
                os.mkdir(folder)
                posix.share(folder, self.tree.mode, folder=True)


def _link(path: str, folder: int, name: str) -> None:
    os.link(path, name, dst_dir_fd=folder, follow_symlinks=False)


class Staged:
    """A file that is being written."""

    def __init__(self, fd: int, path: str, staging: Staging) -> None:
        self._staging = staging
        self.fd = fd
        self.path = path
        self._written = 0
        self._on_its_way = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, exc: object, traceback: object) -> None:
        # Closed first: over NFS, a file that is open cannot lose its last name, and would get another.
        try:
            os.close(self.fd)
        except OSError as failure:
            # It was flushed before it got its name, or is not wanted any more.
            _log.warning("closing the staged file %s: %s", self.path, failure.strerror)
        try:
            os.unlink(self.path)
        except FileNotFoundError:
            pass  # it was renamed into place, or reaped
        except OSError as failure:
            # What became of the publish is decided already; whoever reaps next removes the file.
            _log.warning("cannot remove the staged file %s: %s", self.path, failure.strerror)
        if isinstance(exc, OSError) and posix.is_full(exc):
            self._staging.reap()

    def lock(self) -> bool:
        """Lock the file against reaping; False when it was reaped already."""
        try:
            fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError as exc:
            if exc.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL):
                raise
            # Without locks on this medium nothing can be proved abandoned, and nothing is reaped.
        return not self.is_lost()

    def is_lost(self) -> bool:
        """Say whether the file does not have its staged name any more."""
        return self._staging.tree.is_lost(self.fd, self.path)

    def write(self, data: bytes | memoryview) -> None:
        posix.write_all(self.fd, data)
        self._written += len(data)
        if self._written - self._on_its_way >= _AHEAD:
            posix.start_writing_back(self.fd, self._on_its_way, self._written)
            self._on_its_way = self._written

    def sync(self) -> None:
        """Flush the file, its attributes included, to the medium."""
        os.fsync(self.fd)
