"""Races between two clients, and what goes wrong between them and their server: inside the machine."""

from __future__ import annotations

import contextlib
import io
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import pkgstore
from pkgstore import Exists, Full, NotFound, StoreError, Unavailable
from pkgstore.testing.faults import with_driver
from pkgstore.testing.processes import Talk, workers
from pkgstore.testing.races import Arena, Race, race
from pkgstore.testing.sources import Once, Stream
from tests.labs import nfs_network as network

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pkgstore import Store

MiB = 1 << 20
SEED = os.environ.get("PKGSTORE_SEED") or random.SystemRandom().randbytes(6).hex()
FULL = os.environ.get("PKGSTORE_LABS") == "full"
VERSION = os.environ["PKGSTORE_NFS"]
MANY = FULL or VERSION == "4.2"
RACES = {1: (200 if MANY else 60, 6 if FULL else 4), 8 * MiB: (200 if FULL else 6, 4)}


def raced(url: str, size: int, keys: int, racers: int) -> Race:
    """Race processes of both clients, and print what came of it."""
    before = {client: network.requests(client, "LINK") for client in network.CLIENTS}
    began = time.monotonic()
    result = race(Arena(network.open_on_either, url, "race/", keys, size, SEED), racers, reads=2 * keys)
    took = time.monotonic() - began
    sent = {client: network.requests(client, "LINK") - before[client] for client in network.CLIENTS}
    print(
        f"\nRACE {size} B: {keys} keys, {racers} racers, {result.one} one winner, {result.several} more, {result.none}"
        f" none, {len(result.half)} half-visible of {result.reads} reads, LINKs {sent}, {took:.0f} s, seed {SEED}"
    )
    assert all(sent.values()), "one of the clients took no part"
    return result


@pytest.mark.usefixtures("a")
@pytest.mark.parametrize("size", RACES)
def test_a_race_of_two_clients(url: str, size: int) -> None:
    keys, racers = RACES[size]
    assert raced(url, size, keys, racers).faults == []


@pytest.mark.usefixtures("a")
def test_a_race_over_a_bad_network(url: str) -> None:
    with network.bad_network():
        assert raced(url, 100_000, 40 if FULL else 10, 4).faults == []


@pytest.mark.usefixtures("a")
def test_a_race_without_links_has_several_winners(url: str) -> None:
    """The races above are able to fail: publishing by a rename, which replaces, keeps nobody apart."""
    result = race(Arena(open_that_renames, url, "race/", 20, 1, SEED), 4, reads=20)
    assert result.several > 0


def open_that_renames(url: str, **options: Any) -> Store:
    """Open a store that publishes by renaming, on either client."""
    store = network.open_on_either(url, **options)
    staging = store.driver._staging  # type: ignore[attr-defined]
    staging.publish = lambda staged, folder, name: os.rename(staged.path, name, dst_dir_fd=folder)
    return store


# -- the server -------------------------------------------------------------------------------------------------------


def test_the_server_is_restarted_in_mid_publish(a: Store, url: str, version: str) -> None:
    """Every acknowledged blob is there, with one winner for each key, and a retry is a winner or a loser as before.

    On a slow machine, a call may end before the server has let clients claim their locks again: its outcome is open.
    """
    with workers(4) as team:
        for number, each in enumerate(team):
            each.start(publish_until_told, network.on("ab"[number % 2], url), number)
        for _ in range(4 if FULL else 2):
            before = a.usage().blobs
            network.stop_server()
            network.start_server(version)
            network.until(lambda: a.usage().blobs > before + 4, "publishing after a restart", 300)  # noqa: B023
        for each in team:
            each.say("enough")
        outcomes = [each.result() for each in team]
    won: dict[str, bytes] = {}
    doubtful: set[str] = set()
    for outcome in outcomes:
        for key, body, what in outcome:
            assert what in ("won", "lost", "in doubt"), (key, what)
            if what == "won":
                assert key not in won, f"{key} has two winners"
                won[key] = body
            elif what == "in doubt":
                doubtful.add(key)
    print(f"\nRESTARTS: {sum(map(len, outcomes))} publishes, {len(won)} won, {len(doubtful)} in doubt")
    assert set(won) <= {blob.key for blob in a.list()} <= set(won) | doubtful
    for key, body in won.items():
        assert a.read(key) == body


def publish_until_told(talk: Talk, url: str, number: int) -> list[tuple[str, bytes, str]]:
    """Publish what others publish too, until told; return what was tried, and what came of it."""
    outcomes = []
    with pkgstore.open(url) as store:
        while not talk.is_spoken_to():
            key, body = f"folder-{len(outcomes) % 10}/{len(outcomes)}", b"%d" % number * 50_000
            try:
                store.publish(key, body)
                outcomes.append((key, body, "won"))
            except Exists:
                outcomes.append((key, body, "lost"))
            except Unavailable as exc:
                print(f"in doubt: {exc}", flush=True)
                outcomes.append((key, body, "in doubt"))
            except StoreError as exc:
                outcomes.append((key, body, repr(exc)))
    talk.hear()
    return outcomes


def test_handles_that_are_stale_for_a_while(a: Store, b: Store) -> None:
    """The export is another file system to its clients, and then the old one again."""
    a.publish("x/file", b"1")
    network.export(9)
    try:
        with pytest.raises(OSError, match="Stale file handle"):
            a.driver.stat("x/file")
        with pytest.raises(Unavailable, match="Stale file handle"):
            with_driver(a, a.driver, timeout=0.5).publish("x/other", b"2")
        again = threading.Timer(1, network.export)
        again.start()
        assert a.publish("x/new", b"3").size == 1
        again.join()
    finally:
        network.export()
    assert b.read("x/new") == b"3"
    assert b.read("x/file") == b"1"


# -- a client ---------------------------------------------------------------------------------------------------------


def test_a_client_dies_in_mid_publish(a: Store, url: str, version: str) -> None:
    """It is cut off, and its processes are killed: the other goes on, and removes what it left once that is safe."""
    there = network.on("b", url)
    staged = network.at_server(url, ".pkgstore/tmp")
    with workers(3) as team:
        for number, each in enumerate(team):
            each.start(hold, there, f"x/{number}")
        held = [each.hear() for each in team]
        network.cut_off("b")
        try:
            for pid in held:
                os.kill(pid, signal.SIGKILL)
            assert len(list(staged.iterdir())) == 3
            assert list(a.list()) == []
            for number in range(3):
                with pytest.raises(NotFound):
                    a.stat(f"x/{number}")
                a.publish(f"x/{number}", b"other")
            if version != "3":  # there, a client's locks last until it is back
                network.until(lambda: reaped(url, staged), "reaping what a dead client left", 90)
        finally:
            network.connect("b")
        for each in team:
            each.kill()  # they end once their client can say goodbye to the server
    network.until(lambda: reaped(url, staged), "reaping after the client is back", 90)
    with pkgstore.open(there) as back:
        assert {blob.key: back.read(blob.key) for blob in back.list()} == {
            f"x/{number}": b"other" for number in range(3)
        }
        back.publish("x/back", b"1")
    assert a.read("x/back") == b"1"


def hold(talk: Talk, url: str, key: str) -> None:
    """Publish, and say this process's number in the middle of the body, where it stops."""

    def told(read: int) -> None:
        if read >= MiB:
            talk.say(os.getpid())
            talk.hear()

    with pkgstore.open(url) as store:
        store.publish(key, Stream(bytes(3 * MiB), told=told))


def reaped(url: str, staged: Path) -> bool:
    """Publish as one who comes later, and say whether nothing lies staged any more."""
    with pkgstore.open(url) as later:
        later.publish("later", b"", replace=True)
        later.delete("later")
    return not list(staged.iterdir())


def test_a_staged_file_that_is_reaped_under_its_writer(a: Store, url: str) -> None:
    """As by another client, when a server has forgotten a lock: it is published again, or there is an error."""
    staged = network.at_server(url, ".pkgstore/tmp")
    reaped = []

    def reap() -> None:
        for path in staged.iterdir():
            path.unlink()
            reaped.append(path)

    with pytest.raises(Unavailable):
        a.publish("x/stream", Stream(bytes(3 * MiB), ended=reap))
    assert len(reaped) == 1
    a.publish("x/file", Told(bytes(3 * MiB), reap))
    assert len(reaped) == 2
    assert {blob.key: blob.size for blob in a.list()} == {"x/file": 3 * MiB}
    assert list(staged.iterdir()) == []


class Told(io.BytesIO):
    """A file that says when it has been read to its end for the first time."""

    def __init__(self, content: bytes, ended: Callable[[], None]) -> None:
        super().__init__(content)
        self._ended = Once(ended)

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        if not data:
            self._ended()
        return data


# -- the mount --------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def mounted(version: str, options: str = "") -> Iterator[Path]:
    """Mount the export once more, on client a, with a file system of its own below."""
    point = network.mount("a", version, point="/mnt/again", options=f"nosharecache{options and ','}{options}")
    try:
        yield point
    finally:
        network.run("umount", "--lazy", point, check=False)


@pytest.mark.usefixtures("a")
def test_the_share_is_unmounted_under_a_process(url: str, version: str) -> None:
    with mounted(version) as point:
        again = url.replace("/mnt/a/", f"{point}/")
        below = Path(point, *Path(url).parts[-2:], ".pkgstore", "tmp")
        with pkgstore.open(again, timeout=0.5) as store:
            store.publish("x/file", b"1")

            def unmount() -> None:
                network.run("umount", "--lazy", point)
                below.mkdir(parents=True)

            for body in (Stream(bytes(2 * MiB), ended=unmount), b"2"):
                with pytest.raises(Unavailable, match="mounted"):
                    store.publish("x/new", body)
            for call in (store.stat, store.open, store.delete, store.local_path, store.adopt):
                with pytest.raises(Unavailable, match="mounted"):
                    call("x/file")
            with pytest.raises(Unavailable, match="mounted"):
                list(store.list())
            assert [path for path in point.rglob("*") if not path.is_dir()] == []
            assert list(below.iterdir()) == []
            with pytest.raises(pkgstore.Misconfigured, match="not on NFS"):
                pkgstore.open(again)
            network.mount("a", version, point=str(point), options="nosharecache")
            with pkgstore.open(again) as anew:
                assert {blob.key for blob in anew.list()} == {"x/file"}
            shutil.rmtree(below, ignore_errors=True)


@pytest.mark.usefixtures("a")
def test_a_soft_mount_that_gives_up_in_mid_write(url: str, version: str, b: Store) -> None:
    with (
        mounted(version, "soft,timeo=5,retrans=1") as point,
        pkgstore.open(url.replace("/mnt/a/", f"{point}/"), timeout=0.5) as store,
    ):
        store.publish("x/file", b"1")
        again = threading.Timer(10 if version == "3" else 60, network.connect, "a")  # NFS 3 waits to unlock

        def cut_off() -> None:
            network.cut_off("a")
            again.start()

        with pytest.raises(Unavailable):
            store.publish("x/new", Stream(bytes(4 * MiB), ended=cut_off))
        if version == "3":
            again.join()
        again.cancel()
        network.connect("a")
        network.until(lambda: answers(store), "the server's answer")
    assert {blob.key for blob in b.list()} <= {"x/file", "x/new"}
    for blob in b.list():
        assert len(b.read(blob.key)) == blob.size


def answers(store: Store) -> bool:
    try:
        return store.read("x/file") == b"1"
    except Unavailable:
        return False


def test_a_server_that_is_full(version: str) -> None:
    """Nothing is visible of what did not fit. Its space comes back once the server has let go of it."""
    point = network.mount("a", version, small=True)
    try:
        with pkgstore.open(f"nfs://{point}/store", create=True) as store:
            store.publish("kept", b"1")
            for replace in (False, True):
                with pytest.raises(Full):
                    store.publish("kept" if replace else "new", bytes(16 * MiB), replace=replace)
                assert {blob.key: store.read(blob.key) for blob in store.list()} == {"kept": b"1"}
                assert list(network.SMALL.glob("store/.pkgstore/tmp/*")) == []
                network.until(lambda: fits(store), "having space again")
                store.delete("new")
    finally:
        network.run("umount", point)
        shutil.rmtree(network.SMALL / "store")


def fits(store: Store) -> bool:
    try:
        return store.publish("new", bytes(2 * MiB)).size > 0
    except Full:
        return False


def test_making_a_store_needs_the_word(url: str) -> None:
    with pytest.raises(NotFound, match="pkgstore init nfs:///mnt/a/"):
        pkgstore.open(url)
    subprocess.run([sys.executable, "-m", "pkgstore", "init", url], check=True, capture_output=True)
    with pkgstore.open(url) as store:
        assert list(store.list()) == []
