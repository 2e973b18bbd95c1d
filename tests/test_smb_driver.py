"""The SMB driver on Samba: what the conformance kit does not show."""

from __future__ import annotations

import gc
import hashlib
import io
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

import pkgstore
from pkgstore import Denied, InvalidKey, Misconfigured, NotFound, Unavailable
from pkgstore.driver import Examined
from pkgstore.drivers.smb.driver import SMBDriver
from pkgstore.drivers.smb.staging import Staged, Staging
from pkgstore.testing.suite.harness import MiB, held
from tests import needs
from tests.smb_medium import fresh, smb
from tests.smb_server import PASSWORD, SMBServer, samba

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from pkgstore import Blob, Store
    from pkgstore.drivers.smb.handles import Handle
    from pkgstore.drivers.smb.link import Link
    from pkgstore.drivers.smb.looking import There

__all__ = ["smb"]

pytestmark = pytest.mark.xdist_group("smb")


@pytest.fixture
def url(smb: SMBServer) -> str:
    return fresh(smb)


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    with pkgstore.open(url) as store:
        yield store


# -- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("there", "asked"), [("Key", "key"), ("Dir/x", "dir/x"), ("dir/X", "dir/x"), ("é", "É"), ("d/e/f", "d/E/f")]
)
def test_a_name_of_the_other_case_is_another(store: Store, there: str, asked: str) -> None:
    first = store.publish(there, b"1")
    for verb in (store.stat, store.open, store.read):
        with pytest.raises(NotFound):
            verb(asked)
    store.delete(asked)
    for replace in (False, True):
        with pytest.raises(InvalidKey, match=f"differs only in case from {re.escape(repr(there)[:-1])}"[:-3]):
            store.publish(asked, b"2", replace=replace)
    assert store.stat(there) == first
    assert held(store) == {there: b"1"}


def test_names_of_both_cases_live_on_a_share_that_tells_them_apart(smb: SMBServer) -> None:
    with pkgstore.open(fresh(smb, "cased")) as store:
        for key in ("Key", "key", "Dir/x", "dir/x"):
            store.publish(key, key.encode())
        store.delete("Key")
        assert held(store) == {key: key.encode() for key in ("key", "Dir/x", "dir/x")}


def test_names_come_back_as_they_are_stored(smb: SMBServer, url: str, store: Store) -> None:
    key = "caf\u00e9/\U0001f600 na\u00efve.whl"
    store.publish(key, b"1")
    assert [blob.key for blob in store.list()] == [key]
    assert smb.path(url, key).read_bytes() == b"1"


def test_a_link_that_leads_out_shows_nothing(smb: SMBServer, url: str, store: Store, tmp_path: Path) -> None:
    store.publish("a/b", b"1")
    (tmp_path / "secret").write_text("secret")
    smb.path(url, "a/out").symlink_to(tmp_path / "secret")
    for verb in (store.stat, store.read):
        with pytest.raises((NotFound, Denied)):
            verb("a/out")
    assert [blob.key for blob in store.list()] == ["a/b"]


def test_a_folder_that_cannot_be_read_is_an_error(smb: SMBServer, url: str, store: Store) -> None:
    store.publish("a/b", b"1")
    folder = smb.path(url, "a")
    folder.chmod(0)
    try:
        with pytest.raises(Denied, match="folder 'a/'"):
            list(store.list())
    finally:
        folder.chmod(0o755)


# -- the files on the server ------------------------------------------------------------------------------------------


def test_the_folder_is_the_same_store_to_the_local_driver(smb: SMBServer, url: str, store: Store) -> None:
    blob = store.publish("a/b", b"content")
    store.publish("a/b", b"more", replace=True)
    with pkgstore.open(smb.path(url, "")) as local:
        assert local.id == store.id
        seen = local.stat("a/b")
        assert (seen.size, dict(seen.digests)) == (4, dict(store.stat("a/b").digests))
        assert seen.digests != blob.digests
        assert local.read("a/b") == b"more"
        with pytest.raises(pkgstore.Exists):
            local.publish("a/b", b"x")
    assert os.getxattr(smb.path(url, "a/b"), "user.pkgstore")[0] == 1


def test_digests_of_a_file_put_there_by_hand_are_kept(smb: SMBServer, url: str, store: Store) -> None:
    for share, opened in (("pkg", url), ("plain", fresh(smb, "plain"))):
        with pkgstore.open(opened) as store:
            store.publish("mine", b"1")
            path = smb.path(opened, "there")
            path.write_bytes(b"by hand")
            path.chmod(0o666)
            assert store.stat("there").digests == {}
            adopted = store.adopt("there")
            assert adopted.digests["sha256"] == store.stat("there").digests["sha256"], share
            path.write_bytes(b"changed by hand")
            assert store.stat("there").digests == {}


def test_what_is_published_was_flushed_before_it_had_its_name(smb: SMBServer, url: str, tmp_path: Path) -> None:
    """As the server's own calls show: the file, then the link, then its folder; then the new folder's parent too."""
    strace = needs.program("strace")
    with pkgstore.open(url) as store:
        store.publish("a/first", b"1")
        calls = "linkat,renameat,renameat2,fsync,fdatasync"
        for verb, expected in (
            (lambda: store.publish("a/second", b"2"), ["fsync", "linkat", "fsync"]),
            (lambda: store.publish("a/second", b"3", replace=True), ["fsync", "renameat", "fsync"]),
            (lambda: store.delete("a/second"), ["renameat", "fsync"]),
        ):
            with traced(strace, smb, calls, tmp_path / "trace") as read:
                verb()
            assert read() == expected


@pytest.mark.parametrize("size", [1, 9 * MiB])
@pytest.mark.parametrize("replace", [False, True])
def test_a_staged_file_cannot_be_reaped_by_another(url: str, store: Store, size: int, replace: bool) -> None:
    reaped: list[int] = []

    class Held(io.BytesIO):
        def read(self, length: int | None = -1, /) -> bytes:
            if self.tell() >= size - 1 and not reaped:
                with pkgstore.open(url) as other:
                    reaped.append(other.driver._staging.reap())  # type: ignore[attr-defined]
            return super().read(length)

    store.publish("a", b"old", replace=replace)
    key = "a" if replace else "b"
    store.publish(key, Held(bytes(size)), replace=replace)
    assert reaped == [0]
    assert store.read(key) == bytes(size)


@pytest.mark.parametrize("gone", ["a/b", "a", ".pkgstore/tmp"])
def test_folders_that_go_are_made_anew(smb: SMBServer, url: str, store: Store, gone: str) -> None:
    store.publish("a/b/c", b"1")
    shutil.rmtree(smb.path(url, gone))
    store.publish("a/b/d", b"2")
    assert store.read("a/b/d") == b"2"


def test_a_root_that_is_gone_is_not_made_again(smb: SMBServer, url: str, store: Store) -> None:
    store.publish("a/b", b"1")
    shutil.rmtree(smb.path(url, ""))
    with pkgstore.open(fresh(smb)) as other:
        other.publish("a", b"1")
    store = reopened_with(store, timeout=0.2)
    for call in (lambda: store.stat("a/b"), lambda: store.publish("a/c", b"1")):
        with pytest.raises(Unavailable, match="is gone"):
            call()
    assert not smb.path(url, "").exists()


def test_a_folder_that_somebody_uses_is_not_left_half_removed(url: str, store: Store) -> None:
    """A process that is stopped while it publishes keeps nobody else from its folder."""
    store.publish("a/b", b"1")
    folder = driver_of(store)._tree.folder("a/c", create=True)
    try:
        with pkgstore.open(url) as other:
            other.delete("a/b")
            at_once = reopened_with(other, timeout=0)
            at_once.publish("a/d", b"1")
            assert held(at_once) == {"a/d": b"1"}
    finally:
        folder.close()


# -- who replaces or deletes keeps others from it -----------------------------------------------------------------


@pytest.mark.parametrize("verb", ["replace", "delete"])
def test_while_a_blob_is_replaced_or_deleted_nobody_else_does(
    url: str, store: Store, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    store.publish("a", b"old")
    rename, throw_away = Staged.replace, Staging.throw_away
    refused = []

    with pkgstore.open(url, timeout=1) as rival:
        at_once = reopened_with(rival, timeout=0)

        def intrude() -> None:
            if not refused:
                refused.append(verb)
                for call in (lambda: at_once.publish("a", b"rival", replace=True), lambda: at_once.delete("a")):
                    with pytest.raises(Unavailable, match="another client"):
                        call()
                with pytest.raises(pkgstore.Exists):
                    at_once.publish("a", b"rival")
                assert at_once.read("a") == b"old"

        def replace_late(staged: Staged, path: str, **options: bool) -> None:
            intrude()
            rename(staged, path, **options)

        def throw_away_late(staging: Staging, handle: Handle) -> None:
            intrude()
            throw_away(staging, handle)

        monkeypatch.setattr(Staged, "replace", replace_late)
        monkeypatch.setattr(Staging, "throw_away", throw_away_late)
        if verb == "replace":
            store.publish("a", b"new", replace=True)
        else:
            store.delete("a")
        assert refused
        assert held(rival) == ({"a": b"new"} if verb == "replace" else {})


@pytest.mark.parametrize("verb", ["replace", "delete"])
def test_who_reads_keeps_nobody_from_replacing_or_deleting(url: str, store: Store, verb: str) -> None:
    store.publish("a", b"old")
    with store.open("a") as reader, pkgstore.open(url) as other:
        at_once = reopened_with(other, timeout=0)
        start = time.monotonic()
        if verb == "replace":
            at_once.publish("a", b"new", replace=True)
        else:
            at_once.delete("a")
        assert time.monotonic() - start < 4  # less than it would wait for somebody in the way
        assert reader.readall() == b"old"


def test_a_replace_is_done_again_when_others_were_not_kept_from_it(
    url: str, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection is lost that holds the old version, and another deletes it, under whatever has its name then."""
    store.publish("a", b"old")
    looking = driver_of(store)._looking
    look, rename, throw_away = looking.look, Staged.replace, Staging.throw_away
    looked, renamed = threading.Event(), threading.Event()
    guards: list[Link] = []

    def look_and_tell(key: str, access: int, *options: int, **more: bool) -> There:
        there = look(key, access, *options, **more)
        guards.append(there.handle.link)
        return there

    with pkgstore.open(url) as other, ThreadPoolExecutor(1) as pool:

        def replace_unguarded(staged: Staged, path: str, **options: bool) -> None:
            if renamed.is_set():
                rename(staged, path, **options)
                return
            guards[-1].drop()
            deleted = pool.submit(other.delete, "a")
            assert looked.wait(20)
            rename(staged, path, **options)
            renamed.set()
            deleted.result(20)

        def throw_away_late(staging: Staging, handle: Handle) -> None:
            looked.set()
            assert renamed.wait(20)
            throw_away(staging, handle)

        monkeypatch.setattr(looking, "look", look_and_tell)
        monkeypatch.setattr(Staged, "replace", replace_unguarded)
        monkeypatch.setattr(Staging, "throw_away", throw_away_late)
        store.publish("a", b"new", replace=True)
        assert held(other) == {"a": b"new"}


@pytest.mark.parametrize("verb", ["stat", "open"])
def test_a_blob_that_is_replaced_while_it_is_looked_at_has_digests(
    smb: SMBServer, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    """What lies beside the old version goes with it, perhaps before a reader has come to look there."""
    url = fresh(smb, "plain")
    with pkgstore.open(url) as store, pkgstore.open(url) as other:
        store.publish("a", b"old")
        looking = driver_of(store)._looking
        read_beside = looking._read_beside

        def read_late(key: str, status: os.stat_result) -> bytes | None:
            monkeypatch.undo()
            other.publish("a", b"new", replace=True)
            return read_beside(key, status)

        monkeypatch.setattr(looking, "_read_beside", read_late)
        blob = store.stat("a") if verb == "stat" else opened_blob(store, "a")
        assert blob.digests["sha256"] == hashlib.sha256(b"new").hexdigest()


# -- who and where ----------------------------------------------------------------------------------------------------


def test_two_stores_with_other_credentials_do_not_mix(smb: SMBServer, url: str, store: Store) -> None:
    store.publish("a", b"1")
    with pytest.raises(Denied, match="PKGSTORE_SMB_PASSWORD") as caught:
        pkgstore.open(url, username=smb.user, password="not the password")
    assert "not the password" not in "".join(map(str, [caught.value, caught.value.__cause__]))
    assert store.read("a") == b"1"
    with pkgstore.open(url, username=smb.user, password=PASSWORD) as other:
        assert other.read("a") == b"1"


def test_without_credentials_the_remedy_is_told(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PKGSTORE_SMB_USERNAME")
    monkeypatch.delenv("PKGSTORE_SMB_PASSWORD")
    with pytest.raises(Denied, match="PKGSTORE_SMB_USERNAME") as caught:
        pkgstore.open(url)
    assert "\n" not in str(caught.value)


def test_a_password_comes_from_a_file(url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("PKGSTORE_SMB_PASSWORD")
    (tmp_path / "password").write_text(f"{PASSWORD}\n")
    monkeypatch.setenv("PKGSTORE_SMB_PASSWORD_FILE", str(tmp_path / "password"))
    with pkgstore.open(url) as store:
        store.publish("a", b"1")


def test_secrets_are_shown_nowhere(store: Store, smb: SMBServer) -> None:
    driver: Any = store.driver
    shown = [repr(driver), repr(vars(driver)), repr(driver._pool.settings), str(driver._pool.settings), repr(store)]
    assert not any(PASSWORD in text or smb.user in text for text in shown)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("smb://user@127.0.0.1/pkg", "names somebody"),
        ("smb://127.0.0.1", "names no share"),
        ("smb:///pkg", "names no share"),
        ("smb://127.0.0.1:x/pkg", "port"),
        ("smb://127.0.0.1/pkg/../x", "cannot be used"),
        ("smb://127.0.0.1/pkg?connections=1", "connections"),
        ("smb://127.0.0.1/pkg?encrypt=maybe", "encrypt"),
    ],
)
def test_a_url_that_cannot_work(url: str, says: str) -> None:
    with pytest.raises(Misconfigured, match=says) as caught:
        pkgstore.open(url)
    assert "\n" not in str(caught.value)


def test_half_of_the_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PKGSTORE_SMB_PASSWORD", raising=False)
    monkeypatch.setenv("PKGSTORE_SMB_USERNAME", "somebody")
    with pytest.raises(Misconfigured, match="PKGSTORE_SMB_PASSWORD") as caught:
        pkgstore.open("smb://127.0.0.1/pkg")
    assert "somebody" not in str(caught.value)


def test_a_share_that_is_not_there(smb: SMBServer) -> None:
    with pytest.raises(Misconfigured, match="there is no share 'nope' at 127.0.0.1"):
        pkgstore.open(smb.url("nope/x"))


def test_a_store_that_is_not_there(url: str) -> None:
    with pytest.raises(NotFound, match="there is no store"):
        pkgstore.open(url, create=False)


def test_a_server_that_is_not_there() -> None:
    with pytest.raises(Unavailable, match=r"no connection to 127\.0\.0\.1:1 \(Connection refused\)"):
        pkgstore.open("smb://127.0.0.1:1/pkg", username="u", password="p", timeout=0.3)


def test_a_share_that_demands_encryption(smb: SMBServer) -> None:
    with pkgstore.open(fresh(smb, "encrypted")) as store:
        store.publish("a", bytes(5 * MiB))
        assert store.read("a") == bytes(5 * MiB)
        assert store.driver._pool.any().encrypted  # type: ignore[attr-defined]


def test_a_server_that_cannot_encrypt() -> None:
    with samba("server smb encrypt = off\nserver max protocol = SMB2_10\n") as server:
        who = {"username": server.user, "password": PASSWORD}
        with pytest.raises(Misconfigured, match="cannot encrypt"):
            pkgstore.open(server.url("pkg/x"), encrypt=True, **who)
        with pkgstore.open(server.url("pkg/x"), **who) as store:
            store.publish("a/B", b"1")
            assert store.stat("a/B").size == 1
            with pytest.raises(NotFound):
                store.stat("a/b")


def test_a_share_that_is_read_only(smb: SMBServer, url: str, store: Store) -> None:
    store.publish("a/b", b"1")
    with pkgstore.open(url.replace("/pkg/", "/readonly/")) as reading:
        assert held(reading) == {"a/b": b"1"}
        for write in (
            lambda: reading.publish("c", b"1"),
            lambda: reading.publish("a/b", b"1", replace=True),
            lambda: reading.delete("a/b"),
        ):
            with pytest.raises(Denied, match="read-only"):
                write()
    assert held(store) == {"a/b": b"1"}


def test_a_store_at_the_root_of_a_share() -> None:
    with samba() as server:
        with pkgstore.open(server.url("pkg"), username=server.user, password=PASSWORD) as store:
            store.publish("a", b"1")
            store.publish("b/c", b"2")
            assert held(store) == {"a": b"1", "b/c": b"2"}
        assert sorted(path.name for path in (server.folder / "pkg").iterdir()) == [".pkgstore", "a", "b"]


# -- connections ------------------------------------------------------------------------------------------------------


def test_many_threads_share_few_connections(smb: SMBServer, url: str) -> None:
    with pkgstore.open(url, connections=3) as store:
        data = os.urandom(3 * MiB)
        store.publish("a", data)
        before = connections(smb)
        gate = threading.Barrier(64)

        def run(number: int) -> None:
            gate.wait(60)
            assert store.read("a") == data
            store.publish(f"b/{number}", b"1")

        with ThreadPoolExecutor(64) as pool:
            list(pool.map(run, range(64)))
        assert connections(smb) - before <= 2
        assert len(held(store, "b/")) == 64


def test_a_replace_needs_no_second_try_under_readers(url: str) -> None:
    """Readers are on other connections than the one that names files: Samba refuses it otherwise."""
    with pkgstore.open(url, connections=2) as store:
        store.publish("a", b"old")
        at_once = reopened_with(store, timeout=0)
        with store.open("a") as reader:
            for number in range(5):
                at_once.publish("a", str(number).encode(), replace=True)
            assert reader.readall() == b"old"
        assert store.read("a") == b"4"


def test_readers_that_are_open_hold_nobody_up(store: Store) -> None:
    store.publish("a", os.urandom(4 * MiB))
    readers = [store.open("a") for _ in range(80)]
    for reader in readers:
        reader.read(1)
    store.publish("b", b"1")
    for reader in readers:
        reader.close()


def test_a_reader_that_is_forgotten_is_closed_on_the_server(smb: SMBServer, url: str, store: Store) -> None:
    store.publish("a", b"12")
    blob, stream = store.driver.open("a")
    del stream
    gc.collect()
    for _ in range(8):  # on whichever connection it was
        store.stat("a")
    assert not open_files(smb, smb.path(url, "a"))
    assert blob.size == 2


FORKING = """
import os, sys, pkgstore
store = pkgstore.open(sys.argv[1])
store.publish("a", bytes(2 << 20))
reader = store.open("a")
reader.read(10)
child = os.fork()
if child == 0:
    sys.exit(0 if len(reader.readall()) == (2 << 20) - 10 and len(store.read("a")) == 2 << 20 else 3)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert len(reader.readall()) == (2 << 20) - 10
assert store.stat("a").size == 2 << 20
if os.fork() == 0:
    sys.exit(0)  # having used nothing
assert os.wait()[1] == 0
assert store.stat("a").size == 2 << 20
"""


def test_a_child_after_fork_uses_connections_of_its_own_and_ends(url: str) -> None:
    done = subprocess.run([sys.executable, "-c", FORKING, url], capture_output=True, timeout=50, check=False, text=True)
    assert (done.returncode, done.stderr) == (0, "")


HOLDING = """
import os, sys, pkgstore

class Body:
    def read(self, size=-1):
        if os.fork():
            print("forked", flush=True)
        sys.stdin.read()
        os._exit(0)

pkgstore.open(sys.argv[1]).publish("a", Body())
"""


def test_a_child_keeps_nothing_for_a_parent_that_was_killed(smb: SMBServer, url: str, store: Store) -> None:
    """The server lets go of what a killed writer had open, although a child of it lives on."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDING, url], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as writer:
        assert writer.stdout is not None
        try:
            assert writer.stdout.readline() == b"forked\n"
            assert len(list(smb.path(url, ".pkgstore/tmp").iterdir())) == 1
        finally:
            writer.kill()
        deadline = time.monotonic() + 20
        while not driver_of(store)._staging.reap():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert list(smb.path(url, ".pkgstore/tmp").iterdir()) == []


# -- examination ------------------------------------------------------------------------------------------------------


def test_an_examination_finds_what_the_share_keeps_to(smb: SMBServer, url: str, store: Store) -> None:
    assert isinstance(store.driver, Examined)
    found = {each.name: each for each in store.driver.examine()}
    assert {name: each.level for name, each in found.items()} == {
        "protocol": "ok",
        "protection": "note",
        "write": "ok",
        "clock": "ok",
        "case": "note",
        "extended-attributes": "ok",
        "hard-links": "ok",
        "replace-under-reader": "ok",
        "delete-exclusion": "ok",
        "flush": "ok",
        "space": found["space"].level,
    }
    assert all(each.says.endswith(".") and "\n" not in each.says for each in found.values())
    assert not smb.path(url, ".pkgstore/doctor").exists()
    with pkgstore.open(fresh(smb, "plain", encrypt="true")) as plain:
        assert isinstance(plain.driver, Examined)
        levels = {each.name: each.level for each in plain.driver.examine()}
    assert (levels["protection"], levels["extended-attributes"]) == ("ok", "note")
    with pkgstore.open(url.replace("/pkg/", "/readonly/")) as reading:
        assert isinstance(reading.driver, Examined)
        levels = {each.name: each.level for each in reading.driver.examine()}
    assert levels["write"] == "error"


# -- what the tests use -----------------------------------------------------------------------------------------------


def driver_of(store: Store) -> SMBDriver:
    """Return the store's driver, to do things to it that no caller does."""
    assert isinstance(store.driver, SMBDriver)
    return store.driver


def opened_blob(store: Store, key: str) -> Blob:
    with store.open(key) as reader:
        return reader.blob


def reopened_with(store: Store, timeout: float) -> Store:
    """Return the same store, whose calls go on trying for another time."""
    from pkgstore.testing.faults import with_driver

    return with_driver(store, store.driver, timeout=timeout)


def family(pid: int) -> list[int]:
    """Return a server's process and those that it has started."""
    with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
        children = [int(each) for each in file.read().split()]
    return [pid, *(each for child in children for each in family(child))]


def connections(smb: SMBServer) -> int:
    """Return how many clients are connected: Samba has a process for each."""
    return len(family(smb.pid))


def open_files(smb: SMBServer, path: Path) -> list[int]:
    """Return the server's processes that have a file open."""
    found = []
    for pid in family(smb.pid):
        links = [os.readlink(f"/proc/{pid}/fd/{each}") for each in os.listdir(f"/proc/{pid}/fd")]
        found += [pid] * links.count(str(path))
    return found


class traced:  # noqa: N801
    """Trace the server's processes within the block; the function it yields tells what they called, afterwards."""

    def __init__(self, strace: str, smb: SMBServer, calls: str, log: Path) -> None:
        self._log = log
        log.unlink(missing_ok=True)
        pids = [word for pid in family(smb.pid) for word in ("-p", str(pid))]
        self._process = subprocess.Popen(
            [strace, "-f", "-q", "-e", f"trace={calls}", "-o", str(log), *pids], stderr=subprocess.PIPE
        )
        deadline = time.monotonic() + 20
        while not all(is_traced(pid) for pid in family(smb.pid)):
            assert self._process.poll() is None, "strace ended"
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def __enter__(self) -> Callable[[], list[str]]:
        return lambda: re.findall(r"^\d+ +(\w+)\(.* = 0", self._log.read_text(), re.MULTILINE)

    def __exit__(self, *exc: object) -> None:
        self._process.terminate()
        self._process.communicate()


def is_traced(pid: int) -> bool:
    with open(f"/proc/{pid}/status", encoding="ascii") as file:
        return "TracerPid:\t0\n" not in file.read()
