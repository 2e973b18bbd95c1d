"""The tests for a mutant, or for the driver as it is: run by `tests.test_mutants`, in a process of their own.

PKGSTORE_MUTANT names the mutant.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from pkgstore import open as open_store
from tests.local_medium import LocalConformance
from tests.mutants import MUTANTS
from tests.test_local_durability import test_what_was_acknowledged_survives

if TYPE_CHECKING:
    from pkgstore import Store

__all__ = ["TestMutant", "test_what_was_acknowledged_survives"]

_applied: list[str] = []


def become_mutant() -> None:
    """Break the driver in this process, once, as the environment says."""
    name = os.environ.get("PKGSTORE_MUTANT", "")
    if name and name not in _applied:
        _applied.append(name)
        MUTANTS[name].apply()


def open_mutant(url: str, **options: Any) -> Store:
    """Open a store with the mutant driver."""
    become_mutant()
    return open_store(url, **options)


become_mutant()


class TestMutant(LocalConformance):
    """The conformance tests on a mutant of the local driver."""

    open_store = staticmethod(open_mutant)
    large = 128 << 20
