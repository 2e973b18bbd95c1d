"""From a store to an archive: one stream, in bounded memory, while publishers go on."""

from __future__ import annotations

from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Self

from pkgstore.archive import manifest, packing, sealing
from pkgstore.archive.local import spool
from pkgstore.archive.looking import SMALL, Found, gone, let_go, streamed, taken
from pkgstore.archive.tarring import ending, header, padding
from pkgstore.errors import NotFound
from pkgstore.hashing import CHUNK
from pkgstore.spread import check_jobs

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from concurrent.futures import Future

    from pkgstore import Blob, Store
    from pkgstore.archive.base import Base
    from pkgstore.archive.signing import Signer

_AHEAD_BYTES = 12 << 20
_TRIES = 4


@dataclass(slots=True)
class Exported:
    """What an export did.

    ``blobs`` and ``bytes`` are what the archive holds; ``kept`` how many blobs are as its base has them, and
    ``deleted`` how many of the base are gone; ``vanished`` how many were deleted between being listed and being read.
    ``base`` and ``sha256`` are the digests of the base's manifest, if there is one, and of its own; ``size`` is what
    was written.
    """

    blobs: int = 0
    bytes: int = 0
    kept: int = 0
    deleted: int = 0
    vanished: int = 0
    size: int = 0
    base: str | None = None
    sha256: str = ""


_LATER = Found(manifest.Entry("", 0, {}))


@dataclass(frozen=True, slots=True)
class _Ahead:
    """A blob that is being looked at ahead of its turn; ``held`` is how many bytes that takes."""

    blob: Blob | None
    was: manifest.Entry | None
    held: int
    future: Future[Found | None]


class Export:
    """An archive of a store on its way: a binary file to read from, which can be published. A context manager.

    ``report`` is what was done so far.
    """

    def __init__(
        self,
        store: Store,
        form: packing.Format,
        *,
        base: Base | None = None,
        signer: Signer | None = None,
        key: bytes | None = None,
        jobs: int = 8,
        progress: Callable[[int], object] | None = None,
    ) -> None:
        check_jobs(jobs)
        if base is not None:
            base.check(store)
        self.report = Exported(base=base.sha256 if base else None)
        self._store = store
        self._base = base
        self._signer = signer
        self._jobs = jobs
        self._progress = progress
        self._running = manifest.Running()
        self._totals = manifest.Totals()
        self._open = ExitStack()
        self._kept = self._open.enter_context(spool())
        self._deleted = self._open.enter_context(spool())
        self._manifest = self._open.enter_context(spool())
        packed = packing.packed(self._open.enter_context(closing(self._tar())), form)
        self._chunks = sealing.sealed(packed, key) if key is not None else packed
        self._rest = memoryview(b"")

    def chunks(self) -> Iterator[bytes]:
        """Yield the whole archive, in pieces of any length."""
        for chunk in self._chunks:
            self.report.size += len(chunk)
            yield chunk

    def read(self, size: int, /) -> bytes:
        """Return up to ``size`` bytes; empty at the end."""
        if not self._rest:
            self._rest = memoryview(next(self.chunks(), b""))
        data, self._rest = self._rest[:size], self._rest[size:]
        return bytes(data)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._open.close()

    # -- the tar stream -----------------------------------------------------------------------------------------------

    def _tar(self) -> Generator[bytes, None, None]:
        length = 0
        for data in chain(self._head(), self._members(), self._last()):
            if data:
                length += len(data)
                yield data
        yield ending(length)

    def _head(self) -> Iterator[bytes]:
        line = manifest.Head(self._store.id, self._store.prefix, self.report.base).line()
        self._add(line)
        yield from self._member(manifest.HEAD, line + b"\n", b"")

    def _members(self) -> Iterator[bytes]:
        with (
            ThreadPoolExecutor(self._jobs, thread_name_prefix="pkgstore-export") as pool,
            closing(self._looked_at(pool)) as found_in_order,
        ):
            for found in found_in_order:
                entry = found.entry
                self._totals.count(entry)
                if entry.kind == "key":
                    self._add(entry.line())
                    yield from self._blob(found)
                else:
                    (self._kept if entry.kind == "kept" else self._deleted).write(entry.line() + b"\n")
                self.report.blobs, self.report.bytes = self._totals.blobs, self._totals.size
                self.report.kept, self.report.deleted = self._totals.kept, self._totals.deleted

    def _blob(self, found: Found) -> Iterator[bytes]:
        entry = found.entry
        if found.body is not None:
            yield from self._member(entry.key, found.body, entry.line())
        else:
            assert found.reader is not None
            yield header(entry.key, entry.size, self._comment(entry.line()))
            with found.reader as reader:
                yield from streamed(reader, entry)
            yield padding(entry.size)
        if self._progress is not None:
            self._progress(entry.size)

    def _last(self) -> Iterator[bytes]:
        for part in (self._kept, self._deleted):
            part.seek(0)
            while data := part.read(CHUNK):
                self._running.add_text(data)
                self._manifest.write(data)
        self._add(self._totals.line())
        size = self._running.length
        yield header(manifest.MANIFEST, size, self._comment(b""))
        self._manifest.seek(0)
        while data := self._manifest.read(CHUNK):
            yield data
        yield padding(size)
        self.report.sha256 = self._running.digest

    def _add(self, line: bytes) -> None:
        self._running.add(line)
        self._manifest.write(line + b"\n")

    def _member(self, name: str, body: bytes, line: bytes) -> Iterator[bytes]:
        yield header(name, len(body), self._comment(line))
        yield body
        yield padding(len(body))

    def _comment(self, line: bytes) -> str:
        signature = self._signer.sign(self._running.digest) if self._signer else "-"
        return f"{signature} {line.decode()}"

    # -- the blobs ----------------------------------------------------------------------------------------------------

    def _looked_at(self, pool: ThreadPoolExecutor) -> Generator[Found, None, None]:
        """Yield what is there, in order; a few blobs are read ahead, up to so many bytes in all."""
        waiting: deque[_Ahead] = deque()
        ahead = 0
        try:
            for blob, was in self._compared():
                held = blob.size if blob is not None and blob.size <= SMALL else 0
                while waiting and (ahead + held > _AHEAD_BYTES or len(waiting) >= 2 * self._jobs):
                    ahead -= waiting[0].held
                    yield from self._taken_up(waiting.popleft())
                waiting.append(_Ahead(blob, was, held, pool.submit(self._look, blob, was, ahead=True)))
                ahead += held
            while waiting:
                yield from self._taken_up(waiting.popleft())
        finally:
            for each in waiting:
                if not each.future.cancel():
                    let_go(each.future)

    def _taken_up(self, each: _Ahead) -> Iterator[Found]:
        found = each.future.result()
        if found is _LATER:
            found = self._look(each.blob, each.was, ahead=False)
        if found is None:
            self.report.vanished += 1
        else:
            yield found

    def _compared(self) -> Iterator[tuple[Blob | None, manifest.Entry | None]]:
        """Yield the blobs of the store beside what the base has of them, and what only the base has, sorted by key."""
        known = self._base.blobs() if self._base else iter(())
        was = next(known, None)
        for blob in self._store.list():
            while was is not None and was.key < blob.key:
                yield None, was
                was = next(known, None)
            if was is not None and was.key == blob.key:
                yield blob, was
                was = next(known, None)
            else:
                yield blob, None
        while was is not None:
            yield None, was
            was = next(known, None)

    def _look(self, blob: Blob | None, was: manifest.Entry | None, *, ahead: bool) -> Found | None:
        """Return what is there now. None for a blob that has vanished, of which the base knows nothing.

        When it is looked ``ahead``, a large blob is not opened: that has to wait for its turn.
        """
        if blob is not None:
            if was is not None and blob.size == was.size:
                try:
                    sha256 = blob.digests.get("sha256") or self._store.adopt(blob.key).digests["sha256"]
                except NotFound:
                    return gone(was)
                if sha256 == was.digests["sha256"]:
                    return Found(manifest.Entry(was.key, was.size, was.digests, kind="kept"))
            if ahead and blob.size > SMALL:
                return _LATER
            for tries_left in reversed(range(_TRIES)):
                try:
                    return taken(self._store.open(blob.key), was)
                except NotFound:
                    if not self._is_there(blob.key):
                        break
                    if not tries_left:
                        raise
        return gone(was) if was is not None else None

    def _is_there(self, key: str) -> bool:
        try:
            self._store.stat(key)
        except NotFound:
            return False
        return True
