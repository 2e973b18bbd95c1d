"""Seeing to what this process has in hand of a quota; and counting all blobs, when somebody has to.

`pkgstore.quota` says what it is for.
"""

from __future__ import annotations

import contextlib
import logging
import math
import random
import sys
import threading
from typing import TYPE_CHECKING, Any

from pkgstore import accounts, keys
from pkgstore.accounts import Amounts, clock
from pkgstore.errors import Unavailable
from pkgstore.holder import Gone, Held, Holder

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pkgstore.calls import Calls
    from pkgstore.driver import Blob

_log = logging.getLogger("pkgstore")

TICK = 0.2
"""Seconds after which the thread looks again whether there is something to do."""

_IDLE = 0.5


class Tending(Holder):
    """A holder with a thread, which lives while it has something in hand.

    And a while longer when others have, who may have died.
    """

    def recount(self, *, if_silent: bool = False, since: float = math.inf) -> None:
        """Count all blobs, while nobody makes one visible; what those who are silent had in hand is over with that.

        With ``if_silent``, stop when others were faster, and nobody is silent any more; with ``since``, when another
        thread has made a count that began later. Raises `Unavailable` when others do not hold still.
        """
        with self._changed:
            deadline = clock() + self._patience
            while True:
                while self._parked and self._parked not in self._silent:
                    self._stand_by(math.inf)
                    deadline = clock() + self._patience
                if self._last_count > since:
                    break
                if self._is_counted(deadline) or (if_silent and not self._silent):
                    break
                if clock() > deadline and not self._is_held_up:
                    raise self._held_up()

    def _wait(self, deadline: float) -> None:
        """Wait a moment for others; count the blobs when they are silent."""
        self._stand_by(deadline)
        if self._silent and (not self._parked or self._parked in self._silent):
            self.recount(if_silent=True)

    def _stand_by(self, deadline: float) -> None:
        """Wait a moment for others. One that counts is waited for to its end, while the ledger says that it does."""
        looked = self._looked or 0.0
        if self._parked not in ("", self._holder) and clock() - looked > self._patience:
            with contextlib.suppress(Gone, Held):
                self._exchange(keep=True, asked=looked)
        if clock() > deadline and not self._is_held_up and self._parked in ("", self._holder):
            raise self._held_up()
        self._pause(random.uniform(TICK / 4, TICK))

    def _pause(self, seconds: float) -> None:
        """Let other threads in, for so long or until something has changed. The one that tends does so meanwhile."""
        self._changed.wait(seconds)
        if self._closed:
            raise ValueError(f"the store {self._calls.where} is closed")
        self._start_tending()
        if self._thread in (None, threading.current_thread()):
            with contextlib.suppress(Gone, Held):
                self._keep()

    @property
    def _patience(self) -> float:
        return self._calls.timeout + 2 * accounts.LEASE

    def _held_up(self) -> Unavailable:
        return Unavailable(f"the blobs of {self._calls.where} are being counted, or its quota changed: try again")

    @property
    def _all_counted(self) -> bool:
        document = self._ledger.read().document
        return all(account["counted"] for account in document["scopes"].values())

    def _exchange(self, **what: Any) -> dict[str, Any]:
        document = super()._exchange(**what)
        if self._beat:
            self._start_tending()
        return document

    # -- counting -----------------------------------------------------------------------------------------------------

    def _is_counted(self, deadline: float) -> bool:
        """Count; False when somebody did not hold still."""
        self._parked = mine = self._holder
        is_counted = False
        try:
            is_counted = self._has_counted(mine, deadline)
        finally:
            if self._parked == mine:  # else it was taken for dead, and another thread may count by now
                self._parked = self._told if self._told != mine else ""  # as the ledger says for whom it holds still
            if not is_counted:
                self._contact = -math.inf  # so that it is told at once that nobody counts
                if self._beat or self._attempts:
                    self._start_tending()
            self._notify()
        if is_counted:
            return True
        if self._holder == mine and not self._parked:
            self._watch_others()  # to hold still for who counts
            self._stand_by(deadline)
        return False

    def _has_counted(self, mine: str, deadline: float) -> bool:
        """Count as the holder ``mine``, and enter the result: for another, or one of a new name, it means nothing."""
        while self._committing:
            self._stand_by(deadline)
        if self._holder != mine:
            return False
        try:
            document = self._exchange(keep=True, also=self._mark)
        except (Gone, Held):
            return False
        began, doubted = clock(), self._doubted
        settled: Amounts | None = None
        try:
            still = self._still(document, mine, max(deadline, clock() + 2 * accounts.LEASE))
            is_decided = doubted is not None and clock() - doubted >= accounts.LEASE
            totals = self._counted(list(document["scopes"]), mine)
            if is_decided and self._doubted == doubted:  # else there is more in doubt by now
                settled, self._doubtful, self._doubted = self._doubtful, Amounts(), None
            self._exchange(keep=True, also=lambda document: self._enter_totals(document, totals, still))
            self._last_count = began
            return True
        except Gone:
            return False
        except BaseException as exc:
            if settled is not None:
                self._doubtful, self._doubted = settled, doubted
            if isinstance(exc, Held):
                return False
            raise

    def _mark(self, document: dict[str, Any]) -> None:
        counting = document.get("recount", "")
        if counting not in ("", self._holder) and counting not in self._silent and counting in document["holders"]:
            raise Held
        document["recount"] = self._holder
        for name, each in document["holders"].items():
            if name != self._holder:
                each["parked"] = ""  # which may have been for an earlier recount

    def _still(self, document: dict[str, Any], mine: str, deadline: float) -> dict[str, str]:
        """Wait until all others hold still, or are silent; return their beats, for those that are silent."""
        while True:
            others = self._look_at_others(document)
            silent = self._silent
            moving = [name for name, each in others.items() if name not in silent and each["parked"] != self._holder]
            if not moving:
                return {name: others[name]["beat"] for name in silent}
            if clock() > deadline:
                raise Unavailable(
                    f"{len(moving)} publishers in {self._calls.where} did not hold still to have its blobs counted: try"
                    " again when there is less to do"
                )
            self._pause(TICK)
            if self._holder != mine:
                raise Gone
            document = self._ledger.read().document

    def _counted(self, scopes: list[str], mine: str) -> Amounts:
        """Count in a thread of its own, so that the one that tends can go on, however long a listing takes."""
        count = _Count(self._calls, scopes, self._changed)
        try:
            count.start()
        except RuntimeError as exc:  # the interpreter is shutting down
            raise Unavailable(f"the blobs of {self._calls.where} cannot be counted any more: {exc}") from None
        try:
            while count.totals is None:
                self._pause(TICK)
                if count.error is not None:
                    raise count.error
                if self._holder != mine:
                    raise Gone
        finally:
            count.is_dropped = True
        return count.totals

    def _enter_totals(self, document: dict[str, Any], totals: Amounts, silent: dict[str, str]) -> None:
        holders = document["holders"]
        if document.get("recount") != self._holder or not silent.keys() <= holders.keys():  # one has woken, and left
            raise Held
        for name, each in holders.items():
            # One that was silent may have woken, made its blob visible behind the listing, and hold still only since.
            is_still = silent[name] == each["beat"] if name in silent else each["parked"] == self._holder
            if name != self._holder and not is_still:
                raise Held
        for name in silent:
            del holders[name]
        for scope, (size, blobs) in totals.of.items():
            document["scopes"][scope].update(bytes=size, blobs=blobs, counted=True)
        del document["recount"]

    # -- the thread ---------------------------------------------------------------------------------------------------

    def _start_tending(self) -> None:
        if self._thread is None and not self._closed and not sys.is_finalizing():
            thread = threading.Thread(target=self._tend, name="pkgstore-quota", daemon=True)
            try:
                thread.start()
            except RuntimeError as exc:  # the interpreter is shutting down
                _log.warning("what this process has in hand of a quota is kept without a thread: %s", exc)
            else:
                self._thread = thread

    def _tend(self) -> None:
        pause, told = TICK, False
        with self._changed:
            try:
                while not self._closed:
                    self._due.wait(pause)
                    try:
                        if self._closed or self._is_tended():
                            break
                        pause, told = TICK, False
                    except (Gone, Held):
                        pass
                    except Exception as exc:  # noqa: BLE001 - whatever it is, what is in hand is still to be kept
                        if self._closed:
                            break
                        pause = min(2 * pause, accounts.LEASE / 4)
                        if not told:
                            _log.warning("cannot keep what this process has in hand of a quota: %s", exc)
                        told = True
            finally:
                self._thread = None

    def _is_tended(self) -> bool:
        """Do what has to be done now; return whether that was all."""
        self._end_what_was_cut()
        now = clock()
        is_busy = bool(self._in_flight or self._busy or self._committing)
        if self._parked in self._silent and not is_busy:  # else who waits there sees to it
            self.recount(if_silent=True)
        elif not self._parked:
            if self._doubted is not None:
                if now - self._doubted > accounts.LEASE:
                    self.recount()
            elif not is_busy and now - self._used > _IDLE:
                return self._is_at_rest(now)
        self._keep()
        return False

    def _keep(self) -> None:
        """Say that this process lives, and that it holds still for who counts; look at how far that has come."""
        self._end_what_was_cut()
        if self._parked not in ("", self._holder):
            if self._told != self._parked and not self._committing:
                self._exchange(keep=True)
            else:
                self._watch_others()
        if clock() - self._contact > accounts.LEASE / 4:
            self._exchange(keep=True)

    def _end_what_was_cut(self) -> None:
        raise NotImplementedError

    def _is_at_rest(self, now: float) -> bool:
        """Give back what is not used; return whether that was all, and nobody else is there who may have died."""
        self._spare = Amounts()
        if self._beat or self._attempts or self._unsettled:
            self._exchange()
        elif self._others and self._looked is not None and now - self._looked > accounts.LEASE / 4:
            self._watch_others()
            if self._silent:
                self.recount(if_silent=True)
        return not self._beat and (not self._others or now - self._used > 3 * accounts.LEASE)


class _Count(threading.Thread):
    """Counts what is there: ``totals``, or ``error``. It ends early when it ``is_dropped``."""

    def __init__(self, calls: Calls, scopes: list[str], changed: threading.Condition) -> None:
        super().__init__(name="pkgstore-count", daemon=True)
        self._calls = calls
        self._scopes = scopes
        self._changed = changed
        self.totals: Amounts | None = None
        self.error: BaseException | None = None
        self.is_dropped = False

    def run(self) -> None:
        try:
            self.totals = accounts.count(self._blobs(), self._scopes)
        except BaseException as exc:  # noqa: BLE001 - raised by whoever waits
            self.error = exc
        with self._changed:
            self._changed.notify_all()

    def _blobs(self) -> Iterator[Blob]:
        for blobs in self._calls.scan(""):
            if self.is_dropped:
                return
            yield from (blob for blob in blobs if keys.is_valid(blob.key))
