"""How a store's verbs take to more and more blobs."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from measure import Row, Sample, workers

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from measure import Worker
    from settings import Settings

_FILLERS = 4
_FLAT = 1.5


@dataclass
class Curves:
    """Seconds by number of blobs, for each verb."""

    points: dict[str, dict[int, float]] = field(default_factory=dict)

    def add(self, verb: str, blobs: int, seconds: float) -> None:
        self.points.setdefault(verb, {})[blobs] = seconds


def growth(settings: Settings, curves: Curves) -> Iterator[Row]:
    """Fill a store step by step, and measure at every step. It stays for what is measured on a large store."""
    samples: dict[str, dict[int, Sample]] = {}
    done = 0
    with workers(large_store(settings).parent, {"pkgstore": settings.python}, count=_FILLERS) as sides:
        group = sides["pkgstore"]
        for blobs in settings.growth:
            projects = blobs // settings.files_per_project
            fill(group, done, projects, settings.files_per_project)
            done = projects
            for verb, sample in _measured(group[0], settings, projects).items():
                samples.setdefault(verb, {})[blobs] = sample
                curves.add(verb, blobs, sample.median)
    smallest, largest = settings.growth[0], settings.growth[-1]
    span = f"{smallest:,} → {largest:,} blobs"
    for verb, by_count in samples.items():
        per_blob = verb == "list all, per blob"
        yield Row(
            f"{verb}: {span}",
            by_count[largest],
            f"the same at {smallest:,}",
            by_count[smallest],
            at_most=_FLAT,
            figure=by_count[largest].median / by_count[smallest].median,
            note="grows linearly when this is flat" if per_blob else "flat when 1",
        )


def large_store(settings: Settings) -> Path:
    """Return the folder of the store that `growth` fills."""
    return settings.folder / "growth" / "pkgstore"


def fill(group: list[Worker], first: int, last: int, files: int) -> None:
    """Publish ``files`` small blobs in each of the projects from ``first`` to below ``last``."""
    for offset, worker in enumerate(group):
        worker.ask("fill", first=first + offset, last=last, step=len(group), files=files)
    for worker in group:
        worker.answer()


def _measured(worker: Worker, settings: Settings, projects: int) -> dict[str, Sample]:
    files = settings.files_per_project
    worker("publish", size=1000, count=20, drop=True)
    publish = worker("publish", size=1000, count=300, drop=True)
    stat = worker("stat", projects=projects, files=files, count=2000)
    project = worker("list", prefix=f"project-{projects // 2:06}/", count=50)
    began = time.perf_counter()
    everything: list[float] = []
    while not everything or (len(everything) < 5 and time.perf_counter() - began < 5):
        everything += [seconds / (projects * files) for seconds in worker("list", prefix="", count=1)]
    return {
        "publish": Sample(publish),
        "stat": Sample(stat),
        f"list a project of {files}": Sample(project),
        "list all, per blob": Sample(everything),
    }
