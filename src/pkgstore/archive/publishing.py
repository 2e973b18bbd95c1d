"""What becomes of one blob of an archive in a store, whichever process is at it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pkgstore.errors import Corrupt, Exists, InvalidKey, NotFound
from pkgstore.hashing import CHUNK

if TYPE_CHECKING:
    from pkgstore import Blob, Store
    from pkgstore.archive.items import Item
    from pkgstore.archive.manifest import Entry
    from pkgstore.archive.walking import Walk

Fate = Literal[
    "new", "same", "replaced", "deleted", "conflict", "damaged", "refused", "withheld", "left out", "missing"
]

_CONFLICT = "the store has another version, which stays"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one blob, or of a member of the archive that is none; ``why`` where it is not as it should be."""

    key: str
    fate: Fate
    why: str = ""


@dataclass(frozen=True, slots=True)
class Publishing:
    """How blobs are to be published in ``store``: whether to ``replace`` others, or to ``apply`` what has changed.

    It can be pickled. Calling it a second time for the same blob finds that it is the same.
    """

    store: Store
    replace: bool
    apply: bool

    def whole(self, found: tuple[Item, bytes]) -> Outcome:
        """Restore a blob, whose body is given."""
        return self._restored(found[0], found[1], None)

    def streamed(self, item: Item, walk: Walk) -> Outcome:
        """Restore the blob that a walk is at."""
        return self._restored(item, b"", walk)

    def kept(self, entry: Entry) -> Outcome:
        """Compare a blob that the archive leaves to its base."""
        try:
            there = self._there(entry.key)
        except InvalidKey as exc:
            return Outcome(entry.key, "refused", str(exc))
        if there is None:
            return Outcome(entry.key, "missing", "the archive leaves it to its base, which is to be restored first")
        is_it = there.digests["sha256"] == entry.digests["sha256"]
        return Outcome(entry.key, "same") if is_it else Outcome(entry.key, "conflict", _CONFLICT)

    def gone(self, entry: Entry, why: str) -> Outcome:
        """Delete a blob that was deleted since the base, unless there is a reason ``why`` not to."""
        try:
            there = self._there(entry.key)
        except InvalidKey as exc:
            return Outcome(entry.key, "refused", str(exc))
        if there is None:
            return Outcome(entry.key, "same")
        if there.digests["sha256"] != entry.digests["sha256"]:
            return Outcome(entry.key, "conflict", "it was deleted, but the store has another version, which stays")
        if why:
            return Outcome(entry.key, "withheld", why)
        if not self.store.delete(entry.key, tag=there.tag):
            return Outcome(entry.key, "conflict", "it was deleted, but others changed it at the same moment")
        return Outcome(entry.key, "deleted")

    def _restored(self, item: Item, body: bytes, walk: Walk | None) -> Outcome:
        try:
            there = self._there(item.key)
            if there is None:
                self._publish(item, body, walk, replace=False)
                return Outcome(item.key, "new")
            if self.replace and walk and not item.digests:  # to compare it would be to read it, once for all
                self._publish(item, body, walk, replace=True)
                return Outcome(item.key, "replaced")
            if (
                there.size == item.size
                and there.digests["sha256"] == _sha256(item, body, walk)
                and not (self.replace and self._has_rotted(item.key))
            ):
                return Outcome(item.key, "same")
            if self.replace or (self.apply and there.digests["sha256"] == item.replaces):
                self._publish(item, body, walk, replace=True)
                return Outcome(item.key, "replaced")
        except Exists as exc:  # somebody else has published it since
            return Outcome(item.key, "same") if exc.identical else Outcome(item.key, "conflict", _CONFLICT)
        except InvalidKey as exc:
            return Outcome(item.key, "refused", str(exc))
        except Corrupt as exc:
            if walk and walk.is_broken:
                raise
            return Outcome(item.key, "damaged", str(exc))
        return Outcome(item.key, "conflict", _CONFLICT)

    def _publish(self, item: Item, body: bytes, walk: Walk | None, *, replace: bool) -> None:
        self.store.publish(item.key, walk or body, digests=item.digests, size=item.size, replace=replace)

    def _there(self, key: str) -> Blob | None:
        """Return what is there, with its sha256."""
        try:
            blob = self.store.stat(key)
            return blob if "sha256" in blob.digests else self.store.adopt(key)
        except NotFound:
            return None

    def _has_rotted(self, key: str) -> bool:
        """Read what is there: the medium's recorded digest may be all that is left of it."""
        try:
            with self.store.open(key, fresh=True) as reader:
                while reader.read(CHUNK):
                    pass
        except (Corrupt, NotFound):
            return True
        return False


def _sha256(item: Item, body: bytes, walk: Walk | None) -> str:
    if item.digests:
        return item.digests["sha256"]
    found = hashlib.sha256(body)
    while walk and (data := walk.read(CHUNK)):
        found.update(data)
    return found.hexdigest()
