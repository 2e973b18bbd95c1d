"""Two stores as one: `pkgstore.open([new, old])`."""

from __future__ import annotations

import pickle
import threading
import uuid
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import Phase, settings
from hypothesis.stateful import run_state_machine_as_test

import pkgstore
from pkgstore import Store
from pkgstore.pair import Pair
from pkgstore.testing.machine import StoreMachine
from pkgstore.testing.sources import Stream
from tests.command import PKGSTORE
from tests.packages import upload_form, wheel, wheel_name
from tests.servers import running

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

METHODS = {name for name, value in vars(Store).items() if callable(value) and not name.startswith("_")}
INHERITED = {"bundle", "control", "publish", "get_or_publish", "read", "reencrypt", "scope"}
"""Methods that are right for a pair as they are: built on others, or on what a pair gives its own version of."""


@pytest.fixture
def stores(tmp_path: Path) -> Iterator[tuple[Store, Store, Store]]:
    """Yield a pair, the new store and the old one."""
    pkgstore.open(tmp_path / "old").close()
    with (
        pkgstore.open([tmp_path / "new", str(tmp_path / "old")]) as pair,
        pkgstore.open(tmp_path / "new") as new,
        pkgstore.open(tmp_path / "old") as old,
    ):
        yield pair, new, old


def test_every_public_method_was_thought_of() -> None:
    assert vars(Pair).keys() >= METHODS - INHERITED


def test_reading_falls_through(stores: tuple[Store, Store, Store]) -> None:
    pair, new, old = stores
    old.publish("a", b"old")
    old.publish("b", b"old")
    new.publish("b", b"new")
    assert (pair.read("a"), pair.read("b")) == (b"old", b"new")
    assert pair.stat("a") == old.stat("a")
    assert pair.stat("b") == new.stat("b")
    assert pair.adopt("a").digests == old.stat("a").digests
    assert pair.local_path("a") == old.local_path("a")
    assert pair.local_path("b") == new.local_path("b")
    with pair.open("a") as reader:
        assert reader.read() == b"old"
    for ask in (pair.read, pair.stat, pair.open, pair.adopt, pair.local_path):
        with pytest.raises(pkgstore.NotFound, match="'c' is neither in file://.*new nor in file://.*old") as caught:
            ask("c")
        assert caught.value.key == "c"


def test_listings_are_merged_and_sorted(stores: tuple[Store, Store, Store]) -> None:
    pair, new, old = stores
    for key in ("a/1", "b", "d/x", "d!"):
        old.publish(key, b"old")
    for key in ("a/0", "b", "c", "d/y"):
        new.publish(key, b"new!")
    found = list(pair.list())
    assert [blob.key for blob in found] == sorted(["a/0", "a/1", "b", "c", "d!", "d/x", "d/y"])
    assert {blob.key for blob in found if blob.size == 4} == {"a/0", "b", "c", "d/y"}
    assert [blob.key for blob in pair.list("d/")] == ["d/x", "d/y"]
    assert [blob.key for blob in pair.scope("d/").list()] == ["x", "y"]


def test_a_key_of_the_old_store_is_taken(stores: tuple[Store, Store, Store]) -> None:
    pair, new, old = stores
    held = old.publish("a", b"old")
    for body, identical in ((b"old", True), (b"new", False), (Stream(b"old"), True), (Stream(b"new"), False)):
        with pytest.raises(pkgstore.Exists, match="'a' is already in file://.*new, before file://.*old") as caught:
            pair.publish("a", body)
        assert (caught.value.identical, caught.value.blob) == (identical, held)
    assert list(new.list()) == []
    with pytest.raises(pkgstore.Exists):
        pair.scope("x/").publish("a", b"1") and pair.scope("x/").publish("a", b"1")
    assert pair.get_or_publish("a", lambda: b"none").size == 3
    assert pair.get_or_publish("b", lambda: b"made") == new.stat("b")


def test_publishing_and_replacing_go_to_the_new_store(stores: tuple[Store, Store, Store]) -> None:
    pair, new, old = stores
    old.publish("a", b"old")
    pair.publish("b", b"new")
    pair.publish("a", b"newer", replace=True)
    assert (pair.read("a"), new.read("a"), old.read("a"), new.read("b")) == (b"newer", b"newer", b"old", b"new")
    assert [blob.key for blob in old.list()] == ["a"]


def test_what_is_deleted_does_not_come_back(stores: tuple[Store, Store, Store]) -> None:
    pair, new, old = stores
    old.publish("both", b"old")
    old.publish("old", b"old")
    new.publish("both", b"new")
    new.publish("new", b"new")
    for key in ("both", "old", "new", "none"):
        pair.delete(key)
        with pytest.raises(pkgstore.NotFound):
            pair.read(key)
    assert list(pair.list()) == list(old.list()) == list(new.list()) == []


def test_a_delete_is_bound_to_the_version_that_is_seen(stores: tuple[Store, Store, Store]) -> None:
    pair, new, old = stores
    older = old.publish("a", b"old")
    pair.delete("a", tag="another")
    assert pair.read("a") == b"old"
    newer = new.publish("a", b"new")
    pair.delete("a", tag=older.tag)
    assert pair.read("a") == b"new"
    pair.delete("a", tag=newer.tag)
    assert list(pair.list()) == []
    older = old.publish("a", b"old")
    pair.delete("a", tag=older.tag)
    assert list(pair.list()) == []


@pytest.mark.parametrize("is_tagged", [False, True])
def test_what_is_published_in_the_middle_of_a_delete_stays(
    stores: tuple[Store, Store, Store], monkeypatch: pytest.MonkeyPatch, *, is_tagged: bool
) -> None:
    pair, _, old = stores
    blob = old.publish("a", b"old")
    delete, acts = Store.delete, [lambda: pair.publish("a", b"new")]

    def and_publish(self: Store, key: str, **options: Any) -> bool:
        found = delete(self, key, **options)
        if acts:
            acts.pop()()
        return found

    monkeypatch.setattr(Store, "delete", and_publish)
    assert pair.delete("a", tag=blob.tag if is_tagged else None)
    assert pair.read("a") == b"new"


def test_a_tagged_delete_says_that_it_was_there_when_a_mirror_took_its_copy_back_first(
    stores: tuple[Store, Store, Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    pair, new, old = stores
    old.publish("a", b"1")
    copy = new.publish("a", b"1")
    delete = Store.delete

    def taken_back(self: Store, key: str, **options: Any) -> bool:
        found = delete(self, key, **options)
        delete(new, key, tag=copy.tag)
        return found

    monkeypatch.setattr(Store, "delete", taken_back)
    assert pair.delete("a", tag=copy.tag)
    assert list(pair.list()) == []


def test_an_old_store_that_is_only_read(tmp_path: Path) -> None:
    with pkgstore.open(tmp_path / "old") as old:
        old.publish("a", b"old")
    with pkgstore.open([tmp_path / "new", f"file://{tmp_path}/old?readonly=yes"]) as pair:
        pair.publish("b", b"new")
        pair.delete("b")
        with pytest.raises(pkgstore.Denied, match="cannot delete 'a': file://.*old, which has it too, is open for"):
            pair.delete("a")
        assert pair.read("a") == b"old"
    with pkgstore.open([tmp_path / "new", tmp_path / "old"], readonly=True) as pair:
        for change in (lambda: pair.publish("c", b"1"), lambda: pair.delete("a")):
            with pytest.raises(pkgstore.Denied):
                change()


def test_the_quota_is_that_of_the_new_store(stores: tuple[Store, Store, Store]) -> None:
    pair, new, old = stores
    old.publish("a", bytes(100))
    pair.set_quota(50)
    pair.publish("b", bytes(10))
    pair.publish("a", bytes(20), replace=True)
    assert (pair.usage().bytes, new.usage().bytes) == (30, 30)
    with pytest.raises(pkgstore.QuotaExceeded):
        pair.publish("c", bytes(21))
    pair.delete("a")
    pair.delete("b")
    assert pair.usage() == pair.usage(recount=True)
    assert pair.usage().bytes == 0


def test_it_is_sent_to_others_as_a_pair(stores: tuple[Store, Store, Store]) -> None:
    pair, _, old = stores
    old.publish("team/a", b"old")
    other = pickle.loads(pickle.dumps(pair.scope("team/")))
    assert (other.read("a"), other.where) == (b"old", pair.scope("team/").where)
    with pytest.raises(pkgstore.Exists):
        other.publish("a", b"new")


def test_closing_closes_both(tmp_path: Path) -> None:
    pkgstore.open(tmp_path / "old").close()
    pair = pkgstore.open([tmp_path / "new", tmp_path / "old"])
    pair.scope("x/").close()
    assert list(pair.list()) == []
    pair.close()
    pair.close()
    assert isinstance(pair, Pair)
    for store in (pair, pair.new, pair.old):
        with pytest.raises(ValueError, match="is closed"):
            store.stat("a")


def test_what_cannot_be_a_pair(tmp_path: Path) -> None:
    with pytest.raises(pkgstore.NotFound):
        pkgstore.open([tmp_path / "new", tmp_path / "old"], create=True)
    assert not (tmp_path / "new").exists()
    pkgstore.open(tmp_path / "old").close()
    with pytest.raises(pkgstore.Misconfigured, match="are one store, and no two"):
        pkgstore.open([tmp_path / "old", tmp_path / "old"])
    with pytest.raises(pkgstore.NotFound):
        pkgstore.open([tmp_path / "new", tmp_path / "old"], create=False)
    for urls in ([], [tmp_path], [tmp_path] * 3):
        with pytest.raises(pkgstore.Misconfigured, match=f"not by {len(urls)}"):
            pkgstore.open(urls)


def test_of_many_who_publish_one_wins(stores: tuple[Store, Store, Store]) -> None:
    pair, _, old = stores
    old.publish("1", b"old")
    won: list[tuple[str, int]] = []

    def publish(number: int) -> None:
        for key in map(str, range(10)):
            try:
                pair.publish(key, b"%d" % number)
            except pkgstore.Exists:
                continue
            won.append((key, number))

    threads = [threading.Thread(target=publish, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(key for key, _ in won) == [str(number) for number in range(10) if number != 1]
    assert all(pair.read(key) == b"%d" % number for key, number in won)


def test_it_is_a_store() -> None:
    def opener(url: str, **options: Any) -> Store:
        pkgstore.open(f"{url}-old").close()
        return pkgstore.open([url, f"{url}-old"], **options)

    url = f"memory://{uuid.uuid4().hex}"
    machine = type("Machine", (StoreMachine,), {"opener": staticmethod(opener), "url": url, "published": set()})
    checks = settings(max_examples=50, deadline=None, database=None, derandomize=True, phases=[Phase.generate])
    run_state_machine_as_test(machine, settings=checks)


def test_an_index_is_served_from_both(tmp_path: Path) -> None:
    for name, version in (("old", "1.0"), ("new", "2.0")):
        with pkgstore.open(tmp_path / name) as store:
            store.publish(wheel_name("moving", version), wheel("moving", version))

    def command(port: int) -> list[str]:
        where = [str(tmp_path / "new"), "-i", "127.0.0.1", "-p", str(port), "-P", ".", "-a", "."]
        return [*PKGSTORE, "serve", "--before", str(tmp_path / "old"), *where]

    with running(command, tmp_path / "log", ready="/health") as server:
        page = server.request("GET", "/simple/moving/").text
        assert "moving-1.0" in page
        assert "moving-2.0" in page
        found = server.request("GET", f"/packages/{wheel_name('moving', '1.0')}")
        assert (found.status, found.body) == (200, wheel("moving", "1.0"))
        for version, status in (("1.0", 409), ("3.0", 200)):
            headers, body = upload_form(wheel_name("moving", version), wheel("moving", version) + b"!")
            assert server.request("POST", "/", headers, body).status == status
    with pkgstore.open(tmp_path / "old") as old, pkgstore.open(tmp_path / "new") as new:
        assert len(list(old.list())) == 1
        assert len(list(new.list())) == 2
