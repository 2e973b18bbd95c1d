"""Archives from every medium to every other: byte-identical, also when exports and restores are killed and resumed."""

from __future__ import annotations

import io
import os
import random
import signal
import subprocess
import tarfile
import time
from typing import TYPE_CHECKING

import pytest

import pkgstore
from pkgstore import Store, archive
from tests.archives import exported, fill, restored, taken_apart
from tests.command import PKGSTORE, run
from tests.media import MEDIA, Media, gcs, media, servers, smb

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["gcs", "media", "servers", "smb"]

pytestmark = pytest.mark.xdist_group("transfer")

SEED = int(os.environ.get("PKGSTORE_SEED") or random.SystemRandom().randrange(1 << 32))
SMALLEST, MEDIAN, LARGEST = 1 << 10, 10 << 10, 3 << 20
KILLS = 3


def wheels(chance: random.Random, count: int) -> dict[str, bytes]:
    """Return blobs with sizes as wheels have them: many small ones, and a few that hold most of the bytes.

    They are log-normal, with a median of 10 KiB, a tenth of that of real ones, so that servers in Python keep up.
    """
    sizes = [min(LARGEST, max(SMALLEST, int(MEDIAN * chance.lognormvariate(0, 1.6)))) for _ in range(count - 2)]
    return {
        f"project-{chance.randrange(count // 5)}/wheel_{number}-1.0-py3-none-any.whl": chance.randbytes(size)
        for number, size in enumerate([*sizes, SMALLEST, LARGEST])
    }


def members(data: bytes) -> list[tuple[dict[str, str], bytes]]:
    """Return what an archive holds of each blob: its line of the manifest, and its bytes."""
    return [(info.pax_headers, body) for info, body in taken_apart(data)[1:-1]]


def check(store: Store, data: bytes, blobs: dict[str, bytes]) -> None:
    """Fail unless a store holds these blobs and no others, and makes the archive that they came in."""
    there = exported(store)
    assert {info.name: body for info, body in taken_apart(there)[1:-1]} == blobs, f"PKGSTORE_SEED={SEED}"
    assert members(there) == members(data), f"PKGSTORE_SEED={SEED}"


@pytest.mark.parametrize("src_medium", MEDIA)
def test_every_pair_of_media(media: Media, src_medium: str) -> None:
    print(f"PKGSTORE_SEED={SEED}")
    blobs = wheels(random.Random(f"{SEED} {src_medium}"), 40)
    with pkgstore.open(media.url(src_medium)) as src:
        fill(src, blobs)
        packed = exported(src, format="tar.zst")
        data = exported(src)
        check(src, data, blobs)
        for dst_medium in MEDIA:
            with pkgstore.open(media.url(dst_medium)) as dst:
                assert restored(packed, dst).new == len(blobs), dst_medium
                check(dst, data, blobs)


@pytest.mark.timeout(180)
def test_a_thousand_wheels_to_a_bucket_killed_and_resumed(media: Media, tmp_path: Path) -> None:
    print(f"PKGSTORE_SEED={SEED}")
    chance = random.Random(SEED)
    thousand = wheels(chance, 1000)
    file = tmp_path / "x.tar.zst"
    with pkgstore.open(media.url("local")) as src:
        fill(src, thousand)
        archive.export(src, file)
        data = exported(src)
    url = media.url("s3")
    with pkgstore.open(url) as dst:
        there = killed = 0
        for _ in range(KILLS):
            until = there + chance.randrange(1, 250)
            killed += killed_when(["restore", file, url], lambda until=until: count(dst) >= until)  # type: ignore[misc]
            shown = {blob.key: blob for blob in dst.list()}
            assert len(shown) >= there
            assert all(dst.read(key) == thousand[key] for key in chance.sample(sorted(shown), min(20, len(shown))))
            there = len(shown)
        assert killed
        found = archive.restore(file, dst)
        assert (found.same, found.new, found.conflict) == (there, len(thousand) - there, 0)
        check(dst, data, thousand)


@pytest.mark.timeout(180)
def test_an_export_of_a_bucket_killed_and_run_again(media: Media, tmp_path: Path) -> None:
    print(f"PKGSTORE_SEED={SEED}")
    chance = random.Random(SEED + 1)
    blobs = wheels(chance, 80)
    url = media.url("s3")
    with pkgstore.open(url) as src:
        fill(src, blobs)
        data = exported(src)
        out = tmp_path / "out"
        out.mkdir()
        killed = 0
        for _ in range(KILLS):
            until = chance.randrange(1, sum(map(len, blobs.values())))
            killed += killed_when(["export", url, out / "x.tar"], lambda until=until: staged(out) >= until)  # type: ignore[misc]
            if (out / "x.tar").exists():  # it was faster
                assert (out / "x.tar").read_bytes() == data
                (out / "x.tar").unlink()
            for left in out.iterdir():
                assert left.name.endswith(".part")
                left.unlink()
        assert killed
        assert run("export", url, out / "x.tar", env=os.environ).returncode == 0
        assert (out / "x.tar").read_bytes() == data
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            assert len(tar.getmembers()) == len(blobs) + 2
    with pkgstore.open(media.url("gcs")) as dst:
        assert archive.restore(out / "x.tar", dst).new == len(blobs)
        check(dst, data, blobs)


def killed_when(command: list[str | Path], is_so: Callable[[], bool]) -> bool:
    """Run ``pkgstore``, and kill it when something is so; False when it had ended by then."""
    with subprocess.Popen([*PKGSTORE, *command], stdout=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 60
        while process.poll() is None and not is_so():
            assert time.monotonic() < deadline
        process.kill()
    assert process.returncode in (0, -signal.SIGKILL)
    return process.returncode == -signal.SIGKILL


def count(store: Store) -> int:
    return sum(1 for _ in store.list())


def staged(folder: Path) -> int:
    """Return how many bytes an export has written that has no name yet."""
    return sum(path.stat().st_size for path in folder.glob("*.part"))
