"""The quota: nothing goes beyond it, and nothing is counted twice or not at all, whoever dies, sleeps or is cut off."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

import pkgstore
from pkgstore import Exists, QuotaExceeded, StoreError, Unavailable, accounts, holder, tending
from pkgstore.accounts import Amounts
from pkgstore.granting import Grant, Outcome
from pkgstore.holder import Holder
from pkgstore.ledger import Ledger
from pkgstore.quota import Quota
from pkgstore.tending import Tending
from pkgstore.testing.faults import Fault, FaultPlan, FaultyDriver, Outage, with_driver
from pkgstore.testing.processes import Talk, Worker, until, workers
from pkgstore.testing.sources import Once, Stream
from tests.quotas import (
    LIMIT,
    SHORT,
    Hooked,
    assert_exact,
    assert_no_doubt,
    die,
    document,
    hooked,
    in_thread,
    limited,
    quick,
    store,
    url,
    visible,
)
from tests.told import Told

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from pkgstore import Store
    from pkgstore.driver import Blob

__all__ = ["quick", "store", "url"]


# -- limits -----------------------------------------------------------------------------------------------------------


def check_a_limit_in_bytes(url: str) -> None:
    with limited(url) as store:
        for number in range(10):
            store.publish(f"{number}", bytes(100))
        for body in (b"1", Stream(b"1")):
            with pytest.raises(QuotaExceeded):
                store.publish("more", body)
        store.publish("nothing", b"")
        assert visible(store) == (LIMIT, 11)
        assert_exact(store)


def test_a_limit_in_bytes(url: str) -> None:
    check_a_limit_in_bytes(url)


def test_a_limit_in_blobs(store: Store) -> None:
    store.set_quota(blobs=2)
    store.publish("a", bytes(5000))
    store.publish("b", b"")
    with pytest.raises(
        QuotaExceeded, match="one blob more than the quota of .* allows: its limit is 2, of which 2 are there"
    ):
        store.publish("c", b"")
    store.publish("a", b"1", replace=True) if store.usage().blobs < 2 else store.delete("a")
    store.publish("c", b"")
    assert_exact(store)


def test_scopes(store: Store) -> None:
    tenant, inner, other = store.scope("tenant/"), store.scope("tenant/inner/"), store.scope("tenant-old/")
    inner.set_quota(100)
    tenant.set_quota("300", blobs=3)
    other.publish("a", bytes(400))
    inner.publish("a", bytes(100))
    with pytest.raises(QuotaExceeded, match=r"quota of file://\S+/tenant/inner/ has 0 left: its limit is 100"):
        inner.publish("b", b"1")
    tenant.publish("b", bytes(200))
    with pytest.raises(QuotaExceeded, match="has 0 left: its limit is 300, of which 300 are used"):
        tenant.publish("c", b"1")
    with pytest.raises(QuotaExceeded, match="its limit is 1,000"):
        store.publish("c", bytes(301))
    store.publish("c", bytes(300))
    assert_exact(store)
    found = [(each.usage().bytes, each.usage().blobs, each.usage().limit) for each in (store, tenant, inner)]
    assert found == [(1000, 4, LIMIT), (300, 2, 300), (100, 1, 100)]
    assert (other.usage().bytes, other.usage().limit) == (400, None)
    inner.delete("a")
    assert [each.usage().bytes for each in (store, tenant, inner)] == [900, 200, 0]


def test_a_limit_below_what_is_there_and_none(store: Store) -> None:
    store.publish("a", bytes(500))
    store.set_quota(100)
    with pytest.raises(QuotaExceeded):
        store.publish("b", b"1")
    assert store.usage().available == 0
    with pytest.raises(QuotaExceeded, match="'empty' needs 0 bytes, and the quota of .* has 0 left: its limit is 100"):
        store.publish("empty", b"")
    store.delete("a")
    store.publish("b", bytes(100))
    store.set_quota()
    store.publish("c", bytes(5000))
    assert (store.usage().limit, store.usage().available) == (None, None)
    assert_exact(store)


def test_what_was_drawn_ahead_is_no_reason_to_refuse(store: Store) -> None:
    for number in range(10):
        store.publish(f"{number}", bytes(10))
    assert store.usage().reserved > 0
    store.publish("rest", bytes(900))
    assert_exact(store)


def test_what_another_drew_ahead_is_waited_for(store: Store, url: str) -> None:
    with pkgstore.open(url) as other:
        for number in range(10):
            other.publish(f"{number}", bytes(10))
        store.publish("rest", bytes(900))
        assert_exact(store)


def test_what_it_says(store: Store, tmp_path: Path) -> None:
    store.publish("a", bytes(900))
    with pytest.raises(QuotaExceeded) as caught:
        store.publish("b", bytes(101))
    assert str(caught.value) == (
        f"'b' needs 101 bytes, and the quota of file://{tmp_path}/store has 100 left: its limit is 1,000, of which"
        " 900 are used and 0 reserved; delete something, or raise the quota"
    )
    assert caught.value.key == "b"
    assert (caught.value.limit, caught.value.used, caught.value.needed) == (1000, 900, 101)
    assert list((tmp_path / "store/.pkgstore/tmp").iterdir()) == []
    assert_exact(store)


def test_a_scope_that_is_over_its_limit_holds_up_nobody_else(store: Store) -> None:
    store.publish("a/x", bytes(100))
    store.scope("a/").set_quota(10)
    with pytest.raises(QuotaExceeded):
        store.publish("a/y", b"1")
    store.publish("b/x", bytes(100))
    assert_exact(store)


def test_a_key_that_is_taken_is_taken_also_when_there_is_no_room(store: Store) -> None:
    store.publish("a", bytes(1000))
    for body in (bytes(1000), b"other"):
        with pytest.raises(Exists) as caught:
            store.publish("a", body)
        assert caught.value.identical == (len(body) == 1000)


@pytest.mark.parametrize("replaced", [True, False], ids=["replaced", "deleted"])
def test_a_reply_is_lost_and_the_blob_is_gone_before_the_retry(store: Store, replaced: bool) -> None:
    """Whoever took it away has given its bytes back, which its publisher has never entered."""

    def take_away() -> None:
        if replaced:
            store.publish("a", b"other", replace=True)
        else:
            store.delete("a")
        raise Outage

    driver = Hooked(store)
    driver.after = Once(take_away)
    other = with_driver(store, driver)
    with contextlib.suppress(Exists):
        other.publish("a", bytes(500))
    assert_exact(store)


def test_a_try_that_ends_before_its_body_leaves_nothing_in_doubt(store: Store) -> None:
    with FaultPlan(Fault("put", "during", nth=2)) as plan:
        other = with_driver(store, FaultyDriver(store.driver, plan))
        other.publish("a", bytes(500))
        assert other._quota._doubted is None
    assert_exact(store)


def test_a_look_that_is_overtaken_is_dropped(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It began before the quota was set, and ends after it."""
    with pkgstore.open(url) as store:
        read = Ledger.read

        def slowly(self: Ledger) -> Any:
            monkeypatch.setattr(Ledger, "read", read)
            found = read(self)
            store.set_quota(10)
            return found

        monkeypatch.setattr(Ledger, "read", slowly)
        assert store._quota.is_on()


def test_an_interpreter_that_ends_waits_for_nobody(url: str) -> None:
    """And gives back what a store that was never closed had in hand."""
    code = f"""
import sys, pkgstore
store = pkgstore.open({url!r})
store.set_quota(1000)
class Last:
    def __del__(self, store=store):
        store.publish("last", b"1")
sys.last = Last()
store.publish("a", bytes(100))
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    with pkgstore.open(url) as store:
        assert not document(store).get("holders")
        assert_exact(store)


# -- on the way -------------------------------------------------------------------------------------------------------


def check_all_that_is_on_its_way_counts(url: str) -> None:
    """Two who publish at the same moment: what has been granted to one is refused to the other."""
    with limited(url) as store, hooked(url) as (other, driver):
        refused = []

        def publish() -> None:
            assert store.usage().reserved >= 600
            with pytest.raises(QuotaExceeded):
                store.publish("b", bytes(600))
            refused.append("b")

        driver.before = publish
        other.publish("a", bytes(600))
        assert refused == ["b"]


def test_all_that_is_on_its_way_counts(url: str) -> None:
    check_all_that_is_on_its_way_counts(url)


def check_overwrites(url: str) -> None:
    with limited(url) as store:
        store.publish("a", bytes(600))
        with pytest.raises(QuotaExceeded):
            store.publish("a", bytes(401), replace=True)  # on the way, both count
        store.publish("a", bytes(400), replace=True)
        assert_no_doubt(store)
        store.publish("a", bytes(600), replace=True)
        store.publish("b", b"1", replace=True)
        assert_no_doubt(store)
        store.delete("a")
        store.delete("a")
        assert_no_doubt(store)
        assert_exact(store)


def test_overwrites_count_the_difference(url: str) -> None:
    check_overwrites(url)


def test_a_stream_is_stopped_in_the_middle(store: Store) -> None:
    store.set_quota(3 << 20)
    read = []
    with pytest.raises(QuotaExceeded):
        store.publish("a", Stream(bytes(64 << 20), told=read.append))
    assert max(read) <= 5 << 20
    assert list(store.list()) == []
    assert_exact(store)


def test_what_fails_gives_back(store: Store) -> None:
    def fail(_count: int) -> None:
        raise OSError("the body's own")

    for _ in range(3):
        with pytest.raises(OSError, match="the body's own"):
            store.publish("a", Stream(bytes(900), told=fail))
        with pytest.raises(pkgstore.Corrupt):
            store.publish("a", bytes(900), digests={"sha256": "0" * 64})
    store.publish("a", bytes(900))
    with pytest.raises(Exists):
        store.publish("a", bytes(100))
    assert_exact(store)


def test_close_gives_back(url: str, store: Store) -> None:
    with pkgstore.open(url) as other:
        other.publish("a", bytes(10))
        mine = other._quota._holder
        assert document(store)["holders"][mine]["grants"]
    assert mine not in document(store)["holders"]
    assert (store.usage().bytes, store.usage().reserved) == (10, 0)


def test_threads(store: Store) -> None:
    def publish(number: int) -> str:
        try:
            store.publish(f"{number % 40}", bytes(50), replace=number % 3 == 0)
        except (QuotaExceeded, Exists, Unavailable) as exc:
            return type(exc).__name__
        if number % 5 == 0:
            store.delete(f"{number % 40}")
        assert visible(store)[0] <= LIMIT
        return "published"

    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(publish, range(120)))
    assert outcomes.count("published") >= 20
    assert_exact(store)


def test_a_fork_in_the_middle_of_a_body(store: Store) -> None:
    """The child has nothing in hand of what its parent has."""
    children = []

    def fork(count: int) -> None:
        if count == 0:
            children.append(os.fork())
            if not children[0]:
                try:
                    assert store._quota._spare == store._quota._in_flight == Amounts()
                    store.publish("child", bytes(300))
                    store.close()
                    os._exit(0)
                finally:
                    os._exit(1)

    store.publish("a", Stream(bytes(300), told=fork))
    assert os.waitpid(children[0], 0)[1] == 0
    store.publish("b", bytes(400))
    with pytest.raises(QuotaExceeded):
        store.publish("c", b"1")
    assert_exact(store)


def test_a_child_goes_on_with_the_body_of_its_parent(store: Store) -> None:
    children = []
    epochs = []

    def fork(count: int) -> None:
        if count == 0:
            epochs.append(store._quota._epoch)
            children.append(os.fork())
            epochs.append(store._quota._epoch)

    parent = os.getpid()
    outcome = 9
    try:
        store.publish("a", Stream(bytes(600), told=fork))
        outcome = 0
    except Exists:
        outcome = 7
    except QuotaExceeded:
        outcome = 8  # both together would be too much
    finally:
        if os.getpid() != parent:
            store._quota.close()
            os._exit(outcome if epochs[0] != epochs[1] else 9)
    assert sorted([outcome, os.waitstatus_to_exitcode(os.waitpid(children[0], 0)[1])]) in ([0, 7], [0, 8])
    assert_exact(store)


# -- who does not know of it yet --------------------------------------------------------------------------------------


def test_who_knew_of_no_quota_notices(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holder, "LOOK", 0.3)
    with pkgstore.open(url) as early, pkgstore.open(url) as store:
        early.publish("a", bytes(900))
        store.set_quota(LIMIT)
        with pytest.raises(QuotaExceeded):
            early.publish("b", bytes(101))
        assert_exact(store)


def test_what_is_on_its_way_when_it_is_set(url: str) -> None:
    """What passes when there is no quota, and becomes visible when the blobs were counted, is counted too."""
    with hooked(url) as (early, driver), pkgstore.open(url) as store:
        driver.before = lambda: store.set_quota(LIMIT)
        early.publish("a", bytes(300))
        assert_exact(store)
        assert store.usage().bytes == 300


def test_a_scope_is_limited_while_a_blob_is_on_its_way(url: str, store: Store) -> None:
    """What was granted to it in the whole store stays granted."""
    with hooked(url) as (other, driver):
        threads, granted = [], []

        def limit() -> None:
            threads.append(in_thread(lambda: store.scope("tenant/").set_quota(500), 0))
            until(lambda: "tenant/" in other._quota._scopes, "that the other has heard of it")
            with other._quota._changed:
                other._quota._exchange(keep=True)
            granted.append(document(store)["holders"][other._quota._holder]["grants"][""][0])

        driver.before = limit
        other.publish("tenant/a", bytes(300))
        threads[0].join()
        assert granted[0] >= 300
        assert all(size >= 0 and blobs >= 0 for size, blobs in other._quota._spare.of.values())
        assert_exact(store)
        assert store.scope("tenant/").usage().bytes == 300


def test_who_limits_a_scope_and_dies(url: str, store: Store) -> None:
    """Others count its blobs in the end."""

    def change(found: dict[str, Any]) -> dict[str, Any]:
        accounts.add_scope(found, "tenant/").update(limit=100)
        return found

    with pkgstore.open(url) as before:
        before.publish("tenant/a", bytes(50))
    Ledger(store._calls, "usage").update(change)
    store.publish("tenant/b", bytes(50))
    with pytest.raises(QuotaExceeded):
        store.publish("tenant/c", b"1")
    assert_exact(store)


def test_without_a_quota_it_costs_a_look(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holder, "LOOK", 3600.0)
    with pkgstore.open(url) as below:
        plan = FaultPlan()
        store = with_driver(below, FaultyDriver(below.driver, plan))
        for number in range(10):
            store.publish(f"{number}", b"1")
            store.delete(f"{number}")
        assert plan._calls["scan"] <= 2
        assert (plan._calls["put"], plan._calls["open"]) == (10, 0)


# -- the dead, the sleeping, and those cut off ------------------------------------------------------------------------


def check_the_dead(url: str) -> None:
    with limited(url) as store:
        with hooked(url) as (other, _):
            other.publish("a", bytes(100))
            other.publish("b", bytes(100))
            die(other)
        assert store.usage().reserved > 0
        assert store.usage().bytes + store.usage().reserved >= 200
        store.publish("rest", bytes(800))
        assert_exact(store)


def test_what_the_dead_had_in_hand(url: str) -> None:
    check_the_dead(url)


def test_who_is_cut_off_for_longer_than_a_lease(url: str, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it had in hand is another's by then: it has nothing, however often it could not tell the ledger."""
    monkeypatch.setattr(tending, "_IDLE", 60.0)
    with hooked(url, timeout=0.01) as (other, driver):
        for number in range(22):
            other.publish(f"{number}", bytes(5))
        assert other._quota._spare[""][0] >= 5
        driver.is_cut_off = True
        for _ in range(2):
            with pytest.raises(Unavailable):
                other.delete("0")
        store.publish("rest", bytes(890))
        driver.is_cut_off = False
        with pytest.raises((QuotaExceeded, Unavailable)):
            other.publish("more", bytes(5))
        assert visible(store)[0] == LIMIT
        monkeypatch.setattr(tending, "_IDLE", 0.1)
        assert_exact(store)


def publish_when_told(talk: Talk, url: str, key: str, where: str, size: int) -> str:
    """Publish; meet the parent while the body is read, or when it is about to become visible."""
    accounts.LEASE, holder.LOOK = SHORT, 0.0

    def meet() -> None:
        talk.say("here")
        talk.hear()

    once = Once(meet)

    def pause(_count: int = 0) -> None:
        once()

    with pkgstore.open(url) as below:
        driver = Hooked(below)
        store = with_driver(below, driver)
        store.publish(f"{key}-first", b"1")
        if where == "before":
            driver.before = pause
        elif where == "after":
            driver.after = pause
        elif where == "counting":
            counted = store._quota._counted

            def pausing(scopes: list[str], mine: str) -> Amounts:
                found = counted(scopes, mine)
                pause()
                return found

            store._quota._counted = pausing  # type: ignore[method-assign]
        try:
            if where == "counting":
                store.usage(recount=True)
            elif where == "deleting":
                driver._plan = FaultPlan(Fault("delete", "before", meanwhile=pause))
                store.delete(f"{key}-first")
            else:
                store.publish(key, Told(bytes(size), pause) if where == "body" else bytes(size))
            return "done"
        except StoreError as exc:
            return type(exc).__name__
        finally:
            store._quota.close()


@contextlib.contextmanager
def paused(url: str, where: str, size: int = 500) -> Iterator[Worker]:
    """Yield a process that is about to publish `a`."""
    with workers(1) as [worker]:
        worker.start(publish_when_told, url, "a", where, size)
        worker.hear()
        worker.stop()
        yield worker


def wake(worker: Worker) -> str:
    worker.say("go")
    worker.resume()
    return str(worker.result())


@pytest.mark.parametrize(("size", "outcome"), [(500, "QuotaExceeded"), (400, "done")])
def test_who_sleeps_in_the_middle_of_a_body(url: str, store: Store, size: int, outcome: str) -> None:
    """What it was granted is another's when it wakes: it is granted anew, or refused."""
    with paused(url, "body", size) as worker:
        with pytest.raises(QuotaExceeded):
            store.publish("b", bytes(1000))
        store.publish("b", bytes(599))
        assert wake(worker) == outcome
    assert visible(store) == ((599 + 1, 2) if outcome != "done" else (1000, 3))
    assert_exact(store)


@pytest.mark.parametrize("where", ["before", "after"])
def test_who_sleeps_when_its_blob_becomes_visible(url: str, store: Store, where: str) -> None:
    """Its blob may come late, and is counted then."""
    with paused(url, where) as worker:
        store.publish("b", bytes(400))
        store.usage(recount=True)
        assert wake(worker) == "done"
    assert visible(store) == (901, 3)
    assert_exact(store)


def test_who_sleeps_while_it_deletes(url: str, store: Store) -> None:
    with paused(url, "deleting") as worker:
        store.delete("a-first")
        assert wake(worker) == "done"
    assert_exact(store)


@pytest.mark.parametrize("where", ["body", "before", "after", "deleting", "counting"])
def test_who_is_killed(url: str, store: Store, where: str) -> None:
    """What it had in hand stays counted until somebody who publishes has found it silent, and counted."""
    with paused(url, where) as worker:
        if where in ("body", "before", "after"):
            assert store.usage().reserved >= 500
        worker.kill()
        store.publish("b", bytes(1000 - visible(store)[0]))
    assert visible(store)[0] == LIMIT
    assert_exact(store)


def test_a_recounter_that_sleeps_is_overtaken(url: str, store: Store) -> None:
    with paused(url, "counting") as worker:
        store.publish("b", bytes(400))
        store.delete("a-first")
        assert wake(worker) == "done"
    assert_exact(store)


@pytest.mark.parametrize("when", ["before", "after"])
def test_who_is_interrupted(url: str, store: Store, when: str) -> None:
    """Whether its blob is there is not known to it; a count tells."""

    def interrupt() -> None:
        raise KeyboardInterrupt

    with hooked(url) as (other, driver):
        setattr(driver, when, interrupt)
        with pytest.raises(KeyboardInterrupt):
            other.publish("a", bytes(300))
        assert visible(store)[1] == (when == "after")
        assert store.usage().reserved >= 300
        assert_exact(store)


# -- counting ---------------------------------------------------------------------------------------------------------


def test_a_recount_settles_differences(store: Store, tmp_path: Path) -> None:
    store.publish("a", bytes(300))
    store.publish("b", bytes(300))
    (tmp_path / "store/by-hand").write_bytes(bytes(250))
    (tmp_path / "store/a").unlink()
    assert store.usage().bytes == 600
    assert store.usage(recount=True).bytes == 550
    with pytest.raises(QuotaExceeded):
        store.publish("c", bytes(451))
    store.publish("c", bytes(450))
    assert_exact(store)


def check_no_count_while_a_blob_becomes_visible(url: str) -> None:
    with limited(url) as store, hooked(url) as (other, driver):
        other.publish("first", bytes(100))
        store.usage(recount=True)
        for when in ("before", "after"):
            threads = []

            def count(threads: list[threading.Thread] = threads) -> None:
                threads.append(in_thread(lambda: store.usage(recount=True), 0.5))

            setattr(driver, when, count)
            other.publish(when, bytes(100))
            setattr(driver, when, lambda: None)
            threads[0].join()
            assert_exact(store)
            other.delete(when)
            assert_exact(store)


def test_no_count_while_a_blob_becomes_visible(url: str) -> None:
    check_no_count_while_a_blob_becomes_visible(url)


def test_nobody_holds_still_for_the_count_before(url: str, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a publisher said for one count is not taken for the next one of the same counter."""
    monkeypatch.setattr(accounts, "LEASE", 30.0)
    monkeypatch.setattr(tending, "_IDLE", 60.0)
    with hooked(url) as (other, driver):
        for number in range(2):
            other.publish(f"{number}", bytes(10))
        counted = in_thread(lambda: store.usage(recount=True), 20)
        assert not counted.is_alive()
        threads = []
        driver.after = lambda: threads.append(in_thread(lambda: store.usage(recount=True), 0.5))
        beat = other._quota._beat
        other.publish("third", bytes(10))
        assert other._quota._beat == beat, "nothing was to be told to the ledger in between"
        threads[0].join()
        monkeypatch.setattr(tending, "_IDLE", 0.1)
        assert_exact(store)


def test_an_attempt_after_a_lost_reply_does_not_wait_for_a_count(url: str, store: Store) -> None:
    """A count waits for it."""
    with hooked(url) as (other, driver):
        threads = []

        def fail() -> None:
            threads.append(in_thread(lambda: store.usage(recount=True), 0))
            until(lambda: other._quota._parked, "that it has heard of the count")
            raise Outage

        driver.before = Once(fail)
        began = time.monotonic()
        other.publish("a", b"1")
        threads[0].join()
        assert time.monotonic() - began < 20
        assert_exact(store)


def test_recounts_while_others_publish(url: str, store: Store) -> None:
    over = threading.Event()

    def publish(name: str) -> int:
        done = 0
        with pkgstore.open(url) as mine:
            while not over.is_set():
                mine.publish(f"{name}-{done}", bytes(20))
                mine.publish(f"{name}-{done}", bytes(10), replace=True)
                mine.delete(f"{name}-{done}")
                done += 1
        return done

    with ThreadPoolExecutor(2) as pool:
        publishers = [pool.submit(publish, name) for name in "ab"]
        try:
            for _ in range(5):
                assert store.usage(recount=True).bytes <= LIMIT
        finally:
            over.set()
        assert all(each.result() for each in publishers)
    assert_exact(store)


# -- lost replies -----------------------------------------------------------------------------------------------------


FAULTS = [(verb, when) for verb in ("put", "delete", "scan", "open", "stat") for when in ("before", "after", "during")]
FAULTS = [each for each in FAULTS if each not in (("delete", "during"), ("stat", "during"))]


@pytest.mark.parametrize("timeout", [30.0, 0.01], ids=["tried again", "tried once"])
@pytest.mark.parametrize(("verb", "when"), FAULTS)
def test_a_fault_at_any_call(verb: Any, when: Any, timeout: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever fails, or does not but for its reply: in the end all is counted once."""
    monkeypatch.setattr(accounts, "LEASE", 0.3)
    happened = 0
    for nth in range(1, 30):
        with limited(f"memory://{verb}-{when}-{timeout}-{nth}") as store:
            plan = FaultPlan(Fault(verb, when, nth=nth))
            other = with_driver(store, FaultyDriver(store.driver, plan), timeout=timeout)
            for change in (
                lambda other=other: other.publish("a", bytes(300)),
                lambda other=other: other.publish("b", bytes(200), replace=True),
                lambda other=other: other.publish("a", bytes(100), replace=True),
                lambda other=other: other.delete("b"),
                lambda other=other: other.publish("c", Stream(bytes(100))),
            ):
                with contextlib.suppress(Unavailable):
                    change()
            if plan._calls[verb] < nth:
                die(other)
                break
            happened += not plan.unfired
            assert_exact(store)
            assert_exact(other)
            die(other)
    assert happened >= {"put": 8, "delete": 1, "scan": 6, "open": 1, "stat": 1}[verb]


def test_a_ledger_write_that_lands_late(url: str, store: Store) -> None:
    """An exchange whose outcome was not known took effect: it is found out, and not done twice."""
    with hooked(url, timeout=0.01) as (other, driver):
        other.publish("a", bytes(100))
        put = driver.put

        def lose(*args: Any, **options: Any) -> Blob:
            put(*args, **options)
            driver.is_cut_off = True
            raise Outage

        driver.put = lose  # type: ignore[method-assign]
        with other._quota._changed, pytest.raises(Unavailable):
            other._quota._exchange(keep=True)
        driver.put, driver.is_cut_off = put, False  # type: ignore[method-assign]
        mine = other._quota._holder
        other.publish("b", bytes(100))
        assert other._quota._holder == mine
        assert_exact(store)


def check_two_who_delete(url: str) -> None:
    with limited(url) as store, pkgstore.open(url) as below:
        store.publish("a", bytes(300))
        store.publish("b", bytes(300))
        threads = []
        delete = lambda: threads.append(in_thread(lambda: store.delete("a"), 0.5))  # noqa: E731
        other = with_driver(below, FaultyDriver(below.driver, FaultPlan(Fault("delete", "before", meanwhile=delete))))
        other.delete("a")
        threads[0].join()
        other._quota.close()
        assert_exact(store)
        assert store.usage().bytes == 300


def test_two_who_delete_one_blob(url: str) -> None:
    check_two_who_delete(url)


def check_every_generation(url: str) -> None:
    """In no state of the ledger is less counted than what is there."""
    with limited(url) as store, hooked(url) as (other, driver):
        put = driver.put
        seen = []

        def look(key: str, *args: Any, **options: Any) -> Blob:
            blob = put(key, *args, **options)
            if key.startswith(".pkgstore/ledger/"):
                usage = accounts.usage_of(document(store), "")
                assert usage is not None
                seen.append((usage.bytes + usage.reserved, visible(store)[0]))
            return blob

        driver.put = look  # type: ignore[method-assign]
        for number in range(6):
            other.publish(f"{number}", bytes(20 + 20 * number))
            other.publish(f"{number}", bytes(10 + 20 * number), replace=True)
            if number % 2:
                other.delete(f"{number}")
        assert len(seen) >= 10
        assert [each for each in seen if each[0] < each[1]] == []


def test_every_generation_counts_all_that_is_there(url: str) -> None:
    check_every_generation(url)


# -- mutants ----------------------------------------------------------------------------------------------------------


def nothing_is_granted(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Quota, "grow", lambda self, grant, size: setattr(grant, "epoch", self._epoch))
    patch.setattr(Quota, "_is_granted", lambda self, grant, size: True)


def replacements_count_no_difference(patch: pytest.MonkeyPatch) -> None:
    end = Quota._end

    def end_as_if_new(self: Quota, grant: Grant, outcome: Outcome) -> None:
        end(self, grant, outcome._replace(old=None) if outcome.blob else outcome)

    patch.setattr(Quota, "_end", end_as_if_new)


def settled_in_a_second_step(patch: pytest.MonkeyPatch) -> None:
    exchange, settle = Holder._exchange, accounts.settle

    def exchange_then_settle(self: Holder, **options: Any) -> dict[str, Any]:
        changes = self._unsettled
        found = exchange(self, **options)

        def change(document: dict[str, Any]) -> dict[str, Any]:
            settle(document, changes)
            return document

        self._ledger.update(change)
        return found

    patch.setattr(Holder, "_exchange", exchange_then_settle)
    patch.setattr(accounts, "settle", lambda document, changes: None)


def the_silent_are_dropped_without_a_count(patch: pytest.MonkeyPatch) -> None:
    def enter_no_totals(self: Tending, document: dict[str, Any], totals: Amounts, silent: dict[str, str]) -> None:
        for name in silent:
            document["holders"].pop(name, None)
        for account in document["scopes"].values():
            account["counted"] = True
        del document["recount"]

    patch.setattr(Tending, "_enter_totals", enter_no_totals)


def no_gate_while_all_is_counted(patch: pytest.MonkeyPatch) -> None:
    def begin_commit(self: Quota, grant: Grant, size: int | None) -> None:
        with self._changed:
            if size is not None:
                self.grow(grant, size)
            grant.epoch = self._epoch

    patch.setattr(Quota, "begin_commit", begin_commit)


def deletes_are_not_claimed(patch: pytest.MonkeyPatch) -> None:
    init = Grant.__init__
    patch.setattr(Quota, "_claim", lambda self, path: contextlib.nullcontext())
    patch.setattr(Grant, "__init__", lambda self, quota, path, key, **what: init(self, quota, path, key))


MUTANTS: list[tuple[Callable[[pytest.MonkeyPatch], None], Callable[[str], None]]] = [
    (nothing_is_granted, check_a_limit_in_bytes),
    (nothing_is_granted, check_all_that_is_on_its_way_counts),
    (replacements_count_no_difference, check_overwrites),
    (settled_in_a_second_step, check_every_generation),
    (the_silent_are_dropped_without_a_count, check_the_dead),
    (no_gate_while_all_is_counted, check_no_count_while_a_blob_becomes_visible),
    (deletes_are_not_claimed, check_two_who_delete),
]


@pytest.mark.parametrize(("mutant", "check"), MUTANTS)
def test_a_mutant_is_caught(
    url: str,
    mutant: Callable[[pytest.MonkeyPatch], None],
    check: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mutant(monkeypatch)
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        check(url)
