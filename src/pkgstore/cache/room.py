"""The files of a cache folder, kept within a bound by processes that take turns.

::

    sha256/ab/cdef…    entries: the bytes of a blob, as they are, named by their sha256
    tmp/abcdef…        fills under way; each is locked (flock) by who fills it, until it becomes its entry or is removed
    state              locked by who makes room; says how many bytes are taken, and since which boot that is so

Bytes are taken before they are written. Whoever is killed has therefore taken too many, never too few, until the next
count of what is there. Files in `tmp` that nobody has locked are abandoned, however young, and are removed.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import stat
import time
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Iterator

_STATE = re.compile(rb"([0-9a-f-]{36}) (\d{20})\n")
_BOOT = "/proc/sys/kernel/random/boot_id"
_FLAGS = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_SHORTEST_PAUSE = 0.001
_LONGEST_PAUSE = 0.02
STALLED = 30.0
_FULL_TO = 0.9
_CANNOT_ALLOCATE = {errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}

_held: set[int] = set()


def _after_fork() -> None:
    # A lock of the parent's would otherwise outlive the parent, for as long as the child lives.
    while _held:
        with contextlib.suppress(OSError):  # it was being closed
            os.close(_held.pop())


os.register_at_fork(after_in_child=_after_fork)


class Room:
    """The room of ``size`` bytes that entries and fills may take in ``folder``. Methods raise OSError."""

    def __init__(self, folder: str, size: int) -> None:
        self.folder = folder
        self.size = size
        self._tmp = os.path.join(folder, "tmp")
        self._entries = os.path.join(folder, "sha256")
        self._state = os.path.join(folder, "state")
        self._reaped_by: int | None = None

    def make_folders(self) -> None:
        """Make the folders that are missing, for the user of this process alone."""
        for folder in (self.folder, self._tmp, self._entries):
            os.makedirs(folder, mode=0o700, exist_ok=True)

    def entry(self, sha256: str) -> str:
        """Return the path of an entry."""
        return os.path.join(self._entries, sha256[:2], sha256[2:])

    def try_to_fill(self, sha256: str) -> Fill | None:
        """Return the file in which a blob is filled, locked; None while another has it."""
        path = os.path.join(self._tmp, sha256)
        fd = self._try_to_lock(path)
        return None if fd is None else Fill(self, fd, path)

    def stamp_of_fill(self, sha256: str) -> tuple[int, int]:
        """Return what changes while a blob is filled."""
        try:
            status = os.stat(os.path.join(self._tmp, sha256))
        except FileNotFoundError:
            return 0, 0
        return status.st_ino, status.st_mtime_ns

    def take(self, fd: int, size: int) -> bool:
        """Take ``size`` bytes for an open, locked file of ours, which then has that length; evict for it.

        False when fills that are under way leave no room for it.
        """
        os.truncate(fd, 0)  # what a dead process left
        with self._locked_state() as state:
            taken = self._taken(state)
            if taken is None or taken + size > self.size:
                taken = self._evict(size)
                self._note(state, taken)
            if taken + size > self.size:
                return False
            self._note(state, taken + size)
            try:
                _allocate(fd, size)
            except OSError:
                self._note(state, taken)
                raise
            return True

    def remove(self, path: str, status: os.stat_result, size: int) -> None:
        """Remove a file, and give back the ``size`` bytes that were taken for it.

        Not where it is gone, or another has come in its place: what was taken for it may be counted no more.
        """
        with self._locked_state() as state, contextlib.suppress(FileNotFoundError):
            found = os.stat(path, follow_symlinks=False)
            if os.path.samestat(found, status):
                os.unlink(path)
                self._less(state, min(size, found.st_size))

    # -- the count ----------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _locked_state(self) -> Iterator[int]:
        deadline = time.monotonic() + STALLED
        pauses = Pauses()
        while (fd := self._try_to_lock(self._state)) is None:
            if time.monotonic() > deadline:
                raise OSError(errno.ETIMEDOUT, f"{self._state} was locked for {STALLED:.0f} s")
            pauses.wait()
        try:
            yield fd
        finally:
            _release(fd)

    def _taken(self, state: int) -> int | None:
        """Return how many bytes are taken, or None when they have to be counted."""
        if self._reaped_by != os.getpid():
            self._reaped_by = os.getpid()
            if self._reap()[0]:
                return None
        found = _STATE.fullmatch(os.pread(state, 100, 0))
        return int(found[2]) if found and found[1] == _boot() else None

    def _note(self, state: int, taken: int) -> None:
        text = b"%s %020d\n" % (_boot(), taken)
        os.ftruncate(state, len(text))
        os.pwrite(state, text, 0)

    def _less(self, state: int, size: int) -> None:
        taken = self._taken(state)
        if taken is None:
            os.ftruncate(state, 0)
        else:
            self._note(state, max(0, taken - size))

    def _evict(self, size: int) -> int:
        """Count what is taken, and remove entries, the least recently used first, until ``size`` more bytes fit.

        A tenth of the room then stays free, so that the next count is a while off. Readers keep what they have open.
        """
        taken = self._reap()[1]  # before the entries: what becomes one meanwhile is counted twice, and not missed
        entries = sorted(self._list())
        taken += sum(length for _, _, length in entries)
        if taken + size > self.size:
            goal = max(0, int(self.size * _FULL_TO) - size)
            for _, path, length in entries:
                if taken <= goal:
                    break
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path)
                taken -= length
        return taken

    def _list(self) -> Iterator[tuple[int, str, int]]:
        """Yield when each entry was last used, its path, and its length."""
        for folder in _files(self._entries):
            for each in _files(folder.path):
                with contextlib.suppress(FileNotFoundError):
                    status = each.stat(follow_symlinks=False)
                    if stat.S_ISREG(status.st_mode):
                        yield status.st_atime_ns, each.path, status.st_size

    def _reap(self) -> tuple[int, int]:
        """Remove abandoned fills; return how many there were, and the bytes that those under way have taken."""
        removed = taken = 0
        for each in _files(self._tmp):
            fd = self._try_to_lock(each.path, create=False)
            try:
                if fd is None:
                    taken += each.stat(follow_symlinks=False).st_size
                else:
                    os.unlink(each.path)
                    removed += 1
            except FileNotFoundError:
                pass  # it became an entry
            finally:
                if fd is not None:
                    _release(fd)
        return removed, taken

    def _try_to_lock(self, path: str, *, create: bool = True) -> int | None:
        """Open a file and lock it (flock); None while another has it locked, or has renamed or removed it just now."""
        try:
            fd = os.open(path, _FLAGS if create else _FLAGS & ~os.O_CREAT, 0o600)
        except FileNotFoundError:
            if not create:
                return None
            self.make_folders()
            fd = os.open(path, _FLAGS, 0o600)
        _held.add(fd)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(fd), os.stat(path, follow_symlinks=False)):
                return fd
        except (BlockingIOError, FileNotFoundError):
            pass
        except BaseException:
            _release(fd)
            raise
        _release(fd)
        return None


class Fill:
    """A file that is being filled, locked until the block ends; removed then, unless it has become an entry."""

    def __init__(self, room: Room, fd: int, path: str) -> None:
        self.fd = fd
        self._room = room
        self._path = path
        self._taken = 0
        self._kept = False

    def take(self, size: int) -> bool:
        """Take ``size`` bytes; False when there is no room for them."""
        if self._room.take(self.fd, size):
            self._taken = size
            return True
        return False

    def keep(self, sha256: str) -> None:
        """Make it the entry of ``sha256``, last used now."""
        os.utime(self.fd)
        entry = self._room.entry(sha256)
        try:
            os.rename(self._path, entry)
        except FileNotFoundError:
            os.makedirs(os.path.dirname(entry), mode=0o700, exist_ok=True)
            os.rename(self._path, entry)
        self._kept = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        try:
            if self._kept:
                return
            self._room.remove(self._path, os.fstat(self.fd), self._taken)
        finally:
            _release(self.fd)


class Pauses:
    """The pauses between two looks at what another process is at."""

    def __init__(self) -> None:
        self._next = _SHORTEST_PAUSE

    def wait(self) -> None:
        """Wait, a little longer each time."""
        time.sleep(self._next)
        self._next = min(2 * self._next, _LONGEST_PAUSE)


def _release(fd: int) -> None:
    """Close a file, which unlocks it."""
    _held.discard(fd)
    os.close(fd)


def _files(folder: str) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as found:
            yield from found
    except (FileNotFoundError, NotADirectoryError):
        return


def _allocate(fd: int, size: int) -> None:
    """Give a file its length, and its blocks where the file system can: a full one is told of before the first byte."""
    if size:
        try:
            os.posix_fallocate(fd, 0, size)
        except OSError as exc:
            if exc.errno not in _CANNOT_ALLOCATE:
                raise
            os.truncate(fd, size)


def _boot() -> bytes:
    with open(_BOOT, "rb") as file:
        return file.read().strip()
