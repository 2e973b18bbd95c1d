"""Stores that are pickled: what comes out is the same store, or an error."""

from __future__ import annotations

import copy
import pickle
import threading
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import TYPE_CHECKING, Any

import pytest

import pkgstore
from pkgstore import errors, reopening
from tests.forked import in_a_child

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pkgstore import Store


@pytest.fixture(autouse=True)
def afresh() -> Iterator[None]:
    """Keep no store from one test to the next."""
    yield
    reopening._close_all()


def sent(store: Store) -> Store:
    """Return what another part of this process gets."""
    return pickle.loads(pickle.dumps(store))  # type: ignore[no-any-return]


def test_it_is_the_same_store(tmp_path: Path) -> None:
    with pkgstore.open(tmp_path / "store") as store:
        store.publish("a", b"1")
        other = sent(store)
        assert other is not store
        assert (other.id, other.where, other.readonly) == (store.id, store.where, store.readonly)
        assert other.read("a") == b"1"
        other.publish("b", b"2")
        assert store.read("b") == b"2"
    assert other.read("a") == b"1"


def test_it_is_opened_once_and_closed_by_nobody(tmp_path: Path) -> None:
    with pkgstore.open(tmp_path / "store") as store:
        text = pickle.dumps(store)
    found: list[Store] = []
    threads = [threading.Thread(target=lambda: found.append(pickle.loads(text))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(each.driver) for each in found}) == 1
    for each in found:
        each.close()
        assert list(each.list()) == []


def test_a_scope_stays_one(tmp_path: Path) -> None:
    with pkgstore.open(tmp_path / "store") as store:
        scope = sent(store.scope("team/").scope("a/"))
        scope.publish("x", b"1")
        assert store.read("team/a/x") == b"1"
        assert scope.where == f"{store.where}/team/a/"
        assert sent(scope).scope("b/").where == f"{store.where}/team/a/b/"
        assert scope.driver is sent(store).driver


def test_options_go_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "here")
    url = f"file://{tmp_path}/store?timeout=7"
    with pkgstore.open(url, cache=tmp_path / "cache", cache_size="1Mi", catalog="rows.sqlite") as store:
        text = pickle.dumps(store)
    monkeypatch.chdir(tmp_path / "there")
    other = pickle.loads(text)
    assert (other._calls.timeout, other._cache._room.folder) == (7, str(tmp_path / "cache"))
    other.publish("a", b"1")
    assert list((tmp_path / "there").iterdir()) == []
    assert (tmp_path / "here" / "rows.sqlite").exists()
    with pkgstore.open(url, readonly=True) as store, pytest.raises(pkgstore.Denied):
        sent(store).publish("a", b"1")


def test_a_relative_path_leads_to_the_same_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pkgstore.open("store") as store:
        store.publish("a", b"1")
        text = pickle.dumps(store)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert pickle.loads(text).read("a") == b"1"


def test_another_store_at_its_place_is_refused(tmp_path: Path) -> None:
    with pkgstore.open(tmp_path / "store", create=True) as store:
        text, old = pickle.dumps(store), store.id
    (tmp_path / "store").rename(tmp_path / "moved")
    with pytest.raises(pkgstore.NotFound, match=r"store was sent to a process that has no store there: .* \(there is"):
        pickle.loads(text)
    assert not (tmp_path / "store").exists()
    with (
        pkgstore.open(tmp_path / "store") as new,
        pytest.raises(pkgstore.Misconfigured, match=f"another store there, {new.id} and not {old}: send only"),
    ):
        pickle.loads(text)


def test_memory_is_of_one_process() -> None:
    with pkgstore.open("memory://known-by-name") as store:
        store.publish("a", b"1")
        assert sent(store).read("a") == b"1"
    with pkgstore.open("memory://") as store, pytest.raises(pkgstore.NotFound, match="memory:// was sent"):
        sent(store)


def test_what_cannot_be_sent_says_so(tmp_path: Path) -> None:
    from pkgstore.testing.faults import FaultPlan, FaultyDriver, with_driver

    with pkgstore.open(tmp_path) as store:
        with pytest.raises(TypeError, match="was not opened by pkgstore.open"):
            pickle.dumps(with_driver(store, FaultyDriver(store.driver, FaultPlan())))
        origin = reopening.Origin(print, None, {"credentials": threading.Lock()})  # type: ignore[arg-type]
        with pytest.raises(pkgstore.Misconfigured, match=r"cannot be sent to another process \(cannot pickle"):
            origin.reduced("gs://bucket", "id", "")


def test_copies_are_stores_too(tmp_path: Path) -> None:
    with pkgstore.open(tmp_path) as store:
        copy.deepcopy(store).publish("a", b"1")
        assert store.read("a") == b"1"


def test_after_fork(tmp_path: Path) -> None:
    with pkgstore.open(tmp_path) as store:
        text = pickle.dumps(store)
        pickle.loads(text).publish("a", b"1")
        assert in_a_child(lambda: pickle.loads(text).read("a") == b"1")
        with reopening._lock:  # as another thread may hold it
            assert in_a_child(lambda: pickle.loads(text).read("a") == b"1")


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_process_closes_what_it_kept(tmp_path: Path, method: str) -> None:
    with pkgstore.open(tmp_path / "store") as store:
        store.set_quota(1 << 30)
        sent(store)  # what a child inherits of it
        with ProcessPoolExecutor(1, get_context(method)) as pool:
            pool.submit(put, store, "a").result()
        assert store.usage().reserved == 0


def put(store: Store, key: str) -> None:
    store.publish(key, b"1")


def _made(kind: type[errors.StoreError]) -> errors.StoreError:
    extra: dict[str, Any] = {}
    if kind is errors.Exists:
        extra = {"blob": pkgstore.Blob("a", 1, 2.0, "t", {"md5": "0" * 32}), "identical": True}
    if kind is errors.QuotaExceeded:
        extra = {"limit": 5, "used": 4, "needed": 3}
    return kind("the message", key="a", **extra)


KINDS = [kind for kind in vars(pkgstore).values() if isinstance(kind, type) and issubclass(kind, pkgstore.StoreError)]


@pytest.mark.parametrize("kind", KINDS)
def test_errors_come_back_whole(kind: type[errors.StoreError]) -> None:
    error = _made(kind)
    other = pickle.loads(pickle.dumps(error))
    assert (type(other), str(other), vars(other)) == (kind, str(error), vars(error))
    assert getattr(other, "errno", None) == getattr(error, "errno", None)
