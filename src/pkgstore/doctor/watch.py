"""Whether a lock that one host holds is refused to another: found out by two doctors that run at the same time.

Each run tries, from its start to its end, for an exclusive lock on one file, and leaves a document beside it: who it
is, whether it holds the lock, and a number that it counts up each time. It also says which number of each other run it
saw last. So no clocks are compared: a run that holds the lock, and reads that another claims to hold it *and has seen*
a number of ours that we wrote as its holder, knows that both held it at the same moment.

The lock's file is removed by its holder, when no document is left; who has locked a file that has lost its name begins
again with the one that has it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import threading
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal, Self

from pkgstore import keys
from pkgstore.doctor.notes import Host, Note
from pkgstore.driver import Finding
from pkgstore.drivers import folders, posix
from pkgstore.errors import Denied

if TYPE_CHECKING:
    from collections.abc import Iterator

NAME = "locks-between-hosts"

_PAUSE = 0.2
_GRACE = 15.0  # seconds after which a run that has said nothing is taken for dead
_PATIENCE = 60.0  # seconds to find out about a run that is alive
_SUFFIX = ".run"
_TURNS = 3
_TRIES = 15
_LONGEST = 1 << 16
_REMEDY = (
    "Give each NFS client an identity of its own, before it mounts: boot with nfs.nfs4_unique_id=…, or write a distinct"
    " value to /sys/fs/nfs/net/nfs_client/identifier, or give the hosts distinct names. Mount without nolock and"
    " local_lock."
)
_GONE = {errno.ENOENT, errno.ESTALE}


@dataclass(slots=True)
class _Seen:
    """Another run: its latest note, when it was first seen, and when it last counted up, by our own steady clock."""

    note: Note
    first: float
    changed: float


class Watch:
    """One run's part: a context manager, that counts in a thread from its start to its end.

    ``wait`` is for how many seconds, from the start, `findings` waits for another host.
    """

    def __init__(self, root: str, wait: float = 0.0) -> None:
        self.folder = os.path.join(root, keys.CONTROL, "doctor")
        self._root = root
        self._until = time.monotonic() + wait
        self._path = os.path.join(self.folder, "lock")
        self._run = os.urandom(8).hex()
        self._document = os.path.join(self.folder, self._run + _SUFFIX)
        self._host = Host.this()
        self._lock: int | None = None
        self._holds_since = 0  # the count with which we first said that we hold the lock; 0 while we do not
        self._refused = False
        self._count = 0
        self._others: dict[str, _Seen] = {}
        self._verdicts: dict[str, tuple[Host, Finding]] = {}
        self._failure: OSError | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep_on, daemon=True)

    def __enter__(self) -> Self:
        try:
            folders.make_place(self._root, self.folder)
            self._write()
            self._thread.start()
        except OSError as exc:
            self._failure = exc
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join()
        self._leave()

    def findings(self) -> Iterator[Finding]:
        """Wait for what there is to find out, and yield it."""
        while self._failure is None and not self._is_done():
            time.sleep(_PAUSE / 4)
        verdicts = list(self._verdicts.values())
        yield from [finding for _, finding in verdicts]
        for run, seen in self._silent():
            if run not in self._verdicts:
                yield self._of_silent(seen.note)
        if self._failure is not None:
            says = f"What can be found out of locks between hosts was not: {self._failure.strerror}."
            if posix.classify(self._failure) is Denied:
                remedy = "Let this user write to what the doctors of other users make in `.pkgstore/doctor`."
            else:
                remedy = "Look at the logs of the kernel and of the medium's server, and try again."
            yield Finding(NAME, "warning", says, remedy)
        elif not any(self._is_elsewhere(host) for host, _ in verdicts):
            says = f"No doctor on a second host was seen; this is {self._host}."
            remedy = "Run doctor on a second host at the same time, on both with --wait 60, to see locks between hosts."
            yield Finding(NAME, "note", says, remedy)

    def _is_elsewhere(self, host: Host) -> bool:
        return not self._host.is_same_host(host)

    def _is_done(self) -> bool:
        """Whether every run that is alive was judged, and has judged us, or has had its time; and the wait is over."""
        now = time.monotonic()
        if self._count < _TURNS:
            return False
        for run, seen in dict(self._others).items():
            settled = run in self._verdicts and self._run in seen.note.judged
            settled = settled or (self._refused and seen.note.refused)  # of two that are refused nothing is to be found
            if not settled and now - seen.changed < _GRACE and now - seen.first < _PATIENCE:
                return False
        return now > self._until or any(self._is_elsewhere(host) for host, _ in list(self._verdicts.values()))

    def _of_silent(self, note: Note) -> Finding:
        says = f"A doctor on {note.host} has left off: it was killed, or its medium stalls."
        if not (note.holds and self._holds_since):
            return Finding(NAME, "note", says)
        remedy = (
            "If it runs still, run both again, with a longer --wait: hosts whose NFS clients have one identity take"
            " each other's locks, and stall for as long as the server's lease."
        )
        return Finding(NAME, "warning", f"{says} It held the lock, which was then given to this one.", remedy)

    def _silent(self) -> list[tuple[str, _Seen]]:
        """Return the runs that have said nothing for so long that they are taken for dead."""
        now = time.monotonic()
        return [(run, seen) for run, seen in dict(self._others).items() if now - seen.changed >= _GRACE]

    # -- the thread ---------------------------------------------------------------------------------------------------

    def _keep_on(self) -> None:
        failed = 0
        while not self._stop.wait(_PAUSE):
            try:
                self._read()
                self._try_lock()
                self._judge()
                self._write()
                failed = 0
            except OSError as exc:
                # One that took us for dead may have removed the folder; and a server that takes two clients for one,
                # which is what is looked for, loses its replies to both.
                failed += 1
                if failed == _TRIES:
                    self._failure = exc
                    return
                with contextlib.suppress(OSError):
                    folders.make_place(self._root, self.folder)

    def _read(self) -> None:
        now, others = time.monotonic(), {}
        for run in self._runs():
            note = self._note(run)
            known = self._others.get(run)
            if note is None:
                continue
            if known is None:
                others[run] = _Seen(note, now, now)
            else:
                others[run] = _Seen(note, known.first, known.changed if known.note.count == note.count else now)
        self._others = others

    def _runs(self) -> list[str]:
        names = [name for name in os.listdir(self.folder) if name.endswith(_SUFFIX)]
        return sorted({name.removesuffix(_SUFFIX) for name in names} - {self._run})

    def _note(self, run: str) -> Note | None:
        try:
            with open(os.path.join(self.folder, run + _SUFFIX), "rb") as file:
                return Note.parsed(file.read(_LONGEST))
        except OSError as exc:
            if exc.errno not in _GONE:
                raise
            return None

    def _try_lock(self) -> None:
        """Try for the lock, and see to it that what is locked is the file that has the name."""
        self._refused = False
        if self._lock is None:
            self._lock = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
            self._share(self._lock)
        if not self._holds_since:
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self._refused = True
        if not self._is_named(self._lock):
            self._let_go()
        elif not self._refused:
            self._holds_since = self._holds_since or self._count + 1

    def _is_named(self, lock: int) -> bool:
        try:
            return os.path.samestat(os.stat(self._path), os.fstat(lock))
        except OSError as exc:
            if exc.errno not in _GONE:
                raise
            return False

    def _let_go(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
        self._lock, self._holds_since, self._refused = None, 0, False

    def _judge(self) -> None:
        for run, seen in self._others.items():
            finding = self._verdict(seen.note)
            if finding is not None and (run not in self._verdicts or finding.level == "error"):
                self._verdicts[run] = (seen.note.host, finding)

    def _verdict(self, note: Note) -> Finding | None:
        elsewhere = self._is_elsewhere(note.host)
        saw_us = note.seen.get(self._run, 0)
        level: Literal["ok", "note"] = "ok" if elsewhere else "note"
        same = "" if elsewhere else " Both are on one host, so that this says nothing of a second."
        if self._holds_since and saw_us >= self._holds_since:
            if note.holds:
                says = f"Two hold one exclusive lock at the same time: {self._host}, and {note.host}."
                return Finding(NAME, "error", says, _REMEDY)
            if note.refused:
                return Finding(NAME, level, f"The lock that {self._host} held was refused to {note.host}.{same}")
        if self._refused and note.holds and saw_us:
            return Finding(NAME, level, f"The lock was refused to {self._host} while {note.host} held it.{same}")
        return None

    def _write(self) -> None:
        self._count += 1
        seen = {run: each.note.count for run, each in self._others.items()}
        note = Note(self._host, self._count, bool(self._holds_since), self._refused, seen, list(self._verdicts))
        # Under a new name, so that nobody reads half of it, and clients that cache this folder look at it again.
        new = f"{self._document}-new"
        fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        try:
            self._share(fd)
            posix.write_all(fd, json.dumps(asdict(note)).encode())
        finally:
            os.close(fd)
        os.rename(new, self._document)

    def _share(self, fd: int) -> None:
        if os.fstat(fd).st_uid == os.geteuid():
            posix.share(fd, os.stat(self._root).st_mode, folder=False)

    # -- the end ------------------------------------------------------------------------------------------------------

    def _leave(self) -> None:
        """Remove our document, the dead ones, and the lock's file when nobody is left to use it."""
        dead = [run for run, seen in self._silent() if run not in self._verdicts]
        gone = [os.path.join(self.folder, run + _SUFFIX) for run in dead]
        for path in (self._document, f"{self._document}-new", *gone, *(f"{each}-new" for each in gone)):
            if os.path.lexists(path):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path)
        try:
            while self._may_remove_lock():
                pass
        finally:
            self._let_go()
            folders.leave_place(self._root)

    def _may_remove_lock(self) -> bool:
        """Remove the lock's file if it is ours to remove; True when another may have left it to us meanwhile."""
        if self._lock is None:
            try:
                self._lock = os.open(self._path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
            except OSError:  # it is gone, or another user's
                return False
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # whoever holds it removes it
            return False
        named = self._is_named(self._lock)
        if named and not self._runs():
            os.unlink(self._path)
            return False
        self._let_go()
        return not named or not self._runs()
