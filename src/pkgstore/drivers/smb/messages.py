"""SMB2 requests, and what their answers hold: MS-SMB2 and MS-FSCC say what is meant by each.

Requests that are sent together use `RELATED` for the handle that the first of them opens.
"""

from __future__ import annotations

import os
import stat
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from smbprotocol.file_info import InfoType
from smbprotocol.open import (
    SMB2CloseRequest,
    SMB2CreateRequest,
    SMB2FlushRequest,
    SMB2QueryDirectoryRequest,
    SMB2QueryInfoRequest,
    SMB2ReadRequest,
    SMB2SetInfoRequest,
    SMB2WriteRequest,
)
from smbprotocol.structure import IntField

if TYPE_CHECKING:
    from collections.abc import Iterator

RELATED = b"\xff" * 16

# What a handle may be used for.
READ_DATA = LIST = 0x1
WRITE_DATA = ADD_FILE = 0x2
ADD_FOLDER = 0x4
READ_EA = 0x8
WRITE_EA = 0x10
READ_ATTRIBUTES = 0x80
WRITE_ATTRIBUTES = 0x100
DELETE = 0x10000
SYNCHRONIZE = 0x100000
LOOK = READ_EA | READ_ATTRIBUTES | SYNCHRONIZE

# What others may do meanwhile.
SHARE_ALL = 0x7
SHARE_BUT_DELETE = 0x3
SHARE_NOTHING = 0x0

# What becomes of what is there, and of what is not.
OPEN = 1
CREATE = 2
OPEN_OR_CREATE = 3

_IMPERSONATION = 2
_NORMAL = 0x80
_FILE = 0x40 | 0x200000  # no folder, and no link is followed
_FOLDER = 0x1 | 0x200000
_IS_FOLDER = 0x10
_IS_LINK = 0x400

_BASIC = 4
_RENAME = 10
_LINK = 11
_DISPOSITION = 13
_EAS = 15
_ALL = 18
_LISTING = 37
_TRUE_NAME = 48
_RENAME_EX = 65
_FREE_SPACE = 7
_REPLACE = 1
_POSIX = 2

_EPOCH = 116_444_736_000_000_000  # 1970, in units of 100 ns since 1601
_INFO = 64 << 10
_PAGE = 256 << 10
_HEADER = 64


@dataclass(frozen=True, slots=True)
class Found:
    """What a server says of a file or folder: ``path`` is under which name it is stored."""

    status: os.stat_result
    created: int
    path: str
    is_folder: bool
    is_link: bool


def create(path: str, access: int, share: int = SHARE_ALL, disposition: int = OPEN, *, folder: bool = False) -> Any:
    """Open or make a file, or a folder."""
    message = SMB2CreateRequest()
    message["impersonation_level"] = _IMPERSONATION
    message["desired_access"] = access
    message["file_attributes"] = 0 if folder else _NORMAL
    message["share_access"] = share
    message["create_disposition"] = disposition
    message["create_options"] = _FOLDER if folder else _FILE
    message["buffer_path"] = path.encode("utf-16-le", "surrogatepass") or b"\0\0"
    return message


def close(file_id: bytes = RELATED) -> Any:
    message = SMB2CloseRequest()
    message["file_id"] = file_id
    return message


def flush(file_id: bytes = RELATED) -> Any:
    message = SMB2FlushRequest()
    message["file_id"] = file_id
    return message


def read(offset: int, length: int, file_id: bytes = RELATED) -> Any:
    message = SMB2ReadRequest()
    message["length"], message["offset"], message["file_id"] = length, offset, file_id
    message["padding"] = b"\x50"
    return message


def write(data: bytes, offset: int, file_id: bytes = RELATED) -> Any:
    message = SMB2WriteRequest()
    message["length"], message["offset"], message["file_id"], message["buffer"] = len(data), offset, file_id, data
    return message


def query_all(file_id: bytes = RELATED) -> Any:
    """Ask for what `found` reads."""
    return _query(InfoType.SMB2_0_INFO_FILE, _ALL, file_id)


def query_true_name(file_id: bytes = RELATED) -> Any:
    """Ask under which name a file is stored, where the server knows this question (SMB 3.1.1)."""
    return _query(InfoType.SMB2_0_INFO_FILE, _TRUE_NAME, file_id)


def query_attributes(file_id: bytes = RELATED) -> Any:
    """Ask for what `attribute` reads."""
    return _query(InfoType.SMB2_0_INFO_FILE, _EAS, file_id)


def query_space(file_id: bytes = RELATED) -> Any:
    """Ask for what `space` reads."""
    return _query(InfoType.SMB2_0_INFO_FILESYSTEM, _FREE_SPACE, file_id)


def listing(file_id: bytes = RELATED) -> Any:
    """Ask for the next entries of a folder."""
    message = SMB2QueryDirectoryRequest()
    message["file_information_class"] = _LISTING
    message["file_id"] = file_id
    message["output_buffer_length"] = _PAGE
    message["buffer"] = "*".encode("utf-16-le")
    return message


def set_attribute(name: str, value: bytes, file_id: bytes = RELATED) -> Any:
    """Set an extended attribute."""
    text = name.encode("ascii")
    return _set(_EAS, struct.pack("<IBBH", 0, 0, len(text), len(value)) + text + b"\0" + value, file_id)


def set_time(ticks: int, file_id: bytes = RELATED) -> Any:
    """Set when a file was last written, in units of 100 ns since 1601."""
    return _set(_BASIC, struct.pack("<4QI4x", 0, 0, ticks, 0, 0), file_id)


def set_deleted(file_id: bytes = RELATED) -> Any:
    """Have a file or an empty folder removed when its last handle is closed."""
    return _set(_DISPOSITION, b"\1", file_id)


def link(path: str, file_id: bytes = RELATED) -> Any:
    """Give a file another name, where there is none."""
    return _set(_LINK, _target(path, 0), file_id)


def rename(path: str, file_id: bytes = RELATED, *, replace: bool) -> Any:
    """Give a file another name in the place of its own."""
    return _set(_RENAME, _target(path, _REPLACE if replace else 0), file_id)


def rename_posix(path: str, file_id: bytes = RELATED) -> Any:
    """Replace a file also while others have it open, where the server knows how."""
    return _set(_RENAME_EX, _target(path, _REPLACE | _POSIX), file_id)


def _target(path: str, flags: int) -> bytes:
    name = path.encode("utf-16-le", "surrogatepass")
    return struct.pack("<IIQI", flags, 0, 0, len(name)) + name


def _query(kind: int, what: int, file_id: bytes) -> Any:
    message = SMB2QueryInfoRequest()
    message["info_type"], message["file_info_class"], message["file_id"] = kind, what, file_id
    message["output_buffer_length"] = _INFO
    return message


def _set(what: int, value: bytes, file_id: bytes) -> Any:
    message = SMB2SetInfoRequest()
    message["info_type"] = InfoType.SMB2_0_INFO_FILE
    if what == _RENAME_EX:  # which is not in the library's list
        message.fields["file_info_class"] = IntField(size=1)
    message["file_info_class"], message["file_id"], message["buffer"] = what, file_id, value
    return message


# -- answers ----------------------------------------------------------------------------------------------------------


def file_id(body: bytes) -> bytes:
    """Return the handle that was opened."""
    return body[64:80]


def written_at(body: bytes) -> int:
    """Return when an opened file was last written, in units of 100 ns since 1601."""
    return int.from_bytes(body[24:32], "little")


def data(body: bytes) -> bytes:
    """Return the bytes that were read."""
    start, length = body[2] - _HEADER, int.from_bytes(body[4:8], "little")
    return body[start : start + length]


def found(body: bytes) -> Found:
    """Return what a server says of a file."""
    info = _buffer(body)
    created, _, modified, _, attributes = struct.unpack_from("<4QI", info, 0)
    size, links = struct.unpack_from("<QI", info, 48)
    index = int.from_bytes(info[64:72], "little")
    name = _text(info[100 : 100 + int.from_bytes(info[96:100], "little")])
    status = _status(index, modified, size, links)
    return Found(status, created, name.lstrip("\\"), bool(attributes & _IS_FOLDER), bool(attributes & _IS_LINK))


def true_name(body: bytes) -> str:
    """Return the path under which a file is stored, from the share's root."""
    info = _buffer(body)
    return _text(info[4 : 4 + int.from_bytes(info[:4], "little")]).lstrip("\\")


def attribute(body: bytes, name: str) -> bytes | None:
    """Return the value of an extended attribute; None when there is none of that name."""
    info = _buffer(body)
    while len(info) >= 8:
        following, _, length, size = struct.unpack_from("<IBBH", info, 0)
        if info[8 : 8 + length].decode("latin-1").lower() == name:
            return info[9 + length : 9 + length + size]
        info = info[following:] if following else b""
    return None


def space(body: bytes) -> tuple[int, int]:
    """Return how many bytes are free for us, and how many there are."""
    total, free, _, sectors, size = struct.unpack_from("<3QII", _buffer(body), 0)
    return free * sectors * size, total * sectors * size


def entries(body: bytes) -> Iterator[tuple[str, Found]]:
    """Yield the entries of a folder, and their names; `.` and `..` are left out."""
    info, at = _buffer(body), 0
    while True:
        following, _, created, _, modified, _, size, _, attributes, length = struct.unpack_from("<II4QQQII", info, at)
        index = int.from_bytes(info[at + 96 : at + 104], "little")
        name = _text(info[at + 104 : at + 104 + length])
        if name not in (".", ".."):
            status = _status(index, modified, size, 1)
            yield name, Found(status, created, name, bool(attributes & _IS_FOLDER), bool(attributes & _IS_LINK))
        if not following:
            return
        at += following


def _buffer(body: bytes) -> bytes:
    start, length = struct.unpack_from("<HI", body, 2)
    return body[start - _HEADER : start - _HEADER + length]


def _text(encoded: bytes) -> str:
    return encoded.decode("utf-16-le", "surrogatepass")


def _status(index: int, modified: int, size: int, links: int) -> os.stat_result:
    """Return what POSIX would say of a file, as far as it is known."""
    nanoseconds = (modified - _EPOCH) * 100
    seconds = nanoseconds // 10**9
    exact = {"st_mtime": nanoseconds / 1e9, "st_mtime_ns": nanoseconds}
    return os.stat_result((stat.S_IFREG, index, 0, links, 0, 0, size, seconds, seconds, seconds), exact)
