"""Publishing to a local store and reading from it, against the smallest programs and the peers."""

from __future__ import annotations

import os
import time
from functools import partial
from typing import TYPE_CHECKING

from measure import Row, take_turns, workers
from settings import KIB, MIB

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from measure import Sample, Worker
    from settings import Settings

_PROCESSES = 8
_AT_A_TIME = 25
_LONG = 200
_WITH_QUOTA = "pkgstore-quota"
_ENCRYPTED = "pkgstore-encrypted"
_NEVER_REACHED = 1 << 50
_SMALL = 100 * KIB
_WHEEL = MIB
_LARGE_WHEEL = 16 * MIB

PEERS = {
    "obstore": "exclusive; no fsync, no digest",
    "OpenDAL": "exclusive, written in place (partial after a kill); file flushed, folder not; no digest",
    "zarr": "exclusive, but the caller is not told who won; no fsync, no digest",
    "fsspec": "overwrites in place; no fsync, no digest",
    "minimalkv": "overwrites in place; no fsync, no digest",
}
"""What each peer does not do that we do."""


def publish_small(settings: Settings) -> Iterator[Row]:
    """Publish 100 KiB at a time."""
    with workers(settings.folder, _sides(settings)) as sides:
        samples = take_turns(
            {name: partial(worker, "publish", size=_SMALL, count=20) for name, (worker,) in sides.items()},
            settings.rounds,
        )
    what = "publish 100 KiB"
    yield Row(
        what,
        samples["pkgstore"],
        "smallest durable program",
        samples["floor"],
        at_least=0.85,
        note="SHA-256, write, fsync, link, unlink, fsync of the folder",
        plot="publish-small",
    )
    yield from _against_peers(what, samples, "publish-small")


def publish_big(settings: Settings) -> Iterator[Row]:
    """Publish 256 MiB at a time, from memory. Each file is removed, untimed, before the next."""
    size = settings.big
    with workers(settings.folder, _sides(settings)) as sides:
        asked = {
            name: partial(worker, "publish", size=size, count=1, drop=True)
            for name, (worker,) in sides.items()
            if name != "floor"
        }
        (floor,) = sides["floor"]
        asked |= {do: partial(floor, do, size=size, count=1) for do in ("sha256", "write")}
        samples = take_turns(asked, settings.big_rounds)
    what = f"publish {size // MIB} MiB"
    slower = max(("sha256", "write"), key=lambda name: samples[name].median)
    names = {"sha256": "SHA-256 alone", "write": "write + fsync alone"}
    yield Row(
        what,
        samples["pkgstore"],
        f"the slower limit: {names[slower]}",
        samples[slower],
        at_least=0.9,
        note="; ".join(f"{name}: {samples[do].median * 1e3:.0f} ms" for do, name in names.items()),
        plot="publish-large",
    )
    yield from _against_peers(what, samples, "publish-large")


def read(settings: Settings) -> Iterator[Row]:
    """Read what is in the page cache."""
    with workers(settings.folder, _sides(settings)) as sides:
        for size in {_SMALL, _WHEEL, settings.big, _LARGE_WHEEL}:
            _share(sides["pkgstore"][0], sides["floor"][0], size)
        for size in (_SMALL, _WHEEL):
            samples = take_turns(
                {name: partial(worker, "read", size=size, count=20) for name, (worker,) in sides.items()},
                settings.rounds,
            )
            what = f"read {size // KIB} KiB, verified"
            yield Row(
                what,
                samples["pkgstore"],
                "open + read + SHA-256",
                samples["floor"],
                at_least=0.95,
                plot=f"read-{size // KIB}-kib",
            )
            yield from _against_peers(what, samples, f"read-{size // KIB}-kib", "nothing is verified")
        ours, floor = sides["pkgstore"][0], sides["floor"][0]
        yield _two(
            f"read {settings.big // MIB} MiB as a stream, verified",
            ours,
            "hashlib.file_digest",
            floor,
            "stream",
            settings.big,
            settings.big_rounds,
            1,
            0.95,
        )
        for size, count in ((_SMALL, 50), (_WHEEL, 50), (_LARGE_WHEEL, 5)):
            yield _two(
                f"`local_path` + read {size // KIB} KiB",
                ours,
                "open + read",
                floor,
                "path",
                size,
                settings.rounds,
                count,
                0.9,
            )


def processes(settings: Settings) -> Iterator[Row]:
    """Publish 100 KiB at a time from 8 processes at once."""
    with workers(settings.folder, {"pkgstore": settings.python, "floor": settings.python}, count=_PROCESSES) as sides:
        samples = take_turns(
            {name: partial(_together, group, _AT_A_TIME) for name, group in sides.items()}, settings.rounds
        )
    yield Row(
        f"publish 100 KiB from {_PROCESSES} processes",
        samples["pkgstore"],
        f"smallest durable program, {_PROCESSES} times",
        samples["floor"],
        at_least=0.85,
        note="wall time, divided by the number of blobs",
    )


def quota(settings: Settings) -> Iterator[Row]:
    """The same with a quota that is never reached, against pkgstore without one.

    After half a second at rest, each process gives back what it was granted and has not used. That falls on nobody
    else's turn: with a quota, every turn begins and ends at rest.
    """
    with workers(settings.folder, dict.fromkeys(("pkgstore", _WITH_QUOTA), settings.python), count=_PROCESSES) as sides:
        sides[_WITH_QUOTA][0]("set_quota", size=_NEVER_REACHED)
        place = sides[_WITH_QUOTA][0].folder
        for count, rounds in ((_AT_A_TIME, settings.rounds), (_LONG, settings.big_rounds)):
            before = _ledger_writes(place)
            samples = take_turns(
                {
                    "pkgstore": partial(_together, sides["pkgstore"], count),
                    _WITH_QUOTA: partial(_until_at_rest, sides[_WITH_QUOTA], count),
                },
                rounds,
            )
            writes = (_ledger_writes(place) - before) / (rounds + 1)
            blobs = count * _PROCESSES
            yield Row(
                f"publish 100 KiB from {_PROCESSES} processes, {count} each, with a quota",
                samples[_WITH_QUOTA],
                "without a quota",
                samples["pkgstore"],
                at_least=0.9,
                note=f"wall time, from rest, when nothing is granted; {blobs:,} blobs take {writes:.0f} writes of the"
                " ledger, those included, untimed, that give back at the end what was not used",
            )


def encrypted(settings: Settings) -> Iterator[Row]:
    """Publish to an encrypted store and read from it, against one that is not."""
    folder = settings.folder / "at-rest"  # where no other group has read
    folder.mkdir()
    with workers(folder, dict.fromkeys(("pkgstore", _ENCRYPTED), settings.python)) as sides:
        (plain,), (sealed,) = sides["pkgstore"], sides[_ENCRYPTED]
        both = {"pkgstore": plain, _ENCRYPTED: sealed}
        big = f"{settings.big // MIB} MiB"
        asked = {name: partial(side, "publish", size=settings.big, count=1, drop=True) for name, side in both.items()}
        samples = take_turns(asked, settings.big_rounds)
        against = "the same, not encrypted"
        note = "SHA-256 of the plaintext and of the ciphertext, each in a thread; AES-256-GCM"
        yield Row(
            f"publish {big}, encrypted", samples[_ENCRYPTED], against, samples["pkgstore"], at_least=0.85, note=note
        )
        for side in both.values():
            side("put", name=f"read/{settings.big}.whl", size=settings.big)
        asked = {name: partial(side, "stream", size=settings.big, count=1) for name, side in both.items()}
        samples = take_turns(asked, settings.big_rounds)
        yield Row(f"read {big} as a stream, encrypted", samples[_ENCRYPTED], against, samples["pkgstore"])
        for do in ("publish", "read"):
            asked = {name: partial(side, do, size=_SMALL, count=20) for name, side in both.items()}
            samples = take_turns(asked, settings.rounds)
            yield Row(f"{do} {_SMALL // KIB} KiB, encrypted", samples[_ENCRYPTED], against, samples["pkgstore"])


def _together(group: list[Worker], count: int) -> list[float]:
    """Return the wall time of publishing ``count`` blobs in each worker at once, divided by the number of blobs."""
    began = time.perf_counter()
    for worker in group:
        worker.ask("publish", size=_SMALL, count=count)
    for worker in group:
        worker.answer()
    return [(time.perf_counter() - began) / count / len(group)]


def _until_at_rest(group: list[Worker], count: int) -> list[float]:
    measured = _together(group, count)
    group[0]("wait_for_rest")
    return measured


def _ledger_writes(folder: Path) -> int:
    """Return how often the ledger of a store's quota was written: its newest generation."""
    return max(int(each.stem) for each in (folder / ".pkgstore/ledger/usage").glob("*.json"))


def _share(ours: Worker, floor: Worker, size: int) -> None:
    """Let the smallest program read the very file that we read: how one lies in the page cache matters."""
    name = f"read/{size}.whl"
    ours("put", name=name, size=size)
    os.link(ours.folder / name, floor.folder / name)


def _sides(settings: Settings) -> dict[str, str]:
    sides = {"pkgstore": settings.python, "floor": settings.python}
    if settings.peers is not None:
        sides |= dict.fromkeys(PEERS, str(settings.peers))
    return sides


def _against_peers(what: str, samples: dict[str, Sample], plot: str, note: str = "") -> Iterator[Row]:
    for name, unlike in PEERS.items():
        if name in samples:
            yield Row(what, samples["pkgstore"], name, samples[name], note=note or unlike, plot=plot)


def _two(
    what: str, ours: Worker, against: str, floor: Worker, do: str, size: int, rounds: int, count: int, at_least: float
) -> Row:
    asked = {name: partial(worker, do, size=size, count=count) for name, worker in (("ours", ours), ("floor", floor))}
    samples = take_turns(asked, rounds)
    return Row(what, samples["ours"], against, samples["floor"], at_least=at_least)
