"""Work that is spread by executors: threads, processes, and a cluster."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import threading
from concurrent.futures import BrokenExecutor, Executor, ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from multiprocessing import get_context
from typing import TYPE_CHECKING

import pytest

import pkgstore
from pkgstore.spread import spread
from tests.cluster import cluster

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.cluster import Cluster

pytestmark = pytest.mark.xdist_group("dask")

KINDS = ["own", "threads", "processes", "dask"]
PROCESSES = ["processes", "dask"]

__all__ = ["cluster"]


@pytest.fixture
def executor(request: pytest.FixtureRequest) -> Iterator[Executor | None]:
    """Yield an executor of the kind that the test is for."""
    if request.param == "own":
        yield None
    elif request.param == "threads":
        with ThreadPoolExecutor(2) as pool:
            yield pool
    elif request.param == "processes":
        with ProcessPoolExecutor(2, get_context("spawn")) as pool:
            yield pool
    else:
        found: Cluster = request.getfixturevalue("cluster")
        yield found.executor()


def squared(number: int) -> int:
    return number * number


def refused(number: int, bad: int) -> int:
    if number == bad:
        raise pkgstore.Corrupt("this one is bad", key=str(number))
    return number


def read_by(key: str, store: pkgstore.Store) -> tuple[bytes, int, int]:
    return store.read(key), os.getpid(), id(store.driver)


def published(number: int, store: pkgstore.Store) -> str:
    return store.publish(f"{number}/a.bin", bytes(number)).key


@pytest.mark.parametrize("executor", KINDS, indirect=True)
def test_every_item_is_worked_on_once(executor: Executor | None) -> None:
    found = list(spread(squared, range(100), executor=executor, jobs=7))
    assert sorted(found) == [number * number for number in range(100)]
    assert list(spread(squared, [], executor=executor)) == []


@pytest.mark.parametrize("executor", KINDS, indirect=True)
def test_equal_items_are_items_of_their_own(executor: Executor | None, tmp_path: Path) -> None:
    """Dask takes equal calls for one, unless it is kept from it."""
    assert list(spread(partial(appended, file=tmp_path / "calls"), ["x"] * 20, executor=executor)) == ["x"] * 20
    assert (tmp_path / "calls").read_bytes() == b"x" * 20


def appended(text: str, file: Path) -> str:
    with file.open("ab", buffering=0) as out:
        out.write(text.encode())
    return text


@pytest.mark.parametrize("executor", KINDS, indirect=True)
def test_an_error_comes_through_whole_and_the_rest_is_not_begun(executor: Executor | None) -> None:
    taken = []

    def items() -> Iterator[int]:
        for number in itertools.count():
            taken.append(number)
            yield number

    results = spread(partial(refused, bad=5), items(), executor=executor, jobs=4)
    with pytest.raises(pkgstore.Corrupt, match="this one is bad") as caught:
        for _ in results:
            pass
    assert caught.value.key == "5"
    before = len(taken)
    assert list(results) == []
    assert len(taken) == before


def test_no_more_are_taken_than_are_under_way() -> None:
    taken = []

    def items() -> Iterator[int]:
        for number in range(50):
            taken.append(number)
            yield number

    results = spread(squared, items(), jobs=3)
    assert taken == []
    for count, _ in enumerate(results, 1):
        assert len(taken) <= count + 3
    assert len(taken) == 50


def test_results_come_as_they_are_done() -> None:
    gate = threading.Event()

    def waits(number: int) -> int:
        if number == 0:
            assert gate.wait(30)
        return number

    results = spread(waits, range(10), jobs=2)
    assert [next(results) for _ in range(9)] == list(range(1, 10))
    gate.set()
    assert list(results) == [0]


def test_who_stops_early_waits_for_what_has_begun_and_begins_no_more() -> None:
    began, gate, ended = threading.Semaphore(0), threading.Event(), []

    def waits(number: int) -> int:
        began.release()
        if number:
            assert gate.wait(30)
        ended.append(number)
        return number

    with ThreadPoolExecutor(2) as pool:
        results = spread(waits, range(100), executor=pool, jobs=10)
        assert next(results) == 0
        for _ in range(3):
            assert began.acquire(timeout=30)
        threading.Timer(0.01, gate.set).start()
        results.close()  # type: ignore[attr-defined]
        assert sorted(ended) == [0, 1, 2]


def test_an_error_of_the_items_comes_through() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise LookupError("no more")

    with pytest.raises(LookupError, match="no more"):
        list(spread(squared, items()))


@pytest.mark.parametrize("jobs", [0, -1, True, 1.5, "3"])
def test_jobs_that_are_none(jobs: object) -> None:
    with pytest.raises(pkgstore.Misconfigured, match="jobs=.* let there be 1 or more"):
        spread(squared, [1], jobs=jobs)  # type: ignore[arg-type]


def test_threads_are_not_left_behind() -> None:
    before = set(threading.enumerate())
    with contextlib.closing(spread(squared, range(10))) as results:  # type: ignore[type-var]
        next(results)
    assert set(threading.enumerate()) <= before


# -- stores ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("executor", PROCESSES, indirect=True)
def test_a_store_goes_with_the_work_and_is_opened_once_in_each_process(executor: Executor, tmp_path: Path) -> None:
    with pkgstore.open(f"file://{tmp_path}/store?timeout=5") as store:
        for number in range(20):
            store.publish(f"team/{number}", b"%d" % number)
        scope = store.scope("team/")
        found = list(spread(partial(read_by, store=scope), map(str, range(20)), executor=executor))
    assert sorted(data for data, *_ in found) == sorted(b"%d" % number for number in range(20))
    processes = {pid for _, pid, _ in found}
    assert os.getpid() not in processes
    assert len({(pid, driver) for _, pid, driver in found}) == len(processes)


@pytest.mark.parametrize("executor", PROCESSES, indirect=True)
def test_a_store_that_others_cannot_reach_is_refused_with_a_reason(executor: Executor, tmp_path: Path) -> None:
    with (
        pkgstore.open("memory://of-this-process") as store,
        pytest.raises(pkgstore.NotFound, match="memory://of-this-process was sent to a process that has no store"),
    ):
        list(spread(partial(read_by, store=store), ["a"], executor=executor))


@pytest.mark.parametrize("executor", ["processes"], indirect=True)
def test_a_pool_that_dies_is_told(executor: Executor) -> None:
    with pytest.raises(BrokenExecutor):
        list(spread(os._exit, [1], executor=executor))


def test_what_processes_had_in_hand_of_a_quota_is_given_back(tmp_path: Path) -> None:
    with pkgstore.open(tmp_path) as store:
        store.set_quota(1 << 30)
        with ProcessPoolExecutor(2, get_context("spawn")) as pool:
            list(spread(partial(published, store=store), range(1, 30), executor=pool))
        usage = store.usage()
        assert (usage.bytes, usage.blobs, usage.reserved) == (sum(range(1, 30)), 29, 0)


def test_a_dask_worker_that_is_killed_costs_nothing(cluster: Cluster, tmp_path: Path) -> None:
    """Its work is done again by another, which a publish of the same bytes can bear.

    No more is under way than there are workers: a result that dies with the worker that had it is at times lost to
    Dask's executor, which then waits for ever.
    """
    with pkgstore.open(tmp_path / "store") as store:
        once = partial(put_and_die_once, store=store, mark=tmp_path / "mark")
        pids = list(spread(once, range(10), executor=cluster.executor(), jobs=2))
        assert len(pids) == 10
        assert (tmp_path / "mark").exists()
        assert [blob.key for blob in store.list()] == [f"{number}/a.bin" for number in range(10)]


def put_and_die_once(number: int, store: pkgstore.Store, mark: Path) -> int:
    with contextlib.suppress(pkgstore.Exists):
        store.publish(f"{number}/a.bin", b"%d" % number)
    if number == 5 and not mark.exists():
        mark.write_text(str(os.getpid()))
        os.kill(os.getpid(), signal.SIGKILL)
    return os.getpid()
