"""What is mounted where: this process's mounts, as Linux lists them in ``/proc/self/mountinfo``."""

from __future__ import annotations

import contextlib
import errno
import os
import re
from dataclasses import dataclass

_MOUNTS = "/proc/self/mountinfo"
_ID = re.compile(r"^mnt_id:\s*(\d+)$", re.MULTILINE)
_ESCAPED = re.compile(rb"\\([0-7]{3})")
_NETWORK = {
    "9p",
    "afs",
    "beegfs",
    "ceph",
    "cifs",
    "coda",
    "gfs2",
    "glusterfs",
    "gpfs",
    "lustre",
    "nfs",
    "nfs4",
    "ocfs2",
    "orangefs",
    "smb3",
    "smbfs",
}
_LOCAL_FUSE = {"fuseblk", "fuse.exfat", "fuse.lxcfs", "fuse.ntfs", "fuse.ntfs-3g", "fuse.overlayfs", "fuse.portal"}


@dataclass(frozen=True, slots=True)
class Mount:
    """One mount.

    ``source``
        what is mounted, as its file system names it: a device, or ``server:/export``
    ``kind``
        the type of the file system, such as ``ext4`` or ``nfs4``
    ``point``
        the folder where it is mounted
    ``options``, ``super_options``
        how it is mounted there, and what the file system itself was told; see `option`
    ``root``
        which folder of the file system is at ``point``: ``/``, or another for a bind mount or a subvolume
    """

    source: str
    kind: str
    point: str
    options: tuple[str, ...]
    super_options: tuple[str, ...]
    root: str = "/"

    @property
    def is_network(self) -> bool:
        """Whether other hosts can have the same files; of a FUSE file system that is not known, it is assumed."""
        return self.kind in _NETWORK or (self.kind.startswith("fuse") and self.kind not in _LOCAL_FUSE)

    @property
    def is_nfs(self) -> bool:
        """Whether it is the kernel's NFS, of any version."""
        return self.kind in ("nfs", "nfs4")

    def option(self, name: str) -> str | None:
        """Return the value of an option: empty where it has none, and None where it is not set."""
        for each in (*self.options, *self.super_options):
            given, _, value = each.partition("=")
            if given == name:
                return value
        return None


def mount_of(path: str | os.PathLike[str]) -> Mount:
    """Return the mount that holds ``path``, or what is to be at ``path``, after all symbolic links.

    Of mounts that cover each other, it is the one that is seen. Raises OSError when the path cannot be reached, or the
    kernel does not tell.
    """
    # What is inside the folder makes an automounter mount it, and the folder itself does not.
    fd = _open_deepest(os.path.join(os.path.realpath(path), "."))
    try:
        return mount_under(fd)
    finally:
        os.close(fd)


def mount_under(fd: int) -> Mount:
    """Return the mount that holds an open file or folder. Raises OSError."""
    with open(f"/proc/self/fdinfo/{fd}", encoding="ascii") as info:
        found = _ID.search(info.read())
    with open(_MOUNTS, "rb") as file:
        mounts = parsed(file.read())
    number = int(found.group(1)) if found else -1
    if number not in mounts:
        raise OSError(errno.ENODEV, f"the kernel does not list mount {number} in {_MOUNTS}")
    return mounts[number]


def parsed(text: bytes) -> dict[int, Mount]:
    """Return the mounts that a mountinfo file lists, by the number that the kernel gave each."""
    mounts = {}
    for line in text.splitlines():
        fields = line.split(b" ")
        dash = fields.index(b"-", 6)
        kind, source, super_options = fields[dash + 1 : dash + 4]
        mounts[int(fields[0])] = Mount(
            source=_decoded(source),
            kind=_decoded(kind),
            point=_decoded(fields[4]),
            options=_split(fields[5]),
            super_options=_split(super_options),
            root=_decoded(fields[3]),
        )
    return mounts


def _open_deepest(path: str) -> int:
    """Open the deepest folder or file there is on the way to ``path``, without any access to what it holds."""
    while True:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError):
            return os.open(path, os.O_PATH | os.O_CLOEXEC)
        path = os.path.dirname(path)


def _split(options: bytes) -> tuple[str, ...]:
    return tuple(_decoded(each) for each in options.split(b",") if each)


def _decoded(field: bytes) -> str:
    return os.fsdecode(_ESCAPED.sub(lambda match: bytes([int(match.group(1), 8)]), field))
