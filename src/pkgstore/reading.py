"""A blob, open for reading, and verified on the way out."""

from __future__ import annotations

import io
import os
from typing import TYPE_CHECKING, BinaryIO, TypeVar

from pkgstore.errors import Corrupt, Unavailable
from pkgstore.hashing import Hasher

if TYPE_CHECKING:
    from collections.abc import Callable

    from typing_extensions import Buffer

    from pkgstore.driver import Blob

_T = TypeVar("_T")

_TRIES = 4
_NOWHERE = -1
_AT_ONCE = 16 << 20


class Reader(io.RawIOBase):
    """A raw, seekable binary stream over one version of a blob; what `pkgstore.Store.open` returns.

    Read from its first byte to its last, in order, it raises `Corrupt` rather than return a last byte that does not
    belong to the digest that was recorded when the blob was published. ``blob`` is what it reads.
    """

    def __init__(
        self,
        blob: Blob,
        stream: BinaryIO,
        reopen: Callable[[int], BinaryIO],
        translate: Callable[[Exception], Exception],
        expected: str | None,
        where: str,
    ) -> None:
        super().__init__()
        self.blob = blob
        self._stream: BinaryIO | None = stream
        self._reopen = reopen
        self._translate = translate
        self._expected = expected
        self._where = where
        self._at = self._stands_at = 0
        self._hasher = Hasher(["sha256"]) if expected else None
        self._hashed = 0

    @property
    def name(self) -> str:
        """The blob's key."""
        return self.blob.key

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        self._check_open()
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        self._check_open()
        if whence not in (os.SEEK_SET, os.SEEK_CUR, os.SEEK_END):
            raise ValueError(f"whence is 0, 1 or 2, not {whence!r}")
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self.blob.size}[whence]
        if base + offset < 0:
            raise ValueError(f"cannot seek to {base + offset}, before the first byte of {self.blob.key!r}")
        self._at = base + offset
        return self._at

    def readinto(self, buffer: Buffer, /) -> int:
        self._check_open()
        view = memoryview(buffer).cast("B")[: max(0, self.blob.size - self._at)]
        if not view:
            self._check_if_empty()
            return 0
        count = self._from_stream(lambda stream: stream.readinto(view) or 0)  # type: ignore[attr-defined]
        self._advance(view[:count])
        return count

    def read(self, size: int | None = -1, /) -> bytes:
        # What the stream returns is passed on as it is: `io.RawIOBase.read` would fill a buffer and copy it.
        if size is None or size < 0:
            return self.readall()
        self._check_open()
        size = min(size, max(0, self.blob.size - self._at))
        if size == 0:
            self._check_if_empty()
            return b""
        data = self._from_stream(lambda stream: stream.read(size))
        self._advance(data)
        return data

    def readall(self) -> bytes:
        parts = []
        while part := self.read(min(max(0, self.blob.size - self._at), _AT_ONCE)):
            parts.append(part)
        return b"".join(parts)

    def close(self) -> None:
        self._drop_stream()
        super().close()

    def _from_stream(self, read: Callable[[BinaryIO], _T]) -> _T:
        for tries_left in reversed(range(_TRIES)):
            if self._stream is not None and self._stands_at != self._at and not self._stream.seekable():
                self._drop_stream()
            if self._stream is None:
                self._stream = self._reopen(self._at)
                self._stands_at = self._at
            try:
                if self._stands_at != self._at:
                    self._stream.seek(self._at)
                self._stands_at = _NOWHERE  # until the read has worked
                return read(self._stream)
            except Exception as exc:  # noqa: BLE001 - raised again, as it is or translated
                error = self._translate(exc)
                try:
                    if not (isinstance(error, Unavailable) and tries_left):
                        if error is exc:
                            raise
                        raise error from exc
                finally:
                    del error  # its traceback holds this frame, which would hold it, and the stream
                self._drop_stream()
        raise AssertionError("unreachable")

    def _advance(self, data: bytes | memoryview) -> None:
        """Take the bytes that follow, which came from the stream."""
        if not data:
            raise Corrupt(
                f"{self._where} ends after {self._at} of {self.blob.size} bytes: restore it from a copy,"
                " or delete it and publish it again",
                key=self.blob.key,
            )
        self._verify(memoryview(data))
        self._at += len(data)
        self._stands_at = self._at

    def _verify(self, data: memoryview) -> None:
        if self._hasher is None:
            return
        if self._at == 0 and self._hashed:
            self._hasher, self._hashed = Hasher(["sha256"]), 0
        fresh = self._hashed - self._at
        if not 0 <= fresh < len(data):
            return
        self._hasher.update(data[fresh:])
        self._hashed += len(data) - fresh
        if self._hashed == self.blob.size:
            self._check_digest()

    def _check_if_empty(self) -> None:
        if self.blob.size == 0:
            self._check_digest()

    def _check_digest(self) -> None:
        if self._hasher is not None and self._hasher.digests()["sha256"] != self._expected:
            raise Corrupt(
                f"the bytes of {self._where} do not have the sha256 recorded with them: restore it from a copy,"
                " or delete it and publish it again",
                key=self.blob.key,
            )

    def _drop_stream(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.close()

    def _check_open(self) -> None:
        if self.closed:
            raise ValueError(f"the reader of {self.blob.key!r} is closed")


class LooksLast:
    """The bytes of a blob, as a body to publish: the last of them are given only after a ``look``, which may raise."""

    def __init__(self, reader: Reader, look: Callable[[], None]) -> None:
        self._reader = reader
        self._look = look

    def read(self, size: int, /) -> bytes:
        data = self._reader.read(size)
        if self.tell() == self._reader.blob.size and (data or not self._reader.blob.size):
            self._look()
        return data

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._reader.tell()

    def seek(self, offset: int, whence: int = 0, /) -> int:
        return self._reader.seek(offset, whence)
