"""A real Dask cluster on this machine: a scheduler and two worker processes, reached by loopback only."""

from __future__ import annotations

import contextlib
import warnings
from typing import TYPE_CHECKING, Any, cast

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from concurrent.futures import Executor
    from pathlib import Path

WORKERS = 2


class Cluster:
    """Two workers of one thread each, and a client of theirs."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def executor(self) -> Executor:
        """Return an executor that works there."""
        return cast("Executor", self._client.get_executor())


@contextlib.contextmanager
def started(folder: Path) -> Iterator[Cluster]:
    """Run a cluster whose files lie in ``folder``."""
    import dask
    import distributed

    settings = {
        "temporary-directory": str(folder),
        "distributed.worker.daemon": False,
        "distributed.comm.retry.count": 3,
        "distributed.scheduler.allowed-failures": 5,
    }
    with (
        dask.config.set(settings),
        distributed.LocalCluster(  # type: ignore[no-untyped-call]
            n_workers=WORKERS, threads_per_worker=1, host="127.0.0.1", dashboard_address=None, silence_logs=50
        ) as running,
        distributed.Client(running) as client,  # type: ignore[no-untyped-call]
    ):
        yield Cluster(client)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Yield a cluster; it ends with the tests of a file."""
    with warnings.catch_warnings():
        # What its own threads and its event loop do as it ends is not for us to judge.
        warnings.simplefilter("ignore")
        with started(tmp_path_factory.mktemp("dask")) as running:
            yield running
