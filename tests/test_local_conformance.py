"""The local driver against the conformance kit, on media that differ in what they can do."""

from __future__ import annotations

import errno
import os
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

import pkgstore
from pkgstore.testing import processes
from tests import needs
from tests.local_medium import LocalConformance

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class TestLocal(LocalConformance):
    """On the file system of the temporary folder."""


def without_hard_links(*args: Any, **kwargs: Any) -> None:
    """What `os.link` does on a medium without hard links."""
    raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))


def open_without_hard_links(url: str, **options: Any) -> pkgstore.Store:
    """Open a store in a process that is told that its medium has no hard links: a stand-in for such a medium.

    It is strict: every call fails, so that whatever is published was renamed into place by renameat2. It changes the
    process for good, which is why these tests have workers of their own.
    """
    os.link = without_hard_links
    return pkgstore.open(url, **options)


@pytest.fixture(scope="class")
def own_workers() -> Iterator[None]:
    """Have workers that are used by these tests alone."""
    processes.dismiss()
    yield
    processes.dismiss()


@pytest.mark.usefixtures("own_workers")
class TestLocalWithoutHardLinks(LocalConformance):
    """Publishing by a rename that never replaces."""

    open_store = staticmethod(open_without_hard_links)
    large = 128 << 20
    examples = 8

    @pytest.fixture(autouse=True)
    def _with_os_link_restored(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(os, "link", without_hard_links)

    def test_the_stand_in_is_strict(self, url: str, store: pkgstore.Store) -> None:
        with pytest.raises(PermissionError):
            os.link("a", "b")
        store.publish("a", b"1")
        assert store.local_path("a").stat().st_nlink == 1


class TestLocalWithoutAttributes(LocalConformance):
    """On a ramfs, which has no extended attributes: digests lie beside the blobs."""

    large = 128 << 20
    examples = 8

    @pytest.fixture
    def url(self, tmp_path: Path) -> Iterator[str]:  # type: ignore[override]
        with needs.mounted("ramfs", tmp_path / "ramfs") as folder:
            yield f"file://{folder}/store"

    def test_the_medium_has_no_attributes(self, store: pkgstore.Store) -> None:
        store.publish("a", b"1")
        with pytest.raises(OSError, match="not supported"):
            os.setxattr(store.local_path("a"), "user.x", b"1")

    def test_a_truncated_blob_is_corrupt(self, url: str, store: pkgstore.Store, rng: Any) -> None:
        """What lies beside is bound to a file's size: of a file that was cut, it says nothing, nor anything wrong."""
        store.publish("a", rng.randbytes(1000))
        self.truncate(url, "a")
        assert store.stat("a").digests == {}
        assert store.stat("a").size == 999


@contextmanager
def mounted_exfat(folder: Path) -> Iterator[Path]:
    """Mount a new exFAT of 32 MiB, by FUSE, and yield the folder where it is."""
    needs.root()
    make, mount = needs.program("mkfs.exfat"), needs.program("mount.exfat-fuse")
    folder.mkdir()
    image = folder.with_suffix(".img")
    image.touch()
    os.truncate(image, 32 << 20)
    attached = subprocess.run(["losetup", "--find", "--show", image], capture_output=True, text=True, check=False)
    if attached.returncode:
        needs.missing(f"there is no loop device here: {attached.stderr.strip()}")
    device = attached.stdout.strip()
    try:
        subprocess.run([make, device], check=True, capture_output=True)
        subprocess.run([mount, device, folder], check=True, capture_output=True)
        try:
            yield folder
        finally:
            subprocess.run(["umount", folder], check=True)
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)


def test_a_medium_that_cannot_publish_once_is_refused(tmp_path: Path) -> None:
    with mounted_exfat(tmp_path / "exfat") as folder:
        with pytest.raises(pkgstore.Unsupported, match="neither hard links nor a rename that never replaces"):
            pkgstore.open(folder)
        left = [path for path in folder.rglob("*") if path.is_file()]
        assert left == []
