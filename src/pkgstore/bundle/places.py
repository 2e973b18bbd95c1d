"""Where a bundle goes: versions that lie beside ``dest`` and never change, and ``dest``, a link to one of them.

::

    /srv/packages                           -> .packages.bundle/my-app-2f0c…
    /srv/.packages.bundle/my-app-2f0c…/     a version: complete, or not there
    /srv/.packages.bundle/lock              locked by whoever brings a version here
    /srv/.packages.bundle/8d31….part/       what is being made: its lock, its tree, its archive

A version appears by a rename and is never touched again; ``dest`` is replaced by another rename. Whoever works in the
version it found at its start goes on working in it.

What is being made is locked by its maker and all whom that has started, so that a `.part` that nobody holds is
abandoned. It is renamed before it is removed: a maker that lost its lock, as one whose network went away, does not
find what it made, and can never bring a half of it here.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import logging
import os
import random
import stat
import time
from typing import TYPE_CHECKING

from pkgstore.drivers import posix
from pkgstore.drivers.nfs import ask_server
from pkgstore.errors import LockTimeout, Misconfigured, Unavailable

if TYPE_CHECKING:
    from collections.abc import Iterator

_log = logging.getLogger("pkgstore")

_LOCK = "lock"
_PART = ".part"
_LINK = ".link"
_SHORTEST_PAUSE = 0.02
_LONGEST_PAUSE = 0.5
_NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL}
_TAKEN = {errno.EEXIST, errno.ENOTEMPTY}


class Deadline:
    """Until when all of it has to be done: ``seconds`` from now."""

    def __init__(self, seconds: float, what: str) -> None:
        self.seconds = seconds
        self.what = what
        self._end = time.monotonic() + seconds

    @property
    def left(self) -> float:
        """The seconds that are left, 0 at least."""
        return max(0.0, self._end - time.monotonic())

    def check(self) -> None:
        """Raise `Unavailable` when no time is left."""
        if not self.left:
            raise Unavailable(
                f"{self.what} was not there within {self.seconds:g} s: see what is slow, or allow more time"
            )


class Place:
    """A ``dest``, and what lies beside it."""

    def __init__(self, dest: str | os.PathLike[str]) -> None:
        self.dest = os.path.abspath(dest)
        self._parent, self._leaf = os.path.split(self.dest)
        if not self._leaf:
            raise Misconfigured(f"{self.dest!r} cannot be the place of a bundle: name a folder in it")
        self._beside = f".{self._leaf}.bundle"
        self.folder = os.path.join(self._parent, self._beside)

    def path(self, version: str) -> str:
        """Return the path of a version."""
        return os.path.join(self.folder, version)

    def has(self, version: str) -> bool:
        """Say whether a version is here."""
        return os.path.isdir(self.path(version))

    def is_at(self, version: str) -> bool:
        """Say whether ``dest`` leads to this version, and it is here."""
        return self._link() == self._target(version) and self.has(version)

    def check(self) -> None:
        """Raise `Misconfigured` when ``dest`` is somebody's own: it is then left as it is."""
        try:
            mode = os.lstat(self.dest).st_mode
        except FileNotFoundError:
            return
        if stat.S_ISLNK(mode):
            link = self._link()
            if link is not None and not link.startswith(f"{self._beside}/"):
                raise Misconfigured(f"{self.dest} is a link to {link!r} already: remove it, or choose another place")
        elif os.path.ismount(self.dest):
            raise Misconfigured(
                f"{self.dest} is a mount point, and cannot be replaced in one step: name a folder in it, such as"
                f" {os.path.join(self.dest, 'current')}"
            )
        elif not stat.S_ISDIR(mode) or os.listdir(self.dest):
            raise Misconfigured(
                f"{self.dest} is there already, and no bundle put it there: move it away, or choose another place"
            )

    @contextlib.contextmanager
    def locked(self, deadline: Deadline) -> Iterator[None]:
        """Be the only one who brings versions here, in all processes of all hosts that share the file system.

        On a file system without locks, be one of those who do; the rename decides then. Raises `LockTimeout`.
        """
        os.makedirs(self.folder, exist_ok=True)
        fd = os.open(os.path.join(self.folder, _LOCK), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            if os.fstat(fd).st_uid == os.geteuid():  # who may write beside dest may bring versions there
                mode = os.stat(self._parent).st_mode
                posix.share(self.folder, mode, folder=True)
                posix.share(fd, mode, folder=False)
            has_locks = self._lock(fd, deadline)
            self._look_again()
            if has_locks:
                self._reap()
            yield
        finally:
            os.close(fd)

    def _look_again(self) -> None:
        """Have what another host has just brought here not be hidden by what this one remembers of a share."""
        for folder in (self._parent, self.folder):
            fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                ask_server(fd)
            finally:
                os.close(fd)

    def _lock(self, fd: int, deadline: Deadline) -> bool:
        pause = _SHORTEST_PAUSE
        while True:
            try:
                return _lock_now(fd)
            except BlockingIOError:
                if not deadline.left:
                    raise LockTimeout(
                        f"{deadline.what} is not at {self.dest} yet, as whoever brings it there takes longer than the"
                        f" {deadline.seconds:g} s that are given: ask again later, or wait longer"
                    ) from None
            time.sleep(min(deadline.left, pause * random.uniform(0.5, 1)))
            pause = min(1.5 * pause, _LONGEST_PAUSE)

    @contextlib.contextmanager
    def part(self) -> Iterator[str]:
        """Yield a new folder to make a version in; it goes with the block."""
        path = os.path.join(self.folder, f"{os.urandom(16).hex()}{_PART}")
        os.mkdir(path)
        try:
            fd = os.open(os.path.join(path, _LOCK), os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
            try:
                _lock_now(fd)
                os.set_inheritable(fd, True)  # so that whoever survives this process keeps the folder
                yield path
            finally:
                os.close(fd)
        finally:
            _remove(path)

    def keep(self, tree: str, version: str) -> None:
        """Make ``tree`` a version. What is in it is on the disk before it has its name."""
        os.chmod(tree, os.stat(tree).st_mode | stat.S_IRWXU)  # a folder that is read-only cannot be moved
        _sync(tree)
        try:
            os.rename(tree, self.path(version))
        except OSError as exc:
            if exc.errno not in _TAKEN:  # by another, on a file system without locks
                raise
        posix.sync_folder(self.folder)

    def point_at(self, version: str) -> None:
        """Have ``dest`` lead to a version, in one step."""
        if self._link() == self._target(version):
            return
        self.check()
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            os.rmdir(self.dest)  # an empty folder, which is as good as none
        link = os.path.join(self.folder, f"{os.urandom(16).hex()}{_LINK}")
        os.symlink(self._target(version), link)
        try:
            os.replace(link, self.dest)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(link)
        posix.sync_folder(self._parent)

    def _target(self, version: str) -> str:
        return f"{self._beside}/{version}"

    def _link(self) -> str | None:
        try:
            return os.readlink(self.dest)
        except OSError as exc:
            if exc.errno not in (errno.ENOENT, errno.EINVAL, errno.ENOTDIR):
                raise
            return None

    def _reap(self) -> None:
        """Remove what dead makers have left."""
        for name in os.listdir(self.folder):
            path = os.path.join(self.folder, name)
            with contextlib.suppress(PermissionError):  # another user's: not ours to remove
                if name.endswith(_LINK):
                    os.unlink(path)
                elif name.endswith(_PART) and not _is_held(path):
                    _remove(path)


def _lock_now(fd: int) -> bool:
    """Lock an open file; False where the file system has no locks. Raises BlockingIOError when another holds it."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as exc:
        if exc.errno not in _NO_LOCKS:
            raise
        return False  # nothing can be proved abandoned there, and nothing is reaped
    return True


def _is_held(part: str) -> bool:
    """Say whether somebody still makes something there."""
    try:
        fd = os.open(os.path.join(part, _LOCK), os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:  # its maker died at once, or while it removed it
        return False
    try:
        return not _lock_now(fd)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)


def remove_tree(tree: str) -> None:
    """Remove a folder and all that is in it, also what a build made read-only. Raises OSError."""
    folders = [tree]
    for folder in folders:  # which grow meanwhile; recursion, as in shutil, has a limit
        os.chmod(folder, stat.S_IRWXU)
        with os.scandir(folder) as scan:
            entries = list(scan)  # on NFS, what is deleted meanwhile may hide others
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                folders.append(entry.path)
            else:
                os.unlink(entry.path)
    for folder in reversed(folders):
        os.rmdir(folder)


def _remove(part: str) -> None:
    gone = f"{part.removesuffix(_PART).removesuffix('.gone')}.gone{_PART}"
    try:
        os.rename(part, gone)
        remove_tree(gone)
    except FileNotFoundError:
        return
    except OSError as exc:
        _log.warning("cannot remove %s, which a build has left: %s; the next one tries again", gone, exc.strerror)


def _sync(tree: str) -> None:
    """Flush the file system that holds ``tree``: one call for all of its files."""
    fd = os.open(tree, posix.DIRECTORY)
    try:
        if ctypes.CDLL(None, use_errno=True).syncfs(fd):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), tree)
    finally:
        os.close(fd)
