"""The conformance kit inside the machine, with processes on both clients; see `nfs_network`."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest

from pkgstore import Corrupt
from pkgstore.testing.conformance import DriverConformance
from pkgstore.testing.suite.harness import MiB
from tests.labs import nfs_network as network
from tests.on_files import OnFiles

if TYPE_CHECKING:
    import random
    from pathlib import Path

    from pkgstore import Store


class TestConformance(OnFiles, DriverConformance):
    """Everything that a driver promises, on a real server."""

    open_store = staticmethod(network.open_on_either)
    large = 128 << 20
    examples = 4

    @pytest.fixture
    def url(self, url: str) -> str:  # type: ignore[override]
        return url

    def path_of(self, url: str, key: str) -> Path:
        return network.at_server(url, key)

    def test_a_blob_that_is_truncated_under_a_reader(self, url: str, store: Store, rng: random.Random) -> None:
        """A client reads zeros where it does not know yet that there is nothing: who verifies is told."""
        data = rng.randbytes(5 * MiB)
        store.publish("a", data)
        with store.open("a") as reader:
            start = reader.read(10)
            self.truncate(url, "a")
            with contextlib.suppress(Corrupt):
                assert start + reader.readall() == data
