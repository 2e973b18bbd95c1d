"""What this process has in hand of a store's quota: what the ledger says of it, and the thread that keeps it so.

`pkgstore.quota` says what it is for.
"""

from __future__ import annotations

import math
import os
import threading
import weakref
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

from pkgstore import accounts
from pkgstore.accounts import Amounts, Beats, Short, clock
from pkgstore.errors import StoreError, Unavailable
from pkgstore.ledger import Ledger

if TYPE_CHECKING:
    from collections.abc import Callable

    from pkgstore.calls import Calls

LOOK = 2.0
"""Seconds after which one who knew of no quota looks again whether there is one."""

AHEAD = 256
"""How many more publishes like the one that asks are granted with it, at most."""

holders: weakref.WeakSet[Holder] = weakref.WeakSet()
"""All of this process."""


class Gone(Exception):
    """What this process had in hand was taken from it."""


class Held(Exception):
    """Others have to be waited for: they count all blobs."""


class Taken(Held):
    """Others have to be waited for: they change the same key."""


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

    Safe to share between threads, and to use after fork.
    """

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self._ledger = Ledger(calls, "usage")
        self._epoch = 0
        self._begin()
        holders.add(self)

    def _begin(self) -> None:
        lock = threading.RLock()  # of all that follows
        self._changed = threading.Condition(lock)
        self._due = threading.Condition(lock)  # which the thread waits for, that is not to wake at every publish
        self._thread: threading.Thread | None = None
        self._closed = False
        self._scopes: list[str] = []
        self._looked: float | None = None
        self._beats = Beats()
        self._others = False
        self._silent: set[str] = set()
        self._is_held_up = False
        self._busy: set[str] = set()
        self._committing: set[object] = set()
        self._cut: deque[Any] = deque()  # the grants whose end a signal has cut short
        self._last_count = -math.inf  # when it began, of those that this process made
        self._failure = ""
        self._failed = -math.inf
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
        self._claimed: dict[str, float] = {}
        self._parked = self._told = ""
        self._contact = self._used = clock()

    def is_on(self) -> bool:
        """Say whether the store has a quota; looked up every `LOOK` seconds at most."""
        began = clock()
        if self._scopes or (self._looked is not None and began - self._looked < LOOK):
            return bool(self._scopes)
        document = self._ledger.read().document  # not under the lock: nobody waits for another's look
        with self._changed:
            if not self._scopes and (self._looked is None or self._looked < began):  # else others have looked since
                self._take(document, began)
            return bool(self._scopes)

    def _notify(self) -> None:
        """Let those look again who wait for others; and the thread, if others may wait for it."""
        self._changed.notify_all()
        if self._parked or self._closed:
            self._due.notify_all()

    # -- the ledger ---------------------------------------------------------------------------------------------------

    def _exchange(
        self,
        *,
        need: Amounts | None = None,
        claim: str = "",
        keep: bool = False,
        also: Callable[[dict[str, Any]], None] = lambda document: None,
        asked: float = math.inf,
    ) -> dict[str, Any]:
        """Settle what has changed, draw what is needed, and say that this process lives.

        Raises `Gone` when others have taken it for dead, `Held` when they have to be waited for, and `Short`. Who has
        ``asked`` long ago, and waited while another thread tried in vain, does not try for as long again.
        """
        if asked < self._failed and clock() - asked > self._calls.timeout / 2:
            raise Unavailable(self._failure)
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
                self._apply(plans[landed])
            except _Landed:
                continue
            except BaseException as exc:
                self._take_notice(exc, plans)
                raise
            self._failed = -math.inf
            self._contact = began
            self._take(document, began)
            return document

    def _take_notice(self, exc: BaseException, plans: dict[str, _Plan]) -> None:
        """Take notice of how an exchange ended that did not end well."""
        if isinstance(exc, Gone):
            doubtful, doubted = self._doubtful, self._doubted
            self._forget()
            self._doubtful, self._doubted = doubtful, doubted
        elif isinstance(exc, Unavailable) or not isinstance(exc, (StoreError, Short, Held)):
            # Without a beat, a plan that took effect cannot be told from having been taken for dead.
            self._attempts |= {beat: plan for beat, plan in plans.items() if beat}
            # What it may have given up is no longer relied on, nor is that others take this process for alive.
            self._contact = -math.inf
            self._claimed = {path: since for path, since in self._claimed.items() if path in self._busy}
        self._failure, self._failed = (str(exc), clock()) if isinstance(exc, Unavailable) else ("", -math.inf)

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
            raise Taken
        if document.get("recount") == self._holder and self._parked != self._holder:
            del document["recount"]  # of a recount that failed, as did telling that it is over
        accounts.settle(document, self._unsettled)
        held = self._spare + self._in_flight + self._doubtful
        drawn = Amounts()
        if need:
            accounts.check_room(document, self._holder, held, need)
            drawn = need + accounts.ahead(document, self._holder, held + need, need, AHEAD)
            held += drawn
        claimed = frozenset((self._busy & self._claimed.keys()) | ({claim} if claim else set()))
        holders.pop(self._holder, None)
        beat = ""
        if keep or held or claimed or self._committing or self._parked or self._doubted is not None:
            beat = os.urandom(8).hex()
            grants = {scope: amounts for scope, amounts in held.of.items() if any(amounts)}
            parked = self._parked if not self._committing else ""
            holders[self._holder] = {"beat": beat, "grants": grants, "claims": sorted(claimed), "parked": parked}
        return _Plan(beat, self._unsettled, drawn, claimed)

    def _apply(self, plan: _Plan) -> None:
        now = clock()
        unsettled, spare = self._unsettled - plan.settled, Amounts() if self._closed else self._spare + plan.drawn
        claimed = {path: self._claimed.get(path, now) for path in plan.claimed}
        # All or nothing, whatever signal comes: nothing is called in between.
        self._beat, self._attempts, self._unsettled = plan.beat, {}, unsettled
        self._spare, self._claimed = spare, claimed

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
        self._notify()


def _after_fork() -> None:
    # Another thread may have held a lock. What the parent has in hand is the parent's.
    for holder in list(holders):
        holder._begin()


os.register_at_fork(after_in_child=_after_fork)
