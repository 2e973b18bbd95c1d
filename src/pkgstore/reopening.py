"""Stores that are sent to other processes and hosts: opened there once, and kept."""

from __future__ import annotations

import os
import pickle
import threading
from typing import TYPE_CHECKING, Any

from pkgstore.errors import Misconfigured, NotFound

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from urllib.parse import SplitResult

    from pkgstore.store import Store

_kept: dict[tuple[bytes, str], Store] = {}
_lock = threading.Lock()
_are_closed_at_the_end = False


def _after_fork() -> None:
    global _lock, _are_closed_at_the_end
    _lock, _are_closed_at_the_end = threading.Lock(), False


os.register_at_fork(after_in_child=_after_fork)


class Origin:
    """How a store was opened: by calling ``open_it`` with a split URL and options."""

    def __init__(
        self, open_it: Callable[[SplitResult, dict[str, Any]], Store], parts: SplitResult, options: Mapping[str, Any]
    ) -> None:
        self._open_it = open_it
        self._parts = parts
        self._options = {name: value for name, value in options.items() if name not in ("create", "probe")}

    def reduced(self, where: str, identity: str, prefix: str) -> tuple[Any, ...]:
        """Return what `object.__reduce__` does, for a view of the store. Raises `Misconfigured`."""
        try:
            opening = pickle.dumps((self._open_it, self._parts, {**self._options, "create": False}))
        except (pickle.PicklingError, TypeError, AttributeError) as exc:
            raise Misconfigured(
                f"{where} cannot be sent to another process ({exc}): open it with options that can be pickled, such as"
                " the path of a file of credentials"
            ) from exc
        return reopened, (opening, where, identity, prefix)


def reopened(opening: bytes, where: str, identity: str, prefix: str) -> Store:
    """Return a view of the store that was pickled: opened by the first call, and kept until the process ends.

    Raises `NotFound` and `Misconfigured` when another store is there, or none, and what `pkgstore.open` raises.
    """
    with _lock:
        store = _kept.get((opening, identity))
        if store is None:
            store = _kept[opening, identity] = _opened(opening, where, identity)
        _close_at_the_end()
    return store._view(prefix)


def _opened(opening: bytes, where: str, identity: str) -> Store:
    open_it, parts, options = pickle.loads(opening)
    try:
        store: Store = open_it(parts, options)
    except NotFound as exc:
        raise NotFound(
            f"{where} was sent to a process that has no store there: send only what every process reaches under the"
            f" same URL ({exc})"
        ) from exc
    if store.id != identity:
        store.close()
        raise Misconfigured(
            f"{where} was sent to a process that has another store there, {store.id} and not {identity}: send only what"
            " every process reaches under the same URL"
        )
    return store


def _close_at_the_end() -> None:
    global _are_closed_at_the_end
    if not _are_closed_at_the_end:
        # Processes that multiprocessing has started end without the functions of atexit.
        from multiprocessing.util import Finalize

        Finalize(None, _close_all, exitpriority=0)
        _are_closed_at_the_end = True


def _close_all() -> None:
    for store in _kept.values():
        store.close()
    _kept.clear()
