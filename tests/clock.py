"""Time for tests, that passes when somebody sleeps."""

from __future__ import annotations


class Clock:
    """Stands in for the module `time`: a clock that goes on while somebody sleeps, and not otherwise."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
