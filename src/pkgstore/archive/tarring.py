"""Tar: what we write of it, and a reader for what anybody wrote.

The reader is our own because the archive may be hostile. Python's `tarfile` reads an extended header of any length into
memory, recurses over a chain of them, and takes a header that makes no sense, or none at all, for the end. This one
knows regular files, folders and their extended headers, holds a MiB of those at most, and wants the end to be there.
"""

from __future__ import annotations

import re
import tarfile
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, NoReturn

from pkgstore.errors import Corrupt
from pkgstore.keys import shown

if TYPE_CHECKING:
    from collections.abc import Iterator

BLOCK = 512
RECORD = 20 * BLOCK

_MTIME = 315532800  # 1980-01-01, the earliest that zip files know too: the same in every archive
_LONGEST_EXTENSION = 1 << 20
_MOST_EXTENSIONS = 8
_LARGEST = 1 << 63
_LARGEST_NUMBER = 8**11 - 1
_LONGEST_NAME = 100
_RECORD = re.compile(rb"(\d{1,7}) ([^=\n]+)=")
_EMPTY = bytes(BLOCK)
_SPARSE = "GNU.sparse."
_NO_BODY = {
    b"1": "a hard link",
    b"2": "a symbolic link",
    b"3": "a device",
    b"4": "a device",
    b"6": "a named pipe",
}


def header(name: str, size: int, comment: str) -> bytes:
    """Return what stands before the body of a regular file, with a comment that tar ignores."""
    if len(name) > _LONGEST_NAME or not name.isascii() or size > _LARGEST_NUMBER:
        return _made(name, size, comment)
    extended, plain = _templates()
    record = _record(b"comment", comment.encode())
    return b"".join(
        (
            _block(extended, extended[:_LONGEST_NAME], len(record)),
            record,
            padding(len(record)),
            _block(plain, name.encode().ljust(_LONGEST_NAME, b"\0"), size),
        )
    )


def _made(name: str, size: int, comment: str) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.mtime = size, 0o644, _MTIME
    info.pax_headers = {"comment": comment}
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "strict")


@cache
def _templates() -> tuple[bytes, bytes]:
    """Return the blocks of an extended header and of a file, in which name, size and checksum are yet to be set."""
    made = _made("-", 0, "-")
    return made[:BLOCK], made[-BLOCK:]


def _block(template: bytes, name: bytes, size: int) -> bytes:
    front = b"%b%b%011o\0%b" % (name, template[_LONGEST_NAME:124], size, template[136:148])
    back = template[156:]
    return b"%b%06o\0 %b" % (front, sum(front) + sum(back) + 8 * 0x20, back)


def _record(name: bytes, value: bytes) -> bytes:
    rest = len(name) + len(value) + 3
    size = rest + len(str(rest))
    size = rest + len(str(size))
    return b"%d %b=%b\n" % (size, name, value)


def padding(size: int) -> bytes:
    """Return what stands behind a body of ``size`` bytes."""
    return bytes(-size % BLOCK)


def ending(length: int) -> bytes:
    """Return the end of an archive that is ``length`` bytes long without it."""
    return bytes(2 * BLOCK + -(length + 2 * BLOCK) % RECORD)


@dataclass(frozen=True, slots=True)
class Member:
    """One member. ``name`` is None where it is not UTF-8; ``refusal`` says what it is, if not a file or folder.

    ``header`` is all that stands before its body, as it was read.
    """

    name: str | None
    size: int
    is_folder: bool
    refusal: str
    comment: str
    header: bytes


class Members:
    """The members of a tar stream, one after the other; what of a body was not read is skipped.

    ``failure`` is what ended the reading, when something did. Raises `Corrupt` for what is no tar archive, or not
    whole.
    """

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._buffer = memoryview(b"")
        self._at = 0
        self._left = 0
        self._padding = 0
        self.failure: BaseException | None = None

    def __iter__(self) -> Iterator[Member]:
        while True:
            self.skip()
            member = self._member()
            if member is None:
                return
            self._left, self._padding = member.size, -member.size % BLOCK
            yield member

    def read(self, size: int, /) -> bytes:
        """Return up to ``size`` bytes of the current member's body; empty at its end."""
        if not self._left or size <= 0:
            return b""
        data = self._some(min(size, self._left))
        self._left -= len(data)
        return bytes(data)

    def read_all(self) -> bytes:
        """Return what is left of the current member's body."""
        data = self._exactly(self._left)
        self._left = 0
        return data

    def skip(self) -> None:
        """Go to the end of the current member."""
        while self._left:
            self._left -= len(self._some(self._left))
        while self._padding:
            self._padding -= len(self._some(self._padding))

    def _member(self) -> Member | None:
        records: dict[str, bytes] = {}
        everywhere = extensions = 0
        read = bytearray()
        while True:
            block = self._exactly(BLOCK)
            read += block
            if block == _EMPTY:
                if extensions:
                    self.fail("it ends after an extended header")
                self._end()
                return None
            kind = self._checked(block)
            if kind not in (b"x", b"g", b"L", b"K"):
                break
            extensions += 1
            size = self._number(block[124:136])
            everywhere += size
            if extensions > _MOST_EXTENSIONS or everywhere > _LONGEST_EXTENSION:
                self.fail("a member has more extended headers than any needs")
            data = self._exactly(size)
            read += data + self._exactly(-size % BLOCK)
            if kind == b"x":
                records.update(self._records(data))
            elif kind == b"g":
                self._records(data)  # for all that follow: nothing that matters here
            elif kind == b"L":
                records["path"] = data.rstrip(b"\0")
        return self._described(block, kind, records, bytes(read))

    def _described(self, block: bytes, kind: bytes, records: dict[str, bytes], header: bytes) -> Member:
        path = records.get("path")
        if path is None:
            path = block[:100].partition(b"\0")[0]
            prefix = block[345:500].partition(b"\0")[0]
            if prefix and block[257:263] == b"ustar\0":
                path = prefix + b"/" + path
        size = self._number(block[124:136])
        if "size" in records:
            if not re.fullmatch(rb"\d{1,19}", records["size"]):
                self.fail("a member has a size that is no number")
            size = int(records["size"])
        if size >= _LARGEST:
            self.fail("a member has a size that nothing has")
        name = _decoded(path)
        if kind == b"S" or any(each.startswith(_SPARSE) for each in records):
            self.fail(
                f"{shown(name or repr(path))} is a sparse file, which is not restored: make the archive without them"
            )
        is_folder = kind == b"5" or (kind in (b"\0", b"0") and path.endswith(b"/"))
        refusal = _NO_BODY.get(kind, "")
        if is_folder or refusal:
            size = 0
        elif kind not in (b"0", b"\0", b"7"):
            refusal = f"of the unknown kind {kind!a}"
        return Member(name, size, is_folder, refusal, (_decoded(records.get("comment", b"")) or ""), header)

    def _checked(self, block: bytes) -> bytes:
        """Return the kind of a header whose checksum is right."""
        if block[257:262] not in (b"ustar", bytes(5)):
            self.fail("there is no tar header")
        if self._number(block[148:156]) != sum(block) - sum(block[148:156]) + 8 * 0x20:
            self.fail("the checksum of a header is wrong")
        return block[156:157]

    def _number(self, field: bytes) -> int:
        if field[0] & 0x80:
            number = int.from_bytes(field[1:], "big")
            if field[0] != 0x80 or number >= _LARGEST:
                self.fail("a header has a number that makes no sense")
            return number
        text = field.strip(b" \0")
        if not re.fullmatch(rb"[0-7]*", text):
            self.fail("a header has a number that makes no sense")
        return int(text or b"0", 8)

    def _records(self, data: bytes) -> dict[str, bytes]:
        found: dict[str, bytes] = {}
        at = 0
        while at < len(data):
            match = _RECORD.match(data, at, at + 600)
            end = at + int(match[1]) if match else 0
            if match is None or not match.end() < end <= len(data) or data[end - 1 : end] != b"\n":
                self.fail("an extended header is malformed")
            found[match[2].decode("utf-8", "replace")] = data[match.end() : end - 1]
            at = end
        return found

    def _end(self) -> None:
        """Read on from the first empty block to the end: nothing else may follow."""
        if self._exactly(BLOCK) != _EMPTY:
            self.fail("there is an empty block in its middle")
        while data := self._some(1 << 20, may_end=True):
            if bytes(data).count(0) != len(data):
                self.fail("something follows its end")

    def _exactly(self, size: int) -> bytes:
        if size <= len(self._buffer):
            return bytes(self._some(size)) if size else b""
        parts = []
        while size:
            parts.append(self._some(size))
            size -= len(parts[-1])
        return b"".join(parts)

    def _some(self, size: int, *, may_end: bool = False) -> memoryview:
        while not self._buffer:
            try:
                chunk = next(self._chunks, None)
            except BaseException as exc:
                self.failure = exc
                raise
            if chunk is None:
                if may_end:
                    return self._buffer
                self.fail("it is cut short")
            self._buffer = memoryview(chunk)
        data, self._buffer = self._buffer[:size], self._buffer[size:]
        self._at += len(data)
        return data

    def fail(self, what: str) -> NoReturn:
        """Give the archive up. Raises `Corrupt`."""
        whence = f"the archive is no good at byte {self._at:,} of its tar stream"
        self.failure = Corrupt(f"{whence}: {what}; take another copy")
        raise self.failure


def _decoded(text: bytes) -> str | None:
    try:
        return text.decode()
    except UnicodeDecodeError:
        return None
