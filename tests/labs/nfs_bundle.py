"""One directory for two hosts on a shared volume, built by one of them: inside the machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.labs import nfs_network as network
from tests.trees import told

if TYPE_CHECKING:
    from pathlib import Path

PROCESSES = 8
WITHIN = 240.0

# Counts its runs, waits to be let go, and makes another file each time.
BUILD = """
import os, sys, time
dest, notes = sys.argv[1:]
open(f"{notes}/run-{os.urandom(8).hex()}", "x").close()
while not os.path.exists(f"{notes}/go"):
    time.sleep(0.02)
os.mkdir(f"{dest}/package")
open(f"{dest}/package/data", "wb").write(os.urandom(100_000))
"""


def start(client: str, url: str, dest: str, notes: Path) -> subprocess.Popen[bytes]:
    """Start to bring the bundle to ``dest``, as it is named below the mount of client a, on a client."""
    command = [
        sys.executable,
        "-m",
        "pkgstore",
        "bundle",
        "--name",
        "app",
        "--dest",
        network.on(client, dest),
    ]
    if url:
        command += ["--store", network.on(client, url)]
    with open(notes / f"said-{os.urandom(8).hex()}", "xb") as said:
        return subprocess.Popen(
            [*command, "--", sys.executable, "-c", BUILD, "{dest}", str(notes)],
            stdin=subprocess.DEVNULL,
            stderr=said,
            start_new_session=True,
        )


def runs(notes: Path) -> int:
    return len(list(notes.glob("run-*")))


def said(notes: Path) -> str:
    """Return what the processes printed on standard error."""
    return "".join(path.read_text(errors="replace") for path in notes.glob("said-*"))


def end(processes: list[subprocess.Popen[bytes]]) -> None:
    for each in processes:
        if each.poll() is None:
            os.killpg(each.pid, signal.SIGTERM)
            each.wait(WITHIN)


@pytest.mark.usefixtures("a")
@pytest.mark.parametrize("mode", ["one dest", "a dest each", "no store"])
def test_two_clients_build_one_bundle(url: str, version: str, tmp_path: Path, mode: str) -> None:
    folder = os.path.dirname(url.removeprefix("nfs://"))
    dests = [f"{folder}/{number if mode == 'a dest each' else 0}/packages" for number in range(PROCESSES)]
    processes = []
    try:
        for number, dest in enumerate(dests):
            processes.append(start("ab"[number % 2], "" if mode == "no store" else url, dest, tmp_path))
        network.until(lambda: runs(tmp_path), "a build", WITHIN)
        (tmp_path / "go").touch()
        assert [each.wait(WITHIN) for each in processes] == [0] * PROCESSES, said(tmp_path)
    finally:
        end(processes)
    assert runs(tmp_path) == 1
    trees = [told(network.on(client, os.path.realpath(dest))) for dest in dests for client in "ab"]
    assert set(trees[0]) == {"package", "package/data"}
    assert trees == [trees[0]] * len(trees)
    print(f"\nNFS {version}: one bundle of {PROCESSES} processes on two clients, {mode}")


@pytest.mark.usefixtures("a")
def test_a_killed_builder_is_replaced_by_the_other_client(url: str, tmp_path: Path) -> None:
    dest = f"{os.path.dirname(url.removeprefix('nfs://'))}/packages"
    processes = [start("a", "", dest, tmp_path)]
    try:
        network.until(lambda: runs(tmp_path), "a build", WITHIN)
        processes.append(start("b", "", dest, tmp_path))
        os.kill(processes[0].pid, signal.SIGKILL)
        network.until(lambda: runs(tmp_path) == 2, "another build", WITHIN)
        (tmp_path / "go").touch()
        assert processes[1].wait(WITHIN) == 0
    finally:
        end(processes)
    # The other client remembers for a while that there was none.
    assert set(told(os.path.realpath(network.on("b", dest)))) == {"package", "package/data"}
