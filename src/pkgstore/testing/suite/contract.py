"""What `pkgstore.driver` asks of a driver, where the store does not show it."""

from __future__ import annotations

import hashlib
import uuid
from typing import TYPE_CHECKING

import pytest

from pkgstore import Corrupt, Exists, NotFound, StoreError
from pkgstore.bodies import PublishBody
from pkgstore.hashing import wanted
from pkgstore.testing.suite.harness import Harness, MiB, held

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pkgstore import Blob, Store
    from pkgstore.driver import Driver


class ContractTests(Harness):
    """The seven verbs, called as the store calls them."""

    def test_what_a_driver_says_of_itself(self, store: Store) -> None:
        driver = store.driver
        assert driver.scheme
        assert isinstance(driver.exclusive, bool)
        assert isinstance(driver.streams, bool)

    def test_a_token_that_took_effect_has_won(self, store: Store) -> None:
        token = uuid.uuid4().hex
        first = put(store.driver, "a/b", b"content", token)
        again = put(store.driver, "a/b", b"content", token)
        assert first == again == store.driver.stat("a/b")
        refused(store.driver, Exists, lambda: put(store.driver, "a/b", b"content", uuid.uuid4().hex))
        assert store.driver.stat("a/b") == first

    def test_a_token_is_of_one_key(self, store: Store) -> None:
        token = uuid.uuid4().hex
        put(store.driver, "other", b"1", uuid.uuid4().hex)
        put(store.driver, "one", b"1", token)
        refused(store.driver, Exists, lambda: put(store.driver, "other", b"1", token))
        assert held(store) == {"one": b"1", "other": b"1"}

    def test_put_returns_the_digests(self, store: Store) -> None:
        digests = {"sha256": hashlib.sha256(b"1").hexdigest()}
        assert dict(put(store.driver, "a", b"1").digests) == digests
        assert dict(store.driver.stat("a").digests) == digests
        blob, stream = store.driver.open("a")
        stream.close()
        assert dict(blob.digests) == digests

    def test_the_body_is_judged_before_it_is_visible(self, url: str, store: Store) -> None:
        for exclusive in (True, False):
            with pytest.raises(Corrupt):
                put(store.driver, "a", bytes(MiB), exclusive=exclusive, expected={"md5": "0" * 32})
            refused(store.driver, NotFound, lambda: store.driver.stat("a"))
            assert list(store.driver.scan("")) == []
            self.assert_nothing_staged(url)

    def test_open_stands_at_its_start(self, store: Store) -> None:
        data = bytes(range(256)) * 100
        put(store.driver, "a", data)
        for start, stop in (
            (0, None),
            (0, 10),
            (1000, None),
            (1000, 1001),
            (len(data) - 1, len(data)),
            (len(data), None),
        ):
            blob, stream = store.driver.open("a", start, stop)
            with stream:
                assert blob.size == len(data)
                if stream.seekable():
                    assert stream.tell() == start
                wish = (len(data) if stop is None else stop) - start
                got = b""
                while len(got) < wish and (chunk := stream.read(wish - len(got))):
                    got += chunk
                assert got == data[start:stop]

    def test_open_of_one_version(self, store: Store) -> None:
        old = put(store.driver, "a", b"old")
        blob, stream = store.driver.open("a", tag=old.tag)
        stream.close()
        assert blob == old
        new = put(store.driver, "a", b"new", exclusive=False)
        assert new.tag != old.tag
        refused(store.driver, NotFound, lambda: store.driver.open("a", tag=old.tag))
        refused(store.driver, NotFound, lambda: store.driver.open("a", 1, 2, tag=old.tag))

    def test_delete_of_one_version(self, store: Store) -> None:
        old = put(store.driver, "a", b"old")
        new = put(store.driver, "a", b"new", exclusive=False)
        store.driver.delete("a", tag=old.tag)
        assert store.driver.stat("a") == new
        store.driver.delete("a", tag=new.tag)
        store.driver.delete("a", tag=new.tag)
        store.driver.delete("a")
        refused(store.driver, NotFound, lambda: store.driver.stat("a"))

    def test_documents_of_the_store(self, store: Store) -> None:
        put(store.driver, ".pkgstore/ledger/quota/000.json", b"{}")
        put(store.driver, "pkg/a", b"1")
        assert scanned(store.driver, "") == ["pkg/a"]
        assert scanned(store.driver, ".pkgstore/ledger/") == [".pkgstore/ledger/quota/000.json"]
        assert {".pkgstore/ledger/quota/000.json", ".pkgstore/store.json"} <= set(scanned(store.driver, ".pkgstore/"))
        refused(store.driver, Exists, lambda: put(store.driver, ".pkgstore/ledger/quota/000.json", b"x"))
        store.driver.delete(".pkgstore/ledger/quota/000.json")
        assert scanned(store.driver, ".pkgstore/ledger/") == []

    def test_scan_of_what_is_absent(self, store: Store) -> None:
        assert scanned(store.driver, "") == []
        assert scanned(store.driver, "absent/at/all/") == []

    def test_errors_of_others_are_not_classified(self, store: Store) -> None:
        for error in (ValueError("x"), KeyError("x"), AssertionError("x"), KeyboardInterrupt()):
            assert store.driver.classify(error) is None

    def test_only_put_makes_anything(self, store: Store) -> None:
        refused(store.driver, NotFound, lambda: store.driver.stat("a/b/c"))
        refused(store.driver, NotFound, lambda: store.driver.open("a/b/c"))
        store.driver.delete("a/b/c")
        assert put(store.driver, "a/b", b"1").size == 1


def put(
    driver: Driver,
    key: str,
    data: bytes,
    token: str | None = None,
    *,
    exclusive: bool = True,
    expected: Mapping[str, str | None] | None = None,
) -> Blob:
    """Put bytes as the store does."""
    digests = {"sha256": hashlib.sha256(data).hexdigest()}
    with PublishBody(key, data, None, wanted(expected)) as source, source.attempt() as body:
        token = token or uuid.uuid4().hex
        return driver.put(key, body, len(data), digests=digests, exclusive=exclusive, token=token)


def scanned(driver: Driver, prefix: str) -> list[str]:
    """Return the keys that a driver scans."""
    return [blob.key for blob in driver.scan(prefix)]


def refused(driver: Driver, kind: type[StoreError], call: Callable[[], object]) -> None:
    """Assert that a call raises what its driver classifies as ``kind``."""
    with pytest.raises(Exception) as caught:  # noqa: PT011 - of what kind is asked of the driver
        call()
    error = caught.value
    assert (type(error) if isinstance(error, StoreError) else driver.classify(error)) is kind, repr(error)
