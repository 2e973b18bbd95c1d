"""The digests that a blob carries, and the token of the publish that wrote it.

They are an extended attribute of the file, so that they are there from the moment it has its name, and go where the
inode goes. On a medium without extended attributes, or where this user may not set one, they lie beside, in
`.pkgstore/digests`, under the key and the identity of that very file (inode, time and size): written before the file
has its name and removed before it loses it, so that whatever a crash leaves is at worst a blob without digests.

The format is a byte that says of what kind it is; 16 bytes that bind it; and for each digest a byte that names the
algorithm and the digest itself. With one digest that is 50 bytes, which ext4 keeps within the inode. A record of a
publish is bound by its token, whatever happens to the file: if it is changed in place, it is corrupt. That of a file
which was put there by hand, and may still be growing, is bound by the time and the size for which it was computed.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
from typing import TYPE_CHECKING, NamedTuple

from pkgstore import keys
from pkgstore.drivers import posix

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pkgstore.drivers.staging import Staging

_log = logging.getLogger("pkgstore")

_ATTRIBUTE = "user.pkgstore"
_PUBLISHED = 1
_ADOPTED = 2
_BOUND = 17
_TIMES = 1 << 64
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

    def attach(self, fd: int, packed: bytes) -> bool:
        """Set a record on an open file. False when the medium, or the file's owner, does not let us."""
        try:
            os.setxattr(fd, _ATTRIBUTE, packed)
        except OSError as exc:
            # A medium without room for attributes, as one of this inode's own, may have room for a file.
            if exc.errno in posix.NO_ATTRIBUTES or posix.is_full(exc):
                return False
            raise
        return True

    def put_beside(self, key: str, status: os.stat_result, packed: bytes) -> None:
        """Keep the record of a file that cannot carry it, durably. ``status`` is as the file will have its name."""
        path = self._path(key, status)
        folder = os.path.dirname(path)
        with self._staging.stage() as staged:
            made = not os.path.exists(folder)
            posix.make_folders(folder, self._staging.tree.mode)
            staged.write(packed)
            staged.sync()
            try:
                os.rename(staged.path, path)
            except FileNotFoundError:
                raise OSError(errno.EIO, f"the staged file {staged.path} was removed, or {folder}") from None
        for changed in (folder, os.path.dirname(folder)) if made else (folder,):
            self._settle(changed)

    def _settle(self, folder: str) -> None:
        fd = os.open(folder, posix.DIRECTORY)
        try:
            self._staging.tree.settle(fd)
        finally:
            os.close(fd)

    def read(self, fd: int, key: str, status: os.stat_result) -> Record:
        """Return the record of an open file; an empty one where there is none."""
        try:
            return unpacked(os.getxattr(fd, _ATTRIBUTE), status)
        except OSError as exc:
            if exc.errno not in _NONE_SET:
                raise
        path = self._path(key, status)
        return self._read_beside(path, status, again=True)

    def _read_beside(self, path: str, status: os.stat_result, *, again: bool) -> Record:
        try:
            with open(path, "rb") as file:
                return unpacked(file.read(_LONGEST), status)
        except FileNotFoundError:
            tree = self._staging.tree
            if again and tree.refresh(os.path.relpath(os.path.dirname(path), tree.root)):
                return self._read_beside(path, status, again=False)
            return _UNKNOWN

    def forget(self, key: str, status: os.stat_result) -> None:
        """Remove what lies beside for a file that has lost its name, or is about to."""
        try:
            os.unlink(self._path(key, status))
        except FileNotFoundError:
            pass
        except OSError as exc:
            # It is bound to that very file, so that it can stay; what became of the file is not to depend on it.
            _log.warning("cannot remove the record of %s: %s", keys.shown(key), exc.strerror)

    def _path(self, key: str, status: os.stat_result) -> str:
        name = hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()
        return os.path.join(self._folder, name[:2], f"{name[2:34]}.{identity(status)}")


def of_publish(digests: Mapping[str, str], token: str) -> bytes:
    """Return the record of a file that a publish writes."""
    return bytes([_PUBLISHED]) + bytes.fromhex(token) + _packed(digests)


def of_adopted(digests: Mapping[str, str], status: os.stat_result) -> bytes:
    """Return the record of a file that was there, and had these digests when its status was this."""
    return bytes([_ADOPTED]) + _binding(status) + _packed(digests)


def _binding(status: os.stat_result) -> bytes:
    return (status.st_mtime_ns % _TIMES).to_bytes(8, "big") + status.st_size.to_bytes(8, "big")


def _packed(digests: Mapping[str, str]) -> bytes:
    return b"".join(bytes([_NUMBERS[name]]) + bytes.fromhex(value) for name, value in digests.items())


def unpacked(data: bytes, status: os.stat_result) -> Record:
    """Return what a record says of a file; one that is torn, of another kind, or of other content says nothing."""
    kind, bound, at = data[:1], data[1:_BOUND], _BOUND
    token = bound.hex() if kind == bytes([_PUBLISHED]) and len(bound) == _BOUND - 1 else None
    if token is None and (kind != bytes([_ADOPTED]) or bound != _binding(status)):
        return _UNKNOWN
    digests = {}
    while at < len(data):
        name, length = _ALGORITHMS.get(data[at], ("", 0))
        value = data[at + 1 : at + 1 + length]
        if not name or len(value) != length:
            return _UNKNOWN
        digests[name] = value.hex()
        at += 1 + length
    return Record(digests, token)
