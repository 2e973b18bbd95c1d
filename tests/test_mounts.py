"""Reading the kernel's list of mounts."""

from __future__ import annotations

import errno
import os
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from pkgstore.drivers.mounts import Mount, mount_of, parsed
from tests import needs

if TYPE_CHECKING:
    from pathlib import Path

TEXT = b"""\
21 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw,errors=remount-ro
34 21 0:45 / /mnt/packages rw,relatime shared:7 master:2 - nfs4 server:/export rw,vers=4.2,hard,timeo=600,addr=10.0.0.1
35 21 0:45 /team\\040a /srv/team\\040a ro,noatime - nfs4 server:/export rw,vers=4.2,hard,addr=10.0.0.1
36 21 0:46 / /mnt/tab\\011back\\134slash rw - nfs server:/old\\040data rw,vers=3,soft,nolock
37 21 254:0 /var/lib/x /mnt/bound rw,relatime - ext4 /dev/vda rw
38 21 0:50 / /mnt/m\\303\\274ll rw - fuse.sshfs u@h:/ rw,user_id=0
39 21 0:51 / /mnt/none rw unbindable - tmpfs none rw,size=8k
"""


def test_a_plain_mount() -> None:
    mount = parsed(TEXT)[34]
    assert (mount.source, mount.kind, mount.point, mount.root) == ("server:/export", "nfs4", "/mnt/packages", "/")
    assert mount.options == ("rw", "relatime")
    assert mount.option("vers") == "4.2"
    assert mount.option("hard") == ""
    assert mount.option("soft") is None
    assert mount.is_nfs
    assert mount.is_network


def test_a_folder_of_a_share_that_is_bound_elsewhere() -> None:
    mount = parsed(TEXT)[35]
    assert (mount.source, mount.point, mount.root) == ("server:/export", "/srv/team a", "/team a")
    assert mount.option("ro") == ""


def test_names_with_odd_characters() -> None:
    mounts = parsed(TEXT)
    assert mounts[36].point == "/mnt/tab\tback\\slash"
    assert mounts[36].source == "server:/old data"
    assert mounts[38].point == "/mnt/müll"


def test_any_number_of_optional_fields() -> None:
    mounts = parsed(TEXT)
    assert mounts[34].kind == mounts[35].kind == "nfs4"
    assert mounts[39] == Mount("none", "tmpfs", "/mnt/none", ("rw",), ("rw", "size=8k"))


@pytest.mark.parametrize("kind", ["nfs", "nfs4", "cifs", "smb3", "9p", "ceph", "fuse.s3fs"])
def test_what_is_a_network(kind: str) -> None:
    mount = Mount("x", kind, "/", (), ())
    assert mount.is_network
    assert mount.is_nfs is (kind in ("nfs", "nfs4"))


@pytest.mark.parametrize("kind", ["ext4", "xfs", "tmpfs", "overlay", "fuseblk"])
def test_what_is_none(kind: str) -> None:
    mount = Mount("x", kind, "/", (), ())
    assert not mount.is_network
    assert not mount.is_nfs


def test_the_mounts_of_this_process() -> None:
    assert mount_of("/proc/self").kind == "proc"
    assert mount_of("/proc/self") == mount_of("/proc/absent/for/sure")
    assert mount_of("/").point == "/"


def test_through_links_to_where_they_lead(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/proc/self")
    assert mount_of(tmp_path / "link").kind == "proc"
    assert mount_of(tmp_path / "link" / ".." / "absent").kind == "proc"
    assert mount_of(tmp_path / "absent" / "too").point == mount_of(tmp_path).point


def test_mounts_that_cover_each_other(tmp_path: Path) -> None:
    covered = tmp_path / "outer" / "inner"
    covered.mkdir(parents=True)
    with needs.mounted("tmpfs", covered), needs.mounted("ramfs", tmp_path / "outer") as outer:
        covered.mkdir()
        assert (mount_of(covered).kind, mount_of(covered).point) == ("ramfs", str(outer))
        with needs.mounted("tmpfs", outer):
            assert mount_of(covered).kind == "tmpfs"


def test_a_bind_mount_with_a_space_in_its_name(tmp_path: Path) -> None:
    with needs.mounted("tmpfs", tmp_path / "there") as there:
        (there / "inner").mkdir()
        bound = tmp_path / "a b\\c"
        bound.mkdir()
        subprocess.run(["mount", "--bind", there / "inner", bound], check=True)
        try:
            mount = mount_of(bound / "x")
            assert (mount.kind, mount.point, mount.root) == ("tmpfs", str(bound), "/inner")
        finally:
            subprocess.run(["umount", bound], check=True)


def test_a_path_that_cannot_be_reached(tmp_path: Path) -> None:
    os.symlink("loop", tmp_path / "loop")
    with pytest.raises(OSError, match="symbolic links"):
        mount_of(tmp_path / "loop" / "x")


def test_a_folder_that_this_user_may_not_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = os.open

    def refuse(path: str, *args: Any, **kwargs: Any) -> int:
        if path == f"{tmp_path}/.":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return original(path, *args, **kwargs)

    expected = mount_of(tmp_path)
    monkeypatch.setattr(os, "open", refuse)
    assert mount_of(tmp_path) == expected
