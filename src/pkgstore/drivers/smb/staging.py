"""Files on their way into a store on a share: written and flushed in `.pkgstore/tmp`, then given their name at once.

The handle of a staged file forbids all others to open it for removal. So a file there that can be opened for removal is
abandoned, however young: the server lets go of a handle when its client's connection ends, and not before.
"""

from __future__ import annotations

import logging
import os
import random
import time
from collections import deque
from typing import TYPE_CHECKING, Self

from pkgstore import keys
from pkgstore.drivers.smb import messages
from pkgstore.drivers.smb.errors import (
    ACCESS_DENIED,
    COLLISION,
    MISSING,
    NO_ATTRIBUTES,
    NOT_OFFERED,
    SHARING_VIOLATION,
    TOO_MANY_LINKS,
    SMBError,
    lost,
    refused,
)
from pkgstore.drivers.smb.handles import Handle, opened
from pkgstore.errors import Full, Unavailable, Unsupported

if TYPE_CHECKING:
    from pkgstore.driver import Body
    from pkgstore.drivers.smb.link import Exchange, Link
    from pkgstore.drivers.smb.pool import Pool
    from pkgstore.drivers.smb.tree import Tree

_log = logging.getLogger("pkgstore")

ATTRIBUTE = "pkgstore"
"""The extended attribute; Samba stores it as `user.pkgstore`, where the local driver keeps its own."""

_TMP = f"{keys.CONTROL}/tmp"
_TRASH = f"{keys.CONTROL}/trash"
_LARGE = 4 << 20  # bytes, from which on a body goes over several connections
_LANES = 2
_AT_ONCE = 6
_WRITE = messages.WRITE_DATA | messages.WRITE_EA | messages.WRITE_ATTRIBUTES | messages.LOOK
_UNIT = 10_000_000  # of a server's clock in a second
_BLUR = _UNIT // 100
_NO_LINKS = {*NOT_OFFERED, ACCESS_DENIED, TOO_MANY_LINKS}


class Staging:
    """The staging folder of one store, and its trash."""

    def __init__(self, pool: Pool, tree: Tree) -> None:
        self._pool = pool
        self._tree = tree
        self._reaped_by: int | None = None
        self._in_use = 0

    def stage(self) -> Staged:
        """Make an empty file that is ours; it is removed at the end, unless it was renamed into place."""
        if self._reaped_by != os.getpid():
            self.reap()
            self._reaped_by = os.getpid()
        key = f"{_TMP}/{os.urandom(16).hex()}"
        create = messages.create(
            self._tree.path(key), _WRITE | messages.DELETE, messages.SHARE_BUT_DELETE, messages.CREATE
        )
        for _ in range(2):
            link = self._pool.naming()
            (answer,) = link.call(create)
            if answer.status not in MISSING:
                return Staged(self, Handle(link, messages.file_id(answer.checked())), self._tree.path(key), answer.body)
            self._tree.make(_TMP.split("/"))
        raise lost(f"the folder {_TMP} was removed as soon as it was made")

    def lanes(self, path: str) -> list[Handle]:
        """Open a staged file on a few connections more."""
        return [opened(link, messages.create(path, messages.WRITE_DATA))[0] for link in self._pool.several(_LANES)]

    def check_links(self) -> None:
        """Try whether a file can be given a second name, and nobody else that same one. Raises `Unsupported`."""
        with self.stage() as staged:
            twin = f"{staged.path}-name"
            first, second = (staged.handle.link.call(messages.link(twin, staged.handle.id))[0] for _ in range(2))
        if first.status in _NO_LINKS:
            raise Unsupported(
                f"the server has no hard links on this share (status {first.status:#010x}), and a rename is not"
                " exclusive on every server: put the store on another medium"
            )
        first.checked()
        handle, _ = opened(self._pool.any(), messages.create(twin, messages.DELETE))
        handle.discard()
        if second.status != COLLISION:
            raise Unsupported(
                "the server gave a name away that was taken, so that two writers could both win: put the store on"
                " another medium"
            )

    def throw_away(self, handle: Handle) -> None:
        """Take the name from an open file at once, also while others read it, and remove it when they are done."""
        trash = self._tree.path(f"{_TRASH}/{os.urandom(16).hex()}")
        for _ in range(2):
            (answer,) = handle.link.call(messages.rename(trash, handle.id, replace=False))
            if answer.status not in MISSING:
                answer.checked()
                break
            self._tree.make(_TRASH.split("/"))
        else:
            raise lost(f"the folder {_TRASH} was removed as soon as it was made")
        try:
            handle.discard()
        except SMBError as exc:
            _log.warning("cannot remove %s, whose name is free already: %s", trash, exc)

    def reap(self) -> int:
        """Remove what nobody is writing or reading any more; return how many files that was."""
        removed = self._in_use = 0
        for folder in (_TMP, _TRASH):
            for name, found in self._tree.entries(f"{folder}/"):
                if found.is_folder:
                    continue
                create = messages.create(self._tree.path(f"{folder}/{name}"), messages.DELETE)
                first, second, _ = self._pool.any().call(create, messages.set_deleted(), messages.close())
                removed += not first.status and not second.status
                self._in_use += first.status == SHARING_VIOLATION
        return removed

    def finish(self) -> None:
        """Reap again what its writer still held when we did, who may have been dying."""
        if self._in_use and self._reaped_by == os.getpid():
            self.reap()


class Staged:
    """A file that is being written."""

    def __init__(self, staging: Staging, handle: Handle, path: str, created: bytes) -> None:
        self._staging = staging
        self.handle = handle
        self.path = path
        self._began = messages.written_at(created)
        self._since = time.monotonic()
        self._moved = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, exc: object, traceback: object) -> None:
        try:
            if self._moved:
                self.handle.close()
            else:
                self.handle.discard()
        except SMBError as failure:
            # What became of the publish is decided already; whoever reaps next removes the file.
            _log.debug("cannot remove the staged file %s: %s", self.path, failure)
        if isinstance(exc, SMBError) and exc.kind is Full:
            self._staging.reap()

    def write(self, body: Body) -> None:
        """Write a body, several requests at a time; a large one over several connections."""
        writing = _Writing(self.handle)
        try:
            step = self.handle.link.most_written
            parts: list[bytes | memoryview] = []
            gathered = 0
            while chunk := body.read(step - gathered):
                parts.append(chunk)
                gathered += len(chunk)
                if gathered == step:
                    if writing.offset == _LARGE:
                        writing.widen(self._staging.lanes(self.path))
                    writing.write(b"".join(parts))
                    parts, gathered = [], 0
            if gathered:
                writing.write(b"".join(parts))
            writing.finish()
        finally:
            writing.close()

    def attach(self, packed: bytes) -> bool:
        """Set the record on the file; False when the share, or the file's owner, does not let us."""
        (answer,) = self.handle.link.call(messages.set_attribute(ATTRIBUTE, packed, self.handle.id))
        if answer.status in NO_ATTRIBUTES or refused(answer.status).kind is Full:
            return False
        answer.checked()
        return True

    def settle(self) -> messages.Found:
        """Flush the file to the medium; return what the server says of it.

        Its time is set within a hundredth of a second, by chance: no file that has the same number later, when this one
        is gone, has the same time and size as well, however coarse the server's clock is.
        """
        now = self._began + int((time.monotonic() - self._since) * _UNIT)
        ticks = now - now % _BLUR + random.randrange(_BLUR)
        answers = self.handle.link.call(
            messages.set_time(ticks, self.handle.id), messages.flush(), messages.query_all()
        )
        for answer in answers:
            answer.checked()
        return messages.found(answers[2].body)

    def link(self, path: str) -> None:
        """Give the file its name. Raises `SMBError` with the status `COLLISION` when that is taken."""
        self.handle.do(messages.link(path, self.handle.id))

    def replace(self, path: str, *, posix: bool = False) -> None:
        """Give the file its name in one step, in the place of another."""
        if posix:
            self.handle.do(messages.rename_posix(path, self.handle.id))
        else:
            self.handle.do(messages.rename(path, self.handle.id, replace=True))
        self._moved = True


class _Writing:
    """Requests to write that are on their way, in the order in which they were sent."""

    def __init__(self, handle: Handle) -> None:
        self.offset = 0
        self._lanes = [handle]
        self._more: list[Handle] = []
        self._sent: deque[tuple[Link, Exchange, int]] = deque()

    def widen(self, lanes: list[Handle]) -> None:
        self._lanes = self._more = lanes

    def write(self, data: bytes) -> None:
        lane = self._lanes[0]
        self._lanes = [*self._lanes[1:], lane]
        while len(self._sent) >= _AT_ONCE:
            self._end_first()
        message = messages.write(data, self.offset, lane.id)
        while (exchange := lane.link.begin(message, wait=not self._sent)) is None:
            self._end_first()
        self._sent.append((lane.link, exchange, len(data)))
        self.offset += len(data)

    def finish(self) -> None:
        while self._sent:
            self._end_first()

    def close(self) -> None:
        """Wait for what is on its way, whatever comes of it, and close the further handles."""
        while self._sent:
            link, exchange, _ = self._sent.popleft()
            try:
                link.end(exchange)
            except SMBError as exc:
                _log.debug("a write was lost: %s", exc)  # which is told by the first that failed
        for lane in self._more:
            lane.close()

    def _end_first(self) -> None:
        link, exchange, length = self._sent.popleft()
        (answer,) = link.end(exchange)
        written = int.from_bytes(answer.checked()[4:8], "little")
        if written != length:
            raise SMBError(Unavailable, f"the server wrote {written} of {length} bytes")
