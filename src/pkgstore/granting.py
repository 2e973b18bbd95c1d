"""What one change goes through under a quota: bytes are granted, its key is claimed, what came of it is entered.

`pkgstore.quota` says what it is for.
"""

from __future__ import annotations

import contextlib
import logging
import math
from typing import TYPE_CHECKING, NamedTuple

from pkgstore import accounts, holder
from pkgstore.accounts import Amounts, Short, clock
from pkgstore.errors import LockTimeout, NotFound, QuotaExceeded, StoreError, Unavailable
from pkgstore.holder import Gone, Held, Taken, Uncounted
from pkgstore.keys import shown
from pkgstore.tending import TICK, Tending

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pkgstore.driver import Blob

_log = logging.getLogger("pkgstore")


class Otherwise(Exception):
    """What is to be replaced is not there, or something is, other than was thought: put it in the other way."""


class Grant:
    """What one change has in hand, while its body is read and until it is visible. Made by `pkgstore.quota.Quota`.

    One that ``claims`` its key knows what is there, ``old``, for certain only when it has looked, ``is_sure``, after it
    ``is_claimed``. With ``version``, a tag, it is to take the place of that one only.
    """

    def __init__(
        self, granting: Granting, path: str, key: str, *, claims: bool = False, version: str | None = None
    ) -> None:
        self._granting = granting
        self.path = path
        self.key = key
        self.claims = claims
        self.version = version
        self.is_claimed = False
        self.is_sure = False
        self.old: Blob | None = None
        self.outcome: Outcome | None = None
        self.is_entered = False
        self.is_over = False
        self.size: int | None = None
        self.epoch = 0
        self.held = Amounts()
        self.blobs = 1
        self.scopes: list[str] = []

    @property
    def is_committing(self) -> bool:
        """Whether a count waits for it: what it changes may be visible, or may become so."""
        return self._granting.is_committing(self)

    def reading(self, count: int) -> None:
        """Have as many bytes granted as have been read, or will be. Raises `QuotaExceeded`."""
        if (self.size is None or count > self.size) and self._granting.is_on():
            self._granting.grow(self, count)

    def finishing(self, count: int) -> None:
        """Return when the blob may become visible. Raises `QuotaExceeded`; and `Otherwise`."""
        if self._granting.is_on():
            if self.claims and not self.is_sure:
                self._granting.claim(self)
            self._granting.begin_commit(self, count)


class Outcome(NamedTuple):
    """What came of a change: the blob that is there, and the one that is gone; whether these are ``known``.

    One that is ``doubtful`` may have taken effect, or may yet.
    """

    blob: Blob | None = None
    old: Blob | None = None
    doubtful: bool = False
    known: bool = True


class Granting(Tending):
    """A holder through which changes go.

    A signal may interrupt whatever is done here, at any call. What belongs together is therefore changed by assignments
    in a row, without any call; and a grant whose end was cut short is ended by the thread.
    """

    def grow(self, grant: Grant, size: int) -> None:
        """Have ``size`` bytes granted to a publish. Raises `QuotaExceeded`, and `Unavailable` when nobody can tell."""
        asked = clock()
        with self._changed:
            while True:
                if grant.epoch != self._epoch:
                    grant.held, grant.epoch = Amounts(), self._epoch
                need = Amounts.at(self._scopes, grant.path, size, grant.blobs) - grant.held
                if self._spare.covers(need):
                    break
                if grant.is_committing:  # for which a count would wait, and it for the count
                    raise LockTimeout(
                        f"the quota of {self._calls.where} was changed, or this process had slept, while"
                        f" {shown(grant.key)} was being published: try again",
                        key=grant.key,
                    )
                self._draw(grant.key, need, asked)
            spare, in_flight, held = self._spare - need, self._in_flight + need, grant.held + need
            self._spare, self._in_flight, grant.held = spare, in_flight, held
            grant.size, grant.scopes = size, self._scopes

    def begin_commit(self, grant: Grant, size: int | None) -> None:
        """Return when a change may become visible: its ``size``, if any, is granted, and nobody counts."""
        asked = clock()
        with self._changed:
            deadline = clock() + self._patience
            while self._scopes:
                if grant.claims and grant.path not in self._claimed:
                    raise LockTimeout(
                        f"{shown(grant.key)} in {self._calls.where} was not changed, as this process had slept, and"
                        " others had taken over: try again",
                        key=grant.key,
                    )
                if self._parked and not grant.is_committing:  # for whom else the count waits
                    self._wait(math.inf)
                elif size is not None and not self._is_granted(grant, size):
                    self.grow(grant, size)
                elif not self._beat or clock() - self._contact > accounts.LEASE / 2:
                    try:
                        self._exchange(keep=True, asked=asked)
                    except Gone:
                        pass
                    except Held:
                        self._wait(deadline)
                else:
                    break
            if grant.epoch != self._epoch:
                grant.held, grant.epoch = Amounts(), self._epoch
            self._committing.add(grant)

    def _is_granted(self, grant: Grant, size: int) -> bool:
        return (
            grant.epoch == self._epoch
            and grant.scopes is self._scopes
            and grant.size is not None
            and grant.size >= size
        )

    @contextlib.contextmanager
    def _ending(self, grant: Grant) -> Iterator[None]:
        """End a grant with the block, which ends it itself unless it raises."""
        try:
            try:
                yield
            except BaseException as exc:
                if grant.outcome is None:
                    self._end(grant, Outcome(doubtful=grant.is_committing and is_open(exc)))
                raise
        except BaseException:
            if not grant.is_over:
                self._cut.append(grant)
            raise

    def _end(self, grant: Grant, outcome: Outcome) -> None:
        """Account for what has come, and for what is gone."""
        grant.outcome = outcome
        asked = clock()
        with self._changed:
            self._release(grant)
            self._withdraw(grant)
            has_changed = outcome.blob is not None or outcome.old is not None
            if self._is_still_on(has_changed):
                is_mine = grant.epoch == self._epoch
                if not grant.is_entered:
                    self._enter(grant, outcome, is_mine=is_mine)
                self._start_tending()
                is_known = is_mine and outcome.known
                if has_changed and not (is_known and self._is_still_mine(asked)):
                    self._recount_or_tell(asked)
            grant.is_over = True

    def _end_what_was_cut(self) -> None:
        while self._cut:
            grant = self._cut.popleft()
            self._end(grant, grant.outcome or Outcome(doubtful=grant.is_committing))

    def _withdraw(self, grant: Grant) -> None:
        """Have a count wait for a change no longer."""
        self._committing.discard(grant)
        self._notify()

    def is_committing(self, grant: Grant) -> bool:
        """Say whether a change may be visible, or may become so; one of the process before a fork is not this one's."""
        return grant in self._committing

    def _is_still_mine(self, asked: float) -> bool:
        """Say whether nobody can have taken this process for dead, and have counted what it just entered."""
        if clock() - self._contact > accounts.LEASE / 2:
            try:
                self._exchange(keep=True, asked=asked)
            except (Gone, Held):
                return False
            except BaseException as exc:
                self._doubted = clock()
                if not isinstance(exc, StoreError):
                    raise
                _log.warning("what was published in %s is entered into its quota later: %s", self._calls.where, exc)
        return True

    def _enter(self, grant: Grant, outcome: Outcome, *, is_mine: bool) -> None:
        spare, unsettled, doubtful, doubted = self._spare, self._unsettled, self._doubtful, self._doubted
        in_flight = self._in_flight - grant.held if is_mine else self._in_flight
        if outcome.doubtful:
            doubtful, doubted = doubtful + grant.held, clock()
        elif is_mine and outcome.known:
            spare += grant.held
            if outcome.blob:
                spare -= Amounts.at(grant.scopes, grant.path, outcome.blob.size, grant.blobs)
                unsettled += Amounts.at(self._scopes, grant.path, outcome.blob.size, 1)
            if outcome.old:
                unsettled -= Amounts.at(self._scopes, grant.path, outcome.old.size, 1)
        self._in_flight, self._spare, self._unsettled = in_flight, spare, unsettled
        self._doubtful, self._doubted, grant.is_entered = doubtful, doubted, True

    def _is_still_on(self, has_changed: bool) -> bool:
        """Say whether there is a quota; one that is set while a blob is on its way is counted without it."""
        try:
            return self.is_on() if has_changed else bool(self._scopes)
        except StoreError as exc:
            _log.warning("if %s has a quota by now, it is not exact until usage --recount: %s", self._calls.where, exc)
            return False

    def claim(self, grant: Grant) -> None:
        """Be the only one, among those who replace and delete, who changes a key until the grant ends; and look.

        Raises `LockTimeout`, `NotFound` for a version that has gone, and `Otherwise` when it had been taken for there,
        and is not, or the other way round.
        """
        if not grant.is_claimed:
            self._claim(grant)
        was_there = grant.old is not None
        self._see(grant)
        if was_there != (grant.old is not None):
            raise Otherwise

    def _look(self, grant: Grant) -> None:
        """Find out what is to be replaced, and so whether there will be one blob more."""
        self._see(grant)
        grant.blobs = 0 if grant.old else 1
        grant.size = None  # which is to be granted anew

    def _see(self, grant: Grant) -> None:
        grant.old = self._there(grant.path, grant.key)
        grant.is_sure = grant.is_claimed
        if grant.version is not None and (grant.old is None or grant.old.tag != grant.version):
            what = f"that version of {shown(grant.key)}"
            raise NotFound(f"{what} is not in {self._calls.where} any more", key=grant.key)

    def _claim(self, grant: Grant) -> None:
        path = grant.path
        asked = clock()
        with self._changed:
            deadline = clock() + self._patience
            if path not in self._busy and clock() - self._claimed.get(path, math.inf) > accounts.LEASE / 4:
                with contextlib.suppress(Gone, Held):
                    self._exchange(asked=asked)  # which gives it up: others may be waiting for it
                self._changed.wait(TICK)
            while path in self._busy or path not in self._claimed:
                is_taken = path in self._busy
                try:
                    if not is_taken:
                        self._exchange(claim=path, asked=asked)
                        continue
                except Gone:
                    continue
                except Held as exc:
                    is_taken = isinstance(exc, Taken)
                if is_taken and clock() > deadline:
                    raise LockTimeout(
                        f"{shown(grant.key)} in {self._calls.where} was not changed, as others have been replacing or"
                        f" deleting it for {clock() - asked:.0f} s: try again",
                        key=grant.key,
                    )
                self._wait(deadline)
            self._busy, grant.is_claimed = self._busy | {path}, True

    def _release(self, grant: Grant) -> None:
        if grant.is_claimed:
            self._busy, grant.is_claimed = self._busy - {grant.path}, False
        self._used = clock()
        self._notify()
        if self._beat:
            self._start_tending()

    def _there(self, path: str, key: str) -> Blob | None:
        try:
            return self._calls.call("stat", key, lambda: self._calls.driver.stat(path))
        except NotFound:
            return None

    def _draw(self, key: str, need: Amounts, asked: float) -> None:
        """Have what is needed granted, and some more; or return when it is to be worked out anew."""
        epoch = self._epoch
        until = clock() + self._patience
        counted = clock() + max(holder.LOOK, accounts.LEASE)
        patient = clock() + 2 * accounts.LEASE
        self._spare = Amounts()  # too little is of no use, and may be what is missing
        while epoch == self._epoch:
            try:
                self._exchange(need=need, asked=asked)
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
        if short.in_bytes:
            what = f"needs {needed:,} bytes, and the quota of {place} has {usage.available:,} left"
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

    def _recount_or_tell(self, since: float) -> None:
        try:
            self.recount(since=since)
        except BaseException as exc:
            with self._changed:
                self._doubted = clock()
                self._start_tending()
            if not isinstance(exc, StoreError) and not self._closed:
                raise
            until = "usage --recount" if self._closed else "the recount that is still to come"
            _log.warning("the quota of %s is not exact until %s: %s", self._calls.where, until, exc)


def is_open(exc: BaseException) -> bool:
    """Say whether a change may have taken effect, or may yet, though it raised this."""
    return isinstance(exc, Unavailable) or not isinstance(exc, StoreError)
