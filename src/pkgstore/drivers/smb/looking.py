"""Looking at the blobs of a share: what is open, what is in a folder, and the records that go with it."""

from __future__ import annotations

import contextlib
import hashlib
from typing import TYPE_CHECKING, NamedTuple

from pkgstore import keys
from pkgstore.driver import Blob
from pkgstore.drivers import records
from pkgstore.drivers.records import Record, identity
from pkgstore.drivers.smb import messages
from pkgstore.drivers.smb.errors import IS_A_DIRECTORY, MISSING, NO_ATTRIBUTES, SMBError, refused
from pkgstore.drivers.smb.handles import Handle, looked_at, opened, seen
from pkgstore.drivers.smb.staging import ATTRIBUTE
from pkgstore.errors import Denied, NotFound

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator

    from pkgstore.drivers.smb.link import Answer
    from pkgstore.drivers.smb.pool import Pool
    from pkgstore.drivers.smb.tree import Tree

BESIDE = f"{keys.CONTROL}/digests/"
"""Below which the records of files lie that cannot carry them."""

READ = messages.READ_DATA | messages.LOOK
_LONGEST_RECORD = 4096
_HIDDEN = {f"{keys.CONTROL}/", "lost+found/"}


class There(NamedTuple):
    """A blob that is open: what it is, by the record that goes with it, and what the server says of its file."""

    handle: Handle
    blob: Blob
    status: os.stat_result
    token: str | None

    @contextlib.contextmanager
    def closing(self) -> Iterator[There]:
        """Close the handle at the end."""
        with self.handle:
            yield self


class Looking:
    """What there is to see of one store, without any change to it."""

    def __init__(self, pool: Pool, tree: Tree) -> None:
        self._pool = pool
        self._tree = tree

    def present(self, key: str, *, keep: bool = True) -> There:
        """Open a blob for reading. An absent root is no absent blob.

        One without a record is looked at twice: who replaced it meanwhile may have removed what lay beside.
        """
        last = -1
        while True:
            try:
                there = self.look(key, READ, keep=keep)
            except SMBError as exc:
                if exc.status in MISSING:
                    self._tree.check()
                raise
            if there.blob.digests or there.status.st_ino == last:
                return there
            last = there.status.st_ino
            if keep:
                there.handle.close()

    def look(self, key: str, access: int, share: int = messages.SHARE_ALL, *, keep: bool = True) -> There:
        """Open a blob, and close it at once unless it is to be kept. Raises `OtherCase` for one called nearly so."""
        link = self._pool.any()
        create = messages.create(self._tree.path(key), access, share)
        queries = [*looked_at(link), messages.query_attributes()]
        handle, answers = opened(link, create, *queries, *([] if keep else [messages.close()]))
        try:
            found = seen(link, answers, key.split("/"))
            if found.is_folder:
                raise refused(IS_A_DIRECTORY)
            if found.is_link:
                raise SMBError(Denied, "it is a link, which is not followed", "put a copy of the file there")
            record = self._record(key, found.status, answers[len(queries) - 1])
            return There(handle, blob_of(key, found.status, record), found.status, record.token)
        except BaseException:
            if keep:
                handle.close()
            raise

    def names(self, prefix: str) -> list[tuple[str, messages.Found]]:
        """Return what is in a folder, sorted as keys are: a folder by its name and a slash."""
        named = ((name + "/" * found.is_folder, found) for name, found in self._tree.entries(prefix))
        shown = (each for each in named if not each[1].is_link and (prefix or each[0] not in _HIDDEN))
        return sorted(shown, key=lambda each: each[0])

    def _record(self, key: str, status: os.stat_result, answer: Answer) -> Record:
        packed = None
        if not answer.status:
            packed = messages.attribute(answer.body, ATTRIBUTE)
        elif answer.status not in NO_ATTRIBUTES:
            raise refused(answer.status)
        if packed is None and not key.startswith(BESIDE):
            packed = self._read_beside(key, status)
        return Record({}, None) if packed is None else records.unpacked(packed, status)

    def _read_beside(self, key: str, status: os.stat_result) -> bytes | None:
        path = self._tree.path(beside(key, status))
        read = messages.read(0, _LONGEST_RECORD)
        first, second, _ = self._pool.any().call(messages.create(path, READ), read, messages.close())
        if first.status and refused(first.status).kind is NotFound:
            return None
        first.checked()
        return messages.data(second.checked())


def blob_of(key: str, status: os.stat_result, record: Record) -> Blob:
    """Return what we say of a file, from what the server says of it and from its record."""
    return Blob(key, status.st_size, status.st_mtime, identity(status), record.digests)


def beside(key: str, status: os.stat_result) -> str:
    """Return where the record of a file lies that cannot carry it."""
    name = hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()
    return f"{BESIDE}{name[:2]}/{name[2:34]}.{identity(status)}"
