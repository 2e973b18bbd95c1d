"""Calls to a driver: in the store's errors, and again while its medium is unavailable."""

from __future__ import annotations

import logging
import os
import random
import time
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

from pkgstore import keys
from pkgstore.driver import KnowsBefore, LocalPath, MediumError
from pkgstore.errors import Denied, Exists, Full, InvalidKey, NotFound, StoreError, Unavailable, Unsupported
from pkgstore.hashing import HashedBody, SourceFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from pkgstore.bodies import PublishBody
    from pkgstore.driver import Blob, Driver

_T = TypeVar("_T")

_log = logging.getLogger("pkgstore")

_FIRST_PAUSE = 0.02
_LONGEST_PAUSE = 2.0
_SILENT_FOR = 3.0
_LISTED_AT_ONCE = 256

_REMEDIES: dict[type[StoreError], str] = {
    Denied: "check the owner and mode of the files, the user this runs as, and whether the medium is read-only",
    Full: "free some space or enlarge the medium, and try again",
    Unavailable: "check that the medium is mounted and reachable",
    InvalidKey: "choose another key",
}


class Calls:
    """What a store and its scopes share: a driver, the name of the place for messages, and how long to go on trying."""

    def __init__(self, driver: Driver, where: str, timeout: float) -> None:
        self.driver = driver
        self.where = where
        self.timeout = timeout
        self.closed = False
        self.local_path = driver.local_path if isinstance(driver, LocalPath) else None

    def call(self, verb: str, key: str, function: Callable[[], _T], *, retry: bool = True, changes: bool = False) -> _T:
        """Return what ``function`` returns; ``verb`` and ``key`` are for messages.

        With ``changes``, an attempt whose outcome is open leaves that of the call open, unless a later one succeeds.
        """
        if self.closed:
            raise ValueError(f"the store {self.where} is closed")
        began = time.monotonic()
        deadline = began + self.timeout
        pause = _FIRST_PAUSE
        left_open = told = False
        while True:
            try:
                return function()
            except Exception as exc:  # noqa: BLE001 - raised again, as it is or translated
                error = self.translated(verb, key, exc)
                if left_open and not isinstance(error, Unavailable):
                    error = Unavailable(f"{error}; an earlier try may have worked: look with stat", key=key)
                    retry = False
                left_open = changes
                over = self.closed or time.monotonic() + pause > deadline
                try:
                    if not isinstance(error, Unavailable) or not retry or over:
                        if error is exc:
                            raise
                        raise error from exc
                    if not told and time.monotonic() - began > _SILENT_FOR:
                        told = True
                        _log.warning("trying again, for %.0f s at most: %s", deadline - time.monotonic(), error)
                finally:
                    del error  # its traceback holds this frame, which would hold it, and all that is open below
            time.sleep(pause * random.uniform(0.5, 1))
            pause = min(2 * pause, _LONGEST_PAUSE)

    def put(self, path: str, key: str, source: PublishBody, *, exclusive: bool) -> Blob:
        """Put a body at ``path``, which its publisher calls ``key``. What the body itself raises comes through.

        Once an attempt has ended with its outcome open, so does the put, but for success and for `Exists`.
        """
        token = os.urandom(16).hex()
        open_outcome = False
        known: Mapping[str, str] = {}

        def attempt() -> Blob:
            nonlocal open_outcome
            if exclusive:
                self._check_exclusive(key)
            with source.attempt() as body:
                try:
                    blob = self.driver.put(path, body, source.size, digests=known, exclusive=exclusive, token=token)
                except Exception as exc:
                    kind = type(self.translated("publish", key, exc))
                    open_outcome = open_outcome or issubclass(kind, Unavailable)
                    source.left_open = source.left_open or (body.finished and issubclass(kind, Unavailable))
                    if issubclass(kind, Exists) and not source.digests:
                        body.drain()
                    raise
                self._finish(body, key)
                return blob

        try:
            if not self.driver.streams:
                also = self.driver.spool_digests if isinstance(self.driver, KnowsBefore) else ()
                known = source.declared(also) or source.spool(also)
            return self.call("publish", key, attempt, retry=source.replayable)
        except (SourceFailed, StoreError) as exc:
            if open_outcome and not isinstance(exc, Exists):
                once = "" if source.replayable else ", and was tried once, as its body cannot be rewound"
                raise Unavailable(
                    f"{exc}; whether {keys.shown(key)} was published is not known{once}: look with stat", key=key
                ) from exc
            if isinstance(exc, SourceFailed):
                raise exc.error from None
            raise

    def scan(self, prefix: str) -> Iterator[Sequence[Blob]]:
        """Yield what the driver lists below a prefix, some at a time: each once, also when a scan fails in between."""
        last, seen, size = "", "", 1
        scan: Iterator[Blob] | None = None

        def following() -> list[Blob]:
            """Return what follows ``last``. A scan that failed begins anew, and what it repeats is of the same call."""
            nonlocal scan, seen
            if scan is None:
                scan, seen = self.driver.scan(prefix), ""
            try:
                while blobs := list(islice(scan, size)):
                    for blob in blobs:
                        if blob.key <= seen:
                            raise AssertionError(f"the {self.driver.scheme} driver lists {blob.key!r} after {seen!r}")
                        seen = blob.key
                    if seen > last:
                        return [blob for blob in blobs if blob.key > last]
            except Exception:
                scan = None
                raise
            return []

        while blobs := self.call("list", prefix, following):
            size = min(2 * size, _LISTED_AT_ONCE)
            last = blobs[-1].key
            yield blobs

    def _finish(self, body: HashedBody, key: str) -> None:
        """Judge a body that its driver did not read, because an earlier attempt had won."""
        if body.count and not body.finished:
            raise AssertionError(f"the {self.driver.scheme} driver did not finish the body of {key!r}")
        if not body.finished:
            body.drain()

    def _check_exclusive(self, key: str) -> None:
        if not self.driver.exclusive:
            raise Unsupported(
                f"cannot publish {keys.shown(key)} in {self.where}: the medium has neither hard links nor a rename"
                " that never replaces, so that two writers could both win; put the store on another medium",
                key=key,
            )

    def translated(self, verb: str, key: str, exc: Exception) -> Exception:
        """Return the store's error for one that a driver raised; any other as it is."""
        if isinstance(exc, StoreError):
            return exc
        kind = self.driver.classify(exc)
        if kind is None:
            return exc
        if kind is NotFound:
            return NotFound(f"{keys.shown(key)} is not in {self.where}", key=key)
        reason = (exc.strerror if isinstance(exc, OSError) else None) or str(exc) or type(exc).__name__
        remedy = exc.remedy if isinstance(exc, MediumError) else _REMEDIES.get(kind)
        return kind(
            f"cannot {verb} {keys.shown(key)} in {self.where}: {' '.join(reason.split())}"
            + (f"; {remedy}" if remedy else ""),
            key=key,
        )
