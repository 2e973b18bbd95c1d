"""The tests that every driver has to pass: subclass `DriverConformance` in a test file.

::

    class TestMyDriver(DriverConformance):
        @pytest.fixture
        def url(self, tmp_path):
            return f"mine://{tmp_path}"

Hooks say the rest of what the tests have to know, and do what only the medium's author can: see
`pkgstore.testing.suite.harness.Harness`, which holds them all.
"""

from __future__ import annotations

from pkgstore.testing.suite.basics import BasicTests
from pkgstore.testing.suite.bodies import BodyTests
from pkgstore.testing.suite.contract import ContractTests
from pkgstore.testing.suite.crashes import CrashTests
from pkgstore.testing.suite.ledger import LedgerTests
from pkgstore.testing.suite.listing import ListingTests
from pkgstore.testing.suite.naming import NamingTests
from pkgstore.testing.suite.outages import OutageTests
from pkgstore.testing.suite.quota import QuotaTests
from pkgstore.testing.suite.races import RaceTests
from pkgstore.testing.suite.reading import ReadingTests
from pkgstore.testing.suite.space import SpaceTests
from pkgstore.testing.suite.statemachine import StateMachineTests


class DriverConformance(
    BasicTests,
    BodyTests,
    ReadingTests,
    NamingTests,
    ListingTests,
    ContractTests,
    OutageTests,
    RaceTests,
    CrashTests,
    LedgerTests,
    SpaceTests,
    QuotaTests,
    StateMachineTests,
):
    """Everything that a driver promises, as tests."""
