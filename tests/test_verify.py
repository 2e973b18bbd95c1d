"""Reading a store again: what is damaged on its medium is found, quarantined and repaired."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import pkgstore
from pkgstore import Store
from pkgstore.control import Control
from pkgstore.crypt import keyring
from pkgstore.driver import of_medium
from pkgstore.drivers.local import LocalDriver
from pkgstore.testing.faults import Fault, FaultPlan, FaultyDriver, with_driver
from pkgstore.transfer import mirror
from pkgstore.verify import Checked, Verified, checking, verify
from pkgstore.verify.journal import Journal
from tests.cluster import cluster
from tests.command import complaint, run
from tests.media import MEDIA, Media, gcs, media, servers, smb
from tests.sealed import open_sealed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.cluster import Cluster

__all__ = ["cluster", "gcs", "media", "servers", "smb"]

pytestmark = pytest.mark.xdist_group("transfer")

MiB = 1 << 20
SEED = int(os.environ.get("PKGSTORE_SEED", random.randrange(1 << 32)))


@pytest.fixture
def stores(tmp_path: Path) -> Iterator[tuple[Store, Store]]:
    """Yield a store of ten blobs on this disk, and a copy of it."""
    with pkgstore.open(tmp_path / "store") as store, pkgstore.open(tmp_path / "copy") as copy:
        for number in range(10):
            for each in (store, copy):
                each.publish(str(number), b"%d" % number * 1000)
        yield store, copy


@pytest.fixture
def seen() -> list[Checked]:
    """Return where what is found is collected."""
    return []


def damage(store: Store, *keys: str, data: bytes = b"damaged") -> None:
    for key in keys:
        store.local_path(key).write_bytes(data)


def quarantined(store: Store) -> list[tuple[bytes, dict[str, object]]]:
    """Return what is kept aside in a folder, with the notes on it."""
    found = sorted(Path(of_medium(store.driver).root, ".pkgstore/quarantine").glob("*.blob"))  # type: ignore[attr-defined]
    return [(path.read_bytes(), json.loads(path.with_suffix(".json").read_text())) for path in found]


# -- what is found, and done ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("medium", MEDIA)
def test_on_every_medium(media: Media, medium: str) -> None:
    url, other_url = media.url(medium), media.url("local")
    with pkgstore.open(url) as store, pkgstore.open(other_url) as other:
        sizes = [0, 1, 1000, MiB + 1]
        for number, size in enumerate(sizes):
            for each in (store, other):
                each.publish(f"p/{number}", bytes(size))
        assert verify(store) == Verified(good=4, bytes=sum(sizes))
        media.damage(medium, url, "p/3")
        media.damage(medium, url, "p/2")
    with pkgstore.open(url) as store, pkgstore.open(other_url) as other:
        report = verify(store)
        assert (report.good, report.corrupt, report.wrong) == (2, 2, 2)
        other.delete("p/2")
        seen: list[Checked] = []
        report = verify(store, repair_from=other, quarantine=True, progress=seen.append)
        assert (report.good, report.corrupt, report.repaired, report.quarantined, report.wrong) == (2, 2, 1, 1, 1)
        assert [(each.key, each.found, each.did) for each in seen] == [
            ("p/0", "good", ""),
            ("p/1", "good", ""),
            ("p/2", "corrupt", "quarantined"),
            ("p/3", "corrupt", "repaired"),
        ]
        for mended in seen[2:]:
            blob, stream = store.driver.open(mended.kept_as)
            with stream:
                assert stream.read(blob.size)[:2] == b"\x01\x00"
        assert [blob.key for blob in store.list()] == ["p/0", "p/1", "p/3"]
        assert store.read("p/3") == bytes(MiB + 1)
        store.publish("p/2", bytes(1000))
        assert verify(store) == Verified(good=4, bytes=sum(sizes))


def test_what_is_said(stores: tuple[Store, Store], seen: list[Checked]) -> None:
    store, copy = stores
    damage(store, "1", "2", "3")
    copy.delete("2")
    copy.publish("3", b"others", replace=True)
    report = verify(store, repair_from=copy, progress=seen.append)
    assert asdict(report) == {**asdict(Verified()), "good": 7, "corrupt": 3, "repaired": 1, "bytes": 7021}
    one, two, three = [each for each in seen if each.found != "good"]
    what = f"the bytes of '1' in {store.where} do not have the sha256 recorded with them"
    assert (one.says, one.remedy, one.did, one.kept_as) == (what, "", "repaired", "")
    assert two.says == what.replace("'1'", "'2'") + f"; {copy.where} does not have it"
    assert (
        three.says == what.replace("'1'", "'3'") + f"; it is not repaired: {copy.where} has other bytes under this key"
    )
    assert (
        two.remedy == three.remedy == "restore it with --repair-from another store, or delete it and publish it again"
    )
    assert (store.local_path("2").read_bytes(), store.local_path("3").read_bytes()) == (b"damaged", b"damaged")


def test_blobs_without_digests_are_counted_as_such(stores: tuple[Store, Store]) -> None:
    store, _ = stores
    store.local_path("1").with_name("by-hand").write_bytes(b"123")
    assert verify(store) == Verified(good=10, unrecorded=1, bytes=10_003)


def test_every_recorded_digest_is_compared(stores: tuple[Store, Store], monkeypatch: pytest.MonkeyPatch) -> None:
    store, _ = stores
    store.publish("md5", b"1", digests={"md5": None, "blake2b": None})
    assert verify(store).good == 11
    stat = LocalDriver.open

    def with_other(self: LocalDriver, key: str, *args: object, **options: object) -> object:
        blob, stream = stat(self, key, *args, **options)  # type: ignore[arg-type]
        if key == "md5":
            blob = pkgstore.Blob(blob.key, blob.size, blob.mtime, blob.tag, {**blob.digests, "md5": "0" * 32})
        return blob, stream

    monkeypatch.setattr(LocalDriver, "open", with_other)
    assert verify(store).corrupt == 1


def test_what_cannot_be_read_does_not_end_it(stores: tuple[Store, Store], seen: list[Checked]) -> None:
    store, copy = stores
    faulty = with_driver(store, FaultyDriver(store.driver, FaultPlan(Fault("open", nth=4))), timeout=0)
    report = verify(faulty, jobs=1, repair_from=copy, quarantine=True, progress=seen.append)
    assert (report.good, report.unreadable, report.wrong) == (9, 1, 1)
    assert (seen[3].key, seen[3].found, seen[3].remedy) == (
        "3",
        "unreadable",
        "mend the medium, and verify the blob again",
    )
    assert store.read("3") == b"3" * 1000


def test_a_wrong_read_that_does_not_happen_again_is_no_damage(stores: tuple[Store, Store]) -> None:
    store, _ = stores
    reads = iter([b"other"])

    class Flaky(LocalDriver):
        def open(self, key: str, *args: object, **options: object) -> object:  # type: ignore[override]
            blob, stream = store.driver.open(key, *args, **options)  # type: ignore[arg-type]
            if key == "3" and next(reads, None):
                stream.seek(1)
            return blob, stream

    flaky = with_driver(store, Flaky(store.driver.root))  # type: ignore[attr-defined]
    assert verify(flaky, quarantine=True).good == 10


def test_a_corrupt_blob_that_is_replaced_between_two_reads_is_read_anew(stores: tuple[Store, Store]) -> None:
    store, _ = stores
    damage(store, "3")
    reads = []

    class Replaced(LocalDriver):
        def open(self, key: str, *args: object, **options: object) -> object:  # type: ignore[override]
            if key == "3":
                reads.append(key)
                if len(reads) == 2:
                    store.publish("3", b"newer", replace=True)
            return store.driver.open(key, *args, **options)  # type: ignore[arg-type]

    assert verify(with_driver(store, Replaced(store.driver.root))).good == 10  # type: ignore[attr-defined]
    assert len(reads) == 3


def test_the_medium_is_read_and_not_the_cache(stores: tuple[Store, Store], tmp_path: Path) -> None:
    store, _ = stores
    root = str(store.driver.root)  # type: ignore[attr-defined]
    with pkgstore.open(root, cache=tmp_path / "cache") as cached:
        for number in range(10):
            cached.read(str(number))
        damage(store, "1")
        assert verify(cached).corrupt == 1


def test_a_truncated_and_an_emptied_blob(stores: tuple[Store, Store]) -> None:
    store, copy = stores
    damage(store, "1", data=b"1" * 999)
    damage(store, "2", data=b"")
    assert verify(store, repair_from=copy, quarantine=True).repaired == 2
    assert [data for data, _ in quarantined(store)].count(b"") == 1
    assert verify(store) == Verified(good=10, bytes=10_000)


def test_what_is_kept_of_a_corrupt_blob(stores: tuple[Store, Store]) -> None:
    store, _ = stores
    scope = store.scope("team/")
    blob = scope.publish("a", b"12345", digests={"md5": None})
    damage(store, "team/a")
    assert verify(scope, quarantine=True).quarantined == 1
    [(data, note)] = quarantined(store)
    assert data == b"damaged"
    assert (note["key"], note["size"], note["digests"]) == ("team/a", 7, dict(blob.digests))
    with pytest.raises(pkgstore.NotFound):
        scope.stat("a")
    assert list(scope.list()) == []


@pytest.mark.parametrize("quarantine", [False, True])
def test_damage_of_every_part_of_an_encrypted_blob(tmp_path: Path, seen: list[Checked], *, quarantine: bool) -> None:
    """It is found, repaired where its digests still open, and else kept as it lay before it is taken away."""
    url, size = f"file://{tmp_path}/sealed", 300_000
    with open_sealed(url) as store, pkgstore.open(tmp_path / "copy") as copy:
        places = {"0-key": 12, "1-header": 3, "2-segment": 150_000, "3-record": -40, "4-cut": None, "5-good": 0}
        lay = {}
        for name, place in places.items():
            for each in (store, copy):
                each.publish(name, name.encode() + bytes(size), size=size + len(name))
            path = tmp_path / "sealed" / name
            data = bytearray(path.read_bytes())
            if place is None:
                del data[200_000:]
            elif place:
                data[place] ^= 1
            path.write_bytes(data)
            lay[name] = bytes(data)
        report = verify(store, repair_from=copy, quarantine=quarantine, progress=seen.append)
        assert (report.good, report.corrupt, report.unreadable) == (1, 5, 0)
        lost = {each.key: each for each in seen if each.found == "corrupt" and each.did != "repaired"}
        assert set(lost) == {each.key for each in seen if "does not open" in each.says}
        assert set(lost) == {"0-key", "1-header", "3-record", "4-cut"}
        for each in lost.values():
            assert "its digests are lost with it" in each.says
        if not quarantine:
            assert {each.did for each in lost.values()} == {""}
            return
        for each in seen[:-1]:
            with store.control("quarantine").open(each.kept_as.rpartition("/")[2]) as reader:
                assert reader.read() == lay[each.key]
        assert mirror(copy, store).copied == len(lost)
        assert verify(store).good == len(places)


@pytest.mark.parametrize("medium", MEDIA)
def test_ciphertext_goes_to_quarantine_on_every_medium(media: Media, medium: str, tmp_path: Path) -> None:
    url, size = media.new(medium), MiB + 1
    keyring.make(str(tmp_path / "ring"))
    with pkgstore.open(url, keyring=tmp_path / "ring") as store:
        lay = {}
        for key in ("p/1", "p/2"):
            store.publish(key, bytes(size))
            with pkgstore.open(url, ciphertext=True) if medium != "memory" else store._as_it_lies() as ciphertext:
                lay[key] = ciphertext.read(key)
        media.damage(medium, url, "p/1")
    with pkgstore.open(url, keyring=tmp_path / "ring") as store:
        seen: list[Checked] = []
        report = verify(store, quarantine=True, progress=seen.append)
        assert (report.good, report.quarantined) == (1, 1)
        with store.control("quarantine").open(seen[0].kept_as.rpartition("/")[2]) as reader:
            data = reader.read()
        assert (data[1:], data[0]) == (lay["p/1"][1:], lay["p/1"][0] ^ 1)
        assert [blob.key for blob in store.list()] == ["p/2"]


def test_a_blob_whose_key_is_not_at_hand_is_not_corrupt(tmp_path: Path, seen: list[Checked]) -> None:
    url = f"file://{tmp_path}/sealed"
    with open_sealed(url) as store:
        store.publish("1", b"1")
    with pkgstore.open(url) as store:
        assert verify(store, quarantine=True, progress=seen.append).unreadable == 1
        assert (seen[0].did, seen[0].remedy) == ("", "see to what is denied, and verify the blob again")


def test_nothing_is_changed_in_a_store_that_is_only_read(stores: tuple[Store, Store], tmp_path: Path) -> None:
    store, copy = stores
    damage(store, "1")
    with pkgstore.open(tmp_path / "store", readonly=True) as readonly:
        for how in ({"quarantine": True}, {"repair_from": copy}):
            with pytest.raises(pkgstore.Denied, match="it is open for reading only"):
                verify(readonly, **how)
        assert verify(readonly).corrupt == 1
    assert not (tmp_path / "store" / ".pkgstore" / "quarantine").exists()


def test_a_pair_is_verified_one_by_one(stores: tuple[Store, Store], tmp_path: Path) -> None:
    """Else a blob that is damaged in the new store would be deleted from both."""
    with (
        pkgstore.open([tmp_path / "store", tmp_path / "copy"]) as pair,
        pytest.raises(pkgstore.Misconfigured, match="are two stores"),
    ):
        verify(pair, quarantine=True)


def test_a_copy_of_the_whole_folder_repairs(stores: tuple[Store, Store], tmp_path: Path) -> None:
    store, _ = stores
    shutil.copytree(tmp_path / "store", tmp_path / "backup")
    damage(store, "1")
    with pkgstore.open(tmp_path / "backup") as backup:
        assert verify(store, repair_from=backup).repaired == 1
    assert store.read("1") == b"1" * 1000


def test_other_corrupt_bytes_of_a_version_are_kept_as_well(stores: tuple[Store, Store]) -> None:
    """Rot changes no version: the same one may be found corrupt twice, in different ways."""
    store, _ = stores
    faulty = with_driver(store, Undeleting(store.driver.root))  # type: ignore[attr-defined]
    path, before = store.local_path("1"), store.local_path("1").stat()
    for data in (b"A" * 1000, b"B" * 1000, b"A" * 1000):
        path.write_bytes(data)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert verify(faulty, quarantine=True).corrupt == 1
    assert sorted(data[:1] for data, _ in quarantined(store)) == [b"A", b"B"]


class Undeleting(LocalDriver):
    """A driver that may not delete."""

    def delete(self, key: str, *, tag: str | None = None) -> None:
        raise PermissionError(errno.EACCES, "no", key)


def test_the_quota_is_right_afterwards(stores: tuple[Store, Store]) -> None:
    store, copy = stores
    store.set_quota(MiB)
    damage(store, "1", "2")
    store.usage(recount=True)
    copy.delete("2")
    verify(store, repair_from=copy, quarantine=True)
    assert store.usage().bytes == store.usage(recount=True).bytes == 9000


def test_what_makes_no_sense(stores: tuple[Store, Store], tmp_path: Path) -> None:
    store, _ = stores
    for sample in (0, 0.0, 1.5, -1, True, "5%"):
        with pytest.raises(pkgstore.Misconfigured, match="is neither a share, such as 0.05, nor a number"):
            verify(store, sample=sample)  # type: ignore[arg-type]
    with pytest.raises(pkgstore.Misconfigured, match="cannot be repaired from itself"):
        verify(store, repair_from=store)
    with pytest.raises(pkgstore.Misconfigured, match="jobs=0"):
        verify(store, jobs=0)


# -- beside others ----------------------------------------------------------------------------------------------------


def interrupt(monkeypatch: pytest.MonkeyPatch, name: str, act: Callable[[], object]) -> None:
    """Have ``act`` done just before a function of `checking` is called for the first time."""
    original, acts = getattr(checking, name), [act]

    def interrupted(*args: object, **options: object) -> object:
        if acts:
            acts.pop()()
        return original(*args, **options)

    monkeypatch.setattr(checking, name, interrupted)


@pytest.mark.parametrize("name", ["_set_aside", "_repair"])
def test_a_replacement_at_the_same_moment_stays(
    stores: tuple[Store, Store], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    store, copy = stores
    damage(store, "1")
    interrupt(monkeypatch, name, lambda: store.publish("1", b"newer", replace=True))
    repair_from = copy if name == "_repair" else None
    report = verify(store, quarantine=name == "_set_aside", repair_from=repair_from)
    assert (report.good, report.corrupt) == (10, 0)
    assert store.read("1") == b"newer"


def test_a_replacement_after_it_was_kept_aside_stays(
    stores: tuple[Store, Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, _ = stores
    damage(store, "1")
    put = Control.put

    def and_replace(self: Control, name: str, *args: Any, **options: Any) -> None:
        put(self, name, *args, **options)
        store.publish("1", b"newer", replace=True)

    monkeypatch.setattr(Control, "put", and_replace)
    assert verify(store, quarantine=True).good == 10
    assert store.read("1") == b"newer"


def test_a_deletion_at_the_same_moment_stays(stores: tuple[Store, Store], monkeypatch: pytest.MonkeyPatch) -> None:
    store, copy = stores
    damage(store, "1")
    interrupt(monkeypatch, "_repair", lambda: store.delete("1"))
    report = verify(store, repair_from=copy)
    assert (report.good, report.gone) == (9, 1)
    with pytest.raises(pkgstore.NotFound):
        store.stat("1")


def test_a_publish_at_the_same_moment_is_refused_or_stays(
    stores: tuple[Store, Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, copy = stores
    damage(store, "1")
    refused = []

    def publish() -> None:
        try:
            store.publish("1", b"theirs")
        except pkgstore.Exists as exc:
            refused.append(exc)

    interrupt(monkeypatch, "_repair", publish)
    assert verify(store, repair_from=copy, quarantine=True).repaired == 1
    assert len(refused) == 1
    damage(store, "1")
    original = Store.delete

    def and_publish(self: Store, key: str, **options: str) -> None:
        original(self, key, **options)
        self.publish(key, b"theirs")

    monkeypatch.setattr(Store, "delete", and_publish)
    assert verify(store, quarantine=True).good == 10
    assert store.read("1") == b"theirs"


def test_a_repair_that_does_not_look_last_is_caught(
    stores: tuple[Store, Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checking, "LooksLast", lambda reader, look: reader)
    with pytest.raises(AssertionError):
        test_a_replacement_at_the_same_moment_stays(stores, monkeypatch, "_repair")


def test_a_quarantine_that_takes_any_version_is_caught(
    stores: tuple[Store, Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    delete = Store.delete
    monkeypatch.setattr(Store, "delete", lambda self, key, tag: delete(self, key))
    with pytest.raises((AssertionError, pkgstore.NotFound)):
        test_a_replacement_after_it_was_kept_aside_stays(stores, monkeypatch)


# -- samples ----------------------------------------------------------------------------------------------------------


def test_samples(stores: tuple[Store, Store], seen: list[Checked]) -> None:
    store, _ = stores
    report = verify(store, sample=3, seed="x", progress=seen.append)
    assert (report.good, report.seed) == (3, "x")
    keys = [each.key for each in seen]
    assert keys == sorted(keys)
    seen.clear()
    verify(store, sample=3, seed="x", progress=seen.append)
    assert [each.key for each in seen] == keys
    assert len({tuple(chosen(store, 3, str(number))) for number in range(20)}) > 5
    assert set(chosen(store, 3, "x")) < set(chosen(store, 6, "x"))
    assert chosen(store, 100, "x") == chosen(store, 1.0, "x") == [str(number) for number in range(10)]
    shares = [len(chosen(store, 0.3, str(number))) for number in range(100)]
    assert 200 < sum(shares) < 400
    assert verify(store, sample=1).seed != verify(store, sample=1).seed
    assert verify(store).seed == ""


def chosen(store: Store, sample: float, seed: str) -> list[str]:
    seen: list[Checked] = []
    verify(store, sample=sample, seed=seed, progress=seen.append)
    return [each.key for each in seen]


# -- cut short --------------------------------------------------------------------------------------------------------

VERIFY = """
import sys
import pkgstore, pkgstore.verify
pkgstore.verify._AT_ONCE = 2
def told(one):
    print(one.key, one.found, flush=True)
with pkgstore.open(sys.argv[1]) as store:
    print("done", pkgstore.verify.verify(store, journal=sys.argv[2], jobs=2, progress=told), sep="\\t", flush=True)
"""


def test_killed_and_run_again(tmp_path: Path) -> None:
    """At random points: every blob is looked at, few are twice, and what was found before the end is in the report."""
    print(f"PKGSTORE_SEED={SEED}")
    rng = random.Random(SEED)
    with pkgstore.open(tmp_path / "store") as store:
        for number in range(60):
            store.publish(f"{number:02}", b"%d" % number)
        damage(store, "00", "30", "59")
    read: list[str] = []
    for kill_after in [rng.randrange(8, 16) for _ in range(4)] + [1000]:
        with subprocess.Popen(
            [sys.executable, "-c", VERIFY, str(tmp_path / "store"), str(tmp_path / "journal")],
            stdout=subprocess.PIPE,
            text=True,
        ) as child:
            assert child.stdout is not None
            for count, line in enumerate(child.stdout, 1):
                read.append(line)
                if count == kill_after:
                    child.send_signal(signal.SIGKILL)
                    read += [line for line in child.stdout if line.endswith("\n")]
                    break
        if read[-1].startswith("done\t"):  # it was faster than the kill
            break
    assert read[-1].startswith("done\t")
    assert Verified(good=57, corrupt=3).wrong == 3
    assert "good=57, unrecorded=0, corrupt=3, unreadable=0" in read[-1]
    keys = [line.split()[0] for line in read[:-1]]
    assert sorted(set(keys)) == [f"{number:02}" for number in range(60)]
    assert len(keys) < 60 * 2
    assert keys.count("00") == 1
    with pkgstore.open(tmp_path / "store") as store:
        assert verify(store, journal=tmp_path / "journal").good == 57  # and then all again


def stopped_after(store: Store, journal: Path, count: int, **options: object) -> None:
    """Leave a journal of a run that came to an end in the middle."""
    left = [count]

    def stop(_: Checked) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        verify(store, journal=journal, jobs=1, progress=stop, **options)  # type: ignore[arg-type]


def test_a_journal(
    stores: tuple[Store, Store], tmp_path: Path, seen: list[Checked], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, copy = stores
    monkeypatch.setattr("pkgstore.verify._AT_ONCE", 2)
    damage(store, "2")
    journal = tmp_path / "journal"
    stopped_after(store, journal, 7, sample=1.0)
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    assert [line["through"] for line in lines if "through" in line] == ["1", "3", "5"]
    assert [line["key"] for line in lines if "problem" in line] == ["2"]
    with journal.open("ab") as file:
        file.write(b'{"through": "9", "cou')  # as a crash leaves it
    for other in (
        lambda: verify(copy, journal=journal, sample=1.0),
        lambda: verify(store, journal=journal),
        lambda: verify(store, journal=journal, sample=0.5),
        lambda: verify(store, journal=journal, sample=1.0, seed="another"),
        lambda: verify(store.scope("1/"), journal=journal, sample=1.0),
    ):
        with pytest.raises(pkgstore.Misconfigured, match="is the journal of another verification"):
            other()
    report = verify(store, journal=journal, sample=1.0, progress=seen.append)
    assert [each.key for each in seen] == ["6", "7", "8", "9"]
    assert (report.good, report.corrupt, report.seed) == (9, 1, lines[0]["seed"])
    assert verify(store, journal=journal, sample=2).good <= 2  # it had come to its end
    with Journal(journal, {}, None), pytest.raises(pkgstore.Misconfigured, match="in use by another verification"):
        verify(store, journal=journal)
    (tmp_path / "text").write_text("something else\n")
    with pytest.raises(pkgstore.Misconfigured, match="text is no journal of a verification"):
        verify(store, journal=tmp_path / "text")
    assert (tmp_path / "text").read_text() == "something else\n"


# -- executors --------------------------------------------------------------------------------------------------------


def test_by_processes_and_by_a_dask_cluster(cluster: Cluster, stores: tuple[Store, Store]) -> None:
    store, copy = stores
    for executor in (ProcessPoolExecutor(2, get_context("spawn")), cluster.executor()):
        damage(store, "1", "2")
        report = verify(store, executor=executor, repair_from=copy, quarantine=True)
        assert (report.good, report.repaired) == (8, 2)
        assert verify(store, executor=executor).good == 10
        executor.shutdown()


# -- the command ------------------------------------------------------------------------------------------------------


def test_the_command(stores: tuple[Store, Store], tmp_path: Path) -> None:
    store, _ = stores
    place = tmp_path / "store"
    result = run("verify", place)
    assert (result.returncode, result.stdout) == (0, "10 good, 0 corrupt; 10,000 bytes read.\n")
    damage(store, "1")
    result = run("verify", place)
    assert complaint(result, 8).startswith(f"1 blob is wrong in {store.where}, and not repaired: ")
    assert result.stdout == (
        f"corrupt     1: the bytes of '1' in {store.where} do not have the sha256 recorded with them; restore it with"
        " --repair-from another store, or delete it and publish it again\n9 good, 1 corrupt; 9,007 bytes read.\n"
    )
    result = run("verify", place, "--quarantine", "--json", "--journal", tmp_path / "journal")
    assert result.returncode == 8
    problem, summary = map(json.loads, result.stdout.splitlines())
    assert {name: problem[name] for name in ("key", "problem", "did", "remedy")} == {
        "key": "1",
        "problem": "corrupt",
        "did": "quarantined",
        "remedy": "publish it again, or mirror it here",
    }
    assert summary == {**asdict(Verified()), "good": 9, "corrupt": 1, "quarantined": 1, "bytes": 9007}
    damage(store, "2")
    result = run("verify", place, "--repair-from", tmp_path / "copy")
    assert (result.returncode, result.stdout.splitlines()[-1]) == (
        0,
        "8 good, 1 corrupt, 1 repaired; 8,007 bytes read.",
    )
    result = run("verify", place, "--sample", "50%", "--seed", "a")
    assert result.stdout.endswith("read, sample seed a.\n")
    assert "neither a share" in complaint(run("verify", place, "--sample", "0"), 2)
    assert "--seed goes with --sample" in complaint(run("verify", place, "--seed", "a"), 2)
    assert "cannot use" in complaint(run("verify", place, "--journal", tmp_path / "none" / "journal"), 1)
