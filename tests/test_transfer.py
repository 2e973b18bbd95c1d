"""Mirroring: between any two media, cut short and gone on with, beside publishers, by any executor."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import random
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from typing import TYPE_CHECKING, Any, BinaryIO

import pytest

import pkgstore
from pkgstore import Store, transfer
from pkgstore.drivers.local import LocalDriver
from pkgstore.testing.faults import Fault, FaultPlan, FaultyDriver, with_driver
from pkgstore.transfer import Mirrored, Transferred, mirror
from tests.cluster import cluster
from tests.command import complaint, run
from tests.media import MEDIA, Media, gcs, media, servers, smb
from tests.sealed import open_sealed, ring_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.cluster import Cluster

__all__ = ["cluster", "gcs", "media", "servers", "smb"]

pytestmark = pytest.mark.xdist_group("transfer")

MiB = 1 << 20
SEED = int(os.environ.get("PKGSTORE_SEED", random.randrange(1 << 32)))
SIZES = [0, 1, 1000, MiB + 1]
KILLS = 2


def filled(store: Store, sizes: list[int] = SIZES) -> dict[str, bytes]:
    """Publish some blobs; return them."""
    rng = random.Random(1)
    blobs = {f"p{number % 3}/ä {number}.whl": rng.randbytes(size) for number, size in enumerate(sizes)}
    for number, (key, data) in enumerate(blobs.items()):
        store.publish(key, data, digests={"md5": None} if number % 2 else None)
    return blobs


def content(store: Store) -> dict[str, bytes]:
    """Return all that a store holds, verified."""
    return {blob.key: store.read(blob.key) for blob in store.list()}


@pytest.fixture
def stores(tmp_path: Path) -> Iterator[tuple[Store, Store]]:
    """Yield two empty stores on this disk."""
    with pkgstore.open(tmp_path / "src") as src, pkgstore.open(tmp_path / "dst") as dst:
        yield src, dst


@pytest.fixture
def outcomes() -> list[Transferred]:
    """Return where outcomes are collected."""
    return []


# -- what a run does --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dst_medium", MEDIA)
@pytest.mark.parametrize("src_medium", MEDIA)
def test_every_pair_of_media(media: Media, src_medium: str, dst_medium: str) -> None:
    with pkgstore.open(media.url(src_medium)) as src, pkgstore.open(media.url(dst_medium)) as dst:
        blobs = filled(src)
        assert mirror(src, dst, jobs=4) == Mirrored(copied=len(blobs), bytes=sum(SIZES))
        assert content(dst) == blobs
        for key, data in blobs.items():
            digests = dst.stat(key).digests
            assert digests["sha256"] == hashlib.sha256(data).hexdigest()
            assert digests.get("md5") == src.stat(key).digests.get("md5")
        assert mirror(src, dst, jobs=4) == Mirrored(same=len(blobs))
        key, lost = "p1/ä 1.whl", "p2/ä 2.whl"
        dst.publish(key, b"others", replace=True)
        dst.delete(lost)
        dst.publish("extra", b"1")
        assert mirror(src, dst, jobs=4) == Mirrored(
            copied=1, conflict=1, same=len(blobs) - 2, extra=1, bytes=len(blobs[lost])
        )
        assert dst.read(key) == b"others"
        again = mirror(src, dst, jobs=4, replace=True, delete=True)
        assert again == Mirrored(replaced=1, same=len(blobs) - 1, deleted=1, bytes=len(blobs[key]))
        assert content(dst) == blobs


def test_what_is_told_of_each_key(stores: tuple[Store, Store], outcomes: list[Transferred]) -> None:
    src, dst = stores
    for key in ("same", "copied", "conflict"):
        src.publish(key, key.encode())
    dst.publish("same", b"same")
    dst.publish("conflict", b"CONFLICT")
    dst.publish("extra", b"extra!")
    mirror(src, dst, progress=outcomes.append)
    assert {each.key: (each.fate, each.size) for each in outcomes} == {
        "same": ("same", 4),
        "copied": ("copied", 6),
        "conflict": ("conflict", 0),
        "extra": ("extra", 6),
    }
    [says] = [each.says for each in outcomes if each.says]
    assert says == f"'conflict' is in {dst.where} with other bytes, which it keeps"
    outcomes.clear()
    mirror(src, dst, progress=outcomes.append, delete=True)
    assert {each.key: each.fate for each in outcomes}["extra"] == "extra"  # as there is a conflict
    outcomes.clear()
    mirror(src, dst, progress=outcomes.append, replace=True, delete=True)
    assert {each.key: each.fate for each in outcomes} == {
        "same": "same",
        "copied": "same",
        "conflict": "replaced",
        "extra": "deleted",
    }
    assert content(dst) == content(src)


def test_scopes_are_stores(stores: tuple[Store, Store]) -> None:
    src, dst = stores
    src.publish("a/x", b"1")
    src.publish("b/x", b"2")
    mirror(src.scope("a/"), dst.scope("c/"))
    mirror(src.scope("b/"), src.scope("d/"))
    assert (content(dst), src.read("d/x")) == ({"c/x": b"1"}, b"2")


def test_blobs_without_digests_are_compared_by_reading(stores: tuple[Store, Store], tmp_path: Path) -> None:
    src, dst = stores
    for store in ("src", "dst"):
        (tmp_path / store / "same").write_bytes(b"same")
        (tmp_path / store / "other").write_bytes(store.encode())
    (tmp_path / "src" / "only").write_bytes(b"only")
    assert mirror(src, dst) == Mirrored(copied=1, same=1, conflict=1, bytes=4)
    assert dst.stat("only").digests["sha256"] == hashlib.sha256(b"only").hexdigest()


def test_one_store_is_not_mirrored_onto_itself(stores: tuple[Store, Store], tmp_path: Path) -> None:
    src, _ = stores
    src.publish("a/x", b"1")
    with pkgstore.open(tmp_path / "src") as again:
        for one, other in ((src, again), (src.scope("a/"), again), (src, again.scope("a/"))):
            with pytest.raises(pkgstore.Misconfigured, match="are one store"):
                mirror(one, other, delete=True, force=True)
    assert src.read("a/x") == b"1"


def test_a_pair_is_no_destination(stores: tuple[Store, Store], tmp_path: Path) -> None:
    """Else all of the old store would count as copied, and what is extra would be deleted from both."""
    src, _ = stores
    src.publish("a", b"1")
    with pkgstore.open([tmp_path / "dst", tmp_path / "src"]) as pair:
        with pytest.raises(pkgstore.Misconfigured, match="are two stores"):
            mirror(src, pair)
        with pkgstore.open(tmp_path / "other") as other:
            assert mirror(pair, other).copied == 1


def test_a_destination_that_is_only_read(stores: tuple[Store, Store], tmp_path: Path) -> None:
    src, _ = stores
    with (
        pkgstore.open(tmp_path / "dst", readonly=True) as dst,
        pytest.raises(pkgstore.Denied, match="it is open for reading only"),
    ):
        mirror(src, dst)


def test_a_copy_of_an_encrypted_store_is_not_told_to_lose_its_identity(tmp_path: Path) -> None:
    """All that is sealed in it is bound to that."""
    with open_sealed(f"file://{tmp_path}/a") as src:
        src.publish("a", b"1")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    ring = ring_of(f"file://{tmp_path}/a")
    with (
        pkgstore.open(tmp_path / "a", keyring=ring) as src,
        pkgstore.open(tmp_path / "b", keyring=ring) as dst,
        pytest.raises(pkgstore.Misconfigured, match="has to keep that identity: make a new store") as caught,
    ):
        mirror(src, dst)
    assert "remove" not in str(caught.value)


def test_an_empty_source_empties_nothing_unless_forced(stores: tuple[Store, Store]) -> None:
    src, dst = stores
    assert mirror(src, dst, delete=True) == Mirrored()
    dst.publish("a", b"1")
    with pytest.raises(pkgstore.Misconfigured, match="has no blobs, and all of .*dst would be deleted"):
        mirror(src, dst, delete=True)
    assert dst.read("a") == b"1"
    assert mirror(src, dst, delete=True, force=True) == Mirrored(deleted=1)


def test_what_cannot_be_rewound_is_opened_once(stores: tuple[Store, Store]) -> None:
    """As on S3, where each opening is a request, and a stream that is left half-way costs its connection."""
    src, dst = stores
    filled(src)
    opened: list[str] = []

    class OneWay(LocalDriver):
        def open(self, key: str, *args: Any, **options: Any) -> tuple[pkgstore.Blob, Any]:
            opened.append(key)
            blob, stream = super().open(key, *args, **options)
            return blob, Pipe(stream)

    assert mirror(with_driver(src, OneWay(src.driver.root)), dst).copied == len(SIZES)  # type: ignore[attr-defined]
    assert len(opened) == len(SIZES)


class Pipe(io.RawIOBase):
    """A stream that cannot be rewound."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def read(self, size: int | None = -1, /) -> bytes:
        return self._stream.read(-1 if size is None else size)

    def close(self) -> None:
        self._stream.close()
        super().close()


# -- what goes wrong --------------------------------------------------------------------------------------------------


def test_a_corrupt_blob_is_not_copied_and_nothing_is_deleted(
    media: Media, stores: tuple[Store, Store], outcomes: list[Transferred]
) -> None:
    src, dst = stores
    for key in ("bad", "good"):
        src.publish(key, bytes(100_000))
    dst.publish("extra", b"1")
    media.damage("local", src.where, "bad")
    report = mirror(src, dst, delete=True, progress=outcomes.append)
    assert report == Mirrored(copied=1, failed=1, extra=1, bytes=100_000)
    assert not report.is_whole
    [failure] = [each for each in outcomes if each.fate == "failed"]
    assert (failure.key, type(failure.error)) == ("bad", pkgstore.Corrupt)
    assert "the bytes of 'bad' in" in failure.says
    assert sorted(content(dst)) == ["extra", "good"]


def test_a_key_that_the_medium_cannot_hold_is_a_failure_of_its_own(stores: tuple[Store, Store]) -> None:
    src, dst = stores
    src.publish("a/b", b"1")
    src.publish("c", b"1")
    dst.publish("a", b"1")
    assert mirror(src, dst) == Mirrored(copied=1, failed=1, extra=1, bytes=1)


def test_a_full_destination_ends_it(stores: tuple[Store, Store]) -> None:
    src, dst = stores
    filled(src, [1000] * 50)
    dst.set_quota(10_500)
    with pytest.raises(pkgstore.QuotaExceeded):
        mirror(src, dst)
    assert len(content(dst)) == 10
    dst.set_quota()
    assert mirror(src, dst) == Mirrored(copied=40, same=10, bytes=40_000)
    assert dst.usage() == dst.usage(recount=True)


def test_a_medium_that_does_not_answer_ends_it_after_a_while(stores: tuple[Store, Store]) -> None:
    src, dst = stores
    filled(src, [10] * 100)
    silent = with_driver(dst, FaultyDriver(dst.driver, FaultPlan(Fault("put", times=None))), timeout=0)
    seen: list[Transferred] = []
    with pytest.raises(pkgstore.Unavailable):
        mirror(src, silent, progress=seen.append, jobs=1)
    assert [each.fate for each in seen] == ["failed"] * 16


def test_nothing_is_under_way_any_more_when_it_has_been_interrupted(stores: tuple[Store, Store]) -> None:
    src, dst = stores
    filled(src, [1000] * 50)

    def interrupted(_: Transferred) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:  # whose traceback holds the frames
        mirror(src, dst, progress=interrupted)
    assert [each.name for each in threading.enumerate() if each.name.startswith("pkgstore-spread")] == []
    assert caught.tb is not None


def test_a_blob_that_comes_and_goes_at_the_destination_is_a_failure(
    stores: tuple[Store, Store], outcomes: list[Transferred]
) -> None:
    src, dst = stores
    src.publish("a", b"1")
    tries = []

    class ComesAndGoes(Store):
        def publish(self, key: str, *args: Any, **options: Any) -> pkgstore.Blob:
            tries.append(key)
            raise pkgstore.Exists("it was there", key=key)

    mirror(src, ComesAndGoes(dst._calls, identity=dst.id), progress=outcomes.append)
    assert (outcomes[0].fate, type(outcomes[0].error)) == ("failed", pkgstore.Unavailable)
    assert len(tries) < 10


# -- beside others ----------------------------------------------------------------------------------------------------


class During(Store):
    """A store in which something happens just before, or just after, each publish."""

    def __init__(self, store: Store, before: Any = None, after: Any = None) -> None:
        super().__init__(store._calls, identity=store.id)
        self._before, self._after = before, after

    def publish(self, key: str, *args: Any, **options: Any) -> pkgstore.Blob:
        if self._before:
            self._before(key)
        blob = super().publish(key, *args, **options)
        if self._after:
            self._after(key)
        return blob


def test_what_is_replaced_while_it_is_copied_is_copied_as_it_is_now(stores: tuple[Store, Store]) -> None:
    """Also when it is deleted, and published anew: else the old bytes would hide the new ones in a pair."""
    src, dst = stores
    for when in ("before", "after"):
        for number, renew in enumerate((lambda: src.publish("a", b"2", replace=True), lambda: renewed(src, "a", b"2"))):
            src.publish("a", b"1", replace=True)
            dst.delete("a")
            acts = [renew]
            assert mirror(src, During(dst, **{when: lambda _, acts=acts: acts and acts.pop()()})).copied == 1, number
            assert content(dst) == {"a": b"2"}


def renewed(store: Store, key: str, data: bytes) -> None:
    store.delete(key)
    store.publish(key, data)


def test_what_changes_while_it_is_found_in_conflict_is_looked_at_again(stores: tuple[Store, Store]) -> None:
    src, dst = stores
    src.publish("a", b"1")
    acts = [lambda key: dst.publish(key, b"2") and renewed(src, key, b"2")]
    assert mirror(src, During(dst, before=lambda key: acts and acts.pop()(key))) == Mirrored(same=1)


def test_what_has_moved_to_the_new_store_meanwhile_is_no_conflict(stores: tuple[Store, Store]) -> None:
    src, dst = stores

    def moved(key: str) -> None:
        src.delete(key)
        dst.publish(key, b"2")

    src.publish("a", b"1")
    assert mirror(src, During(dst, before=moved)) == Mirrored(gone=1)
    src.publish("a", b"1")
    assert mirror(Deleted(src._calls, identity=src.id), dst) == Mirrored(gone=1)
    assert content(dst) == {"a": b"2"}


class Deleted(Store):
    """A store from which all that has been listed is deleted."""

    def list(self, prefix: str = "") -> Iterator[pkgstore.Blob]:
        for blob in super().list(prefix):
            self.delete(blob.key)
            yield blob


def test_a_copy_of_what_is_deleted_before_its_last_byte_is_never_visible(stores: tuple[Store, Store]) -> None:
    src, dst = stores
    src.publish("a", bytes(3 * MiB))
    puts = []

    class Watched(FaultyDriver):
        def put(self, *args: Any, **options: Any) -> pkgstore.Blob:
            src.delete("a")
            puts.append(1)
            blob = super().put(*args, **options)
            pytest.fail("it is visible")
            return blob

    assert mirror(src, with_driver(dst, Watched(dst.driver, FaultPlan()))) == Mirrored(gone=1)
    assert puts == [1]


def test_what_is_deleted_while_it_is_copied_does_not_come_back(stores: tuple[Store, Store], tmp_path: Path) -> None:
    old, new = stores
    with pkgstore.open([tmp_path / "dst", tmp_path / "src"]) as pair:
        for when in ("before", "after"):
            old.publish("a", b"1")
            assert mirror(old, During(new, **{when: pair.delete})) == Mirrored(gone=1)
            assert content(pair) == content(old) == content(new) == {}


@pytest.mark.parametrize("is_tagged", [False, True])
def test_a_copy_that_is_made_in_the_middle_of_a_delete_does_not_stay(
    stores: tuple[Store, Store], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_tagged: bool
) -> None:
    old, new = stores
    with pkgstore.open([tmp_path / "dst", tmp_path / "src"]) as pair:
        blob = old.publish("a", b"1")
        delete = Store.delete

        def between(self: Store, key: str, **options: Any) -> bool:
            mirror(old, new)
            found = delete(self, key, **options)
            mirror(old, new)
            return found

        monkeypatch.setattr(Store, "delete", between)
        assert pair.delete("a", tag=blob.tag if is_tagged else None)
        assert content(pair) == content(old) == content(new) == {}


def test_of_a_publisher_and_the_mirror_one_wins(stores: tuple[Store, Store]) -> None:
    src, dst = stores
    src.publish("same", b"1")
    src.publish("other", b"1")
    theirs = {"same": b"1", "other": b"2"}
    racing = During(dst, before=lambda key: dst.publish(key, theirs[key]))
    assert mirror(src, racing) == Mirrored(same=1, conflict=1)
    assert content(dst) == theirs


def test_a_blob_that_is_deleted_from_the_destination_meanwhile_is_copied(stores: tuple[Store, Store]) -> None:
    src, dst = stores
    src.publish("a", b"1")
    dst.publish("a", b"1")

    class Lists(Store):
        def list(self, prefix: str = "") -> Iterator[pkgstore.Blob]:
            for blob in super().list(prefix):
                dst.delete(blob.key)
                yield pkgstore.Blob(blob.key, blob.size, blob.mtime, blob.tag)

    assert mirror(src, Lists(dst._calls, identity=dst.id)) == Mirrored(copied=1, bytes=1)


def test_what_appears_at_the_source_is_not_deleted(stores: tuple[Store, Store]) -> None:
    src, dst = stores
    src.publish("a", b"1")
    dst.publish("new", b"1")
    other = During(src)
    listings = iter([["a"], ["a"]])

    def listed(prefix: str = "") -> Iterator[pkgstore.Blob]:
        return iter([src.stat(key) for key in next(listings)])

    other.list = listed  # type: ignore[method-assign]
    src.publish("new", b"1")
    assert mirror(other, dst, delete=True) == Mirrored(copied=1, extra=1, bytes=1)
    assert sorted(content(dst)) == ["a", "new"]


def test_beside_many_publishers(stores: tuple[Store, Store]) -> None:
    src, dst = stores
    print(f"PKGSTORE_SEED={SEED}")
    rng = random.Random(SEED)
    names = [str(number) for number in range(60)]
    for name in names[:40]:
        src.publish(name, name.encode())
    won: dict[str, bytes] = {}

    def publish(number: int) -> None:
        for name in rng.sample(names, len(names)):
            data = name.encode() if number % 2 else b"other %d" % number
            try:
                dst.publish(name, data)
            except pkgstore.Exists:
                continue
            won[name] = data

    def change() -> None:
        for name in names[40:]:
            src.publish(name, name.encode())

    with ThreadPoolExecutor(5) as pool:
        work = [pool.submit(publish, number) for number in range(4)] + [pool.submit(change)]
        for _ in range(3):
            assert mirror(src, dst, jobs=4).failed == 0
        for each in work:
            each.result()
    report = mirror(src, dst)
    others = {name for name, data in won.items() if data != name.encode()}
    assert report == Mirrored(same=60 - len(others), conflict=len(others))
    assert content(dst) == {name: won.get(name, name.encode()) for name in names}


def test_a_pair_that_is_used_while_its_old_store_is_mirrored(stores: tuple[Store, Store], tmp_path: Path) -> None:
    """Each key is changed by one thread, which reads what it has done; what is deleted may be seen for a moment."""
    old, new = stores
    print(f"PKGSTORE_SEED={SEED}")
    is_over = threading.Event()

    def follow() -> None:
        while not is_over.is_set():
            assert mirror(old, new, jobs=2).is_whole

    with pkgstore.open([tmp_path / "dst", tmp_path / "src"]) as pair, ThreadPoolExecutor(4) as pool:
        following = pool.submit(follow)
        try:
            for each in [pool.submit(use, pair, old, name) for name in "abc"]:
                each.result()
        finally:
            is_over.set()
        following.result()


def use(pair: Store, old: Store, name: str) -> None:
    rng, state = random.Random(f"{SEED}/{name}"), dict[str, bytes]()
    for number in range(200):
        key = f"{name}/{rng.randrange(3)}"
        if key not in state:
            data = b"%d" % number + bytes(rng.choice([0, 100_000]))
            with contextlib.suppress(pkgstore.Exists):  # what was deleted is seen for a moment
                rng.choice([old, pair]).publish(key, data)
                state[key] = data
        elif pair.delete(key, tag=rng.choice([None, pair.stat(key).tag])):
            del state[key]
        deadline = time.monotonic() + 20
        while read(pair, key) != state.get(key):
            assert time.monotonic() < deadline, (key, number)


def read(store: Store, key: str) -> bytes | None:
    try:
        return store.read(key)
    except pkgstore.NotFound:
        return None


# -- cut short --------------------------------------------------------------------------------------------------------

MIRROR = """
import sys
import pkgstore, pkgstore.transfer
def told(outcome):
    print(outcome.key, outcome.fate, sep="\\t", flush=True)
src, dst = map(pkgstore.open, sys.argv[1:])
report = pkgstore.transfer.mirror(src, dst, jobs=4, progress=told)
print("done", report, sep="\\t", flush=True)
"""


@pytest.mark.parametrize(("src_medium", "dst_medium"), [("local", "s3"), ("s3", "local"), ("gcs", "smb")])
def test_killed_and_run_again(media: Media, src_medium: str, dst_medium: str) -> None:
    """At random points: what is there is whole, in the end all is, and nothing that was told is copied again."""
    print(f"PKGSTORE_SEED={SEED}")
    rng = random.Random(SEED)
    src_url, dst_url = media.url(src_medium), media.url(dst_medium)
    with pkgstore.open(src_url) as src:
        blobs = filled(src, [rng.choice([0, 10, 10_000, 300_000]) for _ in range(24)])
    copied, kills = 0, 0
    while True:
        with subprocess.Popen(
            [sys.executable, "-c", MIRROR, src_url, dst_url], stdout=subprocess.PIPE, text=True
        ) as child:
            assert child.stdout is not None
            left, lines = rng.randrange(1, 8) if kills < KILLS else -1, []
            for line in child.stdout:
                lines.append(line.split("\t"))
                if lines[-1][0] == "done":
                    break
                left -= lines[-1][1].startswith("copied")
                if not left:
                    child.kill()
                    break
            else:
                pytest.fail(f"it ended by itself: {child.wait()}")
        copied += sum(fate.startswith("copied") for _, fate in lines)
        if lines[-1][0] == "done":
            break
        kills += 1
        with pkgstore.open(dst_url) as dst:
            found = content(dst)  # what is there is whole
            assert found.items() <= blobs.items()
    assert kills == KILLS
    assert copied <= len(blobs)
    with pkgstore.open(dst_url) as dst, pkgstore.open(src_url) as src:
        assert content(dst) == blobs
        assert mirror(src, dst) == Mirrored(same=len(blobs))


# -- executors --------------------------------------------------------------------------------------------------------


def test_by_processes(stores: tuple[Store, Store]) -> None:
    src, dst = stores
    blobs = filled(src)
    dst.publish("extra", b"1")
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        report = mirror(src, dst, executor=pool, delete=True)
    assert report == Mirrored(copied=len(blobs), deleted=1, bytes=sum(SIZES))
    assert content(dst) == blobs


def test_by_a_dask_cluster(cluster: Cluster, media: Media) -> None:
    with pkgstore.open(media.url("local")) as src, pkgstore.open(media.url("local")) as dst:
        blobs = filled(src, [*SIZES, 5 * MiB + 7])
        dst.publish("p1/ä 1.whl", b"others")
        seen: list[Transferred] = []
        report = mirror(src, dst.scope("copy/"), executor=cluster.executor(), progress=seen.append)
        assert report == Mirrored(copied=len(blobs), bytes=sum(map(len, blobs.values())))
        assert content(dst.scope("copy/")) == blobs
        assert sorted(each.key for each in seen) == sorted(blobs)


# -- the command ------------------------------------------------------------------------------------------------------


def test_the_command(stores: tuple[Store, Store], tmp_path: Path) -> None:
    src, dst = stores
    for key in ("a/x", "a/y", "b"):
        src.publish(key, key.encode())
    result = run("mirror", tmp_path / "src", tmp_path / "new")
    assert "there is no folder" in complaint(result, 3)
    result = run("mirror", tmp_path / "src", tmp_path / "new", "--create")
    assert (result.returncode, result.stdout) == (0, "3 copied, 0 same; 7 bytes copied.\n")
    result = run("mirror", tmp_path / "src", tmp_path / "dst", "--scope", "a/", "--json")
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert sorted(line["key"] for line in lines[:-1]) == ["x", "y"]
    assert {line["fate"] for line in lines[:-1]} == {"copied"}
    assert (lines[-1]["copied"], lines[-1]["bytes"]) == (2, 6)
    dst.publish("b", b"other")
    dst.publish("c", b"1")
    result = run("mirror", tmp_path / "src", tmp_path / "dst", "--delete")
    assert "1 blob is at file://" in complaint(result, 4)
    assert result.stdout == (
        f"conflict  b: 'b' is in {dst.where} with other bytes, which it keeps\n"
        "0 copied, 2 same, 1 conflict, 1 extra; 0 bytes copied.\n"
    )
    result = run("mirror", tmp_path / "src", tmp_path / "dst", "--delete", "--replace")
    assert result.stdout == ("replaced  b\ndeleted   c\n0 copied, 1 replaced, 2 same, 1 deleted; 1 byte copied.\n")
    assert content(dst) == content(src)
    for each in src.list():
        src.delete(each.key)
    result = run("mirror", tmp_path / "src", tmp_path / "dst", "--delete")
    assert "has no blobs" in complaint(result, 2)
    assert run("mirror", tmp_path / "src", tmp_path / "dst", "--delete", "--force").returncode == 0
    assert content(dst) == {}


def test_the_command_tells_the_first_failure(stores: tuple[Store, Store], media: Media, tmp_path: Path) -> None:
    src, _ = stores
    src.publish("bad", b"12")
    media.damage("local", src.where, "bad")
    result = run("mirror", tmp_path / "src", tmp_path / "dst")
    assert "1 blob is not copied, the first because: the bytes of 'bad'" in complaint(result, 8)
    assert result.stdout.startswith("failed    bad: the bytes of 'bad'")


def test_watching_catches_up_until_it_is_stopped(stores: tuple[Store, Store], tmp_path: Path) -> None:
    src, dst = stores
    command = [sys.executable, "-m", "pkgstore", "mirror", str(tmp_path / "src"), str(tmp_path / "dst")]
    with subprocess.Popen(
        [*command, "--watch", "0", "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        for key in ("a", "b"):
            src.publish(key, b"1")
            for line in child.stdout:
                if json.loads(line).get("key") == key:
                    break
        child.send_signal(2)
        child.communicate()
        assert child.returncode == 130
    assert content(dst) == content(src)


# -- mutants ----------------------------------------------------------------------------------------------------------


def test_a_mirror_that_does_not_look_again_is_caught(
    stores: tuple[Store, Store], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "_is_there", lambda src, blob: True)
    with pytest.raises(AssertionError):
        test_what_is_deleted_while_it_is_copied_does_not_come_back(stores, tmp_path)


def test_a_mirror_that_looks_for_any_version_is_caught(
    stores: tuple[Store, Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "_is_there", lambda src, blob: bool(src.stat(blob.key)))
    with pytest.raises(AssertionError):
        test_what_is_replaced_while_it_is_copied_is_copied_as_it_is_now(stores)


def test_a_mirror_that_replaces_unasked_is_caught(stores: tuple[Store, Store], monkeypatch: pytest.MonkeyPatch) -> None:
    copied = transfer._copied
    monkeypatch.setattr(transfer, "_copied", lambda *args, replace: copied(*args, replace=True))
    with pytest.raises(AssertionError):
        test_of_a_publisher_and_the_mirror_one_wins(stores)
