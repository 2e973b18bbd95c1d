"""What POSIX offers beyond Python's own wrappers, and what its error numbers mean to us."""

from __future__ import annotations

import ctypes
import errno
import os
import stat

from pkgstore.errors import Denied, Exists, Full, InvalidKey, NotFound, StoreError, Unavailable, Unsupported

DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

NO_HARD_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS, errno.EMLINK}
NO_ATTRIBUTES = {errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EPERM, errno.EACCES, errno.E2BIG, errno.ERANGE}

_CLASSES: dict[type[StoreError], set[int]] = {
    NotFound: {errno.ENOENT},
    Exists: {errno.EEXIST},
    Denied: {errno.EACCES, errno.EPERM, errno.EROFS, errno.ELOOP},
    Full: {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EMLINK},
    InvalidKey: {errno.ENOTDIR, errno.EISDIR, errno.ENOTEMPTY, errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL},
}
_CLASSES[Unsupported] = {errno.EXDEV}
_KINDS = {number: kind for kind, numbers in _CLASSES.items() for number in numbers}

_RENAME_NOREPLACE = 1
_AT_FDCWD = -100


def classify(exc: BaseException) -> type[StoreError] | None:
    """Say which of our errors an OSError is; any that is not known here leaves the outcome open: `Unavailable`."""
    if not isinstance(exc, OSError) or exc.errno is None:
        return None
    return _KINDS.get(exc.errno, Unavailable)


def rename_exclusive(source: str, folder: int, name: str) -> None:
    """Rename ``source`` to ``name`` in the open ``folder``, in one step that never replaces.

    Raises OSError; EINVAL or ENOSYS where the file system or the C library has no such rename.
    """
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except AttributeError:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS)) from None
    if renameat2(_AT_FDCWD, os.fsencode(source), folder, os.fsencode(name), _RENAME_NOREPLACE):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), name)


def write_all(fd: int, data: bytes | memoryview) -> None:
    """Write all of ``data``."""
    written = os.write(fd, data)
    if written < len(data):
        view = memoryview(data)
        while written < len(view):
            written += os.write(fd, view[written:])


def start_writing_back(fd: int, start: int, stop: int) -> None:
    """Let the kernel begin to write these dirty pages to the medium, so that a later fsync finds little left to do.

    It waits for nothing and promises nothing. Pages that are clean already leave the cache.
    """
    os.posix_fadvise(fd, start, stop - start, os.POSIX_FADV_DONTNEED)


def is_full(exc: OSError) -> bool:
    """Say whether the medium had no space left."""
    return _KINDS.get(exc.errno or 0) is Full


def share(target: int | str, root_mode: int, *, folder: bool) -> None:
    """Let whoever may write to the store's root also use a file or folder that was made in it.

    On a volume that several users share (a group-writable root), the umask of one must not lock out the others.
    """
    granted = (0o060 if root_mode & stat.S_IWGRP else 0) | (0o006 if root_mode & stat.S_IWOTH else 0)
    if granted:
        wanted = (os.stat(target).st_mode | granted | (granted >> 1 & 0o011 if folder else 0)) & 0o7777
        os.chmod(target, wanted)


def settle(folder: int) -> None:
    """Flush an open folder's entries to the medium, after one of them has changed.

    A failure, whatever its number, leaves open whether the change will survive: it is raised as EIO.
    """
    try:
        os.fsync(folder)
    except OSError as exc:
        raise OSError(errno.EIO, f"the change is not known to be durable: {exc.strerror}") from exc


def sync_folder(path: str) -> None:
    """Flush a folder's entries to the medium."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def make_folders(path: str, root_mode: int) -> None:
    """Make a folder and its parents, where they are missing, and flush each parent that gained one."""
    if os.path.exists(path):
        return
    parent = os.path.dirname(path)
    make_folders(parent, root_mode)
    try:
        os.mkdir(path)
    except FileExistsError:
        return
    share(path, root_mode, folder=True)
    sync_folder(parent)
