"""A quota under strain, on a store of its own: ``python -m pkgstore.testing.strain URL``.

Processes publish, replace, delete and fail at the same time, near the limit; some are killed, and some stopped for
longer than a lease. Time and again all are stopped, and what is there is measured: never may it be more than the limit.
When all is quiet, what the ledger says must be what is there, to the byte. The exit code is 1 when it was not.

Nobody is stopped for that long in the very step that makes a blob visible: no store can take that step back, so that
it may end when what was granted for it is over. What came of it is counted once the publisher finds that it had slept.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from unittest.mock import patch

import pkgstore
from pkgstore import Corrupt, Exists, LockTimeout, QuotaExceeded, StoreError, Unavailable, accounts, config, holder
from pkgstore.ledger import Ledger
from pkgstore.quota import Quota
from pkgstore.testing.processes import Talk, Worker, dismiss, workers
from pkgstore.testing.sources import Stream

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from pkgstore import Store
    from pkgstore.granting import Grant

    Opener = Callable[..., Store]

SHARED = 8
_PARTS = 40
_CONTENT = b"\0"  # of blobs, and not of the store's own documents


@dataclass
class Strain:
    """What came of it: sizes are in bytes, all else is counted."""

    limit: int
    publishers: int
    seed: str
    operations: Counter[str] = field(default_factory=Counter)  # by outcome, of those who lived
    kills: int = 0
    kills_of: Counter[int] = field(default_factory=Counter)  # by number of the publisher
    freezes: int = 0
    samples: int = 0
    highest: int = 0  # of what was seen there, staged files included where they can be seen
    drift: int = 0  # what the ledger said beyond what was there, when all was quiet
    faults: list[str] = field(default_factory=list)

    @property
    def is_complete(self) -> bool:
        """Whether somebody was killed, somebody frozen, and the limit come near."""
        return bool(self.kills and self.freezes) and self.highest > 0.9 * self.limit


def strain(
    opener: Opener, url: str, *, processes: int, seconds: float, limit: int, seed: str, kills: bool = True
) -> Strain:
    """Strain the quota of an empty store for so many seconds, and count.

    Where it is not complete by then, it goes on for up to twice as long again.
    """
    chance = random.Random(seed)
    result = Strain(limit, processes, seed)
    with opener(url) as store, workers(processes) as team, tempfile.TemporaryDirectory() as notes:
        task = _Task(opener, url, limit, seed, accounts.LEASE, holder.LOOK, notes)
        store.set_quota(limit)
        store.publish("half", _CONTENT * (limit // 2))
        for number, each in enumerate(team):
            each.start(change_until_told, task, _name(number, result))
        deadline = time.monotonic() + seconds
        frozen: _Frozen | None = None
        left: dict[str, str] = {}  # what those had staged who were killed, and who they were in the ledger
        while time.monotonic() < deadline + (2 * seconds if kills and not result.is_complete else 0) or frozen:
            awake = [each for each in team if frozen is None or each is not frozen.worker]
            for each in awake:
                each.stop()
            _measure(store, result, left | _owners(team, task, result))
            for each in awake:
                each.resume()
            if frozen and time.monotonic() > frozen.until:
                frozen.worker.resume()
                frozen = None
            elif kills and frozen is None and (not (result.kills and result.freezes) or chance.random() < 0.15):
                frozen = _kill_or_freeze(team, task, result, left, chance)
            time.sleep(chance.uniform(0.05, 0.3))  # the strain itself: what is measured is whatever there is by then
        for each in team:
            each.say("enough")
        for each in team:
            result.operations += each.result()
        _settle(store, result)
    return result


class _Task(NamedTuple):
    """What all who publish have to know, and what is known of them."""

    opener: Opener
    url: str
    limit: int
    seed: str
    lease: float
    look: float
    notes: str

    def note(self, name: str) -> Path:
        """Return the file that is there while a publisher makes something visible."""
        return Path(self.notes, name)

    def holder(self, name: str) -> Path:
        """Return the file that says who a publisher is, or was, in the ledger, if it has something in hand there."""
        return Path(self.notes, f"{name}.holder")


class _Frozen(NamedTuple):
    worker: Worker
    until: float


def _kill_or_freeze(
    team: list[Worker], task: _Task, result: Strain, left: dict[str, str], chance: random.Random
) -> _Frozen | None:
    number = chance.randrange(len(team))
    team[number].stop()
    if result.kills and (not result.freezes or chance.random() < 0.4):
        if task.note(_name(number, result)).exists():
            team[number].resume()
            return None
        result.freezes += 1
        return _Frozen(team[number], time.monotonic() + 1.5 * task.lease)
    left.update(_owned(team[number], task.holder(_name(number, result))))
    result.kills += 1
    result.kills_of[number] += 1
    team[number].kill()
    team[number] = Worker()
    team[number].start(change_until_told, task, _name(number, result))
    return None


def _name(number: int, result: Strain) -> str:
    return f"{number}-{result.kills_of[number]}"


def _owners(team: list[Worker], task: _Task, result: Strain) -> dict[str, str]:
    """Return the files that publishers have open, and who these are in the ledger."""
    owners = {}
    for number, worker in enumerate(team):
        owners.update(_owned(worker, task.holder(_name(number, result))))
    return owners


def _owned(worker: Worker, holder: Path) -> dict[str, str]:
    try:
        name = holder.read_text()
    except FileNotFoundError:  # it has nothing in hand
        return {}
    found = {}
    for each in Path(f"/proc/{worker._process.pid}/fd").iterdir():
        with contextlib.suppress(OSError):  # it is a kind of its own
            found[str(each.readlink())] = name
    return found


def _measure(store: Store, result: Strain, owners: dict[str, str]) -> None:
    visible, staged = sum(blob.size for blob in store.list()), _staged(store, owners)
    result.samples += 1
    result.highest = max(result.highest, visible + staged)
    if visible + staged > result.limit:
        result.faults.append(f"{visible} bytes were visible and {staged} staged, of {result.limit}")


def _staged(store: Store, owners: dict[str, str]) -> int:
    """Return the bytes that lie staged, where that can be seen, of blobs that are not visible already.

    Left out is what belongs to those who were taken for dead: they are, or will find out before they go on.
    """
    root = getattr(store.driver, "root", None) if store.driver.scheme == "file" else None
    holders = _holders(store)
    found = 0
    for path in Path(root, ".pkgstore/tmp").glob("*") if root else ():
        is_over = str(path) in owners and owners[str(path)] not in holders
        with contextlib.suppress(FileNotFoundError):  # a document that the store of this process has put
            status = path.stat()
            if status.st_nlink == 1 and not is_over and path.read_bytes()[:1] in (b"", _CONTENT):
                found += status.st_size
    return found


def _settle(store: Store, result: Strain) -> None:
    """Wait until the ledger is settled, as somebody who publishes something sees to it; and compare."""
    deadline = time.monotonic() + 6 * accounts.LEASE + 30
    store.publish("last", b"", replace=True)
    while (usage := store.usage()).reserved or not is_quiet(store):
        if time.monotonic() > deadline:
            result.faults.append(f"{usage.reserved} bytes were still reserved when all was quiet")
            break
        time.sleep(0.1)
    blobs = list(store.list())
    result.drift = usage.bytes - sum(blob.size for blob in blobs)
    if result.drift or usage.blobs != len(blobs):
        result.faults.append(f"the ledger said {usage.bytes} bytes in {usage.blobs} blobs, {result.drift} too many")
    counted = store.usage(recount=True)
    if (counted.bytes, counted.blobs) != (sum(blob.size for blob in blobs), len(blobs)):
        result.faults.append(f"the recount said {counted.bytes} bytes in {counted.blobs} blobs")


def is_quiet(store: Store) -> bool:
    """Say whether nobody has anything in hand."""
    return not _holders(store)


def _holders(store: Store) -> dict[str, Any]:
    holders: dict[str, Any] = Ledger(store._calls, "usage").read().document.get("holders", {})
    return holders


# -- in the workers ---------------------------------------------------------------------------------------------------


def change_until_told(talk: Talk, task: _Task, name: str) -> Counter[str]:
    """Publish, replace, delete and fail; return how often what came of it."""
    accounts.LEASE, holder.LOOK = task.lease, task.look
    chance = random.Random(f"{task.seed} {name}")
    counts: Counter[str] = Counter()
    mine: list[str] = []
    with _noting(task.note(name), task.holder(name)), task.opener(task.url) as store:
        while not talk.is_spoken_to():
            counts[_outcome(store, name, sum(counts.values()), mine, task.limit, chance)] += 1
    talk.hear()
    return counts


@contextlib.contextmanager
def _noting(note: Path, holder: Path) -> Iterator[None]:
    """Have a file there whenever this process may make something visible, and one while it has something in hand."""
    begin, end = Quota.begin_commit, Quota._end

    def begin_commit(self: Quota, grant: Grant, size: int | None) -> None:
        begin(self, grant, size)
        note.touch()

    def end_commit(self: Quota, *args: Any, **options: Any) -> None:
        note.unlink(missing_ok=True)
        end(self, *args, **options)

    def beat(self: Quota) -> str:
        return str(vars(self)["_beat"])

    def set_beat(self: Quota, beat: str) -> None:
        vars(self)["_beat"] = beat
        if beat:
            written = holder.with_suffix(".new")
            written.write_text(self._holder)
            written.replace(holder)
        elif holder.exists() and holder.read_text() == self._holder:  # else it was taken for dead
            holder.unlink()

    beats = patch.object(Quota, "_beat", property(beat, set_beat), create=True)
    with beats, patch.multiple(Quota, begin_commit=begin_commit, _end=end_commit):
        yield


def _outcome(store: Store, name: str, number: int, mine: list[str], limit: int, chance: random.Random) -> str:
    kind = chance.random()
    body = _CONTENT * chance.randrange(2 * limit // _PARTS)
    key = f"{name}/{number}"
    try:
        if kind < 0.4:
            store.publish(key, body)
        elif kind < 0.5:
            store.publish(key, Stream(body))
        elif kind < 0.6:
            store.publish(key, body, digests={"sha256": "0" * 64})
        elif kind < 0.75:
            store.publish(f"shared/{chance.randrange(SHARED)}", body, replace=True)
            return "replaced"
        elif kind < 0.85:
            store.delete(f"shared/{chance.randrange(SHARED)}")
            return "deleted"
        elif mine:
            store.delete(mine.pop(chance.randrange(len(mine))))
            return "deleted"
        else:
            store.publish(f"shared/{chance.randrange(SHARED)}", body)
            return "published"
        mine.append(key)
        return "published"
    except (Corrupt, Exists, LockTimeout, QuotaExceeded, Unavailable) as exc:
        if isinstance(exc, QuotaExceeded) and mine and chance.random() < 0.5:
            with contextlib.suppress(LockTimeout, Unavailable):  # what came of it, the ledger has to know
                store.delete(mine.pop(0))
        return type(exc).__name__


# -- the command line -------------------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code: 0 when the quota held, 1 when it did not, 2 for bad usage."""
    parser = argparse.ArgumentParser(
        prog="python -m pkgstore.testing.strain",
        description="Strain the quota of a store, and say whether it held; the store has to be empty.",
    )
    parser.add_argument("url", metavar="URL", help="an empty store that other processes can open, such as a folder")
    parser.add_argument("--processes", type=int, default=8, metavar="N", help="publishers (default: 8)")
    parser.add_argument("--seconds", type=float, default=60, metavar="S", help="for how long (default: 60)")
    parser.add_argument("--limit", default="4Mi", metavar="SIZE", help="the quota (default: 4Mi)")
    parser.add_argument("--seed", help="repeat the choices of chance of an earlier run")
    options = parser.parse_args(arguments)
    seed = options.seed or os.urandom(6).hex()
    try:
        limit = config.size("limit", options.limit)
        with pkgstore.open(options.url) as store:
            if next(store.list(), None):
                raise StoreError(f"{store.where} is not empty: use a store of its own")
        found = strain(
            pkgstore.open, options.url, processes=options.processes, seconds=options.seconds, limit=limit, seed=seed
        )
    except StoreError as exc:
        sys.stderr.write(f"pkgstore.testing.strain: {exc} (--seed {seed})\n")
        return 2
    finally:
        dismiss()
    sys.stdout.write(json.dumps(vars(found), indent=1) + "\n")
    return bool(found.faults)


if __name__ == "__main__":
    sys.exit(main())
