"""What each verb of the store does when nothing goes wrong."""

from __future__ import annotations

import errno
import hashlib
import math
import pickle
from typing import TYPE_CHECKING

import pytest

from pkgstore import Denied, Exists, InvalidKey, NotFound
from pkgstore.testing.suite.harness import Harness, held

if TYPE_CHECKING:
    from pkgstore import Store

KEY = "six/six-1.17.0-py2.py3-none-any.whl"


class BasicTests(Harness):
    """Publish, read, stat, list, replace, delete, scope."""

    def test_a_blob_says_what_was_published(self, store: Store) -> None:
        blob = store.publish(KEY, b"content")
        assert (blob.key, blob.size) == (KEY, 7)
        assert blob.digests["sha256"] == hashlib.sha256(b"content").hexdigest()
        assert (
            dict(blob.digests).items() <= {n: hashlib.new(n, b"content").hexdigest() for n in ("sha256", "md5")}.items()
        )
        assert blob.tag
        assert math.isfinite(blob.mtime)
        assert blob.mtime > 0

    def test_every_verb_shows_the_same_blob(self, store: Store) -> None:
        blob = store.publish(KEY, b"content")
        assert store.stat(KEY) == blob
        with store.open(KEY) as reader:
            assert reader.blob == blob
        (listed,) = store.list()
        assert (listed.key, listed.size, listed.tag) == (blob.key, blob.size, blob.tag)
        assert listed.digests in ({}, blob.digests)
        assert store.read(KEY) == b"content"

    @pytest.mark.parametrize(
        ("second", "identical"), [(b"content", True), (b"CONTENT", False), (b"longer than it", False)]
    )
    def test_a_key_is_published_once(self, store: Store, second: bytes, identical: bool) -> None:
        first = store.publish(KEY, b"content")
        with pytest.raises(Exists) as caught:
            store.publish(KEY, second)
        assert caught.value.blob == first
        assert caught.value.identical is identical
        assert caught.value.key == KEY
        assert caught.value.errno == errno.EEXIST
        assert held(store) == {KEY: b"content"}
        assert store.stat(KEY) == first

    def test_what_is_absent_is_not_found(self, store: Store) -> None:
        for verb in (store.open, store.read, store.stat, store.adopt):
            with pytest.raises(NotFound) as caught:
                verb(KEY)
            assert caught.value.key == KEY
            assert caught.value.errno == errno.ENOENT
            assert isinstance(caught.value, FileNotFoundError)
        assert held(store) == {}

    def test_a_folder_is_no_blob(self, store: Store) -> None:
        store.publish("a/b/c", b"1")
        for folder in ("a", "a/b"):
            with pytest.raises(NotFound):
                store.stat(folder)
            with pytest.raises(NotFound):
                store.open(folder)
            store.delete(folder)
        with pytest.raises(NotFound):
            store.stat("a/b/c/d")
        store.delete("a/b/c/d")
        assert held(store) == {"a/b/c": b"1"}

    def test_delete(self, store: Store) -> None:
        store.publish(KEY, b"content")
        store.delete(KEY)
        assert held(store) == {}
        with pytest.raises(NotFound):
            store.stat(KEY)
        store.delete(KEY)

    def test_delete_leaves_its_siblings(self, store: Store) -> None:
        siblings = {"a/b": b"1", "a/c": b"2", "a/b-": b"3", "a/d/b": b"4", "b": b"5"}
        for key, data in siblings.items():
            store.publish(key, data)
        store.delete("a/b")
        del siblings["a/b"]
        assert held(store) == siblings

    def test_a_deleted_key_can_be_published_again(self, store: Store) -> None:
        first = store.publish(KEY, b"content")
        store.delete(KEY)
        second = store.publish(KEY, b"other content")
        assert second.tag != first.tag
        assert held(store) == {KEY: b"other content"}

    def test_replace_makes_a_new_version(self, store: Store) -> None:
        tags = [store.publish(KEY, b"1", replace=True).tag]
        for data in (b"2", b"3", b"three", b""):
            blob = store.publish(KEY, data, replace=True)
            tags.append(blob.tag)
            assert store.stat(KEY) == blob
            assert held(store) == {KEY: data}
        assert len(set(tags)) == len(tags)

    def test_usage_counts(self, store: Store) -> None:
        assert (store.usage().blobs, store.usage().bytes) == (0, 0)
        for number in range(3):
            store.publish(f"a/{number}", bytes(number))
        assert (store.usage().blobs, store.usage().bytes) == (3, 3)

    def test_a_reopened_store_is_the_same(self, url: str, store: Store) -> None:
        blob = store.publish(KEY, b"content")
        with self.open_store(url) as other:
            assert other.id == store.id
            assert other.stat(KEY) == blob
            other.publish("other", b"1")
        assert held(store) == {KEY: b"content", "other": b"1"}

    def test_no_store_is_made_unasked(self, url: str) -> None:
        for options in ({"create": False}, {"readonly": True}):
            with pytest.raises(NotFound):
                self.open_store(url, **options)

    def test_a_readonly_store_refuses_to_write(self, url: str, store: Store) -> None:
        store.publish(KEY, b"content")
        with self.open_store(url, readonly=True) as reading:
            for write in (
                lambda: reading.publish("new", b"1"),
                lambda: reading.publish(KEY, b"1", replace=True),
                lambda: reading.delete(KEY),
                lambda: reading.scope("six/").delete("six-1.17.0-py2.py3-none-any.whl"),
            ):
                with pytest.raises(Denied):
                    write()
            assert held(reading) == {KEY: b"content"}

    def test_a_scope_sees_nothing_outside(self, store: Store) -> None:
        outside = {"tenant-2/x": b"1", "tenant": b"2", "other": b"3"}
        for key, data in outside.items():
            store.publish(key, data)
        scope = store.scope("tenants/one/")
        assert held(scope) == {}
        blob = scope.publish("x/y", b"4")
        assert blob.key == "x/y"
        assert scope.stat("x/y") == blob
        assert held(scope) == {"x/y": b"4"}
        assert held(scope, "x/") == {"x/y": b"4"}
        assert held(scope.scope("x/")) == {"y": b"4"}
        assert (scope.usage().blobs, scope.usage().bytes) == (1, 1)
        with pytest.raises(Exists) as taken:
            scope.publish("x/y", b"5")
        assert (taken.value.key, taken.value.blob) == ("x/y", blob)
        with pytest.raises(NotFound):
            scope.read("other")
        with pytest.raises(InvalidKey):
            scope.read("../../other")
        assert held(store) == {**outside, "tenants/one/x/y": b"4"}
        scope.delete("x/y")
        assert held(store) == outside

    def test_closing_a_scope_leaves_its_store_open(self, store: Store) -> None:
        with store.scope("tenant/") as scope:
            scope.publish("x", b"1")
        store.publish("y", b"2")
        assert held(store) == {"tenant/x": b"1", "y": b"2"}

    def test_a_closed_store_is_of_no_use(self, url: str) -> None:
        store = self.open_store(url)
        scope = store.scope("tenant/")
        store.close()
        store.close()
        for call in (store.read, store.delete, scope.stat, lambda key: scope.publish(key, b"")):
            with pytest.raises(ValueError, match="is closed"):
                call("a")

    def test_control_documents_are_not_listed(self, store: Store) -> None:
        assert store.id
        assert list(store.list()) == []
        with pytest.raises(InvalidKey):
            list(store.list(".pkgstore/"))

    def test_errors_can_be_pickled(self, store: Store) -> None:
        store.publish(KEY, b"content")
        with pytest.raises(Exists) as exists:
            store.publish(KEY, b"content")
        with pytest.raises(NotFound) as absent:
            store.read("absent")
        with pytest.raises(InvalidKey) as invalid:
            store.read("../x")
        for error in (exists.value, absent.value, invalid.value):
            copy = pickle.loads(pickle.dumps(error))
            assert type(copy) is type(error)
            assert str(copy) == str(error)
            assert copy.key == error.key
            assert getattr(copy, "errno", None) == getattr(error, "errno", None)
        copy = pickle.loads(pickle.dumps(exists.value))
        assert (copy.blob, copy.identical) == (exists.value.blob, True)
