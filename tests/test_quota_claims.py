"""Keys that are replaced and deleted under a quota: claimed while they change, and not longer."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import pytest

import pkgstore
from pkgstore import LockTimeout, Unavailable
from pkgstore.accounts import Amounts
from pkgstore.ledger import Ledger
from pkgstore.quota import Quota
from pkgstore.testing.faults import Fault, FaultPlan, FaultyDriver, with_driver
from pkgstore.testing.processes import until
from pkgstore.testing.sources import Once, Stream
from tests import needs
from tests.quotas import LIMIT, SHORT, assert_exact, document, hooked, limited, quick, store, url, visible
from tests.told import Told

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pkgstore import Store

__all__ = ["quick", "store", "url"]


@pytest.mark.parametrize("there", [True, False], ids=["there", "absent"])
@pytest.mark.parametrize("meanwhile", ["replaced", "published", "deleted"])
def test_nobody_waits_for_the_body_of_a_replacement(url: str, store: Store, meanwhile: str, there: bool) -> None:
    if there:
        store.publish("a", bytes(100))
    with pkgstore.open(url) as other:

        def change() -> None:
            if meanwhile == "deleted":
                other.delete("a")
            elif meanwhile == "replaced" or not there:
                other.publish("a", bytes(200), replace=meanwhile == "replaced")

        once = Once(change)
        store.publish("a", Told(bytes(300), lambda at: once()), replace=True)
        assert visible(store) == (300, 1)
        assert_exact(store)


def test_what_is_published_where_something_was_deleted_is_counted(url: str, store: Store) -> None:
    store.publish("a", bytes(100))
    with hooked(url) as (other, driver):
        delete = Once(lambda: store.delete("a"))
        driver.before = Once(lambda: store.publish("a", bytes(50)))
        other.publish("a", Told(bytes(300), lambda at: delete()), replace=True)
        other._quota.close()
        assert visible(store) == (300, 1)
        assert_exact(store)


def test_a_look_that_fails_is_made_again(url: str, store: Store) -> None:
    """What was there before the key was claimed is a guess, for a second try as for the first."""
    store.publish("a", bytes(100))
    with hooked(url) as (other, driver):
        driver._plan = FaultPlan(Fault("stat", "before", nth=2))
        change = Once(lambda: store.publish("a", bytes(200), replace=True))
        with unretried(other, "stat"):
            other.publish("a", Told(bytes(300), lambda at: change()), replace=True)
        assert driver._plan.unfired == []
        other._quota.close()
        assert_exact(store)


@contextlib.contextmanager
def unretried(store: Store, verb: str) -> Iterator[None]:
    """Let calls for one verb fail at once, as when their time is over and that of the call around them is not."""
    call = store._calls.call

    def once(what: str, *args: Any, retry: bool = True, **options: Any) -> Any:
        return call(what, *args, retry=retry and what != verb, **options)

    with patch.object(store._calls, "call", once):
        yield


def test_a_stream_is_sent_once_and_keeps_its_key_to_itself(url: str, store: Store) -> None:
    store.publish("a", bytes(100))
    with pkgstore.open(url, timeout=0.1) as other:

        def change() -> None:
            with pytest.raises(LockTimeout, match=r"^'a' in file://\S+ was not changed, as others have been replacing"):
                other.delete("a")

        class Body(Stream):
            def read(self, size: int = -1, /) -> bytes:
                once()
                return super().read(size)

        once = Once(change)
        store.publish("a", Body(bytes(300)), replace=True)
        assert visible(store) == (300, 1)
        assert_exact(store)


def test_who_replaces_again_and_again_lets_go(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.publish("a", b"1", replace=True)
    claims: list[list[str]] = []
    update = Ledger.update

    def noted(self: Ledger, change: Any) -> Any:
        entry = update(self, change)
        claims.append([claim for each in entry.document["holders"].values() for claim in each["claims"]])
        return entry

    store._quota._claimed["a"] -= SHORT
    monkeypatch.setattr(Ledger, "update", noted)
    store.publish("a", b"2", replace=True)
    assert claims[:2] == [[], ["a"]]


def test_a_scope_has_no_more_left_than_its_store(store: Store) -> None:
    tenant, other = store.scope("tenant/"), store.scope("other/")
    tenant.set_quota(5 * LIMIT)
    other.set_quota(blobs=5)
    tenant.publish("a", bytes(400))
    until(lambda: not document(store).get("holders"), "that all is quiet")
    assert [each.usage().available for each in (store, tenant, other)] == [600, 600, 600]
    tenant.set_quota(500)
    assert [each.usage().available for each in (store, tenant, other)] == [600, 100, 600]
    assert store.scope("unlimited/").usage().available == 600


def test_a_medium_that_is_full_to_the_last_byte_can_be_cleared(tmp_path: Path) -> None:
    with (
        needs.mounted("tmpfs", tmp_path / "small", "size=4m") as folder,
        limited(f"file://{folder}/store", 1 << 30) as store,
    ):
        store.publish("a", bytes(1 << 20))
        until(lambda: not document(store).get("holders"), "that all is quiet")
        with contextlib.suppress(OSError), (folder / "ballast").open("wb", 0) as ballast:
            while True:
                ballast.write(bytes(4096))
        with pytest.raises(pkgstore.Full):
            store.publish("b", b"1")
        store.delete("a")
        assert visible(store) == (0, 0)
        assert_exact(store)


def test_a_reply_is_lost_on_a_full_medium(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.publish("a", bytes(500))
    until(lambda: not document(store).get("holders"), "that all is quiet")
    with monkeypatch.context() as patched:

        def full(*args: Any) -> None:
            raise pkgstore.Full("there is no room")

        patched.setattr(Quota, "_claim", full)
        plan = FaultPlan(Fault("delete", "after"))
        other = with_driver(store, FaultyDriver(store.driver, plan), timeout=0)
        with pytest.raises(Unavailable):
            other.delete("a")
    until(lambda: store.usage().bytes == 0, "that it is counted")
    assert_exact(store)
    other._quota.close()


def test_threads_wait_for_an_outage_together(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    threads = 8
    tries = []
    with limited(url), hooked(url, timeout=2.0) as (store, driver):
        store.publish("first", b"1")
        update, begin = Ledger.update, threading.Barrier(threads)

        def noted(self: Ledger, change: Any) -> Any:
            if threading.current_thread().name.startswith("publisher"):
                tries.append(self)
            return update(self, change)

        def publish(number: int) -> None:
            begin.wait()
            with pytest.raises(Unavailable):
                store.publish(f"{number}", b"1")
            told.append(number)

        told: list[int] = []
        monkeypatch.setattr(Ledger, "update", noted)
        with store._quota._changed:
            store._quota._spare = Amounts()
            driver.is_cut_off = True
        crowd = [
            threading.Thread(target=publish, args=(number,), name=f"publisher {number}") for number in range(threads)
        ]
        for each in crowd:
            each.start()
        for each in crowd:
            each.join()
        driver.is_cut_off = False
        assert sorted(told) == list(range(threads))
        assert 1 <= len(tries) <= threads / 2
