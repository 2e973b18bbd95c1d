"""The local driver, broken on purpose."""

from tests.mutants import keeping, publishing
from tests.mutants.registry import MUTANTS

__all__ = ["MUTANTS", "keeping", "publishing"]
