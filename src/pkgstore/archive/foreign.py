"""What others made: tar files of a folder of packages, that tell nothing of their members but names and sizes."""

from __future__ import annotations

import sqlite3
import tempfile
from typing import TYPE_CHECKING, Self

from pkgstore import keys
from pkgstore.archive import local
from pkgstore.archive.items import Item, Limits, Refused
from pkgstore.errors import InvalidKey

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pkgstore.archive.tarring import Member

_LOST = "lost+found"


def judged(members: Iterator[Member], strip: int, limits: Limits) -> Iterator[Item | Refused]:
    """Yield what each member is, but for folders; ``strip`` leading folders are left out of each name."""
    with _Seen() as seen:
        for member in members:
            if not member.is_folder or member.refusal:
                yield _judged(member, strip, limits, seen)


def _judged(member: Member, strip: int, limits: Limits, seen: _Seen) -> Item | Refused:
    if member.name is None:
        return Refused("?", "its name is not UTF-8")
    shown = keys.shown(member.name)
    name = member.name
    while name.startswith("./"):
        name = name[2:]
    parts = whole = name.split("/")
    if not name.startswith("/"):
        if len(parts) <= strip or not {"", ".", ".."}.isdisjoint(parts[:strip]):
            return Refused(shown, f"its name has no more than the {strip} folders that are left out")
        parts = parts[strip:]
    key = "/".join(parts)
    if keys.CONTROL in whole or parts[0] == _LOST:
        return Refused(shown, "no package: it belongs to pkgstore or to the file system", is_ours=True)
    if member.refusal:
        return Refused(shown, f"it is {member.refusal}")
    try:
        keys.check(key)
    except InvalidKey as exc:
        return Refused(shown, str(exc))
    if excess := limits.excess(member.size):
        return Refused(shown, excess)
    if not seen.add(key):
        return Refused(shown, "the archive has it twice; the first one counts")
    return Item(key, member.size, {})


class _Seen:
    """Which names there were: on disk, when there are many."""

    def __enter__(self) -> Self:
        with local.temporary(), tempfile.NamedTemporaryFile() as file:  # its name goes at once, as of all of them
            self._names = sqlite3.connect(file.name, isolation_level=None)
            self._names.execute("PRAGMA journal_mode=OFF")
            self._names.execute("PRAGMA synchronous=OFF")
            self._names.execute("BEGIN")
            self._names.execute("CREATE TABLE seen (name TEXT PRIMARY KEY) WITHOUT ROWID")
        return self

    def add(self, name: str) -> bool:
        """Take notice of a name; False when it was there before."""
        with local.temporary():
            return self._names.execute("INSERT OR IGNORE INTO seen VALUES (?)", (name,)).rowcount == 1

    def __exit__(self, *exc: object) -> None:
        self._names.close()
