"""The way out: the plaintext of a sealed blob, of which no byte is returned before its segment has been opened."""

from __future__ import annotations

import io
import os
from typing import TYPE_CHECKING, BinaryIO

from pkgstore.crypt.segments import SEGMENT, TAG

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from pkgstore.crypt.segments import Cipher


class OpenedStream(io.RawIOBase):
    """A raw stream over the plaintext of one version, seekable where ``stream`` is.

    ``stream`` yields the ciphertext, and ``first`` is the byte of it at which the segments begin; ``standing`` is where
    a stream that is not seekable stands: at the segment with this number. ``size`` is that of the plaintext.
    """

    def __init__(self, stream: BinaryIO, cipher: Cipher, first: int, size: int, *, start: int, standing: int) -> None:
        super().__init__()
        self._stream = stream
        self._cipher = cipher
        self._first = first
        self._size = size
        self._at = start
        self._next = standing
        self._partial = b""
        self._number = -1
        self._plain = b""

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return self._stream.seekable()

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        if not self.seekable():
            raise io.UnsupportedOperation("the medium's stream cannot be rewound")
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or size < 0:
            return self.readall()
        if size == 0 or self._at >= self._size:
            return b""
        number, skip = divmod(self._at, SEGMENT)
        if number != self._number:
            self._plain = self._segment(number)
            self._number = number
        data = self._plain if skip == 0 and size >= len(self._plain) else self._plain[skip : skip + size]
        self._at += len(data)
        return data

    def readall(self) -> bytes:
        return b"".join(iter(lambda: self.read(SEGMENT), b""))

    def readinto(self, buffer: Buffer, /) -> int:
        view = memoryview(buffer).cast("B")
        data = self.read(len(view))
        view[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._stream.close()
        super().close()

    def _segment(self, number: int) -> bytes:
        """Return the plaintext of a segment. After an error, the next call goes on with what has come of it."""
        left = self._size - number * SEGMENT
        length = min(left, SEGMENT) + TAG
        if number != self._next:
            self._stream.seek(self._first + number * (SEGMENT + TAG))
            self._next = number
            self._partial = b""
        while len(self._partial) < length and (data := self._stream.read(length - len(self._partial))):
            self._partial = self._partial + data if self._partial else data
        plain = self._cipher.open(number, self._partial, last=left <= SEGMENT)
        self._next = number + 1
        self._partial = b""
        return plain
