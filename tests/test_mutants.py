"""The conformance kit can fail: it catches the local driver with any of its promises broken."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.mutants import MUTANTS

ROOT = Path(__file__).parent.parent
SUITE = "tests/mutants/suite.py"

Outcomes = dict[str, list[tuple[str, str]]]


def run_kit(tmp_path: Path, mutant: str, tests: set[str]) -> Outcomes:
    """Run tests of the kit on a mutant; return for each its outcomes, one for each set of parameters, with words."""
    report = tmp_path / "report.xml"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}"]
    command += [f"--basetemp={tmp_path / 'tests'}", "-k", " or ".join(sorted(tests)), SUITE]
    # The process is not a part of the test run that started it.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    environment["PKGSTORE_MUTANT"] = mutant
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    outcomes: Outcomes = defaultdict(list)
    for case in ElementTree.parse(report).iter("testcase"):
        words = [(child.tag, child.get("message", "") + (child.text or "")) for child in case]
        outcomes[case.get("name", "").split("[")[0]].append(words[0] if words else ("passed", ""))
    return {name: outcomes[name] for name in tests}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_is_caught(tmp_path: Path, name: str) -> None:
    caught_by = MUTANTS[name].caught_by
    for test, outcomes in run_kit(tmp_path, name, set(caught_by)).items():
        kinds = {kind for kind, _ in outcomes}
        assert kinds <= {"passed", "failure"}, f"{test} did not get as far as to fail: {outcomes}"
        failures = [words for kind, words in outcomes if kind == "failure"]
        assert failures, f"{test} does not notice that the driver is broken: {MUTANTS[name].apply.__doc__}"
        assert any(caught_by[test] in words for words in failures), failures


def test_the_driver_as_it_is_passes_the_same_tests(tmp_path: Path) -> None:
    tests = {test for mutant in MUTANTS.values() for test in mutant.caught_by}
    for test, outcomes in run_kit(tmp_path, "", tests).items():
        assert outcomes, f"{test} was not run"
        assert {kind for kind, _ in outcomes} == {"passed"}, f"{test}: {outcomes}"
