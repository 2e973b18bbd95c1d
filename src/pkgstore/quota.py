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
from pkgstore.accounts import Amounts, Short, Usage, clock
from pkgstore.errors import Exists, LockTimeout, NotFound, QuotaExceeded, StoreError, Unavailable
from pkgstore.hashing import SourceFailed
from pkgstore.holder import Gone, Held, Uncounted
from pkgstore.keys import shown
from pkgstore.tending import TICK, Tending

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from pkgstore.bodies import PublishBody
    from pkgstore.driver import Blob

_log = logging.getLogger("pkgstore")

_MOST_AHEAD = 256


class Grant:
    """What one publish has in hand, while its body is read and until it is visible. Made by `Quota.publish`."""

    def __init__(self, quota: Quota, path: str, key: str, *, claims: bool = False) -> None:
        self._quota = quota
        self.path = path
        self.key = key
        self.claims = claims
        self.size: int | None = None
        self.epoch = 0
        self.held = Amounts()
        self.blobs = 1
        self.scopes: list[str] = []
        self.is_committing = False

    def reading(self, count: int) -> None:
        """Have as many bytes granted as have been read, or will be. Raises `QuotaExceeded`."""
        if (self.size is None or count > self.size) and self._quota.is_on():
            self._quota.grow(self, count)

    def finishing(self, count: int) -> None:
        """Return when the blob may become visible. Raises `QuotaExceeded`."""
        if self._quota.is_on():
            self._quota.begin_commit(self, count)


class Quota(Tending):
    """The accounts of a store, by which all publishing, replacing and deleting goes."""

    # -- what the store asks ------------------------------------------------------------------------------------------

    def usage(self, prefix: str) -> Usage | None:
        """Return what the ledger says of a scope; None where it has no account."""
        with self._entered():
            if self._unsettled:
                with contextlib.suppress(Gone):
                    self._exchange()
        return accounts.usage_of(self._ledger.read().document, prefix)

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
        with self._entered():
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
        grant = source.watch = Grant(self, path, key, claims=replace and counts)
        with self._claim(path) if replace and counts else contextlib.nullcontext():
            old = self._there(path, key) if replace and counts else None
            if version is not None and (old is None or old.tag != version):
                raise NotFound(f"that version of {shown(key)} is not in {self._calls.where} any more", key=key)
            grant.blobs = 0 if old else 1
            try:
                blob, old = self._put(
                    grant, source, old, replace=replace, exclusive=not replace or (counts and not old)
                )
            except Exists:
                self._end(grant, doubtful=source.left_open and grant.is_committing)
                raise
            except BaseException as exc:
                self._end(grant, doubtful=_is_open(exc, grant))
                raise
            # An earlier try may have been visible before another deleted or replaced it.
            if source.left_open and not grant.claims:
                self._end(grant, doubtful=True)
            else:
                self._end(grant, blob, old, known=counts or not replace)
        return blob

    def _put(
        self, grant: Grant, source: PublishBody, old: Blob | None, *, replace: bool, exclusive: bool
    ) -> tuple[Blob, Blob | None]:
        """Put a body; return the blob, and what it has taken the place of."""
        path, key = grant.path, grant.key
        try:
            if source.size is not None:
                grant.reading(source.size)
            return self._calls.put(path, key, source, exclusive=exclusive), old
        except QuotaExceeded:
            if not replace and source.replayable and self._there(path, key):
                _read(source)  # to compare it
                raise Exists(f"{shown(key)} is there already", key=key) from None
            raise
        except Exists as exc:
            if not replace:
                raise
            if not source.replayable:
                raise Unavailable(
                    f"{shown(key)} was published in {self._calls.where} at the same moment: replace it again", key=key
                ) from exc
            old = self._there(path, key)
            return self._calls.put(path, key, source, exclusive=False), old

    def delete(self, path: str, key: str, delete: Callable[[], Blob | None]) -> None:
        """Have ``delete`` take a blob away, and return what was there."""
        if not self.is_on():
            delete()
            return
        grant = Grant(self, path, key, claims=True)
        with self._claim(path):
            self.begin_commit(grant, None)
            try:
                old = delete()
            except BaseException as exc:
                self._end(grant, doubtful=_is_open(exc, grant))
                raise
            self._end(grant, None, old)

    def close(self) -> None:
        """Give back what is in hand. What cannot be given back stays counted until the blobs are counted again."""
        with self._entered():
            self._closed = True
            self._spare = Amounts()
            self._changed.notify_all()
            try:
                if self._beat or self._unsettled:
                    self._exchange()
            except Gone:
                pass
            except StoreError as exc:
                _log.warning("what this process had in hand stays counted until usage --recount: %s", exc)

    # -- what a publish goes through ----------------------------------------------------------------------------------

    def grow(self, grant: Grant, size: int) -> None:
        """Have ``size`` bytes granted to a publish. Raises `QuotaExceeded`, and `Unavailable` when nobody can tell."""
        with self._entered():
            while True:
                if grant.epoch != self._epoch:
                    grant.held, grant.epoch = Amounts(), self._epoch
                need = Amounts.at(self._scopes, grant.path, size, grant.blobs) - grant.held
                if self._spare.covers(need):
                    break
                self._draw(grant.key, need)
            self._spare -= need
            self._in_flight += need
            grant.held += need
            grant.size, grant.scopes = size, self._scopes

    def begin_commit(self, grant: Grant, size: int | None) -> None:
        """Return when a change may become visible: its ``size``, if any, is granted, and nobody counts."""
        with self._entered():
            deadline = clock() + self._calls.timeout + 2 * accounts.LEASE
            while self._scopes:
                if grant.claims and grant.path not in self._claimed:
                    raise LockTimeout(
                        f"{shown(grant.key)} in {self._calls.where} was not changed, as this process had slept, and"
                        " others had taken over: try again",
                        key=grant.key,
                    )
                if self._parked and not grant.is_committing:  # for whom else the count waits
                    self._wait(deadline)
                elif size is not None and not self._is_granted(grant, size):
                    self.grow(grant, size)
                elif not self._beat or clock() - self._contact > accounts.LEASE / 2:
                    try:
                        self._exchange(keep=True)
                    except Gone:
                        pass
                    except Held:
                        self._wait(deadline)
                else:
                    break
            grant.epoch = self._epoch
            self._committing += not grant.is_committing
            grant.is_committing = True

    def _is_granted(self, grant: Grant, size: int) -> bool:
        return (
            grant.epoch == self._epoch
            and grant.scopes is self._scopes
            and grant.size is not None
            and grant.size >= size
        )

    def _end(
        self,
        grant: Grant,
        blob: Blob | None = None,
        old: Blob | None = None,
        *,
        doubtful: bool = False,
        known: bool = True,
    ) -> None:
        """Account for what has come, and for what is gone; ``known`` says whether that is known."""
        with self._entered():
            self._committing -= grant.is_committing
            self._used = clock()
            self._changed.notify_all()
            has_changed = blob is not None or old is not None
            if not self._is_still_on(has_changed):
                return
            if has_changed and clock() - self._contact > accounts.LEASE / 2:
                try:
                    self._exchange(keep=True)
                except (Gone, Held):
                    pass
                except StoreError as exc:
                    self._doubted = clock()
                    _log.warning("what was published in %s is entered into its quota later: %s", self._calls.where, exc)
            is_mine = grant.epoch == self._epoch
            if is_mine:
                self._in_flight -= grant.held
            if doubtful:
                self._doubtful += grant.held
                self._doubted = clock()
            elif has_changed and not (is_mine and known):
                self._recount_or_tell()
            elif is_mine:
                self._enter(grant, blob, old)
            self._start_tending()

    def _enter(self, grant: Grant, blob: Blob | None, old: Blob | None) -> None:
        self._spare += grant.held
        if blob:
            self._spare -= Amounts.at(grant.scopes, grant.path, blob.size, grant.blobs)
            self._unsettled += Amounts.at(self._scopes, grant.path, blob.size, 1)
        if old:
            self._unsettled -= Amounts.at(self._scopes, grant.path, old.size, 1)

    def _is_still_on(self, has_changed: bool) -> bool:
        """Say whether there is a quota; one that is set while a blob is on its way is counted without it."""
        try:
            return self.is_on() if has_changed else bool(self._scopes)
        except StoreError as exc:
            _log.warning("if %s has a quota by now, it is not exact until usage --recount: %s", self._calls.where, exc)
            return False

    @contextlib.contextmanager
    def _claim(self, path: str) -> Generator[None]:
        """Be the only one, among those who replace and delete, who changes a key."""
        with self._entered():
            deadline = clock() + self._calls.timeout + 2 * accounts.LEASE
            while path in self._busy or path not in self._claimed:
                try:
                    if path not in self._busy:
                        self._exchange(claim=path)
                        continue
                except Gone:
                    continue
                except Held:
                    pass
                self._wait(deadline)
            self._busy.add(path)
        try:
            yield
        finally:
            with self._entered():
                self._busy.discard(path)
                self._used = clock()
                self._changed.notify_all()
                self._start_tending()

    def _there(self, path: str, key: str) -> Blob | None:
        try:
            return self._calls.call("stat", key, lambda: self._calls.driver.stat(path))
        except NotFound:
            return None

    def _draw(self, key: str, need: Amounts) -> None:
        """Have what is needed granted, and some more; or return when it is to be worked out anew."""
        epoch = self._epoch
        until = clock() + self._calls.timeout + 2 * accounts.LEASE
        counted = clock() + max(holder.LOOK, accounts.LEASE)
        patient = clock() + 2 * accounts.LEASE
        self._spare = Amounts()  # too little is of no use, and may be what is missing
        while epoch == self._epoch:
            try:
                self._exchange(need=need)
                self._ahead = min(2 * self._ahead, _MOST_AHEAD)
                return
            except Gone:
                return
            except Uncounted:
                if clock() < counted:
                    self._wait(until)
                else:
                    self.recount()  # who set the limit did not live to do it
            except Held:
                self._wait(until)
            except Short as exc:
                if not exc.others or clock() > patient:
                    raise self._exceeded(key, need, exc) from None
                self._wait(until)

    def _exceeded(self, key: str, need: Amounts, short: Short) -> QuotaExceeded:
        usage = short.usage
        place = f"{self._calls.where}{short.scope and '/'}{short.scope}"
        needed = need[short.scope][0]
        left = usage.available
        if left is not None and needed > left:
            what = f"needs {needed:,} bytes, and the quota of {place} has {left:,} left"
            limit, used = usage.limit, f"{usage.bytes:,} are used and {usage.reserved:,} reserved"
        else:
            what = f"is one blob more than the quota of {place} allows"
            limit, used = usage.blob_limit, f"{usage.blobs:,} are there, and others on their way count too"
        return QuotaExceeded(
            f"{shown(key)} {what}: its limit is {limit:,}, of which {used}; delete something, or raise the quota",
            key=key,
            limit=usage.limit,
            used=usage.bytes + usage.reserved,
            needed=needed,
        )

    def _recount_or_tell(self) -> None:
        try:
            self.recount()
        except StoreError as exc:
            _log.warning("the quota of %s is not exact until usage --recount: %s", self._calls.where, exc)


def _read(source: PublishBody) -> None:
    """Read a body to its end, so that its digests are known. Raises what it raises."""
    try:
        with source.attempt(ahead=True) as body:
            body.drain()
    except SourceFailed as exc:
        raise exc.error from None


def _is_open(exc: BaseException, grant: Grant) -> bool:
    """Say whether a change may have taken effect, or may yet, though it raised this."""
    return grant.is_committing and (isinstance(exc, Unavailable) or not isinstance(exc, StoreError))


@atexit.register
def _give_back() -> None:
    """Give back what stores that nobody closed have in hand, while threads can still end."""
    for each in list(holder.holders):
        if isinstance(each, Quota) and not each._closed:
            thread = each._thread
            each.close()
            if thread is not None:  # else it would be frozen by the interpreter's end, perhaps with a lock
                thread.join(accounts.LEASE)
