"""The connections of one store in one process."""

from __future__ import annotations

import os
import threading
import time
import weakref
from typing import TYPE_CHECKING

from pkgstore.drivers.smb.errors import SMBError, lost
from pkgstore.drivers.smb.link import Link

if TYPE_CHECKING:
    from collections.abc import Callable

    from pkgstore.drivers.smb.link import Settings

_all: weakref.WeakSet[Pool] = weakref.WeakSet()


class Pool:
    """At most ``count`` connections, each made when it is first needed, and again when it was lost.

    One of them names files, and holds what is staged. No reader's handle is ever on it: Samba does not replace a file
    that is open on the very connection that asks for it, and does so under the readers of all others.
    """

    def __init__(self, settings: Settings, count: int) -> None:
        self.settings = settings
        self._count = count
        self._known = False
        self._start()
        _all.add(self)

    def naming(self) -> Link:
        """Return the connection that names files."""
        return self._slots[0].link()

    def any(self) -> Link:
        """Return a connection for anything else."""
        return self.several(1)[0]

    def several(self, count: int) -> list[Link]:
        """Return up to ``count`` different connections for anything else, in turn."""
        self._turn += 1
        slots = self._slots[1:]
        first = self._turn % len(slots)
        return [slot.link() for slot in (slots[first:] + slots[:first])[:count]]

    def drop(self) -> None:
        """Shut all connections: the server does not answer on one of them."""
        for slot in self._slots:
            slot.drop()

    def forget_parent(self) -> None:
        """Leave the connections to the parent of this process, after a fork."""
        slots = self._slots
        self._start()
        for slot in slots:
            slot.abandon()

    def _start(self) -> None:
        self._turn = 0
        self._slots = [_Slot(self._connect, self.settings) for _ in range(self._count)]

    def _connect(self) -> Link:
        link = Link(self.settings, known=self._known, stalled=self.drop)
        self._known = True
        return link


class _Slot:
    """The place of one connection."""

    def __init__(self, connect: Callable[[], Link], settings: Settings) -> None:
        self._connect = connect
        self._settings = settings
        self._lock = threading.Lock()
        self._link: Link | None = None
        self._failed: tuple[float, SMBError] | None = None

    def link(self) -> Link:
        link = self._link
        if link is not None and link.alive:
            return link
        came = time.monotonic()
        if not self._lock.acquire(timeout=self._settings.timeout):
            raise lost(f"no connection to {self._settings.where} within {self._settings.timeout:g} s")
        try:
            if self._link is not None and self._link.alive:
                return self._link
            if self._failed is not None and self._failed[0] > came:  # while we waited to try it ourselves
                failed = self._failed[1]
                raise SMBError(failed.kind, str(failed), failed.remedy, failed.status)
            try:
                self._link = self._connect()
            except SMBError as exc:
                self._failed = (time.monotonic(), exc.with_traceback(None))
                raise
            return self._link
        finally:
            self._lock.release()

    def drop(self) -> None:
        if self._link is not None:
            self._link.drop()

    def abandon(self) -> None:
        if self._link is not None:
            self._link.abandon()


def _forget_parents() -> None:
    for pool in _all:
        pool.forget_parent()


os.register_at_fork(after_in_child=_forget_parents)
