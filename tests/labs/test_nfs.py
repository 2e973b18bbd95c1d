"""Two kernels' worth of NFS: a server and two clients of it, in a machine of their own, for each version.

What runs there is in `nfs_bundle`, `nfs_sight`, `nfs_trouble`, `nfs_suite`, `nfs_doctors` and `nfs_quota`. The
conformance kit runs on 4.2, but for three slow tests; on 4.1 and 3, where digests lie beside the blobs, a part of it
does. With PKGSTORE_LABS set to ``full``, all of it runs on all, and the races are larger. PKGSTORE_SEED repeats the
choices of chance of a race.
"""

from __future__ import annotations

import os
import shutil
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests import needs
from tests.labs import nfs_guest
from tests.labs.machine import Disk, cut, running

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator

FULL = os.environ.get("PKGSTORE_LABS") == "full"
WITHIN = 3600.0 if FULL else 900.0
OF_THE_KIT = "racing_processes or killed_at_any or what_the_dead or live_writer or token or put_returns"
SOME = f"sight or trouble or doctors or quota or bundle or {OF_THE_KIT}"
VERSIONS = {"4.2": "", "3": "", "4.1": ""} if FULL else {"4.2": "not odd_key and not one_page", "3": SOME, "4.1": SOME}
SHOWN = ("RACE", "RESTARTS", "NFS", "FAILED", "ERROR")


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Future[list[str]]]]:
    """What the machines say, of each version: two run at a time."""
    needs.root()
    for program in ("linux.uml", "mkfs.ext4", "rpc.nfsd", "rpcbind", "tc", "nsenter"):
        needs.program(program)
    over = threading.Event()
    with ThreadPoolExecutor(2) as pool:
        try:
            yield {
                version: pool.submit(output, tmp_path_factory.mktemp("nfs"), version, wanted, over)
                for version, wanted in VERSIONS.items()
            }
        finally:
            over.set()
            pool.shutdown(cancel_futures=True)


def output(folder: Path, version: str, wanted: str, over: threading.Event) -> list[str]:
    """Run a machine to its end, or until it is ``over``; return what it printed, in lines."""
    choice = ("-k", wanted) if wanted else ()
    environment = {name: value for name, value in os.environ.items() if name.startswith("PKGSTORE_")}
    disk = Disk.make(folder, "ext4", 4 << 30)
    try:
        with running(disk, Path(nfs_guest.__file__), version, *choice, memory=1024, environment=environment) as machine:
            began = time.monotonic()
            watch = threading.Thread(target=cut_when_over, args=(machine, began + WITHIN, over))
            watch.start()
            assert machine.stdout is not None
            lines = [line.decode(errors="replace").rstrip() for line in machine.stdout]
            watch.join()
            return [*lines, f"NFS {version}: {time.monotonic() - began:.0f} s"]
    finally:
        shutil.rmtree(folder)


def cut_when_over(machine: subprocess.Popen[bytes], deadline: float, over: threading.Event) -> None:
    """Kill a machine that takes too long, or that nobody waits for any more."""
    while machine.poll() is None:
        if over.wait(0.2) or time.monotonic() > deadline:
            cut(machine)


@pytest.mark.timeout(2 * WITHIN + 60)
@pytest.mark.parametrize("version", VERSIONS)
def test_two_clients_of_a_server(outputs: dict[str, Future[list[str]]], version: str) -> None:
    lines = outputs[version].result()
    print()
    print("\n".join(line for line in lines if line.startswith(SHOWN)))
    print("\n".join(line for line in lines if line.startswith("=====") and " passed" in line))
    assert "ENDED 0" in lines, "\n".join(failures(lines))


def failures(lines: list[str]) -> list[str]:
    """Return what a machine said of its tests that failed; its last lines when it did not get that far."""
    found = [number for number, line in enumerate(lines) if line.startswith("=====") and " FAILURES " in line]
    return lines[found[0] :] if found else lines[-400:]
