"""The local driver: what only a file system has. The conformance kit tests the rest."""

import errno
import fcntl
import hashlib
import io
import json
import os
import signal
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import pkgstore
from pkgstore.drivers.local import LocalDriver
from pkgstore.drivers.staging import Staging
from tests import needs

SIX = "six/six-1.17.0-py2.py3-none-any.whl"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def store(root: Path) -> Iterator[pkgstore.Store]:
    with pkgstore.open(root, timeout=0) as store:
        yield store


def tree(root: Path) -> list[str]:
    """Return the paths of all that is below ``root``, but for the control folder's own."""
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if ".pkgstore" not in path.parts)


def staged(root: Path) -> list[Path]:
    return list((root / ".pkgstore" / "tmp").iterdir())


# -- on the medium -------------------------------------------------------------------------------------------------


def test_blobs_are_plain_files_at_their_own_key(root: Path, store: pkgstore.Store) -> None:
    store.publish(SIX, b"wheel")
    assert (root / SIX).read_bytes() == b"wheel"
    assert store.local_path(SIX) == root / SIX
    assert tree(root) == ["six", SIX]
    assert staged(root) == []
    identity = json.loads((root / ".pkgstore" / "store.json").read_text())
    assert identity == {"format": 1, "id": store.id}


def test_local_path_of_what_is_not_there(store: pkgstore.Store) -> None:
    with pytest.raises(pkgstore.NotFound, match="'a' is not in"):
        store.local_path("a")


def test_digests_are_within_the_inode(root: Path, store: pkgstore.Store) -> None:
    blob = store.publish("a", b"x")
    try:
        value = os.getxattr(root / "a", "user.pkgstore")
    except OSError:
        needs.missing("the file system under the temporary folder has no extended attributes")
    assert len(value) == 50
    assert bytes.fromhex(blob.digests["sha256"]) in value
    os.rename(root / "a", root / "b")
    assert store.stat("b").digests == blob.digests


def test_deleted_folders_go_and_others_stay(root: Path, store: pkgstore.Store) -> None:
    store.publish("a/b/c", b"")
    store.publish("a/d", b"")
    (root / "mine").mkdir()
    store.delete("a/b/c")
    assert tree(root) == ["a", "a/d", "mine"]
    store.delete("a/d")
    assert tree(root) == ["mine"]
    store.publish("a", b"")
    store.publish("mine", b"in place of an empty folder")
    assert tree(root) == ["a", "mine"]


def test_a_folder_with_anything_in_it_is_not_replaced(root: Path, store: pkgstore.Store) -> None:
    (root / "a" / "b").mkdir(parents=True)
    (root / "a" / "b" / "odd:name").touch()
    for replace in (False, True):
        with pytest.raises(
            pkgstore.InvalidKey, match="it is a folder there, with 'odd:name' in it; choose another key"
        ):
            store.publish("a", b"", replace=replace)
    assert tree(root) == ["a", "a/b", "a/b/odd:name"]
    assert staged(root) == []


# -- files that others put there -----------------------------------------------------------------------------------


def test_files_put_there_by_hand_are_adopted(root: Path, store: pkgstore.Store) -> None:
    (root / "flat-1.0.tar.gz").write_bytes(b"flat")
    blob = store.stat("flat-1.0.tar.gz")
    assert (blob.size, dict(blob.digests)) == (4, {})
    assert store.read("flat-1.0.tar.gz") == b"flat"
    with pytest.raises(pkgstore.Exists) as caught:
        store.publish("flat-1.0.tar.gz", b"flat")
    assert caught.value.identical
    adopted = store.adopt("flat-1.0.tar.gz")
    assert store.stat("flat-1.0.tar.gz") == adopted
    assert adopted.digests["sha256"].startswith("5dc27af2")
    assert adopted.tag == blob.tag


def test_a_file_adopted_while_it_is_written_is_adopted_again(root: Path, store: pkgstore.Store) -> None:
    with (root / "a").open("wb", buffering=0) as file:
        file.write(b"half")
        assert store.adopt("a").digests["sha256"] == hashlib.sha256(b"half").hexdigest()
        file.write(b" and half")
    assert dict(store.stat("a").digests) == {}
    assert store.read("a") == b"half and half"
    assert store.adopt("a").digests["sha256"] == hashlib.sha256(b"half and half").hexdigest()
    assert store.stat("a").digests == store.adopt("a").digests


def test_a_file_changed_while_it_is_adopted_is_not_given_its_old_digest(root: Path, store: pkgstore.Store) -> None:
    (root / "a").write_bytes(b"old")
    blob = store.stat("a")
    (root / "a").write_bytes(b"new one")
    driver = store.driver
    assert isinstance(driver, LocalDriver)
    assert not driver.record_digests(blob, {"sha256": "0" * 64})
    assert store.read("a") == b"new one"


def test_a_file_changed_behind_our_back_is_corrupt(root: Path, store: pkgstore.Store) -> None:
    store.publish("a", b"good bytes")
    with (root / "a").open("r+b") as file:
        file.write(b"B")
    with pytest.raises(pkgstore.Corrupt, match="do not have the sha256 recorded with them: restore it from a copy"):
        store.read("a")
    with store.open("a", verify=False) as reader:
        assert reader.read() == b"Bood bytes"


def test_a_file_emptied_behind_our_back_is_corrupt(root: Path, store: pkgstore.Store) -> None:
    store.publish("a", b"good bytes")
    os.truncate(root / "a", 0)
    with pytest.raises(pkgstore.Corrupt):
        store.read("a")


def test_a_record_that_says_nothing_is_ignored(root: Path, store: pkgstore.Store) -> None:
    for value in (
        b"",
        b"\x02" + bytes(60),
        b"\x01" + bytes(16) + b"\x01short",
        b"\x01" + bytes(16) + b"\x09" + bytes(32),
    ):
        (root / "a").write_bytes(b"1")
        os.setxattr(root / "a", "user.pkgstore", value)
        assert dict(store.stat("a").digests) == {}
        assert store.read("a") == b"1"


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: os.symlink("/etc/passwd", path)], ids=["fifo", "link"])
def test_what_is_no_file_is_neither_read_nor_listed(
    root: Path, store: pkgstore.Store, make: Callable[[Path], None]
) -> None:
    make(root / "odd")
    for verb in (store.read, store.stat, store.local_path, store.delete, lambda key: store.publish(key, b"")):
        with pytest.raises(pkgstore.Denied, match="'odd' in .* is a link or a device, which is not followed"):
            verb("odd")
    assert list(store.list()) == []
    assert store.usage().blobs == 0
    store.publish("odd", b"replaced", replace=True)
    assert store.read("odd") == b"replaced"


def test_no_key_leads_through_a_link(root: Path, store: pkgstore.Store, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"1")
    (root / "way").symlink_to(outside)
    for verb in (store.read, store.stat, store.local_path, store.delete, lambda key: store.publish(key, b"")):
        with pytest.raises(pkgstore.Denied, match="'way' in .* is a link"):
            verb("way/secret")
    with pytest.raises(pkgstore.Denied):
        store.publish("way/new", b"", replace=True)
    assert list(store.list()) == []
    assert [path.name for path in outside.iterdir()] == ["secret"]


def test_the_root_itself_may_be_a_link(root: Path, store: pkgstore.Store, tmp_path: Path) -> None:
    store.publish("a", b"1")
    (tmp_path / "link").symlink_to(root)
    with pkgstore.open(tmp_path / "link") as other:
        assert other.read("a") == b"1"
        assert other.id == store.id


def test_what_the_file_system_keeps_for_itself_is_no_blob(root: Path, store: pkgstore.Store) -> None:
    (root / "lost+found").mkdir()
    (root / "lost+found" / "#123").write_bytes(b"1")
    store.publish("x/lost+found", b"1")
    assert [blob.key for blob in store.list()] == ["x/lost+found"]


# -- users and modes -----------------------------------------------------------------------------------------------


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder that every user can reach."""
    needs.root()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        path.chmod(0o755)
        yield path


def as_user(code: str, root: Path, uid: int = 1000, gid: int = 1000, umask: int = 0o022) -> tuple[int, list[str], str]:
    """Run Python code as another user, with the folder in ROOT; return its exit status, lines of output, and errors."""
    start = f"""
import concurrent.futures.thread, io, os, signal
import pkgstore, pkgstore.drivers.local
ROOT = {str(root)!r}
os.umask({umask}); os.setgroups([]); os.setgid({gid}); os.setuid({uid})
"""
    done = subprocess.run([sys.executable, "-c", start + code], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout.splitlines(), done.stderr


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_umask_is_respected(root: Path) -> None:
    code = "import os; os.umask(0o027); import pkgstore; pkgstore.open(ROOT).publish('a/b', b'1')"
    subprocess.run([sys.executable, "-c", f"ROOT = {str(root)!r}\n{code}"], check=True)
    assert mode(root / "a") == 0o750
    assert mode(root / "a" / "b") == 0o640


def test_users_of_a_group_writable_root_share_it(public: Path) -> None:
    os.chown(public, 0, 2000)
    public.chmod(0o2775)
    for number, uid in enumerate((1000, 1001, 1002), start=1):
        code = f"s = pkgstore.open(ROOT); s.publish('six/by-{uid}', b''); print(s.usage().blobs)"
        assert as_user(code, public, uid=uid, gid=2000, umask=0o077) == (0, [str(number)], "")
    assert mode(public / "six") == 0o2770
    assert mode(public / "six" / "by-1000") == 0o660
    assert (public / "six" / "by-1000").stat().st_gid == 2000
    assert as_user("pkgstore.open(ROOT).delete('six/by-1000')", public, uid=1002, gid=2000) == (0, [], "")
    assert not (public / "six" / "by-1000").exists()


def test_what_a_dead_user_staged_is_reaped_by_another_of_the_group(public: Path) -> None:
    os.chown(public, 0, 2000)
    public.chmod(0o2775)
    code = """
class Dies(io.RawIOBase):
    def readinto(self, buffer):
        os.kill(os.getpid(), signal.SIGKILL)
    def readable(self):
        return True
pkgstore.open(ROOT).publish('a', Dies())
"""
    assert as_user(code, public, uid=1000, gid=2000, umask=0o077)[0] == -signal.SIGKILL
    assert len(staged(public)) == 1
    assert as_user("pkgstore.open(ROOT).publish('a', b'1')", public, uid=1001, gid=2000) == (0, [], "")
    assert staged(public) == []


def test_a_root_that_another_user_may_only_read(public: Path) -> None:
    with pkgstore.open(public) as store:
        store.publish("a", b"1")
    (public / "by-hand").write_bytes(b"2")
    code = """
store = pkgstore.open(ROOT)
print(store.read('a'), store.adopt('by-hand').digests['sha256'][:8])
for call in (lambda: store.publish('b', b''), lambda: store.publish('a', b'', replace=True), lambda: store.delete('a')):
    try:
        call()
    except pkgstore.Denied as exc:
        print(exc)
"""
    status, lines, errors = as_user(code, public)
    assert (status, errors) == (0, "")
    assert lines[0] == "b'1' d4735e3a"
    for line, verb in zip(lines[1:], ("publish 'b'", "publish 'a'", "delete 'a'"), strict=True):
        assert line.startswith(f"cannot {verb} in file://{public}: Permission denied; check the owner and mode")
    assert tree(public) == ["a", "by-hand"]


def test_a_folder_that_cannot_be_read_is_an_error_not_an_omission(public: Path) -> None:
    with pkgstore.open(public) as store:
        store.publish("a/b", b"1")
    (public / "a").chmod(0)
    status, _, errors = as_user("print(list(pkgstore.open(ROOT, readonly=True).list()))", public)
    assert status == 1
    assert f"pkgstore.errors.Denied: cannot list '' in file://{public}: Permission denied: the folder 'a/' of" in errors


def test_a_file_that_cannot_be_read_is_listed(public: Path) -> None:
    with pkgstore.open(public) as store:
        store.publish("a", b"1")
    (public / "a").chmod(0)
    code = "s = pkgstore.open(ROOT, readonly=True); print([b.key for b in s.list()]); s.read('a')"
    status, lines, errors = as_user(code, public)
    assert (status, lines) == (1, ["['a']"])
    assert "pkgstore.errors.Denied: cannot open 'a' in" in errors


def test_a_root_that_may_not_be_made(public: Path) -> None:
    status, _, errors = as_user("pkgstore.open(ROOT + '/new/store')", public)
    assert status == 1
    assert f"pkgstore.errors.Denied: cannot use the folder {public}/new/store: Permission denied" in errors


def test_a_read_only_file_system(tmp_path: Path) -> None:
    with needs.mounted("tmpfs", tmp_path / "disk") as disk:
        with pkgstore.open(disk / "store") as store:
            store.publish("a", b"1")
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        with pkgstore.open(disk / "store") as store:
            assert store.read("a") == b"1"
            with pytest.raises(pkgstore.Denied, match="Read-only file system; check .* the medium is read-only"):
                store.publish("b", b"1")
        with pytest.raises(pkgstore.Denied, match="cannot use the folder .*: Read-only file system"):
            pkgstore.open(disk / "other")
        with pytest.raises(pkgstore.Misconfigured, match="is no folder"):
            pkgstore.open(disk / "store" / "a")


# -- a root that goes away -----------------------------------------------------------------------------------------


def verbs(store: pkgstore.Store) -> list[Callable[[str], object]]:
    return [store.read, store.stat, store.delete, lambda key: store.publish(key, b""), lambda _: list(store.list())]


def test_a_root_that_vanishes(root: Path, store: pkgstore.Store) -> None:
    store.publish("a", b"1")
    root.rename(root.with_name("moved"))
    for verb in (
        store.read,
        store.stat,
        store.delete,
        lambda key: store.publish(key, b""),
        lambda _: list(store.list()),
    ):
        with pytest.raises(pkgstore.Unavailable, match=f"the folder {root} is gone: check that its volume is mounted"):
            verb("a")
    assert not root.exists()


def test_an_empty_mount_point_is_not_written_to(root: Path, store: pkgstore.Store) -> None:
    store.publish("a", b"1")
    root.rename(root.with_name("moved"))
    root.mkdir()
    for verb in (
        store.read,
        store.stat,
        store.delete,
        lambda key: store.publish(key, b""),
        lambda _: list(store.list()),
    ):
        with pytest.raises(pkgstore.Unavailable, match="is not the folder that was opened: check that its volume"):
            verb("a")
    assert list(root.iterdir()) == []


# -- staging -------------------------------------------------------------------------------------------------------


def test_only_what_nobody_holds_is_reaped(root: Path) -> None:
    folder = root / ".pkgstore" / "tmp"
    folder.mkdir(parents=True)
    for name in ("held", "abandoned"):
        (folder / name).write_bytes(b"x")
        os.utime(folder / name, (0, 0))
    with (folder / "held").open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pkgstore.open(root) as store:
            assert [path.name for path in staged(root)] == ["held"]
            store.publish("a", b"1")
    assert [path.name for path in staged(root)] == ["held"]


def test_a_folder_without_hard_links_nor_safe_renames_is_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A strict stand-in for such a medium; a real one is tried where exfat-fuse is installed."""

    def no_links(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    def no_safe_rename(*_: object) -> None:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr(os, "link", no_links)
    monkeypatch.setattr("pkgstore.drivers.posix.rename_exclusive", no_safe_rename)
    with pytest.raises(pkgstore.Unsupported, match="cannot make a store at .*: the medium has neither hard links nor"):
        pkgstore.open(root)
    assert tree(root) == []
    monkeypatch.undo()
    pkgstore.open(root).close()
    monkeypatch.setattr(os, "link", no_links)
    monkeypatch.setattr("pkgstore.drivers.posix.rename_exclusive", no_safe_rename)
    with pkgstore.open(root) as store, pytest.raises(pkgstore.Unsupported, match="cannot publish 'a' in"):
        store.publish("a", b"")


def test_folders_known_to_be_durable_are_bounded(root: Path, store: pkgstore.Store) -> None:
    driver = store.driver
    assert isinstance(driver, LocalDriver)
    for number in range(200):
        store.publish(f"{number}/a", b"")
    assert len(driver._tree._pinned) == 16
    before = len(os.listdir("/proc/self/fd"))
    store.close()
    assert len(os.listdir("/proc/self/fd")) == before - 17


# -- what went wrong once ----------------------------------------------------------------------------------------------


def test_a_delete_whose_flush_failed_is_flushed_by_the_next(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pkgstore.open(root, timeout=5) as store:
        store.publish("a/b", b"1")
        store.publish("a/c", b"1")
        outcomes: list[str] = []
        flush = os.fsync

        def failing_once(fd: int) -> None:
            if not outcomes:
                outcomes.append("failed")
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            flush(fd)
            outcomes.append(os.readlink(f"/proc/self/fd/{fd}"))

        monkeypatch.setattr(os, "fsync", failing_once)
        store.delete("a/b")
        assert outcomes == ["failed", str(root / "a")]


def test_a_delete_of_what_another_has_deleted_is_durable(
    root: Path, store: pkgstore.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.publish("a/b", b"1")
    os.unlink(root / "a" / "b")
    flushed: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda fd: flushed.append(os.readlink(f"/proc/self/fd/{fd}")))
    store.delete("a/b")
    assert flushed == [str(root / "a")]


def test_a_delete_below_a_folder_that_another_removed_is_durable(
    root: Path, store: pkgstore.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.publish("p/q/a", b"1")
    os.unlink(root / "p" / "q" / "a")
    os.rmdir(root / "p" / "q")
    flushed: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda fd: flushed.append(os.readlink(f"/proc/self/fd/{fd}")))
    store.delete("p/q/a")
    os.rmdir(root / "p")
    store.delete("p/q/a")
    assert flushed == [str(root / "p"), str(root)]


def test_a_delete_whose_folder_goes_before_it_is_flushed_is_durable(
    root: Path, store: pkgstore.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.publish("p/a", b"1")
    flushed: list[str] = []

    def flush(fd: int) -> None:
        flushed.append(os.readlink(f"/proc/self/fd/{fd}"))
        if len(flushed) == 1:
            os.rmdir(root / "p")

    monkeypatch.setattr(os, "fsync", flush)
    store.delete("p/a")
    assert flushed == [str(root / "p"), str(root)]


def test_errors_that_are_kept_keep_nothing_open(root: Path, store: pkgstore.Store) -> None:
    store.publish("a/b/c", b"1")
    before = len(os.listdir("/proc/self/fd"))
    kept = []
    for key in ("a/b/none", "a/none/c", "a/b/c/d"):
        with pytest.raises(pkgstore.NotFound) as caught:
            store.stat(key)
        kept.append(caught)
        with pytest.raises(pkgstore.StoreError) as caught:
            store.publish(key if key == "a/b/c/d" else "a/b", b"1")
        kept.append(caught)
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_pipe_that_may_not_be_read_does_not_fail_a_listing(public: Path) -> None:
    with pkgstore.open(public) as store:
        store.publish("a", b"1")
    os.mkfifo(public / "pipe", 0o600)
    code = "print([blob.key for blob in pkgstore.open(ROOT, readonly=True).list()])"
    assert as_user(code, public) == (0, ["['a']"], "")


def test_a_listing_below_a_link_says_so(root: Path, store: pkgstore.Store, tmp_path: Path) -> None:
    (root / "way").symlink_to(tmp_path)
    with pytest.raises(pkgstore.Denied, match="'way' in .* is a link or a device"):
        list(store.list("way/"))


def test_a_record_that_cannot_be_removed_does_not_fail_a_replacement(
    root: Path, store: pkgstore.Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store.publish("a", b"old")
    unlink = os.unlink

    def refusing(path: str, **options: int) -> None:
        if ".pkgstore/digests" in path:
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
        unlink(path, **options)

    monkeypatch.setattr(os, "unlink", refusing)
    store.publish("a", b"new", replace=True)
    assert store.read("a") == b"new"
    assert "cannot remove the record of 'a'" in caplog.text


@pytest.mark.parametrize("when", [-(10**12), 10**11, 10**10, 0])
def test_files_of_any_time(root: Path, store: pkgstore.Store, when: int) -> None:
    (root / "a").write_bytes(b"1")
    try:
        os.utime(root / "a", (when, when))
    except OSError:
        needs.missing("the file system under the temporary folder does not keep such times")
    assert store.adopt("a").digests == store.stat("a").digests
    assert [blob.key for blob in store.list()] == ["a"]
    store.delete("a")
    assert list(store.list()) == []


def test_deep_trees_take_few_descriptors(root: Path) -> None:
    code = f"""
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))
import pkgstore
with pkgstore.open({str(root)!r}) as store:
    key = "/".join("d" * 500)
    store.publish(key, b"1")
    store.publish("e", b"1")
    assert [blob.key for blob in store.list()] == [key, "e"]
    store.delete(key)
    assert [blob.key for blob in store.list()] == ["e"]
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_what_is_too_deep_for_a_key_is_not_listed(root: Path, store: pkgstore.Store) -> None:
    at = os.open(root, os.O_RDONLY)
    for _ in range(600):
        os.mkdir("d", dir_fd=at)
        inner = os.open("d", os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = inner
    os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=at))
    os.close(at)
    try:
        store.publish("e", b"1")
        assert [blob.key for blob in store.list()] == ["e"]
        with pytest.raises(pkgstore.InvalidKey, match="it is a folder there, and a deep one"):
            store.publish("d", b"1")
    finally:
        subprocess.run(["rm", "-rf", str(root / "d")], check=True)


def test_stores_that_are_dropped_keep_nothing_open(root: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for number in range(20):
        pkgstore.open(root).publish(f"{number}/a", b"1")
    assert len(os.listdir("/proc/self/fd")) == before


def test_closing_during_a_publish_does_not_lead_it_elsewhere(root: Path, tmp_path: Path) -> None:
    store = pkgstore.open(root)
    opened: list[pkgstore.Store] = []

    class Closing(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            if not opened:
                store.close()
                opened.extend(pkgstore.open(tmp_path / f"other-{number}") for number in range(4))
            return super().read(size)

    with pytest.raises(pkgstore.Unavailable):
        store.publish("a/b", Closing(b"1"))
    for each in opened:
        assert list(each.list()) == []
        each.close()
    assert tree(root) == []


def test_many_threads_in_many_folders(store: pkgstore.Store) -> None:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda number: store.publish(f"{number % 97}/{number}", b"1"), range(600)))
    finally:
        sys.setswitchinterval(interval)
    assert store.usage().blobs == 600


def test_a_child_forked_during_the_first_publish_goes_on(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a medium that takes its time to say whether it can publish."""
    store = pkgstore.open(root)
    driver = store.driver
    assert isinstance(driver, LocalDriver)
    driver._exclusive = None
    asked, answer = threading.Event(), threading.Event()
    probe = Staging.can_publish

    def slow(self: Staging) -> bool:
        asked.set()
        answer.wait(30)
        return probe(self)

    monkeypatch.setattr(Staging, "can_publish", slow)
    thread = threading.Thread(target=store.publish, args=("a", b"1"))
    thread.start()
    assert asked.wait(30)
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        monkeypatch.undo()
        store.publish("b", b"1")
        os._exit(0)
    answer.set()
    thread.join()
    assert os.waitpid(child, 0)[1] == 0
    assert [blob.key for blob in store.list()] == ["a", "b"]
    store.close()


def test_a_large_publish_at_the_end_of_the_interpreter(root: Path) -> None:
    code = f"""
import atexit, pkgstore
store = pkgstore.open({str(root)!r})
atexit.register(lambda: store.publish("a", bytes(8 << 20)))
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    with pkgstore.open(root) as store:
        assert store.read("a") == bytes(8 << 20)


def test_a_large_publish_while_the_interpreter_ends(root: Path) -> None:
    code = f"""
import pkgstore
class Late:
    def __del__(self, store=pkgstore.open({str(root)!r})):
        store.publish("a", bytes(8 << 20))
late = Late()
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    with pkgstore.open(root) as store:
        assert store.read("a") == bytes(8 << 20)


def test_file_names_that_are_not_utf_8_in_this_process(root: Path) -> None:
    environment = {
        "PYTHONUTF8": "0",
        "PYTHONCOERCECLOCALE": "0",
        "LC_ALL": "C",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    code = f"import pkgstore; pkgstore.open({str(root)!r})"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert "pkgstore.errors.Misconfigured: file names are ascii in this process: set PYTHONUTF8=1" in done.stderr
