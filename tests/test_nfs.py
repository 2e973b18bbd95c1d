"""The NFS driver, on a folder that passes for a share: real shares are tried in `tests.labs.test_nfs`."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import pkgstore
from pkgstore.drivers import nfs
from pkgstore.drivers.local import LocalDriver
from pkgstore.drivers.mounts import Mount
from pkgstore.testing.faults import with_driver
from tests.clock import Clock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pkgstore import Store

ASIDE = ".nfs000000000000001200000029"
SHARE = Mount("server:/export", "nfs4", "/mnt", ("rw",), ("rw", "vers=4.2"))


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that passes for a share."""
    monkeypatch.setattr(nfs, "mount_of", lambda path: SHARE)
    monkeypatch.setattr(nfs, "mount_under", lambda fd: SHARE)
    return tmp_path / "packages"


@pytest.fixture
def store(root: Path) -> Iterator[Store]:
    with pkgstore.open(f"nfs://{root}", create=True) as store:
        yield store


# -- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("create", [True, False])
def test_a_folder_of_this_host_is_refused(tmp_path: Path, create: bool) -> None:
    with pytest.raises(pkgstore.Misconfigured, match="not on NFS: check that the share is mounted, or use file://"):
        pkgstore.open(f"nfs://{tmp_path}/packages", create=create)
    assert list(tmp_path.iterdir()) == []


def test_a_share_that_goes_before_it_is_opened(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is held open counts, and not what was there a moment ago."""
    monkeypatch.setattr(nfs, "mount_under", lambda fd: Mount("/dev/vda", "ext4", "/", (), ()))
    root.mkdir()
    with pytest.raises(pkgstore.Misconfigured, match="is on ext4, mounted at /, and not on NFS"):
        pkgstore.open(f"nfs://{root}")


def test_a_store_is_not_made_unasked(root: Path) -> None:
    for _ in range(2):
        with pytest.raises(pkgstore.NotFound, match=f"mounted, or make .*pkgstore init nfs://{root}`"):
            pkgstore.open(f"nfs://{root}")
        assert not root.exists() or list(root.iterdir()) == []
        root.mkdir(exist_ok=True)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("nfs://server/export", "names a host: .* three slashes, nfs:///srv/packages"),
        ("nfs:packages", "relative path: write nfs:///srv/packages"),
        ("nfs:///", "not on NFS"),
    ],
)
def test_urls_that_name_no_share(url: str, message: str) -> None:
    with pytest.raises(pkgstore.Misconfigured, match=message):
        pkgstore.open(url)


def test_a_mount_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def stale(path: str) -> Mount:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    monkeypatch.setattr(nfs, "mount_of", stale)
    with pytest.raises(pkgstore.Unavailable, match="Stale file handle; check that the share is mounted"):
        pkgstore.open(f"nfs://{tmp_path}")


# -- replies that were lost -------------------------------------------------------------------------------------------


def sent_twice(monkeypatch: pytest.MonkeyPatch, name: str) -> list[tuple[Any, ...]]:
    """Have a call of the system done, and done again, as by a server that no longer knows that it has replied."""
    original: Callable[..., Any] = getattr(os, name)
    calls: list[tuple[Any, ...]] = []

    def twice(*args: Any, **kwargs: Any) -> Any:
        calls.append(args)
        original(*args, **kwargs)
        return original(*args, **kwargs)

    monkeypatch.setattr(os, name, twice)
    return calls


def test_a_link_whose_reply_was_lost(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = sent_twice(monkeypatch, "link")
    blob = store.publish("x/file", b"1")
    assert len(calls) == 1
    assert store.stat("x/file") == blob
    with pytest.raises(pkgstore.Exists):
        store.publish("x/file", b"2")
    assert list(Path(store.driver.root, ".pkgstore", "tmp").iterdir()) == []  # type: ignore[attr-defined]


def test_a_rename_whose_reply_was_lost(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.publish("x/file", b"1")
    calls = sent_twice(monkeypatch, "rename")
    blob = store.publish("x/file", b"2", replace=True)
    assert len(calls) == 1
    assert store.stat("x/file") == blob
    assert store.read("x/file") == b"2"


def test_a_removal_whose_reply_was_lost(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.publish("x/file", b"1")
    calls = sent_twice(monkeypatch, "unlink")
    store.delete("x/file")
    assert calls.count(("file",)) == 1
    assert list(store.list()) == []


def test_a_creation_whose_reply_was_lost(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    original = os.open
    lost: list[str] = []

    def open_twice(path: str, flags: int, *args: Any, **kwargs: Any) -> int:
        if flags & os.O_EXCL and not lost:
            lost.append(path)
            os.close(original(path, flags, *args, **kwargs))
        return original(path, flags, *args, **kwargs)

    monkeypatch.setattr(os, "open", open_twice)
    store.publish("x/file", b"1")
    assert len(lost) == 1
    assert store.read("x/file") == b"1"


# -- a server that fails ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["fsync", "write", "link"])
@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ETIMEDOUT])
def test_a_server_that_fails_in_mid_publish(
    store: Store, monkeypatch: pytest.MonkeyPatch, name: str, number: int
) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patched:
        patched.setattr(os, name, fail)
        with pytest.raises(pkgstore.Unavailable):
            with_driver(store, store.driver, timeout=0.1).publish("x/file", b"1")
    assert list(store.list()) == []
    store.publish("x/file", b"1")


def test_a_folder_whose_handle_is_stale_is_opened_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another client has deleted it, and made it again: it is looked up anew, from the root."""
    blob = store.publish("x/file", b"1")
    original = nfs.ask_server
    asked: list[int] = []

    def stale_once(fd: int) -> None:
        asked.append(fd)
        if len(asked) == 1:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        original(fd)

    monkeypatch.setattr(nfs, "ask_server", stale_once)
    assert store.driver.stat("x/file") == blob
    assert len(asked) > 2


def test_a_blob_that_goes_stale_while_it_is_looked_at(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another client has replaced it between two requests: it is looked up anew, by its name."""
    store.publish("x/file", b"1")
    original = os.getxattr
    failed: list[int] = []

    def stale_once(fd: int, name: str) -> bytes:
        if not failed:
            failed.append(fd)
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return original(fd, name)

    monkeypatch.setattr(os, "getxattr", stale_once)
    assert [blob.key for blob in store.driver.scan("")] == ["x/file"]
    assert failed


def test_what_clients_keep_of_open_files_is_not_listed(store: Store, root: Path) -> None:
    store.publish("x/file", b"1")
    (root / "x" / ASIDE).write_bytes(b"2")
    (root / ".nfs-notes").write_bytes(b"3")
    assert [blob.key for blob in store.list()] == [".nfs-notes", "x/file"]


@pytest.mark.parametrize(("version", "touched"), [("3", True), ("4.2", False)])
def test_with_nfs_3_a_changed_folder_gets_another_time(
    root: Path, monkeypatch: pytest.MonkeyPatch, version: str, touched: bool
) -> None:
    mount = Mount("server:/export", "nfs", "/mnt", ("rw",), ("rw", f"vers={version}"))
    monkeypatch.setattr(nfs, "mount_under", lambda fd: mount)
    original = os.utime
    calls: list[int] = []

    def utime(fd: int, *args: Any, **kwargs: Any) -> None:
        calls.append(fd)
        original(fd, *args, **kwargs)

    with pkgstore.open(f"nfs://{root}", create=True) as store:
        store.publish("x/file", b"1")
        monkeypatch.setattr(os, "utime", utime)
        for call in (
            lambda: store.publish("x/other", b"1"),
            lambda: store.publish("x/file", b"2"),  # who loses may tell others that it is there
            lambda: store.delete("x/file"),
        ):
            calls.clear()
            with contextlib.suppress(pkgstore.Exists):
                call()
            assert bool(calls) is touched


def test_a_staged_file_that_is_reaped_before_it_is_locked(
    store: Store, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By another process of the same client, which keeps it under another name while it is open."""
    original = fcntl.flock
    reaped: list[Path] = []

    def reap_first(fd: int, operation: int) -> None:
        if not reaped:
            (path,) = (root / ".pkgstore/tmp").iterdir()
            reaped.append(path.rename(path.with_name(ASIDE)))
        original(fd, operation)

    monkeypatch.setattr(fcntl, "flock", reap_first)
    waits: list[float] = []
    monkeypatch.setattr(time, "sleep", waits.append)
    store.publish("x/file", b"1")
    assert len(reaped) == 1
    assert waits == []
    assert store.read("x/file") == b"1"


# -- replaced in two steps --------------------------------------------------------------------------------------------


@pytest.fixture
def put_aside(store: Store, root: Path) -> Iterator[threading.Event]:
    """Between the two steps in which a client replaces a file that it has open; the second follows the event."""
    store.publish("x/file", b"old")
    store.publish("x/new", b"new")
    (root / "x/file").rename(root / "x" / ASIDE)
    looked = threading.Event()

    def second_step() -> None:
        looked.wait(30)
        (root / "x/new").rename(root / "x/file")

    thread = threading.Thread(target=second_step)
    thread.start()
    yield looked
    looked.set()
    thread.join()


def after_the_first_look(monkeypatch: pytest.MonkeyPatch, name: str, event: threading.Event) -> None:
    """Set an event once a function of the local driver has been called and has returned, or raised."""
    original: Callable[..., Any] = getattr(LocalDriver, name)

    def call(self: LocalDriver, *args: Any) -> Any:
        try:
            return original(self, *args)
        finally:
            event.set()

    monkeypatch.setattr(LocalDriver, name, call)


def test_a_blob_that_is_being_replaced_is_found(
    store: Store, put_aside: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    after_the_first_look(monkeypatch, "_open_blob", put_aside)
    assert store.read("x/file") == b"new"


def test_a_blob_that_is_being_replaced_is_listed(
    store: Store, put_aside: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    after_the_first_look(monkeypatch, "_names", put_aside)
    assert "x/file" in {blob.key for blob in store.list()}


def test_what_lies_aside_for_long_holds_nobody_up(store: Store, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / ASIDE).write_bytes(b"deleted, and still being read")
    clock = Clock()
    monkeypatch.setattr(nfs, "time", clock)
    for seconds in (0.25, 0, 0):
        began = clock.now
        assert list(store.list()) == []
        assert clock.now == began + seconds
    for least in (3.7, 0, 0):  # a listing has not waited long enough to tell
        began = clock.now
        with pytest.raises(pkgstore.NotFound):
            store.stat("file")
        assert least <= clock.now - began <= least * 1.2


# -- threads ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["file", "nfs"])
def test_threads_that_list_at_one_moment(root: Path, scheme: str) -> None:
    with pkgstore.open(f"{scheme}://{root}", create=True) as store, ThreadPoolExecutor(4) as pool:
        for number in range(2000):
            (root / f"a-file-with-a-name-of-some-length-{number}").touch()
        counts = pool.map(lambda _: len(store.driver._names("")), range(40))  # type: ignore[attr-defined]
        assert set(counts) == {2000}
