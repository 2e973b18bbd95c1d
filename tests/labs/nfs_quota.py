"""A quota under strain, with publishers on both clients: inside the machine."""

from __future__ import annotations

import os

import pytest

from pkgstore import accounts
from pkgstore.testing.strain import strain
from tests.labs import nfs_network as network

FULL = os.environ.get("PKGSTORE_LABS") == "full"
SECONDS = 60.0 if FULL else 20.0
PROCESSES = 8 if FULL else 4


@pytest.mark.usefixtures("a", "b")
def test_a_limit_is_kept_by_two_clients(url: str, version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accounts, "LEASE", 4.0)
    seed = os.environ.get("PKGSTORE_SEED", "two clients")
    found = strain(network.open_on_either, url, processes=PROCESSES, seconds=SECONDS, limit=1 << 20, seed=seed)
    print(f"\nNFS {version}: {found}")
    assert found.faults == []
    assert found.drift == 0
    assert found.highest <= found.limit
    assert found.is_complete
