"""What was found absent a moment ago, so that the medium is not asked again."""

from __future__ import annotations

import contextlib
import os
import threading
import time
import weakref
from typing import TYPE_CHECKING, TypeVar

from pkgstore.errors import NotFound

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_T = TypeVar("_T")

_MOST = 10_000

_all: weakref.WeakSet[Absent] = weakref.WeakSet()


class Absent:
    """The paths that were not there, each for ``seconds`` at most, and the last 10,000 of them; of one process."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._known: dict[str, tuple[float, str, str | None]] = {}
        self._changes = 0
        self._lock = threading.Lock()
        _all.add(self)

    def look(self, path: str, function: Callable[[], _T]) -> _T:
        """Return what ``function`` returns, which looks at ``path``; raise NotFound without it, where that is known."""
        if not self._seconds:
            return function()
        with self._lock:
            until, message, key = self._known.get(path, (0.0, "", None))
            changes = self._changes
        if time.monotonic() < until:
            raise NotFound(message, key=key)
        try:
            return function()
        except NotFound as exc:
            with self._lock:
                if changes == self._changes:  # else a publish of ours has ended meanwhile, maybe of this very path
                    self._known.pop(path, None)  # so that it comes last in the order in which they are forgotten
                    self._known[path] = (time.monotonic() + self._seconds, str(exc), exc.key)
                    if len(self._known) > _MOST:
                        del self._known[next(iter(self._known))]
            raise

    @contextlib.contextmanager
    def changing(self, path: str) -> Iterator[None]:
        """Have the block publish at ``path``, and forget that it was absent, however the block ends."""
        try:
            yield
        finally:
            with self._lock:
                self._changes += 1
                self._known.pop(path, None)

    def forget_locks(self) -> None:
        """Begin anew in a child after fork: another thread of the parent may have been at it."""
        self._lock = threading.Lock()
        self._known = {}


def _after_fork() -> None:
    for each in _all:
        each.forget_locks()


os.register_at_fork(after_in_child=_after_fork)
