"""The state machine of `pkgstore.testing.machine`, on the harness's medium."""

from __future__ import annotations

from typing import ClassVar

from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from pkgstore.testing.machine import StoreMachine
from pkgstore.testing.suite.harness import Harness


class StateMachineTests(Harness):
    """The store is a dictionary, whatever is called in whatever order."""

    examples: ClassVar[int] = 25
    steps: ClassVar[int] = 25

    def test_a_store_is_a_dictionary(self, url: str) -> None:
        about = {"opener": staticmethod(self.open_store), "url": url, "keeps_folders": self.keeps_folders}
        about["published"] = set()
        machine = type("Machine", (StoreMachine,), about)
        checks = settings(
            max_examples=self.examples,
            stateful_step_count=self.steps,
            deadline=None,
            print_blob=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        run_state_machine_as_test(machine, settings=checks)
