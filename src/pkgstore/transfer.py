"""Copying a whole store into another, on any two media.

Nothing has to be remembered between runs: what is at the destination with the same digests is left as it is, so that a
run which was cut short goes on where it was when it is run again.
"""

from __future__ import annotations

import os
import threading
from contextlib import closing, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal, TypeAlias

from pkgstore import (
    Blob,
    Corrupt,
    Denied,
    Exists,
    InvalidKey,
    Misconfigured,
    NotFound,
    Store,
    StoreError,
    Unavailable,
)
from pkgstore.hashing import ALGORITHMS
from pkgstore.keys import shown
from pkgstore.pair import Pair
from pkgstore.reading import LooksLast
from pkgstore.spread import JOBS, spread

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from concurrent.futures import Executor

Fate: TypeAlias = Literal["copied", "replaced", "same", "conflict", "gone", "extra", "deleted", "failed"]

_OF_ONE_BLOB = (Corrupt, Denied, InvalidKey, Unavailable)
_SILENT = 16
_TRIES = 4
_LARGE = 16 << 20
_LARGE_AT_ONCE = 3

_large: threading.Semaphore


def _let_large_pass() -> None:
    global _large
    _large = threading.Semaphore(_LARGE_AT_ONCE)


_let_large_pass()
os.register_at_fork(after_in_child=_let_large_pass)


@dataclass(frozen=True, slots=True)
class Transferred:
    """What became of one key.

    ``fate``
        ``copied``, or ``replaced`` where the destination had other bytes; ``same`` where both had the same;
        ``conflict`` where the destination has other bytes, and keeps them; ``gone`` from the source meanwhile;
        ``extra``, at the destination only, and kept; or ``deleted`` there; ``failed``
    ``size``
        in bytes
    ``says``
        a sentence, for a conflict and for a failure; empty otherwise
    ``error``
        the error of a failure
    """

    key: str
    fate: Fate
    size: int = 0
    says: str = ""
    error: StoreError | None = None


@dataclass(slots=True)
class Mirrored:
    """How many keys had which fate (see `Transferred`), and how many ``bytes`` were copied."""

    copied: int = 0
    replaced: int = 0
    same: int = 0
    conflict: int = 0
    gone: int = 0
    extra: int = 0
    deleted: int = 0
    failed: int = 0
    bytes: int = 0

    @property
    def is_whole(self) -> bool:
        """Whether the destination has all that the source has."""
        return not (self.conflict or self.failed)

    def add(self, outcome: Transferred) -> None:
        """Count one."""
        setattr(self, outcome.fate, getattr(self, outcome.fate) + 1)
        if outcome.fate in ("copied", "replaced"):
            self.bytes += outcome.size


def mirror(
    src: Store,
    dst: Store,
    *,
    delete: bool = False,
    force: bool = False,
    replace: bool = False,
    executor: Executor | None = None,
    jobs: int = JOBS,
    progress: Callable[[Transferred], object] | None = None,
) -> Mirrored:
    """Copy every blob of ``src`` to ``dst``, which may be scopes, and return how many had which fate.

    A blob is published at ``dst`` under the digests that ``src`` has recorded, so that it becomes visible there only as
    what it was when it was published at ``src``. Both sides are compared by these digests; blobs without are read.
    Where ``dst`` has other bytes under a key, it keeps them, unless ``replace``. A blob that is deleted from ``src``
    while it is copied is not left at ``dst``.

    With ``delete``, what ``dst`` has and ``src`` has not is deleted in the end, when nothing has failed and there is no
    conflict; from an empty ``src`` only with ``force``.

    ``executor`` does the work, or else ``jobs`` threads; ``jobs`` blobs are under way at a time. ``progress`` is called
    with each outcome, in this thread.

    An error that is one blob's own is an outcome, and the others go on. Any other comes through, such as `Full` and
    `QuotaExceeded`, and so does `Unavailable` when sixteen blobs in a row have met it. Raises `Misconfigured` when
    both are one store, when ``dst`` is a pair of stores, or with ``delete`` when ``src`` is empty, and `Denied` when
    ``dst`` is open for reading only.
    """
    _check_apart(src, dst)
    report = Mirrored()

    def take(outcome: Transferred) -> None:
        report.add(outcome)
        if progress is not None:
            progress(outcome)

    def found() -> Iterator[tuple[Blob, Blob | None]]:
        for theirs, ours in _side_by_side(src, dst):
            if theirs is not None:
                yield theirs, ours
            elif ours is not None and not delete:
                take(_kept(ours))

    settle = partial(_settled, src=src, dst=dst, replace=replace)
    _take_all(spread(settle, found(), executor=executor, jobs=jobs), take)
    if delete:
        _check_not_empty(src, dst, report, force=force)
        extra = (found for theirs, found in _side_by_side(src, dst) if theirs is None and found is not None)
        drop = partial(_dropped, src=src, dst=dst)
        if report.is_whole:
            _take_all(spread(drop, extra, executor=executor, jobs=jobs), take)
        else:
            for ours in extra:
                take(_kept(ours))
    return report


def _take_all(outcomes: Generator[Transferred], take: Callable[[Transferred], None]) -> None:
    """Take every outcome; raise the error of a medium that does not answer any more.

    However it ends, nothing is under way any more then.
    """
    silent = 0
    with closing(outcomes):
        for outcome in outcomes:
            take(outcome)
            silent = silent + 1 if isinstance(outcome.error, Unavailable) else 0
            if silent == _SILENT and outcome.error is not None:
                raise outcome.error


def _check_not_empty(src: Store, dst: Store, report: Mirrored, *, force: bool) -> None:
    seen = report.copied + report.replaced + report.same + report.conflict + report.failed
    if not (seen or force) and next(dst.list(), None) is not None:
        raise Misconfigured(
            f"{src.where} has no blobs, and all of {dst.where} would be deleted: check that it is the right one,"
            " or force it"
        )


def _check_apart(src: Store, dst: Store) -> None:
    if isinstance(dst, Pair):
        raise Misconfigured(
            f"{dst.where} are two stores, the second of which hides what the first has not: copy to the first"
        )
    if dst.readonly:
        raise Denied(f"cannot mirror anything into {dst.where}: it is open for reading only")
    if src.id == dst.id and (src.prefix.startswith(dst.prefix) or dst.prefix.startswith(src.prefix)):
        remedy = "give it an identity of its own: remove its .pkgstore/store.json, and run `pkgstore init`"
        if src.encrypted:  # as its keys are bound to it
            remedy = "it has to keep that identity: make a new store, and mirror into that"
        raise Misconfigured(
            f"{src.where} and {dst.where} are one store, {src.id}: name two. If one is a copy made by other means,"
            f" {remedy}"
        )


def _side_by_side(src: Store, dst: Store) -> Iterator[tuple[Blob | None, Blob | None]]:
    """Yield what each store has under each key, sorted by key."""
    left, right = src.list(), dst.list()
    theirs, ours = next(left, None), next(right, None)
    while theirs is not None or ours is not None:
        if ours is None or (theirs is not None and theirs.key < ours.key):
            yield theirs, None
            theirs = next(left, None)
        elif theirs is None or ours.key < theirs.key:
            yield None, ours
            ours = next(right, None)
        else:
            yield theirs, ours
            theirs, ours = next(left, None), next(right, None)


def _settled(both: tuple[Blob, Blob | None], src: Store, dst: Store, *, replace: bool) -> Transferred:
    """See that the destination has a blob of the source."""
    theirs, ours = both
    try:
        with _large if theirs.size > _LARGE else nullcontext():  # drivers hold some MiB of each
            return _settle(theirs, ours, src, dst, replace=replace)
    except NotFound:
        return Transferred(theirs.key, "gone", theirs.size)
    except _OF_ONE_BLOB as exc:
        return Transferred(theirs.key, "failed", theirs.size, str(exc), exc)


def _settle(theirs: Blob, ours: Blob | None, src: Store, dst: Store, *, replace: bool) -> Transferred:
    key = theirs.key
    there = _compared(src, dst, theirs, ours) if ours is not None else "none"
    if there == "same":
        return Transferred(key, "same", theirs.size)
    if there == "other":
        if replace:
            return _copied(key, src, dst, replace=True)
        now = dst._found(key)
        if _is_there(src, theirs) and now is not None and ours is not None and now.tag == ours.tag:
            return _conflict(key, dst)  # and it was not just so when they were listed
    outcome = _copied(key, src, dst, replace=False)
    return _copied(key, src, dst, replace=True) if outcome.fate == "conflict" and replace else outcome


def _conflict(key: str, dst: Store) -> Transferred:
    return Transferred(key, "conflict", 0, f"{shown(key)} is in {dst.where} with other bytes, which it keeps")


def _compared(src: Store, dst: Store, theirs: Blob, ours: Blob) -> Literal["same", "other", "none"]:
    """Say what the destination has. Raises `NotFound` when the source has nothing any more."""
    if theirs.size != ours.size:
        return "other"
    if "sha256" not in theirs.digests:
        theirs = src.adopt(theirs.key)
    try:
        if "sha256" not in ours.digests:
            ours = dst.adopt(ours.key)
    except NotFound:
        return "none"
    return "same" if theirs.digests["sha256"] == ours.digests["sha256"] else "other"


def _copied(key: str, src: Store, dst: Store, *, replace: bool) -> Transferred:
    """Copy what the source has; raises `NotFound` when it has nothing any more, and leaves nothing of it then.

    Who deletes from a pair of stores takes a blob out of the old one first, and then out of the new one: either finds
    what is made here, or is seen here.
    """
    for _ in range(_TRIES):
        with src.open(key, fresh=True) as reader:
            blob = reader.blob
            digests = {name: value for name, value in blob.digests.items() if name in ALGORITHMS}
            body = LooksLast(reader, partial(_check_there, src, blob))
            try:
                made = dst.publish(key, body, digests=digests, size=blob.size, replace=replace)
            except Exists as exc:
                if exc.identical:
                    return Transferred(key, "same", blob.size)
                if exc.blob is not None and _is_there(src, blob):
                    return _conflict(key, dst)
                continue
            except _Changed:
                continue
        try:
            is_there = _is_there(src, blob)
        except NotFound:
            dst.delete(key, tag=made.tag)
            raise
        if not is_there:
            dst.delete(key, tag=made.tag)
            continue
        return Transferred(key, "replaced" if replace else "copied", blob.size)
    raise Unavailable(f"{shown(key)} in {src.where}, or in {dst.where}, changes all the time: mirror it again", key=key)


class _Changed(Exception):
    """The source has another version now."""


def _check_there(src: Store, blob: Blob) -> None:
    if not _is_there(src, blob):
        raise _Changed


def _is_there(src: Store, blob: Blob) -> bool:
    """Say whether the source still has these bytes. Raises `NotFound` when it has nothing any more."""
    now = src.stat(blob.key)
    return now.tag == blob.tag or ("sha256" in now.digests and now.digests["sha256"] == blob.digests.get("sha256"))


def _kept(blob: Blob) -> Transferred:
    return Transferred(blob.key, "extra", blob.size)


def _dropped(blob: Blob, src: Store, dst: Store) -> Transferred:
    """Delete from the destination what the source has not."""
    try:
        try:
            src.stat(blob.key)
        except NotFound:
            dst.delete(blob.key, tag=blob.tag)
            return Transferred(blob.key, "deleted", blob.size)
        return Transferred(blob.key, "extra", blob.size)  # published at the source meanwhile
    except _OF_ONE_BLOB as exc:
        return Transferred(blob.key, "failed", blob.size, str(exc), exc)
