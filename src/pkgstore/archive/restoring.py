"""From an archive to a store: every blob is verified before it is visible, and what is there already is left alone."""

from __future__ import annotations

import hashlib
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal

from pkgstore.archive.walking import Item, Refused
from pkgstore.errors import Corrupt, Exists, InvalidKey, Misconfigured, NotFound
from pkgstore.hashing import CHUNK, Hasher

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

    from pkgstore import Blob, Store
    from pkgstore.archive.manifest import Entry, Kind
    from pkgstore.archive.walking import Walk

_SMALL = 8 << 20
_AHEAD_BYTES = 24 << 20

Fate = Literal[
    "new", "same", "replaced", "deleted", "conflict", "damaged", "refused", "withheld", "left out", "missing"
]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one blob, or of a member of the archive that is none; ``why`` where it is not as it should be."""

    key: str
    fate: Fate
    why: str = ""


@dataclass(slots=True)
class Restored:
    """What a restore did, or what a verification found.

    ``new``, ``same``, ``replaced`` and ``deleted`` count blobs that are now as the archive says; ``conflict`` those of
    which the store has another version, that stays; ``damaged`` those whose bytes in the archive are not what its
    manifest says; ``refused`` what cannot be a blob, ``left_out`` control files, and ``missing`` blobs that the archive
    leaves to its base, and that the store does not have. ``withheld`` are those that would have been deleted, had all
    else been in order. ``bytes`` are those of all blobs in the archive.

    ``has_manifest`` is false for a tar file that others made, of which nothing can be verified but that it is whole.
    ``signature`` is ``good``, ``unchecked`` or ``none``; ``base`` and ``sha256`` are the digests of the manifests.
    """

    new: int = 0
    same: int = 0
    replaced: int = 0
    deleted: int = 0
    conflict: int = 0
    damaged: int = 0
    refused: int = 0
    withheld: int = 0
    left_out: int = 0
    missing: int = 0
    blobs: int = 0
    bytes: int = 0
    has_manifest: bool = False
    signature: str = "none"
    base: str | None = None
    sha256: str = ""

    def count(self, outcome: Outcome) -> None:
        """Take notice of an outcome."""
        name = outcome.fate.replace(" ", "_")
        setattr(self, name, getattr(self, name) + 1)


class Verification:
    """Reads an archive, and restores nothing."""

    def __init__(self, walk: Walk, told: Callable[[Outcome], object]) -> None:
        self.report = Restored()
        self._walk = walk
        self._told = told

    def run(self) -> Restored:
        """Read it all. Raises `Corrupt` and `Denied` where the archive itself is no good."""
        for found in self._walk:
            if isinstance(found, Refused):
                self._tell(_left_out(found))
            else:
                self.report.blobs += 1
                self.report.bytes += found.size
                self._take(found)
        self._settle()
        self._finish()
        self.report.has_manifest = self._walk.has_manifest
        self.report.signature = self._walk.signature
        self.report.base = self._walk.base
        self.report.sha256 = self._walk.sha256 if self._walk.has_manifest else ""
        return self.report

    def _take(self, item: Item) -> None:
        hasher = Hasher(list(item.digests))
        while data := self._walk.read(CHUNK):
            hasher.update(data)
        for name, found in hasher.digests().items():
            if found != item.digests[name]:
                self._tell(Outcome(item.key, "damaged", f"its {name} is {found}, not {item.digests[name]}"))
                return

    def _settle(self) -> None:
        """Wait for what is under way."""

    def _finish(self) -> None:
        """Do what is to be done once the archive was read, and is whole."""

    def _tell(self, outcome: Outcome) -> None:
        self.report.count(outcome)
        self._told(outcome)


class Restore(Verification):
    """Publishes what an archive holds; small blobs several at a time, large ones as they are read."""

    def __init__(
        self,
        walk: Walk,
        store: Store,
        told: Callable[[Outcome], object],
        *,
        replace: bool,
        apply_changes: bool,
        any_base: bool,
        jobs: int,
    ) -> None:
        if jobs < 1:
            raise Misconfigured(f"{jobs} uploads at a time are none: let there be 1 or more")
        super().__init__(walk, told)
        self._store = store
        self._replace = replace
        self._apply = apply_changes
        self._any_base = any_base
        self._jobs = jobs
        self._pool: ThreadPoolExecutor | None = None
        self._waiting: deque[tuple[Item, Future[Outcome]]] = deque()
        self._comparing: deque[tuple[Entry, Future[Outcome]]] = deque()
        self._ahead = 0
        self._based = self._found = 0

    def run(self) -> Restored:
        """Restore it all. Raises also what `Store.publish` raises of the store as a whole, such as `Full`."""
        with ThreadPoolExecutor(self._jobs, thread_name_prefix="pkgstore-restore") as self._pool:
            try:
                return super().run()
            finally:
                for _, future in (*self._waiting, *self._comparing):
                    if not future.cancel() and future.exception() is None:
                        self._tell(future.result())

    def _take(self, item: Item) -> None:
        assert self._pool is not None
        if item.size > _SMALL:
            self._settled(item, self._restored(item, None))
            return
        while self._waiting and (self._ahead + item.size > _AHEAD_BYTES or len(self._waiting) >= 2 * self._jobs):
            self._settle_one()
        body = self._walk.read_all()
        self._ahead += item.size
        self._waiting.append((item, self._pool.submit(self._restored, item, body)))

    def _settle_one(self) -> None:
        item, future = self._waiting.popleft()
        self._ahead -= item.size
        self._settled(item, future.result())

    def _settled(self, item: Item, outcome: Outcome) -> None:
        if item.replaces is not None:
            self._based += 1
            self._found += outcome.fate in ("same", "replaced")
        self._tell(outcome)

    def _settle(self) -> None:
        while self._waiting:
            self._settle_one()

    def _restored(self, item: Item, body: bytes | None) -> Outcome:
        """Restore a blob, whose body is that at hand unless it is given."""
        try:
            there = self._there(item.key)
            if there is None:
                self._publish(item, body, replace=False)
                return Outcome(item.key, "new")
            if self._replace and body is None and not item.digests:  # to compare it would be to read it, once for all
                self._publish(item, body, replace=True)
                return Outcome(item.key, "replaced")
            if (
                there.size == item.size
                and there.digests["sha256"] == self._sha256(item, body)
                and not (self._replace and self._has_rotted(item.key))
            ):
                return Outcome(item.key, "same")
            if self._replace or (self._apply and there.digests["sha256"] == item.replaces):
                self._publish(item, body, replace=True)
                return Outcome(item.key, "replaced")
        except Exists as exc:  # somebody else has published it since
            return Outcome(item.key, "same") if exc.identical else Outcome(item.key, "conflict", _CONFLICT)
        except InvalidKey as exc:
            return Outcome(item.key, "refused", str(exc))
        except Corrupt as exc:
            if body is None and self._walk.is_broken:
                raise
            return Outcome(item.key, "damaged", str(exc))
        return Outcome(item.key, "conflict", _CONFLICT)

    def _publish(self, item: Item, body: bytes | None, *, replace: bool) -> None:
        source = self._walk if body is None else body
        self._store.publish(item.key, source, digests=item.digests, size=item.size, replace=replace)

    def _there(self, key: str) -> Blob | None:
        """Return what is there, with its sha256."""
        try:
            blob = self._store.stat(key)
            return blob if "sha256" in blob.digests else self._store.adopt(key)
        except NotFound:
            return None

    def _has_rotted(self, key: str) -> bool:
        """Read what is there: the medium's recorded digest may be all that is left of it."""
        try:
            with self._store.open(key, fresh=True) as reader:
                while reader.read(CHUNK):
                    pass
        except (Corrupt, NotFound):
            return True
        return False

    def _sha256(self, item: Item, body: bytes | None) -> str:
        if item.digests:
            return item.digests["sha256"]
        found = hashlib.sha256(body or b"")
        while body is None and (data := self._walk.read(CHUNK)):
            found.update(data)
        return found.hexdigest()

    # -- what the manifest says besides -------------------------------------------------------------------------------

    def _finish(self) -> None:
        self._each("kept", self._kept)
        if self._apply:
            why = self._why_to_withhold()
            self._each("deleted", partial(self._gone, why))

    def _each(self, kind: Kind, compare: Callable[[Entry], Outcome]) -> None:
        assert self._pool is not None
        for entry in self._walk.rest():
            if entry.kind == kind:
                while len(self._comparing) >= 2 * self._jobs:
                    self._settle_entry()
                self._comparing.append((entry, self._pool.submit(self._compared, entry, compare)))
        while self._comparing:
            self._settle_entry()

    def _settle_entry(self) -> None:
        entry, future = self._comparing.popleft()
        outcome = future.result()
        if entry.kind == "kept":
            self._based += 1
            self._found += outcome.fate == "same"
        if outcome.fate != "same":
            self._tell(outcome)

    def _compared(self, entry: Entry, compare: Callable[[Entry], Outcome]) -> Outcome:
        try:
            return compare(entry)
        except InvalidKey as exc:
            return Outcome(entry.key, "refused", str(exc))

    def _kept(self, entry: Entry) -> Outcome:
        there = self._there(entry.key)
        if there is None:
            return Outcome(entry.key, "missing", "the archive leaves it to its base, which is to be restored first")
        is_it = there.digests["sha256"] == entry.digests["sha256"]
        return Outcome(entry.key, "same") if is_it else Outcome(entry.key, "conflict", _CONFLICT)

    def _gone(self, why: str, entry: Entry) -> Outcome:
        there = self._there(entry.key)
        if there is None:
            return Outcome(entry.key, "same")
        if there.digests["sha256"] != entry.digests["sha256"]:
            return Outcome(entry.key, "conflict", "it was deleted, but the store has another version, which stays")
        if why:
            return Outcome(entry.key, "withheld", why)
        self._store.delete(entry.key)
        return Outcome(entry.key, "deleted")

    def _why_to_withhold(self) -> str:
        """Say why nothing is to be deleted; empty where it may be."""
        if self.report.damaged or self.report.refused:
            return "it is not deleted, as something in the archive is damaged or was refused"
        if self._any_base or 0 < self._based <= 2 * self._found:
            return ""
        return f"it is not deleted, as the store has {self._found:,} of the base's {self._based:,} other blobs"


_CONFLICT = "the store has another version, which stays"


def _left_out(found: Refused) -> Outcome:
    return Outcome(found.name, "left out" if found.is_ours else "refused", found.why)
