"""Keys: what every medium holds, what every medium refuses, and what may lie beside what."""

from __future__ import annotations

import itertools
import unicodedata
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pkgstore import InvalidKey, NotFound, keys
from pkgstore.testing.suite.harness import Harness, held

if TYPE_CHECKING:
    from pkgstore import Store

ODD = [
    "a",
    "six-1.17.0-py2.py3-none-any.whl",
    "pkg/1.0+local.tar.gz",
    "...x",
    ".hidden",
    ".pkgstore-not",
    "a/.pkgstorex/b",
    "x.pkgstore",
    "with space/inner  two",
    " leading space",
    "100%/%2e%2e/%00",
    "a+b=c&d#e;f@g!h$i'j(k),l~m`n^o{p}q[r]",
    "-rf",
    "--",
    "~root",
    "$HOME/${HOME}",
    "@eaDir",
    "tmp",
    "store.json",
    "Thumbs.db",
    "conx/auxiliary/com10",
    "café/naïve",
    "日本語/パッケージ",
    "\U0001f600/\U0001f469\u200d\U0001f467",
    "\u202eright-to-left",
    "a\u00a0b",
    "x" * 255,
    "é" * 127 + "x",
    "/".join(["d" * 200] * 5) + "/" + "e" * 19,
    "/".join("abcdefghijklmnopqrstuvwxyz" * 10),
    "a/lost+found",
]

HOSTILE = [
    "",
    "/",
    "/etc/passwd",
    "a/",
    "a//b",
    ".",
    "..",
    "../x",
    "a/../b",
    "a/../../b",
    "a/./b",
    "a/..",
    "a\\b",
    "..\\x",
    "C:",
    "C:/x",
    "a*",
    "a?",
    'a"b',
    "a<b",
    "a>b",
    "a|b",
    "a\0b",
    "a\nb",
    "a\x7fb",
    "a\x85b",
    "a.",
    "a ",
    "a./b",
    "a /b",
    "con",
    "NUL.txt",
    "a/Com1.whl",
    "lpt9",
    ".pkgstore",
    ".pkgstore/store.json",
    ".pkgstore/tmp/x",
    ".PkgStore/x",
    "a/.pkgstore",
    "lost+found/x",
    "x" * 256,
    "é" * 128,
    "/".join(["d" * 200] * 5) + "/" + "e" * 20,
    unicodedata.normalize("NFD", "café"),
    "\ud800",
]

segment = st.text(min_size=1, max_size=12)
paths = st.lists(segment, min_size=1, max_size=4).map("/".join)


class NamingTests(Harness):
    """A key is held as it is, or refused; none changes another."""

    @pytest.mark.parametrize("key", ODD, ids=lambda key: ascii(key)[:60])
    def test_an_odd_key_is_held(self, store: Store, key: str) -> None:
        keys.check(key)
        store.publish("neighbour", b"1")
        if len(key.encode()) > self.longest:
            with pytest.raises(InvalidKey):
                store.publish(key, b"content")
            assert held(store) == {"neighbour": b"1"}
            return
        blob = store.publish(key, b"content")
        assert blob.key == key
        assert store.stat(key) == blob
        assert held(store) == {"neighbour": b"1", key: b"content"}
        assert held(store, key[: key.rfind("/") + 1]).get(key) == b"content"
        assert store.publish(key, b"new", replace=True).tag != blob.tag
        assert held(store) == {"neighbour": b"1", key: b"new"}
        store.delete(key)
        assert held(store) == {"neighbour": b"1"}

    def test_odd_keys_are_held_together(self, store: Store) -> None:
        together = {key: key.encode() for key in ODD if key != "a" and len(key.encode()) <= self.longest}
        for key, data in together.items():
            store.publish(key, data)
        assert held(store) == together
        assert [blob.key for blob in store.list()] == sorted(together)

    @pytest.mark.parametrize("key", HOSTILE, ids=lambda key: ascii(key)[:60])
    def test_a_hostile_key_is_refused(self, store: Store, key: str) -> None:
        store.publish("a/b", b"1")
        identity = store.id
        calls: list[Any] = [
            lambda: store.publish(key, b"x"),
            lambda: store.publish(key, b"x", replace=True),
            lambda: store.open(key),
            lambda: store.read(key),
            lambda: store.stat(key),
            lambda: store.adopt(key),
            lambda: store.delete(key),
            lambda: store.local_path(key),
            lambda: store.scope("a/").publish(key, b"x"),
            lambda: store.scope(f"{key}/"),
            lambda: list(store.list(f"{key}/")),
        ]
        for call in calls:
            with pytest.raises(InvalidKey) as caught:
                call()
            assert "\n" not in str(caught.value)
            assert len(str(caught.value)) < 600
        assert held(store) == {"a/b": b"1"}
        assert store.id == identity

    @pytest.mark.parametrize("key", [None, 5, b"a"], ids=repr)
    def test_a_key_that_is_no_text(self, store: Store, key: Any) -> None:
        for call in (store.stat, store.open, store.delete, store.scope):
            with pytest.raises((TypeError, InvalidKey)):
                call(key)
        with pytest.raises(TypeError):
            store.publish(key, b"")
        assert held(store) == {}

    def test_any_text_is_held_or_refused(self, store: Store) -> None:
        numbers = itertools.count()

        @settings(max_examples=60, deadline=None, print_blob=True, database=None)
        @given(key=paths | st.text(max_size=40))
        def check(key: str) -> None:
            view = store.scope(f"{next(numbers)}/")
            try:
                view.publish(key, b"content")
            except InvalidKey:
                assert held(store) == {}
                assert not keys.is_valid(key)
            else:
                assert held(view) == {key: b"content"}
                view.delete(key)
            assert held(store) == {}

        check()

    @pytest.mark.parametrize(("first", "second"), [("a", "a/b"), ("a/b", "a"), ("a/b", "a/b/c/d"), ("x/y/z", "x")])
    def test_a_blob_beside_its_own_folder(self, store: Store, first: str, second: str) -> None:
        blob = store.publish(first, b"1")
        expected = {first: b"1"}
        for replace in (False, True):
            try:
                store.publish(second, b"2", replace=replace)
            except InvalidKey:
                with pytest.raises(NotFound):
                    store.stat(second)
                store.delete(second)
            else:
                expected[second] = b"2"
                break
        assert store.stat(first) == blob
        assert held(store) == expected
        store.delete(first)
        if second not in expected:
            try:
                store.publish(second, b"2")
            except InvalidKey:
                assert self.keeps_folders
                store.publish(f"{second}-", b"2")
                second += "-"
        assert held(store) == {second: b"2"}

    @pytest.mark.parametrize(("one", "other"), [("Key", "key"), ("Dir/x", "dir/x"), ("a/straße", "a/STRASSE")])
    def test_letters_of_the_other_case(self, store: Store, one: str, other: str) -> None:
        blob = store.publish(one, b"1")
        expected = {one: b"1"}
        try:
            store.publish(other, b"2", replace=True)
            expected[other] = b"2"
        except InvalidKey:
            pass
        assert store.stat(one) == blob
        assert held(store) == expected
