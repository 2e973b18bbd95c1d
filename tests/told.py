"""A body that tells how far it has been read."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Told(io.BytesIO):
    """A file that calls ``told`` before each read, with what has been read of it."""

    def __init__(self, data: bytes, told: Callable[[int], object]) -> None:
        super().__init__(data)
        self._told = told

    def read(self, size: int | None = -1, /) -> bytes:
        self._told(self.tell())
        return super().read(size)
