"""Of all who are about to do the same work, on any host, one does it, and the others wait for what it makes.

A lease saves work, and guards nothing: two may think that they hold it, when one of them was frozen or cut off from the
medium. So the work has to end in something that only one of them wins, as an exclusive publish is.

No clocks are compared. A lease says who holds it, for how many seconds, and a beat, a number that its holder raises
three times in that time. Whoever has seen one beat for as long as that, by a clock of its own, drops the lease: in one
step with taking it, and only if it is still at this beat. Leases lie in a few documents (see `pkgstore.ledger`), and
whoever takes one drops what has run out beside it, so that those of the dead do not pile up.
"""

from __future__ import annotations

import contextlib
import logging
import os
import random
import sys
import threading
import time
from hashlib import sha256
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from pkgstore import config, keys
from pkgstore.errors import LockTimeout, Misconfigured, StoreError
from pkgstore.ledger import Ledger

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator

    from pkgstore.calls import Calls

_log = logging.getLogger("pkgstore")

SHARDS = 16
LONGEST = 86_400.0
"""How long a lease may last without a beat, in seconds."""

_BEATS = 3
_SHORTEST_PAUSE = 0.02
_LONGEST_PAUSE = 1.0


def lease_seconds(value: object) -> float:
    """Return ``value`` when it is a number of seconds that a lease may last. Raises `Misconfigured`."""
    seconds = config.seconds("lease", value)
    if not 0 < seconds <= LONGEST:
        raise Misconfigured(f"a lease of {value!r} seconds cannot be kept: give more than 0, and {LONGEST:.0f} at most")
    return seconds


class Leases:
    """The leases of a store, each named after a path. Safe to share between threads, and to use after fork.

    All who are made with the same ``calls`` watch together.
    """

    def __init__(self, calls: Calls) -> None:
        watches = _watches.setdefault(calls, [_Watch() for _ in range(SHARDS)])
        self._shards = [(Ledger(calls, f"lease-{number:02x}"), watch) for number, watch in enumerate(watches)]

    def take(self, path: str, seconds: float) -> Lease | None:
        """Return the lease of ``path``, or None while another holds it, whom this has then watched a little longer.

        It is renewed only in a `with` block; else it runs out after ``seconds``. Raises `Unavailable`, after which the
        lease may be taken all the same, and runs out by itself.
        """
        ledger, watch = self._shards[sha256(path.encode()).digest()[0] % SHARDS]
        holder = os.urandom(8).hex()

        def change(document: dict[str, Any]) -> dict[str, Any] | None:
            kept = watch.kept(document)
            return None if path in kept else {**kept, path: _entry(holder, 0, seconds)}

        taken = ledger.update(change).document.get(path)
        return Lease(ledger, path, holder, seconds) if _is_of(holder, taken) else None


class Lease:
    """A lease that is held: within a `with` block it is renewed, by a thread, and at its end given back."""

    def __init__(self, ledger: Ledger, path: str, holder: str, seconds: float) -> None:
        self._ledger = ledger
        self._path = path
        self._holder = holder
        self._seconds = seconds
        self._process = os.getpid()
        self._ended = threading.Event()
        self._renewer = threading.Thread(target=self._renew, name="pkgstore-lease", daemon=True)

    def __enter__(self) -> None:
        if not sys.is_finalizing():  # where Python 3.11 would wait for ever for the thread to start
            self._renewer.start()

    def __exit__(self, *exc: object) -> None:
        if os.getpid() != self._process:
            return  # a child after fork, whose parent still holds it
        self._ended.set()
        if self._renewer.ident is not None:
            self._renewer.join()
        try:
            self._put(None)
        except StoreError as error:
            _log.warning(
                "the lease of %s was not given back, and others may wait for %g s: %s",
                *(keys.shown(self._path), self._seconds, error),
            )

    def _renew(self) -> None:
        beat = 0
        while not self._ended.wait(self._seconds / _BEATS):
            beat += 1
            try:
                if self._put(_entry(self._holder, beat, self._seconds)):
                    continue
            except Exception as error:  # noqa: BLE001 - what is done meanwhile goes on, with a lease or without
                _log.warning("the lease of %s could not be renewed: %s", keys.shown(self._path), error)
                continue
            _log.warning(
                "others took %s for abandoned, and may do the same work now: its lease was not renewed within %g s",
                *(keys.shown(self._path), self._seconds),
            )
            return

    def _put(self, entry: dict[str, Any] | None) -> bool:
        """Put ``entry`` in the place of the lease's own, or remove that. False when the lease is not held any more."""

        def change(document: dict[str, Any]) -> dict[str, Any] | None:
            if not _is_of(self._holder, document.get(self._path)):
                return None
            del document[self._path]
            return document if entry is None else {**document, self._path: entry}

        return _is_of(self._holder, self._ledger.update(change).document.get(self._path))


class _Watch:
    """What this process has seen of the leases in one document."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[Any, float]] = {}  # each as it was last seen, and when it was seen so first

    def kept(self, document: dict[str, Any]) -> dict[str, Any]:
        """Return the leases that have not run out, as far as has been seen."""
        now = time.monotonic()
        # Other threads may do the same: of two sets of observations, both true, the later one stays.
        before, seen, kept = self._seen, {}, {}
        for path, entry in document.items():
            known, since = before.get(path, (None, now))
            seen[path] = entry, since if known == entry else now
            if now - seen[path][1] < _seconds_of(entry):
                kept[path] = entry
        self._seen = seen
        return kept


_watches: WeakKeyDictionary[Calls, list[_Watch]] = WeakKeyDictionary()


def _entry(holder: str, beat: int, seconds: float) -> dict[str, Any]:
    return {"holder": holder, "beat": beat, "seconds": seconds}


def _is_of(holder: str, entry: Any) -> bool:
    return isinstance(entry, dict) and entry.get("holder") == holder


def _seconds_of(entry: Any) -> float:
    """Return how long a lease lasts from beat to beat; 0 for what is no lease, and holds nothing."""
    seconds = entry.get("seconds") if isinstance(entry, dict) else None
    return min(seconds, LONGEST) if isinstance(seconds, (int, float)) else 0.0


class Patience:
    """How long somebody waits for ``key``, which another is at: ``wait`` seconds, or without end when that is None."""

    def __init__(self, key: str, where: str, wait: float | None) -> None:
        self._key = key
        self._where = where
        self._wait = None if wait is None else config.seconds("wait", wait)
        self._began = time.monotonic()
        self._pause = _SHORTEST_PAUSE

    @property
    def left(self) -> float | None:
        """The seconds that are left; None when there is no end."""
        return None if self._wait is None else max(0.0, self._began + self._wait - time.monotonic())

    def pause(self) -> None:
        """Sleep, each time a little longer. Raises `LockTimeout` when no time is left."""
        left = self.left
        if left == 0:
            raise self.over()
        pause = self._pause * random.uniform(0.5, 1)
        time.sleep(pause if left is None else min(pause, left))
        self._pause = min(1.5 * self._pause, _LONGEST_PAUSE)

    def over(self) -> LockTimeout:
        """Return the error that says that the time is over."""
        return LockTimeout(
            f"{keys.shown(self._key)} is not in {self._where} yet, as whoever produces it takes longer than the"
            f" {self._wait:g} s that are given: ask for it again later, or wait longer",
            key=self._key,
        )


_busy: dict[Hashable, int] = {}
_changed = threading.Condition()


def _forget_other_threads() -> None:
    global _changed
    _busy.clear()
    _changed = threading.Condition()


os.register_at_fork(after_in_child=_forget_other_threads)


@contextlib.contextmanager
def alone(what: Hashable, patience: Patience) -> Iterator[bool]:
    """Let one thread of this process at a time do ``what``, and tell it True; tell others False when it is through.

    Raises what ``patience`` does when it is over, and RuntimeError in the thread that is at it already.
    """
    me = threading.get_ident()
    with _changed:
        if _busy.get(what) == me:
            raise RuntimeError("to produce a blob, its producer asks for that very blob, and would wait for itself")
        is_mine = what not in _busy
        if is_mine:
            _busy[what] = me
        elif not _changed.wait_for(lambda: what not in _busy, patience.left):
            raise patience.over()
    try:
        yield is_mine
    finally:
        if is_mine:
            with _changed:
                _busy.pop(what, None)
                _changed.notify_all()
