"""Two stores as one, while blobs move from one to the other."""

from __future__ import annotations

import contextlib
import heapq
from operator import attrgetter
from typing import TYPE_CHECKING, Any, TypeVar

from pkgstore.errors import Denied, Exists, NotFound
from pkgstore.keys import shown
from pkgstore.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from pkgstore.accounts import Usage
    from pkgstore.bodies import PublishBody
    from pkgstore.driver import Blob, Leftover
    from pkgstore.reading import Reader

_T = TypeVar("_T")

_NO_VERSION = ""


class Pair(Store):
    """A new store before an old one, as `pkgstore.open` makes it of two URLs.

    Reading
        A blob is that of the new store; where it has none, that of the old. A listing merges both, sorted, and shows
        each key once. A copy that a mirror makes has the same bytes, and a tag of its own.
    Publishing
        Goes to the new store. A key that is in either is taken, and publishing it raises `Exists`. This holds among all
        who publish through such a pair. Who still publishes to the old store alone may take a key there at the same
        moment, so that both stores have it: the new one's blob is then what is read.
    Deleting
        Takes a blob out of both, first out of the old one, and then what a mirror has made of it in the new one
        meanwhile; so it does not stay, unless that mirror is killed at this very moment. Raises `Denied` when the old
        store has it and is open for reading only.
    All else
        Identity, usage, quota, leases, leftovers, catalog, trash and driver are the new store's alone. What has not
        been moved yet takes no room of its quota.
    """

    def __init__(self, new: Store, old: Store) -> None:
        super().__init__(new._calls, **new._parts())
        self.new = new
        self.old = old

    @property
    def where(self) -> str:
        """The URLs of both, for people to read."""
        return f"{self.new.where}, before {self.old.where}"

    # -- publishing ---------------------------------------------------------------------------------------------------

    def _put(self, path: str, key: str, source: PublishBody, *, replace: bool) -> Blob:
        if not replace and self.old._found(key) is not None:
            source.read_through()
            raise Exists(f"{shown(key)} is in {self.old.where}", key=key)
        return super()._put(path, key, source, replace=replace)

    def delete(self, key: str, *, tag: str | None = None) -> bool:
        self._check_writable("delete", key)
        new, old = self.new._found(key), self.old._found(key)
        seen = new or old
        if tag is not None and (seen is None or seen.tag != tag):
            return False
        if old is not None and self.old.readonly:
            raise Denied(
                f"cannot delete {key!r}: {self.old.where}, which has it too, is open for reading only", key=key
            )
        was_old = was_new = False
        if not self.old.readonly:
            was_old = self.old.delete(key, tag=tag if new is None else None)
        now = self.new._found(key)
        if now is None or _is_version(now, new) or _is_copy(now, old):  # and not what others publish there now
            was_new = self.new.delete(key, tag=now.tag if now else _NO_VERSION)
        if tag is None:
            return seen is not None
        return was_new or (was_old and (new is None or _is_copy(new, old)))

    # -- reading ------------------------------------------------------------------------------------------------------

    def open(self, key: str, *, verify: bool = True, fresh: bool = False) -> Reader:
        return self._either(key, lambda store: store.open(key, verify=verify, fresh=fresh))

    def stat(self, key: str) -> Blob:
        return self._either(key, lambda store: store.stat(key))

    def adopt(self, key: str) -> Blob:
        return self._either(key, lambda store: store.adopt(key))

    def local_path(self, key: str) -> Path:
        return self._either(key, lambda store: store.local_path(key))

    def url(self, key: str, *, expires: float) -> str:
        return self._either(key, lambda store: store.url(key, expires=expires))

    def list(self, prefix: str = "") -> Iterator[Blob]:
        return _merged(self.new.list(prefix), self.old.list(prefix))

    def _found(self, key: str) -> Blob | None:
        return self.new._found(key) or self.old._found(key)

    def _either(self, key: str, ask: Callable[[Store], _T]) -> _T:
        try:
            return ask(self.new)
        except NotFound:
            pass
        try:
            return ask(self.old)
        except NotFound as exc:
            raise NotFound(f"{shown(key)} is neither in {self.new.where} nor in {self.old.where}", key=key) from exc

    # -- what is the new store's alone --------------------------------------------------------------------------------

    def usage(self, *, recount: bool = False) -> Usage:
        return self.new.usage(recount=recount)

    def set_quota(self, bytes: int | str | None = None, *, blobs: int | None = None) -> None:  # noqa: A002
        self.new.set_quota(bytes, blobs=blobs)

    def warm(
        self,
        prefix: str = "",
        *,
        jobs: int = 16,
        share: bool = False,
        progress: Callable[[Blob], object] | None = None,
    ) -> int:
        return self.new.warm(prefix, jobs=jobs, share=share, progress=progress)

    def leftovers(self, *, remove: bool = False) -> Iterator[Leftover]:
        return self.new.leftovers(remove=remove)

    # -- the stores themselves ----------------------------------------------------------------------------------------

    def _view(self, prefix: str) -> Store:
        return Pair(self.new._view(prefix), self.old._view(prefix))

    def close(self) -> None:
        with contextlib.ExitStack() as stack:
            stack.callback(self.old.close)
            self.new.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return Pair, (self.new, self.old)


def _is_version(now: Blob, seen: Blob | None) -> bool:
    return seen is not None and now.tag == seen.tag


def _is_copy(now: Blob, old: Blob | None) -> bool:
    """Say whether a blob of the new store may have been copied from one of the old."""
    if old is None or now.size != old.size:
        return False
    return "sha256" not in old.digests or now.digests.get("sha256") == old.digests["sha256"]


def _merged(new: Iterator[Blob], old: Iterator[Blob]) -> Iterator[Blob]:
    last = None
    for blob in heapq.merge(new, old, key=attrgetter("key")):
        if blob.key != last:
            last = blob.key
            yield blob
