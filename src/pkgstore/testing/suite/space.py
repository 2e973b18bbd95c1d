"""A medium that is full."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any

import pytest

from pkgstore import Full
from pkgstore.testing.sources import Stream
from pkgstore.testing.suite.harness import Harness, MiB, held

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pkgstore import Store


class SpaceTests(Harness):
    """Nothing is visible of what did not fit, and its space comes back."""

    @pytest.fixture
    def small_store(self, small_url: str) -> Iterator[Store]:
        with self.open_store(small_url) as store:
            yield store

    def test_a_full_medium(self, small_url: str, small_store: Store) -> None:
        kept = {"kept": bytes(1000)}
        small_store.publish("kept", bytes(1000))
        for turn in range(3):
            bodies: list[Any] = [bytes(self.small), Stream(bytes(self.small))]
            for body in bodies:
                with pytest.raises(Full) as caught:
                    small_store.publish("pkg/large", body)
                assert caught.value.errno == errno.ENOSPC
                assert caught.value.key == "pkg/large"
                assert held(small_store) == kept
                self.assert_nothing_staged(small_url)
            small_store.publish(f"pkg/{turn}", bytes(MiB // 4))
            kept[f"pkg/{turn}"] = bytes(MiB // 4)
        assert held(small_store) == kept

    def test_a_medium_that_is_full_when_replacing(self, small_url: str, small_store: Store) -> None:
        small_store.publish("a", b"old")
        with pytest.raises(Full):
            small_store.publish("a", bytes(self.small), replace=True)
        assert held(small_store) == {"a": b"old"}
        self.assert_nothing_staged(small_url)
        small_store.publish("a", b"new", replace=True)
        assert held(small_store) == {"a": b"new"}

    def test_a_medium_that_fills_up(self, small_store: Store) -> None:
        published: dict[str, bytes] = {}
        while len(published) <= self.small // MiB:
            key = str(len(published))
            try:
                small_store.publish(key, bytes(MiB))
            except Full:
                break
            published[key] = bytes(MiB)
        assert len(published) <= self.small // MiB, "the medium never was full"
        assert held(small_store) == published
        assert published
        small_store.delete("0")
        small_store.publish("again", bytes(MiB))
