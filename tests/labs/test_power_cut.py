"""Power cuts: what was acknowledged before one is there after it, nothing is torn, and no stored digest is wrong.

PKGSTORE_CUTS says how many cuts there are on each file system (default 5); PKGSTORE_SEED repeats a run.
"""

from __future__ import annotations

import json
import os
import random
import time
from pathlib import Path

import pytest

from tests.labs import power_cut_guest
from tests.labs.machine import Disk, cut, lines, running

GUEST = Path(power_cut_guest.__file__)
CUTS = int(os.environ.get("PKGSTORE_CUTS", "5"))
SEED = os.environ.get("PKGSTORE_SEED") or str(random.randrange(1 << 32))
BOOT = 60.0
OPERATIONS = {"TRY", "DONE", "GONE", "DELETED", "NEXT", "TOOK"}


def one_cut(folder: Path, kind: str, seed: str, *options: str) -> dict[str, int]:
    """Write, pull the plug at a random moment, boot again, and return what the guest finds."""
    moment = random.Random(seed).uniform(0.2, 3)
    disk = Disk.make(folder, kind)
    log: list[list[str]] = []
    other: list[str] = []
    with running(disk, GUEST, "write", seed, *options) as machine:
        started = None
        for words in lines(machine, BOOT):
            if not words or words[0] not in OPERATIONS:
                other.append(" ".join(words))
                continue
            started = started or time.monotonic()
            log.append(words)
            if time.monotonic() - started > moment:
                break
        cut(machine)
        log += [words for words in lines(machine, BOOT) if words and words[0] in OPERATIONS]
    assert log, f"the guest did nothing: {other[-20:]}"
    assert not any("Traceback" in line for line in other), other[-20:]
    record = folder / "log.json"
    record.write_text(json.dumps([words for words in log if len(words) == 3]))
    with running(disk, GUEST, "check", str(record)) as machine:
        said = list(lines(machine, BOOT))
    found = [words[1] for words in said if words and words[0] == "FOUND"]
    assert found, f"the guest did not report: {said[-10:]}"
    return json.loads(found[0])


def total(results: list[dict[str, int]]) -> dict[str, int]:
    return {name: sum(each[name] for each in results) for name in results[0]}


@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_nothing_acknowledged_is_lost(tmp_path: Path, kind: str) -> None:
    results = [one_cut(tmp_path, kind, f"{SEED}-{kind}-{number}") for number in range(CUTS)]
    found = total(results)
    print(f"\n{kind}: seed {SEED}, {CUTS} cuts, {found}")
    assert found["acknowledged"] > 0
    assert {name: count for name, count in found.items() if name != "acknowledged"} == {
        "twice": 0,
        "lost": 0,
        "torn": 0,
        "mismatched": 0,
        "leftovers": 0,
    }


def test_without_fsync_the_lab_reports_losses(tmp_path: Path) -> None:
    found = total([one_cut(tmp_path, "ext4", f"{SEED}-{number}", "without-fsync") for number in range(2)])
    print(f"\next4 without fsync: seed {SEED}, 2 cuts, {found}")
    assert found["lost"] > 0
