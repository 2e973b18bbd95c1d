"""A directory as one file: a tar archive, packed with zstd.

An archive is read as if an enemy had made it. It holds folders, files, and links that stay inside, sorted, each folder
before what is in it; any other kind, order or name is `Corrupt`. So nothing is there twice, nor written through a link.

Of what it is made of, an archive keeps names, bytes, whether a file is a program, and where links lead. Two directories
alike in that have the same archive.
"""

from __future__ import annotations

import errno
import os
import stat
import tarfile
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

from pkgstore.errors import Corrupt, Misconfigured
from pkgstore.extras import zstd

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

EPOCH = 315_619_200
"""When every file was last changed, as far as a bundle tells: 1980-01-02, which a zip file knows in any time zone."""

_LEVEL = 3
_WINDOW_LOG_MAX = 27
_CHUNK = 1 << 20
_BLOCK = tarfile.BLOCKSIZE
_ENDS = bytes(2 * _BLOCK)
_LONGEST_NAME = 8192
_LONGEST_STEP = 255
_LONG = {tarfile.GNUTYPE_LONGNAME: "name", tarfile.GNUTYPE_LONGLINK: "linkname"}
_NAMES = ("utf-8", "surrogateescape")
_PROGRAM = 0o100


class TooLarge(Exception):
    """A directory, or its archive, has more bytes than are allowed."""


class Readable(Protocol):
    """A binary file, or whatever else has its ``read``."""

    def read(self, size: int, /) -> bytes: ...


# -- packing ----------------------------------------------------------------------------------------------------------


def pack(tree: str, file: BinaryIO, limit: int) -> None:
    """Write the directory ``tree`` to ``file``, as an archive of ``limit`` bytes at most, packed and unpacked.

    Raises `TooLarge`; `Misconfigured` for what an archive cannot hold, such as a link that leads outside; and OSError.
    """
    with zstd().ZstdFile(_Limited(file, limit), "w", options=_packing()) as packed:
        out = _Limited(packed, limit)
        for name, entry in _entries(tree):
            _put(name, entry, out)
        out.write(_ENDS)


def _entries(tree: str) -> Iterator[tuple[str, os.DirEntry[str]]]:
    left = _inside(tree, "")
    while left:  # and not by recursion: nobody knows how deep it is
        name, entry = left.pop()
        yield name, entry
        if entry.is_dir(follow_symlinks=False):
            left += _inside(tree, f"{name}/")


def _inside(tree: str, prefix: str) -> list[tuple[str, os.DirEntry[str]]]:
    """Return what is in a folder, sorted, the first at the end."""
    with os.scandir(os.path.join(tree, prefix)) as scan:
        entries = sorted(scan, key=lambda entry: os.fsencode(entry.name), reverse=True)
    return [(prefix + entry.name, entry) for entry in entries]


def _put(name: str, entry: os.DirEntry[str], out: _Limited) -> None:
    info = tarfile.TarInfo(name)
    info.mtime = EPOCH
    if entry.is_symlink():
        info.type, info.linkname = tarfile.SYMTYPE, os.readlink(entry.path)
        if _leads_outside(name, info.linkname):
            raise Misconfigured(
                f"the build made a link {name!r} to {info.linkname!r}, which is not inside the directory, or not for"
                " every host: have it make copies"
            )
        out.write(info.tobuf(tarfile.GNU_FORMAT, *_NAMES))
    elif entry.is_dir(follow_symlinks=False):
        info.type, info.mode = tarfile.DIRTYPE, 0o755
        out.write(info.tobuf(tarfile.GNU_FORMAT, *_NAMES))
    else:
        _put_file(info, entry.path, out)


def _put_file(info: tarfile.TarInfo, path: str, out: _Limited) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(fd, "rb", buffering=0) as file:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise Misconfigured(f"the build made {info.name!r}, which is a pipe or a device: have it make files")
        info.size, info.mode = status.st_size, 0o755 if status.st_mode & _PROGRAM else 0o644
        out.write(info.tobuf(tarfile.GNU_FORMAT, *_NAMES))
        left = info.size
        while left:
            data = file.read(min(_CHUNK, left))
            if not data:
                raise OSError(errno.EIO, f"{info.name!r} became shorter while it was packed: the build still runs")
            out.write(data)
            left -= len(data)
        out.write(bytes(-info.size % _BLOCK))


class _Limited:
    """A file to write to, that takes no more than ``limit`` bytes."""

    def __init__(self, file: Any, limit: int) -> None:
        self._file = file
        self._left = limit

    def write(self, data: bytes) -> int:
        self._left -= len(data)
        if self._left < 0:
            raise TooLarge
        self._file.write(data)
        return len(data)

    def flush(self) -> None:
        self._file.flush()


# -- unpacking --------------------------------------------------------------------------------------------------------


def unpack(packed: Readable, tree: str, limit: int, tick: Callable[[], None]) -> None:
    """Write what an archive holds into the empty directory ``tree``, and read the archive to its end.

    ``tick`` is called now and then; what it raises comes through. Raises `Corrupt` for what is no archive of a bundle,
    `TooLarge` when more than ``limit`` bytes come out, what ``packed`` raises, and OSError when ``tree`` cannot be
    written.
    """
    module = zstd()
    most = {module.DecompressionParameter.window_log_max: _WINDOW_LOG_MAX}
    try:
        with module.ZstdFile(_Source(packed, limit, tick), options=most) as stream:
            source = _Source(stream, limit, tick)
            _unpack(source, tree)
            while data := source.read(_CHUNK):
                if data.strip(b"\0"):
                    raise Corrupt("something follows its end")
    except (Corrupt, module.ZstdError, EOFError, tarfile.TarError, ValueError) as exc:
        if isinstance(exc, Corrupt) and exc.key is not None:
            raise
        reason = " ".join(str(exc).split()) or type(exc).__name__
        raise Corrupt(f"the archive is damaged, or none of a bundle: {reason}") from exc


def _unpack(source: _Source, tree: str) -> None:
    folders = [""]
    latest = [b""]  # what came last, in each of them
    for info in _members(source):
        parent, _, leaf = info.name.rpartition("/")
        while folders and folders[-1] != parent:
            folders.pop()
            latest.pop()
        step = leaf.encode(*_NAMES)
        if not folders or step <= latest[-1] or len(step) > _LONGEST_STEP:
            raise Corrupt(f"{info.name!a} is not where it belongs, or too long a name")
        latest[-1] = step
        _make(os.path.join(tree, info.name), info, source)
        if info.isdir():
            folders.append(info.name)
            latest.append(b"")


def _members(source: _Source) -> Iterator[tarfile.TarInfo]:
    """Yield what is in the archive. The bytes of a file are to be read before the next one is asked for."""
    long: dict[str, str] = {}
    while (block := source.exactly(_BLOCK)).strip(b"\0"):
        info = tarfile.TarInfo.frombuf(block, *_NAMES)
        if info.type in _LONG:
            if not 0 <= info.size <= _LONGEST_NAME or _LONG[info.type] in long:
                raise Corrupt("one of its names is too long")
            padded = source.exactly(info.size + -info.size % _BLOCK)
            long[_LONG[info.type]] = padded.partition(b"\0")[0].decode(*_NAMES)
            continue
        info.name = long.get("name", info.name).removesuffix("/")
        info.linkname = long.get("linkname", info.linkname)
        long = {}
        if not {"", ".", ".."}.isdisjoint(info.name.split("/")):
            raise Corrupt(f"the name {info.name!a} leads outside")
        yield info


def _make(path: str, info: tarfile.TarInfo, source: _Source) -> None:
    if info.type == tarfile.DIRTYPE:
        os.mkdir(path)
    elif info.type == tarfile.SYMTYPE:
        if _leads_outside(info.name, info.linkname):
            raise Corrupt(f"the link {info.name!a} leads outside")
        os.symlink(info.linkname, path)
    elif info.type == tarfile.REGTYPE and info.size >= 0:
        _write_file(path, info, source)
    else:
        raise Corrupt(f"{info.name!a} is neither file nor folder nor link")


def _write_file(path: str, info: tarfile.TarInfo, source: _Source) -> None:
    mode = 0o777 if info.mode & _PROGRAM else 0o666
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    with open(fd, "wb") as file:
        left = info.size
        while left:
            left -= file.write(source.exactly(min(_CHUNK, left)))
        source.exactly(-info.size % _BLOCK)
        file.flush()
        os.utime(fd, (EPOCH, EPOCH))


class _Source:
    """A stream to read from, that gives no more than ``limit`` bytes."""

    def __init__(self, stream: Readable, limit: int, tick: Callable[[], None]) -> None:
        self._stream = stream
        self._left = limit
        self._tick = tick

    def read(self, size: int) -> bytes:
        self._tick()
        data = self._stream.read(size)
        self._left -= len(data)
        if self._left < 0:
            raise TooLarge
        return data

    def exactly(self, size: int) -> bytes:
        data = self.read(size)
        while len(data) < size:
            more = self.read(size - len(data))
            if not more:
                raise Corrupt("it is cut short")
            data += more
        return data


# -- both -------------------------------------------------------------------------------------------------------------


def _leads_outside(name: str, target: str) -> bool:
    """Say whether a link could lead out of the tree: it may go up first, and then only down.

    Where a link leads to goes through others, and of ``a/../b`` nobody knows which folder's parent is meant.
    """
    steps = target.split("/")
    up = 0
    while up < len(steps) and steps[up] == "..":
        up += 1
    return not target or target.startswith("/") or ".." in steps[up:] or up > name.count("/")


def _packing() -> dict[Any, int]:
    names = zstd().CompressionParameter
    return {names.compression_level: _LEVEL, names.checksum_flag: 1}
