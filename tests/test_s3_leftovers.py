"""Multipart uploads that dead writers left: found, told, and removed only where and when that is safe."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest

import pkgstore
from pkgstore.drivers.s3 import leftovers, multipart
from pkgstore.testing.kills import holding
from pkgstore.testing.processes import workers
from pkgstore.testing.races import Arena
from tests.command import run
from tests.s3_medium import BUCKET, PART, Servers, servers

if TYPE_CHECKING:
    from pkgstore import Store

__all__ = ["servers"]

SIZE = 3 * PART


def left_by_a_killed_writer(url: str) -> None:
    """Kill a writer in the middle of a multipart upload."""
    arena = Arena(pkgstore.open, url, "killed/", 1, SIZE, "seed")
    with workers(1) as (victim,):
        holding(victim, arena, 0, SIZE - 1)
        victim.kill()


def unfinished(store: Store) -> list[tuple[str, bool]]:
    """Return what the store shows of what is unfinished: the keys, and whether each may be removed."""
    return [(each.key, not each.kept_because) for each in store.leftovers()]


@pytest.mark.xdist_group("ministack")
class TestMinistack:
    @pytest.fixture
    def url(self, servers: Servers) -> str:
        return servers.store("ministack")

    def test_what_a_killed_writer_left_is_told_and_kept(self, url: str) -> None:
        left_by_a_killed_writer(url)
        with pkgstore.open(url) as store:
            (found,) = store.leftovers(remove=True)
            assert found.key == "killed/0000/blob"
            assert "younger than 7 days" in found.kept_because
            assert unfinished(store) == [("killed/0000/blob", False)]
            assert list(store.list()) == []
            store.publish("killed/0000/blob", b"1")

    def test_what_is_old_is_removed_when_asked(self, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        left_by_a_killed_writer(url)
        monkeypatch.setattr(leftovers, "AGE", -60.0)
        with pkgstore.open(url) as store, pkgstore.open(url, readonly=True) as reading:
            assert unfinished(store) == [("killed/0000/blob", True)]
            with pytest.raises(pkgstore.Denied):
                list(reading.leftovers(remove=True))
            assert [each.key for each in store.scope("killed/").leftovers()] == ["0000/blob"]
            assert list(store.scope("other/").leftovers(remove=True)) == []
            assert len(list(store.leftovers(remove=True))) == 1
            assert unfinished(store) == []

    def test_a_writer_gives_up_what_it_began_long_ago(self, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(multipart, "LIFETIME", -1.0)
        with pkgstore.open(url, timeout=1) as store:
            with pytest.raises(pkgstore.Unavailable, match="is given up"):
                store.publish("a", bytes(SIZE))
            assert unfinished(store) == []
            assert list(store.list()) == []

    def test_the_commands(self, url: str) -> None:
        left_by_a_killed_writer(url)
        shown = run("leftovers", url, env=dict(os.environ))
        assert shown.returncode == 0
        assert "killed/0000/blob  kept: it is younger than 7 days" in shown.stdout
        (line,) = run("leftovers", url, "--remove", "--json", env=dict(os.environ)).stdout.splitlines()
        assert json.loads(line)["removed"] is False
        found = json.loads(run("probe", url, "--json", env=dict(os.environ)).stdout)
        assert [findings["put"] for findings in found.values()] == [True]
        refused = run("probe", "/tmp")
        assert refused.returncode != 0


@pytest.mark.xdist_group("ceph")
def test_nothing_is_removed_where_an_abort_may_lose_data(servers: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leftovers, "AGE", -60.0)
    url = servers.store("ceph")
    client = servers["ceph"].client()
    prefix = url.partition(f"{BUCKET}/")[2].partition("?")[0]
    client.create_multipart_upload(Bucket=BUCKET, Key=f"{prefix}/foreign")
    with pkgstore.open(url) as store:
        (found,) = store.leftovers(remove=True)
        assert "lifecycle rule" in found.kept_because
        assert unfinished(store) == [("foreign", False)]
