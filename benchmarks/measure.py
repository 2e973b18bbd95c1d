"""Measuring: sides take turns, in random order, so that what the machine does meanwhile falls on all of them alike."""

from __future__ import annotations

import contextlib
import json
import os
import random
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

_WORKER = Path(__file__).with_name("worker.py")


@dataclass(frozen=True)
class Sample:
    """Measurements of one side: seconds, or whatever unit the row says."""

    values: Sequence[float]

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def quartiles(self) -> tuple[float, float]:
        if len(self.values) < 2:
            return self.median, self.median
        low, _, high = statistics.quantiles(self.values, n=4, method="inclusive")
        return low, high


@dataclass
class Row:
    """One line of the report.

    ``figure`` is what is held against the target, in ``unit``: by default how many times the throughput of ``other``
    ours is. ``shown`` turns a value of a sample into text. ``note`` says what the comparison hides; ``plot`` names the
    plot that the row is in, if any.
    """

    what: str
    ours: Sample
    against: str = ""
    other: Sample | None = None
    at_least: float | None = None
    at_most: float | None = None
    unit: str = ""
    figure: float | None = None
    shown: Callable[[float], str] = field(default=lambda value: duration(value))
    note: str = ""
    plot: str = ""

    def __post_init__(self) -> None:
        if self.figure is None and self.other is not None:
            self.figure = self.other.median / self.ours.median
        elif self.figure is None:
            self.figure = self.ours.median

    @property
    def target(self) -> str:
        for sign, limit in (("≥", self.at_least), ("≤", self.at_most)):
            if limit is not None:
                return f"{sign} {limit:.3g} {self.unit}".rstrip()
        return ""

    @property
    def met(self) -> str:
        assert self.figure is not None
        if self.at_least is not None:
            return "yes" if self.figure >= self.at_least else "**no**"
        if self.at_most is not None:
            return "yes" if self.figure <= self.at_most else "**no**"
        return ""


class Worker:
    """A side that runs `worker.py` in its own process."""

    def __init__(
        self, side: str, folder: Path, python: str = sys.executable, env: Mapping[str, str] | None = None
    ) -> None:
        self._process = subprocess.Popen(
            [python, str(_WORKER), side, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **(env or {})},
        )
        self.side = side
        self.folder = folder
        self._line()

    def ask(self, do: str, **arguments: Any) -> None:
        """Begin something; `answer` waits for it."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
        self._process.stdin.flush()

    def answer(self) -> list[float]:
        """Return what the worker measured."""
        return json.loads(self._line())  # type: ignore[no-any-return]

    def __call__(self, do: str, **arguments: Any) -> list[float]:
        self.ask(do, **arguments)
        return self.answer()

    def close(self) -> None:
        """Let the process end; it does when its input does."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the worker for {self.side} ended with {self._process.wait()}")
        return line


@contextlib.contextmanager
def workers(
    folder: Path, sides: Mapping[str, str], *, count: int = 1, env: Mapping[str, str] | None = None
) -> Iterator[dict[str, list[Worker]]]:
    """Start ``count`` workers for each side, given with the Python that runs it; end them with the block.

    ``env`` is added to their environment.
    """
    started: dict[str, list[Worker]] = {}
    try:
        for side, python in sides.items():
            place = folder / side
            place.mkdir(parents=True, exist_ok=True)
            started[side] = []
            for _ in range(count):
                started[side].append(Worker(side, place, python, env))
        yield started
    finally:
        for each in started.values():
            for worker in each:
                worker.close()


def take_turns(sides: Mapping[str, Callable[[], list[float]]], rounds: int) -> dict[str, Sample]:
    """Return what each side measured in ``rounds`` rounds; one more, ahead of them, warms up and does not count."""
    values: dict[str, list[float]] = {side: [] for side in sides}
    for number in range(rounds + 1):
        for side in random.sample(list(sides), len(sides)):
            measured = sides[side]()
            if number:
                values[side] += measured
    return {side: Sample(each) for side, each in values.items()}


def timed(call: Callable[[], object]) -> float:
    """Return the seconds that a call takes."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def duration(seconds: float) -> str:
    """Return a time with three digits and a fitting unit."""
    units = ((1.0, "s"), (1e3, "ms"))
    factor, unit = next((each for each in units if seconds * each[0] >= 0.9995), (1e6, "µs"))
    value = seconds * factor
    return f"{value:.0f} {unit}" if value >= 99.95 else f"{value:.3g} {unit}"
