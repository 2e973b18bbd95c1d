"""The seven verbs on an SMB share."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, BinaryIO, cast

from pkgstore import keys
from pkgstore.driver import Blob, Body, MediumError
from pkgstore.drivers import records
from pkgstore.drivers.records import Record
from pkgstore.drivers.smb import messages
from pkgstore.drivers.smb.errors import (
    ACCESS_DENIED,
    COLLISION,
    DELETE_PENDING,
    IS_A_DIRECTORY,
    MISSING,
    NO_ATTRIBUTES,
    NOT_OFFERED,
    SHARING_VIOLATION,
    SMBError,
    lost,
    refused,
)
from pkgstore.drivers.smb.handles import Handle, OtherCase, patiently
from pkgstore.drivers.smb.looking import BESIDE, READ, Looking, There, beside, blob_of
from pkgstore.drivers.smb.reading import Stream
from pkgstore.drivers.smb.staging import ATTRIBUTE, Staged, Staging
from pkgstore.drivers.smb.tree import Tree, settle
from pkgstore.errors import Denied, Full, InvalidKey, NotFound, StoreError, Unavailable

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator, Mapping

    from pkgstore.driver import Finding
    from pkgstore.drivers.smb.pool import Pool

_log = logging.getLogger("pkgstore")

_TRIES = 100
_GUARD = messages.DELETE | messages.LOOK
_IN_USE = {ACCESS_DENIED, SHARING_VIOLATION}


class SMBDriver:
    """The verbs on a share."""

    scheme = "smb"
    streams = True

    def __init__(self, pool: Pool, prefix: str, *, create: bool) -> None:
        self._pool = pool
        self._tree = Tree(pool, prefix, create=create)
        self._staging = Staging(pool, self._tree)
        self._looking = Looking(pool, self._tree)
        self._exclusive = False

    @property
    def exclusive(self) -> bool:
        """Whether the share has hard links; tried once, on a file of our own. Raises `Unsupported` when it has not."""
        if not self._exclusive:
            self._staging.check_links()
            self._exclusive = True
        return True

    # -- verbs --------------------------------------------------------------------------------------------------------

    def put(
        self, key: str, body: Body, size: int | None, *, digests: Mapping[str, str], exclusive: bool, token: str
    ) -> Blob:
        with self._staging.stage() as staged:
            staged.write(body)
            record = Record(dict(body.finish()), token)
            packed = records.of_publish(record.digests, token)
            carried = staged.attach(packed)
            status = staged.settle().status
            if not carried:
                self._put_beside(key, status, packed)
            try:
                return self._name(staged, key, blob_of(key, status, record), exclusive=exclusive, token=token)
            except SMBError as exc:
                if not carried and exc.kind is not Unavailable:
                    self._forget(key, status)
                raise

    def open(
        self, key: str, start: int = 0, stop: int | None = None, *, tag: str | None = None
    ) -> tuple[Blob, BinaryIO]:
        there = self._looking.present(key)
        if tag is not None and there.blob.tag != tag:
            there.handle.close()
            raise SMBError(NotFound, "that version is gone")
        return there.blob, cast("BinaryIO", Stream(there.handle, there.blob.size, start))

    def stat(self, key: str) -> Blob:
        return self._looking.present(key, keep=False).blob

    def scan(self, prefix: str) -> Iterator[Blob]:
        waiting = [(prefix, iter(self._looking.names(prefix)))]
        while waiting:
            prefix, names = waiting[-1]
            inner = None
            for name, found in names:
                if found.is_folder:
                    inner = prefix + name
                    break
                yield blob_of(prefix + name, found.status, Record({}, None))
            if inner is None:
                waiting.pop()
            elif len(inner) <= keys.LONGEST:
                waiting.append((inner, iter(self._looking.names(inner))))

    def delete(self, key: str, *, tag: str | None = None) -> None:
        gone = self._take_away(key, tag)
        try:
            with self._tree.folder(key) as folder:
                settle(folder)
        except SMBError as exc:
            if exc.kind is not NotFound:
                raise
            self._tree.settle_above(key)  # it was removed by another, who need not have flushed that
        if gone:
            self._tree.prune(key)

    def record_digests(self, blob: Blob, digests: Mapping[str, str]) -> bool:
        access = messages.WRITE_EA | messages.WRITE_DATA | messages.LOOK
        try:
            with self._looking.look(blob.key, access).closing() as there:
                if there.blob.tag != blob.tag:
                    return False
                packed = records.of_adopted(digests, there.status)
                handle = there.handle
                (answer,) = handle.link.call(messages.set_attribute(ATTRIBUTE, packed, handle.id))
                if answer.status in NO_ATTRIBUTES:
                    self._put_beside(blob.key, there.status, packed)
                elif answer.status:
                    raise refused(answer.status)
                handle.do(messages.flush(handle.id))
        except SMBError as exc:
            if exc.kind in (Denied, Full):
                return False
            raise
        return True

    def examine(self) -> Iterator[Finding]:
        from pkgstore.drivers.smb.examining import examine

        return examine(self._pool, self._tree)

    def classify(self, exc: BaseException) -> type[StoreError] | None:
        return exc.kind if isinstance(exc, MediumError) else None

    def close(self) -> None:
        self._staging.finish()
        self._pool.drop()

    # -- naming -------------------------------------------------------------------------------------------------------

    def _name(self, staged: Staged, key: str, blob: Blob, *, exclusive: bool, token: str = "") -> Blob:
        """Give a staged file its name, durably, and return what has it then."""

        def attempt() -> Blob | None:
            with self._tree.folder(key, create=True) as folder:
                named = self._link(staged, key, blob, folder, token) if exclusive else self._replace(staged, key, blob)
                if named is not None:
                    settle(folder)
                return named

        for _ in range(_TRIES):
            try:
                named = patiently(attempt, self._pool.settings.timeout)
            except SMBError as exc:
                if exc.status not in MISSING:  # the last blob of the folder was deleted, and with it the folder
                    raise
                self._tree.check()
                continue
            if named is not None:
                return named
        raise lost(f"the name came and went {_TRIES} times, or the staged file is gone")

    def _link(self, staged: Staged, key: str, blob: Blob, folder: Handle, token: str) -> Blob | None:
        """Return what has the name, when it is ours; None when it is worth another try."""
        if self._try_to_link(staged, key):
            return blob
        there = self._in_the_way(key, READ, messages.SHARE_ALL, keep=False)
        if there is None:
            return None
        if there.token == token or there.blob.tag == blob.tag:
            return there.blob  # an earlier attempt won, and its reply was lost
        # Whoever is told that the key is taken may rely on it, so that it has to be durable too.
        settle(folder)
        raise refused(COLLISION)

    def _replace(self, staged: Staged, key: str, blob: Blob) -> Blob | None:
        """Put a staged file in the place of what has the name. None when it is worth another try.

        What is there is held open, so that nobody else takes its name meanwhile, or gives it to another.
        """
        there = self._in_the_way(key, _GUARD, messages.SHARE_BUT_DELETE)
        if there is None:
            return blob if self._try_to_link(staged, key) else None
        path = self._tree.path(key)
        try:
            replaced = _attempted(lambda: staged.replace(path))
        except BaseException:
            there.handle.close()
            raise
        there.handle.release()
        # A server may replace no file that anybody has open, or only when it is asked in a newer way.
        replaced = replaced or _attempted(lambda: staged.replace(path, posix=True))
        if not replaced and not _attempted(lambda: staged.replace(path)):
            raise lost(
                "the server replaces no file that is open, and somebody reads this one",
                "try again when it is not being read, or publish under a new name",
            )
        self._forget(key, there.status)
        return blob

    def _try_to_link(self, staged: Staged, key: str) -> bool:
        try:
            staged.link(self._tree.path(key))
        except SMBError as exc:
            if exc.status != COLLISION:
                raise
            return False
        return True

    def _in_the_way(self, key: str, access: int, share: int, *, keep: bool = True) -> There | None:
        """Open what has the name that is to be published; None when it has gone, or was an empty folder."""
        try:
            return self._looking.look(key, access, share, keep=keep)
        except OtherCase as exc:
            raise SMBError(InvalidKey, str(exc), exc.remedy) from None
        except SMBError as exc:
            if exc.status == IS_A_DIRECTORY:
                self._tree.remove_empty(key)
            elif exc.kind is not NotFound or exc.status == DELETE_PENDING:
                raise
            return None

    def _take_away(self, key: str, tag: str | None) -> bool:
        """Take the name from a blob, and remove it; False when another version has the name, or nobody.

        It is held open from the look at its version on, so that the name is nobody else's meanwhile.
        """
        try:
            there = self._looking.look(key, _GUARD, messages.SHARE_BUT_DELETE)
        except SMBError as exc:
            if exc.kind is NotFound:
                return False
            raise
        if tag is not None and there.blob.tag != tag:
            there.handle.close()
            return False
        try:
            self._forget(key, there.status)
            self._staging.throw_away(there.handle)
        except BaseException:
            there.handle.close()
            raise
        return True

    # -- records ------------------------------------------------------------------------------------------------------

    def _put_beside(self, key: str, status: os.stat_result, packed: bytes) -> None:
        """Keep the record of a file that cannot carry it, durably."""
        with self._staging.stage() as staged:
            staged.write(_Packed(packed))
            kept = staged.settle().status
            where = beside(key, status)
            self._name(staged, where, blob_of(where, kept, Record({}, None)), exclusive=False)

    def _forget(self, key: str, status: os.stat_result) -> None:
        """Remove what lies beside for a file that has lost its name, or is about to."""
        if key.startswith(BESIDE):
            return
        create = messages.create(self._tree.path(beside(key, status)), messages.DELETE)
        for answer in self._pool.any().call(create, messages.set_deleted(), messages.close())[:2]:
            if answer.status and refused(answer.status).kind is not NotFound:
                # It is bound to that very file, so that it can stay; what became of the file is not to depend on it.
                _log.warning("cannot remove the record of %s: %s", keys.shown(key), refused(answer.status))


class _Packed:
    """A record as a body."""

    def __init__(self, packed: bytes) -> None:
        self._left = packed

    def read(self, size: int = -1, /) -> bytes:
        data, self._left = self._left, b""
        return data

    def finish(self) -> Mapping[str, str]:
        return {}


def _attempted(replace: Callable[[], None]) -> bool:
    """Do it, and say whether it was done; it is not where the server does not know how, or the file is in use."""
    try:
        replace()
    except SMBError as exc:
        if exc.status not in {*NOT_OFFERED, *_IN_USE}:
            raise
        return False
    return True
