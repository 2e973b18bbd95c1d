"""Processes read through a cache that is far too small, while they are killed and its entries are damaged.

PKGSTORE_LABS=full makes it 100,000 reads.
"""

from __future__ import annotations

import hashlib
import os
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from pkgstore import Corrupt, NotFound, Reader
from pkgstore.cache.folder import Cache
from pkgstore.cache.room import Room
from pkgstore.testing.processes import Worker, workers
from tests.far_medium import Far

if TYPE_CHECKING:
    from pathlib import Path

    from pkgstore.testing.processes import Talk

READS = 100_000 if os.environ.get("PKGSTORE_LABS") == "full" else 4_000
KILLS = min(READS // 200, 100)
PROCESSES = 8
KiB = 1 << 10
LARGEST = 300 * KiB
BLOBS = 60
PATIENCE = 280.0 if READS == 4_000 else 3000.0


def data_of(index: int) -> bytes:
    """Return the bytes of a blob."""
    chance = random.Random(index)
    return chance.randbytes(chance.randrange(LARGEST))


def digest_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@dataclass
class Soak:
    """What has been read by all processes, dead or alive: a line for each read, `wrong` where a byte was."""

    far: Far
    outcomes: Path
    largest: int = 0
    killed: int = 0
    damaged: Counter[str] = field(default_factory=Counter)

    def read(self) -> Counter[str]:
        return Counter(self.outcomes.read_text().split())


def read_on_and_on(talk: Talk, far: Far, outcomes: Path, seed: str, mutant: str) -> None:
    """Read blobs, whole and piece by piece, until spoken to."""
    chance = random.Random(seed)
    right = {f"b{index}": digest_of(data_of(index)) for index in range(BLOBS)}
    lines = os.open(outcomes, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    with pytest.MonkeyPatch.context() as patch, far.open() as store:
        if mutant == "unverified":
            patch.setattr(Cache, "_fault", lambda *_: "")
            patch.setattr(Reader, "_check_digest", lambda _: None)
        elif mutant == "unbounded":
            patch.setattr(Room, "_taken", lambda *_: 0)
        talk.say("ready")
        while not talk.is_spoken_to():
            key = f"b{min(chance.randrange(BLOBS), chance.randrange(BLOBS))}"
            outcome = "right"
            try:
                if chance.random() < 0.5:
                    found = digest_of(store.read(key))
                else:
                    hasher = hashlib.sha256()
                    with store.open(key) as reader:
                        while chunk := reader.read(chance.randrange(1, 64 * KiB)):
                            hasher.update(chunk)
                    found = hasher.hexdigest()
                if found != right[key]:
                    outcome = "wrong"
            except Corrupt:
                outcome = "refused"
            os.write(lines, f"{outcome}\n".encode())
    os.close(lines)


def damage(far: Far, chance: random.Random) -> str:
    """Do something to an entry, or to a file that is being filled; return what was done."""
    kind = chance.choice(["flip", "rot", "cut", "remove"])
    paths = far.entries() if kind == "cut" else [*far.entries(), *far.fills()]  # who fills may write a cut file on
    if not paths:
        return "nothing"
    path = chance.choice(paths)
    try:
        status = path.stat()
        if kind == "cut":
            os.truncate(path, chance.randrange(status.st_size + 1))
        elif kind == "remove":
            path.unlink()
        elif status.st_size:
            with path.open("r+b") as file:
                file.seek(chance.randrange(status.st_size))
                file.write(chance.randbytes(1))
            if kind == "rot":
                os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    except FileNotFoundError:
        return "nothing"
    return kind


def soak(far: Far, outcomes: Path, seed: str, reads: int, kills: int, mutant: str = "") -> Soak:
    """Have eight processes read, and kill them and damage entries meanwhile."""
    chance = random.Random(seed)
    run = Soak(far, outcomes)
    outcomes.touch()
    deadline = time.monotonic() + PATIENCE
    with workers(PROCESSES) as team:

        def started(worker: Worker) -> Worker:
            worker.start(read_on_and_on, far, outcomes, chance.randbytes(8).hex(), mutant)
            return worker

        for worker in team:
            started(worker)
        for worker in team:
            assert worker.hear() == "ready"
        while True:
            run.largest = max(run.largest, far.held())
            done = run.read().total()
            if done >= reads:
                break
            assert time.monotonic() < deadline, f"{done} reads were done in {PATIENCE:.0f} s"
            run.damaged[damage(far, chance)] += 1
            if done >= reads * (run.killed + 1) / (kills + 1):
                index = chance.randrange(PROCESSES)
                team[index].kill()
                team[index] = started(Worker())
                run.killed += 1
        for worker in team:
            worker.say("enough")
        for worker in team:
            worker.result()
    return run


@pytest.fixture
def far(tmp_path: Path) -> Far:
    far = Far(tmp_path / "store", tmp_path / "cache", 2 << 20)
    with far.open() as store:
        for index in range(BLOBS):
            store.publish(f"b{index}", data_of(index))
    return far


@pytest.fixture
def seed() -> str:
    """A seed, in the output of a test that fails; PKGSTORE_TEST_SEED sets it."""
    seed = os.environ.get("PKGSTORE_TEST_SEED") or random.SystemRandom().randbytes(6).hex()
    print(f"PKGSTORE_TEST_SEED={seed}")
    return seed


@pytest.mark.timeout(PATIENCE + 20)
def test_no_wrong_byte(far: Far, tmp_path: Path, seed: str) -> None:
    run = soak(far, tmp_path / "outcomes", seed, READS, KILLS)
    outcomes = run.read()
    print(outcomes, run.damaged, f"{run.killed} killed, at most {run.largest} of {far.size} bytes")
    assert outcomes["wrong"] == 0
    assert outcomes["refused"] <= outcomes.total() // 20  # entries that changed while they were read piece by piece
    assert run.killed == KILLS
    assert all(run.damaged[kind] for kind in ("flip", "rot", "cut", "remove"))
    assert run.largest <= far.size
    assert far.counted() >= far.held()
    with far.open() as store:
        store.publish("last", b"1")
        assert store.read("last") == b"1"
        store.delete("b0")
        with pytest.raises(NotFound):
            store.read("b0")
    assert far.fills() == []
    assert far.held() <= far.size


@pytest.mark.parametrize("mutant", ["unverified", "unbounded"])
def test_a_mutant_is_caught(far: Far, tmp_path: Path, seed: str, mutant: str) -> None:
    run = soak(far, tmp_path / "outcomes", seed, 1500, 0, mutant)
    if mutant == "unverified":
        assert run.read()["wrong"]
    else:
        assert run.largest > far.size
