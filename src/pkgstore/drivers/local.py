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
import sys
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, BinaryIO, TypeVar, cast

from pkgstore import keys
from pkgstore.config import without_secrets
from pkgstore.driver import Blob, Body
from pkgstore.drivers import posix, records
from pkgstore.drivers.records import Record, Records, identity
from pkgstore.drivers.staging import Staged, Staging
from pkgstore.drivers.tree import Tree, is_folder, not_followed, remove_empty
from pkgstore.errors import Denied, Full, Misconfigured, NotFound, StoreError, Unavailable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from urllib.parse import SplitResult

    from pkgstore.driver import Finding

_AnyLocal = TypeVar("_AnyLocal", bound="LocalDriver")

_TRIES = 1000
_TAKEN = {errno.EEXIST, errno.EISDIR, errno.ENOTEMPTY}
_HIDDEN = {f"{keys.CONTROL}/", "lost+found/"}
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def connect(url: SplitResult, *, create: bool) -> LocalDriver:
    """Return the driver for a folder.

    Raises `Misconfigured` for a URL that names no folder, `NotFound` for a folder that is not there and is not to be
    made, and what `posix.classify` calls the reason why it cannot be made.
    """
    return opened(LocalDriver, folder_of(url), create=create)


def folder_of(url: SplitResult) -> str:
    """Return the path of the folder that a URL names. Raises `Misconfigured` when it names none."""
    if url.netloc not in ("", "localhost"):
        raise Misconfigured(
            f"{without_secrets(url.geturl())} names a host: the path of a folder here has three slashes,"
            f" {url.scheme}:///srv/packages"
        )
    if sys.getfilesystemencoding() != "utf-8":
        raise Misconfigured(f"file names are {sys.getfilesystemencoding()} in this process: set PYTHONUTF8=1")
    if not os.path.isabs(url.path):
        raise Misconfigured(
            f"{url.scheme}:{url.path} is a relative path: write {url.scheme}:///srv/packages, or a plain path"
        )
    return os.path.normpath(url.path)


def opened(driver: type[_AnyLocal], root: str, *, create: bool) -> _AnyLocal:
    """Return a driver for the folder ``root``; make the folder where there is none, and ``create`` says so."""
    try:
        if create and not os.path.exists(os.path.join(root, keys.CONTROL, "store.json")):
            posix.make_folders(root, 0)
            # Another process may have made the root, and not have flushed it yet.
            with contextlib.suppress(PermissionError):
                posix.sync_folder(os.path.dirname(root))
        return driver(root)
    except FileNotFoundError:
        url = f"{root if driver.scheme == 'file' else f'{driver.scheme}://{root}'}"
        raise NotFound(
            f"there is no folder {root}: check that it is mounted, or make a store with `pkgstore init {quote(url)}`"
        ) from None
    except NotADirectoryError:
        raise Misconfigured(f"{root} is no folder: give the folder that is to hold the store") from None
    except OSError as exc:
        raise (posix.classify(exc) or StoreError)(
            f"cannot use the folder {root}: {exc.strerror}; check its owner and mode, and those of its parents"
        ) from exc


class LocalDriver:
    """The verbs on a local file system."""

    scheme = "file"
    streams = True
    tree: type[Tree] = Tree

    def __init__(self, root: str) -> None:
        self.root = root
        self._tree = self.tree(root)
        control = os.path.join(root, keys.CONTROL)
        self._staging = Staging(os.path.join(control, "tmp"), self._tree)
        self._records = Records(os.path.join(control, "digests"), self._staging)
        self._exclusive: bool | None = None

    @property
    def exclusive(self) -> bool:
        """Whether files can be linked here, or renamed without replacing; tried once, on a file of our own."""
        if self._exclusive is None:
            self._exclusive = self._staging.can_publish()
        return self._exclusive

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
            status = self._tree.status(staged.fd)
            if not carried:
                self._records.put_beside(key, status, packed)
            try:
                return self._name(staged, key, _blob(key, status, record), exclusive, token)
            except OSError as exc:
                if not carried and posix.classify(exc) is not Unavailable:
                    self._records.forget(key, status)
                raise

    def open(
        self, key: str, start: int = 0, stop: int | None = None, *, tag: str | None = None
    ) -> tuple[Blob, BinaryIO]:
        with self._tree.folder(key) as (folder, name):
            fd, blob = self._open_blob(folder, name, key)
        if tag is not None and blob.tag != tag:
            os.close(fd)
            raise FileNotFoundError(errno.ENOENT, "that version is gone", key)
        stream = io.FileIO(fd)
        if start:
            stream.seek(start)
        return blob, cast("BinaryIO", stream)

    def stat(self, key: str) -> Blob:
        with self._tree.folder(key) as (folder, name):
            fd, blob = self._open_blob(folder, name, key)
        os.close(fd)
        return blob

    def scan(self, prefix: str) -> Iterator[Blob]:
        # One folder is open at a time, however deep the tree is. What is gone by now, or is neither a file nor a
        # folder, is no blob; nor is what lies too deep for any key.
        waiting = [(prefix, iter(self._names(prefix)))]
        while waiting:
            prefix, names = waiting[-1]
            inner = None
            with contextlib.suppress(FileNotFoundError), self._tree.folder(prefix + "-") as (folder, _):
                for name in names:
                    if name.endswith("/"):
                        inner = prefix + name
                        break
                    with contextlib.suppress(FileNotFoundError):
                        yield self._listed(folder, name, prefix + name)
            if inner is None:
                waiting.pop()
            elif len(inner) <= keys.LONGEST:
                waiting.append((inner, iter(self._names(inner))))

    def delete(self, key: str, *, tag: str | None = None) -> None:
        try:
            with self._tree.folder(key) as (folder, name):
                gone = self._unlink(folder, name, key, tag)
                self._tree.settle(folder)
                lasting = self._tree.status(folder).st_nlink > 0
        except FileNotFoundError:
            gone = lasting = False
        if not lasting:
            self._tree.settle_above(key)  # the folder was removed by another, who need not have flushed that
        if gone:
            self._prune(key)

    def record_digests(self, blob: Blob, digests: Mapping[str, str]) -> bool:
        with self._tree.folder(blob.key) as (folder, name):
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
        with self._tree.folder(key) as (folder, name):
            _check_file(os.stat(name, dir_fd=folder, follow_symlinks=False), self.root, key)
        return Path(self.root, key)

    def classify(self, exc: BaseException) -> type[StoreError] | None:
        return posix.classify(exc)

    def examine(self) -> Iterator[Finding]:
        from pkgstore.drivers import folders

        return folders.examine(self.root, self.scheme)

    def close(self) -> None:
        self._tree.close()

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
        with self._tree.folder(key, create=True) as (folder, name):
            try:
                if exclusive:
                    self._staging.publish(staged, folder, name)
                else:
                    self._replace(staged, folder, name, key)
            except OSError as exc:
                if exc.errno not in _TAKEN:
                    raise
                if is_folder(folder, name):
                    remove_empty(folder, name)
                    raise FileNotFoundError(errno.ENOENT, "an empty folder was in the way", key) from None
                if not exclusive:
                    raise FileNotFoundError(errno.ENOENT, "a folder was in the way", key) from None
                blob = self._winner(staged, folder, name, key, token)
            self._tree.settle(folder)
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
        self._tree.settle(folder)
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), key)

    def _replace(self, staged: Staged, folder: int, name: str, key: str) -> None:
        try:
            old = os.stat(name, dir_fd=folder, follow_symlinks=False)
        except FileNotFoundError:
            old = None
        try:
            os.rename(staged.path, name, dst_dir_fd=folder)
        except FileNotFoundError:
            if not _is_at(staged, folder, name):  # done, but the reply was lost, and the request was sent again
                raise
        if old is not None:
            self._records.forget(key, old)

    def _unlink(self, folder: int, name: str, key: str, tag: str | None) -> bool:
        """Take the name from a blob; False when another version has it, or nobody."""
        try:
            fd, blob = self._open_blob(folder, name, key)
            try:
                if tag is not None and blob.tag != tag:
                    return False
                self._records.forget(key, os.fstat(fd))
            finally:
                os.close(fd)
            os.unlink(name, dir_fd=folder)
        except FileNotFoundError:
            return False
        return True

    def _prune(self, key: str) -> None:
        """Remove the folders that a deleted blob leaves empty; any that is in use, or not ours to remove, stays."""
        folders = key.split("/")[:-1]
        with contextlib.suppress(OSError):
            while folders:
                with self._tree.folder("/".join(folders)) as (parent, name):
                    os.rmdir(name, dir_fd=parent)
                folders.pop()

    def _open_blob(self, folder: int, name: str, key: str) -> tuple[int, Blob]:
        try:
            fd = os.open(name, _FILE, dir_fd=folder)
        except OSError as exc:
            if exc.errno in (errno.ELOOP, errno.ENXIO, errno.ENODEV):
                raise Denied(not_followed(self.root, key), key=key) from None
            raise
        try:
            status = os.fstat(fd)
            _check_file(status, self.root, key)
            return fd, _blob(key, status, self._records.read(fd, key, status))
        except BaseException:
            os.close(fd)
            raise

    def _names(self, prefix: str) -> list[str]:
        """Return what is in a folder, sorted as keys are: a folder by its name and a slash."""
        try:
            with self._tree.folder(prefix + "-") as (folder, _):
                names = _names_in(folder)
        except FileNotFoundError:
            return []
        except Denied:
            raise
        except PermissionError as exc:
            raise PermissionError(exc.errno, f"{exc.strerror}: the folder {prefix!r} of {self.root}") from exc
        return names if prefix else [name for name in names if name not in _HIDDEN]

    def _listed(self, folder: int, name: str, key: str) -> Blob:
        try:
            fd, blob = self._open_blob(folder, name, key)
        except Denied:
            raise FileNotFoundError(errno.ENOENT, "it is no file", key) from None
        except PermissionError:
            status = os.stat(name, dir_fd=folder, follow_symlinks=False)
            if not stat.S_ISREG(status.st_mode):
                raise FileNotFoundError(errno.ENOENT, "it is no file", key) from None
            return _blob(key, status, Record({}, None))
        os.close(fd)
        return blob


def _names_in(folder: int) -> list[str]:
    # Opened once more: where a listing stands belongs to what was opened, which other threads may be listing too.
    fd = os.open(".", posix.DIRECTORY, dir_fd=folder)
    try:
        with os.scandir(fd) as entries:
            return sorted(each.name + "/" * each.is_dir(follow_symlinks=False) for each in entries)
    finally:
        os.close(fd)


def _is_at(staged: Staged, folder: int, name: str) -> bool:
    try:
        return os.path.samestat(os.stat(name, dir_fd=folder, follow_symlinks=False), os.fstat(staged.fd))
    except FileNotFoundError:
        return False


def _blob(key: str, status: os.stat_result, record: Record) -> Blob:
    tag = f"{record.token}-{status.st_size:x}-{status.st_mtime_ns:x}" if record.token else identity(status)
    return Blob(key, status.st_size, status.st_mtime, tag, record.digests)


def _check_file(status: os.stat_result, root: str, key: str) -> None:
    """Raise FileNotFoundError for a folder, and `Denied` for anything else that is no regular file."""
    if stat.S_ISDIR(status.st_mode):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), key)
    if not stat.S_ISREG(status.st_mode):
        raise Denied(not_followed(root, key), key=key)
