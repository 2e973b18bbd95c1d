"""What comes out of an archive, and how much of it may."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pkgstore.errors import Misconfigured

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class Limits:
    """How much an archive may be.

    ``ratio`` is how many times its size it may unpack to, once that is more than 64 MiB; ``total`` how many bytes it
    may unpack to, and ``blob`` how large one blob may be. None is no limit.
    """

    ratio: float = 200.0
    total: int | None = None
    blob: int | None = None

    def __post_init__(self) -> None:
        if not self.ratio >= 1:
            raise Misconfigured(f"an archive cannot unpack to at most {self.ratio:g} times its size: allow 1 or more")

    def excess(self, size: int) -> str:
        """Say why a blob is refused for its size; empty where it is not."""
        if self.blob is None or size <= self.blob:
            return ""
        return f"it is larger than allowed: {size:,} of {self.blob:,} bytes"


@dataclass(frozen=True, slots=True)
class Item:
    """A blob of the archive, whose body is to be read now. ``digests`` are empty where the archive tells none."""

    key: str
    size: int
    digests: Mapping[str, str]
    replaces: str | None = None


@dataclass(frozen=True, slots=True)
class Refused:
    """A member that is not restored, and why; ``is_ours`` says that it is a control file, which no store needs."""

    name: str
    why: str
    is_ours: bool = False
