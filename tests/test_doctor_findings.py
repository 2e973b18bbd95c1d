"""What an examination says of what it sees: each finding when all is well, and when it is not."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

import pkgstore
from pkgstore.calls import Calls
from pkgstore.doctor import blobs, crew
from pkgstore.drivers import folders
from pkgstore.drivers.memory import MemoryDriver
from pkgstore.drivers.mounts import Mount
from pkgstore.testing.processes import dismiss

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from pkgstore.driver import Finding

NFS = "hard,proto=tcp,timeo=600,retrans=2,sec=sys,local_lock=none,vers=4.2"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    pkgstore.open(tmp_path / "store").close()
    return tmp_path / "store"


def named(findings: Iterator[Finding] | list[Finding], name: str) -> list[Finding]:
    return [each for each in findings if each.name == name]


def levels(findings: Iterator[Finding]) -> dict[str, str]:
    return {each.name: each.level for each in findings}


def mount(kind: str, options: str = "", source: str = "server:/export") -> Mount:
    return Mount(source, kind, "/mnt", ("rw", "relatime"), ("rw", *filter(None, options.split(","))))


# -- mounts ------------------------------------------------------------------------------------------------------------


def test_a_share_without_fault() -> None:
    found = list(folders.of_mount(mount("nfs4", NFS), "nfs", "/mnt/x"))
    assert levels(iter(found)) == {"mount": "ok", "nfs-version": "ok", "mount-options": "ok"}
    assert found[0].says == f"/mnt/x is on /mnt, which is nfs4 from server:/export, with rw,relatime,{NFS}."


@pytest.mark.parametrize(
    ("options", "remedy"),
    [
        ("soft", "`hard`"),
        ("softerr", "`hard`"),
        ("nolock", "`nolock`"),
        ("nocto", "`cto`"),
        ("local_lock=all", "local_lock=none"),
        ("local_lock=flock", "local_lock=none"),
        ("acregmax=3600", "60 at most"),
        ("acdirmin=61", "60 at most"),
        ("actimeo=600", "60 at most"),
    ],
)
def test_a_mount_option_that_does_harm(options: str, remedy: str) -> None:
    found = named(folders.of_mount(mount("nfs4", f"vers=4.2,{options}"), "nfs", "/mnt"), "mount-options")
    assert [each.level for each in found] == ["warning"]
    assert options in found[0].says
    assert remedy in found[0].remedy


def test_mount_options_that_do_none() -> None:
    for options in ("local_lock=posix", "acregmax=60", "actimeo=3"):
        found = named(folders.of_mount(mount("nfs4", f"vers=4.2,{options}"), "nfs", "/mnt"), "mount-options")
        assert [each.level for each in found] == ["ok"]
    found = named(folders.of_mount(mount("nfs4", "vers=4.2,noac"), "nfs", "/mnt"), "mount-options")
    assert [each.level for each in found] == ["note", "ok"]


@pytest.mark.parametrize("version", ["3", "4.0", "4.1"])
def test_a_version_of_nfs_without_attributes(version: str) -> None:
    (found,) = named(folders.of_mount(mount("nfs4", f"vers={version}"), "nfs", "/mnt"), "nfs-version")
    assert found.level == "note"
    assert "vers=4.2" in found.remedy


@pytest.mark.parametrize(
    ("kind", "scheme", "level", "words"),
    [
        ("ext4", "file", "ok", ""),
        ("nfs4", "file", "warning", "Say nfs:"),
        ("nfs", "file", "warning", "Say nfs:"),
        ("cifs", "file", "warning", "empty mount point"),
        ("nfs", "nfs", "ok", ""),
        ("ext4", "nfs", "error", "Mount the share"),
        ("cifs", "nfs", "error", "Mount the share"),
        ("tmpfs", "file", "warning", "Mount a volume"),
        ("overlay", "file", "warning", "Mount a volume"),
    ],
)
def test_where_a_folder_is(kind: str, scheme: str, level: str, words: str) -> None:
    (found,) = named(folders.of_mount(mount(kind), scheme, "/mnt"), "mount")
    assert found.level == level
    assert words in found.remedy


def test_barriers() -> None:
    assert named(folders.of_mount(mount("ext4", "barrier=1"), "file", "/mnt"), "mount-options") == []
    for options in ("barrier=0", "nobarrier"):
        (found,) = named(folders.of_mount(mount("ext4", options), "file", "/mnt"), "mount-options")
        assert found.level == "warning"


# -- what files can do -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("seconds", "words"), [(7200.0, "behind this host's"), (-3.0, "ahead of this host's")])
def test_clock_skew(root: Path, monkeypatch: pytest.MonkeyPatch, seconds: float, words: str) -> None:
    assert named(folders.examine(str(root), "file"), "clock")[0].level == "ok"
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + seconds)
    (found,) = named(folders.examine(str(root), "file"), "clock")
    assert found.level == "warning"
    assert words in found.says
    assert f"{abs(seconds):.1f} s" in found.says


def refuse(number: int) -> Callable[..., None]:
    def function(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    return function


@pytest.mark.parametrize(
    ("function", "number", "name", "level"),
    [
        ("fsync", errno.EIO, "flush", "error"),
        ("setxattr", errno.EOPNOTSUPP, "extended-attributes", "note"),
        ("setxattr", errno.EIO, "extended-attributes", "error"),
        ("link", errno.EPERM, "hard-links", "note"),
        ("link", errno.EIO, "hard-links", "error"),
    ],
)
def test_what_a_medium_cannot_do(
    root: Path, monkeypatch: pytest.MonkeyPatch, function: str, number: int, name: str, level: str
) -> None:
    """With stand-ins for calls that fail."""
    assert named(folders.examine(str(root), "file"), name)[0].level == "ok"
    monkeypatch.setattr(os, function, refuse(number))
    (found,) = named(folders.examine(str(root), "file"), name)
    assert found.level == level
    assert os.strerror(number) in found.says or number == errno.EOPNOTSUPP
    assert sorted(each.name for each in (root / ".pkgstore").iterdir()) == ["store.json", "tmp"]


def test_a_link_that_replaces(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "link", os.replace)
    (found,) = named(folders.examine(str(root), "file"), "hard-links")
    assert found.level == "error"
    assert "two writers could both win" in found.says


def test_a_server_that_maps_users(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert named(folders.examine(str(root), "file"), "ownership") == []
    actual = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: actual + 77)
    (found,) = named(folders.examine(str(root), "file"), "ownership")
    assert found.level == "note"
    assert f"{actual + 77} writes belongs to {actual}:" in found.says


def test_root_who_may_not_write(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a share with root_squash; a stand-in."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(os, "access", lambda *_, **__: False)
    (found,) = named(folders.examine(str(root), "file"), "permissions")
    owner = root.stat().st_uid
    assert found.level == "error"
    assert f"runAsUser: {owner}" in found.remedy
    assert "no_root_squash" in found.remedy


def test_a_folder_that_is_gone(tmp_path: Path) -> None:
    assert levels(folders.examine(str(tmp_path / "none"), "file")) == {"folder": "error"}


# -- processes ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def own_workers() -> Iterator[None]:
    """Have workers that are used by one test alone, as it changes them for good."""
    dismiss()
    yield
    dismiss()


@contextmanager
def overwriting(root: str) -> Iterator[Calls]:
    """Reach a folder where a link replaces what is there: a stand-in for a medium on which nothing is exclusive."""

    def link(source: Any, name: Any, *, dst_dir_fd: int | None = None, **_: Any) -> None:
        twin = f"{os.fspath(source)}-twin"
        real(source, twin)
        os.rename(twin, name, dst_dir_fd=dst_dir_fd)

    real = os.link
    os.link = link
    try:
        with crew.in_folder("file", root, 5) as calls:
            yield calls
    finally:
        os.link = real


@pytest.mark.usefixtures("own_workers")
def test_a_race_that_several_win(root: Path) -> None:
    assert crew.race(partial(crew.in_folder, "file", str(root), 5)).level == "ok"
    found = crew.race(partial(overwriting, str(root)))
    assert found.level == "error"
    assert "24 had more than one winner" in found.says
    assert not (root / ".pkgstore" / "doctor").exists()


@contextmanager
def refusing(root: str) -> Iterator[Calls]:
    """Reach a folder where every flush fails."""
    real = os.fsync
    os.fsync = refuse(errno.EIO)
    try:
        with crew.in_folder("file", root, 0) as calls:
            yield calls
    finally:
        os.fsync = real


@pytest.mark.usefixtures("own_workers")
def test_a_race_in_which_publishers_fail(root: Path) -> None:
    found = crew.race(partial(refusing, str(root)))
    assert found.level == "error"
    assert "not known to be durable" in found.says


@pytest.mark.usefixtures("own_workers")
def test_a_race_that_nobody_reaches(tmp_path: Path, root: Path) -> None:
    found = crew.race(partial(crew.opened, tmp_path / "none", {"create": False}, 5))
    assert (found.level, "there is no folder" in found.says) == ("error", True)
    assert list(tmp_path.iterdir()) == [root]


@pytest.mark.parametrize(
    ("told", "held", "words"),
    [
        (("won", "exists"), crew.body_of(0), "each had one winner"),
        (("won", "won"), crew.body_of(0), "1 had more than one winner, 0 had none"),
        (("exists", "exists"), None, "0 had more than one winner, 1 had none"),
        (("exists", "won"), crew.body_of(0), "1 hold other bytes"),
        (("exists", "won"), None, "1 hold other bytes"),
        (("won", "Denied: no"), crew.body_of(0), "Denied: no"),
    ],
)
def test_what_is_said_of_a_race(told: tuple[str, ...], held: bytes | None, words: str) -> None:
    found = crew.judged([told], [held])
    assert words in found.says
    assert found.level == ("ok" if words.startswith("each") else "error")


@pytest.mark.usefixtures("own_workers")
def test_locks_on_this_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert crew.locks(str(tmp_path)).level == "ok"
    real = fcntl.flock
    monkeypatch.setattr(fcntl, "flock", lambda fd, how: None if how == fcntl.LOCK_UN else real(fd, how))
    found = crew.locks(str(tmp_path))
    assert (found.level, "still refused" in found.says) == ("error", True)
    monkeypatch.setattr(fcntl, "flock", lambda *_: None)
    found = crew.locks(str(tmp_path))
    assert (found.level, "given to another" in found.says) == ("error", True)
    monkeypatch.setattr(fcntl, "flock", refuse(errno.ENOLCK))
    found = crew.locks(str(tmp_path))
    assert (found.level, os.strerror(errno.ENOLCK) in found.says) == ("warning", True)
    assert list(tmp_path.iterdir()) == []


# -- blobs -------------------------------------------------------------------------------------------------------------


class Faulty(MemoryDriver):
    """A medium that fails as ``fault`` says."""

    fault = ""

    @property
    def exclusive(self) -> bool:
        return self.fault != "exclusive"

    def put(self, key: str, *args: Any, **how: Any) -> Any:
        if self.fault == "put":
            raise PermissionError(errno.EACCES, "Permission denied")
        if self.fault == "replace" and not how["exclusive"]:
            return self.stat(key)
        return super().put(key, *args, **how)

    def scan(self, prefix: str) -> Any:
        return iter(()) if self.fault == "scan" else super().scan(prefix)

    def delete(self, key: str, **how: Any) -> None:
        if self.fault != "delete":
            super().delete(key, **how)

    def classify(self, exc: BaseException) -> Any:
        return pkgstore.Denied if isinstance(exc, PermissionError) else super().classify(exc)


@pytest.mark.parametrize(
    ("fault", "name", "words"),
    [
        ("", "", ""),
        ("exclusive", "exclusive", "two writers could both win"),
        ("put", "blob", "Permission denied"),
        ("scan", "blob", "could not be listed"),
        ("delete", "blob", "could not be deleted"),
    ],
)
def test_a_blob_takes_its_turn(fault: str, name: str, words: str) -> None:
    with pkgstore.open("memory://") as store:
        store.driver.__class__ = Faulty
        store.driver.fault = fault  # type: ignore[attr-defined]
        found = {each.name: each for each in blobs.tried(Calls(store.driver, store.where, 0))}
    assert [each for each in found if found[each].level == "error"] == [name] * bool(name)
    if name:
        assert words in found[name].says
        assert found[name].remedy
    else:
        assert list(found) == ["exclusive", "blob"]


def test_what_a_store_remembers() -> None:
    (found,) = blobs.remembered({"https://user:secret@s3.example": {"put": True, "put_reason": ""}})
    assert found.level == "note"
    assert found.says == "The store remembers of https://**redacted**@s3.example put: true."
    assert "secret" not in found.says
