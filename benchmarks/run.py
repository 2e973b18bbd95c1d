"""Measure pkgstore, the peers and the limits, on one machine in one run: writes a report and plots."""

from __future__ import annotations

import argparse
import os
import random
import shutil
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import archives
import footprint
import growth
import index
import local
import peers
import plots
import report
import s3
from settings import FULL, QUICK, Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from measure import Row

_HERE = Path(__file__).parent
_WORK = _HERE / ".work"

# Small files first: creating files is slow on some file systems for minutes after many were deleted.
_GROUPS: dict[str, tuple[str, Callable[..., Iterator[Row]]]] = {
    "publish": ("Publish small blobs", local.publish_small),
    "processes": ("Publish from several processes", local.processes),
    "quota": ("Publish with a quota", local.quota),
    "read": ("Read", local.read),
    "encrypted": ("Encryption at rest", local.encrypted),
    "start": ("Start", footprint.start),
    "growth": ("Growth", growth.growth),
    "index-large": ("A large index", index.index_large),
    "index-small": ("A small index", index.index_small),
    "index-s3": ("An index on S3", index.index_in_bucket),
    "s3-small": ("S3, small blobs", s3.small),
    "s3-large": ("S3, large blobs", s3.large),
    "s3-list": ("S3, listings", s3.listing),
    "s3-cache": ("S3, cache hits", s3.cache),
    "archives": ("Archives", archives.archives),
    "big": ("Publish large blobs", local.publish_big),
    "memory": ("Memory", footprint.memory),
    "s3-memory": ("S3, memory", s3.memory),
}
_NEED_PEERS = {"index-large", "index-small", "index-s3"}


def main() -> int:
    """Run the groups that are asked for; return an exit code."""
    options = _parsed()
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(1 << 32)
    random.seed(seed)
    _WORK.mkdir(exist_ok=True)
    complete = not (options.quick or options.only or options.no_peers)
    output = options.output or (_HERE if complete else _WORK)
    output.mkdir(parents=True, exist_ok=True)
    names = options.only or list(_GROUPS)
    if options.no_peers:
        names = [name for name in names if name not in _NEED_PEERS]
    python = None if options.no_peers else peers.environment(_WORK)
    began = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="run-", dir=options.folder or _WORK))
    try:
        settings = Settings(folder, python, **(QUICK if options.quick else FULL if options.full else {}))
        facts = report.facts(folder)
        if python is not None:
            facts["peers"] = ", ".join(f"{name} {version}" for name, version in peers.versions(python).items())
        if any("s3" in name for name in names):
            facts["S3 endpoint"] = s3.ENDPOINT
        curves = growth.Curves()
        rows = {}
        for name in names:
            title, measure = _GROUPS[name]
            print(f"\n{title}", flush=True)
            since = time.monotonic()
            rows[title] = list(partial(measure, settings, curves)() if name == "growth" else measure(settings))
            print(report.table(rows[title]), f"\n({time.monotonic() - since:.0f} s)", flush=True)
    finally:
        print("\nremoving what was written", flush=True)
        shutil.rmtree(folder)
    facts["load after"] = " ".join(f"{each:.2f}" for each in os.getloadavg())
    how = f"It took {(time.monotonic() - began) / 60:.1f} minutes on {time.strftime('%d %B %Y', time.gmtime())}."
    if not complete:
        how += f" This is a partial run: `{' '.join(sys.argv[1:])}`."
    drawn = _draw(output, [row for group in rows.values() for row in group], curves)
    report.write(output / "report.md", rows, facts, drawn, f"{how} The seed was {seed}.")
    print(f"wrote {output / 'report.md'}")
    return 0


def _draw(output: Path, rows: list[Row], curves: growth.Curves) -> list[str]:
    """Draw the plots, and return their names."""
    names = [name for name in dict.fromkeys(row.plot for row in rows) if name]
    for name in names:
        group = [row for row in rows if row.plot == name]
        bars = [("pkgstore", 1 / group[0].ours.median, "")]
        bars += [(row.against, 1 / row.other.median, row.note) for row in group if row.other is not None]
        plots.bars(output / f"{name}.svg", group[0].what.replace("`", ""), "per second", bars)
    if curves.points:
        plots.curves(output / "growth.svg", "Time by size of the store", "blobs in the store", "seconds", curves.points)
        names.append("growth")
    return names


def _parsed() -> Any:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=list(_GROUPS), default=[], help="measure only these")
    extent = parser.add_mutually_exclusive_group()
    extent.add_argument("--quick", action="store_true", help="less of everything, in under four minutes: a smoke test")
    extent.add_argument("--full", action="store_true", help="grow to a million blobs, and 5 GiB through S3: takes long")
    parser.add_argument("--no-peers", action="store_true", help="install and measure no peers")
    parser.add_argument("--folder", type=Path, help="where to measure: a folder on the medium in question")
    parser.add_argument("--output", type=Path, help="where to write the report (partial runs: benchmarks/.work)")
    parser.add_argument("--seed", type=int, help="of the order in which sides take turns")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
