"""What a share keeps to, tried on files of our own, for `pkgstore doctor`."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from pkgstore import keys
from pkgstore.driver import Finding
from pkgstore.drivers.smb import messages
from pkgstore.drivers.smb.errors import COLLISION, SHARING_VIOLATION, SMBError
from pkgstore.drivers.smb.handles import Handle, opened
from pkgstore.drivers.smb.staging import ATTRIBUTE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pkgstore.drivers.smb.link import Link
    from pkgstore.drivers.smb.pool import Pool
    from pkgstore.drivers.smb.tree import Tree

_FOLDER = f"{keys.CONTROL}/doctor"
_MINE = messages.READ_DATA | messages.WRITE_DATA | messages.WRITE_EA | messages.DELETE | messages.LOOK
_UNIT = 10_000_000
_SINCE_1601 = 11_644_473_600
_SKEW = 60.0
_LITTLE = 1 << 30


def examine(pool: Pool, tree: Tree) -> Iterator[Finding]:
    """Look at the share and try things on it, in a folder of our own that is removed again."""
    yield from _connection(pool)
    folder = f"{_FOLDER}/{os.urandom(8).hex()}"
    try:
        tree.make(folder.split("/"))
    except SMBError as exc:
        yield Finding("write", "error", f"Nothing can be written below the store's folder: {exc}.", exc.remedy)
        return
    yield Finding("write", "ok", "Files and folders can be made below the store's folder.")
    trial = _Trial(pool, tree, folder)
    try:
        yield trial.clock()
        for name, attempt in (
            ("case", trial.case),
            ("extended-attributes", trial.attributes),
            ("hard-links", trial.exclusive),
            ("replace-under-reader", trial.replace),
            ("delete-exclusion", trial.exclusion),
            ("flush", trial.flush),
            ("space", trial.space),
        ):
            try:
                yield attempt(name)
            except SMBError as exc:
                yield Finding(name, "error", f"It could not be tried: {exc}.", exc.remedy)
    finally:
        for name, _ in tree.entries(f"{folder}/"):
            opened(pool.any(), messages.create(tree.path(f"{folder}/{name}"), messages.DELETE))[0].discard()
        tree.prune(f"{folder}/-")


def _connection(pool: Pool) -> Iterator[Finding]:
    settings, link = pool.settings, pool.any()
    version = f"{link.dialect >> 8}.{link.dialect >> 4 & 0xF}.{link.dialect & 0xF}"
    where = f"The share {settings.share!r} of {settings.where} is reached with SMB {version}"
    if link.dialect < 0x0300:
        yield Finding("protocol", "warning", f"{where}.", "Enable SMB 3 on the server, which can encrypt.")
    else:
        yield Finding("protocol", "ok", f"{where}.")
    if link.encrypted:
        yield Finding("protection", "ok", "What is sent is encrypted.")
    else:
        yield Finding(
            "protection",
            "note",
            "What is sent is signed, and not encrypted: it cannot be changed on its way, and can be read.",
            "Add encrypt=true to the URL where others share the network.",
        )


class _Trial:
    """What is tried in one folder. Each verb returns what it found, under the name that it is given."""

    def __init__(self, pool: Pool, tree: Tree, folder: str) -> None:
        self._pool = pool
        self._tree = tree
        self._folder = folder

    def clock(self) -> Finding:
        before = time.time()
        create = messages.create(self._path("clock"), _MINE, disposition=messages.CREATE)
        answer, _ = self._pool.any().call(create, messages.close())
        after = time.time()
        server = messages.written_at(answer.checked()) / _UNIT - _SINCE_1601
        skew = max(0.0, before - server, server - after)
        if skew <= _SKEW:
            return Finding("clock", "ok", f"The server's clock and ours differ by {skew:.1f} s at most.")
        return Finding(
            "clock",
            "warning",
            f"The server's clock and ours differ by {skew:.0f} s, which Kerberos does not bear, and blobs' times show.",
            "Have both set by NTP.",
        )

    def case(self, name: str) -> Finding:
        self._file("Case").close()
        (answer, _) = self._pool.any().call(messages.create(self._path("case"), messages.LOOK), messages.close())
        if answer.status:
            return Finding(name, "ok", "The share tells names apart that differ in case only.")
        return Finding(
            name,
            "note",
            "The share does not tell names apart that differ in case only: the second of two such keys is refused.",
        )

    def attributes(self, name: str) -> Finding:
        with self._file("attributes") as handle:
            (answer,) = handle.link.call(messages.set_attribute(ATTRIBUTE, b"1", handle.id))
        if not answer.status:
            return Finding(name, "ok", "Digests are kept on the files themselves, as extended attributes.")
        return Finding(
            name,
            "note",
            "The share keeps no extended attributes: digests lie beside the files, which takes longer.",
            "Allow them on the server (Samba: ea support = yes).",
        )

    def exclusive(self, name: str) -> Finding:
        with self._file("link") as handle:
            first, second = (handle.link.call(messages.link(self._path("name"), handle.id))[0] for _ in range(2))
        if not first.status and second.status == COLLISION:
            return Finding(name, "ok", "A hard link gives a name to one publisher only.")
        return Finding(
            name,
            "error",
            "The share has no hard links that refuse a name which is taken: two publishers could both win.",
            "Put the store on another medium.",
        )

    def replace(self, name: str) -> Finding:
        self._file("old").close()
        link = self._pool.naming()
        with self._open("old", messages.READ_DATA), self._file("new", link) as new:
            (answer,) = link.call(messages.rename(self._path("old"), new.id, replace=True))
            if answer.status:
                (answer,) = link.call(messages.rename_posix(self._path("old"), new.id))
        if not answer.status:
            return Finding(name, "ok", "A blob can be replaced while it is being read.")
        return Finding(
            name,
            "warning",
            f"The server replaces no file that is being read (status {answer.status:#010x}): who replaces has to wait.",
            "Publish under new names, and replace only what is seldom read.",
        )

    def exclusion(self, name: str) -> Finding:
        one, other = self._pool.naming(), self._pool.any()
        with self._file("held", one, messages.SHARE_BUT_DELETE):
            create = messages.create(self._path("held"), messages.DELETE)
            (answer, _) = other.call(create, messages.close())
        if answer.status == SHARING_VIOLATION:
            return Finding(name, "ok", "A file that is being written is kept from being removed by others.")
        return Finding(
            name,
            "error",
            "The server lets others remove a file that is open and not shared for that: staged files are not safe.",
            "Allow share modes on the server (Samba: share modes are on unless switched off).",
        )

    def flush(self, name: str) -> Finding:
        with self._tree.folder(f"{self._folder}/-") as folder:
            (answer,) = folder.link.call(messages.flush(folder.id))
        if not answer.status:
            return Finding(name, "ok", "Folders are flushed to the medium after a change.")
        return Finding(
            name,
            "warning",
            f"The server flushes no folders (status {answer.status:#010x}): a name may be lost when its power fails.",
            "Give the server a medium that keeps to the order of writes, and an uninterruptible power supply.",
        )

    def space(self, name: str) -> Finding:
        with self._tree.folder(f"{self._folder}/-") as folder:
            free, total = messages.space(folder.do(messages.query_space(folder.id)))
        says = f"{free >> 20:,} MiB are free, {free / max(total, 1):.0%} of all."
        if free < _LITTLE:
            return Finding(name, "warning", says, "Free some space, or enlarge the medium.")
        return Finding(name, "ok", says)

    def _path(self, name: str) -> str:
        return self._tree.path(f"{self._folder}/{name}")

    def _file(self, name: str, link: Link | None = None, share: int = messages.SHARE_ALL) -> Handle:
        create = messages.create(self._path(name), _MINE, share, messages.CREATE)
        return opened(link or self._pool.any(), create)[0]

    def _open(self, name: str, access: int) -> Handle:
        return opened(self._pool.any(), messages.create(self._path(name), access))[0]
