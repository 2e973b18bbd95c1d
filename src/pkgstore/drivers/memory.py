"""Blobs in this process's memory: for tests and examples.

``memory://name`` is one store for the whole process, ``memory://`` a new one every time. A child after fork has a
copy of its own. As strict as the local driver: a blob `a` and a blob `a/b` cannot be there together.
"""

from __future__ import annotations

import io
import itertools
import os
import threading
import time
import weakref
from bisect import bisect_left, insort
from dataclasses import dataclass, field
from dataclasses import replace as copy_with
from typing import TYPE_CHECKING, BinaryIO

from pkgstore import keys
from pkgstore.config import without_secrets
from pkgstore.driver import Blob, Body
from pkgstore.errors import Exists, InvalidKey, Misconfigured, NotFound, StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from urllib.parse import SplitResult

_CONTROL_PREFIX = f"{keys.CONTROL}/"


@dataclass(eq=False)
class _Space:
    """What one name holds."""

    blobs: dict[str, tuple[Blob, bytes, str]] = field(default_factory=dict)
    order: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        _all.add(self)


_spaces: dict[str, _Space] = {}
_all: weakref.WeakSet[_Space] = weakref.WeakSet()
_versions = itertools.count(1)


def _forget_locks() -> None:
    for space in _all:
        space.lock = threading.Lock()


os.register_at_fork(after_in_child=_forget_locks)


def connect(url: SplitResult, *, create: bool) -> MemoryDriver:
    """Return the driver for ``memory://name``."""
    if url.path.strip("/"):
        raise Misconfigured(
            f"{without_secrets(url.geturl())} has a path: a memory store has a name only, memory://name"
        )
    return MemoryDriver(_spaces.setdefault(url.netloc, _Space()) if url.netloc else _Space())


class MemoryDriver:
    """The verbs over a dictionary, under a lock."""

    scheme = "memory"
    exclusive = True
    streams = True

    def __init__(self, space: _Space) -> None:
        self._space = space

    def put(
        self, key: str, body: Body, size: int | None, *, digests: Mapping[str, str], exclusive: bool, token: str
    ) -> Blob:
        data = io.BytesIO()
        while chunk := body.read():
            data.write(chunk)
        blob = Blob(key, data.tell(), time.time(), f"{next(_versions):x}", body.finish())
        with self._space.lock:
            there = self._space.blobs.get(key)
            if there is not None and exclusive:
                if there[2] == token:
                    return there[0]
                raise FileExistsError(key)
            if there is None:
                self._check_room(key)
                insort(self._space.order, key)
            self._space.blobs[key] = (blob, data.getvalue(), token)
        return blob

    def open(
        self, key: str, start: int = 0, stop: int | None = None, *, tag: str | None = None
    ) -> tuple[Blob, BinaryIO]:
        blob, data, _ = self._get(key)
        if tag is not None and blob.tag != tag:
            raise FileNotFoundError(key)
        stream = io.BytesIO(data)
        stream.seek(start)
        return blob, stream

    def stat(self, key: str) -> Blob:
        return self._get(key)[0]

    def scan(self, prefix: str) -> Iterator[Blob]:
        last = ""
        while True:
            with self._space.lock:
                order = self._space.order
                at = bisect_left(order, max(prefix, last + "\0"))
                if at == len(order) or not order[at].startswith(prefix):
                    return
                last = order[at]
                blob = self._space.blobs[last][0]
            if prefix.startswith(_CONTROL_PREFIX) or not last.startswith(_CONTROL_PREFIX):
                yield blob

    def delete(self, key: str, *, tag: str | None = None) -> None:
        with self._space.lock:
            there = self._space.blobs.get(key)
            if there is not None and tag in (None, there[0].tag):
                del self._space.blobs[key]
                del self._space.order[bisect_left(self._space.order, key)]

    def record_digests(self, blob: Blob, digests: Mapping[str, str]) -> bool:
        with self._space.lock:
            there = self._space.blobs.get(blob.key)
            if there is None or there[0].tag != blob.tag:
                return False
            self._space.blobs[blob.key] = (copy_with(there[0], digests=dict(digests)), *there[1:])
            return True

    def classify(self, exc: BaseException) -> type[StoreError] | None:
        if isinstance(exc, FileExistsError):
            return Exists
        if isinstance(exc, FileNotFoundError):
            return NotFound
        if isinstance(exc, (NotADirectoryError, IsADirectoryError)):
            return InvalidKey
        return None

    def close(self) -> None:
        """Nothing is held but the memory itself."""

    def _get(self, key: str) -> tuple[Blob, bytes, str]:
        try:
            return self._space.blobs[key]
        except KeyError:
            raise FileNotFoundError(key) from None

    def _check_room(self, key: str) -> None:
        segments = key.split("/")
        for count in range(1, len(segments)):
            if "/".join(segments[:count]) in self._space.blobs:
                raise NotADirectoryError(20, f"{'/'.join(segments[:count])!r} is a blob, and no folder")
        at = bisect_left(self._space.order, key + "/")
        if at < len(self._space.order) and self._space.order[at].startswith(key + "/"):
            raise IsADirectoryError(21, f"it is a folder, with {self._space.order[at]!r} in it")
