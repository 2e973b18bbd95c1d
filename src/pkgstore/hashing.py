"""Digests, and the body of a put that is hashed while it is read."""

from __future__ import annotations

import hashlib
import re
import sys
import threading
from queue import SimpleQueue
from typing import TYPE_CHECKING, Protocol, Self, TypeGuard

from pkgstore.errors import Corrupt, Misconfigured
from pkgstore.keys import shown

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

CHUNK = 1 << 20
"""Bytes that are read, hashed and written at a time."""

OVERLAP_FROM = 4 * CHUNK
"""Bytes from which on it is worth a thread to hash beside what else is done with a body."""

_IN_FLIGHT = 8
_LENGTHS = {"sha256": 64, "md5": 32, "blake2b": 128}

ALGORITHMS = tuple(_LENGTHS)
"""The digests that are known here, by name."""


_ONLY_SHA256: Mapping[str, str | None] = {"sha256": None}


class Source(Protocol):
    """Where a body's bytes come from."""

    def read(self, size: int, /) -> bytes | memoryview: ...


def wanted(digests: Mapping[str, str | None] | None) -> Mapping[str, str | None]:
    """Return the digests to compute, each with the value that is expected or None: sha256 always, and those asked for.

    Raises `Misconfigured` for an algorithm that is not known here, or a value that cannot be one of its digests.
    """
    if not digests:
        return _ONLY_SHA256
    result: dict[str, str | None] = {"sha256": None}
    for name, value in digests.items():
        if name not in _LENGTHS:
            raise Misconfigured(f"the digest {name!r} is not known: use one of {', '.join(_LENGTHS)}")
        if value is not None and not (isinstance(value, str) and is_digest(name, value.lower())):
            raise Misconfigured(f"{value!r} is no {name}: that is {_LENGTHS[name]} hexadecimal digits")
        result[name] = value and value.lower()
    return result


def is_digest(name: str, value: object) -> bool:
    """Say whether ``value`` is written as digests of the algorithm ``name`` are."""
    length = _LENGTHS.get(name)
    return length is not None and isinstance(value, str) and re.fullmatch(f"[0-9a-f]{{{length}}}", value) is not None


class Hasher:
    """Several digests in one pass."""

    def __init__(self, algorithms: Iterable[str]) -> None:
        self._hashes = {name: _new_hash(name) for name in algorithms}

    def update(self, data: bytes | memoryview) -> None:
        for each in self._hashes.values():
            each.update(data)

    def digests(self) -> dict[str, str]:
        return {name: each.hexdigest() for name, each in self._hashes.items()}


def _new_hash(name: str) -> hashlib._Hash:
    # `hashlib.new` looks the algorithm up in OpenSSL, every time.
    return hashlib.sha256() if name == "sha256" else hashlib.new(name, usedforsecurity=name != "md5")


def _is_fixed(data: bytes | bytearray | memoryview) -> TypeGuard[bytes | memoryview]:
    return type(data) is bytes or (type(data) is memoryview and type(data.obj) is bytes and data.itemsize == 1)


class SourceFailed(Exception):
    """A caller's body raised ``error``. No driver takes this for an error of its medium."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


class Watch(Protocol):
    """Who follows a body on its way; what it raises comes through, and nothing becomes visible."""

    def reading(self, count: int) -> None:
        """Take notice that ``count`` bytes have been read."""

    def finishing(self, count: int) -> None:
        """Return when the body, of ``count`` bytes, may become visible."""


class HashedBody:
    """The `pkgstore.driver.Body` of one attempt to put ``key``.

    A body that is large, or of unknown size, is hashed by a thread of its own, so that hashing overlaps whatever the
    driver does with the bytes. At most a few chunks are in memory. A context manager, which ends that thread.
    """

    def __init__(
        self,
        key: str,
        source: Source,
        size: int | None,
        expected: Mapping[str, str | None],
        watch: Watch | None = None,
        *,
        ahead: bool = False,
    ) -> None:
        self.count = 0  # bytes read so far
        self._watch = watch
        self._ahead = ahead
        self.digests: dict[str, str] = {}
        self._key = key
        self._source = source
        self._size = size
        self._expected = expected
        self._hasher = Hasher(expected)
        self._worker = worker(self._hasher) if size is None or size >= OVERLAP_FROM else None
        self._ended = False

    def read(self, size: int = -1, /) -> bytes | memoryview:
        try:
            data = self._source.read(CHUNK if size < 0 else min(size, CHUNK))
            if not isinstance(data, (bytes, bytearray, memoryview)):
                raise TypeError(f"a body yields bytes, not {type(data).__name__}: open files in binary mode")
            if not _is_fixed(data):
                data = bytes(data)  # whoever owns it may change it, before it is hashed or before it is written
        except Exception as exc:
            raise SourceFailed(exc) from exc
        self.count += len(data)
        if self._size is not None and self.count > self._size:
            raise Corrupt(
                f"the body of {shown(self._key)} is longer than the {self._size} bytes declared; nothing was published",
                key=self._key,
            )
        if self._watch:
            self._watch.reading(self.count)
        if not data:
            self._ended = size != 0
        elif self._worker:
            self._worker.update(data)
        else:
            self._hasher.update(data)
        return data

    def finish(self) -> dict[str, str]:
        if not self._ended:
            raise AssertionError("a driver finished a body that it had not read to the end")
        if self._worker:
            self._worker.wait()
        if self._size is not None and self.count != self._size:
            raise Corrupt(
                f"the body of {shown(self._key)} ended after {self.count} of {self._size} bytes; nothing was published",
                key=self._key,
            )
        digests = self._hasher.digests()
        for name, value in self._expected.items():
            if value is not None and digests[name] != value:
                raise Corrupt(
                    f"the body of {shown(self._key)} has {name} {digests[name]}, not {value} as expected;"
                    " nothing was published: send it again",
                    key=self._key,
                )
        if self._watch and not self._ahead:
            self._watch.finishing(self.count)
        self.digests = digests
        return digests

    def drain(self) -> None:
        """Read what is left and finish, so that a body which was refused early can be compared with what is there."""
        self._watch = None
        while self.read():
            pass
        self.finish()

    @property
    def finished(self) -> bool:
        """Whether `finish` has returned."""
        return bool(self.digests)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._worker:
            self._worker.close()


class Updated(Protocol):
    """What takes a body's bytes, one chunk after the other, such as a `Hasher`."""

    def update(self, data: bytes | memoryview, /) -> object: ...


class Worker:
    """A thread that has something updated, at most ``_IN_FLIGHT`` chunks behind; what that raises is raised here."""

    def __init__(self, updated: Updated) -> None:
        self._updated = updated
        self._queue: SimpleQueue[bytes | memoryview | None] = SimpleQueue()
        self._room = threading.Semaphore(_IN_FLIGHT)
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="pkgstore-beside", daemon=True)
        self._thread.start()

    def update(self, data: bytes | memoryview) -> None:
        self._room.acquire()
        if self._error:
            self._room.release()
            raise self._error
        self._queue.put(data)

    def wait(self) -> None:
        self.close()
        if self._error:
            raise self._error

    def close(self) -> None:
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (data := self._queue.get()) is not None:
            try:
                if not self._error:
                    self._updated.update(data)
            except Exception as exc:  # noqa: BLE001 - raised by whoever waits
                self._error = exc
            self._room.release()


def worker(updated: Updated) -> Worker | None:
    """Return a worker, or None where no thread can be had any more, as when the interpreter is shutting down."""
    if sys.is_finalizing():  # where Python 3.11 would wait for ever for the thread to start
        return None
    try:
        return Worker(updated)
    except RuntimeError:
        return None
