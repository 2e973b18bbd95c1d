"""Two hosts that run doctor on one share at the same time: inside the machine."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tests.labs import nfs_network as network

if TYPE_CHECKING:
    from pkgstore import Store

WITHIN = 240.0


def examined(url: str, *clients: str) -> list[tuple[int, dict[str, dict[str, Any]]]]:
    """Run doctor on several clients at once; return the exit status of each, and what it found, by name."""
    runs = []
    try:
        for client in clients:
            doctor = [sys.executable, "-m", "pkgstore", "doctor", network.on(client, url), "--wait", "60", "--json"]
            inside = ["nsenter", f"--net=/run/netns/{client}", *doctor]
            runs.append(subprocess.Popen(inside, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True))
        said = [each.communicate(timeout=WITHIN)[0] for each in runs]
    finally:
        for each in runs:
            each.kill()
            each.wait()
    found = [{each["name"]: each for each in json.loads(text)["findings"]} for text in said]
    for client, each in zip(clients, found, strict=True):
        print(f"\n{client}:", *(f"{one['level']} {name}: {one['says']}" for name, one in each.items()), sep="\n  ")
    return [(run.returncode, each) for run, each in zip(runs, found, strict=True)]


def test_two_clients_keep_each_other_out(a: Store, url: str, version: str) -> None:
    for status, found in examined(url, "a", "b"):
        assert found["locks-between-hosts"]["level"] == "ok"
        assert found["mount"]["level"] == "ok"
        assert found["extended-attributes"]["level"] == ("ok" if version == "4.2" else "note")
        assert {name for name, each in found.items() if each["level"] == "error"} == set()
        assert status == 0
    assert list(a.list()) == []
    assert not network.at_server(url, ".pkgstore/doctor").exists()


@pytest.mark.usefixtures("a")
def test_two_clients_of_one_identity_do_not(url: str, version: str) -> None:
    if version == "3":
        pytest.skip("clients of NFS 3 have no identity but their address")
    with network.twin(version):
        results = examined(url, "a", "twin")
    both = [found["locks-between-hosts"] for _, found in results if found["locks-between-hosts"]["level"] == "error"]
    assert both, "neither saw that both held the lock"
    for each in both:
        assert "identifier" in each["remedy"]
    assert 1 in {status for status, _ in results}
