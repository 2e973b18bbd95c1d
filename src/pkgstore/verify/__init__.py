"""Reading everything again: whether a store still holds what was published there.

`pkgstore.verify.checking` looks at one blob, and mends it, `pkgstore.verify.journal` keeps how far a run has come.
"""

from __future__ import annotations

import secrets
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from hashlib import blake2b
from heapq import nsmallest
from itertools import islice
from operator import attrgetter
from typing import TYPE_CHECKING

from pkgstore import Denied, Misconfigured, Store
from pkgstore.pair import Pair
from pkgstore.spread import JOBS, check_jobs, spread
from pkgstore.verify.checking import Checked, checked
from pkgstore.verify.journal import Journal

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Iterator
    from concurrent.futures import Executor

    from pkgstore import Blob

__all__ = ["Checked", "Verified", "verify"]

_AT_ONCE = 16
"""Blobs, times jobs, after which the journal is written."""


@dataclass(slots=True)
class Verified:
    """How many blobs were looked at.

    ``good``
        have the digests that were recorded
    ``unrecorded``
        have none recorded, so that nobody can tell (see `pkgstore.Store.adopt`)
    ``corrupt``, ``unreadable``
        have not, or could not be read; and of these, how many were ``repaired`` and how many are ``quarantined``
    ``gone``
        were deleted meanwhile
    ``bytes``
        were read
    ``seed``
        of the sample; empty where all was read
    """

    good: int = 0
    unrecorded: int = 0
    corrupt: int = 0
    unreadable: int = 0
    repaired: int = 0
    quarantined: int = 0
    gone: int = 0
    bytes: int = 0
    seed: str = ""

    @property
    def wrong(self) -> int:
        """How many blobs are wrong, and have not been repaired."""
        return self.corrupt + self.unreadable - self.repaired

    def add(self, one: Checked) -> None:
        """Count one."""
        setattr(self, one.found, getattr(self, one.found) + 1)
        if one.did:
            setattr(self, one.did, getattr(self, one.did) + 1)
        self.bytes += one.size


def verify(
    store: Store,
    *,
    sample: float | None = None,
    seed: str | None = None,
    repair_from: Store | None = None,
    quarantine: bool = False,
    journal: str | os.PathLike[str] | None = None,
    executor: Executor | None = None,
    jobs: int = JOBS,
    progress: Callable[[Checked], object] | None = None,
) -> Verified:
    """Read the blobs of ``store``, which may be a scope, from its medium, compare them with the digests that were
    recorded when they were published, and return how many were found how.

    ``sample``
        how much to read: a share, such as 0.05, or a number of blobs, such as 200; all by default
    ``seed``
        of the sample: the same seed chooses the same keys. A new one by default, which the report tells
    ``repair_from``
        another store, whose blob takes the place of a corrupt one, in one step, when it has the recorded digests
    ``quarantine``
        keep a copy of a corrupt blob below ``.pkgstore/quarantine/``; where it is not repaired, delete it from its key
    ``journal``
        a file that keeps how far this run has come. When there is one of a run that did not come to its end, this run
        goes on from there, and its report counts both
    ``executor``, ``jobs``
        what does the work, or else threads; and how many blobs are under way at a time
    ``progress``
        is called with each blob, sorted by key, in this thread

    What is corrupt and what cannot be read does not end it. Raises `Misconfigured` for arguments that cannot work, for
    a pair of stores, and for a journal of another kind of run; `Denied` where something is to be changed in a store
    that is open for reading only; OSError when the journal cannot be written; and what `Store.list` raises.
    """
    check_jobs(jobs)
    _check_sample(sample)
    _check_store(store, repair_from, changes=quarantine or repair_from is not None)
    with Journal(journal, {"store": store.id, "prefix": store.prefix, "sample": sample}, seed) as known:
        seed = known.seed or secrets.token_hex(4)
        report = Verified(**known.counts)
        report.seed = "" if sample is None else seed
        known.begin(seed)
        check = partial(checked, store=store, repair_from=repair_from, quarantine=quarantine)
        blobs = (blob for blob in _chosen(store.list(), sample, seed) if blob.key > known.through)
        for some in _checked_in_order(check, blobs, executor, jobs):
            for one in some:
                report.add(one)
                known.note(one)
                if progress is not None:
                    progress(one)
            known.keep(some[-1].key, asdict(report))
        known.finish()
    return report


def _checked_in_order(
    check: Callable[[Blob], Checked], blobs: Iterator[Blob], executor: Executor | None, jobs: int
) -> Iterator[list[Checked]]:
    """Yield what was found of the blobs, some at a time, sorted by key."""
    with ExitStack() as stack:
        if executor is None:
            executor = stack.enter_context(ThreadPoolExecutor(jobs, thread_name_prefix="pkgstore-verify"))
        while some := list(islice(blobs, _AT_ONCE * jobs)):
            yield sorted(spread(check, some, executor=executor, jobs=jobs), key=attrgetter("key"))


def _check_store(store: Store, repair_from: Store | None, *, changes: bool) -> None:
    if isinstance(store, Pair):
        raise Misconfigured(
            f"{store.where} are two stores, the first of which hides blobs of the second: verify one, then the other"
        )
    if repair_from is not None and (repair_from.id, repair_from.where) == (store.id, store.where):
        raise Misconfigured(f"{store.where} cannot be repaired from itself: name another store")
    if changes and store.readonly:
        raise Denied(
            f"cannot repair or quarantine anything in {store.where}: it is open for reading only, as by readonly= or"
            " ciphertext="
        )


def _check_sample(sample: float | None) -> None:
    if sample is None:
        return
    is_share = type(sample) is float and 0 < sample <= 1
    is_number = type(sample) is int and sample > 0
    if not (is_share or is_number):
        raise Misconfigured(f"sample={sample!r} is neither a share, such as 0.05, nor a number of blobs, such as 200")


def _chosen(blobs: Iterable[Blob], sample: float | None, seed: str) -> Iterator[Blob]:
    """Yield the blobs of a sample, sorted by key. Which, depends on seed and keys alone."""

    def rank(blob: Blob) -> int:
        return int.from_bytes(blake2b(blob.key.encode(), digest_size=8, key=seed.encode()[:64]).digest(), "big")

    if sample is None:
        return iter(blobs)
    if isinstance(sample, int):
        return iter(sorted(nsmallest(sample, blobs, key=rank), key=lambda blob: blob.key))
    return (blob for blob in blobs if rank(blob) < sample * 2**64)
