"""Publishers that a signal interrupts, who close, or who were not told what came of it: nothing of them may stay."""

from __future__ import annotations

import contextlib
import os
import random
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Self

import pytest

import pkgstore
from pkgstore import QuotaExceeded, Unavailable, accounts, tending
from pkgstore.accounts import Amounts
from pkgstore.testing.faults import Fault, FaultPlan, Outage, with_driver
from pkgstore.testing.processes import until
from tests.quotas import SHORT, Hooked, assert_exact, assert_no_doubt, document, hooked, quick, store, url, visible

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from types import FrameType

    from pkgstore import Blob, Store
    from pkgstore.driver import Body

__all__ = ["quick", "store", "url"]

MODULES = ("holder.py", "tending.py", "granting.py", "quota.py", "accounts.py", "ledger.py")
OPERATIONS: dict[str, Callable[[Store], object]] = {
    "publish": lambda store: store.publish("a", bytes(300)),
    "replace": lambda store: store.publish("there", bytes(90), replace=True),
    "delete": lambda store: store.delete("there"),
    "recount": lambda store: store.usage(recount=True),
}
EVERY = 1 if os.environ.get("PKGSTORE_LABS") == "full" else 4
AT_ONCE = 8


class Interrupted:
    """Raises KeyboardInterrupt, as a signal does, when this thread enters a function of the quota for the n-th time."""

    def __init__(self, nth: int) -> None:
        self._nth = nth
        self.where = ""
        self._count = 0

    def __enter__(self) -> Self:
        sys.setprofile(self._see)
        return self

    def __exit__(self, *exc: object) -> None:
        sys.setprofile(None)

    def _see(self, frame: FrameType, event: str, _argument: object) -> None:
        if event == "call" and frame.f_code.co_filename.endswith(MODULES):
            self._count += 1
            if self._count == self._nth:
                sys.setprofile(None)
                self.where = f"{frame.f_code.co_qualname}, the {self._nth}th call"
                raise KeyboardInterrupt


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of a generator that is closed
@pytest.mark.parametrize("kind", OPERATIONS)
def test_an_interrupt_at_any_call(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The ledger says what is there in the end, and nobody has anything in hand."""
    seed = int(os.environ.get("PKGSTORE_SEED") or random.SystemRandom().randrange(EVERY))
    print(f"PKGSTORE_SEED={seed}")
    monkeypatch.setattr(accounts, "LEASE", SHORT / 2)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        settled = []
        nth, is_done = 1 + seed % EVERY, False
        while not is_done:
            url = f"memory://interrupted-{kind}-{nth}"
            store, other = pkgstore.open(url), pkgstore.open(url, timeout=2)
            store.set_quota(1000)
            other.publish("there", bytes(50), replace=True)
            with Interrupted(nth) as interrupted, contextlib.suppress(KeyboardInterrupt):
                OPERATIONS[kind](other)
            is_done = not interrupted.where
            settled.append(pool.submit(assert_settled, store, other, interrupted.where))
            nth += EVERY
        assert len(settled) > 30 / EVERY
        for each in settled:
            each.result(60)


def assert_settled(store: Store, other: Store, where: str) -> None:
    with store, other:
        quota = other._quota
        until(lambda: not document(store).get("holders") and quota._thread is None, f"that all is quiet after {where}")
        usage = store.usage()
        assert (usage.bytes, usage.blobs, usage.reserved) == (*visible(store), 0), where
        assert (quota._committing, quota._busy, bool(quota._in_flight)) == (set(), set(), False), where


class Replies(Hooked):
    """A driver that can lose the reply of the next change to the ledger, and then all else; and counts the looks."""

    loses = False
    looks = 0

    def scan(self, prefix: str) -> Iterator[Blob]:
        self.looks += "/ledger/" in prefix
        return super().scan(prefix)

    def put(
        self, key: str, body: Body, size: int | None, *, digests: Mapping[str, str], exclusive: bool, token: str
    ) -> Blob:
        blob = super().put(key, body, size, digests=digests, exclusive=exclusive, token=token)
        if self.loses and "/ledger/" in key:
            self.loses, self.is_cut_off = False, True
            raise Unavailable("the reply is lost")
        return blob


@pytest.fixture
def lossy(url: str) -> Iterator[tuple[Store, Replies]]:
    with pkgstore.open(url) as below:
        driver = Replies(below)
        store = with_driver(below, driver, timeout=0.2)
        try:
            yield store, driver
        finally:
            driver.is_cut_off = False
            store._quota.close()


def test_a_claim_that_may_have_been_given_up_is_not_relied_on(
    url: str, store: Store, lossy: tuple[Store, Replies], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two would delete one blob, and both would give back its bytes."""
    monkeypatch.setattr(accounts, "LEASE", 60.0)
    monkeypatch.setattr(tending, "_IDLE", 60.0)
    other, driver = lossy
    other.publish("a", bytes(400), replace=True)
    driver.loses = True
    other._quota._spare = Amounts()  # as when what was drawn is used up
    with pytest.raises(Unavailable):
        other.publish("b", bytes(300))
    driver.is_cut_off = False
    with hooked(url) as (third, its), ThreadPoolExecutor(2) as pool:
        go, reached = threading.Event(), threading.Event()
        its._plan = FaultPlan(Fault("delete", meanwhile=lambda: (reached.set(), go.wait(60)), times=1))
        deleted = pool.submit(third.delete, "a")
        reached.wait(60)
        looks = driver.looks
        also = pool.submit(other.delete, "a")
        until(lambda: also.done() or driver.looks > looks + 2, "that the other has asked for the claim")
        monkeypatch.setattr(tending, "_IDLE", 0.1)
        go.set()
        assert [deleted.result(60), also.result(60)] == [True, False]
        third._quota.close()
    other._quota.close()
    assert_exact(store)


def test_a_deletion_that_began_before_there_was_a_quota(url: str) -> None:
    with pkgstore.open(url) as store, hooked(url) as (other, driver), ThreadPoolExecutor(1) as pool:
        store.publish("a", bytes(400))
        go, reached = threading.Event(), threading.Event()
        driver._plan = FaultPlan(Fault("delete", meanwhile=lambda: (reached.set(), go.wait(60))))
        deleted = pool.submit(other.delete, "a")
        reached.wait(60)
        store.set_quota(1000)
        assert store.usage().bytes == 400
        go.set()
        assert deleted.result(60)
        assert_exact(store)


def test_a_doubt_outlives_its_process(url: str, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was taken for dead, and closes before it has found out."""
    monkeypatch.setattr(tending, "_IDLE", 60.0)
    with hooked(url, timeout=0) as (other, driver):
        other.publish("first", b"1")

        def sleep() -> None:
            with other._quota._changed:
                store.usage(recount=True)

        def lose() -> None:
            raise Outage

        driver.before, driver.after = sleep, lose
        with pytest.raises(Unavailable):
            other.publish("a", bytes(600))
        other._quota.close()
    with pytest.raises(QuotaExceeded):
        store.publish("b", bytes(900))
    assert_no_doubt(store)


def test_one_who_is_interrupted_as_it_finds_out_that_it_had_slept(url: str, store: Store) -> None:
    with hooked(url) as (other, driver):
        other.publish("first", b"1")
        quota: Any = other._quota

        def sleep() -> None:
            store.usage(recount=True)
            quota._contact -= accounts.LEASE
            quota._exchange = interrupt

        def interrupt(**_: Any) -> None:
            del quota._exchange
            raise KeyboardInterrupt

        with quota._changed:  # so that its thread is not the first to know
            driver.before = sleep
            with pytest.raises(KeyboardInterrupt):
                other.publish("a", bytes(600))
        until(lambda: quota._doubted is None, "that the blobs are counted")
        assert_exact(store)


def test_nothing_stays_reserved_of_one_who_was_interrupted_and_closes(
    url: str, store: Store, lossy: tuple[Store, Replies], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tending, "_IDLE", 60.0)
    other, driver = lossy
    driver.loses = True
    with pytest.raises(Unavailable):
        other.publish("a", bytes(10))
    driver.is_cut_off = False
    other._quota.close()
    assert store.usage().reserved == 0


def test_who_wake_together_count_once(url: str, store: Store) -> None:
    with hooked(url) as (other, driver), ThreadPoolExecutor(8) as pool:
        other.publish("first", b"1")
        go, here = threading.Event(), threading.Semaphore(0)
        driver.before = lambda: (here.release(), go.wait(60))
        published = [pool.submit(other.publish, f"{number}", bytes(10)) for number in range(6)]
        for _ in published:
            here.acquire()
        counts = []
        scan = driver.scan

        def counted(prefix: str) -> Iterator[Blob]:
            counts.append(prefix)
            time.sleep(0.2)  # a listing takes a while, in which the others come
            yield from scan(prefix)

        with other._quota._changed:
            store.usage(recount=True)
            go.set()
            driver.scan = counted  # type: ignore[method-assign]
        for each in published:
            each.result(60)
        assert 1 <= counts.count("") <= 2
        assert_exact(store)
