"""A store with a quota, for tests, and others that publish in it and are interrupted."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, Any

import pytest

import pkgstore
from pkgstore import accounts, holder, tending
from pkgstore.ledger import Ledger
from pkgstore.testing.faults import FaultPlan, FaultyDriver, Outage, with_driver
from pkgstore.testing.processes import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from pkgstore import Store
    from pkgstore.driver import Blob, Body

LIMIT = 1000
SHORT = 1.0


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accounts, "LEASE", SHORT)
    monkeypatch.setattr(holder, "LOOK", 0.0)
    monkeypatch.setattr(tending, "TICK", 0.02)
    monkeypatch.setattr(tending, "_IDLE", 0.1)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"file://{tmp_path}/store"


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    with limited(url) as store:
        yield store


@contextlib.contextmanager
def limited(url: str, limit: int | None = LIMIT) -> Iterator[Store]:
    with pkgstore.open(url) as store:
        store.set_quota(limit)
        yield store


class Hooked(FaultyDriver):
    """A driver that calls a hook when a body is about to become visible, and when it just has."""

    def __init__(self, store: Store) -> None:
        super().__init__(store.driver, FaultPlan())
        self.before: Callable[[], object] = lambda: None
        self.after: Callable[[], object] = lambda: None
        self.is_cut_off = False

    def put(
        self, key: str, body: Body, size: int | None, *, digests: Mapping[str, str], exclusive: bool, token: str
    ) -> Blob:
        is_blob = not key.startswith(".pkgstore/")
        seen = _HookedBody(body, self.before) if is_blob else body
        blob = super().put(key, seen, size, digests=digests, exclusive=exclusive, token=token)
        if is_blob:
            self.after()
        return blob

    @contextlib.contextmanager
    def _failing(self, verb: Any) -> Iterator[Callable[[], None]]:
        if self.is_cut_off:
            raise Outage
        with super()._failing(verb) as middle:
            yield middle


class _HookedBody:
    def __init__(self, body: Body, hook: Callable[[], object]) -> None:
        self.read = body.read
        self._body, self._hook = body, hook

    def finish(self) -> Mapping[str, str]:
        found = self._body.finish()
        self._hook()
        return found


@contextlib.contextmanager
def hooked(url: str, *, timeout: float = 60.0) -> Iterator[tuple[Store, Hooked]]:
    """Yield another publisher of a store, and its driver."""
    with pkgstore.open(url) as below:
        driver = Hooked(below)
        store = with_driver(below, driver, timeout=timeout)
        try:
            yield store, driver
        finally:
            die(store)


def die(store: Store) -> None:
    """Have this publisher be heard of no more; what it has in hand stays where it is."""
    with store._quota._changed:
        store._quota._closed = True


def document(store: Store) -> dict[str, Any]:
    return Ledger(store._calls, "usage").read().document


def visible(store: Store) -> tuple[int, int]:
    blobs = list(store.list())
    return sum(blob.size for blob in blobs), len(blobs)


def assert_exact(store: Store) -> None:
    """Assert that the ledger says what is there, once nobody has anything in hand."""
    until(lambda: not document(store).get("holders"), "that all is quiet")
    usage = store.usage()
    assert (usage.bytes, usage.blobs, usage.reserved) == (*visible(store), 0)


def assert_no_doubt(store: Store) -> None:
    """Assert that what the ledger says is what is there, at this very moment."""
    usage = store.usage()
    assert (usage.bytes, usage.blobs) == visible(store)


def in_thread(function: Callable[[], object], seconds: float) -> threading.Thread:
    """Begin something, and give it a while to end, if it can."""
    thread = threading.Thread(target=function)
    thread.start()
    thread.join(seconds)
    return thread
