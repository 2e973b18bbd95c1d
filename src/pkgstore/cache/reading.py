"""Reading a blob from its entry, and from the medium as soon as anything is wrong with that."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, cast

from pkgstore.errors import Corrupt, Unavailable
from pkgstore.reading import Reader

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import BinaryIO

    from typing_extensions import Buffer

    from pkgstore.driver import Blob


class Entry(io.FileIO):
    """An open entry. Where it cannot be read on, it raises `Unavailable`, and its reader turns to the medium.

    ``distrust`` is called with a reason when the entry does not hold what it should.
    """

    def __init__(self, fd: int, distrust: Callable[[str], None]) -> None:
        super().__init__(fd, "rb")
        self.distrust = distrust

    def read(self, size: int | None = -1, /) -> bytes:
        try:
            data = super().read(size)
        except OSError as exc:
            raise self._failed(f"cannot be read ({exc.strerror})") from exc
        if not data:
            raise self._failed("is too short")
        return data

    def readinto(self, buffer: Buffer, /) -> int:
        try:
            count = super().readinto(buffer)
        except OSError as exc:
            raise self._failed(f"cannot be read ({exc.strerror})") from exc
        if not count:
            raise self._failed("is too short")
        return count

    def _failed(self, reason: str) -> Unavailable:
        self.distrust(reason)
        return Unavailable(f"an entry of the cache {reason}")


class CachedReader(Reader):
    """A reader that begins with an entry."""

    def __init__(
        self,
        blob: Blob,
        entry: Entry,
        reopen: Callable[[int], BinaryIO],
        translate: Callable[[Exception], Exception],
        expected: str | None,
        where: str,
    ) -> None:
        super().__init__(blob, cast("BinaryIO", entry), reopen, translate, expected, where)
        self._distrust: Callable[[str], None] | None = entry.distrust

    def readall(self) -> bytes:
        start = self.tell()
        try:
            return super().readall()
        except Corrupt:
            if start or self._distrust is None:
                raise
        self._distrust = None  # nobody has seen the bytes yet: they are all read again, from the medium
        self._drop_stream()
        self.seek(0)
        return super().readall()

    def _check_digest(self) -> None:
        try:
            super()._check_digest()
        except Corrupt as exc:
            if self._distrust is None:
                raise
            self._distrust("has changed")
            raise Corrupt(
                f"the cache's copy of {self._where} changed while it was read: open it again", key=self.blob.key
            ) from exc
