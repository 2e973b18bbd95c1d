"""The folders of a store on a file system: opened one by one below the root, never through a symbolic link.

So no key can lead outside, whatever lies in the tree. Files are opened, named and removed relative to an open folder.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections import OrderedDict
from typing import TYPE_CHECKING

from pkgstore import keys
from pkgstore.drivers import posix
from pkgstore.errors import Denied, Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable

_PINNED = 16
_DEEPEST = 32


class Tree:
    """The folders below ``root``, which is held open. Raises OSError when it is no folder that can be opened."""

    def __init__(self, root: str) -> None:
        self.root = root
        self._handle: Handle | None = Handle(os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        status = os.fstat(self._handle.fd)
        self._identity = (status.st_dev, status.st_ino)
        self._pinned: OrderedDict[tuple[int, int], Handle] = OrderedDict()
        self.mode = status.st_mode

    def close(self) -> None:
        """Let go of the root. Whoever has a folder open keeps it."""
        self._pinned.clear()
        self._handle = None

    def folder(self, key: str, *, create: bool = False) -> Folder:
        """Open the folder of a key. With ``create``, it is there durably."""
        *folders, name = key.split("/")
        self.check()
        handle = self.held()
        child = None
        try:
            for folder in folders:
                child = Handle(self._enter(handle.fd, folder, create))
                if create:
                    self._pin(child.fd, handle.fd)
                handle = child
            return Folder(handle, name)
        finally:
            del handle, child  # an error's traceback, which may be kept, holds this frame

    def settle_above(self, key: str) -> None:
        """Flush the deepest folder that is still there above the folder of a key."""
        folders = key.split("/")[:-1]
        while True:
            if folders:
                folders.pop()
            with contextlib.suppress(FileNotFoundError), self.folder("/".join([*folders, "-"])) as (folder, _):
                self.settle(folder)
                return

    def held(self) -> Handle:
        """Return the root. Raises OSError when it was let go of."""
        if self._handle is None:
            raise OSError(errno.EBADF, "the driver is closed")
        return self._handle

    def status(self, fd: int) -> os.stat_result:
        """Return the status of an open file or folder as it is on the medium now."""
        return os.fstat(fd)

    def is_lost(self, fd: int, path: str) -> bool:
        """Say whether an open file that was made as ``path`` does not have that name any more."""
        return os.fstat(fd).st_nlink == 0

    def settle(self, folder: int) -> None:
        """See to it that a change of an open folder's entries is durable, and that every host sees it."""
        posix.settle(folder)

    def refresh(self, folder: str) -> bool:
        """See to it that what is next asked for in a folder is looked up on the medium; False when it always is."""
        return False

    def check(self) -> None:
        """Raise `Unavailable` when the root's path leads to another folder than the one that is held open."""
        try:
            status = os.stat(self.root)
        except (FileNotFoundError, NotADirectoryError):
            raise Unavailable(f"the folder {self.root} is gone: check that its volume is mounted") from None
        if (status.st_dev, status.st_ino) != self._identity:
            raise Unavailable(
                f"{self.root} is not the folder that was opened: check that its volume is mounted, and restart if it"
                " was replaced on purpose"
            )

    def _enter(self, parent: int, folder: str, create: bool) -> int:
        try:
            return os.open(folder, posix.DIRECTORY, dir_fd=parent)
        except FileNotFoundError:
            if not create:
                raise
        except OSError as exc:
            if exc.errno not in (errno.ENOTDIR, errno.ELOOP):
                raise
            if stat.S_ISLNK(os.stat(folder, dir_fd=parent, follow_symlinks=False).st_mode):
                raise Denied(not_followed(self.root, folder)) from None
            if create:
                raise NotADirectoryError(errno.ENOTDIR, f"{folder!r} is a file there, and no folder") from None
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), folder) from None
        with contextlib.suppress(FileExistsError):
            os.mkdir(folder, dir_fd=parent)
        child = os.open(folder, posix.DIRECTORY, dir_fd=parent)
        posix.share(child, self.mode, folder=True)
        return child

    def _pin(self, child: int, parent: int) -> None:
        """See to it that a folder's own entry is durable, once for as long as it is the same folder.

        The last few are held open: the number of an inode that is held is not given to another.
        """
        status = os.fstat(child)
        identity = (status.st_dev, status.st_ino)
        if identity in self._pinned:
            return
        os.fsync(parent)
        if self._handle is None:
            return  # closed meanwhile
        with contextlib.suppress(OSError):  # out of descriptors: it is flushed again next time
            self._pinned[identity] = Handle(os.dup(child))
        if len(self._pinned) > _PINNED:
            with contextlib.suppress(KeyError):
                self._pinned.popitem(last=False)


class Handle:
    """A file descriptor, closed with the last reference to it, so that its number is never another file's meanwhile."""

    __slots__ = ("fd",)

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        close(self.fd)


class Folder:
    """An open folder, and the last segment of a key in it."""

    __slots__ = ("_handle", "_name")

    def __init__(self, handle: Handle, name: str) -> None:
        self._handle: Handle | None = handle
        self._name = name

    @property
    def fd(self) -> int:
        assert self._handle is not None
        return self._handle.fd

    def __enter__(self) -> tuple[int, str]:
        assert self._handle is not None
        return self._handle.fd, self._name

    def __exit__(self, *exc: object) -> None:
        self._handle = None


def is_folder(parent: int, name: str) -> bool:
    try:
        return stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False


def remove_empty(parent: int, name: str, depth: int = 0) -> None:
    """Remove a folder that holds nothing but empty folders. Raises IsADirectoryError when it holds anything else."""
    if depth > _DEEPEST:
        raise IsADirectoryError(errno.EISDIR, "it is a folder there, and a deep one")
    folder = os.open(name, posix.DIRECTORY, dir_fd=parent)
    try:
        with os.scandir(folder) as entries:
            inner = [(each.name, each.is_dir(follow_symlinks=False)) for each in entries]
        for each, nested in inner:
            if not nested:
                raise IsADirectoryError(errno.EISDIR, f"it is a folder there, with {each!r} in it")
            remove_empty(folder, each, depth + 1)
    finally:
        os.close(folder)
    os.rmdir(name, dir_fd=parent)


def not_followed(root: str, name: str) -> str:
    """Return the message about what is neither a file nor a folder."""
    return f"{keys.shown(name)} in {root} is a link or a device, which is not followed: put a copy of the file there"
