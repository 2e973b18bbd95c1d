"""Blobs as plain files on an NFS share that this host has mounted: ``nfs:///mnt/packages``.

The local driver, on a medium that other hosts change while this one has part of it in its caches. A client may keep
for a minute what a folder held, so that a blob which another host has just published is absent here. Before anything is
looked up in a folder, the server is therefore asked whether the folder has changed, which is one round trip. What has
changed is then looked up there.

The path has to be on an NFS mount: a share that is not mounted is an empty folder of the local disk.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import re
import time
from shlex import quote
from typing import TYPE_CHECKING

from pkgstore.drivers import local, posix
from pkgstore.drivers.mounts import Mount, mount_of, mount_under
from pkgstore.drivers.tree import Folder, Handle, Tree, is_folder
from pkgstore.errors import Misconfigured, StoreError

if TYPE_CHECKING:
    from urllib.parse import SplitResult

    from pkgstore.driver import Blob

_EMPTY_PATH = 0x1000
_FORCE_SYNC = 0x2000
_BASIC_STATS = 0x7FF
_STATUS_SIZE = 256
_PASSED_BY = {errno.ENOENT, errno.ENOTDIR, errno.ESTALE}
_PATIENCE = 4.0
_FIRST_PAUSE = 0.002
_LONGEST_PAUSE = 0.5
_BEFORE_LISTING = 0.25
_MOST_KNOWN = 10_000
_TELL_CHANGES_BY_TIME = {"2", "3"}
_TOUCHES = 1000
_TICK = 0.002
_ASIDE = re.compile(r"\.nfs[0-9a-f]{24}")


def connect(url: SplitResult, *, create: bool) -> NfsDriver:
    """Return the driver for a folder on an NFS mount.

    Raises as `pkgstore.drivers.local.connect` does, and `Misconfigured` for a folder that is on no such mount.
    """
    root = local.folder_of(url)
    try:
        _check(root, mount_of(root))
    except OSError as exc:
        raise (posix.classify(exc) or StoreError)(
            f"cannot use the folder {root}: {exc.strerror}; check that the share is mounted and its server reachable"
        ) from exc
    return local.opened(NfsDriver, root, create=create)


def _check(root: str, mount: Mount) -> None:
    """Raise `Misconfigured` for what is not NFS."""
    if not mount.is_nfs:
        raise Misconfigured(
            f"{root} is on {mount.kind}, mounted at {mount.point}, and not on NFS: check that the share is mounted,"
            f" or use {quote(f'file://{root}')} for a folder of this host"
        )


class SharedTree(Tree):
    """The folders of a share: what is in them is asked of the server, not of the client's caches."""

    def __init__(self, root: str) -> None:
        super().__init__(root)
        mount = mount_under(self.held().fd)  # what is held, whatever was mounted meanwhile
        _check(root, mount)
        self._by_time = mount.option("vers") in _TELL_CHANGES_BY_TIME

    def status(self, fd: int) -> os.stat_result:
        ask_server(fd)
        return os.fstat(fd)

    def is_lost(self, fd: int, path: str) -> bool:
        # A file that its client removes while it is open has another name, and so as many links as before.
        status = self.status(fd)
        try:
            return status.st_nlink == 0 or not os.path.samestat(status, os.stat(path, follow_symlinks=False))
        except FileNotFoundError:
            return True

    def settle(self, folder: int) -> None:
        """Have every client notice a change of a folder, which is durable already.

        With NFS 3, clients tell by a folder's time whether it has changed, and many changes have one time: that of a
        tick of the server's clock, of up to 10 ms. So it is changed once more, until the time is another.
        """
        if not self._by_time:
            return
        try:
            changed = self.status(folder).st_ctime_ns
            for _ in range(_TOUCHES):
                os.utime(folder)
                if os.fstat(folder).st_ctime_ns != changed:
                    return
                time.sleep(_TICK)
        except OSError as exc:
            if exc.errno != errno.ESTALE:  # the folder is gone again, and nobody can miss anything in it
                raise OSError(errno.EIO, f"other clients may not see the change: {exc.strerror}") from exc
        else:
            raise OSError(errno.EIO, "other clients may not see the change: the server's clock stands still")

    def refresh(self, folder: str) -> bool:
        self._ask_on_the_way(folder.split("/"))
        return True

    def folder(self, key: str, *, create: bool = False) -> Folder:
        try:
            found = super().folder(key, create=create)
            ask_server(found.fd)
            return found
        except OSError as exc:
            if exc.errno not in _PASSED_BY:
                raise
        # It may have been made, or made again, by another host.
        self._ask_on_the_way(key.split("/")[:-1])
        return super().folder(key, create=create)

    def _enter(self, parent: int, folder: str, create: bool) -> int:
        try:
            return super()._enter(parent, folder, False)
        except FileNotFoundError:
            if not create:
                raise
        child = super()._enter(parent, folder, True)
        self.settle(parent)
        return child

    def _ask_on_the_way(self, folders: list[str]) -> None:
        handle = self.held()
        ask_server(handle.fd)
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            for folder in folders:
                handle = Handle(os.open(folder, posix.DIRECTORY, dir_fd=handle.fd))
                ask_server(handle.fd)

    def _pin(self, child: int, parent: int) -> None:
        """Do nothing: a server has made a folder durable before it replies."""


class NfsDriver(local.LocalDriver):
    """The verbs on a share."""

    scheme = "nfs"
    tree = SharedTree

    def __init__(self, root: str) -> None:
        super().__init__(root)
        self._aside: dict[str, float] = {}

    def _open_blob(self, folder: int, name: str, key: str) -> tuple[int, Blob]:
        deadline = time.monotonic() + _PATIENCE
        pause = _FIRST_PAUSE
        while True:
            try:
                return super()._open_blob(folder, name, key)
            except FileNotFoundError:
                names = _entries(folder)
                there = name in names and not is_folder(folder, name)
                if time.monotonic() > deadline or not (there or self._newly_aside(names, _PATIENCE)):
                    raise
            except OSError as exc:
                # Stale: replaced or deleted by another host, between two of our requests.
                if exc.errno != errno.ESTALE or time.monotonic() > deadline:
                    raise
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
            ask_server(folder)

    def _names(self, prefix: str) -> list[str]:
        names = super()._names(prefix)
        if self._newly_aside(names, _BEFORE_LISTING):
            time.sleep(_BEFORE_LISTING)
            names = super()._names(prefix)
        return [name for name in names if not _ASIDE.fullmatch(name)]

    def _newly_aside(self, names: list[str], seconds: float) -> bool:
        """Say whether one of the names is that of a file which a client put aside, and we first saw so lately.

        A client that replaces or deletes a file which one of its own processes has open first gives it another name,
        until it is closed. To replace it, that is not one step, but two: for a moment, the blob has no name of its own.
        """
        if len(self._aside) > _MOST_KNOWN:
            self._aside = {}
        now = time.monotonic()
        seen = [self._aside.setdefault(name, now) for name in names if _ASIDE.fullmatch(name)]
        return any(now - first < seconds for first in seen)


def _entries(folder: int) -> list[str]:
    """Return the names in a folder, as the server lists them now, and not as the client remembers them."""
    fd = os.open(".", posix.DIRECTORY, dir_fd=folder)
    try:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        return os.listdir(fd)
    finally:
        os.close(fd)


def ask_server(fd: int) -> None:
    """Have the client's kernel ask the server for the attributes of an open file or folder, however fresh its own are.

    Raises OSError: ESTALE when it is gone from the server.
    """
    buffer = ctypes.create_string_buffer(_STATUS_SIZE)
    if _statx(fd, b"", _EMPTY_PATH | _FORCE_SYNC, _BASIC_STATS, buffer):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


_statx = ctypes.CDLL(None, use_errno=True).statx
_statx.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_uint, ctypes.c_char_p)
