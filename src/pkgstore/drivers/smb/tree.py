"""The folders of a store on a share."""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from typing import TYPE_CHECKING

from pkgstore import keys
from pkgstore.drivers.smb import messages
from pkgstore.drivers.smb.errors import (
    ACCESS_DENIED,
    COLLISION,
    MISSING,
    NO_MORE_FILES,
    NO_SUCH_FILE,
    NOT_A_DIRECTORY,
    NOT_EMPTY,
    NOT_OFFERED,
    SMBError,
    lost,
)
from pkgstore.drivers.smb.handles import Handle, OtherCase, looked_at, opened, patiently, seen
from pkgstore.errors import InvalidKey

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pkgstore.drivers.smb.pool import Pool

_REMEMBERED = 4096
_DEEPEST = 32
_WRITABLE = messages.ADD_FILE | messages.ADD_FOLDER | messages.LIST | messages.LOOK


class Tree:
    """The folders below ``prefix`` in the share, which is made by the first write when ``create`` says so."""

    def __init__(self, pool: Pool, prefix: str, *, create: bool) -> None:
        self.pool = pool
        self._root = prefix.split("/") if prefix else []
        self._create = create
        self._seen = not self._root
        self._lasting: OrderedDict[tuple[tuple[str, ...], int, int], None] = OrderedDict()

    def path(self, key: str) -> str:
        """Return the path of a key from the share's root."""
        return "\\".join([*self._root, *key.split("/")])

    def folder(self, key: str, *, create: bool = False) -> Handle:
        """Open the folder of a key, to name something in it. With ``create``, it is there durably."""
        folders = key.split("/")[:-1]
        try:
            try:
                handle, found = self._open(folders, _WRITABLE)
            except SMBError as exc:
                if not create or exc.status not in MISSING:
                    raise
                self.make(folders)
                handle, found = self._open(folders, _WRITABLE)
        except OtherCase as exc:
            if not create:
                raise
            raise SMBError(InvalidKey, str(exc), exc.remedy) from None
        except SMBError as exc:
            if not create or exc.status != NOT_A_DIRECTORY:
                raise
            raise SMBError(InvalidKey, "a blob is where a folder of the key would be", "choose another key") from None
        self._seen = True
        if create:
            try:
                self._make_last(folders, found)
            except BaseException:
                handle.close()
                raise
        return handle

    def make(self, folders: Sequence[str]) -> None:
        """Make a folder and its parents, where they are missing. The root is made only for a new store."""
        if self._create and not self._seen:
            self._make_each(self._root)
            for depth in range(len(self._root)):
                with contextlib.suppress(SMBError), self._opened(self._root[:depth]) as parent:
                    settle(parent)  # as far as we may: what lies above the store may be another's
            self._seen = True
        self.check()
        self._make_each([*self._root, *folders], from_depth=len(self._root))

    def check(self) -> None:
        """Raise `Unavailable` when the root is gone, as when the server's disk is not mounted."""
        try:
            self._open([], messages.LOOK)[0].close()
        except SMBError as exc:
            if exc.status not in MISSING:
                raise
            if not self._seen:
                raise
            raise lost(
                f"the folder {'/'.join(self._root)!r} of the share is gone", "check that the server's disk is mounted"
            ) from None
        self._seen = True

    def entries(self, prefix: str) -> list[tuple[str, messages.Found]]:
        """Return what is in the folder of a prefix, by name; nothing when there is no such folder."""
        folders = prefix.split("/")[:-1]
        try:
            handle, _ = self._open(folders, messages.LIST | messages.LOOK)
        except SMBError as exc:
            if exc.status in MISSING or exc.status == NOT_A_DIRECTORY or isinstance(exc, OtherCase):
                return []
            raise SMBError(exc.kind, f"{exc} (the folder {prefix!r})", exc.remedy, exc.status) from exc
        with handle:
            return _listed(handle)

    def remove_empty(self, key: str, depth: int = 0) -> None:
        """Remove a folder that holds nothing but empty folders. Raises `SMBError` when it holds anything else."""
        for name, found in self.entries(f"{key}/"):
            if not found.is_folder or depth > _DEEPEST:
                raise SMBError(InvalidKey, f"it is a folder there, with {keys.shown(name)} in it", "choose another key")
            self.remove_empty(f"{key}/{name}", depth + 1)
        self._remove(key)

    def prune(self, key: str) -> None:
        """Remove the folders that a deleted blob leaves empty; any that is in use, or not ours to remove, stays."""
        folders = key.split("/")[:-1]
        with contextlib.suppress(SMBError):
            while folders and self._remove("/".join(folders)):
                folders.pop()

    def settle_above(self, key: str) -> None:
        """Flush the deepest folder that is still there of those that a key lies in."""
        folders = key.split("/")[:-1]
        while True:
            try:
                handle = self.folder("/".join([*folders, "-"]))
            except SMBError as exc:
                if exc.status not in MISSING and exc.status != NOT_A_DIRECTORY and not isinstance(exc, OtherCase):
                    raise
                if not folders:
                    return
                folders.pop()
                continue
            with handle:
                settle(handle)
            return

    def _open(self, folders: Sequence[str], access: int) -> tuple[Handle, messages.Found]:
        def attempt() -> tuple[Handle, messages.Found]:
            link = self.pool.any()
            create = messages.create("\\".join([*self._root, *folders]), access, folder=True)
            handle, answers = opened(link, create, *looked_at(link))
            try:
                return handle, seen(link, answers, folders)
            except BaseException:
                handle.close()
                raise

        return patiently(attempt, self.pool.settings.timeout)

    def _opened(self, path: Sequence[str]) -> Handle:
        """Open a folder by its path from the share's root."""
        return opened(self.pool.any(), messages.create("\\".join(path), _WRITABLE, folder=True))[0]

    def _make_each(self, path: Sequence[str], from_depth: int = 0) -> None:
        link = self.pool.any()
        for depth in range(from_depth + 1, len(path) + 1):
            create = messages.create(
                "\\".join(path[:depth]), messages.LOOK, disposition=messages.OPEN_OR_CREATE, folder=True
            )
            made, _ = link.call(create, messages.close())
            if made.status == COLLISION:
                raise SMBError(InvalidKey, f"{path[depth - 1]!r} is a blob there, and no folder", "choose another key")
            made.checked()

    def _make_last(self, folders: Sequence[str], found: messages.Found) -> None:
        """See to it that a folder's own entry is durable, once for as long as it is the same folder."""
        if not folders:
            return
        identity = (tuple(folders), found.status.st_ino, found.created)
        if identity in self._lasting:
            return
        handle, above = self._open(folders[:-1], _WRITABLE)
        with handle:
            settle(handle)
        self._make_last(folders[:-1], above)
        self._lasting[identity] = None
        if len(self._lasting) > _REMEMBERED:
            with contextlib.suppress(KeyError):
                self._lasting.popitem(last=False)

    def _remove(self, key: str) -> bool:
        """Remove an empty folder; False when it is not empty, or absent. Raises `SMBError` when somebody has it open.

        For it would be gone with the last handle only, and until then nobody could use it.
        """
        access = messages.DELETE | messages.SYNCHRONIZE
        create = messages.create(self.path(key), access, messages.SHARE_NOTHING, folder=True)
        answers = self.pool.any().call(create, messages.set_deleted(), messages.close())
        for answer in answers[:2]:
            if answer.status in {*MISSING, NOT_EMPTY}:
                return False
            answer.checked()
        return True


def settle(folder: Handle) -> None:
    """Flush a folder's entries to the medium, where the server can. Raises `SMBError`: its outcome is open."""
    (answer,) = folder.link.call(messages.flush(folder.id))
    if answer.status and answer.status not in {*NOT_OFFERED, ACCESS_DENIED}:
        raise lost(f"the change is not known to be durable (status {answer.status:#010x})")


def _listed(handle: Handle) -> list[tuple[str, messages.Found]]:
    found: list[tuple[str, messages.Found]] = []
    while True:
        (answer,) = handle.link.call(messages.listing(handle.id))
        if answer.status in (NO_MORE_FILES, NO_SUCH_FILE):
            return found
        found += messages.entries(answer.checked())
