"""From an archive to a store: every blob is verified before it is visible, and what is there already is left alone."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from pkgstore.archive.items import Item, Refused
from pkgstore.archive.publishing import Outcome, Publishing
from pkgstore.hashing import CHUNK, Hasher
from pkgstore.spread import Sending, check_jobs, workers

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Executor, Future

    from pkgstore import Store
    from pkgstore.archive.manifest import Entry, Kind
    from pkgstore.archive.walking import Walk

_SMALL = 8 << 20
_AHEAD_BYTES = 24 << 20


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
        executor: Executor | None,
        jobs: int,
    ) -> None:
        check_jobs(jobs)
        super().__init__(walk, told)
        self._publishing = Publishing(store, replace, apply_changes)
        self._apply = apply_changes
        self._any_base = any_base
        self._executor = executor
        self._jobs = jobs
        self._workers: Executor
        self._small: Sending[tuple[Item, bytes], Outcome]
        self._waiting: deque[tuple[Item, Future[Outcome]]] = deque()
        self._comparing: deque[tuple[Entry, Future[Outcome]]] = deque()
        self._ahead = 0
        self._based = self._found = 0

    def run(self) -> Restored:
        """Restore it all. Raises also what `Store.publish` raises of the store as a whole, such as `Full`."""
        with workers(self._executor, self._jobs) as self._workers:
            self._small = Sending(self._publishing.whole, self._workers)
            try:
                return super().run()
            finally:
                for _, future in (*self._waiting, *self._comparing):
                    if not future.cancel() and future.exception() is None:
                        self._tell(future.result())

    def _take(self, item: Item) -> None:
        if item.size > _SMALL:
            self._settled(item, self._publishing.streamed(item, self._walk))
            return
        while self._waiting and (self._ahead + item.size > _AHEAD_BYTES or len(self._waiting) >= 2 * self._jobs):
            self._settle_one()
        body = self._walk.read_all()
        self._ahead += item.size
        self._waiting.append((item, self._small.submit((item, body))))

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

    # -- what the manifest says besides -------------------------------------------------------------------------------

    def _finish(self) -> None:
        self._each("kept", self._publishing.kept)
        if self._apply:
            self._each("deleted", partial(self._publishing.gone, why=self._why_to_withhold()))

    def _each(self, kind: Kind, compare: Callable[[Entry], Outcome]) -> None:
        compared = Sending(compare, self._workers)
        for entry in self._walk.rest():
            if entry.kind == kind:
                while len(self._comparing) >= 2 * self._jobs:
                    self._settle_entry()
                self._comparing.append((entry, compared.submit(entry)))
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

    def _why_to_withhold(self) -> str:
        """Say why nothing is to be deleted; empty where it may be."""
        if self.report.damaged or self.report.refused:
            return "it is not deleted, as something in the archive is damaged or was refused"
        if self._any_base or 0 < self._based <= 2 * self._found:
            return ""
        return f"it is not deleted, as the store has {self._found:,} of the base's {self._based:,} other blobs"


def _left_out(found: Refused) -> Outcome:
    return Outcome(found.name, "left out" if found.is_ours else "refused", found.why)
