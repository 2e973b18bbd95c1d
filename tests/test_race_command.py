"""``python -m pkgstore.testing.race``: what operators run on their own store."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import pkgstore

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parent.parent
SMALL = ["--processes=3", "--keys=12", "--sizes=1,100Ki", "--reads=100", "--kills=4"]


def run(
    *arguments: str, code: str = "", preexec_fn: Callable[[], None] | None = None, **variables: str
) -> subprocess.CompletedProcess[str]:
    command = ["-c", code] if code else ["-m", "pkgstore.testing.race"]
    return subprocess.run(
        [sys.executable, *command, *arguments],
        cwd=ROOT,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        preexec_fn=preexec_fn,
    )


def assert_clean(folder: Path) -> None:
    """Assert that nothing is left of a race, but for what was there before: one blob."""
    with pkgstore.open(folder) as store:
        assert [blob.key for blob in store.list()] == ["mine/kept"]
    assert list((folder / ".pkgstore" / "tmp").iterdir()) == []


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with pkgstore.open(tmp_path / "store") as store:
        store.publish("mine/kept", b"1")
    return tmp_path / "store"


def test_the_table(folder: Path) -> None:
    done = run(str(folder), *SMALL, "--seed=5")
    assert (done.returncode, done.stderr) == (0, "")
    title, header, small, large, verdict = done.stdout.splitlines()
    assert title.startswith(f"racing in file://{folder}, below pkgstore-race-")
    assert title.endswith("--seed 5")
    names = (
        "size keys racers one winner more none half-visible / reads SIGKILLs at the final name SIGSTOPs lost or torn"
        " reaped"
    )
    assert " ".join(header.split()).startswith(names)
    assert small.split()[:8] == ["1", "B", "12", "3", "12", "0", "0", "0"]
    assert large.split()[:8] == ["100", "KiB", "12", "3", "12", "0", "0", "0"]
    assert verdict.startswith("every promise kept, in ")
    assert len({len(line) for line in (header, small, large)}) == 1
    assert_clean(folder)


def test_json(folder: Path) -> None:
    done = run(f"file://{folder}", *SMALL, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    document = json.loads(done.stdout)
    assert document["ok"] is True
    assert document["seed"]
    assert [row["size"] for row in document["rows"]] == [1, 100 << 10]
    for row in document["rows"]:
        reads = row.pop("reads")
        assert reads >= 50
        left = row.pop("left_staged")
        assert left == row.pop("reaped") == 2
        assert row == {
            "size": row["size"],
            "keys": 12,
            "racers": 3,
            "one_winner": 12,
            "several_winners": 0,
            "no_winner": 0,
            "half_visible": 0,
            "kills": 4,
            "freezes": 2,
            "at_final_name": 0,
            "lost_or_torn": 0,
            "faults": [],
        }
    assert_clean(folder)


@pytest.mark.parametrize(
    ("mutant", "words"),
    [("always_replaces", "keys had more than one winner"), ("writes_in_place", "was killed")],
)
def test_a_broken_promise(folder: Path, mutant: str, words: str) -> None:
    """A driver that is broken on purpose, also in the workers, which are told by the environment."""
    code = (
        "import sys, pkgstore; from tests.mutants.suite import open_mutant; pkgstore.open = open_mutant;"
        "from pkgstore.testing.race import main; sys.exit(main(sys.argv[1:]))"
    )
    done = run(str(folder), *SMALL, code=code, PKGSTORE_MUTANT=mutant)
    assert (done.returncode, done.stderr) == (1, "")
    lines = done.stdout.splitlines()
    assert any(line.startswith("broken: ") for line in lines)
    assert lines[-1].startswith("promises were broken ")
    done = run(str(folder), *SMALL, "--json", code=code, PKGSTORE_MUTANT=mutant)
    assert (done.returncode, done.stderr) == (1, "")
    faults = [fault for row in json.loads(done.stdout)["rows"] for fault in row["faults"]]
    assert any(words in fault for fault in faults), faults


def test_neither_pytest_nor_hypothesis_is_needed(folder: Path) -> None:
    code = (
        "import sys; sys.modules.update(pytest=None, hypothesis=None);"
        "from pkgstore.testing.race import main; sys.exit(main(sys.argv[1:]))"
    )
    done = run(str(folder), *SMALL, "--sizes=1", "--kills=1", code=code)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("memory://race", "other processes do not find the store memory://race"),
        ("nowhere://x", "no driver serves nowhere: URLs"),
        (f"{ROOT}/README.md", f"{ROOT}/README.md is no folder"),
    ],
)
def test_a_store_that_is_none_to_race_in(url: str, words: str) -> None:
    done = run(url)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"pkgstore.testing.race: {words}")
    assert done.stderr.count("\n") == 1


def test_a_store_that_may_not_be_written(folder: Path) -> None:
    done = run(f"{folder.as_uri()}?readonly=yes", *SMALL)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert "reading only" in done.stderr
    assert_clean(folder)


def test_a_medium_that_is_full(folder: Path) -> None:
    def small_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50 << 10, resource.RLIM_INFINITY))

    done = run(str(folder), *SMALL, preexec_fn=small_files)
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stderr.count("\n") == 1
    assert "free some space" in done.stderr
    assert "broken" not in done.stdout
    assert_clean(folder)


@pytest.mark.parametrize("option", ["--sizes=big", "--keys=0", "--reads=-1", "--sizes=", "--kills=x"])
def test_options_that_make_no_sense(folder: Path, option: str) -> None:
    done = run(str(folder), option)
    assert done.returncode == 2
    assert f"argument {option.split('=')[0]}: " in done.stderr
    assert "_number" not in done.stderr
    assert_clean(folder)


def test_interrupted(folder: Path) -> None:
    command = [sys.executable, "-u", "-m", "pkgstore.testing.race", str(folder), "--keys=5000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline().startswith("racing in")
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=60)
        finally:
            process.kill()
    assert (process.returncode, errors) == (130, "")
    assert_clean(folder)
