"""The quota under strain: publishers that are killed and stopped, near the limit, on media that they share."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import pytest

import pkgstore
from pkgstore import accounts
from pkgstore.testing.strain import Strain, strain
from tests import gcs_servers
from tests.s3_medium import servers
from tests.smb_medium import fresh, smb

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

__all__ = ["servers", "smb"]

LEASE = 4.0
PROCESSES = 4
SECONDS = 18.0


def strained(url: str, limit: int, monkeypatch: pytest.MonkeyPatch) -> Strain:
    """Strain a new store, and show what came of it."""
    monkeypatch.setattr(accounts, "LEASE", LEASE)
    seed = random.SystemRandom().randbytes(6).hex()
    found = strain(pkgstore.open, url, processes=PROCESSES, seconds=SECONDS, limit=limit, seed=seed)
    print(found)
    return found


@pytest.fixture
def gcs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Yield a bucket of our own fake, which is as strict as the service."""
    with gcs_servers.our_fake(tmp_path) as server:
        monkeypatch.setenv("PKGSTORE_GCS_CREDENTIALS_FILE", server.file(server.account()))
        yield server.url()


@pytest.fixture(
    params=[
        pytest.param("local", id="local"),
        pytest.param("ministack", marks=pytest.mark.xdist_group("ministack")),
        pytest.param("gcs", marks=pytest.mark.xdist_group("gcs")),
        pytest.param("smb", marks=pytest.mark.xdist_group("smb")),
    ]
)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    found: dict[str, Callable[[], Any]] = {
        "local": lambda: f"file://{tmp_path}/store",
        "ministack": lambda: request.getfixturevalue("servers").store("ministack"),
        "gcs": lambda: request.getfixturevalue("gcs"),
        "smb": lambda: fresh(request.getfixturevalue("smb")),
    }
    return str(found[request.param]())


@pytest.mark.timeout(240)
def test_a_limit_is_kept_whatever_dies_and_sleeps(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = strained(url, 1 << 20, monkeypatch)
    assert found.faults == []
    assert found.drift == 0
    assert found.highest <= found.limit
    assert found.is_complete
    assert found.samples >= 10
