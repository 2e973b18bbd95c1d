"""The report: a table, and where and how it was measured."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
from typing import TYPE_CHECKING

from measure import duration, timed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from measure import Row, Sample

_HEAD = """\
# Benchmarks

Written by `nox -s bench`. {how}

- **ratio**: how many times the throughput of the other side is ours, from the medians; above 1 we are faster. For
  growth, how many times longer the largest store takes.
- In brackets: the middle half of all measurements.
- Sides take turns, in random order, in processes of their own, on one machine, in one run. What is read is in the page
  cache.
- A peer's note says what it does not do that pkgstore does. Such rows have no target.

{where}
"""


def write(
    path: Path, rows: Mapping[str, Sequence[Row]], facts: Mapping[str, str], plots: Sequence[str], how: str
) -> None:
    """Write the report. ``rows`` are grouped under titles; ``plots`` are names of SVG files beside it."""
    where = "\n".join(f"- {name}: {value}" for name, value in facts.items())
    parts = [_HEAD.format(where=where, how=how)]
    for title, group in rows.items():
        parts.append(f"## {title}\n\n{table(group)}\n")
    if plots:
        parts.append("## Plots\n\n" + "\n".join(f"![{name}]({name}.svg)\n" for name in plots))
    path.write_text("\n".join(parts), encoding="utf-8")


def table(rows: Sequence[Row]) -> str:
    """Return rows as a Markdown table."""
    lines = ["| what | ours | against | theirs | ratio | target | met | note |", "|---|---|---|---|---|---|---|---|"]
    for row in rows:
        theirs = _shown(row, row.other) if row.other else ""
        figure = f"{row.figure:.3g} {row.unit}".rstrip()
        cells = [row.what, _shown(row, row.ours), row.against, theirs, figure, row.target, row.met, row.note]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def facts(folder: Path) -> dict[str, str]:
    """Return what a reader needs to know of the machine."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)
    return {
        "processor": f"{_processor()}, {os.cpu_count()} cores; {memory:.0f} GiB of memory",
        "system": f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        "medium": _medium(folder),
        "creating an empty file": f"{duration(_creation(folder))} (ext4: a few µs, or hundreds after many deletions,"
        " which flatters small publishes)",
        "load before": " ".join(f"{each:.2f}" for each in os.getloadavg()),
    }


def _creation(folder: Path) -> float:
    place = folder / "created"
    place.mkdir()
    return statistics.median(timed((place / str(number)).touch) for number in range(200))


def _shown(row: Row, sample: Sample) -> str:
    median = row.shown(sample.median)
    if len(sample.values) < 2:
        return median
    low, high = sorted((row.shown(each) for each in sample.quartiles), key=_leading_number)
    return f"{median} ({low} to {high})"


def _leading_number(text: str) -> float:
    number, _, unit = text.replace("/", " ").partition(" ")
    return float(number) * {"µs": 1e-6, "ms": 1e-3}.get(unit, 1)


def _processor() -> str:
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _medium(folder: Path) -> str:
    command = ["findmnt", "--noheadings", "--output", "FSTYPE,OPTIONS", "--target", str(folder)]
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip().splitlines()[-1]
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
