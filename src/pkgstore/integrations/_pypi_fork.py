"""What a child process must not go on with: locks that its parent's threads held, and work that they had begun."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING
from weakref import WeakMethod

if TYPE_CHECKING:
    from collections.abc import Callable


def reset_after_fork(method: Callable[[], None]) -> None:
    """Call a method in every child, right after fork, for as long as its object lives."""
    reference = WeakMethod(method)

    def reset() -> None:
        bound = reference()
        if bound is not None:
            bound()

    os.register_at_fork(after_in_child=reset)
