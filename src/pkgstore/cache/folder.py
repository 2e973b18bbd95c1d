"""The cache itself: entries that are looked up, verified, and filled by one process of the host at a time."""

from __future__ import annotations

import hashlib
import io
import logging
import os
import stat
import threading
import time
import weakref
from functools import partial
from typing import TYPE_CHECKING

from pkgstore import config, keys
from pkgstore.cache.reading import Entry
from pkgstore.cache.room import STALLED, Pauses, Room
from pkgstore.drivers import posix
from pkgstore.errors import Corrupt, Misconfigured, StoreError
from pkgstore.hashing import CHUNK, is_digest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pkgstore.driver import Blob
    from pkgstore.reading import Reader

_log = logging.getLogger("pkgstore")

_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_REMEMBERED = 20_000
_STRIPES = 64

_told: set[tuple[str, int | None]] = set()
_all: weakref.WeakSet[Cache] = weakref.WeakSet()


def folder_of(path: str | os.PathLike[str]) -> str:
    """Return the absolute path that the option `cache` names, with its variables expanded. Raises `Misconfigured`."""
    text = os.fspath(path)
    if not isinstance(text, str):
        raise TypeError(f"a cache is named by a str or a path, not {type(text).__name__}")
    folder = os.path.expanduser(config.expand(text))
    if not os.path.isabs(folder) or "\0" in folder:
        raise Misconfigured(f"the option cache={text!r} is no absolute path: give one, such as /var/cache/pkgstore")
    return os.path.normpath(folder)


class Cache:
    """The entries in ``folder``, of ``size`` bytes at most: the bytes of blobs, by their sha256.

    Stores and processes share it. It never raises an error of the folder's: whatever goes wrong there is told in the
    log, once for each cause, and the blob is read from the medium.

    Raises `Misconfigured` for a path where something else than a folder is, and for one in a store.
    """

    def __init__(self, folder: str, size: int) -> None:
        self._room = Room(folder, size)
        self._verified: dict[str, tuple[int, ...]] = {}
        self._verifying = _locks()
        _check_outside(folder)
        try:
            self._room.make_folders()
        except (FileExistsError, NotADirectoryError):
            raise Misconfigured(f"the cache {folder} cannot be made, as a file is in the way: give a folder") from None
        except OSError as exc:
            self._tell(exc)
        _all.add(self)

    def open(self, blob: Blob, fetch: Callable[[], Reader]) -> Entry | None:
        """Return the entry of a blob, filled from what ``fetch`` opens where it is missing.

        None where the blob is to be read from the medium: it has no sha256, does not fit, or is corrupt there, or the
        folder cannot be used. ``fetch`` returns a verifying reader; what it and the reader raise comes through, but for
        `Corrupt`.
        """
        sha256 = blob.digests.get("sha256", "")
        if not is_digest("sha256", sha256) or blob.size > self._room.size:
            return None
        try:
            fd = self._obtain(sha256, blob.size, fetch)
        except Corrupt:
            return None  # who reads it from the medium is told so, after as many bytes as are good
        except StoreError:
            raise
        except OSError as exc:
            self._tell(exc)
            return None
        if fd is None:
            return None
        return Entry(fd, partial(self._distrust, sha256, blob.size, os.fstat(fd)))

    def path(self, blob: Blob) -> Path:
        """Return the path of the entry of a blob that `open` has returned."""
        from pathlib import Path

        return Path(self._room.entry(blob.digests["sha256"]))

    # -- how ----------------------------------------------------------------------------------------------------------

    def _obtain(self, sha256: str, size: int, fetch: Callable[[], Reader]) -> int | None:
        """Return an open and verified entry; None when there is no room for it, or whoever fills it has stalled."""
        pauses = Pauses()
        stamp, since = (0, 0), time.monotonic()
        while True:
            fd = self._find(sha256, size)
            if fd is not None:
                return fd
            fill = self._room.try_to_fill(sha256)
            if fill is not None:
                with fill:
                    fd = self._find(sha256, size)  # another may have filled it since we looked
                    if fd is not None:
                        return fd
                    if not fill.take(size):
                        return None
                    with fetch() as source:
                        while chunk := source.read(CHUNK):
                            posix.write_all(fill.fd, chunk)
                    fill.keep(sha256)
                    self._remember(sha256, os.fstat(fill.fd))
                    os.lseek(fill.fd, 0, os.SEEK_SET)
                    return os.dup(fill.fd)
            seen = self._room.stamp_of_fill(sha256)
            if seen != stamp:
                stamp, since = seen, time.monotonic()
            elif time.monotonic() - since > STALLED:
                return None
            pauses.wait()

    def _find(self, sha256: str, size: int) -> int | None:
        """Return an entry that is there and verified, open, and mark it as used now."""
        try:
            fd = os.open(self._room.entry(sha256), _FLAGS)
        except FileNotFoundError:
            return None
        try:
            status = os.fstat(fd)
            reason = self._fault(fd, status, sha256, size)
            if not reason:
                self._touch(fd, status)
                return fd
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)
        self._distrust(sha256, size, status, reason)
        return None

    def _fault(self, fd: int, status: os.stat_result, sha256: str, size: int) -> str:
        """Say what is wrong with an entry; empty when nothing is. Read in full once in a process, until it changes."""
        if not stat.S_ISREG(status.st_mode):
            return "is no regular file"
        if status.st_size != size:
            return f"has {status.st_size} bytes, not {size}"
        with self._verifying[int(sha256[:8], 16) % _STRIPES]:
            if self._verified.get(sha256) != _version(status):
                with io.FileIO(fd, closefd=False) as file:
                    found = hashlib.file_digest(file, "sha256").hexdigest()
                    file.seek(0)
                if found != sha256:
                    return "does not have its sha256"
                self._remember(sha256, status)
        return ""

    def _remember(self, sha256: str, status: os.stat_result) -> None:
        if len(self._verified) >= _REMEMBERED:
            self._verified.clear()
        self._verified[sha256] = _version(status)

    def _touch(self, fd: int, status: os.stat_result) -> None:
        try:
            os.utime(fd, ns=(time.time_ns(), status.st_mtime_ns))
        except OSError as exc:  # it is good, and may go before its time
            self._tell(exc)

    def _distrust(self, sha256: str, size: int, status: os.stat_result, reason: str) -> None:
        """Remove an entry."""
        path = self._room.entry(sha256)
        _log.warning("the cache's entry %s %s: it is removed, and read from the medium", path, reason)
        self._verified.pop(sha256, None)
        try:
            self._room.remove(path, status, size)
        except OSError as exc:
            self._tell(exc)

    def _tell(self, exc: OSError) -> None:
        """Tell of a failure of the folder, once for each cause and process."""
        cause = (self._room.folder, exc.errno)
        if cause not in _told:
            _told.add(cause)
            _log.warning(
                "the cache %s cannot be used, and blobs are read from the medium: %s; check its space, owner and mode",
                self._room.folder,
                exc,
            )

    def forget_locks(self) -> None:
        """Begin anew in a child after fork: another thread of the parent may have held them."""
        self._verifying = _locks()


def _check_outside(folder: str) -> None:
    """Raise `Misconfigured` for a folder in a store on this host, which would list the entries as blobs."""
    above = folder
    while True:
        if os.path.lexists(os.path.join(above, keys.CONTROL, "store.json")):
            raise Misconfigured(f"the cache {folder} lies in the store {above}: give a folder outside of it")
        if above == os.path.dirname(above):
            return
        above = os.path.dirname(above)


def _locks() -> list[threading.Lock]:
    return [threading.Lock() for _ in range(_STRIPES)]


def _version(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _after_fork() -> None:
    for each in _all:
        each.forget_locks()


os.register_at_fork(after_in_child=_after_fork)
