"""Archives, against tar and zstd."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from measure import Row, take_turns, workers
from settings import KIB, MIB

if TYPE_CHECKING:
    from collections.abc import Iterator

    from settings import Settings

_OURS, _FLOOR = "archive-pkgstore", "archive-floor"


def archives(settings: Settings) -> Iterator[Row]:
    """Export a store of wheels to a file, and restore it to an empty store."""
    sizes = [100 * KIB] * (600 // settings.fewer) + [MIB] * (150 // settings.fewer) + [5 * MIB] * (12 // settings.fewer)
    sizes.append(settings.big // 4)
    what = f"{sum(sizes) // MIB} MiB in {len(sizes)} blobs"
    with workers(settings.folder, dict.fromkeys((_OURS, _FLOOR), settings.python)) as sides:
        (ours,), (floor,) = sides[_OURS], sides[_FLOOR]
        ours("fill_with", sizes=sizes)
        exported = take_turns(
            {_OURS: partial(ours, "export"), _FLOOR: partial(floor, "export", store=str(ours.folder / "store"))},
            settings.big_rounds,
        )
        restored = take_turns({_OURS: partial(ours, "restore"), _FLOOR: partial(floor, "restore")}, settings.big_rounds)
    yield Row(
        f"export {what}, verified",
        exported[_OURS],
        "tar c, zstd -T2 and fsync",
        exported[_FLOOR],
        at_least=0.9,
        note="theirs verifies nothing, and has no manifest",
    )
    yield Row(
        f"restore {what}, verified",
        restored[_OURS],
        "zstd -d, tar x and sync",
        restored[_FLOOR],
        at_least=0.7,
        note="theirs verifies nothing; ours flushes each blob before it is visible, theirs the file system, once",
    )
