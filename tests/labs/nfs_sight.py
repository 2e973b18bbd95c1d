"""What one client does, another sees at once: inside the machine, with the mounts' default options."""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pkgstore import NotFound, StoreError, Unavailable
from pkgstore.drivers import nfs
from tests.labs import nfs_network as network

if TYPE_CHECKING:
    from collections.abc import Callable

    from pkgstore import Store

TURNS = 20
MOMENTS = 40
MiB = 1 << 20
KEYS = {"in the root": "file-{0}", "in a folder that is there": "there/file-{0}", "in new folders": "new-{0}/x/file"}


def published_after_a_miss(a: Store, b: Store, form: str, look: Callable[[Store, str], bool]) -> list[bool]:
    """Publish on client a what client b has just found absent; return whether b saw it, each time."""
    a.publish("there/is", b"already", replace=True)
    seen = []
    for turn in range(TURNS):
        key = form.format(turn)
        assert not look(b, key)
        a.publish(key, key.encode())
        seen.append(look(b, key))
    return seen


def is_found(store: Store, key: str) -> bool:
    try:
        return store.read(key) == key.encode()
    except NotFound:
        return False


def is_listed(store: Store, key: str) -> bool:
    return key in {blob.key for blob in store.list()}


@pytest.mark.parametrize("form", KEYS.values(), ids=list(KEYS))
@pytest.mark.parametrize("look", [is_found, is_listed])
def test_a_publish_is_seen_at_once(a: Store, b: Store, form: str, look: Callable[[Store, str], bool]) -> None:
    assert published_after_a_miss(a, b, form, look) == [True] * TURNS


def test_two_clients_change_one_folder_in_one_moment(a: Store, b: Store) -> None:
    """However close together, and whoever looks meanwhile: what either has published, the other finds and lists."""
    missed: list[str] = []
    with ThreadPoolExecutor(4) as pool:
        for turn in range(MOMENTS):
            mine, theirs, over = f"x/{turn}-a", f"x/{turn}-b", threading.Event()
            lookers = [pool.submit(look_until, over, *each) for each in ((a, theirs), (b, mine))]
            publishers = [pool.submit(store.publish, key, b"1") for store, key in ((a, mine), (b, theirs))]
            for each in publishers:
                each.result()
            missed += [f"{key} not found" for store, key in ((a, theirs), (b, mine)) if not is_there(store, key)]
            listed = [{blob.key for blob in store.list("x/")} for store in (a, b)]
            missed += [f"{key} not listed" for keys, key in zip(listed, (theirs, mine), strict=True) if key not in keys]
            over.set()
            for each in lookers:
                each.result()
    assert missed == []


def look_until(over: threading.Event, store: Store, key: str) -> None:
    while not over.is_set():
        is_there(store, key)


def is_there(store: Store, key: str) -> bool:
    try:
        return store.stat(key).size == 1
    except NotFound:
        return False


def test_a_list_of_a_folder_is_asked_for_anew(a: Store, url: str, version: str) -> None:
    a.publish("x/file", b"1")
    folder = os.open(Path(url.removeprefix("nfs://"), "x"), os.O_RDONLY)
    listing = "READDIRPLUS" if version == "3" else "READDIR"
    try:
        for _ in range(3):
            before = network.requests("a", listing)
            assert nfs._entries(folder) == ["file"]
            assert network.requests("a", listing) > before
    finally:
        os.close(folder)


def test_without_asking_the_server_it_is_not(a: Store, b: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test above is able to fail: what was absent stays absent in a client's cache."""
    monkeypatch.setattr(nfs, "ask_server", lambda fd: None)
    monkeypatch.setattr(nfs, "_entries", lambda folder: [])
    assert False in published_after_a_miss(a, b, KEYS["in the root"], is_found)
    assert False in published_after_a_miss(a, b, KEYS["in new folders"], is_found)


def test_a_folder_that_was_deleted_and_made_again(a: Store, b: Store) -> None:
    for turn in range(TURNS):
        a.publish("x/y/file", b"%d" % turn)
        assert b.read("x/y/file") == b"%d" % turn
        assert is_listed(b, "x/y/file")
        a.delete("x/y/file")
        assert not is_found(b, "x/y/file")
        assert list(b.list("x/")) == []


@pytest.mark.parametrize("holder", ["nobody", "a", "b"])
def test_a_replaced_blob_is_new_at_once(a: Store, b: Store, holder: str) -> None:
    """Also while a process of either client has the old one open."""
    a.publish("x/file", b"old")
    for turn in range(TURNS):
        data = b"%d" % turn * (turn + 1)
        with held(a, b, holder, "x/file"):
            assert a.publish("x/file", data, replace=True) == b.stat("x/file")
            assert b.read("x/file") == data
            assert b.stat("x/file").digests["sha256"] == hashlib.sha256(data).hexdigest()
            assert [blob.size for blob in b.list("x/")] == [len(data)]


def test_a_blob_that_is_replaced_while_its_host_reads_it(a: Store, b: Store) -> None:
    """The client then replaces it in two steps; who looks in between finds it all the same."""
    a.publish("x/file", b"old")
    over = threading.Event()

    def look() -> int:
        count = 0
        while not over.is_set():
            assert b.stat("x/file").size == 3
            count += 1
        return count

    with ThreadPoolExecutor(1) as pool:
        looks = pool.submit(look)
        for _ in range(5 * TURNS):
            with a.open("x/file"):
                a.publish("x/file", b"new", replace=True)
        over.set()
        assert looks.result() > 0


@pytest.mark.parametrize("holder", ["nobody", "a", "b"])
def test_a_deleted_blob_is_gone_at_once(a: Store, b: Store, holder: str) -> None:
    """Where its client puts it aside, it takes the others a while to tell that from a replacement."""
    for turn in range(2 if holder == "a" else TURNS):
        key = f"x/file-{turn}"
        a.publish(key, b"1")
        assert b.stat(key)
        with held(a, b, holder, key):
            a.delete(key)
            with pytest.raises(NotFound):
                b.stat(key)
            with pytest.raises(NotFound):
                b.open(key)
            assert list(b.list()) == []


def held(a: Store, b: Store, holder: str, key: str) -> contextlib.AbstractContextManager[object]:
    """Have a blob open on one of the clients."""
    return contextlib.nullcontext() if holder == "nobody" else (a if holder == "a" else b).open(key)


def test_both_clients_see_the_digests(a: Store, b: Store, url: str, version: str) -> None:
    data = os.urandom(MiB + 1)
    mine = a.publish("x/file", data, digests={"md5": None})
    assert b.stat("x/file") == mine
    assert b.stat("x/file").digests == {name: hashlib.new(name, data).hexdigest() for name in ("sha256", "md5")}
    beside = [path for path in network.at_server(url, ".pkgstore/digests").rglob("*") if path.is_file()]
    on_the_inode = os.listxattr(network.at_server(url, "x/file"))
    if version == "4.2":
        assert (on_the_inode, beside) == (["user.pkgstore"], [])
    else:
        assert on_the_inode == []
        assert len(beside) == 2  # the store's identity is the other


def test_one_client_adopts_what_another_then_knows(a: Store, b: Store, url: str) -> None:
    network.at_server(url, "by-hand").write_bytes(b"1")
    assert a.stat("by-hand").digests == b.stat("by-hand").digests == {}
    assert a.adopt("by-hand").digests == b.stat("by-hand").digests == {"sha256": hashlib.sha256(b"1").hexdigest()}


def test_what_the_client_keeps_for_open_files_is_no_blob(a: Store, b: Store, url: str) -> None:
    a.publish("x/old", b"old")
    with a.open("x/old") as reader:
        a.delete("x/old")
        there = [path.name for path in network.at_server(url, "x").iterdir()]
        assert [name[:4] for name in there] == [".nfs"]
        assert list(a.list()) == list(b.list()) == []
        b.publish("x/old", b"new")
        assert reader.read() == b"old"
        assert a.read("x/old") == b"new"
    network.until(lambda: [path.name for path in network.at_server(url, "x").iterdir()] == ["old"], "its removal")


def test_nothing_is_left_by_publishing(a: Store, b: Store, url: str) -> None:
    for store in (a, b):
        store.publish("x/file", b"1", replace=True)
        with pytest.raises(FileExistsError):
            store.publish("x/file", b"2")
        assert list(network.at_server(url, ".pkgstore/tmp").iterdir()) == []


@pytest.mark.parametrize("replaced", [True, False], ids=["replaced", "deleted"])
def test_who_reads_what_another_client_takes_away(a: Store, b: Store, replaced: bool) -> None:
    """It gets the bytes that it began with, or an error: never others."""
    data = os.urandom(16 * MiB)
    a.publish("x/file", data)
    with b.open("x/file") as reader:
        got = bytearray(reader.read(MiB))
        if replaced:
            a.publish("x/file", os.urandom(16 * MiB), replace=True)
        else:
            a.delete("x/file")
        Path("/proc/sys/vm/drop_caches").write_text("3")
        try:
            while chunk := reader.read(MiB):
                got += chunk
        except (NotFound, Unavailable) as exc:
            print(f"after {len(got) >> 20} MiB: {exc}")
        else:
            assert len(got) == len(data)
    assert got == data[: len(got)]


def test_racing_deletes_of_two_clients(a: Store, b: Store) -> None:
    for turn in range(TURNS):
        a.publish(f"x{turn}/file", b"1")
        b.delete(f"x{turn}/file")
        a.delete(f"x{turn}/file")
        with pytest.raises(StoreError):
            a.stat(f"x{turn}/file")
