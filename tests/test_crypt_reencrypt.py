"""Re-encryption: all is under the new key in the end, nothing else has changed, and nobody's publish is undone."""

from __future__ import annotations

import json
import pickle
import random
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import pkgstore
from pkgstore import Corrupt, Denied, Misconfigured, QuotaExceeded, accounts, holder, tending, trash
from pkgstore.crypt import keyring
from pkgstore.crypt.driver import SealedDriver
from pkgstore.quota import Quota
from pkgstore.reencryption import Reencryption
from pkgstore.testing.suite.harness import held
from tests.command import run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pkgstore import Store, Usage


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accounts, "LEASE", 1.0)
    monkeypatch.setattr(holder, "LOOK", 0.0)
    monkeypatch.setattr(tending, "TICK", 0.02)
    monkeypatch.setattr(tending, "_IDLE", 0.1)


@pytest.fixture
def rng() -> random.Random:
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")
    return random.Random(seed)


@pytest.fixture
def ring(tmp_path: Path) -> str:
    keyring.make(str(tmp_path / "ring"))
    return str(tmp_path / "ring")


@pytest.fixture
def store(tmp_path: Path, ring: str) -> Iterator[Store]:
    with pkgstore.open(tmp_path / "store", keyring=ring) as store:
        yield store


def rotated(ring: str) -> str:
    return keyring.add(ring, activate=True).id


def ids(store: Store) -> set[str]:
    """Return the keys under which the blobs of a store are sealed."""
    driver = store.driver
    assert isinstance(driver, SealedDriver)
    return {driver.sealed_under(blob.key)[1] for blob in store.list()}


def counted(usage: Usage) -> tuple[int, int]:
    return usage.blobs, usage.bytes


def without_old_keys(ring: str, tmp_path: Path) -> str:
    """Return a keyring with the active key alone."""
    document = json.loads(Path(ring).read_text())
    document["keys"] = [each for each in document["keys"] if each["id"] == document["active"]]
    path = tmp_path / "new ring"
    path.touch(mode=0o600)
    path.write_text(json.dumps(document))
    return str(path)


def test_everything_is_under_the_new_key(store: Store, ring: str, tmp_path: Path, rng: random.Random) -> None:
    for number in range(12):
        store.publish(f"pkg/{number}", rng.randbytes(number * 30_000), digests={"md5": None})
    calls = store._calls
    with pkgstore.open(tmp_path / "store", keyring=ring, catalog=tmp_path / "catalog") as known:
        known.stat("pkg/5")
        known.warm(share=True)
    before, digests = held(store), {blob.key: blob.digests for blob in store.list()}
    usage = store.usage()
    new = rotated(ring)
    store.publish("late", b"under the new key already")
    done: list[Any] = []
    result = store.reencrypt(jobs=3, progress=lambda key, blob: done.append((key, blob)))
    assert (result.renewed, result.current, result.gone, result.failed) == (13, 1, 0, [])
    assert len(done) == 14
    assert ids(store) == {new}
    assert {key: blob.digests for key, blob in done if blob and key in digests} == digests
    store.delete("late")
    assert counted(store.usage()) == counted(usage) == counted(store.usage(recount=True))
    with pkgstore.open(tmp_path / "store", keyring=without_old_keys(ring, tmp_path)) as after:
        assert held(after) == before
        assert {blob.key: blob.digests for blob in after.list()} == digests
        assert after.driver.open(".pkgstore/catalog/snapshot.gz")[1].read(2) == b"\x1f\x8b"
    again = store.reencrypt()
    assert (again.renewed, again.current) == (0, 13)
    assert calls is store._calls


def test_the_trash_knows_what_went_last_and_with_what(store: Store, ring: str) -> None:
    for number in range(8):
        for version in range(3):
            companion = store.publish(f"{number}.metadata", b"of %d" % version)
            blob = store.publish(f"{number}", b"version %d" % version)
            assert trash.discard(store, companion, why="old", keep="30d", goes_with=blob)
            assert trash.discard(store, blob, why="old", keep="30d")
    before = sorted(trash.trashed(store), key=lambda each: each.name)
    rotated(ring)
    assert store.reencrypt().renewed == 2 * 2 * 3 * 8
    assert sorted(trash.trashed(store), key=lambda each: each.name) == before
    for number in range(8):
        assert [blob.key for blob in trash.undelete(store, f"{number}")] == [f"{number}", f"{number}.metadata"]
        assert store.read(f"{number}") == b"version 2"
        assert store.read(f"{number}.metadata") == b"of 2"


def test_what_a_share_has_deleted_and_not_let_go_of_is_left_alone(store: Store, ring: str, tmp_path: Path) -> None:
    store.publish("a", b"1")
    waiting = tmp_path / "store" / ".pkgstore" / "trash" / ("0" * 32)
    waiting.parent.mkdir()
    waiting.write_bytes((tmp_path / "store" / "a").read_bytes())
    before = waiting.read_bytes()
    rotated(ring)
    result = store.reencrypt()
    assert (result.renewed, result.failed, waiting.read_bytes()) == (1, [], before)


def test_other_processes_do_it(store: Store, ring: str, tmp_path: Path, rng: random.Random) -> None:
    """Which have accounts before their first blob, and the same keyring."""
    for number in range(12):
        store.publish(f"pkg/{number}", rng.randbytes(number * 3_000))
    before = held(store)
    new = rotated(ring)
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        result = store.reencrypt(executor=pool, jobs=3)
        assert (result.renewed, result.current, result.gone, result.failed) == (12, 0, 0, [])
        assert ids(store) == {new}
        assert store.scope("pkg/").reencrypt(executor=pool).current == 12
    assert held(store) == before
    assert counted(store.usage()) == counted(store.usage(recount=True)) == (12, sum(map(len, before.values())))
    calls = store._calls
    elsewhere = Reencryption(calls, store._quota, "", partial(other_keyring, str(tmp_path)))
    with pytest.raises(Misconfigured, match=rf"and who sent them {new}: give both the same keyring"):
        pickle.loads(pickle.dumps(elsewhere))


def other_keyring(folder: str, active: str) -> Reencryption:
    """Return a re-encryption as another process has it, whose keyring has a newer active key."""
    ring = f"{folder}/other"
    shutil.copy(f"{folder}/ring", ring)
    rotated(ring)
    with pkgstore.open(f"{folder}/store", keyring=ring) as other:
        return other._reencryption(active)


def test_a_part_of_a_store(store: Store, ring: str) -> None:
    for key in ("one/a", "two/a"):
        store.publish(key, b"1")
    new = rotated(ring)
    assert store.scope("one/").reencrypt().renewed == 1
    driver = store.driver
    assert isinstance(driver, SealedDriver)
    assert driver.sealed_under("one/a")[1] == new
    assert driver.sealed_under("two/a")[1] != new


def test_limits_stay_and_hold(store: Store, ring: str) -> None:
    store.publish("a", b"12345")
    store.publish("b", b"12345")
    store.set_quota(14, blobs=5)
    rotated(ring)
    result = store.reencrypt(jobs=1)
    assert [(key, type(error)) for key, error in result.failed] == [("a", QuotaExceeded), ("b", QuotaExceeded)]
    store.set_quota(15, blobs=5)
    assert store.reencrypt(jobs=1).renewed == 2
    usage = store.usage()
    assert (usage.bytes, usage.blobs, usage.limit, usage.blob_limit) == (10, 2, 15, 5)


def test_what_fails_is_told_and_the_rest_is_done(store: Store, ring: str, tmp_path: Path) -> None:
    for key in "abcd":
        store.publish(key, key.encode() * 1000)
    (tmp_path / "store" / "b").write_bytes((tmp_path / "store" / "a").read_bytes())
    (tmp_path / "store" / "c").write_bytes(b"by hand")
    before = (tmp_path / "store" / "b").read_bytes()
    new = rotated(ring)
    result = store.reencrypt()
    assert [(key, type(error)) for key, error in result.failed] == [("b", Corrupt), ("c", Corrupt)]
    assert result.renewed == 2
    assert (tmp_path / "store" / "b").read_bytes() == before
    rotated(other := without_old_keys(ring, tmp_path))
    with pkgstore.open(tmp_path / "store", keyring=other) as others:
        third = others.driver.keyring.active.id  # type: ignore[attr-defined]
        others.publish("e", b"1")
    result = store.reencrypt()
    assert [(key, type(error)) for key, error in result.failed][2:] == [("e", Denied)]
    assert third in str(result.failed[2][1])
    shown = run("keys", "reencrypt", tmp_path / "store", "-o", f"keyring={ring}", "--json")
    lines = [json.loads(line) for line in shown.stdout.splitlines()]
    assert [line.get("key") for line in lines] == ["b", "c", "e", None]
    assert lines[-1] == {"renewed": 0, "current": 2, "gone": 0, "failed": 3}
    assert shown.returncode == 8
    assert new in keyring.held(ring).by_id


def test_where_there_is_nothing_to_do(tmp_path: Path, store: Store) -> None:
    with pkgstore.open(tmp_path / "plain") as plain, pytest.raises(Misconfigured, match="is not encrypted"):
        plain.reencrypt()
    with pkgstore.open(tmp_path / "store") as blind, pytest.raises(Denied, match="no keyring was given"):
        blind.reencrypt()
    for options in ({"readonly": True}, {"ciphertext": True}):
        with pkgstore.open(tmp_path / "store", **options) as other, pytest.raises(Denied):
            other.reencrypt()


# -- at the same moment -----------------------------------------------------------------------------------------------


def meanwhile(monkeypatch: pytest.MonkeyPatch, key: str, act: Callable[[], object]) -> None:
    """Have something happen after re-encryption has read a blob, and before it writes it."""
    original = Quota.publish
    acted = []

    def publish(self: Quota, path: str, *args: Any, version: str | None = None, **options: Any) -> Any:
        if version is not None and path == key and not acted:
            acted.append(True)
            act()
        return original(self, path, *args, version=version, **options)

    monkeypatch.setattr(Quota, "publish", publish)


def test_a_blob_that_is_replaced_meanwhile(
    store: Store, ring: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.publish("a", b"old")
    new = rotated(ring)
    with pkgstore.open(tmp_path / "store", keyring=ring) as other:
        meanwhile(monkeypatch, "a", lambda: other.publish("a", b"new", replace=True))
        result = store.reencrypt()
    assert (result.renewed, result.current, result.failed) == (0, 1, [])
    assert store.read("a") == b"new"
    assert ids(store) == {new}


def test_a_blob_that_is_deleted_meanwhile(
    store: Store, ring: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.publish("a", b"old")
    rotated(ring)
    with pkgstore.open(tmp_path / "store", keyring=ring) as other:
        meanwhile(monkeypatch, "a", lambda: other.delete("a"))
        assert store.reencrypt().gone == 1
    assert list(store.list()) == []
    assert store.usage(recount=True).blobs == 0


def test_a_blob_that_is_deleted_and_published_anew_meanwhile(
    store: Store, ring: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.publish("a", b"old")
    rotated(ring)

    def act() -> None:
        other.delete("a")
        other.publish("a", b"new")

    with pkgstore.open(tmp_path / "store", keyring=ring) as other:
        meanwhile(monkeypatch, "a", act)
        assert store.reencrypt().failed == []
    assert store.read("a") == b"new"


def test_replacing_all_the_while(store: Store, ring: str, tmp_path: Path) -> None:
    """One writer for each key replaces it again and again: in the end, each key holds what its writer wrote last."""
    keys = ["a", "b", "c"]
    store.set_quota(None)
    for key in keys:
        store.publish(key, b"0")
    stop = threading.Event()
    last: dict[str, bytes] = {}
    errors: list[BaseException] = []

    def replace(key: str) -> None:
        try:
            with pkgstore.open(tmp_path / "store", keyring=ring) as own:
                number = 0
                while not stop.wait(0.05):  # so that others get at the key, too
                    number += 1
                    own.publish(key, b"%d" % number, replace=True)
                    last[key] = b"%d" % number
        except BaseException as exc:  # noqa: BLE001 - told by the main thread
            errors.append(exc)

    threads = [threading.Thread(target=replace, args=(key,)) for key in keys]
    for thread in threads:
        thread.start()
    try:
        for _ in range(8):
            rotated(ring)
            assert store.reencrypt(jobs=3).failed == []
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert errors == []
    assert held(store) == last
    assert counted(store.usage()) == counted(store.usage(recount=True))


# -- killed and run again ---------------------------------------------------------------------------------------------

RUN = """
import sys
import pkgstore
from pkgstore import accounts, holder, tending
accounts.LEASE, holder.LOOK, tending.TICK, tending._IDLE = 1.0, 0.0, 0.02, 0.1
with pkgstore.open(sys.argv[1], keyring=sys.argv[2]) as store:
    print("begun", flush=True)
    result = store.reencrypt(jobs=2, progress=lambda key, blob: print(key, flush=True))
assert not result.failed, result
print("ended", flush=True)
"""


def test_killed_and_run_again(store: Store, ring: str, tmp_path: Path, rng: random.Random) -> None:
    for number in range(40):
        store.publish(f"pkg/{number}", rng.randbytes(rng.randrange(200_000)))
    before, usage = held(store), store.usage()
    new = rotated(ring)
    kills = 0
    while True:
        command = [sys.executable, "-c", RUN, str(tmp_path / "store"), ring]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            lines = rng.randrange(2, 25) if kills < 4 else 1000
            told = [line for _, line in zip(range(lines), process.stdout, strict=False)]
            if told[-1] == "ended\n":
                break
            process.kill()
            kills += 1
        assert held(store) == before, "whole at any time"
    assert kills >= 3
    assert ids(store) == {new}
    with pkgstore.open(tmp_path / "store", keyring=without_old_keys(ring, tmp_path)) as after:
        assert held(after) == before
    assert counted(store.usage(recount=True)) == counted(usage)


# -- mutants ----------------------------------------------------------------------------------------------------------


def test_a_mutant_that_looks_at_no_version(
    store: Store, ring: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would bring back what another has just replaced."""
    original = Quota.publish

    def publish(self: Quota, *args: Any, version: str | None = None, **options: Any) -> Any:
        return original(self, *args, **options)

    monkeypatch.setattr(Quota, "publish", publish)
    with pytest.raises(AssertionError):
        test_a_blob_that_is_replaced_meanwhile(store, ring, tmp_path, monkeypatch)
    assert store.read("a") == b"old"
