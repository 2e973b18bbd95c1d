"""Restoring by any executor: what it does is the same as what threads do, and it is never given too much at once."""

from __future__ import annotations

import io
import random
import threading
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from typing import TYPE_CHECKING, Any

import pytest

import pkgstore
from pkgstore import Misconfigured, NotFound, archive
from tests.archives import bodies, contents, exported, fill, restored
from tests.cluster import cluster

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

__all__ = ["cluster"]

pytestmark = pytest.mark.xdist_group("dask")

MIB = 1 << 20


@pytest.fixture(params=["processes", "dask"])
def executor(request: pytest.FixtureRequest) -> Iterator[Executor]:
    """Yield an executor that works in other processes."""
    if request.param == "processes":
        with ProcessPoolExecutor(2, get_context("spawn")) as pool:
            yield pool
    else:
        yield request.getfixturevalue("cluster").executor()


def test_other_processes_restore(executor: Executor, tmp_path: Path) -> None:
    """A base, and what has changed since: new, replaced, deleted, kept; a conflict; blobs of all sizes."""
    chance = random.Random(1)
    blobs = {**bodies(), "large": chance.randbytes(9 * MIB), "middling": chance.randbytes(MIB + 1)}
    with pkgstore.open(tmp_path / "whole") as whole, pkgstore.open(tmp_path / "target") as target:
        fill(whole, blobs)
        base = exported(whole)
        copy = target.scope("copy/")
        outcomes: list[archive.Outcome] = []
        found = restored(base, copy, executor=executor, told=outcomes.append)
        assert (found.new, found.same, len(outcomes)) == (len(blobs), 0, len(blobs))
        assert contents(copy) == blobs
        changed, deleted, other = sorted(bodies())[:3]
        whole.publish(changed, b"changed", replace=True)
        whole.publish("new", b"new")
        whole.delete(deleted)
        copy.publish(other, b"another version", replace=True)
        increment = exported(whole, since=io.BytesIO(base))
        found = restored(increment, copy, executor=executor, apply_changes=True, jobs=2)
        assert (found.new, found.replaced, found.deleted, found.conflict) == (1, 1, 1, 1)
        assert contents(copy) == {**contents(whole), other: b"another version"}
        assert contents(target).keys() == {f"copy/{key}" for key in contents(copy)}


class Counting(Executor):
    """Threads that count what they have been given: how much in all, and how much that is not done at a time."""

    def __init__(self) -> None:
        self.given = self.under_way = self.most = 0
        self._lock = threading.Lock()
        self._threads = ThreadPoolExecutor(3)

    def submit(self, function: Callable[..., Any], /, *arguments: Any, **named: Any) -> Future[Any]:
        with self._lock:
            self.given += 1
            self.under_way += 1
            self.most = max(self.most, self.under_way)
        future = self._threads.submit(function, *arguments, **named)
        future.add_done_callback(self._done)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self._threads.shutdown(wait, cancel_futures=cancel_futures)

    def _done(self, _: Future[Any]) -> None:
        with self._lock:
            self.under_way -= 1


def test_it_is_given_all_but_large_blobs_and_not_too_many_at_once(tmp_path: Path) -> None:
    blobs = {f"{number:03}": b"%d" % number for number in range(50)}
    with pkgstore.open(tmp_path / "whole") as whole, pkgstore.open(tmp_path / "target") as target:
        fill(whole, {**blobs, "large": bytes(8 * MIB + 1)})
        with Counting() as executor:
            assert restored(exported(whole), target, executor=executor, jobs=2).new == 51
            assert executor.given == 50
            assert executor.most <= 4
            executor.submit(int).result()  # it is the caller's, and goes on
        assert contents(target) == contents(whole)


def test_an_executor_that_breaks_is_an_error_and_what_is_restored_stays(tmp_path: Path) -> None:
    class Breaks(Counting):
        def submit(self, function: Callable[..., Any], /, *arguments: Any, **named: Any) -> Future[Any]:
            if self.given == 5:
                raise BrokenExecutor("a worker has died")
            return super().submit(function, *arguments, **named)

    with pkgstore.open(tmp_path / "whole") as whole, pkgstore.open(tmp_path / "target") as target:
        fill(whole, bodies())
        outcomes: list[archive.Outcome] = []
        with Breaks() as executor, pytest.raises(BrokenExecutor, match="a worker has died"):
            restored(exported(whole), target, executor=executor, told=outcomes.append)
        assert contents(target).items() <= bodies().items()
        assert sorted(contents(target)) == sorted(each.key for each in outcomes if each.fate == "new")
        there = len(contents(target))
        found = restored(exported(whole), target)
        assert (found.same, found.new) == (there, len(bodies()) - there)


def test_a_store_that_another_process_cannot_reach(tmp_path: Path) -> None:
    with pkgstore.open(tmp_path / "whole") as whole, pkgstore.open("memory://only-here") as target:
        fill(whole, bodies())
        with (
            ProcessPoolExecutor(1, get_context("spawn")) as pool,
            pytest.raises((NotFound, Misconfigured), match="sent to a process"),
        ):
            restored(exported(whole), target, executor=pool)
        assert contents(target) == {}


@pytest.mark.parametrize("jobs", [0, -1, 1.5])
def test_no_jobs_at_all(tmp_path: Path, jobs: Any) -> None:
    with pkgstore.open(tmp_path / "whole") as whole:
        data = exported(whole)
        for refused in (lambda: restored(data, whole, jobs=jobs), lambda: exported(whole, jobs=jobs)):
            with pytest.raises(Misconfigured, match="let there be 1 or more"):
                refused()
