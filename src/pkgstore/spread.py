"""Work over many blobs, spread by any `concurrent.futures.Executor`: of threads, of processes, or of a cluster."""

from __future__ import annotations

import pickle
import uuid
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from itertools import count, islice
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from pkgstore.errors import Misconfigured

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

JOBS = 16
"""How many items are under way at a time, where nothing else is asked for."""


def spread(
    function: Callable[[_Item], _Result], items: Iterable[_Item], *, executor: Executor | None = None, jobs: int = JOBS
) -> Generator[_Result]:
    """Yield ``function(item)`` for every item, in the order in which they are done.

    At most ``jobs`` items are taken from ``items``, which may be endless, before their results are; so memory does not
    grow with their number. Without ``executor``, so many threads do the work. Another process gets function, items and
    results by pickle: a `functools.partial` of a module's function is one that can be sent, and so is a
    `pkgstore.Store`. An executor that tries again what was lost with a worker may call the function twice for an item.

    The first error of the function, of ``items`` or of the executor comes through, and so does whatever ends the
    iteration early: what has not begun is then cancelled, and what has is waited for, but where the executor counts it
    as cancelled all the same (Dask does). Raises `Misconfigured` when ``jobs`` is no positive number.
    """
    check_jobs(jobs)
    return _spread(function, iter(items), executor, jobs)


def check_jobs(jobs: int) -> None:
    """Raise `Misconfigured` when ``jobs`` is no number of items that can be under way."""
    if type(jobs) is not int or jobs < 1:
        raise Misconfigured(f"jobs={jobs!r} at a time are none: let there be 1 or more")


def _spread(
    function: Callable[[_Item], _Result], items: Iterator[_Item], executor: Executor | None, jobs: int
) -> Generator[_Result]:
    pending: set[Future[_Result]] = set()
    with ExitStack() as stack:
        executor = stack.enter_context(workers(executor, jobs))
        stack.callback(_cancel, pending)
        sent = Sending(function, executor)
        while True:
            for item in islice(items, jobs - len(pending)):
                pending.add(sent.submit(item))
            if not pending:
                return
            done = wait(pending, return_when=FIRST_COMPLETED).done
            for future in done:
                result = future.result()
                pending.discard(future)
                yield result


@contextmanager
def workers(executor: Executor | None, jobs: int) -> Iterator[Executor]:
    """Yield ``executor``, or else one of ``jobs`` threads, which ends with the block."""
    if executor is not None:
        yield executor
    else:
        with ThreadPoolExecutor(jobs, thread_name_prefix="pkgstore-spread") as threads:
            yield threads


class Sending(Generic[_Item, _Result]):
    """A function on its way to an executor, item by item, for whoever decides himself when to take which result."""

    def __init__(self, function: Callable[[_Item], _Result], executor: Executor) -> None:
        self._run, self._numbers, self._packed = uuid.uuid4().hex, count(), _Packed(function)
        self._executor = executor

    def submit(self, item: _Item) -> Future[_Result]:
        """Have the function called with an item."""
        return self._executor.submit(_one, (self._run, next(self._numbers)), self._packed, item)


class _Packed(Generic[_Item, _Result]):
    """A function that is unpickled by the first call.

    What goes wrong there is then an error of the call, and its reason is told. A pool of processes would say that a
    process of it has died.
    """

    def __init__(self, function: Callable[[_Item], _Result] | bytes) -> None:
        self._function = function

    def __call__(self, item: _Item) -> _Result:
        if isinstance(self._function, bytes):
            self._function = cast("Callable[[_Item], _Result]", pickle.loads(self._function))
        return self._function(item)

    def __reduce__(self) -> tuple[Any, ...]:
        if isinstance(self._function, bytes):
            return _Packed, (self._function,)
        try:
            return _Packed, (pickle.dumps(self._function),)
        except (pickle.PicklingError, TypeError, AttributeError):
            return _Packed, (self._function,)  # the executor may have means of its own, as Dask has


def _one(number: tuple[str, int], function: _Packed[_Item, _Result], item: _Item) -> _Result:
    # Dask takes two calls with the same arguments for one, and the result of an earlier one for both: so no two are.
    return function(item)


def _cancel(pending: set[Future[_Result]]) -> None:
    wait([future for future in pending if not future.cancel()])
