"""A blob that an archive is to hold: one version of it, with its digests, read at once or opened."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pkgstore.archive import manifest
from pkgstore.errors import Corrupt, NotFound, Unavailable
from pkgstore.hashing import CHUNK, Hasher

if TYPE_CHECKING:
    from collections.abc import Iterator
    from concurrent.futures import Future

    from pkgstore import Reader

SMALL = 2 << 20
"""How large a blob may be that is read at once."""


@dataclass(frozen=True, slots=True)
class Found:
    """A blob that was looked at: its entry, and its body, or an open reader of it, if the archive is to hold it."""

    entry: manifest.Entry
    body: bytes | None = None
    reader: Reader | None = None


def gone(was: manifest.Entry) -> Found:
    return Found(manifest.Entry(was.key, was.size, was.digests, kind="deleted"))


def taken(reader: Reader, was: manifest.Entry | None) -> Found:
    """Return one version of a blob, with its digests; if it is large, it is yet to be read."""
    blob = reader.blob
    digests = dict(blob.digests)
    replaces = was.digests["sha256"] if was is not None else None
    with ExitStack() as opened:
        opened.enter_context(reader)
        body = reader.read() if blob.size <= SMALL else None
        if "sha256" not in digests:
            hasher = Hasher(["sha256"])
            if body is not None:
                hasher.update(body)
            else:
                while data := reader.read(CHUNK):
                    hasher.update(data)
                reader.seek(0)
            digests["sha256"] = hasher.digests()["sha256"]
        entry = manifest.Entry(blob.key, blob.size, digests, replaces if replaces != digests["sha256"] else None)
        if body is not None:
            return Found(entry, body=body)
        opened.pop_all()  # whoever gets it closes it
    return Found(entry, reader=reader)


def streamed(reader: Reader, entry: manifest.Entry) -> Iterator[bytes]:
    """Yield the body of a large blob, which must be what its entry says. Raises `Corrupt`, and `Unavailable`."""
    hasher = None if "sha256" in reader.blob.digests else Hasher(["sha256"])
    try:
        while data := reader.read(CHUNK):
            if hasher is not None:
                hasher.update(data)
            yield data
    except NotFound as exc:
        raise Unavailable(f"{exc}; the archive was given up: export again", key=entry.key) from exc
    if hasher is not None and hasher.digests()["sha256"] != entry.digests["sha256"]:
        raise Corrupt(
            f"{entry.key!r} in the store changed while it was read, in place: export again when nobody writes to it",
            key=entry.key,
        )


def let_go(future: Future[Found | None]) -> None:
    """Close the reader of a blob that was looked at in vain; why that failed is of no interest any more."""
    if future.exception() is None:
        found = future.result()
        if found is not None and found.reader is not None:
            found.reader.close()
