"""What a store holds, and may hold, counted by all who publish there, on any host: never too little, and never late.

One `pkgstore.ledger.Ledger` says for the store, and for each scope that has a limit, what is there, what may be, and
who has what in hand (`pkgstore.accounts`). A publisher first has its bytes granted there, and only then makes anything
visible; so the blobs that are there and all grants together never pass a limit. It draws more than it needs, so that
most publishes touch no ledger, and gives back what it has not used a moment after its last publish.

Who has something in hand says so again every few seconds (a beat). One that has been silent for `LEASE` may have died,
or sleep; what it did meanwhile is not known, and what it had in hand stays counted, until somebody counts the blobs
again. That takes everything from those who are silent, and holds up all others: they wait, just before a blob would
become visible, until it is over. Who has slept for too long finds this out at the same place, and is granted anew, or
refused.

A replacement or a deletion also takes an old blob's bytes away. For two of them not to count the same bytes, a key is
claimed in the ledger first.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
from typing import TYPE_CHECKING, Any

from pkgstore import accounts, holder
from pkgstore.accounts import Amounts, Usage, clock
from pkgstore.errors import Exists, Full, QuotaExceeded, StoreError, Unavailable
from pkgstore.granting import Grant, Granting, Otherwise, Outcome, is_open
from pkgstore.holder import Gone, Held
from pkgstore.keys import shown
from pkgstore.tending import TICK

if TYPE_CHECKING:
    from collections.abc import Callable

    from pkgstore.bodies import PublishBody
    from pkgstore.driver import Blob

_log = logging.getLogger("pkgstore")

_BEING_COUNTED = "this process ended while others were counting its blobs"


class Quota(Granting):
    """The accounts of a store, by which all publishing, replacing and deleting goes."""

    def usage(self, prefix: str, counted: Callable[[], tuple[int, int]]) -> Usage:
        """Return what the ledger says of a scope; where it has no account, the blobs and bytes that are ``counted``."""
        asked = clock()
        with self._changed:
            if self._unsettled:
                with contextlib.suppress(Gone, Held):
                    self._exchange(asked=asked)
        document = self._ledger.read().document
        return accounts.usage_of(document, prefix) or Usage(*counted(), available=accounts.available(document, prefix))

    def set_limits(self, prefix: str, size: int | None, blobs: int | None) -> None:
        """Limit a scope from now on. Where there was no account of it, its blobs are counted first."""

        def change(document: dict[str, Any]) -> dict[str, Any]:
            accounts.add_scope(document, "")
            accounts.add_scope(document, prefix).update(limit=size, blob_limit=blobs)
            return document

        self._set(change)

    def keep_accounts(self) -> None:
        """Have accounts kept of the store from now on, within what limits there are, or without any."""

        def change(document: dict[str, Any]) -> dict[str, Any]:
            accounts.add_scope(document, "")
            return document

        self._set(change)

    def _set(self, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        with self._changed:
            began = clock()
            self._take(self._ledger.update(change).document, began)
            until = clock() + holder.LOOK
            while not self._all_counted:
                if clock() < until:
                    self._changed.wait(TICK)  # until all who publish know
                else:
                    self.recount()

    def publish(self, path: str, key: str, source: PublishBody, *, replace: bool, version: str | None = None) -> Blob:
        """Put a body at ``path``, which its publisher calls ``key``, as `Calls.put` does. Raises `QuotaExceeded`.

        With ``version``, a tag, only that version is replaced, of a store that keeps accounts: by these, none takes its
        place meanwhile. Another in its place is `NotFound`.
        """
        counts = self.is_on()
        if version is not None and not counts:
            raise Unavailable(f"{self._calls.where} has lost its accounts, by which keys are claimed: try again")
        grant = source.watch = Grant(self, path, key, claims=replace and counts, version=version)
        with self._ending(grant):
            if grant.claims:
                if not source.replayable:
                    self._claim(grant)  # as it cannot be put again, nothing may change meanwhile
                self._look(grant)
            try:
                blob = self._put(grant, source, replace=replace)
            except Exists:
                self._end(grant, Outcome(doubtful=source.left_open and grant.is_committing))
                raise
            # An earlier try may have been visible before another deleted or replaced it.
            doubtful = source.left_open and not grant.claims
            known = grant.is_sure or not replace
            self._end(grant, Outcome(doubtful=True) if doubtful else Outcome(blob, grant.old, known=known))
        return blob

    def _put(self, grant: Grant, source: PublishBody, *, replace: bool) -> Blob:
        """Put a body. What it takes the place of, where that is known, is ``grant.old``."""
        path, key = grant.path, grant.key
        while True:
            exclusive = not replace or (grant.claims and not grant.old)
            try:
                if source.size is not None:
                    grant.reading(source.size)
                return self._calls.put(path, key, source, exclusive=exclusive)
            except QuotaExceeded:
                if not replace and source.replayable and self._there(path, key):
                    source.read_through()  # to compare it
                    raise Exists(f"{shown(key)} is there already", key=key) from None
                raise
            except (Exists, Otherwise) as exc:
                if not replace:
                    raise
                with self._changed:
                    self._withdraw(grant)  # nothing of it can be visible
                if not source.replayable:
                    raise Unavailable(
                        f"{shown(key)} was published in {self._calls.where} at the same moment: replace it again",
                        key=key,
                    ) from exc
                self._look(grant)

    def delete(self, path: str, key: str, delete: Callable[[], Blob | None]) -> Blob | None:
        """Have ``delete`` take a blob away; return what it returns: the blob that was there, if any."""
        counts = self.is_on()
        grant = Grant(self, path, key, claims=counts)
        known = True
        with self._ending(grant):
            if counts:
                try:
                    self._claim(grant)
                    self.begin_commit(grant, None)
                except Full as exc:
                    known = False
                    _log.warning("%s; what is deleted is counted afterwards", exc)
            try:
                old = delete()
            except BaseException as exc:
                self._end(grant, Outcome(doubtful=is_open(exc)))
                raise
            self._end(grant, Outcome(None, old, known=known))
        return old

    def close(self) -> None:
        """Give back what is in hand. What cannot be given back stays counted until the blobs are counted again."""
        with self._changed:
            self._closed = True
            self._parked = self._told = ""
            self._spare = Amounts()
            self._notify()
            self._end_what_was_cut()
            try:
                while self._beat or self._attempts or self._unsettled or self._doubted is not None:
                    try:
                        self._exchange()
                        break
                    except Gone:  # a doubt is left under another name, for others to find it silent, and to count
                        if self._doubted is None:
                            break
            except Held:
                _log.warning(
                    "the quota of %s is not exact until usage --recount: %s", self._calls.where, _BEING_COUNTED
                )
            except StoreError as exc:
                _log.warning("what this process had in hand stays counted until usage --recount: %s", exc)


@atexit.register
def _give_back() -> None:
    """Give back what stores that nobody closed have in hand, while threads can still end."""
    for each in list(holder.holders):
        if isinstance(each, Quota) and not each._closed:
            thread = each._thread
            each.close()
            if thread is not None:  # else it would be frozen by the interpreter's end, perhaps with a lock
                thread.join(accounts.LEASE)
