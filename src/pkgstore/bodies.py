"""What a caller may publish: bytes, paths, and binary files that can be rewound or not."""

from __future__ import annotations

import io
import os
import stat
import tempfile
from typing import TYPE_CHECKING, BinaryIO, Protocol, Self, TypeAlias, cast

from pkgstore.errors import Misconfigured
from pkgstore.hashing import CHUNK, HashedBody, SourceFailed

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pkgstore.hashing import Source, Watch

    class Readable(Protocol):
        """A binary file, or whatever else has its ``read``."""

        def read(self, size: int, /) -> bytes: ...

    BodyLike: TypeAlias = bytes | bytearray | memoryview | os.PathLike[str] | Readable

_SPOOL_IN_MEMORY = 8 * CHUNK


class PublishBody:
    """A caller's body, to be read once for every attempt. A context manager: it closes what it opened itself.

    ``size`` is its length in bytes, or None for a stream that cannot tell; ``replayable`` says whether `attempt` can be
    called again; ``watch`` is told how far each attempt has come, and ``left_open`` says whether one of
    them may have made it visible, although it failed.
    """

    def __init__(self, key: str, body: BodyLike, size: int | None, expected: Mapping[str, str | None]) -> None:
        if size is not None and (type(size) is not int or size < 0):
            raise Misconfigured(f"the size {size!r} is no number of bytes")
        self._key = key
        self._expected = expected
        self._owned: BinaryIO | None = None
        self._view: memoryview | None = None
        self._file: BinaryIO | None = None
        self._start = 0
        self._used = False
        self._last: HashedBody | None = None
        self._spooled: Mapping[str, str] = {}
        self.watch: Watch | None = None
        self.left_open = False
        self.size = size
        self.replayable = True
        if isinstance(body, os.PathLike):
            self._owned = self._file = _open_file(body)
            self._measure()
        elif callable(getattr(body, "read", None)):
            if isinstance(body, io.TextIOBase):
                raise TypeError("a body is a binary file, not a text file: open it with mode 'rb'")
            self._file = cast("BinaryIO", body)
            self._measure()
        else:
            try:
                self._view = memoryview(body).cast("B")  # type: ignore[arg-type]
            except TypeError:
                raise TypeError(f"a body is bytes, a path or a binary file, not {type(body).__name__}") from None
            self._declare(len(self._view))

    def _measure(self) -> None:
        file = self._file
        assert file is not None
        try:
            self.replayable = file.seekable()
        except AttributeError:
            self.replayable = False
        if self.replayable:
            self._start = file.tell()
            end = file.seek(0, os.SEEK_END)
            file.seek(self._start)
            self._declare(max(0, end - self._start))

    def _declare(self, size: int) -> None:
        # A size that the caller gave stays: the body is then held to it.
        if self.size is None:
            self.size = size

    def attempt(self, *, ahead: bool = False) -> HashedBody:
        """Return the body from its start, for one attempt to put it; or to read it ``ahead``."""
        source: Source
        if self._view is not None:
            source = _Bytes(self._view)
        else:
            assert self._file is not None
            if self._used:
                self._file.seek(self._start)
            self._used = True
            source = self._file
        self._last = HashedBody(self._key, source, self.size, self._expected, self.watch, ahead=ahead)
        return self._last

    @property
    def length(self) -> int | None:
        """The size, or as much as was read of a body that could not tell it."""
        return self.size if self.size is not None or self._last is None else self._last.count

    @property
    def digests(self) -> Mapping[str, str]:
        """The digests of the body, once it has been read to its end."""
        return (self._last.digests if self._last else None) or self._spooled

    def read_through(self) -> None:
        """Read the whole body, so that its digests are known, and what was refused can be compared.

        Raises what the body raises.
        """
        try:
            with self.attempt(ahead=True) as body:
                body.drain()
        except SourceFailed as exc:
            raise exc.error from None

    def spool(self, also: Iterable[str] = ()) -> Mapping[str, str]:
        """Read the whole body ahead, so that its size and digests are known; return the digests.

        ``also`` are algorithms to compute besides those that the publisher asked for. A body that cannot be rewound is
        copied to a temporary file. Every attempt after it is held to what was found.
        """
        asked = self._expected
        self._expected = {**dict.fromkeys(also), **asked}
        copy = None if self.replayable else tempfile.SpooledTemporaryFile(_SPOOL_IN_MEMORY)  # noqa: SIM115
        try:
            with self.attempt(ahead=True) as body:
                while data := body.read():
                    if copy:
                        copy.write(data)
                self._spooled = body.finish()
        except BaseException:
            if copy:
                copy.close()
            raise
        if copy:
            self._owned = self._file = cast("BinaryIO", copy)
            self._start, self.replayable = 0, True
        self.size = body.count
        self._expected = {name: self._spooled[name] for name in asked}
        return self._spooled

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._owned is not None:
            self._owned.close()


class _Bytes:
    """A source over memory, that copies nothing."""

    def __init__(self, view: memoryview) -> None:
        self._view = view
        self._at = 0

    def read(self, size: int, /) -> memoryview:
        data = self._view[self._at : self._at + size]
        self._at += len(data)
        return data


def _open_file(path: os.PathLike[str]) -> BinaryIO:
    file = open(path, "rb", buffering=0)  # noqa: SIM115
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise Misconfigured(f"{os.fspath(path)} is not a regular file: pass an open binary file to publish a stream")
    return file
