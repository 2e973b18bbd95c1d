"""What an archive continues: the manifest of an earlier one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

from pkgstore import keys
from pkgstore.archive import manifest
from pkgstore.errors import Misconfigured
from pkgstore.hashing import CHUNK

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pkgstore import Store
    from pkgstore.archive.local import Readable


@dataclass(frozen=True, slots=True)
class Base:
    """The manifest of an earlier archive: where its entries begin, its digest, and what it is of."""

    file: BinaryIO
    start: int
    sha256: str
    head: manifest.Head

    @classmethod
    def read(cls, source: Readable, copy: BinaryIO) -> Base:
        """Take a manifest from a file of its own. Raises `Misconfigured`."""
        running, starts = manifest.Running(), dict[manifest.Kind, int]()
        while data := source.read(CHUNK):
            copy.write(data)
            running.add_text(data)
        try:
            head = next(manifest.lines(copy), b"")
            parsed = manifest.parsed_head(head)
            for entry in manifest.entries(copy, len(head) + 1, starts=starts):
                parsed.check(entry)
            manifest.check_kinds(copy, starts)
        except ValueError as exc:
            raise Misconfigured(f"the earlier manifest is no good: {exc}; give the archive itself") from None
        return cls(copy, len(head) + 1, running.digest, parsed)

    def check(self, store: Store) -> None:
        """Raise `Misconfigured` where it is of another store or scope, all of which would be taken for deleted."""
        if (self.head.store, self.head.scope) != (store.id, store.prefix):
            raise Misconfigured(
                f"the earlier archive is of the store {_named(self.head.store, self.head.scope)}, and this is"
                f" {_named(store.id, store.prefix)}: give one of the same store and scope, or make one without a base"
            )

    def blobs(self) -> Iterator[manifest.Entry]:
        """Yield the blobs that the store had then, sorted by key."""
        mine, kept = self._of("key"), self._of("kept")
        left, right = next(mine, None), next(kept, None)
        while left is not None or right is not None:
            if right is None or (left is not None and left.key < right.key):
                assert left is not None
                yield left
                left = next(mine, None)
            else:
                yield right
                right = next(kept, None)

    def _of(self, kind: manifest.Kind) -> Iterator[manifest.Entry]:
        return (entry for entry in manifest.entries(self.file, self.start) if entry.kind == kind)


def _named(store: str, scope: str) -> str:
    return f"{keys.shown(store)}{scope and f', scope {keys.shown(scope)}'}"
