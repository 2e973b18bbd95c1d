"""The command line, ``pkgstore``: a thin door to `pkgstore.Store`. It needs the extra ``pkgstore[cli]``."""

from __future__ import annotations

import io
import signal
import sys
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import FrameType

_MOMENT = 0.01


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run one command, and exit with a code of `pkgstore.cli.failures`. ``argv`` is without the program's name."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(number, _ended)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # where our parent ignores it, no child of ours could be waited for
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        from pkgstore.cli.app import run
    except ModuleNotFoundError as exc:
        if exc.name != "click":
            raise
        sys.stderr.write("pkgstore: the command line needs more packages: pip install 'pkgstore[cli]'\n")
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(run(argv))


def _ended(number: int, frame: FrameType | None) -> None:
    # As an exception, so that temporary files and child processes are cleaned up on the way out.
    inner = frame
    while inner is not None and inner.f_code.co_name != "__del__":
        inner = inner.f_back
    if inner is not None:
        # Within a finaliser, where an exception would be lost: once more, in a moment.
        signal.signal(signal.SIGALRM, lambda _, frame: _ended(number, frame))
        signal.setitimer(signal.ITIMER_REAL, _MOMENT)
        return
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    sys.exit(128 + number)
