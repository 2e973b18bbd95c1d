"""The cache: what it holds is read without the medium, and nothing but what the medium has is ever read."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import itertools
import os
import random
import shutil
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import pkgstore
from pkgstore import Blob, Corrupt, Misconfigured, NotFound, Unavailable, Unsupported
from pkgstore.cache import absent, folder, room
from pkgstore.cache.folder import Cache
from pkgstore.cache.reading import CachedReader
from pkgstore.drivers.local import LocalDriver
from pkgstore.testing.faults import Fault, FaultPlan, FaultyDriver
from pkgstore.testing.processes import until, workers
from pkgstore.testing.suite.basics import BasicTests
from pkgstore.testing.suite.reading import ReadingTests
from pkgstore.testing.suite.statemachine import StateMachineTests
from tests import needs
from tests.clock import Clock
from tests.far_medium import Far, FarDriver
from tests.fault_proxy import FaultProxy
from tests.forked import in_a_child
from tests.on_files import OnFiles
from tests.s3_medium import Servers, servers
from tests.test_s3_faults import seen_through

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pkgstore import Store
    from pkgstore.testing.processes import Talk

__all__ = ["servers"]

MiB = 1 << 20
DATA = random.Random(0).randbytes(3 * MiB + 7)


@pytest.fixture
def far(tmp_path: Path) -> Far:
    return Far(tmp_path / "store", tmp_path / "cache", 10 * MiB)


@pytest.fixture
def store(far: Far) -> Iterator[Store]:
    """A store with a blob `a`, that the cache has not seen."""
    with far.open() as store:
        store.publish("a", DATA)
        yield store


@pytest.fixture(autouse=True)
def _nothing_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder, "_told", set())


def entry_of(far: Far, data: bytes = DATA) -> Path:
    digest = hashlib.sha256(data).hexdigest()
    return far.folder / "sha256" / digest[:2] / digest[2:]


def flip(path: Path, at: int = 0) -> None:
    """Change a byte of a file, and its time."""
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)
        file.seek(at)
        file.write(bytes([byte[0] ^ 1]))


def rot(path: Path, at: int = 0) -> None:
    """Change a byte of a file, and nothing else, as a failing disk does."""
    status = path.stat()
    flip(path, at)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


class TestOptions:
    """How a cache is asked for."""

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"cache": "var/cache"}, "'var/cache' is no absolute path: give one"),
            ({"cache": ""}, "is no absolute path"),
            ({"cache": "/a\0b"}, "is no absolute path"),
            ({"cache": "/x/${PKGSTORE_NO_SUCH_VARIABLE}"}, "names the variable 'PKGSTORE_NO_SUCH_VARIABLE'"),
            ({"cache": "/x", "cache_size": "20 gigs"}, "cache_size='20 gigs' is not a size"),
            ({"cache_size": "20Gi"}, "cache_size is given without a cache"),
            ({"cache_negative": "-1"}, "cache_negative='-1' is not a number of seconds"),
        ],
    )
    def test_what_cannot_work(self, options: dict[str, str], message: str) -> None:
        with pytest.raises(Misconfigured, match=message):
            pkgstore.open("memory://", **options)

    def test_a_cache_is_named_by_text(self) -> None:
        with pytest.raises(TypeError, match="a cache is named by a str or a path, not bytes"):
            pkgstore.open("memory://", cache=b"/x")

    def test_a_file_in_the_way(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        for path in (tmp_path / "file", tmp_path / "file" / "below"):
            with pytest.raises(Misconfigured, match="cannot be made, as a file is in the way"):
                pkgstore.open("memory://", cache=path)

    def test_a_folder_in_a_store(self, tmp_path: Path) -> None:
        for path in (tmp_path / "store", tmp_path / "store" / "cache"):
            with pytest.raises(Misconfigured, match=r"lies in the store .*/store: give a folder outside of it"):
                pkgstore.open(tmp_path / "store", cache=path)
        with pkgstore.open(tmp_path / "store") as store:
            assert list(store.list()) == []

    def test_in_the_url(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PKGSTORE_TEST_CACHES", str(tmp_path))
        url = "memory://?cache=${PKGSTORE_TEST_CACHES}/one&cache_size=1Mi&cache_negative=5"
        with pkgstore.open(url) as store:
            store.publish("a", b"1")
            store.publish("b", b"2" * (MiB + 1))
            assert store.read("a") == b"1"
            assert len(store.read("b")) == MiB + 1
        assert [path.read_bytes() for path in (tmp_path / "one" / "sha256").glob("*/*")] == [b"1"]

    def test_the_folder_is_for_its_user_alone(self, far: Far, store: Store) -> None:
        store.read("a")
        assert far.folder.stat().st_mode & 0o777 == 0o700
        assert entry_of(far).stat().st_mode & 0o777 == 0o600


class TestReading:
    """What a cached store gives, and what it asks of the medium."""

    def test_one_fill_and_then_one_request_each(self, far: Far, store: Store) -> None:
        far.asked()
        assert store.read("a") == DATA
        assert far.asked() == ["stat a", "open a"]
        for _ in range(3):
            assert store.read("a") == DATA
            assert far.asked() == ["stat a"]
        with far.open() as other:
            assert other.read("a") == DATA
            assert far.asked() == ["stat a"]

    def test_the_reader_is_as_any(self, far: Far, store: Store) -> None:
        for _ in range(2):
            with store.open("a") as reader:
                assert reader.blob == store.stat("a")
                assert reader.name == "a"
                assert reader.seek(-5, os.SEEK_END) == len(DATA) - 5
                assert reader.read() == DATA[-5:]
                assert reader.read() == b""
                reader.seek(MiB)
                buffer = bytearray(10)
                assert reader.readinto(buffer) == 10
                assert buffer == DATA[MiB : MiB + 10]
                reader.seek(0)
                assert reader.readall() == DATA
        assert isinstance(reader, CachedReader)

    def test_an_empty_blob(self, far: Far, store: Store) -> None:
        store.publish("empty", b"")
        far.asked()
        assert [store.read("empty"), store.read("empty")] == [b"", b""]
        assert far.asked() == ["stat empty", "open empty", "stat empty"]

    def test_equal_bytes_are_kept_once(self, far: Far, store: Store, tmp_path: Path) -> None:
        other = Far(tmp_path / "other", far.folder, far.size)
        with other.open() as second:
            second.publish("elsewhere", DATA)
            store.publish("b/c", DATA)
            assert [store.read("a"), store.scope("b/").read("c"), second.read("elsewhere")] == [DATA] * 3
        assert far.entries() == [entry_of(far)]
        assert "open b/c" not in far.asked()
        assert "open elsewhere" not in other.asked()

    def test_a_replaced_blob_is_new_at_once(self, store: Store) -> None:
        assert store.read("a") == DATA
        store.publish("a", b"new", replace=True)
        assert store.read("a") == b"new"

    def test_a_deleted_blob_is_not_found(self, far: Far, store: Store) -> None:
        assert store.read("a") == DATA
        store.delete("a")
        for verb in (store.open, store.read, store.stat, store.local_path):
            with pytest.raises(NotFound):
                verb("a")
        assert far.entries() == [entry_of(far)]

    def test_a_blob_that_is_replaced_between_the_look_and_the_fill(
        self, far: Far, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        opened = FarDriver.open

        def open_late(self: FarDriver, key: str, *args: Any, **options: Any) -> Any:
            monkeypatch.setattr(FarDriver, "open", opened)
            store.publish("a", b"new", replace=True)
            return opened(self, key, *args, **options)

        monkeypatch.setattr(FarDriver, "open", open_late)
        with store.open("a") as reader:
            assert reader.blob.size == 3
            assert reader.read() == b"new"
        assert far.entries() == [entry_of(far, b"new")]
        assert far.fills() == []
        assert far.counted() == 3

    def test_a_blob_that_is_deleted_between_the_look_and_the_fill(
        self, far: Far, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        opened = FarDriver.open

        def open_late(self: FarDriver, key: str, *args: Any, **options: Any) -> Any:
            store.delete("a")
            return opened(self, key, *args, **options)

        monkeypatch.setattr(FarDriver, "open", open_late)
        with pytest.raises(NotFound, match="'a' is not in far://"):
            store.open("a")
        assert far.counted() == far.held() == 0

    def test_a_blob_without_a_digest_is_read_from_the_medium(self, far: Far, store: Store) -> None:
        (far.root / "by-hand").write_bytes(b"1")
        far.asked()
        assert [store.read("by-hand"), store.read("by-hand")] == [b"1", b"1"]
        assert far.asked() == ["stat by-hand", "open by-hand"] * 2
        assert far.entries() == []

    def test_a_blob_that_is_larger_than_the_cache_is_read_from_the_medium(self, far: Far, store: Store) -> None:
        with far.open(size=len(DATA) - 1) as small:
            assert small.read("a") == DATA
        assert far.entries() == []
        with far.open(size=len(DATA)) as small:
            assert small.read("a") == DATA
        assert far.entries() == [entry_of(far)]

    @pytest.mark.parametrize("digest", ["../../outside", "A" * 64, "", "0" * 63])
    def test_a_digest_that_is_none_leads_nowhere(
        self, far: Far, store: Store, digest: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        stat = FarDriver.stat
        monkeypatch.setattr(FarDriver, "stat", lambda *args: replace(stat(*args), digests={"sha256": digest}))
        with store.open("a", verify=False) as reader:
            assert reader.read() == DATA
        assert [path for path in far.folder.rglob("*") if path.is_file()] == []

    def test_a_blob_that_is_corrupt_on_the_medium(self, far: Far, store: Store) -> None:
        with store.driver.open("a")[1] as file:
            rot(Path(f"/proc/self/fd/{file.fileno()}").resolve())
        with store.open("a") as reader:
            assert reader.read(MiB)[1:] == DATA[1:MiB]
            with pytest.raises(Corrupt, match="restore it from a copy"):
                reader.readall()
        with store.open("a", verify=False) as reader:
            assert reader.read()[1:] == DATA[1:]
        assert far.counted() == far.held() == 0

    def test_a_medium_that_fails(self, far: Far, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        for when, verb in (("before", "open"), ("during", "read")):
            with far.open(timeout=0) as impatient:
                fault = Fault("open", when, times=2)  # type: ignore[arg-type]
                more = Fault("open", "before", nth=2, times=None)
                with FaultPlan(fault, *([more] if when == "during" else [])) as plan:
                    monkeypatch.setattr(impatient._calls, "driver", FaultyDriver(impatient.driver, plan))
                    with pytest.raises(Unavailable, match=f"cannot {verb} 'a' in far://"):
                        impatient.open("a")
        assert far.counted() == far.held() == 0

    def test_a_fill_that_is_interrupted_goes_on(self, far: Far, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        with FaultPlan(Fault("open", "during", times=2)) as plan:
            monkeypatch.setattr(store._calls, "driver", FaultyDriver(store.driver, plan))
            assert store.read("a") == DATA
        assert far.entries() == [entry_of(far)]

    def test_on_a_medium_with_files_too(self, far: Far, tmp_path: Path) -> None:
        with pkgstore.open(far.root, cache=far.folder) as store:
            store.publish("a", DATA)
            assert store.read("a") == DATA
            assert store.local_path("a") == far.root / "a"
        assert far.entries() == [entry_of(far)]


class TestLocalPath:
    """Paths of entries."""

    def test_it_is_that_of_the_entry(self, far: Far, store: Store) -> None:
        assert store.local_path("a") == entry_of(far)
        assert entry_of(far).read_bytes() == DATA
        assert store.scope("x/").where in str(store.scope("x/"))
        store.publish("x/y", b"1")
        assert store.scope("x/").local_path("y").read_bytes() == b"1"

    def test_the_entry_is_verified(self, far: Far, store: Store) -> None:
        store.local_path("a")
        flip(entry_of(far))
        assert store.local_path("a").read_bytes() == DATA

    def test_where_there_is_none(self, far: Far, store: Store) -> None:
        with far.open(size=0) as small, pytest.raises(Unsupported, match="keeps no files on this host: read 'a'"):
            small.local_path("a")


class TestDamage:
    """A bad entry is a miss, with a reason in the log."""

    @pytest.mark.parametrize(
        ("damage", "reason"),
        [
            (flip, "does not have its sha256"),
            (lambda path: flip(path, len(DATA) - 1), "does not have its sha256"),
            (rot, "has changed"),
            (lambda path: os.truncate(path, 100), f"has 100 bytes, not {len(DATA)}"),
            (lambda path: os.truncate(path, 0), "has 0 bytes"),
            (lambda path: os.truncate(path, len(DATA) + 1), f"has {len(DATA) + 1} bytes"),
            (lambda path: (path.unlink(), os.mkfifo(path)), "is no regular file"),
        ],
    )
    @pytest.mark.parametrize("known", [True, False])
    def test_a_damaged_entry(
        self,
        far: Far,
        store: Store,
        damage: Callable[[Path], object],
        reason: str,
        known: bool,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """Whether it was verified by this process before or not."""
        assert store.read("a") == DATA
        damage(entry_of(far))
        far.asked()
        if not known:
            store = far.open()
            reason = "does not have its sha256" if damage is rot else reason
        assert store.read("a") == DATA
        [told] = [each.getMessage() for each in caplog.records]
        assert told.startswith(f"the cache's entry {entry_of(far)} {reason}")
        assert told.endswith(": it is removed, and read from the medium")
        assert far.asked() == ["stat a", "open a"]
        assert store.read("a") == DATA
        assert store.read("a") == DATA
        assert len(caplog.records) == 1
        assert far.counted() >= far.held() == len(DATA)
        if not known:
            store.close()

    def test_one_that_is_cut_while_it_is_read(self, far: Far, store: Store, caplog: pytest.LogCaptureFixture) -> None:
        with store.open("a") as reader:
            start = reader.read(MiB)
            os.truncate(entry_of(far), MiB + 5)
            assert start + reader.readall() == DATA
        assert "is too short: it is removed" in caplog.text
        with store.open("a") as reader:
            os.truncate(entry_of(far), 5)
            buffer = bytearray(len(DATA))
            view, at = memoryview(buffer), 0
            while count := reader.readinto(view[at:]):
                at += count
            assert buffer == DATA

    def test_one_that_cannot_be_read(
        self, far: Far, store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        """As when its disk fails: here, one whose first byte the kernel cannot read."""
        find = Cache._find

        def find_unreadable(*args: Any) -> int | None:
            fd = find(*args)
            if fd is not None:
                os.close(fd)
                fd = os.open("/proc/self/mem", os.O_RDONLY)
            return fd

        assert store.read("a") == DATA
        monkeypatch.setattr(Cache, "_find", find_unreadable)
        assert store.read("a") == DATA
        assert "cannot be read (Input/output error): it is removed" in caplog.text

    def test_one_that_rots_while_it_is_read(self, far: Far, store: Store) -> None:
        """Bytes that were handed out are bad: the last ones never come, and the next reader has good ones."""
        with store.open("a") as reader:
            reader.read(MiB)
            rot(entry_of(far), 2 * MiB)
            with pytest.raises(Corrupt, match="the cache's copy of 'a' in far://.* changed while it was read: open it"):
                reader.readall()
        assert store.read("a") == DATA
        assert far.asked().count("open a") == 2

    def test_what_was_distrusted_meanwhile_is_not_removed_again(self, far: Far, store: Store) -> None:
        with store.open("a") as first, store.open("a") as second:
            flip(entry_of(far))
            for reader in (first, second):
                with pytest.raises(Corrupt):
                    reader.read(len(DATA))
                assert store.read("a") == DATA
        assert far.asked().count("open a") == 2
        assert far.entries() == [entry_of(far)]

    def test_one_that_cannot_be_removed_is_verified_again(
        self, far: Far, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def remove(*_: Any) -> None:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))

        store.read("a")
        rot(entry_of(far))
        with monkeypatch.context() as patch:
            patch.setattr(room.Room, "remove", remove)
            assert store.read("a") == DATA
        with store.open("a") as reader:
            assert b"".join(iter(lambda: reader.read(MiB), b"")) == DATA

    def test_links_are_not_followed(self, far: Far, store: Store, tmp_path: Path) -> None:
        (tmp_path / "outside").write_bytes(DATA)
        entry_of(far).parent.mkdir(parents=True)
        entry_of(far).symlink_to(tmp_path / "outside")
        assert store.read("a") == DATA
        assert (tmp_path / "outside").read_bytes() == DATA

    def test_verified_entries_are_remembered_within_limits(
        self, far: Far, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(folder, "_REMEMBERED", 3)
        for index in range(10):
            store.publish(f"b{index}", b"%d" % index)
            assert store.read(f"b{index}") == b"%d" % index
        assert store._cache is not None
        assert len(store._cache._verified) <= 3


def fill_with(store: Store, far: Far, count: int, size: int = MiB) -> list[str]:
    """Publish and read so many blobs, one after the other; return their keys."""
    names = [f"n{index}" for index in range(count)]
    for index, key in enumerate(names):
        store.publish(key, random.Random(index).randbytes(size))
        store.read(key)
        assert far.held() <= far.size
    return names


class TestBound:
    """What the cache holds never has more bytes than it may."""

    def test_the_least_recently_used_go_first(self, far: Far, store: Store) -> None:
        keys = fill_with(store, far, 10)
        assert far.counted() == far.held() == 10 * MiB
        store.read(keys[0])
        store.local_path(keys[1])
        store.open(keys[2]).close()
        store.read("a")
        far.asked()
        for key in (*keys[:3], "a"):
            store.read(key)
        assert [each for each in far.asked() if each.startswith("open")] == []
        assert far.counted() == far.held() <= 9 * MiB
        assert len(far.entries()) < 10

    def test_a_reader_keeps_what_it_has_open(self, far: Far, store: Store) -> None:
        with store.open("a") as reader:
            fill_with(store, far, 12)
            assert not entry_of(far).exists()
            far.asked()
            assert reader.readall() == DATA
            assert far.asked() == []

    def test_fills_under_way_have_their_room(self, far: Far, store: Store) -> None:
        """What would not fit beside them is read from the medium."""
        store.publish("large", bytes(8 * MiB))
        with holding_a_fill(far, "large") as resume:
            assert far.held() == far.counted() == 8 * MiB
            assert store.read("a") == DATA
            assert far.entries() == []
            store.publish("b", b"1")
            assert store.read("b") == b"1"
            assert far.entries() == [entry_of(far, b"1")]
            resume()
        assert far.entries() == sorted([entry_of(far, b"1"), entry_of(far, bytes(8 * MiB))])

    @pytest.mark.parametrize(
        "state", [None, b"", b"nonsense", b"00000000-0000-0000-0000-000000000000 00000000000000000000\n", b"\xff" * 58]
    )
    def test_a_count_that_is_lost_or_of_another_boot(self, far: Far, store: Store, state: bytes | None) -> None:
        fill_with(store, far, 10)
        if state is None:
            (far.folder / "state").unlink()
        else:
            (far.folder / "state").write_bytes(state)
        store.read("a")
        assert far.counted() == far.held() <= far.size

    def test_the_next_process_counts_less_room(self, far: Far, store: Store) -> None:
        fill_with(store, far, 10)
        with far.open(size=4 * MiB) as small:
            small.read("a")
        assert far.held() <= 4 * MiB

    def test_a_folder_that_is_emptied_meanwhile(self, far: Far, store: Store) -> None:
        for empty in (
            lambda: [shutil.rmtree(path) if path.is_dir() else path.unlink() for path in far.folder.iterdir()],
            lambda: shutil.rmtree(far.folder),
            lambda: shutil.rmtree(far.folder / "sha256"),
        ):
            assert store.read("a") == DATA
            empty()
            far.asked()
            assert [store.read("a"), store.read("a")] == [DATA, DATA]
            assert far.asked() == ["stat a", "open a", "stat a"]


def fill_and_wait(talk: Talk, far: Far, key: str, at: int) -> bytes:
    """Read a blob, and stop once ``at`` bytes of it have been read from the medium, until spoken to."""
    opened = FarDriver.open

    def open_held(self: FarDriver, *args: Any, **options: Any) -> Any:
        blob, stream = opened(self, *args, **options)
        stream.read(at)
        talk.say("held")
        talk.hear()
        stream.seek(0)
        return blob, stream

    with pytest.MonkeyPatch.context() as patch, far.open() as store:
        patch.setattr(FarDriver, "open", open_held)
        return store.read(key)


@contextlib.contextmanager
def holding_a_fill(far: Far, key: str) -> Iterator[Callable[[], bytes]]:
    """Have another process fill, which stands in its middle until the function is called that is yielded."""
    with workers(1) as (worker,):
        worker.start(fill_and_wait, far, key, 5)
        assert worker.hear() == "held"

        def resume() -> bytes:
            worker.say("go on")
            found: bytes = worker.result()
            return found

        yield resume


def read_in_threads(talk: Talk, far: Far, key: str, threads: int) -> list[str]:
    """Read a blob in so many threads at once; return the digests of what they read."""
    with far.open() as store:
        return digests_read(talk, store, key, threads)


def digests_read(talk: Talk, store: Store, key: str, threads: int) -> list[str]:
    talk.meet()
    barrier = threading.Barrier(threads)

    def read(_: int) -> str:
        barrier.wait()
        hasher = hashlib.sha256()
        with store.open(key) as reader:
            while chunk := reader.read(MiB):
                hasher.update(chunk)
        return hasher.hexdigest()

    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(read, range(threads)))


def all_read(function: Callable[..., list[str]], *args: object) -> list[str]:
    """Have 16 threads in each of 4 processes read at the same moment; return what they read."""
    with workers(4) as team:
        for worker in team:
            worker.start(function, *args, 16)
        for worker in team:
            assert worker.hear() == "here"
        for worker in team:
            worker.say("go")
        return [digest for worker in team for digest in worker.result()]


class TestTogether:
    """Processes and threads of one host fill an entry once."""

    def test_many_who_ask_at_once(self, far: Far, store: Store) -> None:
        far.asked()
        assert set(all_read(read_in_threads, far, "a")) == {hashlib.sha256(DATA).hexdigest()}
        asked = far.asked()
        assert asked.count("open a") == 1
        assert asked.count("stat a") == 64

    def test_who_waits_reads_what_another_filled(self, far: Far, store: Store) -> None:
        with holding_a_fill(far, "a") as resume, ThreadPoolExecutor(8) as pool:
            waiting = [pool.submit(store.read, "a") for _ in range(8)]
            until(lambda: len([each for each in far_notes(far) if each == "stat a"]) == 9, "eight readers' asking")
            assert not any(each.done() for each in waiting)
            assert resume() == DATA
            assert {each.result() for each in waiting} == {DATA}
        assert far.asked().count("open a") == 1

    def test_others_are_filled_meanwhile(self, far: Far, store: Store) -> None:
        store.publish("b", b"1")
        with holding_a_fill(far, "a"):
            assert store.read("b") == b"1"
            assert far.entries() == [entry_of(far, b"1")]

    def test_one_who_fills_and_is_killed(self, far: Far, store: Store, caplog: pytest.LogCaptureFixture) -> None:
        with workers(2) as (victim, waiting):
            victim.start(fill_and_wait, far, "a", 5)
            assert victim.hear() == "held"
            waiting.start(read_in_threads, far, "a", 4)
            assert waiting.hear() == "here"
            waiting.say("go")
            until(lambda: far_notes(far).count("stat a") == 5, "four readers' asking")
            victim.kill()
            assert set(waiting.result()) == {hashlib.sha256(DATA).hexdigest()}
        assert far.asked().count("open a") == 2
        assert far.fills() == []

    @pytest.mark.parametrize("size", [5 * MiB, 9 * MiB])
    def test_what_a_dead_process_left_is_removed_and_counted_no_more(self, far: Far, store: Store, size: int) -> None:
        """Whether there would have been room beside it or not."""
        store.publish("large", bytes(size))
        with workers(1) as (victim,):
            victim.start(fill_and_wait, far, "large", 5)
            assert victim.hear() == "held"
            victim.kill()
        assert far.counted() == far.held() == size
        assert store.read("a") == DATA
        assert far.counted() == far.held() == len(DATA)

    def test_what_a_dead_process_left_is_taken_over(self, far: Far, store: Store) -> None:
        digest = entry_of(far).parent.name + entry_of(far).name
        left = far.folder / "tmp" / digest
        left.write_bytes(bytes(len(DATA) + 1))
        os.utime(left, (0, 0))
        assert store.local_path("a").stat().st_atime > 0
        assert entry_of(far).read_bytes() == DATA

    def test_one_who_fills_and_is_done_before_another_has_the_lock(
        self, far: Far, store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        """The other has opened the file, which then becomes the entry, or is removed."""
        flock, files = fcntl.flock, itertools.count()

        def flock_late(fd: int, operation: int) -> None:
            if next(files) == 0:
                far.fills()[0].unlink()
            flock(fd, operation)

        monkeypatch.setattr(fcntl, "flock", flock_late)
        assert store.read("a") == DATA
        assert far.entries() == [entry_of(far)]
        assert not caplog.records

    def test_what_a_live_process_fills_is_not_removed(self, far: Far, store: Store) -> None:
        with holding_a_fill(far, "a") as resume:
            old = far.fills()
            os.utime(old[0], (0, 0))
            fill_with(store, far, 9)
            assert far.fills() == old
            assert resume() == DATA

    def test_who_waits_for_one_that_has_stalled_reads_from_the_medium(
        self, far: Far, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with holding_a_fill(far, "a") as resume:
            clock = Clock()
            clock.time_ns = lambda: 0  # type: ignore[attr-defined]
            for module in (folder, room):
                monkeypatch.setattr(module, "time", clock)
            assert store.read("a") == DATA
            assert room.STALLED <= clock.now < room.STALLED + 1
            assert far.entries() == []
            assert resume() == DATA
        assert far.asked().count("open a") == 2

    def test_a_count_that_somebody_holds_for_long(
        self, far: Far, store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        store.read("a")
        store.publish("b", b"1")
        with (far.folder / "state").open("r+b") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            monkeypatch.setattr(room, "time", Clock())
            assert store.read("b") == b"1"
        assert "was locked for 30 s" in caplog.text

    @pytest.mark.xdist_group("ministack")
    def test_sixty_four_clients_on_s3(self, servers: Servers, tmp_path: Path) -> None:
        data = random.Random(1).randbytes(50 * MiB)
        with FaultProxy(servers["ministack"].port) as proxy:
            direct = servers.store("ministack")
            with pkgstore.open(direct) as store:
                store.publish("large", data)
            url = seen_through(proxy, servers["ministack"], direct)
            proxy.heads.clear()
            read = set(all_read(read_on_s3, f"{url}&cache={tmp_path}/cache&cache_size=1Gi", "large"))
            assert read == {hashlib.sha256(data).hexdigest()}
            assert proxy.count(rb"^GET [^ ?]*/large[ ?]") == 1
            assert proxy.count(rb"^HEAD [^ ?]*/large[ ?]") == 64


def read_on_s3(talk: Talk, url: str, key: str, threads: int) -> list[str]:
    with pkgstore.open(url) as store:
        return digests_read(talk, store, key, threads)


def far_notes(far: Far) -> list[str]:
    return far.root.with_suffix(".notes").read_text().splitlines()


class TestTrouble:
    """A folder that cannot be used is told of once, and blobs are read from the medium."""

    def test_a_full_disk(self, far: Far, store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        with needs.mounted("tmpfs", tmp_path / "small", "size=2m") as small, far.open(folder=small) as full:
            far.asked()
            for _ in range(3):
                assert full.read("a") == DATA
            assert far.asked() == ["stat a", "open a"] * 3
            assert [path for path in small.rglob("*") if path.is_file()] == [small / "state"]
            assert replace(far, folder=small).counted() == 0
            full.publish("b", b"1")
            assert [full.read("b"), full.read("b")] == [b"1", b"1"]
            assert far.asked().count("open b") == 1
        [told] = [each.getMessage() for each in caplog.records]
        assert told.startswith(f"the cache {small} cannot be used, and blobs are read from the medium: ")
        assert "No space left on device" in told

    def test_a_disk_that_fills_up_during_a_fill(
        self, far: Far, store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        def write(fd: int, data: bytes) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(folder.posix, "write_all", write)
        assert [store.read("a"), store.read("a")] == [DATA, DATA]
        assert far.counted() == far.held() == 0
        assert len(caplog.records) == 1

    def test_a_file_system_that_cannot_allocate(self, far: Far, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        def allocate(fd: int, start: int, size: int) -> None:
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

        monkeypatch.setattr(os, "posix_fallocate", allocate)
        assert store.read("a") == DATA
        assert entry_of(far).read_bytes() == DATA

    def test_a_folder_that_is_read_only(
        self, far: Far, store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Entries that are there are read all the same."""
        with needs.mounted("tmpfs", tmp_path / "fixed") as fixed:
            with far.open(folder=fixed) as before:
                before.publish("b", b"1")
                before.read("b")
            subprocess.run(["mount", "-o", "remount,ro", str(fixed)], check=True)
            far.asked()
            with far.open(folder=fixed) as readonly:
                assert [readonly.read("a"), readonly.read("b"), readonly.read("a")] == [DATA, b"1", DATA]
            assert far.asked() == ["stat a", "open a", "stat b", "stat a", "open a"]
        [told] = [each.getMessage() for each in caplog.records]
        assert "Read-only file system" in told

    def test_a_folder_that_cannot_be_made(self, far: Far, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        with needs.mounted("tmpfs", tmp_path / "fixed", "ro") as fixed:
            for _ in range(2):
                with far.open(folder=fixed / "cache", timeout=0) as store:
                    store.publish("a", DATA, replace=True)
                    assert [store.read("a"), store.read("a")] == [DATA, DATA]
        assert len(caplog.records) == 1

    def test_a_folder_of_another_user(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        needs.root()

        def told_once() -> bool:
            os.seteuid(65534)
            with pkgstore.open("memory://", cache=tmp_path / "theirs" / "cache") as store:
                store.publish("a", b"1")
                assert [store.read("a"), store.read("a")] == [b"1", b"1"]
            return [each.getMessage().count("Permission denied") for each in caplog.records] == [1]

        pkgstore.open("memory://").close()  # as the other user may not read the modules
        (tmp_path / "theirs").mkdir(mode=0o700)
        assert in_a_child(told_once)


def open_with_cache(url: str, **options: Any) -> Store:
    """Open a store on this host with a cache beside it."""
    return pkgstore.open(url, cache=f"{url.removeprefix('file://')}-cache", cache_size="2Mi", **options)


class TestConformance(OnFiles, BasicTests, ReadingTests, StateMachineTests):
    """What every store promises, it promises with a small cache, too."""

    open_store = staticmethod(open_with_cache)
    large = 64 * MiB

    @pytest.fixture
    def url(self, tmp_path: Path) -> str:  # type: ignore[override]
        return f"file://{tmp_path}/store"

    def path_of(self, url: str, key: str) -> Path:
        return Path(url.removeprefix("file://"), key)


class TestFork:
    """A child goes on by itself, whatever its parent's threads were at."""

    def test_a_child_reads_while_its_parent_fills_and_verifies(self, far: Far, store: Store) -> None:
        cache = store._cache
        assert cache is not None
        store.publish("b", b"1")
        store.publish("c", b"2")
        with contextlib.ExitStack() as stack:
            for lock in cache._verifying:
                stack.enter_context(lock)
            fill = cache._room.try_to_fill(hashlib.sha256(b"1").hexdigest())
            assert fill is not None
            stack.enter_context(fill)
            assert in_a_child(lambda: store.read("c") == store.read("c") == b"2")
        assert store.read("b") == b"1"

    def test_a_child_does_not_hold_its_parents_locks(self, far: Far, store: Store) -> None:
        """A process that fills, and has a child, dies; the child lives until the pipe is closed."""
        digest = hashlib.sha256(DATA).hexdigest()
        there = room.Room(str(far.folder), far.size)
        ours, theirs = os.pipe()

        def fill_and_fork() -> bool:
            os.close(theirs)
            assert there.try_to_fill(digest) is not None
            if not os.fork():
                os.read(ours, 1)
            return True

        try:
            assert in_a_child(fill_and_fork)
            until(lambda: can_fill(there, digest), "a fill, after who filled has died")
        finally:
            os.close(theirs)
            os.close(ours)

    def test_a_child_does_not_wait_for_a_look_up_of_its_parent(self, far: Far) -> None:
        with far.open(negative=60) as store:
            with pytest.raises(NotFound):
                store.stat("a")
            with store._absent._lock:
                assert in_a_child(lambda: is_absent(store, "a"))


def can_fill(there: room.Room, digest: str) -> bool:
    fill = there.try_to_fill(digest)
    if fill is None:
        return False
    with fill:
        return True


def is_absent(store: Store, key: str) -> bool:
    try:
        store.stat(key)
    except NotFound:
        return True
    return False


class TestAbsent:
    """Negative look-ups, in one process."""

    def test_they_are_off_unless_asked_for(self, far: Far, store: Store) -> None:
        far.asked()
        for _ in range(2):
            with pytest.raises(NotFound):
                store.stat("b")
        assert far.asked() == ["stat b", "stat b"]

    @pytest.mark.parametrize("cached", [True, False])
    def test_what_was_absent_is_not_asked_for_again_until_it_is_time(
        self, far: Far, monkeypatch: pytest.MonkeyPatch, cached: bool
    ) -> None:
        clock = Clock()
        monkeypatch.setattr(absent, "time", clock)
        with far.open(negative=5) as store:
            if not cached:
                store._cache = None
            messages = set()
            for verb in (store.open, store.read, store.stat, store.open):
                with pytest.raises(NotFound) as caught:
                    verb("b")
                messages.add((str(caught.value), caught.value.key, caught.value.errno))
            assert messages == {(f"'b' is not in far://{far.root}", "b", errno.ENOENT)}
            assert far.asked() == ["stat b" if cached else "open b"]
            pkgstore.open(far.root).publish("b", b"1")
            clock.sleep(4.9)
            with pytest.raises(NotFound):
                store.stat("b")
            clock.sleep(0.2)
            assert store.read("b") == b"1"

    def test_a_publish_of_ours_is_seen_at_once(self, far: Far) -> None:
        with far.open(negative=60) as store:
            scope = store.scope("x/")
            for key in ("x/a", "x/b"):
                with pytest.raises(NotFound):
                    store.stat(key)
            scope.publish("a", b"1")
            assert scope.read("a") == store.read("x/a") == b"1"
            with pytest.raises(NotFound):
                store.stat("x/b")

    def test_a_publish_that_lost_sees_who_won(self, far: Far) -> None:
        with far.open(negative=60) as store:
            with pytest.raises(NotFound):
                store.stat("a")
            pkgstore.open(far.root).publish("a", b"1")
            with pytest.raises(pkgstore.Exists) as caught:
                store.publish("a", b"1")
            assert caught.value.identical
            assert store.read("a") == b"1"

    def test_a_publish_during_a_look(self, far: Far, monkeypatch: pytest.MonkeyPatch) -> None:
        with far.open(negative=60) as store:

            def stat_early(self: FarDriver, key: str) -> Blob:
                try:
                    return LocalDriver.stat(self, key)
                except FileNotFoundError:
                    store.publish(key, b"1")
                    raise

            with monkeypatch.context() as patch:
                patch.setattr(FarDriver, "stat", stat_early)
                with pytest.raises(NotFound):
                    store.stat("a")
            assert store.stat("a").size == 1

    def test_its_memory_is_bounded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(absent, "_MOST", 3)
        known, asked = absent.Absent(60), []

        def missing(path: str) -> None:
            asked.append(path)
            raise NotFound(path, key=path)

        for path in ("a", "b", "c", "d", "a", "d", "a"):
            with pytest.raises(NotFound):
                known.look(path, lambda path=path: missing(path))
        assert asked == ["a", "b", "c", "d", "a"]
        assert len(known._known) == 3


class TestMutants:
    """The checks above can fail: a cache with any of its promises broken is seen through."""

    def test_without_verification(self, far: Far, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Cache, "_fault", lambda *_: "")
        store.read("a")
        flip(entry_of(far))
        assert store.local_path("a").read_bytes() != DATA

    def test_without_a_bound(self, far: Far, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(room.Room, "_taken", lambda *_: 0)
        with pytest.raises(AssertionError):
            fill_with(store, far, 12)

    def test_without_the_medium(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        store.read("a")
        old = store.stat("a")
        monkeypatch.setattr(pkgstore.Store, "_look", lambda *_: old)
        store.publish("a", b"new", replace=True)
        assert store.read("a") == DATA

    def test_without_locks(self, far: Far, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        barrier, calls = threading.Barrier(2), itertools.count()
        opened = FarDriver.open

        def open_together(*args: Any, **options: Any) -> Any:
            if next(calls) < 2:
                barrier.wait(60)
            return opened(*args, **options)

        monkeypatch.setattr(FarDriver, "open", open_together)
        monkeypatch.setattr(fcntl, "flock", lambda *_: None)
        far.asked()
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(store.read, ["a", "a"]))
        assert far.asked().count("open a") > 1
