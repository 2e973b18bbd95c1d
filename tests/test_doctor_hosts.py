"""Two doctors at the same time on one folder: whether a lock of one is refused to the other.

A second network namespace stands for a second host: it has an NFS client of its own.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

import pkgstore
from pkgstore.doctor.watch import Note
from tests import needs
from tests.command import ENVIRONMENT, PKGSTORE, run
from tests.test_doctor import files, of_document, tree

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

NAME = "locks-between-hosts"

# A stand-in for a medium whose locks exclude nobody: in both runs, flock does nothing.
WITHOUT_LOCKS = [
    sys.executable,
    "-c",
    "import fcntl; fcntl.flock = lambda *_: None; from pkgstore.cli import main; main()",
]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    pkgstore.open(tmp_path / "store").close()
    return tmp_path / "store"


def begun(command: Sequence[str | Path], root: Path, wait: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*command, "doctor", root, "--json", "--wait", str(wait)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=ENVIRONMENT,
        text=True,
    )


def ended(process: subprocess.Popen[str], *, ok: bool) -> dict[str, list[dict[str, str]]]:
    """Wait for a doctor, and return its findings by their names."""
    try:
        shown, said = process.communicate(timeout=100)
    finally:
        process.kill()
    assert (process.returncode, said) == (0 if ok else 1, ""), shown
    return of_document(shown, ok=ok)


def elsewhere() -> list[str]:
    """Return the beginning of a command that runs on what stands for a second host."""
    needs.root()
    return [needs.program("unshare"), "--net"]


def namespace(text: str) -> list[str]:
    """Return the network namespaces that a sentence names."""
    return [part.split(",")[0] for part in text.split("network namespace ")[1:]]


def test_a_lock_is_refused_to_a_second_host(root: Path) -> None:
    before = tree(root)
    here = begun(PKGSTORE, root, 90)
    there = begun([*elsewhere(), *PKGSTORE], root, 90)
    start = time.monotonic()
    one, other = ended(here, ok=True), ended(there, ok=True)
    assert time.monotonic() - start < 80, "they waited on, though they had met"
    ours = str(os.stat("/proc/self/ns/net").st_ino)
    for found in (one, other):
        (finding,) = found[NAME]
        assert finding["level"] == "ok"
        first, second = namespace(finding["says"])
        assert ours in (first, second)
        assert first != second
        assert os.uname().nodename in finding["says"]
    sentences = {one[NAME][0]["says"].split()[1], other[NAME][0]["says"].split()[1]}
    assert sentences == {"lock"}
    assert tree(root) == before


def test_a_run_that_does_not_wait_is_seen_by_one_that_does(root: Path) -> None:
    waiting = begun(PKGSTORE, root, 90)
    deadline = time.monotonic() + 60
    while not list(root.glob(".pkgstore/doctor/lock")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    short = begun([*elsewhere(), *PKGSTORE], root, 0)
    assert ended(short, ok=True)[NAME][0]["level"] == "ok"
    assert ended(waiting, ok=True)[NAME][0]["level"] == "ok"


def test_two_runs_on_one_host(root: Path) -> None:
    before = tree(root)
    both = [begun(PKGSTORE, root, 6) for _ in range(2)]
    for each in both:
        seen, second = ended(each, ok=True)[NAME]
        assert seen["level"] == second["level"] == "note"
        assert "Both are on one host" in seen["says"]
        assert "No doctor on a second host was seen" in second["says"]
    assert tree(root) == before


def test_locks_that_exclude_nobody(root: Path) -> None:
    before = tree(root)
    here, there = begun(WITHOUT_LOCKS, root, 90), begun([*elsewhere(), *WITHOUT_LOCKS], root, 90)
    ours = str(os.stat("/proc/self/ns/net").st_ino)
    for each in (here, there):
        found = ended(each, ok=False)
        (finding,) = found[NAME]
        assert finding["level"] == "error"
        assert finding["says"].startswith("Two hold one exclusive lock at the same time: ")
        assert ours in namespace(finding["says"])
        assert len(set(namespace(finding["says"]))) == 2
        for words in ("nfs.nfs4_unique_id", "/sys/fs/nfs/net/nfs_client/identifier", "distinct names", "nolock"):
            assert words in finding["remedy"]
        assert found["locks"][0]["level"] == "error"
    assert tree(root) == before


def test_three_runs_end_and_leave_nothing(root: Path) -> None:
    before = tree(root)
    for each in [begun(PKGSTORE, root, 0) for _ in range(3)]:
        assert ended(each, ok=True)["store"][0]["level"] == "ok"
    assert tree(root) == before


def test_a_run_that_was_killed_is_no_second_host(root: Path) -> None:
    before = files(root)
    killed = begun([*elsewhere(), *PKGSTORE], root, 90)
    deadline = time.monotonic() + 60
    while not any(json.loads(path.read_text())["holds"] for path in root.glob(".pkgstore/doctor/*.run")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert files(root) != before
    found = of_document(run("doctor", root, "--json").stdout, ok=True)
    silent, none = found[NAME]
    assert silent["level"] == "warning"
    assert "has left off" in silent["says"]
    assert "then given to this one" in silent["says"]
    assert "No doctor on a second host was seen" in none["says"]
    assert not list(root.glob(".pkgstore/doctor/*.run"))
    assert not list(root.glob(".pkgstore/doctor/lock"))


def test_what_another_wrote_is_fit_to_be_shown() -> None:
    host = {"name": "a\x1b[2Jb" + "c" * 500, "boot": "1", "network": "2", "nfs_client": "x\ny", "process": "3"}
    note = {"host": host, "count": 1, "holds": True, "refused": False, "seen": {"r": 1}, "judged": []}
    parsed = Note.parsed(json.dumps(note).encode())
    assert parsed is not None
    assert str(parsed.host).isprintable()
    assert len(str(parsed.host)) < 300
    assert parsed.holds is True
    assert parsed.seen == {"r": 1}


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b"{}", b'{"host": 1}', b"\xff", b"[" * 100_000, b'{"host": {}, "count": "many"}']
)
def test_a_document_of_another_kind_says_nothing(data: bytes) -> None:
    assert Note.parsed(data) is None
