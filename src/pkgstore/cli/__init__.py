"""The command line, ``pkgstore``: a thin door to `pkgstore.Store`. It needs the extra ``pkgstore[cli]``."""

from __future__ import annotations

import io
import signal
import sys
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run one command, and exit with a code of `pkgstore.cli.failures`. ``argv`` is without the program's name."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _terminated)
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


def _terminated(number: int, _frame: object) -> NoReturn:
    # As an exception, so that temporary files and child processes are cleaned up on the way out.
    sys.exit(128 + number)
