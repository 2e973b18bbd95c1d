"""Mutants of the local driver: each breaks one promise, and names the tests that have to notice.

A mutant is a function that patches the driver in this process. `tests.mutants.suite` runs the kit on it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True)
class Mutant:
    """A broken driver: how it is made, and for each test that must fail, words of the failure."""

    apply: Callable[[], None]
    caught_by: dict[str, str]


MUTANTS: dict[str, Mutant] = {}


def mutant(**caught_by: str) -> Callable[[Callable[[], None]], Callable[[], None]]:
    """Register a function that patches the driver."""

    def register(apply: Callable[[], None]) -> Callable[[], None]:
        MUTANTS[apply.__name__] = Mutant(apply, caught_by)
        return apply

    return register


def patch(owner: Any, name: str, replacement: Any) -> Any:
    """Put something in the place of an attribute, which must be there; return what it was."""
    original = getattr(owner, name)
    setattr(owner, name, replacement)
    return original
