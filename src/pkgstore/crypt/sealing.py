"""The way in: a body's ciphertext, as the medium's driver reads it."""

from __future__ import annotations

import tempfile
from itertools import islice
from typing import TYPE_CHECKING, Self

from pkgstore.crypt.segments import cut
from pkgstore.hashing import CHUNK, OVERLAP_FROM, Hasher, worker

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Mapping

    from pkgstore.crypt.segments import Cipher, Header
    from pkgstore.driver import Body

_IN_MEMORY = 8 * CHUNK
_SEGMENTS_AT_ONCE = 4


class SealedBody:
    """A body, sealed while it is read, and hashed as it then is: by a thread of its own where it is large.

    With ``digests`` of the plaintext, the record goes before the segments, and else after them: then the body is judged
    before the record is read, and so before anything can be visible. ``plain`` are the body's own digests, once it has
    been judged. A context manager.
    """

    def __init__(
        self,
        body: Body,
        cipher: Cipher,
        header: Header,
        size: int | None,
        digests: Mapping[str, str] | None,
        algorithms: Iterable[str] = ("sha256",),
    ) -> None:
        self._body = body
        self._pieces = self._sealed(cipher, header, size, digests)
        self._rest = memoryview(b"")
        self._hasher = Hasher(algorithms)
        self._worker = worker(self._hasher) if size is None or size >= OVERLAP_FROM else None
        self._ended = False
        self.count = 0
        self.plain: Mapping[str, str] | None = None

    def _sealed(
        self, cipher: Cipher, header: Header, size: int | None, digests: Mapping[str, str] | None
    ) -> Generator[bytes]:
        yield header.packed()
        if digests is not None:
            assert size is not None
            yield cipher.seal_record(size, digests)
        count = 0
        for number, (segment, last) in enumerate(cut(self._body.read)):
            count += len(segment)
            yield cipher.seal(number, segment, last=last)
        if digests is None:
            yield cipher.seal_record(count, self.judge())
        self._ended = True

    def judge(self) -> Mapping[str, str]:
        """Return the digests of the body, which has been read to its end. Raises `Corrupt`, as its ``finish`` does."""
        if self.plain is None:
            self.plain = self._body.finish()
        return self.plain

    def read(self, size: int = -1, /) -> bytes | memoryview:
        if not self._rest and size:
            piece = b"".join(islice(self._pieces, _SEGMENTS_AT_ONCE))
            if piece and self._worker:
                self._worker.update(piece)
            elif piece:
                self._hasher.update(piece)
            self.count += len(piece)
            self._rest = memoryview(piece)
        data = self._rest if size < 0 else self._rest[:size]
        self._rest = self._rest[len(data) :]
        return data

    def finish(self) -> Mapping[str, str]:
        """Return the digests of the ciphertext, which has been read to its end."""
        if not self._ended or self._rest:
            raise AssertionError("a driver finished a body that it had not read to the end")
        if self._worker:
            self._worker.wait()
        return self._hasher.digests()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._pieces.close()
        if self._worker:
            self._worker.close()


class SpooledBody:
    """A sealed body that was written to a temporary file first, for media that want digests before the first byte.

    ``size`` and ``digests`` are those of the ciphertext. A context manager, which removes the file.
    """

    def __init__(self, sealed: SealedBody) -> None:
        self._sealed = sealed
        self._file = tempfile.SpooledTemporaryFile(_IN_MEMORY)  # noqa: SIM115
        try:
            while data := sealed.read():
                self._file.write(data)
            self.size = sealed.count
            self.digests: Mapping[str, str] = sealed.finish()
            self._file.seek(0)
        except BaseException:
            self._file.close()
            raise

    def read(self, size: int = -1, /) -> bytes:
        return self._file.read(CHUNK if size < 0 else min(size, CHUNK))

    def finish(self) -> Mapping[str, str]:
        """Return the digests of the ciphertext. Raises `Corrupt` for a body that is not as its publisher expects."""
        self._sealed.judge()
        return self.digests

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._file.close()
