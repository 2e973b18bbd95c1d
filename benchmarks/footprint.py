"""What pkgstore costs to start, and in memory."""

from __future__ import annotations

import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from measure import Row, Sample, take_turns, timed, workers
from settings import GIB, MIB

if TYPE_CHECKING:
    from collections.abc import Iterator

    from settings import Settings


def start(settings: Settings) -> Iterator[Row]:
    """Start Python with pkgstore, and the command line."""
    commands = {
        "bare": [settings.python, "-c", "pass"],
        "import": [settings.python, "-c", "import pkgstore"],
        "help": [str(Path(sys.executable).with_name("pkgstore")), "--help"],
    }
    samples = take_turns({name: partial(_run, command) for name, command in commands.items()}, settings.rounds)
    bare = f"the interpreter alone: {samples['bare'].median * 1e3:.0f} ms"
    for name, what, limit in (("import", "`import pkgstore`", 60), ("help", "`pkgstore --help`", 250)):
        figure = samples[name].median * 1e3
        yield Row(f"{what}, interpreter included", samples[name], at_most=limit, unit="ms", figure=figure, note=bare)


def memory(settings: Settings) -> Iterator[Row]:
    """Publish a stream of 5 GiB, read, export and mirror it."""
    size = settings.huge
    free = shutil.disk_usage(settings.folder).free
    if free < 2 * size + 2 * GIB:
        raise OSError(
            f"{settings.folder} has {free / GIB:.1f} GiB free: measuring memory needs {2 * size / GIB + 2:.1f}"
        )
    for do, what, arguments in (
        ("peak_of_publish", "publish", {"size": size}),
        ("peak_of_read", "read", {}),
        ("peak_of_export", "export", {}),
        ("peak_of_mirror", "mirror", {}),
    ):
        with workers(settings.folder / "memory", {"pkgstore": settings.python}) as sides:
            peak = Sample(sides["pkgstore"][0](do, **arguments))
        yield Row(
            f"peak memory above idle: {what} {size / GIB:.3g} GiB",
            peak,
            at_most=64,
            unit="MiB",
            figure=peak.median / MIB,
            shown=lambda value: f"{value / MIB:.1f} MiB",
        )


def _run(command: list[str]) -> list[float]:
    return [timed(lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL))]
