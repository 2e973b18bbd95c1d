"""Races on a store of your own: ``python -m pkgstore.testing.race URL``.

Processes publish the same keys at the same time, while others read; publishers are killed in the middle. The table says
what came of it, and the exit code is 1 when a promise was broken. Everything is below a prefix of the run's own, and is
deleted at its end. A store is made where there is none, and stays.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

import pkgstore
from pkgstore import Denied, Full, NotFound, QuotaExceeded, StoreError, Unavailable
from pkgstore.testing.kills import freeze_in_mid_publish, kill_at_any_moment, kill_in_mid_publish, staged
from pkgstore.testing.processes import Talk, dismiss, workers
from pkgstore.testing.races import Arena, race

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pkgstore import Store

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "ki": 1 << 10, "mi": 1 << 20, "gi": 1 << 30}
_OF_THE_MEDIUM = (Denied, Full, QuotaExceeded, Unavailable)
_TOLD = re.compile("a racer was told ((?:Denied|Full|QuotaExceeded|Unavailable): [^\n]*)")
_SHOWN_FAULTS = 20
_KEYS_OF_A_MOMENT = 30


class _NoRace(Exception):
    """The medium could not be raced on."""


@dataclass
class Row:
    """What came of the races over blobs of one size; ``size`` is in bytes, all else is counted."""

    size: int
    keys: int
    racers: int
    one_winner: int  # keys with exactly one
    several_winners: int
    no_winner: int
    reads: int
    half_visible: int
    kills: int
    at_final_name: int  # things that were there after a publisher was killed in mid-body
    freezes: int  # publishers stopped in mid-body while another won the key, and then let go on
    lost_or_torn: int  # blobs, after a publisher was killed at any moment
    left_staged: int  # files that killed publishers left, where the driver shows them
    reaped: int  # how many of those a later publisher removed
    faults: list[str]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code: 0 when every promise was kept, 1 when one was broken, 2 for bad usage."""
    options = _parser().parse_args(arguments)
    try:
        return _run(options)
    except KeyboardInterrupt:
        return 130
    except (*_OF_THE_MEDIUM, _NoRace) as exc:
        return _refused(exc)


def _run(options: argparse.Namespace) -> int:
    seed = options.seed or random.SystemRandom().randbytes(6).hex()
    prefix = f"pkgstore-race-{random.SystemRandom().randbytes(6).hex()}/"
    start = time.monotonic()
    rows: list[Row] = []
    try:
        store = pkgstore.open(options.url)
    except StoreError as exc:
        return _refused(exc)
    with store:
        try:
            _check_shared(store, options.url)
            _clean_up(store, options.url, prefix)
        except StoreError as exc:
            return _refused(exc)
        _say(f"racing in {store.where}, below {prefix}; --seed {seed}", options)
        try:
            for number, size in enumerate(options.sizes):
                arena = Arena(pkgstore.open, options.url, f"{prefix}{number}/", options.keys, size, seed)
                reads = -(-options.reads // len(options.sizes))
                kills = options.kills // len(options.sizes) + (number < options.kills % len(options.sizes))
                rows.append(_raced(store, arena, options.processes, reads, kills))
                _delete(store, arena.prefix)
        finally:
            dismiss()
            _clean_up(store, options.url, prefix)
    return _report(rows, seed, time.monotonic() - start, options)


def _raced(store: Store, arena: Arena, racers: int, reads: int, kills: int) -> Row:
    result = race(arena, racers, reads)
    told = _TOLD.search("\n".join(result.wrong))
    if told:
        raise _NoRace(told.group(1))
    _delete(store, arena.prefix)
    killed = kill_in_mid_publish(_below(arena, "killed/", arena.keys), kills)
    _publish_later(arena.url, arena.prefix)
    stale = killed.left & staged(store)
    frozen = freeze_in_mid_publish(_below(arena, "frozen/", arena.keys), kills)
    torn: list[str] = []
    for number in range(kills):
        moment = _below(arena, f"moment-{number}/", min(arena.keys, _KEYS_OF_A_MOMENT))
        torn += kill_at_any_moment(moment)
        _delete(store, moment.prefix)
    faults = [*result.faults, *killed.found, *frozen, *torn]
    if stale:
        faults.append(f"{len(stale)} files that killed publishers left were not reaped: {min(stale)}")
    return Row(
        size=arena.size,
        keys=arena.keys,
        racers=racers,
        one_winner=result.one,
        several_winners=result.several,
        no_winner=result.none,
        reads=result.reads,
        half_visible=len(result.half),
        kills=2 * kills,
        freezes=kills,
        at_final_name=len(killed.found),
        lost_or_torn=len(torn),
        left_staged=len(killed.left),
        reaped=len(killed.left - stale),
        faults=faults,
    )


def _below(arena: Arena, folder: str, keys: int) -> Arena:
    return replace(arena, prefix=arena.prefix + folder, keys=keys, seed=f"{arena.seed} {folder}")


def _publish_later(url: str, prefix: str) -> None:
    """Publish as one who comes later, and so removes what dead publishers left."""
    with pkgstore.open(url) as later:
        later.publish(f"{prefix}later", b"")


def _clean_up(store: Store, url: str, prefix: str) -> None:
    _delete(store, prefix)
    _publish_later(url, prefix)
    _delete(store, prefix)


def _delete(store: Store, prefix: str) -> None:
    for blob in store.list(prefix):
        store.delete(blob.key)


def _check_shared(store: Store, url: str) -> None:
    """Raise when a race in this store makes no sense: other processes have to see the same store."""
    with workers(1) as (worker,):
        other = worker.run(opened_id, url)
    if other != store.id:
        raise _NoRace(
            f"other processes do not find the store {store.where}: race in one that they can open, such as a folder"
        )


def opened_id(talk: Talk, url: str) -> str:
    """Return the id of the store that a worker finds at a URL; nothing where it finds none."""
    try:
        with pkgstore.open(url, create=False) as store:
            return store.id
    except NotFound:
        return ""


# -- the command line -------------------------------------------------------------------------------------------------


def _report(rows: list[Row], seed: str, seconds: float, options: argparse.Namespace) -> int:
    faults = [fault for row in rows for fault in row.faults]
    if options.json:
        document = {"seed": seed, "seconds": round(seconds, 1), "ok": not faults, "rows": [asdict(row) for row in rows]}
        sys.stdout.write(json.dumps(document, indent=2) + "\n")
        return bool(faults)
    cells = [[column(row) for column in _COLUMNS.values()] for row in rows]
    table = [list(_COLUMNS), *cells]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for line in table:
        _say("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)), options)
    counted = Counter(faults).most_common()
    for fault, times in counted[:_SHOWN_FAULTS]:
        _say(f"broken: {fault}" + (f" ({times} times)" if times > 1 else ""), options)
    if counted[_SHOWN_FAULTS:]:
        _say(f"broken: {len(counted) - _SHOWN_FAULTS} more", options)
    verdict = f"promises were broken {len(faults)} times" if faults else "every promise kept"
    _say(f"{verdict}, in {seconds:.0f} s", options)
    return bool(faults)


_COLUMNS: dict[str, Callable[[Row], str]] = {
    "size": lambda row: _shown(row.size),
    "keys": lambda row: str(row.keys),
    "racers": lambda row: str(row.racers),
    "one winner": lambda row: str(row.one_winner),
    "more": lambda row: str(row.several_winners),
    "none": lambda row: str(row.no_winner),
    "half-visible / reads": lambda row: f"{row.half_visible} / {row.reads}",
    "SIGKILLs": lambda row: str(row.kills),
    "at the final name": lambda row: str(row.at_final_name),
    "SIGSTOPs": lambda row: str(row.freezes),
    "lost or torn": lambda row: str(row.lost_or_torn),
    "reaped / left": lambda row: f"{row.reaped} / {row.left_staged}" if row.left_staged else "none seen",
}


def _say(line: str, options: argparse.Namespace) -> None:
    if not options.json:
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()


def _refused(why: Exception) -> int:
    sys.stderr.write(f"pkgstore.testing.race: {why}\n")
    return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pkgstore.testing.race",
        description="Race processes in a store, kill publishers, and say whether every promise was kept."
        " Use a store that is otherwise at rest; what is written is deleted again. A store is made where there is none,"
        " and stays.",
        epilog="Exit code: 0 when every promise was kept, 1 when one was broken, 2 when there was no race.",
    )
    parser.add_argument("url", metavar="URL", help="a store that other processes can open, such as a folder")
    parser.add_argument("--processes", type=_number, default=6, metavar="N", help="racers (default: 6)")
    parser.add_argument("--keys", type=_number, default=200, metavar="N", help="keys of each size (default: 200)")
    parser.add_argument("--sizes", type=_sizes, default="1,100Ki,8Mi", metavar="SIZES", help="default: 1,100Ki,8Mi")
    parser.add_argument("--reads", type=_number, default=10_000, metavar="N", help="over all sizes (default: 10000)")
    parser.add_argument(
        "--kills", type=_number, default=20, metavar="N", help="in mid-body, and as many at any moment (default: 20)"
    )
    parser.add_argument("--seed", help="repeat the choices of chance of an earlier run")
    parser.add_argument("--json", action="store_true", help="write one JSON document instead of a table")
    return parser


def _number(text: str) -> int:
    if not re.fullmatch("0*[1-9][0-9]*", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1 up")
    return int(text)


def _sizes(text: str) -> list[int]:
    sizes = []
    for part in text.split(","):
        match = re.fullmatch(r"(\d+)([kmg]i?|)b?", part.strip().lower())
        if not match:
            raise argparse.ArgumentTypeError(f"{part!r} is no size: write 1, 100Ki or 8Mi")
        sizes.append(int(match.group(1)) * _UNITS[match.group(2)])
    return sizes


def _shown(size: int) -> str:
    for unit in ("Gi", "Mi", "Ki"):
        if size and size % _UNITS[unit.lower()] == 0:
            return f"{size // _UNITS[unit.lower()]} {unit}B"
    return f"{size} B"


if __name__ == "__main__":
    sys.exit(main())
