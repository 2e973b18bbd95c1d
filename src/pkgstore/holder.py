"""What this process has in hand of a store's quota: what the ledger says of it, and the thread that keeps it so.

`pkgstore.quota` says what it is for.
"""

from __future__ import annotations

import logging
import os
import random
import sys
import threading
import weakref
from typing import TYPE_CHECKING, Any, NamedTuple

from pkgstore import accounts, keys
from pkgstore.accounts import Amounts, Beats, Short, clock
from pkgstore.errors import StoreError, Unavailable
from pkgstore.ledger import Ledger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pkgstore.calls import Calls
    from pkgstore.driver import Blob

_log = logging.getLogger("pkgstore")

LOOK = 2.0
"""Seconds after which one who knew of no quota looks again whether there is one."""

_IDLE = 0.5
_AHEAD = 32
TICK = 0.2

holders: weakref.WeakSet[Holder] = weakref.WeakSet()
"""All of this process."""


class Gone(Exception):
    """What this process had in hand was taken from it."""


class Held(Exception):
    """Others have to be waited for: they count all blobs, or change the same key."""


class Uncounted(Held):
    """A scope has a limit, and who set it has not counted its blobs yet."""


class _Landed(Exception):
    """An exchange whose outcome was not known did take effect."""


class _Plan(NamedTuple):
    """What an exchange changes here, once it has taken effect."""

    beat: str
    settled: Amounts
    drawn: Amounts
    claimed: frozenset[str]


class Holder:
    """One of those who publish, in the store that ``calls`` reach.

    Safe to share between threads, and to use after fork. Its thread lives while it has something in hand, and a while
    longer when others have, who may have died.
    """

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self._ledger = Ledger(calls, "usage")
        self._epoch = 0
        self._begin()
        holders.add(self)

    def _begin(self) -> None:
        self._changed = threading.Condition(threading.RLock())
        self._thread: threading.Thread | None = None
        self._closed = False
        self._scopes: list[str] = []
        self._looked: float | None = None
        self._beats = Beats()
        self._others = False
        self._silent: set[str] = set()
        self._is_held_up = False
        self._busy: set[str] = set()
        self._committing = 0
        self._forget()

    def _forget(self) -> None:
        """Go on as somebody new, who has nothing in hand. What is on its way has to be granted anew."""
        self._holder = os.urandom(8).hex()
        self._beat = ""
        self._attempts: dict[str, _Plan] = {}
        self._epoch += 1
        self._spare = Amounts()
        self._in_flight = Amounts()
        self._doubtful = Amounts()
        self._doubted: float | None = None
        self._unsettled = Amounts()
        self._claimed: frozenset[str] = frozenset()
        self._parked = self._told = ""
        self._contact = self._used = clock()
        self._ahead = _AHEAD

    def _entered(self) -> threading.Condition:
        return self._changed

    def is_on(self) -> bool:
        """Say whether the store has a quota; looked up every `LOOK` seconds at most."""
        began = clock()
        if self._scopes or (self._looked is not None and began - self._looked < LOOK):
            return bool(self._scopes)
        document = self._ledger.read().document  # not under the lock: nobody waits for another's look
        with self._entered():
            self._take(document, began)
            return bool(self._scopes)

    def recount(self, *, if_silent: bool = False) -> None:
        """Count all blobs, while nobody makes one visible; what those who are silent had in hand is over with that.

        With ``if_silent``, stop when others were faster, and nobody is silent any more. Raises `Unavailable` when
        others do not hold still.
        """
        with self._entered():
            deadline = clock() + self._calls.timeout + 2 * accounts.LEASE
            while self._parked:
                self._wait(deadline)
            try:
                while not self._has_counted(deadline):
                    if if_silent and not self._silent:
                        break
            finally:
                self._parked = self._told = ""
                self._changed.notify_all()

    def _wait(self, deadline: float) -> None:
        """Wait a moment for others; count the blobs when they are silent. One that counts is waited for to its end."""
        if clock() > deadline and not self._is_held_up and self._parked in ("", self._holder):
            raise Unavailable(f"the blobs of {self._calls.where} are being counted, or its quota changed: try again")
        self._changed.wait(random.uniform(TICK / 4, TICK))
        if self._silent and self._parked != self._holder:
            if self._parked in self._silent:
                self._parked = ""
            if not self._parked:
                self._silent = set()
                self.recount(if_silent=True)

    # -- the ledger ---------------------------------------------------------------------------------------------------

    @property
    def _all_counted(self) -> bool:
        document = self._ledger.read().document
        return all(account["counted"] for account in document["scopes"].values())

    def _exchange(
        self,
        *,
        need: Amounts | None = None,
        claim: str = "",
        keep: bool = False,
        also: Callable[[dict[str, Any]], None] = lambda document: None,
    ) -> dict[str, Any]:
        """Settle what has changed, draw what is needed, and say that this process lives.

        Raises `Gone` when others have taken it for dead, `Held` when they have to be waited for, and `Short`.
        """
        plans: dict[str, _Plan] = {}

        def change(document: dict[str, Any]) -> dict[str, Any]:
            self._check_mine(document)
            plan = self._plan(document, need or Amounts(), claim, keep=keep)
            also(document)
            plans[plan.beat] = plan
            return document

        while True:
            began = clock()
            try:
                document = self._ledger.update(change).document
                landed = self._beat_in(document)  # of several attempts, it need not be the last
                if landed not in plans:
                    raise Gone
            except _Landed:
                continue
            except Gone:
                doubted = self._doubted
                self._forget()
                self._doubted = doubted
                raise
            except BaseException as exc:
                if isinstance(exc, Unavailable) or not isinstance(exc, (StoreError, Short, Held, Uncounted)):
                    # Without a beat, a plan that took effect cannot be told from having been taken for dead.
                    self._attempts |= {beat: plan for beat, plan in plans.items() if beat}
                raise
            self._apply(plans[landed])
            self._contact = began
            self._take(document, began)
            return document

    def _check_mine(self, document: dict[str, Any]) -> None:
        """Raise `Gone` when the ledger does not say of this process what it should."""
        mine = self._beat_in(document)
        if mine != self._beat:
            if mine not in self._attempts:
                raise Gone
            self._apply(self._attempts[mine])
            raise _Landed

    def _beat_in(self, document: dict[str, Any]) -> str:
        beat: str = document.get("holders", {}).get(self._holder, {"beat": ""})["beat"]
        return beat

    def _plan(self, document: dict[str, Any], need: Amounts, claim: str, *, keep: bool) -> _Plan:
        if "scopes" not in document:  # somebody removed the ledger
            self._scopes = []
            raise Gone
        holders = document.setdefault("holders", {})
        others = self._look_at_others(document)
        is_counting = self._is_held_up = document.get("recount", self._holder) != self._holder
        joins = not self._beat and self._parked != self._holder  # to count, one may join a count that was left
        if is_counting and (need or claim or joins):
            raise Held
        if any(not document["scopes"][scope]["counted"] for scope in need.of):
            raise Uncounted
        if claim and any(claim in each["claims"] for each in others.values()):
            raise Held
        if document.get("recount") == self._holder and self._parked != self._holder:
            del document["recount"]  # of a recount that failed, as did telling that it is over
        accounts.settle(document, self._unsettled)
        held = self._spare + self._in_flight + self._doubtful
        drawn = Amounts()
        if need:
            accounts.check_room(document, self._holder, held, need)
            drawn = need + accounts.ahead(document, self._holder, held + need, need, self._ahead)
            held += drawn
        claimed = frozenset((self._busy & self._claimed) | ({claim} if claim else set()))
        holders.pop(self._holder, None)
        beat = ""
        if keep or held or claimed or self._committing or self._parked or self._doubted is not None:
            beat = os.urandom(8).hex()
            grants = {scope: amounts for scope, amounts in held.of.items() if any(amounts)}
            parked = self._parked if not self._committing else ""
            holders[self._holder] = {"beat": beat, "grants": grants, "claims": sorted(claimed), "parked": parked}
        return _Plan(beat, self._unsettled, drawn, claimed)

    def _apply(self, plan: _Plan) -> None:
        self._beat = plan.beat
        self._attempts = {}
        self._unsettled -= plan.settled
        self._spare += plan.drawn
        self._claimed = plan.claimed

    def _look_at_others(self, document: dict[str, Any]) -> dict[str, Any]:
        """Return what others have in hand."""
        others = {name: each for name, each in document.get("holders", {}).items() if name != self._holder}
        self._others = bool(others)
        self._silent = self._beats.silent(others)
        return others

    def _watch_others(self) -> None:
        began = clock()
        document = self._ledger.read().document
        self._look_at_others(document)
        self._take(document, began)

    def _take(self, document: dict[str, Any], began: float) -> None:
        """Take notice of what the ledger says of others, or said when it was asked."""
        self._looked = began
        scopes = sorted(document.get("scopes", {}))
        if scopes != self._scopes:
            self._scopes = scopes
            self._spare = Amounts()
        self._spare = self._spare.without(accounts.over(document))
        counting = document.get("recount", "")
        if self._parked != self._holder:
            self._parked = counting if self._beat and counting != self._holder else ""
        self._told = document.get("holders", {}).get(self._holder, {"parked": ""})["parked"]
        self._changed.notify_all()
        if self._beat:
            self._start_tending()

    # -- counting -----------------------------------------------------------------------------------------------------

    def _has_counted(self, deadline: float) -> bool:
        """Count; False when somebody did not hold still."""
        self._parked = self._told = self._holder
        while self._committing:
            self._wait(deadline)
        try:
            document = self._exchange(keep=True, also=self._mark)
        except Held:
            self._wait(deadline)
            return False
        except Gone:
            return False
        doubtful, doubted = self._doubtful, self._doubted
        try:
            still = self._still(document, deadline)
            is_decided = doubted is None or clock() - doubted >= accounts.LEASE
            scopes = list(document["scopes"])
            totals = accounts.count(self._beating(), scopes)
            if is_decided:
                self._doubtful, self._doubted = Amounts(), None
            self._exchange(keep=True, also=lambda document: self._enter_totals(document, totals, still))
            return True
        except Gone:
            return False
        except Held:
            self._doubtful, self._doubted = doubtful, doubted
            return False
        except BaseException:
            self._doubtful, self._doubted = doubtful, doubted
            self._unmark()
            raise

    def _mark(self, document: dict[str, Any]) -> None:
        counting = document.get("recount", "")
        if counting not in ("", self._holder) and counting not in self._silent and counting in document["holders"]:
            raise Held
        document["recount"] = self._holder
        for name, each in document["holders"].items():
            if name != self._holder:
                each["parked"] = ""  # which may have been for an earlier recount

    def _unmark(self) -> None:
        def clear(document: dict[str, Any]) -> None:
            if document.get("recount") == self._holder:
                del document["recount"]

        try:
            self._exchange(keep=True, also=clear)
        except (StoreError, Gone, Held) as exc:
            _log.warning("others wait for %.0f s for a recount that failed: %s", accounts.LEASE, exc)

    def _still(self, document: dict[str, Any], deadline: float) -> dict[str, str]:
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
            self._changed.wait(TICK)
            document = self._ledger.read().document
            if clock() - self._contact > accounts.LEASE / 4:
                document = self._exchange(keep=True)

    def _beating(self) -> Iterator[Blob]:
        for blobs in self._calls.scan(""):
            yield from (blob for blob in blobs if keys.is_valid(blob.key))
            if clock() - self._contact > accounts.LEASE / 4:
                self._exchange(keep=True)

    def _enter_totals(self, document: dict[str, Any], totals: Amounts, silent: dict[str, str]) -> None:
        holders = document["holders"]
        if document.get("recount") != self._holder:
            raise Held
        for name, each in holders.items():
            if name != self._holder and each["parked"] != self._holder and silent.get(name) != each["beat"]:
                raise Held
        for name in silent:
            if name in holders and holders[name]["beat"] == silent[name]:
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
                    self._changed.wait(pause)
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
        now = clock()
        if self._parked == self._holder:
            return False  # counting, which beats by itself
        if self._parked:
            if self._told != self._parked and not self._committing:
                self._exchange(keep=True)
            else:
                self._watch_others()
        elif self._doubted is not None:
            if now - self._doubted > accounts.LEASE:
                self.recount()
        elif not (self._in_flight or self._busy or self._committing) and now - self._used > _IDLE:
            return self._is_at_rest(now)
        if now - self._contact > accounts.LEASE / 4:
            self._exchange(keep=True)
        return False

    def _is_at_rest(self, now: float) -> bool:
        """Give back what is not used; return whether that was all, and nobody else is there who may have died."""
        self._spare, self._ahead = Amounts(), _AHEAD
        if self._beat or self._unsettled:
            self._exchange()
        elif self._others and self._looked is not None and now - self._looked > accounts.LEASE / 4:
            self._watch_others()
            if self._silent:
                self.recount(if_silent=True)
        return not self._beat and (not self._others or now - self._used > 3 * accounts.LEASE)


def _after_fork() -> None:
    # Another thread may have held a lock. What the parent has in hand is the parent's.
    for holder in list(holders):
        holder._begin()


os.register_at_fork(after_in_child=_after_fork)
