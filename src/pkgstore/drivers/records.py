"""The digests that a blob carries, and the token of the publish that wrote it.

They are an extended attribute of the file, so that they are there from the moment it has its name, and go where the
inode goes. On a medium without extended attributes, or where this user may not set one, they lie beside, in
`.pkgstore/digests`, under the key and the identity of that very file (inode, time and size): written before the file
has its name and removed before it loses it, so that whatever a crash leaves is at worst a blob without digests.

The format is a version byte, the token (16 bytes; zeros on a file that was adopted), and for each digest a byte that
names the algorithm and the digest itself. With one digest that is 50 bytes, which ext4 keeps within the inode.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
from typing import TYPE_CHECKING, NamedTuple

from pkgstore.drivers import posix

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pkgstore.drivers.staging import Staging

_ATTRIBUTE = "user.pkgstore"
_VERSION = 1
_NO_TOKEN = bytes(16)
_ALGORITHMS = {1: ("sha256", 32), 2: ("md5", 16), 3: ("blake2b", 64)}
_NUMBERS = {name: number for number, (name, _) in _ALGORITHMS.items()}
_LONGEST = 4096
_NONE_SET = {errno.ENODATA, *posix.NO_ATTRIBUTES}


class Record(NamedTuple):
    """What is kept of one file."""

    digests: dict[str, str]
    token: str | None


_UNKNOWN = Record({}, None)


def identity(status: os.stat_result) -> str:
    """Return what tells a file from any other that has had its name: inode, time of last change of content, size."""
    return f"{status.st_ino:x}-{status.st_mtime_ns:x}-{status.st_size:x}"


class Records:
    """The records of one store. ``folder`` is where those lie that files cannot carry."""

    def __init__(self, folder: str, staging: Staging) -> None:
        self._folder = folder
        self._staging = staging

    def attach(self, fd: int, digests: Mapping[str, str], token: str | None) -> bool:
        """Set the record on an open file. False when the medium, or the file's owner, does not let us."""
        try:
            os.setxattr(fd, _ATTRIBUTE, _packed(digests, token))
        except OSError as exc:
            # A medium without room for attributes, as one of this inode's own, may have room for a file.
            if exc.errno in posix.NO_ATTRIBUTES or posix.is_full(exc):
                return False
            raise
        return True

    def put_beside(self, key: str, status: os.stat_result, digests: Mapping[str, str], token: str | None) -> None:
        """Keep the record of a file that cannot carry it, durably. ``status`` is as the file will have its name."""
        path = self._path(key, status)
        folder = os.path.dirname(path)
        posix.make_folders(folder, self._staging.root_mode)
        with self._staging.stage() as staged:
            staged.write(_packed(digests, token))
            staged.sync()
            os.rename(staged.path, path)
        posix.sync_folder(folder)

    def read(self, fd: int, key: str, status: os.stat_result) -> Record:
        """Return the record of an open file; an empty one where there is none."""
        try:
            return _unpacked(os.getxattr(fd, _ATTRIBUTE))
        except OSError as exc:
            if exc.errno not in _NONE_SET:
                raise
        try:
            with open(self._path(key, status), "rb") as file:
                return _unpacked(file.read(_LONGEST))
        except FileNotFoundError:
            return _UNKNOWN

    def forget(self, key: str, status: os.stat_result) -> None:
        """Remove what lies beside for a file that is about to lose its name."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path(key, status))

    def _path(self, key: str, status: os.stat_result) -> str:
        name = hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()
        return os.path.join(self._folder, name[:2], f"{name[2:34]}.{identity(status)}")


def _packed(digests: Mapping[str, str], token: str | None) -> bytes:
    parts = [bytes([_VERSION]), bytes.fromhex(token) if token else _NO_TOKEN]
    for name, value in digests.items():
        parts += [bytes([_NUMBERS[name]]), bytes.fromhex(value)]
    return b"".join(parts)


def _unpacked(data: bytes) -> Record:
    """Return what a record says; one that is torn, or of another version, says nothing."""
    if len(data) < 17 or data[0] != _VERSION:
        return _UNKNOWN
    token, at = data[1:17], 17
    digests = {}
    while at < len(data):
        name, length = _ALGORITHMS.get(data[at], ("", 0))
        value = data[at + 1 : at + 1 + length]
        if not name or len(value) != length:
            return _UNKNOWN
        digests[name] = value.hex()
        at += 1 + length
    return Record(digests, token.hex() if token != _NO_TOKEN else None)
