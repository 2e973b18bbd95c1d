"""Lists: sorted, whole, exact in their prefix, and streamed."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TYPE_CHECKING

import pytest

from pkgstore import InvalidKey
from pkgstore.testing.suite.harness import Harness

if TYPE_CHECKING:
    import random

    from pkgstore import Store

# Names that sort otherwise by their folders than by their keys: '-', '.' and '+' come before '/', digits after.
TRICKY = [
    "a-b",
    "a.b",
    "a+",
    "a/x",
    "a/x-y",
    "a/x.y",
    "a/x/y",
    "a0",
    "aa/b",
    "B",
    "b!/c",
    "b/c",
    "b0/c",
    "z/z/z/z",
    "z/z.z/z",
    "é",
    "\ue000",
    "\U0001f600",
]


class ListingTests(Harness):
    """What is there is listed, once, in order."""

    def test_sorted_by_key(self, store: Store, rng: random.Random) -> None:
        keys = [key for key in TRICKY if key != "a/x"]
        for key in rng.sample(keys, len(keys)):
            store.publish(key, b"")
        assert _listed(store) == sorted(keys)
        assert _listed(store) == sorted(keys, key=str.encode)

    def test_a_prefix_is_not_its_sibling(self, store: Store) -> None:
        keys = ["pypi-old/a", "pypi.d/a", "pypi/a", "pypi/b/c", "pypi0/a", "pyp/a", "other/pypi/a"]
        for key in keys:
            store.publish(key, b"")
        assert _listed(store, "pypi/") == ["pypi/a", "pypi/b/c"]
        assert _listed(store, "pypi/b/") == ["pypi/b/c"]
        assert _listed(store.scope("pypi/")) == ["a", "b/c"]
        assert _listed(store.scope("pypi/"), "b/") == ["b/c"]
        assert _listed(store, "pyp/") == ["pyp/a"]
        for absent in ("py/", "pypi/a/", "pypi/b/c/", "pypi/x/", "absent/"):
            assert _listed(store, absent) == []

    @pytest.mark.parametrize("prefix", ["pypi", "/", "a//", "../", ".pkgstore/tmp/"])
    def test_a_prefix_that_is_none(self, store: Store, prefix: str) -> None:
        with pytest.raises(InvalidKey):
            list(store.list(prefix))

    def test_a_list_is_streamed(self, store: Store) -> None:
        for number in range(50):
            store.publish(f"d/{number:02}", b"")
        listing = store.list()
        assert isinstance(listing, Iterator)
        assert [blob.key for blob in islice(listing, 3)] == ["d/00", "d/01", "d/02"]
        for number in range(3, 50):
            store.delete(f"d/{number:02}")
        for number in range(60, 70):
            store.publish(f"e/{number:02}", b"")
        rest = [blob.key for blob in listing]
        assert rest == sorted(set(rest))
        assert all(key > "d/02" for key in rest)
        assert _listed(store) == ["d/00", "d/01", "d/02", *(f"e/{number}" for number in range(60, 70))]

    def test_a_list_that_is_left_holds_nothing_up(self, store: Store) -> None:
        for number in range(10):
            store.publish(f"d/{number}", b"")
        listing = store.list()
        next(listing)
        store.delete("d/5")
        store.publish("d/new", b"")
        del listing
        assert len(_listed(store)) == 10

    def test_more_blobs_than_one_page_holds(self, store: Store) -> None:
        keys = [f"{number % 7}/pkg-{number}" for number in range(1_100)]
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda key: store.publish(key, key.encode()), keys))
        assert _listed(store) == sorted(keys)
        assert store.usage().bytes == sum(map(len, keys))

    def test_lists_while_others_publish_and_delete(self, store: Store) -> None:
        stable = {f"{letter}/blob-{number}" for letter in "abc" for number in range(20)}
        for key in stable:
            store.publish(key, b"stable")
        done = threading.Event()

        def churn(name: str) -> None:
            while not done.is_set():
                for letter in "abcd":
                    store.publish(f"{letter}/{name}/x", b"passing")
                for letter in "abcd":
                    store.delete(f"{letter}/{name}/x")

        with ThreadPoolExecutor(2) as pool:
            churning = [pool.submit(churn, name) for name in ("0", "x")]
            try:
                for _ in range(60):
                    blobs = list(store.list())
                    keys = [blob.key for blob in blobs]
                    assert keys == sorted(set(keys))
                    assert stable <= set(keys)
                    for blob in blobs:
                        assert blob.size == (6 if blob.key in stable else 7)
            finally:
                done.set()
            for each in churning:
                each.result()
        assert set(_listed(store)) == stable


def _listed(store: Store, prefix: str = "") -> list[str]:
    return [blob.key for blob in store.list(prefix)]
