"""How a store's verbs take to more and more blobs."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from measure import Row, Sample, take_turns, workers

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from measure import Worker
    from settings import Settings

_FILLERS = 4
_FLAT = 1.5
_LISTINGS = 3
_MANY = 100_000


@dataclass
class Curves:
    """Seconds by number of blobs, for each verb."""

    points: dict[str, dict[int, float]] = field(default_factory=dict)

    def add(self, verb: str, blobs: int, seconds: float) -> None:
        self.points.setdefault(verb, {})[blobs] = seconds


def growth(settings: Settings, curves: Curves) -> Iterator[Row]:
    """Fill a store step by step, and measure at every step. It stays for what is measured on a large store.

    Where the medium itself may slow down, the smallest program is measured beside us at every step, and our growth is
    held against its own.
    """
    ours: dict[str, dict[int, Sample]] = {}
    floors: dict[str, dict[int, Sample]] = {}
    done = 0
    sides = {"pkgstore": settings.python, "floor": settings.python}
    with workers(large_store(settings).parent, sides, count=_FILLERS) as started:
        for blobs in settings.growth:
            projects = blobs // settings.files_per_project
            fill(started["pkgstore"], done, projects, settings.files_per_project)
            done = projects
            for verb, samples in _measured(started["pkgstore"][0], started["floor"][0], settings, projects).items():
                ours.setdefault(verb, {})[blobs] = samples["pkgstore"]
                curves.add(verb, blobs, samples["pkgstore"].median)
                if "floor" in samples:
                    floors.setdefault(verb, {})[blobs] = samples["floor"]
    smallest, largest = settings.growth[0], settings.growth[-1]
    for verb, by_count in ours.items():
        times = by_count[largest].median / by_count[smallest].median
        note = ""
        if verb in floors:
            its = floors[verb][largest].median / floors[verb][smallest].median
            note = f"ours takes {times:.2f} times as long, the smallest program {its:.2f} times: the ratio of these"
            times /= its
        yield Row(
            f"{verb}: {smallest:,} → {largest:,} blobs",
            by_count[largest],
            f"the same at {smallest:,}",
            by_count[smallest],
            at_most=_FLAT,
            figure=times,
            note=note,
        )
    yield _usage(settings, curves)


def _usage(settings: Settings, curves: Curves) -> Row:
    """Ask what stores hold that have a quota: the one that has grown, and another of the size that it had at first.

    The quota of the large one is set here, after all that was published there.
    """
    verb, smallest, largest = "usage with a quota", settings.growth[0], settings.growth[-1]
    with workers(large_store(settings).parent, dict.fromkeys(("pkgstore", "pkgstore-quota"), settings.python)) as sides:
        (large,), (small,) = sides["pkgstore"], sides["pkgstore-quota"]
        fill([small], 0, smallest // settings.files_per_project, settings.files_per_project)
        stores = {smallest: small, largest: large}
        for blobs, worker in stores.items():
            worker("set_quota", size=1 << 50)
            assert worker("usage", blobs=blobs, count=1)
        samples = take_turns(
            {str(blobs): partial(worker, "usage", blobs=blobs, count=100) for blobs, worker in stores.items()},
            settings.rounds,
        )
    for blobs in stores:
        curves.add(verb, blobs, samples[str(blobs)].median)
    return Row(
        f"{verb}: {smallest:,} → {largest:,} blobs",
        samples[str(largest)],
        f"the same at {smallest:,}",
        samples[str(smallest)],
        at_most=_FLAT,
        figure=samples[str(largest)].median / samples[str(smallest)].median,
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


def _measured(ours: Worker, floor: Worker, settings: Settings, projects: int) -> dict[str, dict[str, Sample]]:
    files = settings.files_per_project
    sides = {"pkgstore": ours, "floor": floor}
    publish = take_turns(
        {name: partial(side, "publish", size=1000, count=20, drop=True) for name, side in sides.items()},
        settings.rounds,
    )
    store = str(ours.folder)
    everything = take_turns(
        {
            "pkgstore": partial(ours, "list", prefix="", count=1),
            "floor": partial(floor, "list", folder=store),
        },
        _LISTINGS,
    )
    per_blob = {
        name: Sample([each / projects / files for each in sample.values]) for name, sample in everything.items()
    }
    gone_through: Any = ours("go_through", count=_LISTINGS if projects * files <= _MANY else 1)
    stat = ours("stat", projects=projects, files=files, count=2000)
    project = ours("list", prefix=f"project-{projects // 2:06}/", count=50)
    return {
        "publish": publish,
        "stat": {"pkgstore": Sample(stat)},
        f"list a project of {files}": {"pkgstore": Sample(project)},
        "list all, per blob": per_blob,
        **{
            f"{verb} all, per blob": {"pkgstore": Sample([each / projects / files for each in times])}
            for verb, times in gone_through.items()
        },
    }
