"""Checks in a child of the test's own process, after fork."""

from __future__ import annotations

import os
import signal
import traceback
import warnings
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


def in_a_child(check: Callable[[], object]) -> bool:
    """Return whether a check holds in a child of this process, within a minute."""
    with warnings.catch_warnings():
        # That a fork of a process with threads may go wrong is what is tested.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child:
        return os.waitpid(child, 0)[1] == 0
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(60)
    try:
        os._exit(0 if check() else 1)
    except BaseException:  # noqa: BLE001 - the child must never go on with the parent's tests
        traceback.print_exc()
        os._exit(2)
