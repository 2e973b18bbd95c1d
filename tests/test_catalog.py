"""The catalog: a listing tells what was learnt of this very version; whatever is wrong with the file does no harm."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import logging
import os
import random
import sqlite3
import subprocess
import sys
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

import pkgstore
from pkgstore import Blob, Denied, InvalidKey, Misconfigured, NotFound, Unavailable, Unsupported
from pkgstore.catalog import Catalog, rows, sharing
from pkgstore.testing.processes import workers
from pkgstore.testing.suite.basics import BasicTests
from pkgstore.testing.suite.listing import ListingTests
from tests import needs
from tests.command import complaint, run
from tests.fault_proxy import FaultProxy
from tests.forked import in_a_child
from tests.s3_medium import BUCKET, servers
from tests.servers import call, create_app, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from pkgstore import Store
    from pkgstore.testing.processes import Talk
    from tests.s3_medium import Servers

__all__ = ["servers"]

LIST = rb"^GET [^ ]*list-type=2"
HEAD = rb"^HEAD "
WRONG = {"sha256": "f" * 64}


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def rng() -> random.Random:
    """Chance, with its seed in the output of a test that fails; PKGSTORE_TEST_SEED sets it."""
    seed = os.environ.get("PKGSTORE_TEST_SEED") or random.SystemRandom().randbytes(6).hex()
    print(f"PKGSTORE_TEST_SEED={seed}")
    return random.Random(seed)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "catalog.sqlite"


class Bare:
    """A medium whose listings tell no digests: a folder's driver that keeps them to itself. It counts what is asked."""

    def __init__(self, store: Store) -> None:
        self.driver: Any = store.driver
        self.asked: list[str] = []
        self._scan, self._stat = self.driver.scan, self.driver.stat
        self.driver.scan, self.driver.stat = self.scan, self.stat

    def scan(self, prefix: str) -> Iterator[Blob]:
        return (replace(blob, digests={}) for blob in self._scan(prefix))

    def stat(self, key: str) -> Blob:
        self.asked.append(key)
        found: Blob = self._stat(key)
        return found


@contextlib.contextmanager
def bare(url: Path | str, **options: Any) -> Iterator[tuple[Store, Bare]]:
    with pkgstore.open(url, **options) as store:
        yield store, Bare(store)


def listed(store: Store, prefix: str = "") -> dict[str, str | None]:
    """Return the sha256 of each blob, as a listing tells it."""
    return {blob.key: blob.digests.get("sha256") for blob in store.list(prefix)}


def fill_with(place: Path | str, count: int = 3) -> dict[str, str]:
    """Publish blobs as another process would; return their sha256."""
    with pkgstore.open(place) as store:
        blobs = [store.publish(f"d/{number:03}", f"body {number}".encode()) for number in range(count)]
    return {blob.key: blob.digests["sha256"] for blob in blobs}


def warned(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


# -- what is learnt ---------------------------------------------------------------------------------------------------


def test_a_medium_that_tells_no_digests_is_one(tmp_path: Path) -> None:
    """What the tests below rest on."""
    fill_with(tmp_path)
    with bare(tmp_path) as (store, _):
        assert set(listed(store).values()) == {None}


@pytest.mark.parametrize("verb", ["publish", "replace", "stat", "open", "read", "adopt", "get_or_publish"])
def test_a_listing_tells_what_a_verb_has_seen(tmp_path: Path, file: Path, verb: str) -> None:
    known = fill_with(tmp_path / "store")
    with bare(tmp_path / "store", catalog=file) as (store, medium):
        verbs: dict[str, Callable[[], object]] = {
            "publish": lambda: store.publish("d/000", b"body 0"),
            "replace": lambda: store.publish("d/000", b"body 0", replace=True),
            "stat": lambda: store.stat("d/000"),
            "open": lambda: store.open("d/000").close(),
            "read": lambda: store.read("d/000"),
            "adopt": lambda: store.adopt("d/000"),
            "get_or_publish": lambda: store.get_or_publish("d/000", lambda: b"body 0"),
        }
        if verb == "publish":
            store.delete("d/000")
        assert listed(store) == dict.fromkeys(known, None) if verb != "publish" else True
        verbs[verb]()
        medium.asked.clear()
        assert listed(store) == {"d/000": known["d/000"], "d/001": None, "d/002": None}
        assert medium.asked == []
    with bare(tmp_path / "store", catalog=str(file)) as (store, _):
        assert listed(store)["d/000"] == known["d/000"], "also in the next process"
    with bare(f"file://{tmp_path}/store?catalog={file}") as (store, _):
        assert listed(store, "d/")["d/000"] == known["d/000"]


def test_all_of_a_blob_is_as_the_medium_lists_it(tmp_path: Path, file: Path) -> None:
    with bare(tmp_path / "store", catalog=file) as (store, medium):
        blob = store.publish("a", b"x", digests={"md5": None})
        (found,) = store.list()
        assert found == blob
        assert set(found.digests) == {"sha256", "md5"}
        (scanned,) = medium.scan("")
        assert replace(found, digests={}) == scanned
        assert found.mtime == scanned.mtime


def test_another_version_is_unknown(tmp_path: Path, file: Path) -> None:
    """What is known of an old version is never told of a new one, be it of the same size."""
    with bare(tmp_path / "store", catalog=file) as (store, _), pkgstore.open(tmp_path / "store") as other:
        store.publish("a", b"old")
        assert listed(store) == {"a": sha256(b"old")}
        other.publish("a", b"new", replace=True)
        assert listed(store) == {"a": None}
        store.stat("a")
        assert listed(store) == {"a": sha256(b"new")}
        other.delete("a")
        assert listed(store) == {}
        other.publish("a", b"third")
        assert listed(store) == {"a": None}


@pytest.mark.parametrize("part", ["tag", "size", "key", "store"])
def test_a_row_counts_for_what_it_is_bound_to(file: Path, part: str) -> None:
    learnt = Blob("a/b", 3, 1.0, "tag", WRONG)
    catalog = Catalog(str(file), "one")
    catalog.learn(learnt)
    assert [*catalog.fill([replace(learnt, digests={})])] == [learnt]
    other = {"tag": {"tag": "Tag"}, "size": {"size": 4}, "key": {"key": "a/c"}, "store": {}}[part]
    asking = Catalog(str(file), "two" if part == "store" else "one")
    asked = replace(learnt, digests={}, **other)  # type: ignore[arg-type]
    assert [*asking.fill([asked])] == [asked]
    catalog.close()
    asking.close()


@pytest.mark.parametrize("part", ["store", "key", "tag", "size", "digests"])
def test_a_row_that_was_changed_says_nothing(file: Path, part: str) -> None:
    catalog = Catalog(str(file), "one")
    catalog.learn(Blob("key", 3, 1.0, "tag", {"sha256": "0" * 64}))
    catalog.close()
    value = {"store": "two", "key": "kez", "tag": "tah", "size": 4, "digests": f"sha256 {'f' * 64}"}[part]
    with contextlib.closing(sqlite3.connect(file)) as database:
        database.execute(f"UPDATE blobs SET {part} = ?", [value])
        database.commit()
    catalog = Catalog(str(file), "two" if part == "store" else "one")
    asked = replace(Blob("key", 3, 1.0, "tag"), **({part: value} if part in ("key", "tag", "size") else {}))
    assert [*catalog.fill([asked])] == [asked]
    assert [*catalog.known()] == []
    catalog.close()


def test_what_others_have_learnt_does_not_replace(file: Path) -> None:
    """It may be older than what was learnt here, while it was on its way."""
    known = [Blob("a", 1, 1.0, "new", WRONG), Blob("b", 1, 1.0, "only", WRONG)]
    catalog = Catalog(str(file), "one")
    catalog.learn(known[0])
    catalog.add([Blob("a", 1, 0.0, "old", WRONG), known[1]])
    assert [*catalog.fill([replace(blob, digests={}) for blob in known])] == known
    catalog.close()


def test_what_is_deleted_is_forgotten(tmp_path: Path, file: Path) -> None:
    with pkgstore.open(tmp_path / "store", catalog=file) as store:
        for key in ("a", "b"):
            store.publish(key, b"x")
        store.delete("a")
        assert keys_in(file) == ["b"]


def keys_in(file: Path) -> list[str]:
    with contextlib.closing(sqlite3.connect(file)) as database:
        return [key for (key,) in database.execute("SELECT key FROM blobs ORDER BY store, key")]


def test_scopes_and_stores_share_a_file(tmp_path: Path, file: Path) -> None:
    with (
        bare(tmp_path / "one", catalog=file) as (one, _),
        bare(tmp_path / "two", catalog=file) as (two, _),
    ):
        one.scope("d/").publish("a", b"1")
        two.publish("d/a", b"2")
        assert listed(one) == {"d/a": sha256(b"1")}
        assert listed(one.scope("d/")) == {"a": sha256(b"1")}
        assert listed(two) == {"d/a": sha256(b"2")}


def test_what_was_put_there_by_hand_is_read_once(tmp_path: Path, file: Path) -> None:
    """Also where the medium is not to be written to."""
    pkgstore.open(tmp_path / "store").close()
    (tmp_path / "store" / "hand").write_bytes(b"made")
    with pkgstore.open(tmp_path / "store", catalog=file, readonly=True) as store:
        assert listed(store) == {"hand": None}
        store.adopt("hand")
        assert listed(store) == {"hand": sha256(b"made")}
    with pkgstore.open(tmp_path / "store", readonly=True) as store:
        assert listed(store) == {"hand": None}


def test_names_that_are_no_keys_are_left_out(tmp_path: Path, file: Path) -> None:
    """And do not come in the way of those that are, though SQLite cannot even hold them."""
    known = fill_with(tmp_path / "store")
    for name in (b"d/0:0", b"d/\xff", b"zz."):
        (tmp_path / "store" / os.fsdecode(name)).write_bytes(b"")
    with bare(tmp_path / "store", catalog=file) as (store, _):
        for key in known:
            store.stat(key)
        assert listed(store) == known


def test_pages_of_a_long_listing(tmp_path: Path, file: Path, rng: random.Random) -> None:
    place = f"memory://{tmp_path.name}"
    known = fill_with(place, 700)
    seen = set(rng.sample(sorted(known), 300))
    with bare(place, catalog=file) as (store, _):
        for key in seen:
            store.stat(key)
        assert listed(store) == {key: known[key] if key in seen else None for key in known}


# -- a file that is of no use -----------------------------------------------------------------------------------------


def assert_goes_without(place: Path, file: Path, caplog: pytest.LogCaptureFixture, reason: str) -> None:
    """Fail unless a store does all that it does, and says once why its listings tell no digests."""
    with bare(place, catalog=file) as (store, _):
        store.publish("x", b"x")
        store.publish("y", b"y")
        assert listed(store) == {"x": None, "y": None}
        assert store.read("x") == b"x"
        store.delete("y")
        assert listed(store) == {"x": None}
        with pytest.raises(Unavailable, match="the catalog .* is not used"):
            store.warm()
    (warning,) = warned(caplog)
    assert reason in warning
    assert str(file) in warning


def test_a_newer_version_is_left_alone(tmp_path: Path, file: Path, caplog: pytest.LogCaptureFixture) -> None:
    catalog = Catalog(str(file), "one")
    catalog.learn(Blob("a", 1, 1.0, "t", WRONG))
    catalog.close()
    with contextlib.closing(sqlite3.connect(file)) as database:
        database.execute("PRAGMA user_version = 2")
        database.execute("PRAGMA journal_mode = DELETE")
    before = file.read_bytes()
    assert_goes_without(tmp_path / "store", file, caplog, "a newer pkgstore")
    assert file.read_bytes() == before


def test_another_database_is_left_alone(tmp_path: Path, file: Path, caplog: pytest.LogCaptureFixture) -> None:
    file.parent.mkdir()
    with contextlib.closing(sqlite3.connect(file)) as database:
        database.execute("CREATE TABLE blobs (mine TEXT)")
    before = file.read_bytes()
    assert_goes_without(tmp_path / "store", file, caplog, "another program's database")
    assert file.read_bytes() == before


def test_no_folder_for_the_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "taken").write_bytes(b"")
    assert_goes_without(tmp_path / "store", tmp_path / "taken" / "in" / "catalog", caplog, "Not a directory")


def test_a_locked_file(
    tmp_path: Path, file: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that others hold for longer than a moment is done without, and taken up again."""
    monkeypatch.setattr(rows, "_PATIENCE", 0.02)
    place = tmp_path / "store"
    with bare(place, catalog=file) as (store, _), contextlib.closing(sqlite3.connect(file)) as other:
        store.publish("a", b"a")
        other.isolation_level = None
        other.execute("BEGIN IMMEDIATE")
        store.publish("b", b"b")
        store.publish("c", b"c")
        assert listed(store) == {"a": sha256(b"a"), "b": None, "c": None}, (
            "who writes does not keep others from reading"
        )
        (warning,) = warned(caplog)
        assert "database is locked" in warning
        other.execute("ROLLBACK")
        store.stat("b")
        assert listed(store)["b"] is None, "it rests"
        monkeypatch.setattr(rows.time, "monotonic", lambda: sys.float_info.max)
        store.stat("b")
        assert listed(store)["b"] == sha256(b"b")
        assert len(warned(caplog)) == 1


def test_a_full_disk(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with (
        needs.mounted("tmpfs", tmp_path / "small", "size=128k") as small,
        bare(tmp_path / "store", catalog=small / "catalog") as (store, _),
    ):
        store.publish("a", b"a")
        (small / "ballast").write_bytes(b"x" * (space(small) - 4096))
        blobs = [store.publish(f"{number:04}", b"b") for number in range(300)]
        assert len(listed(store)) == 301
        assert listed(store)["a"] == sha256(b"a"), "what was learnt before is told"
        assert store.stat("0299") == blobs[-1]
        (warning,) = warned(caplog)
        assert "full" in warning or "disk I/O error" in warning


def space(folder: Path) -> int:
    status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize


@pytest.mark.parametrize("content", [b"no database at all\n" * 300, b"SQLite format 3\0" + bytes(8000)])
def test_a_file_that_is_no_database_is_set_aside(
    tmp_path: Path, file: Path, caplog: pytest.LogCaptureFixture, content: bytes
) -> None:
    file.parent.mkdir()
    file.write_bytes(content)
    with bare(tmp_path / "store", catalog=file) as (store, _):
        store.publish("a", b"a")
        assert listed(store) == {"a": sha256(b"a")}
    (warning,) = warned(caplog)
    assert "set aside, and begun anew" in warning
    assert file.with_name("catalog.sqlite.damaged").read_bytes() == content


def test_damage_anywhere_makes_no_listing_wrong(tmp_path: Path, file: Path, rng: random.Random) -> None:
    """Bytes are changed at random, cut off or zeroed, also while it is open: what is told is right, or not told."""
    known = fill_with(tmp_path / "store", 150)
    told = untold = 0
    for trial in range(60):
        with bare(tmp_path / "store", catalog=file) as (store, _):
            for key in rng.sample(sorted(known), 150 if trial % 3 == 0 else 5):
                store.stat(key)
            held = rng.random() < 0.5
            if held:
                damage(file, rng)
            after = listed(store)
            assert after.keys() == known.keys()
            assert all(value in (None, known[key]) for key, value in after.items())
        if not held:
            damage(file, rng)
        with bare(tmp_path / "store", catalog=file) as (store, _):
            after = listed(store)
            assert after.keys() == known.keys()
            assert all(value in (None, known[key]) for key, value in after.items())
            untold += list(after.values()).count(None)
            told += len(after) - list(after.values()).count(None)
            assert store.stat("d/000").digests["sha256"] == known["d/000"]
    assert told > 100
    assert untold > 100


def damage(file: Path, rng: random.Random) -> None:
    if not file.exists():
        return
    size = file.stat().st_size
    with file.open("r+b") as database:
        if rng.random() < 0.2:
            database.truncate(rng.randrange(size + 1))
        for _ in range(rng.choice([1, 5, 200])):
            database.seek(rng.randrange(size + 1))
            database.write(rng.randbytes(rng.choice([1, 1, 8])) if rng.random() < 0.8 else bytes(512))


def test_a_file_that_is_deleted_is_made_anew(tmp_path: Path, file: Path, caplog: pytest.LogCaptureFixture) -> None:
    known = fill_with(tmp_path / "store")
    with bare(tmp_path / "store", catalog=file) as (store, _):
        store.warm()
    file.unlink()
    with bare(tmp_path / "store", catalog=file) as (store, _):
        assert set(listed(store).values()) == {None}
        assert store.warm() == 3
        assert listed(store) == known
    assert warned(caplog) == []


@pytest.mark.parametrize("option", ["", "/", "cache/", 7, "nul\0", "/dev/null/catalog"])
def test_options_that_name_no_file(tmp_path: Path, option: object) -> None:
    with pytest.raises(Misconfigured, match="the option catalog="):
        pkgstore.open(tmp_path, catalog=option)


def test_variables_in_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLACE", str(tmp_path))
    with pkgstore.open(tmp_path / "store", catalog="${PLACE}/made/it") as store:
        store.publish("a", b"")
    assert (tmp_path / "made" / "it").exists()


def test_sqlite_is_loaded_when_it_is_needed() -> None:
    code = "import sys, pkgstore; pkgstore.open('memory://').close(); print(*sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert not {"sqlite3", "gzip", "pkgstore.catalog"} & set(shown.stdout.split())


# -- many processes ---------------------------------------------------------------------------------------------------


def publish_and_look(talk: Talk, place: str, file: str, name: str, seed: str) -> None:
    """Publish, replace, delete and look, until killed; say what is wrong with a listing."""
    rng = random.Random(seed)
    logging.getLogger("pkgstore").addHandler(_Saying(talk))
    talk.say("ready")
    for number in range(1_000_000):
        with bare(place, catalog=file) as (store, _):
            for _ in range(10):
                key = f"k/{rng.randrange(40):02}"
                body = f"{key} {rng.randrange(3)} {name if rng.random() < 0.5 else ''}".encode()
                if rng.random() < 0.2:
                    store.delete(key)
                else:
                    blob = store.publish(key, body, replace=True)
                    assert blob.digests["sha256"] == sha256(body)
            for blob in store.list():
                if blob.digests:
                    with contextlib.suppress(NotFound):
                        truth = store.stat(blob.key)
                        if truth.tag == blob.tag and truth.digests != blob.digests:
                            talk.say(f"{blob.key}: a listing told {blob.digests}, and it has {truth.digests}")
        talk.say(number)


class _Saying(logging.Handler):
    """Tells the parent of warnings."""

    def __init__(self, talk: Talk) -> None:
        super().__init__(logging.WARNING)
        self._talk = talk

    def emit(self, record: logging.LogRecord) -> None:
        self._talk.say(record.getMessage())


def test_processes_that_write_at_once_and_are_killed(tmp_path: Path, file: Path, rng: random.Random) -> None:
    place = tmp_path / "store"
    pkgstore.open(place).close()
    said: list[object] = []
    for turn in range(3):
        with workers(3) as team:
            for index, each in enumerate(team):
                each.start(publish_and_look, str(place), str(file), f"{turn}{index}", rng.randbytes(8).hex())
            heard = [[each.hear() for _ in range(rng.randrange(2, 4))] for each in team]
            said += [what for each in heard for what in each]
            for each in team:
                for _ in range(rng.randrange(5000)):
                    pass  # so that it is killed at any of its steps
                said += each.kill()
    assert [what for what in said if isinstance(what, str) and what != "ready"] == []
    with contextlib.closing(sqlite3.connect(file)) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert database.execute("SELECT count(*) FROM blobs").fetchone() > (0,)
    with bare(place, catalog=file) as (store, _):
        told = {key: value for key, value in listed(store).items() if value}
        assert told
        assert all(sha256(store.read(key)) == value for key, value in told.items())


def warm_and_tell(talk: Talk, place: str, file: str) -> None:
    with bare(place, catalog=file) as (store, _):
        store.warm(jobs=1, progress=lambda blob: (talk.say(blob.key), talk.hear()))


def test_warming_that_is_killed_goes_on_where_it_was(tmp_path: Path, file: Path) -> None:
    known = fill_with(tmp_path / "store", 100)
    with workers(1) as (victim,):
        victim.start(warm_and_tell, str(tmp_path / "store"), str(file))
        for _ in range(20):
            victim.hear()
            victim.say("go on")
        victim.kill()
    with bare(tmp_path / "store", catalog=file) as (store, medium):
        left = store.warm()
        assert 0 < left <= 100 - 20
        assert len(medium.asked) == left
        assert listed(store) == known


def test_children_have_connections_of_their_own(tmp_path: Path, file: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Also those that are born while threads of their parent are at it."""
    known = fill_with(tmp_path / "store", 30)
    stop = threading.Event()
    with bare(tmp_path / "store", catalog=file) as (store, _):
        (catalog,) = [each for each in rows._all if each.path == str(file)]

        def keep_at_it() -> None:
            while not stop.is_set():
                store.stat("d/000")
                store.list("d/")

        def in_child() -> bool:
            assert catalog.connection is None
            for key in known:
                store.stat(key)
            return listed(store) == known

        threads = [threading.Thread(target=keep_at_it) for _ in range(3)]
        for each in threads:
            each.start()
        try:
            for _ in range(10):
                assert in_a_child(in_child)
        finally:
            stop.set()
            for each in threads:
                each.join()
        assert listed(store) == known, "the parent knows what its children learnt"
    assert warned(caplog) == []


# -- warming ----------------------------------------------------------------------------------------------------------


def test_warming_asks_once_for_each(tmp_path: Path, file: Path) -> None:
    place = f"memory://{tmp_path.name}"
    known = fill_with(place, 300)
    with bare(place, catalog=file) as (store, medium):
        store.stat("d/007")
        medium.asked.clear()
        seen: list[str] = []
        assert store.warm(progress=lambda blob: seen.append(blob.key)) == 299
        assert sorted(medium.asked) == sorted(set(known) - {"d/007"})
        assert seen == sorted(known)
        medium.asked.clear()
        assert store.warm() == 0
        assert medium.asked == []
        assert listed(store) == known


def test_warming_below_a_prefix(tmp_path: Path, file: Path) -> None:
    with pkgstore.open(tmp_path / "store") as other:
        for key in ("a/1", "b/1", "b/2", "b0/1", "c"):
            other.publish(key, b"x")
    with bare(tmp_path / "store", catalog=file) as (store, medium):
        assert store.warm("b/") == 2
        assert sorted(medium.asked) == ["b/1", "b/2"]
        seen: list[str] = []
        assert store.scope("b0/").warm(progress=lambda blob: seen.append(blob.key)) == 1
        assert seen == ["1"]
        with pytest.raises(InvalidKey):
            store.warm("b")


def test_warming_drops_what_is_gone(tmp_path: Path, file: Path) -> None:
    fill_with(tmp_path / "store", 10)
    with bare(tmp_path / "store", catalog=file) as (store, _), pkgstore.open(tmp_path / "store") as other:
        for key in ("c", "d/003/", "e/1", "e/2"):
            other.publish(key.replace("003/", "zzz"), b"x")
        store.warm()
        for key in ("c", "d/000", "d/005", "d/009", "d/zzz", "e/1", "e/2"):
            other.delete(key)
        store.warm("d/")
        assert keys_in(file) == ["c", *(f"d/{number:03}" for number in (1, 2, 3, 4, 6, 7, 8)), "e/1", "e/2"]
        store.warm()
        assert keys_in(file) == [f"d/{number:03}" for number in (1, 2, 3, 4, 6, 7, 8)]


def test_warming_reads_what_has_no_digests(tmp_path: Path, file: Path) -> None:
    pkgstore.open(tmp_path / "store").close()
    (tmp_path / "store" / "hand").write_bytes(b"made")
    with bare(tmp_path / "store", catalog=file, readonly=True) as (store, _):
        assert store.warm() == 1
        assert listed(store) == {"hand": sha256(b"made")}
        assert store.warm() == 0


def test_so_many_jobs_and_no_more(tmp_path: Path, file: Path) -> None:
    fill_with(tmp_path / "store", 100)
    with bare(tmp_path / "store", catalog=file) as (store, medium):
        stat, changed, now, most = medium.driver.stat, threading.Condition(), 0, 0

        def counting(key: str) -> Blob:
            nonlocal now, most
            with changed:
                now += 1
                most = max(most, now)
                changed.notify_all()
                assert changed.wait_for(lambda: most >= 4 or key < "d/050", 60)
            found: Blob = stat(key)
            with changed:
                now -= 1
            return found

        medium.driver.stat = counting
        assert store.warm(jobs=4) == 100
        assert most == 4
        with pytest.raises(Misconfigured, match="0 requests at a time"):
            store.warm(jobs=0)


def test_warming_passes_by_what_is_deleted_meanwhile(tmp_path: Path, file: Path) -> None:
    known = fill_with(tmp_path / "store", 5)
    with bare(tmp_path / "store", catalog=file) as (store, medium), pkgstore.open(tmp_path / "store") as other:
        stat = medium.driver.stat

        def gone(key: str) -> Blob:
            other.delete("d/002")
            found: Blob = stat(key)
            return found

        medium.driver.stat = gone
        seen: list[str] = []
        assert store.warm(jobs=1, progress=lambda blob: seen.append(blob.key)) == 4
        assert seen == sorted(set(known) - {"d/002"})


def test_warming_ends_with_the_medium(tmp_path: Path, file: Path) -> None:
    known = fill_with(tmp_path / "store", 60)
    with bare(tmp_path / "store", catalog=file, timeout=0) as (store, medium):
        stat = medium.driver.stat

        def away(key: str) -> Blob:
            if key >= "d/040":
                raise OSError(5, "away")
            found: Blob = stat(key)
            return found

        medium.driver.stat = away
        with pytest.raises(Unavailable):
            store.warm(jobs=3)
        medium.driver.stat = stat
        medium.asked.clear()
        assert store.warm() == 20, "what was learnt is kept"
        assert listed(store) == known


def test_warming_needs_a_catalog(tmp_path: Path) -> None:
    with pkgstore.open(tmp_path) as store, pytest.raises(Misconfigured, match="opened without a catalog"):
        store.warm()


# -- a copy in the store ----------------------------------------------------------------------------------------------


def shared(place: Path | str, file: Path, count: int = 3) -> dict[str, str]:
    """Publish blobs, and share what a catalog knows of them; return their sha256."""
    known = fill_with(place, count)
    with bare(place, catalog=file) as (store, _):
        assert store.warm(share=True) == count
        assert listed(store) == known, "the copy is no blob"
    return known


def test_a_new_host_begins_with_the_copy(tmp_path: Path, file: Path) -> None:
    place = f"memory://{tmp_path.name}"
    known = shared(place, file, 2500)
    with bare(place, catalog=tmp_path / "new", readonly=True) as (store, medium):
        assert listed(store) == known
        assert store.warm() == 0
        assert medium.asked == []


def test_who_knows_something_does_not_take_the_copy(tmp_path: Path, file: Path) -> None:
    known = shared(tmp_path / "store", file)
    with bare(tmp_path / "store", catalog=file) as (store, _), pkgstore.open(tmp_path / "store") as other:
        other.publish("d/000", b"other", replace=True)
        store.stat("d/000")
    with bare(tmp_path / "store", catalog=file) as (store, _):
        assert listed(store) == {**known, "d/000": sha256(b"other")}


def test_a_copy_tells_nothing_of_what_changed_since(tmp_path: Path, file: Path) -> None:
    known = shared(tmp_path / "store", file)
    with pkgstore.open(tmp_path / "store") as other:
        other.publish("d/000", b"BODY 0", replace=True)
    with bare(tmp_path / "store", catalog=tmp_path / "new") as (store, _):
        assert listed(store) == {**known, "d/000": None}


def test_a_copy_is_replaced(tmp_path: Path, file: Path) -> None:
    shared(tmp_path / "store", file)
    with bare(tmp_path / "store", catalog=file) as (store, _):
        store.publish("z", b"z")
        store.delete("d/000")
        store.warm(share=True)
    with bare(tmp_path / "store", catalog=tmp_path / "new") as (store, _):
        assert listed(store)["z"] == sha256(b"z")
        assert keys_in(tmp_path / "new") == ["d/001", "d/002", "z"]


def _line(*documents: object) -> bytes:
    return gzip.compress(b"".join(json.dumps(each).encode() + b"\n" for each in documents))


HEADER = {"format": 1, "store": "STORE"}
BAD_COPIES = {
    "empty": b"",
    "no gzip": b"hello",
    "cut": _line(HEADER, ["a", "t", 1, WRONG])[:-9],
    "no header": _line(["a", "t", 1, WRONG]),
    "another format": _line({**HEADER, "format": 2}, ["a", "t", 1, WRONG]),
    "another store": _line({**HEADER, "store": "0" * 32}, ["d/000", "t", 1, WRONG]),
    "no JSON": gzip.compress(json.dumps(HEADER).encode() + b"\nhello\n"),
    "a key outside": _line(HEADER, ["../a", "t", 1, WRONG]),
    "a control key": _line(HEADER, [".pkgstore/a", "t", 1, WRONG]),
    "no digest": _line(HEADER, ["a", "t", 1, {"sha256": "hello"}]),
    "another digest": _line(HEADER, ["a", "t", 1, {"sha1": ""}]),
    "no digests": _line(HEADER, ["a", "t", 1, {}]),
    "a list for digests": _line(HEADER, ["a", "t", 1, ["sha256"]]),
    "a size below nothing": _line(HEADER, ["a", "t", -1, WRONG]),
    "a size of text": _line(HEADER, ["a", "t", "1", WRONG]),
    "a size beyond": _line(HEADER, ["a", "t", 1 << 63, WRONG]),
    "a tag of another kind": _line(HEADER, ["a", 1, 1, WRONG]),
    "too few": _line(HEADER, ["a", "t", 1]),
    "a number": _line(HEADER, 1),
    "endless": gzip.compress(json.dumps(HEADER).encode() + b"\n" + b"[" * 5_000_000),
}


@pytest.mark.parametrize("content", BAD_COPIES.values(), ids=BAD_COPIES.keys())
def test_a_copy_that_is_none_is_passed_by(
    tmp_path: Path, file: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    known = shared(tmp_path / "store", file)
    with pkgstore.open(tmp_path / "store") as store:
        text = content
        if content[:2] == b"\x1f\x8b":
            with contextlib.suppress(EOFError):
                text = gzip.compress(gzip.decompress(content).replace(b"STORE", store.id.encode()))
    (tmp_path / "store" / sharing.SNAPSHOT).unlink()
    (tmp_path / "store" / sharing.SNAPSHOT).write_bytes(text)
    with bare(tmp_path / "store", catalog=tmp_path / "new") as (store, _):
        assert set(listed(store).values()) == {None}
        store.stat("d/000")
        assert listed(store)["d/000"] == known["d/000"]
    (warning,) = warned(caplog)
    assert "the catalog that file://" in warning
    assert "pkgstore warm --share" in warning
    assert "\n" not in warning


def test_a_copy_that_is_corrupt_is_passed_by(tmp_path: Path, file: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Although it is in order by itself: it is not what was published."""
    shared(tmp_path / "store", file)
    path = tmp_path / "store" / sharing.SNAPSHOT
    forged = gzip.decompress(path.read_bytes())
    for digest in {value for _, value in zip(range(3), forged.split(b'"sha256":"')[1:], strict=False)}:
        forged = forged.replace(digest[:64], b"f" * 64)
    with path.open("r+b") as copy:
        copy.write(gzip.compress(forged))
        copy.truncate()
    with bare(tmp_path / "store", catalog=tmp_path / "new") as (store, _):
        assert set(listed(store).values()) == {None}
    (warning,) = warned(caplog)
    assert sharing.SNAPSHOT in warning


def test_who_may_share(tmp_path: Path, file: Path) -> None:
    fill_with(tmp_path / "store")
    with pkgstore.open(tmp_path / "store", catalog=file, readonly=True) as store, pytest.raises(Denied):
        store.warm(share=True)
    with pkgstore.open(tmp_path / "store", catalog=file) as store, pytest.raises(Unsupported, match="ask the store"):
        store.scope("d/").warm(share=True)


@pytest.mark.parametrize("when", ["at the first blob", "at the last blob", "while it is shared"])
def test_a_copy_that_would_be_half_is_not_shared(
    tmp_path: Path, file: Path, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared(tmp_path / "store", file)
    before = (tmp_path / "store" / sharing.SNAPSHOT).read_bytes()
    with bare(tmp_path / "store", catalog=file) as (store, _):

        def lose() -> None:
            with contextlib.closing(sqlite3.connect(file)) as database:
                database.execute("DROP TABLE IF EXISTS blobs")

        def progress(blob: Blob) -> None:
            if (when, blob.key) in {("at the first blob", "d/000"), ("at the last blob", "d/002")}:
                lose()

        line = sharing._line
        if when == "while it is shared":
            monkeypatch.setattr(sharing, "_line", lambda document: (lose(), line(document))[1])
        with pytest.raises(Unavailable, match="no such table"):
            store.warm(share=True, progress=progress)
    assert (tmp_path / "store" / sharing.SNAPSHOT).read_bytes() == before


# -- on a server, counted ---------------------------------------------------------------------------------------------


@pytest.fixture
def proxy(servers: Servers) -> Iterator[FaultProxy]:
    with FaultProxy(servers["ministack"].port) as proxy:
        yield proxy


def through(proxy: FaultProxy, servers: Servers, url: str) -> str:
    """Return the URL by which a store is seen through a proxy, which is known to be as exclusive as its server."""
    client, key = servers["ministack"].client(), f"{urlsplit(url).path.strip('/')}/.pkgstore/store.json"
    identity = json.load(client.get_object(Bucket=BUCKET, Key=key)["Body"])
    identity["probed"][proxy.url] = identity["probed"][servers["ministack"].url]
    client.put_object(Bucket=BUCKET, Key=key, Body=json.dumps(identity).encode())
    return url.replace(servers["ministack"].url, proxy.url)


@pytest.mark.xdist_group("ministack")
def test_a_page_costs_one_listing(servers: Servers, proxy: FaultProxy, tmp_path: Path) -> None:
    """After first sight, on S3, whose listings tell no digests; on the next host after none."""
    direct = servers.store("ministack")
    url = through(proxy, servers, direct)
    known = {}
    with pkgstore.open(direct) as store:
        for number in range(12):
            blob = store.publish(f"six/six-1.{number}.zip", f"body {number}".encode())
            known[blob.key.rpartition("/")[2]] = f"sha256={blob.digests['sha256']}"

    def page(app: Any) -> dict[str, str]:
        proxy.heads.clear()
        return {name: link.partition("#")[2] for name, link in call(app, "GET", "/simple/six/").links.items()}

    def requests() -> tuple[int, int, int]:
        """Return how many listings of the project there were, how many HEAD, and how many GET of a body."""
        lists = proxy.count(rb"^GET [^ ]*list-type=2[^ ]*prefix=[^ &]*six%2F[ &]")
        return lists, proxy.count(HEAD), proxy.count(rb"^GET [^ ]*\.zip")

    options = ("-a", ".", "-P", ".", "--disable-fallback")
    with pkgstore.open(url) as store:
        assert page(create_app(store, *options)) == known
        assert requests() == (1, 12, 0), "without a catalog"
    with pkgstore.open(url, catalog=tmp_path / "one") as store:
        app = create_app(store, *options)
        assert page(app) == known
        assert requests() == (1, 12, 0), "at first sight"
        assert page(app) == known
        assert requests() == (1, 0, 0), "after first sight"
        with pkgstore.open(direct) as other:
            blob = other.publish("six/six-1.0.zip", b"BODY 0", replace=True)
        known["six-1.0.zip"] = f"sha256={blob.digests['sha256']}"
        assert page(app) == known
        assert requests() == (1, 1, 0), "one blob is new"
        assert page(app) == known
        assert requests() == (1, 0, 0)
    with pkgstore.open(url, catalog=tmp_path / "one") as store:
        assert page(create_app(store, *options)) == known
        assert requests() == (1, 0, 0), "in another process"
        store.warm(share=True)
    proxy.heads.clear()
    with pkgstore.open(f"{url}&catalog={tmp_path}/two", readonly=True) as store:
        assert proxy.count(rb"catalog/snapshot\.gz") == 1
        assert page(create_app(store, *options)) == known
        assert requests() == (1, 0, 0), "on another host"


@pytest.mark.xdist_group("ministack")
def test_warming_on_a_server(servers: Servers, proxy: FaultProxy, tmp_path: Path) -> None:
    direct = servers.store("ministack")
    url = through(proxy, servers, direct)
    with pkgstore.open(direct) as store:
        known = {f"{n:02}": store.publish(f"{n:02}", bytes([n])).digests["sha256"] for n in range(40)}
    name = f"{urlsplit(url).path.strip('/')}/hand"
    servers["ministack"].client().put_object(Bucket=BUCKET, Key=name, Body=b"made")
    known["hand"] = sha256(b"made")
    with pkgstore.open(url, catalog=tmp_path / "one") as store:
        proxy.heads.clear()
        assert store.warm() == 41
        assert (proxy.count(HEAD), proxy.count(LIST), proxy.count(rb"^GET [^ ]*/hand HTTP")) == (41, 1, 1)
        proxy.heads.clear()
        assert listed(store) == known
        assert store.warm() == 0
        assert (proxy.count(HEAD), proxy.count(LIST), len(proxy.heads)) == (0, 2, 2)


# -- the command ------------------------------------------------------------------------------------------------------


def test_the_command(tmp_path: Path, file: Path) -> None:
    fill_with(tmp_path / "store", 5)
    (tmp_path / "store" / "hand").write_bytes(b"made")
    shown = run("warm", tmp_path / "store", "--catalog", file, "--json")
    assert (shown.returncode, shown.stderr) == (0, "")
    # A folder's own listings tell the digests of what was published.
    assert json.loads(shown.stdout) == {"blobs": 6, "asked": 1, "shared": False}
    assert not (tmp_path / "store" / sharing.SNAPSHOT).exists()
    shown = run("warm", f"file://{tmp_path}/store?catalog={file}", "--share", "--jobs", "2")
    assert shown.stdout == "6 blobs, of which 0 had to be asked for; shared.\n"
    assert (tmp_path / "store" / sharing.SNAPSHOT).exists()
    assert "opened without a catalog" in complaint(run("warm", tmp_path / "store"), 2)
    assert "given twice" in complaint(run("warm", tmp_path / "store", "-o", "catalog=x", "--catalog", file), 2)
    assert "there is no store" in complaint(run("warm", tmp_path, "--catalog", file), 3)
    other = tmp_path / "other"
    with contextlib.closing(sqlite3.connect(other)) as database:
        database.execute("CREATE TABLE mine (what TEXT)")
    shown = run("warm", tmp_path / "store", "--catalog", other)
    assert shown.returncode == 7
    assert f"the catalog {other} is not used: it is another program's database" in shown.stderr


def test_a_served_store_takes_a_catalog(tmp_path: Path, file: Path) -> None:
    """Through its URL, as all options."""
    fill_with(tmp_path / "store")
    app = create_app(f"file://{tmp_path}/store?catalog={file}", "-a", ".", "-P", ".")
    assert call(app, "GET", "/simple/").status == 200
    until(file.exists)


@pytest.mark.xdist_group("ministack")
class TestWithACatalog(BasicTests, ListingTests):
    """All that a store does is as without one."""

    @pytest.fixture
    def url(self, servers: Servers, file: Path) -> str:  # type: ignore[override]
        return servers.store("ministack", catalog=str(file))

    def test_no_store_is_made_unasked(self, servers: Servers, file: Path) -> None:  # type: ignore[override]
        """At a prefix where there is none, as there is at that of the fixture."""
        super().test_no_store_is_made_unasked(servers.url("ministack", catalog=str(file)))
