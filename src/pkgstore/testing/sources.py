"""Bodies that a well-behaved file is not."""

from __future__ import annotations

import io
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


class Once:
    """A function that is called the first time only."""

    def __init__(self, function: Callable[[], object]) -> None:
        self._function = function
        self._called = False

    def __call__(self) -> None:
        if not self._called:
            self._called = True
            self._function()


class Stream:
    """A binary file that has only ``read``: it cannot be rewound, and does not know its size.

    ``ended`` is called before the end is told, and ``told`` before each read, with what has been read so far.
    """

    def __init__(
        self, data: bytes, *, told: Callable[[int], object] | None = None, ended: Callable[[], object] | None = None
    ) -> None:
        self._data = memoryview(data)
        self._at = 0
        self._told = told
        self._ended = ended
        self.closed = False

    def read(self, size: int = -1, /) -> bytes:
        if self._told:
            self._told(self._at)
        data = bytes(self._data[self._at :] if size < 0 else self._data[self._at : self._at + size])
        self._at += len(data)
        if not data and size and self._ended:
            self._ended()
        return data

    def close(self) -> None:
        self.closed = True


class Rewound(io.BytesIO):
    """A file that calls ``told`` before each read of its second pass, with what has been read of it in that pass."""

    def __init__(self, data: bytes, told: Callable[[int], object]) -> None:
        super().__init__(data)
        self._told = told
        self._read = False
        self._passes = 0

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        if self._read and (offset, whence) == (0, os.SEEK_SET):
            self._passes += 1
        return super().seek(offset, whence)

    def read(self, size: int | None = -1, /) -> bytes:
        self._read = True
        if self._passes:
            self._told(self.tell())
        return super().read(size)


class Short(Stream):
    """A stream that returns less than it is asked for, and never the same amount."""

    def read(self, size: int = -1, /) -> bytes:
        return super().read(self._at % 700_001 + 1 if size < 0 else min(size, self._at % 700_001 + 1))


class Lying(io.BytesIO):
    """A file that claims to be longer than it is, by so many bytes, or shorter."""

    def __init__(self, data: bytes, claim: int) -> None:
        super().__init__(data)
        self._claim = claim

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        at = super().seek(offset, whence)
        return at + self._claim if whence == os.SEEK_END else at


class Failing(io.RawIOBase):
    """A file that gives some bytes, and then raises ``error``, or returns ``ending`` when there is none.

    ``failures`` counts how often it was read after its bytes.
    """

    def __init__(self, data: bytes, error: BaseException | None, *, ending: Any = None, seekable: bool = True) -> None:
        super().__init__()
        self._inner = io.BytesIO(data)
        self._error = error
        self._ending = ending
        self._seekable = seekable
        self.failures = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return self._seekable

    def tell(self) -> int:
        return self._inner.tell()

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        # One byte more than there is, so that the error comes before the end.
        return self._inner.seek(offset, whence) + (whence == os.SEEK_END)

    def read(self, size: int = -1, /) -> Any:
        data = self._inner.read(size)
        if data:
            return data
        self.failures += 1
        if self._error is not None:
            raise self._error
        return self._ending
