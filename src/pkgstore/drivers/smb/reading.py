"""Reading a blob of a share."""

from __future__ import annotations

import io
import os
from typing import TYPE_CHECKING

from pkgstore.drivers.smb import messages
from pkgstore.drivers.smb.errors import END_OF_FILE

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from pkgstore.drivers.smb.handles import Handle
    from pkgstore.drivers.smb.link import Exchange

_AT_ONCE = 4


class Stream(io.RawIOBase):
    """An unbuffered, seekable stream on a handle, which it owns. Its reads raise `SMBError`."""

    def __init__(self, handle: Handle, size: int, start: int) -> None:
        super().__init__()
        self._handle = handle
        self._size = size
        self._at = start

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise ValueError(f"cannot seek to {base + offset}")
        self._at = base + offset
        return self._at

    def readinto(self, buffer: Buffer, /) -> int:
        view = memoryview(buffer).cast("B")
        count = 0
        for part in self._parts(len(view)):
            view[count : count + len(part)] = part
            count += len(part)
        return count

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or size < 0:
            size = max(0, self._size - self._at)
        parts = self._parts(size)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def close(self) -> None:
        if not self.closed:
            super().close()
            self._handle.close()

    def __del__(self) -> None:
        # Wherever the interpreter happens to be: perhaps in the middle of a request, and holding its locks.
        if not self.closed:
            super().close()
            self._handle.link.forget(self._handle.id)

    def _parts(self, size: int) -> list[bytes]:
        """Return the next bytes, up to ``size`` or as many as a few requests at once can bring."""
        link, step = self._handle.link, self._handle.link.most_read
        size = min(size, step * _AT_ONCE)
        sent: list[tuple[int, Exchange]] = []
        parts: list[bytes] = []
        whole = True
        try:
            for offset in range(0, size, step):
                length = min(step, size - offset)
                exchange = link.begin(messages.read(self._at + offset, length, self._handle.id), wait=not sent)
                if exchange is None:
                    break
                sent.append((length, exchange))
            while sent:
                length, exchange = sent.pop(0)
                (answer,) = link.end(exchange)
                if not whole or answer.status == END_OF_FILE:
                    whole = False
                    continue
                parts.append(messages.data(answer.checked()))
                whole = len(parts[-1]) == length
        finally:
            for _, exchange in sent:
                link.end(exchange)
        self._at += sum(map(len, parts))
        return parts
