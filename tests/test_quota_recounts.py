"""Recounts that meet slow media, slow publishers and each other; and what failed in one, for a later one to mend."""

from __future__ import annotations

import contextlib
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import pytest

import pkgstore
from pkgstore import QuotaExceeded, Unavailable, accounts, tending
from pkgstore.accounts import Amounts, Short
from pkgstore.testing.faults import Fault, FaultPlan, FaultyDriver, Outage, with_driver
from pkgstore.testing.processes import until
from pkgstore.testing.sources import Once
from tests.quotas import SHORT, Hooked, assert_exact, die, document, hooked, quick, store, url, visible
from tests.told import Told

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import Executor

    from pkgstore import Blob, Store

__all__ = ["quick", "store", "url"]


@pytest.fixture
def steady(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have nobody taken for dead whom a busy machine holds up."""
    monkeypatch.setattr(accounts, "LEASE", 3 * SHORT)


class Slow(Hooked):
    """A driver whose list of all blobs takes longer than a lease before its first name, each time that it is asked."""

    fails: type[BaseException] | None = None
    counts = 0

    def scan(self, prefix: str) -> Iterator[Blob]:
        found = list(super().scan(prefix))
        if not prefix:
            self.counts += 1
            if self.fails:
                raise self.fails
            time.sleep(3 * accounts.LEASE)
        yield from found


def asleep(store: Store) -> Callable[[], None]:
    """Have a process do nothing at all in its quota; return what wakes it."""

    def hold() -> None:
        with store._quota._changed:
            begun.set()
            over.wait(60)

    def wake() -> None:
        over.set()
        thread.join()

    begun, over = threading.Event(), threading.Event()
    thread = threading.Thread(target=hold)
    thread.start()
    begun.wait(60)
    return wake


def past_the_gate(pool: Executor, store: Store, driver: Hooked, key: str, size: int) -> Callable[[], None]:
    """Publish a blob, until it may become visible; return what lets it, and waits until it has."""
    go, reached = threading.Event(), threading.Event()
    driver.before = lambda: (reached.set(), go.wait(60))
    published = pool.submit(store.publish, key, bytes(size))

    def land() -> None:
        go.set()
        published.result(60)

    reached.wait(60)
    return land


@pytest.mark.usefixtures("steady")
@pytest.mark.parametrize("by_itself", [True, False], ids=["by itself", "when asked"])
def test_one_that_recounts_while_its_own_blob_is_late_is_alive(url: str, store: Store, by_itself: bool) -> None:
    """Its recount waits for its own publisher, for longer than a lease; nobody may give its bytes away."""
    with hooked(url) as (other, driver), ThreadPoolExecutor(3) as pool:
        land = past_the_gate(pool, other, driver, "slow", 700)
        if by_itself:
            with other._quota._changed:
                other._quota._doubted = -accounts.LEASE
        recount = pool.submit(other.usage, recount=not by_itself)
        until(lambda: other._quota._parked == other._quota._holder, "that it is about to count")
        refused = pool.submit(store.publish, "more", bytes(700))
        with pytest.raises(QuotaExceeded):
            refused.result(60)
        land()
        recount.result(60)
        assert visible(store) == (700, 1)
        assert_exact(store)


@pytest.mark.usefixtures("steady")
def test_a_listing_that_takes_longer_than_a_lease(url: str, store: Store) -> None:
    with pkgstore.open(url) as below, ThreadPoolExecutor(2) as pool:
        driver = Slow(below)
        counter = with_driver(below, driver)
        counter.publish("a", b"1")
        holding = counter._quota._epoch
        count = pool.submit(counter.usage, recount=True)
        until(lambda: driver.counts > 0, "that the count has begun")
        store.publish("b", b"2")
        count.result(60)
        assert driver.counts == 1
        assert counter._quota._epoch == holding, "it was taken for dead"
        assert_exact(store)
        counter._quota.close()


@pytest.mark.usefixtures("steady")
def test_two_who_recount_at_once_do_not_take_each_other_for_dead(url: str, store: Store) -> None:
    with pkgstore.open(url) as other, ThreadPoolExecutor(4) as pool:
        both = (store, other)
        go, ready = threading.Event(), threading.Barrier(3)
        hold = [Once(lambda: (ready.wait(60), go.wait(60))) for _ in both]
        bodies = [Told(bytes(100), lambda at, each=each: at and each()) for each in hold]
        published = [pool.submit(each.publish, f"{number}", bodies[number]) for number, each in enumerate(both)]
        ready.wait(60)
        holding = [each._quota._epoch for each in both]
        for count in [pool.submit(each.usage, recount=True) for each in both]:
            count.result(60)
        assert [each._quota._epoch for each in both] == holding
        go.set()
        for each in published:
            each.result(60)
        assert_exact(store)


@pytest.mark.usefixtures("steady")
def test_of_two_who_doubt_at_once_each_holds_still_for_the_other(url: str, store: Store) -> None:
    """What counts for them is the very thread that says so."""
    with pkgstore.open(url) as other:
        both = (store, other)
        for number, each in enumerate(both):
            each.publish(f"{number}", bytes(100))
        holding = [each._quota._epoch for each in both]
        for each in both:
            with each._quota._changed:
                each._quota._doubted = -accounts.LEASE
        until(lambda: not any(each._quota._doubted is not None for each in both), "that both have counted")
        assert [each._quota._epoch for each in both] == holding
        assert_exact(store)


def test_a_close_ends_a_wait_for_a_count_of_another(url: str, store: Store) -> None:
    with pkgstore.open(url) as below, pkgstore.open(url) as other, ThreadPoolExecutor(2) as pool:
        counter = with_driver(below, Slow(below))
        other.publish("first", b"1")
        counting = Once(lambda: pool.submit(counter.usage, recount=True))

        def count(at: int) -> None:
            if at:
                counting()
                until(lambda: other._quota._parked != "", "that it holds still")

        waiting = pool.submit(other.publish, "a", Told(bytes(100), count))
        until(lambda: other._quota._parked != "", "that it holds still")
        other.close()
        with pytest.raises((ValueError, Unavailable), match="closed"):
            waiting.result(60)
        counter._quota.close()


@pytest.mark.parametrize("fails", [Outage, KeyboardInterrupt])
def test_a_recount_that_fails_is_done_later(url: str, store: Store, fails: type[BaseException]) -> None:
    """One that slept while its blob became visible has to count, and cannot at first."""
    with pkgstore.open(url) as below:
        driver = Slow(below)
        other = with_driver(below, driver, timeout=0.1)

        def sleep() -> None:
            with other._quota._changed:
                store.usage(recount=True)
            driver.fails = fails

        driver.after = Once(sleep)
        with contextlib.suppress(KeyboardInterrupt):
            other.publish("a", bytes(600))
        assert driver.counts >= 1
        driver.fails = None
        until(lambda: store.usage().bytes == 600, "that it is counted")
        assert_exact(store)
        other._quota.close()


def test_a_count_in_which_somebody_wakes_is_made_again(url: str, store: Store) -> None:
    """Its result is void; and who has made it neither waits for itself nor holds up anybody."""
    with hooked(url) as (sleeper, driver), pkgstore.open(url) as below, ThreadPoolExecutor(4) as pool:
        slow = Slow(below)
        counter = with_driver(below, slow)
        counter.publish("first", b"1")
        land = past_the_gate(pool, sleeper, driver, "a", 100)
        wake = asleep(sleeper)
        count = pool.submit(counter.usage, recount=True)
        until(lambda: slow.counts > 0, "that the count has begun")
        wake()
        land()
        count.result(60)
        counter.publish("more", b"1")
        assert_exact(store)
        counter._quota.close()


def test_a_count_from_before_a_sleep_is_void(url: str, store: Store) -> None:
    """Also where another thread of the one who slept counts by then, under its new name."""
    with pkgstore.open(url) as below, ThreadPoolExecutor(4) as pool:
        slow = Slow(below)
        sleeper = with_driver(below, slow)
        sleeper.publish("first", b"1")
        counts = [pool.submit(sleeper.usage, recount=True) for _ in range(2)]
        until(lambda: slow.counts > 0, "that the first count has begun")
        wake = asleep(sleeper)
        store.usage(recount=True)
        store.publish("a", bytes(800))
        wake()
        with pytest.raises(QuotaExceeded):
            store.publish("b", bytes(800))
        for each in counts:
            each.result(60)
        with pytest.raises(QuotaExceeded):
            store.publish("c", bytes(800))
        assert_exact(store)
        sleeper._quota.close()


def test_who_is_interrupted_goes_on_holding_still(url: str, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tending, "_IDLE", 60)
    with pkgstore.open(url) as below, pkgstore.open(url) as other, ThreadPoolExecutor(2) as pool:
        counter = with_driver(below, Slow(below))
        other.publish("first", bytes(100))
        count = pool.submit(counter.usage, recount=True)
        until(lambda: other._quota._told == counter._quota._holder, "that it holds still")

        def interrupted(seconds: float) -> None:
            raise KeyboardInterrupt

        with other._quota._changed, patch.object(other._quota, "_pause", interrupted):
            with pytest.raises(KeyboardInterrupt):
                other.usage(recount=True)
            assert other._quota._parked == counter._quota._holder
        monkeypatch.setattr(tending, "_IDLE", 0.1)
        count.result(60)
        assert_exact(store)
        counter._quota.close()


def test_who_closes_while_others_count_is_gone(url: str, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tending, "_IDLE", 60)
    with pkgstore.open(url) as below, ThreadPoolExecutor(2) as pool:
        counter = with_driver(below, Slow(below))
        with pkgstore.open(url) as other:
            other.publish("first", bytes(100))
            count = pool.submit(counter.usage, recount=True)
            until(lambda: other._quota._told == counter._quota._holder, "that it holds still")
            name = other._quota._holder
        assert name not in document(store)["holders"]
        monkeypatch.setattr(tending, "_IDLE", 0.1)
        count.result(60)
        assert_exact(store)
        counter._quota.close()


def test_a_publisher_that_has_to_draw_again_does_not_wait_for_a_count_that_waits_for_it(url: str, store: Store) -> None:
    with hooked(url) as (other, driver), ThreadPoolExecutor(1) as pool:

        def meanwhile() -> None:
            limits.append(pool.submit(store.scope("t/").set_quota, 900))
            until(lambda: "t/" in other._quota._scopes, "that it knows of the scope")
            raise Outage

        limits: list[Any] = []
        driver.before = Once(meanwhile)
        with pytest.raises(Unavailable, match="this process had slept, while 't/k' was being"):
            other.publish("t/k", bytes(100))
        limits[0].result(60)
        assert_exact(store)


def test_what_landed_unknown_to_its_process_is_given_back(url: str, store: Store) -> None:
    with pkgstore.open(url) as below:
        plan = FaultPlan(Fault("put", "after"), Fault("scan", "before", nth=2))
        other = with_driver(below, FaultyDriver(below.driver, plan), timeout=0)
        with pytest.raises(Unavailable):
            other.publish("a", bytes(100))
        assert plan.unfired == []
        assert_exact(store)


def test_an_outage_that_is_over_is_not_told_of(url: str, store: Store) -> None:
    """Who asked before it was over, and had to wait for something else, is not told what another was told."""
    with hooked(url, timeout=1.0) as (other, driver), other._quota._changed:
        asked = accounts.clock()
        driver.is_cut_off = True
        with pytest.raises(Unavailable):
            other._quota._exchange(keep=True)
        driver.is_cut_off = False
        with pytest.raises(Unavailable):
            other._quota._exchange(asked=asked - 10)
        with pytest.raises(Short):
            other._quota._exchange(need=Amounts({"": (10_000, 1)}))
        other._quota._exchange(keep=True, asked=asked - 10)


def test_one_who_wakes_in_a_count_and_leaves_has_not_been_silent(url: str, store: Store) -> None:
    """What it made visible behind the listing is entered, and must not be overwritten."""
    with pkgstore.open(url) as below, ThreadPoolExecutor(4) as pool:
        slow = Slow(below)
        counter = with_driver(below, slow)
        counter.publish("first", b"1")
        with hooked(url) as (sleeper, driver):
            land = past_the_gate(pool, sleeper, driver, "a", 600)
            wake = asleep(sleeper)
            count = pool.submit(counter.usage, recount=True)
            until(lambda: slow.counts > 0, "that the count has begun")
            wake()
            land()
            sleeper._quota.close()
        count.result(60)
        with pytest.raises(QuotaExceeded):
            store.publish("b", bytes(900))
        assert_exact(store)
        counter._quota.close()


def test_who_waits_for_a_count_is_told_when_the_medium_is_gone(url: str, store: Store) -> None:
    with pkgstore.open(url) as below, hooked(url, timeout=0.5) as (other, driver), ThreadPoolExecutor(2) as pool:
        counter = with_driver(below, Slow(below))
        held = Once(lambda: until(lambda: other._quota._parked != "", "that it holds still"))
        published = pool.submit(other.publish, "a", Told(bytes(100), lambda at: at and held()))
        until(lambda: document(store).get("holders", {}).get(other._quota._holder), "that it has something in hand")
        count = pool.submit(counter.usage, recount=True)
        until(lambda: other._quota._parked != "", "that it holds still")
        driver.is_cut_off = True
        with pytest.raises(Unavailable):
            published.result(30)
        driver.is_cut_off = False
        count.result(60)
        counter._quota.close()


def test_an_idle_process_sees_to_a_counter_that_died(url: str, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tending, "_IDLE", 60)
    with pkgstore.open(url) as below, pkgstore.open(url) as other, ThreadPoolExecutor(1) as pool:
        counter = with_driver(below, Slow(below))
        other.publish("first", bytes(100))
        count = pool.submit(counter.usage, recount=True)
        until(lambda: other._quota._told == counter._quota._holder, "that it holds still")
        die(counter)
        with pytest.raises(ValueError, match="closed"):
            count.result(60)
        until(lambda: not document(store).get("recount"), "that nobody counts any more")
        monkeypatch.setattr(tending, "_IDLE", 0.1)
        assert_exact(store)
