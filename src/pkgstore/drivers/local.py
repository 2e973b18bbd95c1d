"""Blobs as plain files below a folder of this host: ``file:///srv/packages``, or a plain path.

A blob is staged in `.pkgstore/tmp`, on the same file system; its digests are attached to the inode; it is fsynced,
linked to its name, which is exclusive and never half visible, and the folder is fsynced. Where the medium has no hard
links, a rename that never replaces does the same; where it has neither, the driver is not `exclusive`.

Folders are opened one by one below the root, never through a symbolic link, so that no key can lead outside.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import stat
import weakref
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

from pkgstore import keys
from pkgstore.driver import Blob, Body
from pkgstore.drivers import posix, records
from pkgstore.drivers.records import Record, Records, identity
from pkgstore.drivers.staging import Staged, Staging
from pkgstore.errors import Denied, Full, Misconfigured, NotFound, StoreError, Unavailable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from urllib.parse import SplitResult

_TRIES = 1000
_PINNED = 64
_TAKEN = {errno.EEXIST, errno.EISDIR, errno.ENOTEMPTY}
_HIDDEN = {f"{keys.CONTROL}/", "lost+found/"}
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def connect(url: SplitResult, *, create: bool) -> LocalDriver:
    """Return the driver for a folder.

    Raises `Misconfigured` for a URL that names no folder, `NotFound` for a folder that is not there and is not to be
    made, and what `posix.classify` calls the reason why it cannot be made.
    """
    if url.netloc not in ("", "localhost"):
        raise Misconfigured(
            f"file://{url.netloc}{url.path} names a host: a local path has three slashes, file:///srv/packages"
        )
    if not os.path.isabs(url.path):
        raise Misconfigured(f"file:{url.path} is a relative path: write file:///srv/packages, or a plain path")
    root = os.path.normpath(url.path)
    try:
        if create and not os.path.exists(os.path.join(root, keys.CONTROL, "store.json")):
            posix.make_folders(root, 0)
            # Another process may have made the root, and not have flushed it yet.
            with contextlib.suppress(PermissionError):
                posix.sync_folder(os.path.dirname(root))
        return LocalDriver(root)
    except FileNotFoundError:
        raise NotFound(
            f"there is no folder {root}: check that it is mounted, or make a store with `pkgstore init {root}`"
        ) from None
    except NotADirectoryError:
        raise Misconfigured(f"{root} is no folder: give the folder that is to hold the store") from None
    except OSError as exc:
        raise (posix.classify(exc) or StoreError)(f"cannot use the folder {root}: {exc.strerror}") from exc


class LocalDriver:
    """The verbs on a local file system."""

    scheme = "file"
    streams = True

    def __init__(self, root: str) -> None:
        self.root = root
        control = os.path.join(root, keys.CONTROL)
        self._root = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._let_go = weakref.finalize(self, os.close, self._root)
        status = os.fstat(self._root)
        self._root_id = (status.st_dev, status.st_ino)
        self._root_mode = status.st_mode
        self._staging = Staging(os.path.join(control, "tmp"), status.st_mode, self._check_root)
        self._records = Records(os.path.join(control, "digests"), self._staging)
        self._pinned: dict[tuple[int, int], int] = {}

    @cached_property
    def exclusive(self) -> bool:
        """Whether files can be linked here, or renamed without replacing; tried once, on a file of our own."""
        return self._staging.can_publish()

    # -- verbs --------------------------------------------------------------------------------------------------------

    def put(
        self, key: str, body: Body, size: int | None, *, digests: Mapping[str, str], exclusive: bool, token: str
    ) -> Blob:
        with self._staging.stage() as staged:
            while chunk := body.read():
                staged.write(chunk)
            record = Record(dict(body.finish()), token)
            packed = records.of_publish(record.digests, token)
            carried = self._records.attach(staged.fd, packed)
            staged.sync()
            status = os.fstat(staged.fd)
            if not carried:
                self._records.put_beside(key, status, packed)
            try:
                return self._name(staged, key, _blob(key, status, record), exclusive, token)
            except FileExistsError:
                if not carried:
                    self._records.forget(key, status)
                raise

    def open(
        self, key: str, start: int = 0, stop: int | None = None, *, tag: str | None = None
    ) -> tuple[Blob, BinaryIO]:
        with self._folder(key) as (folder, name):
            fd, blob = self._open_blob(folder, name, key)
        if tag is not None and blob.tag != tag:
            os.close(fd)
            raise FileNotFoundError(errno.ENOENT, "that version is gone", key)
        stream = io.FileIO(fd)
        if start:
            stream.seek(start)
        return blob, cast("BinaryIO", stream)

    def stat(self, key: str) -> Blob:
        with self._folder(key) as (folder, name):
            fd, blob = self._open_blob(folder, name, key)
        os.close(fd)
        return blob

    def scan(self, prefix: str) -> Iterator[Blob]:
        try:
            with self._folder(prefix + "-") as (folder, _):
                start = os.dup(folder)
        except FileNotFoundError:
            return
        yield from self._walk(start, prefix)

    def delete(self, key: str, *, tag: str | None = None) -> None:
        try:
            with self._folder(key) as (folder, name):
                fd, blob = self._open_blob(folder, name, key)
                try:
                    if tag is not None and blob.tag != tag:
                        return
                    self._records.forget(key, os.fstat(fd))
                finally:
                    os.close(fd)
                os.unlink(name, dir_fd=folder)
                posix.settle(folder)
        except FileNotFoundError:
            return
        self._prune(key)

    def record_digests(self, blob: Blob, digests: Mapping[str, str]) -> bool:
        with self._folder(blob.key) as (folder, name):
            fd, _ = self._open_blob(folder, name, blob.key)
        try:
            status = os.fstat(fd)
            if identity(status) != blob.tag:
                return False
            # Bound to what the digests were computed for, if somebody writes to the file at this moment.
            packed = records.of_adopted(digests, status)
            if not self._records.attach(fd, packed):
                self._records.put_beside(blob.key, status, packed)
            return True
        except OSError as exc:
            if posix.classify(exc) in (Denied, Full):
                return False
            raise
        finally:
            os.close(fd)

    def local_path(self, key: str) -> Path:
        with self._folder(key) as (folder, name):
            _check_file(os.stat(name, dir_fd=folder, follow_symlinks=False), self.root, key)
        return Path(self.root, key)

    def classify(self, exc: BaseException) -> type[StoreError] | None:
        return posix.classify(exc)

    def close(self) -> None:
        while self._pinned:
            os.close(self._pinned.popitem()[1])
        self._root = -1
        self._let_go()

    # -- publishing ---------------------------------------------------------------------------------------------------

    def _name(self, staged: Staged, key: str, blob: Blob, exclusive: bool, token: str) -> Blob:
        """Give a staged file its name, durably, and return what has it then."""
        for _ in range(_TRIES):
            try:
                return self._try_to_name(staged, key, blob, exclusive, token)
            except FileNotFoundError:
                # Another process deleted the last blob of the folder, and with it the folder; unless ours is gone.
                if staged.is_lost():
                    raise OSError(errno.EIO, f"the staged file {staged.path} was removed") from None
        raise OSError(errno.EBUSY, f"the folder of {key!r} was removed {_TRIES} times")

    def _try_to_name(self, staged: Staged, key: str, blob: Blob, exclusive: bool, token: str) -> Blob:
        """Raises FileExistsError when the name is another's, and FileNotFoundError when it is worth another try."""
        with self._folder(key, create=True) as (folder, name):
            try:
                if exclusive:
                    self._staging.publish(staged, folder, name)
                else:
                    self._replace(staged, folder, name, key)
            except OSError as exc:
                if exc.errno not in _TAKEN:
                    raise
                if _is_folder(folder, name):
                    _remove_empty(folder, name)
                    raise FileNotFoundError(errno.ENOENT, "an empty folder was in the way", key) from None
                blob = self._winner(staged, folder, name, key, token)
            posix.settle(folder)
            return blob

    def _winner(self, staged: Staged, folder: int, name: str, key: str, token: str) -> Blob:
        """Return the blob that has the name, when it is ours: an earlier attempt won, and its reply was lost."""
        fd, found = self._open_blob(folder, name, key)
        try:
            status = os.fstat(fd)
            record = self._records.read(fd, key, status)
            if record.token == token or os.path.samestat(status, os.fstat(staged.fd)):
                return found
        finally:
            os.close(fd)
        # Whoever is told that the key is taken may rely on it, so that it has to be durable too.
        posix.settle(folder)
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), key)

    def _replace(self, staged: Staged, folder: int, name: str, key: str) -> None:
        try:
            old = os.stat(name, dir_fd=folder, follow_symlinks=False)
        except FileNotFoundError:
            old = None
        os.rename(staged.path, name, dst_dir_fd=folder)
        if old is not None:
            self._records.forget(key, old)

    def _prune(self, key: str) -> None:
        """Remove the folders that a deleted blob leaves empty; any that is in use, or not ours to remove, stays."""
        folders = key.split("/")[:-1]
        with contextlib.suppress(OSError):
            while folders:
                with self._folder("/".join(folders)) as (parent, name):
                    os.rmdir(name, dir_fd=parent)
                folders.pop()

    # -- folders and files --------------------------------------------------------------------------------------------

    def _folder(self, key: str, *, create: bool = False) -> _Folder:
        """Open the folder of a key. With ``create``, it is there durably."""
        *folders, name = key.split("/")
        self._check_root()
        fd = self._root
        try:
            for folder in folders:
                child = self._enter(fd, folder, create)
                parent, fd = fd, child
                try:
                    if create:
                        self._pin(child, parent)
                finally:
                    if parent != self._root:
                        os.close(parent)
            return _Folder(fd, name, fd != self._root)
        except BaseException:
            if fd != self._root:
                os.close(fd)
            raise

    def _check_root(self) -> None:
        """Raise `Unavailable` when the root's path leads to another folder than the one that is held open."""
        try:
            status = os.stat(self.root)
        except (FileNotFoundError, NotADirectoryError):
            raise Unavailable(f"the folder {self.root} is gone: check that its volume is mounted") from None
        if (status.st_dev, status.st_ino) != self._root_id:
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
                raise Denied(_link_message(self.root, folder)) from None
            if create:
                raise NotADirectoryError(errno.ENOTDIR, f"{folder!r} is a file there, and no folder") from None
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), folder) from None
        with contextlib.suppress(FileExistsError):
            os.mkdir(folder, dir_fd=parent)
        child = os.open(folder, posix.DIRECTORY, dir_fd=parent)
        posix.share(child, self._root_mode, folder=True)
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
        held = os.dup(child)
        if self._pinned.setdefault(identity, held) != held:
            os.close(held)
        while len(self._pinned) > _PINNED:
            oldest = self._pinned.pop(next(iter(self._pinned)), None)
            if oldest is not None:
                os.close(oldest)

    def _open_blob(self, folder: int, name: str, key: str) -> tuple[int, Blob]:
        try:
            fd = os.open(name, _FILE, dir_fd=folder)
        except OSError as exc:
            if exc.errno in (errno.ELOOP, errno.ENXIO, errno.ENODEV):
                raise Denied(_link_message(self.root, key), key=key) from None
            raise
        try:
            status = os.fstat(fd)
            _check_file(status, self.root, key)
            return fd, _blob(key, status, self._records.read(fd, key, status))
        except BaseException:
            os.close(fd)
            raise

    def _walk(self, folder: int, prefix: str) -> Iterator[Blob]:
        """Yield the blobs below an open folder, which is closed at the end."""
        try:
            with os.scandir(folder) as entries:
                # A folder sorts as its blobs do: by its name and a slash.
                names = sorted(each.name + "/" * each.is_dir(follow_symlinks=False) for each in entries)
            for name in names:
                if name in _HIDDEN and not prefix:
                    continue
                # What is gone by now, or is neither a file nor a folder, is no blob.
                with contextlib.suppress(FileNotFoundError):
                    if name.endswith("/"):
                        yield from self._walk(self._enter(folder, name[:-1], create=False), prefix + name)
                    elif stat.S_ISREG(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
                        yield self._listed(folder, name, prefix + name)
        finally:
            os.close(folder)

    def _listed(self, folder: int, name: str, key: str) -> Blob:
        try:
            fd, blob = self._open_blob(folder, name, key)
        except PermissionError:
            return _blob(key, os.stat(name, dir_fd=folder, follow_symlinks=False), Record({}, None))
        os.close(fd)
        return blob


def _blob(key: str, status: os.stat_result, record: Record) -> Blob:
    tag = f"{record.token}-{status.st_size:x}-{status.st_mtime_ns:x}" if record.token else identity(status)
    return Blob(key, status.st_size, status.st_mtime, tag, record.digests)


class _Folder:
    """An open folder, and the last segment of a key in it."""

    __slots__ = ("_fd", "_name", "_owned")

    def __init__(self, fd: int, name: str, owned: bool) -> None:
        self._fd = fd
        self._name = name
        self._owned = owned

    def __enter__(self) -> tuple[int, str]:
        return self._fd, self._name

    def __exit__(self, *exc: object) -> None:
        if self._owned:
            os.close(self._fd)


def _check_file(status: os.stat_result, root: str, key: str) -> None:
    """Raise FileNotFoundError for a folder, and `Denied` for anything else that is no regular file."""
    if stat.S_ISDIR(status.st_mode):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), key)
    if not stat.S_ISREG(status.st_mode):
        raise Denied(_link_message(root, key), key=key)


def _is_folder(parent: int, name: str) -> bool:
    try:
        return stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False


def _remove_empty(parent: int, name: str) -> None:
    """Remove a folder that holds nothing but empty folders. Raises IsADirectoryError when it holds anything else."""
    folder = os.open(name, posix.DIRECTORY, dir_fd=parent)
    try:
        with os.scandir(folder) as entries:
            inner = [(each.name, each.is_dir(follow_symlinks=False)) for each in entries]
        for each, is_folder in inner:
            if not is_folder:
                raise IsADirectoryError(errno.EISDIR, f"it is a folder there, with {each!r} in it")
            _remove_empty(folder, each)
    finally:
        os.close(folder)
    os.rmdir(name, dir_fd=parent)


def _link_message(root: str, name: str) -> str:
    return f"{keys.shown(name)} in {root} is a link or a device, which is not followed: put a copy of the file there"
