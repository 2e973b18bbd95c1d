"""Progress of long work, at a terminal."""

from __future__ import annotations

import os
import stat
import sys
import threading
import time
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from rich.progress import Progress

_DELAY = 0.5
_REFRESH = 0.1


def may_show(*, as_json: bool, writes_out: bool = False) -> bool:
    """Say whether progress may be shown: stderr is a terminal, and nobody's output is spoilt by it.

    ``writes_out`` says that the command writes to stdout while it works.
    """
    if as_json or sys.stderr is None or sys.stdout is None or not sys.stderr.isatty():
        return False
    if sys.stdout.isatty():
        return not writes_out
    return stat.S_ISREG(os.fstat(sys.stdout.fileno()).st_mode)


class Meter:
    """How far one piece of work is, as a bar on stderr; work that is done within half a second shows none.

    ``unit`` is what `advance` counts: "bytes", "blobs", or "" when it is not called. ``total`` is how many there will
    be, where that is known, and ``done`` how many were counted. A context manager.
    """

    def __init__(self, what: str, unit: str = "", *, shown: bool, total: int | None = None) -> None:
        self._what = what
        self._unit = unit
        self._total = total
        self.done = 0
        self._refreshed = 0.0
        self._progress: Progress | None = None
        self._timer = threading.Timer(_DELAY, self._show) if shown else None

    def advance(self, count: int) -> None:
        """Add to what is done."""
        self.done += count
        if self._progress is not None and time.monotonic() - self._refreshed > _REFRESH:
            self._refresh(self._progress)

    def restart(self) -> None:
        """Begin again at nothing."""
        self.done = 0

    def __enter__(self) -> Self:
        if self._timer:
            self._timer.daemon = True
            self._timer.start()
        return self

    def __exit__(self, *exc: object) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer.join()
        if self._progress:
            self._progress.stop()

    def _refresh(self, progress: Progress) -> None:
        self._refreshed = time.monotonic()
        progress.update(progress.task_ids[0], completed=self.done)

    def _show(self) -> None:
        from rich.console import Console
        from rich.markup import escape
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            FileSizeColumn,
            Progress,
            ProgressColumn,
            TextColumn,
            TimeElapsedColumn,
            TransferSpeedColumn,
        )

        columns: list[ProgressColumn] = [TextColumn(escape(self._what)), BarColumn(bar_width=30)]
        if self._unit == "bytes":
            columns += [FileSizeColumn() if self._total is None else DownloadColumn(), TransferSpeedColumn()]
        elif self._unit:
            columns.append(TextColumn(f"{{task.completed}} {self._unit}"))
        progress = Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True), transient=True)
        progress.add_task("", total=self._total, completed=self.done)
        progress.start()
        self._progress = progress
