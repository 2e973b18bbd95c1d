"""Child processes that do not outlive what started them."""

from __future__ import annotations

import contextlib
import signal
import subprocess
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_ENDS_WITHIN = 5.0


@contextlib.contextmanager
def child(command: Sequence[str], **how: Any) -> Iterator[subprocess.Popen[Any]]:
    """Start a process, without standard input, and end it with the block. ``how`` goes to `subprocess.Popen`."""
    process: subprocess.Popen[Any] | None = None
    try:
        with _signals_held_back():
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, **how)
        yield process
    finally:
        if process is not None:
            _end(process)


@contextlib.contextmanager
def _signals_held_back() -> Iterator[None]:
    """Keep signals until the end of the block; one that came while a process is started would lose track of it."""
    held: list[int] = []
    handlers = {number: signal.getsignal(number) for number in _SIGNALS}
    handled = {number: handler for number, handler in handlers.items() if callable(handler)}
    for number in handled:
        signal.signal(number, lambda number, _: held.append(number))
    try:
        yield
    finally:
        for number, handler in handled.items():
            signal.signal(number, handler)
    for each in held:
        signal.raise_signal(each)


def _end(process: subprocess.Popen[Any]) -> None:
    process.terminate()
    try:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_ENDS_WITHIN)
    finally:
        process.kill()
        process.wait()
