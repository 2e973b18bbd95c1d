"""The conformance kit, unchanged, on encrypted stores; but for reading what is damaged, which no option allows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pkgstore import Corrupt
from pkgstore.testing.suite.harness import Harness
from tests.local_medium import LocalConformance
from tests.sealed import open_sealed, ring_of
from tests.test_memory_conformance import TestMemory as MemoryConformance

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator

    from pkgstore import Store


class Sealed(Harness):
    """What is different when a store is encrypted."""

    open_store = staticmethod(open_sealed)

    @pytest.mark.parametrize("size", [1, 100_000, 5 << 20])
    def test_a_changed_byte_is_corrupt(self, url: str, store: Store, rng: random.Random, size: int) -> None:
        """Nothing is returned of a segment that was changed, whether the reader is to verify or not."""
        store.publish("a", rng.randbytes(size))
        self.tamper(url, "a")
        for verify in (True, False):
            with pytest.raises(Corrupt) as caught, store.open("a", verify=verify) as reader:
                reader.readall()
            assert caught.value.key == "a"


class TestSealedLocal(Sealed, LocalConformance):
    """In a folder."""

    large = 128 << 20
    examples = 8


class TestSealedMemory(Sealed, MemoryConformance):
    """In this process's memory."""

    examples = 8

    @pytest.fixture
    def url(self, url_of_memory: str) -> Iterator[str]:
        yield url_of_memory
        ring_of(url_of_memory).unlink()

    url_of_memory = MemoryConformance.url
