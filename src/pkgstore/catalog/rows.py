"""The digests of versions of blobs, in an SQLite file that the processes and stores of this host share.

A row is bound to one version: it holds the store's id, the full key, the tag, the size and the digests, and a checksum
over them all. Whatever happens to the file, a row that does not match in every part says nothing.

Nothing is lost with the file, and nothing depends on it: what goes wrong with it is logged, and the store goes on
without it, for a while. A file that is damaged is set aside, and begun anew.
"""

from __future__ import annotations

import fcntl
import logging
import math
import os
import sqlite3
import threading
import time
import weakref
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar
from zlib import crc32

from pkgstore.driver import Blob

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

_T = TypeVar("_T")

_log = logging.getLogger("pkgstore")

_APPLICATION = 0x706B6773
_VERSION = 1
_TABLE = """
CREATE TABLE blobs (store TEXT, key TEXT, tag TEXT, size INTEGER, digests TEXT, checksum INTEGER,
PRIMARY KEY (store, key)) WITHOUT ROWID
"""
_FIELDS = "key, tag, size, digests, checksum"
_PATIENCE = 1.0  # seconds that a statement waits for other processes
_REST = 60.0  # seconds for which a catalog that failed is left alone
_AT_ONCE = 1000
_DAMAGED = {sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT}


class _NotOurs(Exception):
    """A database that is of use for others only."""


class Catalog:
    """What is known of the blobs of one store, by their full keys. Safe to share between threads, and to fork with.

    ``path`` is the file, which is made when it is first needed. No method raises for what is wrong with it: ``misses``
    is how often something could not be looked up or kept, and ``trouble`` says why, the last time.
    """

    def __init__(self, path: str, store: str) -> None:
        self.path = path
        self.store = store
        self.lock = threading.Lock()
        self.connection: sqlite3.Connection | None = None
        self._file = (0, 0)
        self._resting_until: dict[str, float] = {}
        self._set_aside_at = -math.inf
        self._told = self._closed = False
        self.misses = 0
        self.trouble = ""
        _all.add(self)

    # -- one blob, and a page of a listing ----------------------------------------------------------------------------

    def learn(self, blob: Blob) -> None:
        """Keep what the medium has told of a blob, in the place of what was known of its key."""
        if not blob.digests:
            return
        row = self._row(blob)

        def keep(connection: sqlite3.Connection) -> None:
            there = connection.execute(
                f"SELECT store, {_FIELDS} FROM blobs WHERE store = ? AND key = ?", row[:2]
            ).fetchone()
            if there != row:
                connection.execute("REPLACE INTO blobs VALUES (?, ?, ?, ?, ?, ?)", row)

        self._attempt("write", keep, None)

    def forget(self, key: str) -> None:
        """Drop what is known of a key, whose blob was deleted."""

        def drop(connection: sqlite3.Connection) -> None:
            connection.execute("DELETE FROM blobs WHERE store = ? AND key = ?", (self.store, key))

        self._attempt("write", drop, None)

    def fill(self, blobs: Sequence[Blob]) -> Sequence[Blob]:
        """Return blobs, which are sorted by key, each with its digests where these are known for its very tag and size.

        Those that have digests already stay as they are.
        """
        wanted = {blob.key: blob for blob in blobs if not blob.digests}
        if not wanted:
            return blobs

        def look(connection: sqlite3.Connection) -> dict[str, str]:
            between = (self.store, blobs[0].key, blobs[-1].key)
            rows = connection.execute(f"SELECT {_FIELDS} FROM blobs WHERE store = ? AND key BETWEEN ? AND ?", between)
            found = {}
            for key, tag, size, digests, checksum in rows:
                blob = wanted.get(key)
                if (
                    blob is not None
                    and (blob.tag, blob.size) == (tag, size)
                    and checksum == _checksum(self.store, key, tag, size, digests)
                ):
                    found[key] = digests
            return found

        nothing: dict[str, str] = {}
        known = self._attempt("read", look, nothing)
        return [
            Blob(blob.key, blob.size, blob.mtime, blob.tag, _unpacked(known[blob.key])) if blob.key in known else blob
            for blob in blobs
        ]

    def drop_between(self, first: str, last: str, present: Iterable[str]) -> None:
        """Drop what is known of keys after ``first``, up to ``last``, but for those that are ``present``."""
        names = [*present]

        def drop(connection: sqlite3.Connection) -> None:
            marks = ", ".join("?" * len(names))
            connection.execute(
                f"DELETE FROM blobs WHERE store = ? AND key > ? AND key <= ? AND key NOT IN ({marks})",
                (self.store, first, last, *names),
            )

        self._attempt("write", drop, None)

    # -- all of a store -----------------------------------------------------------------------------------------------

    def is_empty(self) -> bool:
        """Say whether nothing is known of the store, and something could be kept."""

        def look(connection: sqlite3.Connection) -> bool:
            return connection.execute("SELECT 1 FROM blobs WHERE store = ? LIMIT 1", (self.store,)).fetchone() is None

        return self._attempt("read", look, False)

    def known(self) -> Iterator[Blob]:
        """Yield all that is known of the store, sorted by key; the times of blobs are not."""
        last = ""

        def look(connection: sqlite3.Connection) -> list[tuple[str, str, int, str, int]]:
            return connection.execute(
                f"SELECT {_FIELDS} FROM blobs WHERE store = ? AND key > ? ORDER BY key LIMIT {_AT_ONCE}",
                (self.store, last),
            ).fetchall()

        nothing: list[tuple[str, str, int, str, int]] = []
        while rows := self._attempt("read", look, nothing):
            for key, tag, size, digests, checksum in rows:
                if checksum == _checksum(self.store, key, tag, size, digests):
                    yield Blob(key, size, 0.0, tag, _unpacked(digests))
            last = rows[-1][0]

    def add(self, blobs: Iterable[Blob]) -> None:
        """Keep what others have learnt, where nothing is known yet."""
        rows = [self._row(blob) for blob in blobs]

        def keep(connection: sqlite3.Connection) -> None:
            with connection:
                connection.execute("BEGIN IMMEDIATE")
                connection.executemany("INSERT OR IGNORE INTO blobs VALUES (?, ?, ?, ?, ?, ?)", rows)

        self._attempt("write", keep, None)

    def close(self) -> None:
        """Let go of the file. Nothing is looked up or kept afterwards."""
        with self.lock:
            self._closed = True
            self.drop_connection()

    # -- the file -----------------------------------------------------------------------------------------------------

    def _row(self, blob: Blob) -> tuple[str, str, str, int, str, int]:
        digests = " ".join(f"{name} {value}" for name, value in sorted(blob.digests.items()))
        checksum = _checksum(self.store, blob.key, blob.tag, blob.size, digests)
        return self.store, blob.key, blob.tag, blob.size, digests, checksum

    def _attempt(self, kind: str, work: Callable[[sqlite3.Connection], _T], otherwise: _T) -> _T:
        """Return what ``work`` returns; or ``otherwise``, when this kind of work fails, or did so a short time ago."""
        with self.lock:
            if self._closed or time.monotonic() < self._resting_until.get(kind, 0.0):
                self.misses += 1
                return otherwise
            try:
                if self.connection is None:
                    self.connection = self._connected()
                result = work(self.connection)
            except (sqlite3.Error, UnicodeDecodeError, OSError, _NotOurs) as exc:
                self.drop_connection()
                self.misses += 1
                self._failed(kind, exc)
                return otherwise
            return result

    def _connected(self) -> sqlite3.Connection:
        os.makedirs(os.path.dirname(self.path), exist_ok=True)
        connection = sqlite3.connect(self.path, timeout=_PATIENCE, isolation_level=None, check_same_thread=False)
        try:
            status = os.stat(self.path)
            self._file = (status.st_dev, status.st_ino)
            if not _is_ours(connection):
                with connection:
                    connection.execute("BEGIN IMMEDIATE")
                    if not _is_ours(connection):  # another process may have made it meanwhile
                        connection.execute(_TABLE)
                        connection.execute(f"PRAGMA application_id = {_APPLICATION}")
                        connection.execute(f"PRAGMA user_version = {_VERSION}")
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
        except BaseException:
            connection.close()
            raise
        return connection

    def drop_connection(self) -> None:
        """Close the connection, if there is one. The lock is held."""
        connection, self.connection = self.connection, None
        if connection is not None:
            with suppress(sqlite3.Error):  # such as what made it of no use
                connection.close()

    def _failed(self, kind: str, exc: Exception) -> None:
        now = time.monotonic()
        reason = (exc.strerror if isinstance(exc, OSError) else None) or str(exc)
        code = getattr(exc, "sqlite_errorcode", None)
        damaged = isinstance(exc, (sqlite3.Error, UnicodeDecodeError)) and (code is None or code & 0xFF in _DAMAGED)
        if damaged and code is None:  # and what it says quotes what it has found
            reason = "it holds text that is none"
        if damaged and now - self._set_aside_at > _REST:
            self._set_aside_at = now
            try:
                self._set_aside()
            except OSError as second:
                reason = f"{reason}, and it cannot be set aside ({second.strerror})"
            else:
                self.trouble = f"the catalog {self.path} was damaged ({reason}): it is set aside, and begun anew"
                _log.warning("%s", self.trouble)
                return
        self.trouble = f"the catalog {self.path} is not used: {reason}; name another file, or mend this one"
        self._resting_until[kind] = math.inf if isinstance(exc, _NotOurs) else now + _REST
        _log.log(logging.DEBUG if self._told else logging.WARNING, "%s", self.trouble)
        self._told = True

    def _set_aside(self) -> None:
        """Give the file another name, unless another process has done so."""
        folder = os.open(os.path.dirname(self.path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            status = os.stat(self.path)
            if (status.st_dev, status.st_ino) == self._file:
                for part in ("-wal", "-shm"):
                    with suppress(FileNotFoundError):
                        os.unlink(self.path + part)
                os.replace(self.path, f"{self.path}.damaged")
        except (BlockingIOError, FileNotFoundError):
            pass  # another process is at it
        finally:
            os.close(folder)


def _is_ours(connection: sqlite3.Connection) -> bool:
    """Say whether a database is a catalog; False for an empty one. Raises `_NotOurs` for any other."""
    [application], [version], [tables] = (
        connection.execute(each).fetchone()
        for each in ("PRAGMA application_id", "PRAGMA user_version", "SELECT count(*) FROM sqlite_schema")
    )
    if application == version == tables == 0:
        return False
    if application != _APPLICATION:
        raise _NotOurs("it is another program's database")
    if version != _VERSION:
        raise _NotOurs(f"it is of version {version}, which a newer pkgstore knows")
    return True


def _checksum(store: str, key: str, tag: str, size: int, digests: str) -> int:
    return crc32(f"{store}\0{key}\0{tag}\0{size}\0{digests}".encode())


def _unpacked(digests: str) -> Mapping[str, str]:
    words = digests.split(" ")
    return dict(zip(words[::2], words[1::2], strict=True))


# -- fork -------------------------------------------------------------------------------------------------------------

# SQLite's connections must not be used, nor closed, in a child of the process that opened them: so there are none open
# while a process forks, and parent and child open their own when they next need one.
_all: weakref.WeakSet[Catalog] = weakref.WeakSet()
_held: dict[int, list[Catalog]] = {}


def _hold_all() -> None:
    held = [*_all]
    for catalog in held:
        catalog.lock.acquire()
        catalog.drop_connection()
    _held[threading.get_ident()] = held


def _release_all() -> None:
    for catalog in _held.pop(threading.get_ident(), []):
        catalog.lock.release()


def _begin_anew() -> None:
    _held.clear()
    for catalog in [*_all]:
        catalog.lock = threading.Lock()


os.register_at_fork(before=_hold_all, after_in_parent=_release_all, after_in_child=_begin_anew)
