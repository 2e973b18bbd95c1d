"""Bundles: one of all who want one builds it, and it is put in place whole, whatever dies or lies in the store."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest

import pkgstore
from pkgstore import bundle
from pkgstore.bundle import archives, identity, places
from pkgstore.testing.faults import Fault, FaultPlan, FaultyDriver, with_driver
from pkgstore.testing.processes import Worker, until, workers
from tests import bundles
from tests.bundles import build_together, ensure, ensure_now, fill, never, nothing_is_locked
from tests.s3_medium import servers
from tests.together import Notes, local, notes, store, url
from tests.trees import told

if TYPE_CHECKING:
    from collections.abc import Callable

    from pkgstore import Store

__all__ = ["local", "notes", "servers", "store", "url"]

PROCESSES = 8
MiB = 1 << 20


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle, "_FIRST_PAUSE", 0.01)


def parts(dest: Path) -> list[str]:
    """Return what is beside a place that is neither a version nor the lock."""
    return sorted(name for name in os.listdir(places.Place(dest).folder) if "." in name)


# -- with processes ---------------------------------------------------------------------------------------------------


def start(
    worker: Worker, url: str | None, dest: Path, notes: Notes, *, seconds: float = 30, broken: Any = None
) -> None:
    worker.start(ensure, url, str(dest), notes, seconds, broken)


def one_builds(url: str | None, dests: list[Path], notes: Notes, broken: Callable[[], Any] | None = None) -> None:
    """Have processes want a bundle together. Fails unless one of them builds it, and all get the same."""
    with workers(len(dests)) as team:
        for each, dest in zip(team, dests, strict=True):
            start(each, url, dest, notes, broken=broken)
        until(lambda: notes.count("waits") + notes.count("built") >= len(dests), "all building or waiting")
        builders = notes.count("built")
        notes.put("go")
        found = [each.result() for each in team]
        assert (builders, notes.count("built")) == (1, 1)
        trees = [told(directory) for directory in found]
        assert [str(dest.resolve()) for dest in dests] == found
        assert trees == [trees[0]] * len(dests)
        assert set(trees[0]) == {"link", "package", "package/__init__.py", "package/data", "package/late.py", "run"}
        assert [parts(dest) for dest in dests] == [[]] * len(dests)


def test_one_of_many_builds_what_all_get(url: str, notes: Notes, tmp_path: Path) -> None:
    one_builds(url, [tmp_path / f"{number}" / "packages" for number in range(PROCESSES)], notes)


def test_one_of_many_builds_where_all_have_one_place(local: str, notes: Notes, tmp_path: Path) -> None:
    one_builds(local, [tmp_path / "packages"] * PROCESSES, notes)


def test_one_of_many_builds_without_a_store(notes: Notes, tmp_path: Path) -> None:
    one_builds(None, [tmp_path / "packages"] * PROCESSES, notes)


@pytest.mark.parametrize("has_store", [True, False])
def test_without_locks_many_build(local: str, notes: Notes, tmp_path: Path, has_store: bool) -> None:
    with pytest.raises(AssertionError, match=rf"\({PROCESSES}, {PROCESSES}\) == \(1, 1\)"):
        one_builds(local if has_store else None, [tmp_path / "packages"] * PROCESSES, notes, nothing_is_locked)
    # Whatever was built, one is there, and it is whole.
    until(lambda: parts(tmp_path / "packages") == [], "the end of all")
    assert len(told(tmp_path / "packages")) == 6


def test_a_killed_builder_is_replaced(url: str, notes: Notes, tmp_path: Path) -> None:
    """Elsewhere, once its lease has run out."""
    with workers(2) as (victim, heir):
        start(victim, url, tmp_path / "a" / "packages", notes, seconds=2)
        notes.until("built")
        start(heir, url, tmp_path / "b" / "packages", notes)
        notes.until("waits")
        victim.kill()
        notes.until("built", 2)
        assert not (tmp_path / "b" / "packages").exists()
        notes.put("go")
        heir.result()
    assert len(told(tmp_path / "b" / "packages")) == 6
    assert not (tmp_path / "a" / "packages").is_symlink()


@pytest.mark.parametrize("has_store", [True, False])
def test_a_killed_builder_of_the_same_place_is_replaced_at_once(
    local: str, notes: Notes, tmp_path: Path, has_store: bool
) -> None:
    dest = tmp_path / "packages"
    url = local if has_store else None
    with workers(2) as (victim, heir):
        start(victim, url, dest, notes, seconds=2)
        notes.until("built")
        start(heir, url, dest, notes)
        notes.until("waits")
        (half,) = parts(dest)
        victim.kill()
        notes.until("built", 2)
        assert half not in parts(dest)
        notes.put("go")
        heir.result()
    assert len(told(dest)) == 6
    assert parts(dest) == []


@pytest.mark.parametrize("when", ["built", "packed", "restored", "flushed"])
def test_who_lost_its_lock_and_its_folder_puts_nothing_in_place(store: Store, tmp_path: Path, when: str) -> None:
    """As a host whose network was away: others took the locks that it had, and removed what it made."""
    wanted = store.bundle("app", retries=0)

    def lose(tree: str) -> None:
        places._remove(os.path.dirname(tree))

    def after(module: Any, name: str) -> Any:
        real = getattr(module, name)
        return mock.patch.object(module, name, lambda *args: (real(*args), lose(str(args[-1]))))

    def before(module: Any, name: str, argument: int) -> Any:
        real = getattr(module, name)
        return mock.patch.object(module, name, lambda *args: (lose(str(args[argument])), real(*args)))

    lost = {
        "built": after(bundles, "fill"),
        "packed": before(archives, "pack", 0),
        "restored": before(archives, "unpack", 1),
        "flushed": before(places, "_sync", 0),
    }
    with lost[when], pytest.raises(FileNotFoundError):
        wanted.ensure(tmp_path / "packages", lambda folder: bundles.fill(folder))
    assert not (tmp_path / "packages").is_symlink()
    assert os.listdir(places.Place(tmp_path / "packages").folder) == ["lock"]
    assert len(list(store.list())) == (0 if when in ("built", "packed") else 1)


# -- a running program ------------------------------------------------------------------------------------------------

PROGRAM = """
import sys, package
data = open(sys.argv[1] + "/package/data", "rb")
print(package.SEED, flush=True)
input()
from package import late  # imported only now
print(package.SEED, late.SEED, len(data.read()), flush=True)
"""


def test_a_program_sees_one_version_to_its_end(store: Store, tmp_path: Path) -> None:
    dest = tmp_path / "packages"
    directory = store.bundle("app", ["1"]).ensure(dest, fill)
    before = told(directory)
    environment = {**os.environ, "PYTHONPATH": str(directory), "PYTHONDONTWRITEBYTECODE": "1"}
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(dest)],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == "1\n"
        other = store.bundle("app", ["2"]).ensure(dest, lambda folder: fill(folder, seed=2, size=2000))
        assert (dest / "package" / "__init__.py").read_text() == "SEED = 2\n"
        out, _ = program.communicate("\n")
    assert out == "1 1 1000\n"
    assert program.returncode == 0
    assert told(directory) == before
    assert other != directory
    # And back, without the store and without a build.
    assert bundle.make(None, "app", ["1"]).ensure(dest, never) == directory == dest.resolve()


def test_dest_is_there_at_every_moment(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dest = tmp_path / "packages"
    store.bundle("app", ["1"]).ensure(dest, fill)
    seen: list[str] = []

    def look() -> None:
        seen.append((dest / "package" / "__init__.py").read_text())

    for name in ("link", "mkdir", "rename", "replace", "rmdir", "symlink", "unlink"):
        real = getattr(os, name)

        def watched(*args: Any, real: Any = real, **how: Any) -> None:
            look()
            try:
                real(*args, **how)
            finally:
                look()

        monkeypatch.setattr(os, name, watched)
    store.bundle("app", ["2"]).ensure(dest, lambda folder: fill(folder, seed=2))
    assert set(seen) == {"SEED = 1\n", "SEED = 2\n"}
    assert seen == sorted(seen)


def test_what_is_in_place_is_not_waited_for(store: Store, tmp_path: Path) -> None:
    directory = store.bundle("app").ensure(tmp_path / "packages", fill)
    with places.Place(tmp_path / "packages").locked(places.Deadline(10, "")):
        assert store.bundle("app", timeout=0).ensure(tmp_path / "packages", never) == directory


def test_what_is_in_place_needs_no_store(store: Store, tmp_path: Path) -> None:
    directory = store.bundle("app").ensure(tmp_path / "packages", fill)
    wanted = store.bundle("app")
    store.close()
    assert wanted.at(tmp_path / "packages") == directory
    assert wanted.ensure(tmp_path / "packages", never) == directory
    shutil.rmtree(directory)
    assert wanted.at(tmp_path / "packages") is None


# -- places -----------------------------------------------------------------------------------------------------------


def test_a_place_of_somebody_else_is_left_as_it_is(store: Store, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("full")
    before = told(tmp_path)
    for name in ("full", "file", "link"):
        with pytest.raises(pkgstore.Misconfigured, match="already"):
            store.bundle("app").ensure(tmp_path / name, never)
    with pytest.raises(pkgstore.Misconfigured, match="is a mount point, .* such as /proc/current"):
        store.bundle("app").ensure("/proc", never)
    with pytest.raises(pkgstore.Misconfigured, match="name a folder in it"):
        store.bundle("app").ensure("/", never)
    assert told(tmp_path) == before


def test_an_empty_folder_is_as_good_as_none(store: Store, tmp_path: Path) -> None:
    (tmp_path / "packages").mkdir()
    directory = store.bundle("app").ensure(tmp_path / "packages", fill)
    assert (tmp_path / "packages").resolve() == directory


def test_a_folder_that_is_filled_meanwhile_is_left_as_it_is(store: Store, tmp_path: Path) -> None:
    dest = tmp_path / "packages"

    def build(folder: Path) -> None:
        fill(folder)
        dest.mkdir()
        (dest / "theirs").touch()

    with pytest.raises(pkgstore.Misconfigured, match="is there already"):
        store.bundle("app").ensure(dest, build)
    assert os.listdir(dest) == ["theirs"]


def test_what_is_read_only_is_removed_too(store: Store, tmp_path: Path) -> None:
    def build(folder: Path) -> None:
        fill(folder)
        (folder / "package").chmod(0o500)

    store.bundle("app").ensure(tmp_path / "packages", build)
    assert parts(tmp_path / "packages") == []


def test_folders_that_are_deep(store: Store, tmp_path: Path) -> None:
    def build(folder: Path) -> None:
        for _ in range(sys.getrecursionlimit() + 100):
            folder = folder / "a"
            folder.mkdir()
        if tries.pop():
            raise ValueError("the first try fails")

    tries = [False, True]
    wanted = store.bundle("app", retries=1)
    try:
        for name in ("built", "unpacked"):
            wanted.ensure(tmp_path / name, build)
            assert parts(tmp_path / name) == []
        assert tries == []
    finally:
        subprocess.run(["rm", "-rf", str(tmp_path)], check=True)  # as pytest could not


def test_a_version_is_flushed_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    for module, name in ((places, "_sync"), (os, "rename"), (os, "replace"), (places.posix, "sync_folder")):
        real = getattr(module, name)

        def recorded(*args: Any, name: str = name, real: Any = real) -> None:
            calls.append(name)
            real(*args)

        monkeypatch.setattr(module, name, recorded)
    bundle.make(None, "app").ensure(tmp_path / "packages", fill)
    assert calls == ["_sync", "rename", "sync_folder", "rename", "replace", "sync_folder"]  # the second removes a part


def test_the_server_of_a_share_is_asked_before_anything_is_looked_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(places, "ask_server", lambda fd: asked.append(os.readlink(f"/proc/self/fd/{fd}")))
    looked = places.Place.has

    def has(self: places.Place, version: str) -> bool:
        assert asked == [str(tmp_path), self.folder]
        return looked(self, version)

    monkeypatch.setattr(places.Place, "has", has)
    bundle.make(None, "app").ensure(tmp_path / "packages", fill)
    assert asked


def test_what_is_another_users_is_left_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dest = tmp_path / "packages"
    bundle.make(None, "app").ensure(dest, fill)
    theirs = Path(places.Place(dest).folder) / "theirs.part"
    theirs.mkdir()
    (theirs / "lock").touch()
    real = os.open

    def guarded(path: Any, *args: Any, **how: Any) -> int:
        if path == f"{theirs}/lock":
            raise PermissionError(13, "Permission denied")
        return real(path, *args, **how)

    monkeypatch.setattr(os, "open", guarded)
    bundle.make(None, "app", ["2"]).ensure(dest, fill)
    monkeypatch.undo()
    assert parts(dest) == ["theirs.part"]
    bundle.make(None, "app", ["3"]).ensure(dest, fill)
    assert parts(dest) == []


@pytest.mark.parametrize("mode", [0o770, 0o777])
def test_who_may_write_beside_dest_may_bring_versions_there(tmp_path: Path, mode: int) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared").chmod(mode)
    bundle.make(None, "app").ensure(tmp_path / "shared" / "packages", fill)
    folder = Path(places.Place(tmp_path / "shared" / "packages").folder)
    assert folder.stat().st_mode & 0o777 == 0o755 | mode & 0o077
    assert (folder / "lock").stat().st_mode & 0o777 == 0o644 | mode & 0o066


# -- what lies in the store -------------------------------------------------------------------------------------------


def packed(build: Callable[[Path], object], folder: Path, limit: int = MiB) -> bytes:
    folder.mkdir()
    build(folder)
    file = io.BytesIO()
    archives.pack(str(folder), file, limit)
    return file.getvalue()


def test_an_archive_is_taken_without_a_build(store: Store, tmp_path: Path) -> None:
    wanted = store.bundle("app")
    store.publish(wanted.key, packed(fill, tmp_path / "tree"))
    directory = wanted.ensure(tmp_path / "packages", never)
    assert len(told(directory)) == 6
    assert [blob.key for blob in store.list()] == [wanted.key]


def spoilt(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_a_corrupt_archive_is_built_again(local: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pkgstore.open(local) as store:
        wanted = store.bundle("app")
        wanted.ensure(tmp_path / "a", fill)
        spoilt(store.local_path(wanted.key))
        wanted.ensure(tmp_path / "b", lambda folder: fill(folder, seed=2))
        assert "is damaged, and is built again: " in caplog.text
        wanted.ensure(tmp_path / "c", never)
    assert told(tmp_path / "b") == told(tmp_path / "c") != told(tmp_path / "a")


def test_a_corrupt_archive_is_built_again_also_where_a_cache_finds_it(local: str, tmp_path: Path) -> None:
    with pkgstore.open(local, cache=tmp_path / "cache") as store:
        wanted = store.bundle("app")
        wanted.ensure(tmp_path / "a", fill)
        shutil.rmtree(tmp_path / "cache")
        with pkgstore.open(local) as plain:
            spoilt(plain.local_path(wanted.key))
    with pkgstore.open(local, cache=tmp_path / "cache") as store:
        store.bundle("app").ensure(tmp_path / "b", fill)
        store.bundle("app").ensure(tmp_path / "c", never)


HOSTILE = {
    "no archive": b"hello",
    "empty": b"",
    "outside": b"../../outside",
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_archive_is_built_again(store: Store, tmp_path: Path, kind: str) -> None:
    from tests.test_bundle_archives import END, entry, zstd

    body = zstd().compress(entry("../../outside", data=b"x") + END) if kind == "outside" else HOSTILE[kind]
    wanted = store.bundle("app")
    store.publish(wanted.key, body)
    wanted.ensure(tmp_path / "packages", fill)
    assert sorted(os.listdir(tmp_path)) == [".packages.bundle", "packages"]
    wanted.ensure(tmp_path / "other", never)


def test_all_who_find_it_corrupt_at_once_get_the_same(url: str, notes: Notes, tmp_path: Path) -> None:
    with pkgstore.open(url) as store, workers(4) as team:
        store.publish(store.bundle("app").key, b"no archive")
        for number, each in enumerate(team):
            each.start(ensure_now, url, str(tmp_path / f"{number}"), notes)
        trees = [each.result() for each in team]
        assert trees == [trees[0]] * 4
        assert notes.count("corrupt") == 4
        assert notes.count("built") == 1
        store.bundle("app").ensure(tmp_path / "last", never)


def test_what_was_replaced_meanwhile_is_not_deleted(store: Store, tmp_path: Path) -> None:
    wanted = store.bundle("app")
    store.publish(wanted.key, b"no archive")
    real = archives.unpack
    good = packed(fill, tmp_path / "tree")

    def unpack(*args: Any) -> None:
        try:
            real(*args)
        except pkgstore.Corrupt:
            store.publish(wanted.key, good, replace=True)
            raise

    with mock.patch.object(archives, "unpack", unpack):
        wanted.ensure(tmp_path / "packages", never)
    assert store.read(wanted.key) == good


def test_what_is_replaced_at_this_very_moment_is_not_deleted(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = store.bundle("app")
    store.publish(wanted.key, b"no archive")
    good = packed(fill, tmp_path / "tree")
    delete = pkgstore.Store.delete

    def late(self: Store, key: str, **how: Any) -> bool:
        store.publish(wanted.key, good, replace=True)
        return delete(self, key, **how)

    monkeypatch.setattr(pkgstore.Store, "delete", late)
    wanted.ensure(tmp_path / "packages", never)
    assert store.read(wanted.key) == good


def test_what_is_too_large_is_used_and_not_published(
    store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    small = store.bundle("app", max_archive_size=2000)
    small.ensure(tmp_path / "a", fill)
    assert "the bundle 'app' has more than 2000 bytes: it is not kept in memory://" in caplog.text
    assert len(told(tmp_path / "a")) == 6
    assert [blob.key for blob in store.list()] == [f"{small.key}.too-large"]
    # Who allows more publishes it, and who does not goes on without.
    store.bundle("app", max_archive_size="1Mi").ensure(tmp_path / "b", fill)
    assert store.stat(small.key).size > 1000
    store.bundle("app").ensure(tmp_path / "c", never)
    small.ensure(tmp_path / "d", lambda folder: fill(folder, seed=2))
    assert (tmp_path / "d" / "package" / "__init__.py").read_text() == "SEED = 2\n"
    store.bundle("app").ensure(tmp_path / "e", never)


@pytest.mark.parametrize("said", [b"", b"much", b"9" * 100, b"1999"])
def test_what_says_nothing_of_its_size_is_published(store: Store, tmp_path: Path, said: bytes) -> None:
    wanted = store.bundle("app", max_archive_size="1Mi")
    store.publish(f"{wanted.key}.too-large", said)
    wanted.ensure(tmp_path / "packages", fill)
    assert store.stat(wanted.key)


def test_what_is_too_large_is_not_fetched(store: Store, tmp_path: Path) -> None:
    store.bundle("app").ensure(tmp_path / "a", fill)
    with mock.patch.object(type(store), "open", side_effect=AssertionError):
        store.bundle("app", max_archive_size=1000).ensure(tmp_path / "b", fill)


def test_a_bomb_is_not_unpacked(store: Store, tmp_path: Path) -> None:
    def bomb(folder: Path) -> None:
        (folder / "bomb").touch()
        os.truncate(folder / "bomb", 4 * MiB)

    wanted = store.bundle("app", max_archive_size="1Mi")
    data = packed(bomb, tmp_path / "tree", 8 * MiB)
    assert len(data) < 2000
    store.publish(wanted.key, data)
    wanted.ensure(tmp_path / "packages", fill)
    assert len(told(tmp_path / "packages")) == 6
    assert store.read(wanted.key) == data


def test_what_is_known_to_be_too_large_is_built_by_all_at_once(local: str, notes: Notes, tmp_path: Path) -> None:
    with workers(3) as team:
        team[0].run(build_together, local, str(tmp_path / "first"), notes)
        notes.put("known")
        for number, each in enumerate(team):
            each.start(build_together, local, str(tmp_path / f"{number}"), notes)
        for each in team:
            each.result()
    assert notes.count("built") == 4


# -- failures ---------------------------------------------------------------------------------------------------------


def faulty(store: Store, *faults: Fault) -> tuple[FaultPlan, Store]:
    plan = FaultPlan(*faults)
    return plan, with_driver(store, FaultyDriver(store.driver, plan))


@pytest.mark.parametrize("verb", ["stat", "open", "put"])
def test_denied_is_an_error_and_not_a_miss(store: Store, tmp_path: Path, verb: Any) -> None:
    if verb == "open":
        store.publish(store.bundle("app").key, b"there")
    plan, broken = faulty(store, Fault(verb, error=pkgstore.Denied("403"), times=None))
    with plan, pytest.raises(pkgstore.Denied):
        broken.bundle("app").ensure(tmp_path / "packages", never)
    assert not (tmp_path / "packages").is_symlink()


def test_who_may_only_read_takes_what_is_there_and_builds_nothing(local: str, tmp_path: Path) -> None:
    pkgstore.open(local).close()
    with pkgstore.open(local, readonly=True) as readonly, pytest.raises(pkgstore.Denied):
        readonly.bundle("app").ensure(tmp_path / "a", never)
    with pkgstore.open(local) as store:
        store.bundle("app").ensure(tmp_path / "a", fill)
    with pkgstore.open(local, readonly=True) as readonly:
        readonly.bundle("app").ensure(tmp_path / "b", never)


def test_what_does_not_answer_is_tried_again_and_not_built_again(store: Store, tmp_path: Path) -> None:
    built: list[Path] = []

    def build(folder: Path) -> None:
        built.append(folder)
        fill(folder)

    real = type(store).publish
    refused = [pkgstore.Unavailable("away")] * 3

    def publish(self: Store, key: str, body: Any, **how: Any) -> Any:
        if key.endswith(".zst") and refused:
            raise refused.pop()
        return real(self, key, body, **how)

    with mock.patch.object(type(store), "publish", publish):
        store.bundle("app").ensure(tmp_path / "packages", build)
    assert len(built) == 1
    with mock.patch.object(type(store), "publish", publish):
        refused[:] = [pkgstore.Unavailable("away")] * 2
        with pytest.raises(pkgstore.Unavailable):
            store.bundle("app", ["2"], retries=1).ensure(tmp_path / "packages", build)
    assert refused == []


@pytest.mark.parametrize("retries", [0, 1, 3])
def test_a_build_that_fails_is_tried_again(store: Store, tmp_path: Path, retries: int) -> None:
    folders: list[Path] = []

    def build(folder: Path) -> None:
        assert os.listdir(folder) == []
        assert sorted(os.listdir(folder.parent)) == ["lock", folder.name]  # nothing is left of the last try
        folders.append(folder)
        (folder / "half").mkdir(0o500)
        raise ValueError("the index is away")

    with pytest.raises(ValueError, match="the index is away"):
        store.bundle("app", retries=retries).ensure(tmp_path / "packages", build)
    assert len(folders) == retries + 1
    assert parts(tmp_path / "packages") == []
    assert list(store.list()) == []
    assert not (tmp_path / "packages").is_symlink()


def test_a_build_that_succeeds_at_last(store: Store, tmp_path: Path) -> None:
    failures = [ValueError(), OSError(), KeyError()]

    def build(folder: Path) -> None:
        if failures:
            (folder / "half").touch()
            raise failures.pop()
        fill(folder)

    store.bundle("app").ensure(tmp_path / "packages", build)
    assert len(told(tmp_path / "packages")) == 6


def test_mistakes_are_not_tried_again(store: Store, tmp_path: Path) -> None:
    built: list[Path] = []

    def build(folder: Path) -> None:
        built.append(folder)
        (folder / "link").symlink_to("/etc")

    with pytest.raises(pkgstore.Misconfigured, match="have it make copies"):
        store.bundle("app").ensure(tmp_path / "packages", build)
    with pytest.raises(FileNotFoundError, match="its build removed it"):
        store.bundle("app").ensure(tmp_path / "packages", lambda folder: built.append(folder) or folder.rmdir())  # type: ignore[func-returns-value]
    assert len(built) == 2


def test_it_all_ends_at_its_timeout(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(pkgstore.Unavailable, match="the bundle 'app' was not there within 0 s"):
        store.bundle("app", timeout=0).ensure(tmp_path / "a", never)
    held = places.Place(tmp_path / "b")
    with held.locked(places.Deadline(10, "")), pytest.raises(pkgstore.LockTimeout, match="takes longer than the 0 s"):
        store.bundle("app", timeout=0).ensure(tmp_path / "b", never)
    # A slow restore, and a slow publish.
    store.bundle("app").ensure(tmp_path / "c", fill)
    real = archives.pack

    def pack(*args: Any) -> None:
        real(*args)
        over()

    def over() -> None:
        monkeypatch.setattr(places.Deadline, "left", 0.0)

    monkeypatch.setattr(archives, "unpack", lambda *args: (over(), args[-1]()))
    with pytest.raises(pkgstore.Unavailable, match="was not there within"):
        store.bundle("app").ensure(tmp_path / "d", never)
    monkeypatch.undo()
    monkeypatch.setattr(archives, "pack", pack)
    with pytest.raises(pkgstore.Unavailable, match="was not there within"):
        store.bundle("slow").ensure(tmp_path / "e", fill)
    assert [blob.key for blob in store.list()] == [store.bundle("app").key]


def test_who_waits_for_another_host_waits_no_longer_than_that(store: Store, tmp_path: Path) -> None:
    wanted = store.bundle("app", timeout=0.2)
    with store._leases.take(wanted.key, 60) or contextlib.nullcontext(), pytest.raises(pkgstore.LockTimeout):
        wanted.ensure(tmp_path / "packages", never)


def test_it_is_said_what_it_does(store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        store.bundle("app").ensure(tmp_path / "packages", fill)
    assert caplog.records == []


# -- names and inputs -------------------------------------------------------------------------------------------------


def test_the_key_is_of_all_that_decides(store: Store, tmp_path: Path) -> None:
    (tmp_path / "one").write_text("six==1")
    (tmp_path / "same").write_text("six==1")
    facts = identity.facts_of(None, [sys.executable])
    key = store.bundle("app", ["a", tmp_path / "one"]).key
    assert key == store.bundle("app", ["a", tmp_path / "same"]).key
    others = [
        store.bundle("other", ["a", tmp_path / "one"]),
        store.bundle("app", ["a"]),
        store.bundle("app", ["b", tmp_path / "one"]),
        store.bundle("app", ["a", "six==1"]),
        store.bundle("app", ["a", b"six==1"]),
        store.bundle("app", [tmp_path / "one", "a"]),
        *(bundle.make(store, "app", ["a", tmp_path / "one"], facts={**facts, name: "other"}) for name in facts),
    ]
    (tmp_path / "one").write_text("six==2")
    others.append(store.bundle("app", ["a", tmp_path / "one"]))
    assert len({key, *(each.key for each in others)}) == 1 + len(others)
    assert pkgstore.keys.check(key).startswith("bundles/app/")
    with pytest.raises(pkgstore.Misconfigured, match="cannot be read"):
        store.bundle("app", [tmp_path / "none"])
    with pytest.raises(TypeError, match="give a list"):
        store.bundle("app", "a")


@pytest.mark.parametrize("name", ["", "a/b", "..", ".a", "a.", "nul", "a b", "é", "x" * 101])
def test_names_that_cannot_be(store: Store, name: str) -> None:
    with pytest.raises(pkgstore.Misconfigured, match="cannot name a bundle"):
        store.bundle(name)


def test_options_that_cannot_be(store: Store) -> None:
    for option in ({"retries": -1}, {"timeout": -1}, {"max_archive_size": "much"}):
        with pytest.raises(pkgstore.Misconfigured):
            store.bundle("app", **option)  # type: ignore[arg-type]


def test_a_scope_keeps_it_in_its_own_part(store: Store, tmp_path: Path) -> None:
    wanted = store.scope("team/").bundle("app")
    wanted.ensure(tmp_path / "packages", fill)
    assert [blob.key for blob in store.list()] == [f"team/{wanted.key}"]
