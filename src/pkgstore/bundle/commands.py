"""A command that builds a directory: started without a shell, and ended with all that it started.

That is its process group. What leaves the group, as a daemon does, is beyond us.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

from pkgstore.bundle.archives import EPOCH
from pkgstore.errors import Misconfigured

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

_ENDS_WITHIN = 5.0
_PAUSE = 0.02
_SIGNALS = {each.value: each.name for each in signal.Signals}


class CommandFailed(Exception):
    """A command did not end well, or not in time."""


def run(command: Sequence[str], folder: str | os.PathLike[str], secrets: Mapping[str, str], seconds: float) -> None:
    """Run a command, in which ``{dest}`` stands for ``folder``. What it prints goes to standard error.

    ``secrets`` are variables for it. `SOURCE_DATE_EPOCH` is set too, unless it is already, so that what it compiles is
    the same at any time. What it leaves running is ended, too, as it could change the folder later. Raises
    `CommandFailed`, and `Misconfigured` when it cannot be started.
    """
    words = [word.replace("{dest}", os.fspath(folder)) for word in command]
    environment = {"SOURCE_DATE_EPOCH": str(EPOCH), **os.environ, **secrets}
    with _started(words, environment) as process:
        deadline = time.monotonic() + seconds
        while not _has_ended(process):
            if time.monotonic() > deadline:
                raise CommandFailed(f"{command[0]!r} was ended, as it took longer than the {seconds:.0f} s it had left")
            time.sleep(_PAUSE)
    code = process.returncode
    if code:
        how = f"exit code {code}" if code > 0 else f"signal {_SIGNALS.get(-code, -code)}"
        raise CommandFailed(f"{command[0]!r} failed with {how}: what it printed says why")


@contextlib.contextmanager
def _started(words: Sequence[str], environment: Mapping[str, str]) -> Iterator[subprocess.Popen[Any]]:
    """Start a command in a process group of its own, which is killed at the end of the block."""
    out = subprocess.DEVNULL if sys.stderr is None else sys.stderr.fileno()
    try:
        # Files are closed but for the lock of the folder that it fills: see `pkgstore.bundle.places`.
        process = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=environment, close_fds=False, process_group=0
        )
    except OSError as exc:
        raise Misconfigured(f"{words[0]!r} cannot be started ({exc.strerror}): correct the command") from exc
    try:
        yield process
    finally:
        _end(process)


def _has_ended(process: subprocess.Popen[Any]) -> bool:
    """Say whether a process has ended. It is not waited for, so that its number stays that of its group."""
    return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _end(process: subprocess.Popen[Any]) -> None:
    try:
        if not _has_ended(process):
            os.killpg(process.pid, signal.SIGTERM)
        deadline = time.monotonic() + _ENDS_WITHIN
        while not _has_ended(process) and time.monotonic() < deadline:
            time.sleep(_PAUSE)
    finally:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except PermissionError:  # it became another user, as `sudo` does
            if not _has_ended(process):
                raise
        process.wait()
