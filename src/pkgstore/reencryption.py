"""Re-encryption: every blob of a store sealed anew, under the key that is active now.

A blob takes the place of the very version that was read, and of no other: who replaces or deletes a key claims it
first in the store's accounts (`pkgstore.quota`), and so does this. A store without a quota is given accounts without
limits for it, which it keeps. What is sealed under the active key already is left alone, so that a run goes on where
another ended.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from itertools import chain
from operator import itemgetter
from typing import TYPE_CHECKING

from pkgstore import keys
from pkgstore.bodies import PublishBody
from pkgstore.crypt.driver import OPEN, SealedDriver
from pkgstore.errors import Misconfigured, NotFound, StoreError
from pkgstore.hashing import wanted
from pkgstore.reading import Reader
from pkgstore.spread import spread

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import Executor
    from typing import Any, BinaryIO

    from pkgstore.calls import Calls
    from pkgstore.driver import Blob
    from pkgstore.quota import Quota

_TRIES = 4
_CONTROL_PREFIX = f"{keys.CONTROL}/"


@dataclass
class Reencrypted:
    """What a re-encryption came to: numbers of blobs, and what failed.

    ``renewed`` were sealed anew; ``current`` were sealed under the active key already; ``gone`` were deleted meanwhile;
    ``failed`` are the others, by key, each with its error.
    """

    renewed: int = 0
    current: int = 0
    gone: int = 0
    failed: list[tuple[str, StoreError]] = field(default_factory=list)


class Reencryption:
    """The re-encryption of what lies below ``prefix``; an empty one means the whole store, its own documents too.

    It can be pickled, and be sent to other processes, which get theirs from ``sent``, with the id of the active key.
    """

    def __init__(
        self,
        calls: Calls,
        quota: Quota,
        prefix: str,
        sent: Callable[[str], Reencryption],
        *,
        active: str | None = None,
    ) -> None:
        if not isinstance(calls.driver, SealedDriver):
            raise Misconfigured(f"{calls.where} is not encrypted: there is nothing to encrypt anew")
        self._calls = calls
        self._driver = calls.driver
        self._quota = quota
        self._prefix = prefix
        self._sent = sent
        self._active = calls.call("encrypt", prefix, lambda: self._driver.keyring.active.id)
        if active not in (None, self._active):
            raise Misconfigured(
                f"a process that blobs of {calls.where} were sent to has the active key {self._active}, and who sent"
                f" them {active}: give both the same keyring, and run it again"
            )
        self._accounts = threading.Lock()
        self._has_accounts = active is not None  # who sent it had them kept

    def __reduce__(self) -> tuple[Any, ...]:
        self._keep_accounts()
        return self._sent, (self._active,)

    def run(self, executor: Executor | None, jobs: int, done: Callable[[str, Blob | None], object]) -> Reencrypted:
        """Seal all anew, ``jobs`` blobs at a time; ``done`` is called here with each, and what is new."""
        result = Reencrypted()
        for path, outcome in spread(self._outcome, self._paths(), executor=executor, jobs=jobs):
            blob = None
            if isinstance(outcome, NotFound):
                result.gone += 1
            elif isinstance(outcome, StoreError):
                result.failed.append((path, outcome))
            elif outcome is None:
                result.current += 1
            else:
                result.renewed += 1
                blob = outcome
            done(path, blob)
        result.failed.sort(key=itemgetter(0))
        return result

    def _paths(self) -> Iterator[str]:
        pages = self._calls.scan(self._prefix)
        own = iter(()) if self._prefix else self._calls.scan(_CONTROL_PREFIX)
        for page in chain(pages, own):
            for blob in page:
                if not blob.key.startswith(OPEN) and (keys.is_valid(blob.key) or blob.key.startswith(_CONTROL_PREFIX)):
                    yield blob.key

    def _outcome(self, path: str) -> tuple[str, Blob | StoreError | None]:
        try:
            return path, self._renewed(path)
        except StoreError as exc:
            return path, exc

    def _renewed(self, path: str) -> Blob | None:
        """Return a blob that was sealed anew, and None for one that need not be."""
        for tries_left in reversed(range(_TRIES)):
            blob, key_id = self._calls.call("encrypt", path, lambda: self._driver.sealed_under(path))
            if key_id == self._active:
                return None
            try:
                return self._replaced(path, blob.tag)
            except NotFound:  # another version is there now, or none
                if not tries_left:
                    raise
        raise AssertionError("unreachable")

    def _replaced(self, path: str, tag: str) -> Blob:
        with self._reader(path, tag) as reader, PublishBody(path, reader, None, wanted(reader.blob.digests)) as source:
            if path.startswith(_CONTROL_PREFIX):  # which no quota counts
                return self._calls.put(path, path, source, exclusive=False)
            self._keep_accounts()
            return self._quota.publish(path, path, source, replace=True, version=tag)

    def _keep_accounts(self) -> None:
        """Have accounts kept before the first blob is sealed anew, here or in another process that this is sent to."""
        with self._accounts:
            if not self._has_accounts:
                self._quota.keep_accounts()
                self._has_accounts = True

    def _reader(self, path: str, tag: str) -> Reader:
        def opened(start: int) -> tuple[Blob, BinaryIO]:
            return self._calls.call("read", path, lambda: self._driver.open(path, start, tag=tag))

        blob, stream = opened(0)
        return Reader(
            blob,
            stream,
            lambda start: opened(start)[1],
            lambda exc: self._calls.translated("read", path, exc),
            blob.digests.get("sha256"),
            f"{keys.shown(path)} in {self._calls.where}",
        )
