"""A small document that many hosts change, each change on top of the one before: the compare-and-swap of the store.

Every state of the document is a blob of its own, `.pkgstore/ledger/<name>/<generation>.json`, put exclusively: of all
who want to follow one generation with the next, one wins. Nothing else of the medium is needed.

Old generations are deleted, so that a writer that slept may find the name of a generation free that was taken long ago.
What it puts there is never the newest, and whoever has put one looks afterwards whether it is. Whether a change whose
reply was lost took effect, the document itself says: it holds the transactions that made it, for the last
`REMEMBERED` generations, which are more than the `KEPT` ones that are there.

One thing is taken for granted: that of two lists, one after the other, not both take as long as `KEPT` changes.
"""

from __future__ import annotations

import contextlib
import copy
import json
import logging
import os
import random
import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from pkgstore import keys
from pkgstore.bodies import PublishBody
from pkgstore.errors import Corrupt, Denied, Exists, NotFound, StoreError, Unavailable
from pkgstore.hashing import CHUNK, wanted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pkgstore.calls import Calls

_log = logging.getLogger("pkgstore")

KEPT = 16
REMEMBERED = 128

_FORMAT = 1
_DIGITS = 12
_SHORTEST_PAUSE = 0.005
_LONGEST_PAUSE = 0.5
_YOUNG = 1.0
_NAME = re.compile(r"([0-9]{12})\.json")


class Entry(NamedTuple):
    """A state of the document: its content, and its number. Number 0 is an empty document that was never written."""

    document: dict[str, Any]
    generation: int
    transactions: tuple[str, ...] = ()


@dataclass
class _Attempt:
    """An update on its way. ``first`` is a generation that may be its own, ``stale`` one that it put too late."""

    transaction: str
    first: int = 0
    stale: int = 0


class Ledger:
    """The document ``name``, such as ``usage``. Safe to share between threads, and to use after fork."""

    def __init__(self, calls: Calls, name: str) -> None:
        self._calls = calls
        self._folder = f"{keys.CONTROL}/ledger/{name}/"
        self._known: Entry | None = None
        self._learnt = 0.0
        self._may_delete = True

    @property
    def where(self) -> str:
        """Where the document is, for messages."""
        return f"{self._folder} in {self._calls.where}"

    def read(self) -> Entry:
        """Return the newest state: what was there, or is newer, when the call began. Its document is the caller's own.

        Raises `Corrupt` for a document that is none.
        """
        found = self._newest()
        return found._replace(document=copy.deepcopy(found.document))

    def update(self, change: Callable[[dict[str, Any]], dict[str, Any] | None]) -> Entry:
        """Put ``change(document)`` in the place of the document, in one step, and return it.

        ``change`` may change what it is given; it is called again whenever another writer was faster, and what it
        raises comes through. When it returns None, there is nothing to change, and the newest state is returned.
        Raises `Unavailable` when the outcome is not known, or when others were faster for as long as the store's
        ``timeout``.
        """
        attempt = _Attempt(os.urandom(8).hex())
        try:
            for entry, is_fresh in self._states():
                done = self._try(attempt, entry, change, is_fresh=is_fresh)
                if done:
                    return done._replace(document=copy.deepcopy(done.document))
        except Unavailable:
            raise
        except Exception as exc:
            if attempt.first:
                raise Unavailable(f"{exc}; an earlier try to change {self.where} may have worked: look again") from exc
            raise
        raise AssertionError("unreachable")

    def _try(
        self,
        attempt: _Attempt,
        entry: Entry,
        change: Callable[[dict[str, Any]], dict[str, Any] | None],
        *,
        is_fresh: bool,
    ) -> Entry | None:
        """Return what an update comes to; None when a fresh state has to tell."""
        if attempt.transaction in entry.transactions:
            return entry
        if attempt.first and entry.generation - attempt.first >= REMEMBERED:
            raise Unavailable(
                f"whether {self.where} was changed is not known, as this process slept, and others have changed it"
                f" {REMEMBERED} times since: look at what is there"
            )
        if attempt.first <= entry.generation:  # another has that generation
            if attempt.stale:
                self._delete(attempt.stale)
            attempt.first = attempt.stale = 0
        following = _followed(entry, change, attempt.transaction, is_fresh=is_fresh)
        if following is entry:
            if attempt.first:
                raise StoreError("there is nothing to change any more")
            return entry
        return following if following and self._is_put(attempt, following) else None

    def _is_put(self, attempt: _Attempt, following: Entry) -> bool:
        """Put a state, and say whether it is known to be the newest; else the next look at the ledger tells."""
        try:
            self._put(following)
        except Exists:
            return False
        except Unavailable:
            attempt.first = attempt.first or following.generation
            return False
        attempt.first = following.generation
        try:
            if self._confirm(following):
                return True
            attempt.stale = following.generation
        except Unavailable:
            _log.debug("whether %s is the newest is looked up again", self._path(following.generation))
        return False

    def _states(self) -> Iterator[tuple[Entry, bool]]:
        """Yield what was the newest state a moment ago, if that is known, and then what it is, time and again."""
        if self._known and time.monotonic() - self._learnt < _YOUNG:
            yield self._known, False
        deadline = time.monotonic() + self._calls.timeout
        pause = _SHORTEST_PAUSE
        while True:
            yield self._newest(), True
            if time.monotonic() > deadline:
                raise Unavailable(
                    f"{self.where} could not be changed in the {self._calls.timeout:g} s that are given: others were"
                    " faster, or the medium did not answer"
                )
            time.sleep(random.uniform(0, pause))
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _newest(self) -> Entry:
        deadline = time.monotonic() + self._calls.timeout
        known = self._known.generation if self._known else 0
        looked, pause = 0, _SHORTEST_PAUSE
        while True:
            found = self._numbers()
            looked += 1
            if not found and not known and looked > 1:  # all that was there may be deleted while a list is made
                return Entry({}, 0)
            if found and found[-1][0] >= known:
                with contextlib.suppress(NotFound):  # deleted since, as many newer ones are there
                    return self._learn(self._get(*found[-1]))
            if looked > 1:
                if time.monotonic() > deadline:
                    self._known = None
                    raise Unavailable(
                        f"{self.where} changes faster than it can be read, or was removed or set back while it was in"
                        " use: try again, and count the blobs with usage --recount"
                    )
                time.sleep(random.uniform(0, pause))
                pause = min(2 * pause, _LONGEST_PAUSE)

    def _learn(self, entry: Entry) -> Entry:
        self._known, self._learnt = entry, time.monotonic()
        return entry

    def _numbers(self) -> list[tuple[int, str]]:
        """Return the generations that are there, in order, with their tags."""
        found = self._calls.call("list", self._folder, lambda: list(self._calls.driver.scan(self._folder)))
        names = [(_NAME.fullmatch(blob.key[len(self._folder) :]), blob.tag) for blob in found]
        return [(int(match[1]), tag) for match, tag in names if match]

    def _get(self, generation: int, tag: str) -> Entry:
        path = self._path(generation)

        def read() -> bytes:
            # The very file that was listed: its name may be given to another, by one who slept.
            _, stream = self._calls.driver.open(path, tag=tag)
            with stream:
                parts = []
                while part := stream.read(CHUNK):
                    parts.append(part)
            return b"".join(parts)

        try:
            content = json.loads(self._calls.call("read", path, read))
            if content["format"] != _FORMAT or content["generation"] != generation:
                raise ValueError(content["format"])
            document: dict[str, Any] = content["document"]
            return Entry(document, generation, tuple(content["transactions"]))
        except (ValueError, TypeError, KeyError, RecursionError):
            raise Corrupt(
                f"{path} in {self._calls.where} is no generation of a ledger: use a pkgstore that knows its format, or"
                " restore that file from a copy",
                key=path,
            ) from None

    def _put(self, entry: Entry) -> None:
        """Put a state. Raises `Exists` when its generation is another's."""
        path = self._path(entry.generation)
        content = {"format": _FORMAT, **entry._asdict()}
        with PublishBody(path, json.dumps(content).encode(), None, wanted(None)) as source:
            self._calls.put(path, path, source, exclusive=True)

    def _confirm(self, entry: Entry) -> bool:
        """Say whether a state that was put is the newest, and stands on the one before; delete what is old then."""
        numbers = [number for number, _ in self._numbers()]
        before = [entry.generation - 1] if entry.generation > 1 else []
        if numbers[-2:] != [*before, entry.generation]:
            return False
        self._learn(entry)
        if len(numbers) > 2 * KEPT:
            for number in numbers[:-KEPT]:
                if self._may_delete:
                    self._delete(number)
        return True

    def _delete(self, generation: int) -> None:
        path = self._path(generation)
        try:
            self._calls.call("delete", path, lambda: self._calls.driver.delete(path))
        except Denied as exc:
            if self._may_delete:
                self._may_delete = False
                _log.warning("old generations stay, and make each change slower: %s", exc)

    def _path(self, generation: int) -> str:
        return f"{self._folder}{generation:0{_DIGITS}}.json"


def _followed(
    entry: Entry, change: Callable[[dict[str, Any]], dict[str, Any] | None], transaction: str, *, is_fresh: bool
) -> Entry | None:
    """Return the state that follows; the same, where nothing is to be changed; None when a fresh one has to tell."""
    try:
        document = change(copy.deepcopy(entry.document))
        if document is not None:
            document = json.loads(json.dumps(document))  # as others will see it, and the caller's own no longer
    except Exception:
        if is_fresh:
            raise
        return None
    if document is None:
        return entry if is_fresh else None
    return Entry(document, entry.generation + 1, (*entry.transactions[1 - REMEMBERED :], transaction))
