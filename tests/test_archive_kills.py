"""Archives and processes: killed in the middle of it and resumed, in bounded memory, on a real S3 server."""

from __future__ import annotations

import io
import os
import random
import signal
import subprocess
import sys
import tarfile
import time
import tracemalloc
from typing import TYPE_CHECKING

import pytest

import pkgstore
from pkgstore import archive
from tests.archives import bodies, contents, exported, fill, member, restored, taken_apart
from tests.command import ENVIRONMENT, PKGSTORE, run
from tests.s3_medium import Servers, servers

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["servers"]

MIB = 1 << 20
KILLS = 6


def wait_until_there(root: Path, count: int, process: subprocess.Popen[bytes]) -> None:
    """Return when so many files lie in a folder, or the process has ended. Fails after half a minute."""
    deadline = time.monotonic() + 30
    while process.poll() is None and sum(len(files) for _, _, files in os.walk(root)) < count:
        assert time.monotonic() < deadline


@pytest.mark.timeout(180)
def test_a_restore_that_is_killed_is_resumed(tmp_path: Path) -> None:
    seed = int(os.environ.get("PKGSTORE_SEED") or random.SystemRandom().randrange(1 << 32))
    print(f"PKGSTORE_SEED={seed}")
    chance = random.Random(seed)
    blobs = {f"p/{number:03}.whl": chance.randbytes(chance.choice((100, 40_000, 300_000))) for number in range(80)}
    blobs |= {f"p/{number:03}-large.whl": chance.randbytes(5 * MIB) for number in (10, 50)}
    with pkgstore.open(tmp_path / "whole") as whole:
        fill(whole, blobs)
        archive.export(whole, tmp_path / "x.tar.zst")
    target = tmp_path / "target"
    pkgstore.open(target).close()
    killed = 0
    there: set[str] = set()
    with pkgstore.open(target) as store:
        for _ in range(KILLS):
            command = [*PKGSTORE, "restore", tmp_path / "x.tar.zst", target]
            with subprocess.Popen(command, stdout=subprocess.DEVNULL, env=ENVIRONMENT) as process:
                wait_until_there(target, len(there) + chance.randrange(1, 25), process)
                process.kill()
            killed += process.returncode == -signal.SIGKILL
            shown = contents(store)
            assert there <= shown.keys(), seed
            assert shown.items() <= blobs.items(), seed
            there = set(shown)
    assert killed >= KILLS // 2
    with pkgstore.open(target) as store:
        found = archive.restore(tmp_path / "x.tar.zst", store)
        assert (found.same, found.new, found.conflict) == (len(there), len(blobs) - len(there), 0)
        assert contents(store) == blobs
        with pkgstore.open(tmp_path / "whole") as whole:
            members, others = taken_apart(exported(store))[1:-1], taken_apart(exported(whole))[1:-1]
        assert [(info.pax_headers, body) for info, body in members] == [
            (info.pax_headers, body) for info, body in others
        ]


def test_an_export_that_is_killed_has_no_name(tmp_path: Path) -> None:
    with pkgstore.open(tmp_path / "whole") as whole:
        whole.publish("large", os.urandom(64 * MIB))
    (tmp_path / "out").mkdir()
    command = [*PKGSTORE, "export", tmp_path / "whole", tmp_path / "out" / "x.tar"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, env=ENVIRONMENT) as process:
        wait_until_there(tmp_path / "out", 1, process)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert [path.name[:10] for path in (tmp_path / "out").iterdir()] == [".pkgstore-"]
    assert run("export", tmp_path / "whole", tmp_path / "out" / "x.tar").returncode == 0


@pytest.mark.parametrize("form", ["tar", "tar.zst"])
def test_memory_is_bounded(tmp_path: Path, form: str) -> None:
    """Whatever the size of the blobs, and how many of a middling size are under way."""
    code = """
import sys
import pkgstore
from pkgstore import archive
import concurrent.futures, sqlite3, tarfile, tempfile
from backports import zstd

def peak():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM"))

whole, target, file = sys.argv[1:]
with pkgstore.open(whole) as store, pkgstore.open(target) as empty:
    empty.publish("idle", b"idle")
    before = peak()
    archive.export(store, file)
    exported = peak()
    archive.restore(file, empty)
    print(exported - before, peak() - before)
"""
    chance = random.Random(1)
    with pkgstore.open(tmp_path / "whole") as whole:
        whole.publish("large", chance.randbytes(160 * MIB))
        for number in range(40):
            whole.publish(f"middling/{number}", chance.randbytes(2 * MIB))
    (tmp_path / "whole" / "by-hand").write_bytes(chance.randbytes(80 * MIB))
    command = [sys.executable, "-c", code, tmp_path / "whole", tmp_path / "empty", tmp_path / f"x.{form}"]
    shown = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    print(shown)
    assert max(map(int, shown.split())) < 64 << 10


def test_many_entries_take_no_memory() -> None:
    """The names in a tar file of others, of which none may come twice."""
    text = io.BytesIO()
    for number in range(50_000):
        text.write(member(f"{number:060}")[0].tobuf(tarfile.USTAR_FORMAT))
    text.write(bytes(1024))
    text.seek(0)
    tracemalloc.start()
    try:
        assert archive.verify(text).blobs == 50_000
        assert tracemalloc.get_traced_memory()[1] < 4 * MIB
    finally:
        tracemalloc.stop()


@pytest.mark.xdist_group("ministack")
def test_a_round_trip_through_s3(servers: Servers, tmp_path: Path) -> None:
    """From a bucket, to a folder, and back to another bucket; the archive itself in a bucket too."""
    blobs = {**bodies(count=8), "large": random.Random(1).randbytes(6 * MIB)}
    with pkgstore.open(servers.store("ministack")) as first, pkgstore.open(servers.store("ministack")) as second:
        fill(first, blobs)
        archive.export(first, tmp_path / "x.tar.zst")
        with pkgstore.open(tmp_path / "local") as local:
            assert archive.restore(tmp_path / "x.tar.zst", local).new == len(blobs)
            assert contents(local) == contents(first)
            ours, theirs = taken_apart(exported(local))[1:-1], taken_apart(exported(first))[1:-1]
            assert [(info.pax_headers, body) for info, body in ours] == [
                (info.pax_headers, body) for info, body in theirs
            ]
            with archive.stream(local, "tar.gz") as body:
                first.publish("backups/x.tgz", body)
        with first.open("backups/x.tgz") as reader:
            assert archive.restore(reader, second).new == len(blobs)
        assert contents(second) == blobs
        assert restored(exported(first), second).new == 1  # the archive, which was not in itself
        before = {blob.key: blob.tag for blob in second.list()}
        assert archive.restore(tmp_path / "x.tar.zst", second).same == len(blobs)
        assert {blob.key: blob.tag for blob in second.list()} == before
        first.delete("backups/x.tgz")
        first.publish("new", b"new")
        data = exported(first, since=tmp_path / "x.tar.zst")
        assert archive.export(first, tmp_path / "y.tar", since=tmp_path / "x.tar.zst").kept == len(blobs)
        assert restored(data, second, apply_changes=True).new == 1
